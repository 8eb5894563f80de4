//! Validation of ConfigMap, Secret and Event.

use serde_json::Value;

use super::field::{Errors, Path, text};
use super::names;
use crate::base64;

/// Bytes of all values together, as upstream.
const SIZE_LIMIT: usize = 1 << 20;

pub(super) fn config_map(object: &Value, errors: &mut Errors) {
    let data = object.get("data").and_then(Value::as_object);
    let binary = object.get("binaryData").and_then(Value::as_object);
    let mut size = 0;
    for (key, value) in data.into_iter().flatten() {
        keys(&Path::root("data"), key, errors);
        if binary.is_some_and(|b| b.contains_key(key)) {
            errors.invalid_text(
                &Path::root("data").key(key),
                key,
                "duplicate of key present in binaryData",
            );
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary.into_iter().flatten() {
        keys(&Path::root("binaryData"), key, errors);
        size += value.as_str().map_or(0, base64::decoded_len);
    }
    if size > SIZE_LIMIT {
        errors.too_long(&Path::root(""), SIZE_LIMIT);
    }
}

pub(super) fn secret(object: &Value, errors: &mut Errors) {
    let data = object.get("data").and_then(Value::as_object);
    let mut size = 0;
    for (key, value) in data.into_iter().flatten() {
        keys(&Path::root("data"), key, errors);
        size += value.as_str().map_or(0, base64::decoded_len);
    }
    if size > SIZE_LIMIT {
        errors.too_long(&Path::root("data"), SIZE_LIMIT);
    }
    let needed: &[&str] = match text(object, "type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/service-account-token" => {
            let account = object
                .pointer("/metadata/annotations/kubernetes.io~1service-account.name")
                .and_then(Value::as_str);
            if account.is_none_or(str::is_empty) {
                let at = Path::root("metadata")
                    .child("annotations")
                    .key("kubernetes.io/service-account.name");
                errors.required(&at, "");
            }
            &[]
        }
        "kubernetes.io/basic-auth" => {
            if !["username", "password"]
                .iter()
                .any(|k| data.is_some_and(|d| d.contains_key(*k)))
            {
                errors.required(&Path::root("data[username]"), "");
                errors.required(&Path::root("data[password]"), "");
            }
            &[]
        }
        _ => &[],
    };
    for key in needed {
        if !data.is_some_and(|d| d.contains_key(*key)) {
            errors.required(&Path::root("data").key(key), "");
        }
    }
}

fn keys(at: &Path, key: &str, errors: &mut Errors) {
    for wrong in names::config_key(key) {
        errors.invalid_text(&at.key(key), key, &wrong);
    }
}
