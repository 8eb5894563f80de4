//! portmap: ports of the host that lead to the container.

mod config;
pub(crate) mod rules;

use std::net::IpAddr;

use ipnet::IpNet;

use self::config::{Config, Mapping, Protocol};
use crate::{
    netlink::{MAIN_TABLE, Rtnl},
    nft::{
        Batch, Element, Nft, Tag,
        conntrack::{self, UdpPort},
        elements,
        expr::Family,
    },
    protocol::{AddResult, Failure, Plugin, Reply, Request, code},
    sysctl,
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "portmap",
    add,
    del,
    check,
    gc,
    status,
};

fn add(request: &Request) -> Result<Reply, Failure> {
    let result = request.required_prev("portmap")?;
    let config = Config::read(request, &result)?;
    if !config.mappings.is_empty() {
        let tag = Tag::of(request);
        let mut nft = Nft::open()?;
        publish(&mut nft, &tag, &config)?;
        if let Err(failure) = open_way(&config) {
            let _ = elements::remove(&mut nft, &rules::SETS, &|t| *t == tag);
            return Err(failure);
        }
    }
    Ok(passed_on(request))
}

/// A chained plugin's answer: prevResult as it came.
pub(crate) fn passed_on(request: &Request) -> Reply {
    request
        .prev_result
        .as_ref()
        .map_or(Reply::Nothing, |raw| Reply::Result(raw.get().to_owned()))
}

fn publish(nft: &mut Nft, tag: &Tag, config: &Config) -> Result<(), Failure> {
    let layout = rules::layout(config);
    nft.change(&format!("publish the ports of {tag}"), |nft, batch| {
        layout.require(nft, batch)?;
        for mapping in &config.mappings {
            let (set, element) = rules::mapping(mapping, tag);
            if is_published_by_another_network(nft, tag, mapping, &element.key)? {
                let (set, element) = rules::waiting(mapping, tag);
                put(nft, batch, set, &element)?;
            } else {
                put(nft, batch, set, &element)?;
            }
        }
        for (set, element) in rules::returning(tag, config) {
            put(nft, batch, set, &element)?;
        }
        Ok(())
    })
}

/// Adds an element, or replaces the one that has its key: a port's is this attachment's own, and an
/// address's is of somebody who had the address before.
fn put(nft: &mut Nft, batch: &mut Batch, set: &str, element: &Element) -> Result<(), Failure> {
    match nft.element(set, &element.key)? {
        Some(found) if found == *element => return Ok(()),
        Some(found) => batch.delete_element(set, &found),
        None => {}
    }
    batch.add_element(set, element);
    Ok(())
}

/// A port has one holder on an address; "all addresses" overlaps with each of them. Another container's is
/// refused. The same container may publish it by several networks (Podman does so): the first one leads, and
/// the others wait.
fn is_published_by_another_network(
    nft: &mut Nft,
    tag: &Tag,
    mapping: &Mapping,
    key: &[u8],
) -> Result<bool, Failure> {
    let family = Family::of(mapping.container);
    let mut waits = false;
    for on_address in [true, false] {
        for found in nft.elements(rules::ports_set(family, on_address))? {
            let Some((protocol, host, port)) = rules::parse_key(family, &found.key) else {
                continue;
            };
            let overlaps = host.is_none() || mapping.host.is_none() || host == mapping.host;
            if protocol != mapping.protocol || port != mapping.host_port || !overlaps {
                continue;
            }
            match Tag::parse(&found.comment) {
                Some(holder) if holder == *tag => {}
                Some(holder) if holder.container == tag.container => waits |= found.key == key,
                holder => return Err(taken(mapping, host, holder)),
            }
        }
    }
    Ok(waits)
}

fn taken(mapping: &Mapping, host: Option<IpAddr>, holder: Option<Tag>) -> Failure {
    let on = host.map(|ip| format!(" on {ip}")).unwrap_or_default();
    let by = holder.map_or_else(
        || "somebody unknown".to_owned(),
        |t| {
            format!(
                "container {} interface {} in network {}",
                t.container, t.ifname, t.network
            )
        },
    );
    Failure::new(
        code::CONFLICT,
        format!(
            "{}: port {}/{} is taken{on} by {by}: choose another port or remove that container",
            mapping.field,
            mapping.host_port,
            mapping.protocol.name()
        ),
    )
}

/// What published ports need beside the rules: 127.0.0.1 may leave by the container's side, and UDP
/// connections made before go to the new place.
fn open_way(config: &Config) -> Result<(), Failure> {
    if config.snat
        && let Some(net) = config.addresses.iter().find(|n| n.addr().is_ipv4())
        && let Some(name) = way_to(net)?
    {
        sysctl::ensure(&format!("net/ipv4/conf/{name}/route_localnet"), "1")?;
    }
    let udp: Vec<UdpPort> = config
        .mappings
        .iter()
        .filter(|m| m.protocol == Protocol::Udp)
        .map(|m| UdpPort {
            family: Family::of(m.container),
            address: m.host,
            port: m.host_port,
        })
        .collect();
    Ok(conntrack::forget(&udp)?)
}

/// The host's interface that leads to an address: that of the longest route.
fn way_to(net: &IpNet) -> Result<Option<String>, Failure> {
    let mut host = Rtnl::open()?;
    let routes = host.routes()?;
    let best = routes
        .iter()
        .filter(|r| r.table == MAIN_TABLE && r.dst.contains(&net.addr()))
        .max_by_key(|r| r.dst.prefix_len());
    match best.and_then(|r| r.interface) {
        Some(index) => Ok(host.link_by_index(index)?.map(|l| l.name)),
        None => Ok(None),
    }
}

/// Removes by tag: neither runtimeConfig nor prevResult is needed.
fn del(request: &Request) -> Result<(), Failure> {
    let tag = Tag::of(request);
    withdraw(&|t| *t == tag)
}

fn gc(request: &Request) -> Result<(), Failure> {
    let keep = request.valid_attachments()?;
    withdraw(&|tag| tag.is_stale(&request.network, &keep))
}

fn withdraw(remove: &dyn Fn(&Tag) -> bool) -> Result<(), Failure> {
    let mut nft = Nft::open()?;
    let mut udp = Vec::new();
    nft.change("withdraw published ports", |nft, batch| {
        udp.clear();
        for family in Family::BOTH {
            for on_address in [true, false] {
                let set = rules::ports_set(family, on_address);
                let removed = elements::remove_in(nft, batch, &[set], remove)?;
                hand_over(nft, batch, family, set, &removed, remove)?;
                udp.extend(
                    removed
                        .iter()
                        .filter_map(|e| match rules::parse_key(family, &e.key)? {
                            (Protocol::Udp, address, port) => Some(UdpPort {
                                family,
                                address,
                                port,
                            }),
                            _ => None,
                        }),
                );
            }
        }
        let others = ["hairpin4", "hairpin6", "ports-waiting4", "ports-waiting6"];
        elements::remove_in(nft, batch, &others, remove)?;
        Ok(())
    })?;
    let forgotten = conntrack::forget(&udp);
    nft.close_elsewhere();
    Ok(forgotten?)
}

/// Lets the same container's other networks take over the ports that are withdrawn.
fn hand_over(
    nft: &mut Nft,
    batch: &mut Batch,
    family: Family,
    set: &str,
    removed: &[Element],
    remove: &dyn Fn(&Tag) -> bool,
) -> Result<(), Failure> {
    if removed.is_empty() {
        return Ok(());
    }
    let waiting = nft.elements(rules::waiting_set(family))?;
    for gone in removed {
        let next = waiting.iter().find_map(|w| {
            let stays = Tag::parse(&w.comment).is_some_and(|tag| !remove(&tag));
            let (of, element) = rules::taking_over(family, w)?;
            (stays && of == set && element.key == gone.key).then_some((w, element))
        });
        if let Some((waits, element)) = next {
            batch.delete_element(rules::waiting_set(family), waits);
            batch.add_element(set, &element);
        }
    }
    Ok(())
}

fn check(request: &Request) -> Result<(), Failure> {
    let result: AddResult = request.required_prev("portmap")?;
    let config = Config::read(request, &result)?;
    if config.mappings.is_empty() {
        return Ok(());
    }
    let mut nft = Nft::open()?;
    if request.repairs() {
        publish(&mut nft, &Tag::of(request), &config)?;
        open_way(&config)?;
    }
    if let Some(missing) = rules::layout(&config).missing(&mut nft)? {
        return Err(Failure::check(format!("portMappings: {missing} is missing")));
    }
    let tag = Tag::of(request);
    let lost = |set: &str| {
        Failure::check(format!(
            "portMappings: an element of {tag} in set {set} of table inet berth is missing or different"
        ))
    };
    for mapping in &config.mappings {
        let (set, element) = rules::mapping(mapping, &tag);
        match nft.element(set, &element.key)? {
            Some(found) if found == element => {}
            Some(found) if Tag::parse(&found.comment).is_some_and(|t| t.container == tag.container) => {
                let (set, element) = rules::waiting(mapping, &tag);
                if nft.element(set, &element.key)?.as_ref() != Some(&element) {
                    return Err(lost(set));
                }
            }
            _ => return Err(lost(set)),
        }
    }
    for (set, element) in rules::returning(&tag, &config) {
        if nft.element(set, &element.key)?.as_ref() != Some(&element) {
            return Err(lost(set));
        }
    }
    Ok(())
}

fn status(request: &Request) -> Result<(), Failure> {
    Config::read(request, &AddResult::default())?;
    // Also tells when the kernel has no nf_tables.
    Nft::open()?.rules()?;
    Ok(())
}
