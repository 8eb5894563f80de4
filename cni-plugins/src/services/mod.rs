//! Load balancing of services in the kernel: connections to a service's address, or to a port of the host, go to one of
//! its backends.
//!
//! One table of its own, `inet berth-services`: a hash map finds a service's chain whatever their number, and the
//! chain's one rule takes a backend in turn, or by the client's address. Each change is one transaction; what somebody
//! else has changed is replaced as a whole.

mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

use crate::nft::conntrack::{self, UdpPort};
use crate::nft::expr::Family;
use crate::nft::{Batch, Nft};
use crate::protocol::Failure;
use crate::sysctl;

/// Transport protocols (IPPROTO_…).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

/// Where clients find a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address; absent: each of the host's own.
    pub address: Option<Ipv4Addr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// One port of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Service {
    /// Where clients find it; all by the same protocol.
    pub frontends: BTreeSet<Frontend>,
    /// Where connections go.
    pub backends: Vec<SocketAddrV4>,
    /// A client stays with its backend as long as their list does not change.
    pub sticky: bool,
}

/// Everything that the kernel shall know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// By a name for people, such as `default/web:http`: up to 200 bytes.
    pub services: BTreeMap<String, Service>,
    /// The network of the services' addresses: what is sent there and is no service is refused at once.
    pub addresses: Ipv4Net,
    /// Networks in which backends reach each other without the host. Answers must come back through it, so clients from
    /// the same network are seen with the host's address.
    pub direct: BTreeSet<Ipv4Net>,
}

/// Keeps the kernel's rules as they shall be.
///
/// It is for the network namespace of the thread that opened it. The rules stay when it is dropped.
pub struct Balancer {
    nft: Nft,
    /// What the kernel has, as far as we know.
    applied: Option<Services>,
}

impl Balancer {
    /// Opens a socket to the kernel.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open() -> Result<Self, Failure> {
        Ok(Self {
            nft: Nft::open_services()?,
            applied: None,
        })
    }

    /// Brings the kernel's rules to what is wanted, in one transaction: the first time as a whole, then only what
    /// differs.
    ///
    /// # Errors
    /// The kernel refused; nothing has changed then.
    pub fn apply(&mut self, wanted: &Services) -> Result<(), Failure> {
        if self.applied.as_ref() == Some(wanted) {
            return Ok(());
        }
        let outdated = self.applied.as_ref().map(|before| outdated(before, wanted));
        let known = self
            .applied
            .as_ref()
            .filter(|before| before.addresses == wanted.addresses && before.direct == wanted.direct);
        let changed = known.is_some_and(|before| {
            let change = |_: &mut Nft, batch: &mut Batch| {
                rules::change(batch, before, wanted);
                Ok(())
            };
            // It fails where somebody else has changed the table.
            self.nft.change("change the rules of services", change).is_ok()
        });
        if !changed {
            self.replace(wanted)?;
        }
        self.applied = Some(wanted.clone());
        // UDP has no connections that end: those tracked would go to where they went for as long as they last.
        conntrack::forget(&outdated.unwrap_or_else(|| udp_ports(wanted.services.values())))?;
        Ok(())
    }

    /// Makes the whole table anew.
    fn replace(&mut self, wanted: &Services) -> Result<(), Failure> {
        let localnet = sysctl::read("net/ipv4/conf/all/route_localnet")?;
        self.nft.change("write the rules of services", |_, batch| {
            rules::replace(batch, wanted);
            Ok(())
        })?;
        // Connections to 127.0.0.1 may now leave by other interfaces; the guard among the rules keeps others out.
        if localnet.is_some_and(|value| value != "1") {
            sysctl::write("net/ipv4/conf/all/route_localnet", "1")?;
        }
        Ok(())
    }

    /// Whether the kernel still has what was applied; if not, the next [`Balancer::apply`] makes it anew.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn verify(&mut self) -> Result<bool, Failure> {
        let Some(applied) = &self.applied else {
            return Ok(true);
        };
        let mut there: Vec<(String, String)> = self
            .nft
            .rules()?
            .into_iter()
            .map(|rule| (rule.chain, rule.text))
            .collect();
        let mut wanted = rules::texts(applied);
        there.sort();
        wanted.sort();
        let mut intact = there == wanted;
        for (set, count) in rules::element_counts(applied) {
            intact = intact && self.nft.elements(set)?.len() == count;
        }
        if !intact {
            self.applied = None;
        }
        Ok(intact)
    }
}

/// Whether a TCP connection to one of the addresses was used within the last second or so.
///
/// # Errors
/// The kernel refused.
pub fn is_busy(addresses: &[Ipv4Addr]) -> Result<bool, Failure> {
    let whole = sysctl::read("net/netfilter/nf_conntrack_tcp_timeout_established")?;
    let whole = whole.and_then(|text| text.parse().ok()).unwrap_or(0);
    Ok(conntrack::in_use(addresses, whole)?)
}

/// The UDP frontends whose tracked packets no longer go where they should.
fn outdated(before: &Services, wanted: &Services) -> Vec<UdpPort> {
    let lost = |name: &String, service: &&Service| {
        let now = wanted.services.get(name);
        let gained = service.backends.is_empty() && now.is_some_and(|now| !now.backends.is_empty());
        gained
            || now.is_none_or(|now| {
                now.frontends != service.frontends
                    || service
                        .backends
                        .iter()
                        .any(|backend| !now.backends.contains(backend))
            })
    };
    let changed = before
        .services
        .iter()
        .filter(|(name, service)| lost(name, service));
    let mut ports = udp_ports(changed.map(|(_, service)| service));
    let new = wanted
        .services
        .iter()
        .filter(|(name, _)| !before.services.contains_key(*name));
    ports.extend(udp_ports(new.map(|(_, service)| service)));
    ports
}

fn udp_ports<'a>(services: impl Iterator<Item = &'a Service>) -> Vec<UdpPort> {
    services
        .flat_map(|service| &service.frontends)
        .filter(|frontend| frontend.protocol == Protocol::Udp)
        .map(|frontend| UdpPort {
            family: Family::V4,
            address: frontend.address.map(Into::into),
            port: frontend.port,
        })
        .collect()
}
