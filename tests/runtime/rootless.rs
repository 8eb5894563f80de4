//! Containers of an unprivileged user: with and without subordinate ids, with and without a cgroup of its own, inside a
//! user namespace and inside another container.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
fn limits_need_the_right_to_a_cgroup() {
    need_root!();
    let user = User::new(false);
    let mut bundle = bundle(&user, &["true"]);
    run_bundle(&user, &bundle, &[]).ok();
    run_bundle(&user, &bundle, &["--rootless", "true"]).ok();
    // Told to be root, it takes missing rights for what they are.
    let error = run_bundle(&user, &bundle, &["--rootless", "false"]).err();
    assert!(
        error.contains("cannot create cgroup") && error.contains("denied"),
        "{error}"
    );
    let mut cases = vec![
        (
            json!({"memory": {"limit": 64 << 20}}),
            "linux.resources.memory.limit",
            "memory",
        ),
        (
            json!({"pids": {"limit": 10}}),
            "linux.resources.pids.limit",
            "pids",
        ),
        (
            json!({"cpu": {"cpus": "0"}}),
            "linux.resources.cpu.cpus",
            "cpuset",
        ),
    ];
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        cases.push((
            json!({"unified": {"memory.high": "1000000"}}),
            "linux.resources.unified",
            "memory",
        ));
    }
    for (resources, field, controller) in cases {
        bundle.edit(|config| config["linux"]["resources"] = resources);
        let error = run_bundle(&user, &bundle, &[]).err();
        let want = format!("the {controller} controller is not available (cannot create cgroup");
        assert!(error.contains(field) && error.contains(&want), "{error}");
        assert!(error.contains("without the right to make cgroups"), "{error}");
    }
    // A path that was asked for must be had.
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({});
        config["linux"]["cgroupsPath"] = json!(format!("/{}", unique()));
    });
    let error = run_bundle(&user, &bundle, &[]).err();
    assert!(error.contains("cannot create cgroup"), "{error}");
    // No limit is none: -1 needs no controller; and device rules are ignored, as with runc.
    bundle.edit(|config| {
        config["linux"]["cgroupsPath"] = json!("");
        config["linux"]["resources"] =
            json!({"memory": {"limit": -1}, "pids": {"limit": -1}, "devices": [{"allow": false, "access": "rwm"}]});
    });
    run_bundle(&user, &bundle, &[]).ok();
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

/// Cgroups that belong to the user, in every hierarchy where such can be made, with one below for its processes.
struct Delegated(Vec<PathBuf>);

impl Delegated {
    fn new() -> Self {
        let name = unique();
        let mut roots = Vec::new();
        for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
            let words: Vec<_> = line.split(' ').collect();
            let kind = words[words.iter().position(|word| *word == "-").unwrap() + 1];
            let (root, point) = (words[3], words[4]);
            if (kind == "cgroup" || kind == "cgroup2") && root == "/" && point.starts_with("/sys/fs/cgroup") {
                roots.push(PathBuf::from(point));
            }
        }
        let mut made = Self(Vec::new());
        for root in roots {
            let dir = root.join(&name);
            let inner = dir.join("inner");
            fs::create_dir(&dir).unwrap();
            made.0.push(dir.clone());
            let control = dir.join("cgroup.subtree_control");
            if control.exists() {
                let have = fs::read_to_string(dir.join("cgroup.controllers")).unwrap();
                for controller in have.split_whitespace() {
                    fs::write(&control, format!("+{controller}")).unwrap();
                }
            }
            fs::create_dir(&inner).unwrap();
            for cpuset in ["cpuset.cpus", "cpuset.mems"] {
                if root.join(cpuset).exists() {
                    let all = fs::read_to_string(root.join(cpuset)).unwrap();
                    fs::write(dir.join(cpuset), &all).unwrap();
                    fs::write(inner.join(cpuset), &all).unwrap();
                }
            }
            for dir in [&dir, &inner] {
                harness_chown(dir);
                // What cgroup-v2.rst names for delegation; in v1 procs and tasks.
                for file in [
                    "cgroup.procs",
                    "cgroup.threads",
                    "cgroup.subtree_control",
                    "tasks",
                ] {
                    if dir.join(file).exists() {
                        harness_chown(&dir.join(file));
                    }
                }
            }
        }
        made
    }

    /// Runs `berth` as the user from within.
    fn run(&self, user: &User, args: &[&str]) -> Outcome {
        let mut command = user.command("/bin/sh");
        command
            .args(["-c", "read go && exec \"$@\" <&-", "sh"])
            .arg(user.program(&harness::bin("berth")))
            .args(args)
            .stdin(Stdio::piped());
        // Files, not pipes: what runs in the background keeps them.
        let (out, err) = (
            tempfile::NamedTempFile::new().unwrap(),
            tempfile::NamedTempFile::new().unwrap(),
        );
        command
            .stdout(out.reopen().unwrap())
            .stderr(err.reopen().unwrap());
        let mut child = command.spawn().unwrap();
        for dir in &self.0 {
            fs::write(dir.join("inner/cgroup.procs"), child.id().to_string()).unwrap();
        }
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        Outcome {
            status: child.wait().unwrap(),
            stdout: fs::read_to_string(out.path()).unwrap(),
            stderr: fs::read_to_string(err.path()).unwrap(),
        }
    }

    /// The only file of this name below, wherever it is.
    fn find(&self, id: &str, names: &[&str]) -> PathBuf {
        let places = self
            .0
            .iter()
            .flat_map(|dir| [dir.join(id), dir.join("inner").join(id)]);
        let files = places.flat_map(|dir| names.iter().map(move |name| dir.join(name)));
        files
            .into_iter()
            .find(|path| path.exists())
            .unwrap_or_else(|| panic!("none of {names:?} for {id} below {:?}", self.0))
    }
}

fn harness_chown(path: &Path) {
    let id = Some(nix::unistd::Uid::from_raw(USER_ID));
    let group = Some(nix::unistd::Gid::from_raw(USER_ID));
    nix::unistd::chown(path, id, group).unwrap();
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for dir in &self.0 {
            for path in [dir.join("inner"), dir.clone()] {
                let mut last = Ok(());
                for _ in 0..200 {
                    last = fs::remove_dir(&path);
                    if last.is_ok() {
                        break;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(10));
                }
                if !std::thread::panicking() {
                    last.unwrap_or_else(|error| panic!("{} is left: {error}", path.display()));
                }
            }
        }
    }
}

#[test]
fn a_delegated_cgroup_limits() {
    need_root!();
    let user = User::new(false);
    let delegated = Delegated::new();
    let mut bundle = bundle(&user, &["sleep", "1000"]);
    // v1's files of limits are root's wherever the folder is the user's own making: they belong to who made it.
    bundle.edit(|config| {
        config["linux"]["resources"] =
            json!({"pids": {"limit": 11}, "memory": {"limit": 48 << 20, "swap": 48 << 20}});
    });
    let id = unique();
    let path = bundle.path().to_str().unwrap();
    delegated
        .run(&user, &["run", "--detach", "--bundle", path, &id])
        .ok();
    let read = |names: &[&str]| fs::read_to_string(delegated.find(&id, names)).unwrap();
    assert_eq!(read(&["pids.max"]).trim(), "11");
    assert_eq!(
        read(&["memory.max", "memory.limit_in_bytes"]).trim(),
        (48u64 << 20).to_string()
    );
    let state: Value = serde_json::from_str(&call(&user, &["state", &id]).ok()).unwrap();
    let members = read(&["cgroup.procs"]);
    assert_eq!(members.trim(), state["pid"].to_string());
    // From within, exec gets into the container's cgroup; the limit holds for it.
    let forks = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14; do sleep 100 & done; echo all";
    let outcome = delegated.run(&user, &["exec", &id, "sh", "-c", forks]);
    assert!(
        !outcome.stdout.contains("all") || outcome.stderr.contains("fork"),
        "{outcome:?}"
    );
    delegated.run(&user, &["delete", "--force", &id]).ok();
    for dir in &delegated.0 {
        for place in [dir.join(&id), dir.join("inner").join(&id)] {
            assert!(!place.exists(), "{}", place.display());
        }
    }
}

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
