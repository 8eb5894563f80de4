//! RuntimeClasses: pods by another runtime than the node's.

use crate::world::{PATIENCE, WAIT, World, script};
use harness::{kubectl, need_program, need_root, run, skip, wait_for};
use serde_json::{Value, json};
use std::process::Command;

fn class(name: &str, more: &Value) -> Value {
    let mut class =
        json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": name}});
    for (key, value) in more.as_object().expect("an object") {
        class[key] = value.clone();
    }
    class
}

#[test]
fn a_pod_runs_by_the_runtime_of_its_class() {
    need_root!();
    let runc = need_program!("runc");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let handler = format!("other={}", runc.display());
    let mut world = World::with(&["--runtime-handler", &handler]);
    let kube = |world: &World, arguments: &[&str]| world.node.kubectl(&kubectl, arguments);
    let overhead = json!({
        "handler": "other", "overhead": {"podFixed": {"cpu": "10m", "memory": "8Mi"}},
        "scheduling": {"nodeSelector": {"kubernetes.io/os": "linux"}, "tolerations": [{"key": "k", "operator": "Exists"}]},
    });
    world.apply(&class("by-runc", &overhead));
    world.apply(&class("by-nobody", &json!({"handler": "gvisor"})));
    let listed = kube(&world, &["get", "runtimeclasses"]).ok();
    for line in [
        "NAME        HANDLER   AGE",
        "by-nobody   gvisor ",
        "by-runc     other ",
    ] {
        assert!(listed.contains(line), "{listed}");
    }
    let probed = json!({
        "name": "c", "image": "busybox:1", "command": ["sh", "-c", format!("echo it runs; {WAIT}")],
        "readinessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1},
    });
    world.pod(
        "p",
        json!({"runtimeClassName": "by-runc", "containers": [probed]}),
    );
    world.pod("plain", json!({"containers": [script(WAIT)]}));
    world.pod(
        "lost",
        json!({"runtimeClassName": "by-nobody", "containers": [script(WAIT)]}),
    );
    let pod = world.ready("p");
    assert_eq!(
        (
            &pod["spec"]["overhead"],
            &pod["spec"]["nodeSelector"],
            &pod["spec"]["tolerations"][0]
        ),
        (
            &json!({"cpu": "10m", "memory": "8Mi"}),
            &json!({"kubernetes.io/os": "linux"}),
            &json!({"key": "k", "operator": "Exists"})
        )
    );
    // The other runtime knows the container, and only that one.
    let root = world.node.path().join("run/runtimes/other");
    let known = || run(Command::new(&runc).arg("--root").arg(&root).args(["list", "-q"])).ok();
    let id = pod["status"]["containerStatuses"][0]["containerID"]
        .as_str()
        .expect("an id")
        .to_owned();
    assert_eq!(format!("berth://{}", known().trim()), id);
    assert_eq!(
        kube(&world, &["exec", "p", "--", "echo", "inside"]).ok(),
        "inside\n"
    );
    world.says(&["p"], "it runs\n");
    world.told(
        "lost",
        "RuntimeClass \"by-nobody\": no runtime for handler \"gvisor\" is configured: start berthd with --runtime-handler gvisor=PROGRAM (configured: other)",
    );

    // What a pod may not say.
    for (spec, told) in [
        (
            json!({"runtimeClassName": "nope"}),
            "RuntimeClass \"nope\" not found",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "Pod Overhead set without corresponding RuntimeClass",
        ),
        (
            json!({"runtimeClassName": "by-runc", "overhead": {"cpu": "1"}}),
            "doesn't match RuntimeClass's defined Overhead",
        ),
    ] {
        let mut spec = spec;
        spec["containers"] = json!([script(WAIT)]);
        let file = world.node.path().join("bad.json");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": spec});
        std::fs::write(&file, pod.to_string()).expect("write the manifest");
        let error = kube(&world, &["create", "-f", &file.to_string_lossy()]).err();
        assert!(error.contains(told), "{error}");
    }
    let patch = r#"{"handler":"gvisor"}"#;
    let error = kube(
        &world,
        &["patch", "runtimeclass", "by-runc", "--type=merge", "-p", patch],
    )
    .err();
    assert!(
        error.contains("handler: Invalid value: \"gvisor\": field is immutable"),
        "{error}"
    );

    // A class that goes, and a daemon that knows no such handler any more, take nothing from a pod that is there.
    kube(&world, &["delete", "runtimeclass", "by-runc"]).ok();
    world.node.kill_daemon();
    world
        .node
        .reconfigure(|arguments| arguments.retain(|a| a != "--runtime-handler" && *a != handler));
    world.node.spawn();
    assert_eq!(
        world.ready("p")["status"]["containerStatuses"][0]["containerID"],
        id.as_str()
    );
    assert_eq!(
        kube(&world, &["exec", "p", "--", "echo", "still"]).ok(),
        "still\n"
    );
    world.delete("p");
    wait_for("the container to be gone from its runtime", PATIENCE, || {
        let left = known();
        if left.trim().is_empty() { Ok(()) } else { Err(left) }
    });
    world.clean();
}
