//! PURE: LimitRanges: what containers get that ask for nothing, and how little and how much they may ask for.
//!
//! Source: Kubernetes documentation "Limit Ranges"; `plugin/pkg/admission/limitranger`.

use serde_json::{Map, Value, json};

use crate::quantity::Quantity;
use crate::quota::pod_amounts;

fn items(range: &Value) -> impl Iterator<Item = &Value> {
    let limits = range.pointer("/spec/limits").and_then(Value::as_array);
    limits.into_iter().flatten()
}

fn amounts<'a>(item: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    item.get(field).and_then(Value::as_object).into_iter().flatten()
}

/// Gives containers the limits and requests that a range has for those who name none.
pub fn fill(range: &Value, pod: &mut Value) {
    for item in items(range).filter(|i| i["type"] == "Container") {
        for list in ["initContainers", "containers"] {
            let list = pod.get_mut("spec").and_then(|s| s.get_mut(list));
            for container in list.and_then(Value::as_array_mut).into_iter().flatten() {
                container_defaults(item, container);
            }
        }
    }
}

fn container_defaults(item: &Value, container: &mut Value) {
    let had_limit =
        |container: &Value, name: &str| container.pointer(&format!("/resources/limits/{name}")).is_some();
    // A request that is not named follows a limit that is, not the range.
    let requests: Vec<(String, Value)> = amounts(item, "defaultRequest")
        .filter(|(name, _)| !had_limit(container, name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    for (field, wanted) in [
        (
            "limits",
            amounts(item, "default")
                .map(|(n, v)| (n.clone(), v.clone()))
                .collect(),
        ),
        ("requests", requests),
    ] {
        for (name, value) in wanted {
            let resources = entry(container, "resources");
            let Some(list) = resources.and_then(|r| member(r, field)) else {
                continue;
            };
            list.entry(name).or_insert(value);
        }
    }
}

fn entry<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Map<String, Value>> {
    member(object.as_object_mut()?, name)
}

fn member<'a>(map: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    map.entry(name).or_insert_with(|| json!({})).as_object_mut()
}

/// What of a pod is outside of a range, in upstream's words.
pub fn violations(range: &Value, pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for item in items(range) {
        match item["type"].as_str() {
            Some("Container") => {
                for list in ["initContainers", "containers"] {
                    let list = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
                    for container in list.into_iter().flatten() {
                        let amount = |of: &str, name: &str| -> Option<Quantity> {
                            let text = container.pointer(&format!("/resources/{of}/{name}"))?;
                            text.as_str()?.parse().ok()
                        };
                        check(item, "Container", &amount, &mut wrong);
                    }
                }
            }
            Some("Pod") => {
                let amount = |of: &str, name: &str| pod_amounts(pod, of).get(name).copied();
                check(item, "Pod", &amount, &mut wrong);
            }
            _ => {}
        }
    }
    wrong
}

/// What of a claim is outside of a range.
pub fn claim_violations(range: &Value, claim: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let Some(asked) = crate::storage::size(claim) else {
        return wrong;
    };
    for item in items(range).filter(|i| i["type"] == "PersistentVolumeClaim") {
        let amount = |field: &str| -> Option<Quantity> { item[field].get("storage")?.as_str()?.parse().ok() };
        if let Some(least) = amount("min").filter(|least| asked < *least) {
            wrong.push(format!(
                "minimum storage usage per PersistentVolumeClaim is {least}, but request is {asked}"
            ));
        }
        if let Some(most) = amount("max").filter(|most| asked > *most) {
            wrong.push(format!(
                "maximum storage usage per PersistentVolumeClaim is {most}, but request is {asked}"
            ));
        }
    }
    wrong
}

fn check(item: &Value, kind: &str, amount: &dyn Fn(&str, &str) -> Option<Quantity>, wrong: &mut Vec<String>) {
    let parse = |value: &Value| value.as_str().and_then(|t| t.parse::<Quantity>().ok());
    for (name, value) in amounts(item, "min") {
        let Some(least) = parse(value) else { continue };
        match (amount("requests", name), amount("limits", name)) {
            (None, _) => wrong.push(format!(
                "minimum {name} usage per {kind} is {least}.  No request is specified"
            )),
            (Some(request), _) if request < least => wrong.push(format!(
                "minimum {name} usage per {kind} is {least}, but request is {request}"
            )),
            (_, Some(limit)) if limit < least => wrong.push(format!(
                "minimum {name} usage per {kind} is {least}, but limit is {limit}"
            )),
            _ => {}
        }
    }
    for (name, value) in amounts(item, "max") {
        let Some(most) = parse(value) else { continue };
        match (amount("requests", name), amount("limits", name)) {
            (_, None) => wrong.push(format!(
                "maximum {name} usage per {kind} is {most}.  No limit is specified"
            )),
            (_, Some(limit)) if limit > most => wrong.push(format!(
                "maximum {name} usage per {kind} is {most}, but limit is {limit}"
            )),
            (Some(request), _) if request > most => wrong.push(format!(
                "maximum {name} usage per {kind} is {most}, but request is {request}"
            )),
            _ => {}
        }
    }
    for (name, value) in amounts(item, "maxLimitRequestRatio") {
        let Some(ratio) = parse(value) else { continue };
        match (amount("requests", name), amount("limits", name)) {
            (Some(request), Some(limit)) if request.milli() > 0 => {
                // limit / request > ratio, without a division.
                let (limit, request) = (i128::from(limit.milli()), i128::from(request.milli()));
                if limit * 1000 > request * i128::from(ratio.milli()) {
                    wrong.push(format!(
                        "{name} max limit to request ratio per {kind} is {ratio}, but provided ratio is {}.{:06}",
                        limit / request,
                        limit % request * 1_000_000 / request
                    ));
                }
            }
            _ => wrong.push(format!(
                "{name} max limit to request ratio per {kind} is {ratio}, but no request or limit is specified"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_filled_and_measured() {
        let range = json!({"spec": {"limits": [
            {"type": "Container", "default": {"memory": "64Mi", "cpu": "500m"}, "defaultRequest": {"memory": "32Mi", "cpu": "100m"},
             "max": {"memory": "128Mi"}, "min": {"memory": "16Mi"}, "maxLimitRequestRatio": {"cpu": "5"}},
            {"type": "Pod", "max": {"memory": "160Mi"}},
        ]}});
        let mut pod = json!({"spec": {"containers": [
            {"name": "a"},
            {"name": "b", "resources": {"limits": {"memory": "128Mi"}, "requests": {"memory": "128Mi"}}},
        ]}});
        fill(&range, &mut pod);
        let resources = |n: usize| {
            pod.pointer(&format!("/spec/containers/{n}/resources"))
                .unwrap()
                .clone()
        };
        assert_eq!(
            resources(0),
            json!({"limits": {"memory": "64Mi", "cpu": "500m"}, "requests": {"memory": "32Mi", "cpu": "100m"}})
        );
        assert_eq!(
            resources(1)["requests"],
            json!({"memory": "128Mi", "cpu": "100m"})
        );
        let wrong = violations(&range, &pod);
        assert_eq!(
            wrong,
            ["maximum memory usage per Pod is 160Mi, but limit is 192Mi"]
        );
        pod["spec"]["containers"][0]["resources"] =
            json!({"limits": {"memory": "256Mi", "cpu": "1"}, "requests": {"memory": "1Mi", "cpu": "100m"}});
        let wrong = violations(&range, &pod).join("\n");
        for part in [
            "maximum memory usage per Container is 128Mi, but limit is 256Mi",
            "minimum memory usage per Container is 16Mi, but request is 1Mi",
            "cpu max limit to request ratio per Container is 5, but provided ratio is 10.0",
        ] {
            assert!(wrong.contains(part), "{wrong}");
        }
    }
}
