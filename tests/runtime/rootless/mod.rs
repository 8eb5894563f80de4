//! Containers of an unprivileged user: with and without subordinate ids, with and without a cgroup of its own, inside a
//! user namespace and inside another container.

mod cgroups;
mod nested;

use std::fs;
use std::process::Command;

use harness::{
    Bundle, Outcome, SUBORDINATE_ID, USER_ID, User, chown_all, need_program, need_root, run, wait_for,
};
use serde_json::{Value, json};

use crate::driver::{PATIENCE, unique};

/// The document of `berth spec --rootless`, running `args` in a bundle of the user's.
fn bundle(user: &User, args: &[&str]) -> Bundle {
    let mut bundle = Bundle::new(args);
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    chown_all(bundle.path());
    run(berth(user)
        .args(["spec", "--rootless", "--bundle"])
        .arg(bundle.path()))
    .ok();
    let text = fs::read(bundle.path().join("config.json")).unwrap();
    bundle.config = serde_json::from_slice(&text).unwrap();
    bundle.edit(|config| {
        config["process"]["args"] = json!(args);
        config["process"]["terminal"] = json!(false);
    });
    bundle
}

/// `berth` as the user, with the state root that it finds by itself.
fn berth(user: &User) -> Command {
    user.command(user.program(&harness::bin("berth")))
}

fn call(user: &User, args: &[&str]) -> Outcome {
    run(berth(user).args(args))
}

fn run_bundle(user: &User, bundle: &Bundle, options: &[&str]) -> Outcome {
    let id = unique();
    let outcome = run(berth(user)
        .args(options)
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(&id));
    let left = user.runtime_dir().join("berth").join(&id);
    assert!(!left.exists(), "{} is left: {}", left.display(), outcome.stderr);
    outcome
}

/// Maps root to the user and everybody else to its subordinate ids.
fn map_all(config: &mut Value) {
    for list in ["uidMappings", "gidMappings"] {
        config["linux"][list] = json!([
            {"containerID": 0, "hostID": USER_ID, "size": 1},
            {"containerID": 1, "hostID": SUBORDINATE_ID, "size": 65536},
        ]);
    }
}

#[test]
fn a_user_runs_the_rootless_spec() {
    need_root!();
    let user = User::new(false);
    let script = "id -u; id -g; cat /proc/self/uid_map /proc/self/setgroups; hostname; echo $HOME; \
                  stat -c %u /bin/busybox; ls /dev/mqueue /sys/kernel >/dev/null && echo mounts";
    let bundle = bundle(&user, &["sh", "-c", script]);
    let text = run_bundle(&user, &bundle, &[]).ok();
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["0", "0"]);
    assert_eq!(
        lines[2].split_whitespace().collect::<Vec<_>>(),
        ["0", USER_ID.to_string().as_str(), "1"]
    );
    // One's own group may be mapped by oneself only when groups can no longer be dropped (user_namespaces(7)).
    assert_eq!(lines[3], "deny");
    assert_eq!(lines[4..], ["berth", "/root", "0", "mounts"]);
}

#[test]
fn subordinate_ids_are_mapped_by_newuidmap() {
    need_root!();
    need_program!("newuidmap");
    let user = User::new(true);
    let script = "cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; touch /tmp/file; \
                  chown 1000:2000 /tmp/file; stat -c %u:%g /tmp/file";
    let mut bundle = bundle(&user, &["sh", "-c", script]);
    bundle.edit(|config| {
        map_all(config);
        config["root"]["readonly"] = json!(false);
        let caps = json!(["CAP_CHOWN"]);
        config["process"]["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps});
    });
    let text = run_bundle(&user, &bundle, &[]).ok();
    let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
    let (own, first) = (USER_ID.to_string(), SUBORDINATE_ID.to_string());
    let map = ["0", &own, "1", "1", &first, "65536"];
    assert_eq!(words[..6], map, "{text}");
    assert_eq!(words[6..12], map, "{text}");
    assert_eq!(words[12..], ["allow", "1000:2000"], "{text}");
    let file = fs::metadata(bundle.rootfs().join("tmp/file")).unwrap();
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!(
        (file.uid(), file.gid()),
        (SUBORDINATE_ID + 999, SUBORDINATE_ID + 1999),
        "as the host sees it"
    );
}

#[test]
fn ids_that_were_not_granted_are_refused_with_the_programs_words() {
    need_root!();
    need_program!("newuidmap");
    let user = User::new(false);
    let mut bundle = bundle(&user, &["true"]);
    bundle.edit(map_all);
    let error = run_bundle(&user, &bundle, &[]).err();
    assert!(
        error.contains("newuidmap") && error.contains("not allowed"),
        "{error}"
    );
    // Where the program is not installed, that is what is said.
    let mut command = berth(&user);
    let id = unique();
    command
        .env("PATH", "/nowhere")
        .args(["run", "--bundle"])
        .arg(bundle.path())
        .arg(&id);
    let error = run(&mut command).err();
    assert!(error.contains("newuidmap"), "{error}");
    assert!(!user.runtime_dir().join("berth").join(&id).exists());
}

#[test]
fn the_life_of_a_rootless_container() {
    need_root!();
    let user = User::new(false);
    let bundle = bundle(&user, &["sleep", "1000"]);
    let id = unique();
    let path = bundle.path().to_str().unwrap();
    let pid_file = user.path().join("pid");
    call(
        &user,
        &[
            "create",
            "--bundle",
            path,
            "--pid-file",
            pid_file.to_str().unwrap(),
            &id,
        ],
    )
    .ok();
    // The state is where the user may write: below XDG_RUNTIME_DIR.
    assert!(
        user.runtime_dir()
            .join("berth")
            .join(&id)
            .join("state.json")
            .exists()
    );
    let state = || -> Value { serde_json::from_str(&call(&user, &["state", &id]).ok()).unwrap() };
    assert_eq!(state()["status"], "created");
    call(&user, &["start", &id]).ok();
    assert_eq!(state()["status"], "running");
    let pid = state()["pid"].as_i64().unwrap();
    assert_eq!(fs::read_to_string(&pid_file).unwrap(), pid.to_string());
    assert_eq!(call(&user, &["list", "-q"]).ok().trim(), id);
    assert!(call(&user, &["list"]).ok().contains("berth-user"));
    let text = call(
        &user,
        &[
            "exec",
            "--env",
            "A=b",
            "--cwd",
            "/tmp",
            &id,
            "sh",
            "-c",
            "id -u; echo $A; pwd",
        ],
    );
    assert_eq!(text.ok(), "0\nb\n/tmp\n");
    let namespaces = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_ne!(namespaces("self"), namespaces(&pid.to_string()));
    let error = call(&user, &["delete", &id]).err();
    assert!(error.contains("is not stopped"), "{error}");
    call(&user, &["kill", &id, "KILL"]).ok();
    wait_for("the container to stop", PATIENCE, || {
        match state()["status"].as_str() {
            Some("stopped") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    call(&user, &["delete", &id]).ok();
    assert_eq!(call(&user, &["list", "-q"]).ok(), "");
    // Another one goes by force, with all of its processes.
    call(&user, &["run", "--detach", "--bundle", path, &id]).ok();
    call(&user, &["kill", "--all", &id, "KILL"]).ok();
    call(&user, &["delete", "--force", &id]).ok();
    assert!(call(&user, &["state", &id]).err().contains("does not exist"));
}

#[test]
fn additional_groups_are_refused() {
    need_root!();
    let user = User::new(false);
    let mut bundle = bundle(&user, &["true"]);
    bundle.edit(|config| config["process"]["user"]["additionalGids"] = json!([5]));
    let error = run_bundle(&user, &bundle, &[]).err();
    assert!(error.contains("process.user.additionalGids"), "{error}");
    bundle.edit(|config| {
        config["process"]["user"] = json!({"uid": 0, "gid": 0});
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|entry| entry["type"] != "user");
        for list in ["uidMappings", "gidMappings"] {
            config["linux"].as_object_mut().unwrap().remove(list);
        }
    });
    let error = run_bundle(&user, &bundle, &[]).err();
    assert!(error.contains("requires user namespaces"), "{error}");
}

#[test]
fn mounts_fall_back_to_what_a_user_may_have() {
    need_root!();
    let user = User::new(false);
    let script = "test -d /sys/kernel && ! touch /sys/kernel/x 2>/dev/null && echo sysfs; \
                  test -d /sys/fs/cgroup && echo cgroup; ls -ld /dev/mqueue >/dev/null && echo mqueue; \
                  test -c /dev/null && echo >/dev/null && echo null; test -c /dev/pts/ptmx && echo pts; \
                  grep -c ' /proc proc ' /proc/self/mounts";
    let mut bundle = bundle(&user, &["sh", "-c", script]);
    bundle.edit(|config| {
        // Without a network namespace of its own the kernel gives no new sysfs.
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/sys" && mount["destination"] != "/sys/fs/cgroup");
        mounts.push(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}));
        mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}));
    });
    let text = run_bundle(&user, &bundle, &[]).ok();
    assert_eq!(text, "sysfs\ncgroup\nmqueue\nnull\npts\n1\n");
}
