//! ADD, CHECK, DEL and STATUS of networks (specification, section 3).

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, value::RawValue};

use super::{
    ExecError, Network, PluginConfig,
    cache::{Cache, Cached, encode_base64},
    invoke::{self, PluginError},
    locks::Locks,
};
use crate::{
    ipam::find,
    protocol::{AddResult, Command, REPAIR, Version, valid_interface_name, valid_name},
};

/// Longer than any plugin takes; a plugin that hangs must not hold its container for ever.
const TIMEOUT: Duration = Duration::from_secs(220);

/// Where plugins are and what is remembered.
#[derive(Debug, Clone)]
pub struct Runtime {
    bin_dirs: Vec<PathBuf>,
    pub(super) cache: Cache,
    pub(super) locks: Locks,
    timeout: Duration,
}

/// One interface of one container, and what the plugins are told about it.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// The container's ID.
    pub container: String,
    /// The network namespace's path; may be absent for DEL.
    pub netns: Option<PathBuf>,
    /// The interface's name.
    pub ifname: String,
    /// CNI_ARGS.
    pub args: Vec<(String, String)>,
    /// Values for the capabilities that plugins declare: `portMappings`, `bandwidth`, `ips`, `mac`, …
    pub capabilities: BTreeMap<String, Value>,
}

impl Attachment {
    /// An attachment without arguments and capabilities.
    pub fn new(container: impl Into<String>, netns: impl Into<PathBuf>, ifname: impl Into<String>) -> Self {
        Self {
            container: container.into(),
            netns: Some(netns.into()),
            ifname: ifname.into(),
            ..Self::default()
        }
    }

    /// The attachment that is remembered, with all that its ADD was told.
    pub fn remembered(cached: &Cached) -> Self {
        let plain = Self {
            container: cached.container_id.clone(),
            ifname: cached.if_name.clone(),
            ..Self::default()
        };
        completed(&plain, cached)
    }

    pub(super) fn check(&self) -> Result<(), ExecError> {
        let invalid = |field, value: &str, problem| ExecError::Invalid {
            field,
            problem: format!("{value:?} {problem}"),
        };
        valid_name(&self.container).map_err(|p| invalid("container ID", &self.container, p))?;
        valid_interface_name(&self.ifname).map_err(|p| invalid("interface name", &self.ifname, p))?;
        match self
            .args
            .iter()
            .find(|(k, v)| k.is_empty() || k.contains(['=', ';']) || v.contains(';'))
        {
            Some((key, value)) => Err(ExecError::Invalid {
                field: "CNI_ARGS",
                problem: format!("{key:?}={value:?} cannot be passed: ';' and '=' separate arguments"),
            }),
            None => Ok(()),
        }
    }
}

/// What ADD gave, as the last plugin wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The result's JSON.
    pub json: String,
    network: String,
}

impl Outcome {
    /// The result, decoded.
    pub fn decode(&self) -> Result<AddResult, ExecError> {
        serde_json::from_str(&self.json).map_err(|e| ExecError::Result {
            network: self.network.clone(),
            problem: e.to_string(),
        })
    }
}

/// What a call passes beside the plugin's own configuration.
pub(super) struct Call<'a> {
    pub command: Command,
    pub attachment: Option<&'a Attachment>,
    pub capabilities: BTreeMap<String, Box<RawValue>>,
    pub previous: Option<Box<RawValue>>,
    pub valid: Option<Value>,
    /// CHECK puts back what it finds missing ([`protocol::REPAIR`](crate::protocol::REPAIR)).
    pub repair: bool,
}

impl<'a> Call<'a> {
    pub fn new(command: Command) -> Self {
        Self {
            command,
            attachment: None,
            capabilities: BTreeMap::new(),
            previous: None,
            valid: None,
            repair: false,
        }
    }

    /// For one attachment.
    pub fn on(
        command: Command,
        attachment: &'a Attachment,
        capabilities: &BTreeMap<String, Box<RawValue>>,
    ) -> Self {
        Self {
            attachment: Some(attachment),
            capabilities: capabilities.clone(),
            ..Self::new(command)
        }
    }
}

impl Runtime {
    /// `bin_dirs`: where plugins are (CNI_PATH). `cache_dir`: what is remembered between ADD and DEL;
    /// libcni's is /var/lib/cni.
    pub fn new(bin_dirs: impl IntoIterator<Item = PathBuf>, cache_dir: impl AsRef<Path>) -> Self {
        Self {
            bin_dirs: bin_dirs.into_iter().collect(),
            cache: Cache::new(cache_dir.as_ref()),
            locks: Locks::new(cache_dir.as_ref()),
            timeout: TIMEOUT,
        }
    }

    /// Kills a plugin that takes longer than this (220 s unless set).
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Attaches a container to a network.
    ///
    /// When a plugin fails, those before it are not undone; the caller runs [`Runtime::del`], as the
    /// specification has it. When a plugin of the list is not there, none is run, and nothing is left.
    pub fn add(&self, network: &Network, attachment: &Attachment) -> Result<Outcome, ExecError> {
        attachment.check()?;
        self.all_there(network)?;
        self.cache.prepare()?;
        let _lock = self.locks.container(&network.name, &attachment.container)?;
        self.add_locked(network, attachment)
    }

    pub(super) fn add_locked(
        &self,
        network: &Network,
        attachment: &Attachment,
    ) -> Result<Outcome, ExecError> {
        let capabilities = raw_values(&attachment.capabilities);
        let mut previous: Option<Box<RawValue>> = None;
        for plugin in &network.plugins {
            let call = Call {
                previous: previous.take(),
                ..Call::on(Command::Add, attachment, &capabilities)
            };
            let output = self.call(network, plugin, &call)?;
            previous = Some(result_of(network, &plugin.kind, &output)?);
        }
        let json = previous.as_ref().map_or("{}", |r| r.get()).to_owned();
        self.cache.store(&Cached {
            kind: Cached::kind(),
            container_id: attachment.container.clone(),
            config: encode_base64(&network.bytes),
            if_name: attachment.ifname.clone(),
            network_name: network.name.clone(),
            netns: attachment
                .netns
                .as_ref()
                .map(|p| p.display().to_string())
                .unwrap_or_default(),
            cni_args: attachment.args.clone(),
            capability_args: capabilities,
            result: previous,
        })?;
        Ok(Outcome {
            json,
            network: network.name.clone(),
        })
    }

    /// Verifies an attachment. Nothing is done when the network has `disableCheck`.
    pub fn check(&self, network: &Network, attachment: &Attachment) -> Result<(), ExecError> {
        attachment.check()?;
        needs(network, Version::V0_4_0, "CHECK")?;
        if network.disable_check {
            return Ok(());
        }
        let _lock = self.locks.container(&network.name, &attachment.container)?;
        self.check_locked(network, attachment, false)
    }

    /// With `repair`, plugins that can do so put back what they find missing.
    pub(super) fn check_locked(
        &self,
        network: &Network,
        attachment: &Attachment,
        repair: bool,
    ) -> Result<(), ExecError> {
        let cached = self.remembered(network, attachment)?;
        let attachment = &completed(attachment, &cached);
        let capabilities = provided(attachment, Some(&cached));
        for plugin in &network.plugins {
            let call = Call {
                previous: cached.result.clone(),
                repair,
                ..Call::on(Command::Check, attachment, &capabilities)
            };
            self.call(network, plugin, &call)?;
        }
        Ok(())
    }

    /// What is remembered of an ADD that gave a result.
    pub(super) fn remembered(&self, network: &Network, attachment: &Attachment) -> Result<Cached, ExecError> {
        let cached = self.cached(network, attachment).filter(|c| c.result.is_some());
        cached.ok_or_else(|| ExecError::NotAttached {
            container: attachment.container.clone(),
            ifname: attachment.ifname.clone(),
            network: network.name.clone(),
        })
    }

    /// Detaches a container. Works without a cache entry and with the namespace gone; may be repeated.
    ///
    /// What ADD was told (arguments, capabilities) is taken from the cache unless given again.
    pub fn del(&self, network: &Network, attachment: &Attachment) -> Result<(), ExecError> {
        attachment.check()?;
        let _lock = self.locks.container(&network.name, &attachment.container)?;
        self.del_locked(network, attachment)
    }

    pub(super) fn del_locked(&self, network: &Network, attachment: &Attachment) -> Result<(), ExecError> {
        let cached = self.cached(network, attachment);
        let completed = cached.as_ref().map(|c| completed(attachment, c));
        let attachment = completed.as_ref().unwrap_or(attachment);
        let capabilities = provided(attachment, cached.as_ref());
        let previous = cached
            .and_then(|c| c.result)
            .filter(|_| network.version >= Version::V0_4_0);
        for plugin in network.plugins.iter().rev() {
            let call = Call {
                previous: previous.clone(),
                ..Call::on(Command::Del, attachment, &capabilities)
            };
            self.call(network, plugin, &call)?;
        }
        self.cache
            .remove(&network.name, &attachment.container, &attachment.ifname)
    }

    /// Asks each plugin whether it could serve an ADD. Networks before 1.1.0 cannot say, and are taken
    /// as ready.
    pub fn status(&self, network: &Network) -> Result<(), ExecError> {
        for plugin in &network.plugins {
            self.program(network, plugin)?;
            if network.version < Version::V1_1_0 {
                continue;
            }
            self.call(network, plugin, &Call::new(Command::Status))?;
        }
        Ok(())
    }

    /// Every attachment that is remembered, of all networks.
    pub fn attachments(&self) -> Vec<Cached> {
        self.cache.all()
    }

    /// What is remembered of one attachment.
    pub fn cached(&self, network: &Network, attachment: &Attachment) -> Option<Cached> {
        self.cache
            .find(&network.name, &attachment.container, &attachment.ifname)
    }

    /// Types of the list's plugins, and of their IPAM plugins, that are in none of the plugin directories.
    pub fn missing(&self, network: &Network) -> Vec<String> {
        let mut kinds: Vec<String> = Vec::new();
        for plugin in &network.plugins {
            let ipam: Option<Value> = plugin.object.get("ipam");
            let ipam = ipam.and_then(|i| Some(i.get("type")?.as_str()?.to_owned()));
            for kind in std::iter::once(plugin.kind.clone()).chain(ipam.filter(|kind| !kind.is_empty())) {
                if !kinds.contains(&kind) && find(&kind, &self.bin_dirs).is_none() {
                    kinds.push(kind);
                }
            }
        }
        kinds
    }

    /// # Errors
    /// [`ExecError::NotFound`] with the first plugin that is not there.
    pub(super) fn all_there(&self, network: &Network) -> Result<(), ExecError> {
        network
            .plugins
            .iter()
            .try_for_each(|plugin| self.program(network, plugin).map(drop))
    }

    fn program(&self, network: &Network, plugin: &PluginConfig) -> Result<PathBuf, ExecError> {
        find(&plugin.kind, &self.bin_dirs).ok_or_else(|| ExecError::NotFound {
            plugin: plugin.kind.clone(),
            network: network.name.clone(),
            dirs: self.bin_dirs.clone(),
        })
    }

    pub(super) fn call(
        &self,
        network: &Network,
        plugin: &PluginConfig,
        call: &Call<'_>,
    ) -> Result<Vec<u8>, ExecError> {
        let program = self.program(network, plugin)?;
        let config = request(network, plugin, call).map_err(|e| ExecError::Config {
            path: PathBuf::from(&network.name),
            problem: e.to_string(),
        })?;
        let none = Attachment::default();
        let attachment = call.attachment.unwrap_or(&none);
        let args: Vec<String> = attachment.args.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let environment = invoke::Environment {
            command: call.command,
            container: &attachment.container,
            netns: attachment.netns.as_deref(),
            ifname: &attachment.ifname,
            args: &args.join(";"),
            path: &self.bin_dirs,
        };
        invoke::run(&program, &environment, config.as_bytes(), Some(self.timeout)).map_err(
            |error| match error {
                PluginError::Refused { code, msg, details } => ExecError::Plugin {
                    plugin: plugin.kind.clone(),
                    verb: call.command.as_str(),
                    network: network.name.clone(),
                    code,
                    msg,
                    details,
                },
                PluginError::Io { source, .. } => ExecError::Io {
                    what: "run the CNI plugin",
                    path: program.clone(),
                    source,
                },
            },
        )
    }
}

pub(super) fn needs(network: &Network, version: Version, verb: &'static str) -> Result<(), ExecError> {
    if network.version >= version {
        return Ok(());
    }
    Err(ExecError::Version {
        network: network.name.clone(),
        version: network.version.to_string(),
        verb,
    })
}

fn raw_values(values: &BTreeMap<String, Value>) -> BTreeMap<String, Box<RawValue>> {
    values
        .iter()
        .filter_map(|(key, value)| Some((key.clone(), serde_json::value::to_raw_value(value).ok()?)))
        .collect()
}

/// The capability values of an operation: given now, or remembered from ADD.
fn provided(attachment: &Attachment, cached: Option<&Cached>) -> BTreeMap<String, Box<RawValue>> {
    let mut values = cached.map(|c| c.capability_args.clone()).unwrap_or_default();
    values.extend(raw_values(&attachment.capabilities));
    values
}

/// The attachment with what the cache knows and the caller does not.
pub(super) fn completed(attachment: &Attachment, cached: &Cached) -> Attachment {
    let mut complete = attachment.clone();
    if complete.netns.is_none() && !cached.netns.is_empty() {
        complete.netns = Some(PathBuf::from(&cached.netns));
    }
    if complete.args.is_empty() {
        complete.args.clone_from(&cached.cni_args);
    }
    complete
}

/// The configuration for one call (specification, section 3, "Deriving execution configuration").
fn request(network: &Network, plugin: &PluginConfig, call: &Call<'_>) -> Result<String, serde_json::Error> {
    let mut object = plugin.object.clone();
    let declared: BTreeMap<String, bool> = object.get("capabilities").unwrap_or_default();
    object.remove("capabilities");
    object.set("cniVersion", &network.version.as_str())?;
    object.set("name", &network.name)?;
    let provided: BTreeMap<&String, &Box<RawValue>> = call
        .capabilities
        .iter()
        .filter(|(key, _)| declared.get(*key).copied().unwrap_or(false))
        .collect();
    if !provided.is_empty() {
        object.set("runtimeConfig", &provided)?;
    }
    if let Some(previous) = &call.previous {
        object.set("prevResult", previous)?;
    }
    if let Some(valid) = &call.valid {
        // The specification's key, and the one that plugins of libcni's first 1.1 release read (cni#1101).
        object.set("cni.dev/valid-attachments", valid)?;
        object.set("cni.dev/attachments", valid)?;
    }
    if call.repair {
        object.set(REPAIR, &true)?;
    }
    Ok(object.to_json())
}

/// A plugin's stdout as a result; it gets the network's version if it has none.
fn result_of(network: &Network, plugin: &str, output: &[u8]) -> Result<Box<RawValue>, ExecError> {
    let wrong = |problem: String| ExecError::Result {
        network: network.name.clone(),
        problem: format!("{plugin}: {problem}"),
    };
    let text = std::str::from_utf8(output)
        .map_err(|e| wrong(e.to_string()))?
        .trim();
    let mut object = super::Object::parse(text).map_err(|e| wrong(e.to_string()))?;
    if object.get::<String>("cniVersion").is_none_or(|v| v.is_empty()) {
        object
            .set("cniVersion", &network.version.as_str())
            .map_err(|e| wrong(e.to_string()))?;
        return RawValue::from_string(object.to_json()).map_err(|e| wrong(e.to_string()));
    }
    RawValue::from_string(text.to_owned()).map_err(|e| wrong(e.to_string()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_request_is_the_configuration_and_nothing_lost() {
        let list = br#"{"cniVersion":"1.0.0","cniVersions":["0.4.0","1.1.0","9.9.9"],"name":"n","plugins":[
            {"type":"p","capabilities":{"mac":true,"ips":false,"x":true},"big":9007199254740993,"f":1.10}]}"#;
        let network = Network::from_bytes(list).unwrap();
        assert_eq!(network.version, Version::V1_1_0);
        let call = Call {
            capabilities: raw_values(&BTreeMap::from([
                ("mac".into(), json!("0a:58:0a:00:00:01")),
                ("ips".into(), json!(["10.0.0.1"])),
                ("unasked".into(), json!(1)),
            ])),
            previous: Some(RawValue::from_string("{\"ips\": []}".into()).unwrap()),
            valid: Some(json!([])),
            ..Call::new(Command::Gc)
        };
        let text = request(&network, &network.plugins[0], &call).unwrap();
        assert_eq!(
            text,
            r#"{"type":"p","big":9007199254740993,"f":1.10,"cniVersion":"1.1.0","name":"n","runtimeConfig":{"mac":"0a:58:0a:00:00:01"},"prevResult":{"ips": []},"cni.dev/valid-attachments":[],"cni.dev/attachments":[]}"#
        );
    }

    #[test]
    fn nothing_is_added_when_a_later_plugin_is_missing() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("first");
        let ran = dir.path().join("ran");
        std::fs::write(
            &first,
            format!("#!/bin/sh\ntouch {}\necho '{{}}'\n", ran.display()),
        )
        .unwrap();
        std::fs::set_permissions(&first, std::fs::Permissions::from_mode(0o755)).unwrap();
        let list = br#"{"cniVersion":"1.0.0","name":"n","plugins":[
            {"type":"first","ipam":{"type":"lender"}},{"type":"second"}]}"#;
        let network = Network::from_bytes(list).unwrap();
        let runtime = Runtime::new([dir.path().to_owned()], dir.path().join("cache"));
        assert_eq!(runtime.missing(&network), ["lender", "second"]);
        let error = runtime
            .add(&network, &Attachment::new("c", "/run/netns/c", "eth0"))
            .unwrap_err();
        assert!(
            matches!(&error, ExecError::NotFound { plugin, .. } if plugin == "second"),
            "{error}"
        );
        assert!(!ran.exists(), "the first plugin ran");
        assert!(runtime.attachments().is_empty());
    }
}
