//! One container: its pipes, its log, its record.

use std::io::{ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::process::Stdio;

use berth_client::protocol::{Create, Exit, Record};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::log::{Log, Pending};
use crate::{clock, oom, record};

/// Reads of one pipe before the others get their turn.
const TURNS: usize = 8;

/// A container from its creation to its deletion.
#[derive(Debug)]
pub struct Container {
    /// What was asked for.
    pub create: Create,
    /// What is known; the same as in the record file.
    pub record: Record,
    log: Log,
    sources: [Source; 2],
    /// Held so that the container's stdin does not end.
    _stdin: Option<PipeWriter>,
}

/// The reading end of stdout or stderr.
#[derive(Debug)]
struct Source {
    pipe: Option<PipeReader>,
    pending: Pending,
}

impl Container {
    /// Opens the log and the pipes; the second value is the stdio for the runtime's `create`.
    ///
    /// # Errors
    /// The system's answer to opening the log or the pipes.
    pub fn new(create: Create) -> std::io::Result<(Container, [Stdio; 3])> {
        let log = Log::open(create.log.clone())?;
        let (out_reader, out_writer) = pipe()?;
        let (err_reader, err_writer) = pipe()?;
        let (stdin, held) = if create.stdin {
            let (reader, writer) = std::io::pipe()?;
            (Stdio::from(reader), Some(writer))
        } else {
            (Stdio::null(), None)
        };
        let record = Record {
            container: create.container.clone(),
            pid: 0,
            created_at: clock::now(),
            started_at: None,
            exit: None,
        };
        let source = |pipe, name| Source {
            pipe: Some(pipe),
            pending: Pending::new(name),
        };
        let sources = [source(out_reader, "stdout"), source(err_reader, "stderr")];
        let container = Container {
            create,
            record,
            log,
            sources,
            _stdin: held,
        };
        Ok((
            container,
            [stdin, Stdio::from(out_writer), Stdio::from(err_writer)],
        ))
    }

    /// The pipes that are open, with their numbers for [`Container::read`].
    pub fn pipes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.sources
            .iter()
            .enumerate()
            .filter_map(|(n, s)| Some((n, s.pipe.as_ref()?.as_fd())))
    }

    /// Reads one pipe into the log; a pipe that has ended is closed.
    pub fn read(&mut self, number: usize, buffer: &mut [u8]) {
        self.read_turns(number, buffer, TURNS);
    }

    fn read_turns(&mut self, number: usize, buffer: &mut [u8], turns: usize) {
        let Some(source) = self.sources.get_mut(number) else {
            return;
        };
        for _ in 0..turns {
            let Some(pipe) = source.pipe.as_mut() else { return };
            match pipe.read(buffer) {
                Ok(0) => {
                    self.log.end(&mut source.pending);
                    source.pipe = None;
                }
                Ok(length) => self.log.add(&mut source.pending, &buffer[..length]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    eprintln!("read the output of {}: {error}", self.record.container);
                    source.pipe = None;
                }
            }
        }
    }

    /// Takes note of the first process' end: the log is completed, then the record is written, so that
    /// whoever sees the record finds the whole log.
    pub fn exited(&mut self, code: i32, signal: Option<i32>, buffer: &mut [u8]) {
        for number in 0..self.sources.len() {
            // What is in a pipe at this moment is at most its capacity; a process that outlives the first
            // one (shared pid namespace) may go on writing and must not keep us here.
            self.read_turns(number, buffer, 64);
        }
        let oom_killed = code != 0 && oom::kills(&self.create) > 0;
        self.record.exit = Some(Exit {
            code,
            signal,
            oom_killed,
            finished_at: clock::now(),
        });
        self.save();
    }

    /// Writes the record file. A failure is logged only: the record is in memory too, and a container must
    /// not fail for it.
    pub fn save(&self) {
        if let Err(error) = record::save(&self.create.bundle, &self.record) {
            eprintln!("write the record of {}: {error}", self.record.container);
        }
    }
}

/// A pipe whose reading end does not block. Both ends are close-on-exec.
pub fn pipe() -> std::io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe()?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}
