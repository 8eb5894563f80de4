//! The verbs of a runc-compatible runtime.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::{ContainerState, Error, Invocation, ListEntry};

/// A runtime binary and the flags that every run of it gets.
#[derive(Debug, Clone)]
pub struct Runtime {
    path: PathBuf,
    root: Option<PathBuf>,
    log_dir: Option<PathBuf>,
    flags: Vec<&'static str>,
    program_dir: Option<PathBuf>,
}

/// Options of `create` and `run`.
#[derive(Debug, Clone, Default)]
pub struct CreateOptions<'a> {
    /// Where the runtime writes the container's pid.
    pub pid_file: Option<&'a Path>,
    /// Unix socket that receives the terminal's master side.
    pub console_socket: Option<&'a Path>,
    /// `run` only: return when the program has started.
    pub detach: bool,
    /// Use MS_MOVE in place of pivot_root (a root on a ramfs).
    pub no_pivot: bool,
    /// Leave the session keyring as it is.
    pub no_new_keyring: bool,
}

/// Options of `checkpoint` (criu(8)).
#[derive(Debug, Clone, Default)]
pub struct CheckpointOptions<'a> {
    /// Where the images go; without it, where the runtime's default is.
    pub image_path: Option<&'a Path>,
    /// Where criu works and logs.
    pub work_path: Option<&'a Path>,
    /// Images of a pre-dump before, relative to `image_path`.
    pub parent_path: Option<&'a Path>,
    /// The container goes on afterwards.
    pub leave_running: bool,
    /// Established TCP connections may be in the images.
    pub tcp_established: bool,
    /// Unix sockets to the outside may be.
    pub ext_unix_sk: bool,
    /// A terminal may be.
    pub shell_job: bool,
    /// Locks of files may be.
    pub file_locks: bool,
    /// Namespaces whose content is not kept (`network`).
    pub empty_ns: &'a [String],
    /// How cgroups are restored: `soft`, `full`, `strict`, `ignore`; empty for the runtime's default.
    pub manage_cgroups_mode: &'a str,
}

/// Options of `restore`, always detached.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions<'a> {
    /// Where the images are.
    pub image_path: Option<&'a Path>,
    /// Where criu works and logs.
    pub work_path: Option<&'a Path>,
    /// Where the runtime writes the container's pid.
    pub pid_file: Option<&'a Path>,
    /// Unix socket that receives the terminal's master side.
    pub console_socket: Option<&'a Path>,
    /// Use MS_MOVE in place of pivot_root.
    pub no_pivot: bool,
    /// Established TCP connections are in the images.
    pub tcp_established: bool,
    /// Unix sockets to the outside are.
    pub ext_unix_sk: bool,
    /// A terminal is.
    pub shell_job: bool,
    /// Locks of files are.
    pub file_locks: bool,
}

/// Options of `exec`.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions<'a> {
    /// Where the runtime writes the process' pid.
    pub pid_file: Option<&'a Path>,
    /// Unix socket that receives the terminal's master side.
    pub console_socket: Option<&'a Path>,
    /// Return when the program has started; its parent is then the caller's subreaper.
    pub detach: bool,
}

impl Runtime {
    /// The runtime at `path` (a name is looked up in PATH by the system).
    pub fn new(path: impl Into<PathBuf>) -> Runtime {
        Runtime {
            path: path.into(),
            root: None,
            log_dir: None,
            flags: Vec::new(),
            program_dir: None,
        }
    }

    /// Sets `--root`, the folder with the runtime's state.
    #[must_use]
    pub fn with_root(mut self, root: impl Into<PathBuf>) -> Runtime {
        self.root = Some(root.into());
        self
    }

    /// Sets the folder for the log files of single runs, from which failures are read; each is removed
    /// after its run. Without it the messages come from stderr.
    #[must_use]
    pub fn with_log_dir(mut self, dir: impl Into<PathBuf>) -> Runtime {
        self.log_dir = Some(dir.into());
        self
    }

    /// Passes `--systemd-cgroup`: cgroups are made by asking systemd.
    #[must_use]
    pub fn with_systemd_cgroup(mut self) -> Runtime {
        self.flags.push("--systemd-cgroup");
        self
    }

    /// Passes `--debug`: the runtime logs what it does.
    #[must_use]
    pub fn with_debug(mut self) -> Runtime {
        self.flags.push("--debug");
        self
    }

    /// Lets the runtime look for programs that it starts (criu) in this folder first.
    #[must_use]
    pub fn with_program_dir(mut self, dir: impl Into<PathBuf>) -> Runtime {
        self.program_dir = Some(dir.into());
        self
    }

    /// Path of the binary.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn verb(&self, verb: &'static str, id: &str) -> Invocation {
        let mut call = Invocation::new(
            &self.path,
            self.root.as_deref(),
            self.log_dir.as_deref(),
            &self.flags,
            verb,
            id,
        );
        if let Some(dir) = &self.program_dir {
            call.look_in(dir);
        }
        call
    }

    /// `create`: sets the container up and leaves it before the user's program.
    pub fn create(&self, id: &str, bundle: &Path, options: &CreateOptions<'_>) -> Invocation {
        self.launch("create", id, bundle, options)
    }

    /// `run`: create and start.
    pub fn run(&self, id: &str, bundle: &Path, options: &CreateOptions<'_>) -> Invocation {
        self.launch("run", id, bundle, options)
    }

    fn launch(&self, verb: &'static str, id: &str, bundle: &Path, options: &CreateOptions<'_>) -> Invocation {
        let mut call = self.verb(verb, id);
        call.arg("--bundle").arg(bundle);
        path_flag(&mut call, "--pid-file", options.pid_file);
        path_flag(&mut call, "--console-socket", options.console_socket);
        flag(&mut call, "--detach", options.detach);
        flag(&mut call, "--no-pivot", options.no_pivot);
        flag(&mut call, "--no-new-keyring", options.no_new_keyring);
        call.arg(id);
        call
    }

    /// `checkpoint`: writes the container's processes to images.
    pub fn checkpoint(&self, id: &str, options: &CheckpointOptions<'_>) -> Invocation {
        let mut call = self.verb("checkpoint", id);
        path_flag(&mut call, "--image-path", options.image_path);
        path_flag(&mut call, "--work-path", options.work_path);
        path_flag(&mut call, "--parent-path", options.parent_path);
        flag(&mut call, "--leave-running", options.leave_running);
        flag(&mut call, "--tcp-established", options.tcp_established);
        flag(&mut call, "--ext-unix-sk", options.ext_unix_sk);
        flag(&mut call, "--shell-job", options.shell_job);
        flag(&mut call, "--file-locks", options.file_locks);
        for kind in options.empty_ns {
            call.arg("--empty-ns").arg(kind);
        }
        if !options.manage_cgroups_mode.is_empty() {
            call.arg("--manage-cgroups-mode").arg(options.manage_cgroups_mode);
        }
        call.arg(id);
        call
    }

    /// `restore`: makes the container of `bundle` from images, detached.
    pub fn restore(&self, id: &str, bundle: &Path, options: &RestoreOptions<'_>) -> Invocation {
        let mut call = self.verb("restore", id);
        call.arg("--bundle")
            .arg(bundle)
            .arg("--detach")
            .arg("--no-subreaper");
        path_flag(&mut call, "--image-path", options.image_path);
        path_flag(&mut call, "--work-path", options.work_path);
        path_flag(&mut call, "--pid-file", options.pid_file);
        path_flag(&mut call, "--console-socket", options.console_socket);
        flag(&mut call, "--no-pivot", options.no_pivot);
        flag(&mut call, "--tcp-established", options.tcp_established);
        flag(&mut call, "--ext-unix-sk", options.ext_unix_sk);
        flag(&mut call, "--shell-job", options.shell_job);
        flag(&mut call, "--file-locks", options.file_locks);
        call.arg(id);
        call
    }

    /// `start`: lets a created container run the user's program.
    pub fn start(&self, id: &str) -> Invocation {
        let mut call = self.verb("start", id);
        call.arg(id);
        call
    }

    /// `exec`: one more process in the container, described by the OCI process object in `process`.
    pub fn exec(&self, id: &str, process: &Path, options: &ExecOptions<'_>) -> Invocation {
        let mut call = self.verb("exec", id);
        call.arg("--process").arg(process);
        path_flag(&mut call, "--pid-file", options.pid_file);
        path_flag(&mut call, "--console-socket", options.console_socket);
        flag(&mut call, "--detach", options.detach);
        call.arg(id);
        call
    }

    /// `kill`: sends `signal` (name or number) to the container's process; `all` to every process of it.
    pub fn kill(&self, id: &str, signal: &str, all: bool) -> Invocation {
        let mut call = self.verb("kill", id);
        flag(&mut call, "--all", all);
        call.arg(id).arg(signal);
        call
    }

    /// `delete`: takes the container away; `force` kills it first and forgives an unknown id.
    pub fn delete(&self, id: &str, force: bool) -> Invocation {
        let mut call = self.verb("delete", id);
        flag(&mut call, "--force", force);
        call.arg(id);
        call
    }

    /// `pause`: freezes the container.
    pub fn pause(&self, id: &str) -> Invocation {
        let mut call = self.verb("pause", id);
        call.arg(id);
        call
    }

    /// `resume`: thaws the container.
    pub fn resume(&self, id: &str) -> Invocation {
        let mut call = self.verb("resume", id);
        call.arg(id);
        call
    }

    /// `update`: sets new limits, given as the JSON of an OCI LinuxResources object.
    pub fn update(&self, id: &str, resources: Vec<u8>) -> Invocation {
        let mut call = self.verb("update", id);
        call.arg("--resources").arg("-").arg(id);
        call.input(resources);
        call
    }

    /// `state`.
    ///
    /// # Errors
    /// [`Error::Failed`] with [`crate::Failure::NotFound`] for an unknown id, or any other [`Error`].
    pub fn state(&self, id: &str) -> Result<ContainerState, Error> {
        let mut call = self.verb("state", id);
        call.arg(id);
        decode("state", &call.run()?)
    }

    /// `list`: every container below the root.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn list(&self) -> Result<Vec<ListEntry>, Error> {
        let mut call = self.verb("list", "");
        call.arg("--format").arg("json");
        // runc prints `null` when there is none.
        Ok(decode::<Option<Vec<ListEntry>>>("list", &call.run()?)?.unwrap_or_default())
    }

    /// `ps`: the pids, in the host's pid namespace, of the container's processes.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn ps(&self, id: &str) -> Result<Vec<i32>, Error> {
        let mut call = self.verb("ps", id);
        call.arg("--format").arg("json").arg(id);
        Ok(decode::<Option<Vec<i32>>>("ps", &call.run()?)?.unwrap_or_default())
    }

    /// `events --stats`: one sample of the container's resource usage.
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn stats(&self, id: &str) -> Result<serde_json::Value, Error> {
        let mut call = self.verb("events", id);
        call.arg("--stats").arg(id);
        decode("events", &call.run()?)
    }

    /// `features` (OCI runtime specification 1.1).
    ///
    /// # Errors
    /// Any [`Error`].
    pub fn features(&self) -> Result<serde_json::Value, Error> {
        decode("features", &self.verb("features", "").run()?)
    }
}

fn flag(call: &mut Invocation, name: &str, set: bool) {
    if set {
        call.arg(name);
    }
}

fn path_flag(call: &mut Invocation, name: &str, value: Option<&Path>) {
    if let Some(path) = value {
        call.arg(name).arg(path);
    }
}

fn decode<T: DeserializeOwned>(verb: &'static str, out: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(out).map_err(|source| Error::Output { verb, source })
}
