//! Columns of claims, volumes and classes.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, column, name, text, wide};
use crate::storage;

pub(super) const CLAIM: &[Column] = &[
    column("Name"),
    column("Status"),
    column("Volume"),
    column("Capacity"),
    column("Access Modes"),
    column("StorageClass"),
    column("VolumeAttributesClass"),
    column("Age"),
    wide("VolumeMode"),
];
pub(super) const VOLUME: &[Column] = &[
    column("Name"),
    column("Capacity"),
    column("Access Modes"),
    column("Reclaim Policy"),
    column("Status"),
    column("Claim"),
    column("StorageClass"),
    column("VolumeAttributesClass"),
    column("Reason"),
    column("Age"),
    wide("VolumeMode"),
];
pub(super) const CLASS: &[Column] = &[
    column("Name"),
    column("Provisioner"),
    column("ReclaimPolicy"),
    column("VolumeBindingMode"),
    column("AllowVolumeExpansion"),
    column("Age"),
];

/// What tables say of a field that nobody has set.
const UNSET: &str = "<unset>";

fn phase(object: &Value) -> &str {
    let deleted = object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|time| !time.is_null());
    if deleted {
        "Terminating"
    } else {
        text(object, "/status/phase")
    }
}

fn mode(object: &Value) -> Value {
    match text(object, "/spec/volumeMode") {
        "" => json!(UNSET),
        mode => json!(mode),
    }
}

pub(super) fn claim(object: &Value, now: Timestamp) -> Vec<Value> {
    let volume = text(object, "/spec/volumeName");
    let (capacity, modes) = if volume.is_empty() {
        ("", String::new())
    } else {
        (
            text(object, "/status/capacity/storage"),
            storage::short_modes(object.pointer("/status/accessModes")),
        )
    };
    vec![
        name(object),
        json!(phase(object)),
        json!(volume),
        json!(capacity),
        json!(modes),
        json!(storage::class(object)),
        json!(UNSET),
        age(object, now),
        mode(object),
    ]
}

pub(super) fn volume(object: &Value, now: Timestamp) -> Vec<Value> {
    let claim = if storage::is_taken(object) {
        format!(
            "{}/{}",
            text(object, "/spec/claimRef/namespace"),
            text(object, "/spec/claimRef/name")
        )
    } else {
        String::new()
    };
    vec![
        name(object),
        json!(text(object, "/spec/capacity/storage")),
        json!(storage::short_modes(object.pointer("/spec/accessModes"))),
        json!(text(object, "/spec/persistentVolumeReclaimPolicy")),
        json!(phase(object)),
        json!(claim),
        json!(storage::class(object)),
        json!(UNSET),
        json!(text(object, "/status/reason")),
        age(object, now),
        mode(object),
    ]
}

pub(super) fn class(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut shown = text(object, "/metadata/name").to_owned();
    if storage::is_default(object) {
        shown.push_str(" (default)");
    }
    let expands = object.get("allowVolumeExpansion") == Some(&json!(true));
    vec![
        json!(shown),
        json!(text(object, "/provisioner")),
        json!(text(object, "/reclaimPolicy")),
        json!(text(object, "/volumeBindingMode")),
        json!(expands),
        age(object, now),
    ]
}
