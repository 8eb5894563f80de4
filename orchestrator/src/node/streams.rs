//! The standard streams of a program in a container, in our hands: how `exec` and `attach` reach it.
//!
//! The monitor hands descriptors over (see [`berth_client::protocol`]) and says when the program has ended; the
//! bytes themselves do not go through it. When a [`Session`] is dropped its connection closes, and the monitor hangs
//! the program up.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use berth_client::protocol::{
    Answer, Call, FrameError, MAX_FRAME, Message, Request, SOCKET, Streams, VERSION, encode,
};
use berth_sys::terminal::{WindowSize, set_size};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use super::monitor::MonitorError;

/// A pipe or terminal that does not block.
#[derive(Debug)]
pub struct End(AsyncFd<OwnedFd>);

impl End {
    fn new(fd: OwnedFd) -> io::Result<End> {
        let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
        fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        // A pipe is registered for what it can do; a terminal does both.
        let interest = match flags & OFlag::O_ACCMODE {
            OFlag::O_WRONLY => Interest::WRITABLE,
            OFlag::O_RDONLY => Interest::READABLE,
            _ => Interest::READABLE | Interest::WRITABLE,
        };
        // tokio asks for a promise here that the descriptor stays the same; an OwnedFd gives it by its type.
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that give no such promise"
        )]
        AsyncFd::with_interest(fd, interest).map(End)
    }

    /// Reads what is there, waiting for it; 0 at the end. A terminal that nobody holds any more (EIO) has ended.
    ///
    /// # Errors
    /// The system's answer.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = |fd: &AsyncFd<OwnedFd>, buffer: &mut [u8]| match nix::unistd::read(fd.get_ref(), buffer) {
            Err(Errno::EIO) => Ok(0),
            other => other.map_err(io::Error::from),
        };
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(result) = ready.try_io(|fd| read(fd, buffer)) {
                return result;
            }
        }
    }

    /// Reads what is there without waiting; None if there is nothing now.
    ///
    /// # Errors
    /// The system's answer.
    pub fn try_read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match nix::unistd::read(self.0.get_ref(), buffer) {
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EIO) => Ok(Some(0)),
            other => other.map(Some).map_err(io::Error::from),
        }
    }

    /// Writes all of it, waiting for room.
    ///
    /// # Errors
    /// The system's answer, such as EPIPE when nobody reads any more.
    pub async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let mut ready = self.0.writable().await?;
            if let Ok(result) =
                ready.try_io(|fd| nix::unistd::write(fd.get_ref(), bytes).map_err(io::Error::from))
            {
                bytes = &bytes[result?..];
            }
        }
        Ok(())
    }

    /// Whether it is a terminal.
    pub fn is_terminal(&self) -> bool {
        nix::unistd::isatty(self.0.get_ref()).unwrap_or(false)
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// The system's answer: it is no terminal.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        set_size(self.0.get_ref().as_fd(), size)
    }
}

/// A program whose streams we hold.
#[derive(Debug)]
pub struct Session {
    /// What it reads.
    pub stdin: Option<End>,
    /// What it writes; with a terminal, everything it shows.
    pub stdout: Option<End>,
    /// Its error output; none with a terminal.
    pub stderr: Option<End>,
    /// The streams are a terminal.
    pub terminal: bool,
    /// The monitor's word about it.
    pub monitor: Watcher,
    /// What the monitor can be told.
    pub control: Control,
}

/// The reading half of a session's connection.
#[derive(Debug)]
pub struct Watcher {
    reader: OwnedReadHalf,
    frame: Vec<u8>,
}

/// The writing half of a session's connection.
#[derive(Debug)]
pub struct Control(OwnedWriteHalf);

/// Id of the request that opens a session.
const OPENING: u64 = 2;

impl Session {
    /// Asks the monitor at `dir` for the streams of a program: `call` is [`Call::Open`] or [`Call::Attach`].
    ///
    /// # Errors
    /// [`MonitorError`].
    pub async fn open(dir: &Path, call: Call) -> Result<Session, MonitorError> {
        let connect = |source| MonitorError::Connect {
            dir: dir.to_owned(),
            source,
        };
        let handle = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_PATH.bits())
            .open(dir)
            .map_err(connect)?;
        // Through the folder's descriptor: a path of a socket is limited to 107 bytes.
        let path = format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd());
        let mut stream = UnixStream::connect(path).await.map_err(connect)?;
        ask(&mut stream, 1, Call::Hello { version: VERSION }).await?;
        let Answer::Streams(streams) = ask(&mut stream, OPENING, call).await? else {
            return Err(MonitorError::Answer);
        };
        let mut ends = Vec::new();
        for _ in 0..count(streams) {
            let end = receive(&stream).await.map_err(connect)?;
            ends.push(End::new(end).map_err(connect)?);
        }
        let mut ends = ends.into_iter();
        let mut next = |there: bool| if there { ends.next() } else { None };
        let (reader, writer) = stream.into_split();
        Ok(Session {
            stdin: next(streams.stdin),
            stdout: next(streams.stdout),
            stderr: next(streams.stderr),
            terminal: streams.terminal,
            monitor: Watcher {
                reader,
                frame: Vec::new(),
            },
            control: Control(writer),
        })
    }
}

impl Watcher {
    /// Waits for the program's end: its exit code, or None when the monitor is gone. May be cancelled and called
    /// again.
    pub async fn ended(&mut self) -> Option<i32> {
        loop {
            while let Some(frame) = whole_frame(&mut self.frame) {
                let message: Message = serde_json::from_slice(&frame).ok()?;
                if let Message::Ended { code, .. } = message {
                    return Some(code);
                }
            }
            if self.frame.len() > MAX_FRAME + 4 || self.reader.read_buf(&mut self.frame).await.ok()? == 0 {
                return None;
            }
        }
    }
}

impl Control {
    /// Tells that no more input will come.
    pub async fn close_input(&mut self) {
        if let Ok(frame) = encode(&Request {
            id: OPENING + 1,
            call: Call::CloseInput,
        }) {
            // A monitor that is gone has ended the program's input too.
            let _ = self.0.write_all(&frame).await;
        }
    }
}

/// Takes the body of the first frame out of what was read.
fn whole_frame(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = u32::from_le_bytes(*bytes.first_chunk::<4>()?) as usize;
    let body = bytes.get(4..4 + length)?.to_vec();
    bytes.drain(..4 + length);
    Some(body)
}

fn count(streams: Streams) -> usize {
    [streams.stdin, streams.stdout, streams.stderr]
        .iter()
        .filter(|there| **there)
        .count()
}

/// Asks and reads exactly the answer's frame: what follows it are descriptors.
async fn ask(stream: &mut UnixStream, id: u64, call: Call) -> Result<Answer, MonitorError> {
    let frame = encode(&Request { id, call })?;
    stream.write_all(&frame).await.map_err(|_| MonitorError::Gone)?;
    loop {
        let length = stream.read_u32_le().await.map_err(|_| MonitorError::Gone)? as usize;
        if length > MAX_FRAME {
            return Err(FrameError::TooLong { length }.into());
        }
        let mut body = vec![0; length];
        stream
            .read_exact(&mut body)
            .await
            .map_err(|_| MonitorError::Gone)?;
        match serde_json::from_slice(&body).map_err(FrameError::from)? {
            Message::Reply { id: of, result } if of == id => return Ok(result?),
            _ => {}
        }
    }
}

async fn receive(stream: &UnixStream) -> io::Result<OwnedFd> {
    loop {
        stream.readable().await?;
        let received = stream.try_io(Interest::READABLE, || {
            berth_sys::socket::receive_fd(stream.as_fd(), &mut [0])
        });
        match received {
            Ok((1, Some(fd))) => return Ok(fd),
            Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
