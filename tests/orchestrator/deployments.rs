//! Deployments of the example application on the real node.

use crate::application::{self, answer, apply, ask, json, pods};
use harness::{Node, NodeOptions, need_root, wait_for};
use serde_json::Value;
use std::time::Duration;

const NAME: &str = "deployment/user-service";

fn start(versions: &[&str]) -> Node {
    harness::isolate();
    let node = Node::start(NodeOptions::default());
    for version in versions {
        application::import(&node, version);
    }
    node
}

fn rolled_out(node: &Node) {
    let told = node.ctl(&["rollout", "status", NAME, "--timeout", "90s"]).ok();
    assert!(
        told.ends_with("deployment \"user-service\" successfully rolled out\n"),
        "{told}"
    );
}

fn events(node: &Node, reason: &str) -> Vec<String> {
    let list = json(node, &["events", "--field-selector", &format!("reason={reason}")]);
    let items = list["items"].as_array().expect("a list");
    items
        .iter()
        .map(|event| event["message"].as_str().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_deployment_comes_up_rolls_undoes_and_goes() {
    need_root!();
    let node = start(&["v1.0.0", "v2.0.0"]);
    assert_eq!(
        apply(&node, "v1.0.0", 3),
        "secret/db-secret created\ndeployment.apps/user-service created\n"
    );
    assert_eq!(
        apply(&node, "v1.0.0", 3),
        "secret/db-secret unchanged\ndeployment.apps/user-service unchanged\n"
    );
    rolled_out(&node);
    assert_eq!(pods(&node).len(), 3);
    for pod in pods(&node) {
        let shown = ask(&pod, "/env").expect("the pod answers");
        assert!(shown.contains("DATABASE_URL=postgres://db/users\n"), "{shown}");
    }

    assert!(apply(&node, "v2.0.0", 3).contains("user-service configured"));
    rolled_out(&node);
    assert_eq!(answer(&node), "v2.0.0");
    let scaled = events(&node, "ScalingReplicaSet");
    assert!(
        scaled.iter().any(|message| message.contains("from 0 to 3")),
        "{scaled:?}"
    );

    node.ctl(&["rollout", "undo", NAME]).ok();
    rolled_out(&node);
    assert_eq!(answer(&node), "v1.0.0");
    let history = node.ctl(&["rollout", "history", NAME]).ok();
    let revisions: Vec<&str> = history
        .lines()
        .skip(2)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(revisions, ["2", "3"]);

    node.ctl(&["delete", NAME]).ok();
    wait_for("everything to be collected", Duration::from_secs(60), || {
        // The node's own Service is there as long as the node.
        let left = node.ctl(&["get", "all", "-o", "name"]).ok();
        if left.trim() == "service/kubernetes" {
            Ok(())
        } else {
            Err(left)
        }
    });
}

#[test]
fn scaling_healing_and_a_bad_version() {
    need_root!();
    let node = start(&["v1.0.0"]);
    apply(&node, "v1.0.0", 2);
    rolled_out(&node);
    node.ctl(&["scale", NAME, "--replicas", "4"]).ok();
    rolled_out(&node);
    assert_eq!(pods(&node).len(), 4);
    assert!(
        node.ctl(&["scale", NAME, "--replicas", "1", "--current-replicas", "2"])
            .err()
            .contains("was 4")
    );

    let names = |pods: &[Value]| -> Vec<String> {
        pods.iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let victim = names(&pods(&node)).remove(0);
    node.ctl(&["delete", "pod", &victim]).ok();
    rolled_out(&node);
    assert!(pods(&node).len() == 4 && !names(&pods(&node)).contains(&victim));

    // A version that cannot start stops at the surge: the old pods go on.
    apply(&node, "v9.9.9", 4);
    let waiting = node.ctl(&["rollout", "status", NAME, "--timeout", "3s"]).err();
    assert!(waiting.contains("timed out waiting for the rollout"), "{waiting}");
    let images: Vec<String> = pods(&node)
        .iter()
        .map(|pod| {
            pod["spec"]["containers"][0]["image"]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert!(
        images.iter().filter(|image| image.ends_with(":v1.0.0")).count() >= 3,
        "{images:?}"
    );
    node.ctl(&["rollout", "undo", NAME]).ok();
    rolled_out(&node);
    assert_eq!(answer(&node), "v1.0.0");
}

#[test]
fn a_rollout_goes_on_after_berthd_is_killed() {
    need_root!();
    let mut node = start(&["v1.0.0", "v2.0.0"]);
    apply(&node, "v1.0.0", 3);
    rolled_out(&node);
    apply(&node, "v2.0.0", 3);
    node.kill_daemon();
    node.spawn();
    rolled_out(&node);
    assert_eq!(answer(&node), "v2.0.0");
    assert_eq!(pods(&node).len(), 3);
    let sets = json(&node, &["replicasets"]);
    assert_eq!(
        sets["items"].as_array().expect("a list").len(),
        2,
        "no set was made twice"
    );
}

#[test]
fn paused_and_restarted() {
    need_root!();
    let node = start(&["v1.0.0", "v2.0.0"]);
    apply(&node, "v1.0.0", 1);
    rolled_out(&node);
    node.ctl(&["rollout", "pause", NAME]).ok();
    assert!(
        node.ctl(&["rollout", "pause", NAME])
            .err()
            .contains("already paused")
    );
    apply(&node, "v2.0.0", 1);
    assert!(node.ctl(&["rollout", "restart", NAME]).err().contains("paused"));
    assert_eq!(answer(&node), "v1.0.0");
    node.ctl(&["rollout", "resume", NAME]).ok();
    rolled_out(&node);
    assert_eq!(answer(&node), "v2.0.0");
    let before = pods(&node)[0]["metadata"]["uid"].clone();
    node.ctl(&["rollout", "restart", NAME]).ok();
    rolled_out(&node);
    assert_ne!(pods(&node)[0]["metadata"]["uid"], before);
}

#[test]
fn deletion_by_every_propagation() {
    need_root!();
    let node = start(&["v1.0.0"]);
    let count = |kind: &str| json(&node, &[kind])["items"].as_array().map_or(0, Vec::len);
    apply(&node, "v1.0.0", 1);
    rolled_out(&node);
    node.ctl(&["delete", NAME, "--cascade=foreground"]).ok();
    assert_eq!(
        (count("deployments"), count("replicasets"), count("pods")),
        (0, 0, 0)
    );

    apply(&node, "v1.0.0", 1);
    rolled_out(&node);
    let uid = pods(&node)[0]["metadata"]["uid"].clone();
    node.ctl(&["delete", NAME, "--cascade=orphan"]).ok();
    assert_eq!(
        (count("deployments"), count("replicasets"), count("pods")),
        (0, 1, 1)
    );
    apply(&node, "v1.0.0", 1);
    rolled_out(&node);
    assert_eq!(pods(&node)[0]["metadata"]["uid"], uid, "the orphan is adopted");

    node.ctl(&["delete", "pods,deployments", "--all"]).ok();
    assert!(node.ctl(&["delete", "pods"]).err().contains("--all"));
}
