//! PURE: how many pods to make, which to delete, and what a new one looks like.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::rank;
use crate::controllers::fields::{is_deleting, name};
use crate::controllers::ownership::controller_reference;
use crate::controllers::pod_state::is_active;

/// What brings a ReplicaSet to its size.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// How many pods to make.
    pub create: usize,
    /// Pods to delete, in this order.
    pub delete: Vec<Value>,
}

/// Compares the wanted size with the pods that count. `pods` are those the set controls.
pub fn plan(set: &Value, pods: &[Value], now: Timestamp) -> Plan {
    if is_deleting(set) {
        return Plan::default();
    }
    let mut active: Vec<&Value> = pods.iter().filter(|pod| is_active(pod)).collect();
    let wanted = set.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if active.len() <= wanted {
        return Plan {
            create: wanted - active.len(),
            delete: Vec::new(),
        };
    }
    let surplus = active.len() - wanted;
    active.sort_by(|a, b| rank::compare(a, b, now));
    Plan {
        create: 0,
        delete: active.into_iter().take(surplus).cloned().collect(),
    }
}

/// A pod of the set, bound to the node. The template was given its defaults when the set was
/// stored.
pub fn pod_from_template(set: &Value, suffix: &str, node: &str) -> Value {
    let template = &set["spec"]["template"];
    let mut metadata = Map::new();
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{field}")) {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    let prefix = format!("{}-", name(set));
    // A pod's name is a host name of at most 63 letters; what does not fit is cut, as upstream.
    let kept: String = prefix.chars().take(63 - suffix.len()).collect();
    metadata.insert("name".to_owned(), json!(format!("{kept}{suffix}")));
    metadata.insert("generateName".to_owned(), json!(prefix));
    metadata.insert("namespace".to_owned(), set["metadata"]["namespace"].clone());
    metadata.insert("ownerReferences".to_owned(), json!([controller_reference(set)]));
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template["spec"],
    });
    berth_api::defaults::pod(&mut pod, node);
    pod
}

#[cfg(test)]
mod tests;
