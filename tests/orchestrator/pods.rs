//! Pods under the real `berthd`, in network and mount namespaces of the test's own.

use crate::world::{PATIENCE, WAIT, World, script, with};
use harness::{Node, NodeOptions, need_root, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;
#[test]
fn a_pod_lives_serves_and_leaves_nothing() {
    need_root!();
    let world = World::new();
    let page = "mkdir -p /www; echo hello from $(hostname) > /www/index.html; httpd -p 8080 -h /www; ";
    let probe = json!({"httpGet": {"path": "/index.html", "port": "web"}});
    world.pod(
        "web",
        json!({"containers": [with(&format!("{page}{WAIT}"), json!({
            "ports": [{"name": "web", "containerPort": 8080}],
            "readinessProbe": probe, "livenessProbe": probe,
        }))]}),
    );
    let pod = world.ready("web");
    assert_eq!(pod["status"]["phase"], "Running");
    assert_eq!(pod["status"]["qosClass"], "BestEffort");
    for condition in pod["status"]["conditions"].as_array().expect("conditions") {
        assert_eq!(condition["status"], "True", "{condition}");
    }
    let ip = pod["status"]["podIP"].as_str().expect("an address");
    let answer = harness::run(std::process::Command::new("busybox").args([
        "wget",
        "-q",
        "-O",
        "-",
        &format!("http://{ip}:8080/"),
    ]));
    assert_eq!(answer.ok(), "hello from web\n");
    assert!(
        !world.leftovers().is_empty(),
        "the search for leftovers sees a pod"
    );
    world.clean();
}

#[test]
fn exits_restarts_and_back_off() {
    need_root!();
    let world = World::new();
    world.pod("crash", json!({"containers": [script("echo run; exit 3")]}));
    world.pod(
        "done",
        json!({"restartPolicy": "Never", "containers": [script("echo bye > /dev/termination-log")]}),
    );
    world.pod(
        "fail",
        json!({"restartPolicy": "Never", "containers": [with("echo last words; exit 2", json!({
        "terminationMessagePolicy": "FallbackToLogsOnError"}))]}),
    );
    world.pod(
        "oom",
        json!({"restartPolicy": "Never", "containers": [with(
        "exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'",
        json!({"resources": {"limits": {"memory": "64Mi", "cpu": "500m"}}}))]}),
    );
    let done = world.phase("done", "Succeeded");
    let ended = &done["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"], &ended["message"]),
        (&json!(0), &json!("Completed"), &json!("bye\n"))
    );
    let fail = world.phase("fail", "Failed");
    let ended = &fail["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["message"]),
        (&json!(2), &json!("last words\n"))
    );
    let oom = world.phase("oom", "Failed");
    let ended = &oom["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(
        (&ended["exitCode"], &ended["reason"]),
        (&json!(137), &json!("OOMKilled")),
        "{ended}"
    );
    assert_eq!(oom["status"]["qosClass"], "Guaranteed");
    // A pod that is over holds nothing but its log.
    wait_for("the finished pods' release", PATIENCE, || {
        let uid = done["metadata"]["uid"].as_str().expect("a uid");
        if world.run_dir().join("pods").join(uid).exists() {
            Err("still there")
        } else {
            Ok(())
        }
    });
    assert_eq!(world.logs(&["fail"]), "last words\n");

    let begun = Instant::now();
    let crash = world.wait("crash", "back-off", |_, c| {
        c["restartCount"] == 1 && c["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "the first restart waits for nothing"
    );
    let container = &crash["status"]["containerStatuses"][0];
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
    let message = container["state"]["waiting"]["message"]
        .as_str()
        .expect("a message");
    assert!(
        message.starts_with("back-off 10s restarting failed container=c pod=crash_default("),
        "{message}"
    );
    assert_eq!(world.logs(&["crash"]), "run\n");
    assert_eq!(world.logs(&["crash", "--previous"]), "run\n");
    world.clean();
}

#[test]
fn what_a_container_waits_for_is_named() {
    need_root!();
    let world = World::new();
    let image = |image: &str, policy: &str| {
        json!({"containers": [
        {"name": "c", "image": image, "imagePullPolicy": policy, "command": ["true"]}]})
    };
    world.pod("never", image("nope:1", "Never"));
    world.pod("absent", image("nope:1", "IfNotPresent"));
    world.pod(
        "noexec",
        json!({"containers": [{"name": "c", "image": "busybox:1", "command": ["/nope"]}]}),
    );
    let reference =
        json!([{"name": "URL", "valueFrom": {"secretKeyRef": {"name": "db-secret", "key": "url"}}}]);
    world.pod(
        "secret",
        json!({"containers": [with(&format!("echo $URL; {WAIT}"), json!({"env": reference}))]}),
    );
    let volume = json!([{"name": "v", "configMap": {"name": "settings"}}]);
    let mounts = json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]});
    world.pod(
        "volume",
        json!({"containers": [with(&format!("cat /v/key; {WAIT}"), mounts)], "volumes": volume}),
    );

    let hint = "berthctl image import";
    assert!(world.waits_for("never", "ErrImageNeverPull").contains(hint));
    assert!(world.waits_for("absent", "ImagePullBackOff").contains(hint));
    assert!(world.waits_for("noexec", "RunContainerError").contains("/nope"));
    let message = world.waits_for("secret", "CreateContainerConfigError");
    assert_eq!(
        message,
        "secret \"db-secret\" not found: create it in namespace default"
    );
    let message = world.waits_for("volume", "ContainerCreating");
    assert!(
        message.is_empty() || message.contains("configmap \"settings\" not found"),
        "{message}"
    );

    let secret = |data: Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db-secret"}, "stringData": data});
    world.apply(&secret(json!({"user": "shop"})));
    world.wait("secret", "the missing key", |_, c| {
        c["state"]["waiting"]["message"] == "couldn't find key url in Secret default/db-secret"
    });
    world.apply(&secret(json!({"url": "postgres://db"})));
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"key": "value\n"}}));
    world.ready("secret");
    world.ready("volume");
    wait_for("the output", PATIENCE, || {
        match (world.logs(&["secret"]), world.logs(&["volume"])) {
            (secret, volume) if secret == "postgres://db\n" && volume == "value\n" => Ok(()),
            other => Err(other),
        }
    });
    world.clean();
}

#[test]
fn volumes_users_and_limits_arrive_in_the_container() {
    need_root!();
    let world = World::new();
    world.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"k": "one\n", "other": "x"}}));
    world.apply(&json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "sec"}, "stringData": {"pw": "hush"}}));
    let host = TempDir::with_prefix("berth-host-").expect("temporary directory");
    std::fs::write(host.path().join("file"), "from the host\n").expect("write");
    let show = r#"
        for f in /cm/k /sec/sub/pw /host/file /part; do echo "$f=$(cat $f)"; done
        echo secretfs=$(grep ' /sec ' /proc/mounts | cut -d' ' -f1) memory=$(df -k /mem | tail -1 | awk '{print $2}')
        echo mode=$(stat -L -c %a /sec/sub/pw) group=$(stat -c %g /work)
        echo id=$(id -u):$(id -g) groups=$(id -G)
        echo nnp=$(grep NoNewPrivs /proc/self/status | awk '{print $2}') seccomp=$(grep Seccomp: /proc/self/status | awk '{print $2}')
        echo cap=$(grep CapBnd /proc/self/status | awk '{print $2}')
        touch /root-is-read-only 2>/dev/null || echo readonly
        echo name=$NAME ip=$IP limit=$LIMIT home=$(cat /info/app)
        echo hosts=$(grep -cw "$(hostname)" /etc/hosts) shm=$(touch /dev/shm/x && echo ok)
        echo end
    "#;
    let mounts = json!([
        {"name": "work", "mountPath": "/work"}, {"name": "mem", "mountPath": "/mem"},
        {"name": "cm", "mountPath": "/cm"}, {"name": "sec", "mountPath": "/sec"},
        {"name": "host", "mountPath": "/host", "readOnly": true},
        {"name": "work", "mountPath": "/part", "subPath": "deep/part"}, {"name": "info", "mountPath": "/info"},
    ]);
    let env = json!([
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
    ]);
    let main = with(
        &format!("{show}{WAIT}"),
        json!({
            "env": env, "volumeMounts": mounts,
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "200m", "memory": "128Mi"}},
            "securityContext": {
                "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        }),
    );
    let first = json!({
        "name": "first", "image": "busybox:1", "volumeMounts": [{"name": "work", "mountPath": "/work"}],
        "command": ["sh", "-c", "mkdir -p /work/deep && echo a part > /work/deep/part"],
    });
    world.pod("all", json!({
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000, "supplementalGroups": [3000]},
        "initContainers": [first], "containers": [main],
        "volumes": [
            {"name": "work", "emptyDir": {}}, {"name": "mem", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "cm", "configMap": {"name": "cm", "items": [{"key": "k", "path": "k"}]}},
            {"name": "sec", "secret": {"secretName": "sec", "items": [{"key": "pw", "path": "sub/pw", "mode": 0o400}]}},
            {"name": "host", "hostPath": {"path": host.path(), "type": "Directory"}},
            {"name": "info", "downwardAPI": {"items": [{"path": "app", "fieldRef": {"fieldPath": "metadata.labels['app']"}}]}},
        ],
    }));
    let pod = world.ready("all");
    let text = wait_for("the output", PATIENCE, || {
        let text = world.logs(&["all", "-c", "c"]);
        if text.contains("\nend\n") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    let ip = pod["status"]["podIP"].as_str().expect("an address");
    for line in [
        "/cm/k=one",
        "/sec/sub/pw=hush",
        "/host/file=from the host",
        "/part=a part",
        "secretfs=tmpfs memory=1024",
        "mode=440 group=2000",
        "id=1000:1000 groups=1000 2000 3000",
        "nnp=1 seccomp=2",
        "cap=0000000000000400",
        "readonly",
        &format!("name=all ip={ip} limit=128 home=all"),
        "hosts=1 shm=ok",
    ] {
        assert!(
            text.lines().any(|l| l.trim() == line),
            "{line:?} is missing in:\n{text}"
        );
    }
    // Requests and limits are in the kernel, at the promised place.
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let values: BTreeMap<&str, String> = [
        ("memory/memory.limit_in_bytes", "134217728"),
        ("cpu/cpu.shares", "102"),
        ("cpu/cpu.cfs_quota_us", "20000"),
    ]
    .into_iter()
    .map(|(file, _)| {
        let (hierarchy, name) = file.split_once('/').expect("two parts");
        let path = format!("/sys/fs/cgroup/{hierarchy}/{}/pod{uid}/c/{name}", world.cgroup);
        (
            file,
            std::fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned(),
        )
    })
    .collect();
    if PathBuf::from("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists() {
        assert_eq!(values["memory/memory.limit_in_bytes"], "134217728");
        assert_eq!(values["cpu/cpu.shares"], "102");
        assert_eq!(values["cpu/cpu.cfs_quota_us"], "20000");
    }
    world.clean();
    assert!(host.path().join("file").exists(), "a hostPath survives its pod");
}

#[test]
fn probes_take_out_of_service_and_replace() {
    need_root!();
    let world = World::new();
    let exec =
        |command: Value| json!({"exec": {"command": command}, "periodSeconds": 1, "failureThreshold": 1});
    world.pod(
        "live",
        json!({"terminationGracePeriodSeconds": 1, "containers": [with(
        &format!("touch /ok; sleep 1; rm /ok; {WAIT}"),
        json!({"livenessProbe": exec(json!(["test", "-e", "/ok"]))}))]}),
    );
    world.pod("late", json!({"containers": [with(
        &format!("sleep 1; touch /started; httpd -p 90; {WAIT}"),
        json!({
            "startupProbe": {"exec": {"command": ["test", "-e", "/started"]}, "periodSeconds": 1, "failureThreshold": 60},
            "livenessProbe": {"exec": {"command": ["test", "-e", "/started"]}, "periodSeconds": 1, "failureThreshold": 1},
            "readinessProbe": {"tcpSocket": {"port": 90}, "periodSeconds": 1},
        }))]}));
    world.pod(
        "flap",
        json!({"containers": [with(
        &format!("touch /tmp/ok; {WAIT}"),
        json!({"readinessProbe": exec(json!(["test", "-e", "/tmp/ok"])),
               "volumeMounts": [{"name": "t", "mountPath": "/tmp"}]}))],
        "volumes": [{"name": "t", "emptyDir": {}}]}),
    );
    let live = world.wait("live", "a restart", |_, c| c["restartCount"].as_i64() >= Some(1));
    assert_eq!(
        live["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        0
    );
    let late = world.ready("late");
    assert_eq!(late["status"]["containerStatuses"][0]["restartCount"], 0);
    let flap = world.ready("flap");
    let uid = flap["metadata"]["uid"].as_str().expect("a uid");
    let ok = world.node.path().join("data/pods").join(uid).join("volumes/t/ok");
    std::fs::remove_file(&ok).expect("remove the mark");
    let away = world.wait("flap", "out of service", |_, c| c["ready"] == false);
    assert_eq!(away["status"]["containerStatuses"][0]["restartCount"], 0);
    std::fs::write(&ok, "").expect("put the mark back");
    world.ready("flap");
    world.clean();
}

#[test]
fn a_pod_ends_politely_within_its_grace() {
    need_root!();
    let world = World::new();
    let hooks = json!({"lifecycle": {
        "postStart": {"exec": {"command": ["sh", "-c", "echo begun > /log/post"]}},
        "preStop": {"exec": {"command": ["sh", "-c", "echo stopping >> /log/order"]}},
    }, "volumeMounts": [{"name": "log", "mountPath": "/log"}]});
    let host = TempDir::with_prefix("berth-host-").expect("temporary directory");
    let volume = json!([{"name": "log", "hostPath": {"path": host.path()}}]);
    let text = "trap 'echo term >> /log/order; exit 0' TERM; while :; do sleep 0.05; done";
    world.pod(
        "polite",
        json!({"containers": [with(text, hooks)], "volumes": volume}),
    );
    world.pod(
        "stubborn",
        json!({"terminationGracePeriodSeconds": 1, "containers": [
        script("trap '' TERM; while :; do sleep 0.05; done")]}),
    );
    world.ready("polite");
    world.ready("stubborn");
    wait_for("postStart", PATIENCE, || {
        std::fs::read_to_string(host.path().join("post"))
    });
    let begun = Instant::now();
    world.delete("polite");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "its grace is 30 seconds, which it does not need"
    );
    assert_eq!(
        std::fs::read_to_string(host.path().join("order")).expect("the order"),
        "stopping\nterm\n"
    );
    let begun = Instant::now();
    world.delete("stubborn");
    assert!(
        begun.elapsed() >= Duration::from_millis(900),
        "SIGKILL came before the grace was over"
    );
    world.clean();
}

#[test]
fn a_node_that_stops_leaves_the_pods_of_its_neighbour_alone() {
    need_root!();
    let world = World::new();
    world.pod("stays", json!({"containers": [script(WAIT)]}));
    world.ready("stays");
    // Another node in the same parent cgroup, which has no pods and ends.
    let arguments = vec!["--cgroup-parent".to_owned(), world.cgroup.clone()];
    drop(Node::start(NodeOptions {
        arguments,
        ..NodeOptions::default()
    }));
    // What it killed would be noticed and restarted.
    world.pod("after", json!({"containers": [script(WAIT)]}));
    world.ready("after");
    let pod = world.ready("stays");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
}

#[test]
fn a_killed_berthd_restarts_no_container_and_loses_no_exit() {
    need_root!();
    let mut world = World::new();
    let probe = json!({"livenessProbe": {"exec": {"command": ["true"]}, "periodSeconds": 1}});
    world.pod("stays", json!({"containers": [with(WAIT, probe)]}));
    world.pod(
        "ends",
        json!({"restartPolicy": "Never", "containers": [script(
        "while [ ! -e /v/end ]; do sleep 0.02; done; exit 5")], "volumes": []}),
    );
    world.pod(
        "again",
        json!({"containers": [script("while [ ! -e /end ]; do sleep 0.02; done; exit 6")]}),
    );
    world.pod("gone", json!({"containers": [script(WAIT)]}));
    let stays = world.ready("stays");
    let ends = world.ready("ends");
    let again = world.ready("again");
    world.ready("gone");
    world.node.kill_daemon();
    // Meanwhile two containers end. Their root file systems are reached from outside.
    for (pod, path) in [(&ends, "v/end"), (&again, "end")] {
        let uid = pod["metadata"]["uid"].as_str().expect("a uid");
        let file = world
            .node
            .path()
            .join("data/pods")
            .join(uid)
            .join("containers/c-0/rootfs")
            .join(path);
        std::fs::create_dir_all(file.parent().expect("a parent")).expect("make the folder");
        std::fs::write(file, "").expect("end the container");
        let record = world
            .run_dir()
            .join("pods")
            .join(uid)
            .join("containers/c-0/record.json");
        wait_for("the record of the exit", PATIENCE, || {
            let record: Value = serde_json::from_slice(&std::fs::read(&record).map_err(|e| e.to_string())?)
                .map_err(|e| e.to_string())?;
            if record["exit"].is_object() {
                Ok(())
            } else {
                Err(record.to_string())
            }
        });
    }
    world.node.spawn();
    let ends = world.phase("ends", "Failed");
    assert_eq!(
        ends["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        5
    );
    let again = world.wait("again", "a restart", |_, c| {
        c["restartCount"] == 1 && c["ready"] == true
    });
    assert_eq!(
        again["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"],
        6
    );
    let after = world.ready("stays");
    for field in ["containerID", "restartCount", "state"] {
        let of = |pod: &Value| pod["status"]["containerStatuses"][0][field].clone();
        assert_eq!(of(&after), of(&stays), "{field}");
    }
    world.delete("gone");
    world.clean();
}

#[test]
fn a_killed_monitor_is_noticed_and_its_container_replaced() {
    need_root!();
    let mut world = World::new();
    world.pod("web", json!({"containers": [script(WAIT)]}));
    let before = world.ready("web");
    let uid = before["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let kill_monitor = |world: &World| {
        let lock = world.run_dir().join("pods").join(&uid).join("monitor.lock");
        let pid: i32 = std::fs::read_to_string(lock)
            .expect("the lock")
            .trim()
            .parse()
            .expect("a pid");
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill the monitor");
    };
    kill_monitor(&world);
    let after = world.wait("web", "a new container", |_, c| {
        c["restartCount"] == 1 && c["ready"] == true
    });
    let last = &after["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(
        (&last["reason"], &last["exitCode"]),
        (&json!("ContainerStatusUnknown"), &json!(137))
    );
    assert_eq!(
        after["status"]["podIP"], before["status"]["podIP"],
        "the pod's network stays"
    );
    // Both at once.
    world.node.kill_daemon();
    kill_monitor(&world);
    world.node.spawn();
    world.wait("web", "another container", |_, c| {
        c["restartCount"] == 2 && c["ready"] == true
    });
    world.clean();
}
