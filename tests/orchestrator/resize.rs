//! Pods that get other resources while they run.

use crate::bench::Bench;
use crate::world::{PATIENCE, WAIT, with};
use harness::{kubectl_versions, need_root, skip, wait_for};
use serde_json::{Value, json};
use std::path::PathBuf;

impl Bench {
    fn patch(&self, name: &str, resources: &Value) -> harness::Outcome {
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": resources}]}}).to_string();
        let arguments = ["patch", "pod", name, "--subresource", "resize", "--patch", &patch];
        self.world.node.kubectl(&self.kubectl, &arguments)
    }

    /// A value of the container's cgroup, by its name on v1 and on v2.
    fn cgroup(&self, name: &str, controller: &str, v1: &str, v2: &str) -> String {
        let uid = self.world.get(name).expect("the pod")["metadata"]["uid"]
            .as_str()
            .expect("a uid")
            .to_owned();
        let below = format!("{}/pod{uid}/c", self.world.cgroup);
        for (root, file) in [
            (format!("/sys/fs/cgroup/{controller}"), v1),
            ("/sys/fs/cgroup/unified".to_owned(), v2),
            ("/sys/fs/cgroup".to_owned(), v2),
        ] {
            if let Ok(text) = std::fs::read_to_string(format!("{root}/{below}/{file}")) {
                return text.trim().to_owned();
            }
        }
        panic!("no {v1} or {v2} of {below}");
    }

    #[track_caller]
    fn resize_condition(&self, name: &str, kind: &str, reason: &str) -> String {
        let pod = self.world.wait(name, &format!("{kind} {reason}"), |pod, _| {
            find(pod, kind)["reason"] == reason
        });
        find(&pod, kind)["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// Waits until the container has these amounts, and no resize is open.
    #[track_caller]
    fn settles(&self, name: &str, resources: &Value) -> Value {
        self.world.wait(name, "the resize to be done", |pod, c| {
            let open = ["PodResizePending", "PodResizeInProgress"]
                .iter()
                .any(|kind| !find(pod, kind).is_null());
            !open
                && c["resources"] == *resources
                && c["allocatedResources"] == resources["requests"]
                && c["ready"] == true
        })
    }
}

/// The newest kubectl, if it is new enough.
pub(crate) fn newest() -> Option<PathBuf> {
    let kubectl = kubectl_versions().into_iter().last()?;
    let told = harness::run(std::process::Command::new(&kubectl).args(["version", "--client", "-o", "json"]));
    let told: Value = serde_json::from_str(&told.stdout).ok()?;
    let minor = told["clientVersion"]["minor"]
        .as_str()?
        .trim_end_matches('+')
        .parse::<u32>()
        .ok()?;
    (minor >= 32).then_some(kubectl)
}

fn find(pod: &Value, kind: &str) -> Value {
    let list = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    list.into_iter().find(|c| c["type"] == kind).unwrap_or_default()
}

fn amounts(cpu: &str, memory: &str) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}})
}

#[test]
fn a_pod_is_resized_in_place() {
    need_root!();
    let Some(kubectl) = newest() else {
        skip!("needs a kubectl that knows the subresource resize (1.32)")
    };
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    // One CPU for pods.
    let reserved = format!("cpu={}m", all * 1000 - 1000);
    let mut bench = Bench::new(kubectl, &["--reserve", &reserved]);
    let container = with(
        &format!("echo began; {WAIT}"),
        json!({"resources": amounts("100m", "64Mi"), "resizePolicy": [
            {"resourceName": "cpu", "restartPolicy": "NotRequired"}, {"resourceName": "memory", "restartPolicy": "NotRequired"},
        ]}),
    );
    bench.world.pod("p", json!({"containers": [container]}));
    bench.settles("p", &amounts("100m", "64Mi"));
    let id = bench.world.get("p").expect("the pod")["status"]["containerStatuses"][0]["containerID"].clone();
    let limits = |bench: &Bench| {
        (
            bench.cgroup("p", "memory", "memory.limit_in_bytes", "memory.max"),
            bench.cgroup("p", "cpu", "cpu.cfs_quota_us", "cpu.max"),
        )
    };
    assert_eq!(limits(&bench).0, (64 << 20).to_string());

    // Up and down, in the cgroup that is there.
    bench.patch("p", &amounts("200m", "96Mi")).ok();
    let pod = bench.settles("p", &amounts("200m", "96Mi"));
    assert_eq!(limits(&bench).0, (96 << 20).to_string());
    assert!(limits(&bench).1.starts_with("20000"), "{:?}", limits(&bench));
    assert_eq!(pod["status"]["observedGeneration"], pod["metadata"]["generation"]);
    bench.world.told("p", "Pod resize completed: ");
    bench.patch("p", &amounts("100m", "48Mi")).ok();
    bench.settles("p", &amounts("100m", "48Mi"));
    assert_eq!(limits(&bench).0, (48 << 20).to_string());

    // More than there is, and more than there is now; a daemon that dies in between forgets nothing.
    bench.patch("p", &amounts("7", "48Mi")).ok();
    let told = bench.resize_condition("p", "PodResizePending", "Infeasible");
    assert_eq!(
        told,
        "Node didn't have enough capacity: cpu, requested: 7, capacity: 1"
    );
    bench.world.node.kill_daemon();
    bench.world.node.spawn();
    bench.resize_condition("p", "PodResizePending", "Infeasible");
    bench.patch("p", &amounts("100m", "48Mi")).ok();
    bench.settles("p", &amounts("100m", "48Mi"));
    let other = with(WAIT, json!({"resources": {"requests": {"cpu": "700m"}}}));
    bench.world.pod("other", json!({"containers": [other]}));
    bench.world.ready("other");
    bench.patch("p", &amounts("500m", "48Mi")).ok();
    let told = bench.resize_condition("p", "PodResizePending", "Deferred");
    assert_eq!(
        told,
        "Node didn't have enough resource: cpu, requested: 500m, used: 700m, capacity: 1"
    );
    bench.world.delete("other");
    let pod = bench.settles("p", &amounts("500m", "48Mi"));

    // Nothing of this has started the container again.
    assert_eq!(pod["status"]["containerStatuses"][0]["containerID"], id);
    bench.world.says(&["p"], "began\n");

    // What cannot be.
    for (resources, told) in [
        (
            json!({"requests": {"cpu": "500m", "memory": "48Mi"}, "limits": {"cpu": "600m", "memory": "48Mi"}}),
            "Pod QOS Class may not change as a result of resizing",
        ),
        (amounts("x", "48Mi"), "quantities must match"),
        (
            json!({"limits": {"ephemeral-storage": "1Gi"}}),
            "only cpu and memory resources are mutable",
        ),
    ] {
        let error = bench.patch("p", &resources).err();
        assert!(error.contains(told), "{resources}: {error}");
    }
    let error = bench
        .world
        .node
        .kubectl(
            &bench.kubectl,
            &["set", "resources", "pod", "p", "--limits=cpu=1"],
        )
        .err();
    assert!(
        error.contains("pod updates may not change fields other than"),
        "{error}"
    );
    bench.kube(&["get", "pod", "p", "--subresource", "resize"]);
    bench.world.clean();
}

#[test]
fn a_container_that_asks_for_it_is_started_again() {
    need_root!();
    let Some(kubectl) = newest() else {
        skip!("needs a kubectl that knows the subresource resize (1.32)")
    };
    let bench = Bench::new(kubectl, &[]);
    let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    let container = |text: &str| {
        with(
            text,
            json!({"resources": amounts("100m", "64Mi"), "resizePolicy": policy}),
        )
    };
    bench.world.pod(
        "p",
        json!({"containers": [container(WAIT)], "terminationGracePeriodSeconds": 2}),
    );
    bench.settles("p", &amounts("100m", "64Mi"));
    bench.patch("p", &amounts("150m", "64Mi")).ok();
    let pod = bench.settles("p", &amounts("150m", "64Mi"));
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    bench.patch("p", &amounts("150m", "80Mi")).ok();
    bench.world.told("p", "Container c resize requires restart");
    wait_for("the new run", PATIENCE, || {
        let pod = bench.settles("p", &amounts("150m", "80Mi"));
        let count = pod["status"]["containerStatuses"][0]["restartCount"].clone();
        if count == 1 { Ok(()) } else { Err(count) }
    });
    assert_eq!(
        bench.cgroup("p", "memory", "memory.limit_in_bytes", "memory.max"),
        (80 << 20).to_string()
    );

    // A limit below what the program holds is not forced upon it.
    let text = format!("dd if=/dev/zero of=/m/f bs=1M count=40 2>/dev/null; touch /ready; {WAIT}");
    let holder = with(
        &text,
        json!({"resources": amounts("100m", "80Mi"), "volumeMounts": [{"name": "m", "mountPath": "/m"}],
        "readinessProbe": {"exec": {"command": ["test", "-e", "/ready"]}, "periodSeconds": 1}}),
    );
    bench.world.pod("holder", json!({"containers": [holder], "volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}], "terminationGracePeriodSeconds": 1}));
    bench.world.ready("holder");
    bench.patch("holder", &amounts("100m", "20Mi")).ok();
    let told = bench.resize_condition("holder", "PodResizeInProgress", "Error");
    assert!(told.contains("below what it uses"), "{told}");
    bench.patch("holder", &amounts("100m", "80Mi")).ok();
    let pod = bench.settles("holder", &amounts("100m", "80Mi"));
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    bench.world.clean();
}
