//! What a Job asks for, read once.

use berth_api::indexes::Indexes;
use jiff::Timestamp;
use serde_json::Value;

use crate::controllers::fields::{condition, number, text, time};

/// A Job's specification in numbers. Its defaults have been filled in.
pub(super) struct Desired<'a> {
    pub(super) job: &'a Value,
    /// How many pods must succeed; `None`: any one.
    pub(super) completions: Option<u32>,
    pub(super) parallelism: usize,
    pub(super) backoff_limit: u64,
    pub(super) per_index: Option<u64>,
    pub(super) max_failed: Option<u64>,
    /// Seconds from its start to its end at the latest.
    pub(super) deadline: Option<i64>,
    pub(super) indexed: bool,
    pub(super) suspended: bool,
    /// A pod is replaced when it has ended, not when it is asked to.
    pub(super) replaces_ended: bool,
    pub(super) failure_policy: Option<&'a Value>,
    pub(super) success_policy: Option<&'a Value>,
}

impl<'a> Desired<'a> {
    pub(super) fn of(job: &'a Value) -> Self {
        let amount = |name: &str| job.pointer(&format!("/spec/{name}")).and_then(Value::as_u64);
        let policy = |name: &str| job.pointer(&format!("/spec/{name}")).filter(|p| !p.is_null());
        Self {
            job,
            completions: amount("completions").and_then(|n| u32::try_from(n).ok()),
            parallelism: amount("parallelism")
                .and_then(|n| usize::try_from(n).ok())
                .unwrap_or(1),
            backoff_limit: amount("backoffLimit").unwrap_or(6),
            per_index: amount("backoffLimitPerIndex"),
            max_failed: amount("maxFailedIndexes"),
            deadline: job.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64),
            indexed: text(job, "/spec/completionMode") == "Indexed",
            suspended: job.pointer("/spec/suspend") == Some(&Value::Bool(true)),
            replaces_ended: text(job, "/spec/podReplacementPolicy") == "Failed",
            failure_policy: policy("podFailurePolicy"),
            success_policy: policy("successPolicy"),
        }
    }

    /// Indexes that a status says to be done or given up.
    pub(super) fn known(&self, field: &str) -> Indexes {
        let text = text(self.job, &format!("/status/{field}"));
        Indexes::kept(text, self.completions.unwrap_or(0))
    }

    /// Pods of the status that are counted for good.
    pub(super) fn counted(&self, field: &str) -> u64 {
        number(self.job, &format!("/status/{field}"))
            .try_into()
            .unwrap_or(0)
    }

    pub(super) fn started(&self) -> Option<Timestamp> {
        time(self.job, "/status/startTime")
    }
}

/// A condition of a Job that holds.
pub(super) fn holds<'a>(job: &'a Value, kind: &str) -> Option<&'a Value> {
    condition(job.get("status")?, kind).filter(|condition| condition["status"] == "True")
}

/// The condition that ended a Job.
pub(in crate::controllers) fn finished(job: &Value) -> Option<&Value> {
    holds(job, "Complete").or_else(|| holds(job, "Failed"))
}

/// When a Job that has ended is to be deleted.
pub(super) fn expiry(job: &Value) -> Option<Timestamp> {
    let seconds = job.pointer("/spec/ttlSecondsAfterFinished")?.as_i64()?;
    let ended = time(finished(job)?, "/lastTransitionTime")?;
    ended.checked_add(jiff::SignedDuration::from_secs(seconds)).ok()
}
