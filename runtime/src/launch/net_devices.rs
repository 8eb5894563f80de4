//! `linux.netDevices`: network devices of the runtime's namespace move into the container's, with their addresses.
//!
//! The kernel keeps a device's attributes when it moves and takes its addresses away, so these are read before and
//! given again after. The four kinds of messages that this takes are written by hand: the crates for netlink would
//! be a tenth of the program (runtime/DESIGN.md).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use berth_sys::process::join;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

use super::LaunchError;

const CLONE_NEWNET: u64 = libc::CLONE_NEWNET as u64;
/// Bytes of a message's head (netlink(7), `struct nlmsghdr`).
const HEAD: usize = 16;
/// Bytes of what comes first in messages about a device (rtnetlink(7), `struct ifinfomsg`).
const LINK: usize = 16;
/// The same about an address (`struct ifaddrmsg`).
const ADDRESS: usize = 8;

/// Moves devices, given by their name and their name in the container, into the network namespace of the process `pid`,
/// and brings them up there.
pub(super) fn attach(devices: &[(String, String)], pid: i32) -> Result<(), LaunchError> {
    let path = format!("/proc/{pid}/ns/net");
    let opened =
        File::open(path).and_then(|target| Ok((Channel::open()?, Channel::open_in(target.as_fd())?, target)));
    let (mut host, mut inside, target) = opened.map_err(|source| LaunchError::System {
        what: "talk about network devices with the kernel",
        source,
    })?;
    for (name, new_name) in devices {
        let fail = |action| {
            move |source| LaunchError::NetDevice {
                name: name.clone(),
                action,
                source,
            }
        };
        let index = nix::net::if_::if_nametoindex(name.as_str())
            .map_err(|errno| fail("find it in the runtime's network namespace")(errno.into()))?;
        let addresses = host.addresses(index).map_err(fail("read its addresses"))?;
        let before = inside.links().map_err(fail("list the container's devices"))?;
        host.move_link(index, new_name, target.as_fd())
            .map_err(fail("move it into the container's network namespace"))?;
        let after = inside.links().map_err(fail("list the container's devices"))?;
        // Its number stays, unless it was taken there.
        let moved = after.iter().find(|index| !before.contains(index));
        let moved = *moved.ok_or_else(|| fail("find it in the container")(io::ErrorKind::NotFound.into()))?;
        for address in &addresses {
            inside
                .add_address(moved, address)
                .map_err(fail("give it its addresses again"))?;
        }
        inside.bring_up(moved).map_err(fail("bring it up"))?;
    }
    Ok(())
}

/// An address as the kernel tells it: what comes first, then attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    family: u8,
    prefix_length: u8,
    /// `IFA_*` attributes that do not depend on the device's name.
    attributes: Vec<(u16, Vec<u8>)>,
}

impl Address {
    /// Permanent ones of global scope move (config-linux.md, "Network Devices").
    fn read(body: &[u8], index: u32) -> Option<Self> {
        let (first, rest) = body.split_at_checked(ADDRESS)?;
        let of = u32::from_ne_bytes(first[4..8].try_into().ok()?);
        let attributes = attributes(rest);
        // The older field has only the first eight flags.
        let flags = attributes
            .iter()
            .find(|(kind, _)| *kind == libc::IFA_FLAGS)
            .and_then(|(_, value)| Some(u32::from_ne_bytes(value.as_slice().try_into().ok()?)))
            .unwrap_or(u32::from(first[2]));
        let moves = of == index && flags & libc::IFA_F_PERMANENT != 0 && first[3] == libc::RT_SCOPE_UNIVERSE;
        moves.then(|| Self {
            family: first[0],
            prefix_length: first[1],
            attributes: attributes
                .into_iter()
                .filter(|(kind, _)| [libc::IFA_ADDRESS, libc::IFA_LOCAL, libc::IFA_BROADCAST].contains(kind))
                .collect(),
        })
    }
}

/// A socket for messages about the network of the namespace that it was made in (rtnetlink(7)).
struct Channel {
    socket: OwnedFd,
    number: u32,
}

impl Channel {
    fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )?;
        Ok(Self { socket, number: 0 })
    }

    /// Made in another namespace: this process goes there and back.
    fn open_in(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let own = File::open("/proc/self/ns/net")?;
        join(namespace, CLONE_NEWNET)?;
        let opened = Self::open();
        join(own.as_fd(), CLONE_NEWNET)?;
        opened
    }

    fn links(&mut self) -> io::Result<Vec<u32>> {
        let answers = self.request(libc::RTM_GETLINK, libc::NLM_F_DUMP, &[0; LINK])?;
        let index = |body: &Vec<u8>| Some(u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?));
        Ok(answers.iter().filter_map(index).collect())
    }

    fn addresses(&mut self, index: u32) -> io::Result<Vec<Address>> {
        let answers = self.request(libc::RTM_GETADDR, libc::NLM_F_DUMP, &[0; ADDRESS])?;
        Ok(answers
            .iter()
            .filter_map(|body| Address::read(body, index))
            .collect())
    }

    fn move_link(&mut self, index: u32, name: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
        let mut body = link(index, 0);
        put(&mut body, libc::IFLA_IFNAME, &[name.as_bytes(), &[0]].concat());
        put(
            &mut body,
            libc::IFLA_NET_NS_FD,
            &namespace.as_raw_fd().to_ne_bytes(),
        );
        self.request(libc::RTM_NEWLINK, 0, &body).map(drop)
    }

    fn add_address(&mut self, index: u32, address: &Address) -> io::Result<()> {
        let mut body = vec![address.family, address.prefix_length, 0, libc::RT_SCOPE_UNIVERSE];
        body.extend(index.to_ne_bytes());
        for (kind, value) in &address.attributes {
            put(&mut body, *kind, value);
        }
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        self.request(libc::RTM_NEWADDR, flags, &body).map(drop)
    }

    fn bring_up(&mut self, index: u32) -> io::Result<()> {
        let body = link(index, libc::IFF_UP as u32);
        self.request(libc::RTM_NEWLINK, 0, &body).map(drop)
    }

    /// Sends a message and gives the bodies of the answers.
    fn request(&mut self, kind: u16, flags: i32, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
        self.number += 1;
        let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | flags) as u16;
        let mut message = Vec::with_capacity(HEAD + body.len());
        message.extend(((HEAD + body.len()) as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.number.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(body);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        let mut answers = Vec::new();
        // The kernel makes its answers at most this long (netlink(7)).
        let mut buffer = vec![0; 32 << 10];
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            if take(&buffer[..length], self.number, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Takes the messages of one packet; true after the last one.
fn take(packet: &[u8], number: u32, answers: &mut Vec<Vec<u8>>) -> io::Result<bool> {
    let word = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let mut rest = packet;
    while !rest.is_empty() {
        let length = word(rest, 0).ok_or_else(malformed)? as usize;
        let message = rest.get(..length.max(HEAD)).ok_or_else(malformed)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        if word(message, 8) != Some(number) {
            continue;
        }
        let kind = i32::from(u16::from_ne_bytes([message[4], message[5]]));
        let body = &message[HEAD..];
        if kind == libc::NLMSG_ERROR || kind == libc::NLMSG_DONE {
            let errno = word(body, 0).unwrap_or_default() as i32;
            return if errno == 0 {
                Ok(true)
            } else {
                Err(io::Error::from_raw_os_error(-errno))
            };
        }
        answers.push(body.to_vec());
    }
    Ok(false)
}

/// What comes first in a message about a device, to set `flags` on it.
fn link(index: u32, flags: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(index.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body.extend(flags.to_ne_bytes());
    body
}

/// Messages and attributes begin at multiples of four bytes.
fn aligned(length: usize) -> usize {
    (length + 3) & !3
}

fn put(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(aligned(body.len()), 0);
}

fn attributes(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let [a, b, c, d, ..] = *rest {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let Some(value) = rest.get(4..length.max(4)) else {
            break;
        };
        found.push((u16::from_ne_bytes([c, d]), value.to_vec()));
        rest = rest.get(aligned(length.max(4))..).unwrap_or_default();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: i32, number: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEAD + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend((kind as u16).to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(number.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    #[test]
    fn packets_are_taken_apart() {
        let packet = [
            message(16, 7, b"one"),
            message(16, 6, b"another's"),
            message(16, 7, b"four"),
        ]
        .concat();
        let mut answers = Vec::new();
        assert!(!take(&packet, 7, &mut answers).unwrap());
        assert_eq!(answers, [b"one".to_vec(), b"four".to_vec()]);
        assert!(take(&message(libc::NLMSG_DONE, 7, &[0; 4]), 7, &mut answers).unwrap());
        let refused = message(libc::NLMSG_ERROR, 7, &(-libc::EEXIST).to_ne_bytes());
        let error = take(&refused, 7, &mut answers).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
        for cut in 1..packet.len() {
            // No length leads out of the packet.
            let _ = take(&packet[..cut], 7, &mut Vec::new());
        }
    }

    #[test]
    fn only_permanent_addresses_of_global_scope_move() {
        let body = |flags: u8, scope: u8, index: u32| {
            let mut body = vec![libc::AF_INET as u8, 24, flags, scope];
            body.extend(index.to_ne_bytes());
            put(&mut body, libc::IFA_LOCAL, &[10, 0, 0, 1]);
            put(&mut body, libc::IFA_LABEL, b"eth0\0");
            body
        };
        let found = Address::read(&body(0x80, 0, 3), 3).unwrap();
        assert_eq!(found.attributes, [(libc::IFA_LOCAL, vec![10, 0, 0, 1])]);
        assert_eq!((found.family, found.prefix_length), (libc::AF_INET as u8, 24));
        assert_eq!(Address::read(&body(0x80, 0, 3), 4), None);
        assert_eq!(Address::read(&body(0, 0, 3), 3), None);
        assert_eq!(Address::read(&body(0x80, 253, 3), 3), None);
    }
}
