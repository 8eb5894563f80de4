//! A containerd of a lab's own, and its client `ctr`.

use crate::{Lab, Outcome, repository_root, wait_for};
use std::process::Child;
use std::time::Duration;

/// A lab with a running containerd (Debian's), without CRI unless a configuration for it is given.
pub struct Containerd {
    /// The place.
    pub lab: Lab,
    daemon: Child,
}

impl Containerd {
    /// Starts the daemon and waits until it answers. `cri` is appended to its configuration; without any, CRI is off.
    pub fn new(cri: &str) -> Self {
        let lab = Lab::new();
        let path = lab.path().display();
        let disabled = if cri.is_empty() {
            "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n"
        } else {
            ""
        };
        let config = format!(
            "version = 2\nroot = \"{path}/root\"\nstate = \"{path}/state\"\n{disabled}[grpc]\naddress = \
             \"{path}/c.sock\"\n{cri}"
        );
        std::fs::write(lab.path().join("config.toml"), config).expect("write the configuration");
        // The example's options, with a state root of the lab's own: its ids must not meet those of another lab.
        let example = repository_root().join("examples/engines/containerd-options.toml");
        let options = std::fs::read_to_string(example)
            .expect("read the example")
            .replace("/usr/local/bin/berth", "berth")
            .replace("/run/containerd/berth", &format!("{path}/runtime"));
        let runc = options
            .replace("\"berth\"", "\"runc\"")
            .replace("/runtime", "/runtime-runc");
        std::fs::write(lab.path().join("berth.toml"), options).expect("write options");
        std::fs::write(lab.path().join("runc.toml"), runc).expect("write options");
        let daemon = lab.daemon("containerd", "containerd --config config.toml");
        let started = Self { lab, daemon };
        started.sh("wait_until quietly ctr version").ok();
        started
    }

    /// Runs a script in the lab where `ctr` is the daemon's and `$shim` are the options for Berth's shim.
    pub fn sh(&self, script: &str) -> Outcome {
        self.lab.sh(&format!(
            "ctr() {{ command ctr --address $LAB/c.sock --namespace $LAB_NAME \"$@\"; }}\n\
             shim='--runtime io.containerd.berth.v2 --runtime-config-path '$LAB/berth.toml\n{script}"
        ))
    }

    /// Kills the daemon as a crash would and waits for its end.
    pub fn kill(&mut self) {
        self.lab.sh("kill -9 $(pgrep -xo containerd)").ok();
        let _ = self.daemon.wait();
    }

    /// Starts the daemon again.
    pub fn start(&mut self) {
        self.daemon = self.lab.daemon("containerd", "containerd --config config.toml");
        self.sh("wait_until quietly ctr version").ok();
    }

    /// Asserts that no task, shim, container process, mount, cgroup, FIFO, socket or bundle is left, as soon as containerd
    /// has cleaned up, which it does in the background.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        wait_for("everything to be gone", Duration::from_secs(30), || {
            let left = self.left();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }

    fn left(&self) -> Vec<String> {
        let processes = self.lab.processes().into_iter();
        let mut left: Vec<String> = processes
            .filter(|line| !line.contains("containerd --config"))
            .map(|line| format!("process {line}"))
            .collect();
        left.extend(
            self.lab
                .mounts()
                .into_iter()
                .map(|point| format!("mount {point}")),
        );
        let cgroups = self.lab.cgroups().into_iter();
        left.extend(
            cgroups
                .filter(|dir| !dir.ends_with(self.lab.name()))
                .map(|dir| format!("cgroup {}", dir.display())),
        );
        let files = self
            .lab
            .sh("find /run/containerd/fifo /run/containerd/s state/*/$LAB_NAME runtime*/*/ tmp -mindepth 1 2>/dev/null; true")
            .ok();
        left.extend(files.lines().map(|file| format!("file {file}")));
        left
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // nsenter waits for the daemon, which ends with the lab.
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}
