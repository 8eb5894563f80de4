#![allow(clippy::needless_pass_by_value)] // so that cases are written with json!(..)

use serde_json::json;

use super::*;

fn deployment() -> Type {
    Type::named("Deployment").unwrap()
}

fn writer(manager: &str) -> Writer<'_> {
    Writer {
        manager,
        api_version: "apps/v1",
        subresource: "",
        time: "2026-01-01T00:00:00Z",
    }
}

fn config(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "w"}, "spec": spec})
}

fn containers(list: Value) -> Value {
    json!({"template": {"spec": {"containers": list}}})
}

#[test]
fn creates_and_changes_by_one_manager() {
    let first = config(json!({"replicas": 1, "template": {"spec": {"containers": [
        {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b", "image": "1"}]}}}));
    let live = apply(deployment(), None, &first, &writer("me"), false).unwrap();
    assert_eq!(
        live["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"]["f:replicas"],
        json!({})
    );
    let second = config(containers(json!([{"name": "a", "image": "2"}])));
    let live = apply(deployment(), Some(&live), &second, &writer("me"), false).unwrap();
    assert_eq!(live["spec"], containers(json!([{"name": "a", "image": "2"}])));
    let third = apply(deployment(), Some(&live), &second, &writer("me"), false).unwrap();
    assert_eq!(third, live, "applying again changes nothing");
}

#[test]
fn conflicts_are_reported_and_can_be_forced() {
    let live = apply(
        deployment(),
        None,
        &config(json!({"replicas": 1})),
        &writer("a"),
        false,
    )
    .unwrap();
    let wanted = config(json!({"replicas": 2}));
    let conflicts = apply(deployment(), Some(&live), &wanted, &writer("b"), false).unwrap_err();
    assert_eq!(
        conflict_message(&conflicts),
        "Apply failed with 1 conflict: conflict with \"a\" using apps/v1: .spec.replicas"
    );
    let forced = apply(deployment(), Some(&live), &wanted, &writer("b"), true).unwrap();
    assert_eq!(forced["spec"]["replicas"], 2);
    assert_eq!(forced["metadata"]["managedFields"].as_array().unwrap().len(), 1);
    // Equal values are shared; then one may let go without loss.
    let shared = apply(
        deployment(),
        Some(&live),
        &config(json!({"replicas": 1})),
        &writer("b"),
        false,
    )
    .unwrap();
    let left = apply(
        deployment(),
        Some(&shared),
        &config(json!({})),
        &writer("b"),
        false,
    )
    .unwrap();
    assert_eq!(left["spec"]["replicas"], 1);
}

#[test]
fn other_peoples_elements_stay() {
    let live = apply(
        deployment(),
        None,
        &config(containers(json!([{"name": "a"}]))),
        &writer("a"),
        false,
    )
    .unwrap();
    let live = apply(
        deployment(),
        Some(&live),
        &config(containers(json!([{"name": "b"}]))),
        &writer("b"),
        false,
    )
    .unwrap();
    assert_eq!(live["spec"], containers(json!([{"name": "b"}, {"name": "a"}])));
    let live = apply(deployment(), Some(&live), &config(json!({})), &writer("b"), false).unwrap();
    assert_eq!(live["spec"], containers(json!([{"name": "a"}])));
}

#[test]
fn ordinary_writes_take_what_they_change() {
    let live = apply(
        deployment(),
        None,
        &config(json!({"replicas": 1, "paused": true})),
        &writer("a"),
        false,
    )
    .unwrap();
    let mut scaled = live.clone();
    scaled["spec"]["replicas"] = json!(5);
    update(deployment(), Some(&live), &mut scaled, &writer("scaler"));
    let conflicts = apply(
        deployment(),
        Some(&scaled),
        &config(json!({"replicas": 1, "paused": true})),
        &writer("a"),
        false,
    )
    .unwrap_err();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].manager, "scaler");
    let mut same = scaled.clone();
    update(deployment(), Some(&scaled), &mut same, &writer("nobody"));
    assert_eq!(same, scaled, "a write without change owns nothing");
    let mut gone = scaled.clone();
    gone["spec"].as_object_mut().unwrap().remove("replicas");
    update(deployment(), Some(&scaled), &mut gone, &writer("x"));
    assert_eq!(gone["metadata"]["managedFields"].as_array().unwrap().len(), 1);
}

#[test]
fn ports_without_protocol_are_the_tcp_ones() {
    let ports = |port: Value| config(containers(json!([{"name": "a", "ports": [port]}])));
    let live = apply(
        deployment(),
        None,
        &ports(json!({"containerPort": 80, "protocol": "TCP"})),
        &writer("a"),
        false,
    )
    .unwrap();
    let live = apply(
        deployment(),
        Some(&live),
        &ports(json!({"containerPort": 80})),
        &writer("a"),
        false,
    )
    .unwrap();
    let list = live.pointer("/spec/template/spec/containers/0/ports").unwrap();
    assert_eq!(list.as_array().unwrap().len(), 1);
}
