//! Namespaces that are being deleted: everything in them goes first (upstream
//! `pkg/controller/namespace/deletion`).

use std::time::Duration;

use berth_api::kinds::{self, Kind};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{condition, is_deleting, put_condition, remove_condition};
use super::{Again, Controller};
use crate::store::prepare::rfc3339;
use crate::store::{Deletion, Event, EventKind, Key, Object, Preconditions, Store, StoreError};

const CONTENT: &str = "NamespaceContentRemaining";
const FINALIZERS: &str = "NamespaceFinalizersRemaining";
/// Every deleted object sends an event; this is for what comes into being in between.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// Empties namespaces.
pub(crate) struct NamespaceController;

impl Controller for NamespaceController {
    const NAME: &'static str = "namespace-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        kinds::ALL
    }

    fn concerned(&mut self, _: &Store, event: &Event) -> Vec<Key> {
        let key = event.object.key();
        if key.kind == kinds::NAMESPACE {
            return vec![key.clone()];
        }
        let gone = event.kind == EventKind::Deleted && key.kind.namespaced;
        if gone {
            vec![Key::new(kinds::NAMESPACE, "", key.namespace.as_str())]
        } else {
            Vec::new()
        }
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        store
            .list(kinds::NAMESPACE, None)
            .items
            .iter()
            .map(|object| object.key().clone())
            .collect()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            return Ok(None);
        };
        let value = object.value();
        if !is_deleting(&value) {
            return Ok(None);
        }
        for item in contents(store, &key.name) {
            if !is_deleting(&item.value()) {
                delete(store, &item).await?;
            }
        }
        let left = contents(store, &key.name);
        // Events are written about everything that goes: they go last.
        if left.is_empty() {
            for event in store.list(kinds::EVENT, Some(&key.name)).items {
                delete(store, &event).await?;
            }
            store.delete(key, Preconditions::uid(object.uid())).await?;
            return Ok(None);
        }
        let status = remaining(&value["status"], &left, Timestamp::now());
        if value.get("status") != Some(&status) {
            store.update_status(key, object.uid(), status).await?;
        }
        Ok(Some(LOOK_AGAIN))
    }
}

/// Everything in a namespace but its events.
fn contents(store: &Store, namespace: &str) -> Vec<Object> {
    let kinds = kinds::ALL
        .iter()
        .filter(|kind| kind.namespaced && **kind != kinds::EVENT);
    kinds
        .flat_map(|kind| store.list(kind, Some(namespace)).items)
        .collect()
}

async fn delete(store: &Store, object: &Object) -> Result<(), StoreError> {
    let deletion = Deletion {
        preconditions: Preconditions::uid(object.uid()),
        ..Deletion::default()
    };
    match store.begin_delete(object.key(), deletion).await {
        Err(StoreError::NotFound { .. }) => Ok(()),
        deleted => deleted.map(|_| ()),
    }
}

/// PURE: tells what the namespace still waits for.
fn remaining(status: &Value, left: &[Object], now: Timestamp) -> Value {
    let mut status = status.clone();
    if !status.is_object() {
        status = json!({ "phase": "Terminating" });
    }
    let mut counts: Vec<(String, usize)> = Vec::new();
    let mut finalizers: Vec<(String, usize)> = Vec::new();
    for object in left {
        count(&mut counts, object.key().kind.resource());
        let value = object.value();
        for finalizer in value
            .pointer("/metadata/finalizers")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            count(&mut finalizers, finalizer.as_str().unwrap_or_default().to_owned());
        }
    }
    let list = |counts: &[(String, usize)], unit: &str| {
        counts
            .iter()
            .map(|(name, count)| format!("{name} has {count} {unit}"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let content = format!(
        "Some resources are remaining: {}",
        list(&counts, "resource instances")
    );
    note(&mut status, CONTENT, "SomeResourcesRemain", &content, now);
    if finalizers.is_empty() {
        remove_condition(&mut status, FINALIZERS);
    } else {
        let text = list(&finalizers, "resource instances");
        let message = format!("Some content in the namespace has finalizers remaining: {text}");
        note(&mut status, FINALIZERS, "SomeFinalizersRemain", &message, now);
    }
    status
}

fn count(counts: &mut Vec<(String, usize)>, name: String) {
    match counts.iter_mut().find(|(known, _)| *known == name) {
        Some((_, count)) => *count += 1,
        None => counts.push((name, 1)),
    }
}

fn note(status: &mut Value, kind: &str, reason: &str, message: &str, now: Timestamp) {
    let since = condition(status, kind).map_or_else(
        || json!(rfc3339(now)),
        |known| known["lastTransitionTime"].clone(),
    );
    if condition(status, kind).is_some_and(|known| known["message"] == message) {
        return;
    }
    put_condition(
        status,
        json!({
            "type": kind, "status": "True", "reason": reason, "message": message,
            "lastTransitionTime": since,
        }),
    );
}
