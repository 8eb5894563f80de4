//! Events to containerd, one after the other, in order.
//!
//! By ttrpc to the socket that containerd named (TTRPC_ADDRESS), or by `containerd publish` where it named none.
//! While containerd is away events wait, up to [`MAX_QUEUED`]; the oldest are lost then.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::protobuf::{self, Message, MessageField};
use containerd_shim_protos::shim::event::Envelope;
use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::ttrpc::proto::{Code, KeyValue, Request};
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, socket};

use crate::args::Args;
use crate::events::Event;
use crate::log::warning;
use crate::server::wire::{Decoder, append_request};

/// Events that may wait.
const MAX_QUEUED: usize = 2048;
/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How often an event is offered to a containerd that refuses it.
const MAX_REFUSED: u32 = 5;

/// The queue and its way to containerd.
#[derive(Debug)]
pub struct Publisher {
    namespace: String,
    way: Way,
    queue: VecDeque<Envelope>,
    retry: Option<Instant>,
    wait: Duration,
    refused: u32,
}

#[derive(Debug)]
enum Way {
    Socket {
        address: PathBuf,
        link: Option<Link>,
    },
    Program {
        path: PathBuf,
        address: String,
        running: Option<i32>,
    },
}

/// What containerd answered to the call under way.
enum Said {
    Nothing,
    Taken,
    Refused(String),
}

/// A connection with at most one call under way.
#[derive(Debug)]
struct Link {
    stream: UnixStream,
    input: Decoder,
    output: Vec<u8>,
    next: u32,
    asked: Option<u32>,
}

impl Publisher {
    /// A queue for `args.namespace`; `ttrpc` is the socket's path.
    pub fn new(args: &Args, ttrpc: Option<String>) -> Publisher {
        let way = match ttrpc.filter(|address| !address.is_empty()) {
            Some(address) => Way::Socket {
                address: address.trim_start_matches("unix://").into(),
                link: None,
            },
            None => Way::Program {
                path: args.publish_binary.clone(),
                address: args.address.clone(),
                running: None,
            },
        };
        Publisher {
            namespace: args.namespace.clone(),
            way,
            queue: VecDeque::new(),
            retry: None,
            wait: RETRY.0,
            refused: 0,
        }
    }

    /// Adds an event and sends it if none is under way.
    pub fn push(&mut self, event: Event) {
        if self.queue.len() == MAX_QUEUED {
            warning!("an event is lost: containerd has not taken {MAX_QUEUED} others");
            self.queue.pop_front();
        }
        self.queue.push_back(event.envelope(&self.namespace));
        self.advance();
    }

    /// Whether everything was taken by containerd.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What is to be polled.
    pub fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let Way::Socket { link: Some(link), .. } = &self.way else {
            return None;
        };
        let mut flags = PollFlags::POLLIN;
        flags.set(PollFlags::POLLOUT, !link.output.is_empty());
        Some((link.stream.as_fd(), flags))
    }

    /// When to try again.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry
    }

    /// Tries again if it is time.
    pub fn expire(&mut self, now: Instant) {
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.advance();
        }
    }

    /// Reads and writes what the connection has and takes.
    pub fn ready(&mut self, buffer: &mut [u8]) {
        let Way::Socket { link: slot, .. } = &mut self.way else {
            return;
        };
        let Some(link) = slot else { return };
        match link.exchange(buffer) {
            Ok(Said::Nothing) => {}
            Ok(Said::Taken) => self.taken(),
            Ok(Said::Refused(message)) => {
                self.refused += 1;
                if self.refused < MAX_REFUSED {
                    return self.fail();
                }
                warning!("an event is dropped: containerd refuses it: {message}");
                self.taken();
            }
            Err(_) => {
                // containerd is gone. Without an event there is no hurry to find it again.
                *slot = None;
                self.fail();
            }
        }
    }

    /// Takes note of the end of a child; whether it was the publishing program.
    pub fn ended(&mut self, pid: i32, success: bool) -> bool {
        let Way::Program { running, .. } = &mut self.way else {
            return false;
        };
        if *running != Some(pid) {
            return false;
        }
        *running = None;
        if success {
            self.taken();
        } else {
            self.refused += 1;
            if self.refused < MAX_REFUSED {
                self.fail();
            } else {
                warning!("an event is dropped: the publishing program fails");
                self.taken();
            }
        }
        true
    }

    fn taken(&mut self) {
        self.queue.pop_front();
        self.refused = 0;
        self.wait = RETRY.0;
        self.advance();
    }

    fn fail(&mut self) {
        if !self.queue.is_empty() {
            self.retry = Some(Instant::now() + self.wait);
            self.wait = (self.wait * 2).min(RETRY.1);
        }
    }

    /// Sends the first event unless one is under way or a wait is.
    fn advance(&mut self) {
        if self.retry.is_some() {
            return;
        }
        let Some(envelope) = self.queue.front() else {
            self.queue = VecDeque::new();
            return;
        };
        let sent = match &mut self.way {
            Way::Socket { address, link } => forward(address, link, envelope, &self.namespace),
            Way::Program { running: Some(_), .. } => Ok(()),
            Way::Program {
                path,
                address,
                running,
            } => publish(path, address, envelope).map(|pid| *running = Some(pid)),
        };
        if sent.is_err() {
            self.fail();
        }
    }
}

/// Sends a Forward call, over a new connection if there is none.
fn forward(
    address: &std::path::Path,
    slot: &mut Option<Link>,
    envelope: &Envelope,
    namespace: &str,
) -> std::io::Result<()> {
    let link = match slot {
        Some(link) => link,
        None => slot.insert(Link {
            stream: connect(address)?,
            input: Decoder::default(),
            output: Vec::new(),
            next: 1,
            asked: None,
        }),
    };
    if link.asked.is_some() {
        return Ok(());
    }
    let request = request(envelope, namespace)?;
    append_request(&mut link.output, link.next, &request)?;
    link.asked = Some(link.next);
    link.next += 2;
    let sent = link.flush();
    if sent.is_err() {
        *slot = None;
    }
    sent
}

/// Without waiting for a containerd that does not take connections at the moment.
fn connect(address: &std::path::Path) -> std::io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    nix::sys::socket::connect(socket.as_raw_fd(), &UnixAddr::new(address)?)?;
    Ok(socket.into())
}

fn request(envelope: &Envelope, namespace: &str) -> Result<Request, protobuf::Error> {
    let mut forward = ForwardRequest::new();
    forward.envelope = MessageField::some(envelope.clone());
    let mut request = Request::new();
    "containerd.services.events.ttrpc.v1.Events".clone_into(&mut request.service);
    "Forward".clone_into(&mut request.method);
    request.payload = forward.write_to_bytes()?;
    let mut pair = KeyValue::new();
    "containerd-namespace-ttrpc".clone_into(&mut pair.key);
    namespace.clone_into(&mut pair.value);
    request.metadata.push(pair);
    Ok(request)
}

/// Starts `containerd publish` with the event as its standard input.
fn publish(path: &std::path::Path, address: &str, envelope: &Envelope) -> std::io::Result<i32> {
    let mut input = std::fs::File::from(berth_sys::files::memory_file(c"event")?);
    input.write_all(&envelope.event.write_to_bytes()?)?;
    input.rewind()?;
    let child = Command::new(path)
        .args(["--address", address, "publish", "--topic", &envelope.topic])
        .args(["--namespace", &envelope.namespace])
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(child.id() as i32)
}

impl Link {
    fn exchange(&mut self, buffer: &mut [u8]) -> std::io::Result<Said> {
        self.flush()?;
        match self.stream.read(buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => self.input.push(&buffer[..length]),
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let answer = self.input.next_response().map_err(std::io::Error::other)?;
        let Some((stream, response)) = answer else {
            return Ok(Said::Nothing);
        };
        if self.asked != Some(stream) {
            return Ok(Said::Nothing);
        }
        self.asked = None;
        Ok(match response.status.code.enum_value_or(Code::UNKNOWN) {
            Code::OK => Said::Taken,
            _ => Said::Refused(response.status.message.clone()),
        })
    }

    fn flush(&mut self) -> std::io::Result<()> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(length) => {
                    self.output.drain(..length);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output = Vec::new();
        Ok(())
    }
}
