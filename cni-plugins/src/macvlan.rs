//! macvlan: an interface with its own hardware address on an interface of the host.

use netlink_packet_route::link::InfoKind;
use nix::errno::Errno;

use crate::{
    attach::{FirstFailure, Inside, check_inside},
    bridge::{config, taken},
    ipam::Ipam,
    netlink::{Link, MAIN_TABLE, MacvlanMode, Message, NewLink, Rtnl},
    netns::NetNs,
    nft::Tag,
    protocol::{AddResult, Failure, Interface, Plugin, Reply, Request, configured_dns, format_mac},
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "macvlan",
    add,
    del,
    check,
    gc,
    status,
};

struct Config {
    master: Option<String>,
    mode: MacvlanMode,
    mtu: Option<u32>,
    mac: Option<[u8; 6]>,
    /// The parent is in the container's namespace.
    in_container: bool,
    queue: Option<u32>,
}

impl Config {
    fn read(request: &Request) -> Result<Self, Failure> {
        let fields = request.fields();
        let mode = match fields.text("mode")? {
            None | Some("bridge") => MacvlanMode::Bridge,
            Some("private") => MacvlanMode::Private,
            Some("vepa") => MacvlanMode::Vepa,
            Some("passthru") => MacvlanMode::Passthru,
            Some(other) => {
                return Err(Failure::field(
                    "mode",
                    format!("{other:?} is unknown (allowed: bridge, private, vepa, passthru)"),
                ));
            }
        };
        let mac = match request.asked_mac()? {
            Some(mac) => Some(mac),
            None => fields.mac("mac")?,
        };
        Ok(Self {
            master: fields.interface("master")?.map(str::to_owned),
            mode,
            mtu: config::mtu(request)?,
            mac,
            in_container: fields.bool("linkInContainer")?,
            queue: fields
                .number("bcqueuelen", 0, u64::from(u32::MAX))?
                .filter(|q| *q > 0)
                .map(|q| q as u32),
        })
    }

    /// The parent: by name, or the interface of the default route.
    fn parent(&self, rtnl: &mut Rtnl) -> Result<Link, Failure> {
        let found = if let Some(name) = &self.master {
            rtnl.link(name)?
        } else {
            let default = rtnl
                .routes()?
                .into_iter()
                .filter(|r| r.dst.prefix_len() == 0 && r.table == MAIN_TABLE)
                .min_by_key(|r| r.priority);
            let index = default.and_then(|r| r.interface).ok_or_else(|| {
                Failure::field("master", "missing, and there is no default route to take it from")
            })?;
            rtnl.link_by_index(index)?
        };
        let name = self.master.as_deref().unwrap_or("of the default route");
        let place = if self.in_container {
            "the container"
        } else {
            "the host"
        };
        let link =
            found.ok_or_else(|| Failure::field("master", format!("interface {name} is not on {place}")))?;
        if let Some(mtu) = self.mtu.filter(|m| *m > link.mtu) {
            return Err(Failure::field(
                "mtu",
                format!("{mtu} is more than the {} of {}", link.mtu, link.name),
            ));
        }
        Ok(link)
    }
}

fn add(request: &Request) -> Result<Reply, Failure> {
    let config = Config::read(request)?;
    let dns = configured_dns(&request.fields())?;
    let ipam = Ipam::of(request)?;
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    let mut parents = if config.in_container {
        Rtnl::open_in(&netns)?
    } else {
        Rtnl::open()?
    };
    let parent = config.parent(&mut parents)?;
    let link = create(request, &config, &netns, &mut parents, &parent)?;
    let attached = give_addresses(request, &netns, &ipam);
    let mut result = match attached {
        Ok(result) => result,
        Err(failure) => {
            // The failure that is being reported matters more than one of this.
            if let Ok(mut inside) = Rtnl::open_in(&netns) {
                let _ = inside.run(&[Message::delete_link(&request.attachment.ifname)]);
            }
            return Err(failure);
        }
    };
    result.interfaces = vec![Interface {
        name: request.attachment.ifname.clone(),
        mac: format_mac(&link.mac),
        mtu: Some(link.mtu),
        sandbox: netns.path().display().to_string(),
        ..Interface::default()
    }];
    for ip in &mut result.ips {
        ip.interface = Some(0);
    }
    if !dns.is_empty() {
        result.dns = dns;
    }
    Ok(Reply::Result(result.to_json(request.version)))
}

fn create(
    request: &Request,
    config: &Config,
    netns: &NetNs,
    parents: &mut Rtnl,
    parent: &Link,
) -> Result<Link, Failure> {
    let name = &request.attachment.ifname;
    let new = NewLink {
        mac: config.mac,
        mtu: config.mtu,
        macvlan: Some((parent.index, config.mode, config.queue)),
        netns: (!config.in_container).then_some(netns),
        ..NewLink::default()
    };
    match parents.run(&[Message::new_link(name, InfoKind::MacVlan, &new)]) {
        Err(e) if e.errno == Errno::EEXIST => return Err(taken(request, netns)),
        other => other?,
    }
    let mut inside = Rtnl::open_in(netns)?;
    // The alias tells CHECK and people whose it is.
    inside.run(&[Message::set_alias(name, &Tag::of(request).to_string())])?;
    inside
        .link(name)?
        .ok_or_else(|| Failure::check(format!("interface {name} vanished while it was set up")))
}

fn give_addresses(request: &Request, netns: &NetNs, ipam: &Ipam<'_>) -> Result<AddResult, Failure> {
    let name = &request.attachment.ifname;
    if !ipam.is_present() {
        Rtnl::open_in(netns)?.run(&[Message::set_up(name, true)])?;
        return Ok(AddResult::default());
    }
    let result = ipam.add()?;
    // On a network with others, duplicate addresses are possible: detection stays on.
    let inside = Inside {
        ifname: name,
        result: &result,
        dad: true,
    };
    match netns.within(|| inside.configure(&mut Rtnl::open()?)) {
        Ok(_) => Ok(result),
        Err(failure) => {
            let _ = ipam.del();
            Err(failure)
        }
    }
}

fn del(request: &Request) -> Result<(), Failure> {
    let mut failures = FirstFailure::default();
    failures.note(delete(request));
    failures.note(Ipam::of(request).and_then(|ipam| ipam.del()));
    failures.finish()
}

/// The interface lives in the container's namespace and goes with it.
fn delete(request: &Request) -> Result<(), Failure> {
    let Some(path) = &request.netns else { return Ok(()) };
    let Some(netns) = NetNs::find(path)? else {
        return Ok(());
    };
    let mut inside = Rtnl::open_in(&netns)?;
    match inside.link(&request.attachment.ifname)? {
        Some(link) if link.kind == "macvlan" => Ok(inside.run(&[Message::delete_link(&link.name)])?),
        _ => Ok(()),
    }
}

fn check(request: &Request) -> Result<(), Failure> {
    let config = Config::read(request)?;
    let result = request.required_prev("macvlan")?;
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    Ipam::of(request)?.check()?;
    check_inside(&netns, &request.attachment.ifname, &result)?;
    let mut parents = if config.in_container {
        Rtnl::open_in(&netns)?
    } else {
        Rtnl::open()?
    };
    let parent = config.parent(&mut parents)?;
    let link = Rtnl::open_in(&netns)?
        .link(&request.attachment.ifname)?
        .unwrap_or_default();
    if link.kind != "macvlan" || link.peer != Some(parent.index) {
        return Err(Failure::check(format!(
            "interface {} is not a macvlan of {}",
            request.attachment.ifname, parent.name
        )));
    }
    Ok(())
}

fn gc(request: &Request) -> Result<(), Failure> {
    Ipam::of(request)?.gc()
}

fn status(request: &Request) -> Result<(), Failure> {
    let config = Config::read(request)?;
    if !config.in_container {
        config.parent(&mut Rtnl::open()?)?;
    }
    Ipam::of(request)?.status()
}
