//! helm 3 and 4 against the node: a chart is installed, tested, upgraded, rolled back and taken away.

use crate::world::{PATIENCE, World};
use harness::{Node, Outcome, need_root, repository_root, run, skip, wait_for};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The helm programs that `tests/fetch-kubectl` put beside the kubectls.
fn helms() -> Vec<PathBuf> {
    let cache = std::env::var_os("BERTH_KUBECTL_DIR")
        .map_or_else(|| repository_root().join("target/kubectl"), PathBuf::from);
    ["helm-3", "helm-4"]
        .iter()
        .map(|name| cache.join(name))
        .filter(|path| path.exists())
        .collect()
}

fn helm(node: &Node, program: &Path, arguments: &[&str]) -> Outcome {
    run(Command::new(program)
        .env("KUBECONFIG", node.kubeconfig())
        .env("HOME", node.path())
        .args(arguments))
}

/// What the chart's objects are, by kind and name.
fn objects(node: &Node) -> Vec<String> {
    let kinds = "deployments,replicasets,pods,services,configmaps,serviceaccounts,secrets";
    let list = node.ctl(&["get", kinds, "-o", "json"]).ok();
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let mut names: Vec<String> = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|o| {
            format!(
                "{}/{}",
                o["kind"].as_str().expect("kind"),
                o["metadata"]["name"].as_str().expect("name")
            )
        })
        .collect();
    names.sort();
    names
}

fn greeting(node: &Node) -> String {
    let config = node.ctl(&["get", "configmap", "hello", "-o", "json"]).ok();
    let config: Value = serde_json::from_str(&config).expect("JSON");
    let config = config["data"]["index.html"]
        .as_str()
        .expect("a greeting")
        .to_owned();
    let pods = node.ctl(&["get", "pods", "-l", "app=hello", "-o", "json"]).ok();
    let pods: Value = serde_json::from_str(&pods).expect("JSON");
    let ready = pods["items"].as_array().expect("items").iter().filter(|pod| {
        pod["metadata"]["deletionTimestamp"].is_null()
            && pod["metadata"]["annotations"]["greeting"] == config.as_str()
            && pod["status"]["containerStatuses"][0]["ready"] == true
    });
    format!("{config} by {}", ready.count())
}

#[test]
fn a_chart_comes_changes_and_goes() {
    need_root!();
    let programs = helms();
    if programs.is_empty() {
        skip!("needs a helm");
    }
    let world = World::new();
    let node = &world.node;
    let chart = repository_root().join("examples/helm/hello");
    let chart = chart.to_str().expect("UTF-8");
    let before = objects(node);
    for program in programs {
        let helm = |arguments: &[&str]| helm(node, &program, arguments);
        let wait = ["--wait", "--timeout", "90s"];
        let with = |words: &[&str]| helm(&[words, &wait[..]].concat());
        let installed = with(&["install", "hello", chart]).ok();
        assert!(installed.contains("STATUS: deployed"), "{installed}");
        assert_eq!(greeting(node), "hello by 2");
        let again = with(&["install", "hello", chart]).err();
        assert!(
            again.contains("still in use") || again.contains("re-use a name"),
            "{again}"
        );
        let listed = helm(&["list"]).ok();
        assert!(listed.contains("hello-0.1.0"), "{listed}");
        // The hook's pod finds the Service by its name.
        let tested = helm(&["test", "hello", "--timeout", "90s"]).ok();
        assert!(tested.contains("Succeeded"), "{tested}");
        let upgraded = with(&["upgrade", "hello", chart, "--set", "greeting=good day,replicas=3"]).ok();
        assert!(upgraded.contains("REVISION: 2"), "{upgraded}");
        assert_eq!(greeting(node), "good day by 3");
        // One whose pods never run fails in its time, and the old ones go on.
        let broken = helm(&[
            "upgrade",
            "hello",
            chart,
            "--set",
            "image=nowhere:1",
            "--wait",
            "--timeout",
            "5s",
        ])
        .err();
        assert!(!broken.is_empty());
        let history = helm(&["history", "hello"]).ok();
        assert!(history.contains("failed"), "{history}");
        with(&["rollback", "hello", "2"]).ok();
        assert_eq!(greeting(node), "good day by 3");
        with(&["rollback", "hello", "1"]).ok();
        assert_eq!(greeting(node), "hello by 2");
        let values = helm(&["get", "values", "hello", "--all"]).ok();
        assert!(values.contains("replicas: 2"), "{values}");
        let status = helm(&["status", "hello"]).ok();
        assert!(status.contains("REVISION: 5"), "{status}");
        with(&["uninstall", "hello"]).ok();
        wait_for("all of the chart to be gone", PATIENCE, || {
            let left = objects(node);
            if left == before { Ok(()) } else { Err(left) }
        });
        assert!(!helm(&["list"]).ok().contains("hello-0.1.0"));
    }
    world.clean();
}
