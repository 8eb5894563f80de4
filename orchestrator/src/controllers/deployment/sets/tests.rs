use super::*;

fn deployment(replicas: i64, strategy: &Value) -> Value {
    json!({ "spec": { "replicas": replicas, "strategy": strategy } })
}

fn rolling(surge: &Value, unavailable: &Value) -> Value {
    json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } })
}

fn set(name: &str, replicas: i64, created: u8) -> Set {
    Set::of(json!({
        "metadata": {
            "name": name,
            "creationTimestamp": format!("2026-01-{created:02}T00:00:00Z"),
            "annotations": { revision::MAX_REPLICAS: "13", revision::DESIRED_REPLICAS: "10" },
        },
        "spec": { "replicas": replicas },
    }))
}

#[test]
fn surge_is_rounded_up_and_unavailable_down() {
    let cases = [
        (10, json!("25%"), json!("25%"), 3, 2),
        (3, json!("25%"), json!("25%"), 1, 0),
        (1, json!("25%"), json!("25%"), 1, 0),
        (4, json!(1), json!(0), 1, 0),
        (4, json!(0), json!(0), 0, 1),
        (3, json!(0), json!("10%"), 0, 1),
        (5, json!("100%"), json!("100%"), 5, 5),
        (2, json!(1), json!(7), 1, 2),
        (0, json!("25%"), json!("25%"), 0, 0),
        (7, json!("50%"), json!("50%"), 4, 3),
    ];
    for (replicas, surge, unavailable, expected_surge, expected_unavailable) in cases {
        let wanted = Wanted::of(&deployment(replicas, &rolling(&surge, &unavailable)));
        assert_eq!(
            (wanted.surge, wanted.unavailable),
            (expected_surge, expected_unavailable),
            "{replicas} {surge} {unavailable}"
        );
    }
    let recreate = Wanted::of(&deployment(3, &json!({ "type": "Recreate" })));
    assert_eq!(
        recreate,
        Wanted {
            replicas: 3,
            rolling: false,
            surge: 0,
            unavailable: 0
        }
    );
    let defaulted = Wanted::of(&json!({ "spec": {} }));
    assert_eq!(
        defaulted,
        Wanted {
            replicas: 1,
            rolling: true,
            surge: 1,
            unavailable: 0
        }
    );
}

#[test]
fn the_new_set_grows_into_the_surge() {
    let wanted = Wanted {
        replicas: 10,
        rolling: true,
        surge: 3,
        unavailable: 2,
    };
    for (all, new, expected) in [
        (0, 0, 10),
        (10, 0, 3),
        (13, 3, 3),
        (11, 3, 5),
        (9, 9, 10),
        (14, 2, 2),
    ] {
        assert_eq!(new_set_size(&wanted, all, new), expected, "{all} {new}");
    }
    let recreate = Wanted {
        rolling: false,
        surge: 0,
        unavailable: 0,
        ..wanted
    };
    assert_eq!(new_set_size(&recreate, 10, 0), 10);
}

#[test]
fn resizing_in_the_middle_keeps_the_shares() {
    let up = Wanted {
        replicas: 20,
        rolling: true,
        surge: 5,
        unavailable: 5,
    };
    // 13 of at most 13 pods; now at most 25: 8 become 15.4, 5 become 9.6.
    let sets = [set("old", 8, 1), set("new", 5, 2), set("idle", 0, 3)];
    assert_eq!(proportional(&sets, &up), [15, 10, 0]);
    let down = Wanted {
        replicas: 5,
        rolling: true,
        surge: 2,
        unavailable: 1,
    };
    assert_eq!(proportional(&sets, &down), [4, 3, 0]);
    let none = Wanted {
        replicas: 0,
        rolling: true,
        surge: 0,
        unavailable: 0,
    };
    assert_eq!(proportional(&sets, &none), [0, 0, 0]);
    // What rounding leaves goes to the largest set; of equal ones to the newer when growing.
    let equal = [set("old", 6, 1), set("new", 6, 2)];
    let wanted = Wanted {
        replicas: 11,
        rolling: true,
        surge: 3,
        unavailable: 0,
    };
    let sizes = proportional(&equal, &wanted);
    assert_eq!(sizes.iter().sum::<i64>(), 14);
    assert!(sizes[1] >= sizes[0]);
    let same = Wanted {
        replicas: 10,
        rolling: true,
        surge: 2,
        unavailable: 0,
    };
    assert_eq!(proportional(&equal, &same), [6, 6]);
}

#[test]
fn the_active_or_latest_set_is_found() {
    let (a, b, idle) = (set("a", 1, 1), set("b", 2, 2), set("idle", 0, 3));
    assert_eq!(active_or_latest(&[], None), None);
    assert_eq!(active_or_latest(&[a.clone(), idle.clone()], Some(1)), Some(0));
    assert_eq!(active_or_latest(&[a.clone(), b], Some(1)), None);
    let idle_old = set("idle-old", 0, 1);
    assert_eq!(active_or_latest(&[idle.clone(), idle_old.clone()], None), Some(0));
    assert_eq!(active_or_latest(&[idle, idle_old], Some(1)), Some(1));
}

#[test]
fn templates_are_compared_without_the_hash_and_without_nothing() {
    let template = json!({ "metadata": { "labels": { "app": "a" } }, "spec": { "x": 1 } });
    let deployment = json!({ "spec": { "template": template } });
    let with = |metadata: Value, spec: Value| json!({ "spec": { "template": { "metadata": metadata, "spec": spec } } });
    let hash = json!({ "labels": { "app": "a", TEMPLATE_HASH: "h" } });
    assert!(same_template(&deployment, &with(hash.clone(), json!({ "x": 1 }))));
    let noise = json!({ "labels": { "app": "a" }, "creationTimestamp": null, "annotations": {} });
    assert!(same_template(&deployment, &with(noise, json!({ "x": 1 }))));
    assert!(!same_template(&deployment, &with(hash, json!({ "x": 2 }))));
    assert!(!same_template(
        &deployment,
        &with(json!({ "labels": { "app": "b" } }), json!({ "x": 1 }))
    ));
}
