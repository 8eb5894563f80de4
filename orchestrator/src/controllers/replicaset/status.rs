//! PURE: a ReplicaSet's status from its pods.

use std::time::Duration;

use berth_api::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controllers::fields::{condition, is_deleting, number, put_condition, remove_condition};
use crate::controllers::pod_state::{available_in, has_ended, is_active, is_ready};
use crate::store::StoreError;
use crate::store::prepare::rfc3339;

/// Pods could not be made.
#[derive(Debug)]
pub struct Failure {
    /// The condition's reason.
    pub reason: &'static str,
    /// What the store said.
    pub error: StoreError,
}

/// A status, and when it changes by time alone.
#[derive(Debug)]
pub struct Fresh {
    /// The new status.
    pub status: Value,
    /// When the next ready pod will have been so for minReadySeconds.
    pub again: Option<Duration>,
}

/// Counts the pods (upstream `calculateStatus`). Counts of zero are left out, as Go's
/// `omitempty` does; `replicas` is always there.
pub fn status(set: &Value, pods: &[Value], failure: Option<&Failure>, now: Timestamp) -> Fresh {
    let min_ready = number(set, "/spec/minReadySeconds");
    let template = template_selector(set);
    let active: Vec<&Value> = pods.iter().filter(|pod| is_active(pod)).collect();
    let count = |what: &dyn Fn(&Value) -> bool| active.iter().filter(|pod| what(pod)).count();
    let waits: Vec<i64> = active
        .iter()
        .filter_map(|pod| available_in(pod, min_ready, now))
        .collect();
    let mut status = json!({
        "replicas": active.len(),
        "observedGeneration": number(set, "/metadata/generation"),
    });
    let terminating = pods
        .iter()
        .filter(|pod| is_deleting(pod) && !has_ended(pod))
        .count();
    for (field, value) in [
        ("fullyLabeledReplicas", count(&|pod| template.matches_object(pod))),
        ("readyReplicas", count(&is_ready)),
        (
            "availableReplicas",
            waits.iter().filter(|wait| **wait == 0).count(),
        ),
        ("terminatingReplicas", terminating),
    ] {
        if value > 0 {
            status[field] = json!(value);
        }
    }
    if let Some(conditions) = set.pointer("/status/conditions") {
        status["conditions"] = conditions.clone();
    }
    note_failure(&mut status, failure, now);
    let soonest = waits.into_iter().filter(|wait| *wait > 0).min();
    Fresh {
        status,
        again: soonest
            .and_then(|wait| u64::try_from(wait).ok())
            .map(Duration::from_secs),
    }
}

fn note_failure(status: &mut Value, failure: Option<&Failure>, now: Timestamp) {
    match failure {
        None => {
            remove_condition(status, "ReplicaFailure");
            if status["conditions"].as_array().is_none_or(Vec::is_empty)
                && let Some(status) = status.as_object_mut()
            {
                status.remove("conditions");
            }
        }
        // A failure that is known stays as it was first seen.
        Some(_) if condition(status, "ReplicaFailure").is_some() => {}
        Some(failure) => put_condition(
            status,
            json!({
                "type": "ReplicaFailure",
                "status": "True",
                "reason": failure.reason,
                "message": failure.error.to_string(),
                "lastTransitionTime": rfc3339(now),
            }),
        ),
    }
}

/// Matches pods that have all labels of the template.
fn template_selector(set: &Value) -> LabelSelector {
    let labels = set
        .pointer("/spec/template/metadata/labels")
        .cloned()
        .unwrap_or_else(|| json!({}));
    LabelSelector::from_object(Some(&json!({ "matchLabels": labels }))).unwrap_or_default()
}
