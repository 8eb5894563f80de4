//! PURE: a StatefulSet's status from its pods (upstream `updateStatus`, `completeRollingUpdate`).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::identity::revision;
use super::plan::{View, Wanted, serves};
use crate::controllers::fields::{is_deleting, name, number, text};
use crate::controllers::pod_state::{available_in, is_ready};

/// The counts, the revisions, and when they change by time alone.
pub fn status(view: &View, now: Timestamp) -> (Value, Option<Duration>) {
    let wanted = Wanted::of(&view.set);
    let min_ready = number(&view.set, "/spec/minReadySeconds");
    let count = |what: &dyn Fn(&Value) -> bool| view.pods.iter().filter(|pod| what(pod)).count() as u64;
    let of = |revised: &Value| count(&|pod| !is_deleting(pod) && revision(pod) == name(revised));
    let all = view.pods.len() as u64;
    let ready = count(&|pod| text(pod, "/status/phase") == "Running" && is_ready(pod));
    let updated = of(&view.update);
    // The update is over: from now on its revision is the current one.
    let complete = wanted.rolling
        && [all, ready, updated]
            .iter()
            .all(|count| *count == wanted.replicas);
    let current = if complete { &view.update } else { &view.current };
    let mut status = json!({
        "replicas": all,
        "availableReplicas": count(&|pod| serves(pod, min_ready, now)),
        "currentRevision": name(current),
        "updateRevision": name(&view.update),
        "collisionCount": number(&view.set, "/status/collisionCount"),
    });
    let more = [
        (
            "observedGeneration",
            number(&view.set, "/metadata/generation").unsigned_abs(),
        ),
        ("readyReplicas", ready),
        ("currentReplicas", of(current)),
        ("updatedReplicas", updated),
    ];
    for (field, count) in more.into_iter().filter(|(_, count)| *count > 0) {
        status[field] = json!(count);
    }
    if let Some(conditions) = view.set.pointer("/status/conditions") {
        status["conditions"] = conditions.clone();
    }
    let waits = view.pods.iter().filter(|pod| !is_deleting(pod));
    let waits = waits.filter_map(|pod| available_in(pod, min_ready, now).filter(|wait| *wait > 0));
    (
        status,
        waits.min().map(|wait| Duration::from_secs(wait.unsigned_abs())),
    )
}
