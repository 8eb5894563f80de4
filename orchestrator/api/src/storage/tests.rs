#![allow(clippy::needless_pass_by_value)] // so that cases are written with json!(..)

use serde_json::json;

use super::*;

fn node() -> Node {
    Node {
        name: "here".to_owned(),
        labels: BTreeMap::from([
            ("kubernetes.io/hostname".to_owned(), "here".to_owned()),
            ("disks".to_owned(), "4".to_owned()),
        ]),
    }
}

fn claim(size: &str, modes: Value, class: Value) -> Value {
    json!({
        "metadata": {"name": "c", "namespace": "d", "uid": "u1"},
        "spec": {"accessModes": modes, "resources": {"requests": {"storage": size}}, "storageClassName": class},
    })
}

fn volume(name: &str, size: &str, modes: Value) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"disk": name}},
        "spec": {"accessModes": modes, "capacity": {"storage": size}, "storageClassName": "slow"},
        "status": {"phase": "Available"},
    })
}

fn best(claim: &Value, volumes: &[Value]) -> Option<String> {
    best_match(claim, volumes, &node(), false).map(|v| text(v, "/metadata/name").to_owned())
}

#[test]
fn the_smallest_volume_that_fits_is_taken() {
    let rwo = || json!(["ReadWriteOnce"]);
    let volumes = [
        volume("big", "10Gi", rwo()),
        volume("wide", "1Gi", json!(["ReadWriteOnce", "ReadWriteMany"])),
        volume("small", "2Gi", rwo()),
        volume("tiny", "1Mi", rwo()),
    ];
    let slow = || json!("slow");
    assert_eq!(
        best(&claim("1Gi", rwo(), slow()), &volumes).as_deref(),
        Some("small")
    );
    assert_eq!(
        best(&claim("3Gi", rwo(), slow()), &volumes).as_deref(),
        Some("big")
    );
    assert_eq!(best(&claim("11Gi", rwo(), slow()), &volumes), None);
    let many = claim("1Gi", json!(["ReadWriteMany"]), slow());
    assert_eq!(best(&many, &volumes).as_deref(), Some("wide"));
    assert_eq!(best(&claim("1Gi", rwo(), json!("fast")), &volumes), None);
    let mut chosen = claim("1Gi", rwo(), slow());
    chosen["spec"]["selector"] = json!({"matchLabels": {"disk": "big"}});
    assert_eq!(best(&chosen, &volumes).as_deref(), Some("big"));
    // A selector that names nothing fits all of them.
    chosen["spec"]["selector"] = json!({});
    assert_eq!(best(&chosen, &volumes).as_deref(), Some("small"));
}

#[test]
fn a_volume_that_is_meant_for_the_claim_comes_first() {
    let rwo = || json!(["ReadWriteOnce"]);
    let mut volumes = [volume("small", "1Gi", rwo()), volume("meant", "9Gi", rwo())];
    let wish = claim("1Gi", rwo(), json!("slow"));
    volumes[1]["spec"]["claimRef"] = json!({"name": "c", "namespace": "d"});
    assert_eq!(best(&wish, &volumes).as_deref(), Some("meant"));
    assert!(best_match(&wish, &volumes, &node(), true).is_some());
    assert!(best_match(&wish, &volumes[..1], &node(), true).is_none());
    volumes[1]["spec"]["claimRef"]["uid"] = json!("another");
    assert_eq!(best(&wish, &volumes).as_deref(), Some("small"));
    volumes[0]["status"]["phase"] = json!("Released");
    assert_eq!(best(&wish, &volumes), None);
}

#[test]
fn node_affinity_is_kept() {
    let with = |terms: Value| {
        let mut volume = volume("v", "1Gi", json!(["ReadWriteOnce"]));
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": terms}});
        reaches(&volume, &node())
    };
    let term = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
    let host = "kubernetes.io/hostname";
    assert!(with(json!([term(host, "In", json!(["there", "here"]))])));
    assert!(!with(json!([term(host, "In", json!(["there"]))])));
    assert!(with(json!([
        term(host, "In", json!(["there"])),
        term(host, "Exists", json!([]))
    ])));
    assert!(!with(json!([term(host, "NotIn", json!(["here"]))])));
    assert!(with(json!([term("absent", "NotIn", json!(["here"]))])));
    assert!(with(json!([term("absent", "DoesNotExist", json!([]))])));
    assert!(
        with(json!([term("disks", "Gt", json!(["3"]))])) && !with(json!([term("disks", "Lt", json!(["4"]))]))
    );
    let field =
        |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
    assert!(with(field("here")) && !with(field("there")));
    assert!(!with(json!([{}])) && !with(json!([])));
}

#[test]
fn the_newest_default_class_counts() {
    let class = |name: &str, day: u8, default: &str| {
        json!({"metadata": {
            "name": name, "creationTimestamp": format!("2026-01-{day:02}T00:00:00Z"),
            "annotations": {"storageclass.kubernetes.io/is-default-class": default},
        }})
    };
    let classes = [
        class("old", 1, "true"),
        class("b", 2, "true"),
        class("a", 2, "true"),
        class("new", 3, "false"),
    ];
    let name = |list: &[Value]| default_class(list).map(|c| text(c, "/metadata/name").to_owned());
    assert_eq!(name(&classes).as_deref(), Some("a"));
    assert_eq!(name(&classes[3..]), None);
}

#[test]
fn a_claim_that_names_a_volume_hears_why_it_does_not_fit() {
    let rwo = || json!(["ReadWriteOnce"]);
    let there = volume("v", "1Gi", rwo());
    let told = |size: &str, modes: Value, class: &str| misfit(&claim(size, modes, json!(class)), &there);
    assert_eq!(told("1Gi", rwo(), "slow"), None);
    assert_eq!(told("2Gi", rwo(), "slow").unwrap(), "requested PV is too small");
    assert_eq!(
        told("1Gi", rwo(), "fast").unwrap(),
        "storageClassName does not match"
    );
    assert_eq!(
        told("1Gi", json!(["ReadWriteMany"]), "slow").unwrap(),
        "incompatible accessMode"
    );
}

#[test]
fn claims_of_a_pod() {
    let pod = json!({"metadata": {"name": "p"}, "spec": {"volumes": [
        {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "b", "ephemeral": {"volumeClaimTemplate": {}}},
        {"name": "c", "emptyDir": {}},
    ]}});
    let found = claims_of(&pod);
    assert_eq!(found[0], ("a".to_owned(), "data".to_owned(), false));
    assert_eq!(found[1], ("b".to_owned(), "p-b".to_owned(), true));
    assert_eq!(found.len(), 2);
}
