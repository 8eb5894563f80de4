//! The parent's side: makes the first process by the plan's host steps and serves it until it is parked or has
//! become the user's program.

mod affinity;
mod error;
mod gate;
mod listener;
mod mounts;
mod namespaces;
mod net_devices;
mod program;
mod restored;
mod run;

use std::error::Error;
use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_cgroups::Cgroup;
use berth_spec::Spec;
use berth_sys::network::NewNetwork;
use berth_sys::socket;

pub use error::LaunchError;
pub use gate::{is_parked, start};
pub use restored::resolve;

use crate::plan::{self, Plan};
use crate::wire::InitStep;

/// Hooks that run in the runtime's namespaces while the container is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// `hooks.prestart`.
    Prestart,
    /// `hooks.createRuntime`.
    CreateRuntime,
}

/// What a launch asks of its caller.
pub trait Host {
    /// Runs the hooks of a point. `pid` is the first process in the caller's pid namespace.
    fn hooks(&mut self, point: HookPoint, pid: i32) -> Result<(), Box<dyn Error + Send + Sync>>;
    /// The state document (runtime.md, "State") with this status.
    fn state_document(&mut self, status: &str, pid: i32) -> Vec<u8>;
    /// What must be done before the user's program runs, but can be done while the first process sets itself up,
    /// which takes it longer. `start_time` is that of [`Launched`].
    fn beside(&mut self, _pid: i32, _start_time: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        Ok(())
    }
}

/// What a launch works with.
pub struct Context<'a> {
    /// The container's configuration.
    pub spec: &'a Spec,
    /// Where the start socket goes, for plans that park.
    pub state_dir: Option<&'a Path>,
    /// The container's cgroup.
    pub cgroup: &'a Cgroup,
    /// The network namespace, for plans that want it made beside.
    pub network: Option<NewNetwork>,
    /// A connected unix socket that gets the terminal's master (SCM_RIGHTS).
    pub console_socket: Option<OwnedFd>,
    /// The caller.
    pub host: &'a mut dyn Host,
}

/// A container whose first process waits, or a process that runs.
#[derive(Debug)]
pub struct Launched {
    /// Its id in the caller's pid namespace.
    pub pid: i32,
    /// A handle on it.
    pub pidfd: OwnedFd,
    /// Its start time in clock ticks since boot (field 22 of proc_pid_stat(5)).
    pub start_time: u64,
    /// The socket it waits on, and the steps that messages refer to; `None` once it runs or is parked.
    waiting: Option<(OwnedFd, Vec<InitStep>)>,
}

impl Launched {
    /// Lets a process that waits for this caller go, and returns once it has become the user's program. A process
    /// that runs already is only handed over.
    pub fn start(self) -> Result<(i32, OwnedFd), LaunchError> {
        if let Some((sync, steps)) = &self.waiting {
            socket::send(sync.as_fd(), &[0]).map_err(LaunchError::Ended)?;
            run::await_exec(sync.as_fd(), steps)?;
        }
        Ok((self.pid, self.pidfd))
    }
}

/// Begins with the container's network namespace, if that can be made beside what comes before [`launch`].
pub fn network_beside(spec: &Spec) -> Result<Option<NewNetwork>, LaunchError> {
    if !plan::network_beside(spec) {
        return Ok(None);
    }
    NewNetwork::begin().map_err(run::no_network)
}

/// Makes the first process and returns when it waits for its start or, for plans without a gate, runs. On failure
/// no process and no file is left.
pub fn launch<'a>(plan: &'a Plan, context: Context<'a>) -> Result<Launched, LaunchError> {
    run::Launch::new(plan, context)?.run()
}

/// Field 22 of /proc/PID/stat: the fields are counted from the closing parenthesis, as the name may hold anything.
fn start_time(pid: i32) -> io::Result<u64> {
    // The name has at most 64 bytes, and there are some 50 numbers.
    let mut buffer = [0u8; 2048];
    let length = fs::File::open(format!("/proc/{pid}/stat"))?.read(&mut buffer)?;
    let stat = String::from_utf8_lossy(&buffer[..length]);
    let after = stat.rsplit_once(')').map(|(_, after)| after).unwrap_or_default();
    after
        .split_whitespace()
        .nth(19)
        .and_then(|field| field.parse().ok())
        .ok_or_else(|| io::ErrorKind::InvalidData.into())
}
