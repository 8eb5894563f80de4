//! The serving process: one thread, one poll loop.

mod peer;
pub mod wire;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use crate::args::Args;
use crate::container::Container;
use crate::log::{self, warning};
use crate::process::Phase;
use crate::publish::Publisher;
use crate::start::TTRPC_ADDRESS;
use crate::task::{Asker, Shim};
use peer::Peer;

/// Connections that are served at once; the oldest gives way.
const MAX_PEERS: usize = 16;
/// How long nothing may happen before memory is given back.
const SETTLE: Duration = Duration::from_millis(100);

/// Why the shim does not serve (any more).
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Preparation.
    #[error("{0}")]
    Prepare(&'static str, #[source] io::Error),
    /// poll(2).
    #[error("wait for events")]
    Poll(#[from] nix::Error),
}

/// Where a descriptor of the poll set belongs.
#[derive(Debug, Clone)]
enum Token {
    Signals,
    Listener,
    Peer(usize),
    Publisher,
    Stream {
        container: usize,
        /// `None` for the first process.
        exec: Option<usize>,
        number: usize,
    },
    Oom(usize),
}

struct Server {
    listener: UnixListener,
    signals: OwnedFd,
    peers: Vec<Peer>,
    serial: u64,
    shim: Shim,
}

/// Becomes a daemon and serves until the last container is deleted and Shutdown is called. The socket is standard
/// input.
///
/// # Errors
/// [`ServeError`].
pub fn serve(args: Args) -> Result<(), ServeError> {
    let prepare = |what| move |error: io::Error| ServeError::Prepare(what, error);
    log::open();
    // The first container's bundle goes with that container; the pod's others must not be run from a folder that is gone.
    std::env::set_current_dir("/").map_err(prepare("go to /"))?;
    // start has made it the leader of a process group, so it cannot start a session: without one it only lacks a
    // terminal of its own, which containerd has none to give.
    berth_sys::process::become_subreaper().map_err(prepare("become the reaper of containers"))?;
    let children = [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    let signals = berth_sys::signal::wake_on(&children).map_err(prepare("handle signals"))?;
    let listener = io::stdin().as_fd().try_clone_to_owned();
    let listener = UnixListener::from(listener.map_err(prepare("take over the socket"))?);
    listener
        .set_nonblocking(true)
        .map_err(prepare("take over the socket"))?;
    let null = File::open("/dev/null").map_err(prepare("open /dev/null"))?;
    nix::unistd::dup2_stdin(&null).map_err(|e| ServeError::Prepare("detach standard input", e.into()))?;
    drop(null);
    let socket = args.socket.clone();
    let publisher = Publisher::new(&args, std::env::var(TTRPC_ADDRESS).ok());
    let server = Server {
        listener,
        signals,
        peers: Vec::new(),
        serial: 0,
        shim: Shim::new(args, publisher),
    };
    let served = server.run();
    remove(socket);
    served
}

fn remove(socket: Option<PathBuf>) {
    if let Some(path) = socket
        && let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warning!("remove {}: {error}", path.display());
    }
}

impl Server {
    fn run(mut self) -> Result<(), ServeError> {
        let mut settled = false;
        while !self.shim.is_finished() {
            let events = self.wait(settled)?;
            if events.is_empty() && self.shim.is_quiet() {
                if !settled {
                    // From here on only calls, output and ends are waited for: most code is not needed any more.
                    berth_sys::memory::trim_heap();
                    berth_sys::memory::drop_code_pages();
                    settled = true;
                }
            } else {
                settled = false;
            }
            for (token, flags) in events {
                self.handle(&token, flags);
            }
            self.shim.tick();
            self.answer();
            self.peers.retain(Peer::is_open);
        }
        Ok(())
    }

    /// Waits for descriptors, the next deadline, or the moment at which the shim settles.
    fn wait(&self, settled: bool) -> Result<Vec<(Token, PollFlags)>, ServeError> {
        let mut tokens = vec![Token::Signals, Token::Listener];
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for (n, peer) in self.peers.iter().enumerate() {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, peer.has_output());
            tokens.push(Token::Peer(n));
            fds.push(PollFd::new(peer.fd(), flags));
        }
        if let Some((fd, flags)) = self.shim.publisher.interest() {
            tokens.push(Token::Publisher);
            fds.push(PollFd::new(fd, flags));
        }
        for (index, container) in self.shim.containers.iter().enumerate() {
            if let Some(watch) = &container.oom {
                let (fd, flags) = watch.interest();
                tokens.push(Token::Oom(index));
                fds.push(PollFd::new(fd, flags));
            }
            let execs = container.execs.iter().enumerate().map(|(n, p)| (Some(n), p));
            for (exec, process) in std::iter::once((None, &container.init)).chain(execs) {
                // What the runtime itself says on the process' streams is not the process' output: it comes with the answer
                // if there is none.
                if process.phase == Phase::Launching {
                    continue;
                }
                for (number, fd, flags) in process.io.interests() {
                    tokens.push(Token::Stream {
                        container: index,
                        exec,
                        number,
                    });
                    fds.push(PollFd::new(fd, flags));
                }
            }
        }
        let deadline = self
            .shim
            .deadline()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let settle = (!settled).then_some(SETTLE);
        let timeout = match deadline.into_iter().chain(settle).min() {
            // Rounded up: waking a little early would only spin.
            Some(wait) => PollTimeout::try_from(wait + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(vec![(Token::Signals, PollFlags::POLLIN)]),
            Err(error) => return Err(error.into()),
        }
        Ok(tokens
            .into_iter()
            .zip(&fds)
            .filter_map(|(token, fd)| Some((token, fd.revents().filter(|r| !r.is_empty())?)))
            // Last things first: what a signal or a call removes must not shift the places of streams.
            .rev()
            .collect())
    }

    fn handle(&mut self, token: &Token, flags: PollFlags) {
        match *token {
            Token::Signals => {
                let seen = berth_sys::signal::take(&self.signals);
                self.shim.reap();
                // Whoever stops containerd with all its processes must not take the containers with it.
                if seen.contains(Signal::SIGTERM) || seen.contains(Signal::SIGINT) {
                    self.shim.asked_to_end();
                }
            }
            Token::Listener => self.accept(),
            Token::Peer(n) => self.talk(n, flags),
            Token::Publisher => {
                let mut buffer = std::mem::take(&mut self.shim.buffer);
                self.shim.publisher.ready(&mut buffer);
                self.shim.buffer = buffer;
            }
            Token::Stream {
                container,
                exec,
                number,
            } => {
                let Some(container) = self.shim.containers.get_mut(container) else {
                    return;
                };
                let process = match exec {
                    None => Some(&mut container.init),
                    Some(n) => container.execs.get_mut(n),
                };
                if let Some(process) = process {
                    process.io.pump(number, &mut self.shim.buffer);
                }
            }
            Token::Oom(index) => {
                if let Some(id) = self.shim.containers.get(index).map(|c: &Container| c.id.clone()) {
                    self.shim.check_oom(&id);
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            self.serial += 1;
            match Peer::new(self.serial, stream) {
                Ok(peer) => self.peers.push(peer),
                Err(error) => warning!("take a connection over: {error}"),
            }
            if self.peers.len() > MAX_PEERS {
                self.peers.remove(0);
            }
        }
    }

    fn talk(&mut self, n: usize, flags: PollFlags) {
        let Some(peer) = self.peers.get_mut(n) else { return };
        if flags.contains(PollFlags::POLLOUT) {
            peer.flush();
        }
        peer.read(&mut self.shim.buffer);
        let serial = peer.serial;
        while let Some((stream, request)) = self.peers.get_mut(n).and_then(Peer::next) {
            let asker = Asker { peer: serial, stream };
            self.shim.call(asker, &request);
        }
    }

    fn answer(&mut self) {
        for (asker, answer) in std::mem::take(&mut self.shim.answers) {
            if let Some(peer) = self.peers.iter_mut().find(|p| p.serial == asker.peer) {
                peer.answer(asker.stream, answer);
            }
        }
    }
}
