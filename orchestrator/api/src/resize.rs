//! PURE: pods that get other resources while they run (`pods/resize`).
//!
//! Source: Kubernetes documentation "Resize CPU and Memory Resources assigned to Containers"; `ValidatePodResize`.

use serde_json::{Value, json};

use crate::qos;
use crate::status::Cause;
use crate::validate::field::{Errors, Path, each, text};

const LISTS: [&str; 2] = ["containers", "initContainers"];
/// What can be given and taken while a container runs.
pub const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// The pod with the resources of `sent`, and nothing else of it.
pub fn merge(old: &Value, sent: &Value) -> Value {
    let mut merged = old.clone();
    for list in LISTS {
        for container in merged["spec"]
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            let name = text(container, "name").to_owned();
            let spec = &sent["spec"];
            let Some((_, wanted)) = each(spec, list).find(|(_, c)| text(c, "name") == name) else {
                continue;
            };
            let wanted = wanted.get("resources").cloned().unwrap_or_else(|| json!({}));
            if let Some(container) = container.as_object_mut() {
                container.insert("resources".to_owned(), wanted);
            }
        }
    }
    merged
}

/// Whether a pod may have these resources in place of those of `old`.
pub fn validate(pod: &Value, old: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    let spec = Path::root("spec");
    let empty = json!({});
    if qos::class(pod) != qos::class(old) {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.invalid_text(&spec, qos::class(pod), why);
    }
    for list in LISTS {
        let before = old.get("spec").unwrap_or(&empty);
        for (index, container) in each(&pod["spec"], list) {
            let at = spec.child(list).index(index).child("resources");
            let Some((_, was)) = each(before, list).find(|(_, c)| text(c, "name") == text(container, "name"))
            else {
                continue;
            };
            let (new, was) = (&container["resources"], &was["resources"]);
            if new == was {
                continue;
            }
            if list == "initContainers" && container["restartPolicy"] != "Always" {
                errors.forbidden(&at, "resources for non-sidecar init containers are immutable");
                continue;
            }
            compare(&at, new, was, &mut errors);
        }
    }
    errors.into_causes()
}

fn compare(at: &Path, new: &Value, was: &Value, errors: &mut Errors) {
    for (which, removed) in [
        ("limits", "resource limits cannot be removed"),
        ("requests", "resource requests cannot be removed"),
    ] {
        let of = |value: &Value| {
            value
                .get(which)
                .and_then(Value::as_object)
                .cloned()
                .unwrap_or_default()
        };
        let (new, was) = (of(new), of(was));
        for (name, amount) in &was {
            match new.get(name) {
                None => errors.forbidden(&at.child(which), removed),
                Some(other) if other != amount && !RESIZABLE.contains(&name.as_str()) => {
                    errors.forbidden(
                        &at.child(which).key(name),
                        "only cpu and memory resources are mutable",
                    );
                }
                Some(_) => {}
            }
        }
        for name in new.keys().filter(|name| !was.contains_key(*name)) {
            if !RESIZABLE.contains(&name.as_str()) {
                errors.forbidden(
                    &at.child(which).key(name),
                    "only cpu and memory resources are mutable",
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: &Value, init: &Value) -> Value {
        json!({"spec": {
            "containers": [{"name": "c", "image": "i", "resources": resources}],
            "initContainers": [{"name": "i", "resources": init}],
        }})
    }

    #[test]
    fn only_resources_are_taken_over() {
        let old = pod(&json!({"requests": {"cpu": "1"}}), &json!({}));
        let sent = json!({"spec": {"nodeName": "x", "containers": [
            {"name": "c", "image": "other", "resources": {"requests": {"cpu": "2"}}}, {"name": "new"},
        ]}});
        assert_eq!(
            merge(&old, &sent),
            pod(&json!({"requests": {"cpu": "2"}}), &json!({}))
        );
    }

    #[test]
    fn what_cannot_be_resized_is_named() {
        let amount = |cpu: &str, memory: &str| json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}});
        // Guaranteed: init containers count for the class.
        let same = &amount("1", "1Gi");
        let old = pod(same, same);
        let told =
            |new: Value| -> Vec<String> { validate(&new, &old).into_iter().map(|c| c.message).collect() };
        assert!(told(pod(&amount("2", "512Mi"), same)).is_empty());
        let burst =
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        assert!(told(pod(&burst, same))[0].contains("QOS Class may not change"));
        let removed = json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1"}});
        assert!(
            told(pod(&removed, same))
                .iter()
                .any(|m| m.contains("resource limits cannot be removed"))
        );
        let mut more = amount("1", "1Gi");
        more["limits"]["ephemeral-storage"] = json!("1Gi");
        assert!(told(pod(&more, same))[0].contains("only cpu and memory"));
        assert!(
            told(pod(same, &amount("2", "1Gi")))
                .iter()
                .any(|m| m.contains("non-sidecar"))
        );
    }
}
