//! VLANs: the container's port in a bridge that looks at tags, and the host's own interface in a VLAN.
//!
//! The host reaches a VLAN by a veth from the bridge to itself, named `BRIDGE.VLAN` as the reference names
//! it; the gateway addresses are there. Like the bridge, it stays when the last container goes.

use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use super::{
    config::{Vlans, vlan_interface},
    device::no_detection,
};
use crate::{
    attach::mac_from,
    netlink::{Link, Message, NewLink, Peer, PortVlan, Rtnl},
    netns::NetNs,
    nft::Tag,
    protocol::{Attachment, Failure, code},
    sysctl,
};

/// VLAN 1, in which the kernel puts each new port.
const DEFAULT: u16 = 1;

/// Puts a port into its VLANs, and takes it out of the default one.
pub(super) fn join(host: &mut Rtnl, vlans: &Vlans, port: &str) -> Result<(), Failure> {
    if !vlans.are_used() {
        return Ok(());
    }
    let index = index_of(host, port)?;
    let mut batch: Vec<Message> = vlans
        .access
        .iter()
        .map(|id| Message::access_vlan(index, port, *id))
        .collect();
    batch.extend(
        vlans
            .trunk
            .iter()
            .map(|(first, last)| Message::trunk_vlans(index, port, *first, *last)),
    );
    if !vlans.keep_default && !covers(vlans, DEFAULT) {
        batch.push(Message::leave_vlan(index, port, DEFAULT));
    }
    Ok(host.run(&batch)?)
}

fn covers(vlans: &Vlans, id: u16) -> bool {
    vlans.access == Some(id)
        || vlans
            .trunk
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&id))
}

fn index_of(host: &mut Rtnl, name: &str) -> Result<u32, Failure> {
    match host.link(name)? {
        Some(link) => Ok(link.index),
        None => Err(Failure::new(
            code::KERNEL,
            format!("interface {name} vanished while it was set up"),
        )),
    }
}

/// Finds or makes the host's interface in a VLAN of the bridge. May be repeated, and done by several at once.
pub(super) fn ensure_interface(
    host: &mut Rtnl,
    vlans: &Vlans,
    bridge: &Link,
    vlan: u16,
) -> Result<Link, Failure> {
    let name = vlan_interface(&bridge.name, vlan);
    let port = port_name(&bridge.name, vlan);
    if host.link(&name)?.is_none() {
        let own = NetNs::open("/proc/thread-self/ns/net".as_ref())?;
        let new = NewLink {
            mac: Some(mac_from(&format!("{name} {:?}", bridge.mac))),
            mtu: Some(bridge.mtu),
            peer: Some(Peer {
                name: &port,
                mac: mac_from(&format!("{port} {:?}", bridge.mac)),
                netns: &own,
            }),
            ..NewLink::default()
        };
        match host.run(&[Message::new_link(&name, InfoKind::Veth, &new)]) {
            Ok(()) => {
                sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
                no_detection(&name)?;
            }
            // Another ADD was faster.
            Err(e) if e.errno == Errno::EEXIST => {}
            Err(e) => return Err(e.into()),
        }
    }
    host.run(&[
        Message::set_master(&port, bridge.index),
        Message::set_up(&port, true),
        Message::set_up(&name, true),
    ])?;
    let access = Vlans {
        access: Some(vlan),
        ..vlans.clone()
    };
    join(host, &access, &port)?;
    host.link(&name)?.ok_or_else(|| {
        Failure::new(
            code::KERNEL,
            format!("interface {name} vanished while it was set up"),
        )
    })
}

/// The bridge's end of the host's interface in a VLAN.
fn port_name(bridge: &str, vlan: u16) -> String {
    let attachment = Attachment {
        container: format!("{vlan}"),
        ifname: "host".into(),
    };
    Tag::new(bridge, &attachment).host_interface()
}

/// Fails if a port is not in its VLANs, or in others, too.
pub(super) fn check(host: &mut Rtnl, vlans: &Vlans, port: &Link) -> Result<(), Failure> {
    if !vlans.are_used() {
        return Ok(());
    }
    let there = host.port_vlans(port.index)?;
    let wrong = |what: String| Err(Failure::check(format!("{}: {} {what}", vlans.field(), port.name)));
    if let Some(access) = vlans.access
        && !there.contains(&PortVlan {
            id: access,
            access: true,
        })
    {
        return wrong(format!("is no access port of VLAN {access}"));
    }
    for (first, last) in &vlans.trunk {
        if let Some(id) = (*first..=*last).find(|id| !there.iter().any(|v| v.id == *id)) {
            return wrong(format!("is not in VLAN {id}"));
        }
    }
    match there
        .iter()
        .find(|v| !(covers(vlans, v.id) || vlans.keep_default && v.id == DEFAULT))
    {
        Some(other) => wrong(format!("is in VLAN {}, too", other.id)),
        None => Ok(()),
    }
}
