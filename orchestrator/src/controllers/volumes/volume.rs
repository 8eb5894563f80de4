//! PURE: what is to be done about a volume.

use berth_api::storage;
use serde_json::Value;

use super::super::fields::{annotation, name, text, uid};
use super::PROVISIONED_BY;
use super::claim::BY_CONTROLLER;

/// What to do about a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Keep,
    /// Say that it is in this phase.
    Phase(&'static str),
    /// Its claim has another volume: it is free again.
    Unbind,
    /// Its claim is gone and nobody wants to keep its data.
    Reclaim,
}

/// Decides about a volume; `claim` is the one of the name that it refers to, if there is one.
pub fn plan(volume: &Value, claim: Option<&Value>) -> Decision {
    let reference = text(volume, "/spec/claimRef/uid");
    if !storage::is_taken(volume) || reference.is_empty() {
        // Taken by name only: it waits for that claim, and nobody else gets it.
        return Decision::Phase("Available");
    }
    let Some(claim) = claim.filter(|claim| uid(claim) == reference) else {
        return released(volume);
    };
    let bound = text(claim, "/spec/volumeName");
    if bound.is_empty() {
        // The bond is half made: the claim's turn.
        Decision::Keep
    } else if bound == name(volume) {
        Decision::Phase("Bound")
    } else if annotation(volume, PROVISIONED_BY).is_some() && deletes(volume) {
        Decision::Reclaim
    } else {
        Decision::Unbind
    }
}

fn deletes(volume: &Value) -> bool {
    text(volume, "/spec/persistentVolumeReclaimPolicy") == "Delete"
}

fn released(volume: &Value) -> Decision {
    if deletes(volume) {
        Decision::Reclaim
    } else {
        Decision::Phase("Released")
    }
}

/// The volume without its claim; one that a user has reserved stays reserved by name.
pub fn unbound(mut volume: Value) -> Value {
    let found = annotation(&volume, BY_CONTROLLER).is_some();
    if let Some(annotations) = volume
        .pointer_mut("/metadata/annotations")
        .and_then(Value::as_object_mut)
    {
        annotations.remove(BY_CONTROLLER);
    }
    if let Some(spec) = volume["spec"].as_object_mut() {
        if found {
            spec.remove("claimRef");
        } else if let Some(reference) = spec.get_mut("claimRef").and_then(Value::as_object_mut) {
            reference.remove("uid");
            reference.remove("resourceVersion");
        }
    }
    volume
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn volume(policy: &str, reference: &Value) -> Value {
        json!({"metadata": {"name": "v"}, "spec": {"persistentVolumeReclaimPolicy": policy, "claimRef": reference}})
    }

    fn claim(uid: &str, volume: &str) -> Value {
        json!({"metadata": {"name": "c", "namespace": "d", "uid": uid}, "spec": {"volumeName": volume}})
    }

    #[test]
    fn the_phases_of_a_volume() {
        let of = |uid: &str| json!({"name": "c", "namespace": "d", "uid": uid});
        let free = volume("Retain", &Value::Null);
        assert_eq!(plan(&free, None), Decision::Phase("Available"));
        let reserved = volume("Retain", &json!({"name": "c", "namespace": "d"}));
        assert_eq!(
            plan(&reserved, Some(&claim("u", ""))),
            Decision::Phase("Available")
        );
        let kept = volume("Retain", &of("u"));
        assert_eq!(plan(&kept, Some(&claim("u", ""))), Decision::Keep);
        assert_eq!(plan(&kept, Some(&claim("u", "v"))), Decision::Phase("Bound"));
        assert_eq!(plan(&kept, None), Decision::Phase("Released"));
        // One of the same name that came later is not the one.
        assert_eq!(plan(&kept, Some(&claim("u2", "v"))), Decision::Phase("Released"));
        assert_eq!(plan(&kept, Some(&claim("u", "w"))), Decision::Unbind);
        let mut gone = volume("Delete", &of("u"));
        assert_eq!(plan(&gone, None), Decision::Reclaim);
        assert_eq!(plan(&gone, Some(&claim("u", "w"))), Decision::Unbind);
        gone["metadata"]["annotations"] = json!({(PROVISIONED_BY): "x"});
        assert_eq!(plan(&gone, Some(&claim("u", "w"))), Decision::Reclaim);
    }

    #[test]
    fn a_reservation_outlives_the_bond() {
        let reference = json!({"name": "c", "namespace": "d", "uid": "u", "resourceVersion": "1"});
        let reserved = unbound(volume("Retain", &reference));
        assert_eq!(
            reserved["spec"]["claimRef"],
            json!({"name": "c", "namespace": "d"})
        );
        let mut found = volume("Retain", &reference);
        found["metadata"]["annotations"] = json!({(BY_CONTROLLER): "yes"});
        let free = unbound(found);
        assert!(!storage::is_taken(&free) && annotation(&free, BY_CONTROLLER).is_none());
    }
}
