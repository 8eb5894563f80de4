//! PURE: what a Job's controller reads off a pod, and what a new pod looks like.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::desired::Desired;
use crate::controllers::fields::{annotation, has_finalizer, is_deleting, name, text, time};
use crate::controllers::ownership::controller_reference;
use crate::controllers::pod_state::has_ended;

/// Holds a pod until its end has been counted.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod with an index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the pods of this index have failed before; and those that a policy ignores.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The first pause after a failure doubles up to the longest (Kubernetes documentation "Jobs").
const FIRST_PAUSE: u64 = 10;
const LONGEST_PAUSE: u64 = 360;
/// Bytes of a generated name before its five letters.
const NAME_BASE: usize = 58;

pub(super) fn is_tracked(pod: &Value) -> bool {
    has_finalizer(pod, FINALIZER)
}

pub(super) fn succeeded(pod: &Value) -> bool {
    text(pod, "/status/phase") == "Succeeded"
}

/// The node has let go of a deleted pod: what is left is the object.
fn is_let_go(pod: &Value) -> bool {
    is_deleting(pod) && pod.pointer("/metadata/deletionGracePeriodSeconds") == Some(&json!(0))
}

/// Asked to end, and still there.
pub(super) fn is_terminating(pod: &Value) -> bool {
    is_deleting(pod) && !has_ended(pod) && !is_let_go(pod)
}

/// Whether a pod counts as failed. A deleted one does at once, unless its end is waited for.
pub(super) fn failed(pod: &Value, desired: &Desired<'_>) -> bool {
    if text(pod, "/status/phase") == "Failed" {
        return true;
    }
    let gone = if desired.replaces_ended {
        is_let_go(pod)
    } else {
        is_deleting(pod)
    };
    gone && !succeeded(pod)
}

/// The pod's completion index, if it is one the Job has.
pub(super) fn index(pod: &Value, desired: &Desired<'_>) -> Option<u32> {
    let index = annotation(pod, INDEX)?.parse().ok()?;
    (index < desired.completions?).then_some(index)
}

/// How often its index had failed before this pod: counted, ignored.
pub(super) fn failures_before(pod: &Value) -> (u64, u64) {
    let count = |name| annotation(pod, name).and_then(|n| n.parse().ok()).unwrap_or(0);
    (count(FAILURES), count(IGNORED))
}

/// When the last container ended; else when the pod was deleted or made.
pub(super) fn ended_at(pod: &Value) -> Option<Timestamp> {
    let statuses = ["initContainerStatuses", "containerStatuses"];
    let ended = statuses
        .iter()
        .filter_map(|list| pod.pointer(&format!("/status/{list}"))?.as_array())
        .flatten()
        .filter_map(|status| time(status, "/state/terminated/finishedAt"))
        .max();
    ended
        .or_else(|| {
            let grace = pod
                .pointer("/metadata/deletionGracePeriodSeconds")
                .and_then(Value::as_i64);
            let deleted = time(pod, "/metadata/deletionTimestamp")?;
            deleted
                .checked_sub(SignedDuration::from_secs(grace.unwrap_or(0)))
                .ok()
        })
        .or_else(|| time(pod, "/metadata/creationTimestamp"))
}

/// What is left of the pause after so many failures, the last of them at `last`.
pub(super) fn pause(failures: u64, last: Option<Timestamp>, now: Timestamp) -> Duration {
    let Some(last) = last.filter(|_| failures > 0) else {
        return Duration::ZERO;
    };
    let seconds = FIRST_PAUSE
        .saturating_mul(1 << (failures - 1).min(16))
        .min(LONGEST_PAUSE);
    let passed = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    Duration::from_secs(seconds).saturating_sub(passed)
}

/// What is left of the pause after the failures since the last success. Pods that the controller
/// itself took away do not count.
pub(super) fn pause_of_all(pods: &[Value], desired: &Desired<'_>, now: Timestamp) -> Duration {
    let mut ends: Vec<(Option<Timestamp>, bool)> = pods
        .iter()
        .filter(|pod| is_tracked(pod) || !is_deleting(pod))
        .filter(|pod| succeeded(pod) || failed(pod, desired))
        .map(|pod| (ended_at(pod), succeeded(pod)))
        .collect();
    ends.sort_unstable();
    let since = ends.iter().rev().take_while(|(_, success)| !success).count();
    pause(since as u64, ends.last().and_then(|(at, _)| *at), now)
}

/// A pod to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Slot {
    /// Its completion index, in a Job with indexes.
    pub index: Option<u32>,
    /// How often the index has failed, where that is limited: counted, ignored.
    pub failures: Option<(u64, u64)>,
}

/// A pod of the Job, without what admission adds.
pub fn pod_from_template(job: &Value, slot: &Slot, suffix: &str) -> Value {
    let template = &job["spec"]["template"];
    let mut metadata = Map::new();
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let middle = slot
        .index
        .map_or_else(|| "-".to_owned(), |index| format!("-{index}-"));
    let kept: String = name(job).chars().take(NAME_BASE - middle.len()).collect();
    metadata.insert("name".to_owned(), json!(format!("{kept}{middle}{suffix}")));
    metadata.insert("generateName".to_owned(), json!(format!("{kept}{middle}")));
    metadata.insert("namespace".to_owned(), job["metadata"]["namespace"].clone());
    metadata.insert("ownerReferences".to_owned(), json!([controller_reference(job)]));
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template["spec"],
    });
    let finalizers = &mut pod["metadata"]["finalizers"];
    match finalizers.as_array_mut() {
        Some(list) => list.push(json!(FINALIZER)),
        None => *finalizers = json!([FINALIZER]),
    }
    if let Some(index) = slot.index {
        give_index(&mut pod, name(job), index);
    }
    if let Some((counted, ignored)) = slot.failures {
        pod["metadata"]["annotations"][FAILURES] = json!(counted.to_string());
        if ignored > 0 {
            pod["metadata"]["annotations"][IGNORED] = json!(ignored.to_string());
        }
    }
    pod
}

fn give_index(pod: &mut Value, job: &str, index: u32) {
    for map in ["annotations", "labels"] {
        pod["metadata"][map][INDEX] = json!(index.to_string());
    }
    pod["spec"]["hostname"] = json!(format!("{job}-{index}"));
    let variable = json!({
        "name": "JOB_COMPLETION_INDEX",
        "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": format!("metadata.labels['{INDEX}']") } },
    });
    for list in ["initContainers", "containers"] {
        let containers = pod["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            match container.get_mut("env").and_then(Value::as_array_mut) {
                Some(env) if env.iter().any(|one| one["name"] == variable["name"]) => {}
                Some(env) => env.push(variable.clone()),
                None => container["env"] = json!([variable]),
            }
        }
    }
}
