//! Rootless containers inside a user namespace, inside another container, and under Podman.

use std::fs;
use std::process::Command;

use harness::{Bundle, User, chown_all, need_program, need_root, run};
use serde_json::json;

use super::{bundle, run_bundle};
use crate::driver::unique;

#[test]
fn root_of_a_user_namespace_is_rootless() {
    need_root!();
    let unshare = need_program!("unshare");
    let user = User::new(false);
    let mut bundle = bundle(&user, &["sh", "-c", "id -u; cat /proc/self/uid_map"]);
    bundle.edit(|config| {
        for list in ["uidMappings", "gidMappings"] {
            config["linux"][list] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
        }
    });
    let nested = |options: &[&str], id: &str| {
        let mut command = user.command(&unshare);
        command
            .args(["--user", "--map-root-user", "--mount", "--"])
            .arg(user.program(&harness::bin("berth")))
            .args(options)
            .args(["run", "--bundle"])
            .arg(bundle.path())
            .arg(id);
        run(&mut command)
    };
    let text = nested(&[], &unique()).ok();
    assert_eq!(text.split_whitespace().collect::<Vec<_>>(), ["0", "0", "0", "1"]);
    let error = nested(&["--rootless", "false"], &unique()).err();
    assert!(error.contains("cannot create cgroup"), "{error}");
}

#[test]
fn a_container_in_a_container() {
    need_root!();
    let user = User::new(false);
    let inner = bundle(&user, &["sh", "-c", "id -u; hostname"]);
    let mut outer = bundle(
        &user,
        &[
            "/berth", "--root", "/state", "run", "--bundle", "/inner", "nested",
        ],
    );
    // The inner one needs a procfs of its own, which the kernel gives only where none is partly covered.
    outer.edit(|config| {
        config["linux"]["maskedPaths"] = json!([]);
        config["linux"]["readonlyPaths"] = json!([]);
        config["root"]["readonly"] = json!(false);
        let all: Vec<_> = [
            "SYS_ADMIN",
            "NET_ADMIN",
            "SETUID",
            "SETGID",
            "CHOWN",
            "FOWNER",
            "SETPCAP",
            "SYS_CHROOT",
            "SETFCAP",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "AUDIT_WRITE",
            "DAC_OVERRIDE",
            "SYS_PTRACE",
        ]
        .iter()
        .map(|name| format!("CAP_{name}"))
        .collect();
        config["process"]["capabilities"] = json!({"bounding": all, "effective": all, "permitted": all});
    });
    let mut config = inner.config.clone();
    for list in ["uidMappings", "gidMappings"] {
        config["linux"][list] = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    }
    config["hostname"] = json!("inner");
    let root = outer.rootfs();
    run(Command::new("cp")
        .arg("-a")
        .arg(inner.path())
        .arg(root.join("inner")))
    .ok();
    fs::write(root.join("inner/config.json"), config.to_string()).unwrap();
    run(Command::new("cp")
        .arg(harness::bin("berth"))
        .arg(root.join("berth")))
    .ok();
    fs::create_dir(root.join("state")).unwrap();
    chown_all(&root);
    assert_eq!(run_bundle(&user, &outer, &[]).ok(), "0\ninner\n");
}

#[test]
fn podman_of_a_user_runs_with_berth() {
    need_root!();
    let podman = need_program!("podman");
    need_program!("newuidmap");
    let user = User::new(true);
    // Podman calls the runtime from a user namespace of its own, in which only this file system's owner is known.
    let program = user.program(&harness::bin("berth"));
    let rootfs = Bundle::new(&["true"]);
    let archive = user.path().join("rootfs.tar");
    run(Command::new("tar")
        .arg("-C")
        .arg(rootfs.rootfs())
        .arg("-cf")
        .arg(&archive)
        .arg("."))
    .ok();
    chown_all(&archive);
    let (storage, state) = (user.folder("storage"), user.folder("state"));
    let call = |args: &[&str]| {
        let mut command = user.command(&podman);
        command
            .args([
                "--cgroup-manager",
                "cgroupfs",
                "--events-backend",
                "none",
                "--storage-driver",
                "vfs",
            ])
            .arg("--root")
            .arg(&storage)
            .arg("--runroot")
            .arg(&state)
            .arg("--runtime")
            .arg(&program)
            .args(args);
        run(&mut command)
    };
    call(&[
        "import",
        "--quiet",
        archive.to_str().unwrap(),
        "localhost/busybox",
    ])
    .ok();
    let create = ["--pull", "never", "--network", "none"];
    let with = |verb: &'static str, options: &[&'static str], rest: &[&'static str]| {
        let mut all = vec![verb];
        all.extend(create);
        all.extend(options);
        all.push("localhost/busybox");
        all.extend(rest);
        call(&all)
    };
    let text = with(
        "run",
        &["--rm", "--hostname", "pod"],
        &["sh", "-c", "id -u; hostname; exit 0"],
    )
    .ok();
    assert_eq!(text, "0\npod\n");
    let code = with("run", &["--rm"], &["sh", "-c", "exit 7"]).code();
    assert_eq!(code, 7);
    with("run", &["--detach", "--name", "long"], &["sleep", "1000"]).ok();
    assert_eq!(call(&["exec", "long", "id", "-u"]).ok().trim(), "0");
    let runtime = call(&["inspect", "--format", "{{.OCIRuntime}} {{.State.Status}}", "long"]).ok();
    assert!(
        runtime.contains("berth") && runtime.contains("running"),
        "{runtime}"
    );
    call(&["rm", "--force", "--time", "0", "long"]).ok();
    assert_eq!(call(&["ps", "--all", "--quiet"]).ok(), "");
    // What vfs unpacked belongs to subordinate ids; the user can remove it only inside its namespace.
    call(&["system", "reset", "--force"]).ok();
}
