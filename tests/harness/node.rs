//! A whole node for a test: `berthd` in the test's own namespaces, with directories of its own.

use crate::{Outcome, bin, run, wait_for};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How to start a [`Node`].
#[derive(Debug, Default, Clone)]
pub struct NodeOptions {
    /// More arguments for `berthd`.
    pub arguments: Vec<String>,
    /// Plugins in place of Berth's.
    pub cni_bin_dir: Option<PathBuf>,
    /// A network list that is there before `berthd` starts.
    pub network: Option<String>,
    /// Options of a tmpfs for the data directory, in the mount namespace of the test.
    pub disk: Option<String>,
}

/// The runtime under the node: Berth's own, or the one that `BERTH_TEST_RUNTIME` names.
fn runtime() -> PathBuf {
    std::env::var_os("BERTH_TEST_RUNTIME").map_or_else(|| bin("berth"), PathBuf::from)
}

/// A running `berthd`, with its data below one temporary directory. The test has called
/// [`crate::isolate`] before. Dropping it deletes all its pods and stops it.
pub struct Node {
    dir: TempDir,
    port: u16,
    options: NodeOptions,
    daemon: Option<Child>,
}

impl Node {
    /// Starts `berthd` and waits until it is ready.
    pub fn start(options: NodeOptions) -> Self {
        let dir = TempDir::with_prefix("berth-node-").expect("temporary directory");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        if let Some(list) = &options.network {
            let conf_dir = dir.path().join("net.d");
            std::fs::create_dir(&conf_dir).expect("create the directory of networks");
            std::fs::write(conf_dir.join("10-test.conflist"), list).expect("write the network");
        }
        if let Some(size) = &options.disk {
            let data = dir.path().join("data");
            std::fs::create_dir(&data).expect("create the data directory");
            nix::mount::mount(
                Some("data"),
                &data,
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                Some(size.as_str()),
            )
            .expect("mount the data directory");
        }
        let mut node = Self {
            dir,
            port,
            options,
            daemon: None,
        };
        node.spawn();
        node
    }

    /// Changes the arguments for the next start of `berthd`.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut Vec<String>)) {
        change(&mut self.options.arguments);
    }

    /// The directory that everything of the node lies below.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `berthd`'s data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// The pid of the running `berthd`.
    pub fn pid(&self) -> u32 {
        self.daemon.as_ref().expect("berthd runs").id()
    }

    /// Everything `berthd` wrote to stderr since the node was made.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("berthd.log")).unwrap_or_default()
    }

    /// Kills `berthd` with SIGKILL and reaps it; pods go on.
    pub fn kill_daemon(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            daemon.kill().expect("kill berthd");
            daemon.wait().expect("reap berthd");
        }
    }

    /// Whether `berthd` has ended by itself; it is reaped then, and may be started again.
    pub fn has_ended(&mut self) -> bool {
        let ended = match self.daemon.as_mut() {
            Some(daemon) => daemon.try_wait().expect("look at berthd").is_some(),
            None => true,
        };
        if ended {
            self.daemon = None;
        }
        ended
    }

    /// Starts `berthd` on the same data and waits until it is ready.
    pub fn spawn(&mut self) {
        self.launch(&[]);
        wait_for("berthd to be ready", Duration::from_secs(60), || {
            let daemon = self.daemon.as_mut().expect("just started");
            if let Some(status) = daemon.try_wait().expect("look at berthd") {
                panic!("berthd ended with {status}:\n{}", self.log());
            }
            if !self.kubeconfig().exists() {
                return Err("no kubeconfig yet".to_owned());
            }
            let seen = self.ctl(&["get", "namespace", "default"]);
            if seen.status.success() {
                Ok(())
            } else {
                Err(seen.stderr)
            }
        });
    }

    /// Starts `berthd` on the same data, with more environment variables, and does not wait.
    pub fn launch(&mut self, environment: &[(&str, &str)]) {
        assert!(self.daemon.is_none(), "berthd runs already");
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.path().join("berthd.log"))
            .expect("open the log");
        let child = Command::new(bin("berthd"))
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--run-dir")
            .arg(self.dir.path().join("run"))
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port))
            .arg("--runtime")
            .arg(runtime())
            .arg("--monitor")
            .arg(bin("berth-monitor"))
            .arg("--cni-bin-dir")
            .arg(self.cni_bin_dir())
            .arg("--cni-conf-dir")
            .arg(self.cni_conf_dir())
            .args(self.cgroup_parent())
            .args(self.without_image_collection())
            .args(self.without_eviction())
            .args(&self.options.arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone the log"))
            .stderr(log)
            .spawn()
            .expect("start berthd");
        self.daemon = Some(child);
    }

    /// A full disk of the machine must not take a test's images away, unless the test is about that.
    fn without_image_collection(&self) -> &'static [&'static str] {
        let flag = "--image-gc-high-threshold";
        if self.options.arguments.iter().any(|argument| argument == flag) {
            &[]
        } else {
            &["--image-gc-high-threshold", "100"]
        }
    }

    /// A full machine must not take a test's pods away, unless the test is about that.
    fn without_eviction(&self) -> &'static [&'static str] {
        let flag = "--eviction-hard";
        if self.options.arguments.iter().any(|argument| argument == flag) {
            &[]
        } else {
            &["--eviction-hard", ""]
        }
    }

    /// A directory with one link a plugin, as `make install` lays them out.
    fn cni_bin_dir(&self) -> PathBuf {
        if let Some(dir) = &self.options.cni_bin_dir {
            return dir.clone();
        }
        let dir = self.dir.path().join("cni");
        if std::fs::create_dir(&dir).is_ok() {
            for plugin in ["bridge", "host-local", "loopback", "portmap", "firewall", "ptp"] {
                std::os::unix::fs::symlink(bin("cni-plugins"), dir.join(plugin)).expect("link a plugin");
            }
        }
        dir
    }

    /// The directory of the node's network lists.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.dir.path().join("net.d")
    }

    /// A parent cgroup of the node's own, unless the test names one.
    fn cgroup_parent(&self) -> Vec<String> {
        if self.options.arguments.iter().any(|a| a == "--cgroup-parent") {
            return Vec::new();
        }
        let name = self.dir.path().file_name().unwrap_or_default();
        vec!["--cgroup-parent".to_owned(), name.to_string_lossy().into_owned()]
    }

    /// Runs `berthctl` against the node.
    pub fn ctl(&self, arguments: &[&str]) -> Outcome {
        run(Command::new(bin("berthctl"))
            .env("KUBECONFIG", self.kubeconfig())
            .args(arguments))
    }

    /// Runs a kubectl against the node.
    pub fn kubectl(&self, kubectl: &Path, arguments: &[&str]) -> Outcome {
        run(Command::new(kubectl)
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", self.dir.path())
            .args(arguments))
    }

    /// Deletes every pod and what would bring it back, and waits until the node holds none.
    pub fn clear(&self) {
        for kind in [
            "cronjobs",
            "jobs",
            "daemonsets",
            "statefulsets",
            "deployments",
            "replicasets",
            "pods",
        ] {
            let outcome = self.ctl(&["delete", kind, "--all", "-A", "--grace-period", "1"]);
            assert!(outcome.status.success(), "delete {kind}: {}", outcome.stderr);
        }
        wait_for("all pods to be gone", Duration::from_secs(60), || {
            let list = self.ctl(&["get", "pods", "-A", "-o", "name"]);
            if list.status.success() && list.stdout.trim().is_empty() {
                Ok(())
            } else {
                Err(list)
            }
        });
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- berthd's log ---\n{}", self.log());
        }
        if self.daemon.is_none() {
            self.spawn();
        }
        if !std::thread::panicking() {
            self.clear();
        } else {
            for kind in [
                "cronjobs",
                "jobs",
                "daemonsets",
                "statefulsets",
                "deployments",
                "replicasets",
                "pods",
            ] {
                self.ctl(&["delete", kind, "--all", "-A", "--grace-period", "0", "--force"]);
            }
        }
        if let Some(daemon) = self.daemon.as_mut() {
            let pid = nix::unistd::Pid::from_raw(daemon.id().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
            daemon.wait().ok();
        }
        if self.options.disk.is_some() {
            nix::mount::umount2(&self.data_dir(), nix::mount::MntFlags::MNT_DETACH).ok();
        }
    }
}
