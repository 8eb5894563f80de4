//! PURE: what the store itself sets on an object before it is written.
//!
//! Rules: apimachinery `rest.BeforeCreate`, `rest.BeforeUpdate`.

use berth_api::kinds::{self, Kind};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::error::StoreError;
use super::object::{Key, Object, Preconditions};

/// Holds a claim while a pod uses it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Holds a volume while it is bound.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";

/// RFC 3339 in whole seconds, as `metav1.Time`.
pub fn rfc3339(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A new object: identity, age and generation set.
pub fn created(mut value: Value, kind: &Kind, now: Timestamp) -> Result<Value, StoreError> {
    let uid = uuid::Uuid::new_v4().to_string();
    if kind == kinds::JOB {
        berth_api::defaults::job_identity(&mut value, &uid);
    } else if kind == kinds::PERSISTENT_VOLUME_CLAIM {
        add_finalizer(&mut value, CLAIM_PROTECTION)?;
    } else if kind == kinds::PERSISTENT_VOLUME {
        add_finalizer(&mut value, VOLUME_PROTECTION)?;
    }
    let meta = metadata(&mut value)?;
    meta.insert("uid".into(), json!(uid));
    meta.insert("creationTimestamp".into(), json!(rfc3339(now)));
    meta.remove("deletionTimestamp");
    meta.remove("deletionGracePeriodSeconds");
    if kind.generations {
        meta.insert("generation".into(), json!(1));
    } else {
        meta.remove("generation");
    }
    Ok(value)
}

/// A changed object: identity kept, a deletion that has begun kept, status kept where it is a
/// subresource, generation counted up when the specification changed.
pub fn updated(mut value: Value, old: &Object) -> Result<Value, StoreError> {
    let kind = old.key().kind;
    let previous = old.value();
    if kind.has("status") {
        replace(&mut value, "status", previous.get("status").cloned())?;
    }
    keep_metadata(&mut value, &previous)?;
    if kind.generations {
        let begun = value.pointer("/metadata/deletionTimestamp").is_some()
            && previous.pointer("/metadata/deletionTimestamp").is_none();
        let generation = previous
            .pointer("/metadata/generation")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        let next = if begun || !same_specification(&value, &previous) {
            generation + 1
        } else {
            generation
        };
        metadata(&mut value)?.insert("generation".into(), json!(next));
    }
    Ok(value)
}

/// The object with another status and nothing else changed.
pub fn with_status(old: &Object, status: Value) -> Result<Value, StoreError> {
    let mut value = old.value();
    replace(&mut value, "status", Some(status))?;
    Ok(value)
}

/// A pod that has got a node.
pub fn bound(mut pod: Value, node: &str, now: Timestamp) -> Value {
    pod["spec"]["nodeName"] = json!(node);
    if let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("nominatedNodeName");
    }
    condition(&mut pod, json!({"type": "PodScheduled", "status": "True"}), now);
    pod
}

/// Sets a condition in an object's status; its time is kept where the status stays the same.
pub fn condition(object: &mut Value, mut condition: Value, now: Timestamp) {
    let list = &mut object["status"]["conditions"];
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    let place = list.iter().position(|c| c["type"] == condition["type"]);
    let since = place
        .and_then(|n| list.get(n))
        .filter(|c| c["status"] == condition["status"])
        .and_then(|c| c.get("lastTransitionTime"))
        .filter(|t| !t.is_null())
        .cloned();
    condition["lastTransitionTime"] = since.unwrap_or_else(|| json!(rfc3339(now)));
    match place {
        Some(n) => list[n] = condition,
        None => list.push(condition),
    }
}

/// The object with its deletion begun, for finalizers to see.
pub fn marked(old: &Object, now: Timestamp) -> Result<Value, StoreError> {
    let mut value = old.value();
    let meta = metadata(&mut value)?;
    meta.entry("deletionTimestamp")
        .or_insert_with(|| json!(rfc3339(now)));
    meta.insert("deletionGracePeriodSeconds".into(), json!(0));
    if kind_counts(old)
        && let Some(generation) = meta.get("generation").and_then(Value::as_i64)
    {
        meta.insert("generation".into(), json!(generation + 1));
    }
    Ok(value)
}

/// What a DELETE asks for beside the object's removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deletion {
    /// What must be true of the object.
    pub preconditions: Preconditions,
    /// Seconds a pod gets to stop; `None` for its own `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
    /// What becomes of the objects it owns.
    pub propagation: Propagation,
}

/// What becomes of the objects that a deleted one owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Deleted after it.
    #[default]
    Background,
    /// Deleted before it.
    Foreground,
    /// Kept, without owner.
    Orphan,
}

/// The object with its deletion begun as its kind asks; `None` when it is to be removed at once.
///
/// Pods get a grace period (never longer than one already running), namespaces turn Terminating
/// until they are empty, the other kinds wait for finalizers only.
pub fn deletion_begun(
    old: &Object,
    deletion: &Deletion,
    now: Timestamp,
) -> Result<Option<Value>, StoreError> {
    let mut value = old.value();
    let kind = old.key().kind;
    match deletion.propagation {
        Propagation::Background => {}
        Propagation::Foreground => add_finalizer(&mut value, "foregroundDeletion")?,
        Propagation::Orphan => add_finalizer(&mut value, "orphan")?,
    }
    let grace = if kind == kinds::POD {
        pod_grace(&value, deletion.grace)
    } else {
        0
    };
    let namespace = kind == kinds::NAMESPACE;
    if grace == 0 && !namespace && !is_held(&value) {
        return Ok(None);
    }
    if namespace {
        value["status"]["phase"] = json!("Terminating");
    }
    let begun = value.pointer("/metadata/deletionTimestamp").is_some();
    let shorter = value
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|running| grace < running);
    if !begun || shorter {
        let meta = metadata(&mut value)?;
        let end = now
            .checked_add(jiff::SignedDuration::from_secs(grace))
            .unwrap_or(Timestamp::MAX);
        meta.insert("deletionTimestamp".into(), json!(rfc3339(end)));
        meta.insert("deletionGracePeriodSeconds".into(), json!(grace));
        if kind.generations && !begun {
            let generation = meta.get("generation").and_then(Value::as_i64).unwrap_or(1);
            meta.insert("generation".into(), json!(generation + 1));
        }
    }
    Ok(Some(value))
}

/// Seconds a pod gets: what was asked, else its own, at most what is left to it; none if it has
/// ended already or was never placed. Negative is 1, as upstream.
fn pod_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    if matches!(phase, Some("Succeeded" | "Failed")) || !berth_api::room::is_bound(pod) {
        return 0;
    }
    let own = pod
        .pointer("/spec/terminationGracePeriodSeconds")
        .and_then(Value::as_i64);
    let grace = asked.or(own).unwrap_or(30);
    if grace < 0 { 1 } else { grace }
}

fn add_finalizer(value: &mut Value, name: &str) -> Result<(), StoreError> {
    let meta = metadata(value)?;
    let list = meta.entry("finalizers").or_insert_with(|| json!([]));
    if let Some(list) = list.as_array_mut()
        && !list.iter().any(|f| f == name)
    {
        list.push(json!(name));
    }
    Ok(())
}

/// Whether nothing holds a deleted object any more.
pub fn may_go(value: &Value) -> bool {
    let Some(meta) = value.get("metadata") else {
        return false;
    };
    let finalizers = meta
        .get("finalizers")
        .and_then(Value::as_array)
        .is_some_and(|f| !f.is_empty());
    let grace = meta
        .get("deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    meta.get("deletionTimestamp").is_some_and(|t| !t.is_null()) && !finalizers && grace == 0
}

/// Whether finalizers are present.
pub fn is_held(value: &Value) -> bool {
    value
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|f| !f.is_empty())
}

/// Writes the resource version into an object and freezes it.
pub fn sealed(mut value: Value, key: &Key, version: u64) -> Result<Object, StoreError> {
    let meta = metadata(&mut value)?;
    meta.insert("resourceVersion".into(), json!(version.to_string()));
    meta.remove("selfLink");
    let uid = meta
        .get("uid")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let json = serde_json::to_string(&value).map_err(|e| StoreError::Malformed(e.to_string()))?;
    Ok(Object::new(key.clone(), uid, version, json))
}

/// The version a caller says it changed; `None` for any.
pub fn expected_version(value: &Value) -> Result<Option<u64>, StoreError> {
    match value.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
        None | Some("" | "0") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            StoreError::Malformed(format!(
                "metadata.resourceVersion: Invalid value: {text:?}: must be a number"
            ))
        }),
    }
}

fn kind_counts(object: &Object) -> bool {
    object.key().kind.generations
}

fn keep_metadata(value: &mut Value, previous: &Value) -> Result<(), StoreError> {
    let old = previous.get("metadata");
    let meta = metadata(value)?;
    for field in ["uid", "creationTimestamp", "generation"] {
        match old.and_then(|m| m.get(field)) {
            Some(kept) => meta.insert(field.to_owned(), kept.clone()),
            None => meta.remove(field),
        };
    }
    // A deletion cannot be taken back, only hastened.
    if let Some(time) = old.and_then(|m| m.get("deletionTimestamp")) {
        meta.entry("deletionTimestamp").or_insert_with(|| time.clone());
        if let Some(grace) = old.and_then(|m| m.get("deletionGracePeriodSeconds")) {
            meta.entry("deletionGracePeriodSeconds")
                .or_insert_with(|| grace.clone());
        }
    }
    Ok(())
}

fn same_specification(a: &Value, b: &Value) -> bool {
    let rest = |v: &Value| -> Option<Vec<(String, Value)>> {
        Some(
            v.as_object()?
                .iter()
                .filter(|(k, _)| !matches!(k.as_str(), "metadata" | "status"))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        )
    };
    rest(a) == rest(b)
}

fn metadata(value: &mut Value) -> Result<&mut Map<String, Value>, StoreError> {
    value
        .get_mut("metadata")
        .and_then(Value::as_object_mut)
        .ok_or_else(|| StoreError::Malformed("metadata is not an object".into()))
}

fn replace(value: &mut Value, field: &str, with: Option<Value>) -> Result<(), StoreError> {
    let object = value
        .as_object_mut()
        .ok_or_else(|| StoreError::Malformed("the value is not an object".into()))?;
    match with {
        Some(new) => object.insert(field.to_owned(), new),
        None => object.remove(field),
    };
    Ok(())
}
