//! `pause` and `resume`, and what the other verbs do with a paused container.

use std::fs;
use std::process::Stdio;

use harness::{Bundle, need_root, wait_for};
use serde_json::Value;

use crate::driver::{Container, PATIENCE, Runtime, cgroups_named};

/// A container that counts in a file as fast as it can.
fn counter() -> Bundle {
    Bundle::new(&["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /count; done"])
}

fn count(bundle: &Bundle) -> u64 {
    let text = fs::read_to_string(bundle.rootfs().join("count")).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

#[track_caller]
fn counts_on(bundle: &Bundle) {
    let before = count(bundle);
    wait_for("the container to count on", PATIENCE, || match count(bundle) {
        now if now > before => Ok(()),
        now => Err(now),
    });
}

/// Whether every process of the container is where the freezer holds it: none of them has run since the last look.
fn stands_still(container: &Container<'_>) {
    let times = || -> Vec<String> {
        let pids = container.verb("ps", &["--format", "json"]).ok();
        let pids: Vec<i32> = serde_json::from_str(&pids).unwrap();
        let fields = |pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            let rest = stat.rsplit_once(')').unwrap().1.to_owned();
            // utime and stime.
            rest.split(' ').skip(12).take(2).collect::<Vec<_>>().join(" ")
        };
        pids.into_iter().map(fields).collect()
    };
    let before = times();
    assert!(!before.is_empty());
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(before, times());
}

#[test]
fn a_paused_container_does_nothing_until_it_is_resumed() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = counter();
        let container = runtime.container(&mut bundle);
        container.start();
        counts_on(&bundle);
        assert_eq!(container.verb("pause", &[]).ok(), "");
        assert_eq!(container.status(), "paused", "{}", runtime.name);
        stands_still(&container);
        let again = container.verb("pause", &[]).err();
        assert!(again.contains("container not running"), "{again}");
        assert_eq!(container.verb("resume", &[]).ok(), "");
        assert_eq!(container.status(), "running");
        counts_on(&bundle);
        let again = container.verb("resume", &[]).err();
        assert!(again.contains("container not paused"), "{again}");
    }
}

#[test]
fn other_verbs_know_a_paused_container() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = counter();
        let container = runtime.container(&mut bundle);
        container.start().verb("pause", &[]).ok();
        let list: Value = serde_json::from_str(&runtime.call(&["list", "--format", "json"]).ok()).unwrap();
        assert_eq!(list[0]["status"], "paused", "{}", runtime.name);
        assert_eq!(container.state()["status"], "paused");
        assert_ne!(container.pid(), 0);
        for (verb, message) in [
            ("start", "cannot start a container in the paused state"),
            ("delete", "that is not stopped: paused"),
        ] {
            let error = container.verb(verb, &[]).err();
            assert!(error.contains(message), "{}: {verb}: {error}", runtime.name);
        }
        let exec = container.exec(&["true"]);
        assert_eq!(exec.code(), 255);
        assert!(
            exec.stderr
                .contains("cannot exec in a paused container (use --ignore-paused to override)"),
            "{}",
            exec.stderr
        );
        // A signal waits, except for the one that no process can be kept from.
        container.kill("USR1").ok();
        assert_eq!(container.status(), "paused");
        container.kill("KILL").ok();
        container.wait("stopped");
        container.verb("delete", &[]).ok();
        assert!(cgroups_named(&container.id).is_empty());
    }
}

#[test]
fn a_paused_container_is_deleted_by_force() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = counter();
        let container = runtime.container(&mut bundle);
        container.start().verb("pause", &[]).ok();
        container.verb("delete", &["--force"]).ok();
        assert!(container.verb("state", &[]).err().contains("does not exist"));
        assert!(cgroups_named(&container.id).is_empty());
    }
}

#[test]
fn a_created_container_can_be_paused() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = counter();
        let container = runtime.container(&mut bundle);
        container.create().verb("pause", &[]).ok();
        assert_eq!(container.status(), "paused", "{}", runtime.name);
        container.verb("resume", &[]).ok();
        assert_eq!(container.status(), "created", "{}", runtime.name);
        container.verb("start", &[]).ok();
        counts_on(&bundle);
    }
}

#[test]
fn a_stopped_container_is_neither_paused_nor_resumed() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = counter();
        let container = runtime.container(&mut bundle);
        container.start().kill("KILL").ok();
        container.wait("stopped");
        assert!(
            container
                .verb("pause", &[])
                .err()
                .contains("container not running")
        );
        assert!(
            container
                .verb("resume", &[])
                .err()
                .contains("container not paused")
        );
        for verb in ["pause", "resume"] {
            let error = runtime.call(&[verb, "nosuch"]).err();
            assert!(error.contains("container does not exist"), "{error}");
            let error = runtime.call(&[verb]).err();
            assert!(error.contains("requires exactly 1 argument(s)"), "{error}");
        }
    }
}

#[test]
fn a_process_can_be_sent_into_a_paused_container_to_wait_there() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = counter();
    let container = runtime.container(&mut bundle);
    container.start().verb("pause", &[]).ok();
    let done = bundle.path().join("done");
    let mut command = runtime.command(&["exec", "--ignore-paused", &container.id, "echo", "went on"]);
    let mut child = command
        .stdout(Stdio::from(fs::File::create(&done).unwrap()))
        .spawn()
        .unwrap();
    // It is in the cgroup, frozen with the others.
    wait_for("the process to be in the container", PATIENCE, || {
        let pids = container.verb("ps", &["--format", "json"]).ok();
        let pids: Vec<i32> = serde_json::from_str(&pids).unwrap();
        if pids.len() > 1 { Ok(()) } else { Err(pids) }
    });
    assert!(child.try_wait().unwrap().is_none());
    assert_eq!(fs::read_to_string(&done).unwrap(), "");
    container.verb("resume", &[]).ok();
    assert!(child.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&done).unwrap(), "went on\n");
}
