//! A containerd of a lab's own, and its client `ctr`: Debian's, and one of version 2.

use crate::{Lab, Outcome, program, repository_root, wait_for};
use std::path::PathBuf;
use std::process::Child;
use std::time::Duration;

/// Names a folder with `containerd`, `ctr` and `containerd-shim-runc-v2` of version 2, of which Debian 12 has no package.
const NEWER: &str = "BERTH_CONTAINERD_2";

/// Makes two tests of each function that takes a [`Release`]: with Debian's containerd in a module `packaged`, with one
/// of version 2 in a module `containerd_2`.
#[macro_export]
macro_rules! with_each_containerd {
    ($($test:ident),+ $(,)?) => {
        mod packaged {
            $(#[test] fn $test() {
                $crate::need_root!();
                match $crate::Release::packaged() {
                    Some(release) => super::$test(&release),
                    None => $crate::skip!("needs the program containerd"),
                }
            })+
        }
        mod containerd_2 {
            $(#[test] fn $test() {
                $crate::need_root!();
                match $crate::Release::newer() {
                    Some(release) => super::$test(&release),
                    None => $crate::skip!("needs containerd 2 (BERTH_CONTAINERD_2)"),
                }
            })+
        }
    };
}

/// Which containerd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Release {
    /// Version 1.6 or 1.7, on PATH.
    Packaged,
    /// Version 2, its programs in this folder.
    Newer(PathBuf),
}

impl Release {
    /// Debian's.
    pub fn packaged() -> Option<Self> {
        program("containerd").map(|_| Self::Packaged)
    }

    /// Version 2, from the folder that `BERTH_CONTAINERD_2` names.
    ///
    /// # Panics
    /// When there is no containerd of that version.
    pub fn newer() -> Option<Self> {
        let dir = PathBuf::from(std::env::var_os(NEWER)?);
        for name in ["containerd", "ctr", "containerd-shim-runc-v2"] {
            assert!(
                dir.join(name).is_file(),
                "{NEWER}: no {name} in {}",
                dir.display()
            );
        }
        let version = crate::run(std::process::Command::new(dir.join("containerd")).arg("--version")).ok();
        let number = version.split_whitespace().nth(2).unwrap_or_default();
        assert!(
            number.trim_start_matches('v').starts_with("2."),
            "{NEWER}: not version 2: {version}"
        );
        Some(Self::Newer(dir))
    }

    /// Starts the daemon without CRI and waits until it answers.
    pub fn start(&self) -> Containerd {
        Containerd::new(self, "", "")
    }

    /// The daemon's configuration, to which `cri` and `rest` are appended; without `cri`, CRI is off.
    fn configuration(&self, dir: &str, cri: &str, rest: &str) -> String {
        let (version, names): (u32, &[&str]) = match self {
            Self::Packaged => (2, &["io.containerd.grpc.v1.cri"]),
            Self::Newer(_) => (
                3,
                &[
                    "io.containerd.grpc.v1.cri",
                    "io.containerd.cri.v1.runtime",
                    "io.containerd.cri.v1.images",
                    "io.containerd.podsandbox.controller.v1.podsandbox",
                ],
            ),
        };
        let disabled = if cri.is_empty() {
            format!("disabled_plugins = {names:?}\n")
        } else {
            String::new()
        };
        format!(
            "version = {version}\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n{disabled}[grpc]\naddress = \
             \"{dir}/c.sock\"\n{cri}{rest}"
        )
    }
}

/// A lab with a running containerd, without CRI unless a configuration for it is given.
pub struct Containerd {
    /// The place.
    pub lab: Lab,
    daemon: Child,
}

impl Containerd {
    /// Starts the daemon and waits until it answers. `cri` and `rest`, in which DIR stands for the lab's directory, are
    /// appended to its configuration; without `cri`, CRI is off.
    pub fn new(release: &Release, cri: &str, rest: &str) -> Self {
        let lab = Lab::new();
        let path = lab.path().display();
        if let Release::Newer(dir) = release {
            for name in ["containerd", "ctr", "containerd-shim-runc-v2"] {
                std::os::unix::fs::symlink(dir.join(name), lab.path().join("bin").join(name)).expect("link");
            }
        }
        let config = release.configuration(&path.to_string(), cri, &rest.replace("DIR", &path.to_string()));
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
            "export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1; ctr() {{ command ctr --address $LAB/c.sock --namespace $LAB_NAME \"$@\"; }}\n\
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
