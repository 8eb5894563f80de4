//! The rules of published ports.
//!
//! ```text
//! chain ports-guard       prerouting, raw: 127.0.0.0/8 from outside is dropped (route_localnet opens it)
//! chain ports-prerouting  nat prerouting } fib daddr type local jump ports
//! chain ports-output      nat output     }
//! chain ports {
//!     dnat ip  to meta l4proto . ip daddr . th dport map @ports-address4     published on one address
//!     dnat ip6 to … @ports-address6
//!     dnat ip  to meta l4proto . th dport map @ports4                         published on all
//!     dnat ip6 to … @ports6
//! }
//! chain ports-postrouting { ct status dnat, then ip daddr vmap @hairpin4 / @hairpin6 }
//! set ports-waiting4 { protocol . host address . port . address . port }  in no rule: ports that the same
//!     container has published by another network; they take over when that one ends
//! chain hairpin-10.88.0.0/16 { ip saddr 10.88.0.0/16 masquerade; ip saddr 127.0.0.0/8 masquerade }
//! chain hairpin-all { masquerade }
//! ```

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use super::config::{Config, Mapping, Protocol};
use crate::nft::{
    BaseChain, Data, Element, Layout, Rule, Set, Tag, datatype,
    expr::{Family, Is, Meta, Program, Register, Verdict, octets},
    hook, subnet_chain,
};

pub(super) const SETS: [&str; 8] = [
    "ports-address4",
    "ports-address6",
    "ports4",
    "ports6",
    "hairpin4",
    "hairpin6",
    "ports-waiting4",
    "ports-waiting6",
];
const HAIRPIN: &str = "hairpin";
const HAIRPIN_ALL: &str = "hairpin-all";
/// RTN_LOCAL: the routing table says that the address is the host's own.
const LOCAL: u32 = 2;

/// The map of a family for one host address or for all.
pub(super) fn ports_set(family: Family, on_address: bool) -> &'static str {
    match (family, on_address) {
        (Family::V4, true) => "ports-address4",
        (Family::V6, true) => "ports-address6",
        (Family::V4, false) => "ports4",
        (Family::V6, false) => "ports6",
    }
}

/// The set of a family for mappings that wait.
pub(super) fn waiting_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "ports-waiting4",
        Family::V6 => "ports-waiting6",
    }
}

fn hairpin_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "hairpin4",
        Family::V6 => "hairpin6",
    }
}

/// All that does not depend on the container, and the subnet chains that `config` needs.
pub(super) fn layout(config: &Config) -> Layout {
    let chain = |name, kind, hook, priority| BaseChain {
        name,
        kind,
        hook,
        priority,
    };
    let mut layout = Layout {
        chains: vec![
            chain("ports-guard", "filter", hook::PREROUTING, -300),
            chain("ports-prerouting", "nat", hook::PREROUTING, -100),
            chain("ports-output", "nat", hook::OUTPUT, -100),
            chain("ports-postrouting", "nat", hook::POSTROUTING, 100),
        ],
        sets: Family::BOTH.into_iter().flat_map(sets).collect(),
        rules: vec![guard()],
    };
    for on_address in [true, false] {
        for family in Family::BOTH {
            layout.rules.push(translate(family, on_address));
        }
    }
    for chain in ["ports-prerouting", "ports-output"] {
        layout.rules.push(Rule {
            chain: chain.to_owned(),
            text: "fib daddr type local jump ports".into(),
            program: Program::default()
                .fib_destination_type(Register::FIRST)
                .compare(Register::FIRST, Is::Equal, &LOCAL.to_ne_bytes())
                .verdict(&Verdict::Jump("ports".into())),
        });
    }
    for family in Family::BOTH {
        let set = hairpin_set(family);
        layout.rules.push(Rule {
            chain: "ports-postrouting".into(),
            text: format!("ct status dnat {} daddr vmap @{set}", family.keyword()),
            program: Program::translated()
                .family(family)
                .destination(family, Register::FIRST)
                .lookup(set, Register::FIRST, Some(Register::VERDICT)),
        });
    }
    if config.masquerade_all {
        layout.rules.push(Rule {
            chain: HAIRPIN_ALL.into(),
            text: "masquerade".into(),
            program: Program::default().masquerade(),
        });
    } else if config.snat {
        layout
            .rules
            .extend(config.addresses.iter().flat_map(hairpin_rules));
    }
    layout
}

fn loopback() -> IpNet {
    IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8)
}

/// route_localnet lets a neighbour on the bridge reach services of the host's 127.0.0.1
/// (CVE-2020-8558 was that); nothing from outside may.
fn guard() -> Rule {
    let mut lo = [0; 16];
    lo[..2].copy_from_slice(b"lo");
    Rule {
        chain: "ports-guard".into(),
        text: "iifname != lo ip daddr 127.0.0.0/8 drop".into(),
        program: Program::default()
            .meta(Meta::InputName, Register::FIRST)
            .compare(Register::FIRST, Is::NotEqual, &lo)
            .family(Family::V4)
            .destination(Family::V4, Register::FIRST)
            .in_network(Register::FIRST, Is::Equal, &loopback())
            .verdict(&Verdict::Drop),
    }
}

fn sets(family: Family) -> [Set; 4] {
    let address = datatype::address(family);
    let on_address = datatype::concat(datatype::concat(datatype::PROTOCOL, address), datatype::PORT);
    let data = Some((datatype::concat(address, datatype::PORT), family.width() + 4));
    [
        Set {
            name: ports_set(family, true),
            key_type: on_address,
            key_length: 4 + family.width() + 4,
            data,
        },
        Set {
            name: ports_set(family, false),
            key_type: datatype::concat(datatype::PROTOCOL, datatype::PORT),
            key_length: 8,
            data,
        },
        Set {
            name: hairpin_set(family),
            key_type: address,
            key_length: family.width(),
            data: Some((datatype::VERDICT, 0)),
        },
        Set {
            name: waiting_set(family),
            key_type: datatype::concat(datatype::concat(on_address, address), datatype::PORT),
            key_length: 4 + family.width() + 4 + family.width() + 4,
            data: None,
        },
    ]
}

fn translate(family: Family, on_address: bool) -> Rule {
    let set = ports_set(family, on_address);
    let words = family.width() / 4;
    let ip = family.keyword();
    let program = Program::default()
        .family(family)
        .meta(Meta::L4proto, Register::word(0));
    let (program, key) = if on_address {
        let program = program
            .destination(family, Register::word(1))
            .destination_port(Register::word(1 + words));
        (program, format!("meta l4proto . {ip} daddr . th dport"))
    } else {
        (
            program.destination_port(Register::word(1)),
            "meta l4proto . th dport".to_owned(),
        )
    };
    Rule {
        chain: "ports".into(),
        text: format!("dnat {ip} to {key} map @{set}"),
        program: program
            .lookup(set, Register::word(0), Some(Register::word(8)))
            .destination_nat(family, Register::word(8), Register::word(8 + words)),
    }
}

fn hairpin_rules(subnet: &IpNet) -> Vec<Rule> {
    let family = Family::of(subnet.addr());
    let mut sources = vec![subnet.trunc()];
    if family == Family::V4 {
        sources.push(loopback());
    }
    sources
        .into_iter()
        .map(|source| Rule {
            chain: subnet_chain(HAIRPIN, subnet),
            text: format!("{} saddr {source} masquerade", family.keyword()),
            program: Program::default()
                .family(family)
                .source(family, Register::FIRST)
                .in_network(Register::FIRST, Is::Equal, &source)
                .masquerade(),
        })
        .collect()
}

/// Bytes in network byte order, padded to whole registers.
fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4), 0);
    padded
}

/// The key of a mapping, with the set it belongs to.
pub(super) fn key(
    protocol: Protocol,
    family: Family,
    host: Option<IpAddr>,
    port: u16,
) -> (&'static str, Vec<u8>) {
    let mut key = padded(&[protocol as u8]);
    key.extend(host.map(octets).unwrap_or_default());
    key.extend(padded(&port.to_be_bytes()));
    (ports_set(family, host.is_some()), key)
}

/// What a key says: protocol, host address, port.
pub(super) fn parse_key(family: Family, key: &[u8]) -> Option<(Protocol, Option<IpAddr>, u16)> {
    let protocol = Protocol::from_number(*key.first()?)?;
    let (address, port) = key.get(4..)?.split_at_checked(key.len().checked_sub(8)?)?;
    let host = match family {
        _ if address.is_empty() => None,
        Family::V4 => Some(IpAddr::from(*address.first_chunk::<4>()?)),
        Family::V6 => Some(IpAddr::from(*address.first_chunk::<16>()?)),
    };
    Some((protocol, host, u16::from_be_bytes(*port.first_chunk()?)))
}

/// A mapping as it waits; all addresses of the host are written as none.
pub(super) fn waiting(mapping: &Mapping, tag: &Tag) -> (&'static str, Element) {
    let family = Family::of(mapping.container);
    let mut key = padded(&[mapping.protocol as u8]);
    key.extend(
        mapping
            .host
            .map_or_else(|| vec![0; family.width() as usize], octets),
    );
    key.extend(padded(&mapping.host_port.to_be_bytes()));
    key.extend(octets(mapping.container));
    key.extend(padded(&mapping.container_port.to_be_bytes()));
    let element = Element {
        key,
        data: Data::Nothing,
        comment: tag.to_string(),
    };
    (waiting_set(family), element)
}

/// What a waiting element becomes when it takes over, with the set it belongs to.
pub(super) fn taking_over(family: Family, waiting: &Element) -> Option<(&'static str, Element)> {
    let width = family.width() as usize;
    let (key, value) = waiting.key.split_at_checked(4 + width + 4)?;
    let (protocol, host) = key.split_at_checked(4)?;
    let (address, port) = host.split_at_checked(width)?;
    let any = address.iter().all(|byte| *byte == 0);
    let mut key = protocol.to_vec();
    if !any {
        key.extend_from_slice(address);
    }
    key.extend_from_slice(port);
    let element = Element {
        key,
        data: Data::Value(value.to_vec()),
        comment: waiting.comment.clone(),
    };
    Some((ports_set(family, !any), element))
}

/// The elements for connections that come back by the way they went, with their sets.
pub(super) fn returning(tag: &Tag, config: &Config) -> Vec<(&'static str, Element)> {
    let comment = tag.to_string();
    let mut elements = Vec::new();
    for net in &config.addresses {
        let family = Family::of(net.addr());
        if !config.mappings.iter().any(|m| m.container == net.addr()) {
            continue;
        }
        let chain = match (config.masquerade_all, config.snat) {
            (true, _) => HAIRPIN_ALL.to_owned(),
            (false, true) => subnet_chain(HAIRPIN, net),
            (false, false) => continue,
        };
        let element = Element {
            key: octets(net.addr()),
            data: Data::Jump(chain),
            comment: comment.clone(),
        };
        elements.push((hairpin_set(family), element));
    }
    elements
}

/// The element of a mapping, with its set.
pub(super) fn mapping(mapping: &Mapping, tag: &Tag) -> (&'static str, Element) {
    let (set, key) = key(
        mapping.protocol,
        Family::of(mapping.container),
        mapping.host,
        mapping.host_port,
    );
    let mut value = octets(mapping.container);
    value.extend(padded(&mapping.container_port.to_be_bytes()));
    (
        set,
        Element {
            key,
            data: Data::Value(value),
            comment: tag.to_string(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        for (family, host) in [
            (Family::V4, None),
            (Family::V4, Some("192.0.2.7".parse().unwrap())),
            (Family::V6, None),
            (Family::V6, Some("2001:db8::7".parse().unwrap())),
        ] {
            let (set, key) = key(Protocol::Udp, family, host, 8053);
            assert_eq!(set, ports_set(family, host.is_some()));
            assert_eq!(parse_key(family, &key), Some((Protocol::Udp, host, 8053)));
        }
        assert_eq!(parse_key(Family::V4, &[6, 0]), None);
    }

    #[test]
    fn what_waits_becomes_what_it_would_have_been() {
        let tag = Tag::parse("net c1 eth0").unwrap();
        for (container, host) in [
            ("10.88.0.5", None),
            ("10.88.0.5", Some("192.0.2.7")),
            ("fd88::5", None),
            ("fd88::5", Some("2001:db8::7")),
        ] {
            let published = Mapping {
                field: String::new(),
                protocol: Protocol::Tcp,
                host: host.map(|ip: &str| ip.parse().unwrap()),
                host_port: 8080,
                container: container.parse().unwrap(),
                container_port: 80,
            };
            let (set, element) = waiting(&published, &tag);
            let family = Family::of(published.container);
            assert_eq!(set, waiting_set(family));
            assert_eq!(taking_over(family, &element), Some(mapping(&published, &tag)));
        }
    }
}
