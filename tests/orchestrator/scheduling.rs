//! Room on the node: pods that wait for it, priorities, preemption, gates, a cordoned node.

use crate::bench::Bench;
use crate::world::{PATIENCE, WAIT, script, with};
use harness::{kubectl, need_root, skip, wait_for};
use serde_json::{Value, json};
use std::path::PathBuf;
use tempfile::TempDir;

/// A node that has one CPU for pods.
fn one_processor(kubectl: PathBuf) -> Bench {
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let reserved = format!("cpu={}m,memory=64Mi", all * 1000 - 1000);
    Bench::new(kubectl, &["--reserve", &reserved])
}

impl Bench {
    #[track_caller]
    fn class(&self, name: &str, value: i64, more: &Value) {
        let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
        for (key, field) in more.as_object().expect("an object") {
            class[key] = field.clone();
        }
        self.world.apply(&class);
    }

    /// A pod with a request of CPU.
    #[track_caller]
    fn asks(&self, name: &str, cpu: &str, class: &str, text: &str) {
        let container = with(text, json!({"resources": {"requests": {"cpu": cpu}}}));
        let mut spec = json!({"containers": [container], "terminationGracePeriodSeconds": 5});
        if !class.is_empty() {
            spec["priorityClassName"] = json!(class);
        }
        self.world.pod(name, spec);
    }

    /// Waits until a pod has been told that it has no place, and gives the words.
    #[track_caller]
    fn waits(&self, name: &str, reason: &str) -> String {
        let pod = self
            .world
            .wait(name, reason, |pod, _| scheduled(pod)["reason"] == reason);
        assert_eq!(pod["spec"]["nodeName"], Value::Null);
        assert_eq!(pod["status"]["phase"], "Pending");
        scheduled(&pod)["message"].as_str().unwrap_or_default().to_owned()
    }
}

/// The condition PodScheduled.
fn scheduled(pod: &Value) -> Value {
    let list = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.into_iter()
        .find(|c| c["type"] == "PodScheduled")
        .unwrap_or_default()
}

#[test]
fn pods_wait_for_room_and_push_lesser_ones_out() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let mut bench = one_processor(kubectl);
    let listed = bench.kube(&["get", "priorityclasses"]);
    for line in [
        "NAME                      VALUE        GLOBAL-DEFAULT   AGE",
        "system-node-critical      2000001000   false",
        "PREEMPTIONPOLICY",
    ] {
        assert!(listed.contains(line), "{listed}");
    }
    bench.class("low", 10, &json!({"globalDefault": true}));
    bench.class("high", 1000, &json!({}));
    bench.class("patient", 500, &json!({"preemptionPolicy": "Never"}));

    // No room: the pod waits, also while berthd is away, until there is some.
    bench.asks("first", "600m", "", WAIT);
    let first = bench.world.ready("first");
    assert_eq!(
        (&first["spec"]["priority"], &first["spec"]["priorityClassName"]),
        (&json!(10), &json!("low"))
    );
    bench.asks("second", "600m", "low", WAIT);
    let told = bench.waits("second", "Unschedulable");
    assert_eq!(
        told,
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    bench.world.told("second", &told);
    bench.asks("small", "100m", "", WAIT);
    bench.world.ready("small");
    bench.asks("huge", "7", "high", WAIT);
    bench.waits("huge", "Unschedulable");
    bench.world.node.kill_daemon();
    bench.world.node.spawn();
    bench.world.delete("first");
    bench.world.ready("second");
    bench
        .world
        .told("second", "Successfully assigned default/second to ");
    assert_eq!(
        scheduled(&bench.world.get("second").expect("the pod"))["status"],
        "True"
    );

    // One that may not push others out waits; one that may does, and the other one ends politely.
    let dir = TempDir::with_prefix("berth-victim-").expect("temporary directory");
    let text = "trap 'sleep 1; echo polite > /out/end; exit 0' TERM; while :; do sleep 0.05; done";
    let mut victim = with(text, json!({"resources": {"requests": {"cpu": "300m"}}}));
    victim["volumeMounts"] = json!([{"name": "out", "mountPath": "/out"}]);
    let volumes = json!([{"name": "out", "hostPath": {"path": dir.path()}}]);
    bench.world.pod(
        "victim",
        json!({"containers": [victim], "volumes": volumes, "terminationGracePeriodSeconds": 30}),
    );
    bench.world.ready("victim");
    bench.asks("humble", "200m", "patient", WAIT);
    let told = bench.waits("humble", "Unschedulable");
    assert!(
        told.ends_with("preemption: not eligible due to preemptionPolicy=Never."),
        "{told}"
    );
    bench.asks("proud", "300m", "high", WAIT);
    bench.world.wait("proud", "a nominated node", |pod, _| {
        !pod["status"]["nominatedNodeName"].is_null()
    });
    // What is being made free is not for others.
    bench.asks("thief", "100m", "low", WAIT);
    bench.waits("thief", "Unschedulable");
    let proud = bench.world.ready("proud");
    assert_eq!(proud["status"]["nominatedNodeName"], Value::Null);
    let uid = proud["metadata"]["uid"].as_str().expect("a uid");
    bench
        .world
        .told("victim", &format!("Preempted by pod {uid} on node "));
    assert_eq!(
        std::fs::read_to_string(dir.path().join("end")).expect("the victim's word"),
        "polite\n"
    );
    assert!(bench.world.get("victim").is_err());
    for stays in ["second", "small"] {
        bench.world.ready(stays);
    }
    bench.world.clean();
}

#[test]
fn a_budget_a_gate_and_a_cordon_are_kept() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let bench = one_processor(kubectl);
    bench.class("high", 1000, &json!({}));
    // The one that a budget guards is younger, and would go first without it.
    bench.asks("plain", "400m", "", WAIT);
    bench.world.ready("plain");
    bench.asks("guarded", "400m", "", WAIT);
    bench.world.ready("guarded");
    bench.world.apply(
        &json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}}),
    );
    bench.asks("proud", "500m", "high", WAIT);
    bench.world.ready("proud");
    assert!(bench.world.get("plain").is_err());
    bench.world.ready("guarded");
    // Only as a last resort.
    bench.asks("prouder", "700m", "system-node-critical", WAIT);
    bench.world.ready("prouder");
    assert!(bench.world.get("guarded").is_err());
    bench.world.delete("prouder");

    bench.world.pod(
        "gated",
        json!({"schedulingGates": [{"name": "example.com/wait"}], "containers": [script(WAIT)]}),
    );
    bench.waits("gated", "SchedulingGated");
    let shown = bench.kube(&["get", "pod", "gated"]);
    assert!(shown.contains("SchedulingGated"), "{shown}");
    bench.kube(&[
        "patch",
        "pod",
        "gated",
        "--type=json",
        "-p",
        r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#,
    ]);
    bench.world.ready("gated");
    let again = r#"{"spec":{"schedulingGates":[{"name":"example.com/wait"}]}}"#;
    let told = bench
        .world
        .node
        .kubectl(&bench.kubectl, &["patch", "pod", "gated", "-p", again])
        .err();
    assert!(told.contains("only deletion is allowed"), "{told}");

    let node = bench.kube(&["get", "nodes", "-o", "name"]);
    bench.kube(&["cordon", node.trim()]);
    bench.asks("late", "100m", "high", WAIT);
    let told = bench.waits("late", "Unschedulable");
    assert!(
        told.starts_with("0/1 nodes are available: 1 node(s) were unschedulable. preemption: "),
        "{told}"
    );
    let unmoved = json!({"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}], "containers": [script(WAIT)]});
    bench.world.pod("tolerant", unmoved);
    bench.world.ready("tolerant");
    bench.kube(&["uncordon", node.trim()]);
    bench.world.ready("late");
    // A pod that waits has nothing that would have to end.
    bench.asks("never", "9", "", WAIT);
    bench.waits("never", "Unschedulable");
    bench.world.delete("never");
    wait_for("the waiting pod to be gone", PATIENCE, || {
        match bench.world.get("never") {
            Err(_) => Ok(()),
            Ok(pod) => Err(pod.to_string()),
        }
    });
    bench.world.clean();
}

#[test]
fn bad_classes_are_refused() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let bench = one_processor(kubectl);
    bench.class("usual", 5, &json!({"globalDefault": true}));
    let refused = |arguments: &[&str]| bench.world.node.kubectl(&bench.kubectl, arguments).err();
    for (arguments, told) in [
        (
            &[
                "create",
                "priorityclass",
                "other",
                "--value=7",
                "--global-default=true",
            ][..],
            "PriorityClass usual is already marked as default. Only one default can exist",
        ),
        (
            &["create", "priorityclass", "system-mine", "--value=7"],
            "'system-' prefix are reserved for system use only",
        ),
        (
            &["create", "priorityclass", "big", "--value=1000000001"],
            "maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            &[
                "create",
                "priorityclass",
                "odd",
                "--value=1",
                "--preemption-policy=Maybe",
            ],
            "preemptionPolicy: Unsupported value: \"Maybe\"",
        ),
        (
            &["patch", "priorityclass", "usual", "-p", r#"{"value":6}"#],
            "value: Invalid value: 6: field is immutable",
        ),
        (
            &[
                "run",
                "x",
                "--image=busybox:1",
                r#"--overrides={"apiVersion":"v1","spec":{"priorityClassName":"nope"}}"#,
            ],
            "no PriorityClass with name nope was found",
        ),
        (
            &[
                "run",
                "x",
                "--image=busybox:1",
                r#"--overrides={"apiVersion":"v1","spec":{"priority":3}}"#,
            ],
            "priority admission controller computed 5",
        ),
    ] {
        let error = refused(arguments);
        assert!(error.contains(told), "{arguments:?}: {error}");
    }
    let explained = bench.kube(&["explain", "priorityclass.preemptionPolicy"]);
    assert!(explained.contains("preemptionPolicy"), "{explained}");
}

#[test]
fn the_examples_of_pods_run() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let bench = one_processor(kubectl);
    let folder = harness::repository_root().join("examples/manifests/pods");
    let folder = folder.to_string_lossy();
    bench.kube(&["apply", "-f", &folder]);
    for name in [
        "filler",
        "important",
        "shared-processes",
        "probes",
        "limits",
        "init-containers",
        "downward-api",
        "projected-volume",
    ] {
        bench.world.ready(name);
    }
    bench.world.phase("sidecar", "Succeeded");
    for (arguments, said) in [
        (
            ["sidecar", "-c", "collector"],
            "collected\nrecord 1\nrecord 2\nrecord 3\n",
        ),
        (["init-containers", "-c", "wait"], "the network is there\n"),
        (["init-containers", "-c", "server"], "made at the start\n"),
        (["downward-api", "-c", "reader"], "downward-api in default on "),
        (
            ["projected-volume", "-c", "reader"],
            "green, open sesame, projected-volume\n",
        ),
    ] {
        wait_for(said, PATIENCE, || {
            let log = bench.world.logs(&arguments);
            if log.starts_with(said) { Ok(()) } else { Err(log) }
        });
    }
    // Files follow what they tell of.
    bench.kube(&["label", "pod", "downward-api", "stage=live", "--overwrite"]);
    wait_for("the label to reach the file", PATIENCE, || {
        let arguments = [
            "exec",
            "downward-api",
            "--",
            "cat",
            "/about/labels",
            "/about/memory",
        ];
        let told = bench.world.node.kubectl(&bench.kubectl, &arguments);
        if told.stdout.contains("stage=\"live\"") && told.stdout.ends_with("33554432") {
            Ok(())
        } else {
            Err(told)
        }
    });
    wait_for("the server to be reloaded by its neighbour", PATIENCE, || {
        let log = bench.world.logs(&["shared-processes", "-c", "server"]);
        if log.contains("reloaded") {
            Ok(())
        } else {
            Err(log)
        }
    });
    let again = bench.kube(&["apply", "-f", &folder]);
    assert!(again.matches("unchanged").count() >= 6, "{again}");
    let patch = r#"{"spec":{"containers":[{"name":"work","resources":{"requests":{"cpu":"20m"},"limits":{"cpu":"200m"}}}]}}"#;
    let resized = bench.world.node.kubectl(
        &bench.kubectl,
        &[
            "patch",
            "pod",
            "limits",
            "--subresource",
            "resize",
            "--patch",
            patch,
        ],
    );
    // Only newer clients know the subresource.
    if resized.status.success() {
        bench.world.wait("limits", "the resize", |_, c| {
            c["resources"]["limits"]["cpu"] == "200m" && c["restartCount"] == 0
        });
    }
    bench.kube(&["delete", "-f", &folder]);
    bench.world.clean();
}
