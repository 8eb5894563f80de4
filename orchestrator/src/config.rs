//! What berthd is told on its command line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use ipnet::Ipv4Net;

use crate::images::ImageConfig;
use crate::node::eviction::EvictionConfig;
use crate::node::eviction::threshold::{Amounts, Graces, Thresholds};

/// The Berth node daemon: Kubernetes API, controllers and node agent in one process.
#[derive(Debug, Clone, Parser)]
#[command(name = "berthd", version)]
pub struct Config {
    /// Folder for what must survive a reboot: objects, images, keys, volumes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/berth")]
    pub data_dir: PathBuf,

    /// Folder for what must not: sockets, container state
    #[arg(long, value_name = "DIR", default_value = "/run/berth")]
    pub run_dir: PathBuf,

    /// Container runtime: berth, runc, crun or another with their command line
    #[arg(long, value_name = "PROGRAM", default_value = "berth")]
    pub runtime: PathBuf,

    /// Runtime for pods whose RuntimeClass has this handler; may be repeated
    #[arg(long, value_name = "NAME=PROGRAM", value_parser = handler)]
    pub runtime_handler: Vec<(String, PathBuf)>,

    /// The program that holds a pod's containers
    #[arg(long, value_name = "PROGRAM", default_value = "berth-monitor")]
    pub monitor: PathBuf,

    /// Folder of the CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub cni_bin_dir: PathBuf,

    /// Folder of the CNI configuration; the first list in it is used, and one is written if there is none
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub cni_conf_dir: PathBuf,

    /// Seconds between two looks at the pods' network, to repair what is missing; 0 for none
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub network_check: u32,

    /// Cgroup under which the pods' cgroups are made
    #[arg(long, value_name = "NAME", default_value = "berth")]
    pub cgroup_parent: String,

    /// The host's user and group ids for pods with hostUsers: false, 65536 for each: ids that nobody else has
    #[arg(long, value_name = "FIRST:LENGTH", default_value_t)]
    pub pod_ids: crate::node::ids::Range,

    /// Pods that the node takes
    #[arg(long, value_name = "COUNT", default_value_t = 250)]
    pub max_pods: u32,

    /// What pods cannot request, because the host needs it: cpu, memory, ephemeral-storage
    #[arg(long, value_name = "cpu=AMOUNT,…", value_parser = reserve, default_value = "", hide_default_value = true)]
    pub reserve: std::collections::BTreeMap<String, i64>,

    /// Size in bytes from which a container's log is rotated
    #[arg(long, value_name = "BYTES", default_value_t = 10 << 20)]
    pub log_max_bytes: u64,

    /// Files kept of a container's log
    #[arg(long, value_name = "COUNT", default_value_t = 5)]
    pub log_max_files: u32,

    /// How registries are reached: mirrors, insecure registries (containers-registries.conf(5))
    #[arg(long, value_name = "FILE", default_value = "/etc/containers/registries.conf")]
    pub registries_conf: PathBuf,

    /// Folder with HOST/*.crt: authorities of single registries (containers-certs.d(5)); may be repeated
    #[arg(long, value_name = "DIR", default_values = ["/etc/containers/certs.d", "/etc/docker/certs.d"])]
    pub registry_certs: Vec<PathBuf>,

    /// Whose images may be pulled (containers-policy.json(5)); without the file, everybody's
    #[arg(long, value_name = "FILE", default_value = "/etc/containers/policy.json")]
    pub image_policy: PathBuf,

    /// Percent of the disk in use from which unused images are removed; 100 never removes any
    #[arg(long, value_name = "PERCENT", default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_high_threshold: u8,

    /// Percent of the disk in use down to which unused images are removed
    #[arg(long, value_name = "PERCENT", default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub image_gc_low_threshold: u8,

    /// Seconds that an unused image is kept at least
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub image_minimum_gc_age: u64,

    /// What must be left on the node: below it pods are evicted at once; signals are memory.available,
    /// nodefs.available, nodefs.inodesFree, imagefs.available, imagefs.inodesFree and pid.available
    #[arg(
        long,
        value_name = "SIGNAL<AMOUNT,…",
        default_value = "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%"
    )]
    pub eviction_hard: Amounts,

    /// The same for evictions after a time (--eviction-soft-grace-period), politely
    #[arg(
        long,
        value_name = "SIGNAL<AMOUNT,…",
        default_value = "",
        hide_default_value = true
    )]
    pub eviction_soft: Amounts,

    /// How long a soft bound must be crossed
    #[arg(
        long,
        value_name = "SIGNAL=DURATION,…",
        default_value = "",
        hide_default_value = true
    )]
    pub eviction_soft_grace_period: Graces,

    /// How much more than the bound is to be free when evicting ends
    #[arg(
        long,
        value_name = "SIGNAL=AMOUNT,…",
        default_value = "",
        hide_default_value = true
    )]
    pub eviction_minimum_reclaim: Amounts,

    /// Seconds that pods get at most when a soft bound is crossed; 0 for their own
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub eviction_max_pod_grace_period: u32,

    /// Seconds that the node's condition holds on after its reason is gone
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    pub eviction_pressure_transition_period: u32,

    /// Seconds between two looks at what is left on the node
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub eviction_monitoring_period: u32,

    /// Seconds between two heartbeats of the Node; they are not written to disk
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub node_status_report_frequency: u32,

    /// Address of the API; a socket handed over by LISTEN_FDS comes first
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:6443")]
    pub listen: SocketAddr,

    /// Addresses of Services: an IPv4 network that nothing else uses
    #[arg(long, value_name = "NETWORK", default_value = "10.96.0.0/16")]
    pub service_cidr: Ipv4Net,

    /// Name of the node; the host's name if left out
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
}

/// Why the configuration cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The host has no usable name.
    #[error("the host's name {name:?} is no valid node name ({why}): give one with --node-name")]
    NodeName {
        /// The name tried.
        name: String,
        /// The rule it breaks.
        why: String,
    },
    /// The host's name cannot be read.
    #[error("cannot read the host's name: give one with --node-name")]
    HostName(#[source] nix::Error),
    /// The network of Services is too small to have addresses.
    #[error("--service-cidr {network}: must have at least 64 addresses (a /26 or larger)")]
    ServiceNetwork {
        /// The network given.
        network: Ipv4Net,
    },
    /// The thresholds contradict each other.
    #[error("--image-gc-low-threshold {low} must be lower than --image-gc-high-threshold {high}")]
    Thresholds {
        /// Where removing begins.
        high: u8,
        /// Where it ends.
        low: u8,
    },
    /// Two runtimes for one handler.
    #[error("--runtime-handler {name}: is given twice; leave one out")]
    Handler {
        /// The handler's name.
        name: String,
    },
    /// A soft bound that would count at once.
    #[error("--eviction-soft {signal}: needs a time in --eviction-soft-grace-period {signal}=DURATION")]
    Grace {
        /// The signal.
        signal: &'static str,
    },
    /// A folder is not absolute.
    #[error("{flag} {path}: must be an absolute path")]
    Relative {
        /// The flag.
        flag: &'static str,
        /// Its value.
        path: PathBuf,
    },
}

impl Config {
    /// Checks what clap cannot.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (flag, path) in [("--data-dir", &self.data_dir), ("--run-dir", &self.run_dir)] {
            if !path.is_absolute() {
                return Err(ConfigError::Relative {
                    flag,
                    path: path.clone(),
                });
            }
        }
        if self.service_cidr.prefix_len() > 26 {
            return Err(ConfigError::ServiceNetwork {
                network: self.service_cidr,
            });
        }
        for (index, (name, _)) in self.runtime_handler.iter().enumerate() {
            if self.runtime_handler[..index]
                .iter()
                .any(|(other, _)| other == name)
            {
                return Err(ConfigError::Handler { name: name.clone() });
            }
        }
        for signal in self.eviction_soft.0.keys() {
            if !self.eviction_soft_grace_period.0.contains_key(signal) {
                return Err(ConfigError::Grace {
                    signal: signal.name(),
                });
            }
        }
        let (high, low) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        if low >= high {
            return Err(ConfigError::Thresholds { high, low });
        }
        self.node_name().map(|_| ())
    }

    /// When and how the node lets go of pods.
    pub fn eviction(&self) -> EvictionConfig {
        let seconds = |n: u32| std::time::Duration::from_secs(n.into());
        EvictionConfig {
            thresholds: Thresholds {
                hard: self.eviction_hard.clone(),
                soft: self.eviction_soft.clone(),
                grace: self.eviction_soft_grace_period.clone(),
                reclaim: self.eviction_minimum_reclaim.clone(),
                max_grace: self.eviction_max_pod_grace_period.into(),
                transition: seconds(self.eviction_pressure_transition_period),
            },
            interval: seconds(self.eviction_monitoring_period),
        }
    }

    /// Where the node's settings for images are.
    pub fn images(&self) -> ImageConfig {
        ImageConfig {
            registries: self.registries_conf.clone(),
            certificates: self.registry_certs.clone(),
            policy: self.image_policy.clone(),
            credentials: self.data_dir.join("config.json"),
            gc_high: self.image_gc_high_threshold,
            gc_low: self.image_gc_low_threshold,
            gc_minimum_age: self.image_minimum_gc_age,
        }
    }

    /// The node's name: as given, or the host's in lower case.
    pub fn node_name(&self) -> Result<String, ConfigError> {
        let name = match &self.node_name {
            Some(name) => name.clone(),
            None => nix::unistd::gethostname()
                .map_err(ConfigError::HostName)?
                .to_string_lossy()
                .to_lowercase(),
        };
        match berth_api::validate::names::dns_subdomain(&name)
            .into_iter()
            .next()
        {
            None => Ok(name),
            Some(why) => Err(ConfigError::NodeName { name, why }),
        }
    }

    /// Where the administrator's kubeconfig is written.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("admin.kubeconfig")
    }

    /// Where keys and certificates are kept.
    pub fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }

    /// Where the volumes of claims are made.
    pub fn volume_dir(&self) -> PathBuf {
        self.data_dir.join("volumes")
    }

    /// Where images are kept.
    pub fn image_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// The file whose lock says that a berthd uses the data folder.
    pub fn lock_file(&self) -> PathBuf {
        self.data_dir.join("lock")
    }
}

/// Reads `NAME=PROGRAM`.
fn handler(text: &str) -> Result<(String, PathBuf), String> {
    let (name, program) = text
        .split_once('=')
        .filter(|(_, program)| !program.is_empty())
        .ok_or("must be NAME=PROGRAM, such as kata=/usr/bin/kata-runtime")?;
    match berth_api::validate::names::dns_label(name).into_iter().next() {
        None => Ok((name.to_owned(), PathBuf::from(program))),
        Some(why) => Err(format!("{name:?} is no name of a handler: {why}")),
    }
}

/// Reads `cpu=500m,memory=1Gi`: thousandths of a CPU, bytes.
fn reserve(text: &str) -> Result<std::collections::BTreeMap<String, i64>, String> {
    let mut amounts = std::collections::BTreeMap::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (name, amount) = part.split_once('=').unwrap_or((part, ""));
        let amount: berth_api::quantity::Quantity = amount
            .parse()
            .map_err(|_| format!("{part:?}: must be NAME=AMOUNT, such as memory=1Gi"))?;
        let amount = match name {
            "cpu" => amount.milli(),
            "memory" | "ephemeral-storage" => amount.ceil(),
            _ => {
                return Err(format!(
                    "{name:?}: only cpu, memory and ephemeral-storage can be reserved"
                ));
            }
        };
        if amount < 0 {
            return Err(format!("{part:?}: must not be negative"));
        }
        amounts.insert(name.to_owned(), amount);
    }
    Ok(amounts)
}

/// Labels that every node has, and that a nodeSelector may name.
pub fn node_labels(name: &str) -> Vec<(String, String)> {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    [
        ("kubernetes.io/hostname", name),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", arch),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .collect()
}

/// Writes a file so that readers see the old or the new one, never a part: beside it, synced, then
/// renamed. `mode` is its permission bits from the beginning.
pub fn write_atomically(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside = path.with_file_name(name);
    // One left by a crash may have other permissions.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn node_names_are_checked() {
        let config = |name: &str| Config::parse_from(["berthd", "--node-name", name]);
        assert_eq!(config("here").node_name().unwrap(), "here");
        assert!(
            config("No Such")
                .check()
                .unwrap_err()
                .to_string()
                .contains("--node-name")
        );
        let twice = ["berthd", "--runtime-handler", "a=/x", "--runtime-handler", "a=/y"];
        assert!(
            Config::parse_from(twice)
                .check()
                .unwrap_err()
                .to_string()
                .contains("--runtime-handler a")
        );
        for wrong in ["a", "a=", "A=/x", "=/x"] {
            assert!(
                Config::try_parse_from(["berthd", "--runtime-handler", wrong]).is_err(),
                "{wrong}"
            );
        }
        let relative = Config::parse_from(["berthd", "--data-dir", "x"]);
        assert!(relative.check().unwrap_err().to_string().contains("--data-dir x"));
    }

    #[test]
    fn files_are_replaced_whole_and_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(dir.path().join("f.new"), "left by a crash").unwrap();
        for content in ["a", "bb"] {
            write_atomically(&path, content.as_bytes(), 0o600).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
