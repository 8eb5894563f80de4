//! Defaults of Namespace.

use serde_json::{Value, json};

use super::default;

pub(super) fn namespace(object: &mut Value) {
    let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
    if name.is_string() && object["metadata"].is_object() {
        default(&mut object["metadata"], "labels", json!({}));
        default(
            &mut object["metadata"]["labels"],
            "kubernetes.io/metadata.name",
            name,
        );
    }
    default(object, "spec", json!({}));
    default(&mut object["spec"], "finalizers", json!(["kubernetes"]));
    default(object, "status", json!({}));
    default(&mut object["status"], "phase", "Active");
}
