//! The bridge itself: found or made, and its gateway addresses.

use ipnet::IpNet;
use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use super::config::Config;
use crate::{
    attach::mac_from,
    netlink::{Link, Message, NetlinkError, NewLink, Rtnl},
    protocol::{Failure, code},
    sysctl,
};

/// Finds or makes the bridge.
///
/// Its hardware address is chosen here and not by the kernel, which would change it with each port:
/// so all results of parallel ADDs agree.
pub(super) fn ensure(host: &mut Rtnl, config: &Config) -> Result<Link, Failure> {
    let name = &config.bridge;
    let mut link = host.link(name)?;
    if link.is_none() {
        let new = NewLink {
            mac: Some(mac_from(&format!("bridge {name}{}", boot_id()))),
            mtu: config.mtu,
            up: true,
            vlan_filtering: config.vlans.are_used(),
            ..NewLink::default()
        };
        match host.run(&[Message::new_link(name, InfoKind::Bridge, &new)]) {
            Ok(()) => {
                // The host is the router of this network, not a listener to one.
                sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_ra"), "0")?;
                no_detection(name)?;
            }
            // Another ADD was faster.
            Err(e) if e.errno == Errno::EEXIST => {}
            Err(e) => return Err(refused(config, e)),
        }
        link = host.link(name)?;
    }
    let link = link.ok_or_else(|| {
        Failure::new(
            code::KERNEL,
            format!("bridge {name} vanished while it was set up"),
        )
    })?;
    if link.kind != "bridge" {
        let kind = if link.kind.is_empty() {
            "hardware"
        } else {
            &link.kind
        };
        return Err(Failure::field(
            "bridge",
            format!("{name} exists and is no bridge ({kind}): choose another name"),
        ));
    }
    let mut batch = Vec::new();
    if !link.up {
        batch.push(Message::set_up(name, true));
    }
    if config.vlans.are_used() && !link.vlan_filtering {
        // Also of a bridge that was there: its other ports stay together in the default VLAN.
        batch.push(Message::filter_vlans(name));
    }
    if config.promiscuous && !link.promiscuous {
        batch.push(Message::set_promiscuous(name, true));
    }
    host.run(&batch).map_err(|error| refused(config, error))?;
    Ok(link)
}

/// VLAN filtering is the only property of a bridge that a kernel may not support.
fn refused(config: &Config, error: NetlinkError) -> Failure {
    if config.vlans.are_used() && error.errno == Errno::EOPNOTSUPP {
        return Failure::unsupported(
            config.vlans.field(),
            "this kernel's bridges have no VLAN filtering (CONFIG_BRIDGE_VLAN_FILTERING): use a bridge a network",
        );
    }
    error.into()
}

/// No duplicate address detection on an interface that has no carrier yet.
///
/// To forward an IPv6 packet the kernel asks for the neighbour from its link-local address, and does
/// not ask at all while that is being detected: 1 to 2 s without any packet from outside.
pub(crate) fn no_detection(name: &str) -> Result<(), Failure> {
    sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_dad"), "0")
}

/// Makes a bridge's hardware address differ between hosts.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Gives the bridge, or the host's interface in a VLAN of it, its gateway addresses.
///
/// As in the reference: one IPv4 address, IPv6 addresses that do not overlap, and another one only with
/// forceAddress.
pub(super) fn add_gateways(
    host: &mut Rtnl,
    config: &Config,
    router: &Link,
    gateways: &[IpNet],
) -> Result<(), Failure> {
    let there = host.addresses(router.index)?;
    let mut batch = Vec::new();
    for gateway in gateways
        .iter()
        .filter(|g| !there.iter().any(|a| a.address == **g))
    {
        for other in there
            .iter()
            .filter(|a| a.global && !gateways.contains(&a.address))
        {
            let conflict = match (gateway, other.address) {
                (IpNet::V4(_), IpNet::V4(_)) => true,
                (IpNet::V6(_), IpNet::V6(_)) => {
                    gateway.contains(&other.address.addr()) || other.address.contains(&gateway.addr())
                }
                _ => false,
            };
            if !conflict {
                continue;
            }
            if !config.force_address {
                return Err(Failure::field(
                    "bridge",
                    format!(
                        "{} has the address {} already, and this network's gateway is {gateway}: \
                         use another bridge or set forceAddress",
                        router.name, other.address
                    ),
                ));
            }
            batch.push(Message::delete_address(router.index, &router.name, other.address));
        }
        // No wait for duplicate address detection: the gateway is of use at once.
        batch.push(
            Message::add_address(router.index, &router.name, *gateway, false).tolerate(&[Errno::EEXIST]),
        );
    }
    if !batch.is_empty() {
        // Pins the hardware address of a bridge that somebody else made.
        batch.push(Message::set_mac(&router.name, &router.mac));
    }
    Ok(host.run(&batch)?)
}
