//! Deployments: ReplicaSets of successive templates, rolled from one to the next (upstream
//! `pkg/controller/deployment`).
//!
//! [`rollout::reconcile`] decides, on values, one step at a time; this file gathers what it looks
//! at and writes what it decides.

mod progress;
mod revision;
mod rollout;
mod scaling;
mod sets;

use berth_api::kinds::{self, Kind};
use berth_api::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::Value;

use super::dependents;
use super::fields::{is_deleting, number, uid};
use super::ownership::controller_of;
use super::{Again, Controller, is_closing};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Deletion, Event, Key, Object, Preconditions, Store, StoreError};

pub use rollout::{Change, Outcome, View, reconcile};

/// Keeps Deployments.
pub(crate) struct DeploymentController;

impl Controller for DeploymentController {
    const NAME: &'static str = "deployment-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::DEPLOYMENT, kinds::REPLICA_SET, kinds::POD]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let kind = event.object.key().kind;
        if kind == kinds::DEPLOYMENT {
            return vec![event.object.key().clone()];
        }
        if kind == kinds::POD {
            // Only the end of a pod matters, to Recreate: the rest shows in the ReplicaSet's status.
            return if event.kind == crate::store::EventKind::Deleted {
                deployment_of_pod(store, &event.object).into_iter().collect()
            } else {
                Vec::new()
            };
        }
        dependents::owners(store, kinds::DEPLOYMENT, event)
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        dependents::all(store, kinds::DEPLOYMENT)
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            return Ok(None);
        };
        let deployment = object.value();
        let Ok(selector) = LabelSelector::from_object(deployment.pointer("/spec/selector")) else {
            return Ok(None);
        };
        if selector.is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            record(store, &object, Severity::Warning, "SelectingAll", message).await?;
            return Ok(None);
        }
        let matches = |set: &Value| selector.matches_object(set);
        let sets = dependents::claimed(store, kinds::REPLICA_SET, &deployment, matches, |_| {}).await?;
        let pods = pods_of(store, key, &sets);
        let view = View {
            deployment,
            sets,
            pods,
            closing: is_closing(store, &key.namespace)?,
        };
        let outcome = reconcile(&view, Timestamp::now());
        for change in outcome.changes {
            apply(store, key, &object, &view.deployment, change).await?;
        }
        Ok(outcome.again)
    }
}

fn name_of(reference: &Value) -> &str {
    reference["name"].as_str().unwrap_or_default()
}

fn deployment_of_pod(store: &Store, pod: &Object) -> Option<Key> {
    let value = pod.value();
    let owner = controller_of(&value).filter(|owner| owner["kind"] == "ReplicaSet")?;
    let set = store
        .get(&Key::new(kinds::REPLICA_SET, pod.namespace(), name_of(owner)))
        .ok()??;
    let value = set.value();
    let owner = controller_of(&value).filter(|owner| owner["kind"] == "Deployment")?;
    Some(Key::new(kinds::DEPLOYMENT, pod.namespace(), name_of(owner)))
}

/// The pods of these ReplicaSets, ended and ending ones included.
fn pods_of(store: &Store, key: &Key, sets: &[Value]) -> Vec<Value> {
    let uids: Vec<&str> = sets.iter().map(uid).collect();
    let mine = |pod: &Value| {
        controller_of(pod).is_some_and(|owner| uids.contains(&owner["uid"].as_str().unwrap_or_default()))
    };
    store
        .list(kinds::POD, Some(&key.namespace))
        .items
        .iter()
        .map(Object::value)
        .filter(mine)
        .collect()
}

async fn record(
    store: &Store,
    about: &Object,
    severity: Severity,
    reason: &str,
    message: &str,
) -> Result<(), StoreError> {
    events::record(
        store,
        &ObjectRef::to(about),
        severity,
        reason,
        message,
        DeploymentController::NAME,
    )
    .await
}

async fn apply(
    store: &Store,
    key: &Key,
    object: &Object,
    deployment: &Value,
    change: Change,
) -> Result<(), StoreError> {
    match change {
        Change::CreateSet(set) => create_set(store, key, object, deployment, set).await,
        Change::UpdateSet(set) => store.update(set).await.map(|_| ()),
        Change::DeleteSet { name, uid } => {
            let preconditions = Preconditions::uid(uid);
            let deletion = Deletion {
                preconditions,
                ..Deletion::default()
            };
            let set = Key::new(kinds::REPLICA_SET, key.namespace.as_str(), name);
            match store.begin_delete(&set, deletion).await {
                Err(StoreError::NotFound { .. }) => Ok(()),
                deleted => deleted.map(|_| ()),
            }
        }
        Change::Update(deployment) => store.update(deployment).await.map(|_| ()),
        Change::Status(status) => store.update_status(key, object.uid(), status).await.map(|_| ()),
        Change::Event { reason, message } => record(store, object, Severity::Normal, reason, &message).await,
    }
}

/// Makes a ReplicaSet. If its name is taken by one that is not the deployment's own for the same
/// template, the hashes collided: the count goes up, and with it the next name is another.
async fn create_set(
    store: &Store,
    key: &Key,
    object: &Object,
    deployment: &Value,
    set: Value,
) -> Result<(), StoreError> {
    let set_key = Key::of(&set)?;
    match store.create(set).await {
        Ok(_) => Ok(()),
        Err(StoreError::AlreadyExists { .. }) => {
            let taken = store.require(&set_key)?.value();
            let mine = controller_of(&taken).is_some_and(|owner| owner["uid"] == object.uid());
            if mine && !is_deleting(&taken) && sets::same_template(deployment, &taken) {
                return Ok(());
            }
            let mut status = deployment["status"].clone();
            let count = number(&status, "/collisionCount");
            status["collisionCount"] = Value::from(count + 1);
            store.update_status(key, object.uid(), status).await?;
            Err(StoreError::Conflict {
                kind: kinds::REPLICA_SET,
                name: set_key.name,
                why: "the name is taken by another template's set".to_owned(),
            })
        }
        Err(StoreError::Closed) => Err(StoreError::Closed),
        Err(error) => {
            let message = format!("Failed to create new replica set {:?}: {error}", set_key.name);
            record(
                store,
                object,
                Severity::Warning,
                "ReplicaSetCreateError",
                &message,
            )
            .await?;
            let status = progress::creation_failed(deployment, &message, Timestamp::now());
            store.update_status(key, object.uid(), status).await?;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests;
