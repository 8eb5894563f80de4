//! ptp: a veth between the container and the host, without a bridge.
//!
//! The container reaches its own subnet by the gateway, too: the address goes without the usual route
//! to its subnet, and there are two instead: the gateway by the interface, the subnet by the gateway.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use crate::{
    attach::{FirstFailure, check_inside, enable_forwarding, mac_for, mac_from, routes},
    bridge::{collect_links, config, device, taken},
    ipam::Ipam,
    netlink::{Message, NewLink, Peer, Rtnl},
    netns::NetNs,
    nft::{Nft, Tag, masquerade},
    protocol::{AddResult, Failure, Interface, Plugin, Reply, Request, Route, configured_dns, format_mac},
    sysctl,
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "ptp",
    add,
    del,
    check,
    gc,
    status,
};

fn add(request: &Request) -> Result<Reply, Failure> {
    let masq = config::masquerade(request)?;
    let mtu = config::mtu(request)?;
    let dns = configured_dns(&request.fields())?;
    let ipam = Ipam::of(request)?;
    if !ipam.is_present() {
        return Err(Failure::field(
            "ipam.type",
            "missing: ptp needs an IPAM plugin, like host-local",
        ));
    }
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    let mut host = Rtnl::open()?;
    let mut result = ipam.add()?;
    let tag = Tag::of(request);
    let mut created = false;
    let attached = attach(request, &netns, &mut host, &mut result, mtu, &mut created).and_then(|()| {
        if masq {
            return masquerade::add(&mut Nft::open()?, &tag, &addresses(&result));
        }
        Ok(())
    });
    if let Err(failure) = attached {
        // The failure that is being reported matters more than one of these.
        if created {
            let _ = host.run(&[Message::delete_link(&tag.host_interface())]);
        }
        let _ = ipam.del();
        return Err(failure);
    }
    if !dns.is_empty() {
        result.dns = dns;
    }
    Ok(Reply::Result(result.to_json(request.version)))
}

fn addresses(result: &AddResult) -> Vec<IpNet> {
    result.ips.iter().map(|ip| ip.address).collect()
}

fn alone(ip: IpAddr) -> IpNet {
    IpNet::from(ip)
}

fn attach(
    request: &Request,
    netns: &NetNs,
    host: &mut Rtnl,
    result: &mut AddResult,
    mtu: Option<u32>,
    created: &mut bool,
) -> Result<(), Failure> {
    let tag = Tag::of(request);
    let name = tag.host_interface();
    let gateways = gateways(result)?;
    let mac = mac_from(&format!("{tag} host"));
    let inside = result
        .ips
        .first()
        .map_or_else(|| mac_from(&tag.to_string()), |ip| mac_for(ip.address.addr()));
    enable_forwarding(result)?;
    let peer = Peer {
        name: &request.attachment.ifname,
        mac: inside,
        netns,
    };
    let new = NewLink {
        mac: Some(mac),
        mtu,
        peer: Some(peer),
        ..NewLink::default()
    };
    let mut batch = vec![
        Message::new_link(&name, InfoKind::Veth, &new),
        Message::set_alias(&name, &tag.to_string()),
    ];
    match host.run(&batch) {
        Err(e) if e.errno == Errno::EEXIST => {
            if Rtnl::open_in(netns)?.link(&request.attachment.ifname)?.is_some() {
                return Err(taken(request, netns));
            }
            // The host's end of a namespace that is being destroyed, or that a killed ADD left.
            batch.insert(0, Message::delete_link(&name));
            host.run(&batch)?;
        }
        other => other?,
    }
    *created = true;
    netns.within(|| configure_inside(request, result, &gateways))?;
    configure_host(host, &name, result, &gateways)?;
    let interface = |name: &str, mac: &[u8], sandbox: String| Interface {
        name: name.to_owned(),
        mac: format_mac(mac),
        mtu: mtu.or(Some(1500)),
        sandbox,
        ..Interface::default()
    };
    result.interfaces = vec![
        interface(&name, &mac, String::new()),
        interface(
            &request.attachment.ifname,
            &inside,
            netns.path().display().to_string(),
        ),
    ];
    for ip in &mut result.ips {
        ip.interface = Some(1);
    }
    Ok(())
}

/// The gateway of each address, which ptp cannot do without.
fn gateways(result: &AddResult) -> Result<Vec<IpAddr>, Failure> {
    result
        .ips
        .iter()
        .map(|ip| {
            ip.gateway.ok_or_else(|| {
                Failure::field(
                    "ipam",
                    format!("gave {} without a gateway, which ptp needs", ip.address),
                )
            })
        })
        .collect()
}

fn configure_inside(request: &Request, result: &AddResult, gateways: &[IpAddr]) -> Result<(), Failure> {
    let name = &request.attachment.ifname;
    let mut rtnl = Rtnl::open()?;
    let index = rtnl.link(name)?.map_or(0, |l| l.index);
    sysctl::ensure(&format!("net/ipv4/conf/{name}/arp_notify"), "1")?;
    sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
    if result.ips.iter().any(|ip| ip.address.addr().is_ipv6()) {
        sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
    }
    let mut batch: Vec<Message> = result
        .ips
        .iter()
        .map(|ip| Message::add_address_without_route(index, name, ip.address))
        .collect();
    batch.push(Message::set_up(name, true));
    for (ip, gateway) in result.ips.iter().zip(gateways) {
        batch.push(Message::add_route(index, name, &Route::to(alone(*gateway)), None));
        batch.push(Message::add_route(
            index,
            name,
            &Route::to(ip.address.trunc()),
            Some(*gateway),
        ));
    }
    batch.extend(
        routes(result)
            .iter()
            .map(|(route, gw)| Message::add_route(index, name, route, *gw)),
    );
    Ok(rtnl.run(&batch)?)
}

fn configure_host(
    host: &mut Rtnl,
    name: &str,
    result: &AddResult,
    gateways: &[IpAddr],
) -> Result<(), Failure> {
    let index = host.link(name)?.map_or(0, |l| l.index);
    device::no_detection(name)?;
    let mut batch = vec![Message::set_up(name, true)];
    for (ip, gateway) in result.ips.iter().zip(gateways) {
        // No wait for duplicate address detection: the gateway is of use at once.
        batch.push(Message::add_address(index, name, alone(*gateway), false).tolerate(&[Errno::EEXIST]));
        batch.push(
            Message::add_route(index, name, &Route::to(alone(ip.address.addr())), None)
                .tolerate(&[Errno::EEXIST]),
        );
    }
    Ok(host.run(&batch)?)
}

/// Removes everything by the attachment's tag: neither the namespace nor prevResult is needed.
fn del(request: &Request) -> Result<(), Failure> {
    crate::bridge::detach(request)
}

fn check(request: &Request) -> Result<(), Failure> {
    let masq = config::masquerade(request)?;
    let result = request.required_prev("ptp")?;
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    Ipam::of(request)?.check()?;
    let listed = result
        .interfaces
        .iter()
        .find(|i| i.sandbox.is_empty())
        .ok_or_else(|| {
            Failure::field(
                "prevResult.interfaces",
                "does not list the host's end of the veth",
            )
        })?;
    let mut host = Rtnl::open()?;
    if request.repairs() && host.link(&listed.name)?.is_some() {
        enable_forwarding(&result)?;
        configure_host(&mut host, &listed.name, &result, &gateways(&result)?)?;
        if masq {
            masquerade::add(&mut Nft::open()?, &Tag::of(request), &addresses(&result))?;
        }
    }
    let link = host.link(&listed.name)?.filter(|l| l.up).ok_or_else(|| {
        Failure::check(format!(
            "the host's end {} of the veth is gone or not up",
            listed.name
        ))
    })?;
    let there_addresses = host.addresses(link.index)?;
    let there = host.routes()?;
    for ip in &result.ips {
        if let Some(gateway) = ip
            .gateway
            .filter(|g| !there_addresses.iter().any(|a| a.address.addr() == *g))
        {
            return Err(Failure::check(format!(
                "{} does not have the gateway address {gateway}",
                listed.name
            )));
        }
        let wanted = alone(ip.address.addr());
        if !there
            .iter()
            .any(|r| r.dst == wanted && r.interface == Some(link.index))
        {
            return Err(Failure::check(format!("no route to {wanted} by {}", listed.name)));
        }
    }
    check_inside(&netns, &request.attachment.ifname, &result)?;
    if masq {
        masquerade::check(&mut Nft::open()?, &Tag::of(request), &addresses(&result))?;
    }
    Ok(())
}

fn gc(request: &Request) -> Result<(), Failure> {
    let keep = request.valid_attachments()?;
    let mut failures = FirstFailure::default();
    failures.note(Nft::open().map_err(Failure::from).and_then(|mut nft| {
        if masquerade::collect(&mut nft, &request.network, &keep)? {
            nft.close_elsewhere();
        }
        Ok(())
    }));
    failures.note(collect_links(request, &keep));
    failures.note(Ipam::of(request).and_then(|ipam| ipam.gc()));
    failures.finish()
}

fn status(request: &Request) -> Result<(), Failure> {
    config::masquerade(request)?;
    config::mtu(request)?;
    Ipam::of(request)?.status()
}
