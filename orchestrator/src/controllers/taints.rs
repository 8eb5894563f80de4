//! Taints of the node: the one of a node that is cordoned is kept, and pods that do not tolerate what has the effect
//! `NoExecute` are ended (upstream `pkg/controller/tainteviction`, `nodelifecycle`).

use std::collections::HashMap;
use std::time::Duration;

use berth_api::kinds::{self, Kind};
use berth_api::room::{self, Stay};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fields::is_deleting;
use super::{Again, Controller, dependents};
use crate::events::{self, ObjectRef, Severity};
use crate::store::prepare::{condition, rfc3339};
use crate::store::{Deletion, Event, EventKind, Key, Object, Preconditions, Store, StoreError};

/// Keeps the node's taints and ends pods for them.
#[derive(Default)]
pub(crate) struct TaintEviction {
    /// Pods whose time is counted, and when it is over. A restart of berthd begins anew, as upstream's does.
    due: HashMap<Key, Due>,
    /// Whether the node has taints with the effect `NoExecute`: without them, what pods do is of no interest.
    tainted: bool,
}

#[derive(Debug, Clone)]
struct Due {
    uid: String,
    at: Timestamp,
}

impl Controller for TaintEviction {
    const NAME: &'static str = "taint-eviction-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::NODE, kinds::POD]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let key = event.object.key();
        if key.kind == kinds::POD {
            let counted = self.due.contains_key(key);
            return (counted || self.tainted)
                .then(|| key.clone())
                .into_iter()
                .collect();
        }
        let now = event.object.value();
        let before = event.previous.as_ref().map(Object::value).unwrap_or_default();
        self.tainted = event.kind != EventKind::Deleted && ending(&now).next().is_some();
        let mut keys = Vec::new();
        if room::is_cordoned(&now) != has_cordon_taint(&now) {
            keys.push(key.clone());
        }
        if !ending(&now).eq(ending(&before)) {
            keys.extend(dependents::all(store, kinds::POD));
        }
        keys
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let nodes = store.list(kinds::NODE, None).items;
        self.tainted = nodes.iter().any(|node| ending(&node.value()).next().is_some());
        let mut keys: Vec<Key> = nodes.iter().map(|node| node.key().clone()).collect();
        if self.tainted {
            keys.extend(dependents::all(store, kinds::POD));
        }
        keys
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        if key.kind == kinds::NODE {
            return mark_cordoned(store, key).await.map(|()| None);
        }
        let Some(object) = store.get(key)? else {
            self.due.remove(key);
            return Ok(None);
        };
        let pod = object.value();
        if is_deleting(&pod) || !room::is_bound(&pod) {
            self.due.remove(key);
            return Ok(None);
        }
        let now = Timestamp::now();
        let known = self.due.get(key).filter(|due| due.uid == object.uid());
        match next(room::stay(&pod, &taints(store)), known.map(|due| due.at), now) {
            Next::Stays => {
                if self.due.remove(key).is_some() {
                    tell(store, &object, "Cancelling deletion of Pod").await?;
                }
                Ok(None)
            }
            Next::Goes => {
                evict(store, &object, pod).await?;
                self.due.remove(key);
                Ok(None)
            }
            Next::Waits(at) => {
                let uid = object.uid().to_owned();
                self.due.insert(key.clone(), Due { uid, at });
                let wait = at.duration_since(now).unsigned_abs();
                // A little later, so that the time has come for sure.
                Ok(Some(wait + Duration::from_millis(10)))
            }
        }
    }
}

/// What becomes of a pod.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Stays,
    Goes,
    Waits(Timestamp),
}

/// PURE: `due` is when the pod has to go by what was known before. A time that runs is only ever cut short.
fn next(stay: Stay, due: Option<Timestamp>, now: Timestamp) -> Next {
    let Stay::Seconds(seconds) = stay else {
        return Next::Stays;
    };
    let seconds = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
    let at = now.checked_add(seconds).unwrap_or(Timestamp::MAX);
    let at = due.map_or(at, |due| due.min(at));
    if at <= now { Next::Goes } else { Next::Waits(at) }
}

/// The taints that end pods.
fn ending(node: &Value) -> impl Iterator<Item = &Value> {
    let list = node.pointer("/spec/taints").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(|taint| taint["effect"] == "NoExecute")
}

/// The one node's taints.
fn taints(store: &Store) -> Vec<Value> {
    let nodes = store.list(kinds::NODE, None).items;
    nodes
        .first()
        .map(|node| room::taints(&node.value()))
        .unwrap_or_default()
}

fn is_cordon_taint(taint: &Value) -> bool {
    taint["key"] == room::UNSCHEDULABLE && taint["effect"] == "NoSchedule"
}

fn has_cordon_taint(node: &Value) -> bool {
    let list = node.pointer("/spec/taints").and_then(Value::as_array);
    list.into_iter().flatten().any(is_cordon_taint)
}

/// A cordoned node shows a taint that says so, and no other does.
async fn mark_cordoned(store: &Store, key: &Key) -> Result<(), StoreError> {
    let Some(stored) = store.get(key)? else {
        return Ok(());
    };
    let mut node = stored.value();
    if room::is_cordoned(&node) == has_cordon_taint(&node) {
        return Ok(());
    }
    let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    if room::is_cordoned(&node) {
        taints.push(json!({
            "key": room::UNSCHEDULABLE, "effect": "NoSchedule", "timeAdded": rfc3339(Timestamp::now()),
        }));
    } else {
        taints.retain(|taint| !is_cordon_taint(taint));
    }
    if let Some(spec) = node["spec"].as_object_mut() {
        if taints.is_empty() {
            spec.remove("taints");
        } else {
            spec.insert("taints".to_owned(), Value::Array(taints));
        }
    }
    store.update(node).await.map(drop)
}

async fn evict(store: &Store, object: &Object, mut pod: Value) -> Result<(), StoreError> {
    tell(store, object, "Marking for deletion Pod").await?;
    let why = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
        "message": "Taint manager: deleting due to NoExecute taint",
    });
    condition(&mut pod, why, Timestamp::now());
    let key = object.key();
    store
        .update_status(key, object.uid(), pod["status"].take())
        .await?;
    let deletion = Deletion {
        preconditions: Preconditions::uid(object.uid()),
        ..Deletion::default()
    };
    match store.begin_delete(key, deletion).await {
        Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn tell(store: &Store, pod: &Object, what: &str) -> Result<(), StoreError> {
    let message = format!("{what} {}/{}", pod.namespace(), pod.name());
    events::record(
        store,
        &ObjectRef::to(pod),
        Severity::Normal,
        "TaintManagerEviction",
        &message,
        TaintEviction::NAME,
    )
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_that_runs_is_only_cut_short() {
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(next(Stay::Forever, Some(at(5)), at(9)), Next::Stays);
        assert_eq!(next(Stay::Seconds(0), None, at(1)), Next::Goes);
        assert_eq!(next(Stay::Seconds(10), None, at(1)), Next::Waits(at(11)));
        assert_eq!(next(Stay::Seconds(10), Some(at(11)), at(4)), Next::Waits(at(11)));
        assert_eq!(next(Stay::Seconds(2), Some(at(11)), at(4)), Next::Waits(at(6)));
        assert_eq!(next(Stay::Seconds(10), Some(at(11)), at(11)), Next::Goes);
        assert_eq!(
            next(Stay::Seconds(u64::MAX), None, at(1)),
            Next::Waits(Timestamp::MAX)
        );
    }
}
