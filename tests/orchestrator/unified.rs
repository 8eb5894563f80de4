//! What pods are given and kept to on a pure cgroup v2 host. The machine of `tests/vm` is such a host.

use crate::resize::newest;
use crate::world::{PATIENCE, WAIT, World, with};
use harness::{need_root, skip, wait_for};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const TREE: &str = "/sys/fs/cgroup";
const MIB: u64 = 1 << 20;

/// Skips the test unless cgroup v2 is all there is.
macro_rules! need_unified {
    () => {
        need_root!();
        if !Path::new(TREE).join("cgroup.controllers").exists() {
            skip!("needs cgroup v2 alone");
        }
    };
}

/// The cgroup of a pod.
fn group(world: &World, pod: &Value) -> PathBuf {
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    Path::new(TREE).join(&world.cgroup).join(format!("pod{uid}"))
}

fn read(path: &Path) -> String {
    let text = std::fs::read_to_string(path);
    text.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}

/// The value of `key` in a file of lines such as `high 1`.
fn number(path: &Path, key: &str) -> u64 {
    let text = read(path);
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {key} in {}: {text}", path.display()))
}

/// `memory.high` between a request and a limit, in whole pages.
fn high(request: u64, limit: u64) -> String {
    ((request + (limit - request) / 10 * 9) / 4096 * 4096).to_string()
}

fn amounts(cpu: &str, memory: (&str, &str)) -> Value {
    json!({"requests": {"cpu": cpu, "memory": memory.0}, "limits": {"cpu": cpu, "memory": memory.1}})
}

#[test]
fn requests_and_limits_reach_every_level() {
    need_unified!();
    let world = World::new();
    let two = json!([
        with(WAIT, json!({"resources": amounts("250m", ("32Mi", "64Mi"))})),
        {"name": "other", "image": "busybox:1", "command": ["sh", "-c", WAIT],
         "resources": {"requests": {"cpu": "500m", "memory": "16Mi"}}},
    ]);
    world.pod("two", json!({"containers": two}));
    let pod = world.wait("two", "both containers", |pod, _| {
        let all = pod["status"]["containerStatuses"].as_array();
        all.is_some_and(|all| all.len() == 2 && all.iter().all(|c| c["ready"] == true))
    });
    let group = group(&world, &pod);
    for (file, value) in [
        ("c/memory.min", (32 * MIB).to_string()),
        ("c/memory.max", (64 * MIB).to_string()),
        ("c/memory.high", high(32 * MIB, 64 * MIB)),
        ("c/cpu.max", "25000 100000".to_owned()),
        ("other/memory.min", (16 * MIB).to_string()),
        ("other/memory.max", "max".to_owned()),
        ("other/cpu.max", "max 100000".to_owned()),
        // Nothing is protected below what is not protected above.
        ("memory.min", (48 * MIB).to_string()),
    ] {
        assert_eq!(read(&group.join(file)), value, "{file}");
    }
    let all = Path::new(TREE).join(&world.cgroup).join("memory.min");
    assert_eq!(read(&all), (48 * MIB).to_string());
    // 256 and 512 shares, by the runtimes' formula.
    let weights = ["c", "other"].map(|name| read(&group.join(name).join("cpu.weight")));
    assert_eq!(weights, ["35", "59"]);
    world.clean();
}

#[test]
fn a_container_is_slowed_down_before_it_is_killed() {
    need_unified!();
    let world = World::new();
    // memory.high is at 121.6 MiB.
    let fill = |mebibytes: u64| {
        format!("dd if=/dev/zero of=/m/f bs=1M count={mebibytes} 2>/dev/null; touch /m/done; {WAIT}")
    };
    let spec = |text: &str| {
        json!({"volumes": [{"name": "m", "emptyDir": {"medium": "Memory"}}], "containers": [with(text, json!({
            "resources": amounts("500m", ("64Mi", "128Mi")),
            "volumeMounts": [{"name": "m", "mountPath": "/m"}]}))]})
    };
    // What is in memory only cannot be reclaimed: the more it is, the slower it grows.
    world.pod("much", spec(&fill(126)));
    world.pod("little", spec(&fill(32)));
    for name in ["much", "little"] {
        let pod = world.ready(name);
        let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
        let done = world
            .node
            .path()
            .join("data/pods")
            .join(uid)
            .join("volumes/m/done");
        let events = group(&world, &pod).join("c/memory.events");
        wait_for(&format!("{name} to have its memory"), PATIENCE, || {
            if done.exists() || number(&events, "high") > 0 {
                Ok(())
            } else {
                Err(read(&events))
            }
        });
        assert_eq!(number(&events, "high") > 0, name == "much", "{}", read(&events));
        assert_eq!(number(&events, "oom_kill"), 0, "{name}");
        assert_eq!(
            world.ready(name)["status"]["containerStatuses"][0]["restartCount"],
            0
        );
    }
    world.clean();
}

#[test]
fn a_killed_container_leaves_its_peak() {
    need_unified!();
    let world = World::new();
    world.pod(
        "oom",
        json!({"restartPolicy": "Never", "containers": [with(
            "echo growing; exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'",
            json!({"resources": {"limits": {"memory": "64Mi"}}}))]}),
    );
    let pod = world.phase("oom", "Failed");
    assert_eq!(
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"],
        "OOMKilled"
    );
    // The limit is the request, too, so nothing is between them: no memory.high. memory.peak came with Linux 5.19.
    world.told("oom", "limit 64.0 MiB; last lines of its log: growing");
    let release = read(Path::new("/proc/sys/kernel/osrelease"));
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let events = world.node.ctl(&["get", "events", "-o", "json"]).ok();
    let told = events
        .split("memory.peak ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let peak = told.and_then(|text| text.strip_suffix(" MiB")?.parse::<f64>().ok());
    if kernel >= (5, 19) {
        let peak = peak.unwrap_or_else(|| panic!("{events}"));
        assert!((32.0..=64.1).contains(&peak), "{peak}");
    }
    world.clean();
}

#[test]
fn a_resize_moves_what_protects_and_slows_down() {
    need_unified!();
    let Some(kubectl) = newest() else {
        skip!("needs a kubectl that knows the subresource resize (1.32)")
    };
    let world = World::new();
    world.pod(
        "p",
        json!({"containers": [with(WAIT, json!({"resources": amounts("100m", ("32Mi", "64Mi"))}))]}),
    );
    let pod = world.ready("p");
    let id = pod["status"]["containerStatuses"][0]["containerID"].clone();
    let group = group(&world, &pod);
    let resize = |memory: (&str, &str), cpu: &str, bytes: (u64, u64)| {
        let patch =
            json!({"spec": {"containers": [{"name": "c", "resources": amounts(cpu, memory)}]}}).to_string();
        let arguments = ["patch", "pod", "p", "--subresource", "resize", "--patch", &patch];
        world.node.kubectl(&kubectl, &arguments).ok();
        let files = ["c/memory.min", "c/memory.high", "c/memory.max", "memory.min"];
        let wanted = [
            bytes.0.to_string(),
            high(bytes.0, bytes.1),
            bytes.1.to_string(),
            bytes.0.to_string(),
        ];
        wait_for("the cgroup to follow", PATIENCE, || {
            let found = files.map(|file| read(&group.join(file)));
            if found == wanted { Ok(()) } else { Err(found) }
        });
    };
    resize(("48Mi", "96Mi"), "200m", (48 * MIB, 96 * MIB));
    assert_eq!(read(&group.join("c/cpu.max")), "20000 100000");
    resize(("16Mi", "48Mi"), "100m", (16 * MIB, 48 * MIB));
    let container = world.ready("p")["status"]["containerStatuses"][0].clone();
    assert_eq!(
        (&container["containerID"], &container["restartCount"]),
        (&id, &json!(0))
    );
    world.clean();
}
