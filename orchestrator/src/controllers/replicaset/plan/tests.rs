use super::*;
use crate::controllers::pod_state::available_in;
use crate::controllers::replicaset::status::{Failure, status};
use crate::store::StoreError;

fn now() -> Timestamp {
    Timestamp::from_second(2_000_000).unwrap()
}

fn set(replicas: i64) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": { "name": "web-abc", "namespace": "default", "uid": "rs", "generation": 3 },
        "spec": {
            "replicas": replicas,
            "selector": { "matchLabels": { "app": "web" } },
            "template": {
                "metadata": { "labels": { "app": "web", "tier": "x" }, "annotations": { "a": "b" } },
                "spec": { "containers": [{ "name": "c", "image": "i" }] },
            },
        },
    })
}

fn pod(name: &str, phase: &str, ready_for: Option<i64>) -> Value {
    let mut pod = pod_from_template(&set(1), name, "node");
    pod["metadata"]["uid"] = json!(name);
    pod["status"]["phase"] = json!(phase);
    if let Some(seconds) = ready_for {
        let since = Timestamp::from_second(2_000_000 - seconds).unwrap();
        pod["status"]["conditions"] =
            json!([{ "type": "Ready", "status": "True", "lastTransitionTime": since.to_string() }]);
    }
    pod
}

fn deleted(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    pod
}

#[test]
fn a_pod_has_what_the_template_says() {
    let pod = pod_from_template(&set(1), "xyz42", "node");
    assert_eq!(pod["metadata"]["name"], "web-abc-xyz42");
    assert_eq!(pod["metadata"]["generateName"], "web-abc-");
    assert_eq!(pod["metadata"]["labels"]["tier"], "x");
    assert_eq!(pod["metadata"]["annotations"]["a"], "b");
    assert_eq!(pod["spec"]["nodeName"], "node");
    let owner = &pod["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"], &owner["controller"]),
        (&json!("ReplicaSet"), &json!("rs"), &json!(true))
    );
    let mut long = set(1);
    long["metadata"]["name"] = json!("n".repeat(80));
    assert_eq!(name(&pod_from_template(&long, "xyz42", "node")).len(), 63);
}

#[test]
fn missing_pods_are_made_and_ended_ones_replaced() {
    let pods = [
        pod("run", "Running", Some(5)),
        pod("failed", "Failed", None),
        pod("done", "Succeeded", None),
        deleted(pod("going", "Running", Some(5))),
    ];
    assert_eq!(
        plan(&set(3), &pods, now()),
        Plan {
            create: 2,
            delete: vec![]
        }
    );
    assert_eq!(plan(&set(1), &pods, now()), Plan::default());
    let mut defaulted = set(0);
    defaulted["spec"].as_object_mut().unwrap().remove("replicas");
    assert_eq!(plan(&defaulted, &[], now()).create, 1);
}

#[test]
fn surplus_pods_go_those_that_help_least_first() {
    let pods = [
        pod("old", "Running", Some(5000)),
        pod("new", "Running", Some(5)),
        pod("pending", "Pending", None),
        pod("unready", "Running", None),
    ];
    let names = |plan: Plan| plan.delete.iter().map(uid_of).collect::<Vec<_>>();
    assert_eq!(names(plan(&set(1), &pods, now())), ["pending", "unready", "new"]);
    assert_eq!(names(plan(&set(3), &pods, now())), ["pending"]);
    assert_eq!(names(plan(&set(0), &pods, now())).len(), 4);
}

fn uid_of(pod: &Value) -> String {
    crate::controllers::fields::uid(pod).to_owned()
}

#[test]
fn a_set_that_is_being_deleted_does_nothing() {
    assert_eq!(plan(&deleted(set(3)), &[], now()), Plan::default());
}

#[test]
fn the_status_counts_pods() {
    let mut other_labels = pod("d", "Running", None);
    other_labels["metadata"]["labels"] = json!({ "app": "web" });
    let pods = [
        pod("a", "Running", Some(100)),
        pod("b", "Running", Some(10)),
        pod("c", "Pending", None),
        other_labels,
        deleted(pod("e", "Running", Some(100))),
        pod("f", "Failed", None),
    ];
    let mut set = set(4);
    set["spec"]["minReadySeconds"] = json!(30);
    let fresh = status(&set, &pods, None, now());
    assert_eq!(
        fresh.status,
        json!({
            "replicas": 4, "fullyLabeledReplicas": 3, "readyReplicas": 2, "availableReplicas": 1,
            "terminatingReplicas": 1, "observedGeneration": 3,
        })
    );
    assert_eq!(fresh.again, Some(std::time::Duration::from_secs(20)));
    let empty = status(&set, &[], None, now());
    assert_eq!(empty.status, json!({ "replicas": 0, "observedGeneration": 3 }));
    assert_eq!(empty.again, None);
}

#[test]
fn a_failure_is_a_condition_until_it_is_over() {
    let failure = Failure {
        reason: "FailedCreate",
        error: StoreError::Malformed("no".into()),
    };
    let mut set = set(1);
    let failed = status(&set, &[], Some(&failure), now()).status;
    assert_eq!(failed["conditions"][0]["reason"], "FailedCreate");
    assert_eq!(failed["conditions"][0]["type"], "ReplicaFailure");
    set["status"] = failed.clone();
    let later = Timestamp::from_second(3_000_000).unwrap();
    assert_eq!(
        status(&set, &[], Some(&failure), later).status,
        failed,
        "kept as first seen"
    );
    assert_eq!(status(&set, &[], None, later).status.get("conditions"), None);
}

#[test]
fn availability_waits_for_min_ready_seconds() {
    for (ready_for, min_ready, expected) in [
        (None, 0, None),
        (Some(0), 0, Some(0)),
        (Some(0), 5, Some(5)),
        (Some(4), 5, Some(1)),
        (Some(5), 5, Some(0)),
    ] {
        let pod = pod("a", "Running", ready_for);
        assert_eq!(
            available_in(&pod, min_ready, now()),
            expected,
            "{ready_for:?} {min_ready}"
        );
    }
}
