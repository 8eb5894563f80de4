//! PURE: what a RuntimeClass adds to the pods that name it.
//!
//! Source: Kubernetes documentation "Runtime Class"; `plugin/pkg/admission/runtimeclass`.

use serde_json::{Map, Value, json};

/// The class that a pod names; empty for none.
pub fn name(pod: &Value) -> &str {
    pod.pointer("/spec/runtimeClassName")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Adds overhead, node selector and tolerations of the class to a new pod. `class` is the one that it names, if that is
/// there.
///
/// # Errors
/// The text of the refusal.
pub fn admit(pod: &mut Value, class: Option<&Value>) -> Result<(), String> {
    let wanted = name(pod).to_owned();
    let own = pod.pointer("/spec/overhead").filter(|o| !is_empty(o)).cloned();
    if wanted.is_empty() {
        return match own {
            None => Ok(()),
            Some(_) => Err(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
                    .to_owned(),
            ),
        };
    }
    let Some(class) = class else {
        return Err(format!(
            "pod rejected: RuntimeClass {wanted:?} not found: create it, or leave runtimeClassName out"
        ));
    };
    let fixed = class
        .pointer("/overhead/podFixed")
        .filter(|o| !is_empty(o))
        .cloned();
    if own.is_some() && own != fixed {
        return Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead".to_owned());
    }
    let spec = &mut pod["spec"];
    if let Some(fixed) = fixed {
        spec["overhead"] = fixed;
    }
    let selector = class
        .pointer("/scheduling/nodeSelector")
        .and_then(Value::as_object);
    for (key, value) in selector.into_iter().flatten() {
        match spec.pointer("/nodeSelector").and_then(|s| s.get(key)) {
            Some(known) if known != value => {
                return Err(format!(
                    "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    value.as_str().unwrap_or_default(),
                    known.as_str().unwrap_or_default()
                ));
            }
            _ => spec["nodeSelector"][key] = value.clone(),
        }
    }
    let tolerations = class.pointer("/scheduling/tolerations").and_then(Value::as_array);
    for one in tolerations.into_iter().flatten() {
        match spec.get_mut("tolerations").and_then(Value::as_array_mut) {
            Some(list) if list.contains(one) => {}
            Some(list) => list.push(one.clone()),
            None => spec["tolerations"] = json!([one]),
        }
    }
    Ok(())
}

fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_object().is_some_and(Map::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_get_what_their_class_says() {
        let class = json!({
            "handler": "h", "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"operator": "Exists"}]},
        });
        let admitted = |spec: Value, class: Option<&Value>| {
            let mut pod = json!({"spec": spec});
            admit(&mut pod, class).map(|()| pod["spec"].clone())
        };
        let wanted = json!({
            "runtimeClassName": "c", "overhead": {"cpu": "100m"}, "nodeSelector": {"a": "b", "x": "y"},
            "tolerations": [{"operator": "Exists"}],
        });
        let given = json!({"runtimeClassName": "c", "nodeSelector": {"x": "y"}});
        assert_eq!(admitted(given, Some(&class)).unwrap(), wanted);
        // Once more changes nothing.
        assert_eq!(admitted(wanted.clone(), Some(&class)).unwrap(), wanted);
        assert_eq!(admitted(json!({}), None).unwrap(), json!({}));
        for (spec, class, expected) in [
            (
                json!({"runtimeClassName": "c"}),
                None,
                "RuntimeClass \"c\" not found",
            ),
            (
                json!({"overhead": {"cpu": "1"}}),
                None,
                "without corresponding RuntimeClass",
            ),
            (
                json!({"runtimeClassName": "c", "overhead": {"cpu": "1"}}),
                Some(&class),
                "doesn't match",
            ),
            (
                json!({"runtimeClassName": "c", "nodeSelector": {"a": "z"}}),
                Some(&class),
                "conflict: runtimeClass.scheduling.nodeSelector[a] = b",
            ),
        ] {
            let error = admitted(spec, class).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
