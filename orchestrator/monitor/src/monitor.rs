//! The event loop: signals, connections, pipes and deadlines, in one thread.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;

use berth_client::protocol::{
    Answer, Attach, Call, Create, Message, Record, Refusal, RefusalKind, Request, Streams, VERSION,
};
use berth_client::{CreateOptions, Pending, Runtime};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::attached::Attached;
use crate::children::Ended;
use crate::clock;
use crate::console::Console;
use crate::container::Container;
use crate::exec::{Asker, Io, Run};
use crate::peer::Peer;
use crate::pids::Pids;

/// One buffer for everything that is read; as large as the pieces in which pipes are read.
const BUFFER: usize = 16 << 10;
/// Connections that are served at once: `berthd`'s, and one for each person in a container. The newest gives way.
const MAX_PEERS: usize = 64;

/// A run of the runtime that is under way.
#[derive(Debug)]
pub struct Job {
    pub pending: Pending,
    pub verb: Verb,
    pub container: String,
    pub asker: Asker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Start,
    Kill,
    Delete,
}

/// Where a descriptor of the poll set belongs.
#[derive(Debug, Clone, Copy)]
enum Token {
    Signals,
    Listener,
    Peer(usize),
    Container(usize, usize),
    Attached(usize, usize, usize),
    Exec(usize, usize),
}

/// Everything the monitor holds.
#[derive(Debug)]
pub struct Monitor {
    dir: PathBuf,
    runtime: Runtime,
    signals: SignalFd,
    listener: UnixListener,
    peers: Vec<Peer>,
    pub(crate) containers: Vec<Container>,
    pub(crate) jobs: Vec<Job>,
    pub(crate) execs: Vec<Run>,
    pub(crate) strays: VecDeque<Ended>,
    /// The process namespace that the containers share, if they do.
    pub(crate) pids: Option<Pids>,
    serial: u64,
    finished: bool,
    pub(crate) buffer: Vec<u8>,
}

impl Monitor {
    /// Takes the listening socket over; from here on signals arrive by descriptor only.
    ///
    /// # Errors
    /// The system's answer.
    pub fn new(dir: PathBuf, runtime: Runtime, listener: UnixListener) -> nix::Result<Monitor> {
        let mut set = SigSet::empty();
        // The polite ends are ignored: a service manager that stops `berthd` must not take pods with it.
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGHUP,
            Signal::SIGQUIT,
        ] {
            set.add(signal);
        }
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        listener
            .set_nonblocking(true)
            .map_err(|e| nix::Error::from_raw(e.raw_os_error().unwrap_or_default()))?;
        Ok(Monitor {
            dir,
            runtime,
            signals,
            listener,
            peers: Vec::new(),
            containers: Vec::new(),
            jobs: Vec::new(),
            execs: Vec::new(),
            strays: VecDeque::new(),
            pids: None,
            serial: 0,
            finished: false,
            buffer: vec![0; BUFFER],
        })
    }

    /// Serves until it is told to end.
    ///
    /// # Errors
    /// The system's answer to `poll`.
    pub fn run(mut self) -> nix::Result<()> {
        let mut settled = false;
        while !self.finished {
            let quiet = self.jobs.is_empty() && self.execs.is_empty();
            if quiet && !settled {
                // From here on only output and an end are waited for: most code is not needed any more.
                berth_sys::memory::drop_code_pages();
            }
            settled = quiet;
            for (token, events) in self.wait()? {
                self.handle(token, events);
            }
            let now = Instant::now();
            for exec in &mut self.execs {
                exec.expire(now);
            }
            for n in 0..self.containers.len() {
                for attached in &mut self.containers[n].attached {
                    attached.expire(now);
                }
                self.dismiss(n);
            }
            if self.peers.iter().any(|peer| !peer.is_open()) {
                self.peers.retain(Peer::is_open);
                self.leave();
            }
        }
        Ok(())
    }

    /// Waits for descriptors or the next deadline.
    fn wait(&self) -> nix::Result<Vec<(Token, PollFlags)>> {
        let mut tokens = vec![Token::Signals, Token::Listener];
        let mut fds = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
        ];
        for (n, peer) in self.peers.iter().enumerate() {
            let output = if peer.has_output() {
                PollFlags::POLLOUT
            } else {
                PollFlags::empty()
            };
            tokens.push(Token::Peer(n));
            fds.push(PollFd::new(peer.fd(), PollFlags::POLLIN | output));
        }
        for (n, container) in self.containers.iter().enumerate() {
            for (number, fd) in container.pipes() {
                tokens.push(Token::Container(n, number));
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
            for (a, attached) in container.attached.iter().enumerate() {
                for (stream, fd) in attached.waiting() {
                    tokens.push(Token::Attached(n, a, stream));
                    fds.push(PollFd::new(fd, PollFlags::POLLOUT));
                }
            }
        }
        for (n, exec) in self.execs.iter().enumerate() {
            for (number, fd) in exec.pipes() {
                tokens.push(Token::Exec(n, number));
                fds.push(PollFd::new(fd, PollFlags::POLLIN));
            }
        }
        let attached = self.containers.iter().flat_map(|c| &c.attached);
        let deadlines = self.execs.iter().filter_map(|exec| exec.deadline);
        let deadline = deadlines.chain(attached.filter_map(Attached::deadline)).min();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up, else the loop would spin through the last millisecond.
            let left = deadline.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(left.min(60_000) as i32).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        }
        let ready = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        // Signals come first in the list, but are handled last: a process' output before its exit.
        Ok(tokens
            .into_iter()
            .zip(ready)
            .filter(|(_, events)| !events.is_empty())
            .rev()
            .collect())
    }

    fn handle(&mut self, token: Token, events: PollFlags) {
        match token {
            Token::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.reap();
            }
            Token::Listener => self.accept(),
            Token::Peer(n) => {
                if let Some(peer) = self.peers.get_mut(n) {
                    if events.contains(PollFlags::POLLOUT) {
                        peer.flush();
                    }
                    peer.read(&mut self.buffer);
                }
                while let Some(request) = self.peers.get_mut(n).and_then(Peer::next) {
                    self.request(n, request);
                }
            }
            Token::Container(n, number) => {
                if let Some(container) = self.containers.get_mut(n) {
                    container.read(number, &mut self.buffer);
                }
            }
            Token::Attached(n, a, stream) => {
                let container = self.containers.get_mut(n);
                if let Some(attached) = container.and_then(|c| c.attached.get_mut(a)) {
                    attached.flush(stream);
                }
            }
            Token::Exec(n, number) => {
                if let Some(exec) = self.execs.get_mut(n) {
                    exec.read(number, &mut self.buffer);
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            self.serial += 1;
            match Peer::new(self.serial, stream) {
                Ok(peer) => self.peers.push(peer),
                Err(error) => eprintln!("take a connection over: {error}"),
            }
            if self.peers.len() > MAX_PEERS
                && let Some(newest) = self.peers.last_mut()
            {
                newest.close();
            }
        }
    }

    fn request(&mut self, peer: usize, request: Request) {
        let Some(serial) = self.peers.get(peer).map(|p| p.serial) else {
            return;
        };
        let asker = Asker {
            peer: serial,
            request: request.id,
        };
        if !self.peers.get(peer).is_some_and(|p| p.greeted) && !matches!(request.call, Call::Hello { .. }) {
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.close();
            }
            return;
        }
        // None: the answer comes when a child ends.
        let answer = match request.call {
            Call::Hello { version } => Some(self.hello(peer, version)),
            Call::Create(create) => self.create(create, asker).err().map(Err),
            Call::Start { container } => self.start(container, asker).err().map(Err),
            Call::Exec(exec) => {
                self.serial += 1;
                let owner = self.owner(&exec.container);
                match Run::start(&self.runtime, &self.dir, self.serial, asker, &exec, owner) {
                    Ok(run) => {
                        self.execs.push(run);
                        None
                    }
                    Err(error) => Some(Err(failed(&error))),
                }
            }
            Call::Open(open) => {
                self.serial += 1;
                let owner = self.owner(&open.container);
                match Run::open(&self.runtime, &self.dir, self.serial, asker, &open, owner) {
                    Ok(run) => {
                        self.execs.push(run);
                        None
                    }
                    Err(error) => Some(Err(failed(&error))),
                }
            }
            Call::Attach(attach) => self.attach(&attach, asker).err().map(Err),
            Call::CloseInput => {
                for container in &mut self.containers {
                    container.input_ends(serial);
                }
                Some(Ok(Answer::Done))
            }
            Call::Kill {
                container,
                signal,
                all,
            } => self.kill(container, signal, all, asker),
            Call::Delete { container } => {
                let call = self.runtime.delete(&container, true);
                self.job(call.spawn(), Verb::Delete, container, asker)
                    .err()
                    .map(Err)
            }
            Call::List => Some(Ok(Answer::List(
                self.containers.iter().map(|c| c.record.clone()).collect(),
            ))),
            Call::Shutdown => Some(self.shutdown()),
            Call::HoldPids { join } => Some(self.hold_pids(&join)),
        };
        if let Some(result) = answer {
            self.reply(asker, result);
        }
    }

    fn hello(&mut self, peer: usize, version: u32) -> Result<Answer, Refusal> {
        if version != VERSION {
            let message = format!("this monitor speaks protocol version {VERSION}, not {version}");
            return Err(Refusal {
                kind: RefusalKind::Invalid,
                message,
            });
        }
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.greeted = true;
        }
        Ok(Answer::Hello {
            version: VERSION,
            pid: Pid::this().as_raw(),
        })
    }

    fn create(&mut self, create: Create, asker: Asker) -> Result<(), Refusal> {
        let id = create.container.clone();
        if self.find(&id).is_some() {
            let message = format!("container {id} exists already: delete it first");
            return Err(Refusal {
                kind: RefusalKind::Exists,
                message,
            });
        }
        self.serial += 1;
        let made = Container::new(create, self.serial);
        let (container, [stdin, stdout, stderr]) = made.map_err(|error| Refusal {
            kind: RefusalKind::Failed,
            message: format!("open the log and the pipes of container {id}: {error}"),
        })?;
        let pid_file = container.create.bundle.join("pid");
        let options = CreateOptions {
            pid_file: Some(&pid_file),
            console_socket: container.console.as_ref().map(Console::path),
            ..CreateOptions::default()
        };
        let call = self.runtime.create(&id, &container.create.bundle, &options);
        self.job(call.stdio(stdin, stdout, stderr).spawn(), Verb::Create, id, asker)?;
        self.containers.push(container);
        Ok(())
    }

    /// Whom a container's pipes belong to.
    fn owner(&self, id: &str) -> Option<(u32, u32)> {
        let held = self.containers.iter().find(|c| c.create.container == id);
        held.and_then(|c| c.create.owner)
    }

    fn start(&mut self, id: String, asker: Asker) -> Result<(), Refusal> {
        let container = self.find(&id).ok_or_else(|| unknown(&id))?;
        if container.record.exit.is_some() {
            let message = format!("container {id} has ended before it was started");
            return Err(Refusal {
                kind: RefusalKind::NotRunning,
                message,
            });
        }
        // Set before the start: the program may end before the runtime does.
        container.record.started_at = Some(clock::now());
        let call = self.runtime.start(&id).spawn();
        self.job(call, Verb::Start, id, asker)
    }

    fn attach(&mut self, attach: &Attach, asker: Asker) -> Result<(), Refusal> {
        let id = &attach.container;
        let container = self.find(id).ok_or_else(|| unknown(id))?;
        if container.record.exit.is_some() {
            let message = format!("container {id} has ended");
            return Err(Refusal {
                kind: RefusalKind::NotRunning,
                message,
            });
        }
        let (streams, ends) = container.attach(attach, asker).map_err(|error| Refusal {
            kind: RefusalKind::Failed,
            message: format!("make pipes to attach to container {id}: {error}"),
        })?;
        self.hand_over(asker, streams, &ends);
        Ok(())
    }

    /// Answers with descriptors.
    pub(crate) fn hand_over(&mut self, asker: Asker, streams: Streams, ends: &[OwnedFd]) {
        if let Some(peer) = self.peers.iter_mut().find(|p| p.serial == asker.peer) {
            let message = Message::Reply {
                id: asker.request,
                result: Ok(Answer::Streams(streams)),
            };
            peer.send_with(&message, ends);
        } else {
            self.leave();
        }
    }

    /// Hangs up the programs of callers who are gone, and detaches them.
    fn leave(&mut self) {
        let peers = &self.peers;
        let is_there = |serial| peers.iter().any(|p| p.serial == serial && p.is_open());
        for exec in &mut self.execs {
            if matches!(exec.io, Io::Handed { .. }) && !is_there(exec.asker.peer) {
                exec.hang_up();
            }
        }
        for container in &mut self.containers {
            container.leave(is_there);
        }
    }

    /// Tells those who are attached to a container that it has ended, when they have got all its output.
    pub(crate) fn dismiss(&mut self, n: usize) {
        let served = self.containers.get_mut(n).map(Container::served);
        for (asker, code) in served.into_iter().flatten() {
            self.tell_end(asker, code);
        }
    }

    /// Tells a caller that his program has ended.
    pub(crate) fn tell_end(&mut self, asker: Asker, code: i32) {
        if let Some(peer) = self.peers.iter_mut().find(|p| p.serial == asker.peer) {
            peer.send(&Message::Ended {
                id: asker.request,
                code,
            });
        }
    }

    fn kill(&mut self, id: String, signal: i32, all: bool, asker: Asker) -> Option<Result<Answer, Refusal>> {
        if all {
            let call = self.runtime.kill(&id, &signal.to_string(), true);
            return self.job(call.spawn(), Verb::Kill, id, asker).err().map(Err);
        }
        let Some(container) = self.find(&id) else {
            return Some(Err(unknown(&id)));
        };
        if container.record.pid == 0 || container.record.exit.is_some() {
            let message = format!("container {id} does not run");
            return Some(Err(Refusal {
                kind: RefusalKind::NotRunning,
                message,
            }));
        }
        let target = Pid::from_raw(container.record.pid);
        // Our unreaped child: the pid cannot have been reused.
        let sent = Signal::try_from(signal).and_then(|signal| kill(target, signal));
        Some(sent.map(|()| Answer::Done).map_err(|error| Refusal {
            kind: RefusalKind::Failed,
            message: format!("send signal {signal} to container {id}: {error}"),
        }))
    }

    fn shutdown(&mut self) -> Result<Answer, Refusal> {
        if !self.containers.is_empty() || !self.jobs.is_empty() {
            let names: Vec<&str> = self
                .containers
                .iter()
                .map(|c| c.record.container.as_str())
                .collect();
            let message = format!(
                "containers are still held: {}: delete them first",
                names.join(", ")
            );
            return Err(Refusal {
                kind: RefusalKind::Busy,
                message,
            });
        }
        self.finished = true;
        Ok(Answer::Done)
    }

    fn hold_pids(&mut self, join: &[PathBuf]) -> Result<Answer, Refusal> {
        let pid = if let Some(held) = &self.pids {
            held.pid
        } else {
            let held = Pids::hold(join).map_err(|error| failed(&error))?;
            self.pids.insert(held).pid
        };
        Ok(Answer::Pids { pid })
    }

    fn job(
        &mut self,
        spawned: Result<Pending, berth_client::Error>,
        verb: Verb,
        container: String,
        asker: Asker,
    ) -> Result<(), Refusal> {
        let pending = spawned.map_err(|error| failed(&error))?;
        self.jobs.push(Job {
            pending,
            verb,
            container,
            asker,
        });
        Ok(())
    }

    pub(crate) fn find(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.iter_mut().find(|c| c.record.container == id)
    }

    pub(crate) fn reply(&mut self, asker: Asker, result: Result<Answer, Refusal>) {
        if let Some(peer) = self.peers.iter_mut().find(|p| p.serial == asker.peer) {
            peer.send(&Message::Reply {
                id: asker.request,
                result,
            });
        }
    }

    pub(crate) fn announce(&mut self, record: Record) {
        let message = Message::Exited(record);
        for peer in self.peers.iter_mut().filter(|p| p.greeted) {
            peer.send(&message);
        }
    }
}

/// A failure as an answer: the whole chain of causes in one line.
pub fn failed(error: &(dyn std::error::Error + 'static)) -> Refusal {
    let kind = error
        .downcast_ref::<berth_client::Error>()
        .and_then(berth_client::Error::failure)
        .map_or(RefusalKind::Failed, RefusalKind::from);
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Refusal { kind, message }
}

pub fn unknown(id: &str) -> Refusal {
    Refusal {
        kind: RefusalKind::NotFound,
        message: format!("no container {id} in this pod"),
    }
}
