//! PURE: a CronJob, its Jobs and the time, to what is to be done (upstream `syncCronJob`,
//! `cleanupFinishedJobs`).

use std::time::Duration;

use berth_api::schedule::{self, Schedule};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::missed::due;
use crate::controllers::fields::{is_deleting, name, text, time, uid};
use crate::controllers::job::finished;
use crate::controllers::ownership::controller_reference;
use crate::events::Severity;
use crate::store::prepare::rfc3339;

/// Tells a Job which run of the schedule it is.
pub(super) const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A look is a little late, so that its time has come for sure.
const LATE: Duration = Duration::from_millis(100);

/// What is to be done, in this order. Stopping after any step and planning again is safe: a Job
/// has the name of its run, so that it is made once.
#[derive(Debug, Default)]
pub struct Plan {
    /// Jobs to delete.
    pub delete: Vec<Value>,
    /// The Job to make. The status takes it in once it is there.
    pub create: Option<Value>,
    /// The status to write, without that Job.
    pub status: Value,
    /// The run that the Job is.
    pub scheduled: Option<Timestamp>,
    /// What people should know.
    pub events: Vec<(Severity, &'static str, String)>,
    /// When to look again.
    pub again: Option<Duration>,
}

impl Plan {
    fn tell(&mut self, severity: Severity, reason: &'static str, message: String) {
        self.events.push((severity, reason, message));
    }

    fn active(&self) -> &[Value] {
        self.status["active"].as_array().map_or(&[], Vec::as_slice)
    }

    fn keep_active(&mut self, keep: impl Fn(&Value) -> bool) {
        if let Some(list) = self.status.get_mut("active").and_then(Value::as_array_mut) {
            list.retain(keep);
            if list.is_empty()
                && let Some(status) = self.status.as_object_mut()
            {
                status.remove("active");
            }
        }
    }
}

/// Plans the next step. `jobs` are those that the CronJob controls, `local` the time zone of one
/// that names none.
pub fn plan(cron: &Value, jobs: &[Value], local: &TimeZone, now: Timestamp) -> Plan {
    let mut plan = Plan {
        status: cron
            .get("status")
            .filter(|status| status.is_object())
            .cloned()
            .unwrap_or_else(|| json!({})),
        ..Plan::default()
    };
    account(jobs, &mut plan);
    if is_deleting(cron) {
        return plan;
    }
    clean_up(cron, jobs, &mut plan);
    start(cron, jobs, local, now, &mut plan);
    plan
}

/// Brings the list of active Jobs and the time of the last success up to date.
fn account(jobs: &[Value], plan: &mut Plan) {
    for job in jobs {
        let listed = plan.active().iter().any(|active| active["uid"] == uid(job));
        match (listed, finished(job)) {
            (false, None) => {
                let message = format!(
                    "Saw a job that the controller did not create or forgot: {}",
                    name(job)
                );
                plan.tell(Severity::Warning, "UnexpectedJob", message);
            }
            (true, Some(condition)) => {
                plan.keep_active(|active| active["uid"] != uid(job));
                let message = format!(
                    "Saw completed job: {}, condition: {}",
                    name(job),
                    text(condition, "/type")
                );
                plan.tell(Severity::Normal, "SawCompletedJob", message);
            }
            _ => {}
        }
        if finished(job).is_some_and(|condition| condition["type"] == "Complete") {
            let (ended, known) = (
                time(job, "/status/completionTime"),
                time(&plan.status, "/lastSuccessfulTime"),
            );
            if let Some(ended) = ended.filter(|ended| known.is_none_or(|known| known < *ended)) {
                plan.status["lastSuccessfulTime"] = json!(rfc3339(ended));
            }
        }
    }
    let missing: Vec<Value> = plan
        .active()
        .iter()
        .filter(|active| !jobs.iter().any(|job| active["uid"] == uid(job)))
        .cloned()
        .collect();
    for job in missing {
        let message = format!("Active job went missing: {}", text(&job, "/name"));
        plan.tell(Severity::Normal, "MissingJob", message);
        plan.keep_active(|active| active["uid"] != job["uid"]);
    }
}

/// Ended Jobs beyond the limits go, the oldest first.
fn clean_up(cron: &Value, jobs: &[Value], plan: &mut Plan) {
    for (field, kind) in [
        ("successfulJobsHistoryLimit", "Complete"),
        ("failedJobsHistoryLimit", "Failed"),
    ] {
        let limit = cron.pointer(&format!("/spec/{field}")).and_then(Value::as_u64);
        let Some(limit) = limit.and_then(|n| usize::try_from(n).ok()) else {
            continue;
        };
        let mut ended: Vec<&Value> = jobs
            .iter()
            .filter(|job| !is_deleting(job) && finished(job).is_some_and(|c| c["type"] == kind))
            .collect();
        ended.sort_by_key(|job| (time(job, "/status/startTime"), name(job)));
        let surplus = ended.len().saturating_sub(limit);
        plan.delete.extend(ended.into_iter().take(surplus).cloned());
    }
}

/// Starts the run that is due.
fn start(cron: &Value, jobs: &[Value], local: &TimeZone, now: Timestamp, plan: &mut Plan) {
    let named = cron.pointer("/spec/timeZone").and_then(Value::as_str);
    let Some(zone) = named.map_or_else(|| Some(local.clone()), schedule::zone) else {
        let named = named.unwrap_or_default();
        let message = format!("invalid timeZone: {named:?}: unknown time zone {named}");
        return plan.tell(Severity::Warning, "UnknownTimeZone", message);
    };
    if cron.pointer("/spec/suspend") == Some(&json!(true)) {
        return;
    }
    let written = text(cron, "/spec/schedule");
    let schedule = match Schedule::parse(written) {
        Ok(schedule) => schedule,
        Err(error) => {
            let message = format!("unparseable schedule: {written:?} : {error}");
            return plan.tell(Severity::Warning, "UnparseableSchedule", message);
        }
    };
    if let Some(next) = schedule.next(now, &zone) {
        plan.again = Some(Duration::try_from(next.duration_since(now)).unwrap_or_default() + LATE);
    }
    let limit = cron
        .pointer("/spec/startingDeadlineSeconds")
        .and_then(Value::as_i64);
    let limit = limit.and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok());
    let last = time(&plan.status, "/lastScheduleTime");
    let since = last
        .or_else(|| time(cron, "/metadata/creationTimestamp"))
        .unwrap_or(now);
    let since = limit.map_or(since, |limit| since.max(limit));
    let found = match due(&schedule, &zone, since, now) {
        Ok(found) => found,
        Err(error) => {
            let message = format!("invalid schedule: {written} : {error}");
            return plan.tell(Severity::Warning, "InvalidSchedule", message);
        }
    };
    let Some(found) = found else { return };
    if found.too_many {
        let message =
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.tell(Severity::Warning, "TooManyMissedTimes", message.to_owned());
    }
    if limit.is_some_and(|limit| found.at < limit) {
        let at = found.at.strftime("%a, %d %b %Y %H:%M:%S UTC");
        let message = format!("Missed scheduled time to start a job: {at}");
        return plan.tell(Severity::Warning, "MissSchedule", message);
    }
    let job = job(cron, found.at, &zone);
    let listed = plan.active().iter().any(|active| active["name"] == name(&job));
    if listed || last == Some(found.at) {
        return;
    }
    match text(cron, "/spec/concurrencyPolicy") {
        "Forbid" if !plan.active().is_empty() => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            return plan.tell(Severity::Normal, "JobAlreadyActive", message.to_owned());
        }
        "Replace" => {
            let active: Vec<Value> = plan.active().to_vec();
            let running = jobs
                .iter()
                .filter(|job| active.iter().any(|a| a["uid"] == uid(job)));
            plan.delete.extend(running.cloned());
            plan.keep_active(|_| false);
        }
        _ => {}
    }
    plan.create = Some(job);
    plan.scheduled = Some(found.at);
}

/// The Job of a run.
fn job(cron: &Value, scheduled: Timestamp, zone: &TimeZone) -> Value {
    let template = &cron["spec"]["jobTemplate"];
    let mut metadata = Map::new();
    for field in ["labels", "annotations"] {
        let given = template.pointer(&format!("/metadata/{field}")).cloned();
        metadata.insert(field.to_owned(), given.unwrap_or_else(|| json!({})));
    }
    let local = scheduled.to_zoned(zone.clone());
    let shown = if local.offset().is_zero() {
        rfc3339(scheduled)
    } else {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    };
    metadata["annotations"][SCHEDULED] = json!(shown);
    metadata.insert(
        "name".to_owned(),
        json!(format!("{}-{}", name(cron), scheduled.as_second().div_euclid(60))),
    );
    metadata.insert("namespace".to_owned(), cron["metadata"]["namespace"].clone());
    metadata.insert("ownerReferences".to_owned(), json!([controller_reference(cron)]));
    let mut job = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": template["spec"],
    });
    berth_api::defaults::apply(berth_api::kinds::JOB, &mut job);
    job
}
