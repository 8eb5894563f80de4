//! Pods whose containers share a process namespace (`shareProcessNamespace`).

use crate::world::{PATIENCE, WAIT, World};
use harness::{kubectl, need_root, run, skip, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

struct Bench {
    world: World,
    kubectl: PathBuf,
}

impl Bench {
    #[track_caller]
    fn kube(&self, arguments: &[&str]) -> String {
        self.world.node.kubectl(&self.kubectl, arguments).ok()
    }

    /// Runs a script in a container.
    #[track_caller]
    fn sh(&self, container: &str, text: &str) -> String {
        self.kube(&["exec", "p", "-c", container, "--", "sh", "-c", text])
    }

    /// Pids, in the pod's numbers, of the programs whose command line has the mark.
    #[track_caller]
    fn find(&self, container: &str, mark: &str) -> Vec<i32> {
        // The brackets keep the search from finding itself.
        let pattern = format!("[{}]{}", &mark[..1], &mark[1..]);
        let text = format!("grep -l '{pattern}' /proc/[0-9]*/cmdline 2>/dev/null; true");
        let found = self.sh(container, &text);
        found
            .lines()
            .filter_map(|path| path.split('/').nth(2)?.parse().ok())
            .collect()
    }

    /// Waits until that many have the mark: a shell that is about to start a program counts twice for a moment.
    #[track_caller]
    fn finds(&self, container: &str, mark: &str, count: usize) {
        wait_for(
            &format!("{count} of {mark} seen by {container}"),
            PATIENCE,
            || {
                let found = self.find(container, mark);
                if found.len() == count { Ok(()) } else { Err(found) }
            },
        );
    }

    fn status(&self, name: &str) -> Value {
        let pod = self.world.get("p").expect("the pod");
        let all = pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        all.into_iter().find(|c| c["name"] == name).unwrap_or_default()
    }

    /// Waits until a container runs as the run of that number.
    #[track_caller]
    fn runs(&self, name: &str, restarts: i64) {
        wait_for(&format!("run {restarts} of {name}"), PATIENCE, || {
            let status = self.status(name);
            if status["ready"] == true && status["restartCount"] == restarts {
                Ok(())
            } else {
                Err(status.to_string())
            }
        });
    }

    /// The host's number of the pod's first process, found by its namespace.
    fn first(&self) -> i32 {
        let wanted = self.sh("b", "readlink /proc/self/ns/pid");
        let named = run(Command::new("pgrep").args(["-x", "berth-pod"])).stdout;
        // The kernel's name of the process is the program's; its command line tells what it is.
        let all = run(Command::new("pgrep").args(["-f", "^berth-pod --hold-pids"])).stdout + &named;
        all.lines()
            .filter_map(|pid| pid.parse().ok())
            .find(|pid: &i32| {
                let link = std::fs::read_link(format!("/proc/{pid}/ns/pid"));
                link.is_ok_and(|link| link.to_string_lossy() == wanted.trim())
            })
            .expect("the first process of the namespace")
    }
}

/// Two containers; `b` may look into every process.
fn pod() -> Value {
    let container = |name: &str, more: Value| {
        let mut value = json!({
            "name": name, "image": "busybox:1",
            "command": ["sh", "-c", format!(": mark-{name}; (sleep 3601 & exec sleep 0.1); sh -c ': child-{name}; while :; do sleep 1; done' & {WAIT}")],
        });
        for (key, field) in more.as_object().expect("an object") {
            value[key] = field.clone();
        }
        value
    };
    let tracer = json!({"securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}}});
    json!({
        "shareProcessNamespace": true, "terminationGracePeriodSeconds": 2,
        "initContainers": [{"name": "i", "image": "busybox:1", "command": ["sh", "-c", "test $$ != 1"]}],
        "containers": [container("a", json!({})), container("b", tracer)],
    })
}

#[test]
fn containers_see_each_other_and_one_may_die_alone() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let mut bench = Bench {
        world: World::new(),
        kubectl,
    };
    bench.world.pod("p", pod());
    bench.runs("a", 0);
    bench.runs("b", 0);
    assert_eq!(bench.find("b", "berth-pod"), [1]);
    bench.finds("a", "mark-b", 1);
    let own = bench.sh("a", "readlink /proc/self/ns/pid");
    assert_eq!(bench.sh("b", "readlink /proc/self/ns/pid"), own);

    // Nothing of the host can be reached through the first process, even by one who may look into it.
    let status = bench.sh("b", "cat /proc/1/status");
    for line in [
        "Uid:\t65534\t65534\t65534\t65534",
        "CapEff:\t0000000000000000",
        "CapPrm:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t1",
    ] {
        assert!(status.contains(line), "{line}: {status}");
    }
    assert_eq!(bench.sh("b", "ls -A /proc/1/root/"), "");
    for kind in ["net", "ipc", "uts"] {
        let both = bench.sh(
            "b",
            &format!("readlink /proc/1/ns/{kind}; readlink /proc/self/ns/{kind}"),
        );
        let lines: Vec<&str> = both.lines().collect();
        assert_eq!(lines.first(), lines.get(1), "{kind}");
    }
    assert!(
        bench
            .sh("a", "ls /proc/1/root/ 2>&1; true")
            .contains("ermission denied")
    );

    // Orphans are collected by nobody but the kernel.
    bench.sh(
        "a",
        "for n in 1 2 3 4 5; do (true & exec true); (sleep 0.2 & exec true); done",
    );
    wait_for("no zombie to be left", PATIENCE, || {
        let zombies = bench.sh("b", "grep -l 'State:.Z' /proc/[0-9]*/status 2>/dev/null; true");
        if zombies.is_empty() { Ok(()) } else { Err(zombies) }
    });

    // One container is killed from the other: its children go with it, the other stays, the new one is among them.
    let first = bench.first();
    let victim = bench.find("b", "mark-a")[0];
    bench.sh("b", &format!("kill -9 {victim}"));
    bench.runs("a", 1);
    let ended = bench.status("a")["lastState"]["terminated"].clone();
    assert_eq!((&ended["exitCode"], &ended["signal"]), (&json!(137), &json!(9)));
    // The shell of the container has the child's text in its own.
    bench.finds("b", "child-a", 2);
    bench.finds("b", "mark-a", 1);
    bench.finds("a", "mark-b", 1);
    assert_eq!(
        (bench.status("b")["restartCount"].clone(), bench.first()),
        (json!(0), first)
    );

    // Somebody looks into it from a container of his own.
    let look = [
        "debug",
        "p",
        "--image=busybox:1",
        "--image-pull-policy=Never",
        "--target=a",
        "-c",
        "look",
        "--quiet",
        "--",
        "sh",
        "-c",
        "grep -q '[m]ark-a' /proc/[0-9]*/cmdline && grep -q '[m]ark-b' /proc/[0-9]*/cmdline && echo both",
    ];
    bench.kube(&look);
    bench
        .world
        .wait("p", "the end of the ephemeral container", |pod, _| {
            pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
        });
    assert_eq!(bench.kube(&["logs", "p", "-c", "look"]), "both\n");

    // A daemon that dies changes nothing.
    let before = (bench.status("a"), bench.status("b"));
    bench.world.node.kill_daemon();
    bench.world.node.spawn();
    bench.runs("a", 1);
    assert_eq!((bench.status("a"), bench.status("b")), before);

    // The first process dies: the kernel kills all, and both come back in a namespace of their own.
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("kill the first process");
    bench.runs("a", 2);
    bench.runs("b", 1);
    bench.finds("b", "mark-a", 1);
    let second = bench.first();
    assert_ne!(second, first);

    // So does the monitor: the first process does not outlive it.
    let uid = bench.world.get("p").expect("the pod")["metadata"]["uid"]
        .as_str()
        .expect("a uid")
        .to_owned();
    let lock = bench
        .world
        .node
        .path()
        .join("run/pods")
        .join(uid)
        .join("monitor.lock");
    let monitor: i32 = std::fs::read_to_string(lock)
        .expect("the lock")
        .trim()
        .parse()
        .expect("a pid");
    kill(Pid::from_raw(monitor), Signal::SIGKILL).expect("kill the monitor");
    bench.runs("a", 3);
    bench.runs("b", 2);
    bench.finds("a", "mark-b", 1);
    let third = bench.first();
    wait_for("the first process to end with its monitor", PATIENCE, || {
        let gone = !PathBuf::from(format!("/proc/{second}")).exists();
        if gone { Ok(()) } else { Err("it is still there") }
    });

    bench.world.clean();
    wait_for("the first process to end with its pod", PATIENCE, || {
        let gone = !PathBuf::from(format!("/proc/{third}")).exists();
        if gone { Ok(()) } else { Err("it is still there") }
    });
}
