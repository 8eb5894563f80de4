//! Those who are attached to a container's first process, and get its output beside the log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::exec::Asker;

/// How long somebody who does not read may hold up the container.
const PATIENCE: Duration = Duration::from_secs(10);

/// One who is attached.
#[derive(Debug)]
pub struct Attached {
    /// Who.
    pub asker: Asker,
    /// He writes to the container's stdin.
    pub input: bool,
    outputs: [Option<Output>; 2],
}

/// The writing end of a pipe to him, and what it does not take yet.
#[derive(Debug)]
struct Output {
    pipe: File,
    backlog: VecDeque<u8>,
    /// When the pipe last took something.
    progress: Instant,
}

impl Attached {
    /// `outputs` are the writing ends of pipes for stdout and stderr.
    ///
    /// # Errors
    /// The system's answer to making them non-blocking.
    pub fn new(asker: Asker, input: bool, outputs: [Option<OwnedFd>; 2]) -> std::io::Result<Attached> {
        let now = Instant::now();
        let mut made = [None, None];
        for (place, pipe) in made.iter_mut().zip(outputs) {
            let Some(pipe) = pipe else { continue };
            fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            *place = Some(Output {
                pipe: File::from(pipe),
                backlog: VecDeque::new(),
                progress: now,
            });
        }
        Ok(Attached {
            asker,
            input,
            outputs: made,
        })
    }

    /// Hands output on; what the pipe does not take waits.
    pub fn write(&mut self, stream: usize, bytes: &[u8]) {
        if let Some(output) = self.outputs.get_mut(stream).and_then(Option::as_mut) {
            if output.backlog.is_empty() {
                output.progress = Instant::now();
            }
            output.backlog.extend(bytes);
            self.flush(stream);
        }
    }

    /// Writes what waits, as far as the pipe takes it.
    pub fn flush(&mut self, stream: usize) {
        let Some(output) = self.outputs.get_mut(stream).and_then(Option::as_mut) else {
            return;
        };
        while !output.backlog.is_empty() {
            match output.pipe.write(output.backlog.as_slices().0) {
                Ok(length) => {
                    output.backlog.drain(..length);
                    output.progress = Instant::now();
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                // He is gone.
                Err(_) => {
                    self.outputs[stream] = None;
                    return;
                }
            }
        }
        output.backlog = VecDeque::new();
    }

    /// The pipes for which something waits, with their numbers for [`Attached::flush`].
    pub fn waiting(&self) -> impl Iterator<Item = (usize, BorrowedFd<'_>)> {
        self.outputs.iter().enumerate().filter_map(|(n, output)| {
            let output = output.as_ref()?;
            (!output.backlog.is_empty()).then_some((n, output.pipe.as_fd()))
        })
    }

    /// Whether something waits: the container's output is not read on then.
    pub fn is_behind(&self) -> bool {
        self.outputs.iter().flatten().any(|o| !o.backlog.is_empty())
    }

    /// When the patience with him ends.
    pub fn deadline(&self) -> Option<Instant> {
        let behind = self.outputs.iter().flatten().filter(|o| !o.backlog.is_empty());
        behind.map(|o| o.progress + PATIENCE).min()
    }

    /// Closes pipes that took nothing for too long.
    pub fn expire(&mut self, now: Instant) {
        for output in &mut self.outputs {
            if output
                .as_ref()
                .is_some_and(|o| !o.backlog.is_empty() && o.progress + PATIENCE <= now)
            {
                eprintln!("an attached client does not read: its stream is closed");
                *output = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn pair() -> (std::io::PipeReader, Attached) {
        let (reader, writer) = std::io::pipe().unwrap();
        let asker = Asker { peer: 1, request: 1 };
        let attached = Attached::new(asker, false, [Some(writer.into()), None]).unwrap();
        (reader, attached)
    }

    #[test]
    fn what_the_pipe_does_not_take_waits() {
        let (mut reader, mut attached) = pair();
        let all: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
        attached.write(0, &all);
        assert!(attached.is_behind() && attached.deadline().is_some());
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while seen.len() < all.len() {
            let length = reader.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..length]);
            attached.flush(0);
        }
        assert!(seen == all && !attached.is_behind());
    }

    #[test]
    fn who_does_not_read_or_is_gone_is_given_up() {
        let (_reader, mut attached) = pair();
        attached.write(0, &vec![0; 200_000]);
        attached.expire(Instant::now());
        assert!(attached.is_behind());
        attached.expire(Instant::now() + PATIENCE + Duration::from_secs(1));
        assert!(!attached.is_behind());
        let (reader, mut attached) = pair();
        drop(reader);
        attached.write(0, b"x");
        assert!(!attached.is_behind() && attached.waiting().next().is_none());
    }
}
