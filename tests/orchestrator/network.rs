//! The pods' network: the default list, ports of the host, garbage collection, repair, other plugins.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cni_plugins::exec::{Attachment, Network, Runtime};
use harness::{Node, NodeOptions, busybox_rootfs, isolate, need_root, run, skip, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const REFERENCE: &str = "/usr/lib/cni";
/// Serves a page on port 80 until it is asked to end.
const SERVE: &str = "mkdir -p /www; echo hello from $(hostname) > /www/index.html; httpd -p 80 -h /www; \
                     trap 'exit 0' TERM; while :; do sleep 0.05; done";

fn sh(line: &str) -> String {
    run(Command::new("sh").args(["-c", line])).ok()
}

/// A node with an image `busybox:1`, in namespaces of the test's own.
fn node(mut options: NodeOptions) -> Node {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    isolate();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let cgroup = format!("berth-net-{}-{number}", std::process::id());
    options.arguments.extend(["--cgroup-parent".to_owned(), cgroup]);
    let node = Node::start(options);
    let root = TempDir::with_prefix("berth-image-").expect("temporary directory");
    busybox_rootfs(root.path());
    let path = root.path().to_string_lossy().into_owned();
    node.ctl(&["image", "import", "--root", "--name", "busybox:1", &path])
        .ok();
    node
}

fn checking() -> NodeOptions {
    NodeOptions {
        arguments: vec!["--network-check".to_owned(), "1".to_owned()],
        ..NodeOptions::default()
    }
}

#[track_caller]
fn apply(node: &Node, name: &str, ports: Value) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [
            {"name": "c", "image": "busybox:1", "command": ["sh", "-c", SERVE], "ports": ports}]},
    });
    let file = node.path().join(format!("{name}.json"));
    std::fs::write(&file, pod.to_string()).expect("write the manifest");
    node.ctl(&["apply", "-f", &file.to_string_lossy()]).ok();
}

#[track_caller]
fn ready(node: &Node, name: &str) -> Value {
    wait_for(&format!("{name} to be ready"), PATIENCE, || {
        let outcome = node.ctl(&["get", "pod", name, "-o", "json"]);
        let pod: Value =
            serde_json::from_str(&outcome.stdout).map_err(|e| format!("{e}: {}", outcome.stderr))?;
        if pod["status"]["containerStatuses"][0]["ready"] == true {
            Ok(pod)
        } else {
            Err(pod["status"].to_string())
        }
    })
}

fn ask(url: &str) -> Result<String, String> {
    let outcome = run(Command::new("timeout").args(["5", "busybox", "wget", "-q", "-O", "-", url]));
    if outcome.status.success() {
        Ok(outcome.stdout)
    } else {
        Err(outcome.stderr)
    }
}

#[track_caller]
fn serves(url: &str, page: &str) {
    wait_for(url, PATIENCE, || match ask(url) {
        Ok(text) if text == page => Ok(()),
        other => Err(other),
    });
}

fn events(node: &Node) -> String {
    node.ctl(&["get", "events", "-o", "json"]).stdout
}

#[track_caller]
fn event(node: &Node, reason: &str, part: &str) {
    wait_for(&format!("event {reason}"), PATIENCE, || {
        let list: Value = serde_json::from_str(&events(node)).map_err(|e| e.to_string())?;
        let mut items = list["items"].as_array().into_iter().flatten();
        let found = items.find(|e| {
            e["reason"] == reason
                && e["message"]
                    .as_str()
                    .is_some_and(|message| message.contains(part))
        });
        found.map(drop).ok_or_else(|| list.to_string())
    });
}

fn written(node: &Node) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", node.pid())).expect("read io");
    let bytes = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    bytes.and_then(|text| text.parse().ok()).expect("write_bytes")
}

/// Puts a script before the node's portmap that writes a line for each CHECK; gives the file of the lines.
fn counted_looks(node: &Node) -> PathBuf {
    let (dir, looks) = (node.path().join("cni-beneath"), node.path().join("looks"));
    std::fs::create_dir(&dir).expect("create a directory");
    std::os::unix::fs::symlink(harness::bin("cni-plugins"), dir.join("portmap")).expect("link");
    let script = format!(
        "#!/bin/sh\n[ $CNI_COMMAND = CHECK ] && echo look >>{}\nexec {}/portmap\n",
        looks.display(),
        dir.display()
    );
    executable(&dir.join("script"), &script);
    std::fs::rename(dir.join("script"), node.path().join("cni/portmap")).expect("replace the plugin");
    looks
}

fn executable(file: &Path, script: &str) {
    std::fs::write(file, script).expect("write the script");
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
}

#[test]
fn lists_without_their_plugins_harm_nobody() {
    need_root!();
    let foreign = json!({"cniVersion": "0.4.0", "name": "podman", "plugins": [
        {"type": "bridge", "bridge": "podman0", "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.96.0.0/24"}]]}},
        {"type": "firewall"}, {"type": "tuning"}]});
    let mut node = node(NodeOptions {
        network: Some(foreign.to_string()),
        ..NodeOptions::default()
    });
    // As Podman's list does it: `tuning` is not among the node's plugins.
    apply(&node, "web", json!([{"containerPort": 80, "hostPort": 8080}]));
    ready(&node, "web");
    serves("http://127.0.0.1:8080/", "hello from web\n");
    let log = node.log();
    assert!(
        log.contains("10-test.conflist: tuning") && log.contains("passed over"),
        "{log}"
    );
    sh("! ip link show podman0 2>/dev/null");

    // A pod that was attached with a list that is gone since, and only useless ones are left.
    let leased = node.path().join("own-leases");
    let own = json!({"cniVersion": "1.0.0", "name": "own", "plugins": [
        {"type": "bridge", "bridge": "own0", "isDefaultGateway": true,
         "ipam": {"type": "host-local", "dataDir": leased, "ranges": [[{"subnet": "10.97.0.0/24"}]]}}]});
    let file = node.cni_conf_dir().join("05-own.conflist");
    std::fs::write(&file, own.to_string()).expect("write the list");
    apply(&node, "guest", json!([]));
    let guest = ready(&node, "guest");
    let ip = guest["status"]["podIP"].as_str().unwrap_or_default();
    assert!(ip.starts_with("10.97.0."), "{guest}");
    assert_eq!(leases(&leased.join("own")).len(), 1);
    node.kill_daemon();
    std::fs::remove_file(&file).expect("remove the list");
    node.spawn();
    node.ctl(&["delete", "pod", "guest"]).ok();
    wait_for("the guest's lease to go", PATIENCE, || {
        let left = leases(&leased.join("own"));
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    node.clear();
}

#[test]
fn ports_of_the_host_lead_to_pods_and_survive_a_flush() {
    need_root!();
    let node = node(checking());
    let list =
        std::fs::read_to_string(node.cni_conf_dir().join("10-berth.conflist")).expect("the default list");
    for plugin in ["bridge", "portmap", "firewall"] {
        assert!(list.contains(plugin), "{list}");
    }
    sh(
        "ip link add out0 type veth peer name out1; ip addr add 192.0.2.1/24 dev out0; ip link set out0 up; ip link set out1 up",
    );
    apply(
        &node,
        "web",
        json!([
        {"containerPort": 80, "hostPort": 8080},
        {"containerPort": 80, "hostPort": 8081, "hostIP": "192.0.2.1"}]),
    );
    let pod = ready(&node, "web");
    let ip = pod["status"]["podIP"].as_str().expect("an address").to_owned();
    for url in [
        "http://127.0.0.1:8080/",
        "http://192.0.2.1:8080/",
        "http://192.0.2.1:8081/",
        &format!("http://{ip}/"),
    ] {
        serves(url, "hello from web\n");
    }
    ask("http://127.0.0.1:8081/").expect_err("published on one address");

    // The port is taken: the second pod waits, and says for whom.
    apply(&node, "second", json!([{"containerPort": 80, "hostPort": 8080}]));
    event(
        &node,
        "FailedCreatePodSandBox",
        "8080/tcp is taken by pod default/web",
    );

    // Somebody else flushes the firewall.
    sh("nft flush ruleset");
    serves("http://127.0.0.1:8080/", "hello from web\n");
    event(&node, "NetworkRepaired", "put back");

    // At rest the looks cost no write. A plugin in between tells of each look.
    node.ctl(&["delete", "pod", "second"]).ok();
    let looks = counted_looks(&node);
    let count = || std::fs::read_to_string(&looks).map_or(0, |text| text.lines().count());
    let (mut looks, mut bytes) = (count(), written(&node));
    wait_for("three looks without a write", PATIENCE, || {
        if written(&node) != bytes {
            (looks, bytes) = (count(), written(&node));
        }
        let done = count() - looks;
        if done >= 3 { Ok(()) } else { Err(done) }
    });

    // What cannot be put back is said once.
    let netns = node
        .path()
        .join("run/netns")
        .join(pod["metadata"]["uid"].as_str().expect("a uid"));
    sh(&format!("nsenter --net={} ip route del default", netns.display()));
    event(&node, "NetworkBroken", "no route to 0.0.0.0/0");
    node.ctl(&["delete", "pod", "web"]).ok();
    ask("http://127.0.0.1:8080/").expect_err("the port goes with its pod");
    apply(&node, "third", json!([{"containerPort": 80, "hostPort": 8080}]));
    ready(&node, "third");
    serves("http://127.0.0.1:8080/", "hello from third\n");
}

/// Names of the leases of the node's network.
fn leases(dir: &Path) -> BTreeSet<String> {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.parse::<std::net::IpAddr>().is_ok())
        .collect()
}

#[test]
fn a_restart_collects_what_the_dead_have_left_and_no_pod_that_is_new() {
    need_root!();
    isolate();
    // A plugin in front that takes its time with GC, so that a new pod comes in the middle of it.
    let plugins = TempDir::with_prefix("berth-plugins-").expect("temporary directory");
    for plugin in ["bridge", "host-local", "loopback", "portmap", "firewall"] {
        std::os::unix::fs::symlink(harness::bin("cni-plugins"), plugins.path().join(plugin)).expect("link");
    }
    let slow = plugins.path().join("slow");
    let mark = plugins.path().join("gc");
    let script = format!(
        "#!/bin/sh\ncat >/dev/null\ncase $CNI_COMMAND in ADD) echo '{{\"cniVersion\": \"1.1.0\"}}';; GC) echo >{}; sleep 2;; esac\n",
        mark.display()
    );
    std::fs::write(&slow, script).expect("write the plugin");
    std::fs::set_permissions(&slow, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
    let leased = plugins.path().join("leases");
    let list = json!({"cniVersion": "1.1.0", "name": "berth", "plugins": [
        {"type": "slow"},
        {"type": "bridge", "bridge": "pods0", "isDefaultGateway": true, "ipMasq": true,
         "ipam": {"type": "host-local", "dataDir": leased, "ranges": [[{"subnet": "10.94.0.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}, {"type": "firewall"}]});
    let mut node = node(NodeOptions {
        cni_bin_dir: Some(plugins.path().to_owned()),
        network: Some(list.to_string()),
        ..NodeOptions::default()
    });
    let leased = leased.join("berth");
    apply(&node, "old", json!([{"containerPort": 80, "hostPort": 8080}]));
    ready(&node, "old");
    node.kill_daemon();

    // A container that nobody has recorded, and one that is recorded in berthd's own cache; both are dead.
    let network = Network::from_bytes(list.to_string().as_bytes()).expect("the list");
    for (id, cache) in [
        ("unknown", plugins.path().join("elsewhere")),
        ("recorded", node.data_dir().join("cni")),
    ] {
        let netns = plugins.path().join(id);
        let file = netns.display();
        sh(&format!("touch {file}; unshare --net={file} true"));
        Runtime::new([plugins.path().to_owned()], cache)
            .add(&network, &Attachment::new(id, &netns, "eth0"))
            .expect("attach");
        sh(&format!("umount {file}; rm {file}"));
    }
    assert_eq!(leases(&leased).len(), 3);
    let _ = std::fs::remove_file(&mark);
    node.spawn();
    wait_for("GC to begin", PATIENCE, || {
        if mark.exists() { Ok(()) } else { Err("not yet") }
    });
    apply(&node, "new", json!([{"containerPort": 80, "hostPort": 9090}]));
    ready(&node, "new");
    wait_for("the leases of the dead to go", PATIENCE, || {
        let now = leases(&leased);
        if now.len() == 2 { Ok(()) } else { Err(now) }
    });
    for id in ["unknown", "recorded"] {
        let rules = sh("nft list ruleset");
        assert!(!rules.contains(&format!("berth {id} eth0")), "{rules}");
    }
    serves("http://127.0.0.1:8080/", "hello from old\n");
    serves("http://127.0.0.1:9090/", "hello from new\n");
    node.clear();
    assert_eq!(leases(&leased), BTreeSet::new());
}

#[test]
fn the_reference_plugins_serve_pods_too() {
    need_root!();
    if !Path::new(REFERENCE).join("bridge").exists() {
        skip!("needs the reference CNI plugins in {REFERENCE}");
    }
    let data = TempDir::with_prefix("berth-leases-").expect("temporary directory");
    let list = json!({"cniVersion": "1.0.0", "name": "other", "plugins": [
        {"type": "bridge", "bridge": "other0", "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": data.path(), "ranges": [[{"subnet": "10.95.0.0/24"}]]}},
        {"type": "portmap", "capabilities": {"portMappings": true}}, {"type": "firewall"}]});
    let mut node = node(NodeOptions {
        cni_bin_dir: Some(REFERENCE.into()),
        network: Some(list.to_string()),
        ..checking()
    });
    assert!(
        !node.cni_conf_dir().join("10-berth.conflist").exists(),
        "somebody's list is enough"
    );
    apply(&node, "web", json!([{"containerPort": 80, "hostPort": 8080}]));
    let pod = ready(&node, "web");
    assert!(
        pod["status"]["podIP"]
            .as_str()
            .is_some_and(|ip| ip.starts_with("10.95.0.")),
        "{}",
        pod["status"]
    );
    serves("http://127.0.0.1:8080/", "hello from web\n");
    node.kill_daemon();
    node.spawn();
    serves("http://127.0.0.1:8080/", "hello from web\n");
    node.clear();
    assert_eq!(leases(&data.path().join("other")), BTreeSet::new());
    assert!(
        !events(&node).contains("NetworkBroken"),
        "a CHECK that never worked is no alarm"
    );
}
