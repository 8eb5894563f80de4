//! Network configurations from a directory (specification, section 1; libcni's conf.go for what it
//! leaves open).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{ExecError, Object};
use crate::protocol::{Version, valid_name};

/// One plugin of a list.
#[derive(Debug, Clone)]
pub struct PluginConfig {
    /// `type`: the program's name.
    pub kind: String,
    /// Everything the configuration says about it.
    pub object: Object,
}

/// A network: a list of plugins.
#[derive(Debug, Clone)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// The version spoken with its plugins: the highest that both sides know.
    pub version: Version,
    /// CHECK is not done.
    pub disable_check: bool,
    /// GC is not done.
    pub disable_gc: bool,
    /// The plugins in the order of ADD.
    pub plugins: Vec<PluginConfig>,
    /// The list as it was read, for the cache.
    pub bytes: Vec<u8>,
}

impl Network {
    /// The network of that name from the files of a directory, in lexical order.
    pub fn load(dir: &Path, name: &str) -> Result<Self, ExecError> {
        let missing = || ExecError::NoNetwork {
            name: name.to_owned(),
            dir: dir.to_owned(),
        };
        for file in files(dir)? {
            // A broken file of another network does not matter here.
            match Self::from_file(&file) {
                Ok(network) if network.name == name => return Ok(network),
                Err(error) if names(&file, name) => return Err(error),
                _ => {}
            }
        }
        Err(missing())
    }

    /// The first network of a directory, in lexical order of the files: a runtime's default network.
    pub fn load_first(dir: &Path) -> Result<Self, ExecError> {
        match files(dir)?.first() {
            Some(file) => Self::from_file(file),
            None => Err(ExecError::NoNetwork {
                name: String::new(),
                dir: dir.to_owned(),
            }),
        }
    }

    /// The first network of a directory, in lexical order of the files, that `usable` takes; `None` if it takes
    /// none of them. A file that is wrong ends the search: what it was meant to say is not known.
    pub fn load_usable(
        dir: &Path,
        mut usable: impl FnMut(&Path, &Self) -> bool,
    ) -> Result<Option<Self>, ExecError> {
        for file in files(dir)? {
            let network = Self::from_file(&file)?;
            if usable(&file, &network) {
                return Ok(Some(network));
            }
        }
        Ok(None)
    }

    /// All networks of a directory; with the files that are wrong.
    pub fn load_all(dir: &Path) -> Result<(Vec<Self>, Vec<ExecError>), ExecError> {
        let (mut networks, mut errors) = (Vec::<Self>::new(), Vec::new());
        for file in files(dir)? {
            match Self::from_file(&file) {
                Ok(network) if !networks.iter().any(|n| n.name == network.name) => networks.push(network),
                Ok(_) => {}
                Err(error) => errors.push(error),
            }
        }
        Ok((networks, errors))
    }

    /// A network from a `.conflist`, or from a single plugin's `.conf` or `.json`.
    pub fn from_file(path: &Path) -> Result<Self, ExecError> {
        let bytes = read(path)?;
        Self::parse(&bytes, path, path.extension().is_some_and(|e| e == "conflist"))
    }

    /// A network from the bytes of a list.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ExecError> {
        Self::parse(bytes, Path::new("(list)"), true)
    }

    /// Whether a plugin of the list takes values of a capability.
    pub fn declares(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| {
            let declared: Option<BTreeMap<String, bool>> = plugin.object.get("capabilities");
            declared.is_some_and(|d| d.get(capability) == Some(&true))
        })
    }

    fn parse(bytes: &[u8], path: &Path, is_list: bool) -> Result<Self, ExecError> {
        let wrong = |problem: String| ExecError::Config {
            path: path.to_owned(),
            problem,
        };
        let text = std::str::from_utf8(bytes).map_err(|e| wrong(format!("is not UTF-8: {e}")))?;
        let object = Object::parse(text).map_err(|e| wrong(format!("is not a JSON object: {e}")))?;
        let name: String = object.get("name").unwrap_or_default();
        valid_name(&name).map_err(|p| wrong(format!("name: {name:?} {p}")))?;
        let version = negotiate(&object).map_err(&wrong)?;
        let mut network = Self {
            name,
            version,
            disable_check: flag(&object, "disableCheck").map_err(&wrong)?,
            disable_gc: flag(&object, "disableGC").map_err(&wrong)?,
            plugins: Vec::new(),
            bytes: bytes.to_vec(),
        };
        if !is_list && object.raw("plugins").is_none() {
            network.plugins.push(plugin(object, "").map_err(&wrong)?);
            // The cache holds lists only.
            network.bytes = network.to_list();
            return Ok(network);
        }
        let listed: Option<Vec<Object>> = match object.raw("plugins") {
            None => None,
            Some(raw) => Some(serde_json::from_str(raw).map_err(|e| wrong(format!("plugins: {e}")))?),
        };
        for (at, item) in listed.into_iter().flatten().enumerate() {
            network
                .plugins
                .push(plugin(item, &format!("plugins[{at}].")).map_err(&wrong)?);
        }
        let inlined_only = flag(&object, "loadOnlyInlinedPlugins").map_err(&wrong)?;
        if !inlined_only && let Some(dir) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
            let before = network.plugins.len();
            network.append_folder(&dir.join(&network.name))?;
            if network.plugins.len() != before {
                network.bytes = network.to_list();
            }
        }
        if network.plugins.is_empty() {
            return Err(wrong(
                "plugins: missing or empty: name at least one plugin".into(),
            ));
        }
        Ok(network)
    }

    /// 1.1: plugins may also be in files of a folder that has the network's name.
    fn append_folder(&mut self, dir: &Path) -> Result<(), ExecError> {
        let mut found: Vec<PathBuf> = match fs::read_dir(dir) {
            Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
            Err(_) => return Ok(()),
        };
        found.retain(|p| p.extension().is_some_and(|e| e == "conf"));
        found.sort();
        for path in found {
            let bytes = read(&path)?;
            let wrong = |problem: String| ExecError::Config {
                path: path.clone(),
                problem,
            };
            let object: Object =
                serde_json::from_slice(&bytes).map_err(|e| wrong(format!("is not a JSON object: {e}")))?;
            self.plugins.push(plugin(object, "").map_err(wrong)?);
        }
        Ok(())
    }

    fn to_list(&self) -> Vec<u8> {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        struct List<'a> {
            cni_version: &'a str,
            name: &'a str,
            #[serde(rename = "disableCheck", skip_serializing_if = "std::ops::Not::not")]
            disable_check: bool,
            #[serde(rename = "disableGC", skip_serializing_if = "std::ops::Not::not")]
            disable_gc: bool,
            #[serde(rename = "loadOnlyInlinedPlugins")]
            inlined: bool,
            plugins: Vec<&'a Object>,
        }
        let list = List {
            cni_version: self.version.as_str(),
            name: &self.name,
            disable_check: self.disable_check,
            disable_gc: self.disable_gc,
            inlined: true,
            plugins: self.plugins.iter().map(|p| &p.object).collect(),
        };
        serde_json::to_vec(&list).unwrap_or_default()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ExecError> {
    fs::read(path).map_err(|source| ExecError::Io {
        what: "read the CNI configuration",
        path: path.to_owned(),
        source,
    })
}

/// The configuration files of a directory: lists before single plugins, as libcni looks for a name.
fn files(dir: &Path) -> Result<Vec<PathBuf>, ExecError> {
    let mut found: Vec<PathBuf> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(source) => {
            return Err(ExecError::Io {
                what: "list CNI configurations in",
                path: dir.to_owned(),
                source,
            });
        }
    };
    let is = |path: &Path, kinds: &[&str]| {
        path.is_file()
            && path
                .extension()
                .and_then(|e| e.to_str())
                .is_some_and(|e| kinds.contains(&e))
    };
    found.sort();
    let (lists, rest): (Vec<_>, Vec<_>) = found.into_iter().partition(|p| is(p, &["conflist"]));
    let single = rest.into_iter().filter(|p| is(p, &["conf", "json"]));
    Ok(lists.into_iter().chain(single).collect())
}

/// Whether a file that cannot be used is meant for this network.
fn names(path: &Path, name: &str) -> bool {
    let Ok(bytes) = fs::read(path) else { return false };
    match serde_json::from_slice::<Value>(&bytes) {
        Ok(value) => value.get("name").and_then(Value::as_str) == Some(name),
        Err(_) => false,
    }
}

fn plugin(object: Object, field: &str) -> Result<PluginConfig, String> {
    let kind: String = object.get("type").unwrap_or_default();
    if kind.is_empty() {
        return Err(format!("{field}type: missing: name the plugin's program"));
    }
    if kind.contains('/') || kind.starts_with('.') {
        return Err(format!("{field}type: {kind:?} is not a program's name"));
    }
    Ok(PluginConfig { kind, object })
}

/// The highest of `cniVersion` and `cniVersions` that this side speaks.
fn negotiate(object: &Object) -> Result<Version, String> {
    let mut named: Vec<String> = object.get("cniVersions").unwrap_or_default();
    named.extend(object.get::<String>("cniVersion").filter(|v| !v.is_empty()));
    if named.is_empty() {
        // The specification's meaning of no version at all is 0.1.0.
        named.push("0.1.0".into());
    }
    let field = if object.raw("cniVersions").is_some() {
        "cniVersions"
    } else {
        "cniVersion"
    };
    named
        .iter()
        .filter_map(|v| Version::parse(v))
        .max()
        .ok_or_else(|| {
            format!(
                "{field}: {} not supported (supported: {})",
                named.join(", "),
                Version::list()
            )
        })
}

/// A boolean, also written as "true" or "false".
fn flag(object: &Object, field: &str) -> Result<bool, String> {
    let Some(raw) = object.raw(field) else {
        return Ok(false);
    };
    match raw.trim_matches('"').to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" | "null" => Ok(false),
        _ => Err(format!("{field}: expected true or false, got {raw}")),
    }
}
