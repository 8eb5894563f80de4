//! The portmap plugin's configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::protocol::{AddResult, Failure, Fields, Request};

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Tcp = 6,
    Udp = 17,
    Sctp = 132,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "" | "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "sctp" => Self::Sctp,
            _ => return None,
        })
    }

    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp]
            .into_iter()
            .find(|p| *p as u8 == number)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One published port of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The field it came from.
    pub field: String,
    pub protocol: Protocol,
    /// Absent: every address of the host.
    pub host: Option<IpAddr>,
    pub host_port: u16,
    pub container: IpAddr,
    pub container_port: u16,
}

/// The configuration, checked.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// Masquerade connections that come back by the way they went: hairpin, and 127.0.0.1.
    pub snat: bool,
    /// Masquerade all connections to published ports.
    pub masquerade_all: bool,
    /// The container's addresses with their subnets, at most one a family.
    pub addresses: Vec<IpNet>,
    pub mappings: Vec<Mapping>,
}

impl Config {
    pub fn read(request: &Request, result: &AddResult) -> Result<Self, Failure> {
        let fields = request.fields();
        check_backend(&fields)?;
        let addresses = addresses(request, result);
        let config = Self {
            snat: fields.opt_bool("snat")?.unwrap_or(true),
            masquerade_all: fields.bool("masqAll")?,
            mappings: mappings(&fields, &addresses)?,
            addresses,
        };
        Ok(config)
    }
}

/// Fields that choose how the reference does it. Both of its backends mean the same here.
fn check_backend(fields: &Fields<'_>) -> Result<(), Failure> {
    match fields.text("backend")? {
        None | Some("iptables" | "nftables") => {}
        Some(other) => {
            return Err(Failure::field(
                "backend",
                format!("{other:?} is unknown (allowed: iptables, nftables)"),
            ));
        }
    }
    // Masquerading goes by the connection's state here, so no bit of the packet mark is needed.
    let bit = fields.number("markMasqBit", 0, 31)?;
    if fields.text("externalSetMarkChain")?.is_some() && bit.is_some() {
        return Err(Failure::field(
            "externalSetMarkChain",
            "cannot be combined with markMasqBit: choose one",
        ));
    }
    for field in ["conditionsV4", "conditionsV6"] {
        if !fields.texts(field)?.is_empty() {
            return Err(Failure::unsupported(
                field,
                "raw rule text of iptables or nft is not supported: remove it, or limit by hostIP",
            ));
        }
    }
    Ok(())
}

/// The first address of each family of the container's interface.
fn addresses(request: &Request, result: &AddResult) -> Vec<IpNet> {
    let inside = |index: usize| {
        result
            .interfaces
            .get(index)
            .is_none_or(|i| i.name == request.attachment.ifname && !i.sandbox.is_empty())
    };
    let mut found: Vec<IpNet> = Vec::new();
    for ip in result.ips.iter().filter(|ip| ip.interface.is_none_or(inside)) {
        if !found
            .iter()
            .any(|f| f.addr().is_ipv4() == ip.address.addr().is_ipv4())
        {
            found.push(ip.address);
        }
    }
    found
}

fn mappings(fields: &Fields<'_>, addresses: &[IpNet]) -> Result<Vec<Mapping>, Failure> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for entry in fields.object("runtimeConfig")?.objects("portMappings")? {
        for mapping in one(&entry, addresses)? {
            let twice = mappings.iter().find(|m| {
                m.protocol == mapping.protocol
                    && m.host_port == mapping.host_port
                    && m.host == mapping.host
                    && m.container.is_ipv4() == mapping.container.is_ipv4()
            });
            match twice {
                // Runtimes list a dual-stack port twice, as 0.0.0.0 and ::.
                Some(same)
                    if same.container == mapping.container
                        && same.container_port == mapping.container_port => {}
                Some(other) => {
                    return Err(Failure::field(
                        &entry.name("hostPort"),
                        format!(
                            "{}/{} is published already by {}",
                            mapping.host_port,
                            mapping.protocol.name(),
                            other.field
                        ),
                    ));
                }
                None => mappings.push(mapping),
            }
        }
    }
    Ok(mappings)
}

fn one(entry: &Fields<'_>, addresses: &[IpNet]) -> Result<Vec<Mapping>, Failure> {
    let port = |name: &str| -> Result<u16, Failure> {
        entry
            .number(name, 1, 65535)?
            .map(|n| n as u16)
            .ok_or_else(|| Failure::field(&entry.name(name), "missing: give a port between 1 and 65535"))
    };
    let (host_port, container_port) = (port("hostPort")?, port("containerPort")?);
    let text = entry.text("protocol")?.unwrap_or_default();
    let protocol = Protocol::parse(text).ok_or_else(|| {
        Failure::field(
            &entry.name("protocol"),
            format!("{text:?} is unknown (allowed: tcp, udp, sctp)"),
        )
    })?;
    let asked = entry.ip("hostIP")?;
    if asked == Some(IpAddr::V6(Ipv6Addr::LOCALHOST)) {
        return Err(Failure::field(
            &entry.name("hostIP"),
            "the kernel cannot forward ::1: use 127.0.0.1 or an address of the host",
        ));
    }
    let any = asked.is_none_or(|ip| ip.is_unspecified());
    let fits = |net: &&IpNet| asked.is_none_or(|ip| ip.is_ipv4() == net.addr().is_ipv4());
    let containers: Vec<IpAddr> = addresses.iter().filter(fits).map(IpNet::addr).collect();
    if containers.is_empty() && !any {
        return Err(Failure::field(
            &entry.name("hostIP"),
            format!(
                "{} has no container address of its family to go to",
                asked.unwrap_or(Ipv4Addr::LOCALHOST.into())
            ),
        ));
    }
    Ok(containers
        .into_iter()
        .map(|container| Mapping {
            field: entry.name("hostPort"),
            protocol,
            host: asked.filter(|_| !any),
            host_port,
            container,
            container_port,
        })
        .collect())
}
