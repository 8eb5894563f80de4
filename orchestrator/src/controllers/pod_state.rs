//! PURE: what a pod's status comes to, for the controllers that make pods.

use jiff::Timestamp;
use serde_json::Value;

use super::fields::{condition, is_deleting, number, text};

/// Whether a pod has ended for good.
pub(super) fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Whether a pod counts: it has not ended and is not being deleted.
pub(super) fn is_active(pod: &Value) -> bool {
    !is_deleting(pod) && !has_ended(pod)
}

/// Whether the `Ready` condition holds.
pub(super) fn is_ready(pod: &Value) -> bool {
    ready_condition(pod).is_some_and(|condition| condition["status"] == "True")
}

/// When the `Ready` condition last changed.
pub(super) fn ready_since(pod: &Value) -> Option<Timestamp> {
    ready_condition(pod)?["lastTransitionTime"].as_str()?.parse().ok()
}

fn ready_condition(pod: &Value) -> Option<&Value> {
    condition(pod.get("status")?, "Ready")
}

/// Seconds until a pod counts as available: 0 if it does, nothing if it is not even ready.
pub(super) fn available_in(pod: &Value, min_ready: i64, now: Timestamp) -> Option<i64> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready == 0 {
        return Some(0);
    }
    let ready_for = now.as_millisecond() - ready_since(pod)?.as_millisecond();
    Some(
        (min_ready * 1000 - ready_for).max(0).div_euclid(1000)
            + i64::from((min_ready * 1000 - ready_for).max(0) % 1000 != 0),
    )
}

/// Whether a pod has been ready for long enough.
pub(super) fn is_available(pod: &Value, min_ready: i64, now: Timestamp) -> bool {
    available_in(pod, min_ready, now) == Some(0)
}

/// Restarts of the container that restarted most.
pub(super) fn most_restarts(pod: &Value) -> i64 {
    let statuses = pod.pointer("/status/containerStatuses").and_then(Value::as_array);
    statuses
        .into_iter()
        .flatten()
        .map(|status| number(status, "/restartCount"))
        .max()
        .unwrap_or(0)
}
