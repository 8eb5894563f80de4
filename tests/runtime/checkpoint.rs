//! checkpoint and restore, where CRIU works: on kernels that the installed version knows. In the virtual machine it does.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::{Bundle, need_root, run, wait_for};
use serde_json::json;
use tempfile::TempDir;

use crate::driver::{Container, PATIENCE, Runtime, cgroups_named};

/// Skips the test unless CRIU works on this kernel.
macro_rules! need_criu {
    () => {
        need_root!();
        let works =
            harness::program("criu").is_some_and(|criu| run(Command::new(criu).arg("check")).code() == 0);
        if !works {
            harness::skip!("needs a criu that works on this kernel (criu check)");
        }
    };
}

/// Counts in a file, and from time to time looks whether it is to end.
pub(crate) const COUNTER: &str = "i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i >/count.new; mv /count.new /count; \
                       sleep 0.05; done; exit 7";

pub(crate) fn counter() -> Bundle {
    Bundle::new(&["sh", "-c", COUNTER])
}

pub(crate) fn count(bundle: &Bundle) -> u64 {
    let text = fs::read_to_string(bundle.rootfs().join("count")).unwrap_or_default();
    text.trim().parse().unwrap_or(0)
}

/// Waits until it has gone on counting from `from`, without having begun anew.
#[track_caller]
pub(crate) fn counts_on(bundle: &Bundle, from: u64) {
    wait_for("the counter to go on", PATIENCE, || match count(bundle) {
        now if now > from + 2 => Ok(()),
        now => Err(now),
    });
}

/// Runs a verb with standard streams that belong to no file of the host.
#[track_caller]
fn detached(container: &Container<'_>, verb: &str, options: &[&str]) {
    let mut command = container.command(verb, options);
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(output.success(), "{verb} {options:?}: {output}");
}

pub(crate) fn path(dir: &TempDir, name: &str) -> String {
    dir.path().join(name).to_str().unwrap().to_owned()
}

/// `restore` with what it needs to find the bundle.
pub(crate) fn restore(container: &Container<'_>, bundle: &Bundle, images: &str, options: &[&str]) {
    let mut all = vec![
        "--bundle",
        bundle.path().to_str().unwrap(),
        "--image-path",
        images,
    ];
    all.extend(options);
    let log = format!("{images}/restore.log");
    let mut command = container.command("restore", &all);
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    let text = fs::read_to_string(log).unwrap_or_default();
    assert!(status.success(), "{status}\n{}", errors(&text));
}

/// The lines of CRIU's log that matter.
fn errors(log: &str) -> String {
    let lines = log
        .lines()
        .filter(|line| line.contains("Error") || line.contains("Warn"));
    lines.collect::<Vec<_>>().join("\n")
}

#[track_caller]
pub(crate) fn checkpoint(container: &Container<'_>, images: &str, options: &[&str]) {
    let mut all = vec!["--image-path", images];
    all.extend(options);
    let outcome = container.verb("checkpoint", &all);
    let log = fs::read_to_string(format!("{images}/dump.log")).unwrap_or_default();
    assert!(outcome.status.success(), "{}\n{}", outcome.stderr, errors(&log));
}

/// A running counter; `change` is applied to the configuration before.
pub(crate) fn started<'a>(runtime: &'a Runtime, bundle: &mut Bundle) -> Container<'a> {
    let container = runtime.container(bundle);
    detached(&container, "run", &["--detach"]);
    counts_on(bundle, 0);
    container
}

#[test]
fn a_counter_goes_on_after_restore() {
    need_criu!();
    for runtime in Runtime::all() {
        let images = TempDir::new().unwrap();
        let images = path(&images, "images");
        let mut bundle = counter();
        let volume = TempDir::new().unwrap();
        fs::write(volume.path().join("file"), "outside").unwrap();
        bundle.edit(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/volume", "type": "bind", "source": volume.path(), "options": ["bind", "ro"]}));
            mounts.push(json!({"destination": "/etc/hosts", "type": "bind", "source": volume.path().join("file"), "options": ["bind"]}));
            config["annotations"] = json!({"kept": "yes"});
        });
        let container = started(&runtime, &mut bundle);
        let before = container.pid();
        checkpoint(&container, &images, &[]);
        assert!(
            Path::new(&images).join("descriptors.json").exists(),
            "{}",
            runtime.name
        );
        // It is gone, with its cgroup and its processes.
        container.verb("state", &[]).err();
        assert!(cgroups_named(&container.id).is_empty(), "{}", runtime.name);
        assert!(!Path::new(&format!("/proc/{before}/root/count")).exists());
        let stopped_at = count(&bundle);
        restore(&container, &bundle, &images, &["--detach"]);
        counts_on(&bundle, stopped_at);
        let state = container.state();
        assert_eq!(state["status"], "running", "{}", runtime.name);
        assert_eq!(state["annotations"]["kept"], "yes");
        assert_eq!(
            container.exec(&["cat", "/etc/hosts", "/volume/file"]).ok(),
            "outsideoutside"
        );
        // Limits and masks are there again.
        assert!(!cgroups_named(&container.id).is_empty());
        assert_eq!(container.exec(&["cat", "/proc/keys"]).ok(), "");
        fs::write(bundle.rootfs().join("stop"), "").unwrap();
        container.wait("stopped");
        container.verb("delete", &[]).ok();
        assert!(cgroups_named(&container.id).is_empty(), "{}", runtime.name);
    }
}

#[test]
fn a_restore_in_the_foreground_has_the_exit_code() {
    need_criu!();
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let images = path(&images, "images");
    let mut bundle = counter();
    let container = started(&runtime, &mut bundle);
    checkpoint(&container, &images, &[]);
    fs::write(bundle.rootfs().join("stop"), "").unwrap();
    let options = [
        "--bundle",
        bundle.path().to_str().unwrap(),
        "--image-path",
        &images,
    ];
    let outcome = container
        .command("restore", &options)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(outcome.code(), Some(7));
    container.verb("state", &[]).err();
}

#[test]
fn left_running_it_goes_on_and_the_images_are_of_then() {
    need_criu!();
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let (images, work) = (path(&images, "images"), path(&images, "work"));
    let mut bundle = counter();
    let container = started(&runtime, &mut bundle);
    checkpoint(&container, &images, &["--leave-running", "--work-path", &work]);
    assert!(Path::new(&work).join("dump.log").exists());
    assert_eq!(container.status(), "running");
    let now = count(&bundle);
    counts_on(&bundle, now);
    container.verb("delete", &["--force"]).ok();
    // The saved one is brought back, over what the other wrote later.
    fs::write(bundle.rootfs().join("count"), "1000000").unwrap();
    restore(&container, &bundle, &images, &["--detach"]);
    wait_for("the saved count", PATIENCE, || match count(&bundle) {
        saved if (now..now + 100_000).contains(&(saved + 200)) => Ok(()),
        other => Err(other),
    });
}

#[test]
fn a_dump_builds_on_a_pre_dump() {
    need_criu!();
    if run(Command::new("criu").args(["check", "--feature", "mem_dirty_track"])).code() != 0 {
        harness::skip!("this kernel does not track memory");
    }
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let (before, last) = (path(&images, "before"), path(&images, "last"));
    let mut bundle = counter();
    let container = started(&runtime, &mut bundle);
    checkpoint(&container, &before, &["--pre-dump"]);
    assert_eq!(container.status(), "running");
    let now = count(&bundle);
    counts_on(&bundle, now);
    checkpoint(&container, &last, &["--parent-path", "../before"]);
    assert!(Path::new(&last).join("parent").exists());
    let stopped_at = count(&bundle);
    restore(&container, &bundle, &last, &["--detach"]);
    counts_on(&bundle, stopped_at);
}

#[test]
fn pipes_are_those_of_the_restorer() {
    need_criu!();
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let images = path(&images, "images");
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.05; done",
    ]);
    let container = runtime.container(&mut bundle);
    let mut first = container
        .command("run", &["--detach"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "line 1");
    first.wait().unwrap();
    checkpoint(&container, &images, &[]);
    let rest = lines.map_while(Result::ok).last();
    let last: u64 = rest.map_or(1, |line| line[5..].parse().unwrap());
    let options = [
        "--bundle",
        bundle.path().to_str().unwrap(),
        "--image-path",
        &images,
        "--detach",
    ];
    let mut second = container
        .command("restore", &options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(second.stdout.take().unwrap()).lines();
    assert!(second.wait().unwrap().success());
    assert_eq!(lines.next().unwrap().unwrap(), format!("line {}", last + 1));
}

#[test]
fn a_connection_over_loopback_lives_on() {
    need_criu!();
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let images = path(&images, "images");
    let script = "sleep 100000 | nc -l -p 7777 >/dev/null & sleep 0.5; i=0; \
                  while :; do i=$((i+1)); echo $i; echo $i >/count; sleep 0.05; done | nc 127.0.0.1 7777";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    let container = started(&runtime, &mut bundle);
    let without = container.verb("checkpoint", &["--image-path", &images, "--leave-running"]);
    assert!(
        !without.status.success(),
        "a connection was checkpointed without --tcp-established"
    );
    fs::remove_dir_all(&images).unwrap();
    checkpoint(&container, &images, &["--tcp-established"]);
    let stopped_at = count(&bundle);
    restore(&container, &bundle, &images, &["--detach", "--tcp-established"]);
    counts_on(&bundle, stopped_at);
    // Both ends are there, and what one sends the other takes: nothing piles up.
    wait_for("the connection to carry data", PATIENCE, || {
        let table = container.exec(&["cat", "/proc/net/tcp", "/proc/net/tcp6"]).ok();
        let open = table
            .lines()
            .filter(|line| line.split_whitespace().nth(3) == Some("01"));
        let queued = open
            .clone()
            .filter(|line| line.split_whitespace().nth(4) != Some("00000000:00000000"));
        match (open.count(), queued.count()) {
            (2, 0) => Ok(()),
            _ => Err(table),
        }
    });
    let again = count(&bundle);
    counts_on(&bundle, again);
}

#[test]
fn hooks_of_the_runtime_run_at_a_restore() {
    need_criu!();
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let witness = path(&images, "witness");
    let images = path(&images, "images");
    let mut bundle = counter();
    bundle.edit(|config| {
        let hook =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("cat >>{witness}; echo >>{witness}")]}]);
        config["hooks"] = json!({"createRuntime": hook, "poststop": hook});
    });
    let container = started(&runtime, &mut bundle);
    checkpoint(&container, &images, &[]);
    restore(&container, &bundle, &images, &["--detach"]);
    let pid = container.pid();
    let documents = fs::read_to_string(&witness).unwrap();
    let documents: Vec<serde_json::Value> = documents
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let seen: Vec<_> = documents
        .iter()
        .map(|state| state["status"].as_str().unwrap())
        .collect();
    assert_eq!(seen, ["creating", "stopped", "creating"]);
    assert_eq!(documents[2]["pid"], pid);
}

#[test]
fn what_cannot_be_saved_or_brought_back_is_an_error() {
    need_criu!();
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let images = path(&images, "images");
    let mut bundle = counter();
    let container = runtime.container(&mut bundle);
    container.create();
    let text = container.verb("checkpoint", &["--image-path", &images]).err();
    assert!(text.contains("cannot be checkpointed in created state"), "{text}");
    container.verb("delete", &["--force"]).ok();
    for (options, want) in [
        (
            &["--manage-cgroups-mode", "x"][..],
            "soft, full, strict or ignore",
        ),
        (&["--parent-path", "/tmp"], "--parent-path must be relative"),
        (&["--empty-ns", "pid"], "use network"),
        (&["--page-server", "nowhere"], "ADDRESS:PORT"),
    ] {
        let container = started(&runtime, &mut bundle);
        let mut all = vec!["--image-path", &images];
        all.extend(options);
        let text = container.verb("checkpoint", &all).err();
        assert!(text.contains(want), "{text}");
        assert_eq!(container.status(), "running");
    }
    // Nothing was saved here: nothing is left of the attempt.
    let container = runtime.container(&mut bundle);
    let options = [
        "--bundle",
        bundle.path().to_str().unwrap(),
        "--image-path",
        &images,
    ];
    let text = container.verb("restore", &options).err();
    assert!(text.contains("berth restore failed"), "{text}");
    container.verb("state", &[]).err();
    assert!(cgroups_named(&container.id).is_empty());
    assert_eq!(fs::read_dir(runtime.root()).unwrap().count(), 0);
}
