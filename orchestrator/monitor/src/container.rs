//! One container: its pipes, its log, its record.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::Stdio;

use berth_client::protocol::{Attach, Create, Exit, Record, Streams};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::attached::Attached;
use crate::console::Console;
use crate::exec::Asker;
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
    /// Held so that the container's stdin does not end: a pipe, or the terminal.
    stdin: Option<OwnedFd>,
    /// Where the runtime sends the terminal.
    pub console: Option<Console>,
    /// Those who are attached.
    pub attached: Vec<Attached>,
}

/// The reading end of stdout or stderr.
#[derive(Debug)]
struct Source {
    pipe: Option<File>,
    pending: Pending,
}

impl Container {
    /// Opens the log and the pipes; the second value is the stdio for the runtime's `create`.
    ///
    /// # Errors
    /// The system's answer to opening the log or the pipes.
    pub fn new(create: Create, number: u64) -> std::io::Result<(Container, [Stdio; 3])> {
        let log = Log::open(create.log.clone())?;
        let mut console = None;
        let (mut readers, mut held) = ([None, None], None);
        let mut stdio = [Stdio::null(), Stdio::null(), Stdio::null()];
        if create.terminal {
            console = Some(Console::listen(&create.bundle, number)?);
        } else {
            let (out_reader, out_writer) = pipe()?;
            let (err_reader, err_writer) = pipe()?;
            own(&[&out_writer, &err_writer], create.owner)?;
            readers = [Some(file(out_reader)), Some(file(err_reader))];
            stdio[1] = Stdio::from(out_writer);
            stdio[2] = Stdio::from(err_writer);
            if create.stdin {
                let (reader, writer) = std::io::pipe()?;
                own(&[&reader], create.owner)?;
                stdio[0] = Stdio::from(reader);
                held = Some(OwnedFd::from(writer));
            }
        }
        let record = Record {
            container: create.container.clone(),
            pid: 0,
            created_at: clock::now(),
            started_at: None,
            exit: None,
        };
        let [out, err] = readers;
        let source = |pipe, name| Source {
            pipe,
            pending: Pending::new(name),
        };
        let container = Container {
            create,
            record,
            log,
            sources: [source(out, "stdout"), source(err, "stderr")],
            stdin: held,
            console,
            attached: Vec::new(),
        };
        Ok((container, stdio))
    }

    /// Takes over the terminal that the runtime has sent; false if it has sent none.
    pub fn take_terminal(&mut self) -> bool {
        let Some(console) = self.console.take() else {
            return true;
        };
        let Some(master) = console.receive() else {
            return false;
        };
        let Ok(copy) = master.try_clone() else {
            return false;
        };
        self.stdin = Some(copy);
        self.sources[0].pipe = Some(File::from(master));
        true
    }

    /// Attaches somebody; returns the descriptors for him, in the order of [`Streams`].
    ///
    /// # Errors
    /// The system's answer to making pipes.
    pub fn attach(&mut self, attach: &Attach, asker: Asker) -> std::io::Result<(Streams, Vec<OwnedFd>)> {
        let mut given = Streams {
            terminal: self.create.terminal,
            ..Streams::default()
        };
        let mut ends = Vec::new();
        if attach.wanted.stdin
            && self.create.stdin
            && let Some(stdin) = &self.stdin
        {
            ends.push(stdin.try_clone()?);
            given.stdin = true;
        }
        let mut outputs = [None, None];
        if attach.wanted.stdout {
            let (reader, writer) = pipe()?;
            ends.push(reader.into());
            outputs[0] = Some(writer.into());
            given.stdout = true;
        }
        if attach.wanted.stderr && !self.create.terminal {
            let (reader, writer) = pipe()?;
            ends.push(reader.into());
            outputs[1] = Some(writer.into());
            given.stderr = true;
        }
        self.attached.push(Attached::new(asker, given.stdin, outputs)?);
        Ok((given, ends))
    }

    /// Somebody who was attached has no more input, or is gone.
    pub fn input_ends(&mut self, peer: u64) {
        if self.create.stdin_once
            && !self.create.terminal
            && self.attached.iter().any(|a| a.asker.peer == peer && a.input)
        {
            self.stdin = None;
        }
    }

    /// Lets those go whose connection is closed.
    pub fn leave(&mut self, is_there: impl Fn(u64) -> bool) {
        let gone: Vec<u64> = self.attached.iter().map(|a| a.asker.peer).collect();
        for peer in gone.into_iter().filter(|peer| !is_there(*peer)) {
            self.input_ends(peer);
            self.attached.retain(|a| a.asker.peer != peer);
        }
    }

    /// After the container's end: takes those out who have got everything.
    pub fn served(&mut self) -> Vec<(Asker, i32)> {
        let Some(exit) = &self.record.exit else {
            return Vec::new();
        };
        let code = exit.code;
        let (behind, done) = std::mem::take(&mut self.attached)
            .into_iter()
            .partition(Attached::is_behind);
        self.attached = behind;
        done.iter().map(|a| (a.asker, code)).collect()
    }

    /// The pipes that are to be read, with their numbers for [`Container::read`]: none while somebody who is
    /// attached has not taken what was read before.
    pub fn pipes(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        let behind = self.attached.iter().any(Attached::is_behind);
        self.sources
            .iter()
            .enumerate()
            .filter(move |_| !behind)
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
                Ok(length) => {
                    self.log.add(&mut source.pending, &buffer[..length]);
                    for attached in &mut self.attached {
                        attached.write(number, &buffer[..length]);
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    // A terminal that no program holds any more answers EIO: that is its end.
                    if error.raw_os_error() != Some(nix::libc::EIO) {
                        eprintln!("read the output of {}: {error}", self.record.container);
                    }
                    self.log.end(&mut source.pending);
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

fn file(pipe: PipeReader) -> File {
    File::from(OwnedFd::from(pipe))
}

/// Gives pipes to the container's root ([`Create::owner`]).
pub fn own(pipes: &[&dyn AsFd], owner: Option<(u32, u32)>) -> std::io::Result<()> {
    let Some((uid, gid)) = owner else { return Ok(()) };
    pipes
        .iter()
        .try_for_each(|pipe| std::os::unix::fs::fchown(pipe.as_fd(), Some(uid), Some(gid)))
}

/// A pipe whose reading end does not block. Both ends are close-on-exec.
pub fn pipe() -> std::io::Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = std::io::pipe()?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((reader, writer))
}
