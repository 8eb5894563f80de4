//! What a node does while nothing happens: no write to disk, whatever runs on it.

use crate::bench::bench;
use crate::world::{PATIENCE, WAIT, with};
use harness::{Node, wait_for};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

/// How long nothing may be written. A writer that is slower than the heartbeats of this test would be missed; there is
/// none in the store that is not begun by an event.
const WINDOW: Duration = Duration::from_secs(20);

/// What has been written: bytes that berthd has sent to a disk, and length and time of each file in its data folder.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    bytes: u64,
    files: Vec<(String, u64, SystemTime)>,
}

fn written(node: &Node) -> Written {
    let io = std::fs::read_to_string(format!("/proc/{}/io", node.pid())).expect("read io");
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    let mut files = Vec::new();
    look(&node.data_dir(), &mut files);
    files.sort();
    assert!(
        files.iter().any(|(name, ..)| name.ends_with("objects.db-wal")),
        "{files:?}"
    );
    Written {
        bytes: bytes.and_then(|text| text.parse().ok()).expect("write_bytes"),
        files,
    }
}

/// The files of a folder and of those in it, but for what the containers themselves write.
fn look(dir: &Path, files: &mut Vec<(String, u64, SystemTime)>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else {
            continue;
        };
        if kind.is_dir()
            && !["rootfs", "merged", "logs", "images"]
                .iter()
                .any(|name| path.ends_with(name))
        {
            look(&path, files);
        } else if kind.is_file()
            && let Ok(metadata) = entry.metadata()
        {
            let name = path.to_string_lossy().into_owned();
            files.push((name, metadata.len(), metadata.modified().expect("a time")));
        }
    }
}

fn heartbeat(node: &Value) -> String {
    let conditions = node["status"]["conditions"].as_array().expect("conditions");
    let ready = conditions.iter().find(|c| c["type"] == "Ready").expect("Ready");
    ready["lastHeartbeatTime"].as_str().expect("a time").to_owned()
}

#[test]
fn an_idle_node_writes_nothing() {
    let mut bench = bench!();
    let world = &mut bench.world;
    world.node.kill_daemon();
    // As on a host, what lies below /run is in memory: a monitor leaves the outcomes of probes there.
    let run = world.node.path().join("run");
    nix::mount::mount(
        Some("run"),
        &run,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        None::<&str>,
    )
    .expect("mount the run directory");
    world.node.reconfigure(|arguments| {
        // A look at a pod's network each second, too: the first one reads what was written when the pod came, which
        // moves the files' times of access.
        for flag in ["--node-status-report-frequency", "--network-check"] {
            arguments.extend([flag.to_owned(), "1".to_owned()]);
        }
    });
    world.node.spawn();
    let probe =
        |command: &[&str]| json!({"exec": {"command": command}, "periodSeconds": 1, "timeoutSeconds": 30});
    let container = with(
        WAIT,
        json!({"readinessProbe": probe(&["true"]), "livenessProbe": probe(&["test", "-e", "/bin"])}),
    );
    bench.world.apply(&json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "idle"},
        "spec": {
            "replicas": 10, "selector": {"matchLabels": {"app": "idle"}},
            "template": {
                "metadata": {"labels": {"app": "idle"}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
            },
        },
    }));
    bench.kube(&["expose", "deploy", "idle", "--port=80"]);
    bench.kube(&["rollout", "status", "deploy/idle", "--timeout=120s"]);
    let node = &bench.world.node;
    let quiet = |span: Duration| {
        let (before, begin) = (written(node), Instant::now());
        while begin.elapsed() < span {
            std::thread::sleep(Duration::from_millis(500));
            // Reading is part of it: lists, the metrics, who may do what.
            bench.kube(&["get", "--raw", "/apis/metrics.k8s.io/v1beta1/pods"]);
            bench.kube(&["auth", "can-i", "get", "pods"]);
        }
        let mut after = written(node);
        if before == after {
            return Ok(());
        }
        after.files.retain(|file| !before.files.contains(file));
        Err(format!(
            "{} bytes, and {:?}",
            after.bytes - before.bytes,
            after.files
        ))
    };
    wait_for("what the start has to write", PATIENCE, || {
        quiet(Duration::from_secs(3))
    });
    let before = bench.items(&["nodes"]).remove(0);
    let beaten = quiet(WINDOW);
    let after = bench.items(&["nodes"]).remove(0);
    beaten.expect("something was written");
    assert_ne!(heartbeat(&before), heartbeat(&after), "no heartbeat came");
    assert_ne!(
        before["metadata"]["resourceVersion"],
        after["metadata"]["resourceVersion"]
    );
    bench.kube(&["delete", "deploy/idle", "svc/idle"]);
    bench.world.node.clear();
    nix::mount::umount2(&run, nix::mount::MntFlags::MNT_DETACH).expect("take the run directory away");
    bench.world.clean();
}
