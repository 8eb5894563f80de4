//! Jobs: pods that run to their end (upstream `pkg/controller/job`, `ttlafterfinished`).

mod desired;
mod plan;
mod pods;
mod policy;
mod status;
mod verdict;

use std::collections::BTreeSet;

use berth_api::kinds::{self, Kind};
use berth_api::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::dependents::{self, Words, random_suffix};
use super::fields::{is_deleting, name, remove_finalizer, text, uid};
use super::ownership::controller_of;
use super::{Again, Controller, is_closing, node};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Deletion, Event, Key, Object, Preconditions, Propagation, Store, StoreError};

pub(super) use desired::finished;
pub use plan::{Plan, plan};
pub use pods::{Slot, pod_from_template};

/// Who keeps a Job that names nobody.
const MANAGER: &str = "kubernetes.io/job-controller";

/// Keeps Jobs.
pub(crate) struct JobController;

impl Controller for JobController {
    const NAME: &'static str = "job-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::JOB, kinds::POD]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let about = &event.object;
        if about.key().kind == kinds::JOB {
            return vec![about.key().clone()];
        }
        let mut keys = Vec::new();
        for pod in [Some(about), event.previous.as_ref()].into_iter().flatten() {
            let value = pod.value();
            match controller_of(&value) {
                Some(owner) if owner["kind"] == "Job" => {
                    keys.push(Key::new(kinds::JOB, pod.namespace(), text(owner, "/name")));
                }
                Some(_) => {}
                None => {
                    keys.extend(dependents::matching(store, kinds::JOB, pod.namespace(), &value));
                    // Its Job has let it go: somebody must let it go as well.
                    if keys.is_empty() && pods::is_tracked(&value) {
                        keys.push(orphans_of(pod.namespace()));
                    }
                }
            }
        }
        keys.sort();
        keys.dedup();
        keys
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let jobs = store.list(kinds::JOB, None).items;
        let mut keys: BTreeSet<Key> = jobs.iter().map(|job| job.key().clone()).collect();
        for pod in store.list(kinds::POD, None).items {
            if pods::is_tracked(&pod.value()) {
                keys.insert(orphans_of(pod.namespace()));
            }
        }
        keys.into_iter().collect()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            release_orphans(store, &key.namespace).await?;
            return Ok(None);
        };
        let job = object.value();
        let manager = job.pointer("/spec/managedBy").and_then(Value::as_str);
        if manager.is_some_and(|manager| manager != MANAGER) {
            return Ok(None);
        }
        let Ok(selector) = LabelSelector::from_object(job.pointer("/spec/selector")) else {
            return Ok(None);
        };
        let matches = |pod: &Value| selector.matches_object(pod);
        let parting = |pod: &mut Value| remove_finalizer(pod, pods::FINALIZER);
        let pods = dependents::claimed(store, kinds::POD, &job, matches, parting).await?;
        let plan = plan(&job, &pods, Timestamp::now());
        carry_out(store, &object, &job, plan).await
    }
}

/// The key that stands for the pods of a namespace whose Jobs are gone.
fn orphans_of(namespace: &str) -> Key {
    Key::new(kinds::JOB, namespace, "")
}

/// Takes the finalizer off pods whose Job is gone or has let them go.
async fn release_orphans(store: &Store, namespace: &str) -> Result<(), StoreError> {
    for pod in store.list(kinds::POD, Some(namespace)).items {
        let value = pod.value();
        if !pods::is_tracked(&value) {
            continue;
        }
        let kept = match controller_of(&value) {
            Some(owner) => {
                let job = store.get(&Key::new(kinds::JOB, namespace, text(owner, "/name")))?;
                job.is_some_and(|job| owner["uid"] == job.uid())
            }
            None => !dependents::matching(store, kinds::JOB, namespace, &value).is_empty(),
        };
        if !kept {
            release(store, value).await?;
        }
    }
    Ok(())
}

async fn release(store: &Store, mut pod: Value) -> Result<(), StoreError> {
    remove_finalizer(&mut pod, pods::FINALIZER);
    match store.update(pod).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Does what the plan says, in its order.
async fn carry_out(store: &Store, object: &Object, job: &Value, mut plan: Plan) -> Result<Again, StoreError> {
    let key = object.key();
    let about = ObjectRef::to(object);
    if plan.expired {
        return expire(store, object).await;
    }
    for pod in plan.drop {
        if pods::is_tracked(&pod) {
            release(store, pod.clone()).await?;
        }
        dependents::delete(store, &about, &pod, &words(&pod)).await?;
    }
    for pod in &plan.delete {
        dependents::delete(store, &about, pod, &words(pod)).await?;
    }
    let mut failure = None;
    if !plan.create.is_empty() {
        let wanted = plan.create.len();
        let made = create(store, &about, job, &plan.create).await?;
        failure = made.failure;
        if made.count < wanted {
            let active = plan.status["active"].as_u64().unwrap_or(0) as usize;
            plan.status["active"] = json!(active.saturating_sub(wanted - made.count));
            plan.again = plan.again.or(made.again);
        }
    }
    if job.get("status") != Some(&plan.status) {
        store.update_status(key, object.uid(), plan.status).await?;
    }
    for pod in plan.release {
        // The list is older than the deletions above.
        if let Some(fresh) = store
            .get(&Key::of(&pod)?)?
            .filter(|fresh| fresh.uid() == uid(&pod))
        {
            release(store, fresh.value()).await?;
        }
    }
    for (severity, reason, message) in plan.events {
        record(store, &about, severity, reason, &message).await?;
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(plan.again),
    }
}

/// What came of making pods.
#[derive(Default)]
struct Made {
    count: usize,
    failure: Option<StoreError>,
    again: Again,
}

async fn create(store: &Store, about: &ObjectRef, job: &Value, slots: &[Slot]) -> Result<Made, StoreError> {
    let mut made = Made::default();
    if is_closing(store, &about.namespace)? {
        return Ok(made);
    }
    let Some(node) = node::name(store) else {
        made.again = Some(node::PAUSE);
        return Ok(made);
    };
    for slot in slots {
        match create_one(store, job, slot, &node).await {
            Ok(pod) => {
                made.count += 1;
                let message = format!("Created pod: {}", pod.name());
                record(store, about, Severity::Normal, "SuccessfulCreate", &message).await?;
            }
            Err(StoreError::Closed) => return Err(StoreError::Closed),
            Err(error) => {
                let message = format!("Error creating: {error}");
                record(store, about, Severity::Warning, "FailedCreate", &message).await?;
                made.failure = Some(error);
                break;
            }
        }
    }
    Ok(made)
}

async fn create_one(store: &Store, job: &Value, slot: &Slot, node: &str) -> Result<Object, StoreError> {
    loop {
        let mut pod = pod_from_template(job, slot, &random_suffix());
        crate::admission::pod(store, &mut pod, node)?;
        match store.create(pod).await {
            // One name in fourteen million: take another.
            Err(StoreError::AlreadyExists { .. }) => {}
            made => return made,
        }
    }
}

/// Deletes a Job whose time after its end is over; its pods go first.
async fn expire(store: &Store, object: &Object) -> Result<Again, StoreError> {
    if is_deleting(&object.value()) {
        return Ok(None);
    }
    let deletion = Deletion {
        preconditions: Preconditions::uid(object.uid()),
        propagation: Propagation::Foreground,
        ..Deletion::default()
    };
    match store.begin_delete(object.key(), deletion).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// How the deletion of a pod is told.
fn words(pod: &Value) -> Words {
    Words {
        component: JobController::NAME,
        failed: "Error deleting",
        done: format!("Deleted pod: {}", name(pod)),
    }
}

async fn record(
    store: &Store,
    about: &ObjectRef,
    severity: Severity,
    reason: &str,
    message: &str,
) -> Result<(), StoreError> {
    events::record(store, about, severity, reason, message, JobController::NAME).await
}

#[cfg(test)]
mod tests;
