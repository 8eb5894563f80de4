//! Connection tracking: UDP "connections" that were made before a published port changed would go on
//! to the old place for ever, so they are removed on ADD and on DEL (plugins#1190).

use std::net::{IpAddr, Ipv4Addr};

use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use super::{
    batch::generic_header,
    expr::{Family, octets},
    wire::{Attributes, Writer},
};
use crate::netlink::{Channel, Message, NetlinkError};

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
/// TCP_CONNTRACK_ESTABLISHED
const TCP_ESTABLISHED: u8 = 3;
const UDP: u8 = 17;
const NLM_F_ACK: u16 = 4;

/// A published UDP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UdpPort {
    pub family: Family,
    /// Absent: any address of the host.
    pub address: Option<IpAddr>,
    pub port: u16,
}

/// Removes the entries whose original destination is one of the ports.
pub(crate) fn forget(ports: &[UdpPort]) -> Result<(), NetlinkError> {
    if ports.is_empty() {
        return Ok(());
    }
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    for family in Family::BOTH {
        let wanted: Vec<&UdpPort> = ports.iter().filter(|p| p.family == family).collect();
        if wanted.is_empty() {
            continue;
        }
        let list = message("list tracked connections", GET, family, &[]);
        let mut tuples = Vec::new();
        match channel.dump(&list, |answer| {
            let tuple = Attributes::new(answer.body.get(4..).unwrap_or_default()).value(TUPLE_ORIGINAL);
            if let Some(tuple) = tuple
                && wanted.iter().any(|port| leads_to(&Attributes::new(tuple), port))
            {
                tuples.push(tuple.to_vec());
            }
        }) {
            Ok(()) => {}
            // No connection tracking yet: nothing to forget.
            Err(e) if matches!(e.errno, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL) => return Ok(()),
            Err(e) => return Err(e),
        }
        for tuple in tuples {
            let delete = message("delete a tracked connection", DELETE, family, &tuple);
            let mut bytes = Vec::new();
            let sequence = channel.next_sequence();
            delete.append(&mut bytes, NLM_F_ACK, sequence);
            channel.send(&delete.what, &bytes)?;
            // An entry that just ended by itself is as good as deleted.
            channel.receive(&delete.what, true)?;
        }
    }
    Ok(())
}

/// Whether a TCP connection to one of the addresses, however it got there, was used within the last second or so.
/// `whole` is the time that an established connection is remembered without packets, in seconds.
pub(crate) fn in_use(addresses: &[Ipv4Addr], whole: u32) -> Result<bool, NetlinkError> {
    let mut channel = Channel::open(NETLINK_NETFILTER)?;
    let list = message("list tracked connections", GET, Family::V4, &[]);
    let mut busy = false;
    match channel.dump(&list, |answer| {
        let entry = Attributes::new(answer.body.get(4..).unwrap_or_default());
        busy = busy || is_in_use(&entry, addresses, whole) == Some(true);
    }) {
        Ok(()) => Ok(busy),
        Err(e) if matches!(e.errno, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EINVAL) => Ok(false),
        Err(e) => Err(e),
    }
}

fn is_in_use(entry: &Attributes<'_>, addresses: &[Ipv4Addr], whole: u32) -> Option<bool> {
    // The packets that come back are from the address itself, also where its clients know another one.
    let from = entry.inner(TUPLE_REPLY)?.inner(1)?.value(1)?;
    let from = Ipv4Addr::from(*from.first_chunk::<4>()?);
    let state = entry.inner(PROTOCOL_INFO)?.inner(1)?.value(1)?;
    let left = entry.be32(TIMEOUT)?;
    Some(addresses.contains(&from) && state == [TCP_ESTABLISHED] && left.saturating_add(1) >= whole)
}

fn message(what: &str, kind: u16, family: Family, tuple: &[u8]) -> Message {
    let mut writer = Writer(generic_header(family.number(), 0));
    if !tuple.is_empty() {
        writer.nest(TUPLE_ORIGINAL, |w| w.0.extend_from_slice(tuple));
    }
    Message {
        what: what.into(),
        kind,
        flags: 0,
        body: writer.0,
        tolerated: &[],
    }
}

fn leads_to(tuple: &Attributes<'_>, port: &UdpPort) -> bool {
    let (Some(ip), Some(protocol)) = (tuple.inner(1), tuple.inner(2)) else {
        return false;
    };
    let destination = ip.value(match port.family {
        Family::V4 => 2,
        Family::V6 => 4,
    });
    protocol.value(1) == Some(&[UDP])
        && protocol.value(3) == Some(&port.port.to_be_bytes())
        && port
            .address
            .is_none_or(|a| destination == Some(octets(a).as_slice()))
}
