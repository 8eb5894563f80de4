//! `kubectl describe` says why: each cause with its evidence, on real containers.

use crate::bench::{Bench, bench};
use crate::world::{PATIENCE, WAIT, script, with};
use harness::wait_for;
use serde_json::json;

impl Bench {
    /// Waits until a pod's description has a line with the text, and gives the line.
    #[track_caller]
    fn says(&self, pod: &str, text: &str) -> String {
        wait_for(&format!("{pod}: {text}"), PATIENCE, || {
            let told = self.world.node.kubectl(&self.kubectl, &["describe", "pod", pod]);
            let found = told.stdout.lines().find(|line| line.contains(text));
            found
                .map(str::to_owned)
                .ok_or_else(|| format!("{}{}", told.stdout, told.stderr))
        })
    }
}

#[test]
fn how_a_container_ended_and_what_it_said_last() {
    let bench = bench!();
    let never = |program: &str| json!({"restartPolicy": "Never", "containers": [script(program)]});
    bench
        .world
        .pod("code", never("echo connecting; echo no database >&2; exit 3"));
    bench.world.pod("mute", never("exit 4"));
    // Process 1 of a namespace does not hear its own signals. Two dollars are one, in a command of a pod.
    let mut signal = never("echo dividing; kill -SEGV $$$$; sleep 5");
    signal["shareProcessNamespace"] = json!(true);
    bench.world.pod("signal", signal);
    bench.world.pod(
        "oom",
        json!({"restartPolicy": "Never", "containers": [with(
            "echo growing; exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'",
            json!({"resources": {"limits": {"memory": "64Mi"}}}))]}),
    );
    bench
        .world
        .pod("again", json!({"containers": [script("echo run; exit 5")]}));
    // What is asked to end has not failed, whatever its exit code is.
    let ends = "trap 'exit 9' TERM; while :; do sleep 0.05; done";
    bench.world.pod(
        "asked",
        json!({"activeDeadlineSeconds": 1, "restartPolicy": "Never", "containers": [script(ends)]}),
    );

    let line = bench.says("code", "ended with exit code 3");
    assert!(line.contains("Warning") && line.contains("Exited"), "{line}");
    // Which of its two streams is read first is open.
    assert!(
        line.contains("last lines of its log: ")
            && line.contains("connecting")
            && line.contains("no database"),
        "{line}"
    );
    bench.says(
        "mute",
        "Container c ended with exit code 4; it has logged nothing",
    );
    let line = bench.says("signal", "ended by signal 11, SIGSEGV (exit code 139)");
    assert!(line.ends_with("last lines of its log: dividing"), "{line}");
    let line = bench.says("oom", "killed by the kernel for want of memory (exit code 137)");
    assert!(line.contains("OOMKilled") && line.ends_with("growing"), "{line}");
    assert!(line.contains("limit 64.0 MiB"), "{line}");
    let peak = line
        .split("memory.peak ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let peak: f64 = peak
        .and_then(|peak| peak.parse().ok())
        .unwrap_or_else(|| panic!("{line}"));
    assert!((32.0..=65.0).contains(&peak), "{line}");
    let line = bench.says(
        "again",
        "Back-off restarting failed container c in pod again_default(",
    );
    assert!(line.contains("Warning") && line.contains("BackOff"), "{line}");
    let line = bench.says("again", "ended with exit code 5");
    // All of its ends are one event.
    assert!(line.contains("(x"), "{line}");

    bench.says("asked", "DeadlineExceeded");
    bench.world.phase("asked", "Failed");
    let told = bench
        .world
        .node
        .kubectl(&bench.kubectl, &["describe", "pod", "asked"])
        .ok();
    assert!(!told.contains("ended with exit code"), "{told}");
    bench.world.clean();
}

#[test]
fn what_a_probe_was_answered_and_how_soon() {
    let bench = bench!();
    let serve = format!("mkdir /www; httpd -p 8080 -h /www; {WAIT}");
    let page = json!({"httpGet": {"path": "/none", "port": 8080}, "periodSeconds": 1});
    let port = json!({"tcpSocket": {"port": 9}, "periodSeconds": 1});
    let command = json!({"exec": {"command": ["sh", "-c", "echo no queue; exit 6"]}, "periodSeconds": 1});
    for (name, probe) in [("page", page), ("port", port), ("command", command)] {
        let container = with(&serve, json!({"readinessProbe": probe}));
        bench.world.pod(name, json!({"containers": [container]}));
    }
    let mut live =
        json!({"httpGet": {"path": "/none", "port": 8080}, "periodSeconds": 1, "failureThreshold": 1});
    live["terminationGracePeriodSeconds"] = json!(1);
    let container = with(&serve, json!({"livenessProbe": live}));
    bench.world.pod("live", json!({"containers": [container]}));

    for (pod, text) in [
        (
            "page",
            "Readiness probe failed: HTTP probe failed with statuscode: 404: <HTML>",
        ),
        ("port", "Readiness probe failed: dial tcp "),
        (
            "command",
            "Readiness probe failed: command exited with 6: no queue (within ",
        ),
        (
            "live",
            "Container c failed liveness probe, will be restarted: HTTP probe failed with statuscode: 404",
        ),
    ] {
        let line = bench.says(pod, text);
        assert!(line.contains("(within ") && line.ends_with("s)"), "{line}");
    }
    bench.world.clean();
}

#[test]
fn what_is_missing_or_taken_and_by_whom() {
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let reserved = format!("cpu={}m", all * 1000 - 1000);
    // One CPU for pods.
    let bench = bench!(&["--reserve", &reserved]);
    let image = |image: &str, policy: &str| json!({"containers": [{"name": "c", "image": image, "imagePullPolicy": policy, "command": ["true"]}]});
    bench.world.pod("never", image("nope:1", "Never"));
    bench
        .world
        .pod("absent", image("127.0.0.1:1/shop:1", "IfNotPresent"));
    bench.says(
        "never",
        "\"nope:1\" is not present with pull policy of Never, and no registry is asked",
    );
    let line = bench.says("absent", "Failed to pull image \"127.0.0.1:1/shop:1\"");
    assert!(
        line.contains("cannot connect to 127.0.0.1:1") && line.contains("berthctl image import"),
        "{line}"
    );

    let port = |cpu: &str| {
        json!({"containers": [with(WAIT, json!({
            "ports": [{"containerPort": 80, "hostPort": 8080}], "resources": {"requests": {"cpu": cpu}}}))]})
    };
    bench.world.pod("first", port("300m"));
    bench.world.ready("first");
    bench.world.pod("second", port("100m"));
    bench.says("second", "8080/tcp is taken by pod default/first");

    let share =
        |cpu: &str| json!({"containers": [with(WAIT, json!({"resources": {"requests": {"cpu": cpu}}}))]});
    bench.world.pod("large", share("700m"));
    let line = bench.says("large", "FailedScheduling");
    assert!(
        line.contains("1 Insufficient cpu")
            && line.ends_with(
                "cpu: 700m requested, 600m of 1 free, held by default/first (300m), default/second (100m)."
            ),
        "{line}"
    );
    // Nobody holds what the node has not got at all.
    bench.world.pod("huge", share("7"));
    let line = bench.says("huge", "cpu: 7 requested, 600m of 1 free, held by ");
    assert!(line.contains("Insufficient cpu"), "{line}");
    // A missing source is named with its place.
    bench.world.pod(
        "source",
        json!({"containers": [with(WAIT, json!({"env": [
            {"name": "URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}]}))]}),
    );
    bench.says(
        "source",
        "secret \"db\" not found: create it in namespace default",
    );
    bench.world.clean();
}
