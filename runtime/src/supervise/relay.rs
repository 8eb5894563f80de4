//! Copying bytes from one descriptor to another inside a poll(2) loop.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup, dup2_stderr, dup2_stdin, dup2_stdout, isatty, pipe2, read, write};

use super::{SuperviseError, system};

/// A pipe that poll(2) calls writable takes at least this many bytes without blocking (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;

/// One direction of a connection. Holds at most one chunk.
#[derive(Debug)]
pub(super) struct Relay {
    /// `None` when the source has ended.
    source: Option<OwnedFd>,
    /// `None` when there is nobody left to write to.
    sink: Option<OwnedFd>,
    pending: Vec<u8>,
    kind: Kind,
    /// Which standard descriptor of ours this one replaces, if any.
    pub(super) replaced: Option<Standard>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// From the user to a terminal, which has no end of input: it stays open.
    TerminalInput,
    /// From the user to a pipe, whose reader is to see the end.
    PipeInput,
    /// From the process to the user.
    Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standard {
    Input,
    Output,
    Error,
}

impl Relay {
    pub(super) fn new(source: OwnedFd, sink: OwnedFd, kind: Kind) -> Self {
        Self {
            source: Some(source),
            sink: Some(sink),
            pending: Vec::new(),
            kind,
            replaced: None,
        }
    }

    /// What to wait for: input, or room for what is pending.
    pub(super) fn interest(&self) -> Option<PollFd<'_>> {
        match (&self.source, &self.sink) {
            (_, Some(sink)) if !self.pending.is_empty() => {
                Some(PollFd::new(sink.as_fd(), PollFlags::POLLOUT))
            }
            (Some(source), Some(_)) => Some(PollFd::new(source.as_fd(), PollFlags::POLLIN)),
            _ => None,
        }
    }

    /// Moves one chunk if that does not block. Errors end the direction they occur in: there is nobody to tell.
    pub(super) fn pump(&mut self) {
        if self.ready() {
            if self.pending.is_empty() {
                self.fill();
            } else {
                self.flush();
            }
        }
    }

    /// Moves what the process has left in its output, without waiting for more to come. Input that was not read yet
    /// stays the user's.
    pub(super) fn drain(&mut self) {
        if self.kind != Kind::Output {
            return;
        }
        while self.sink.is_some() && (!self.pending.is_empty() || self.ready()) {
            if self.pending.is_empty() {
                self.fill();
            } else {
                self.wait_for_room();
                self.flush();
            }
            if self.source.is_none() && self.pending.is_empty() {
                return;
            }
        }
    }

    fn ready(&self) -> bool {
        let Some(interest) = self.interest() else {
            return false;
        };
        matches!(poll(&mut [interest], PollTimeout::ZERO), Ok(count) if count > 0)
    }

    fn wait_for_room(&self) {
        if let Some(interest) = self.interest() {
            let _ = poll(&mut [interest], PollTimeout::NONE);
        }
    }

    fn fill(&mut self) {
        let Some(source) = &self.source else { return };
        let mut buffer = [0; CHUNK];
        match read(source, &mut buffer) {
            Ok(0) => self.end(),
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            // EIO is how a terminal says that its other end is closed.
            Err(_) => self.end(),
        }
    }

    fn flush(&mut self) {
        let Some(sink) = &self.sink else { return };
        match write(sink, &self.pending) {
            Ok(count) => {
                self.pending.drain(..count);
            }
            Err(Errno::EINTR | Errno::EAGAIN) => {}
            Err(_) => {
                self.pending.clear();
                self.source = None;
                self.sink = None;
            }
        }
    }

    fn end(&mut self) {
        self.source = None;
        // What is pending still goes out; the sink is closed after it.
        if self.kind != Kind::TerminalInput && self.pending.is_empty() {
            self.sink = None;
        }
    }
}

/// Replaces our standard descriptors that are terminals by pipes, and returns the relays between the two. Those that
/// are no terminals are left for the process to inherit.
pub(super) fn replace_terminals() -> Result<Vec<Relay>, SuperviseError> {
    let mut relays = Vec::new();
    let fail = system("replace a terminal by a pipe");
    if isatty(io::stdin()).unwrap_or(false) {
        let terminal = dup_cloexec(&io::stdin())?;
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC)
            .map(|(read, write)| (write, read))
            .map_err(&fail)?;
        nonblocking(&ours)?;
        dup2_stdin(&theirs).map_err(&fail)?;
        let mut relay = Relay::new(terminal, ours, Kind::PipeInput);
        relay.replaced = Some(Standard::Input);
        relays.push(relay);
    }
    for standard in [Standard::Output, Standard::Error] {
        let is_terminal = match standard {
            Standard::Error => isatty(io::stderr()),
            _ => isatty(io::stdout()),
        };
        if !is_terminal.unwrap_or(false) {
            continue;
        }
        let terminal = match standard {
            Standard::Error => dup_cloexec(&io::stderr())?,
            _ => dup_cloexec(&io::stdout())?,
        };
        let (ours, theirs) = pipe2(OFlag::O_CLOEXEC).map_err(&fail)?;
        match standard {
            Standard::Error => dup2_stderr(&theirs).map_err(&fail)?,
            _ => dup2_stdout(&theirs).map_err(&fail)?,
        }
        let mut relay = Relay::new(ours, terminal, Kind::Output);
        relay.replaced = Some(standard);
        relays.push(relay);
    }
    Ok(relays)
}

/// Gives us our terminals back, so that only the process holds the other ends of the pipes.
pub(super) fn restore_terminals(relays: &[Relay]) -> Result<(), SuperviseError> {
    let fail = system("restore a terminal");
    for relay in relays {
        match (relay.replaced, &relay.source, &relay.sink) {
            (Some(Standard::Input), Some(terminal), _) => dup2_stdin(terminal).map_err(&fail)?,
            (Some(Standard::Output), _, Some(terminal)) => dup2_stdout(terminal).map_err(&fail)?,
            (Some(Standard::Error), _, Some(terminal)) => dup2_stderr(terminal).map_err(&fail)?,
            _ => {}
        }
    }
    Ok(())
}

pub(super) fn dup_cloexec(fd: &impl AsFd) -> Result<OwnedFd, SuperviseError> {
    let copy = dup(fd).map_err(system("duplicate a descriptor"))?;
    fcntl(&copy, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC)).map_err(system("mark a descriptor"))?;
    Ok(copy)
}

pub(super) fn nonblocking(fd: &impl AsFd) -> Result<(), SuperviseError> {
    let fail = system("make a descriptor non-blocking");
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(&fail)?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(fd, FcntlArg::F_SETFL(flags)).map_err(&fail)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::{Read, Write};

    fn pair() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC).unwrap()
    }

    #[test]
    fn more_than_a_pipe_holds_arrives_whole() {
        let ((source, feed), (out, sink)) = (pair(), pair());
        nonblocking(&sink).unwrap();
        let mut relay = Relay::new(source, sink, Kind::Output);
        let text: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let sent = text.clone();
        let writer = std::thread::spawn(move || File::from(feed).write_all(&sent).unwrap());
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            File::from(out).read_to_end(&mut all).unwrap();
            all
        });
        while let Some(interest) = relay.interest() {
            poll(&mut [interest], PollTimeout::NONE).unwrap();
            relay.pump();
        }
        drop(relay);
        writer.join().unwrap();
        assert_eq!(reader.join().unwrap(), text);
    }

    #[test]
    fn draining_takes_what_is_there_and_does_not_wait() {
        let ((source, feed), (out, sink)) = (pair(), pair());
        let mut feed = File::from(feed);
        feed.write_all(b"last words").unwrap();
        let mut relay = Relay::new(source, sink, Kind::Output);
        relay.drain();
        drop(relay);
        let mut text = String::new();
        File::from(out).read_to_string(&mut text).unwrap();
        assert_eq!(text, "last words");
    }
}
