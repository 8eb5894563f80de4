//! `hostUsers: false`: pods whose root is nobody on the host, looked at from inside and from the host.

use crate::world::{PATIENCE, WAIT, World, script, with};
use harness::{Node, NodeOptions, kubectl_versions, need_root, run, skip, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::Command;

/// Ids of one pod.
const LENGTH: u32 = 65_536;

/// A process of a pod as the host sees it.
struct Process {
    pid: i64,
    uid: u32,
    gid: u32,
    /// First id of its user namespace on the host.
    first: u32,
}

/// The first process of a container's run.
#[track_caller]
fn process(world: &World, pod: &str, run: &str) -> Process {
    let uid = world.get(pod).expect("the pod")["metadata"]["uid"].clone();
    let record = world
        .node
        .path()
        .join("run/pods")
        .join(uid.as_str().expect("a uid"))
        .join("containers")
        .join(run)
        .join("record.json");
    let record: Value = serde_json::from_slice(&fs::read(record).expect("the record")).expect("JSON");
    let pid = record["pid"].as_i64().expect("a pid");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process");
    let field = |name: &str| -> u32 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the field");
        let word = line.split_ascii_whitespace().next().expect("a number");
        word.parse().expect("a number")
    };
    let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("its map");
    let map: Vec<u32> = map
        .split_ascii_whitespace()
        .map(|n| n.parse().expect("a number"))
        .collect();
    assert_eq!((map[0], map[2]), (0, LENGTH), "{map:?}");
    assert_eq!(
        fs::read_to_string(format!("/proc/{pid}/gid_map")).expect("its map"),
        { fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("its map") }
    );
    Process {
        pid,
        uid: field("Uid:"),
        gid: field("Gid:"),
        first: map[1],
    }
}

fn kubectl() -> Option<PathBuf> {
    kubectl_versions().pop()
}

#[track_caller]
fn exec(world: &World, kubectl: &std::path::Path, pod: &str, container: &str, text: &str) -> String {
    let arguments = ["exec", pod, "-c", container, "--", "sh", "-c", text];
    let outcome = world.node.kubectl(kubectl, &arguments);
    assert!(outcome.status.success(), "{container}: {text}: {outcome:?}");
    outcome.stdout
}

/// Every kind of volume, in a pod that one may ask what it sees.
fn pod(host: &str) -> Value {
    let mounts = json!([
        {"name": "disk", "mountPath": "/disk"},
        {"name": "memory", "mountPath": "/memory"},
        {"name": "secret", "mountPath": "/secret"},
        {"name": "map", "mountPath": "/map"},
        {"name": "projected", "mountPath": "/projected"},
        {"name": "host", "mountPath": "/host"},
        {"name": "host", "mountPath": "/part", "subPath": "made/below"},
        {"name": "host", "mountPath": "/one-file", "subPath": "file", "readOnly": true},
    ]);
    json!({
        "hostUsers": false,
        "securityContext": {"fsGroup": 2000, "sysctls": [
            {"name": "kernel.shmmax", "value": "123456"},
            {"name": "net.ipv4.ip_forward", "value": "1"},
        ]},
        "containers": [
            with(&format!("echo to the log; echo by its file >/dev/stdout; echo and the other >/dev/stderr; {WAIT}"),
                json!({"volumeMounts": mounts, "resources": {"limits": {"memory": "64Mi", "cpu": "1"}}})),
            {"name": "alice", "image": "busybox:1", "volumeMounts": mounts,
             "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "capabilities": {"drop": ["ALL"]}},
             // Port 80 without any capability; and its output by the file, too.
             "command": ["sh", "-c", "echo alice >/dev/stdout; mkdir -p /disk/w; echo served >/disk/w/index.html; exec httpd -f -p 80 -h /disk/w"],
             "readinessProbe": {"httpGet": {"path": "/", "port": 80}},
             "livenessProbe": {"exec": {"command": ["sh", "-c", "echo probed >/dev/stdout"]}}},
        ],
        "volumes": [
            {"name": "disk", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "secret", "secret": {"secretName": "own", "defaultMode": 0o400}},
            {"name": "map", "configMap": {"name": "own"}},
            {"name": "projected", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}},
                {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
            ]}},
            {"name": "host", "hostPath": {"path": host}},
        ],
    })
}

fn prepare(world: &World) -> PathBuf {
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "own"}, "stringData": {"key": "hidden"}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "own"}, "data": {"key": "shown"}}));
    let host = world.node.path().join("host");
    fs::create_dir(&host).expect("make a folder");
    fs::write(host.join("file"), "alice's\n").expect("write");
    fs::set_permissions(host.join("file"), fs::Permissions::from_mode(0o600)).expect("chmod");
    for path in [&host, &host.join("file")] {
        chown(path, Some(1000), Some(1000)).expect("chown");
    }
    host
}

#[test]
fn root_of_a_pod_is_nobody_on_the_host() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl");
    };
    let mut world = World::new();
    let host = prepare(&world);
    world.pod("own", pod(&host.to_string_lossy()));
    world.wait("own", "all ready", |pod, _| {
        let all = pod["status"]["containerStatuses"].as_array();
        all.is_some_and(|all| all.len() == 2 && all.iter().all(|c| c["ready"] == true))
    });

    // From the host: neither root nor alice.
    let root = process(&world, "own", "c-0");
    let alice = process(&world, "own", "alice-0");
    assert!(root.first >= LENGTH && root.first == alice.first);
    assert_eq!((root.uid, root.gid), (root.first, root.first));
    assert_eq!((alice.uid, alice.gid), (root.first + 1000, root.first + 1000));

    // From inside: root, and alice, with their files.
    let ask = |container: &str, text: &str| exec(&world, &kubectl, "own", container, text);
    assert_eq!(
        ask("c", "id -u; id -g").split_whitespace().collect::<Vec<_>>(),
        ["0", "0"]
    );
    assert_eq!(
        ask("alice", "id -u; id -g"),
        "1000
1000
"
    );
    assert!(
        ask("alice", "id -G")
            .split_whitespace()
            .any(|group| group == "2000")
    );
    let owners = ask(
        "c",
        "busybox stat -c '%n %u:%g %a' / /etc/passwd /bin/busybox /etc/hosts /etc/resolv.conf /dev/termination-log \
         /dev/shm /disk /memory /secret/..data/key /map/..data/key /projected/..data/token /host /host/file /part /one-file",
    );
    for expected in [
        "/ 0:0 755",
        "/etc/passwd 0:0 644",
        "/bin/busybox 0:0 755",
        "/etc/hosts 0:0 644",
        "/etc/resolv.conf 0:0 644",
        "/dev/termination-log 0:0 666",
        "/dev/shm 0:0 1777",
        "/disk 0:2000 2777",
        "/memory 0:2000 2777",
        "/secret/..data/key 0:2000 440",
        "/map/..data/key 0:2000 644",
        "/projected/..data/token 0:2000 644",
        "/host 1000:1000 755",
        "/host/file 1000:1000 600",
        "/part 0:0 755",
        "/one-file 1000:1000 600",
    ] {
        assert!(
            owners.lines().any(|line| line == expected),
            "{expected}:\n{owners}"
        );
    }
    // Each may do what the mode says; root may do it all, inside.
    assert_eq!(
        ask(
            "alice",
            "cat /secret/key /host/file; cat /memory/x 2>/dev/null || echo none"
        ),
        "hiddenalice's\nnone\n"
    );
    ask(
        "alice",
        "echo 1 >/disk/by-alice; echo 2 >/host/by-alice; ! echo 3 2>/dev/null >/etc/passwd",
    );
    ask(
        "c",
        "cat /host/file; echo 1 >/disk/by-root; echo 2 >/memory/by-root; echo 3 >/host/by-root; echo 4 >/root/own; chown 5:6 /host/by-root",
    );
    ask("c", "! echo x 2>/dev/null >/one-file");
    let at = |path: &str| {
        let meta = fs::metadata(host.join(path)).expect("a file on the host");
        (meta.uid(), meta.gid())
    };
    assert_eq!(
        (at("by-alice"), at("by-root"), at("made/below")),
        ((1000, 1000), (5, 6), (0, 0))
    );
    // What is the container's own belongs to the pod's ids on the disk; the image is untouched.
    let uid = world.get("own").expect("the pod")["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let upper = world
        .node
        .data_dir()
        .join("pods")
        .join(&uid)
        .join("containers/c-0/upper/root/own");
    assert_eq!(
        fs::metadata(upper).expect("the container's file").uid(),
        root.first
    );

    // The limits of a pod's root: no capability reaches the host, and none is there that was not given.
    let own: u64 = u64::from_str_radix(
        ask("c", "grep CapEff /proc/self/status")
            .split_whitespace()
            .nth(1)
            .expect("a set"),
        16,
    )
    .expect("a number");
    assert_eq!(
        own & (1 << 21),
        0,
        "CAP_SYS_ADMIN is not among the usual ones: {own:x}"
    );
    ask(
        "c",
        "! mount -t tmpfs none /mnt 2>/dev/null; ! echo 1 2>/dev/null >/proc/sys/kernel/panic",
    );
    ask(
        "c",
        "chown 7 /root/own; busybox mknod /root/null c 1 3 2>/dev/null && exit 1; exit 0",
    );
    assert_eq!(
        ask(
            "c",
            "cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_forward; hostname"
        ),
        "123456\n1\nown\n"
    );
    // The other container's process and a host's cannot be reached by a signal.
    let strange = run(Command::new("nsenter").args([
        "--user",
        "--target",
        &root.pid.to_string(),
        "--",
        "kill",
        "-0",
        "1",
    ]));
    assert!(!strange.status.success(), "{strange:?}");

    // Output, also what is written by its file's name.
    let log = world.logs(&["own", "-c", "c"]);
    let mut lines: Vec<&str> = log.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["and the other", "by its file", "to the log"]);
    world.says(&["own", "-c", "alice"], "alice\n");
    assert_eq!(
        ask("alice", "echo here >/dev/stdout; echo there >/dev/stderr"),
        "here\n"
    );

    // A killed berthd changes nothing, and the pod's ids are still its own.
    world.node.kill_daemon();
    world.node.spawn();
    assert_eq!(process(&world, "own", "c-0").pid, root.pid);
    let ask = |container: &str, text: &str| exec(&world, &kubectl, "own", container, text);
    assert_eq!(ask("c", "cat /root/own /memory/by-root"), "4\n2\n");

    // The next run has the same ids, fresh files, and the volumes as they were.
    ask("c", "kill -TERM 1");
    world.wait("own", "the next run", |_, c| {
        c["restartCount"] == 1 && c["state"]["running"].is_object()
    });
    let next = process(&world, "own", "c-1");
    assert_eq!((next.uid, next.first), (root.first, root.first));
    assert_eq!(
        ask(
            "c",
            "cat /disk/by-alice /memory/by-root; ls /root; busybox stat -c %u:%g /disk/by-alice /host"
        ),
        "1\n2\n1000:2000\n1000:1000\n"
    );

    // Another pod has other ids, and does not get at these.
    world.pod("other", json!({"hostUsers": false, "containers": [script(WAIT)]}));
    world.ready("other");
    let other = process(&world, "other", "c-0");
    assert!(
        other.first.abs_diff(root.first) >= LENGTH,
        "{} {}",
        other.first,
        root.first
    );
    world.clean();
    assert_eq!(
        fs::read_dir(world.node.path().join("run/ids"))
            .expect("the ids")
            .count(),
        0,
        "ids are left"
    );
    assert_eq!(at("by-alice"), (1000, 1000));
}

#[test]
fn capabilities_of_a_pods_own_users_end_at_its_namespaces() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl");
    };
    let world = World::new();
    let admin = json!({"securityContext": {"capabilities": {"add": ["SYS_ADMIN", "NET_ADMIN"]}}});
    let privileged = json!({"name": "all", "image": "busybox:1", "command": ["sh", "-c", WAIT],
        "securityContext": {"privileged": true}});
    world.pod(
        "own",
        json!({"hostUsers": false, "containers": [with(WAIT, admin), privileged]}),
    );
    world.ready("own");
    wait_for("the privileged container", PATIENCE, || {
        let pod = world.get("own")?;
        let all = &pod["status"]["containerStatuses"];
        let ready = all
            .as_array()
            .is_some_and(|all| all.iter().all(|c| c["ready"] == true));
        if ready { Ok(()) } else { Err(all.to_string()) }
    });
    for container in ["c", "all"] {
        let ask = |text: &str| exec(&world, &kubectl, "own", container, text);
        // What belongs to the pod can be done, what belongs to the host cannot.
        ask("mkdir -p /mnt && mount -t tmpfs none /mnt && touch /mnt/x && umount /mnt");
        ask("busybox ip link set lo down && busybox ip link set lo up");
        ask("! mount -t ext4 /dev/vda /mnt 2>/dev/null");
        ask("! echo 3 2>/dev/null >/proc/sys/vm/drop_caches");
    }
    assert!(process(&world, "own", "all-0").uid >= LENGTH);
    world.clean();
}

#[test]
fn what_cannot_have_users_of_its_own_says_so() {
    need_root!();
    let world = World::new();
    // A file system without idmapped mounts.
    world.pod(
        "volume",
        json!({"hostUsers": false, "containers": [with(WAIT, json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
            "volumes": [{"name": "v", "hostPath": {"path": "/proc"}}]}),
    );
    let waiting = world.wait("volume", "refused", |_, c| {
        c["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = waiting["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
    assert!(
        message.contains(
            "volume v: hostUsers: false needs a file system with idmapped mounts, and that of /proc has none"
        ),
        "{message}"
    );
    world.delete("volume");
    // An image whose user is beyond the pod's.
    let root = world.node.path().join("far");
    fs::create_dir(&root).expect("make a folder");
    harness::busybox_rootfs(&root);
    let path = root.to_string_lossy().into_owned();
    world
        .node
        .ctl(&[
            "image",
            "import",
            &path,
            "--name",
            "far:1",
            "--user",
            "70000",
            "--entrypoint",
            "sh",
        ])
        .ok();
    let container = json!({"name": "c", "image": "far:1", "command": ["sh", "-c", WAIT]});
    world.pod("far", json!({"hostUsers": false, "containers": [container]}));
    let waiting = world.wait("far", "refused", |_, c| {
        c["state"]["waiting"]["reason"] == "CreateContainerConfigError"
    });
    let message = waiting["status"]["containerStatuses"][0]["state"]["waiting"]["message"].to_string();
    assert!(
        message.contains("user or group 70000") && message.contains("0 to 65535"),
        "{message}"
    );
    // The host's namespaces are refused before anything is stored.
    let file = world.node.path().join("refused.json");
    let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "refused"},
        "spec": {"hostUsers": false, "hostNetwork": true, "containers": [script(WAIT)]}});
    fs::write(&file, object.to_string()).expect("write");
    let refused = world.node.ctl(&["apply", "-f", &file.to_string_lossy()]).err();
    assert!(
        refused.contains("spec.hostNetwork: Forbidden: when `hostUsers` is false"),
        "{refused}"
    );
    world.clean();
}

#[test]
fn ids_are_given_again_when_a_pod_is_gone() {
    need_root!();
    harness::isolate();
    let arguments = ["--pod-ids", "1879048192:65536"].map(str::to_owned).to_vec();
    let node = Node::start(NodeOptions {
        arguments,
        ..NodeOptions::default()
    });
    let world = World::on(node);
    let spec = json!({"hostUsers": false, "terminationGracePeriodSeconds": 1, "containers": [script(WAIT)]});
    world.pod("first", spec.clone());
    world.ready("first");
    world.pod("second", spec);
    wait_for("the second to be told", PATIENCE, || {
        let events = world.node.ctl(&["get", "events", "-o", "json"]).ok();
        if events.contains("1 pods have all of 1879048192:65536; give more with berthd --pod-ids") {
            Ok(())
        } else {
            Err(events)
        }
    });
    world.delete("first");
    world.ready("second");
    assert_eq!(process(&world, "second", "c-0").first, 1_879_048_192);
    // What a killed berthd was told of by nobody is taken back: ids of a pod that is not there.
    let mut world = world;
    world.node.kill_daemon();
    let ids = world.node.path().join("run/ids");
    fs::write(ids.join("1879113728"), "nobody").expect("write");
    world.node.spawn();
    wait_for("stale ids to be taken back", PATIENCE, || {
        let left = fs::read_dir(&ids).expect("the ids").count();
        if left == 1 { Ok(()) } else { Err(left) }
    });
    world.clean();
}

#[test]
fn containers_with_users_of_their_own_may_share_their_processes() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl");
    };
    let world = World::new();
    let mut second = script(WAIT);
    second["name"] = json!("d");
    world.pod(
        "own",
        json!({"hostUsers": false, "shareProcessNamespace": true, "containers": [script(WAIT), second]}),
    );
    wait_for("both containers", PATIENCE, || {
        let pod = world.get("own")?;
        let all = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if all.len() == 2 && all.iter().all(|c| c["ready"] == true) {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
    for container in ["c", "d"] {
        let seen = exec(&world, &kubectl, "own", container, "cat /proc/[0-9]*/comm");
        // The process that holds the namespace, and the shells of both.
        let count = |name: &str| seen.lines().filter(|line| *line == name).count();
        assert!(count("berth-pod") == 1 && count("sh") >= 2, "{seen}");
    }
    // One may end the other's, as root of both.
    exec(
        &world,
        &kubectl,
        "own",
        "c",
        "for p in /proc/[0-9]*; do [ ${p#/proc/} != $$ ] && grep -q 'sleep 0.05' $p/cmdline && kill -TERM ${p#/proc/}; done; exit 0",
    );
    wait_for("a container to run again", PATIENCE, || {
        let pod = world.get("own")?;
        let all = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        if all.iter().any(|c| c["restartCount"].as_i64() > Some(0)) {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        }
    });
    world.clean();
}
