//! The standard streams of a process: FIFOs, files, logging programs, terminals.
//!
//! ```text
//! client ─FIFO─▶ ┐                     ┌─pipe or terminal─▶ container
//!                ├ splice in the shim ─┤
//! client ◀─FIFO─ ┘                     └◀─pipe or terminal─ container
//! program ◀───────────pipe─────────────────────────────────  container        (binary://, nothing in between)
//! ```
//!
//! The container never gets the FIFO itself: it is a file of the host, which a container's user may not open again
//! by /dev/stdout, and which SELinux denies to containers.

mod console;
mod fifo;
mod logger;
mod stream;
mod uri;

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::PollFlags;
use nix::unistd::{Gid, Uid};

pub use console::ConsoleSocket;
pub use logger::{Logger, LoggerError};
use stream::{Progress, Sink, Stream};
use uri::{Target, UriError};

use crate::options::Options;

/// The names of a process' streams, as the request has them.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Where input comes from.
    pub stdin: String,
    /// Where output goes.
    pub stdout: String,
    /// Where errors go.
    pub stderr: String,
    /// The process has a terminal; `stderr` is without meaning then.
    pub terminal: bool,
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// Its name.
    #[error("{stream}")]
    Uri {
        /// `stdin`, `stdout`, `stderr`.
        stream: &'static str,
        /// What is wrong.
        #[source]
        source: UriError,
    },
    /// A kind that the stream cannot be.
    #[error("stdin: {0:?} must be the path of a FIFO")]
    Stdin(String),
    /// A FIFO or file.
    #[error("{stream}: open {}", path.display())]
    Open {
        /// `stdin`, `stdout`, `stderr`.
        stream: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// A logging program.
    #[error("start the logging program {}", path.display())]
    Program {
        /// The program.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The logging program did not get ready.
    #[error(transparent)]
    Logger(#[from] LoggerError),
    /// Pipes.
    #[error("make the container's pipes")]
    Pipe(#[source] io::Error),
    /// The terminal.
    #[error("receive the terminal from the runtime")]
    Console(#[source] io::Error),
}

/// Everything open for one process.
#[derive(Debug, Default)]
pub struct Io {
    streams: Vec<Stream>,
    /// The held writing end of stdin's FIFO.
    stdin: Option<OwnedFd>,
    /// The terminal's master side.
    console: Option<OwnedFd>,
    /// What the terminal will be connected to.
    waiting: Option<Waiting>,
    logger: Option<Logger>,
}

/// The outer ends of a process with a terminal that has not come yet.
#[derive(Debug)]
struct Waiting {
    input: Option<OwnedFd>,
    output: Option<Sink>,
}

/// The container's ends: standard input, output and error for the runtime.
pub type Ends = [Stdio; 3];

/// What the runtime gets for a process.
#[derive(Debug)]
pub enum Inner {
    /// Pipes or /dev/null.
    Pipes(Ends),
    /// A socket for a terminal.
    Terminal,
}

impl Io {
    /// Opens the streams of a process without a terminal. `id` and `namespace` are for a logging program.
    ///
    /// # Errors
    /// [`StdioError`].
    pub fn open(
        names: &Names,
        options: &Options,
        id: &str,
        namespace: &str,
    ) -> Result<(Io, Ends), StdioError> {
        let mut io = Io::default();
        let stdin = match input(&names.stdin)? {
            None => Stdio::null(),
            Some(fifo) => {
                let (reader, writer) = owned_pipe(options, Side::Reader)?;
                io.stdin = Some(fifo.held);
                io.streams
                    .push(Stream::new("stdin", fifo.reader, Sink::Descriptor(writer)));
                Stdio::from(reader)
            }
        };
        let target = parse("stdout", &names.stdout)?;
        if let Target::Program(program) = &target {
            let (logger, [stdout, stderr]) = start(program, id, namespace)?;
            io.logger = Some(logger);
            return Ok((io, [stdin, Stdio::from(stdout), Stdio::from(stderr)]));
        }
        let stdout = io.output("stdout", &target, options)?;
        let target = match &target {
            // A file is for both; what stderr says does not matter then.
            Target::File(_) => target,
            _ => parse("stderr", &names.stderr)?,
        };
        let stderr = io.output("stderr", &target, options)?;
        Ok((io, [stdin, stdout, stderr]))
    }

    /// Opens the outer ends of a process with a terminal.
    ///
    /// # Errors
    /// [`StdioError`].
    pub fn open_terminal(names: &Names, id: &str, namespace: &str) -> Result<Io, StdioError> {
        let mut io = Io::default();
        let input = input(&names.stdin)?.map(|fifo| {
            io.stdin = Some(fifo.held);
            fifo.reader
        });
        let target = parse("stdout", &names.stdout)?;
        let output = match &target {
            Target::Program(program) => {
                let (logger, [stdout, _]) = start(program, id, namespace)?;
                set_nonblocking(&stdout).map_err(StdioError::Pipe)?;
                io.logger = Some(logger);
                Some(Sink::Descriptor(stdout))
            }
            _ => sink("stdout", &target)?,
        };
        io.waiting = Some(Waiting { input, output });
        Ok(io)
    }

    /// Connects the terminal.
    ///
    /// # Errors
    /// [`StdioError::Console`].
    pub fn connect(&mut self, console: OwnedFd) -> Result<(), StdioError> {
        set_nonblocking(&console).map_err(StdioError::Console)?;
        let copy = || console.try_clone().map_err(StdioError::Console);
        if let Some(Waiting { input, output }) = self.waiting.take() {
            if let Some(input) = input {
                self.streams
                    .push(Stream::new("stdin", input, Sink::Descriptor(copy()?)));
            }
            if let Some(output) = output {
                self.streams.push(Stream::new("terminal", copy()?, output));
            }
        }
        self.console = Some(console);
        Ok(())
    }

    fn output(
        &mut self,
        name: &'static str,
        target: &Target,
        options: &Options,
    ) -> Result<Stdio, StdioError> {
        let Some(sink) = sink(name, target)? else {
            return Ok(Stdio::null());
        };
        let (reader, writer) = owned_pipe(options, Side::Writer)?;
        self.streams.push(Stream::new(name, reader, sink));
        Ok(Stdio::from(writer))
    }

    /// The terminal's master side.
    pub fn console(&self) -> Option<&OwnedFd> {
        self.console.as_ref()
    }

    /// When the logging program must be ready.
    pub fn logger_deadline(&self) -> Option<Instant> {
        self.logger.as_ref().and_then(Logger::deadline)
    }

    /// The logging program.
    pub fn logger(&mut self) -> Option<&mut Logger> {
        self.logger.as_mut()
    }

    /// Takes the logging program out, for its end to be watched.
    pub fn take_logger(&mut self) -> Option<Logger> {
        self.logger.take()
    }

    /// What is to be polled, with a number for [`Io::pump`].
    pub fn interests(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>, PollFlags)> {
        self.streams
            .iter()
            .enumerate()
            .filter_map(|(n, stream)| stream.interest().map(|(fd, flags)| (n, fd, flags)))
            .chain(
                self.logger
                    .iter()
                    .filter_map(|l| l.ready_pipe())
                    .map(|fd| (usize::MAX, fd.as_fd(), PollFlags::POLLIN)),
            )
    }

    /// Moves bytes of one stream.
    pub fn pump(&mut self, number: usize, buffer: &mut [u8]) {
        if let Some(stream) = self.streams.get_mut(number) {
            stream.pump(buffer);
        }
    }

    /// Whether some FIFO's reader is waited for.
    pub fn is_waiting(&self) -> bool {
        self.streams.iter().any(Stream::is_waiting)
    }

    /// Looks whether FIFOs have readers by now.
    pub fn look_for_readers(&mut self) {
        for stream in &mut self.streams {
            stream.look_for_reader();
        }
    }

    /// Lets the process' standard input end when the last client has closed the FIFO.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Moves all output that is there; whether none is left that a full or missing reader holds up.
    pub fn drain(&mut self, buffer: &mut [u8]) -> bool {
        self.streams
            .iter_mut()
            .filter(|stream| !stream.is_input())
            .all(|stream| stream.drain(buffer) != Progress::Blocked)
    }
}

#[derive(Clone, Copy)]
enum Side {
    Reader,
    Writer,
}

/// A pipe of which the container gets the given side, owned by the configured user; ours does not block.
fn owned_pipe(options: &Options, side: Side) -> Result<(OwnedFd, OwnedFd), StdioError> {
    let make = || -> io::Result<(OwnedFd, OwnedFd)> {
        let (reader, writer) = io::pipe()?;
        let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
        let (theirs, ours) = match side {
            Side::Reader => (&reader, &writer),
            Side::Writer => (&writer, &reader),
        };
        set_nonblocking(ours)?;
        if options.io_uid != 0 || options.io_gid != 0 {
            let (uid, gid) = (Uid::from_raw(options.io_uid), Gid::from_raw(options.io_gid));
            nix::unistd::fchown(theirs, Some(uid), Some(gid))?;
        }
        Ok((reader, writer))
    };
    make().map_err(StdioError::Pipe)
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn parse(stream: &'static str, name: &str) -> Result<Target, StdioError> {
    uri::parse(name).map_err(|source| StdioError::Uri { stream, source })
}

fn input(name: &str) -> Result<Option<fifo::Input>, StdioError> {
    match parse("stdin", name)? {
        Target::Null => Ok(None),
        Target::Path(path) => fifo::open_reader(&path)
            .map(Some)
            .map_err(open_error("stdin", &path)),
        _ => Err(StdioError::Stdin(name.to_owned())),
    }
}

fn sink(stream: &'static str, target: &Target) -> Result<Option<Sink>, StdioError> {
    match target {
        Target::Null | Target::Program(_) => Ok(None),
        Target::Path(path) => {
            let sink = fifo::open_writer(path).map_err(open_error(stream, path))?;
            Ok(Some(sink.unwrap_or_else(|| Sink::Waiting(path.clone()))))
        }
        Target::File(path) => {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir).map_err(open_error(stream, dir))?;
            }
            let file = OpenOptions::new()
                .append(true)
                .create(true)
                .open(path)
                .map_err(open_error(stream, path))?;
            Ok(Some(Sink::File { file, failing: false }))
        }
    }
}

fn start(program: &uri::Program, id: &str, namespace: &str) -> Result<(Logger, [OwnedFd; 2]), StdioError> {
    Logger::start(program, id, namespace).map_err(|source| StdioError::Program {
        path: program.path.clone(),
        source,
    })
}

fn open_error(stream: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StdioError {
    let path = path.to_owned();
    move |source| StdioError::Open { stream, path, source }
}
