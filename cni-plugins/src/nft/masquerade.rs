//! ipMasq: packets that leave a container's subnet get the host's address.
//!
//! ```text
//! chain ipmasq {                           type nat hook postrouting priority srcnat
//!     ip  saddr vmap @masquerade4          { 10.88.0.5 : jump ipmasq-10.88.0.0/16, … }
//!     ip6 saddr vmap @masquerade6
//! }
//! chain ipmasq-10.88.0.0/16 {          one a subnet, removed with its last container
//!     ip daddr 10.88.0.0/16 return
//!     ip daddr != 224.0.0.0/4 masquerade
//! }
//! ```

use std::net::IpAddr;

use ipnet::IpNet;

use super::{
    BaseChain, Data, Element, Layout, Nft, Rule, Set, Tag, elements,
    expr::{Family, Is, Program, Register, Verdict, octets},
    layout::{datatype, hook},
    subnet_chain,
};
use crate::protocol::{Attachment, Failure, code};

const CHAIN: &str = "ipmasq";
const PREFIX: &str = "ipmasq";

fn set_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "masquerade4",
        Family::V6 => "masquerade6",
    }
}

/// The sets that hold masqueraded addresses.
pub(crate) const SETS: [&str; 2] = ["masquerade4", "masquerade6"];

fn layout(subnets: &[IpNet]) -> Layout {
    let mut layout = Layout {
        chains: vec![BaseChain {
            name: CHAIN,
            kind: "nat",
            hook: hook::POSTROUTING,
            priority: 100,
        }],
        ..Layout::default()
    };
    for family in Family::BOTH {
        let set = set_name(family);
        layout.sets.push(Set {
            name: set,
            key_type: datatype::address(family),
            key_length: family.width(),
            data: Some((datatype::VERDICT, 0)),
        });
        layout.rules.push(Rule {
            chain: CHAIN.to_owned(),
            text: format!("{} saddr vmap @{set}", family.keyword()),
            program: Program::default()
                .family(family)
                .source(family, Register::FIRST)
                .lookup(set, Register::FIRST, Some(Register::VERDICT)),
        });
    }
    for subnet in subnets {
        layout.rules.extend(subnet_rules(subnet));
    }
    layout
}

fn subnet_rules(subnet: &IpNet) -> [Rule; 2] {
    let family = Family::of(subnet.addr());
    let chain = subnet_chain(PREFIX, subnet);
    let subnet = subnet.trunc();
    let multicast = multicast(family);
    let destination = || {
        Program::default()
            .family(family)
            .destination(family, Register::FIRST)
    };
    [
        Rule {
            chain: chain.clone(),
            text: format!("{} daddr {subnet} return", family.keyword()),
            program: destination()
                .in_network(Register::FIRST, Is::Equal, &subnet)
                .verdict(&Verdict::Return),
        },
        Rule {
            chain,
            text: format!("{} daddr != {multicast} masquerade", family.keyword()),
            program: destination()
                .in_network(Register::FIRST, Is::NotEqual, &multicast)
                .masquerade(),
        },
    ]
}

fn multicast(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(IpAddr::V4(std::net::Ipv4Addr::new(224, 0, 0, 0)), 4),
        Family::V6 => IpNet::new_assert(
            IpAddr::V6(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)),
            8,
        ),
    }
}

/// Masquerades the addresses of an attachment, each given with its subnet's prefix length.
pub(crate) fn add(nft: &mut Nft, tag: &Tag, addresses: &[IpNet]) -> Result<(), Failure> {
    if addresses.is_empty() {
        return Ok(());
    }
    let layout = layout(addresses);
    nft.change(&format!("masquerade the addresses of {tag}"), |nft, batch| {
        layout.require(nft, batch)?;
        for net in addresses {
            let set = set_name(Family::of(net.addr()));
            let element = Element {
                key: octets(net.addr()),
                data: Data::Jump(subnet_chain(PREFIX, net)),
                comment: tag.to_string(),
            };
            match nft.element(set, &element.key)? {
                Some(found) if found == element => {}
                Some(found) => {
                    refuse_other_network(net, tag, &found.comment)?;
                    batch.delete_element(set, &found);
                    batch.add_element(set, &element);
                }
                None => batch.add_element(set, &element),
            }
        }
        Ok(())
    })
}

/// An address that the same network gave to somebody before is ours now; another network's is not.
fn refuse_other_network(net: &IpNet, tag: &Tag, holder: &str) -> Result<(), Failure> {
    match Tag::parse(holder) {
        Some(other) if other.network != tag.network => Err(Failure::new(
            code::CONFLICT,
            format!(
                "ipMasq: address {} is already masqueraded for network {} (container {} {}): \
                 give the networks different subnets",
                net.addr(),
                other.network,
                other.container,
                other.ifname
            ),
        )),
        _ => Ok(()),
    }
}

/// Removes what belongs to an attachment; `true` when there was something.
pub(crate) fn delete(nft: &mut Nft, tag: &Tag) -> Result<bool, Failure> {
    Ok(!elements::remove(nft, &SETS, &|t| t == tag)?.is_empty())
}

/// Removes what belongs to attachments of the network that are not to be kept.
pub(crate) fn collect(nft: &mut Nft, network: &str, keep: &[Attachment]) -> Result<bool, Failure> {
    Ok(!elements::remove(nft, &SETS, &|tag| tag.is_stale(network, keep))?.is_empty())
}

/// Fails if an address of the attachment is not masqueraded.
pub(crate) fn check(nft: &mut Nft, tag: &Tag, addresses: &[IpNet]) -> Result<(), Failure> {
    if addresses.is_empty() {
        return Ok(());
    }
    if let Some(missing) = layout(addresses).missing(nft)? {
        return Err(Failure::check(format!("ipMasq: {missing} is missing")));
    }
    for net in addresses {
        let set = set_name(Family::of(net.addr()));
        let found = nft.element(set, &octets(net.addr()))?;
        if found.is_none_or(|e| e.comment != tag.to_string()) {
            return Err(Failure::check(format!(
                "ipMasq: address {} is not masqueraded (no element of {tag} in set {set} of table inet berth)",
                net.addr()
            )));
        }
    }
    Ok(())
}
