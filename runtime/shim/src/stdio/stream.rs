//! One direction of one stream: bytes from a descriptor to a sink, by splice(2) where both are pipes or terminals.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{SpliceFFlags, splice};
use nix::poll::PollFlags;
use nix::unistd::read;

use super::fifo;
use crate::log::warning;

/// The most that moves in one call: a pipe's usual capacity.
const PIECE: usize = 64 << 10;
/// Moves of one stream before the others get their turn.
const TURNS: usize = 8;

/// Where the bytes go.
#[derive(Debug)]
pub enum Sink {
    /// A FIFO that nobody has opened for reading yet.
    Waiting(PathBuf),
    /// A FIFO; the reading end is held so that the writer never gets EPIPE, also while containerd is away.
    Fifo {
        /// What is written to.
        writer: OwnedFd,
        /// Never read.
        _held: OwnedFd,
    },
    /// The container's own pipe or terminal.
    Descriptor(OwnedFd),
    /// A file, written to its end.
    File {
        /// Opened for appending.
        file: File,
        /// A failure was logged; until a write succeeds, further ones are not.
        failing: bool,
    },
}

/// A stream under way.
#[derive(Debug)]
pub struct Stream {
    /// `stdin`, `stdout`, `stderr` or `terminal`, for the log.
    name: &'static str,
    source: Option<OwnedFd>,
    sink: Sink,
    /// The sink was full.
    blocked: bool,
}

/// What is known after some bytes were moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The source has nothing for now.
    Idle,
    /// The sink is full, or not there yet.
    Blocked,
    /// There was more than one turn takes.
    More,
    /// The source has ended, or the sink is gone: both are closed.
    Ended,
}

impl Stream {
    /// A stream; `source` must be non-blocking, and the sink, too.
    pub fn new(name: &'static str, source: OwnedFd, sink: Sink) -> Stream {
        Stream {
            name,
            source: Some(source),
            sink,
            blocked: false,
        }
    }

    /// What is to be waited for.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let source = self.source.as_ref()?;
        match (&self.sink, self.blocked) {
            (Sink::Waiting(_), _) => None,
            (Sink::Fifo { writer: sink, .. } | Sink::Descriptor(sink), true) => {
                Some((sink.as_fd(), PollFlags::POLLOUT))
            }
            _ => Some((source.as_fd(), PollFlags::POLLIN)),
        }
    }

    /// Whether it goes to the container.
    pub fn is_input(&self) -> bool {
        self.name == "stdin"
    }

    /// Whether a FIFO's reader is waited for.
    pub fn is_waiting(&self) -> bool {
        self.source.is_some() && matches!(self.sink, Sink::Waiting(_))
    }

    /// Looks whether the FIFO has a reader by now.
    pub fn look_for_reader(&mut self) {
        let Sink::Waiting(path) = &self.sink else { return };
        match fifo::open_writer(path) {
            Ok(Some(sink)) => self.sink = sink,
            Ok(None) => {}
            Err(error) => {
                warning!("{}: open {}: {error}", self.name, path.display());
                self.source = None;
            }
        }
    }

    /// Moves bytes, a few turns of them.
    pub fn pump(&mut self, buffer: &mut [u8]) -> Progress {
        for turn in 0..TURNS {
            let Some(source) = &self.source else {
                return Progress::Ended;
            };
            let moved = match &mut self.sink {
                Sink::Waiting(_) => return Progress::Blocked,
                Sink::Fifo { writer: sink, .. } | Sink::Descriptor(sink) => move_on(source, sink),
                Sink::File { file, failing } => read(source, buffer).inspect(|length| {
                    append(self.name, file, failing, &buffer[..*length]);
                }),
            };
            match moved {
                // EIO: the last process has closed the terminal. EPIPE: the container reads no more.
                Ok(0) | Err(Errno::EIO | Errno::EPIPE) => return self.end(),
                Ok(_) => self.blocked = false,
                Err(Errno::EINTR) => {}
                // Nothing to read, or no room: poll has told that the source has something only if this is the first turn.
                Err(Errno::EAGAIN) => {
                    self.blocked = turn == 0 && !matches!(self.sink, Sink::File { .. }) && self.has_input();
                    return if self.blocked {
                        Progress::Blocked
                    } else {
                        Progress::Idle
                    };
                }
                Err(errno) => {
                    warning!("{}: {errno}", self.name);
                    return self.end();
                }
            }
        }
        Progress::More
    }

    /// Moves everything that is there now.
    pub fn drain(&mut self, buffer: &mut [u8]) -> Progress {
        loop {
            match self.pump(buffer) {
                Progress::More => {}
                // The last turn may have ended at a full sink with more behind it.
                Progress::Idle if self.has_input() => {
                    if self.pump(buffer) == Progress::Blocked {
                        return Progress::Blocked;
                    }
                }
                progress => return progress,
            }
        }
    }

    fn has_input(&self) -> bool {
        let Some(source) = &self.source else { return false };
        let mut fds = [nix::poll::PollFd::new(source.as_fd(), PollFlags::POLLIN)];
        matches!(nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO), Ok(1))
            && fds[0].revents().is_some_and(|r| r.contains(PollFlags::POLLIN))
    }

    /// Closes both ends: whoever reads the FIFO sees the end.
    fn end(&mut self) -> Progress {
        self.source = None;
        if let Ok(null) = File::open("/dev/null") {
            self.sink = Sink::Descriptor(null.into());
        }
        Progress::Ended
    }
}

fn move_on(from: &OwnedFd, to: &OwnedFd) -> nix::Result<usize> {
    let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
    splice(from.as_fd(), None, to.as_fd(), None, PIECE, flags)
}

/// Appends to a file. A full disk must not stop the container: what cannot be written is dropped, and told once.
fn append(name: &str, file: &mut File, failing: &mut bool, bytes: &[u8]) {
    match file.write_all(bytes) {
        Ok(()) => *failing = false,
        Err(error) => {
            if !*failing {
                warning!("{name}: output is dropped: write to its file: {error}");
            }
            *failing = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use std::io::Read;

    fn pipe() -> (OwnedFd, std::io::PipeWriter) {
        let (reader, writer) = std::io::pipe().unwrap();
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        (reader.into(), writer)
    }

    #[test]
    fn bytes_reach_a_fifo_and_its_end_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let (source, mut writer) = pipe();
        let mut stream = Stream::new("stdout", source, Sink::Waiting(path.clone()));
        writer.write_all(b"hello").unwrap();
        stream.look_for_reader();
        assert!(stream.is_waiting(), "nobody reads");
        assert_eq!(stream.drain(&mut []), Progress::Blocked);
        let reading = std::thread::spawn(move || std::fs::read(path).unwrap());
        while stream.is_waiting() {
            stream.look_for_reader();
        }
        assert_eq!(stream.drain(&mut []), Progress::Idle);
        drop(writer);
        assert_eq!(stream.drain(&mut []), Progress::Ended);
        assert_eq!(reading.join().unwrap(), b"hello");
    }

    #[test]
    fn a_full_sink_blocks_and_loses_nothing() {
        let (source, mut writer) = pipe();
        let (mut reader, sink) = std::io::pipe().unwrap();
        fcntl(&sink, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
        let mut stream = Stream::new("stdin", source, Sink::Descriptor(sink.into()));
        let text: Vec<u8> = (0..200_000u32).flat_map(u32::to_ne_bytes).collect();
        let copy = text.clone();
        let feeder = std::thread::spawn(move || writer.write_all(&copy).unwrap());
        while stream.drain(&mut []) != Progress::Blocked {}
        assert!(stream.interest().unwrap().1 == PollFlags::POLLOUT);
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        while stream.drain(&mut []) != Progress::Ended {}
        feeder.join().unwrap();
        drop(stream);
        assert_eq!(reading.join().unwrap(), text);
    }

    #[test]
    fn a_file_that_takes_nothing_does_not_stop_the_stream() {
        let (source, mut writer) = pipe();
        let full = File::options().write(true).open("/dev/full").unwrap();
        let sink = Sink::File {
            file: full,
            failing: false,
        };
        let mut stream = Stream::new("stdout", source, sink);
        writer.write_all(&[7; 5000]).unwrap();
        drop(writer);
        assert_eq!(stream.drain(&mut [0; 1024]), Progress::Ended);
    }
}
