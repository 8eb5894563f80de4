//! What must be true of an object beside its own content, and what is set on it before it is
//! validated: name, namespace, defaults, the one node.

use berth_api::kinds::{self, Kind};
use berth_api::status::{ApiError, Cause};
use berth_api::{defaults, validate};
use serde_json::{Map, Value, json};

use super::Api;
use super::request::Target;
use crate::store::Key;

/// Letters of generated names: no vowels, nothing that looks like another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Bytes of `generateName` that are kept.
const GENERATED_BASE: usize = 58;

impl Api {
    /// What validation must know about the node.
    pub(super) fn node(&self) -> validate::Node {
        crate::admission::node(&self.store, &self.node_name)
    }

    /// Makes a decoded new object ready for the store.
    pub(super) fn admit_new(&self, target: &Target, value: &mut Value) -> Result<(), ApiError> {
        let kind = target.kind;
        identify(target, value)?;
        let meta = metadata(value)?;
        for field in [
            "resourceVersion",
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "selfLink",
        ] {
            let set = meta.remove(field);
            if field == "resourceVersion" && set.is_some_and(|v| v != "" && v != "0") {
                return Err(ApiError::bad_request(
                    "resourceVersion should not be set on objects to be created",
                ));
            }
        }
        if meta.get("name").and_then(Value::as_str).is_none_or(str::is_empty)
            && let Some(base) = meta
                .get("generateName")
                .and_then(Value::as_str)
                .filter(|b| !b.is_empty())
        {
            let name = generated(base);
            meta.insert("name".into(), json!(name));
        }
        if kind.has("status")
            && let Some(object) = value.as_object_mut()
        {
            object.remove("status");
        }
        self.check_namespace(target)?;
        defaults::apply(kind, value);
        if kind == kinds::POD {
            self.check_account(value)?;
            crate::admission::pod(&self.store, value, &self.node_name).map_err(super::store_error)?;
        }
        if kind == kinds::PERSISTENT_VOLUME_CLAIM {
            crate::admission::claim(&self.store, value).map_err(super::store_error)?;
        }
        self.guard(target, value, None)?;
        self.one_default(target, value)?;
        let mut causes = Vec::new();
        if kind == kinds::SERVICE {
            causes = self.services.complete(&self.store, value, None);
        }
        causes.extend(validate::create(kind, value, &self.node()));
        invalid(kind, value, causes)
    }

    /// Makes a decoded changed object ready for the store.
    pub(super) fn admit_changed(
        &self,
        target: &Target,
        value: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        let kind = target.kind;
        identify(target, value)?;
        keep(value, old, kind)?;
        defaults::apply(kind, value);
        if kind == kinds::NAMESPACE {
            value["status"] = old.get("status").cloned().unwrap_or_default();
        }
        self.guard(target, value, Some(old))?;
        self.one_default(target, value)?;
        let mut causes = Vec::new();
        if kind == kinds::SERVICE {
            causes = self.services.complete(&self.store, value, Some(old));
        }
        causes.extend(validate::update(kind, value, old, &self.node()));
        invalid(kind, value, causes)?;
        if kind == kinds::PERSISTENT_VOLUME_CLAIM {
            crate::admission::resize(&self.store, value, old).map_err(super::store_error)?;
        }
        Ok(())
    }

    /// The namespace must be there and not on its way out.
    fn check_namespace(&self, target: &Target) -> Result<(), ApiError> {
        let Some(name) = &target.namespace else {
            return Ok(());
        };
        let key = Key::new(kinds::NAMESPACE, "", name.as_str());
        let namespace = self.store.get(&key).map_err(super::store_error)?;
        let namespace = namespace.ok_or_else(|| ApiError::not_found(kinds::NAMESPACE, name))?;
        let terminating = namespace.value().pointer("/metadata/deletionTimestamp").is_some();
        // Events may still tell how its pods ended.
        if terminating && target.kind != kinds::EVENT {
            let why =
                format!("unable to create new content in namespace {name} because it is being terminated");
            return Err(
                ApiError::forbidden(target.kind, "", &why).with_causes(vec![Cause {
                    reason: "NamespaceTerminating".into(),
                    message: format!("namespace {name} is being terminated"),
                    field: "metadata.namespace".into(),
                }]),
            );
        }
        Ok(())
    }

    /// There is at most one default PriorityClass.
    fn one_default(&self, target: &Target, value: &Value) -> Result<(), ApiError> {
        if target.kind != kinds::PRIORITY_CLASS || value["globalDefault"] != json!(true) {
            return Ok(());
        }
        let name = value["metadata"]["name"].as_str().unwrap_or_default();
        let classes = self.store.list(kinds::PRIORITY_CLASS, None).items;
        let other = classes
            .iter()
            .find(|c| c.name() != name && c.value()["globalDefault"] == json!(true));
        let Some(other) = other else { return Ok(()) };
        let why = format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            other.name()
        );
        Err(ApiError::forbidden(target.kind, name, &why))
    }

    /// A pod's account must exist; `default` always does.
    fn check_account(&self, pod: &Value) -> Result<(), ApiError> {
        let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let account = match text("/spec/serviceAccountName") {
            "" => "default",
            named => named,
        };
        let key = Key::new(kinds::SERVICE_ACCOUNT, text("/metadata/namespace"), account);
        if account == "default" || self.store.get(&key).map_err(super::store_error)?.is_some() {
            return Ok(());
        }
        let why = format!(
            "error looking up service account {}/{account}: serviceaccount {account:?} not found",
            key.namespace
        );
        Err(ApiError::forbidden(kinds::POD, text("/metadata/name"), &why))
    }
}

/// An error if there are causes.
pub(super) fn invalid(kind: &Kind, value: &Value, causes: Vec<Cause>) -> Result<(), ApiError> {
    if causes.is_empty() {
        return Ok(());
    }
    let meta = |field: &str| {
        value
            .pointer(&format!("/metadata/{field}"))
            .and_then(Value::as_str)
    };
    let name = meta("name")
        .filter(|n| !n.is_empty())
        .or(meta("generateName"))
        .unwrap_or_default();
    Err(ApiError::invalid(kind, name, causes))
}

/// `metadata` of an object, made if it is absent.
pub(super) fn metadata(value: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    value
        .as_object_mut()
        .map(|o| o.entry("metadata").or_insert_with(|| json!({})))
        .and_then(Value::as_object_mut)
        .ok_or_else(|| ApiError::bad_request("the object's metadata is not an object"))
}

/// Checks type, name and namespace of an object against the path it was sent to, and fills them in.
fn identify(target: &Target, value: &mut Value) -> Result<(), ApiError> {
    let kind = target.kind;
    let text = |value: &Value, field: &str| {
        value
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let (api_version, sent_kind) = (text(value, "apiVersion"), text(value, "kind"));
    if !api_version.is_empty() && api_version != kind.api_version() {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            kind.api_version()
        )));
    }
    if !sent_kind.is_empty() && sent_kind != kind.kind {
        return Err(ApiError::bad_request(format!(
            "the kind in the data ({sent_kind}) does not match the expected kind ({})",
            kind.kind
        )));
    }
    if let Some(object) = value.as_object_mut() {
        object.insert("apiVersion".into(), json!(kind.api_version()));
        object.insert("kind".into(), json!(kind.kind));
    }
    let meta = metadata(value)?;
    let member = |meta: &Map<String, Value>, field: &str| {
        meta.get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    if let Some(expected) = &target.namespace {
        let namespace = member(meta, "namespace");
        if !namespace.is_empty() && namespace != *expected {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        meta.insert("namespace".into(), json!(expected));
    }
    if let Some(expected) = &target.name {
        let name = member(meta, "name");
        if !name.is_empty() && name != *expected {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({expected})"
            )));
        }
        meta.insert("name".into(), json!(expected));
    }
    Ok(())
}

/// What a client cannot change: it may send it, or leave it out.
fn keep(value: &mut Value, old: &Value, kind: &Kind) -> Result<(), ApiError> {
    let previous = old.get("metadata").cloned().unwrap_or_default();
    let meta = metadata(value)?;
    for field in [
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ] {
        match previous.get(field) {
            Some(kept) => meta.insert(field.into(), kept.clone()),
            None => meta.remove(field),
        };
    }
    if meta.get("uid").is_none_or(|u| u == "") {
        meta.insert("uid".into(), previous["uid"].clone());
    }
    if let Some(object) = value.as_object_mut()
        && kind.has("status")
    {
        match old.get("status") {
            Some(status) => object.insert("status".into(), status.clone()),
            None => object.remove("status"),
        };
    }
    // The node and what admission chose stay where a client leaves them out.
    if kind == kinds::POD {
        for field in [
            "nodeName",
            "serviceAccountName",
            "serviceAccount",
            "priority",
            "preemptionPolicy",
        ] {
            let was = old.pointer(&format!("/spec/{field}"));
            if let (Some(was), Some(spec)) = (was, value.get_mut("spec").and_then(Value::as_object_mut)) {
                spec.entry(field).or_insert_with(|| was.clone());
            }
        }
    }
    Ok(())
}

/// A name from `generateName`: five random letters behind it.
pub(super) fn generated(base: &str) -> String {
    let mut end = base.len().min(GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    for _ in 0..5 {
        name.push(char::from(ALPHABET[rand::random_range(0..ALPHABET.len())]));
    }
    name
}
