//! firewall: lets the container's packets through the host's rules, and holds to its ingress policy.

mod rules;

use std::net::IpAddr;

use ipnet::IpNet;

use self::rules::Policy;
use crate::{
    netlink::{Message, Rtnl},
    nft::{Batch, NativeTable, Nft, Tag, elements, expr::Family},
    portmap::passed_on,
    protocol::{AddResult, Failure, Fields, Plugin, Reply, Request},
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "firewall",
    add,
    del,
    check,
    gc,
    status,
};

/// The chain of the reference, which is the admin's to fill.
const ADMIN_CHAIN: &str = "CNI-ADMIN";
/// Longer names are no chains of iptables (XT_EXTENSION_MAXNAMELEN).
const LONGEST_CHAIN: usize = 28;

struct Config {
    /// The administrator's chain.
    admin: String,
    policy: Policy,
    addresses: Vec<IpNet>,
    /// The host's end of the veth, for the isolated policy.
    port: Option<String>,
}

impl Config {
    fn read(request: &Request, result: &AddResult) -> Result<Self, Failure> {
        let fields = request.fields();
        match fields.text("backend")? {
            None | Some("iptables" | "nftables") => {}
            Some("firewalld") => {
                return Err(Failure::unsupported(
                    "backend",
                    "firewalld is not supported: leave it out and put the bridge into firewalld's zone \"trusted\"",
                ));
            }
            Some(other) => {
                return Err(Failure::field(
                    "backend",
                    format!("{other:?} is unknown (allowed: iptables, nftables)"),
                ));
            }
        }
        // Named so that configurations of the reference are taken; firewalld is the backend that reads it.
        fields.text("firewalldZone")?;
        let host = |at: usize| result.interfaces.get(at).filter(|i| i.sandbox.is_empty());
        let policy = match fields.text("ingressPolicy")? {
            None | Some("open") => Policy::Open,
            Some("same-bridge") => Policy::SameBridge(host(0).map(|i| i.name.clone()).ok_or_else(|| {
                Failure::field("ingressPolicy", "same-bridge needs the bridge plugin before it")
            })?),
            Some("isolated") => Policy::Isolated,
            Some(other) => {
                return Err(Failure::field(
                    "ingressPolicy",
                    format!("{other:?} is unknown (allowed: open, same-bridge, isolated)"),
                ));
            }
        };
        Ok(Self {
            port: (policy == Policy::Isolated)
                .then(|| host(1).map(|i| i.name.clone()))
                .flatten(),
            addresses: result.ips.iter().map(|ip| ip.address).collect(),
            policy,
            admin: admin_chain(&fields)?,
        })
    }
}

fn admin_chain(fields: &Fields<'_>) -> Result<String, Failure> {
    let field = "iptablesAdminChainName";
    let chain = fields.text(field)?.unwrap_or(ADMIN_CHAIN);
    let fits = chain.len() <= LONGEST_CHAIN
        && chain.starts_with(|c: char| c.is_ascii_alphabetic())
        && chain
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if !fits {
        return Err(Failure::field(
            field,
            format!(
                "{chain:?} is no chain's name: up to {LONGEST_CHAIN} letters, digits, '-' and '_', a letter first"
            ),
        ));
    }
    if matches!(chain, "INPUT" | "FORWARD" | "OUTPUT") || rules::is_own_chain(chain) {
        return Err(Failure::field(
            field,
            format!("{chain:?} is a chain with another purpose: choose another name"),
        ));
    }
    Ok(chain.to_owned())
}

fn add(request: &Request) -> Result<Reply, Failure> {
    let result = request.required_prev("firewall")?;
    let config = Config::read(request, &result)?;
    let tag = Tag::of(request);
    let_through(&tag, &config)?;
    Ok(passed_on(request))
}

/// Adds whatever is missing of the attachment's rules.
fn let_through(tag: &Tag, config: &Config) -> Result<(), Failure> {
    let layout = rules::layout(&config.policy);
    Nft::open()?.change(&format!("let {tag} through the firewall"), |nft, batch| {
        rules::require_admin(nft, batch, &config.admin)?;
        layout.require(nft, batch)?;
        let guarded = accept_natively(nft, batch, tag, config)?;
        for (set, element) in rules::elements(tag, &config.addresses, &config.policy, &guarded) {
            match nft.element(set, &element.key)? {
                Some(found) if found == element => continue,
                // Of somebody who had the address before.
                Some(found) => batch.delete_element(set, &found),
                None => {}
            }
            batch.add_element(set, &element);
        }
        Ok(())
    })?;
    if let Some(port) = &config.port {
        // Packets between ports of a bridge pass no forward hook; the bridge itself keeps them apart.
        if let Err(error) = Rtnl::open()?.run(&[Message::isolate_port(port)]) {
            remove(&|t| t == tag)?;
            return Err(error.into());
        }
    }
    Ok(())
}

/// Adds accepts to the host's FORWARD chains; gives the families whose policy drops.
fn accept_natively(
    nft: &mut Nft,
    batch: &mut Batch,
    tag: &Tag,
    config: &Config,
) -> Result<Vec<Family>, Failure> {
    let mut guarded = Vec::new();
    for family in Family::BOTH {
        let mine: Vec<IpAddr> = config
            .addresses
            .iter()
            .map(IpNet::addr)
            .filter(|ip| Family::of(*ip) == family)
            .collect();
        if mine.is_empty() {
            continue;
        }
        let native = NativeTable(family);
        let Some(drops) = native.policy_drops(nft)? else {
            continue;
        };
        if drops {
            guarded.push(family);
        }
        let there = native.rules(nft)?;
        native.accept(nft, batch, &there, tag, &mine, &config.admin)?;
    }
    Ok(guarded)
}

/// Removes by tag: prevResult is not needed.
fn del(request: &Request) -> Result<(), Failure> {
    let tag = Tag::of(request);
    remove(&|t| *t == tag)
}

fn gc(request: &Request) -> Result<(), Failure> {
    let keep = request.valid_attachments()?;
    remove(&|tag| tag.is_stale(&request.network, &keep))
}

fn remove(remove: &dyn Fn(&Tag) -> bool) -> Result<(), Failure> {
    let mut nft = Nft::open()?;
    nft.change("remove firewall rules", |nft, batch| {
        for family in Family::BOTH {
            NativeTable(family).remove(nft, batch, remove)?;
        }
        elements::remove_in(nft, batch, &rules::SETS, remove)?;
        Ok(())
    })?;
    nft.close_elsewhere();
    Ok(())
}

fn check(request: &Request) -> Result<(), Failure> {
    let result = request.required_prev("firewall")?;
    let config = Config::read(request, &result)?;
    let tag = Tag::of(request);
    if request.repairs() {
        let_through(&tag, &config)?;
    }
    let mut nft = Nft::open()?;
    let missing = match rules::layout(&config.policy).missing(&mut nft)? {
        None => rules::missing_admin(&mut nft, &config.admin)?,
        found => found,
    };
    if let Some(missing) = missing {
        return Err(Failure::check(format!("firewall: {missing} is missing")));
    }
    if let Some(port) = &config.port
        && !Rtnl::open()?.link(port)?.is_some_and(|link| link.port.isolated)
    {
        return Err(Failure::check(format!(
            "firewall: {port} may talk to other ports of its bridge (ingressPolicy isolated)"
        )));
    }
    for (set, element) in rules::elements(&tag, &config.addresses, &config.policy, &[]) {
        if nft.element(set, &element.key)? != Some(element) {
            return Err(Failure::check(format!(
                "firewall: the element of {tag} in set {set} of table inet berth is missing or different"
            )));
        }
    }
    for net in &config.addresses {
        let native = NativeTable(Family::of(net.addr()));
        if native.policy_drops(&mut nft)?.is_none() {
            continue;
        }
        let there = native.rules(&mut nft)?;
        if !there.leads_to(&config.admin) {
            return Err(Failure::check(format!(
                "firewall: the jump to {} in filter FORWARD is missing",
                config.admin
            )));
        }
        for what in ["to", "from"] {
            let wanted = format!("{what} {}", net.addr());
            if !there.accepts.iter().any(|r| r.tag == tag && r.what == wanted) {
                return Err(Failure::check(format!(
                    "firewall: the accept {wanted} in filter FORWARD is missing"
                )));
            }
        }
    }
    Ok(())
}

fn status(request: &Request) -> Result<(), Failure> {
    let fields = request.fields();
    // The policy's bridge is only known with a result.
    if fields.text("ingressPolicy")? != Some("same-bridge") {
        Config::read(request, &AddResult::default())?;
    }
    Nft::open()?.rules()?;
    Ok(())
}
