//! PURE: a Job's status. Every end of a pod is counted once, whatever is interrupted:
//!
//! ```text
//! pod ends ─► its uid is noted in the status (an index: in completedIndexes) ─► its finalizer goes
//!          ─► its uid leaves the note and the counter goes up, in one write
//! ```

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::plan::{Plan, Seen, may_go};
use super::pods::{failed, index, is_tracked, succeeded};
use super::policy::{Answer, answer};
use super::verdict::Verdict;
use crate::controllers::fields::{condition, put_condition, uid};
use crate::controllers::pod_state::is_ready;
use crate::events::Severity;
use crate::store::prepare::rfc3339;

/// Completes a plan with the status and the pods that it lets go. `active` is the number of pods
/// after the plan.
pub(super) fn write(
    seen: &Seen<'_>,
    verdict: Option<&Verdict>,
    managed: bool,
    active: usize,
    now: Timestamp,
    plan: &mut Plan,
) {
    let mut status = match plan.status.take() {
        Value::Object(map) => Value::Object(map),
        _ => json!({}),
    };
    if status.get("startTime").is_none() && !seen.desired.suspended {
        status["startTime"] = json!(rfc3339(now));
    }
    let notes = count(seen, verdict.is_some(), &mut status, plan);
    if managed && verdict.is_none() {
        suspension(seen.desired.suspended, now, &mut status, plan);
    }
    put_count(&mut status, "active", active);
    let ready = seen.active.iter().filter(|pod| is_ready(pod)).count();
    status["ready"] = json!(ready.min(active));
    status["terminating"] = json!(seen.terminating + plan.drop.len() + plan.delete.len());
    if let Some(verdict) = verdict {
        let (interim, _) = verdict.conditions();
        put(
            &mut status,
            interim,
            "True",
            &verdict.reason,
            &verdict.message,
            now,
        );
        let settled = notes == 0 && active == 0 && status["terminating"] == 0 && plan.release.is_empty();
        if settled {
            finish(seen, verdict, now, &mut status, plan);
        }
    }
    plan.status = status;
}

/// Moves what has no finalizer any more from the notes to the counters, and notes what has ended.
/// Returns how many notes there are.
fn count(seen: &Seen<'_>, over: bool, status: &mut Value, plan: &mut Plan) -> usize {
    let held: BTreeSet<&str> = seen.pods.iter().filter(|pod| is_tracked(pod)).map(uid).collect();
    let settle = |notes: &BTreeSet<String>| -> (BTreeSet<String>, usize) {
        let (kept, done): (BTreeSet<_>, BTreeSet<_>) =
            notes.iter().cloned().partition(|uid| held.contains(uid.as_str()));
        (kept, done.len())
    };
    let (mut successes, more_successes) = settle(&seen.noted_succeeded);
    let (mut failures, more_failures) = settle(&seen.noted_failed);
    let dropped: BTreeSet<&str> = plan.drop.iter().map(uid).collect();
    let tracked = seen.pods.iter().filter(|pod| is_tracked(pod));
    for pod in tracked.filter(|pod| !dropped.contains(uid(pod))) {
        if !may_go(seen, over, pod) {
            continue;
        }
        plan.release.push(pod.clone());
        let known = seen.noted_succeeded.contains(uid(pod)) || seen.noted_failed.contains(uid(pod));
        let counts = !seen.desired.indexed || index(pod, seen.desired).is_some();
        if known || !counts {
            continue;
        }
        if succeeded(pod) {
            // An index is its own note.
            if !seen.desired.indexed {
                successes.insert(uid(pod).to_owned());
            }
        } else if (failed(pod, seen.desired) || over)
            && answer(seen.desired.failure_policy, pod) != Answer::Ignore
        {
            failures.insert(uid(pod).to_owned());
        }
    }
    let desired = seen.desired;
    let total = desired.counted("failed") + more_failures as u64;
    put_count(status, "failed", usize::try_from(total).unwrap_or(usize::MAX));
    if desired.indexed {
        put_count(status, "succeeded", seen.done.len());
        put_text(status, "completedIndexes", &seen.done.to_string());
        if desired.per_index.is_some() {
            // Present even when empty, as upstream.
            status["failedIndexes"] = json!(seen.given_up.to_string());
        }
    } else {
        let total = desired.counted("succeeded") + more_successes as u64;
        put_count(status, "succeeded", usize::try_from(total).unwrap_or(usize::MAX));
    }
    let mut uncounted = json!({});
    for (field, notes) in [("succeeded", &successes), ("failed", &failures)] {
        if !notes.is_empty() {
            uncounted[field] = json!(notes);
        }
    }
    status["uncountedTerminatedPods"] = uncounted;
    successes.len() + failures.len()
}

fn suspension(suspended: bool, now: Timestamp, status: &mut Value, plan: &mut Plan) {
    let was = condition(status, "Suspended").map(|c| c["status"] == "True");
    if suspended && was != Some(true) {
        put(status, "Suspended", "True", "JobSuspended", "Job suspended", now);
        plan.events
            .push((Severity::Normal, "Suspended", "Job suspended".to_owned()));
    } else if !suspended && was == Some(true) {
        put(status, "Suspended", "False", "JobResumed", "Job resumed", now);
        plan.events
            .push((Severity::Normal, "Resumed", "Job resumed".to_owned()));
        // The deadline begins anew.
        status["startTime"] = json!(rfc3339(now));
    }
}

fn finish(seen: &Seen<'_>, verdict: &Verdict, now: Timestamp, status: &mut Value, plan: &mut Plan) {
    let (_, last) = verdict.conditions();
    put(status, last, "True", &verdict.reason, &verdict.message, now);
    if verdict.success {
        status["completionTime"] = json!(rfc3339(now));
        plan.events
            .push((Severity::Normal, "Completed", "Job completed".to_owned()));
    } else {
        let reason = match verdict.reason.as_str() {
            "PodFailurePolicy" => "PodFailurePolicy",
            "DeadlineExceeded" => "DeadlineExceeded",
            "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
            "FailedIndexes" => "FailedIndexes",
            _ => "BackoffLimitExceeded",
        };
        plan.events
            .push((Severity::Warning, reason, verdict.message.clone()));
    }
    let wanted = seen.desired.completions.map(u64::from);
    if verdict.success && !seen.desired.indexed && wanted.is_some_and(|n| seen.succeeded > n) {
        let message = format!(
            "Too many succeeded pods running after completion count reached: {}",
            seen.succeeded
        );
        plan.events
            .push((Severity::Warning, "TooManySucceededPods", message));
    }
    // What a client reads of a Job that has ended.
    put_count(status, "active", 0);
}

/// Sets a condition; its times stay if nothing changes.
fn put(status: &mut Value, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let same = condition(status, kind)
        .is_some_and(|c| c["status"] == value && c["reason"] == reason && c["message"] == message);
    if !same {
        put_condition(
            status,
            json!({
                "type": kind,
                "status": value,
                "lastProbeTime": rfc3339(now),
                "lastTransitionTime": rfc3339(now),
                "reason": reason,
                "message": message,
            }),
        );
    }
}

/// A count of nothing is left out, as Go's `omitempty` does.
fn put_count(status: &mut Value, field: &str, count: usize) {
    if count > 0 {
        status[field] = json!(count);
    } else if let Some(map) = status.as_object_mut() {
        map.remove(field);
    }
}

fn put_text(status: &mut Value, field: &str, text: &str) {
    if !text.is_empty() {
        status[field] = json!(text);
    } else if let Some(map) = status.as_object_mut() {
        map.remove(field);
    }
}
