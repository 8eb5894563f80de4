//! Driving a runtime: its command line with a state root of its own, and containers that go away with their value.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use harness::{Bundle, Outcome, run, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Long enough for anything on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime's program with a state root of its own.
pub struct Runtime {
    /// The word that names it in tests: `berth` or `runc`.
    pub name: &'static str,
    program: PathBuf,
    root: TempDir,
}

fn wanted(name: &str) -> bool {
    std::env::var("BERTH_TEST_RUNTIMES").map_or(true, |list| list.split(',').any(|word| word == name))
}

impl Runtime {
    fn new(name: &'static str, program: PathBuf) -> Self {
        Self {
            name,
            program,
            root: TempDir::with_prefix("berth-state-").expect("state root"),
        }
    }

    /// The runtime under test.
    pub fn berth() -> Self {
        Self::new("berth", harness::bin("berth"))
    }

    /// The reference, if it is installed.
    pub fn runc() -> Option<Self> {
        harness::program("runc").map(|program| Self::new("runc", program))
    }

    /// Every runtime that a conformance case is to pass on.
    pub fn all() -> Vec<Self> {
        let mut all = Vec::new();
        if wanted("berth") {
            all.push(Self::berth());
        }
        if wanted("runc") {
            all.extend(Self::runc());
        }
        all
    }

    /// The state root.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// A command line of the runtime.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root.path()).args(args);
        // The test's own activation or notification sockets are none of the container's business.
        command
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("NOTIFY_SOCKET");
        command
    }

    /// Runs a command line to its end.
    #[track_caller]
    pub fn call(&self, args: &[&str]) -> Outcome {
        run(&mut self.command(args))
    }

    /// A container of this bundle, not made yet. The bundle gets a cgroup path of its own.
    pub fn container<'a>(&'a self, bundle: &mut Bundle) -> Container<'a> {
        let id = unique();
        bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(format!("/{id}")));
        Container {
            runtime: self,
            bundle: bundle.path().to_path_buf(),
            id,
        }
    }

    /// Runs a bundle in the foreground to its end.
    #[track_caller]
    pub fn run_bundle(&self, bundle: &mut Bundle) -> Outcome {
        self.container(bundle).run()
    }
}

/// A name that no other container on this host has.
pub fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!(
        "berth-test-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}

/// A container's name with its bundle; what is left of it is deleted with the value.
pub struct Container<'a> {
    runtime: &'a Runtime,
    bundle: PathBuf,
    /// The container's id.
    pub id: String,
}

impl Container<'_> {
    /// Calls a verb with options before the id.
    #[track_caller]
    pub fn verb(&self, verb: &str, options: &[&str]) -> Outcome {
        run(&mut self.command(verb, options))
    }

    /// A verb's command line, with options before the id. Verbs that take a bundle get it.
    pub fn command(&self, verb: &str, options: &[&str]) -> Command {
        let mut command = self.runtime.command(&[verb]);
        if ["create", "run"].contains(&verb) {
            command.arg("--bundle").arg(&self.bundle);
        }
        command.args(options).arg(&self.id);
        command
    }

    /// Creates it.
    #[track_caller]
    pub fn create(&self) -> &Self {
        self.verb("create", &[]).ok();
        self
    }

    /// Creates and starts it.
    #[track_caller]
    pub fn start(&self) -> &Self {
        self.create();
        self.verb("start", &[]).ok();
        self
    }

    /// Runs it in the foreground.
    #[track_caller]
    pub fn run(&self) -> Outcome {
        self.verb("run", &[])
    }

    /// Runs a command inside.
    #[track_caller]
    pub fn exec(&self, command: &[&str]) -> Outcome {
        let mut args = vec!["exec", &self.id];
        args.extend(command);
        self.runtime.call(&args)
    }

    /// Sends a signal.
    #[track_caller]
    pub fn kill(&self, signal: &str) -> Outcome {
        self.runtime.call(&["kill", &self.id, signal])
    }

    /// What `state` prints.
    #[track_caller]
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.verb("state", &[]).ok()).expect("state prints JSON")
    }

    /// The status in `state`.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    /// The init's process id.
    #[track_caller]
    pub fn pid(&self) -> i32 {
        i32::try_from(self.state()["pid"].as_i64().expect("a pid")).expect("a pid")
    }

    /// Waits for a status.
    #[track_caller]
    pub fn wait(&self, status: &str) {
        wait_for(&format!("{} to be {status}", self.id), PATIENCE, || {
            match self.status() {
                now if now == status => Ok(()),
                now => Err(now),
            }
        });
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        // Not `verb`: a panic inside a panic would hide the first.
        let _ = self.runtime.command(&["delete", "--force", &self.id]).output();
    }
}

/// The cgroup directories of this name, in every hierarchy.
pub fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/sys/fs/cgroup").join(name)];
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        found.push(hierarchy.path().join(name));
    }
    found.retain(|path| path.is_dir());
    found
}

/// The only file of a controller's directory for this cgroup, v1 or v2, that exists among `names`.
pub fn cgroup_file(cgroup: &str, names: &[&str]) -> PathBuf {
    let directories = cgroups_named(cgroup);
    let candidates = directories
        .iter()
        .flat_map(|dir| names.iter().map(|name| dir.join(name)));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("none of {names:?} in {directories:?}"))
}
