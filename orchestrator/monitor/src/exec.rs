//! A program run inside a container, with limited time and output: exec probes and hooks.
//!
//! The runtime's `exec --detach` hands its stdio to the program and exits; as we are the subreaper, the
//! program is our child then.

use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use berth_client::protocol::{Exec, ExecResult};
use berth_client::{ExecOptions, Pending, Runtime};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::container::pipe;

/// Whom to answer.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// [`crate::peer::Peer::serial`].
    pub peer: u64,
    /// Id of the request.
    pub request: u64,
}

/// A run that is not over.
#[derive(Debug)]
pub struct Run {
    /// Whom to answer.
    pub asker: Asker,
    /// When the program is killed; None when it has been.
    pub deadline: Option<Instant>,
    /// The runtime, until it has started the program.
    pub launcher: Option<Pending>,
    /// The program, from then on.
    pub pid: Option<i32>,
    pipes: [Option<PipeReader>; 2],
    output: Vec<u8>,
    limit: usize,
    truncated: bool,
    process_file: PathBuf,
    pid_file: PathBuf,
}

/// Why a run could not begin.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The pod's folder or the pipes.
    #[error("prepare a program in container {container}")]
    Prepare {
        /// The container.
        container: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The runtime.
    #[error(transparent)]
    Runtime(#[from] berth_client::Error),
}

impl Run {
    /// Starts the runtime. `number` makes the file names unique.
    ///
    /// # Errors
    /// Any [`RunError`].
    pub fn start(
        runtime: &Runtime,
        dir: &Path,
        number: u64,
        asker: Asker,
        exec: &Exec,
    ) -> Result<Run, RunError> {
        let prepare = |source| RunError::Prepare {
            container: exec.container.clone(),
            source,
        };
        let process_file = dir.join(format!("exec-{number}.json"));
        let pid_file = dir.join(format!("exec-{number}.pid"));
        let text = serde_json::to_vec(&exec.process).map_err(|e| prepare(e.into()))?;
        std::fs::write(&process_file, text).map_err(prepare)?;
        let (out, out_writer) = pipe().map_err(prepare)?;
        let (err, err_writer) = pipe().map_err(prepare)?;
        let options = ExecOptions {
            pid_file: Some(&pid_file),
            detach: true,
            ..ExecOptions::default()
        };
        let launcher = runtime
            .exec(&exec.container, &process_file, &options)
            .stdio(Stdio::null(), Stdio::from(out_writer), Stdio::from(err_writer))
            .spawn();
        let mut run = Run {
            asker,
            deadline: Some(Instant::now() + Duration::from_millis(exec.timeout_ms)),
            launcher: None,
            pid: None,
            pipes: [Some(out), Some(err)],
            output: Vec::new(),
            limit: exec.output_limit,
            truncated: false,
            process_file,
            pid_file,
        };
        // On failure the drop of `run` removes its files.
        run.launcher = Some(launcher?);
        Ok(run)
    }

    /// The runtime has ended: reads the program's pid, if there is one, and removes the files.
    pub fn launched(&mut self) -> Option<i32> {
        self.pid = read_pid(&self.pid_file);
        self.remove_files();
        self.pid
    }

    fn remove_files(&self) {
        for file in [&self.process_file, &self.pid_file] {
            let _ = std::fs::remove_file(file);
        }
    }

    /// The pipes that are open, with their numbers for [`Run::read`].
    pub fn pipes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.pipes
            .iter()
            .enumerate()
            .filter_map(|(n, pipe)| Some((n, pipe.as_ref()?.as_fd())))
    }

    /// Reads one pipe until it is empty; what is beyond the limit is dropped.
    pub fn read(&mut self, number: usize, buffer: &mut [u8]) {
        for _ in 0..64 {
            let Some(pipe) = self.pipes.get_mut(number).and_then(Option::as_mut) else {
                return;
            };
            match pipe.read(buffer) {
                Ok(0) => self.pipes[number] = None,
                Ok(length) => {
                    let room = self.limit.saturating_sub(self.output.len()).min(length);
                    self.output.extend_from_slice(&buffer[..room]);
                    self.truncated |= room < length;
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.pipes[number] = None,
            }
        }
    }

    /// Kills the program when its time is over.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            let target = self.pid.or(self.launcher.as_ref().map(Pending::pid));
            if let Some(pid) = target {
                if self.pid.is_some() {
                    // The runtime has made the program a session leader: its own children go with it.
                    let _ = kill(Pid::from_raw(-pid), Signal::SIGKILL);
                }
                // Both are our unreaped children: the pid cannot have been reused.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
    }

    /// The answer, after the program's end.
    pub fn result(&mut self, exit_code: i32, buffer: &mut [u8]) -> ExecResult {
        for number in 0..self.pipes.len() {
            self.read(number, buffer);
        }
        ExecResult {
            exit_code,
            timed_out: self.deadline.is_none(),
            output: String::from_utf8_lossy(&self.output).into_owned(),
            truncated: self.truncated,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.remove_files();
    }
}

/// The number in a pid file.
pub fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
