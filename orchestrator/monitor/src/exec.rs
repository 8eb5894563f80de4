//! A program run inside a container: with limited time and output (exec probes and hooks), or with its streams in
//! the hands of the caller.
//!
//! The runtime's `exec --detach` hands its stdio to the program and exits; as we are the subreaper, the
//! program is our child then.

use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use berth_client::protocol::{Exec, ExecResult, Open, Streams};
use berth_client::{ExecOptions, Pending, Runtime};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::console::Console;
use crate::container::{own, pipe};

/// How long a program may go on after its caller is gone and it was hung up.
const AFTER_HANGUP: Duration = Duration::from_secs(10);

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
    /// When the program is killed, if it ever is.
    pub deadline: Option<Instant>,
    /// It was killed because its time was over.
    pub expired: bool,
    /// The runtime, until it has started the program.
    pub launcher: Option<Pending>,
    /// The program, from then on.
    pub pid: Option<i32>,
    /// Where its output goes.
    pub io: Io,
    process_file: PathBuf,
    pid_file: PathBuf,
}

/// Where a program's output goes.
#[derive(Debug)]
pub enum Io {
    /// Into memory.
    Captured(Captured),
    /// To the caller, whose ends are here until the program has started.
    Handed {
        /// Which there are.
        streams: Streams,
        /// In the order of [`Streams`].
        ends: Vec<OwnedFd>,
        /// Where the runtime sends the terminal.
        console: Option<Console>,
    },
}

/// Output that is kept for the answer.
#[derive(Debug)]
pub struct Captured {
    pipes: [Option<PipeReader>; 2],
    output: Vec<u8>,
    limit: usize,
    truncated: bool,
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
    /// Starts the runtime for a program whose output is kept. `number` makes the file names unique; `owner` is
    /// whom its pipes belong to.
    ///
    /// # Errors
    /// Any [`RunError`].
    pub fn start(
        runtime: &Runtime,
        dir: &Path,
        number: u64,
        asker: Asker,
        exec: &Exec,
        owner: Option<(u32, u32)>,
    ) -> Result<Run, RunError> {
        let prepare = |source| prepare(&exec.container, source);
        let (out, out_writer) = pipe().map_err(prepare)?;
        let (err, err_writer) = pipe().map_err(prepare)?;
        own(&[&out_writer, &err_writer], owner).map_err(prepare)?;
        let io = Io::Captured(Captured {
            pipes: [Some(out), Some(err)],
            output: Vec::new(),
            limit: exec.output_limit,
            truncated: false,
        });
        let mut run = Run::new(dir, number, asker, &exec.process, io).map_err(prepare)?;
        run.deadline = Some(Instant::now() + Duration::from_millis(exec.timeout_ms));
        let stdio = [Stdio::null(), Stdio::from(out_writer), Stdio::from(err_writer)];
        run.launch(runtime, &exec.container, stdio)?;
        Ok(run)
    }

    /// Starts the runtime for a program whose streams the caller gets.
    ///
    /// # Errors
    /// Any [`RunError`].
    pub fn open(
        runtime: &Runtime,
        dir: &Path,
        number: u64,
        asker: Asker,
        open: &Open,
        owner: Option<(u32, u32)>,
    ) -> Result<Run, RunError> {
        let prepare = |source| prepare(&open.container, source);
        let mut streams = open.wanted;
        streams.terminal = open.process.get("terminal").is_some_and(|t| t == true);
        let mut stdio = [Stdio::null(), Stdio::null(), Stdio::null()];
        let (mut ends, mut console) = (Vec::new(), None);
        if streams.terminal {
            streams.stderr = false;
            console = Some(Console::listen(dir, number).map_err(prepare)?);
        } else {
            if streams.stdin {
                let (reader, writer) = std::io::pipe().map_err(prepare)?;
                own(&[&reader], owner).map_err(prepare)?;
                stdio[0] = Stdio::from(reader);
                ends.push(OwnedFd::from(writer));
            }
            for (wanted, place) in [(streams.stdout, 1), (streams.stderr, 2)] {
                if wanted {
                    let (reader, writer) = pipe().map_err(prepare)?;
                    own(&[&writer], owner).map_err(prepare)?;
                    stdio[place] = Stdio::from(writer);
                    ends.push(OwnedFd::from(reader));
                }
            }
        }
        let io = Io::Handed {
            streams,
            ends,
            console,
        };
        let mut run = Run::new(dir, number, asker, &open.process, io).map_err(prepare)?;
        run.launch(runtime, &open.container, stdio)?;
        Ok(run)
    }

    fn new(
        dir: &Path,
        number: u64,
        asker: Asker,
        process: &serde_json::Value,
        io: Io,
    ) -> std::io::Result<Run> {
        let process_file = dir.join(format!("exec-{number}.json"));
        let pid_file = dir.join(format!("exec-{number}.pid"));
        // On failure the drop of the run removes its files.
        let run = Run {
            asker,
            deadline: None,
            expired: false,
            launcher: None,
            pid: None,
            io,
            process_file,
            pid_file,
        };
        std::fs::write(&run.process_file, serde_json::to_vec(process)?)?;
        Ok(run)
    }

    fn launch(&mut self, runtime: &Runtime, container: &str, stdio: [Stdio; 3]) -> Result<(), RunError> {
        let console = match &self.io {
            Io::Handed { console, .. } => console.as_ref().map(Console::path),
            Io::Captured(_) => None,
        };
        let options = ExecOptions {
            pid_file: Some(&self.pid_file),
            console_socket: console,
            detach: true,
        };
        let [stdin, stdout, stderr] = stdio;
        let call = runtime.exec(container, &self.process_file, &options);
        self.launcher = Some(call.stdio(stdin, stdout, stderr).spawn()?);
        Ok(())
    }

    /// The runtime has ended: reads the program's pid, if there is one, and removes the files.
    pub fn launched(&mut self) -> Option<i32> {
        self.pid = read_pid(&self.pid_file);
        self.remove_files();
        self.pid
    }

    /// The caller's ends, once; with a terminal its master side, for input and for output. None if the runtime has
    /// sent no terminal.
    pub fn take_ends(&mut self) -> Option<(Streams, Vec<OwnedFd>)> {
        let Io::Handed {
            streams,
            ends,
            console,
        } = &mut self.io
        else {
            return None;
        };
        if let Some(console) = console.take() {
            let master = console.receive()?;
            if streams.stdin {
                ends.push(master.try_clone().ok()?);
            }
            // Held even by a caller who wants no output: the terminal would hang up without.
            streams.stdout = true;
            ends.push(master);
        }
        Some((*streams, std::mem::take(ends)))
    }

    fn remove_files(&self) {
        for file in [&self.process_file, &self.pid_file] {
            let _ = std::fs::remove_file(file);
        }
    }

    /// The pipes that are open, with their numbers for [`Run::read`].
    pub fn pipes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let pipes = match &self.io {
            Io::Captured(captured) => captured.pipes.as_slice(),
            Io::Handed { .. } => &[],
        };
        pipes
            .iter()
            .enumerate()
            .filter_map(|(n, pipe)| Some((n, pipe.as_ref()?.as_fd())))
    }

    /// Reads one pipe until it is empty.
    pub fn read(&mut self, number: usize, buffer: &mut [u8]) {
        if let Io::Captured(captured) = &mut self.io {
            captured.read(number, buffer);
        }
    }

    /// The caller is gone: the program is told, and killed a little later.
    pub fn hang_up(&mut self) {
        if self.deadline.is_none() && !self.expired {
            self.deadline = Some(Instant::now() + AFTER_HANGUP);
            self.signal(Signal::SIGHUP);
        }
    }

    /// Kills the program when its time is over.
    pub fn expire(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.expired = true;
            self.signal(Signal::SIGKILL);
        }
    }

    /// Sends a signal to the program's session, or to the runtime that is about to start it.
    fn signal(&self, signal: Signal) {
        let target = self.pid.or(self.launcher.as_ref().map(Pending::pid));
        if let Some(pid) = target {
            if self.pid.is_some() {
                // The runtime has made the program a session leader: its own children go with it.
                let _ = kill(Pid::from_raw(-pid), signal);
            }
            // Both are our unreaped children: the pid cannot have been reused.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// The answer of a run whose output was kept, after the program's end.
    pub fn result(&mut self, exit_code: i32, buffer: &mut [u8]) -> ExecResult {
        let (mut output, mut truncated) = (String::new(), false);
        if let Io::Captured(captured) = &mut self.io {
            for number in 0..captured.pipes.len() {
                captured.read(number, buffer);
            }
            output = String::from_utf8_lossy(&captured.output).into_owned();
            truncated = captured.truncated;
        }
        ExecResult {
            exit_code,
            timed_out: self.expired,
            output,
            truncated,
        }
    }
}

impl Captured {
    /// Reads one pipe until it is empty; what is beyond the limit is dropped.
    fn read(&mut self, number: usize, buffer: &mut [u8]) {
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
}

fn prepare(container: &str, source: std::io::Error) -> RunError {
    RunError::Prepare {
        container: container.to_owned(),
        source,
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
