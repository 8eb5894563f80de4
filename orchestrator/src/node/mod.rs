//! The node: runs the pods that are in the store, and writes their status back.
//!
//! ```text
//! store ──watch──▶ queue ──▶ worker (one a pod) ──▶ plan ──▶ execute ──▶ runtime, network, volumes
//!                              ▲    └──▶ status ──▶ store                     │
//!                              └── exits, probes, hooks ◀── monitor ◀────────┘
//! ```

pub mod backoff;
pub mod claims;
mod death;
mod ending;
pub mod env;
mod etc;
pub mod eviction;
mod execute;
mod grpc;
mod health;
pub mod ids;
mod image;
mod links;
pub mod logs;
mod monitor;
pub mod namespaces;
mod network;
pub mod observed;
pub mod paths;
mod patrol;
pub mod plan;
pub mod pod;
mod prepare;
mod probes;
mod pull;
mod queue;
mod recover;
mod registration;
pub mod resize;
pub mod resources;
mod runtime;
mod sandbox;
pub mod seccomp;
mod sources;
pub mod spec;
pub mod status;
pub mod streams;
mod teardown;
mod tls;
mod volumes;
mod worker;

use std::path::PathBuf;
use std::sync::Arc;

use berth_cgroups::Layout;

use crate::images::Images;
use crate::proxy::{Guests, Routes};
use crate::store::{Object, Store};
use network::PodNetwork;
pub use network::guests;
use paths::PodPaths;
pub(crate) use registration::host_ip;

/// Who says the events of pods; the name that tools look for.
const COMPONENT: &str = "kubelet";

/// How the node is set up.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// Name of the Node object.
    pub name: String,
    /// What outlives a reboot: volumes, root file systems, logs, leases.
    pub data_dir: PathBuf,
    /// What does not: sockets, bundles, held namespaces.
    pub run_dir: PathBuf,
    /// The OCI runtime.
    pub runtime: PathBuf,
    /// More of them, by the handlers that RuntimeClasses name.
    pub handlers: std::collections::BTreeMap<String, PathBuf>,
    /// The `berth-monitor` program.
    pub monitor: PathBuf,
    /// CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// CNI network lists; without one, Berth's own is written there.
    pub cni_conf_dir: PathBuf,
    /// Time between two looks at the pods' network; none for zero.
    pub network_check: std::time::Duration,
    /// Time between two heartbeats of the Node.
    pub heartbeat: std::time::Duration,
    /// The cgroup below which the pods' are.
    pub cgroup_parent: String,
    /// The host's ids for pods with users of their own.
    pub pod_ids: ids::Range,
    /// Size in bytes from which a container's log is rotated.
    pub log_max_bytes: u64,
    /// Files that are kept of a log.
    pub log_max_files: u32,
    /// Pods that the node takes.
    pub max_pods: u32,
    /// What pods cannot request: thousandths of a CPU, bytes of memory and disk.
    pub reserved: std::collections::BTreeMap<String, i64>,
    /// When and how the node lets go of pods.
    pub eviction: eviction::EvictionConfig,
}

/// What the node needs.
pub struct NodeContext {
    /// The store.
    pub store: Store,
    /// The images.
    pub images: Images,
    /// Makes the tokens of pods.
    pub tokens: Arc<crate::pki::Tokens>,
    /// The settings.
    pub config: NodeConfig,
    /// Where connections of Services are led to.
    pub routes: Routes,
    /// Addresses of pods, which may use the DNS server and the API.
    pub guests: Guests,
    /// Address of the DNS server for pods; none where it could not be started.
    pub dns: Option<std::net::Ipv4Addr>,
    /// True when `berthd` ends; pods go on.
    pub shutdown: tokio::sync::watch::Receiver<bool>,
}

/// Why the node cannot work at all.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The host's cgroups.
    #[error("find the host's cgroups")]
    Cgroups(#[from] berth_cgroups::LayoutError),
    /// A directory of the node.
    #[error("prepare {}", path.display())]
    Directory {
        /// The directory or file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// Blocking work was cut off.
    #[error("the node's blocking work was cut off")]
    Join(#[from] tokio::task::JoinError),
}

/// What all workers share.
pub(crate) struct Node {
    store: Store,
    images: Images,
    tokens: Arc<crate::pki::Tokens>,
    config: NodeConfig,
    routes: Routes,
    network: PodNetwork,
    ids: ids::Ids,
    /// Address of the DNS server for pods.
    dns: Option<std::net::Ipv4Addr>,
    layout: Layout,
    /// Id of this boot of the kernel.
    boot: String,
    /// CPUs in thousandths.
    cpu: i64,
    /// Memory in bytes.
    memory: i64,
    /// Number of the kernel's last capability.
    last_capability: usize,
    /// Lowest `oom_score_adj` that we may give.
    oom_floor: i64,
    /// What the node is short of.
    pressure: eviction::Pressures,
    /// Tells workers that their pods have to go.
    evictions: tokio::sync::mpsc::UnboundedSender<(String, worker::Input)>,
}

impl Node {
    fn paths(&self, namespace: &str, name: &str, uid: &str) -> PodPaths {
        PodPaths::new(&self.config.run_dir, &self.config.data_dir, namespace, name, uid)
    }

    /// Address of the node in its own network namespace.
    fn host_ip() -> String {
        registration::host_ip()
    }

    /// Records an event without waiting for it.
    fn event(&self, about: crate::events::ObjectRef, warning: bool, reason: &str, message: &str) {
        self.event_by(COMPONENT, about, warning, reason, message);
    }

    /// The same, said by another component.
    fn event_by(
        &self,
        component: &'static str,
        about: crate::events::ObjectRef,
        warning: bool,
        reason: &str,
        message: &str,
    ) {
        let store = self.store.clone();
        let (reason, message) = (reason.to_owned(), message.to_owned());
        tokio::spawn(async move {
            let severity = if warning {
                crate::events::Severity::Warning
            } else {
                crate::events::Severity::Normal
            };
            let done = crate::events::record(&store, &about, severity, &reason, &message, component).await;
            if let Err(error) = done {
                tracing::debug!(%error, reason, "an event was not recorded");
            }
        });
    }
}

/// Runs the node until shutdown. Pods and their monitors stay.
///
/// # Errors
/// [`NodeError`] when the node cannot work at all; failures of single pods are in their status.
pub async fn run(context: NodeContext) -> Result<(), NodeError> {
    let shutdown = context.shutdown.clone();
    let (evictions, evicted) = tokio::sync::mpsc::unbounded_channel();
    let node = tokio::task::spawn_blocking(move || prepare(context, evictions)).await??;
    let node = Arc::new(node);
    let evicting = tokio::spawn(eviction::run(Arc::clone(&node), shutdown.clone()));
    let registration = tokio::spawn(registration::run(Arc::clone(&node), shutdown.clone()));
    let every = node.config.network_check;
    let patrol =
        (!every.is_zero()).then(|| tokio::spawn(patrol::run(Arc::clone(&node), every, shutdown.clone())));
    let room = tokio::spawn(watch_room(Arc::clone(&node)));
    queue::run(Arc::clone(&node), evicted, shutdown).await?;
    registration.abort();
    evicting.abort();
    room.abort();
    if let Some(patrol) = patrol {
        // It may be in the middle of a repair.
        patrol.await?;
    }
    tokio::task::spawn_blocking(move || leave(&node)).await?;
    Ok(())
}

/// Keeps room for images on the disk; what goes wrong is an event of the Node.
async fn watch_room(node: Arc<Node>) {
    let images = node.images.clone();
    crate::images::watch(images, move |message| {
        let key = crate::store::Key::new(berth_api::kinds::NODE, "", &node.config.name);
        if let Ok(Some(object)) = node.store.get(&key) {
            let about = crate::events::ObjectRef::to(&object);
            node.event(about, true, "ImageGCFailed", &message);
        }
    })
    .await;
}

/// Makes the directories and looks at the host. Blocks.
fn prepare(
    context: NodeContext,
    evictions: tokio::sync::mpsc::UnboundedSender<(String, worker::Input)>,
) -> Result<Node, NodeError> {
    let config = context.config;
    for dir in [
        config.run_dir.join("pods"),
        config.run_dir.join("netns"),
        config.run_dir.join("runtime"),
        config.data_dir.join("pods"),
        config.data_dir.join("logs"),
    ] {
        std::fs::create_dir_all(&dir).map_err(|source| NodeError::Directory { path: dir, source })?;
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo")
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemTotal:")?
                .trim()
                .strip_suffix("kB")?
                .trim()
                .parse::<i64>()
                .ok()
        })
        .map_or(0, |kib| kib * 1024);
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let network = PodNetwork::new(
        &config.cni_bin_dir,
        &config.cni_conf_dir,
        &config.data_dir,
        context.guests,
    );
    if let Err(error) = network.write_default() {
        let dir = config.cni_conf_dir.display();
        tracing::warn!(%dir, %error, "write the default network: it is used all the same");
    }
    let dir = config.run_dir.join("ids");
    let ids =
        ids::Ids::open(&dir, config.pod_ids).map_err(|source| NodeError::Directory { path: dir, source })?;
    Ok(Node {
        network,
        ids,
        layout: Layout::detect(std::path::Path::new("/"))?,
        boot: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        cpu: cpus as i64 * 1000,
        memory,
        last_capability: read("/proc/sys/kernel/cap_last_cap").trim().parse().unwrap_or(40),
        oom_floor: oom_floor(&read("/proc/self/status"), &read("/proc/self/oom_score_adj")),
        pressure: eviction::Pressures::default(),
        evictions,
        dns: context.dns,
        store: context.store,
        images: context.images,
        tokens: context.tokens,
        config,
        routes: context.routes,
    })
}

/// The lowest `oom_score_adj` that this process may set: without CAP_SYS_RESOURCE (a node in a container)
/// its own (proc(5)).
fn oom_floor(status: &str, own: &str) -> i64 {
    const SYS_RESOURCE: u64 = 1 << 24;
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    if effective.is_some_and(|set| set & SYS_RESOURCE != 0) {
        -1000
    } else {
        own.trim().parse().unwrap_or(0)
    }
}

/// Removes the parent cgroup if nobody's pod is in it: another node on this host may have the same one.
fn leave(node: &Node) {
    sandbox::remove_empty_cgroup(
        &node.layout,
        &format!("/{}", node.config.cgroup_parent.trim_matches('/')),
    );
}

/// Runs blocking work of one pod; a panic in it is that pod's failure.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// Path of a pod's cgroup below the roots of the hierarchies.
pub(crate) fn cgroup_of(parent: &str, uid: &str) -> String {
    sandbox::cgroup_path(parent, uid)
}

/// Whether a stored pod is for this node.
fn is_ours(node: &Node, object: &Object) -> bool {
    object
        .value()
        .pointer("/spec/nodeName")
        .and_then(serde_json::Value::as_str)
        == Some(&node.config.name)
}
