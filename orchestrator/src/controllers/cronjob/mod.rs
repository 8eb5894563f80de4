//! CronJobs: Jobs by a schedule (upstream `pkg/controller/cronjob`).

mod missed;
mod plan;

use berth_api::kinds::{self, Kind};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::dependents::{self, Words};
use super::fields::{name, text};
use super::ownership::controller_of;
use super::{Again, Controller, is_closing};
use crate::events::{self, ObjectRef, Severity};
use crate::store::prepare::rfc3339;
use crate::store::{Event, Key, Object, Store, StoreError};

pub use plan::{Plan, plan};

/// Keeps CronJobs.
pub(crate) struct CronJobController;

impl Controller for CronJobController {
    const NAME: &'static str = "cronjob-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::CRON_JOB, kinds::JOB]
    }

    fn concerned(&mut self, _: &Store, event: &Event) -> Vec<Key> {
        let about = &event.object;
        if about.key().kind == kinds::CRON_JOB {
            return vec![about.key().clone()];
        }
        let value = about.value();
        match controller_of(&value) {
            Some(owner) if owner["kind"] == "CronJob" => {
                vec![Key::new(kinds::CRON_JOB, about.namespace(), text(owner, "/name"))]
            }
            _ => Vec::new(),
        }
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let crons = store.list(kinds::CRON_JOB, None).items;
        crons.iter().map(|cron| cron.key().clone()).collect()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            return Ok(None);
        };
        let cron = object.value();
        let jobs: Vec<Value> = store
            .list(kinds::JOB, Some(&key.namespace))
            .items
            .iter()
            .map(Object::value)
            .filter(|job| controller_of(job).is_some_and(|owner| owner["uid"] == object.uid()))
            .collect();
        let plan = plan(&cron, &jobs, &TimeZone::system(), Timestamp::now());
        carry_out(store, &object, &cron, plan).await
    }
}

/// Does what the plan says, in its order.
async fn carry_out(
    store: &Store,
    object: &Object,
    cron: &Value,
    mut plan: Plan,
) -> Result<Again, StoreError> {
    let about = ObjectRef::to(object);
    for job in &plan.delete {
        let words = Words {
            component: CronJobController::NAME,
            failed: "Deleted job",
            done: format!("Deleted job {}", name(job)),
        };
        dependents::delete(store, &about, job, &words).await?;
    }
    let mut failure = None;
    if let Some(job) = plan.create.take()
        && !is_closing(store, object.namespace())?
    {
        match create(store, object, job).await {
            Ok((made, fresh)) => {
                take_in(&mut plan, &made);
                if fresh {
                    let message = format!("Created job {}", made.name());
                    plan.events.push((Severity::Normal, "SuccessfulCreate", message));
                }
            }
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(error) => {
                let message = format!("Error creating job: {error}");
                plan.events.push((Severity::Warning, "FailedCreate", message));
                failure = Some(error);
            }
        }
    }
    let unchanged = match cron.get("status") {
        Some(status) => *status == plan.status,
        None => plan.status == json!({}),
    };
    if !unchanged {
        store
            .update_status(object.key(), object.uid(), plan.status)
            .await?;
    }
    for (severity, reason, message) in plan.events {
        record(store, &about, severity, reason, &message).await?;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(plan.again),
    }
}

/// Makes the Job, or finds it made already, by ourselves before we were interrupted.
async fn create(store: &Store, cron: &Object, job: Value) -> Result<(Object, bool), StoreError> {
    let key = Key::of(&job)?;
    match store.create(job).await {
        Ok(made) => Ok((made, true)),
        Err(taken @ StoreError::AlreadyExists { .. }) => {
            let ours = store.get(&key)?.filter(|found| {
                controller_of(&found.value()).is_some_and(|owner| owner["uid"] == cron.uid())
            });
            ours.map(|found| (found, false)).ok_or(taken)
        }
        Err(error) => Err(error),
    }
}

/// Notes a Job in the status.
fn take_in(plan: &mut Plan, job: &Object) {
    if let Some(scheduled) = plan.scheduled {
        plan.status["lastScheduleTime"] = json!(rfc3339(scheduled));
    }
    if super::job::finished(&job.value()).is_some() {
        return;
    }
    let reference = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "namespace": job.namespace(),
        "name": job.name(),
        "uid": job.uid(),
        "resourceVersion": job.resource_version().to_string(),
    });
    match plan.status.get_mut("active").and_then(Value::as_array_mut) {
        Some(active) => active.push(reference),
        None => plan.status["active"] = json!([reference]),
    }
}

async fn record(
    store: &Store,
    about: &ObjectRef,
    severity: Severity,
    reason: &str,
    message: &str,
) -> Result<(), StoreError> {
    events::record(store, about, severity, reason, message, CronJobController::NAME).await
}

#[cfg(test)]
mod tests;
