//! Options of checkpoint and restore: what of a container CRIU saves only when it is asked to, and where it is brought back.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Command, Stdio};

use harness::{Bundle, isolate, need_root, run, wait_for};
use serde_json::json;
use tempfile::TempDir;

use crate::checkpoint::{COUNTER, checkpoint, count, counter, counts_on, path, restore, started};
use crate::driver::{PATIENCE, Runtime, cgroups_named};
use crate::sockets::{listener, receive};

#[test]
fn a_network_namespace_of_others_is_joined_again() {
    need_criu!();
    let unshare = harness::need_program!("unshare");
    isolate();
    let runtime = Runtime::berth();
    let folder = TempDir::new().unwrap();
    let images = path(&folder, "images");
    let network = path(&folder, "network");
    fs::write(&network, "").unwrap();
    run(Command::new(unshare).arg(format!("--net={network}")).arg("true")).ok();
    let mut bundle = counter();
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|entry| entry["type"] != "network");
        namespaces.push(json!({"type": "network", "path": network}));
    });
    let container = started(&runtime, &mut bundle);
    let inode = |pid: i32| fs::metadata(format!("/proc/{pid}/ns/net")).unwrap().ino();
    let own = fs::metadata(&network).unwrap().ino();
    assert_eq!(inode(container.pid()), own);
    checkpoint(&container, &images, &["--empty-ns", "network"]);
    let stopped_at = count(&bundle);
    restore(&container, &bundle, &images, &["--detach"]);
    counts_on(&bundle, stopped_at);
    assert_eq!(inode(container.pid()), own);
}

#[test]
fn every_cgroups_mode_brings_it_into_the_containers_cgroup() {
    need_criu!();
    // `strict` is CRIU's word for refusing a cgroup that is there, as the container's is.
    for mode in ["soft", "full", "ignore"] {
        let runtime = Runtime::berth();
        let images = TempDir::new().unwrap();
        let images = path(&images, "images");
        let mut bundle = counter();
        bundle.edit(|config| config["linux"]["resources"] = json!({"pids": {"limit": 77}}));
        let container = started(&runtime, &mut bundle);
        let own = ["--manage-cgroups-mode", mode];
        checkpoint(&container, &images, &own);
        assert!(cgroups_named(&container.id).is_empty(), "{mode}");
        let mut place = container.id.clone();
        if mode == "ignore" {
            // Then it need not be the one that it was saved in.
            place = format!("{}-other", container.id);
            bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(format!("/{place}")));
        }
        let stopped_at = count(&bundle);
        restore(&container, &bundle, &images, &["--detach", own[0], own[1]]);
        counts_on(&bundle, stopped_at);
        let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", container.pid())).unwrap();
        let at = |line: &&str| line.ends_with(&format!(":/{place}")) || line.ends_with(&format!("/{place}"));
        assert!(cgroups.lines().any(|line| at(&line)), "{mode}: {cgroups}");
        let limit = crate::driver::cgroup_file(&place, &["pids.max"]);
        assert_eq!(fs::read_to_string(limit).unwrap(), "77\n", "{mode}");
        container.verb("delete", &["--force"]).ok();
        assert!(cgroups_named(&place).is_empty(), "{mode}");
    }
}

#[test]
fn a_terminal_is_handed_to_the_restorer() {
    need_criu!();
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let images = path(&images, "images");
    let (_folder, socket, listener) = listener();
    let socket = socket.to_str().unwrap();
    let mut bundle = Bundle::new(&["sh", "-c", &format!("stty -echo; {COUNTER}")]);
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let container = runtime.container(&mut bundle);
    container
        .verb("run", &["--detach", "--console-socket", socket])
        .ok();
    let first = receive(&listener.accept().unwrap().0);
    counts_on(&bundle, 0);
    checkpoint(&container, &images, &[]);
    drop(first);
    let stopped_at = count(&bundle);
    // Nobody takes it: an error, and nothing is left.
    let detached = [
        "--bundle",
        bundle.path().to_str().unwrap(),
        "--image-path",
        &images,
        "--detach",
    ];
    let text = container.verb("restore", &detached).err();
    assert!(text.contains("console"), "{text}");
    container.verb("state", &[]).err();
    restore(
        &container,
        &bundle,
        &images,
        &["--detach", "--console-socket", socket],
    );
    let second = receive(&listener.accept().unwrap().0);
    counts_on(&bundle, stopped_at);
    // What the user of the terminal types arrives in its settings: it is the same terminal.
    let tty = container.exec(&["readlink", "/proc/1/fd/0"]).ok();
    let settings = container
        .exec(&["sh", "-c", &format!("stty -a <{}", tty.trim_end())])
        .ok();
    assert!(settings.contains("-echo "), "{settings}");
    drop(second);
}

#[test]
fn a_file_without_a_name_is_linked_back_if_asked() {
    need_criu!();
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let images = path(&images, "images");
    // Open by another name that is gone, while one is left.
    let script = format!("echo kept >/kept; ln /kept /gone; exec 8</gone; rm /gone; {COUNTER}");
    let mut bundle = Bundle::new(&["sh", "-c", &script]);
    let container = started(&runtime, &mut bundle);
    container.verb("checkpoint", &["--image-path", &images]).err();
    fs::remove_dir_all(&images).unwrap();
    checkpoint(&container, &images, &["--link-remap"]);
    let stopped_at = count(&bundle);
    restore(&container, &bundle, &images, &["--detach"]);
    counts_on(&bundle, stopped_at);
    assert_eq!(container.exec(&["cat", "/proc/1/fd/8"]).ok(), "kept\n");
}

#[test]
fn memory_is_saved_once_if_asked() {
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
    checkpoint(&container, &last, &["--parent-path", "../before", "--auto-dedup"]);
    let stopped_at = count(&bundle);
    restore(&container, &bundle, &last, &["--detach", "--auto-dedup"]);
    counts_on(&bundle, stopped_at);
}

#[test]
fn pages_are_fetched_when_they_are_used() {
    need_criu!();
    if run(Command::new("criu").args(["check", "--feature", "uffd-noncoop"])).code() != 0 {
        harness::skip!("this kernel's userfaultfd does not serve CRIU");
    }
    let runtime = Runtime::berth();
    let images = TempDir::new().unwrap();
    let images = path(&images, "images");
    let mut bundle = counter();
    let container = started(&runtime, &mut bundle);
    checkpoint(&container, &images, &[]);
    let stopped_at = count(&bundle);
    // Whoever serves the pages listens in the working folder, as `criu lazy-pages` says when it is ready.
    let mut server = Command::new("criu")
        .args(["lazy-pages", "-D", &images, "-W", &images])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let socket = std::path::Path::new(&images).join("lazy-pages.socket");
    wait_for("the pages' server", PATIENCE, || match socket.exists() {
        true => Ok(()),
        false => Err("no socket"),
    });
    restore(&container, &bundle, &images, &["--detach", "--lazy-pages"]);
    counts_on(&bundle, stopped_at);
    assert!(server.wait().unwrap().success());
}
