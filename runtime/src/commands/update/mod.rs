//! `update`: other limits for a running container.

mod merge;
mod size;

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use berth_cgroups::CgroupError;
use berth_spec::{LinuxResources, Spec};
use clap::Args;
use serde_json::{Map, Value, json};
use thiserror::Error as ThisError;

use super::{Context, ExitCode};
use crate::bundle::{self, ParseError};
use crate::container::{Container, ContainerError};
use crate::error::Error;
use crate::host::{HostFacts, ResctrlFacts};
use crate::log;
use crate::resctrl::ResctrlError;
use crate::state::{CONFIG_FILE, Status};
use crate::validate::{self, Invalid};

/// Update container resource constraints
///
/// Values that are not named stay as they are. A document of resources has the form of "linux.resources" in
/// config.json, for example:
///
///   {"memory": {"limit": 67108864}, "cpu": {"quota": 20000, "period": 100000}}
///
/// With one, other options are ignored, except for those of Intel RDT.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct UpdateArgs {
    /// Path to the file containing the resources to update or '-' to read from the standard input
    #[arg(short, long, value_name = "FILE")]
    resources: Option<PathBuf>,
    /// Specifies per cgroup weight, range is from 10 to 1000
    #[arg(long, value_name = "WEIGHT", allow_negative_numbers = true)]
    blkio_weight: Option<String>,
    /// CPU CFS period to be used for hardcapping (in usecs). 0 to use system default
    #[arg(long, value_name = "USECS", allow_negative_numbers = true)]
    cpu_period: Option<String>,
    /// CPU CFS hardcap limit (in usecs). Allowed cpu time in a given period
    #[arg(long, value_name = "USECS", allow_negative_numbers = true)]
    cpu_quota: Option<String>,
    /// CPU CFS hardcap burst limit (in usecs). Allowed accumulated cpu time additionally for burst a given period
    #[arg(long, value_name = "USECS", allow_negative_numbers = true)]
    cpu_burst: Option<String>,
    /// CPU shares (relative weight vs. other containers)
    #[arg(long, value_name = "SHARES", allow_negative_numbers = true)]
    cpu_share: Option<String>,
    /// CPU realtime period to be used for hardcapping (in usecs). 0 to use system default
    #[arg(long, value_name = "USECS", allow_negative_numbers = true)]
    cpu_rt_period: Option<String>,
    /// CPU realtime hardcap limit (in usecs). Allowed cpu time in a given period
    #[arg(long, value_name = "USECS", allow_negative_numbers = true)]
    cpu_rt_runtime: Option<String>,
    /// Set cgroup SCHED_IDLE or not, 0: default behavior, 1: SCHED_IDLE
    #[arg(long, value_name = "0|1", allow_negative_numbers = true)]
    cpu_idle: Option<String>,
    /// CPU(s) to use
    #[arg(long, value_name = "CPUS")]
    cpuset_cpus: Option<String>,
    /// Memory node(s) to use
    #[arg(long, value_name = "NODES")]
    cpuset_mems: Option<String>,
    /// Memory limit (in bytes)
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory: Option<String>,
    /// Memory reservation or soft_limit (in bytes)
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_reservation: Option<String>,
    /// Total memory usage (memory + swap); set '-1' to enable unlimited swap
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    memory_swap: Option<String>,
    /// (obsoleted; do not use)
    #[arg(long, hide = true, allow_negative_numbers = true)]
    kernel_memory: Option<String>,
    /// (obsoleted; do not use)
    #[arg(long, hide = true, allow_negative_numbers = true)]
    kernel_memory_tcp: Option<String>,
    /// Maximum number of pids allowed in the container
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids_limit: Option<String>,
    /// The string of Intel RDT/CAT L3 cache schema
    #[arg(long, value_name = "SCHEMA")]
    l3_cache_schema: Option<String>,
    /// The string of Intel RDT/MBA memory bandwidth schema
    #[arg(long, value_name = "SCHEMA")]
    mem_bw_schema: Option<String>,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

/// Why a container could not be given other limits.
#[derive(Debug, ThisError)]
pub enum UpdateError {
    /// An option's value.
    #[error("invalid value for {option}: {value:?} is not {wanted}")]
    Option {
        /// The option without its dashes.
        option: &'static str,
        /// The text given.
        value: String,
        /// What would be.
        wanted: &'static str,
    },
    /// A value that no kernel takes.
    #[error("{from}")]
    Invalid {
        /// The option, or the document.
        from: String,
        /// The reason, with the field.
        #[source]
        source: Invalid,
    },
    /// A limit that this host refused; everything is as it was.
    #[error("{from}")]
    Refused {
        /// The option, or the document.
        from: String,
        /// The reason, with the field and the controller.
        #[source]
        source: Box<CgroupError>,
    },
    /// The document cannot be read.
    #[error("--resources: open {}", path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The document is not one of resources.
    #[error("--resources")]
    Parse {
        /// The reason.
        #[source]
        source: Box<ParseError>,
    },
    /// The document is one that only the other reader of it took.
    #[error("--resources")]
    Json {
        /// The reason.
        #[source]
        source: serde_json::Error,
    },
    /// No cache shares on this host.
    #[error("--l3-cache-schema: Intel RDT/CAT: l3 cache schema is not enabled")]
    NoCacheShares,
    /// No bandwidth shares on this host.
    #[error("--mem-bw-schema: Intel RDT/MBA: memory bandwidth schema is not enabled")]
    NoBandwidthShares,
}

/// Fields of the resources with the options that set them.
const OPTIONS: [(&str, &str); 14] = [
    ("blockIO.weight", "--blkio-weight"),
    ("cpu.period", "--cpu-period"),
    ("cpu.quota", "--cpu-quota"),
    ("cpu.burst", "--cpu-burst"),
    ("cpu.shares", "--cpu-share"),
    ("cpu.realtimePeriod", "--cpu-rt-period"),
    ("cpu.realtimeRuntime", "--cpu-rt-runtime"),
    ("cpu.idle", "--cpu-idle"),
    ("cpu.cpus", "--cpuset-cpus"),
    ("cpu.mems", "--cpuset-mems"),
    ("memory.limit", "--memory"),
    ("memory.reservation", "--memory-reservation"),
    ("memory.swap", "--memory-swap"),
    ("pids.limit", "--pids-limit"),
];

pub(super) fn run(context: &Context, args: &UpdateArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("update", &args.ids)?;
    let lock = context.root.lock(&id)?;
    let container = Container::load(&context.root, &id)?;
    if container.status()? == Status::Stopped {
        return Err(ContainerError::NotRunning.into());
    }
    let (given, from) = given(args)?;
    check_shares(args, &container)?;
    let mut config = configuration(&container)?;
    update(&container, &mut config, given, &from)?;
    update_shares(args, &container, &mut config)?;
    let text = serde_json::to_vec(&config).map_err(|source| Error::Json { source })?;
    lock.replace_config(&text)?;
    Ok(0)
}

/// Where an update's values come from: `None` for the options, which have names of their own.
struct Origin(Option<PathBuf>);

impl Origin {
    /// How a field is named to the user.
    fn of(&self, field: Option<&str>) -> String {
        if let Some(path) = &self.0 {
            return format!("--resources {}", path.display());
        }
        let below = field.and_then(|field| field.strip_prefix("linux.resources."));
        let option = OPTIONS
            .iter()
            .find(|(known, _)| below.is_some_and(|below| below == *known));
        option.map_or_else(|| "update".to_owned(), |(_, option)| (*option).to_owned())
    }
}

/// The resources that are asked for.
fn given(args: &UpdateArgs) -> Result<(Map<String, Value>, Origin), UpdateError> {
    let Some(path) = args
        .resources
        .as_deref()
        .filter(|path| !path.as_os_str().is_empty())
    else {
        return Ok((options(args)?, Origin(None)));
    };
    let text = read(path).map_err(|source| UpdateError::Document {
        path: path.to_path_buf(),
        source,
    })?;
    let fail = |source| UpdateError::Parse {
        source: Box::new(source),
    };
    // What does not fit the type is found with its line and field.
    bundle::parse::<LinuxResources>(path, &text).map_err(fail)?;
    match serde_json::from_slice(&text) {
        Ok(document) => Ok((document, Origin(Some(path.to_path_buf())))),
        Err(source) => Err(UpdateError::Json { source }),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if path != Path::new("-") {
        return fs::read(path);
    }
    let mut text = Vec::new();
    io::stdin().lock().read_to_end(&mut text)?;
    Ok(text)
}

/// The options as a document.
fn options(args: &UpdateArgs) -> Result<Map<String, Value>, UpdateError> {
    let mut all = json!({});
    let mut put = |section: &str, key: &str, value: Value| all[section][key] = value;
    let present = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    for (key, option, value) in [
        ("burst", "cpu-burst", &args.cpu_burst),
        ("period", "cpu-period", &args.cpu_period),
        ("realtimePeriod", "cpu-rt-period", &args.cpu_rt_period),
        ("shares", "cpu-share", &args.cpu_share),
    ] {
        if let Some(value) = present(value) {
            put(
                "cpu",
                key,
                json!(number::<u64>(option, value, "a number from 0 on")?),
            );
        }
    }
    for (section, key, option, value) in [
        ("cpu", "quota", "cpu-quota", &args.cpu_quota),
        ("cpu", "realtimeRuntime", "cpu-rt-runtime", &args.cpu_rt_runtime),
        ("cpu", "idle", "cpu-idle", &args.cpu_idle),
        ("pids", "limit", "pids-limit", &args.pids_limit),
    ] {
        if let Some(value) = present(value) {
            put(
                section,
                key,
                json!(number::<i64>(option, value, "a whole number")?),
            );
        }
    }
    for (key, value) in [("cpus", &args.cpuset_cpus), ("mems", &args.cpuset_mems)] {
        if let Some(value) = present(value) {
            put("cpu", key, json!(value));
        }
    }
    for (key, option, value) in [
        ("limit", "memory", &args.memory),
        ("reservation", "memory-reservation", &args.memory_reservation),
        ("swap", "memory-swap", &args.memory_swap),
        ("kernel", "kernel-memory", &args.kernel_memory),
        ("kernelTCP", "kernel-memory-tcp", &args.kernel_memory_tcp),
    ] {
        if let Some(value) = present(value) {
            put("memory", key, json!(bytes(option, value)?));
        }
    }
    if let Some(value) = present(&args.blkio_weight) {
        let weight = number::<u16>("blkio-weight", value, "a number from 10 to 1000")?;
        if weight != 0 {
            put("blockIO", "weight", json!(weight));
        }
    }
    match all {
        Value::Object(all) => Ok(all),
        _ => Ok(Map::new()),
    }
}

fn number<T: std::str::FromStr>(
    option: &'static str,
    value: String,
    wanted: &'static str,
) -> Result<T, UpdateError> {
    value.parse().map_err(|_| UpdateError::Option {
        option,
        value,
        wanted,
    })
}

fn bytes(option: &'static str, value: String) -> Result<i64, UpdateError> {
    if value == "-1" {
        return Ok(-1);
    }
    size::parse(&value).ok_or(UpdateError::Option {
        option,
        value,
        wanted: "a size such as 67108864, 64m or 1.5GiB, or -1 for no limit",
    })
}

/// The configuration in force: that of the creation, with the updates since then.
fn configuration(container: &Container) -> Result<Value, Error> {
    let path = container.dir.join(CONFIG_FILE);
    let text = fs::read(&path).map_err(|source| ContainerError::Config {
        path: path.clone(),
        source,
    })?;
    serde_json::from_slice(&text).map_err(|source| Error::Json { source })
}

/// Writes what is asked for, and notes it in the configuration.
fn update(
    container: &Container,
    config: &mut Value,
    mut given: Map<String, Value>,
    from: &Origin,
) -> Result<(), Error> {
    let mut merged = config["linux"]["resources"].take();
    if merged.is_null() {
        merged = json!({});
    }
    merge::merge(&mut merged, &Value::Object(given.clone()));
    merge::complete(&mut given, &mut merged);
    // One runtime's check of usage is not the next one's.
    if let Some(memory) = merged["memory"].as_object_mut() {
        memory.remove("checkBeforeUpdate");
    }
    config["linux"]["resources"] = merged;
    let mut after: Spec = typed(config)?;
    let host = HostFacts::collect()?;
    let invalid = |source: Invalid| UpdateError::Invalid {
        from: from.of(Some(&source.field)),
        source,
    };
    validate::validate_resources(&after, &host).map_err(invalid)?;
    let wanted: LinuxResources = typed(&Value::Object(given))?;
    after.linux.get_or_insert_default().resources = Some(wanted.clone());
    for warning in validate::warnings(&after) {
        log::warn(&warning);
    }
    let ignored = container
        .cgroup()
        .update(&wanted)
        .map_err(|source| UpdateError::Refused {
            from: from.of(source.field()),
            source: Box::new(source),
        })?;
    for one in ignored {
        log::warn(&format!("{}: ignored: {}", one.field, one.reason));
    }
    Ok(())
}

/// The meaning of a document whose parts were read before.
fn typed<T: berth_spec::Value>(value: &Value) -> Result<T, Error> {
    let text = serde_json::to_vec(value).map_err(|source| Error::Json { source })?;
    let document = bundle::parse(Path::new(CONFIG_FILE), &text).map_err(ContainerError::from)?;
    Ok(document.value)
}

/// Before anything is changed: whether this host and this container have the shares.
fn check_shares(args: &UpdateArgs, container: &Container) -> Result<(), Error> {
    let (cache, bandwidth) = shares(args);
    if cache.is_none() && bandwidth.is_none() {
        return Ok(());
    }
    let found = ResctrlFacts::collect();
    if cache.is_some() && !found.as_ref().is_some_and(|found| found.cache) {
        return Err(UpdateError::NoCacheShares.into());
    }
    if bandwidth.is_some() && !found.is_some_and(|found| found.bandwidth) {
        return Err(UpdateError::NoBandwidthShares.into());
    }
    if container.record.intel_rdt.is_none() {
        return Err(ResctrlError::NotConfigured.into());
    }
    Ok(())
}

fn shares(args: &UpdateArgs) -> (Option<&str>, Option<&str>) {
    (
        args.l3_cache_schema.as_deref().filter(|text| !text.is_empty()),
        args.mem_bw_schema.as_deref().filter(|text| !text.is_empty()),
    )
}

fn update_shares(args: &UpdateArgs, container: &Container, config: &mut Value) -> Result<(), Error> {
    let (cache, bandwidth) = shares(args);
    let Some(group) = &container.record.intel_rdt else {
        return Ok(());
    };
    group.update(cache, bandwidth)?;
    for (key, value) in [("l3CacheSchema", cache), ("memBwSchema", bandwidth)] {
        if let Some(value) = value {
            config["linux"]["intelRdt"][key] = json!(value);
        }
    }
    Ok(())
}
