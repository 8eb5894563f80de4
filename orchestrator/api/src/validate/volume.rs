//! Validation of a pod's volumes.

use std::collections::HashSet;

use serde_json::Value;

use super::container::field_ref;
use super::field::{Errors, Path, each, text};
use super::names;

/// Checks all volumes; returns the names that mounts may use.
pub(super) fn validate<'a>(at: &Path, spec: &'a Value, errors: &mut Errors) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (index, volume) in each(spec, "volumes") {
        let at = at.child("volumes").index(index);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for wrong in names::dns_label(name) {
                errors.invalid_text(&at.child("name"), name, &wrong);
            }
            if !seen.insert(name) {
                errors.duplicate(&at.child("name"), name);
            }
        }
        source(&at, volume, errors);
    }
    seen
}

fn source(at: &Path, volume: &Value, errors: &mut Errors) {
    let sources: Vec<&String> = volume
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, _)| k)
        .filter(|k| *k != "name")
        .collect();
    let [kind] = sources.as_slice() else {
        match sources.get(1) {
            None => errors.required(at, "must specify a volume type"),
            Some(second) => errors.forbidden(&at.child(second), "may not specify more than 1 volume type"),
        }
        return;
    };
    let value = &volume[kind.as_str()];
    let at = at.child(kind);
    match kind.as_str() {
        "hostPath" => host_path(&at, value, errors),
        "configMap" => {
            if text(value, "name").is_empty() {
                errors.required(&at.child("name"), "");
            }
            files(&at, value, errors);
        }
        "secret" => {
            if text(value, "secretName").is_empty() {
                errors.required(&at.child("secretName"), "");
            }
            files(&at, value, errors);
        }
        "emptyDir" => {
            let medium = text(value, "medium");
            if !medium.is_empty() && medium != "Memory" && !medium.starts_with("HugePages") {
                errors.unsupported(&at.child("medium"), medium, &["", "Memory"]);
            }
        }
        "persistentVolumeClaim" => {
            let name = text(value, "claimName");
            if name.is_empty() {
                errors.required(&at.child("claimName"), "");
            } else {
                for wrong in names::dns_subdomain(name) {
                    errors.invalid_text(&at.child("claimName"), name, &wrong);
                }
            }
        }
        "ephemeral" => {
            let at = at.child("volumeClaimTemplate");
            match value.get("volumeClaimTemplate").filter(|t| !t.is_null()) {
                None => errors.required(&at, ""),
                Some(template) => {
                    let labels = template.pointer("/metadata/labels");
                    super::metadata::labels(&at.child("metadata").child("labels"), labels, errors);
                    let spec = template.get("spec").unwrap_or(&Value::Null);
                    super::storage::claim_spec(&at.child("spec"), spec, errors);
                }
            }
        }
        "downwardAPI" => {
            for (index, item) in each(value, "items") {
                let at = at.child("items").index(index);
                relative(&at.child("path"), text(item, "path"), errors);
                if let Some(field) = item.get("fieldRef") {
                    let allowed = [
                        "metadata.annotations",
                        "metadata.labels",
                        "metadata.name",
                        "metadata.namespace",
                        "metadata.uid",
                    ];
                    field_ref(&at.child("fieldRef"), field, &allowed, errors);
                }
            }
        }
        _ => {}
    }
}

pub(super) fn host_path(at: &Path, value: &Value, errors: &mut Errors) {
    let path = text(value, "path");
    if path.is_empty() {
        errors.required(&at.child("path"), "");
    } else if path.split('/').any(|part| part == "..") {
        errors.invalid_text(&at.child("path"), path, "must not contain '..'");
    }
    let known = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let kind = text(value, "type");
    if !known.contains(&kind) {
        errors.unsupported(&at.child("type"), kind, &known);
    }
}

fn files(at: &Path, value: &Value, errors: &mut Errors) {
    mode(&at.child("defaultMode"), value.get("defaultMode"), errors);
    for (index, item) in each(value, "items") {
        let at = at.child("items").index(index);
        if text(item, "key").is_empty() {
            errors.required(&at.child("key"), "");
        }
        relative(&at.child("path"), text(item, "path"), errors);
        mode(&at.child("mode"), item.get("mode"), errors);
    }
}

fn mode(at: &Path, value: Option<&Value>, errors: &mut Errors) {
    if let Some(value) = value
        && !value.as_i64().is_some_and(|n| (0..=0o777).contains(&n))
    {
        errors.invalid(
            at,
            value,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}

fn relative(at: &Path, path: &str, errors: &mut Errors) {
    if path.is_empty() {
        errors.required(at, "");
    } else if path.starts_with('/') {
        errors.invalid_text(at, path, "must be a relative path");
    } else if path.split('/').any(|part| part == "..") {
        errors.invalid_text(at, path, "must not contain '..'");
    } else if path.starts_with("..") {
        errors.invalid_text(at, path, "must not start with '..'");
    }
}
