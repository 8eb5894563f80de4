//! Routes: RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, Parseable as _};
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
        RouteType,
    },
};
use nix::errno::Errno;

use super::{Message, NetlinkError, Rtnl, addresses::family};
use crate::protocol::Route;

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
/// The main table, where a route without a table goes.
pub(crate) const MAIN_TABLE: u32 = 254;

/// A route as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledRoute {
    /// Destination; the default route is 0.0.0.0/0 or ::/0.
    pub dst: IpNet,
    /// Next hop.
    pub gw: Option<IpAddr>,
    /// Index of the interface it leaves by.
    pub interface: Option<u32>,
    /// Table.
    pub table: u32,
    /// Metric.
    pub priority: u32,
    /// Path MTU, 0 when unset.
    pub mtu: u32,
    /// Advertised maximal segment size, 0 when unset.
    pub advmss: u32,
}

fn message(dst: IpNet, interface: Option<u32>, table: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(dst.addr());
    message.header.destination_prefix_length = dst.prefix_len();
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::Unicast;
    message.header.scope = RouteScope::Universe;
    message.header.table = u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    message.attributes.push(RouteAttribute::Table(table));
    if dst.prefix_len() > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(RouteAddress::from(dst.network())));
    }
    message.attributes.extend(interface.map(RouteAttribute::Oif));
    message
}

impl Message {
    /// Installs a route by the interface with that index; `gw` is the next hop, if any.
    ///
    /// One to the same destination by another interface is no obstacle: a container of two networks has two
    /// default routes, and in IPv4 the later one is used, as with the reference.
    pub fn add_route(index: u32, on: &str, route: &Route, gw: Option<IpAddr>) -> Self {
        let mut message = message(route.dst, Some(index), route.table.unwrap_or(MAIN_TABLE));
        match gw {
            Some(gw) => message
                .attributes
                .push(RouteAttribute::Gateway(RouteAddress::from(gw))),
            None => message.header.scope = RouteScope::Link,
        }
        if let Some(scope) = route.scope {
            message.header.scope = RouteScope::from(scope);
        }
        message
            .attributes
            .extend(route.priority.map(RouteAttribute::Priority));
        let mut metrics = Vec::new();
        metrics.extend(route.mtu.map(RouteMetric::Mtu));
        metrics.extend(route.advmss.map(RouteMetric::Advmss));
        if !metrics.is_empty() {
            message.attributes.push(RouteAttribute::Metrics(metrics));
        }
        let via = gw.map(|g| format!(" via {g}")).unwrap_or_default();
        Self::new(
            format!("add route to {}{via} by {on}", route.dst),
            RTM_NEWROUTE,
            NLM_F_CREATE,
            &message,
        )
    }

    /// Removes a route by an interface; one that is gone already is fine.
    pub fn delete_route(index: u32, on: &str, dst: IpNet) -> Self {
        let mut message = message(dst, Some(index), MAIN_TABLE);
        message.header.scope = RouteScope::NoWhere;
        Self::new(
            format!("delete route to {dst} by {on}"),
            RTM_DELROUTE,
            0,
            &message,
        )
        .tolerate(&[Errno::ESRCH, Errno::ENODEV])
    }
}

impl Rtnl {
    /// All routes of all tables, both families.
    pub fn routes(&mut self) -> Result<Vec<InstalledRoute>, NetlinkError> {
        let request = Message::new("list routes", RTM_GETROUTE, 0, &RouteMessage::default());
        let mut found = Vec::new();
        self.channel.dump(&request, |answer| {
            if let Ok(message) = RouteMessage::parse(&answer.body) {
                found.extend(installed(&message));
            }
        })?;
        Ok(found)
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}

/// A route of several next hops counts as one for each.
fn installed(message: &RouteMessage) -> Vec<InstalledRoute> {
    let Some(route) = single(message) else {
        return Vec::new();
    };
    let hops = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops),
        _ => None,
    });
    let Some(hops) = hops else {
        return vec![route];
    };
    hops.iter()
        .map(|hop| InstalledRoute {
            interface: Some(hop.interface_index),
            gw: hop.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Gateway(address) => ip(address),
                _ => None,
            }),
            ..route.clone()
        })
        .collect()
}

fn single(message: &RouteMessage) -> Option<InstalledRoute> {
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut dst = any;
    let mut route = InstalledRoute {
        dst: IpNet::new(any, 0).ok()?,
        gw: None,
        interface: None,
        table: u32::from(message.header.table),
        priority: 0,
        mtu: 0,
        advmss: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => dst = ip(address)?,
            RouteAttribute::Gateway(address) => route.gw = ip(address),
            RouteAttribute::Oif(index) => route.interface = Some(*index),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(metric) => route.priority = *metric,
            RouteAttribute::Metrics(metrics) => {
                for metric in metrics {
                    match metric {
                        RouteMetric::Mtu(mtu) => route.mtu = *mtu,
                        RouteMetric::Advmss(advmss) => route.advmss = *advmss,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    route.dst = IpNet::new(dst, message.header.destination_prefix_length).ok()?;
    Some(route)
}
