//! CHECK of the bridge plugin: every part that ADD made.

use ipnet::IpNet;

use super::{
    config::{Config, gateway_of, vlan_interface},
    device, vlan,
};
use crate::{
    attach,
    ipam::Ipam,
    netlink::{BridgePort, Link, Message, Rtnl},
    netns::NetNs,
    nft::{Nft, Tag, masquerade, spoofing},
    protocol::{AddResult, Address, Failure, Interface, Request, format_mac},
};

pub(super) fn check(request: &Request) -> Result<(), Failure> {
    let config = Config::read(request)?;
    let result = request.required_prev("bridge")?;
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    Ipam::of(request)?.check()?;
    let mut host = Rtnl::open()?;
    let tag = Tag::of(request);
    let ours = ours(request, &result);
    let addresses: Vec<IpNet> = ours.iter().map(|ip| ip.address).collect();
    if request.repairs() {
        repair(request, &config, &mut host, &result, &ours)?;
    }
    let bridge = host
        .link(&config.bridge)?
        .filter(|l| l.kind == "bridge")
        .ok_or_else(|| Failure::check(format!("there is no bridge {}", config.bridge)))?;
    check_bridge(&bridge, &result)?;
    if config.gateway {
        check_gateways(&mut host, &config, &bridge, &ours)?;
    }
    let port = check_port(&mut host, request, &bridge, &result)?;
    check_modes(&config, &bridge, &port)?;
    vlan::check(&mut host, &config.vlans, &port)?;
    if config.container_interface {
        attach::check_inside(&netns, &request.attachment.ifname, &result)?;
    }
    if config.masquerade {
        masquerade::check(&mut Nft::open()?, &tag, &addresses)?;
    }
    if config.spoof_check {
        spoofing::check(&mut Nft::open_bridge()?, &tag, &port.name)?;
    }
    Ok(())
}

/// Puts back all that is this attachment's on the host, and the bridge. What happens inside the container
/// is its own.
fn repair(
    request: &Request,
    config: &Config,
    host: &mut Rtnl,
    result: &AddResult,
    ours: &[&Address],
) -> Result<(), Failure> {
    let tag = Tag::of(request);
    let bridge = device::ensure(host, config)?;
    if config.gateway {
        let gateways: Vec<IpNet> = ours
            .iter()
            .filter_map(|ip| IpNet::new(gateway_of(ip), ip.address.prefix_len()).ok())
            .collect();
        super::route_by(host, config, &bridge, &gateways)?;
        attach::enable_forwarding(result)?;
    }
    let port = listed_port(&bridge, result)?;
    if host.link(&port.name)?.is_some() {
        let mut batch = vec![
            Message::set_master(&port.name, bridge.index),
            Message::set_up(&port.name, true),
        ];
        if config.port != BridgePort::default() {
            batch.push(Message::set_port(&port.name, config.port));
        }
        host.run(&batch)?;
        vlan::join(host, &config.vlans, &port.name)?;
    }
    if config.masquerade {
        let addresses: Vec<IpNet> = ours.iter().map(|ip| ip.address).collect();
        masquerade::add(&mut Nft::open()?, &tag, &addresses)?;
    }
    if config.spoof_check {
        let mac = config
            .mac
            .unwrap_or_else(|| super::hardware_address(&tag, result));
        spoofing::add(&mut Nft::open_bridge()?, &tag, &port.name, mac)?;
    }
    Ok(())
}

/// The addresses of this attachment's interface.
fn ours<'a>(request: &Request, result: &'a AddResult) -> Vec<&'a Address> {
    let at = result
        .interfaces
        .iter()
        .position(|i| i.name == request.attachment.ifname && !i.sandbox.is_empty());
    result
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none() || ip.interface == at)
        .collect()
}

fn check_bridge(bridge: &Link, result: &AddResult) -> Result<(), Failure> {
    if !bridge.up {
        return Err(Failure::check(format!("bridge {} is not up", bridge.name)));
    }
    let listed = result
        .interfaces
        .iter()
        .find(|i| i.name == bridge.name && i.sandbox.is_empty());
    match listed {
        None => Err(Failure::field(
            "prevResult.interfaces",
            format!("does not list the bridge {}", bridge.name),
        )),
        Some(i) if !i.mac.is_empty() && !i.mac.eq_ignore_ascii_case(&format_mac(&bridge.mac)) => {
            Err(Failure::check(format!(
                "bridge {} has the hardware address {}, not {}",
                bridge.name,
                format_mac(&bridge.mac),
                i.mac
            )))
        }
        Some(_) => Ok(()),
    }
}

fn check_gateways(host: &mut Rtnl, config: &Config, bridge: &Link, ours: &[&Address]) -> Result<(), Failure> {
    let router = match config.vlans.access {
        None => bridge.clone(),
        Some(vlan) => {
            let name = vlan_interface(&bridge.name, vlan);
            host.link(&name)?
                .filter(|l| l.up)
                .ok_or_else(|| Failure::check(format!("the gateway's interface {name} is gone or not up")))?
        }
    };
    let there = host.addresses(router.index)?;
    let gateways = ours.iter().map(|ip| gateway_of(ip));
    match gateways
        .into_iter()
        .find(|g| !there.iter().any(|a| a.address.addr() == *g))
    {
        Some(gateway) => Err(Failure::check(format!(
            "{} does not have the gateway address {gateway}",
            router.name
        ))),
        None => Ok(()),
    }
}

fn check_modes(config: &Config, bridge: &Link, port: &Link) -> Result<(), Failure> {
    let lost = |field: &str, name: &str| Err(Failure::check(format!("{field}: it is off at {name}")));
    if config.promiscuous && !bridge.promiscuous {
        return lost("promiscMode", &bridge.name);
    }
    if config.port.hairpin && !port.port.hairpin {
        return lost("hairpinMode", &port.name);
    }
    if config.port.isolated && !port.port.isolated {
        return lost("portIsolation", &port.name);
    }
    Ok(())
}

/// The host's end of the veth, as the result names it.
fn listed_port<'a>(bridge: &Link, result: &'a AddResult) -> Result<&'a Interface, Failure> {
    result
        .interfaces
        .iter()
        .find(|i| i.sandbox.is_empty() && i.name != bridge.name)
        .ok_or_else(|| {
            Failure::field(
                "prevResult.interfaces",
                "does not list the host's end of the veth",
            )
        })
}

fn check_port(
    host: &mut Rtnl,
    request: &Request,
    bridge: &Link,
    result: &AddResult,
) -> Result<Link, Failure> {
    let veth = listed_port(bridge, result)?;
    let link = host.link(&veth.name)?.ok_or_else(|| {
        Failure::check(format!(
            "the host's end {} of {} in container {} is gone",
            veth.name, request.attachment.ifname, request.attachment.container
        ))
    })?;
    if link.master != Some(bridge.index) {
        return Err(Failure::check(format!(
            "{} is not a port of bridge {}",
            veth.name, bridge.name
        )));
    }
    if !link.up {
        return Err(Failure::check(format!("{} is not up", veth.name)));
    }
    Ok(link)
}
