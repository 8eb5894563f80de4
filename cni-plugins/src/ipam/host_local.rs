//! host-local: addresses from ranges, leases in files of this machine.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use super::{
    exhausted,
    pool::{self, Range, RangeSet},
    store::Store,
};
use crate::protocol::{
    AddResult, Address, Command, Dns, Failure, Fields, Plugin, Reply, Request, Route, parse_cidr, parse_ip,
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "host-local",
    add,
    del,
    check,
    gc,
    status,
};

const DATA_DIR: &str = "/var/lib/cni/networks";

struct Config {
    /// With the field each came from.
    sets: Vec<(String, RangeSet)>,
    routes: Vec<Route>,
    data_dir: PathBuf,
    resolv_conf: Option<PathBuf>,
    /// Addresses asked for, with the field each came from.
    asked: Vec<(String, IpAddr)>,
}

impl Config {
    fn read(request: &Request) -> Result<Self, Failure> {
        let fields = request.fields();
        let ipam = fields.object("ipam")?;
        let mut sets = range_sets(&fields.object("runtimeConfig")?, "ipRanges")?;
        if ipam.get("subnet").is_some() {
            sets.push((ipam.name("subnet"), vec![Range::read(&ipam)?]));
        }
        sets.extend(range_sets(&ipam, "ranges")?);
        if sets.is_empty() {
            return Err(Failure::field(
                "ipam.ranges",
                "missing: host-local needs at least one range with a subnet",
            ));
        }
        pool::check(&sets)?;
        Ok(Self {
            sets,
            routes: routes(&ipam)?,
            data_dir: data_dir(&ipam)?,
            resolv_conf: ipam.text("resolvConf")?.map(PathBuf::from),
            asked: asked(request)?,
        })
    }

    fn store(&self, request: &Request) -> Result<Store, Failure> {
        Store::open(&self.data_dir, &request.network)
    }
}

fn data_dir(ipam: &Fields<'_>) -> Result<PathBuf, Failure> {
    Ok(PathBuf::from(ipam.text("dataDir")?.unwrap_or(DATA_DIR)))
}

fn range_sets(fields: &Fields<'_>, name: &str) -> Result<Vec<(String, RangeSet)>, Failure> {
    fields
        .list(name)?
        .into_iter()
        .map(|(path, value)| {
            let items = value
                .as_array()
                .ok_or_else(|| Failure::field(&path, format!("expected a list of ranges, got {value}")))?;
            let ranges = items
                .iter()
                .enumerate()
                .map(|(i, v)| Range::read(&Fields::from_value(format!("{path}[{i}]"), v)?))
                .collect::<Result<RangeSet, Failure>>()?;
            Ok((path, ranges))
        })
        .collect()
}

/// Routes of an `ipam` object.
pub(crate) fn routes(ipam: &Fields<'_>) -> Result<Vec<Route>, Failure> {
    let number = |f: &Fields<'_>, name: &str| {
        Ok::<_, Failure>(f.number(name, 0, u64::from(u32::MAX))?.map(|n| n as u32))
    };
    ipam.objects("routes")?
        .iter()
        .map(|route| {
            let dst = route.cidr("dst")?.ok_or_else(|| {
                Failure::field(&route.name("dst"), "missing: a route needs its destination")
            })?;
            let gw = route.ip("gw")?;
            if gw.is_some_and(|gw| gw.is_ipv4() != dst.addr().is_ipv4()) {
                return Err(Failure::field(
                    &route.name("gw"),
                    format!("is not of the family of {dst}"),
                ));
            }
            Ok(Route {
                dst,
                gw,
                mtu: number(route, "mtu")?,
                advmss: number(route, "advmss")?,
                priority: number(route, "priority")?,
                table: number(route, "table")?,
                scope: route.number("scope", 0, 255)?.map(|n| n as u8),
            })
        })
        .collect()
}

/// Addresses asked for by `CNI_ARGS` IP, `args.cni.ips`, `runtimeConfig.ips`; a prefix length is ignored.
fn asked(request: &Request) -> Result<Vec<(String, IpAddr)>, Failure> {
    let fields = request.fields();
    let mut asked = Vec::new();
    if let Some(text) = request.args.get("IP").filter(|t| !t.is_empty()) {
        for part in text.split(',') {
            asked.push(("CNI_ARGS IP".to_owned(), either("CNI_ARGS IP", part)?));
        }
    }
    for place in [
        fields.object("args")?.object("cni")?,
        fields.object("runtimeConfig")?,
    ] {
        for (path, text) in place.texts("ips")? {
            let ip = either(&path, text)?;
            asked.push((path, ip));
        }
    }
    Ok(asked)
}

fn either(field: &str, text: &str) -> Result<IpAddr, Failure> {
    if text.contains('/') {
        parse_cidr(field, text).map(|net| net.addr())
    } else {
        parse_ip(field, text)
    }
}

fn add(request: &Request) -> Result<Reply, Failure> {
    let config = Config::read(request)?;
    let dns = config
        .resolv_conf
        .as_deref()
        .map(resolv_conf)
        .transpose()?
        .unwrap_or_default();
    let store = config.store(request)?;
    refuse_second_lease(request, &config, &store)?;
    let mut asked = config.asked.clone();
    let mut ips: Vec<Address> = Vec::new();
    for (index, (_, set)) in config.sets.iter().enumerate() {
        let wanted = asked
            .iter()
            .position(|(_, ip)| set.iter().any(|r| r.contains(*ip)))
            .map(|at| asked.remove(at));
        match allocate(request, &store, set, index, wanted) {
            Ok(address) => ips.push(address),
            Err(failure) => return Err(give_back(&store, &ips, failure)),
        }
    }
    if let Some((field, ip)) = asked.first() {
        let sets: Vec<String> = config.sets.iter().map(|(_, s)| pool::describe(s)).collect();
        let failure = Failure::field(
            field,
            format!(
                "{ip} is in no range that is still free to choose from ({})",
                sets.join("; ")
            ),
        );
        return Err(give_back(&store, &ips, failure));
    }
    let result = AddResult {
        ips,
        routes: config.routes,
        dns,
        ..AddResult::default()
    };
    Ok(Reply::Result(result.to_json(request.version)))
}

fn give_back(store: &Store, ips: &[Address], failure: Failure) -> Failure {
    for ip in ips {
        // The failure that is being reported matters more than one more.
        let _ = store.release(ip.address.addr());
    }
    failure
}

fn refuse_second_lease(request: &Request, config: &Config, store: &Store) -> Result<(), Failure> {
    let leases = store.leases()?;
    let has = leases.iter().find(|l| {
        l.holder == request.attachment
            && config
                .sets
                .iter()
                .any(|(_, s)| s.iter().any(|r| r.contains(l.ip)))
    });
    match has {
        None => Ok(()),
        Some(lease) => Err(Failure::new(
            crate::protocol::code::CONFLICT,
            format!(
                "container {} interface {} has address {} already: run DEL before another ADD",
                request.attachment.container, request.attachment.ifname, lease.ip
            ),
        )),
    }
}

fn allocate(
    request: &Request,
    store: &Store,
    set: &RangeSet,
    index: usize,
    wanted: Option<(String, IpAddr)>,
) -> Result<Address, Failure> {
    let given = |ip: IpAddr, range: &Range| -> Result<Address, Failure> {
        let address = IpNet::new(ip, range.subnet.prefix_len())
            .map_err(|e| Failure::field("ipam.ranges", format!("{}: {e}", range.subnet)))?;
        Ok(Address {
            version: None,
            interface: None,
            address,
            gateway: Some(range.gateway),
        })
    };
    if let Some((field, ip)) = wanted {
        let Some(range) = set.iter().find(|r| r.contains(ip)) else {
            return Err(Failure::field(
                &field,
                format!("{ip} is not in {}", pool::describe(set)),
            ));
        };
        if ip == range.gateway {
            return Err(Failure::field(
                &field,
                format!("{ip} is the gateway of {}", range.subnet),
            ));
        }
        if !store.reserve(ip, &request.attachment, index)? {
            let holder = store
                .lease(ip)?
                .map(|l| format!(" by container {}", l.holder.container));
            return Err(Failure::new(
                crate::protocol::code::CONFLICT,
                format!("{field}: {ip} is taken{}", holder.unwrap_or_default()),
            ));
        }
        return given(ip, range);
    }
    for (ip, range) in pool::candidates(set, store.last(index)) {
        if store.reserve(ip, &request.attachment, index)? {
            return given(ip, range);
        }
    }
    Err(exhausted(
        Command::Add,
        &format!("network {} range {}", request.network, pool::describe(set)),
    ))
}

/// DEL needs only to know where the leases are: a configuration that has become wrong elsewhere must
/// not keep an address.
fn del(request: &Request) -> Result<(), Failure> {
    let dir = data_dir(&request.fields().object("ipam")?)?;
    match Store::find(&dir, &request.network)? {
        Some(store) => store.release_all(&request.attachment),
        None => Ok(()),
    }
}

fn check(request: &Request) -> Result<(), Failure> {
    let config = Config::read(request)?;
    let leases = match Store::find(&config.data_dir, &request.network)? {
        Some(store) => store.leases()?,
        None => Vec::new(),
    };
    let mine: Vec<IpAddr> = leases
        .into_iter()
        .filter(|l| l.holder == request.attachment)
        .map(|l| l.ip)
        .collect();
    if mine.is_empty() {
        return Err(Failure::check(format!(
            "no lease of container {} interface {} in {}",
            request.attachment.container,
            request.attachment.ifname,
            config.data_dir.join(&request.network).display()
        )));
    }
    let prev = request.prev()?.unwrap_or_default();
    for (field, set) in &config.sets {
        let in_set = |ip: IpAddr| set.iter().any(|r| r.contains(ip));
        match mine.iter().find(|ip| in_set(**ip)) {
            None => {
                return Err(Failure::check(format!(
                    "no lease from {field} ({})",
                    pool::describe(set)
                )));
            }
            Some(ip) if !prev.ips.is_empty() && !prev.ips.iter().any(|a| a.address.addr() == *ip) => {
                return Err(Failure::check(format!(
                    "the lease {ip} is not an address of prevResult"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn gc(request: &Request) -> Result<(), Failure> {
    let keep = request.valid_attachments()?;
    let dir = data_dir(&request.fields().object("ipam")?)?;
    let Some(store) = Store::find(&dir, &request.network)? else {
        return Ok(());
    };
    for lease in store.leases()? {
        let kept = keep.iter().any(|a| {
            // A lease of the old format has no interface: any interface of its container keeps it.
            *a == lease.holder || (lease.holder.ifname.is_empty() && a.container == lease.holder.container)
        });
        if !kept {
            store.release(lease.ip)?;
        }
    }
    Ok(())
}

fn status(request: &Request) -> Result<(), Failure> {
    let config = Config::read(request)?;
    let leases = match Store::find(&config.data_dir, &request.network)? {
        Some(store) => store.leases()?,
        None => return Ok(()),
    };
    for (_, set) in &config.sets {
        let room: u128 = set.iter().fold(0, |sum, r| sum.saturating_add(r.size()));
        let used = leases
            .iter()
            .filter(|l| set.iter().any(|r| r.contains(l.ip) && r.gateway != l.ip))
            .count();
        if used as u128 >= room {
            let what = format!("network {} range {}", request.network, pool::describe(set));
            return Err(exhausted(Command::Status, &what));
        }
    }
    Ok(())
}

/// `nameserver`, `domain`, `search` and `options` of a resolv.conf(5).
fn resolv_conf(path: &Path) -> Result<Dns, Failure> {
    let text = fs::read_to_string(path).map_err(|e| Failure::io("ipam.resolvConf: read", path, &e))?;
    let mut dns = Dns::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(keyword) = words.next() else { continue };
        let values = words.map(str::to_owned);
        match keyword {
            "nameserver" => dns.nameservers.extend(values.take(1)),
            "domain" => dns.domain = values.take(1).collect(),
            "search" => dns.search.extend(values),
            "options" => dns.options.extend(values),
            _ => {}
        }
    }
    Ok(dns)
}
