//! PURE: from a question and the zone to an answer ("Kubernetes DNS-Based Service Discovery", schema version 1.1.0).
//!
//! ```text
//! SERVICE.NAMESPACE.svc.cluster.local               A: its address, or those of its endpoints; CNAME for ExternalName
//! ENDPOINT.SERVICE.NAMESPACE.svc.cluster.local      A: one endpoint, by its host name or its address with dashes
//! _PORT._PROTOCOL.SERVICE.NAMESPACE.svc.…           SRV
//! 10-90-0-5.NAMESPACE.pod.cluster.local             A: a pod
//! 5.0.90.10.in-addr.arpa                            PTR: a Service, an endpoint or a pod
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::zone::{Endpoint, Kind, Port, Service, Zone, dashed, undashed};

/// The domain of the cluster.
pub(crate) const DOMAIN: &str = "cluster.local";
/// Seconds that an answer may be kept, as CoreDNS has it; that a name is absent, too.
const TTL: u32 = 5;
/// Version of the schema, which every cluster's DNS tells.
const SCHEMA: &str = "1.1.0";
/// Name of the server itself.
pub(super) const SERVER: &str = "kube-dns.kube-system.svc.cluster.local.";

/// What the zone says.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub code: ResponseCode,
    pub records: Vec<Record>,
    /// Addresses of the names in the answer.
    pub additionals: Vec<Record>,
    /// The zone's own record, where the answer is that there is none.
    pub authority: Option<Record>,
    /// The records end in a name of somebody else's zone, to be asked there.
    pub elsewhere: Option<Name>,
}

/// What a name of the zone is.
enum Found {
    Absent,
    /// It is there; these are its records, of whatever type.
    Here(Vec<RData>, Vec<Record>),
}

impl Found {
    fn empty() -> Found {
        Found::Here(Vec::new(), Vec::new())
    }

    fn empty_if(there: bool) -> Found {
        if there { Found::empty() } else { Found::Absent }
    }
}

/// Answers a question, if its name is of this zone. `turn` goes up with each question: whoever takes the first address
/// gets another one each time.
pub(super) fn answer(zone: &Zone, name: &Name, wanted: RecordType, turn: usize) -> Option<Answer> {
    let labels = labels(name);
    let found = match labels.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [rest @ .., "cluster", "local"] => inside(zone, rest, wanted, turn),
        [.., "arpa"] => reverse(zone, name)?,
        _ => return None,
    };
    Some(select(zone, name, wanted, found, turn))
}

/// In small letters; what is no text is no name here.
fn labels(name: &Name) -> Vec<String> {
    name.iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect()
}

/// Of all records of a name those that were asked for; a CNAME stands for all.
fn select(zone: &Zone, name: &Name, wanted: RecordType, found: Found, turn: usize) -> Answer {
    let (code, mut data, additionals) = match found {
        Found::Absent => (ResponseCode::NXDomain, Vec::new(), Vec::new()),
        Found::Here(data, additionals) => (ResponseCode::NoError, data, additionals),
    };
    let alias = data.iter().find_map(|data| match data {
        RData::CNAME(target) => Some(target.0.clone()),
        _ => None,
    });
    data.retain(|data| {
        let kind = data.record_type();
        kind == wanted || wanted == RecordType::ANY || kind == RecordType::CNAME
    });
    if !data.is_empty() {
        let first = turn % data.len();
        data.rotate_left(first);
    }
    let mut answer = Answer {
        code,
        authority: data.is_empty().then(|| soa(zone)),
        additionals: if data.is_empty() { Vec::new() } else { additionals },
        records: data
            .into_iter()
            .map(|data| Record::from_rdata(name.clone(), TTL, data))
            .collect(),
        elsewhere: None,
    };
    if let Some(target) = alias
        && !matches!(wanted, RecordType::CNAME | RecordType::ANY)
    {
        follow(zone, &mut answer, target, wanted, turn);
    }
    answer
}

/// Adds what an alias leads to. A Service that is an alias of another one's alias, and so on, ends after a few.
fn follow(zone: &Zone, answer: &mut Answer, target: Name, wanted: RecordType, turn: usize) {
    if answer.records.len() > 8 {
        answer.code = ResponseCode::ServFail;
        return;
    }
    let labels = labels(&target);
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let [rest @ .., "cluster", "local"] = labels.as_slice() else {
        answer.elsewhere = Some(target);
        return;
    };
    let found = inside(zone, rest, wanted, turn);
    let Found::Here(data, _) = found else {
        answer.code = ResponseCode::NXDomain;
        answer.authority = Some(soa(zone));
        return;
    };
    let mut any = false;
    let mut next = None;
    for data in data {
        if let RData::CNAME(further) = &data {
            next = Some(further.0.clone());
        } else if data.record_type() != wanted {
            continue;
        }
        any = true;
        answer.records.push(Record::from_rdata(target.clone(), TTL, data));
    }
    match next {
        Some(next) => follow(zone, answer, next, wanted, turn),
        None if !any => answer.authority = Some(soa(zone)),
        None => {}
    }
}

/// A name below the cluster's domain.
fn inside(zone: &Zone, labels: &[&str], wanted: RecordType, turn: usize) -> Found {
    match labels {
        [] => Found::Here(apex(zone), Vec::new()),
        ["dns-version"] => Found::Here(vec![RData::TXT(TXT::new(vec![SCHEMA.to_owned()]))], Vec::new()),
        ["svc" | "pod"] => Found::empty(),
        [namespace, "svc" | "pod"] => Found::empty_if(zone.has_namespace(namespace)),
        [label, namespace, "pod"] => pod(zone, label, namespace),
        [service, namespace, "svc"] => {
            let ports = matches!(wanted, RecordType::SRV | RecordType::ANY);
            whole(zone, service, namespace, ports.then_some(turn))
        }
        [protocol, service, namespace, "svc"] if protocol.starts_with('_') => {
            let known = zone.service(namespace, service);
            let has = |port: &Port| protocol[1..] == port.protocol && !port.name.is_empty();
            Found::empty_if(known.is_some_and(|known| known.ports.iter().any(has)))
        }
        [label, service, namespace, "svc"] => endpoint(zone, label, service, namespace),
        [port, protocol, service, namespace, "svc"] => {
            match (port.strip_prefix('_'), protocol.strip_prefix('_')) {
                (Some(port), Some(protocol)) => port_of(zone, port, protocol, service, namespace, turn),
                _ => Found::Absent,
            }
        }
        _ => Found::Absent,
    }
}

fn own(text: &str) -> Option<Name> {
    Name::from_ascii(text).ok()
}

fn apex(zone: &Zone) -> Vec<RData> {
    let server = own(SERVER).map(|name| RData::NS(NS(name)));
    server.into_iter().chain([soa(zone).data]).collect()
}

fn soa(zone: &Zone) -> Record {
    let root = own("cluster.local.").unwrap_or_default();
    let server = own(SERVER).unwrap_or_default();
    let keeper = own("hostmaster.cluster.local.").unwrap_or_default();
    let data = SOA::new(server, keeper, zone.serial(), 7200, 1800, 86400, TTL);
    Record::from_rdata(root, TTL, RData::SOA(data))
}

fn address(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

/// A pod by its address, in its own namespace only: a name that anybody could make up proves nothing.
fn pod(zone: &Zone, label: &str, namespace: &str) -> Found {
    let there = undashed(label).filter(|address| !zone.pods_at(*address, Some(namespace)).is_empty());
    match there {
        Some(found) => Found::Here(vec![address(found)], Vec::new()),
        None => Found::Absent,
    }
}

/// The endpoints of a Service, each once.
fn endpoints<'a>(zone: &'a Zone, service: &str, namespace: &str) -> BTreeSet<&'a Endpoint> {
    let slices = zone.slices(namespace, service);
    slices.flat_map(|slice| &slice.endpoints).collect()
}

/// A Service by its name, with its named ports if there is a turn for them. One without an address and without endpoints
/// that are ready has no name, either.
fn whole(zone: &Zone, service: &str, namespace: &str, ports: Option<usize>) -> Found {
    let Some(found) = zone.service(namespace, service) else {
        return Found::Absent;
    };
    let mut data = match &found.kind {
        Kind::Alias(target) => {
            let target = own(&format!("{target}."));
            return Found::Here(
                target
                    .map(|target| RData::CNAME(CNAME(target)))
                    .into_iter()
                    .collect(),
                Vec::new(),
            );
        }
        Kind::Address(own) => vec![RData::A((*own).into())],
        Kind::Headless => {
            let all: BTreeSet<IpAddr> = endpoints(zone, service, namespace)
                .into_iter()
                .map(|endpoint| endpoint.address)
                .collect();
            if all.is_empty() {
                return Found::Absent;
            }
            all.into_iter().map(address).collect()
        }
    };
    let mut additionals = Vec::new();
    let named = found.ports.iter().filter(|port| !port.name.is_empty());
    for (port, turn) in named.filter_map(|port| ports.map(|turn| (port, turn))) {
        let (records, more) = targets(zone, found, port, service, namespace, turn);
        data.extend(records);
        additionals.extend(more);
    }
    additionals.sort_by_key(|record| record.name.clone());
    additionals.dedup();
    Found::Here(data, additionals)
}

fn endpoint(zone: &Zone, label: &str, service: &str, namespace: &str) -> Found {
    if zone.service(namespace, service).is_none() {
        return Found::Absent;
    }
    let all = endpoints(zone, service, namespace).into_iter();
    let mut addresses: Vec<RData> = all
        .filter(|endpoint| endpoint.label == label)
        .map(|endpoint| address(endpoint.address))
        .collect();
    addresses.dedup();
    if addresses.is_empty() {
        Found::Absent
    } else {
        Found::Here(addresses, Vec::new())
    }
}

fn port_of(zone: &Zone, port: &str, protocol: &str, service: &str, namespace: &str, turn: usize) -> Found {
    let Some(found) = zone.service(namespace, service) else {
        return Found::Absent;
    };
    let same = |known: &&Port| known.name == port && known.protocol == protocol;
    let Some(known) = found.ports.iter().find(same) else {
        return Found::Absent;
    };
    let (records, additionals) = targets(zone, found, known, service, namespace, turn);
    if records.is_empty() {
        Found::Absent
    } else {
        Found::Here(records, additionals)
    }
}

/// SRV records of a port, with the addresses of their targets.
fn targets(
    zone: &Zone,
    found: &Service,
    port: &Port,
    service: &str,
    namespace: &str,
    turn: usize,
) -> (Vec<RData>, Vec<Record>) {
    let base = format!("{service}.{namespace}.svc.{DOMAIN}.");
    let mut places: BTreeSet<(String, u16, IpAddr)> = BTreeSet::new();
    match &found.kind {
        Kind::Alias(_) => {}
        Kind::Address(own) => {
            places.insert((base, port.number, IpAddr::V4(*own)));
        }
        Kind::Headless => {
            for slice in zone.slices(namespace, service) {
                let same = |known: &&Port| known.name == port.name && known.protocol == port.protocol;
                let Some(offered) = slice.ports.iter().find(same) else {
                    continue;
                };
                let all = slice.endpoints.iter();
                places.extend(all.map(|e| (format!("{}.{base}", e.label), offered.number, e.address)));
            }
        }
    }
    let mut places: Vec<_> = places.into_iter().collect();
    if !places.is_empty() {
        let first = turn % places.len();
        places.rotate_left(first);
    }
    let names: BTreeSet<(&String, u16)> = places.iter().map(|(name, number, _)| (name, *number)).collect();
    let weight = (100 / names.len().clamp(1, 100)) as u16;
    let mut records = Vec::new();
    let mut additionals = Vec::new();
    for (name, number, at) in &places {
        let Some(target) = own(name) else { continue };
        let record = RData::SRV(SRV::new(0, weight, *number, target.clone()));
        if !records.contains(&record) {
            records.push(record);
        }
        additionals.push(Record::from_rdata(target, TTL, address(*at)));
    }
    (records, additionals)
}

/// Whom an address belongs to; None where it is none of ours.
fn reverse(zone: &Zone, name: &Name) -> Option<Found> {
    let network = name.parse_arpa_name().ok()?;
    if network.prefix_len() != network.max_prefix_len() {
        return None;
    }
    let at = network.addr();
    let names: Vec<String> = if zone.is_of_services(at) {
        let Some((namespace, service)) = zone.service_at(at) else {
            return Some(Found::Absent);
        };
        vec![format!("{service}.{namespace}.svc.{DOMAIN}.")]
    } else {
        let endpoints = zone.endpoints_at(at).into_iter();
        let mut names: Vec<String> = endpoints
            .map(|((namespace, service), label)| format!("{label}.{service}.{namespace}.svc.{DOMAIN}."))
            .collect();
        if names.is_empty() {
            let pods = zone.pods_at(at, None).into_iter();
            names = pods
                .map(|namespace| format!("{}.{namespace}.pod.{DOMAIN}.", dashed(at)))
                .collect();
        }
        if names.is_empty() {
            return None;
        }
        names
    };
    let names = names.iter().filter_map(|name| own(name));
    Some(Found::Here(
        names.map(|name| RData::PTR(PTR(name))).collect(),
        Vec::new(),
    ))
}
