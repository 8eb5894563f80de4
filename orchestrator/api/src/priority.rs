//! PURE: priorities of pods: classes, what a pod gets of them.
//!
//! Source: Kubernetes documentation "Pod Priority and Preemption"; `plugin/pkg/admission/priority`.

use serde_json::{Value, json};

/// Highest value that users may give.
pub const HIGHEST_USER: i64 = 1_000_000_000;
/// Names that are taken.
pub const SYSTEM_PREFIX: &str = "system-";
/// The built-in classes: name, value, what they are for.
const SYSTEM: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];
/// Priority from which on the node lets go of a pod last of all (kubelet `types.IsCriticalPodBasedOnPriority`).
pub const CRITICAL: i64 = 2_000_000_000;
const PREEMPTS: &str = "PreemptLowerPriority";

/// The value that a built-in class has.
pub fn system_value(name: &str) -> Option<i64> {
    SYSTEM
        .iter()
        .find(|(known, ..)| *known == name)
        .map(|(_, value, _)| *value)
}

/// The built-in classes as objects.
pub fn system_classes() -> Vec<Value> {
    SYSTEM
        .iter()
        .map(|(name, value, description)| {
            json!({
                "apiVersion": "scheduling.k8s.io/v1",
                "kind": "PriorityClass",
                "metadata": {"name": name},
                "value": value,
                "description": description,
                "preemptionPolicy": PREEMPTS,
            })
        })
        .collect()
}

/// `spec.priority` of a pod.
pub fn of(pod: &Value) -> i64 {
    pod.pointer("/spec/priority").and_then(Value::as_i64).unwrap_or(0)
}

/// Sets priority and preemption policy of a new pod by its class, or by the default one.
///
/// # Errors
/// The text of the refusal.
pub fn admit(pod: &mut Value, classes: &[Value]) -> Result<(), String> {
    let name_of = |class: &Value| class["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let wanted = pod
        .pointer("/spec/priorityClassName")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let class = if wanted.is_empty() {
        // Two defaults cannot be made; if there are two all the same, the lower one counts, as upstream.
        let defaults = classes.iter().filter(|c| c["globalDefault"] == true);
        defaults.min_by_key(|c| c["value"].as_i64())
    } else {
        let found = classes.iter().find(|c| name_of(c) == wanted);
        Some(found.ok_or_else(|| {
            format!(
                "no PriorityClass with name {wanted} was found: create it, or leave priorityClassName out"
            )
        })?)
    };
    let value = class.and_then(|c| c["value"].as_i64()).unwrap_or(0);
    let policy = class
        .and_then(|c| c["preemptionPolicy"].as_str())
        .unwrap_or(PREEMPTS)
        .to_owned();
    let spec = &mut pod["spec"];
    if let Some(given) = spec.get("priority").and_then(Value::as_i64)
        && given != value
    {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        ));
    }
    if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str)
        && given != policy
    {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    if let Some(class) = class {
        spec["priorityClassName"] = json!(name_of(class));
    }
    spec["priority"] = json!(value);
    spec["preemptionPolicy"] = json!(policy);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, value: i64, default: bool) -> Value {
        json!({"metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never"})
    }

    #[test]
    fn pods_get_what_their_class_says() {
        let classes = [class("high", 100, false), class("usual", 7, true)];
        let admitted = |spec: Value| {
            let mut pod = json!({"spec": spec});
            admit(&mut pod, &classes).map(|()| pod["spec"].clone())
        };
        let high = admitted(json!({"priorityClassName": "high"})).unwrap();
        assert_eq!(
            (&high["priority"], &high["preemptionPolicy"]),
            (&json!(100), &json!("Never"))
        );
        let usual = admitted(json!({})).unwrap();
        assert_eq!(
            (&usual["priority"], &usual["priorityClassName"]),
            (&json!(7), &json!("usual"))
        );
        assert!(
            admitted(json!({"priorityClassName": "nope"}))
                .unwrap_err()
                .contains("no PriorityClass with name nope")
        );
        assert!(
            admitted(json!({"priority": 5}))
                .unwrap_err()
                .contains("computed 7")
        );
        assert!(admitted(json!({"preemptionPolicy": "PreemptLowerPriority"})).is_err());
        let mut plain = json!({"spec": {}});
        admit(&mut plain, &[]).unwrap();
        assert_eq!(
            plain["spec"],
            json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"})
        );
    }
}
