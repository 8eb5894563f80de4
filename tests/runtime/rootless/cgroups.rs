//! Limits of an unprivileged user's containers: without a cgroup of its own, and in one that was delegated.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use harness::{Outcome, USER_ID, User, need_root};
use serde_json::{Value, json};

use super::{bundle, call, run_bundle};
use crate::driver::unique;

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
