//! Validation of `metadata`.

use serde_json::Value;

use super::field::{Errors, Path, each, text};
use super::names;
use crate::kinds::Kind;

/// Bytes of all annotations together.
const ANNOTATIONS_LIMIT: usize = 256 << 10;

/// Checks names, labels, annotations, owners and finalizers.
pub fn validate(kind: &Kind, object: &Value, errors: &mut Errors) {
    let at = Path::root("metadata");
    let Some(meta) = object.get("metadata") else {
        errors.required(&at.child("name"), "name or generateName is required");
        return;
    };
    name(kind, &at, text(meta, "name"), errors);
    if kind.namespaced {
        let namespace = text(meta, "namespace");
        for wrong in names::dns_label(namespace) {
            errors.invalid_text(&at.child("namespace"), namespace, &wrong);
        }
    } else if !text(meta, "namespace").is_empty() {
        errors.forbidden(&at.child("namespace"), "not allowed on this type");
    }
    labels(&at.child("labels"), meta.get("labels"), errors);
    annotations(&at.child("annotations"), meta.get("annotations"), errors);
    owners(&at.child("ownerReferences"), meta, errors);
    for (index, finalizer) in each(meta, "finalizers") {
        let finalizer = finalizer.as_str().unwrap_or_default();
        for wrong in names::qualified_name(finalizer) {
            errors.invalid_text(&at.child("finalizers").index(index), finalizer, &wrong);
        }
    }
}

fn name(kind: &Kind, at: &Path, name: &str, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(&at.child("name"), "name or generateName is required");
        return;
    }
    let wrong = match kind.kind {
        "Namespace" => names::dns_label(name),
        "Service" => names::dns_label_1035(name),
        "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" => super::access::name(name),
        _ => names::dns_subdomain(name),
    };
    for wrong in wrong {
        errors.invalid_text(&at.child("name"), name, &wrong);
    }
}

/// Checks a map of labels.
pub fn labels(at: &Path, labels: Option<&Value>, errors: &mut Errors) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        for wrong in names::qualified_name(key) {
            errors.invalid_text(at, key, &wrong);
        }
        let value = value.as_str().unwrap_or_default();
        for wrong in names::label_value(value) {
            errors.invalid_text(at, value, &wrong);
        }
    }
}

fn annotations(at: &Path, annotations: Option<&Value>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations.and_then(Value::as_object).into_iter().flatten() {
        size += key.len() + value.as_str().map_or(0, str::len);
        for wrong in names::qualified_name(&key.to_lowercase()) {
            errors.invalid_text(at, key, &wrong);
        }
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long(at, ANNOTATIONS_LIMIT);
    }
}

fn owners(at: &Path, meta: &Value, errors: &mut Errors) {
    let mut controllers = 0;
    for (index, owner) in each(meta, "ownerReferences") {
        let at = at.index(index);
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.invalid_text(&at.child(field), "", &format!("{field} must not be empty"));
            }
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            controllers += 1;
        }
    }
    if controllers > 1 {
        let owners = meta.get("ownerReferences").unwrap_or(&Value::Null);
        errors.invalid(at, owners, "Only one reference can have Controller set to true");
    }
}

/// Checks what must not change.
pub fn validate_update(object: &Value, old: &Value, errors: &mut Errors) {
    let at = Path::root("metadata");
    let (Some(new), Some(old)) = (object.get("metadata"), old.get("metadata")) else {
        return;
    };
    for field in ["name", "namespace", "uid"] {
        let changed = new
            .get(field)
            .is_some_and(|v| Some(v) != old.get(field) && v != "");
        if changed {
            errors.invalid_text(&at.child(field), text(new, field), "field is immutable");
        }
    }
    if old.get("deletionTimestamp").is_some() {
        let had: Vec<&Value> = each(old, "finalizers").map(|(_, f)| f).collect();
        let added: Vec<&str> = each(new, "finalizers")
            .filter(|(_, f)| !had.contains(f))
            .filter_map(|(_, f)| f.as_str())
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"
            );
            errors.forbidden(&at.child("finalizers"), &detail);
        }
    }
}
