//! Defaults of claims, volumes and classes.

use serde_json::{Value, json};

use super::default;

pub(super) fn claim(object: &mut Value) {
    default(object, "status", json!({}));
    default(&mut object["status"], "phase", "Pending");
    if let Some(spec) = object.get_mut("spec") {
        claim_spec(spec);
    }
}

/// A claim's specification, of its own or in a template.
pub(super) fn claim_spec(spec: &mut Value) {
    default(spec, "volumeMode", "Filesystem");
}

pub(super) fn volume(object: &mut Value) {
    default(object, "status", json!({}));
    default(&mut object["status"], "phase", "Pending");
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    default(spec, "persistentVolumeReclaimPolicy", "Retain");
    default(spec, "volumeMode", "Filesystem");
    if let Some(host_path) = spec.get_mut("hostPath") {
        default(host_path, "type", "");
    }
    if let Some(claim) = spec.get_mut("claimRef").filter(|c| c.is_object()) {
        default(claim, "kind", "PersistentVolumeClaim");
        default(claim, "apiVersion", "v1");
    }
}

pub(super) fn class(object: &mut Value) {
    default(object, "reclaimPolicy", "Delete");
    default(object, "volumeBindingMode", "Immediate");
}
