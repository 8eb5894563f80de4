#![allow(clippy::needless_pass_by_value)] // so that cases are written with json!(..)

use serde_json::json;

use super::*;
use crate::schema::Type;

fn smp(kind: &str, mut object: Value, patch: Value) -> Value {
    strategic(Type::named(kind).unwrap(), &mut object, &patch).unwrap();
    object
}

fn deployment(spec: Value) -> Value {
    json!({"spec": {"template": {"spec": spec}}})
}

#[test]
fn merges_lists_by_their_keys() {
    let old = deployment(json!({"containers": [
        {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"},
    ]}));
    let patch = deployment(json!({"containers": [
        {"name": "a", "image": "2", "env": [{"name": "Y", "value": "2"}]}, {"name": "c", "image": "1"},
    ]}));
    assert_eq!(
        smp("Deployment", old, patch),
        deployment(json!({"containers": [
            {"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "1"}, {"name": "c", "image": "1"},
        ]}))
    );
}

#[test]
fn directives() {
    let two = || deployment(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
    let cases = [
        (
            two(),
            deployment(json!({"containers": [{"name": "a", "$patch": "delete"}]})),
            deployment(json!({"containers": [{"name": "b"}]})),
        ),
        (
            two(),
            deployment(json!({"containers": [{"$patch": "replace"}, {"name": "z"}]})),
            deployment(json!({"containers": [{"name": "z"}]})),
        ),
        (
            two(),
            deployment(
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}),
            ),
            deployment(json!({"containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}]})),
        ),
        (
            two(),
            json!({"spec": {"$patch": "replace", "replicas": 1}}),
            json!({"spec": {"replicas": 1}}),
        ),
        (two(), json!({"spec": {"template": null}}), json!({"spec": {}})),
        (
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        ),
        (
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c", "b"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
        ),
        (
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        ),
        (
            deployment(json!({"tolerations": [{"key": "a"}]})),
            deployment(json!({"tolerations": [{"key": "b"}]})),
            deployment(json!({"tolerations": [{"key": "b"}]})),
        ),
    ];
    for (old, patch, expected) in cases {
        assert_eq!(smp("Deployment", old, patch.clone()), expected, "{patch}");
    }
}

#[test]
fn refuses_malformed_patches() {
    let of = Type::named("Deployment").unwrap();
    for patch in [
        json!([]),
        json!({"spec": {"$patch": "x"}}),
        deployment(json!({"containers": [{"image": "no name"}]})),
        deployment(json!({"containers": ["text"]})),
    ] {
        let result = strategic(of, &mut json!({}), &patch);
        assert!(matches!(result, Err(PatchError::Malformed(_))), "{patch}");
    }
}

#[test]
fn json_and_merge_patches() {
    let mut object = json!({"a": {"b": 1}});
    json(
        &mut object,
        &json!([{"op": "replace", "path": "/a/b", "value": 2}]),
    )
    .unwrap();
    merge(&mut object, &json!({"a": {"c": 3}})).unwrap();
    assert_eq!(object, json!({"a": {"b": 2, "c": 3}}));
    assert!(json(&mut object, &json!([{"op": "remove", "path": "/x"}])).is_err());
    assert!(json(&mut object, &json!({"op": "remove"})).is_err());
    assert!(merge(&mut object, &json!([])).is_err());
}
