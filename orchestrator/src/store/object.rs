//! Stored objects and their keys.

use std::fmt;
use std::sync::Arc;

use berth_api::kinds::{self, Kind};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::StoreError;

/// Where an object lives.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Kind of the object.
    pub kind: &'static Kind,
    /// Namespace; empty for cluster-wide kinds.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key from its parts; `namespace` is ignored for cluster-wide kinds.
    pub fn new(kind: &'static Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        let namespace = if kind.namespaced {
            namespace.into()
        } else {
            String::new()
        };
        Self {
            kind,
            namespace,
            name: name.into(),
        }
    }

    /// The key of an object's JSON; an error names what is missing.
    pub fn of(value: &Value) -> Result<Self, StoreError> {
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("/apiVersion"), text("/kind"));
        let kind = kinds::by_api_version(api_version, kind).ok_or_else(|| {
            StoreError::Malformed(format!("apiVersion {api_version:?} kind {kind:?} is not served"))
        })?;
        let name = text("/metadata/name");
        if name.is_empty() {
            return Err(StoreError::Malformed(format!(
                "{} without metadata.name",
                kind.kind
            )));
        }
        let namespace = text("/metadata/namespace");
        if kind.namespaced && namespace.is_empty() {
            return Err(StoreError::Malformed(format!(
                "{} {name} without metadata.namespace",
                kind.kind
            )));
        }
        Ok(Self::new(kind, namespace, name))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{}/{}", self.kind.resource(), self.name)
        } else {
            write!(f, "{}/{}/{}", self.kind.resource(), self.namespace, self.name)
        }
    }
}

/// One version of a stored object: immutable, cheap to clone, parsed on demand.
///
/// The JSON is kept as text: a parsed tree takes five to ten times its memory.
#[derive(Clone)]
pub struct Object(Arc<Inner>);

struct Inner {
    key: Key,
    uid: String,
    resource_version: u64,
    json: Box<str>,
}

impl Object {
    pub(super) fn new(key: Key, uid: String, resource_version: u64, json: String) -> Self {
        Self(Arc::new(Inner {
            key,
            uid,
            resource_version,
            json: json.into_boxed_str(),
        }))
    }

    /// Where the object lives.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.key.name
    }

    /// Its namespace; empty for cluster-wide kinds.
    pub fn namespace(&self) -> &str {
        &self.0.key.namespace
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        &self.0.uid
    }

    /// `metadata.resourceVersion` as a number.
    pub fn resource_version(&self) -> u64 {
        self.0.resource_version
    }

    /// Compact JSON of the whole object.
    pub fn json(&self) -> &str {
        &self.0.json
    }

    /// The object as a JSON tree.
    pub fn value(&self) -> Value {
        // The text was made by serde_json from a Value, or checked when the database was opened.
        serde_json::from_str(&self.0.json).unwrap_or_default()
    }

    /// The object as a typed value, such as `k8s_openapi::api::core::v1::Pod`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.0.json)
    }
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Object({}@{})", self.0.key, self.0.resource_version)
    }
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.0.resource_version == other.0.resource_version && self.0.key == other.0.key
    }
}

impl Eq for Object {}

/// What must be true of an object for it to be deleted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// Its UID.
    pub uid: Option<String>,
    /// Its resource version.
    pub resource_version: Option<u64>,
}

impl Preconditions {
    /// The object must be this very one, not a later one of the same name.
    pub fn uid(uid: impl Into<String>) -> Self {
        Self {
            uid: Some(uid.into()),
            resource_version: None,
        }
    }

    pub(super) fn check(&self, object: &Object) -> Result<(), StoreError> {
        let conflict = |why: String| StoreError::Conflict {
            kind: object.key().kind,
            name: object.name().to_owned(),
            why,
        };
        if let Some(uid) = &self.uid
            && uid != object.uid()
        {
            return Err(conflict(format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                object.uid()
            )));
        }
        if let Some(version) = self.resource_version
            && version != object.resource_version()
        {
            return Err(conflict(format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {}",
                object.resource_version()
            )));
        }
        Ok(())
    }
}

/// What [`super::Store::delete`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// The object is gone; this was its last version.
    Removed(Object),
    /// Finalizers hold it: it is marked with `deletionTimestamp` and goes with the last of them.
    Marked(Object),
}
