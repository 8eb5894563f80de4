//! PURE: a deployment's status: counts and the conditions Available, Progressing, ReplicaFailure
//! (upstream `calculateStatus`, `syncRolloutStatus`).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::sets::{Set, Wanted, total};
use crate::controllers::fields::{condition, name, number, put_condition, remove_condition, text, time};
use crate::store::prepare::rfc3339;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// The reasons that `kubectl rollout status` and the rules below look for.
pub(super) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

/// Seconds a rollout may go without progress; nothing if there is no deadline.
fn deadline(deployment: &Value) -> Option<i64> {
    deployment
        .pointer("/spec/progressDeadlineSeconds")
        .and_then(Value::as_i64)
        .filter(|seconds| *seconds != i64::from(i32::MAX))
}

fn new_condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> Value {
    json!({
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastUpdateTime": rfc3339(now),
        "lastTransitionTime": rfc3339(now),
    })
}

/// Puts a condition in, unless one of the same status and reason is there already; the time of
/// the last transition stays while the status does.
fn set_condition(status: &mut Value, mut fresh: Value) {
    if let Some(current) = condition(status, text(&fresh, "/type")) {
        if current["status"] == fresh["status"] && current["reason"] == fresh["reason"] {
            return;
        }
        if current["status"] == fresh["status"] {
            fresh["lastTransitionTime"] = current["lastTransitionTime"].clone();
        }
    }
    put_condition(status, fresh);
}

/// The counts, and whether enough pods are available. Counts of zero are left out, as Go's
/// `omitempty` does.
pub(super) fn counted(
    deployment: &Value,
    sets: &[Set],
    new: Option<usize>,
    wanted: &Wanted,
    now: Timestamp,
) -> Value {
    let available = total(sets, Set::available);
    let counts = [
        ("observedGeneration", number(deployment, "/metadata/generation")),
        ("replicas", total(sets, Set::actual)),
        ("updatedReplicas", new.map_or(0, |index| sets[index].actual())),
        ("readyReplicas", total(sets, Set::ready)),
        ("availableReplicas", available),
        (
            "unavailableReplicas",
            (total(sets, |set| set.replicas) - available).max(0),
        ),
        ("terminatingReplicas", total(sets, Set::terminating)),
    ];
    let mut status = json!({});
    for (field, count) in counts {
        if count > 0 {
            status[field] = json!(count);
        }
    }
    for field in ["collisionCount", "conditions"] {
        if let Some(value) = deployment.pointer(&format!("/status/{field}")) {
            status[field] = value.clone();
        }
    }
    let (holds, reason, message) = if available >= wanted.least_available() {
        (
            "True",
            "MinimumReplicasAvailable",
            "Deployment has minimum availability.",
        )
    } else {
        (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        )
    };
    set_condition(&mut status, new_condition(AVAILABLE, holds, reason, message, now));
    status
}

/// Whether the rollout is over: all pods are of the new template, available, and no others are left.
pub(super) fn complete(deployment: &Value, status: &Value, wanted: &Wanted) -> bool {
    ["updatedReplicas", "replicas", "availableReplicas"]
        .iter()
        .all(|field| number(status, &format!("/{field}")) == wanted.replicas)
        && number(status, "/observedGeneration") >= number(deployment, "/metadata/generation")
}

/// Whether something moved since the status that is stored.
fn moved(old: &Value, new: &Value) -> bool {
    let old_pods = |status: &Value| number(status, "/replicas") - number(status, "/updatedReplicas");
    let grew = |field: &str| number(new, field) > number(old, field);
    grew("/updatedReplicas")
        || old_pods(new) < old_pods(old)
        || grew("/readyReplicas")
        || grew("/availableReplicas")
}

fn timed_out(deployment: &Value, status: &Value, now: Timestamp) -> bool {
    let (Some(deadline), Some(current)) = (deadline(deployment), condition(status, PROGRESSING)) else {
        return false;
    };
    match text(current, "/reason") {
        NEW_SET_AVAILABLE => false,
        TIMED_OUT => true,
        _ => time(current, "/lastUpdateTime")
            .and_then(|since| since.checked_add(SignedDuration::from_secs(deadline)).ok())
            .is_some_and(|end| end < now),
    }
}

/// The status during and after a rollout, with the Progressing condition kept.
pub(super) fn of_rollout(
    deployment: &Value,
    sets: &[Set],
    new: Option<usize>,
    wanted: &Wanted,
    now: Timestamp,
) -> Value {
    let mut status = counted(deployment, sets, new, wanted, now);
    let old = deployment.get("status").cloned().unwrap_or_default();
    if deadline(deployment).is_none() {
        remove_condition(&mut status, PROGRESSING);
    }
    let current = condition(&old, PROGRESSING).cloned();
    // Once complete, a rollout stays so until the template changes: a pod that dies later is no
    // rollout that hangs.
    let over = number(&status, "/replicas") == number(&status, "/updatedReplicas")
        && current
            .as_ref()
            .is_some_and(|current| current["reason"] == NEW_SET_AVAILABLE);
    if deadline(deployment).is_some() && !over {
        let subject = match new {
            Some(index) => format!("ReplicaSet {:?}", sets[index].name()),
            None => format!("Deployment {:?}", name(deployment)),
        };
        let fresh = |holds, reason, what| {
            new_condition(PROGRESSING, holds, reason, &format!("{subject} {what}"), now)
        };
        if complete(deployment, &status, wanted) {
            set_condition(
                &mut status,
                fresh("True", NEW_SET_AVAILABLE, "has successfully progressed."),
            );
        } else if moved(&old, &status) {
            let mut progressing = fresh("True", "ReplicaSetUpdated", "is progressing.");
            if let Some(current) = current.filter(|current| current["status"] == "True") {
                progressing["lastTransitionTime"] = current["lastTransitionTime"].clone();
            }
            // Even with the same reason: the time of the last update is the progress.
            put_condition(&mut status, progressing);
        } else if timed_out(deployment, &status, now) {
            set_condition(
                &mut status,
                fresh("False", TIMED_OUT, "has timed out progressing."),
            );
        }
    }
    take_over_failure(&mut status, sets, new);
    status
}

/// A set that cannot make its pods makes the deployment say so: the new one first.
fn take_over_failure(status: &mut Value, sets: &[Set], new: Option<usize>) {
    let order = new
        .into_iter()
        .chain((0..sets.len()).filter(|index| Some(*index) != new));
    let failure = order
        .filter_map(|index| condition(sets[index].value.get("status")?, REPLICA_FAILURE))
        .find(|condition| condition["status"] == "True");
    match failure {
        None => remove_condition(status, REPLICA_FAILURE),
        Some(failure) => {
            let mut failure = failure.clone();
            failure["lastUpdateTime"] = failure["lastTransitionTime"].clone();
            set_condition(status, failure);
        }
    }
}

/// Marks that the rollout is paused or goes on again, so that the pause does not count against
/// the deadline. Nothing if that is known already.
pub(super) fn paused(deployment: &Value, now: Timestamp) -> Option<Value> {
    deadline(deployment)?;
    let mut status = deployment.get("status").cloned().unwrap_or_else(|| json!({}));
    let reason = condition(&status, PROGRESSING).map(|current| text(current, "/reason").to_owned());
    if reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    let known = reason.as_deref() == Some(PAUSED);
    let fresh = match (deployment.pointer("/spec/paused") == Some(&json!(true)), known) {
        (true, false) => new_condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused", now),
        (false, true) => new_condition(
            PROGRESSING,
            "Unknown",
            "DeploymentResumed",
            "Deployment is resumed",
            now,
        ),
        _ => return None,
    };
    set_condition(&mut status, fresh);
    Some(status)
}

/// Notes that the deployment has a new set: it was found, or made.
pub(super) fn note_new_set(deployment: &mut Value, set: &str, made: bool, now: Timestamp) {
    if deadline(deployment).is_none() {
        return;
    }
    let known = deployment
        .get("status")
        .is_some_and(|status| condition(status, PROGRESSING).is_some());
    let fresh = if made {
        let message = format!("Created new replica set {set:?}");
        new_condition(PROGRESSING, "True", "NewReplicaSetCreated", &message, now)
    } else if known {
        return;
    } else {
        new_condition(
            PROGRESSING,
            "True",
            "FoundNewReplicaSet",
            &format!("Found new replica set {set:?}"),
            now,
        )
    };
    if !deployment["status"].is_object() {
        deployment["status"] = json!({});
    }
    set_condition(&mut deployment["status"], fresh);
}

/// The status after the new set could not be made.
pub(super) fn creation_failed(deployment: &Value, message: &str, now: Timestamp) -> Value {
    let mut status = deployment.get("status").cloned().unwrap_or_else(|| json!({}));
    if deadline(deployment).is_some() {
        set_condition(
            &mut status,
            new_condition(PROGRESSING, "False", "ReplicaSetCreateError", message, now),
        );
    }
    status
}

/// When to look again for the deadline, if nothing happens before.
pub(super) fn next_look(
    deployment: &Value,
    status: &Value,
    wanted: &Wanted,
    now: Timestamp,
) -> Option<Duration> {
    let current = condition(status, PROGRESSING)?;
    let settled = matches!(text(current, "/reason"), TIMED_OUT | NEW_SET_AVAILABLE | PAUSED);
    if settled || complete(deployment, status, wanted) {
        return None;
    }
    let since = time(current, "/lastUpdateTime")?.as_second();
    let left = since + deadline(deployment)? - now.as_second();
    // Times are whole seconds: one more, and the deadline has surely passed.
    u64::try_from(left.max(0))
        .ok()
        .map(|left| Duration::from_secs(left + 1))
}
