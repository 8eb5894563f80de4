//! DaemonSets on the real node, with kubectl.

use crate::bench::{Bench, bench};
use crate::world::PATIENCE;
use harness::wait_for;
use serde_json::{Value, json};

/// Writes into /out/log when it begins and when it is asked to end; ready when the file /out/go-VERSION is there.
const PROGRAM: &str = "echo +$V >> /out/log; trap 'echo -$V >> /out/log; exit 0' TERM; \
                       while :; do sleep 0.05; done";

/// A set `agent` whose pods write into one log.
struct Set {
    bench: Bench,
}

impl Set {
    fn new(bench: Bench) -> Self {
        std::fs::create_dir(bench.world.node.path().join("out")).expect("create the directory");
        Self { bench }
    }

    #[track_caller]
    fn apply(&self, version: &str, strategy: &Value, more: &Value) {
        let mut spec = json!({
            "terminationGracePeriodSeconds": 10,
            "volumes": [{"name": "out", "hostPath": {"path": self.bench.world.node.path().join("out")}}],
            "containers": [{
                "name": "c", "image": "busybox:1", "command": ["sh", "-c", PROGRAM],
                "env": [{"name": "V", "value": version}],
                "volumeMounts": [{"name": "out", "mountPath": "/out"}],
                "readinessProbe": {
                    "exec": {"command": ["test", "-e", format!("/out/go-{version}")]}, "periodSeconds": 1,
                },
            }],
        });
        for (field, value) in more.as_object().expect("an object") {
            spec[field] = value.clone();
        }
        self.bench.world.apply(&json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
            "spec": {
                "selector": {"matchLabels": {"app": "agent"}},
                "updateStrategy": strategy,
                "template": {"metadata": {"labels": {"app": "agent"}}, "spec": spec},
            },
        }));
    }

    /// Lets the pods of a version be ready.
    fn go(&self, version: &str) {
        let file = self.bench.world.node.path().join(format!("out/go-{version}"));
        std::fs::write(file, "").expect("write the file");
    }

    /// What the pods wrote since the last call.
    fn log(&self) -> Vec<String> {
        let file = self.bench.world.node.path().join("out/log");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        text.lines().map(str::to_owned).collect()
    }

    fn pods(&self) -> Vec<Value> {
        self.bench.items(&["pods", "-l", "app=agent"])
    }

    fn versions(&self) -> Vec<String> {
        let version = |pod: &Value| {
            let env = pod["spec"]["containers"][0]["env"][0]["value"].as_str();
            env.unwrap_or_default().to_owned()
        };
        let mut versions: Vec<String> = self.pods().iter().map(version).collect();
        versions.sort();
        versions
    }

    /// Waits until the status holds.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE, || {
            let set = self.bench.get(&["daemonset", "agent"]);
            let seen = set["status"]["observedGeneration"] == set["metadata"]["generation"];
            if seen && holds(&set["status"]) {
                Ok(set["status"].clone())
            } else {
                Err(format!("{}: {:?}", set["status"], self.versions()))
            }
        })
    }

    /// Waits until the pod of this version, and no other, is there and available.
    #[track_caller]
    fn settled(&self, version: &str) {
        self.until(&format!("{version} alone"), |status| {
            status["numberAvailable"] == 1
                && status["updatedNumberScheduled"] == 1
                && self.versions() == [version]
        });
    }

    #[track_caller]
    fn end(&self) {
        self.bench.kube(&["delete", "daemonset", "agent"]);
        wait_for("its pods and revisions to go with it", PATIENCE, || {
            let left = self
                .bench
                .kube(&["get", "pods,controllerrevisions", "-o", "name"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        self.bench.world.clean();
    }
}

#[test]
fn the_node_has_its_pod_if_it_is_asked_for() {
    let set = Set::new(bench!());
    let nodes = set.bench.items(&["nodes"]);
    let node = nodes[0]["metadata"]["name"].as_str().expect("a name").to_owned();
    let label = |label: &str| set.bench.kube(&["label", "node", &node, label]);
    set.go("a");
    set.apply("a", &json!({}), &json!({"nodeSelector": {"disk": "ssd"}}));
    let status = set.until("nothing wanted", |status| status["desiredNumberScheduled"] == 0);
    assert_eq!(status["currentNumberScheduled"], 0);
    assert!(set.pods().is_empty());
    label("disk=ssd");
    set.settled("a");
    let row = set.bench.kube(&["get", "daemonset", "agent"]);
    assert!(row.contains("NODE SELECTOR") && row.contains("disk=ssd"), "{row}");
    let pods = set.pods();
    assert_eq!(pods[0]["spec"]["nodeName"], node.as_str());
    label("disk-");
    wait_for("the pod to go", PATIENCE, || {
        let pods = set.pods();
        if pods.is_empty() {
            Ok(())
        } else {
            Err(format!("{pods:?}"))
        }
    });
    let terms = json!([{"matchExpressions": [{"key": "disk", "operator": "NotIn", "values": ["ssd"]}]}]);
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}});
    set.apply("a", &json!({}), &json!({"affinity": {"nodeAffinity": required}}));
    set.settled("a");
    label("disk=ssd");
    set.until("nothing wanted again", |status| {
        status["desiredNumberScheduled"] == 0 && status["numberMisscheduled"] == 0
    });
    // Somebody deletes it, somebody kills it: it comes again.
    label("disk-");
    set.settled("a");
    let first = set.pods()[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    set.bench.kube(&["delete", "pod", &first]);
    set.settled("a");
    // Also on a node that takes no other pods.
    let second = set.pods()[0]["metadata"]["name"]
        .as_str()
        .expect("a name")
        .to_owned();
    set.bench.kube(&["cordon", &node]);
    set.bench.kube(&["delete", "pod", &second]);
    set.settled("a");
    set.bench.kube(&["uncordon", &node]);
    let shown = set.bench.kube(&["describe", "daemonset", "agent"]);
    for part in [
        "Desired Number of Nodes Scheduled: 1",
        &format!("Created pod: {first}"),
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    set.end();
}

#[test]
fn an_update_takes_the_old_pod_down_first() {
    let set = Set::new(bench!());
    for version in ["a", "b", "c"] {
        set.go(version);
    }
    set.apply("a", &json!({}), &json!({}));
    set.settled("a");
    // Without their set pods go on, and another set of the name takes them.
    let uid = set.pods()[0]["metadata"]["uid"].clone();
    set.bench
        .kube(&["delete", "daemonset", "agent", "--cascade=orphan"]);
    set.apply("a", &json!({}), &json!({}));
    set.settled("a");
    assert_eq!(set.pods()[0]["metadata"]["uid"], uid, "adopted");
    set.apply("b", &json!({}), &json!({}));
    let told = set
        .bench
        .kube(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    assert!(told.contains("successfully rolled out"), "{told}");
    set.settled("b");
    assert_eq!(set.log(), ["+a", "-a", "+b"]);
    let history = set.bench.kube(&["rollout", "history", "daemonset/agent"]);
    assert!(
        history.contains("REVISION") && history.lines().count() >= 4,
        "{history}"
    );
    set.bench
        .kube(&["rollout", "undo", "daemonset/agent", "--to-revision=1"]);
    set.settled("a");
    assert_eq!(set.log(), ["-b", "+a"]);
    let numbers = |set: &Set| -> Vec<i64> {
        let items = set.bench.items(&["controllerrevisions"]);
        let mut numbers: Vec<i64> = items
            .iter()
            .filter_map(|item| item["revision"].as_i64())
            .collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(numbers(&set), [2, 3], "the revision is found again");
    set.bench.kube(&["rollout", "restart", "daemonset/agent"]);
    wait_for("the restart", PATIENCE, || {
        let log = set.log();
        if log.iter().any(|line| line == "+a") {
            Ok(())
        } else {
            Err(log)
        }
    });
    set.settled("a");
    set.bench.kube(&[
        "patch",
        "daemonset",
        "agent",
        "-p",
        r#"{"spec":{"revisionHistoryLimit":1}}"#,
    ]);
    wait_for("the history to be cut", PATIENCE, || {
        let numbers = numbers(&set);
        if numbers == [3, 4] { Ok(()) } else { Err(numbers) }
    });

    // By hand: nothing happens until the pod is deleted.
    set.apply("c", &json!({"type": "OnDelete"}), &json!({}));
    set.until("the change noticed", |status| {
        status["updatedNumberScheduled"] == Value::Null
    });
    assert_eq!(set.versions(), ["a"]);
    set.bench.kube(&["delete", "pods", "-l", "app=agent"]);
    set.settled("c");
    set.end();
}

#[test]
fn a_surge_has_the_new_pod_ready_first() {
    let mut set = Set::new(bench!());
    let surge = json!({"rollingUpdate": {"maxSurge": "50%", "maxUnavailable": 0}});
    set.go("a");
    set.apply("a", &surge, &json!({}));
    set.settled("a");
    set.apply("b", &surge, &json!({}));
    wait_for("both", PATIENCE, || {
        let log = std::fs::read_to_string(set.bench.world.node.path().join("out/log")).unwrap_or_default();
        if log.contains("+b") { Ok(()) } else { Err(log) }
    });
    // The new one is not ready: the old one stays, whatever happens to berthd.
    set.bench.world.node.kill_daemon();
    set.bench.world.node.spawn();
    set.until("the old one counted", |status| {
        status["numberAvailable"] == 1 && status["updatedNumberScheduled"] == Value::Null
    });
    assert_eq!(set.versions(), ["a", "b"]);
    assert_eq!(set.log(), ["+a", "+b"]);
    set.go("b");
    set.settled("b");
    assert_eq!(set.log(), ["-a"]);
    set.end();
}

#[test]
fn roles_and_bad_sets() {
    let bench = bench!();
    bench.kube(&["create", "serviceaccount", "reader"]);
    for (role, name) in [("view", "r"), ("edit", "e")] {
        let account = format!(
            "--serviceaccount=default:{}",
            if role == "view" { "reader" } else { "default" }
        );
        bench.kube(&[
            "create",
            "rolebinding",
            name,
            &format!("--clusterrole={role}"),
            &account,
        ]);
    }
    let may = |who: &str, verb: &str, kind: &str| {
        let who = format!("--as=system:serviceaccount:default:{who}");
        let node = &bench.world.node;
        node.kubectl(&bench.kubectl, &["auth", "can-i", verb, kind, &who])
            .stdout
            .trim()
            == "yes"
    };
    for kind in ["daemonsets.apps", "statefulsets.apps", "controllerrevisions.apps"] {
        assert!(
            may("reader", "list", kind) && !may("reader", "delete", kind),
            "{kind}"
        );
    }
    assert!(
        may("default", "patch", "statefulsets.apps/scale") && may("default", "create", "daemonsets.apps")
    );
    assert!(!may("default", "create", "controllerrevisions.apps"));
    let file = bench.world.node.path().join("bad.json");
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (spec, expected) in [
        (
            json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}),
            "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
        ),
        (json!({"replicas": 2}), "unknown field \"spec.replicas\""),
    ] {
        let mut set = json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "bad"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
        });
        for (field, value) in spec.as_object().expect("an object") {
            set["spec"][field] = value.clone();
        }
        std::fs::write(&file, set.to_string()).expect("write the manifest");
        let told = bench
            .world
            .node
            .kubectl(&bench.kubectl, &["create", "-f", &file.to_string_lossy()])
            .err();
        assert!(told.contains(expected), "{told}");
    }
    let explained = bench.kube(&["explain", "statefulset.spec.updateStrategy.rollingUpdate"]);
    assert!(explained.contains("partition"), "{explained}");
    bench.world.clean();
}
