//! Whether the one node is one of those that a pod asks for (upstream `component-helpers/scheduling/corev1/nodeaffinity`).

use serde_json::Value;

use crate::validate::Node;

/// Operators of a requirement on labels.
pub(crate) const OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];

/// Whether a pod of this specification may run on the node: its `nodeName`, `nodeSelector` and required node affinity.
pub fn fits(spec: &Value, node: &Node) -> bool {
    let named = spec.get("nodeName").and_then(Value::as_str).unwrap_or_default();
    let selector = spec.get("nodeSelector").and_then(Value::as_object);
    (named.is_empty() || named == node.name)
        && selector
            .into_iter()
            .flatten()
            .all(|(key, value)| node.labels.get(key).map(String::as_str) == value.as_str())
        && required(spec).is_none_or(|affinity| matches(affinity, node))
}

/// The node selector that `affinity` requires.
pub(crate) fn required(spec: &Value) -> Option<&Value> {
    spec.pointer("/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution")
        .filter(|selector| !selector.is_null())
}

/// Whether one of a NodeSelector's terms holds. A term without requirements never does.
pub(crate) fn matches(selector: &Value, node: &Node) -> bool {
    list(selector, "nodeSelectorTerms").any(|term| {
        let (labels, fields) = (list(term, "matchExpressions"), list(term, "matchFields"));
        let mut requirements = labels
            .map(|r| (r, node.labels.get(text(r, "key")).map(String::as_str)))
            .chain(fields.map(|r| {
                (
                    r,
                    (text(r, "key") == "metadata.name").then_some(node.name.as_str()),
                )
            }))
            .peekable();
        requirements.peek().is_some() && requirements.all(|(requirement, found)| holds(requirement, found))
    })
}

/// Whether a requirement holds for what was found under its key.
fn holds(requirement: &Value, found: Option<&str>) -> bool {
    let mut values = list(requirement, "values").filter_map(Value::as_str);
    let mut number = || values.next()?.parse::<i64>().ok();
    match text(requirement, "operator") {
        "In" => found.is_some_and(|found| values.any(|value| value == found)),
        "NotIn" => found.is_none_or(|found| values.all(|value| value != found)),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        operator => {
            let found = found.and_then(|found| found.parse::<i64>().ok());
            let (Some(found), Some(limit)) = (found, number()) else {
                return false;
            };
            match operator {
                "Gt" => found > limit,
                "Lt" => found < limit,
                _ => false,
            }
        }
    }
}

fn list<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    object.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_chosen_by_name_labels_and_affinity() {
        let labels = [("disk", "ssd"), ("cpus", "8")];
        let node = Node {
            name: "here".to_owned(),
            labels: labels
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        let affinity = |terms: Value| {
            json!({ "affinity": { "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms },
            } } })
        };
        let one = |key: &str, operator: &str, values: Value| {
            affinity(
                json!([{ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] }]),
            )
        };
        let field = |name: &str| {
            affinity(
                json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": [name] }] }]),
            )
        };
        for (spec, expected) in [
            (json!({}), true),
            (
                json!({ "nodeName": "here", "nodeSelector": { "disk": "ssd" } }),
                true,
            ),
            (json!({ "nodeName": "there" }), false),
            (json!({ "nodeSelector": { "disk": "hdd" } }), false),
            (json!({ "nodeSelector": { "gpu": "" } }), false),
            (one("disk", "In", json!(["hdd", "ssd"])), true),
            (one("gpu", "In", json!(["yes"])), false),
            (one("disk", "NotIn", json!(["ssd"])), false),
            (one("gpu", "NotIn", json!(["yes"])), true),
            (one("disk", "Exists", json!([])), true),
            (one("disk", "DoesNotExist", json!([])), false),
            (one("cpus", "Gt", json!(["7"])), true),
            (one("cpus", "Gt", json!(["8"])), false),
            (one("cpus", "Lt", json!(["9"])), true),
            (one("disk", "Gt", json!(["1"])), false),
            (one("gpu", "Lt", json!(["1"])), false),
            (field("here"), true),
            (field("there"), false),
            // Terms are alternatives, requirements of one must all hold; an empty one never does.
            (affinity(json!([{}])), false),
            (affinity(json!([])), false),
            (
                affinity(json!([
                    { "matchExpressions": [{ "key": "gpu", "operator": "Exists" }] },
                    { "matchExpressions": [{ "key": "disk", "operator": "Exists" }] },
                ])),
                true,
            ),
            (
                affinity(json!([{ "matchExpressions": [
                    { "key": "gpu", "operator": "Exists" }, { "key": "disk", "operator": "Exists" },
                ] }])),
                false,
            ),
        ] {
            assert_eq!(fits(&spec, &node), expected, "{spec}");
        }
    }
}
