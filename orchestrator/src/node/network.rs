//! A pod's network: CNI lists, run in `berthd`'s own network namespace. Everything here blocks.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use cni_plugins::exec::{Attachment, ExecError, Network, Runtime};
use serde_json::json;

/// Name of the pod's interface.
const INTERFACE: &str = "eth0";
/// Addresses of pods when no network is configured.
const DEFAULT_SUBNET: &str = "10.90.0.0/16";

/// The network of the node.
#[derive(Debug)]
pub struct PodNetwork {
    runtime: Runtime,
    conf_dir: PathBuf,
    data_dir: PathBuf,
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
}

impl PodNetwork {
    /// A network with plugins of `bin_dir`, configured in `conf_dir`, with its records below `data_dir`.
    pub fn new(bin_dir: &Path, conf_dir: &Path, data_dir: &Path) -> PodNetwork {
        let data_dir = data_dir.join("cni");
        PodNetwork {
            runtime: Runtime::new([bin_dir.to_owned()], &data_dir),
            conf_dir: conf_dir.to_owned(),
            data_dir,
        }
    }

    /// The first list of the configuration directory, else Berth's own: a bridge with addresses from
    /// host-local, masqueraded on their way out.
    fn network(&self) -> Result<Network, ExecError> {
        let configured = std::fs::read_dir(&self.conf_dir).is_ok_and(|entries| {
            entries.flatten().any(|entry| {
                let path = entry.path();
                path.extension()
                    .is_some_and(|e| e == "conflist" || e == "conf" || e == "json")
            })
        });
        if configured {
            return Network::load_first(&self.conf_dir);
        }
        let list = json!({
            "cniVersion": "1.1.0",
            "name": "berth",
            "plugins": [{
                "type": "bridge",
                "bridge": "berth0",
                "isDefaultGateway": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": self.data_dir.join("networks"),
                    "ranges": [[{"subnet": DEFAULT_SUBNET}]],
                },
            }],
        });
        Network::from_bytes(list.to_string().as_bytes())
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
    /// [`ExecError`] of the plugin that failed; nothing is attached then.
    pub fn attach(&self, member: &Member, again: bool) -> Result<Vec<IpAddr>, ExecError> {
        if again {
            self.detach(member)?;
        }
        let network = self.network()?;
        self.runtime
            .add(&Self::loopback()?, &Self::attachment(member, "lo"))?;
        let outcome = match self.runtime.add(&network, &Self::attachment(member, INTERFACE)) {
            Ok(outcome) => outcome,
            Err(error) => {
                // CNI: a failed ADD is followed by a DEL; the first error is the one that matters.
                if let Err(second) = self.detach(member) {
                    tracing::warn!(uid = member.uid, error = %second, "undo a failed network attachment");
                }
                return Err(error);
            }
        };
        Ok(outcome.decode()?.ips.iter().map(|ip| ip.address.addr()).collect())
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
            let Some(network) = cached
                .config_bytes()
                .and_then(|bytes| Network::from_bytes(&bytes).ok())
            else {
                continue;
            };
            known |= cached.if_name == INTERFACE;
            self.runtime
                .del(&network, &Self::departing(member, &cached.if_name))?;
        }
        if !known {
            // An ADD that failed is not in the records.
            self.runtime
                .del(&self.network()?, &Self::departing(member, INTERFACE))?;
        }
        Ok(())
    }

    fn departing(member: &Member, interface: &str) -> Attachment {
        let mut attachment = Self::attachment(member, interface);
        if !member.netns.exists() {
            attachment.netns = None;
        }
        attachment
    }

    /// Releases what belongs to pods that are not in `uids`.
    ///
    /// # Errors
    /// [`ExecError`].
    pub fn collect(&self, uids: &[String]) -> Result<(), ExecError> {
        let valid: Vec<(String, String)> = uids
            .iter()
            .map(|uid| (uid.clone(), INTERFACE.to_owned()))
            .collect();
        self.runtime.gc(&self.network()?, &valid)
    }
}
