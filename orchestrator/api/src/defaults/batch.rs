//! Defaults of Job and CronJob, and what a Job gets with its uid.

use serde_json::{Map, Value, json};

use super::{default, each, workload};

/// Labels that tie a pod to its Job: the names of today and those before Kubernetes 1.27.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

pub(super) fn job(object: &mut Value) {
    let labels = object.pointer("/spec/template/metadata/labels").cloned();
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    let absent = |spec: &Value, name: &str| spec.get(name).is_none_or(Value::is_null);
    if absent(spec, "completions") && absent(spec, "parallelism") {
        default(spec, "completions", 1);
    }
    default(spec, "parallelism", 1);
    // With a limit an index, the one of the whole Job is only a net below it.
    let limit = if absent(spec, "backoffLimitPerIndex") {
        6
    } else {
        i32::MAX
    };
    default(spec, "backoffLimit", limit);
    default(spec, "completionMode", "NonIndexed");
    default(spec, "suspend", false);
    default(spec, "manualSelector", false);
    let replacement = if absent(spec, "podFailurePolicy") {
        "TerminatingOrFailed"
    } else {
        "Failed"
    };
    default(spec, "podReplacementPolicy", replacement);
    if let Some(policy) = spec.get_mut("podFailurePolicy") {
        for rule in each(policy, "rules") {
            for pattern in each(rule, "onPodConditions") {
                default(pattern, "status", "True");
            }
        }
    }
    workload::template(spec);
    if let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()))
        && let Some(metadata) = object.get_mut("metadata")
        && metadata
            .get("labels")
            .and_then(Value::as_object)
            .is_none_or(Map::is_empty)
    {
        metadata["labels"] = labels;
    }
}

pub(super) fn cron_job(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    default(spec, "concurrencyPolicy", "Allow");
    default(spec, "suspend", false);
    default(spec, "successfulJobsHistoryLimit", 3);
    default(spec, "failedJobsHistoryLimit", 1);
    if let Some(spec) = spec.pointer_mut("/jobTemplate/spec") {
        workload::template(spec);
    }
}

/// Ties a new Job to its pods: labels of the template and, unless the user made one, the selector
/// (upstream `generateSelector`). The uid is only known when the Job is stored.
pub fn identify(job: &mut Value, uid: &str) {
    if job.pointer("/spec/manualSelector") == Some(&json!(true)) {
        return;
    }
    let name = job.pointer("/metadata/name").cloned().unwrap_or_default();
    let Some(spec) = job.get_mut("spec").filter(|spec| spec.is_object()) else {
        return;
    };
    if let Some(template) = spec.get_mut("template").filter(|t| t.is_object()) {
        default(template, "metadata", json!({}));
        default(&mut template["metadata"], "labels", json!({}));
        let labels = &mut template["metadata"]["labels"];
        for label in UID_LABELS {
            default(labels, label, uid);
        }
        for label in NAME_LABELS {
            default(labels, label, name.clone());
        }
    }
    spec["selector"] = json!({ "matchLabels": { (UID_LABELS[0]): uid } });
}
