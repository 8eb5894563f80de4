//! tuning: kernel parameters of the container's network namespace, and properties of its interface.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use regex_lite::Regex;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    attach::FirstFailure,
    netlink::{Link, Message, Rtnl},
    netns::NetNs,
    portmap::passed_on,
    protocol::{Attachment, Failure, Fields, Plugin, Reply, Request, code, format_mac, parse_mac},
    sysctl,
};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "tuning",
    add,
    del,
    check,
    gc,
    status,
};

const DATA_DIR: &str = "/run/cni/tuning";
const ALLOWLIST: &str = "/etc/cni/tuning/allowlist.conf";

struct Config {
    /// Parameter as configured, its path below /proc/sys, and its value.
    sysctl: Vec<(String, String, String)>,
    mac: Option<[u8; 6]>,
    mtu: Option<u32>,
    promiscuous: bool,
    all_multicast: Option<bool>,
    tx_queue: Option<u32>,
    data_dir: PathBuf,
}

impl Config {
    fn read(request: &Request) -> Result<Self, Failure> {
        let fields = request.fields();
        let args = fields.object("args")?.object("cni")?;
        let max = u64::from(u32::MAX);
        let number = |name: &str, min| -> Result<Option<u32>, Failure> {
            let own = fields.number(name, min, max)?;
            Ok(args.number(name, min, max)?.or(own).map(|n| n as u32))
        };
        let flag = |name: &str| -> Result<Option<bool>, Failure> {
            let own = fields.opt_bool(name)?;
            Ok(args.opt_bool(name)?.or(own))
        };
        let mac = match request.asked_mac()? {
            Some(mac) => Some(mac),
            None => fields.mac("mac")?,
        };
        let mtu = number("mtu", 0)?.filter(|m| *m != 0);
        if let Some(mtu) = mtu.filter(|m| *m < 68) {
            return Err(Failure::field(
                "mtu",
                format!("{mtu} is out of range (at least 68)"),
            ));
        }
        let mut sysctl = BTreeMap::new();
        for place in [fields.object("sysctl")?, args.object("sysctl")?] {
            for (key, value) in place.entries() {
                let (path, value) = parameter(&place, key, value, &request.attachment.ifname)?;
                sysctl.insert(key.clone(), (path, value));
            }
        }
        Ok(Self {
            sysctl: sysctl
                .into_iter()
                .map(|(key, (path, value))| (key, path, value))
                .collect(),
            mac,
            mtu,
            promiscuous: flag("promisc")?.unwrap_or(false),
            all_multicast: flag("allmulti")?,
            tx_queue: number("txQLen", 0)?,
            data_dir: PathBuf::from(fields.text("dataDir")?.unwrap_or(DATA_DIR)),
        })
    }

    fn changes_link(&self) -> bool {
        self.mac.is_some()
            || self.mtu.is_some()
            || self.promiscuous
            || self.all_multicast.is_some()
            || self.tx_queue.is_some()
    }

    fn messages(&self, name: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        messages.extend(self.mac.map(|mac| Message::set_mac(name, &mac)));
        messages.extend(self.promiscuous.then(|| Message::set_promiscuous(name, true)));
        messages.extend(self.mtu.map(|mtu| Message::set_mtu(name, mtu)));
        messages.extend(self.all_multicast.map(|on| Message::set_all_multicast(name, on)));
        messages.extend(self.tx_queue.map(|length| Message::set_tx_queue(name, length)));
        messages
    }

    /// What the interface has of all that is about to change.
    fn backup(&self, network: &str, link: &Link) -> Backup {
        Backup {
            network: network.to_owned(),
            mac: self.mac.map(|_| format_mac(&link.mac)).unwrap_or_default(),
            promisc: self.promiscuous.then_some(link.promiscuous),
            mtu: self.mtu.map_or(0, |_| link.mtu),
            allmulti: self.all_multicast.map(|_| link.all_multicast),
            tx_queue: self.tx_queue.map(|_| link.tx_queue),
        }
    }
}

/// A parameter's path below /proc/sys and its value; only of the network, and never outside.
fn parameter(
    place: &Fields<'_>,
    key: &str,
    value: &Value,
    ifname: &str,
) -> Result<(String, String), Failure> {
    let field = place.name(key);
    let value = match value {
        Value::String(text) => text.clone(),
        other => return Err(Failure::field(&field, format!("expected a string, got {other}"))),
    };
    // Also written with slashes, which lets an interface's name have dots.
    let path = if key.contains('/') {
        key.to_owned()
    } else {
        key.replace('.', "/")
    };
    let path = path.replace("IFNAME", ifname);
    let inside = path
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..");
    if !path.starts_with("net/") || !inside {
        return Err(Failure::field(
            &field,
            "is no parameter of the network: only net.* can be set",
        ));
    }
    Ok((path, value))
}

/// The interface's properties before ADD, in the reference's format, which ignores the first field.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Backup {
    /// The network it was made for: the file's name does not tell, and GC must leave other networks' alone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    network: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(default, skip_serializing_if = "is_zero")]
    mtu: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(default, rename = "txQLen", skip_serializing_if = "Option::is_none")]
    tx_queue: Option<u32>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Backup {
    fn messages(&self, name: &str) -> Vec<Message> {
        let mut messages = Vec::new();
        if self.mtu != 0 {
            messages.push(Message::set_mtu(name, self.mtu));
        }
        messages.extend(
            parse_mac("mac", &self.mac)
                .ok()
                .map(|mac| Message::set_mac(name, &mac)),
        );
        messages.extend(self.promisc.map(|on| Message::set_promiscuous(name, on)));
        messages.extend(self.allmulti.map(|on| Message::set_all_multicast(name, on)));
        messages.extend(self.tx_queue.map(|length| Message::set_tx_queue(name, length)));
        messages
    }
}

fn backup_file(data_dir: &Path, request: &Request) -> PathBuf {
    backup_of(data_dir, &request.attachment)
}

fn backup_of(data_dir: &Path, attachment: &Attachment) -> PathBuf {
    data_dir.join(format!("{}_{}.json", attachment.container, attachment.ifname))
}

/// Regular expressions of parameters that may be set; no file, no restriction.
fn check_allowed(config: &Config) -> Result<(), Failure> {
    let path = Path::new(ALLOWLIST);
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Failure::io("read", path, &e)),
    };
    let mut allowed = Vec::new();
    for line in text.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let regex = Regex::new(line).map_err(|e| {
            Failure::new(
                code::INVALID_CONFIG,
                format!("{ALLOWLIST}: {line:?} is not a regular expression: {e}"),
            )
        })?;
        allowed.push(regex);
    }
    match config
        .sysctl
        .iter()
        .find(|(key, _, _)| !allowed.iter().any(|r| r.is_match(key)))
    {
        Some((key, _, _)) => Err(Failure::field(
            &format!("sysctl.{key}"),
            format!("is not allowed by {ALLOWLIST}"),
        )),
        None => Ok(()),
    }
}

fn add(request: &Request) -> Result<Reply, Failure> {
    let config = Config::read(request)?;
    check_allowed(&config)?;
    let mut result = request.required_prev("tuning")?;
    let name = &request.attachment.ifname;
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    netns.within(|| apply(request, &config, name))?;
    let Some(mac) = config.mac else {
        return Ok(passed_on(request));
    };
    for interface in result
        .interfaces
        .iter_mut()
        .filter(|i| i.name == *name && !i.sandbox.is_empty())
    {
        interface.mac = format_mac(&mac);
    }
    Ok(Reply::Result(result.to_json(request.version)))
}

/// Sets everything, or nothing.
fn apply(request: &Request, config: &Config, name: &str) -> Result<(), Failure> {
    let mut written: Vec<(&str, String)> = Vec::new();
    for (key, path, value) in &config.sysctl {
        let step = sysctl::read(path).and_then(|old| {
            let old = old.ok_or_else(|| {
                Failure::field(
                    &format!("sysctl.{key}"),
                    "the kernel has no such parameter in this namespace",
                )
            })?;
            sysctl::write(path, value)?;
            Ok(old)
        });
        match step {
            Ok(old) => written.push((path, old)),
            Err(failure) => return Err(take_back(&written, failure)),
        }
    }
    if !config.changes_link() {
        return Ok(());
    }
    change_link(request, config, name).map_err(|failure| take_back(&written, failure))
}

fn take_back(written: &[(&str, String)], failure: Failure) -> Failure {
    for (path, old) in written.iter().rev() {
        // The failure that is being reported matters more than one of these.
        let _ = sysctl::write(path, old);
    }
    failure
}

fn change_link(request: &Request, config: &Config, name: &str) -> Result<(), Failure> {
    let mut rtnl = Rtnl::open()?;
    let link = rtnl.link(name)?.ok_or_else(|| {
        Failure::new(
            code::UNKNOWN_CONTAINER,
            format!("CNI_IFNAME: interface {name} is not in the container"),
        )
    })?;
    let backup = config.backup(&request.network, &link);
    let file = backup_file(&config.data_dir, request);
    store(&file, &backup)?;
    rtnl.run(&config.messages(name)).map_err(|error| {
        let _ = rtnl.run(&backup.messages(name));
        let _ = fs::remove_file(&file);
        error.into()
    })
}

fn store(file: &Path, backup: &Backup) -> Result<(), Failure> {
    if let Some(dir) = file.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| Failure::io("create", dir, &e))?;
    }
    let text = serde_json::to_vec_pretty(backup).unwrap_or_default();
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(file)
        .and_then(|mut f| io::Write::write_all(&mut f, &text))
        .map_err(|e| Failure::io("write", file, &e))
}

/// Restores the interface if it is still there, and forgets the backup in any case.
fn del(request: &Request) -> Result<(), Failure> {
    let data_dir = PathBuf::from(request.fields().text("dataDir")?.unwrap_or(DATA_DIR));
    let file = backup_file(&data_dir, request);
    let mut failures = FirstFailure::default();
    if let Ok(text) = fs::read(&file)
        && let Ok(backup) = serde_json::from_slice::<Backup>(&text)
    {
        failures.note(restore(request, &backup));
    }
    match fs::remove_file(&file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => failures.note(Err(Failure::io("remove", &file, &e))),
        _ => {}
    }
    failures.finish()
}

/// Forgets the backups of attachments that are not to be kept; the interfaces went with their namespaces.
fn gc(request: &Request) -> Result<(), Failure> {
    let keep = request.valid_attachments()?;
    let data_dir = PathBuf::from(request.fields().text("dataDir")?.unwrap_or(DATA_DIR));
    let kept: Vec<PathBuf> = keep.iter().map(|a| backup_of(&data_dir, a)).collect();
    let mut failures = FirstFailure::default();
    for entry in fs::read_dir(&data_dir).into_iter().flatten().flatten() {
        let file = entry.path();
        let backup = fs::read(&file)
            .ok()
            .and_then(|text| serde_json::from_slice::<Backup>(&text).ok());
        if backup.is_some_and(|b| b.network == request.network) && !kept.contains(&file) {
            failures.note(fs::remove_file(&file).map_err(|e| Failure::io("remove", &file, &e)));
        }
    }
    failures.finish()
}

fn restore(request: &Request, backup: &Backup) -> Result<(), Failure> {
    let Some(path) = &request.netns else { return Ok(()) };
    let Some(netns) = NetNs::find(path)? else {
        return Ok(());
    };
    let mut rtnl = Rtnl::open_in(&netns)?;
    match rtnl.link(&request.attachment.ifname)? {
        Some(link) => Ok(rtnl.run(&backup.messages(&link.name))?),
        None => Ok(()),
    }
}

fn check(request: &Request) -> Result<(), Failure> {
    let config = Config::read(request)?;
    request.required_prev("tuning")?;
    let name = &request.attachment.ifname;
    let netns = NetNs::open(&request.netns.clone().unwrap_or_default())?;
    netns.within(|| {
        for (key, path, value) in &config.sysctl {
            let now = sysctl::read(path)?.unwrap_or_default();
            if !now.split_whitespace().eq(value.split_whitespace()) {
                return Err(Failure::check(format!(
                    "parameter {key} is {now:?}, not {value:?}"
                )));
            }
        }
        let link = Rtnl::open()?
            .link(name)?
            .ok_or_else(|| Failure::check(format!("interface {name} is not in the container")))?;
        check_link(&config, &link)
    })
}

fn check_link(config: &Config, link: &Link) -> Result<(), Failure> {
    let name = &link.name;
    let differs = |what: &str, now: &str, wanted: &str| {
        Err(Failure::check(format!("{what} of {name} is {now}, not {wanted}")))
    };
    if let Some(mac) = config.mac.filter(|m| m[..] != link.mac[..]) {
        return differs("the hardware address", &format_mac(&link.mac), &format_mac(&mac));
    }
    if let Some(mtu) = config.mtu.filter(|m| *m != link.mtu) {
        return differs("the MTU", &link.mtu.to_string(), &mtu.to_string());
    }
    if config.promiscuous && !link.promiscuous {
        return differs("promiscuous mode", "off", "on");
    }
    if let Some(on) = config.all_multicast.filter(|on| *on != link.all_multicast) {
        return differs(
            "all-multicast mode",
            &link.all_multicast.to_string(),
            &on.to_string(),
        );
    }
    if let Some(length) = config.tx_queue.filter(|l| *l != link.tx_queue) {
        return differs(
            "the transmit queue length",
            &link.tx_queue.to_string(),
            &length.to_string(),
        );
    }
    Ok(())
}

fn status(request: &Request) -> Result<(), Failure> {
    let config = Config::read(request)?;
    check_allowed(&config)
}
