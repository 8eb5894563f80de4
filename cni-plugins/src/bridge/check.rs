//! CHECK of the bridge plugin: every part that ADD made.

use ipnet::IpNet;

use super::config::{Config, gateway_of};
use crate::{
    attach,
    ipam::Ipam,
    netlink::{Link, Rtnl},
    netns::NetNs,
    nft::{Nft, Tag, masquerade},
    protocol::{AddResult, Failure, Request, format_mac},
};

pub(super) fn check(request: &Request) -> Result<(), Failure> {
    let config = Config::read(request)?;
    let result = request.required_prev("bridge")?;
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    Ipam::of(request)?.check()?;
    let mut host = Rtnl::open()?;
    let bridge = host
        .link(&config.bridge)?
        .filter(|l| l.kind == "bridge")
        .ok_or_else(|| Failure::check(format!("there is no bridge {}", config.bridge)))?;
    check_bridge(&mut host, &config, &bridge, &result)?;
    check_port(&mut host, request, &bridge, &result)?;
    if config.container_interface {
        attach::check_inside(&netns, &request.attachment.ifname, &result)?;
    }
    if config.masquerade {
        let addresses: Vec<IpNet> = ours(request, &result);
        masquerade::check(&mut Nft::open()?, &Tag::of(request), &addresses)?;
    }
    Ok(())
}

/// The addresses of this attachment's interface.
fn ours(request: &Request, result: &AddResult) -> Vec<IpNet> {
    let at = result
        .interfaces
        .iter()
        .position(|i| i.name == request.attachment.ifname && !i.sandbox.is_empty());
    result
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none() || ip.interface == at)
        .map(|ip| ip.address)
        .collect()
}

fn check_bridge(host: &mut Rtnl, config: &Config, bridge: &Link, result: &AddResult) -> Result<(), Failure> {
    if !bridge.up {
        return Err(Failure::check(format!("bridge {} is not up", bridge.name)));
    }
    let listed = result
        .interfaces
        .iter()
        .find(|i| i.name == bridge.name && i.sandbox.is_empty());
    match listed {
        None => {
            return Err(Failure::field(
                "prevResult.interfaces",
                format!("does not list the bridge {}", bridge.name),
            ));
        }
        Some(i) if !i.mac.is_empty() && !i.mac.eq_ignore_ascii_case(&format_mac(&bridge.mac)) => {
            return Err(Failure::check(format!(
                "bridge {} has the hardware address {}, not {}",
                bridge.name,
                format_mac(&bridge.mac),
                i.mac
            )));
        }
        Some(_) => {}
    }
    if !config.gateway {
        return Ok(());
    }
    let there = host.addresses(bridge.index)?;
    for ip in &result.ips {
        let gateway = gateway_of(ip);
        if !there.iter().any(|a| a.address.addr() == gateway) {
            return Err(Failure::check(format!(
                "bridge {} does not have the gateway address {gateway}",
                bridge.name
            )));
        }
    }
    Ok(())
}

fn check_port(host: &mut Rtnl, request: &Request, bridge: &Link, result: &AddResult) -> Result<(), Failure> {
    let veth = result
        .interfaces
        .iter()
        .find(|i| i.sandbox.is_empty() && i.name != bridge.name)
        .ok_or_else(|| {
            Failure::field(
                "prevResult.interfaces",
                "does not list the host's end of the veth",
            )
        })?;
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
    Ok(())
}
