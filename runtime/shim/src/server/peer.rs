//! One connection of containerd.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use containerd_shim_protos::ttrpc::proto::Request;

use super::wire::{Answer, Decoder, append_response};
use crate::log::warning;

/// Bytes that may wait for a peer before it is given up.
const MAX_QUEUED: usize = 16 << 20;

/// A connection with its unfinished frames, both ways.
#[derive(Debug)]
pub struct Peer {
    /// Distinguishes connections over time, so that a late answer never reaches another one.
    pub serial: u64,
    stream: UnixStream,
    input: Decoder,
    output: Vec<u8>,
    open: bool,
}

impl Peer {
    /// Takes a fresh connection over.
    ///
    /// # Errors
    /// The system's answer to setting it non-blocking.
    pub fn new(serial: u64, stream: UnixStream) -> std::io::Result<Peer> {
        stream.set_nonblocking(true)?;
        Ok(Peer {
            serial,
            stream,
            input: Decoder::default(),
            output: Vec::new(),
            open: true,
        })
    }

    /// The descriptor to be polled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// Whether something waits to be written.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether the connection is of further use.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Reads what is there.
    pub fn read(&mut self, buffer: &mut [u8]) {
        match self.stream.read(buffer) {
            Ok(0) => self.open = false,
            Ok(length) => self.input.push(&buffer[..length]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.open = false,
        }
    }

    /// The next whole request; a frame that is none ends the connection.
    pub fn next(&mut self) -> Option<(u32, Request)> {
        match self.input.next_request() {
            Ok(request) => request,
            Err(error) => {
                warning!("a connection is dropped: {}", crate::error::chain(&error));
                self.open = false;
                None
            }
        }
    }

    /// Queues an answer and writes what the socket takes.
    pub fn answer(&mut self, stream: u32, answer: Answer) {
        if let Err(error) = append_response(&mut self.output, stream, answer) {
            warning!("an answer cannot be sent: {error}");
            self.open = false;
        }
        self.flush();
    }

    /// Writes what the socket takes.
    pub fn flush(&mut self) {
        while self.open && !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => self.open = false,
                Ok(length) => {
                    self.output.drain(..length);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.open = false,
            }
        }
        if self.output.is_empty() {
            self.output = Vec::new();
        } else if self.output.len() > MAX_QUEUED {
            warning!("a connection is dropped: it does not read its answers");
            self.open = false;
        }
    }
}
