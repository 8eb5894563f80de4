//! `berthctl` against the real node: what it prints, refuses, and shares with kubectl.

use crate::application::{self, feed};
use harness::{Node, NodeOptions, bin, kubectl, need_root, run, skip, wait_for};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Command;
use std::time::Duration;

fn start() -> Node {
    harness::isolate();
    Node::start(NodeOptions::default())
}

const MAPS: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: one, labels: {set: a}}
data: {k: v}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: two, labels: {set: a}}
data: {k: w}
";

#[test]
fn objects_are_shown_in_every_format() {
    need_root!();
    let node = start();
    feed(&node, &["apply", "-f", "-"], MAPS).ok();
    let table = node.ctl(&["get", "cm", "-l", "set=a"]).ok();
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines.len() == 3 && lines[0].starts_with("NAME   DATA   AGE"),
        "{table}"
    );
    assert!(
        node.ctl(&["get", "cm", "-A", "--show-labels"])
            .ok()
            .lines()
            .next()
            .is_some_and(|line| { line.starts_with("NAMESPACE") && line.ends_with("LABELS") })
    );
    assert_eq!(
        node.ctl(&["get", "cm", "-l", "set=a", "-o", "name"]).ok(),
        "configmap/one\nconfigmap/two\n"
    );
    let list: Value =
        serde_json::from_str(&node.ctl(&["get", "cm", "-l", "set=a", "-o", "json"]).ok()).expect("JSON");
    assert_eq!(
        (&list["kind"], &list["items"][1]["data"]["k"]),
        (&Value::from("List"), &Value::from("w"))
    );
    assert!(list["items"][0]["metadata"].get("managedFields").is_none());
    let yaml = node.ctl(&["get", "cm/one", "-o", "yaml"]).ok();
    assert!(
        yaml.starts_with("apiVersion: v1\ndata:\n  k: v\nkind: ConfigMap\n"),
        "{yaml}"
    );
    assert!(
        node.ctl(&["describe", "cm/one"])
            .ok()
            .contains("Data\n====\nk:\n----\nv\n")
    );
    let both = node.ctl(&["get", "cm/one", "ns/default"]).ok();
    assert!(
        both.contains("configmap/one") && both.contains("namespace/default"),
        "{both}"
    );
    let empty = node.ctl(&["get", "pods"]);
    assert_eq!(
        (empty.stdout.as_str(), empty.stderr.as_str()),
        ("", "No resources found in default namespace.\n")
    );
    assert!(node.ctl(&["version"]).ok().contains("Server Version: v1.37"));
    assert!(node.ctl(&["kubeconfig"]).ok().contains("current-context"));
}

#[test]
fn a_watch_tells_every_change() {
    need_root!();
    let node = start();
    feed(&node, &["apply", "-f", "-"], MAPS).ok();
    let output = node.path().join("watched");
    let file = std::fs::File::create(&output).expect("a file");
    let mut child = Command::new(bin("berthctl"))
        .env("KUBECONFIG", node.kubeconfig())
        .args(["get", "cm", "-l", "set=a", "-w", "-o", "name"])
        .stdout(file)
        .spawn()
        .expect("start berthctl");
    let seen = |wanted: &str| {
        wait_for("the watch", Duration::from_secs(20), || {
            let text = std::fs::read_to_string(&output).unwrap_or_default();
            if text == wanted { Ok(()) } else { Err(text) }
        });
    };
    seen("configmap/one\nconfigmap/two\n");
    feed(&node, &["apply", "-f", "-"], &MAPS.replace("k: w", "k: x")).ok();
    seen("configmap/one\nconfigmap/two\nconfigmap/two\n");
    node.ctl(&["delete", "cm", "one"]).ok();
    seen("configmap/one\nconfigmap/two\nconfigmap/two\nconfigmap/one\n");
    child.kill().expect("end the watch");
    child.wait().expect("reap the watch");
}

#[test]
fn what_cannot_be_done_is_one_clear_line() {
    need_root!();
    let node = start();
    let cases: &[(&[&str], &str, i32, &str)] = &[
        (
            &["get", "nonsense"],
            "",
            1,
            "error: the server doesn't have a resource type \"nonsense\"",
        ),
        (
            &["get", "pod", "x"],
            "",
            1,
            "Error from server (NotFound): pods \"x\" not found",
        ),
        (&["get", "pods/x/y"], "", 1, "expected TYPE/NAME"),
        (&["get", "pods", "-l", "a=("], "", 1, "BadRequest"),
        (&["delete", "pod", "x"], "", 1, "NotFound"),
        (&["scale", "cm/x", "--replicas", "1"], "", 1, "cannot be scaled"),
        (&["rollout", "status", "pod/x"], "", 1, "has no rollouts"),
        (&["logs", "x"], "", 1, "NotFound"),
        (&["apply", "-f", "/nowhere"], "", 1, "/nowhere"),
        (
            &["apply", "-f", "-"],
            "a: [",
            1,
            "standard input, document 1: not a manifest",
        ),
        (
            &["apply", "-f", "-"],
            "kind: Pod",
            1,
            "apiVersion or kind not set",
        ),
        (
            &["apply", "-f", "-"],
            "{apiVersion: v1, kind: Nope, metadata: {name: a}}",
            1,
            "no matches for kind \"Nope\"",
        ),
        (
            &["apply", "-f", "-"],
            "{apiVersion: v1, kind: ConfigMap}",
            1,
            "metadata.name",
        ),
        (
            &["apply", "-f", "-"],
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, dat: {}}",
            1,
            "unknown field",
        ),
        (
            &["apply", "-f", "-"],
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: UP}}",
            1,
            "metadata.name",
        ),
        (
            &["apply", "-n", "b", "-f", "-"],
            "{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: c}}",
            1,
            "does not match",
        ),
        (&["apply", "-f", "-"], "", 1, "no manifest"),
        (&["scale", "deployment", "x"], "", 2, "--replicas"),
        (&["--kubeconfig", "/nowhere", "get", "pods"], "", 1, "/nowhere"),
        (
            &["--context", "nope", "get", "pods"],
            "",
            1,
            "no context \"nope\"",
        ),
    ];
    for (arguments, input, code, expected) in cases {
        let outcome = feed(&node, arguments, input);
        assert_eq!(outcome.code(), *code, "{arguments:?}: {outcome:?}");
        assert!(
            outcome.stderr.contains(expected),
            "{arguments:?}: {}",
            outcome.stderr
        );
        assert!(
            *code == 2 || outcome.stderr.trim().lines().count() == 1,
            "{arguments:?}: {}",
            outcome.stderr
        );
    }
    assert_eq!(
        node.ctl(&["get", "cm", "-l", "!kubernetes.io/bootstrapping", "-o", "name"])
            .ok()
            .matches("/a\n")
            .count(),
        0
    );
}

#[test]
fn logs_are_chosen_cut_and_followed() {
    need_root!();
    let node = start();
    application::import(&node, "v1.0.0");
    application::apply(&node, "v1.0.0", 2);
    node.ctl(&["rollout", "status", "deployment/user-service", "--timeout", "60s"])
        .ok();
    let line = "user-service v1.0.0 listens on port 8080\n";
    let logs = node.ctl(&["logs", "deployment/user-service"]);
    assert_eq!(logs.stdout, line);
    assert!(
        logs.stderr.starts_with("Found 2 pods, using pod/"),
        "{}",
        logs.stderr
    );
    let both = node.ctl(&["logs", "-l", "app=user-service", "--prefix"]).ok();
    assert!(
        both.lines().count() == 2 && both.starts_with("[pod/user-service-"),
        "{both}"
    );
    let pod = node.ctl(&["get", "pods", "-o", "name"]).ok();
    let pod = pod
        .lines()
        .next()
        .expect("a pod")
        .trim_start_matches("pod/")
        .to_owned();
    assert_eq!(node.ctl(&["logs", &pod, "--tail", "0"]).ok(), "");
    let timed = node.ctl(&["logs", &pod, "--timestamps", "--since", "10m"]).ok();
    assert!(timed.ends_with(line) && timed.starts_with("20"), "{timed}");
    assert!(
        node.ctl(&["logs", &pod, "-c", "nope"])
            .err()
            .contains("not valid for pod")
    );

    let mut child = Command::new(bin("berthctl"))
        .env("KUBECONFIG", node.kubeconfig())
        .args(["logs", "-f", &pod])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start berthctl");
    // The first line shows that the log is being followed; only then may the pod go.
    let mut output = BufReader::new(child.stdout.take().expect("piped"));
    let mut text = String::new();
    output.read_line(&mut text).expect("the first line");
    node.ctl(&["delete", "pod", &pod]).ok();
    output
        .read_to_string(&mut text)
        .expect("the log ends with the pod");
    child.wait().expect("reap berthctl");
    assert!(
        text.starts_with(line) && text.contains("user-service v1.0.0 stops"),
        "{text}"
    );
}

#[test]
fn kubectl_and_berthctl_take_turns() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs kubectl")
    };
    let node = start();
    let folder = node.path().join("manifests");
    std::fs::create_dir(&folder).expect("a folder");
    let write = |text: &str| std::fs::write(folder.join("maps.yaml"), text).expect("write");
    let path = folder.to_str().expect("a path of text");
    write(MAPS);
    node.kubectl(&kubectl, &["apply", "-f", path]).ok();
    assert_eq!(
        node.ctl(&["apply", "-f", path]).ok(),
        "configmap/one unchanged\nconfigmap/two unchanged\n"
    );
    write(&MAPS.replace("data: {k: v}", "data: {other: v}"));
    assert_eq!(
        node.ctl(&["apply", "-f", path]).ok(),
        "configmap/one configured\nconfigmap/two unchanged\n"
    );
    let shown = node.ctl(&["get", "cm/one", "-o", "json"]).ok();
    let map: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(
        map["data"],
        serde_json::json!({ "other": "v" }),
        "what the last manifest had is gone"
    );
    let again = node.kubectl(&kubectl, &["apply", "-f", path]).ok();
    assert!(again.contains("configmap/one unchanged"), "{again}");
    let server_side = run(Command::new(bin("berthctl"))
        .env("KUBECONFIG", node.kubeconfig())
        .args(["apply", "--server-side", "--force-conflicts", "-f", path]))
    .ok();
    assert!(server_side.contains("serverside-applied"), "{server_side}");
    node.ctl(&["delete", "-f", path]).ok();
}
