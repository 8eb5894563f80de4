//! Containers of a user's own systemd, and where there is none.

use std::fs;
use std::path::Path;
use std::process::Command;

use harness::{Bundle, Outcome, USER_ID, User, chown_all, need_root, run, wait_for};
use serde_json::{Value, json};

use super::{cgroup_of, read, systemd_runs};
use crate::driver::{PATIENCE, unique};

/// The user's own systemd, as tests/vm's machine has it.
struct Session {
    user: User,
}

impl Session {
    fn start() -> Self {
        run(Command::new("systemctl")
            .arg("start")
            .arg(format!("user@{USER_ID}.service")))
        .ok();
        Self {
            user: User::new(true),
        }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.user.command(program);
        command.env("XDG_RUNTIME_DIR", format!("/run/user/{USER_ID}"));
        command
    }

    fn call(&self, args: &[&str]) -> Outcome {
        let program = self.user.program(&harness::bin("berth"));
        run(self
            .command(program)
            .arg("--root")
            .arg(self.user.path().join("state"))
            .arg("--systemd-cgroup")
            .args(args))
    }

    fn bundle(&self, args: &[&str]) -> Bundle {
        let mut bundle = Bundle::new(args);
        fs::remove_file(bundle.path().join("config.json")).unwrap();
        chown_all(bundle.path());
        self.call(&["spec", "--rootless", "--bundle", bundle.path().to_str().unwrap()])
            .ok();
        bundle.config =
            serde_json::from_slice(&fs::read(bundle.path().join("config.json")).unwrap()).unwrap();
        bundle.edit(|config| {
            config["process"]["args"] = json!(args);
            config["process"]["terminal"] = json!(false);
        });
        bundle
    }
}

#[test]
fn a_users_container_is_a_scope_of_the_users_systemd() {
    need_systemd!();
    let session = Session::start();
    let mut bundle = session.bundle(&["sleep", "1000"]);
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({
            "memory": {"limit": 48 << 20}, "pids": {"limit": 12}, "cpu": {"quota": 50_000, "period": 100_000},
        });
    });
    let id = unique();
    // This test's process is outside of what the user was delegated: only systemd can move the container's.
    session
        .call(&[
            "run",
            "--detach",
            "--bundle",
            bundle.path().to_str().unwrap(),
            &id,
        ])
        .ok();
    let state: Value = serde_json::from_str(&session.call(&["state", &id]).ok()).unwrap();
    let dir = cgroup_of(&state["pid"]);
    let manager = format!("user.slice/user-{USER_ID}.slice/user@{USER_ID}.service");
    let want = Path::new("/sys/fs/cgroup")
        .join(&manager)
        .join("user.slice")
        .join(format!("berth-{id}.scope"));
    assert_eq!(dir, want);
    for (file, value) in [
        ("memory.max", "50331648"),
        ("pids.max", "12"),
        ("cpu.max", "50000 100000"),
    ] {
        assert_eq!(read(&dir, file), value, "{file}");
    }
    // Neither can exec's process be moved by the user.
    let sleeping = ["exec", "--detach", &id, "sleep", "777"];
    session.call(&sleeping).ok();
    wait_for("the second process", PATIENCE, || {
        match read(&dir, "cgroup.procs").lines().count() {
            2 => Ok(()),
            count => Err(count),
        }
    });
    session.call(&["delete", "--force", &id]).ok();
    assert!(!dir.exists());
}

#[test]
fn without_a_session_it_says_so() {
    need_root!();
    let user = User::new(false);
    let mut bundle = Bundle::new(&["true"]);
    chown_all(bundle.path());
    bundle.edit(|config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        for list in ["uidMappings", "gidMappings"] {
            config["linux"][list] = json!([{"containerID": 0, "hostID": USER_ID, "size": 1}]);
        }
        config["linux"]["resources"] = json!({});
    });
    let program = user.program(&harness::bin("berth"));
    let mut command = user.command(program);
    command
        .args(["--systemd-cgroup", "run", "--bundle"])
        .arg(bundle.path())
        .arg(unique());
    let error = run(&mut command).err();
    assert!(error.contains("systemd's user session was not found"), "{error}");
    assert!(error.contains("loginctl enable-linger"), "{error}");
}

#[test]
fn podman_of_a_session_uses_the_systemd_manager() {
    need_systemd!();
    let podman = harness::need_program!("podman");
    let session = Session::start();
    let program = session.user.program(&harness::bin("berth"));
    let archive = session.user.path().join("rootfs.tar");
    let rootfs = Bundle::new(&["true"]);
    run(Command::new("tar")
        .arg("-C")
        .arg(rootfs.rootfs())
        .arg("-cf")
        .arg(&archive)
        .arg("."))
    .ok();
    chown_all(&archive);
    let (storage, state) = (session.user.folder("storage"), session.user.folder("state"));
    let call = |args: &[&str]| {
        let mut command = session.command(&podman);
        command
            .env(
                "DBUS_SESSION_BUS_ADDRESS",
                format!("unix:path=/run/user/{USER_ID}/bus"),
            )
            .args([
                "--cgroup-manager",
                "systemd",
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
    let options = [
        "--pull",
        "never",
        "--network",
        "none",
        "--memory",
        "64m",
        "--pids-limit",
        "33",
    ];
    let mut run_detached = vec!["run", "--detach", "--name", "held"];
    run_detached.extend(options);
    run_detached.extend(["localhost/busybox", "sleep", "1000"]);
    call(&run_detached).ok();
    let pid = call(&["inspect", "--format", "{{.State.Pid}}", "held"]).ok();
    let dir = cgroup_of(&json!(pid.trim().parse::<u32>().unwrap()));
    assert!(
        dir.to_str().unwrap().contains(&format!("user@{USER_ID}.service")),
        "{}",
        dir.display()
    );
    assert!(dir.to_str().unwrap().contains("libpod-"), "{}", dir.display());
    assert_eq!(read(&dir, "memory.max"), "67108864");
    assert_eq!(read(&dir, "pids.max"), "33");
    call(&["rm", "--force", "--time", "0", "held"]).ok();
    wait_for("the cgroup to be gone", PATIENCE, || {
        if dir.exists() { Err(()) } else { Ok(()) }
    });
    call(&["system", "reset", "--force"]).ok();
}
