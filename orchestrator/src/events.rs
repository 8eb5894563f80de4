//! Events: what happened to an object, for people.
//!
//! A repeated event is counted up in place instead of stored again, as client-go's correlator does,
//! so a crash loop costs one row.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use berth_api::kinds;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::store::prepare::rfc3339;
use crate::store::{Key, Object, Store, StoreError};

/// Severity of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// Things go as they should.
    Normal,
    /// Somebody may have to look.
    Warning,
}

impl Severity {
    fn name(self) -> &'static str {
        match self {
            Self::Normal => "Normal",
            Self::Warning => "Warning",
        }
    }
}

/// The object that an event is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ObjectRef {
    /// `apiVersion` of the object.
    pub api_version: String,
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Its version, if it matters.
    pub resource_version: String,
    /// Part of it, such as `spec.containers{web}`; empty for all of it.
    pub field_path: String,
}

impl ObjectRef {
    /// A reference to a stored object.
    pub fn to(object: &Object) -> Self {
        let key = object.key();
        Self {
            api_version: key.kind.api_version(),
            kind: key.kind.kind.to_owned(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
            uid: object.uid().to_owned(),
            resource_version: object.resource_version().to_string(),
            field_path: String::new(),
        }
    }

    /// The same object, but one container of it.
    pub fn container(mut self, list: &str, name: &str) -> Self {
        self.field_path = format!("spec.{list}{{{name}}}");
        self
    }
}

/// Records an event in the namespace of its object (`default` for cluster-wide ones).
///
/// `reason` is a CamelCase word, `component` who says it, such as `kubelet`. An event equal to one
/// that is still stored counts that one up.
pub async fn record(
    store: &Store,
    involved: &ObjectRef,
    severity: Severity,
    reason: &str,
    message: &str,
    component: &str,
) -> Result<(), StoreError> {
    let key = key_of(involved, severity, reason, message, component);
    // Two racing recorders: the loser of the create or of the update tries once more.
    for _ in 0..4 {
        let now = rfc3339(Timestamp::now());
        let outcome = match store.get(&key)? {
            Some(old) => store.update(counted(old.value(), &now)).await,
            None => {
                store
                    .create(fresh(&key, involved, severity, reason, message, component, &now))
                    .await
            }
        };
        match outcome {
            Err(
                StoreError::Conflict { .. } | StoreError::AlreadyExists { .. } | StoreError::NotFound { .. },
            ) => {}
            other => return other.map(|_| ()),
        }
    }
    Ok(())
}

/// Records an event that is not stored yet; one that is stays as it is.
pub async fn record_once(
    store: &Store,
    involved: &ObjectRef,
    severity: Severity,
    reason: &str,
    message: &str,
    component: &str,
) -> Result<(), StoreError> {
    let key = key_of(involved, severity, reason, message, component);
    if store.get(&key)?.is_some() {
        return Ok(());
    }
    record(store, involved, severity, reason, message, component).await
}

/// Equal events have the same name.
fn key_of(involved: &ObjectRef, severity: Severity, reason: &str, message: &str, component: &str) -> Key {
    let namespace = if involved.namespace.is_empty() {
        "default"
    } else {
        &involved.namespace
    };
    let mut hasher = DefaultHasher::new();
    (
        &involved.uid,
        &involved.field_path,
        severity,
        reason,
        message,
        component,
    )
        .hash(&mut hasher);
    let name = format!("{}.{:016x}", involved.name, hasher.finish());
    Key::new(kinds::EVENT, namespace, name)
}

fn counted(mut event: Value, now: &str) -> Value {
    let count = event.get("count").and_then(Value::as_i64).unwrap_or(1);
    event["count"] = json!(count + 1);
    event["lastTimestamp"] = json!(now);
    // Newer clients read the series, older ones the count.
    let observed = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    event["series"] = json!({"count": count + 1, "lastObservedTime": observed});
    event
}

fn fresh(
    key: &Key,
    involved: &ObjectRef,
    severity: Severity,
    reason: &str,
    message: &str,
    component: &str,
    now: &str,
) -> Value {
    let mut reference = json!({
        "apiVersion": involved.api_version,
        "kind": involved.kind,
        "name": involved.name,
        "uid": involved.uid,
    });
    for (field, text) in [
        ("namespace", &involved.namespace),
        ("resourceVersion", &involved.resource_version),
        ("fieldPath", &involved.field_path),
    ] {
        if !text.is_empty() {
            reference[field] = json!(text);
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": key.name, "namespace": key.namespace},
        "involvedObject": reference,
        "type": severity.name(),
        "reason": reason,
        "message": message,
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "eventTime": null,
        "count": 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::file_in;

    #[tokio::test]
    async fn repeated_events_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&file_in(dir.path())).unwrap();
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}});
        let node = ObjectRef::to(&store.create(node).await.unwrap());
        for message in ["a", "a", "b"] {
            record(&store, &node, Severity::Warning, "BackOff", message, "kubelet")
                .await
                .unwrap();
        }
        let list = store.list(kinds::EVENT, Some("default")).items;
        let series = |e: &Object| e.value()["series"]["count"].as_i64();
        assert!(list.iter().any(|e| series(e) == Some(2)) && list.iter().any(|e| series(e).is_none()));
        let mut counts: Vec<_> = list
            .iter()
            .map(|e| {
                (
                    e.value()["message"].as_str().unwrap().to_owned(),
                    e.value()["count"].as_i64(),
                )
            })
            .collect();
        counts.sort();
        assert_eq!(counts, [("a".to_owned(), Some(2)), ("b".to_owned(), Some(1))]);
    }
}
