//! Addresses of interfaces: RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope},
};
use nix::errno::Errno;

use super::{Message, NetlinkError, Rtnl};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;

/// An address as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The interface's index.
    pub index: u32,
    /// Address with prefix length.
    pub address: IpNet,
    /// Global scope: not link-local.
    pub global: bool,
    /// Duplicate address detection goes on: not usable yet.
    pub tentative: bool,
}

fn message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = family(address.addr());
    message.attributes.push(AddressAttribute::Local(address.addr()));
    message.attributes.push(AddressAttribute::Address(address.addr()));
    message
}

pub(super) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

impl Message {
    /// Adds an address.
    ///
    /// `dad`: IPv6 waits for duplicate address detection; without, the address is usable at once. The
    /// addresses of a container network are given out by IPAM, so nothing else can have them.
    pub fn add_address(index: u32, on: &str, address: IpNet, dad: bool) -> Self {
        let mut message = message(index, address);
        match address {
            IpNet::V4(net) if net.prefix_len() < 31 => {
                message
                    .attributes
                    .push(AddressAttribute::Broadcast(net.broadcast()));
            }
            IpNet::V6(_) if !dad => {
                message.header.flags |= AddressHeaderFlags::Nodad;
                message
                    .attributes
                    .push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            _ => {}
        }
        Self::new(
            format!("add address {address} to {on}"),
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_EXCL,
            &message,
        )
    }

    /// Adds an address without the route to its subnet (ptp adds routes of its own).
    pub fn add_address_without_route(index: u32, on: &str, address: IpNet) -> Self {
        let mut message = message(index, address);
        if matches!(address, IpNet::V6(_)) {
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        let flags = AddressFlags::Noprefixroute
            | if matches!(address, IpNet::V6(_)) {
                AddressFlags::Nodad
            } else {
                AddressFlags::empty()
            };
        message.attributes.push(AddressAttribute::Flags(flags));
        Self::new(
            format!("add address {address} to {on}"),
            RTM_NEWADDR,
            NLM_F_CREATE | NLM_F_EXCL,
            &message,
        )
    }

    /// Removes an address; one that is gone already is fine.
    pub fn delete_address(index: u32, on: &str, address: IpNet) -> Self {
        Self::new(
            format!("delete address {address} of {on}"),
            RTM_DELADDR,
            0,
            &message(index, address),
        )
        .tolerate(&[Errno::EADDRNOTAVAIL, Errno::ENODEV])
    }
}

impl Rtnl {
    /// The addresses of the interface with that index.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<InterfaceAddress>, NetlinkError> {
        let request = Message::new("list addresses", RTM_GETADDR, 0, &AddressMessage::default());
        let mut found = Vec::new();
        self.channel.dump(&request, |answer| {
            let Ok(message) = AddressMessage::parse(&answer.body) else {
                return;
            };
            if message.header.index != index {
                return;
            }
            // IFA_LOCAL is the interface's own address; IPv6 has only IFA_ADDRESS.
            let address = message.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(ip) => Some(*ip),
                _ => None,
            });
            let address = address.or_else(|| {
                message.attributes.iter().find_map(|a| match a {
                    AddressAttribute::Address(ip) => Some(*ip),
                    _ => None,
                })
            });
            if let Some(address) = address.and_then(|ip| IpNet::new(ip, message.header.prefix_len).ok()) {
                found.push(InterfaceAddress {
                    index,
                    address,
                    global: message.header.scope == AddressScope::Universe,
                    tentative: message.header.flags.contains(AddressHeaderFlags::Tentative),
                });
            }
        })?;
        Ok(found)
    }
}
