//! Taints that users put on the node, and what of it a cordon is.

use crate::bench::{Bench, bench};
use crate::world::{PATIENCE, WAIT, script};
use harness::wait_for;
use serde_json::{Value, json};

/// A pod with these tolerations.
fn pod(bench: &Bench, name: &str, tolerations: &Value) {
    let spec = json!({
        "containers": [script(WAIT)], "tolerations": tolerations, "terminationGracePeriodSeconds": 5,
    });
    bench.world.pod(name, spec);
}

#[track_caller]
fn gone(bench: &Bench, name: &str) {
    wait_for(&format!("{name} to be gone"), PATIENCE, || {
        match bench.world.get(name) {
            Err(_) => Ok(()),
            Ok(pod) => Err(pod["status"].to_string()),
        }
    });
}

/// The node's taints, as KEY=VALUE:EFFECT.
fn taints(bench: &Bench) -> Vec<String> {
    let node = bench.items(&["nodes"]).remove(0);
    let list = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let text = |taint: &Value, field: &str| taint[field].as_str().unwrap_or_default().to_owned();
    list.iter()
        .map(|t| format!("{}={}:{}", text(t, "key"), text(t, "value"), text(t, "effect")))
        .collect()
}

#[track_caller]
fn unplaced(bench: &Bench, name: &str, message: &str) {
    bench.world.wait(name, message, |pod, _| {
        let list = pod["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        list.iter().any(|c| {
            c["type"] == "PodScheduled"
                && c["status"] == "False"
                && c["message"].as_str().is_some_and(|told| told.contains(message))
        })
    });
}

#[test]
fn taints_keep_pods_away_and_end_them() {
    let bench = bench!();
    let node = bench.kube(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let taint = |arguments: &[&str]| bench.kube(&[&["taint", "nodes", &node], arguments].concat());

    pod(&bench, "plain", &json!([]));
    let plain = bench.world.ready("plain");
    // Every pod has five minutes on a node that does not answer.
    let given = plain["spec"]["tolerations"].as_array().expect("a list");
    let seconds: Vec<_> = given
        .iter()
        .map(|one| (&one["key"], &one["tolerationSeconds"]))
        .collect();
    assert_eq!(
        seconds,
        [
            (&json!("node.kubernetes.io/not-ready"), &json!(300)),
            (&json!("node.kubernetes.io/unreachable"), &json!(300)),
        ]
    );

    // Only new pods are kept away, and only those that do not tolerate it.
    taint(&["team=red:NoSchedule"]);
    assert_eq!(taints(&bench), ["team=red:NoSchedule"]);
    let described = bench.kube(&["describe", "node", &node]);
    assert!(described.contains("team=red:NoSchedule"), "{described}");
    pod(
        &bench,
        "away",
        &json!([{"key": "team", "value": "blue", "effect": "NoSchedule"}]),
    );
    unplaced(&bench, "away", "1 node(s) had untolerated taint {team: red}");
    pod(
        &bench,
        "red",
        &json!([{"key": "team", "operator": "Equal", "value": "red", "effect": "NoSchedule"}]),
    );
    bench.world.ready("red");
    bench.world.ready("plain");
    // Another value in place of it, then none.
    taint(&["--overwrite", "team=blue:NoSchedule"]);
    bench.world.ready("away");
    taint(&["team:NoSchedule-"]);
    assert!(taints(&bench).is_empty());
    // A preference has no other node to lead to.
    taint(&["team=red:PreferNoSchedule"]);
    pod(&bench, "anyway", &json!([]));
    bench.world.ready("anyway");
    taint(&["team-"]);

    // The other effect ends pods: at once, after a time, or not.
    let lasting = json!([{"key": "repair", "operator": "Exists"}]);
    let short =
        json!([{"key": "repair", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 2}]);
    let long =
        json!([{"key": "repair", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3600}]);
    for (name, tolerations) in [("lasting", &lasting), ("short", &short), ("long", &long)] {
        pod(&bench, name, tolerations);
        bench.world.ready(name);
    }
    taint(&["repair=now:NoExecute"]);
    gone(&bench, "plain");
    bench
        .world
        .told("plain", "Marking for deletion Pod default/plain");
    gone(&bench, "short");
    bench
        .world
        .told("short", "Marking for deletion Pod default/short");
    bench.world.ready("lasting");
    bench.world.ready("long");
    // A pod that comes now, and does not tolerate it, has no place.
    pod(&bench, "late", &json!([]));
    unplaced(&bench, "late", "1 node(s) had untolerated taint {repair: now}");
    taint(&["repair-"]);
    bench
        .world
        .told("long", "Cancelling deletion of Pod default/long");
    bench.world.ready("long");
    bench.world.ready("late");
    bench.world.clean();
}

#[test]
fn sets_and_cordons_follow_taints() {
    let bench = bench!();
    let node = bench.kube(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    for (kind, name) in [("DaemonSet", "agent"), ("Deployment", "web")] {
        let mut set = json!({
            "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name},
            "spec": {
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {"containers": [script(WAIT)], "terminationGracePeriodSeconds": 5},
                },
            },
        });
        if kind == "Deployment" {
            set["spec"]["replicas"] = json!(1);
        }
        bench.world.apply(&set);
    }
    let until = |what: &str, holds: &dyn Fn(&Value, &Value) -> bool| {
        wait_for(what, PATIENCE, || {
            let (agent, web) = (bench.get(&["ds", "agent"]), bench.get(&["deploy", "web"]));
            let (agent, web) = (&agent["status"], &web["status"]);
            if holds(agent, web) {
                Ok(())
            } else {
                Err(format!("{agent} {web}"))
            }
        });
    };
    until("both to run", &|agent, web| {
        agent["numberReady"] == 1 && web["readyReplicas"] == 1
    });

    // A DaemonSet's pod stays where no new one would come, and is no longer wanted.
    bench.kube(&["taint", "nodes", &node, "a=b:NoSchedule"]);
    until("the daemon to be misplaced", &|agent, _| {
        agent["desiredNumberScheduled"] == 0 && agent["numberMisscheduled"] == 1
    });
    bench.kube(&["taint", "nodes", &node, "a-"]);
    until("the daemon to be wanted", &|agent, _| agent["numberReady"] == 1);
    // It goes, and comes back, with a taint that ends pods.
    let before = bench.items(&["pods", "-l", "app=agent"])[0]["metadata"]["uid"].clone();
    bench.kube(&["taint", "nodes", &node, "a=b:NoExecute"]);
    until("nothing to run", &|agent, web| {
        agent["desiredNumberScheduled"] == 0 && web.get("readyReplicas").is_none()
    });
    wait_for("the daemon to end", PATIENCE, || {
        let left = bench.kube(&["get", "pods", "-l", "app=agent", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    bench.kube(&["taint", "nodes", &node, "a-"]);
    until("both to run again", &|agent, web| {
        agent["numberReady"] == 1 && web["readyReplicas"] == 1
    });
    assert_ne!(
        bench.items(&["pods", "-l", "app=agent"])[0]["metadata"]["uid"],
        before
    );

    // A cordon is a taint as well, which daemons tolerate.
    bench.kube(&["cordon", &node]);
    wait_for("the taint of the cordon", PATIENCE, || match taints(&bench) {
        list if list == ["node.kubernetes.io/unschedulable=:NoSchedule"] => Ok(()),
        list => Err(list),
    });
    until("the daemon to stay", &|agent, _| {
        agent["desiredNumberScheduled"] == 1
    });
    bench.kube(&["uncordon", &node]);
    wait_for("the taint to go", PATIENCE, || match taints(&bench) {
        list if list.is_empty() => Ok(()),
        list => Err(list),
    });
    bench.kube(&["delete", "ds/agent", "deploy/web"]);
    bench.world.clean();
}

#[test]
fn bad_taints_are_refused() {
    let bench = bench!();
    let node = bench.kube(&["get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"]);
    let patch = |taints: Value| {
        let patch = json!({"spec": {"taints": taints}}).to_string();
        let arguments = ["patch", "node", &node, "--type=merge", "-p", &patch];
        bench.world.node.kubectl(&bench.kubectl, &arguments).err()
    };
    for (taints, told) in [
        (json!([{"key": "a"}]), "spec.taints[0].effect: Required value"),
        (
            json!([{"key": "a", "effect": "Sometimes"}]),
            "Unsupported value: \"Sometimes\"",
        ),
        (
            json!([{"key": "a b", "effect": "NoSchedule"}]),
            "spec.taints[0].key",
        ),
        (
            json!([{"key": "a", "effect": "NoSchedule"}, {"key": "a", "value": "b", "effect": "NoSchedule"}]),
            "taints must be unique by key and effect pair",
        ),
    ] {
        let error = patch(taints);
        assert!(error.contains(told), "{error}");
    }
    assert!(taints(&bench).is_empty());
    // What a pod tolerates, it tolerates for good.
    pod(
        &bench,
        "p",
        &json!([{"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 60}]),
    );
    bench.world.ready("p");
    let changed = |tolerations: Value| {
        let patch = json!({"spec": {"tolerations": tolerations}}).to_string();
        let arguments = ["patch", "pod", "p", "--type=merge", "-p", &patch];
        bench.world.node.kubectl(&bench.kubectl, &arguments)
    };
    let error = changed(json!([])).err();
    assert!(
        error.contains("spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"),
        "{error}"
    );
    let mut list = bench.world.get("p").expect("the pod")["spec"]["tolerations"].clone();
    list[0]["tolerationSeconds"] = json!(90);
    list.as_array_mut()
        .expect("a list")
        .push(json!({"key": "b", "operator": "Exists"}));
    changed(list).ok();
    bench.world.clean();
}
