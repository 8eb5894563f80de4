//! StatefulSets on the real node, with kubectl.

use crate::bench::{Bench, bench};
use crate::world::PATIENCE;
use harness::{repository_root, wait_for};
use serde_json::{Value, json};

/// Writes into /out/log when it begins and when it is asked to end.
const PROGRAM: &str = "echo +$(hostname)$V >> /out/log; trap 'echo -$(hostname)$V >> /out/log; exit 0' TERM; \
                       while :; do sleep 0.05; done";

/// A set `web` whose pods write into one log.
struct Set {
    bench: Bench,
}

impl Set {
    fn new(bench: Bench) -> Self {
        std::fs::create_dir(bench.world.node.path().join("out")).expect("create the directory");
        Self { bench }
    }

    fn manifest(&self, spec: &Value) -> Value {
        let mut set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"},
            "spec": {
                "replicas": 3,
                "serviceName": "nginx",
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {
                    "terminationGracePeriodSeconds": 10,
                    "volumes": [{"name": "out", "hostPath": {"path": self.bench.world.node.path().join("out")}}],
                    "containers": [{
                        "name": "c", "image": "busybox:1", "command": ["sh", "-c", PROGRAM],
                        "volumeMounts": [{"name": "out", "mountPath": "/out"}],
                    }],
                }},
            },
        });
        for (field, value) in spec.as_object().expect("an object") {
            set["spec"][field] = value.clone();
        }
        set
    }

    #[track_caller]
    fn apply(&self, spec: &Value) {
        self.bench.world.apply(&self.manifest(spec));
    }

    /// What the pods wrote since the last call.
    fn log(&self) -> Vec<String> {
        let file = self.bench.world.node.path().join("out/log");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let _ = std::fs::remove_file(file);
        text.lines().map(str::to_owned).collect()
    }

    fn pods(&self) -> Vec<Value> {
        self.bench.items(&["pods", "-l", "app=web"])
    }

    fn names(&self) -> Vec<String> {
        let name = |pod: &Value| pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        self.pods().iter().map(name).collect()
    }

    /// Waits until the status holds.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, PATIENCE, || {
            let set = self.bench.get(&["statefulset", "web"]);
            let seen = set["status"]["observedGeneration"] == set["metadata"]["generation"];
            if seen && holds(&set["status"]) {
                Ok(set["status"].clone())
            } else {
                Err(format!("{}: {:?}", set["status"], self.names()))
            }
        })
    }

    /// Waits until there are so many pods, all ready and of the newest revision.
    #[track_caller]
    fn settled(&self, replicas: u64) -> Value {
        self.until(&format!("{replicas} pods, updated"), |status| {
            status["replicas"] == replicas
                && status["availableReplicas"] == replicas
                && (replicas == 0 || status["updatedReplicas"] == replicas)
                && status["currentRevision"] == status["updateRevision"]
        })
    }

    #[track_caller]
    fn patch(&self, spec: &Value) {
        let patch = json!({ "spec": spec }).to_string();
        self.bench.kube(&["patch", "statefulset", "web", "-p", &patch]);
    }

    #[track_caller]
    fn version(&self, version: &str) {
        self.bench
            .kube(&["set", "env", "statefulset/web", &format!("V={version}")]);
    }

    fn versions(&self) -> Vec<String> {
        let version = |pod: &Value| {
            let env = pod["spec"]["containers"][0]["env"][0]["value"].as_str();
            env.unwrap_or_default().to_owned()
        };
        self.pods().iter().map(version).collect()
    }

    #[track_caller]
    fn end(&self) {
        self.bench.kube(&["delete", "statefulset", "web"]);
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
fn pods_begin_in_order_and_end_in_reverse() {
    let set = Set::new(bench!());
    let mut manifest = set.manifest(&json!({}));
    manifest["spec"]["template"]["spec"]["readinessGates"] = json!([{"conditionType": "example.org/go"}]);
    set.bench.world.apply(&manifest);
    let gate = json!({"status": {"conditions": [{"type": "example.org/go", "status": "True"}]}}).to_string();
    for index in 0..3 {
        let name = format!("web-{index}");
        set.bench
            .world
            .wait(&name, "running behind its gate", |pod, container| {
                let conditions = pod["status"]["conditions"].as_array();
                let ready = conditions.into_iter().flatten().find(|c| c["type"] == "Ready");
                container["ready"] == true && ready.is_some_and(|c| c["reason"] == "ReadinessGatesNotReady")
            });
        assert_eq!(
            set.names().len(),
            index + 1,
            "the next one waits: {:?}",
            set.names()
        );
        set.bench
            .kube(&["patch", "pod", &name, "--subresource=status", "-p", &gate]);
    }
    let status = set.settled(3);
    assert_eq!(set.log(), ["+web-0", "+web-1", "+web-2"]);
    assert_eq!(
        (&status["readyReplicas"], &status["currentReplicas"]),
        (&json!(3), &json!(3))
    );
    let told = set
        .bench
        .kube(&["rollout", "status", "statefulset/web", "--timeout=60s"]);
    assert!(told.contains("3 new pods have been updated"), "{told}");
    let row = set.bench.kube(&["get", "sts", "web", "-o", "wide"]);
    assert!(row.contains("3/3") && row.contains("busybox:1"), "{row}");
    for (index, pod) in set.pods().iter().enumerate() {
        let name = format!("web-{index}");
        let labels = &pod["metadata"]["labels"];
        assert_eq!(labels["statefulset.kubernetes.io/pod-name"], name.as_str());
        assert_eq!(labels["apps.kubernetes.io/pod-index"], index.to_string().as_str());
        assert_eq!(labels["controller-revision-hash"], status["updateRevision"]);
        assert_eq!(
            (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
            (&json!(name), &json!("nginx"))
        );
        assert_eq!(
            set.bench.kube(&["exec", &name, "--", "hostname"]),
            format!("{name}\n")
        );
    }
    set.bench.kube(&["scale", "statefulset", "web", "--replicas=1"]);
    set.settled(1);
    assert_eq!(set.log(), ["-web-2", "-web-1"]);
    let shown = set.bench.kube(&["describe", "statefulset", "web"]);
    for part in [
        "1 desired | 1 total",
        "create Pod web-2 in StatefulSet web successful",
        "delete Pod web-1 in StatefulSet web successful",
    ] {
        assert!(shown.contains(part), "{shown}");
    }
    set.end();
}

#[test]
fn an_update_stops_at_the_partition_and_is_undone() {
    let set = Set::new(bench!());
    set.apply(&json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}));
    let first = set.settled(3)["currentRevision"].clone();
    set.log();
    set.version("b");
    let status = set.until("the last pod updated", |status| {
        status["updatedReplicas"] == 1 && status["availableReplicas"] == 3
    });
    assert_eq!(
        (set.versions(), &status["currentRevision"]),
        (vec![String::new(), String::new(), "b".to_owned()], &first)
    );
    let told = set
        .bench
        .kube(&["rollout", "status", "statefulset/web", "--timeout=60s"]);
    assert!(
        told.contains("partitioned roll out complete: 1 new pods have been updated"),
        "{told}"
    );
    // Below the partition a pod comes again as it was.
    set.bench.kube(&["delete", "pod", "web-0"]);
    set.until("the first pod again", |status| status["availableReplicas"] == 3);
    assert_eq!(set.versions(), ["", "", "b"]);
    set.log();
    set.patch(&json!({"updateStrategy": {"rollingUpdate": {"partition": 0}}}));
    let second = set.settled(3)["currentRevision"].clone();
    assert_eq!(set.versions(), ["b"; 3]);
    assert_eq!(set.log(), ["-web-1", "+web-1b", "-web-0", "+web-0b"]);

    let revisions = || -> Vec<(i64, Value)> {
        let items = set.bench.items(&["controllerrevisions"]);
        let mut all: Vec<(i64, Value)> = items
            .iter()
            .map(|item| {
                (
                    item["revision"].as_i64().unwrap_or_default(),
                    item["metadata"]["name"].clone(),
                )
            })
            .collect();
        all.sort_by_key(|(number, _)| *number);
        all
    };
    assert_eq!(revisions(), [(1, first.clone()), (2, second.clone())]);
    let history = set
        .bench
        .kube(&["rollout", "history", "statefulset/web", "--revision=2"]);
    assert!(
        history.contains("revision #2") && history.contains("V:\tb"),
        "{history}"
    );
    set.bench.kube(&["rollout", "undo", "statefulset/web"]);
    assert_eq!(set.settled(3)["currentRevision"], first);
    assert_eq!(set.versions(), [""; 3]);
    assert_eq!(
        revisions(),
        [(2, second), (3, first)],
        "the revision is found again"
    );
    let table = set.bench.kube(&["get", "controllerrevisions"]);
    assert!(table.contains("statefulset.apps/web"), "{table}");

    let before: Vec<Value> = set
        .pods()
        .iter()
        .map(|pod| pod["metadata"]["uid"].clone())
        .collect();
    set.patch(
        &json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 3}}, "revisionHistoryLimit": 1}),
    );
    set.bench.kube(&["rollout", "restart", "statefulset/web"]);
    set.settled(3);
    let after: Vec<Value> = set
        .pods()
        .iter()
        .map(|pod| pod["metadata"]["uid"].clone())
        .collect();
    assert!(before.iter().all(|uid| !after.contains(uid)), "{after:?}");
    wait_for("the history to be cut", PATIENCE, || {
        let numbers: Vec<i64> = revisions().iter().map(|(number, _)| *number).collect();
        if numbers == [3, 4] { Ok(()) } else { Err(numbers) }
    });
    set.end();
}

#[test]
fn names_stay_though_pods_are_killed_and_berthd_too() {
    let mut set = Set::new(bench!());
    set.apply(&json!({"minReadySeconds": 1, "ordinals": {"start": 4}}));
    set.settled(3);
    assert_eq!(set.names(), ["web-4", "web-5", "web-6"]);
    let uids = |set: &Set| -> Vec<String> {
        let uid = |pod: &Value| pod["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        set.pods().iter().map(uid).collect()
    };
    let before = uids(&set);
    set.bench
        .kube(&["delete", "pod", "web-5", "--force", "--grace-period=0"]);
    set.bench.world.node.kill_daemon();
    set.bench.world.node.spawn();
    wait_for("the pod under its name", PATIENCE, || {
        let now = uids(&set);
        if now.len() == 3 && now[1] != before[1] {
            Ok(())
        } else {
            Err(now)
        }
    });
    set.settled(3);
    assert_eq!(set.names(), ["web-4", "web-5", "web-6"]);
    let after = uids(&set);
    assert_eq!(
        (&after[0], &after[2]),
        (&before[0], &before[2]),
        "the others are the same"
    );
    assert_eq!(set.bench.kube(&["exec", "web-5", "--", "hostname"]), "web-5\n");
    // Without their set pods go on, and another set of the name takes them, and the history.
    set.bench
        .kube(&["delete", "statefulset", "web", "--cascade=orphan"]);
    assert_eq!(uids(&set), after);
    set.apply(&json!({"ordinals": {"start": 4}}));
    set.settled(3);
    assert_eq!(uids(&set), after, "adopted");
    for pod in set.pods() {
        assert_eq!(pod["metadata"]["ownerReferences"][0]["kind"], "StatefulSet");
    }
    // From another number on.
    set.apply(&json!({"replicas": 2, "ordinals": {"start": 0}}));
    set.settled(2);
    assert_eq!(set.names(), ["web-0", "web-1"]);
    set.end();
}

#[test]
fn a_broken_version_is_mended() {
    let set = Set::new(bench!());
    // In order it waits for people, as upstream: put the template back, delete the pod.
    set.apply(&json!({"replicas": 2}));
    set.settled(2);
    // Without the probe it would count as ready for the moment in which it runs.
    let broken = json!({"template": {"spec": {"containers": [
        {"name": "c", "command": ["sh", "-c", "exit 3"], "readinessProbe": {"exec": {"command": ["false"]}}},
    ]}}});
    set.patch(&broken);
    set.until("the broken pod", |status| status["updatedReplicas"] == 1);
    set.bench
        .world
        .wait("web-1", "crashing", |_, c| c["restartCount"].as_u64() > Some(0));
    assert_eq!(set.names().len(), 2);
    set.bench.kube(&["rollout", "undo", "statefulset/web"]);
    set.until("the template back", |status| {
        status["currentRevision"] == status["updateRevision"]
    });
    let revision = |pod: &Value| pod["metadata"]["labels"]["controller-revision-hash"].clone();
    let pods = set.pods();
    assert_ne!(
        revision(&pods[0]),
        revision(&pods[1]),
        "the broken one is still there"
    );
    set.bench.kube(&["delete", "pod", "web-1"]);
    set.settled(2);
    set.bench.kube(&["delete", "statefulset", "web"]);
    wait_for("its pods to go", PATIENCE, || {
        let left = set.names();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });

    // In parallel the next template replaces what is broken.
    let mut manifest = set.manifest(&json!({"podManagementPolicy": "Parallel"}));
    manifest["spec"]["template"]["spec"]["containers"][0]["command"] = json!(["sh", "-c", "exit 3"]);
    set.bench.world.apply(&manifest);
    set.until("three at once", |status| status["replicas"] == 3);
    set.bench
        .world
        .wait("web-0", "crashing", |_, c| c["restartCount"].as_u64() > Some(0));
    set.apply(&json!({"podManagementPolicy": "Parallel"}));
    set.settled(3);
    set.patch(&json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}}));
    set.version("c");
    set.until("a new revision", |status| {
        status["currentRevision"] != status["updateRevision"]
    });
    assert_eq!(set.versions(), [""; 3]);
    set.bench.kube(&["delete", "pod", "web-1"]);
    set.until("that pod updated", |status| {
        status["updatedReplicas"] == 1 && status["availableReplicas"] == 3
    });
    assert_eq!(set.versions(), ["", "c", ""]);
    set.end();
}

#[test]
fn claims_stay_with_their_names_and_go_as_the_policy_says() {
    let bench = bench!();
    let program = "echo $(hostname) >> /data/log; trap 'exit 0' TERM; while :; do sleep 0.05; done";
    let apply = |replicas: u64, policy: &Value| {
        bench.world.apply(&json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
            "spec": {
                "replicas": replicas,
                "selector": {"matchLabels": {"app": "db"}},
                "persistentVolumeClaimRetentionPolicy": policy,
                "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
                    "terminationGracePeriodSeconds": 5,
                    "containers": [{
                        "name": "c", "image": "busybox:1", "command": ["sh", "-c", program],
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    }],
                }},
                "volumeClaimTemplates": [{
                    "metadata": {"name": "data"},
                    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}},
                }],
            },
        }));
    };
    let claims = || -> Vec<String> {
        let items = bench.items(&["pvc"]);
        items
            .iter()
            .map(|c| c["metadata"]["name"].as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let until = |what: &str, names: &[&str]| {
        wait_for(what, PATIENCE, || {
            let left = claims();
            if left == names { Ok(()) } else { Err(left) }
        });
    };
    let settled = |replicas: u64| {
        wait_for("the pods", PATIENCE, || {
            let status = bench.get(&["sts", "db"])["status"].clone();
            if status["replicas"] == replicas && status["availableReplicas"] == replicas {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    };
    apply(2, &json!({}));
    settled(2);
    assert_eq!(claims(), ["data-db-0", "data-db-1"]);
    assert_eq!(
        bench.get(&["pvc", "data-db-0"])["metadata"]["labels"]["app"],
        "db"
    );
    let told = bench.events("SuccessfulCreate");
    assert!(
        told.contains(&"create Claim data-db-0 Pod db-0 in StatefulSet db success".to_owned()),
        "{told:?}"
    );
    // What a pod wrote is there for the next one of its name.
    bench.kube(&["delete", "pod", "db-1"]);
    settled(2);
    wait_for("the log", PATIENCE, || {
        let log = bench.kube(&["exec", "db-1", "--", "cat", "/data/log"]);
        if log == "db-1\ndb-1\n" { Ok(()) } else { Err(log) }
    });
    // Kept: after scaling down, and after the set.
    apply(1, &json!({}));
    settled(1);
    assert_eq!(claims().len(), 2);
    bench.kube(&["delete", "sts", "db"]);
    wait_for("the pods to go", PATIENCE, || {
        let left = bench.kube(&["get", "pods", "-o", "name"]);
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    assert_eq!(claims().len(), 2);
    // With the surplus pod, or with the set.
    let policy = json!({"whenScaled": "Delete", "whenDeleted": "Delete"});
    apply(2, &policy);
    settled(2);
    wait_for("the owners", PATIENCE, || {
        let owner = bench.get(&["pvc", "data-db-1"])["metadata"]["ownerReferences"][0]["kind"].clone();
        if owner == "StatefulSet" {
            Ok(())
        } else {
            Err(owner.to_string())
        }
    });
    let log = bench.kube(&["exec", "db-1", "--", "cat", "/data/log"]);
    assert_eq!(log.lines().count(), 3, "the old claim: {log}");
    apply(1, &policy);
    until("the claim to go with its pod", &["data-db-0"]);
    apply(2, &policy);
    settled(2);
    let log = bench.kube(&["exec", "db-1", "--", "cat", "/data/log"]);
    assert_eq!(log, "db-1\n", "a new claim");
    bench.kube(&["delete", "sts", "db"]);
    until("the claims to go with the set", &[]);
    bench.world.clean();
}

#[test]
fn the_example_runs() {
    let bench = bench!();
    let folder = repository_root().join("examples/manifests/sets");
    let folder = folder.to_string_lossy();
    bench.kube(&["apply", "-f", &folder]);
    for set in ["statefulset/store", "daemonset/agent"] {
        bench.kube(&["rollout", "status", set, "--timeout=90s"]);
    }
    for index in 0..3 {
        let pod = bench.get(&["pod", &format!("store-{index}")]);
        let url = format!(
            "http://{}:8080/",
            pod["status"]["podIP"].as_str().unwrap_or_default()
        );
        let answer =
            harness::run(std::process::Command::new("busybox").args(["wget", "-q", "-O", "-", &url]));
        assert_eq!(answer.ok(), format!("store-{index}\n"));
    }
    let load = bench.kube(&["logs", "daemonset/agent"]);
    assert!(load.contains('/'), "{load}");
    let slices = bench.items(&["endpointslices", "-l", "kubernetes.io/service-name=store"]);
    let endpoints = slices[0]["endpoints"].as_array().expect("endpoints");
    let mut names: Vec<&str> = endpoints.iter().filter_map(|e| e["hostname"].as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["store-0", "store-1", "store-2"]);
    let again = bench.kube(&["apply", "-f", &folder]);
    // A list of claims without their defaults is sent each time, and changes nothing, as upstream.
    assert_eq!(again.matches("unchanged").count(), 2, "{again}");
    assert_eq!(
        bench.get(&["sts", "store"])["metadata"]["generation"],
        1,
        "{again}"
    );
    bench.kube(&["rollout", "restart", "daemonset/agent", "statefulset/store"]);
    for set in ["statefulset/store", "daemonset/agent"] {
        bench.kube(&["rollout", "status", set, "--timeout=90s"]);
    }
    assert_eq!(bench.items(&["pvc"]).len(), 3);
    bench.kube(&["delete", "-f", &folder]);
    bench.kube(&["delete", "pvc", "--all"]);
    bench.world.clean();
}
