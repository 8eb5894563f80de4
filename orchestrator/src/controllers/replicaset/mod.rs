//! ReplicaSets: the right number of pods from a template (upstream `pkg/controller/replicaset`).

mod plan;
mod rank;
mod status;

use berth_api::kinds::{self, Kind};
use berth_api::selector::LabelSelector;
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::Value;

use super::dependents::{self, Words, random_suffix};
use super::fields::name;
use super::{Again, Controller, is_closing, node};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Event, Key, Object, Store, StoreError};

pub use plan::{Plan, plan, pod_from_template};
pub(super) use rank::compare;
pub use status::{Failure, status};

/// How many pods are made or deleted for one look: more come with the next.
const BURST: usize = 500;

/// Keeps ReplicaSets.
pub(crate) struct ReplicaSetController;

impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::REPLICA_SET, kinds::POD]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        if event.object.key().kind == kinds::REPLICA_SET {
            return vec![event.object.key().clone()];
        }
        dependents::owners(store, kinds::REPLICA_SET, event)
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        dependents::all(store, kinds::REPLICA_SET)
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            return Ok(None);
        };
        let set = object.value();
        let Ok(selector) = LabelSelector::from_object(set.pointer("/spec/selector")) else {
            return Ok(None);
        };
        let claimed = || {
            let matches = |pod: &Value| selector.matches_object(pod);
            dependents::claimed(store, kinds::POD, &set, matches, |_| {})
        };
        let pods = claimed().await?;
        let now = Timestamp::now();
        let wanted = plan(&set, &pods, now);
        let (mut failure, mut again) = (None, None);
        let about = ObjectRef::to(&object);
        if wanted.create > 0 && !is_closing(store, &key.namespace)? {
            match node::name(store) {
                Some(node) => {
                    failure = create(store, &about, &set, &node, wanted.create.min(BURST)).await?;
                }
                None => again = Some(node::PAUSE),
            }
        }
        for pod in wanted.delete.iter().take(BURST) {
            dependents::delete(store, &about, pod, &words(pod)).await?;
        }
        // Read again: the status counts what there is now.
        let pods = claimed().await?;
        let fresh = status(&set, &pods, failure.as_ref(), now);
        if set.get("status") != Some(&fresh.status) {
            store.update_status(key, object.uid(), fresh.status).await?;
        }
        match failure {
            Some(failure) => Err(failure.error),
            None => Ok(fresh.again.into_iter().chain(again).min()),
        }
    }
}

/// Makes pods: one, then two, four and so on, so that a template that is always refused costs
/// one refusal, not hundreds.
async fn create(
    store: &Store,
    about: &ObjectRef,
    set: &Value,
    node: &str,
    count: usize,
) -> Result<Option<Failure>, StoreError> {
    let (mut left, mut batch) = (count, 1);
    while left > 0 {
        let size = batch.min(left);
        let pods = (0..size).map(|_| create_one(store, set, node));
        for made in join_all(pods).await {
            match made {
                Ok(pod) => {
                    let message = format!("Created pod: {}", pod.name());
                    record(store, about, Severity::Normal, "SuccessfulCreate", &message).await?;
                }
                Err(StoreError::Closed) => return Err(StoreError::Closed),
                Err(error) => {
                    let message = format!("Error creating: {error}");
                    record(store, about, Severity::Warning, "FailedCreate", &message).await?;
                    return Ok(Some(Failure {
                        reason: "FailedCreate",
                        error,
                    }));
                }
            }
        }
        left -= size;
        batch *= 2;
    }
    Ok(None)
}

async fn create_one(store: &Store, set: &Value, node: &str) -> Result<Object, StoreError> {
    loop {
        let mut pod = pod_from_template(set, &random_suffix(), node);
        crate::admission::pod(store, &mut pod, node)?;
        match store.create(pod).await {
            // One name in fourteen million: take another.
            Err(StoreError::AlreadyExists { .. }) => {}
            made => return made,
        }
    }
}

/// How the deletion of a pod is told.
fn words(pod: &Value) -> Words {
    Words {
        component: ReplicaSetController::NAME,
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
    events::record(
        store,
        about,
        severity,
        reason,
        message,
        ReplicaSetController::NAME,
    )
    .await
}
