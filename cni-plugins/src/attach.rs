//! The container's end of an interface: addresses, routes, and their verification. Shared by the
//! plugins that make interfaces.

use std::net::IpAddr;

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use crate::{
    netlink::{InstalledRoute, Link, Message, Rtnl},
    netns::NetNs,
    protocol::{AddResult, Failure, Route, code, format_mac},
    sysctl,
};

/// The routes of a result with their next hop: their own, or the gateway of their family.
pub(crate) fn routes(result: &AddResult) -> Vec<(Route, Option<IpAddr>)> {
    let gateway = |v4: bool| {
        result
            .ips
            .iter()
            .filter_map(|ip| ip.gateway)
            .find(|gw| gw.is_ipv4() == v4)
    };
    result
        .routes
        .iter()
        .map(|r| (r.clone(), r.gw.or_else(|| gateway(r.dst.addr().is_ipv4()))))
        .collect()
}

/// A hardware address made of an IP address: who gets the same IP later has the same hardware address,
/// so no neighbour's ARP or NDP cache is wrong after an address changed hands.
pub(crate) fn mac_for(address: IpAddr) -> [u8; 6] {
    let [a, b, c, d] = match address {
        IpAddr::V4(ip) => ip.octets(),
        IpAddr::V6(ip) => {
            let digest = Sha256::digest(ip.octets());
            [digest[0], digest[1], digest[2], digest[3]]
        }
    };
    [0x0a, 0x58, a, b, c, d]
}

/// A hardware address that is always the same for `text`.
pub(crate) fn mac_from(text: &str) -> [u8; 6] {
    let digest = Sha256::digest(text.as_bytes());
    // Locally administered, unicast.
    [
        (digest[0] & 0xfc) | 2,
        digest[1],
        digest[2],
        digest[3],
        digest[4],
        digest[5],
    ]
}

/// What the container's end shall be like.
pub(crate) struct Inside<'a> {
    pub ifname: &'a str,
    pub result: &'a AddResult,
    /// IPv6 addresses go through duplicate address detection.
    pub dad: bool,
}

impl Inside<'_> {
    /// Gives the interface its addresses, brings it up, installs the routes. The thread must be in the
    /// container's network namespace for the kernel parameters.
    pub fn configure(&self, rtnl: &mut Rtnl) -> Result<Link, Failure> {
        let name = self.ifname;
        let link = rtnl.link(name)?.ok_or_else(|| {
            Failure::new(
                code::KERNEL,
                format!("interface {name} vanished while it was set up"),
            )
        })?;
        // Announce the address when the interface comes up.
        sysctl::ensure(&format!("net/ipv4/conf/{name}/arp_notify"), "1")?;
        if self
            .result
            .ips
            .iter()
            .any(|ip| matches!(ip.address, IpNet::V6(_)))
        {
            sysctl::ensure(&format!("net/ipv6/conf/{name}/disable_ipv6"), "0")?;
        }
        if !self.dad {
            sysctl::ensure(&format!("net/ipv6/conf/{name}/accept_dad"), "0")?;
        }
        let mut batch: Vec<Message> = self
            .result
            .ips
            .iter()
            .map(|ip| Message::add_address(link.index, name, ip.address, self.dad))
            .collect();
        batch.push(Message::set_up(name, true));
        batch.extend(
            routes(self.result)
                .iter()
                .map(|(route, gw)| Message::add_route(link.index, name, route, *gw)),
        );
        rtnl.run(&batch)?;
        Ok(link)
    }
}

/// Fails if an interface of the result is not in the container as the result says.
pub(crate) fn check_inside(netns: &NetNs, ifname: &str, result: &AddResult) -> Result<(), Failure> {
    let mut rtnl = Rtnl::open_in(netns)?;
    let sandbox = netns.path().display().to_string();
    let at = result
        .interfaces
        .iter()
        .position(|i| i.name == ifname && !i.sandbox.is_empty())
        .ok_or_else(|| {
            Failure::field(
                "prevResult.interfaces",
                format!("has no interface {ifname} in a sandbox"),
            )
        })?;
    let listed = &result.interfaces[at];
    if listed.sandbox != sandbox {
        return Err(Failure::check(format!(
            "prevResult: interface {ifname} is in {}, but CNI_NETNS is {sandbox}",
            listed.sandbox
        )));
    }
    let link = rtnl
        .link(ifname)?
        .ok_or_else(|| Failure::check(format!("interface {ifname} is not in {sandbox}")))?;
    if !listed.mac.is_empty() && !listed.mac.eq_ignore_ascii_case(&format_mac(&link.mac)) {
        return Err(Failure::check(format!(
            "interface {ifname} has the hardware address {}, not {}",
            format_mac(&link.mac),
            listed.mac
        )));
    }
    if !link.up {
        return Err(Failure::check(format!("interface {ifname} is not up")));
    }
    let mine: Vec<_> = result
        .ips
        .iter()
        .filter(|ip| ip.interface.is_none_or(|i| i == at))
        .collect();
    let there = rtnl.addresses(link.index)?;
    if let Some(ip) = mine
        .iter()
        .find(|ip| !there.iter().any(|a| a.address == ip.address))
    {
        return Err(Failure::check(format!(
            "interface {ifname} does not have address {}",
            ip.address
        )));
    }
    check_routes(&rtnl.routes()?, result)
}

fn check_routes(there: &[InstalledRoute], result: &AddResult) -> Result<(), Failure> {
    for (route, gw) in routes(result) {
        let table = route.table.unwrap_or(crate::netlink::MAIN_TABLE);
        let matches = |r: &&InstalledRoute| {
            r.dst == route.dst.trunc()
                && r.table == table
                && (gw.is_none() || r.gw == gw)
                && route.priority.is_none_or(|p| r.priority == p)
                && route.mtu.is_none_or(|m| r.mtu == m)
                && route.advmss.is_none_or(|m| r.advmss == m)
        };
        if !there.iter().any(|r| matches(&r)) {
            let via = gw.map(|g| format!(" via {g}")).unwrap_or_default();
            return Err(Failure::check(format!(
                "no route to {}{via} in table {table}",
                route.dst
            )));
        }
    }
    Ok(())
}

/// Lets the host forward packets of the families in use.
pub(crate) fn enable_forwarding(result: &AddResult) -> Result<(), Failure> {
    let has = |v4: bool| result.ips.iter().any(|ip| ip.address.addr().is_ipv4() == v4);
    if has(true) {
        sysctl::ensure("net/ipv4/ip_forward", "1")?;
    }
    if has(false) {
        sysctl::ensure("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

/// Goes on after a failure and gives the first one in the end; DEL and GC remove all they can.
#[derive(Debug, Default)]
pub(crate) struct FirstFailure(Option<Failure>);

impl FirstFailure {
    /// Notes the outcome of one step.
    pub fn note(&mut self, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome
            && self.0.is_none()
        {
            self.0 = Some(failure);
        }
    }

    /// The first failure, if any.
    pub fn finish(self) -> Result<(), Failure> {
        self.0.map_or(Ok(()), Err)
    }
}
