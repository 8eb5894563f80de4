//! A blocking netlink socket, and rtnetlink requests over it.
//!
//! The kernel serves a request inside sendmsg(2): when it returns, all answers are queued. One
//! datagram carries a whole batch, so an ADD needs few system calls.

mod addresses;
mod links;
mod routes;
mod shaping;
mod vlans;

pub use addresses::InterfaceAddress;
pub use links::{BridgePort, Link, MacvlanMode, NewLink, Peer};
pub use routes::InstalledRoute;
pub(crate) use routes::MAIN_TABLE;
pub(crate) use shaping::TokenBucket;
pub(crate) use vlans::PortVlan;

use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;

use crate::{
    netns::NetNs,
    protocol::{Failure, code},
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const HEADER: usize = 16;
/// The kernel never makes a dump datagram larger than this (NLMSG_GOODSIZE limits in af_netlink.c).
const RECEIVE_BUFFER: usize = 64 * 1024;

/// The kernel, or the socket, refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {}{}", errno.desc(), detail.as_ref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub struct NetlinkError {
    /// What was attempted, on what.
    pub what: String,
    /// The error number.
    pub errno: Errno,
    /// The kernel's own explanation (extended acknowledgement).
    pub detail: Option<String>,
}

impl From<NetlinkError> for Failure {
    fn from(error: NetlinkError) -> Self {
        Self::new(code::KERNEL, error.to_string())
    }
}

/// One message to the kernel.
#[derive(Debug, Clone)]
pub struct Message {
    /// What it does, for the error text.
    pub what: String,
    /// Message type.
    pub kind: u16,
    /// NLM_F_ flags beside REQUEST.
    pub flags: u16,
    /// Everything after the header.
    pub body: Vec<u8>,
    /// Error numbers that count as success.
    pub tolerated: &'static [Errno],
}

impl Message {
    /// A message with a body made by netlink-packet-route.
    pub fn new(what: impl Into<String>, kind: u16, flags: u16, body: &impl Emitable) -> Self {
        let mut bytes = vec![0; body.buffer_len()];
        body.emit(&mut bytes);
        Self {
            what: what.into(),
            kind,
            flags,
            body: bytes,
            tolerated: &[],
        }
    }

    /// The same message, which may fail in the given ways.
    pub fn tolerate(mut self, errors: &'static [Errno]) -> Self {
        self.tolerated = errors;
        self
    }

    pub(crate) fn append(&self, out: &mut Vec<u8>, flags: u16, sequence: u32) {
        let length = (HEADER + self.body.len()) as u32;
        out.extend_from_slice(&length.to_ne_bytes());
        out.extend_from_slice(&self.kind.to_ne_bytes());
        out.extend_from_slice(&(self.flags | flags | NLM_F_REQUEST).to_ne_bytes());
        out.extend_from_slice(&sequence.to_ne_bytes());
        out.extend_from_slice(&0u32.to_ne_bytes());
        out.extend_from_slice(&self.body);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

/// One message from the kernel.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: Vec<u8>,
}

impl Answer {
    /// The error number of an NLMSG_ERROR or NLMSG_DONE (0: success) and the kernel's explanation.
    pub fn error(&self) -> Option<(i32, Option<String>)> {
        if self.kind != NLMSG_ERROR && self.kind != NLMSG_DONE {
            return None;
        }
        let Some(raw) = self.body.first_chunk::<4>() else {
            return Some((0, None));
        };
        let number = -i32::from_ne_bytes(*raw);
        if self.kind == NLMSG_DONE || self.flags & NLM_F_ACK_TLVS == 0 {
            return Some((number, None));
        }
        // After the error number: the request's header, and its body unless capped; then attributes.
        let echoed = self
            .body
            .get(4..8)
            .and_then(|b| b.first_chunk::<4>())
            .map_or(0, |b| u32::from_ne_bytes(*b));
        let skip = if self.flags & NLM_F_CAPPED == 0 {
            (echoed as usize).next_multiple_of(4)
        } else {
            HEADER
        };
        let text = self.body.get(4 + skip..).and_then(|attributes| {
            crate::nft::wire::Attributes::new(attributes)
                .find(|(kind, _)| *kind == 1)
                .map(|(_, text)| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
        });
        Some((number, text))
    }
}

/// A netlink socket with its sequence counter.
pub(crate) struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    /// Opens a socket in the thread's network namespace.
    pub fn open(protocol: isize) -> Result<Self, NetlinkError> {
        let failed = |e: std::io::Error| NetlinkError {
            what: "open a netlink socket".into(),
            errno: Errno::from_raw(e.raw_os_error().unwrap_or(0)),
            detail: None,
        };
        let socket = Socket::new(protocol).map_err(failed)?;
        // Both only make answers better; kernels before 4.12 do without.
        let _ = socket.set_cap_ack(true);
        let _ = socket.set_ext_ack(true);
        Ok(Self {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(RECEIVE_BUFFER),
        })
    }

    pub fn next_sequence(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    pub fn send(&self, what: &str, bytes: &[u8]) -> Result<(), NetlinkError> {
        self.socket
            .send(bytes, 0)
            .map(drop)
            .map_err(|e| io_error(what, &e))
    }

    /// Lets one datagram be this long, where it would not be anyway. Needs CAP_NET_ADMIN, as all changes do.
    pub fn make_room(&self, bytes: usize) {
        use nix::sys::socket::{setsockopt, sockopt::SndBufForce};
        const USUAL: usize = 128 << 10;
        if bytes > USUAL {
            // Sending tells if it did not help.
            let _ = setsockopt(self, SndBufForce, &bytes.saturating_mul(2));
        }
    }

    /// The answers of one datagram; none when `wait` is false and nothing is queued.
    pub fn receive(&mut self, what: &str, wait: bool) -> Result<Vec<Answer>, NetlinkError> {
        self.buffer.clear();
        let flags = if wait { 0 } else { libc::MSG_DONTWAIT };
        loop {
            match self.socket.recv(&mut self.buffer, flags) {
                Ok(_) => break,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return Ok(Vec::new()),
                Err(e) => return Err(io_error(what, &e)),
            }
        }
        Ok(split(&self.buffer))
    }

    /// Sends one request with NLM_F_DUMP and hands each part to `each`.
    pub fn dump(&mut self, message: &Message, mut each: impl FnMut(Answer)) -> Result<(), NetlinkError> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        message.append(&mut bytes, NLM_F_DUMP, sequence);
        self.send(&message.what, &bytes)?;
        loop {
            for answer in self.receive(&message.what, true)? {
                if answer.sequence != sequence {
                    continue;
                }
                match answer.error() {
                    Some((0, _)) => return Ok(()),
                    Some((number, detail)) => return Err(refused(message, number, detail)),
                    None => each(answer),
                }
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn io_error(what: &str, error: &std::io::Error) -> NetlinkError {
    NetlinkError {
        what: what.into(),
        errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        detail: None,
    }
}

fn refused(message: &Message, number: i32, detail: Option<String>) -> NetlinkError {
    NetlinkError {
        what: message.what.clone(),
        errno: Errno::from_raw(number),
        detail,
    }
}

fn split(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while let Some(header) = bytes.first_chunk::<HEADER>() {
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let half = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
        let length = word(0) as usize;
        let Some(body) = bytes.get(HEADER..length) else {
            break;
        };
        answers.push(Answer {
            kind: half(4),
            flags: half(6),
            sequence: word(8),
            body: body.to_vec(),
        });
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    answers
}

/// An rtnetlink socket in one network namespace.
pub struct Rtnl {
    channel: Channel,
}

impl Rtnl {
    /// Opens it in the thread's namespace.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            channel: Channel::open(NETLINK_ROUTE)?,
        })
    }

    /// Opens it in `netns`; the thread stays where it is.
    pub fn open_in(netns: &NetNs) -> Result<Self, Failure> {
        netns.within(|| Ok(Self::open()?))
    }

    /// Sends all messages in one datagram; the first that the kernel refuses is the error.
    ///
    /// The kernel goes on after a refused message, so the caller undoes the whole on an error.
    pub fn run(&mut self, messages: &[Message]) -> Result<(), NetlinkError> {
        let mut bytes = Vec::new();
        let first = self.channel.sequence + 1;
        for message in messages {
            let sequence = self.channel.next_sequence();
            message.append(&mut bytes, NLM_F_ACK, sequence);
        }
        let Some(last) = messages.last() else {
            return Ok(());
        };
        self.channel.send(&last.what, &bytes)?;
        let mut outcome = Ok(());
        let mut left = messages.len();
        while left > 0 {
            for answer in self.channel.receive(&last.what, true)? {
                let Some((number, detail)) = answer.error() else {
                    continue;
                };
                let Some(message) = messages.get(answer.sequence.wrapping_sub(first) as usize) else {
                    continue;
                };
                left -= 1;
                let error = refused(message, number, detail);
                if number != 0 && outcome.is_ok() && !message.tolerated.contains(&error.errno) {
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Sends one request and gives its one answer; absent when the kernel says there is no such thing.
    fn get(&mut self, message: &Message, absent: &[Errno]) -> Result<Option<Answer>, NetlinkError> {
        let sequence = self.channel.next_sequence();
        let mut bytes = Vec::new();
        message.append(&mut bytes, 0, sequence);
        self.channel.send(&message.what, &bytes)?;
        loop {
            for answer in self.channel.receive(&message.what, true)? {
                if answer.sequence != sequence {
                    continue;
                }
                return match answer.error() {
                    None => Ok(Some(answer)),
                    Some((number, _)) if absent.contains(&Errno::from_raw(number)) => Ok(None),
                    Some((number, detail)) => Err(refused(message, number, detail)),
                };
            }
        }
    }
}
