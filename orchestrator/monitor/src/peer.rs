//! One connection of `berthd`.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use berth_client::protocol::{Decoder, Message, Request, encode};

/// Bytes that may wait for a peer before it is given up.
const MAX_QUEUED: usize = 4 << 20;

/// A connection with its unfinished frames, both ways.
#[derive(Debug)]
pub struct Peer {
    /// Distinguishes connections over time, so that a late answer never reaches another one.
    pub serial: u64,
    /// The Hello was exchanged.
    pub greeted: bool,
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
            greeted: false,
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

    /// Gives the connection up.
    pub fn close(&mut self) {
        self.open = false;
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
    pub fn next(&mut self) -> Option<Request> {
        match self.input.next_frame() {
            Ok(request) => request,
            Err(error) => {
                eprintln!("a connection is dropped: {error}");
                self.open = false;
                None
            }
        }
    }

    /// Queues a message and writes what the socket takes.
    pub fn send(&mut self, message: &Message) {
        match encode(message) {
            Ok(frame) => self.output.extend_from_slice(&frame),
            Err(error) => {
                eprintln!("an answer cannot be sent: {error}");
                self.open = false;
            }
        }
        self.flush();
    }

    /// Sends a message, then descriptors, each with one byte. They go at once or the connection is given up: nothing
    /// waits before them on a connection that asks for descriptors.
    pub fn send_with(&mut self, message: &Message, descriptors: &[OwnedFd]) {
        self.send(message);
        let sent = self.output.is_empty()
            && descriptors
                .iter()
                .all(|one| berth_sys::socket::send_fd(self.stream.as_fd(), &[0], one.as_fd()).is_ok());
        if !sent {
            eprintln!("a connection is dropped: it does not take descriptors");
            self.open = false;
        }
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
            eprintln!("a connection is dropped: it does not read its answers");
            self.open = false;
        }
    }
}
