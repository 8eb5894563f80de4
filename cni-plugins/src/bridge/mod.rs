//! bridge: a veth between the container and a bridge of the host.

mod check;
pub(crate) mod config;
pub(crate) mod device;
mod vlan;

use ipnet::IpNet;
use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use self::config::{Config, gateway_of};
use crate::{
    attach::{FirstFailure, Inside, enable_forwarding, mac_for, mac_from},
    ipam::Ipam,
    netlink::{BridgePort, Link, Message, NewLink, Peer, Rtnl},
    netns::NetNs,
    nft::{Nft, Tag, masquerade, spoofing},
    protocol::{AddResult, Failure, Interface, Plugin, Reply, Request, Route, code, format_mac},
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "bridge",
    add,
    del,
    check: check::check,
    gc,
    status,
};

fn add(request: &Request) -> Result<Reply, Failure> {
    let config = Config::read(request)?;
    let ipam = Ipam::of(request)?;
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    let mut host = Rtnl::open()?;
    let bridge = device::ensure(&mut host, &config)?;
    let mut result = if ipam.is_present() {
        ipam.add()?
    } else {
        AddResult::default()
    };
    let mut added = Added::default();
    let attached = attach(
        request,
        &config,
        &netns,
        &mut host,
        &bridge,
        &mut result,
        &mut added,
    );
    match attached {
        Ok(()) => Ok(Reply::Result(result.to_json(request.version))),
        Err(failure) => {
            added.undo(request, &mut host, &ipam);
            Err(failure)
        }
    }
}

/// What an ADD that fails half-way has to take back.
#[derive(Debug, Default)]
struct Added {
    veth: bool,
    masquerade: bool,
    spoof_check: bool,
}

impl Added {
    fn undo(&self, request: &Request, host: &mut Rtnl, ipam: &Ipam<'_>) {
        // The failure that is being reported matters more than any of these.
        let tag = Tag::of(request);
        if self.masquerade {
            let _ = Nft::open()
                .map_err(Failure::from)
                .and_then(|mut nft| masquerade::delete(&mut nft, &tag));
        }
        if self.spoof_check {
            let _ = Nft::open_bridge()
                .map_err(Failure::from)
                .and_then(|mut nft| spoofing::delete(&mut nft, &tag));
        }
        if self.veth {
            let _ = host.run(&[Message::delete_link(&tag.host_interface())]);
        }
        let _ = ipam.del();
    }
}

fn attach(
    request: &Request,
    config: &Config,
    netns: &NetNs,
    host: &mut Rtnl,
    bridge: &Link,
    result: &mut AddResult,
    added: &mut Added,
) -> Result<(), Failure> {
    let tag = Tag::of(request);
    let gateways = plan_gateways(config, result);
    let veth = Veth {
        name: tag.host_interface(),
        mac: mac_from(&format!("{tag} host")),
        inside: config.mac.unwrap_or_else(|| hardware_address(&tag, result)),
    };
    let mut router = None;
    if config.gateway {
        router = route_by(host, config, bridge, &gateways)?;
        enable_forwarding(result)?;
    }
    veth.create(request, config, netns, host, bridge, &tag)?;
    added.veth = true;
    vlan::join(host, &config.vlans, &veth.name)?;
    if config.spoof_check {
        added.spoof_check = true;
        spoofing::add(&mut Nft::open_bridge()?, &tag, &veth.name, veth.inside)?;
    }
    if config.container_interface {
        let inside = Inside {
            ifname: &request.attachment.ifname,
            result,
            dad: config.dad,
        };
        netns.within(|| inside.configure(&mut Rtnl::open()?))?;
    }
    if config.masquerade {
        added.masquerade = true;
        let addresses: Vec<IpNet> = result.ips.iter().map(|ip| ip.address).collect();
        masquerade::add(&mut Nft::open()?, &tag, &addresses)?;
    }
    veth.describe(request, config, netns, bridge, result);
    result.interfaces.extend(router.map(|link| Interface {
        name: link.name,
        mac: format_mac(&link.mac),
        mtu: Some(link.mtu),
        ..Interface::default()
    }));
    Ok(())
}

/// Gives the gateway addresses to the bridge or to the host's interface in the VLAN, which is returned.
fn route_by(
    host: &mut Rtnl,
    config: &Config,
    bridge: &Link,
    gateways: &[IpNet],
) -> Result<Option<Link>, Failure> {
    let Some(vlan) = config.vlans.access else {
        device::add_gateways(host, config, bridge, gateways)?;
        return Ok(None);
    };
    let router = vlan::ensure_interface(host, &config.vlans, bridge, vlan)?;
    device::add_gateways(host, config, &router, gateways)?;
    Ok(Some(router))
}

/// Fills in the gateways and, for isDefaultGateway, the default routes; gives the bridge's addresses.
fn plan_gateways(config: &Config, result: &mut AddResult) -> Vec<IpNet> {
    let mut gateways = Vec::new();
    for ip in &mut result.ips {
        if config.gateway {
            ip.gateway = Some(gateway_of(ip));
        }
        if let Some(net) = ip
            .gateway
            .and_then(|gw| IpNet::new(gw, ip.address.prefix_len()).ok())
        {
            gateways.push(net);
        }
    }
    if config.default_gateway {
        for gateway in &gateways {
            let Ok(everything) = IpNet::new(unspecified(*gateway), 0) else {
                continue;
            };
            if !result.routes.iter().any(|r| r.dst == everything) {
                result.routes.push(Route {
                    gw: Some(gateway.addr()),
                    ..Route::to(everything)
                });
            }
        }
    }
    gateways
}

/// The container's hardware address when none is asked for.
fn hardware_address(tag: &Tag, result: &AddResult) -> [u8; 6] {
    result
        .ips
        .first()
        .map_or_else(|| mac_from(&tag.to_string()), |ip| mac_for(ip.address.addr()))
}

fn unspecified(net: IpNet) -> std::net::IpAddr {
    match net {
        IpNet::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

struct Veth {
    name: String,
    mac: [u8; 6],
    inside: [u8; 6],
}

impl Veth {
    fn create(
        &self,
        request: &Request,
        config: &Config,
        netns: &NetNs,
        host: &mut Rtnl,
        bridge: &Link,
        tag: &Tag,
    ) -> Result<(), Failure> {
        let peer = Peer {
            name: &request.attachment.ifname,
            mac: self.inside,
            netns,
        };
        let new = NewLink {
            mac: Some(self.mac),
            mtu: config.mtu,
            master: Some(bridge.index),
            up: true,
            peer: Some(peer),
            ..NewLink::default()
        };
        let create = Message::new_link(&self.name, InfoKind::Veth, &new);
        // The alias also tells GC whose it is.
        let mut batch = vec![create, Message::set_alias(&self.name, &tag.to_string())];
        if config.port != BridgePort::default() {
            batch.push(Message::set_port(&self.name, config.port));
        }
        match host.run(&batch) {
            Err(e) if e.errno == Errno::EEXIST => {
                if Rtnl::open_in(netns)?.link(&request.attachment.ifname)?.is_some() {
                    return Err(taken(request, netns));
                }
                // The host's end of a namespace that is being destroyed, or that a killed ADD left.
                batch.insert(0, Message::delete_link(&self.name));
                Ok(host.run(&batch)?)
            }
            other => Ok(other?),
        }
    }

    fn describe(
        &self,
        request: &Request,
        config: &Config,
        netns: &NetNs,
        bridge: &Link,
        result: &mut AddResult,
    ) {
        let mtu = config.mtu.or(Some(1500));
        let interface = |name: &str, mac: &[u8], mtu, sandbox: String| Interface {
            name: name.to_owned(),
            mac: format_mac(mac),
            mtu,
            sandbox,
            ..Interface::default()
        };
        result.interfaces = vec![
            interface(&bridge.name, &bridge.mac, Some(bridge.mtu), String::new()),
            interface(&self.name, &self.mac, mtu, String::new()),
            interface(
                &request.attachment.ifname,
                &self.inside,
                mtu,
                netns.path().display().to_string(),
            ),
        ];
        for ip in &mut result.ips {
            ip.interface = Some(2);
        }
        if let Ok(dns) = crate::protocol::configured_dns(&request.fields())
            && !dns.is_empty()
        {
            result.dns = dns;
        }
    }
}

/// The failure for an interface name that the container has already.
pub(crate) fn taken(request: &Request, netns: &NetNs) -> Failure {
    Failure::new(
        code::CONFLICT,
        format!(
            "CNI_IFNAME: {} exists already in {}: choose another name or run DEL first",
            request.attachment.ifname,
            netns.path().display()
        ),
    )
}

/// Removes everything by the attachment's tag: neither the namespace nor prevResult is needed.
fn del(request: &Request) -> Result<(), Failure> {
    detach(request)
}

/// DEL of a veth with its masquerading and its addresses; also ptp's.
pub(crate) fn detach(request: &Request) -> Result<(), Failure> {
    let tag = Tag::of(request);
    let mut failures = FirstFailure::default();
    let mut nft = None;
    if request.fields().bool("ipMasq").unwrap_or(true) {
        // First, and the socket stays open: the grace period of its deletions passes while the veth goes.
        failures.note(Nft::open().map_err(Failure::from).and_then(|mut socket| {
            let removed = masquerade::delete(&mut socket, &tag)?;
            nft = removed.then_some(socket);
            Ok(())
        }));
    }
    let mut filter = None;
    if request.fields().bool("macspoofchk").unwrap_or(true) {
        failures.note(Nft::open_bridge().map_err(Failure::from).and_then(|mut socket| {
            let removed = spoofing::delete(&mut socket, &tag)?;
            filter = removed.then_some(socket);
            Ok(())
        }));
    }
    failures.note(delete_veth(request, &tag));
    failures.note(Ipam::of(request).and_then(|ipam| ipam.del()));
    for socket in [nft, filter].into_iter().flatten() {
        socket.close_elsewhere();
    }
    failures.finish()
}

fn delete_veth(request: &Request, tag: &Tag) -> Result<(), Failure> {
    let name = tag.host_interface();
    let mut host = Rtnl::open()?;
    if host.link(&name)?.is_some() {
        return Ok(host.run(&[Message::delete_link(&name)])?);
    }
    // Made by the reference plugin before the node changed over: only the namespace leads to it.
    let Some(path) = &request.netns else { return Ok(()) };
    let Some(netns) = NetNs::find(path)? else {
        return Ok(());
    };
    let mut inside = Rtnl::open_in(&netns)?;
    match inside.link(&request.attachment.ifname)? {
        Some(link) if link.kind == "veth" => {
            Ok(inside.run(&[Message::delete_link(&request.attachment.ifname)])?)
        }
        _ => Ok(()),
    }
}

fn gc(request: &Request) -> Result<(), Failure> {
    let keep = request.valid_attachments()?;
    let mut failures = FirstFailure::default();
    let mut nft = None;
    failures.note(Nft::open().map_err(Failure::from).and_then(|mut socket| {
        let removed = masquerade::collect(&mut socket, &request.network, &keep)?;
        nft = removed.then_some(socket);
        Ok(())
    }));
    failures.note(collect_spoofing(request, &keep));
    failures.note(collect_links(request, &keep));
    failures.note(Ipam::of(request).and_then(|ipam| ipam.gc()));
    if let Some(nft) = nft {
        nft.close_elsewhere();
    }
    failures.finish()
}

/// Kernels without nf_tables for bridges have nothing to remove.
fn collect_spoofing(request: &Request, keep: &[crate::protocol::Attachment]) -> Result<(), Failure> {
    let mut nft = Nft::open_bridge()?;
    match spoofing::collect(&mut nft, &request.network, keep) {
        Ok(true) => nft.close_elsewhere(),
        Ok(false) => {}
        Err(_) if !request.fields().bool("macspoofchk").unwrap_or(true) => {}
        Err(failure) => return Err(failure),
    }
    Ok(())
}

/// Removes the host's interfaces of attachments that are not to be kept.
pub(crate) fn collect_links(request: &Request, keep: &[crate::protocol::Attachment]) -> Result<(), Failure> {
    let mut host = Rtnl::open()?;
    let stale: Vec<Message> = host
        .links()?
        .iter()
        .filter(|l| {
            Tag::parse(&l.alias)
                .is_some_and(|t| t.is_stale(&request.network, keep) && l.name == t.host_interface())
        })
        .map(|l| Message::delete_link(&l.name))
        .collect();
    Ok(host.run(&stale)?)
}

fn status(request: &Request) -> Result<(), Failure> {
    Config::read(request)?;
    Ipam::of(request)?.status()
}
