//! bandwidth: holds a container's traffic to a rate, by token buckets.
//!
//! What the container receives is shaped where the host's end of its veth sends; what it sends comes in
//! there, where nothing can wait, so it is redirected through an interface of kind ifb and shaped there.

use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use crate::{
    netlink::{Link, Message, NewLink, Rtnl, TokenBucket},
    netns::NetNs,
    nft::Tag,
    portmap::passed_on,
    protocol::{AddResult, Failure, Fields, Interface, Plugin, Reply, Request, format_mac},
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "bandwidth",
    add,
    del,
    check,
    gc,
    status,
};

/// How long a packet may wait, as in the reference.
const LATENCY_MS: u64 = 25;
/// A smaller burst than one packet with its Ethernet header stops all traffic.
const SMALLEST_BURST: u64 = 1514;

/// Limits of both directions, as the container sees them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Limits {
    ingress: Option<TokenBucket>,
    egress: Option<TokenBucket>,
}

impl Limits {
    /// Top-level fields, or `runtimeConfig.bandwidth` when there are none.
    fn read(request: &Request) -> Result<Self, Failure> {
        let fields = request.fields();
        let names = ["ingressRate", "ingressBurst", "egressRate", "egressBurst"];
        let place = if names.iter().any(|n| fields.get(n).is_some()) {
            fields
        } else {
            fields.object("runtimeConfig")?.object("bandwidth")?
        };
        Ok(Self {
            ingress: bucket(&place, "ingressRate", "ingressBurst")?,
            egress: bucket(&place, "egressRate", "egressBurst")?,
        })
    }
}

fn bucket(fields: &Fields<'_>, rate_field: &str, burst_field: &str) -> Result<Option<TokenBucket>, Failure> {
    let most_burst = u64::from(u32::MAX) * 8 - 1;
    let rate = fields.number(rate_field, 0, u64::MAX)?.unwrap_or(0);
    let burst = fields.number(burst_field, 0, most_burst)?.unwrap_or(0);
    match (rate, burst) {
        (0, 0) => return Ok(None),
        (0, _) => {
            return Err(Failure::field(
                &fields.name(rate_field),
                format!("missing: {burst_field} needs it"),
            ));
        }
        (_, 0) => {
            return Err(Failure::field(
                &fields.name(burst_field),
                format!("missing: {rate_field} needs it"),
            ));
        }
        _ => {}
    }
    if rate < 8 {
        return Err(Failure::field(
            &fields.name(rate_field),
            format!("{rate} bit/s is less than a byte a second"),
        ));
    }
    if burst / 8 < SMALLEST_BURST {
        return Err(Failure::field(
            &fields.name(burst_field),
            format!(
                "{burst} bits are less than one packet, so nothing would pass: give at least {}",
                SMALLEST_BURST * 8
            ),
        ));
    }
    let (rate, burst) = (rate / 8, burst / 8);
    let limit = (rate.saturating_mul(LATENCY_MS) / 1000).saturating_add(burst);
    Ok(Some(TokenBucket {
        rate,
        burst: u32::try_from(burst).unwrap_or(u32::MAX),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
    }))
}

fn ifb_name(tag: &Tag) -> String {
    format!("bwp{}", tag.digits(12))
}

fn add(request: &Request) -> Result<Reply, Failure> {
    let limits = Limits::read(request)?;
    if limits == Limits::default() {
        return Ok(passed_on(request));
    }
    let mut result = request.required_prev("bandwidth")?;
    let mut host = Rtnl::open()?;
    let veth = host_end(request, &mut host, &result)?;
    let tag = Tag::of(request);
    let ifb = match shape(&mut host, &tag, &veth, &limits) {
        Ok(ifb) => ifb,
        Err(failure) => {
            // The failure that is being reported matters more than one of these.
            let _ = host.run(&lifted(&tag, &veth));
            return Err(failure);
        }
    };
    let Some(ifb) = ifb else {
        return Ok(passed_on(request));
    };
    result.interfaces.push(Interface {
        name: ifb.name.clone(),
        mac: format_mac(&ifb.mac),
        mtu: Some(ifb.mtu),
        ..Interface::default()
    });
    Ok(Reply::Result(result.to_json(request.version)))
}

fn shape(host: &mut Rtnl, tag: &Tag, veth: &Link, limits: &Limits) -> Result<Option<Link>, Failure> {
    if let Some(bucket) = &limits.ingress {
        host.run(&[Message::shape(veth.index, &veth.name, bucket)])?;
    }
    limits
        .egress
        .as_ref()
        .map(|bucket| shape_egress(host, tag, veth, bucket))
        .transpose()
}

/// Takes all limits away.
fn lifted(tag: &Tag, veth: &Link) -> [Message; 3] {
    [
        Message::unshape(veth.index, &veth.name),
        Message::delete_ingress(veth.index, &veth.name),
        Message::delete_link(&ifb_name(tag)),
    ]
}

fn shape_egress(host: &mut Rtnl, tag: &Tag, veth: &Link, bucket: &TokenBucket) -> Result<Link, Failure> {
    let name = ifb_name(tag);
    let new = NewLink {
        mtu: Some(veth.mtu),
        up: true,
        ..NewLink::default()
    };
    let mut batch = vec![
        Message::new_link(&name, InfoKind::Ifb, &new),
        Message::set_alias(&name, &tag.to_string()),
    ];
    match host.run(&batch) {
        // What a killed ADD left.
        Err(e) if e.errno == Errno::EEXIST => {
            batch.insert(0, Message::delete_link(&name));
            host.run(&batch)?;
        }
        other => other?,
    }
    let ifb = host
        .link(&name)?
        .ok_or_else(|| Failure::check(format!("interface {name} vanished while it was set up")))?;
    host.run(&[
        Message::shape(ifb.index, &name, bucket),
        Message::add_ingress(veth.index, &veth.name),
        Message::redirect_ingress(veth.index, &veth.name, ifb.index),
    ])?;
    Ok(ifb)
}

/// The host's end of the container's veth.
fn host_end(request: &Request, host: &mut Rtnl, result: &AddResult) -> Result<Link, Failure> {
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    let ifname = &request.attachment.ifname;
    let inside = Rtnl::open_in(&netns)?.link(ifname)?;
    let peer = inside
        .filter(|l| l.kind == "veth")
        .and_then(|l| l.peer)
        .ok_or_else(|| {
            Failure::field(
                "prevResult.interfaces",
                format!("{ifname} is no veth in the container: only these can be shaped"),
            )
        })?;
    let link = host.link_by_index(peer)?;
    link.filter(|l| {
        result
            .interfaces
            .iter()
            .any(|i| i.sandbox.is_empty() && i.name == l.name)
    })
    .ok_or_else(|| {
        Failure::field(
            "prevResult.interfaces",
            format!("does not list the host's end of {ifname}"),
        )
    })
}

/// The queue goes with the veth; what remains is the ifb.
fn del(request: &Request) -> Result<(), Failure> {
    let mut host = Rtnl::open()?;
    let name = ifb_name(&Tag::of(request));
    if host.link(&name)?.is_some() {
        host.run(&[Message::delete_link(&name)])?;
    }
    Ok(())
}

fn gc(request: &Request) -> Result<(), Failure> {
    let keep = request.valid_attachments()?;
    let mut host = Rtnl::open()?;
    let stale: Vec<Message> = host
        .links()?
        .iter()
        .filter(|l| {
            Tag::parse(&l.alias)
                .is_some_and(|t| t.is_stale(&request.network, &keep) && l.name == ifb_name(&t))
        })
        .map(|l| Message::delete_link(&l.name))
        .collect();
    Ok(host.run(&stale)?)
}

fn check(request: &Request) -> Result<(), Failure> {
    let limits = Limits::read(request)?;
    if limits == Limits::default() {
        return Ok(());
    }
    let result = request.required_prev("bandwidth")?;
    let mut host = Rtnl::open()?;
    let veth = host_end(request, &mut host, &result)?;
    let tag = Tag::of(request);
    let found = check_limits(&mut host, &tag, &veth, &limits);
    if found.is_ok() || !request.repairs() {
        return found;
    }
    host.run(&lifted(&tag, &veth))?;
    shape(&mut host, &tag, &veth, &limits)?;
    check_limits(&mut host, &tag, &veth, &limits)
}

fn check_limits(host: &mut Rtnl, tag: &Tag, veth: &Link, limits: &Limits) -> Result<(), Failure> {
    if let Some(bucket) = &limits.ingress {
        check_bucket(host, veth, bucket)?;
    }
    if let Some(bucket) = &limits.egress {
        let name = ifb_name(tag);
        let ifb = host
            .link(&name)?
            .ok_or_else(|| Failure::check(format!("interface {name} is gone")))?;
        check_bucket(host, &ifb, bucket)?;
        if !host.redirects_ingress(veth.index)? {
            return Err(Failure::check(format!(
                "what comes in by {} is not redirected to {name}",
                veth.name
            )));
        }
    }
    Ok(())
}

fn check_bucket(host: &mut Rtnl, link: &Link, bucket: &TokenBucket) -> Result<(), Failure> {
    match host.token_bucket(link.index)? {
        None => Err(Failure::check(format!(
            "interface {} has no token bucket",
            link.name
        ))),
        Some((rate, limit)) if (rate, limit) != (bucket.rate, bucket.limit) => Err(Failure::check(format!(
            "interface {} is limited to {} bytes a second with {limit} waiting, not to {} with {}",
            link.name, rate, bucket.rate, bucket.limit
        ))),
        Some(_) => Ok(()),
    }
}

fn status(request: &Request) -> Result<(), Failure> {
    Limits::read(request).map(drop)
}
