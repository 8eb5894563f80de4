//! A pod's network: CNI lists, run in `berthd`'s own network namespace. Everything here blocks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cni_plugins::exec::{Attachment, Cached, ExecError, Network, Repair, Runtime};
use serde_json::{Value, json};

use super::pod::HostPort;
use crate::config::write_atomically;
use crate::proxy::Guests;

/// Name of the pod's interface.
const INTERFACE: &str = "eth0";
/// Name of the interface that each namespace has.
const LOOPBACK: &str = "lo";
/// The list that is written when there is none; leases are put below the data directory.
const DEFAULT: &str = include_str!("../../../examples/cni/10-berth.conflist");
/// Its name in the configuration directory.
const DEFAULT_FILE: &str = "10-berth.conflist";
/// Where other runtimes on libcni (containerd, Podman, CRI-O) record their attachments.
const NEIGHBOURS: &str = "/var/lib/cni";

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configuration or a plugin.
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// Nobody publishes ports.
    #[error(
        "ports[].hostPort: no plugin of network {network} has the capability portMappings: add {{\"type\": \"portmap\", \"capabilities\": {{\"portMappings\": true}}}} to its list"
    )]
    NoPorts {
        /// The network's name.
        network: String,
    },
    /// Another pod has the port.
    #[error("ports[].hostPort: {port}/{protocol} is taken by pod {namespace}/{name}")]
    PortTaken {
        /// `hostPort`.
        port: u16,
        /// `protocol`.
        protocol: String,
        /// Namespace of the pod that has it.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// The network of the node.
#[derive(Debug)]
pub struct PodNetwork {
    runtime: Runtime,
    /// Only its records are read.
    neighbours: Runtime,
    conf_dir: PathBuf,
    data_dir: PathBuf,
    /// Every pod that is attached or about to be: noted before its ADD, forgotten after its DEL. So the list
    /// that garbage collection takes is complete at every moment.
    live: Mutex<BTreeSet<String>>,
    /// Addresses of the pods that are attached.
    guests: Guests,
    /// The pod that was verified last.
    verified: Mutex<String>,
    /// Pods that were found sound once. Plugins whose CHECK fails from the start (there are such: the
    /// reference's portmap 1.1.1 misses IPv6 rules that nobody needs) tell nothing by it later.
    sound: Mutex<BTreeSet<String>>,
    /// Lists that were passed over at the last look, with what they lack: said once.
    passed: Mutex<Vec<String>>,
}

/// Which pod is attached.
#[derive(Debug, Clone)]
pub struct Member {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`: the container ID towards CNI.
    pub uid: String,
    /// Its network namespace; may be gone for a detachment.
    pub netns: PathBuf,
    /// Ports of the host that lead to it.
    pub ports: Vec<HostPort>,
}

/// What a look at a pod's attachment found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Something was missing and is there again, or why not.
    pub repaired: Result<(), String>,
}

impl PodNetwork {
    /// A network with plugins of `bin_dir`, configured in `conf_dir`, with its records below `data_dir`.
    /// It keeps the addresses of its pods in `guests`.
    pub fn new(bin_dir: &Path, conf_dir: &Path, data_dir: &Path, guests: Guests) -> PodNetwork {
        let data_dir = data_dir.join("cni");
        PodNetwork {
            guests,
            runtime: Runtime::new([bin_dir.to_owned()], &data_dir),
            neighbours: Runtime::new([], NEIGHBOURS),
            conf_dir: conf_dir.to_owned(),
            data_dir,
            live: Mutex::default(),
            verified: Mutex::default(),
            sound: Mutex::default(),
            passed: Mutex::default(),
        }
    }

    fn live(&self) -> MutexGuard<'_, BTreeSet<String>> {
        held(&self.live)
    }

    /// Notes the pods that an earlier `berthd` has left.
    pub fn know(&self, uids: impl IntoIterator<Item = String>) {
        self.live().extend(uids);
    }

    fn is_configured(&self) -> bool {
        std::fs::read_dir(&self.conf_dir).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let path = entry.path();
                path.extension()
                    .is_some_and(|e| e == "conflist" || e == "conf" || e == "json")
            })
        })
    }

    /// Berth's own list: a bridge with addresses from host-local, masqueraded on their way out, ports of the
    /// host, and a way through the host's firewall.
    fn default_list(&self) -> Vec<u8> {
        let mut list: Value = serde_json::from_str(DEFAULT).unwrap_or_default();
        if let Some(ipam) = list.pointer_mut("/plugins/0/ipam") {
            ipam["dataDir"] = json!(self.data_dir.join("networks"));
        }
        let mut text = serde_json::to_vec_pretty(&list).unwrap_or_default();
        text.push(b'\n');
        text
    }

    /// Writes Berth's own list if the configuration directory has none.
    ///
    /// # Errors
    /// The system's answer; the list is used all the same.
    pub fn write_default(&self) -> std::io::Result<()> {
        if self.is_configured() {
            return Ok(());
        }
        std::fs::create_dir_all(&self.conf_dir)?;
        write_atomically(&self.conf_dir.join(DEFAULT_FILE), &self.default_list(), 0o644)
    }

    /// The first list of the configuration directory whose plugins are all there, else Berth's own. Other
    /// programs put their lists into the same directory (Podman its 87-podman) and their plugins elsewhere.
    fn network(&self) -> Result<Network, ExecError> {
        let mut passed = Vec::new();
        let found = Network::load_usable(&self.conf_dir, |file, network| {
            let missing = self.runtime.missing(network);
            if !missing.is_empty() {
                passed.push(format!("{}: {}", file.display(), missing.join(", ")));
            }
            missing.is_empty()
        })?;
        self.say_passed(passed, found.as_ref());
        found.map_or_else(|| Network::from_bytes(&self.default_list()), Ok)
    }

    /// Warns of lists that cannot be used, when they are others than at the last look.
    fn say_passed(&self, passed: Vec<String>, found: Option<&Network>) {
        let mut known = held(&self.passed);
        if *known == passed {
            return;
        }
        let instead = found.map_or("Berth's own list", |network| network.name.as_str());
        for list in &passed {
            tracing::warn!(
                instead,
                "CNI list {list} not in the plugin directory: passed over; install the plugins or remove the list"
            );
        }
        *known = passed;
    }

    /// The list that brings a namespace's loopback interface up.
    fn loopback() -> Result<Network, ExecError> {
        let list =
            json!({"cniVersion": "1.0.0", "name": "berth-loopback", "plugins": [{"type": "loopback"}]});
        Network::from_bytes(list.to_string().as_bytes())
    }

    fn attachment(member: &Member, interface: &str) -> Attachment {
        let mut attachment = Attachment::new(&member.uid, &member.netns, interface);
        attachment.args = vec![
            ("IgnoreUnknown".to_owned(), "1".to_owned()),
            ("K8S_POD_NAMESPACE".to_owned(), member.namespace.clone()),
            ("K8S_POD_NAME".to_owned(), member.name.clone()),
            ("K8S_POD_INFRA_CONTAINER_ID".to_owned(), member.uid.clone()),
            ("K8S_POD_UID".to_owned(), member.uid.clone()),
        ];
        attachment
    }

    /// Attaches a pod and returns its addresses. An earlier attachment, or the rest of one that failed, is
    /// detached first, so that the call can be repeated.
    ///
    /// # Errors
    /// [`NetworkError`]; nothing is attached then.
    pub fn attach(&self, member: &Member, again: bool) -> Result<Vec<IpAddr>, NetworkError> {
        if again {
            self.detach(member)?;
        }
        let network = self.network()?;
        let mut attachment = Self::attachment(member, INTERFACE);
        if !member.ports.is_empty() {
            if !network.declares("portMappings") {
                return Err(NetworkError::NoPorts {
                    network: network.name,
                });
            }
            self.refuse_taken(member)?;
            attachment
                .capabilities
                .insert("portMappings".to_owned(), json!(member.ports));
        }
        self.live().insert(member.uid.clone());
        self.runtime
            .add(&Self::loopback()?, &Self::attachment(member, LOOPBACK))?;
        let outcome = match self.runtime.add(&network, &attachment) {
            Ok(outcome) => outcome,
            Err(error) => {
                // CNI: a failed ADD is followed by a DEL; the first error is the one that matters.
                if let Err(second) = self.detach(member) {
                    tracing::warn!(uid = member.uid, error = %second, "undo a failed network attachment");
                }
                return Err(error.into());
            }
        };
        let addresses: Vec<IpAddr> = outcome.decode()?.ips.iter().map(|ip| ip.address.addr()).collect();
        self.guests.enter(&member.uid, addresses.clone());
        Ok(addresses)
    }

    /// The records tell who has a port, also when somebody has flushed the rules that say so.
    fn refuse_taken(&self, member: &Member) -> Result<(), NetworkError> {
        let others = self.runtime.attachments().into_iter();
        for other in others.filter(|c| c.container_id != member.uid) {
            let published = other.capability_args.get("portMappings");
            let published: Vec<HostPort> = published
                .and_then(|raw| serde_json::from_str(raw.get()).ok())
                .unwrap_or_default();
            let mut pairs = member
                .ports
                .iter()
                .flat_map(|port| published.iter().map(move |taken| (port, taken)));
            if let Some((port, _)) = pairs.find(|(port, taken)| port.collides(taken)) {
                return Err(NetworkError::PortTaken {
                    port: port.host,
                    protocol: port.protocol.clone(),
                    namespace: argument(&other, "K8S_POD_NAMESPACE"),
                    name: argument(&other, "K8S_POD_NAME"),
                });
            }
        }
        Ok(())
    }

    /// Detaches a pod; its namespace may be gone. What was attached is taken from the records, so a changed
    /// configuration does no harm.
    ///
    /// # Errors
    /// [`ExecError`]; the call can be repeated.
    pub fn detach(&self, member: &Member) -> Result<(), ExecError> {
        let mut known = false;
        for cached in self
            .runtime
            .attachments()
            .into_iter()
            .filter(|c| c.container_id == member.uid)
        {
            let Some(network) = made_with(&cached) else {
                continue;
            };
            known |= cached.if_name == INTERFACE;
            self.runtime
                .del(&network, &Self::departing(member, &cached.if_name))?;
        }
        if !known {
            self.detach_unrecorded(member)?;
        }
        self.live().remove(&member.uid);
        self.guests.leave(&member.uid);
        held(&self.sound).remove(&member.uid);
        Ok(())
    }

    /// An ADD that failed is not in the records. No ADD begins while a plugin of its list is missing, so that
    /// there is nothing to undo then.
    fn detach_unrecorded(&self, member: &Member) -> Result<(), ExecError> {
        let network = match self.network() {
            Ok(network) => network,
            Err(error @ ExecError::Config { .. }) => {
                tracing::warn!(uid = member.uid, %error, "nothing tells what a pod was attached to: taken as nothing");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        match self.runtime.del(&network, &Self::departing(member, INTERFACE)) {
            Err(ExecError::NotFound { .. }) => Ok(()),
            outcome => outcome,
        }
    }

    fn departing(member: &Member, interface: &str) -> Attachment {
        let mut attachment = Self::attachment(member, interface);
        if !member.netns.exists() {
            attachment.netns = None;
        }
        attachment
    }

    /// Releases what belongs to no live pod, in the configured network and in all that pods were attached to.
    /// What other runtimes on this machine have recorded in the same network is theirs and stays.
    ///
    /// Gives the failures; all that can be released is.
    pub fn collect(&self) -> Vec<ExecError> {
        let mut failures = Vec::new();
        let mut networks: Vec<Network> = Vec::new();
        match self.network() {
            Ok(network) => networks.push(network),
            Err(error) => failures.push(error),
        }
        for cached in self.runtime.attachments() {
            if !networks.iter().any(|n| n.name == cached.network_name) {
                networks.extend(made_with(&cached));
            }
        }
        for network in &networks {
            let collected = self.runtime.gc_with(network, || self.valid(&network.name));
            failures.extend(collected.err());
        }
        failures
    }

    /// The attachments of a network that must stay.
    fn valid(&self, network: &str) -> Vec<(String, String)> {
        let own = self.live().clone().into_iter();
        let mut valid: Vec<(String, String)> = own
            .flat_map(|uid| [INTERFACE, LOOPBACK].map(|name| (uid.clone(), name.to_owned())))
            .collect();
        let others = self.neighbours.attachments().into_iter();
        valid.extend(
            others
                .filter(|c| c.network_name == network)
                .map(|c| (c.container_id, c.if_name)),
        );
        valid
    }

    /// Verifies the attachment of one pod, of the next one at each call. If something is missing there, all
    /// are verified; what is missing is put back.
    ///
    /// A flush of the firewall hits all pods, so a look at any of them notices it, and the cost does not grow
    /// with their number.
    pub fn patrol(&self) -> Vec<Finding> {
        let mut attached = self.runtime.attachments();
        attached.retain(|c| c.if_name == INTERFACE && self.live().contains(&c.container_id));
        attached.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        let last = held(&self.verified).clone();
        let after = attached.iter().position(|c| c.container_id > last);
        let Some(next) = after.or((!attached.is_empty()).then_some(0)) else {
            return Vec::new();
        };
        let next = attached.remove(next);
        held(&self.verified).clone_from(&next.container_id);
        let Some(first) = self.verify(&next) else {
            return Vec::new();
        };
        let mut findings = vec![first];
        findings.extend(attached.iter().filter_map(|cached| self.verify(cached)));
        findings
    }

    /// Verifies and repairs one attachment; nothing if it is sound or cannot be verified.
    fn verify(&self, cached: &Cached) -> Option<Finding> {
        let network = made_with(cached)?;
        let uid = &cached.container_id;
        let repaired = match self.runtime.repair(&network, &Attachment::remembered(cached)) {
            Ok(Repair::Sound) => {
                held(&self.sound).insert(uid.clone());
                return None;
            }
            Ok(Repair::Done) => Ok(()),
            Err(error @ ExecError::Plugin { .. }) if !held(&self.sound).contains(uid) => {
                tracing::debug!(uid, %error, "the network was never found sound: that it is not means nothing");
                return None;
            }
            // Before 0.4.0 there is no CHECK; and a pod that has just been detached has no network.
            Err(ExecError::Version { .. } | ExecError::NotAttached { .. }) => return None,
            Err(error) => Err(super::execute::chain(&error)),
        };
        Some(Finding {
            namespace: argument(cached, "K8S_POD_NAMESPACE"),
            name: argument(cached, "K8S_POD_NAME"),
            uid: uid.clone(),
            repaired,
        })
    }
}

/// A panic between two calls of a set or a text leaves one.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an attachment's plugins were told in CNI_ARGS.
fn argument(cached: &Cached, name: &str) -> String {
    let found = cached.cni_args.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

/// The addresses of the pods that an earlier `berthd` has attached.
pub fn guests(data_dir: &Path) -> Guests {
    let guests = Guests::default();
    let attached = Runtime::new([], data_dir.join("cni")).attachments();
    for cached in attached.iter().filter(|c| c.if_name == INTERFACE) {
        guests.enter(&cached.container_id, recorded(cached));
    }
    guests
}

/// The addresses that an attachment was given.
fn recorded(cached: &Cached) -> Vec<IpAddr> {
    let result: Value = cached
        .result
        .as_ref()
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default();
    let addresses = result["ips"].as_array().into_iter().flatten();
    addresses
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect()
}

/// The list that an attachment was made with.
fn made_with(cached: &Cached) -> Option<Network> {
    let bytes = cached.config_bytes()?;
    Network::from_bytes(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plugin(dir: &Path, kind: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = dir.join(kind);
        std::fs::write(&file, "#!/bin/sh\necho '{}'\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_list_without_its_plugins_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("net.d");
        std::fs::create_dir(&conf).unwrap();
        let foreign = json!({"cniVersion": "0.4.0", "name": "podman", "plugins": [
            {"type": "bridge", "ipam": {"type": "absent-ipam"}}, {"type": "tuning"}]});
        std::fs::write(conf.join("87-podman.conflist"), foreign.to_string()).unwrap();
        plugin(dir.path(), "bridge");
        plugin(dir.path(), "ptp");
        let network = PodNetwork::new(dir.path(), &conf, &dir.path().join("data"), Guests::default());
        assert_eq!(network.network().unwrap().name, "berth");
        let passed = held(&network.passed).join(";");
        assert!(
            passed.ends_with("87-podman.conflist: absent-ipam, tuning"),
            "{passed}"
        );
        let usable = json!({"cniVersion": "1.0.0", "name": "mine", "plugins": [{"type": "ptp"}]});
        std::fs::write(conf.join("99-mine.conflist"), usable.to_string()).unwrap();
        assert_eq!(network.network().unwrap().name, "mine");
        plugin(dir.path(), "absent-ipam");
        plugin(dir.path(), "tuning");
        assert_eq!(network.network().unwrap().name, "podman");
        assert!(held(&network.passed).is_empty());
    }

    #[test]
    fn a_pod_that_no_plugin_could_attach_can_be_detached() {
        let dir = tempfile::tempdir().unwrap();
        let network = PodNetwork::new(dir.path(), dir.path(), dir.path(), Guests::default());
        let member = Member {
            namespace: "default".into(),
            name: "p".into(),
            uid: "u".into(),
            netns: dir.path().join("none"),
            ports: Vec::new(),
        };
        network.attach(&member, false).unwrap_err();
        network.detach(&member).unwrap();
        assert!(network.live().is_empty());
    }

    #[test]
    fn the_default_list_is_written_once_and_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let conf = dir.path().join("net.d");
        let network = PodNetwork::new(dir.path(), &conf, &dir.path().join("data"), Guests::default());
        let unwritten = network.network().unwrap();
        network.write_default().unwrap();
        let file = conf.join(DEFAULT_FILE);
        let written = std::fs::read(&file).unwrap();
        let read = network.network().unwrap();
        assert_eq!(unwritten.name, read.name);
        let kinds: Vec<&str> = read.plugins.iter().map(|p| p.kind.as_str()).collect();
        assert_eq!(kinds, ["bridge", "portmap", "firewall"]);
        assert!(read.declares("portMappings"));
        assert!(String::from_utf8_lossy(&written).contains("data/cni/networks"));
        // Somebody's own list is left alone.
        std::fs::write(&file, "{}").unwrap();
        network.write_default().unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"{}");
    }

    #[test]
    fn garbage_collection_keeps_pods_from_before_their_attachment_on() {
        let dir = tempfile::tempdir().unwrap();
        let network = PodNetwork::new(dir.path(), dir.path(), dir.path(), Guests::default());
        network.know(["old".to_owned()]);
        let member = Member {
            namespace: "default".into(),
            name: "p".into(),
            uid: "new".into(),
            netns: dir.path().join("none"),
            ports: Vec::new(),
        };
        // There are no plugins: the attachment fails, but its pod was noted before.
        network.attach(&member, false).unwrap_err();
        let valid = network.valid("berth");
        for uid in ["old", "new"] {
            assert!(
                valid.contains(&(uid.to_owned(), INTERFACE.to_owned())),
                "{valid:?}"
            );
        }
    }

    #[test]
    fn ports_need_a_plugin_that_publishes_them() {
        let dir = tempfile::tempdir().unwrap();
        let list = json!({"cniVersion": "1.0.0", "name": "plain", "plugins": [{"type": "bridge"}]});
        std::fs::write(dir.path().join("1.conflist"), list.to_string()).unwrap();
        plugin(dir.path(), "bridge");
        let network = PodNetwork::new(dir.path(), dir.path(), dir.path(), Guests::default());
        let port = HostPort {
            host: 8080,
            address: None,
            container: 80,
            protocol: "tcp".into(),
        };
        let member = Member {
            namespace: "default".into(),
            name: "p".into(),
            uid: "u".into(),
            netns: dir.path().join("none"),
            ports: vec![port],
        };
        let error = network.attach(&member, false).unwrap_err().to_string();
        assert!(error.contains("hostPort") && error.contains("portmap"), "{error}");
    }
}
