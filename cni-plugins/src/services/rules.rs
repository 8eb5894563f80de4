//! The rules of services.
//!
//! ```text
//! map addresses   protocol . address . port : jump service-…       services by their address
//! map host-ports  protocol . port : jump service-…                 services by a port of the host
//! chain guard        prerouting, raw: 127.0.0.0/8 from outside is dropped (route_localnet opens it)
//! chain prerouting   nat prerouting } meta l4proto . ip daddr . th dport vmap @addresses
//! chain output       nat output     } fib daddr type local, then meta l4proto . th dport vmap @host-ports
//! chain service-…    dnat ip to numgen inc mod 3 map { 0 : 10.90.0.2 . 8080, 1 : …, 2 : … }
//! chain postrouting  nat postrouting: ct status dnat, from 127.0.0.0/8 or inside one direct network: masquerade
//! chain forward, local    filter: what still has an address of the services' network is no service: reject
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddrV4;

use ipnet::{IpNet, Ipv4Net};

use super::{Frontend, Service, Services};
use crate::nft::expr::{Family, Is, Meta, Program, Register, Verdict};
use crate::nft::{BaseChain, Batch, Data, Element, Set, datatype, hook};

const ADDRESSES: &str = "addresses";
const HOST_PORTS: &str = "host-ports";
/// RTN_LOCAL: the routing table says that the address is the host's own.
const LOCAL: u32 = 2;
const LOOPBACK: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8);

const CHAINS: [BaseChain; 6] = [
    chain("guard", "filter", hook::PREROUTING, -300),
    chain("prerouting", "nat", hook::PREROUTING, -100),
    chain("output", "nat", hook::OUTPUT, -100),
    chain("postrouting", "nat", hook::POSTROUTING, 100),
    chain("forward", "filter", hook::FORWARD, 0),
    chain("local", "filter", hook::OUTPUT, 0),
];

const SETS: [Set; 2] = [
    Set {
        name: ADDRESSES,
        key_type: datatype::concat(
            datatype::concat(datatype::PROTOCOL, datatype::IPV4),
            datatype::PORT,
        ),
        key_length: 12,
        data: Some((datatype::VERDICT, 0)),
    },
    Set {
        name: HOST_PORTS,
        key_type: datatype::concat(datatype::PROTOCOL, datatype::PORT),
        key_length: 8,
        data: Some((datatype::VERDICT, 0)),
    },
];

const fn chain(name: &'static str, kind: &'static str, hook: u32, priority: i32) -> BaseChain {
    BaseChain {
        name,
        kind,
        hook,
        priority,
    }
}

/// A rule that does not depend on any one service.
struct Fixed {
    chain: &'static str,
    text: String,
    program: Program,
}

fn fixed(services: &Services) -> Vec<Fixed> {
    let rule = |chain, text: String, program| Fixed { chain, text, program };
    let mut rules = vec![rule(
        "guard",
        format!("iifname != lo ip daddr {LOOPBACK} drop"),
        guard(),
    )];
    for chain in ["prerouting", "output"] {
        let text = format!("meta l4proto . ip daddr . th dport vmap @{ADDRESSES}");
        rules.push(rule(chain, text, by_address()));
        let text = format!("fib daddr type local meta l4proto . th dport vmap @{HOST_PORTS}");
        rules.push(rule(chain, text, by_host_port()));
    }
    let text = format!("ct status dnat ip saddr {LOOPBACK} masquerade");
    let program = Program::translated()
        .family(Family::V4)
        .source(Family::V4, Register::FIRST);
    let program = program.in_network(Register::FIRST, Is::Equal, &IpNet::V4(LOOPBACK));
    rules.push(rule("postrouting", text, program.masquerade()));
    for direct in &services.direct {
        let text = format!("ct status dnat ip saddr {direct} ip daddr {direct} masquerade");
        rules.push(rule("postrouting", text, between(*direct)));
    }
    let addresses = IpNet::V4(services.addresses);
    let unserved = || {
        Program::default()
            .family(Family::V4)
            .destination(Family::V4, Register::FIRST)
            .in_network(Register::FIRST, Is::Equal, &addresses)
    };
    rules.push(rule(
        "forward",
        format!("ip daddr {addresses} reject"),
        unserved().reject(),
    ));
    let text = format!("ip daddr {addresses} fib daddr type != local reject");
    let program = unserved()
        .fib_destination_type(Register::FIRST)
        .compare(Register::FIRST, Is::NotEqual, &LOCAL.to_ne_bytes())
        .reject();
    rules.push(rule("local", text, program));
    rules
}

/// route_localnet lets others reach services of the host's 127.0.0.1 (CVE-2020-8558 was that); nothing from outside may.
fn guard() -> Program {
    let mut lo = [0; 16];
    lo[..2].copy_from_slice(b"lo");
    Program::default()
        .meta(Meta::InputName, Register::FIRST)
        .compare(Register::FIRST, Is::NotEqual, &lo)
        .family(Family::V4)
        .destination(Family::V4, Register::FIRST)
        .in_network(Register::FIRST, Is::Equal, &IpNet::V4(LOOPBACK))
        .verdict(&Verdict::Drop)
}

fn by_address() -> Program {
    Program::default()
        .family(Family::V4)
        .meta(Meta::L4proto, Register::word(0))
        .destination(Family::V4, Register::word(1))
        .destination_port(Register::word(2))
        .lookup(ADDRESSES, Register::word(0), Some(Register::VERDICT))
}

fn by_host_port() -> Program {
    Program::default()
        .family(Family::V4)
        .fib_destination_type(Register::FIRST)
        .compare(Register::FIRST, Is::Equal, &LOCAL.to_ne_bytes())
        .meta(Meta::L4proto, Register::word(0))
        .destination_port(Register::word(1))
        .lookup(HOST_PORTS, Register::word(0), Some(Register::VERDICT))
}

fn between(network: Ipv4Net) -> Program {
    let network = IpNet::V4(network);
    Program::translated()
        .family(Family::V4)
        .source(Family::V4, Register::FIRST)
        .in_network(Register::FIRST, Is::Equal, &network)
        .destination(Family::V4, Register::FIRST)
        .in_network(Register::FIRST, Is::Equal, &network)
        .masquerade()
}

/// The services that have backends: only they are in the maps. The others' addresses are refused.
fn served(services: &Services) -> impl Iterator<Item = (&String, &Service)> {
    services
        .services
        .iter()
        .filter(|(_, service)| !service.backends.is_empty())
}

/// The chain of a service. The name may hold what nft(8) would not read.
fn chain_of(name: &str) -> String {
    // FNV-1a.
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("service-{hash:016x}")
}

fn choice_text(name: &str, service: &Service) -> String {
    let how = if service.sticky {
        "jhash ip saddr"
    } else {
        "numgen inc"
    };
    format!("{name}: {how} mod {}", service.backends.len())
}

fn choose(batch: &mut Batch, name: &str, service: &Service) {
    let values: Vec<Vec<u8>> = service.backends.iter().copied().map(value).collect();
    let map = batch.numbered_map((datatype::concat(datatype::IPV4, datatype::PORT), 8), &values);
    let count = values.len() as u32;
    let number = Register::word(4);
    // nft(8) only reads the port of a translation after a match of the protocol.
    let protocol = service
        .frontends
        .first()
        .map_or(0, |frontend| frontend.protocol as u8);
    let program = Program::default()
        .family(Family::V4)
        .meta(Meta::L4proto, Register::FIRST)
        .compare(Register::FIRST, Is::Equal, &[protocol]);
    let program = if service.sticky {
        program
            .source(Family::V4, Register::word(0))
            .hashed_number(Register::word(0), 4, count, number)
    } else {
        program.next_number(count, number)
    };
    let program = program
        .lookup_numbered(map, number, Register::word(8))
        .destination_nat(Family::V4, Register::word(8), Register::word(9));
    batch.rule(&chain_of(name), &choice_text(name, service), &program);
}

fn value(backend: SocketAddrV4) -> Vec<u8> {
    let mut bytes = backend.ip().octets().to_vec();
    bytes.extend(backend.port().to_be_bytes());
    bytes.extend([0, 0]);
    bytes
}

/// The set and the element that lead from a frontend to its service.
fn element(frontend: Frontend, name: &str) -> (&'static str, Element) {
    let mut key = vec![frontend.protocol as u8, 0, 0, 0];
    let set = match frontend.address {
        Some(address) => {
            key.extend(address.octets());
            ADDRESSES
        }
        None => HOST_PORTS,
    };
    key.extend(frontend.port.to_be_bytes());
    key.extend([0, 0]);
    let element = Element {
        key,
        data: Data::Jump(chain_of(name)),
        comment: name.to_owned(),
    };
    (set, element)
}

/// What leads where, by set.
fn elements(services: &Services) -> BTreeMap<(&'static str, Frontend), Element> {
    let mut all = BTreeMap::new();
    for (name, service) in served(services) {
        for frontend in &service.frontends {
            let (set, element) = element(*frontend, name);
            // Whoever comes first keeps a frontend that two services want.
            all.entry((set, *frontend)).or_insert(element);
        }
    }
    all
}

/// Everything anew, in place of whatever the table holds.
pub(super) fn replace(batch: &mut Batch, wanted: &Services) {
    // Made first, so that there is one to delete.
    batch.table();
    batch.delete_table();
    batch.table();
    for chain in &CHAINS {
        batch.base_chain(chain);
    }
    for set in &SETS {
        batch.set(set);
    }
    for rule in fixed(wanted) {
        batch.rule(rule.chain, &rule.text, &rule.program);
    }
    for (name, service) in served(wanted) {
        batch.chain(&chain_of(name));
        choose(batch, name, service);
    }
    add(batch, &elements(wanted));
}

/// From one state to the next.
pub(super) fn change(batch: &mut Batch, before: &Services, wanted: &Services) {
    let (mut gone, mut new) = (elements(before), elements(wanted));
    let same: BTreeSet<_> = gone
        .iter()
        .filter(|(key, element)| new.get(key) == Some(element))
        .map(|(key, _)| *key)
        .collect();
    gone.retain(|key, _| !same.contains(key));
    new.retain(|key, _| !same.contains(key));
    for ((set, _), element) in &gone {
        batch.delete_element(set, element);
    }
    let was: BTreeMap<&String, &Service> = served(before).collect();
    for (name, service) in served(wanted) {
        match was.get(name) {
            None => {
                batch.chain(&chain_of(name));
                choose(batch, name, service);
            }
            Some(old) if old.backends != service.backends || old.sticky != service.sticky => {
                batch.flush_chain(&chain_of(name));
                choose(batch, name, service);
            }
            Some(_) => {}
        }
    }
    add(batch, &new);
    let is: BTreeMap<&String, &Service> = served(wanted).collect();
    for name in was.keys().filter(|name| !is.contains_key(*name)) {
        batch.delete_chain(&chain_of(name));
    }
}

fn add(batch: &mut Batch, all: &BTreeMap<(&'static str, Frontend), Element>) {
    for set in [ADDRESSES, HOST_PORTS] {
        let some: Vec<Element> = all
            .iter()
            .filter(|((of, _), _)| *of == set)
            .map(|(_, element)| element.clone())
            .collect();
        if !some.is_empty() {
            batch.add_elements(set, &some);
        }
    }
}

/// Chain and text of every rule, to tell whether somebody else has changed them.
pub(super) fn texts(services: &Services) -> Vec<(String, String)> {
    let fixed = fixed(services)
        .into_iter()
        .map(|rule| (rule.chain.to_owned(), rule.text));
    let own = served(services).map(|(name, service)| (chain_of(name), choice_text(name, service)));
    fixed.chain(own).collect()
}

/// How many elements each set has.
pub(super) fn element_counts(services: &Services) -> [(&'static str, usize); 2] {
    let all = elements(services);
    [ADDRESSES, HOST_PORTS].map(|set| (set, all.keys().filter(|(of, _)| *of == set).count()))
}
