//! Interfaces: RTM_NEWLINK, RTM_SETLINK, RTM_DELLINK, RTM_GETLINK (rtnetlink(7)).

use std::os::fd::AsRawFd as _;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Parseable as _};
use netlink_packet_route::link::{
    InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoMacVlan, InfoPortData, InfoPortKind, InfoVeth,
    LinkAttribute, LinkFlags, LinkInfo, LinkMessage, MacVlanMode, State,
};
use nix::errno::Errno;

use super::{Message, NetlinkError, Rtnl};
use crate::netns::NetNs;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;

/// An interface as the kernel reports it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Index in its namespace.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address.
    pub mac: Vec<u8>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Transmit queue length in packets.
    pub tx_queue: u32,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Index of the other end (veth) or the parent (macvlan), maybe in another namespace.
    pub peer: Option<u32>,
    /// Alias; the plugins write the attachment there.
    pub alias: String,
    /// `veth`, `bridge`, `macvlan`, …; empty for hardware.
    pub kind: String,
    /// Administratively up.
    pub up: bool,
    /// Promiscuous mode asked for.
    pub promiscuous: bool,
    /// Reception of all multicast asked for.
    pub all_multicast: bool,
    /// Able to pass packets.
    pub running: bool,
    /// A bridge that looks at VLAN tags.
    pub vlan_filtering: bool,
    /// Properties as a bridge's port.
    pub port: BridgePort,
}

impl Link {
    fn parse(body: &[u8]) -> Option<Self> {
        let message = LinkMessage::parse(body).ok()?;
        let flags = message.header.flags;
        let mut link = Self {
            index: message.header.index,
            up: flags.contains(LinkFlags::Up),
            promiscuous: flags.contains(LinkFlags::Promisc),
            all_multicast: flags.contains(LinkFlags::Allmulti),
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::TxQueueLen(length) => link.tx_queue = length,
                LinkAttribute::Controller(index) => link.master = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::OperState(state) => link.running = matches!(state, State::Up | State::Unknown),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                            LinkInfo::Data(InfoData::Bridge(data)) => {
                                link.vlan_filtering = data.contains(&InfoBridge::VlanFiltering(true));
                            }
                            LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                                link.port = BridgePort {
                                    hairpin: data.contains(&InfoBridgePort::HairpinMode(true)),
                                    isolated: data.contains(&InfoBridgePort::Isolated(true)),
                                };
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// How a macvlan treats packets between its siblings (ip-link(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacvlanMode {
    /// Siblings talk directly.
    Bridge,
    /// Siblings cannot talk.
    Private,
    /// Everything goes through the external switch.
    Vepa,
    /// One interface takes the parent over.
    Passthru,
}

/// The other end of a new veth.
#[derive(Debug)]
pub struct Peer<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// The namespace it is born in.
    pub netns: &'a NetNs,
}

/// What a new interface is like beside its name.
#[derive(Debug, Default)]
pub struct NewLink<'a> {
    /// Hardware address; the kernel's random one otherwise.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes; the kernel's default otherwise.
    pub mtu: Option<u32>,
    /// Bridge to be a port of.
    pub master: Option<u32>,
    /// Up from the start.
    pub up: bool,
    /// For a veth: the other end.
    pub peer: Option<Peer<'a>>,
    /// For a macvlan: parent index, mode, broadcast queue length.
    pub macvlan: Option<(u32, MacvlanMode, Option<u32>)>,
    /// For a bridge: it looks at VLAN tags.
    pub vlan_filtering: bool,
    /// The namespace it is born in; the socket's own otherwise.
    pub netns: Option<&'a NetNs>,
}

/// Properties of a bridge's port (bridge(8)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BridgePort {
    /// Packets may leave by the port they came from.
    pub hairpin: bool,
    /// Isolated ports do not talk to each other.
    pub isolated: bool,
}

/// A message that names its interface, so that no index need be known.
fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn vlan_filtering() -> LinkInfo {
    LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::VlanFiltering(true)]))
}

fn set_flag(message: &mut LinkMessage, flag: LinkFlags, on: bool) {
    message.header.change_mask |= flag;
    if on {
        message.header.flags |= flag;
    }
}

impl Message {
    /// Makes an interface of `kind`; it must not exist.
    pub fn new_link(name: &str, kind: InfoKind, new: &NewLink<'_>) -> Self {
        let what = format!("create {kind} interface {name}");
        let mut message = named(name);
        let attributes = &mut message.attributes;
        if let Some(mac) = new.mac {
            attributes.push(LinkAttribute::Address(mac.to_vec()));
        }
        if let Some(mtu) = new.mtu {
            attributes.push(LinkAttribute::Mtu(mtu));
        }
        if let Some(master) = new.master {
            attributes.push(LinkAttribute::Controller(master));
        }
        if let Some(netns) = new.netns {
            attributes.push(LinkAttribute::NetNsFd(netns.file().as_raw_fd()));
        }
        let mut info = vec![LinkInfo::Kind(kind)];
        if let Some(peer) = &new.peer {
            let mut other = named(peer.name);
            other.attributes.push(LinkAttribute::Address(peer.mac.to_vec()));
            other
                .attributes
                .push(LinkAttribute::NetNsFd(peer.netns.file().as_raw_fd()));
            if let Some(mtu) = new.mtu {
                other.attributes.push(LinkAttribute::Mtu(mtu));
            }
            info.push(LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))));
        }
        if let Some((parent, mode, queue)) = new.macvlan {
            attributes.push(LinkAttribute::Link(parent));
            let mode = match mode {
                MacvlanMode::Bridge => MacVlanMode::Bridge,
                MacvlanMode::Private => MacVlanMode::Private,
                MacvlanMode::Vepa => MacVlanMode::Vepa,
                MacvlanMode::Passthru => MacVlanMode::Passthrough,
            };
            let mut data = vec![InfoMacVlan::Mode(mode)];
            data.extend(queue.map(InfoMacVlan::BcQueueLen));
            info.push(LinkInfo::Data(InfoData::MacVlan(data)));
        }
        if new.vlan_filtering {
            info.push(vlan_filtering());
        }
        attributes.push(LinkAttribute::LinkInfo(info));
        if new.up {
            set_flag(&mut message, LinkFlags::Up, true);
        }
        Self::new(what, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &message)
    }

    fn set(what: String, message: &LinkMessage) -> Self {
        Self::new(what, RTM_SETLINK, 0, message)
    }

    /// Sets an interface up or down.
    pub fn set_up(name: &str, up: bool) -> Self {
        let mut message = named(name);
        set_flag(&mut message, LinkFlags::Up, up);
        Self::set(format!("set {name} {}", if up { "up" } else { "down" }), &message)
    }

    /// Makes an interface a port of a bridge.
    pub fn set_master(name: &str, master: u32) -> Self {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::Controller(master));
        Self::set(format!("make {name} a port of interface {master}"), &message)
    }

    /// Lets a bridge look at VLAN tags.
    pub fn filter_vlans(bridge: &str) -> Self {
        let mut message = named(bridge);
        let info = vec![LinkInfo::Kind(InfoKind::Bridge), vlan_filtering()];
        message.attributes.push(LinkAttribute::LinkInfo(info));
        // Like a port's, a bridge's properties are only taken by RTM_NEWLINK.
        Self::new(
            format!("let bridge {bridge} filter VLANs"),
            RTM_NEWLINK,
            0,
            &message,
        )
    }

    /// Turns promiscuous mode on or off.
    pub fn set_promiscuous(name: &str, on: bool) -> Self {
        let mut message = named(name);
        set_flag(&mut message, LinkFlags::Promisc, on);
        Self::set(format!("set promiscuous mode of {name} to {on}"), &message)
    }

    /// Turns the reception of all multicast on or off.
    pub fn set_all_multicast(name: &str, on: bool) -> Self {
        let mut message = named(name);
        set_flag(&mut message, LinkFlags::Allmulti, on);
        Self::set(format!("set all-multicast mode of {name} to {on}"), &message)
    }

    /// Sets the hardware address.
    pub fn set_mac(name: &str, mac: &[u8]) -> Self {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::Address(mac.to_vec()));
        let shown = crate::protocol::format_mac(mac);
        Self::set(format!("set the hardware address of {name} to {shown}"), &message)
    }

    /// Sets the MTU in bytes.
    pub fn set_mtu(name: &str, mtu: u32) -> Self {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        Self::set(format!("set the MTU of {name} to {mtu}"), &message)
    }

    /// Sets the transmit queue length in packets.
    pub fn set_tx_queue(name: &str, length: u32) -> Self {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::TxQueueLen(length));
        Self::set(
            format!("set the transmit queue length of {name} to {length}"),
            &message,
        )
    }

    /// Sets the alias.
    pub fn set_alias(name: &str, alias: &str) -> Self {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
        Self::set(format!("set the alias of {name}"), &message)
    }

    /// Renames an interface, which must be down.
    pub fn rename(index: u32, name: &str) -> Self {
        let mut message = named(name);
        message.header.index = index;
        Self::set(format!("rename interface {index} to {name}"), &message)
    }

    /// Sets properties of a bridge's port.
    pub fn set_port(name: &str, port: BridgePort) -> Self {
        let mut message = named(name);
        let mut data = vec![InfoBridgePort::HairpinMode(port.hairpin)];
        if port.isolated {
            data.push(InfoBridgePort::Isolated(true));
        }
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(data)),
        ]));
        // Slave data is only taken by RTM_NEWLINK.
        Self::new(
            format!("set the bridge port properties of {name}"),
            RTM_NEWLINK,
            0,
            &message,
        )
    }

    /// Keeps a bridge's port from talking to other such ports; its other properties stay.
    pub fn isolate_port(name: &str) -> Self {
        let mut message = named(name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(vec![InfoBridgePort::Isolated(true)])),
        ]));
        Self::new(
            format!("isolate the bridge port {name}"),
            RTM_NEWLINK,
            0,
            &message,
        )
    }

    /// Removes an interface; one that is gone already is fine.
    pub fn delete_link(name: &str) -> Self {
        Self::new(format!("delete interface {name}"), RTM_DELLINK, 0, &named(name)).tolerate(&[Errno::ENODEV])
    }
}

impl Rtnl {
    /// The interface of that name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>, NetlinkError> {
        let message = Message::new(format!("look up interface {name}"), RTM_GETLINK, 0, &named(name));
        Ok(self
            .get(&message, &[Errno::ENODEV])?
            .and_then(|a| Link::parse(&a.body)))
    }

    /// The interface of that index.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = index;
        let message = Message::new(format!("look up interface {index}"), RTM_GETLINK, 0, &request);
        Ok(self
            .get(&message, &[Errno::ENODEV])?
            .and_then(|a| Link::parse(&a.body)))
    }

    /// All interfaces of the namespace.
    pub fn links(&mut self) -> Result<Vec<Link>, NetlinkError> {
        let message = Message::new("list interfaces", RTM_GETLINK, 0, &LinkMessage::default());
        let mut links = Vec::new();
        self.channel
            .dump(&message, |answer| links.extend(Link::parse(&answer.body)))?;
        Ok(links)
    }
}
