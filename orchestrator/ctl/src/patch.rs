//! PURE: the three-way strategic merge patch of `apply` (Kubernetes documentation, "Declarative
//! Management of Kubernetes Objects Using Configuration Files", "Merge patch calculation").
//!
//! What the manifest sets and the live object lacks is set; what the last manifest set and this
//! one does not is deleted; what neither ever set (defaults, other people's fields) is left alone.

use berth_api::kinds::Kind;
use berth_api::schema::{Field, Leaf, MergeList, Shape, Type, shape};
use serde_json::{Map, Value, json};

use crate::tree::annotation;

/// The annotation that holds the last manifest, shared with kubectl.
pub(crate) const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The manifest with itself as annotation, exactly as kubectl writes it.
pub(crate) fn with_last_applied(manifest: &Value) -> Value {
    let mut bare = manifest.clone();
    let annotations = &mut bare["metadata"]["annotations"];
    match annotations.as_object_mut() {
        Some(annotations) => {
            annotations.remove(LAST_APPLIED);
        }
        None => *annotations = json!({}),
    }
    let text = format!("{bare}\n");
    let mut annotated = bare;
    annotated["metadata"]["annotations"][LAST_APPLIED] = json!(text);
    annotated
}

/// The last manifest that was applied to a live object.
pub(crate) fn last_applied(live: &Value) -> Option<Value> {
    serde_json::from_str(annotation(live, LAST_APPLIED)?).ok()
}

/// The patch that makes `live` be as `wanted` says; an empty object if it is already. `last` is
/// the manifest applied before.
pub(crate) fn three_way(kind: &Kind, last: &Value, wanted: &Value, live: &Value) -> Value {
    let empty = Map::new();
    let map = |value: &'_ Value| value.as_object().cloned().unwrap_or_else(|| empty.clone());
    let mut patch = merge(Type::named(kind.schema()), &map(last), &map(wanted), &map(live));
    // Nobody applies a status, and the identity is in the path.
    for field in ["status", "apiVersion", "kind"] {
        patch.remove(field);
    }
    Value::Object(patch)
}

type Object = Map<String, Value>;

fn merge(of: Option<Type>, last: &Object, wanted: &Object, live: &Object) -> Object {
    let mut patch = Map::new();
    for (key, value) in wanted {
        let field = of.and_then(|of| of.field(key));
        let known = live.get(key);
        if value.is_null() {
            if known.is_some() {
                patch.insert(key.clone(), Value::Null);
            }
        } else if known != Some(value) {
            member(&mut patch, field, key, last.get(key), value, known);
        }
    }
    for key in last.keys() {
        if !wanted.contains_key(key) && live.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    patch
}

/// Adds what one differing member needs.
fn member(
    patch: &mut Object,
    field: Option<Field>,
    key: &str,
    last: Option<&Value>,
    wanted: &Value,
    live: Option<&Value>,
) {
    let empty = Map::new();
    match (wanted, live) {
        (Value::Object(wanted_map), Some(Value::Object(live))) => {
            let last = last.and_then(Value::as_object).unwrap_or(&empty);
            let mut inner = merge(field.and_then(struct_of), last, wanted_map, live);
            if inner.is_empty() {
                return;
            }
            if field.is_some_and(Field::retain_keys) {
                inner.insert(
                    "$retainKeys".to_owned(),
                    json!(wanted_map.keys().collect::<Vec<_>>()),
                );
            }
            patch.insert(key.to_owned(), Value::Object(inner));
        }
        (Value::Array(wanted), Some(Value::Array(live))) => {
            let last = last.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            match field.map_or(MergeList::Replace, Field::merge) {
                MergeList::Replace => {
                    patch.insert(key.to_owned(), json!(wanted));
                }
                MergeList::Set => merge_set(patch, key, last, wanted, live),
                MergeList::ByKey(by) => merge_keyed(patch, field, key, by, last, wanted, live),
            }
        }
        _ => {
            patch.insert(key.to_owned(), wanted.clone());
        }
    }
}

fn merge_set(patch: &mut Object, key: &str, last: &[Value], wanted: &[Value], live: &[Value]) {
    let added: Vec<&Value> = wanted.iter().filter(|value| !live.contains(value)).collect();
    let removed: Vec<&Value> = last
        .iter()
        .filter(|value| !wanted.contains(value) && live.contains(value))
        .collect();
    if !added.is_empty() {
        patch.insert(key.to_owned(), json!(added));
    }
    if !removed.is_empty() {
        patch.insert(format!("$deleteFromPrimitiveList/{key}"), json!(removed));
    }
}

fn merge_keyed(
    patch: &mut Object,
    field: Option<Field>,
    key: &str,
    by: &str,
    last: &[Value],
    wanted: &[Value],
    live: &[Value],
) {
    let element = |list: &[Value], id: &Value| list.iter().find(|item| item.get(by) == Some(id)).cloned();
    let retain = field.is_some_and(Field::retain_keys);
    let mut changes = Vec::new();
    for item in wanted {
        let (Some(id), Some(item)) = (item.get(by), item.as_object()) else {
            // Without its key an element cannot be told from the others: the list as a whole, then.
            patch.insert(key.to_owned(), replacing(wanted));
            return;
        };
        let Some(Value::Object(live)) = element(live, id) else {
            changes.push(Value::Object(item.clone()));
            continue;
        };
        let last = element(last, id)
            .and_then(|last| last.as_object().cloned())
            .unwrap_or_default();
        let mut change = merge(field.and_then(element_of), &last, item, &live);
        if change.is_empty() {
            continue;
        }
        if retain {
            change.insert("$retainKeys".to_owned(), json!(item.keys().collect::<Vec<_>>()));
        }
        change.insert(by.to_owned(), id.clone());
        changes.push(Value::Object(change));
    }
    for gone in last.iter().filter_map(|item| item.get(by)) {
        if element(wanted, gone).is_none() && element(live, gone).is_some() {
            changes.push(json!({ "$patch": "delete", by: gone }));
        }
    }
    if !changes.is_empty() {
        let order: Vec<Value> = wanted.iter().map(|item| json!({ by: item[by] })).collect();
        patch.insert(format!("$setElementOrder/{key}"), json!(order));
        patch.insert(key.to_owned(), json!(changes));
    }
}

fn replacing(wanted: &[Value]) -> Value {
    let mut list = wanted.to_vec();
    list.push(json!({ "$patch": "replace" }));
    Value::Array(list)
}

fn struct_of(field: Field) -> Option<Type> {
    match field.shape {
        Shape::One(Leaf::Struct(of)) => Some(of),
        _ => None,
    }
}

fn element_of(field: Field) -> Option<Type> {
    match field.shape {
        Shape::List(of) => match shape(of) {
            Shape::One(Leaf::Struct(of)) => Some(of),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use berth_api::kinds;
    use berth_api::patch::strategic;

    use super::*;

    fn deployment(spec: &Value) -> Value {
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": spec })
    }

    fn containers(list: &Value) -> Value {
        deployment(&json!({ "replicas": 3, "template": { "spec": { "containers": list } } }))
    }

    /// The patch, and what the server makes of it.
    fn applied(last: &Value, wanted: &Value, live: &Value) -> (Value, Value) {
        let patch = three_way(kinds::DEPLOYMENT, last, wanted, live);
        let mut result = live.clone();
        strategic(Type::named("Deployment").unwrap(), &mut result, &patch).unwrap();
        (patch, result)
    }

    #[test]
    fn defaults_and_other_peoples_fields_stay() {
        let manifest = containers(&json!([{ "name": "a", "image": "v1" }]));
        let mut live = containers(&json!([
            { "name": "a", "image": "v1", "imagePullPolicy": "IfNotPresent" },
            { "name": "sidecar", "image": "s" },
        ]));
        live["spec"]["revisionHistoryLimit"] = json!(10);
        live["metadata"]["uid"] = json!("u");
        assert_eq!(applied(&manifest, &manifest, &live).0, json!({}));
        let wanted = containers(&json!([{ "name": "a", "image": "v2" }]));
        let (patch, result) = applied(&manifest, &wanted, &live);
        assert_eq!(
            patch,
            json!({ "spec": { "template": { "spec": {
                "$setElementOrder/containers": [{ "name": "a" }],
                "containers": [{ "name": "a", "image": "v2" }],
            } } } })
        );
        let list = &result["spec"]["template"]["spec"]["containers"];
        assert_eq!(list.as_array().unwrap().len(), 2);
        assert_eq!(
            (&list[0]["image"], &list[0]["imagePullPolicy"]),
            (&json!("v2"), &json!("IfNotPresent"))
        );
    }

    #[test]
    fn what_the_last_manifest_had_is_deleted() {
        let last = containers(&json!([
            { "name": "a", "image": "v1", "command": ["x"], "env": [{ "name": "E", "value": "1" }, { "name": "F", "value": "2" }] },
            { "name": "b", "image": "w" },
        ]));
        let wanted = {
            let mut wanted =
                containers(&json!([{ "name": "a", "image": "v1", "env": [{ "name": "F", "value": "3" }] }]));
            wanted["spec"].as_object_mut().unwrap().remove("replicas");
            wanted
        };
        let (_, result) = applied(&last, &wanted, &last);
        assert_eq!(result["spec"].get("replicas"), None);
        assert_eq!(
            result["spec"]["template"]["spec"]["containers"],
            json!([{ "name": "a", "image": "v1", "env": [{ "name": "F", "value": "3" }] }])
        );
    }

    #[test]
    fn a_change_of_strategy_drops_the_defaults_of_the_other() {
        let last = deployment(&json!({ "replicas": 1 }));
        let mut live = last.clone();
        live["spec"]["strategy"] = json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%" } });
        let wanted = deployment(&json!({ "replicas": 1, "strategy": { "type": "Recreate" } }));
        let (patch, result) = applied(&last, &wanted, &live);
        assert_eq!(patch["spec"]["strategy"]["$retainKeys"], json!(["type"]));
        assert_eq!(result["spec"]["strategy"], json!({ "type": "Recreate" }));
    }

    #[test]
    fn the_annotation_is_as_kubectl_writes_it() {
        let annotated =
            with_last_applied(&json!({ "kind": "Secret", "apiVersion": "v1", "metadata": { "name": "a" } }));
        assert_eq!(
            annotated["metadata"]["annotations"][LAST_APPLIED],
            "{\"apiVersion\":\"v1\",\"kind\":\"Secret\",\"metadata\":{\"annotations\":{},\"name\":\"a\"}}\n"
        );
        assert_eq!(with_last_applied(&annotated), annotated);
        assert_eq!(last_applied(&annotated).unwrap()["metadata"]["name"], "a");
    }

    #[test]
    fn finalizers_are_a_set() {
        let object = |finalizers: &[&str]| json!({ "metadata": { "name": "a", "finalizers": finalizers } });
        let (_, result) = applied(
            &object(&["x", "y"]),
            &object(&["y", "z"]),
            &object(&["x", "y", "theirs"]),
        );
        let mut left: Vec<&str> = result["metadata"]["finalizers"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        left.sort_unstable();
        assert_eq!(left, ["theirs", "y", "z"]);
    }
}
