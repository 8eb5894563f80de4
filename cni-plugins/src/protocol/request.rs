//! One request: environment and stdin, validated in the reference implementation's order
//! (environment, JSON, name, version), so that each mistake gets the same code everywhere.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value, value::RawValue};

use super::{AddResult, Failure, Fields, Version, code};

/// What the runtime asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Attach the container.
    Add,
    /// Detach it.
    Del,
    /// Verify that everything ADD made is still there.
    Check,
    /// Remove whatever belongs to attachments not listed.
    Gc,
    /// Tell whether ADD could be served.
    Status,
    /// Tell the supported versions.
    Version,
}

impl Command {
    /// The command named by `CNI_COMMAND`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            _ => return None,
        })
    }

    /// The command as written in `CNI_COMMAND`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

/// One interface of one container; with the network's name it identifies everything a plugin makes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

/// `CNI_ARGS` as key and value; keys are case sensitive as in the reference.
pub type Args = BTreeMap<String, String>;

/// A field of Berth's own beside those of CNI: with it, CHECK puts back what is missing on the host before
/// it looks. Other plugins ignore it, as they do all fields they do not know.
pub const REPAIR: &str = "berth.dev/repair";

/// A validated request.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is asked.
    pub command: Command,
    /// Container and interface; empty texts for GC and STATUS.
    pub attachment: Attachment,
    /// `CNI_NETNS`; absent when empty.
    pub netns: Option<PathBuf>,
    /// `CNI_NETNS_OVERRIDE`: the plugin's own namespace is allowed as CNI_NETNS.
    pub netns_override: bool,
    /// `CNI_ARGS`.
    pub args: Args,
    /// `CNI_PATH`, split.
    pub path: Vec<PathBuf>,
    /// The configuration's version.
    pub version: Version,
    /// The network's name.
    pub network: String,
    /// The configuration.
    pub config: Map<String, Value>,
    /// The configuration's bytes, for delegated plugins.
    pub stdin: Vec<u8>,
    /// `prevResult` as it came, so that a chained plugin gives back what it does not understand.
    pub prev_result: Option<Box<RawValue>>,
}

/// The arguments in `CNI_ARGS` that some plugin of the set understands.
const KNOWN_ARGS: [&str; 5] = ["IP", "MAC", "GATEWAY", "IgnoreUnknown", "IgnoreUnknownArgs"];

impl Request {
    /// Reads the environment through `env` and the configuration from `stdin`.
    ///
    /// `stdin` is only called when the environment is right and the command has a configuration.
    pub fn read(
        env: impl Fn(&str) -> Option<String>,
        stdin: impl FnOnce() -> std::io::Result<Vec<u8>>,
    ) -> Result<Self, Failure> {
        let environment = Environment::read(&env)?;
        let stdin =
            stdin().map_err(|e| Failure::new(code::IO, format!("read the configuration from stdin: {e}")))?;
        let mut config: Map<String, Value> = serde_json::from_slice(&stdin).map_err(|e| {
            Failure::new(
                code::DECODE,
                format!("the configuration on stdin is not a JSON object: {e}"),
            )
        })?;
        let raw: RawPrev = serde_json::from_slice(&stdin)
            .map_err(|e| Failure::new(code::DECODE, format!("decode prevResult: {e}")))?;
        config.remove("prevResult");
        let fields = Fields::root(&config);
        let network = fields
            .text("name")?
            .ok_or_else(|| Failure::field("name", "missing: give the network a name"))?
            .to_owned();
        valid_name(&network).map_err(|p| Failure::field("name", format!("{network:?} {p}")))?;
        // A configuration without cniVersion is 0.1.0 by the specification.
        let named = fields.text("cniVersion")?.unwrap_or("0.1.0");
        let version = Version::parse(named).ok_or_else(|| {
            Failure::new(
                code::INCOMPATIBLE_VERSION,
                format!(
                    "cniVersion: {named:?} is not supported (supported: {})",
                    Version::list()
                ),
            )
        })?;
        let request = Self {
            command: environment.command,
            attachment: environment.attachment,
            netns: environment.netns,
            netns_override: environment.netns_override,
            args: environment.args,
            path: environment.path,
            version,
            network,
            config,
            stdin,
            prev_result: raw.prev_result.filter(|r| r.get() != "null"),
        };
        request.check_verb()?;
        Ok(request)
    }

    fn check_verb(&self) -> Result<(), Failure> {
        let needed = match self.command {
            Command::Check => Version::V0_4_0,
            Command::Gc | Command::Status => Version::V1_1_0,
            _ => return Ok(()),
        };
        if self.version < needed {
            return Err(Failure::new(
                code::INCOMPATIBLE_VERSION,
                format!(
                    "cniVersion: {} does not allow {}, which came with {needed}",
                    self.version,
                    self.command.as_str()
                ),
            ));
        }
        Ok(())
    }

    /// The configuration's fields.
    pub fn fields(&self) -> Fields<'_> {
        Fields::root(&self.config)
    }

    /// `prevResult`, decoded; absent when there is none.
    pub fn prev(&self) -> Result<Option<AddResult>, Failure> {
        self.prev_result
            .as_deref()
            .map(|raw| AddResult::parse(raw.get()))
            .transpose()
    }

    /// `prevResult`, which this command cannot do without.
    pub fn required_prev(&self, plugin: &str) -> Result<AddResult, Failure> {
        self.prev()?.ok_or_else(|| {
            Failure::field(
                "prevResult",
                format!("missing: {plugin} needs the result of the plugins before it"),
            )
        })
    }

    /// The attachments that GC must keep.
    ///
    /// Both key names are read: the specification's and the one libcni also writes (cni#1101).
    pub fn valid_attachments(&self) -> Result<Vec<Attachment>, Failure> {
        let fields = self.fields();
        let key = ["cni.dev/valid-attachments", "cni.dev/attachments"]
            .into_iter()
            .find(|k| fields.get(k).is_some())
            .ok_or_else(|| {
                Failure::field(
                    "cni.dev/valid-attachments",
                    "missing: without the list of attachments to keep, GC does nothing",
                )
            })?;
        fields
            .objects(key)?
            .iter()
            .map(|item| {
                let text = |f: &str| {
                    item.text(f)?
                        .map(str::to_owned)
                        .ok_or_else(|| Failure::field(&item.name(f), "missing"))
                };
                Ok(Attachment {
                    container: text("containerID")?,
                    ifname: text("ifname")?,
                })
            })
            .collect()
    }

    /// Whether CHECK is to put back what is missing.
    pub fn repairs(&self) -> bool {
        self.config.get(REPAIR) == Some(&Value::Bool(true))
    }

    /// The hardware address asked for, by `runtimeConfig.mac`, `args.cni.mac` or `CNI_ARGS` MAC, in this order.
    pub fn asked_mac(&self) -> Result<Option<[u8; 6]>, Failure> {
        let fields = self.fields();
        if let Some(mac) = fields.object("runtimeConfig")?.mac("mac")? {
            return Ok(Some(mac));
        }
        if let Some(mac) = fields.object("args")?.object("cni")?.mac("mac")? {
            return Ok(Some(mac));
        }
        self.args
            .get("MAC")
            .map(|text| super::parse_mac("CNI_ARGS MAC", text))
            .transpose()
    }
}

#[derive(serde::Deserialize)]
struct RawPrev {
    #[serde(rename = "prevResult")]
    prev_result: Option<Box<RawValue>>,
}

struct Environment {
    command: Command,
    attachment: Attachment,
    netns: Option<PathBuf>,
    netns_override: bool,
    args: Args,
    path: Vec<PathBuf>,
}

impl Environment {
    fn read(env: &impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        let invalid = |msg: String| Failure::new(code::INVALID_ENVIRONMENT, msg);
        let get = |name: &str| env(name).unwrap_or_default();
        let text = get("CNI_COMMAND");
        if text.is_empty() {
            return Err(invalid("CNI_COMMAND: missing".into()));
        }
        let command =
            Command::parse(&text).ok_or_else(|| invalid(format!("CNI_COMMAND: unknown command {text:?}")))?;
        let attaches = matches!(command, Command::Add | Command::Del | Command::Check);
        let required: &[(&str, bool)] = &[
            ("CNI_CONTAINERID", attaches),
            ("CNI_NETNS", matches!(command, Command::Add | Command::Check)),
            ("CNI_IFNAME", attaches),
            (
                "CNI_PATH",
                attaches || matches!(command, Command::Gc | Command::Status),
            ),
        ];
        let (container, ifname) = (get("CNI_CONTAINERID"), get("CNI_IFNAME"));
        if attaches && !container.is_empty() {
            valid_name(&container).map_err(|p| invalid(format!("CNI_CONTAINERID: {container:?} {p}")))?;
        }
        if attaches && !ifname.is_empty() {
            valid_interface_name(&ifname).map_err(|p| invalid(format!("CNI_IFNAME: {ifname:?} {p}")))?;
        }
        let missing: Vec<&str> = required
            .iter()
            .filter(|(name, needed)| *needed && get(name).is_empty())
            .map(|(n, _)| *n)
            .collect();
        if !missing.is_empty() {
            return Err(invalid(format!(
                "required environment variables missing: {}",
                missing.join(", ")
            )));
        }
        let netns = get("CNI_NETNS");
        let over = get("CNI_NETNS_OVERRIDE");
        Ok(Self {
            command,
            attachment: Attachment { container, ifname },
            netns: (!netns.is_empty()).then(|| PathBuf::from(netns)),
            netns_override: over == "1" || over.eq_ignore_ascii_case("true"),
            args: parse_args(&get("CNI_ARGS")).map_err(invalid)?,
            path: std::env::split_paths(&get("CNI_PATH"))
                .filter(|p| !p.as_os_str().is_empty())
                .collect(),
        })
    }
}

fn parse_args(text: &str) -> Result<Args, String> {
    let mut args = Args::new();
    for pair in text.split(';').filter(|p| !p.is_empty()) {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| format!("CNI_ARGS: {pair:?} is not of the form KEY=VALUE"))?;
        args.insert(key.to_owned(), value.to_owned());
    }
    let ignore = args
        .get("IgnoreUnknown")
        .is_some_and(|v| v == "1" || v.eq_ignore_ascii_case("true"));
    if !ignore && let Some(unknown) = args.keys().find(|k| !KNOWN_ARGS.contains(&k.as_str())) {
        return Err(format!(
            "CNI_ARGS: unknown argument {unknown:?} (known: IP, MAC, GATEWAY; or add IgnoreUnknown=1)"
        ));
    }
    Ok(args)
}

/// Whether a container ID or network name is one: a letter or digit, then letters, digits, `_`, `.`, `-`.
pub fn valid_name(name: &str) -> Result<(), &'static str> {
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphanumeric());
    if first && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) {
        Ok(())
    } else {
        Err("must start with a letter or digit and have only letters, digits, '_', '.', '-'")
    }
}

/// Whether the kernel takes `name` for an interface (IFNAMSIZ, dev_valid_name in net/core/dev.c).
pub fn valid_interface_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > 15 {
        return Err("must have 1 to 15 characters");
    }
    if name == "." || name == ".." || name.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) {
        return Err("is not an interface name: '.', '..', '/', ':' and spaces are not allowed");
    }
    Ok(())
}
