//! What may not change in an update.

use serde_json::{Value, json};

use super::field::{Errors, Path};
use crate::kinds::Kind;

const IMMUTABLE: &str = "field is immutable";

/// Checks immutable fields. Returns whether the content is worth checking any further.
pub(super) fn immutable(kind: &Kind, object: &Value, old: &Value, errors: &mut Errors) -> bool {
    match kind.kind {
        "Pod" => pod(object, old, errors),
        "Deployment" | "ReplicaSet" | "DaemonSet" => {
            let (new, was) = (object.pointer("/spec/selector"), old.pointer("/spec/selector"));
            if new != was {
                errors.invalid(
                    &Path::root("spec").child("selector"),
                    new.unwrap_or(&Value::Null),
                    IMMUTABLE,
                );
            }
            true
        }
        "StatefulSet" => super::stateful_set::changed(object, old, errors),
        "ControllerRevision" => {
            if object.get("data") != old.get("data") {
                let data = object.get("data").unwrap_or(&Value::Null);
                errors.invalid(&Path::root("data"), data, IMMUTABLE);
            }
            true
        }
        "Job" => {
            super::job::changed(object, old, errors);
            true
        }
        "Service" => {
            service(object, old, errors);
            true
        }
        "PersistentVolumeClaim" => {
            super::storage::claim_changed(object, old, errors);
            true
        }
        "PersistentVolume" => {
            super::storage::volume_changed(object, old, errors);
            true
        }
        "StorageClass" => {
            super::storage::class_changed(object, old, errors);
            true
        }
        "RuntimeClass" => {
            super::classes::changed(&["handler"], object, old, errors);
            true
        }
        "PriorityClass" => {
            super::classes::changed(&["value", "preemptionPolicy"], object, old, errors);
            true
        }
        "EndpointSlice" => {
            if object.get("addressType") != old.get("addressType") {
                errors.invalid(
                    &Path::root("addressType"),
                    object.get("addressType").unwrap_or(&Value::Null),
                    IMMUTABLE,
                );
            }
            true
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            if object.get("roleRef") != old.get("roleRef") {
                let role = object.get("roleRef").unwrap_or(&Value::Null);
                errors.invalid(&Path::root("roleRef"), role, "cannot change roleRef");
            }
            true
        }
        "ConfigMap" => {
            sealed(&["data", "binaryData"], object, old, errors);
            true
        }
        "Secret" => {
            if object.get("type") != old.get("type") {
                errors.invalid(
                    &Path::root("type"),
                    object.get("type").unwrap_or(&Value::Null),
                    IMMUTABLE,
                );
            }
            sealed(&["data"], object, old, errors);
            true
        }
        _ => true,
    }
}

/// An address stays with its Service, as long as that has one.
fn service(object: &Value, old: &Value, errors: &mut Errors) {
    let kept = |o: &Value| o.pointer("/spec/type").is_some_and(|t| t != "ExternalName");
    let address = |o: &Value| o.pointer("/spec/clusterIPs/0").cloned().unwrap_or_default();
    let (new, was) = (address(object), address(old));
    if kept(object) && kept(old) && !was.is_null() && new != was {
        let at = Path::root("spec").child("clusterIPs").index(0);
        errors.invalid(&at, &new, "may not change once set");
    }
}

/// `immutable: true` on a ConfigMap or Secret.
fn sealed(fields: &[&str], object: &Value, old: &Value, errors: &mut Errors) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    let why = "field is immutable when `immutable` is set";
    if object.get("immutable") != Some(&Value::Bool(true)) {
        errors.forbidden(&Path::root("immutable"), why);
    }
    for field in fields {
        if object.get(*field) != old.get(*field) {
            errors.forbidden(&Path::root(field), why);
        }
    }
}

/// A pod's specification is fixed but for images, the deadline, tolerations and gates that are taken away.
fn pod(object: &Value, old: &Value, errors: &mut Errors) -> bool {
    let spec = Path::root("spec");
    let count = |o: &Value, list: &str| o.pointer(list).and_then(Value::as_array).map_or(0, Vec::len);
    for list in ["containers", "initContainers"] {
        let pointer = format!("/spec/{list}");
        if count(object, &pointer) != count(old, &pointer) {
            errors.forbidden(&spec.child(list), "pod updates may not add or remove containers");
            return false;
        }
    }
    let deadline = |o: &Value| o.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64);
    match (deadline(old), deadline(object)) {
        (Some(was), Some(new)) if new > was => errors.invalid(
            &spec.child("activeDeadlineSeconds"),
            &json!(new),
            "must be less than or equal to previous value",
        ),
        (Some(_), None) => errors.invalid(
            &spec.child("activeDeadlineSeconds"),
            &Value::Null,
            "must not update from a positive integer to nil value",
        ),
        _ => {}
    }
    if !kept_tolerations(object, old) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(&spec.child("tolerations"), why);
    }
    let gates = |o: &Value| -> Vec<Value> {
        let list = o.pointer("/spec/schedulingGates").and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let before = gates(old);
    for (index, gate) in gates(object).iter().enumerate() {
        if !before.contains(gate) {
            let name = gate["name"].as_str().unwrap_or_default();
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&spec.child("schedulingGates").index(index), &why);
        }
    }
    if masked(object) != masked(old) {
        errors.forbidden(
            &spec,
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
        return false;
    }
    true
}

/// Whether every toleration of `old` is there still, but for how long it lasts.
fn kept_tolerations(object: &Value, old: &Value) -> bool {
    let list = |o: &Value| -> Vec<Value> {
        let list = o.pointer("/spec/tolerations").and_then(Value::as_array);
        let mut list = list.cloned().unwrap_or_default();
        for one in list.iter_mut().filter_map(Value::as_object_mut) {
            one.remove("tolerationSeconds");
        }
        list
    };
    let now = list(object);
    list(old).iter().all(|one| now.contains(one))
}

/// The specification without what may change.
fn masked(object: &Value) -> Value {
    let mut spec = object.get("spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(container) = container.as_object_mut() {
                container.remove("image");
            }
        }
    }
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("activeDeadlineSeconds");
        spec.remove("tolerations");
        spec.remove("schedulingGates");
    }
    spec
}
