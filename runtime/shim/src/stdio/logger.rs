//! Logging programs (`binary://`): they get the output by two pipes and outlive the container until these end.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::uri::Program;

/// How long a program may take to say that it is ready.
const READY: Duration = Duration::from_secs(10);
/// How long a program may take to write what it still has, once the streams have ended; then it is told to end.
const END: Duration = Duration::from_secs(10);
/// From there on, until it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// A program that has been started.
#[derive(Debug)]
pub struct Logger {
    pid: i32,
    ready: Option<OwnedFd>,
    deadline: Instant,
    must_greet: bool,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Ending,
    Told,
}

/// Why a program does not log.
#[derive(Debug, thiserror::Error)]
pub enum LoggerError {
    /// It ended without a word, or said nothing in time.
    #[error("the logging program did not say that it is ready: did it fail?")]
    Silent,
    /// The pipe.
    #[error("wait for the logging program")]
    Wait(#[source] io::Error),
}

impl Logger {
    /// Starts `program` with the reading ends of stdout and stderr as descriptors 3 and 4, and a pipe as 5 that it
    /// closes when it is ready. Returns the writing ends.
    ///
    /// # Errors
    /// The system's answer to making pipes or starting the program.
    pub fn start(program: &Program, id: &str, namespace: &str) -> io::Result<(Logger, [OwnedFd; 2])> {
        let (out_reader, out_writer) = io::pipe()?;
        let (err_reader, err_writer) = io::pipe()?;
        let (ready, ready_writer) = io::pipe()?;
        fcntl(&ready, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut command = Command::new(&program.path);
        command
            .args(&program.args)
            .env_clear()
            .env("CONTAINER_ID", id)
            .env("CONTAINER_NAMESPACE", namespace)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let passed = [out_reader.into(), err_reader.into(), ready_writer.into()];
        berth_sys::command::pass_descriptors(&mut command, &passed)?;
        let child = command.spawn()?;
        let logger = Logger {
            pid: child.id() as i32,
            ready: Some(ready.into()),
            deadline: Instant::now() + READY,
            must_greet: program.must_greet,
            phase: Phase::Serving,
        };
        Ok((logger, [out_writer.into(), err_writer.into()]))
    }

    /// Its process, a child of the shim.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What is to be polled until it is ready.
    pub fn ready_pipe(&self) -> Option<&OwnedFd> {
        self.ready.as_ref()
    }

    /// Whether it is ready by now.
    ///
    /// # Errors
    /// [`LoggerError`].
    pub fn check_ready(&mut self) -> Result<bool, LoggerError> {
        let Some(pipe) = &self.ready else { return Ok(true) };
        let mut byte = [0];
        match nix::unistd::read(pipe, &mut byte) {
            Ok(0) if self.must_greet => Err(LoggerError::Silent),
            Ok(_) => {
                self.ready = None;
                Ok(true)
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) if Instant::now() < self.deadline => Ok(false),
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => Err(LoggerError::Silent),
            Err(errno) => Err(LoggerError::Wait(errno.into())),
        }
    }

    /// When [`Logger::check_ready`] or [`Logger::press`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        (self.ready.is_some() || self.phase != Phase::Serving).then_some(self.deadline)
    }

    /// Its streams have ended: from now on its time is counted.
    pub fn streams_ended(&mut self) {
        self.ready = None;
        self.phase = Phase::Ending;
        self.deadline = Instant::now() + END;
    }

    /// Ends it, politely first, if its time is over.
    pub fn press(&mut self, now: Instant) {
        if now < self.deadline {
            return;
        }
        let signal = if self.phase == Phase::Ending {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        };
        self.phase = Phase::Told;
        self.deadline = now + GRACE;
        self.signal(signal);
    }

    /// Kills it.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        // Our unreaped child: the pid cannot have been reused. One that has ended takes no harm.
        let _ = kill(Pid::from_raw(self.pid), signal);
    }
}
