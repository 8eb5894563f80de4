//! PURE: whether a Job is over, and why.

use berth_api::indexes::Indexes;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::desired::{Desired, holds};
use super::plan::Seen;
use super::pods::failed;
use super::policy::{self, Answer, answer};
use crate::controllers::fields::text;
use crate::controllers::pod_state::is_active;

/// The end of a Job that has been decided on: no more pods are made, those that run are stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    /// Whether the Job has reached its goal.
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Verdict {
    fn failure(reason: &str, message: &str) -> Self {
        Self {
            success: false,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }

    /// The condition of a verdict, and the one that the Job ends with.
    pub(super) fn conditions(&self) -> (&'static str, &'static str) {
        if self.success {
            ("SuccessCriteriaMet", "Complete")
        } else {
            ("FailureTarget", "Failed")
        }
    }
}

/// A verdict that was written is not taken back.
fn known(job: &Value) -> Option<Verdict> {
    let of = |kind: &str, success| {
        holds(job, kind).map(|condition| Verdict {
            success,
            reason: text(condition, "/reason").to_owned(),
            message: text(condition, "/message").to_owned(),
        })
    };
    of("SuccessCriteriaMet", true).or_else(|| of("FailureTarget", false))
}

/// What ends a Job before all its pods have succeeded.
pub(super) fn verdict(seen: &Seen<'_>, now: Timestamp) -> Option<Verdict> {
    let desired = seen.desired;
    if let Some(known) = known(desired.job) {
        return Some(known);
    }
    if let Some(message) = given_up_by_policy(seen) {
        return Some(Verdict::failure("PodFailurePolicy", &message));
    }
    if seen.failed > desired.backoff_limit || restarted_too_often(desired, seen.pods) {
        let message = "Job has reached the specified backoff limit";
        return Some(Verdict::failure("BackoffLimitExceeded", message));
    }
    if is_late(desired, now) {
        let message = "Job was active longer than specified deadline";
        return Some(Verdict::failure("DeadlineExceeded", message));
    }
    if desired.per_index.is_some() {
        let given_up = seen.given_up.len() as u64;
        if desired.max_failed.is_some_and(|most| given_up > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(Verdict::failure("MaxFailedIndexesExceeded", message));
        }
        if given_up > 0 && given_up + seen.succeeded >= u64::from(desired.completions.unwrap_or(0)) {
            return Some(Verdict::failure("FailedIndexes", "Job has failed indexes"));
        }
    }
    by_success_policy(desired, &seen.done)
}

fn by_success_policy(desired: &Desired<'_>, done: &Indexes) -> Option<Verdict> {
    let message = policy::success(desired.success_policy, desired.completions?, done)?;
    Some(Verdict {
        success: true,
        reason: "SuccessPolicy".to_owned(),
        message,
    })
}

fn given_up_by_policy(seen: &Seen<'_>) -> Option<String> {
    seen.desired.failure_policy?;
    let mut failures = seen.pods.iter().filter(|pod| failed(pod, seen.desired));
    failures.find_map(|pod| match answer(seen.desired.failure_policy, pod) {
        Answer::FailJob(message) => Some(message),
        _ => None,
    })
}

/// Containers that restart in place count by their restarts.
fn restarted_too_often(desired: &Desired<'_>, pods: &[Value]) -> bool {
    if text(desired.job, "/spec/template/spec/restartPolicy") != "OnFailure" {
        return false;
    }
    let restarts: u64 = pods
        .iter()
        .filter(|pod| is_active(pod))
        .flat_map(|pod| ["initContainerStatuses", "containerStatuses"].map(|list| (pod, list)))
        .filter_map(|(pod, list)| pod.pointer(&format!("/status/{list}"))?.as_array())
        .flatten()
        .filter_map(|status| status["restartCount"].as_u64())
        .sum();
    if desired.backoff_limit == 0 {
        restarts > 0
    } else {
        restarts >= desired.backoff_limit
    }
}

fn is_late(desired: &Desired<'_>, now: Timestamp) -> bool {
    let Some(seconds) = desired.deadline.filter(|_| !desired.suspended) else {
        return false;
    };
    desired
        .started()
        .and_then(|start| start.checked_add(SignedDuration::from_secs(seconds)).ok())
        .is_some_and(|end| end <= now)
}

/// Whether enough pods have succeeded; asked when none runs any more.
pub(super) fn complete(seen: &Seen<'_>) -> Option<Verdict> {
    let enough = match seen.desired.completions {
        None => seen.succeeded > 0,
        Some(wanted) => seen.succeeded >= u64::from(wanted),
    };
    enough.then(|| Verdict {
        success: true,
        reason: "CompletionsReached".to_owned(),
        message: "Reached expected number of succeeded pods".to_owned(),
    })
}
