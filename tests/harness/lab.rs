//! A place for container engines: mount, pid and network namespaces of their own, and a `/run` of their own, so that a
//! daemon and everything it starts ends with the test and meets nothing of the host's or of another test's.

use crate::{Outcome, bin, busybox_rootfs, run};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// The namespaces, their first process, and a directory for everything.
pub struct Lab {
    dir: TempDir,
    outer: Child,
    /// The first process of the pid namespace, as the host numbers it.
    init: i32,
    name: String,
}

/// What the first process of a lab does: it prepares the mounts, says so, and collects orphans for ever.
const INIT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
ip link set lo up
touch "$1/ready"
trap : TERM
while :; do sleep 3600 & wait $!; done
"#;

/// The same where the host's processes, network and /run are to be seen: systemd's.
const INIT_WITH_SYSTEMD: &str = r#"
set -e
mount --make-rprivate /
touch "$1/ready"
trap : TERM
while :; do sleep 3600 & wait $!; done
"#;

/// For every command in a lab.
const PRELUDE: &str = r#"
cd "$LAB"
# wait_until COMMAND...: until it succeeds, a minute at most
wait_until() {
    local tries=0
    until "$@"; do tries=$((tries + 1)); [ $tries -lt 600 ] || { echo "waited in vain: $*" >&2; return 1; }; sleep 0.1; done
}
quietly() { "$@" >/dev/null 2>&1; }
"#;

impl Lab {
    /// A fresh lab. Its directory has a busybox root at `rootfs` and Berth's runtime and shim in `bin`, which is first on
    /// PATH.
    pub fn new() -> Self {
        let namespaces = [
            "--mount",
            "--pid",
            "--net",
            "--fork",
            "--mount-proc",
            "--kill-child",
        ];
        Self::start(&namespaces, INIT)
    }

    /// A lab with mounts of its own and nothing else, for what works with the host's systemd: it knows processes by the
    /// numbers of the host.
    pub fn with_systemd() -> Self {
        Self::start(&["--mount", "--fork", "--kill-child"], INIT_WITH_SYSTEMD)
    }

    fn start(namespaces: &[&str], init: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let dir = TempDir::with_prefix("berth-lab-").expect("temporary directory");
        let path = dir.path();
        for sub in ["rootfs", "bin", "logs", "tmp"] {
            std::fs::create_dir(path.join(sub)).expect("create a directory");
        }
        busybox_rootfs(&path.join("rootfs"));
        for program in ["berth", "containerd-shim-berth-v2"] {
            std::os::unix::fs::symlink(bin(program), path.join("bin").join(program)).expect("link");
        }
        let outer = Command::new("unshare")
            .args(namespaces)
            .args(["bash", "-c", init, "lab"])
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path.join("logs/init")).expect("create a log"))
            .spawn()
            .expect("start unshare");
        let ready = path.join("ready");
        crate::wait_for("the lab's first process", Duration::from_secs(60), || {
            if ready.exists() {
                Ok(())
            } else {
                Err(std::fs::read_to_string(path.join("logs/init")))
            }
        });
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", outer.id()));
        let init = children
            .expect("read children")
            .trim()
            .parse()
            .expect("one child");
        let name = format!(
            "lab{}x{}",
            std::process::id(),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        );
        Self {
            dir,
            outer,
            init,
            name,
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A name that no other lab on the machine has; cgroups of a lab's containers must have it in their path.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first process, as the host numbers it.
    pub fn init(&self) -> i32 {
        self.init
    }

    fn command(&self, script: &str) -> Command {
        let path = format!(
            "{}/bin:{}:/usr/local/sbin:/usr/sbin:/sbin",
            self.path().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.init.to_string(),
                "--mount",
                "--pid",
                "--net",
                "--",
            ])
            .args([
                "timeout",
                "--kill-after=5",
                "300",
                "bash",
                "-c",
                &format!("{PRELUDE}{script}"),
            ])
            .env("PATH", path)
            .env("LAB", self.path())
            .env("LAB_NAME", &self.name)
            .env("HOME", self.path())
            .env("TMPDIR", self.path().join("tmp"));
        command
    }

    /// Runs a bash script in the lab, in its directory, for five minutes at most. `LAB` and `LAB_NAME` are set;
    /// `wait_until` and `quietly` are defined.
    pub fn sh(&self, script: &str) -> Outcome {
        run(&mut self.command(script))
    }

    /// Starts a script that goes on; its output is in `logs/NAME`. Returns the process that waits for it.
    pub fn daemon(&self, name: &str, script: &str) -> Child {
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path().join("logs").join(name))
            .expect("open a log");
        let script = format!("cd \"$LAB\"; exec {script}");
        let mut command = Command::new("nsenter");
        let prepared = self.command("");
        command
            .args([
                "--target",
                &self.init.to_string(),
                "--mount",
                "--pid",
                "--net",
                "--",
            ])
            .args(["bash", "-c", &script]);
        for (key, value) in prepared.get_envs() {
            command.env(key, value.expect("a value"));
        }
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone"))
            .stderr(log)
            .spawn()
            .expect("start nsenter")
    }

    /// What a daemon has logged.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join("logs").join(name)).unwrap_or_default()
    }

    /// Command lines of all processes in the lab but its own first ones, one a line, sorted.
    pub fn processes(&self) -> Vec<String> {
        let text = self.sh("ps -eo pid=,args= | grep -v -e ' sleep 3600' -e 'timeout --kill' -e 'ps -eo' -e ' bash -c' -e ' grep ' -e '<defunct>' || true").ok();
        let mut found: Vec<String> = text
            .lines()
            .filter_map(|line| line.trim().split_once(' '))
            .map(|(_, command)| command.trim().to_owned())
            .collect();
        found.sort();
        found
    }

    /// Cgroups of the lab's containers, in every hierarchy.
    pub fn cgroups(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        let mut queue = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(dir) = queue.pop() {
            for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    if entry.path().to_string_lossy().contains(&self.name) {
                        found.insert(entry.path());
                    }
                    queue.push(entry.path());
                }
            }
        }
        found
    }

    /// Mount points of the lab that lie in its directory or below `/run`.
    pub fn mounts(&self) -> Vec<String> {
        let text = self.sh("cut -d' ' -f5 /proc/self/mountinfo").ok();
        let dir = self.path().to_string_lossy().into_owned();
        text.lines()
            .filter(|point| point.starts_with(&dir) || point.starts_with("/run/"))
            .map(str::to_owned)
            .collect()
    }
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for entry in std::fs::read_dir(self.path().join("logs"))
                .into_iter()
                .flatten()
                .flatten()
            {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("--- {}\n{tail}", entry.path().display());
            }
        }
        // With its first process the whole namespace ends.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        // The deepest first; a cgroup is free as soon as its last process is reaped.
        while std::time::Instant::now() < deadline {
            let left = self.cgroups();
            if left.is_empty() {
                break;
            }
            for dir in left.iter().rev() {
                let _ = std::fs::remove_dir(dir);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
