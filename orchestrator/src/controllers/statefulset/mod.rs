//! StatefulSets: pods that are known by their number (upstream `pkg/controller/statefulset`).
//!
//! [`plan::plan`] decides; this file gathers what it looks at and does what it says.

mod claims;
mod identity;
mod plan;
mod status;

use berth_api::kinds::{self, Kind};
use berth_api::selector::LabelSelector;
use jiff::Timestamp;
use serde_json::Value;

use super::dependents::{self, Words};
use super::fields::{name, number, text};
use super::revisions::{self, HASH, History};
use super::{Again, Controller, is_closing, node};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Event, Key, Object, Store, StoreError};

pub use plan::{Action, View, plan};
pub use status::status;

/// Keeps StatefulSets.
pub(crate) struct StatefulSetController;

impl Controller for StatefulSetController {
    const NAME: &'static str = "statefulset-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[
            kinds::STATEFUL_SET,
            kinds::CONTROLLER_REVISION,
            kinds::POD,
            kinds::PERSISTENT_VOLUME_CLAIM,
        ]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let key = event.object.key();
        if key.kind == kinds::STATEFUL_SET {
            return vec![key.clone()];
        }
        if key.kind == kinds::PERSISTENT_VOLUME_CLAIM {
            return with_claim(store, key);
        }
        dependents::owners(store, kinds::STATEFUL_SET, event)
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        dependents::all(store, kinds::STATEFUL_SET)
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            return Ok(None);
        };
        let set = object.value();
        let Ok(selector) = LabelSelector::from_object(set.pointer("/spec/selector")) else {
            return Ok(None);
        };
        let Some(node) = node::find(store) else {
            return Ok(Some(node::PAUSE));
        };
        let Some(history) = revisions::settle(store, &object, &set, &selector, HASH).await? else {
            return Ok(None);
        };
        let claimed = || {
            let matches =
                |pod: &Value| selector.matches_object(pod) && identity::ordinal(&set, pod).is_some();
            dependents::claimed(store, kinds::POD, &set, matches, |_| {})
        };
        let mut view = View {
            set: set.clone(),
            pods: claimed().await?,
            current: current(&set, &history).clone(),
            update: history.latest.clone(),
            claims: claims_of(store, &set),
            node: node.name,
        };
        let now = Timestamp::now();
        let about = ObjectRef::to(&object);
        let failure = carry_out(store, &about, plan(&view, now), &view.node).await?;
        // Read again: the status counts what there is now.
        view.pods = claimed().await?;
        let (status, again) = status(&view, now);
        let revision = text(&status, "/currentRevision").to_owned();
        if set.get("status") != Some(&status) {
            store.update_status(key, object.uid(), status).await?;
        }
        trim(store, &view, &history, &revision).await?;
        match failure {
            Some(failure) => Err(failure),
            None => Ok(again),
        }
    }
}

/// The sets that have, or may have, a pod with this claim.
fn with_claim(store: &Store, claim: &Key) -> Vec<Key> {
    let sets = store.list(kinds::STATEFUL_SET, Some(&claim.namespace)).items;
    let has = |set: &&Object| claims::is_named_by(&set.value(), &claim.name);
    sets.iter().filter(has).map(|set| set.key().clone()).collect()
}

/// The claims that a set's pods have, had, or will find.
fn claims_of(store: &Store, set: &Value) -> Vec<Value> {
    if claims::templates(set).is_empty() {
        return Vec::new();
    }
    let space = text(set, "/metadata/namespace");
    let all = store.list(kinds::PERSISTENT_VOLUME_CLAIM, Some(space)).items;
    let named = all.iter().filter(|claim| claims::is_named_by(set, claim.name()));
    named.map(Object::value).collect()
}

/// The revision that the status calls current; the present one at first, or if that is gone.
fn current<'a>(set: &Value, history: &'a History) -> &'a Value {
    let wanted = text(set, "/status/currentRevision");
    let mut all = history.all.iter();
    all.find(|revision| name(revision) == wanted)
        .unwrap_or(&history.latest)
}

/// Does what the plan says, in its order. The answer is why it could not be done to its end.
async fn carry_out(
    store: &Store,
    about: &ObjectRef,
    actions: Vec<Action>,
    node: &str,
) -> Result<Option<StoreError>, StoreError> {
    for action in actions {
        match action {
            Action::Create(pod) => {
                if let Some(error) = create(store, about, pod, node).await? {
                    return Ok(Some(error));
                }
            }
            Action::Relabel(object) | Action::Own(object) => {
                store.update(object).await?;
            }
            Action::Claim { claim, pod } => {
                if let Some(error) = create_claim(store, about, claim, &pod).await? {
                    return Ok(Some(error));
                }
            }
            Action::Delete(pod) => dependents::delete(store, about, &pod, &words(about, &pod)).await?,
        }
    }
    Ok(None)
}

async fn create(
    store: &Store,
    about: &ObjectRef,
    mut pod: Value,
    node: &str,
) -> Result<Option<StoreError>, StoreError> {
    if is_closing(store, &about.namespace)? {
        return Ok(None);
    }
    let what = format!("create Pod {} in StatefulSet {}", name(&pod), about.name);
    let made = match crate::admission::pod(store, &mut pod, node) {
        Ok(()) => store.create(pod).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(_) => {
            let message = format!("{what} successful");
            record(store, about, Severity::Normal, "SuccessfulCreate", &message).await?;
            Ok(None)
        }
        Err(StoreError::Closed) => Err(StoreError::Closed),
        Err(error) => {
            let message = format!("{what} failed error: {error}");
            record(store, about, Severity::Warning, "FailedCreate", &message).await?;
            Ok(Some(error))
        }
    }
}

async fn create_claim(
    store: &Store,
    about: &ObjectRef,
    mut claim: Value,
    pod: &str,
) -> Result<Option<StoreError>, StoreError> {
    if is_closing(store, &about.namespace)? {
        return Ok(None);
    }
    let what = format!("create Claim {}", name(&claim));
    let set = &about.name;
    let made = match crate::admission::claim(store, &mut claim) {
        Ok(()) => store.create(claim).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(_) => {
            let message = format!("{what} Pod {pod} in StatefulSet {set} success");
            record(store, about, Severity::Normal, "SuccessfulCreate", &message).await?;
            Ok(None)
        }
        Err(StoreError::AlreadyExists { .. }) => Ok(None),
        Err(StoreError::Closed) => Err(StoreError::Closed),
        Err(error) => {
            let message = format!("{what} for Pod {pod} in StatefulSet {set} failed error: {error}");
            record(store, about, Severity::Warning, "FailedCreate", &message).await?;
            Ok(Some(error))
        }
    }
}

/// How the deletion of a pod is told.
fn words(about: &ObjectRef, pod: &Value) -> Words {
    Words {
        component: StatefulSetController::NAME,
        failed: "delete failed error",
        done: format!(
            "delete Pod {} in StatefulSet {} successful",
            name(pod),
            about.name
        ),
    }
}

/// Forgets the revisions beyond the limit that neither the set nor a pod is of.
async fn trim(store: &Store, view: &View, history: &History, current: &str) -> Result<(), StoreError> {
    let in_use = |revision: &Value| {
        let own = name(revision);
        own == current
            || own == name(&view.current)
            || own == name(&view.update)
            || view.pods.iter().any(|pod| identity::revision(pod) == own)
    };
    let idle = history.all.iter().filter(|revision| !in_use(revision)).count();
    let too_many = idle as i64 - number(&view.set, "/spec/revisionHistoryLimit");
    revisions::forget(store, revisions::forgettable(&history.all, in_use, too_many)).await
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
        StatefulSetController::NAME,
    )
    .await
}

#[cfg(test)]
mod tests;
