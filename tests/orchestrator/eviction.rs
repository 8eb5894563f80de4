//! What the node does when it runs out of memory, disk or processes, and pods that take more of the disk than they may.

use crate::world::{PATIENCE, WAIT, World, script, with};
use harness::{need_root, wait_for};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Looks every second, and conditions end soon.
const OFTEN: [&str; 4] = [
    "--eviction-monitoring-period",
    "1",
    "--eviction-pressure-transition-period",
    "1",
];

fn world(more: &[&str], disk: Option<&str>) -> World {
    let mut arguments = OFTEN.to_vec();
    arguments.extend(more);
    World::on_disk(&arguments, disk)
}

#[track_caller]
fn evicted(world: &World, name: &str, message: &str) -> Value {
    let pod = world.wait(name, "eviction", |pod, _| pod["status"]["reason"] == "Evicted");
    assert_eq!(pod["status"]["phase"], "Failed");
    let told = pod["status"]["message"].as_str().unwrap_or_default();
    assert!(told.contains(message), "{told}");
    world.told(name, message);
    pod
}

/// Status of a condition, and keys of the taints, of the node.
fn node(world: &World, condition: &str) -> (String, Vec<String>) {
    let list = world.node.ctl(&["get", "nodes", "-o", "json"]).ok();
    let list: Value = serde_json::from_str(&list).expect("JSON");
    let node = &list["items"][0];
    let conditions = node["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let status = conditions
        .iter()
        .find(|c| c["type"] == condition)
        .map(|c| c["status"].clone());
    let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
    let keys = taints
        .iter()
        .filter_map(|t| Some(t["key"].as_str()?.to_owned()))
        .collect();
    (
        status
            .and_then(|s| s.as_str().map(str::to_owned))
            .unwrap_or_default(),
        keys,
    )
}

#[track_caller]
fn pressure(world: &World, condition: &str, taint: &str, holds: bool) {
    let wanted = if holds {
        ("True".to_owned(), vec![taint.to_owned()])
    } else {
        ("False".to_owned(), Vec::new())
    };
    wait_for(&format!("{condition} to be {holds}"), PATIENCE, || {
        let seen = node(world, condition);
        if seen == wanted { Ok(()) } else { Err(seen) }
    });
}

/// Fills a file with so many mebibytes, then waits.
fn fill(file: &str, mebibytes: u32) -> String {
    format!("dd if=/dev/zero of={file} bs=1M count={mebibytes} 2>/dev/null; echo full; {WAIT}")
}

#[test]
fn a_pod_keeps_to_its_limits_on_the_disk() {
    need_root!();
    let world = world(&[], None);
    let volume = |limit: Value| json!([{"name": "v", "emptyDir": limit}]);
    let mounted = |text: &str| with(text, json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}));
    let limited = |text: &str| {
        with(
            text,
            json!({"resources": {"limits": {"ephemeral-storage": "4Mi"}}}),
        )
    };
    world.pod(
        "volume",
        json!({"volumes": volume(json!({"sizeLimit": "4Mi"})), "containers": [mounted(&fill("/v/f", 8))]}),
    );
    world.pod(
        "modest",
        json!({"volumes": volume(json!({"sizeLimit": "4Mi"})), "containers": [mounted(&fill("/v/f", 2))]}),
    );
    world.pod("layer", json!({"containers": [limited(&fill("/f", 8)), {"name": "other", "image": "busybox:1", "command": ["sh", "-c", WAIT]}]}));
    world.pod("log", json!({"containers": [limited(&format!("awk 'BEGIN {{ l = sprintf(\"%1000s\", \"x\"); for (i = 0; i < 8000; i++) print l }}'; {WAIT}")), {"name": "other", "image": "busybox:1", "command": ["sh", "-c", WAIT]}]}));
    let mut whole = limited(&fill("/v/f", 8));
    whole["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    world.pod(
        "whole",
        json!({"volumes": volume(json!({})), "containers": [whole]}),
    );
    evicted(
        &world,
        "volume",
        "Usage of EmptyDir volume \"v\" exceeds the limit \"4Mi\". ",
    );
    evicted(
        &world,
        "layer",
        "Container c exceeded its local ephemeral storage limit \"4Mi\". ",
    );
    evicted(
        &world,
        "log",
        "Container c exceeded its local ephemeral storage limit \"4Mi\". ",
    );
    evicted(
        &world,
        "whole",
        "Pod ephemeral local storage usage exceeds the total limit of containers ",
    );
    let whole = world.wait("whole", "the end of its container", |_, c| {
        !c["state"]["terminated"].is_null()
    });
    assert_eq!(
        world.ready("modest")["status"]["containerStatuses"][0]["restartCount"],
        0
    );
    // What an evicted pod had on the disk is gone.
    let uid = whole["metadata"]["uid"].as_str().expect("a uid");
    wait_for("the evicted pod's files to be gone", PATIENCE, || {
        let data = world.node.path().join("data/pods").join(uid);
        if data.exists() { Err("still there") } else { Ok(()) }
    });
    world.clean();
}

#[test]
fn a_full_disk_is_relieved_by_images_first_then_by_pods() {
    need_root!();
    let mut world = world(&[], Some("size=900m"));
    let import = |world: &World, name: &str, mebibytes: usize| {
        let root = TempDir::with_prefix("berth-image-").expect("temporary directory");
        std::fs::write(root.path().join("file"), vec![7; mebibytes << 20]).expect("write a file");
        let path = root.path().to_string_lossy().into_owned();
        world
            .node
            .ctl(&["image", "import", "--root", "--name", name, &path])
            .ok();
    };
    let images = |world: &World| world.node.ctl(&["image", "list"]).ok();
    world.pod("stays", json!({"containers": [script(WAIT)]}));
    world.ready("stays");
    // An unused image crosses the bound: it goes, and no pod.
    import(&world, "unused:1", 110);
    world.node.kill_daemon();
    world.node.reconfigure(|arguments| {
        arguments.extend(["--eviction-hard", "nodefs.available<700Mi"].map(str::to_owned));
    });
    world.node.spawn();
    wait_for("the unused image to be gone", PATIENCE, || {
        let list = images(&world);
        if list.contains("unused") {
            Err(list)
        } else {
            Ok(())
        }
    });
    pressure(&world, "DiskPressure", "node.kubernetes.io/disk-pressure", false);
    world.ready("stays");
    assert!(images(&world).contains("busybox"), "an image in use stays");

    // A pod crosses it: it has to go; what comes meanwhile waits.
    let greedy = with(
        &fill("/v/f", 220),
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
    );
    world.pod(
        "greedy",
        json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [greedy]}),
    );
    let pod = evicted(
        &world,
        "greedy",
        "The node was low on resource: ephemeral-storage. Threshold quantity: 716800Ki, available: ",
    );
    let conditions = pod["status"]["conditions"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let target = conditions
        .iter()
        .find(|c| c["type"] == "DisruptionTarget")
        .expect("a condition");
    assert_eq!(
        (&target["status"], &target["reason"]),
        (&json!("True"), &json!("TerminationByKubelet"))
    );
    assert_eq!(
        world.ready("stays")["status"]["containerStatuses"][0]["restartCount"],
        0
    );
    pressure(&world, "DiskPressure", "node.kubernetes.io/disk-pressure", false);
    let events = world.node.ctl(&["get", "events", "-o", "json"]).ok();
    for word in [
        "EvictionThresholdMet",
        "Attempting to reclaim ephemeral-storage",
        "NodeHasDiskPressure",
        "NodeHasNoDiskPressure",
    ] {
        assert!(events.contains(word), "{word}: {events}");
    }
    // The file system of its data is the test's own, and goes with the node.
    world.node.clear();
}

#[test]
fn a_soft_bound_has_to_be_crossed_for_its_time() {
    need_root!();
    let mut world = world(&[], None);
    world.pod("p", json!({"containers": [script(WAIT)]}));
    world.ready("p");
    let begin = |world: &mut World, grace: &str| {
        world.node.kill_daemon();
        world.node.reconfigure(|arguments| {
            if let Some(at) = arguments.iter().position(|a| a == "--eviction-soft") {
                arguments.truncate(at);
            }
            // More than there is.
            arguments.extend(["--eviction-soft", "memory.available<9Ti"].map(str::to_owned));
            arguments.extend([
                "--eviction-soft-grace-period".to_owned(),
                format!("memory.available={grace}"),
            ]);
        });
        let begun = Instant::now();
        world.node.spawn();
        // The node says at once that it is short of memory.
        pressure(
            world,
            "MemoryPressure",
            "node.kubernetes.io/memory-pressure",
            true,
        );
        begun
    };
    begin(&mut world, "1h");
    assert_eq!(world.get("p").expect("the pod")["status"]["phase"], "Running");
    let begun = begin(&mut world, "5s");
    evicted(&world, "p", "The node was low on resource: memory. ");
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    world.node.clear();
}

#[test]
fn more_than_the_bound_is_reclaimed_where_that_is_asked_for() {
    need_root!();
    let more = ["--eviction-minimum-reclaim", "nodefs.available=200Mi"];
    let mut world = world(&more, Some("size=900m"));
    for (name, mebibytes) in [("large", 200), ("small", 150)] {
        let container = with(
            &fill("/v/f", mebibytes),
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
        );
        world.pod(
            name,
            json!({"volumes": [{"name": "v", "emptyDir": {}}], "containers": [container]}),
        );
        wait_for(&format!("{name} to be full"), PATIENCE, || {
            let log = world.node.ctl(&["logs", name]);
            if log.stdout == "full\n" { Ok(()) } else { Err(log) }
        });
    }
    world.pod("tiny", json!({"containers": [script(WAIT)]}));
    world.ready("tiny");
    world.node.kill_daemon();
    world.node.reconfigure(|arguments| {
        arguments.extend(["--eviction-hard", "nodefs.available<600Mi"].map(str::to_owned));
    });
    world.node.spawn();
    // The end of the large one brings more than 600 MiB, but not 800.
    for name in ["large", "small"] {
        evicted(&world, name, "The node was low on resource: ephemeral-storage. ");
    }
    pressure(&world, "DiskPressure", "node.kubernetes.io/disk-pressure", false);
    assert_eq!(
        world.ready("tiny")["status"]["containerStatuses"][0]["restartCount"],
        0
    );
    world.node.clear();
}

#[test]
fn memory_pressure_takes_pods_by_usage_and_priority() {
    need_root!();
    let mut world = world(&[], None);
    let dir = TempDir::with_prefix("berth-order-").expect("temporary directory");
    let mounts = json!([{"name": "m", "mountPath": "/m"}, {"name": "out", "mountPath": "/out"}]);
    let volumes = json!([{"name": "m", "emptyDir": {"medium": "Memory"}}, {"name": "out", "hostPath": {"path": dir.path()}}]);
    let pod = |name: &str, mebibytes: u32, request: &str, class: &str| {
        let text = format!(
            "dd if=/dev/zero of=/m/f bs=1M count={mebibytes} 2>/dev/null; trap 'echo {name} >> /out/order; exit 0' TERM; touch /out/{name}; while :; do sleep 0.05; done"
        );
        let resources = json!({"requests": {"memory": request}});
        let container = with(&text, json!({"volumeMounts": mounts, "resources": resources}));
        let mut spec =
            json!({"volumes": volumes, "containers": [container], "terminationGracePeriodSeconds": 20});
        if !class.is_empty() {
            spec["priorityClassName"] = json!(class);
        }
        world.pod(name, spec);
        world.ready(name);
        wait_for("the pod to have its memory", PATIENCE, || {
            if dir.path().join(name).exists() {
                Ok(())
            } else {
                Err("not yet")
            }
        });
    };
    pod("modest", 4, "32Mi", "");
    pod("greedy", 48, "8Mi", "");
    pod("greedier", 48, "1Mi", "");
    pod("critical", 48, "1Mi", "system-node-critical");
    let late = json!({"containers": [script(WAIT)]});

    // More than the machine has must be free: the bound is crossed until berthd is told otherwise.
    world.node.kill_daemon();
    world.node.reconfigure(|arguments| {
        arguments.extend(
            [
                "--eviction-soft",
                "memory.available<9Ti",
                "--eviction-soft-grace-period",
                "memory.available=1s",
            ]
            .map(str::to_owned),
        );
    });
    world.node.spawn();
    pressure(
        &world,
        "MemoryPressure",
        "node.kubernetes.io/memory-pressure",
        true,
    );
    world.pod("late", late);
    for name in ["greedier", "greedy", "modest"] {
        let message = if name == "modest" {
            "The node was low on resource: memory. "
        } else {
            "has larger consumption of memory. "
        };
        evicted(&world, name, message);
    }
    wait_for("the last of them to end", PATIENCE, || {
        let order = std::fs::read_to_string(dir.path().join("order")).expect("the order");
        if order.lines().count() == 3 {
            Ok(())
        } else {
            Err(order)
        }
    });
    let order = std::fs::read_to_string(dir.path().join("order")).expect("the order");
    assert_eq!(
        order.lines().collect::<Vec<_>>(),
        ["greedier", "greedy", "modest"]
    );
    world.ready("critical");
    world.told(
        "late",
        "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/memory-pressure: }.",
    );

    world.node.kill_daemon();
    world.node.reconfigure(|arguments| {
        let at = arguments
            .iter()
            .position(|a| a == "--eviction-soft")
            .expect("the flag");
        arguments.truncate(at);
    });
    world.node.spawn();
    pressure(
        &world,
        "MemoryPressure",
        "node.kubernetes.io/memory-pressure",
        false,
    );
    world.ready("late");
    world.clean();
}

#[test]
fn too_many_processes_take_their_pod_away() {
    need_root!();
    let number = |path: &str| -> u64 {
        std::fs::read_to_string(path)
            .expect("a number")
            .trim()
            .parse()
            .expect("a number")
    };
    let most = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let load = std::fs::read_to_string("/proc/loadavg").expect("the load");
    let now: u64 = load
        .split(['/', ' '])
        .nth(4)
        .expect("a number")
        .parse()
        .expect("a number");
    let bound = format!("pid.available<{}", most - now - 1200);
    let world = world(&["--eviction-hard", &bound], None);
    world.pod("quiet", json!({"containers": [script(WAIT)]}));
    world.ready("quiet");
    let text = format!("n=0; while [ $n -lt 2000 ]; do sleep 3600 & n=$((n+1)); done; {WAIT}");
    world.pod(
        "bomb",
        json!({"containers": [script(&text)], "terminationGracePeriodSeconds": 1}),
    );
    evicted(
        &world,
        "bomb",
        "The node was low on resource: pids. Threshold quantity: ",
    );
    pressure(&world, "PIDPressure", "node.kubernetes.io/pid-pressure", false);
    assert_eq!(
        world.ready("quiet")["status"]["containerStatuses"][0]["restartCount"],
        0
    );
    world.clean();
}
