//! Quotas, limit ranges, disruption budgets, metrics, leases, and what is refused in a sentence.

use crate::world::{PATIENCE, WAIT, World, script, with};
use harness::{Node, NodeOptions, kubectl, need_root, skip, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

fn kube(world: &World, kubectl: &Path, arguments: &[&str]) -> harness::Outcome {
    world.node.kubectl(kubectl, arguments)
}

fn apply_refused(world: &World, object: &Value) -> String {
    let file = world.node.path().join("refused.json");
    std::fs::write(&file, object.to_string()).expect("write the manifest");
    world.node.ctl(&["apply", "-f", &file.to_string_lossy()]).err()
}

fn pod(name: &str, resources: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
           "spec": {"containers": [with(WAIT, json!({"resources": resources}))]}})
}

#[test]
fn quotas_hold_for_everybody() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    world.apply(
        &json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"pods": "2", "requests.memory": "64Mi", "count/configmaps": "2"}}}),
    );
    let open = apply_refused(&world, &pod("open", json!({})));
    assert!(open.contains("must specify requests.memory for: c"), "{open}");
    let big = apply_refused(&world, &pod("big", json!({"requests": {"memory": "65Mi"}})));
    assert!(
        big.contains("exceeded quota: q, requested: requests.memory=65Mi"),
        "{big}"
    );
    world.apply(&pod("one", json!({"requests": {"memory": "16Mi"}})));
    // A controller's pods count as well: one of three fits.
    world.apply(&json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "many"}},
                 "template": {"metadata": {"labels": {"app": "many"}},
                              "spec": {"containers": [with(WAIT, json!({"resources": {"requests": {"memory": "16Mi"}}}))]}}}}));
    wait_for("the refusal of the controller's pods", PATIENCE, || {
        let events = kube(&world, &kubectl, &["get", "events"]).ok();
        if events.contains("FailedCreate") && events.contains("exceeded quota: q") {
            Ok(())
        } else {
            Err(events)
        }
    });
    wait_for("the quota's status", PATIENCE, || {
        let shown = kube(&world, &kubectl, &["get", "quota", "q"]).ok();
        if shown.contains("pods: 2/2") && shown.contains("requests.memory: 32Mi/64Mi") {
            Ok(())
        } else {
            Err(shown)
        }
    });
    let pods = kube(&world, &kubectl, &["get", "pods", "-o", "name"]).ok();
    assert_eq!(pods.lines().count(), 2, "{pods}");
    // kube-root-ca.crt is one of two.
    kube(&world, &kubectl, &["create", "configmap", "a"]).ok();
    let third = kube(&world, &kubectl, &["create", "configmap", "b"]).err();
    assert!(third.contains("exceeded quota: q"), "{third}");
    let described = kube(&world, &kubectl, &["describe", "quota", "q"]).ok();
    assert!(described.contains("count/configmaps"), "{described}");
    world.clean();
}

#[test]
fn limit_ranges_fill_and_refuse() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    world.apply(&json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": [
        {"type": "Container", "default": {"memory": "64Mi"}, "defaultRequest": {"memory": "32Mi"}, "max": {"memory": "128Mi"}}]}}));
    world.apply(&pod("filled", json!({})));
    world.ready("filled");
    let limit = kube(
        &world,
        &kubectl,
        &[
            "exec",
            "filled",
            "--",
            "sh",
            "-c",
            "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null",
        ],
    );
    assert!(limit.stdout.contains(&(64 << 20).to_string()), "{limit:?}");
    let big = apply_refused(&world, &pod("big", json!({"limits": {"memory": "256Mi"}})));
    assert!(
        big.contains("maximum memory usage per Container is 128Mi, but limit is 256Mi"),
        "{big}"
    );
    let wrong = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "w"}, "spec": {"limits": [
        {"type": "Container", "default": {"memory": "64Mi"}, "max": {"memory": "32Mi"}}]}});
    let wrong = apply_refused(&world, &wrong);
    assert!(wrong.contains("spec.limits[0].max[memory]"), "{wrong}");
    world.clean();
}

#[test]
fn evictions_keep_to_budgets() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    // Pods are ready as long as a file of the test's is there, so that no successor is ready before it may be.
    let gate = TempDir::with_prefix("berth-gate-").expect("temporary directory");
    let open = gate.path().join("open");
    std::fs::write(&open, "").expect("open the gate");
    let container = with(
        WAIT,
        json!({"volumeMounts": [{"name": "gate", "mountPath": "/gate"}],
               "readinessProbe": {"exec": {"command": ["test", "-e", "/gate/open"]}, "periodSeconds": 1,
                                  "failureThreshold": 1000}}),
    );
    world.apply(
        &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                     "terminationGracePeriodSeconds": 1,
                     "volumes": [{"name": "gate", "hostPath": {"path": gate.path()}}],
                     "containers": [container]}}}}),
    );
    kube(
        &world,
        &kubectl,
        &["create", "pdb", "web", "--selector=app=web", "--min-available=2"],
    )
    .ok();
    kube(
        &world,
        &kubectl,
        &["rollout", "status", "deploy/web", "--timeout=60s"],
    )
    .ok();
    let budget = |field: &str| {
        let path = format!("jsonpath={{.status.{field}}}");
        kube(&world, &kubectl, &["get", "pdb", "web", "-o", &path]).ok()
    };
    wait_for("the budget's status", PATIENCE, || {
        let seen = (budget("currentHealthy"), budget("disruptionsAllowed"));
        if seen == ("2".to_owned(), "0".to_owned()) {
            Ok(())
        } else {
            Err(seen)
        }
    });
    let evict = |name: &str| {
        let body =
            json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}).to_string();
        let file = world.node.path().join("eviction.json");
        std::fs::write(&file, body).expect("write");
        let path = format!("/api/v1/namespaces/default/pods/{name}/eviction");
        kube(
            &world,
            &kubectl,
            &["create", "-v=8", "--raw", &path, "-f", &file.to_string_lossy()],
        )
    };
    let node = kube(&world, &kubectl, &["get", "nodes", "-o", "name"]).ok();
    let drain = [
        "drain",
        node.trim(),
        "--ignore-daemonsets",
        "--timeout=2s",
        "--pod-selector=app=web",
    ];
    let refused = kube(&world, &kubectl, &drain);
    assert!(
        refused.code() != 0
            && refused
                .stderr
                .contains("would violate the pod's disruption budget"),
        "{refused:?}"
    );
    // Whoever is told when to ask again waits that long, also beyond his own deadline: the answer must not say it.
    let pods = kube(&world, &kubectl, &["get", "pods", "-l", "app=web", "-o", "name"]).ok();
    let pod = pods
        .lines()
        .next()
        .and_then(|n| n.strip_prefix("pod/"))
        .expect("a pod");
    let seen = evict(pod).err();
    assert!(seen.contains("429") && seen.contains("Content-Type"), "{seen}");
    assert!(!seen.contains("Retry-After"), "{seen}");
    kube(&world, &kubectl, &["uncordon", node.trim()]).ok();
    kube(
        &world,
        &kubectl,
        &["patch", "pdb", "web", "-p", r#"{"spec":{"minAvailable":1}}"#],
    )
    .ok();
    wait_for("one disruption to be allowed", PATIENCE, || {
        let seen = budget("disruptionsAllowed");
        if seen == "1" { Ok(()) } else { Err(seen) }
    });
    let names = kube(
        &world,
        &kubectl,
        &[
            "get",
            "pods",
            "-l",
            "app=web",
            "-o",
            "jsonpath={.items[*].metadata.name}",
        ],
    )
    .ok();
    std::fs::remove_file(&open).expect("close the gate");
    // The pods that are ready stay so for as many looks as they may fail: a long time.
    let codes: Vec<i32> = names.split_whitespace().map(|name| evict(name).code()).collect();
    assert_eq!(
        codes,
        [0, 1],
        "one may go, the other not before its successor is ready"
    );
    std::fs::write(&open, "").expect("open the gate");
    wait_for("one disruption to be allowed again", PATIENCE, || {
        let seen = budget("disruptionsAllowed");
        if seen == "1" { Ok(()) } else { Err(seen) }
    });
    world.clean();
}

#[test]
fn top_shows_what_is_used() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    world.pod("busy", json!({"containers": [script("while :; do :; done")]}));
    world.pod("idle", json!({"containers": [script(WAIT)]}));
    world.ready("busy");
    world.ready("idle");
    wait_for("the busy pod's use", PATIENCE, || {
        let shown = kube(&world, &kubectl, &["top", "pods", "--containers", "--no-headers"]).ok();
        let cpu = |name: &str| -> Option<u64> {
            let line = shown.lines().find(|l| l.starts_with(name))?;
            line.split_whitespace().nth(2)?.strip_suffix('m')?.parse().ok()
        };
        // How much it gets depends on the machine; an idle one hardly gets any.
        match (cpu("busy"), cpu("idle")) {
            (Some(busy), Some(idle)) if busy > 50 && busy > idle => Ok(()),
            _ => Err(shown),
        }
    });
    let node = kube(&world, &kubectl, &["top", "nodes"]).ok();
    assert!(node.contains("MEMORY") && node.contains('%'), "{node}");
    world.clean();
}

#[test]
fn what_is_left_out_says_so_and_leases_are_kept() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    harness::isolate();
    let node = Node::start(NodeOptions::default());
    let raw = |path: &str| node.kubectl(&kubectl, &["get", "--raw", path]);
    for (path, word) in [
        (
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
            "CustomResourceDefinitions are not served",
        ),
        ("/apis/admissionregistration.k8s.io/v1", "webhooks"),
        ("/apis/apiregistration.k8s.io/v1/apiservices", "aggregation"),
    ] {
        let refused = raw(path).err();
        assert!(refused.contains(word), "{path}: {refused}");
    }
    let document: Value = serde_json::from_str(&raw("/openapi/v2").ok()).expect("JSON");
    assert_eq!(document["swagger"], "2.0");
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "leader"},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15, "renewTime": "2026-01-02T03:04:05.000000Z"}});
    let file = node.path().join("lease.json");
    std::fs::write(&file, lease.to_string()).expect("write");
    node.kubectl(&kubectl, &["apply", "-f", &file.to_string_lossy()])
        .ok();
    assert!(node.kubectl(&kubectl, &["get", "lease"]).ok().contains("me"));
}
