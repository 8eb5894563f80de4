//! One process that the shim holds: the container's first, or one that was added by Exec.

use std::path::{Path, PathBuf};
use std::time::Instant;

use containerd_shim_protos::api::Status;
use containerd_shim_protos::protobuf::well_known_types::timestamp::Timestamp;

use crate::stdio::{Inner, Io, Names};
use crate::task::Asker;

/// Where the runtime writes the first process' id, in the bundle.
pub const PID_FILE: &str = "init.pid";

/// How far a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Asked for; nothing runs.
    Added,
    /// The logging program is getting ready, or the runtime is at work.
    Launching,
    /// The first process waits for Start.
    Created,
    /// The runtime's `start` is at work.
    Starting,
    /// It runs.
    Running,
    /// It has ended, or was never able to run.
    Stopped,
}

impl Phase {
    /// For messages.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Added => "not started",
            Phase::Launching => "being created",
            Phase::Created => "created",
            Phase::Starting => "being started",
            Phase::Running => "running",
            Phase::Stopped => "stopped",
        }
    }

    /// As containerd knows it.
    pub fn status(self) -> Status {
        match self {
            Phase::Added | Phase::Launching | Phase::Created | Phase::Starting => Status::CREATED,
            Phase::Running => Status::RUNNING,
            Phase::Stopped => Status::STOPPED,
        }
    }
}

/// How and when a process ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Exit {
    /// Exit code; 128 + signal when it was killed.
    pub status: u32,
    /// When it was reaped.
    pub at: Timestamp,
}

/// A Delete that waits for the output to be taken.
#[derive(Debug)]
pub struct Deleting {
    /// Whom to answer.
    pub asker: Asker,
    /// When the output is given up.
    pub deadline: Instant,
    /// The runtime's `delete` is at work.
    pub running: bool,
}

/// A process.
#[derive(Debug)]
pub struct Process {
    /// The exec's id; `None` for the container's first process.
    pub exec: Option<String>,
    /// Its id in the host's pid namespace; 0 before it has one.
    pub pid: i32,
    /// How far it is.
    pub phase: Phase,
    /// Names of its streams.
    pub names: Names,
    /// Its open streams.
    pub io: Io,
    /// How it ended.
    pub exit: Option<Exit>,
    /// An end that is not told yet: its start has not been told, or others must end before.
    pub held: Option<Exit>,
    /// Callers of Wait.
    pub waiters: Vec<Asker>,
    /// Whom to answer when the launch is over.
    pub launching: Option<Asker>,
    /// A Delete under way.
    pub deleting: Option<Deleting>,
    /// The OCI process object of an exec.
    pub spec: Option<PathBuf>,
    /// The container's ends of the streams (none with a terminal) while the logging program gets ready.
    pub ends: Option<Inner>,
}

impl Process {
    /// A process that nothing was done for.
    pub fn new(exec: Option<String>, names: Names) -> Process {
        Process {
            exec,
            pid: 0,
            phase: Phase::Added,
            names,
            io: Io::default(),
            exit: None,
            held: None,
            waiters: Vec::new(),
            launching: None,
            deleting: None,
            spec: None,
            ends: None,
        }
    }

    /// Whether it may still end: it is there, or about to be.
    pub fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Added | Phase::Stopped)
    }
}

/// Where the runtime writes the id of a process: of an exec, or of the first one.
pub fn pid_file(bundle: &Path, exec: Option<&str>) -> PathBuf {
    match exec {
        None => bundle.join(PID_FILE),
        Some(id) => bundle.join(format!("exec-{id}.pid")),
    }
}

/// The process id in a file that the runtime wrote.
pub fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path)
        .ok()?
        .trim()
        .parse()
        .ok()
        .filter(|pid| *pid > 0)
}
