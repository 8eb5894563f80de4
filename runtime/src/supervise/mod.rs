//! Standing by a process in the foreground, for `run` and `exec`: signals go to the process, orphans are reaped, the
//! terminal is passed through, and the exit status becomes ours. One loop around poll(2), no threads.
//!
//! All signals are blocked before anything is started and read from a signalfd(2), so that none is lost between the
//! start of the process and the loop.

mod relay;
mod terminal;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use thiserror::Error;

use crate::log;
use crate::notify::Proxy;
use relay::Relay;
use terminal::Terminal;

/// Why a process could not be stood by.
#[derive(Debug, Error)]
pub enum SuperviseError {
    /// A system call that always works on a sane host did not.
    #[error("{attempted}")]
    System {
        /// What was attempted.
        attempted: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `process.terminal` is true and there is no terminal to pass through.
    #[error(
        "open /dev/tty: process.terminal is true but berth has no terminal: run it in one, set process.terminal to false, or use --detach with --console-socket"
    )]
    NoTerminal {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The init closed its end without sending the terminal.
    #[error("the container's init did not send its terminal")]
    NoConsole,
    /// The process is not a child of ours any more.
    #[error("process {pid} ended without telling its exit status")]
    Lost {
        /// The process.
        pid: i32,
    },
}

pub(crate) fn system(attempted: &'static str) -> impl Fn(Errno) -> SuperviseError {
    move |errno| SuperviseError::System {
        attempted,
        source: errno.into(),
    }
}

/// What a foreground verb holds from before the start of its process to its end.
#[derive(Debug)]
pub struct Foreground {
    signals: SignalFd,
    terminal: Option<Terminal>,
    relays: Vec<Relay>,
    /// What the container says to a service manager, until it is ready.
    notify: Option<Proxy>,
    /// The read or write ends that only the process should keep.
    handed_over: bool,
}

impl Foreground {
    /// Makes everything ready for the start of a process: signals are blocked, this process becomes the reaper of
    /// orphans if asked, and standard input and output that are terminals are replaced by pipes, since a process
    /// without `terminal` must not get hold of the user's.
    pub fn prepare(terminal: bool, subreaper: bool) -> Result<Self, SuperviseError> {
        let all = SigSet::all();
        all.thread_block().map_err(system("block signals"))?;
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(system("open a signalfd"))?;
        if subreaper && let Err(errno) = prctl::set_child_subreaper(true) {
            log::warn(&format!("set subreaper: {}", errno.desc()));
        }
        let (terminal, relays) = if terminal {
            (Some(Terminal::prepare()?), Vec::new())
        } else {
            (None, relay::replace_terminals()?)
        };
        Ok(Self {
            signals,
            terminal,
            relays,
            notify: None,
            handed_over: false,
        })
    }

    /// The socket on which the init is to send its terminal, if it gets one.
    pub fn console_socket(&mut self) -> Option<OwnedFd> {
        self.terminal.as_mut().and_then(Terminal::take_socket)
    }

    /// Called once the process has been created: takes its terminal, gives up what only it should hold.
    pub fn created(&mut self) -> Result<(), SuperviseError> {
        if self.handed_over {
            return Ok(());
        }
        self.handed_over = true;
        match &mut self.terminal {
            Some(terminal) => self.relays = terminal.connect()?,
            None => relay::restore_terminals(&self.relays)?,
        }
        Ok(())
    }

    /// Passes on that the container is ready.
    pub fn notify(&mut self, proxy: Proxy) {
        self.notify = Some(proxy);
    }

    /// Waits for the end of the process and returns its exit code, 128 plus the signal if one ended it.
    pub fn wait(mut self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<i32, SuperviseError> {
        // The process may have ended, and its SIGCHLD been merged with another's, before this loop.
        let mut ended = reap(pid)?;
        while ended.is_none() {
            let ready = self.poll()?;
            for relay in &mut self.relays {
                relay.pump();
            }
            // The manager goes on watching this process, which stays.
            if self
                .notify
                .as_ref()
                .is_some_and(|proxy| proxy.pump(std::process::id() as i32))
            {
                self.notify = None;
            }
            if ready {
                ended = self.handle_signals(pid, pidfd)?;
            }
        }
        for relay in &mut self.relays {
            relay.drain();
        }
        ended.ok_or(SuperviseError::Lost { pid })
    }

    /// Waits for something to do; true when there are signals.
    fn poll(&self) -> Result<bool, SuperviseError> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.relays.iter().filter_map(Relay::interest));
        let notify = self.notify.as_ref();
        fds.extend(notify.map(|proxy| PollFd::new(proxy.fd(), PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(fds[0].any().unwrap_or(true)),
            Err(errno) => Err(system("poll")(errno)),
        }
    }

    fn handle_signals(&self, pid: i32, pidfd: BorrowedFd<'_>) -> Result<Option<i32>, SuperviseError> {
        let mut ended = None;
        while let Some(signal) = self.signals.read_signal().map_err(system("read a signal"))? {
            match signal.ssi_signo as i32 {
                libc::SIGCHLD => ended = ended.or(reap(pid)?),
                libc::SIGWINCH => {
                    if let Some(terminal) = &self.terminal {
                        terminal.resize();
                    }
                }
                number => {
                    log::debug(&format!("forwarding signal {number} to {pid}"));
                    // It may have exited: its SIGCHLD comes next.
                    if let Err(error) = berth_sys::pidfd::send_signal(pidfd, number) {
                        log::debug(&format!("forwarding signal {number} to {pid}: {error}"));
                    }
                }
            }
        }
        Ok(ended)
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // After a failed start our standard error must be the user's again, or the message is lost.
        if !self.handed_over && self.terminal.is_none() {
            let _ = relay::restore_terminals(&self.relays);
        }
    }
}

/// Reaps every child that has ended; the exit code if `pid` was among them.
fn reap(pid: i32) -> Result<Option<i32>, SuperviseError> {
    let mut ended = None;
    loop {
        let (child, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(child, code)) => (child, code),
            Ok(WaitStatus::Signaled(child, signal, _)) => (child, 128 + signal as i32),
            Ok(WaitStatus::StillAlive) => return Ok(ended),
            // No children left: it is lost unless its status was among those just reaped.
            Err(Errno::ECHILD) => return ended.map(Some).ok_or(SuperviseError::Lost { pid }),
            Err(Errno::EINTR) | Ok(_) => continue,
            Err(errno) => return Err(system("wait for children")(errno)),
        };
        log::debug(&format!("process {child} exited with status {code}"));
        if child == Pid::from_raw(pid) {
            ended = Some(code);
        }
    }
}
