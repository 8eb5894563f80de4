//! An existing container: its record together with its live init process and cgroup.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use berth_cgroups::systemd::Unit;
use berth_cgroups::{Cgroup, CgroupError, State as Freezer};
use berth_spec::Spec;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use thiserror::Error;

use crate::bundle::{self, ParseError};
use crate::error::Error;
use crate::hooks::{self, HookError, HookState};
use crate::host_mounts;
use crate::log;
use crate::process::{self, ProcessState};
use crate::state::{self, ContainerId, LockedDir, Record, StateRoot, Status};

/// How long a killed init may take to be gone.
const KILL_WAIT: Duration = Duration::from_secs(10);

/// Why something could not be done to an existing container. Texts that engines match are runc's.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// A signal for a container whose init is gone.
    #[error("container not running")]
    NotRunning,
    /// The kernel refused the signal.
    #[error("unable to signal init")]
    Signal {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `kill --all` could not reach the container's processes.
    #[error("unable to kill all processes")]
    SignalAll {
        /// The reason.
        #[source]
        source: CgroupError,
    },
    /// `events` of a container whose init is gone.
    #[error("container with id {id} is not running")]
    Stopped {
        /// The container.
        id: String,
    },
    /// The cgroup's counters could not be read.
    #[error("unable to get container cgroup stats")]
    Stats {
        /// The reason.
        #[source]
        source: CgroupError,
    },
    /// Waiting for events failed.
    #[error("wait for events of the container's cgroup")]
    Watch {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The container's processes could not be listed.
    #[error("unable to get all container pids")]
    Pids {
        /// The reason.
        #[source]
        source: CgroupError,
    },
    /// `delete` of a container that is alive.
    #[error("cannot delete container {id} that is not stopped: {status}")]
    NotStopped {
        /// The container.
        id: String,
        /// Its status.
        status: Status,
    },
    /// `start` of a container that is not waiting for it.
    #[error("{}", not_startable(*status))]
    NotCreated {
        /// Its status.
        status: Status,
    },
    /// `exec` in a container that cannot take a process.
    #[error("{}", not_executable(*status))]
    NotExecutable {
        /// Its status.
        status: Status,
    },
    /// SIGKILL was sent and did not end the init.
    #[error("container init still running {} s after SIGKILL: it may hang in the kernel (see its wchan in /proc)", KILL_WAIT.as_secs())]
    Unkillable,
    /// The cgroup could not be asked for its state.
    #[error("unable to get cgroup freezer state")]
    FreezerState {
        /// The reason.
        #[source]
        source: CgroupError,
    },
    /// `resume` of a container that is not paused.
    #[error("container not paused")]
    NotPaused,
    /// The cgroup could not be frozen.
    #[error("unable to freeze the container's cgroup")]
    Freeze {
        /// The reason.
        #[source]
        source: CgroupError,
    },
    /// The cgroup could not be thawed.
    #[error("unable to thaw the container's cgroup")]
    Thaw {
        /// The reason.
        #[source]
        source: CgroupError,
    },
    /// What a container without a mount namespace has mounted could not be taken away.
    #[error("unmount what the container has mounted below {}", root.display())]
    Mounts {
        /// Its root directory.
        root: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The cgroup could not be removed.
    #[error("unable to remove container's cgroup")]
    RemoveCgroup {
        /// The reason.
        #[source]
        source: CgroupError,
    },
    /// The stored configuration cannot be read.
    #[error("{}: cannot be read", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The stored configuration cannot be parsed.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// A poststart hook failed: the container was killed.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// /proc could not be read.
    #[error("process {pid}: its state cannot be read from /proc")]
    Process {
        /// The init's id.
        pid: i32,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

fn not_startable(status: Status) -> String {
    match status {
        Status::Stopped => "cannot start a container that has stopped".to_owned(),
        Status::Running => "cannot start an already running container".to_owned(),
        other => format!("cannot start a container in the {other} state"),
    }
}

fn not_executable(status: Status) -> String {
    match status {
        Status::Paused => "cannot exec in a paused container (use --ignore-paused to override)".to_owned(),
        other => format!("cannot exec in a {other} container"),
    }
}

/// A container with a record.
#[derive(Debug)]
pub struct Container {
    /// What is stored about it.
    pub record: Record,
    /// Its directory under the state root.
    pub dir: PathBuf,
}

impl Container {
    /// Reads the record of a container.
    pub fn load(root: &StateRoot, id: &ContainerId) -> Result<Self, Error> {
        Ok(Self {
            record: root.load(id)?,
            dir: root.dir_of(id),
        })
    }

    /// The configuration the container was created from.
    pub fn spec(&self) -> Result<Spec, ContainerError> {
        let path = self.dir.join(state::CONFIG_FILE);
        let text = berth_sys::files::read_file(&path).map_err(|source| ContainerError::Config {
            path: path.clone(),
            source,
        })?;
        Ok(bundle::parse_spec(&path, &text)?.0)
    }

    /// Its cgroup, in every hierarchy.
    pub fn cgroup(&self) -> Cgroup {
        Cgroup::from_paths(&self.record.cgroup_paths).with_unit(self.unit())
    }

    /// The unit of its cgroup, if systemd made that.
    pub fn unit(&self) -> Option<Unit> {
        self.record.systemd.as_ref().map(Unit::from)
    }

    /// A handle on the live init, or `None` when it has exited. The start time makes sure that it is the init, and
    /// the handle that it stays so.
    pub fn init(&self) -> Result<Option<OwnedFd>, ContainerError> {
        let Record { pid, start_time, .. } = self.record;
        let fail = |source| ContainerError::Process { pid, source };
        let pidfd = match berth_sys::pidfd::open(pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
            // EINVAL: the id is now that of a thread, so not of the init.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            Err(source) => return Err(fail(source)),
        };
        let live = process::stat(pid)
            .map_err(fail)?
            .filter(|now| now.start_time == start_time);
        Ok(match live {
            Some(now) if now.state != ProcessState::Dead => Some(pidfd),
            _ => None,
        })
    }

    /// What the container is doing now. Costs a look at one process, one file and one cgroup.
    pub fn status(&self) -> Result<Status, ContainerError> {
        if self.init()?.is_none() {
            return Ok(Status::Stopped);
        }
        // A container may be paused before it was started.
        if self.frozen()? {
            return Ok(Status::Paused);
        }
        if self.dir.join(state::GATE).exists() {
            return Ok(Status::Created);
        }
        Ok(Status::Running)
    }

    fn frozen(&self) -> Result<bool, ContainerError> {
        let state = self
            .cgroup()
            .state()
            .map_err(|source| ContainerError::FreezerState { source })?;
        Ok(state == Freezer::Frozen)
    }

    /// Sends a signal to the init; SIGKILL ends all processes, also without a pid namespace of their own.
    pub fn signal(&self, signal: i32) -> Result<(), ContainerError> {
        if signal == libc::SIGKILL && !self.record.private_pid_namespace {
            return self.signal_all(signal);
        }
        let init = self.init()?.ok_or(ContainerError::NotRunning)?;
        berth_sys::pidfd::send_signal(init.as_fd(), signal).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::ESRCH) => ContainerError::NotRunning,
                _ => ContainerError::Signal { source },
            }
        })?;
        // A frozen process of a v1 cgroup only dies when thawed.
        if signal == libc::SIGKILL && self.frozen()? {
            self.cgroup()
                .thaw()
                .map_err(|source| ContainerError::Thaw { source })?;
        }
        Ok(())
    }

    /// Sends a signal to every process of the container's cgroup. A process that leaves meanwhile is not signalled,
    /// nor one that gets its id.
    pub fn signal_all(&self, signal: i32) -> Result<(), ContainerError> {
        let fail = |source| ContainerError::SignalAll { source };
        let cgroup = self.cgroup();
        if cgroup.is_none() {
            // A rootless container without a cgroup: its other processes, if it shares a pid namespace, are nowhere listed.
            let init = self.init()?.ok_or(ContainerError::NotRunning)?;
            return berth_sys::pidfd::send_signal(init.as_fd(), signal)
                .map_err(|source| ContainerError::Signal { source });
        }
        if signal == libc::SIGKILL {
            if cgroup.pids().map_err(fail)?.is_empty() {
                return Err(ContainerError::NotRunning);
            }
            return cgroup.kill().map_err(fail);
        }
        let members = cgroup.pids().map_err(fail)?;
        let handles: Vec<(u32, OwnedFd)> = members
            .into_iter()
            .filter_map(|pid| Some((pid, berth_sys::pidfd::open(pid as i32).ok()?)))
            .collect();
        // A handle opened on a member's id belongs to a member only if the id is still one's.
        let still = cgroup.pids().map_err(fail)?;
        if still.is_empty() {
            return Err(ContainerError::NotRunning);
        }
        for (pid, handle) in handles.iter().filter(|(pid, _)| still.contains(pid)) {
            match berth_sys::pidfd::send_signal(handle.as_fd(), signal) {
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                    log::debug(&format!("process {pid} has exited"));
                }
                Err(source) => return Err(ContainerError::Signal { source }),
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Stops all processes until [`Container::resume`].
    pub fn pause(&self) -> Result<(), ContainerError> {
        match self.status()? {
            Status::Running | Status::Created => self
                .cgroup()
                .freeze()
                .map_err(|source| ContainerError::Freeze { source }),
            _ => Err(ContainerError::NotRunning),
        }
    }

    /// Lets the processes go on.
    pub fn resume(&self) -> Result<(), ContainerError> {
        match self.status()? {
            Status::Paused => self
                .cgroup()
                .thaw()
                .map_err(|source| ContainerError::Thaw { source }),
            _ => Err(ContainerError::NotPaused),
        }
    }

    /// Ends the init and waits until it is gone. Nothing to do is success.
    pub fn kill_and_wait(&self) -> Result<(), ContainerError> {
        let Some(init) = self.init()? else { return Ok(()) };
        match self.signal(libc::SIGKILL) {
            Ok(()) | Err(ContainerError::NotRunning) => {}
            Err(error) => return Err(error),
        }
        let wait = PollTimeout::try_from(KILL_WAIT).unwrap_or(PollTimeout::MAX);
        loop {
            match poll(&mut [PollFd::new(init.as_fd(), PollFlags::POLLIN)], wait) {
                Err(Errno::EINTR) => {}
                Ok(0) => return Err(ContainerError::Unkillable),
                Ok(_) => return Ok(()),
                Err(errno) => {
                    return Err(ContainerError::Process {
                        pid: self.record.pid,
                        source: errno.into(),
                    });
                }
            }
        }
    }

    /// Removes everything a container without init still holds, then runs the poststop hooks.
    pub fn destroy(&self, lock: LockedDir) -> Result<(), Error> {
        let cgroup = self.cgroup();
        if !self.record.private_pid_namespace {
            // Processes may outlive the init; what cannot be killed is reported by the removal below.
            if let Err(error) = cgroup.kill() {
                log::debug(&format!("unable to kill all processes: {error}"));
            }
        }
        cgroup
            .delete()
            .map_err(|source| ContainerError::RemoveCgroup { source })?;
        if let Some(group) = &self.record.intel_rdt {
            group.delete()?;
        }
        if let Some(before) = &self.record.mounted_before {
            let root = &self.record.rootfs;
            host_mounts::detach(root, before).map_err(|source| ContainerError::Mounts {
                root: root.clone(),
                source,
            })?;
        }
        lock.remove()?;
        let list = &self.record.hooks.poststop;
        for error in hooks::run_all("poststop", list, &self.hook_state(Status::Stopped)) {
            log::warn(&crate::error::chain(&error));
        }
        Ok(())
    }

    /// The state document for hooks.
    pub(crate) fn hook_state(&self, status: Status) -> HookState<'_> {
        let record = &self.record;
        HookState {
            oci_version: &record.oci_version,
            id: &record.id,
            status,
            pid: if status == Status::Stopped { 0 } else { record.pid },
            bundle: &record.bundle,
            annotations: &record.annotations,
        }
    }
}
