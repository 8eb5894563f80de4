//! Before the node runs out of memory, disk or processes it lets go of pods; and pods that take more of the disk than
//! they may go at any time.
//!
//! ```text
//! every look: levels ─► threshold.rs (PURE) ─► conditions and taints of the Node
//!                                        └──► reclaim: logs of ended pods, unused images
//!                                                └──► still crossed: rank.rs (PURE) ─► one pod ─► its worker
//! ```
//!
//! A look reads five small files of the kernel; only a crossed bound makes it look at pods.
//!
//! Source: Kubernetes documentation "Node-pressure Eviction", kubelet `pkg/kubelet/eviction`.

mod rank;
mod storage;
pub mod threshold;
mod usage;

use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_api::kinds;
use berth_api::priority;
use berth_api::room;
use serde_json::Value;
use tokio::sync::watch;

use super::worker::Input;
use super::{Node, blocking, sandbox};
use crate::events::ObjectRef;
use crate::store::{Key, Object};
use rank::Consumer;
use threshold::{Crossed, Pressure, Signal, Watch};
pub(super) use usage::container as container_usage;

/// Seconds that a pod gets when a hard bound is crossed, as kubelet gives.
const AT_ONCE: i64 = 1;
/// How long the end of a pod is waited for before the next one is looked for.
const CLEANUP: Duration = Duration::from_secs(30);

/// How the node lets go of pods.
#[derive(Debug, Clone, Default)]
pub struct EvictionConfig {
    /// When.
    pub thresholds: threshold::Thresholds,
    /// Time between two looks.
    pub interval: Duration,
}

/// Looks at the node until shutdown.
pub(super) async fn run(node: Arc<Node>, mut shutdown: watch::Receiver<bool>) {
    let mut watch = Watch::default();
    let mut limits = storage::Limits::default();
    loop {
        let evicted = look(&node, &mut watch).await | limits.enforce(&node).await;
        let pause = if evicted {
            Duration::from_millis(100)
        } else {
            node.config.eviction.interval
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

/// One look; true if a pod had to go.
async fn look(node: &Arc<Node>, watch: &mut Watch) -> bool {
    let wanted = &node.config.eviction.thresholds;
    let Some((crossed, held)) = measure(node, watch).await else {
        return false;
    };
    if node.pressure.set(&held) {
        for pressure in Pressure::ALL {
            tell(node, pressure, held.contains(&pressure));
        }
    }
    let Some(first) = crossed.first() else {
        return false;
    };
    let resource = first.signal.resource();
    about_node(
        node,
        true,
        "EvictionThresholdMet",
        &format!("Attempting to reclaim {resource}"),
    );
    if first.signal.pressure() == Pressure::Disk {
        reclaim(node, first.signal).await;
    }
    let Some((crossed, _)) = measure(node, watch).await else {
        return false;
    };
    let Some(first) = crossed.first() else {
        return false;
    };
    let pods = consumers(node, first.signal).await;
    let Some(victim) = rank::rank(first.signal, pods).into_iter().next() else {
        let message =
            format!("The node is low on resource: {resource}, and there is no pod that could be evicted");
        about_node(node, true, "EvictionBlocked", &message);
        return false;
    };
    let grace = if first.hard {
        Some(AT_ONCE)
    } else {
        Some(wanted.max_grace).filter(|g| *g > 0)
    };
    evict(node, &victim.uid, rank::message(first, &victim), grace, true).await;
    true
}

async fn measure(node: &Arc<Node>, watch: &mut Watch) -> Option<(Vec<Crossed>, Vec<Pressure>)> {
    let (data, images) = (
        node.config.data_dir.clone(),
        node.images.store().folder().to_owned(),
    );
    let levels = blocking(move || usage::levels(&data, &images)).await?;
    Some(watch.look(&node.config.eviction.thresholds, &levels, Instant::now()))
}

/// An event of the Node when a condition begins or ends.
fn tell(node: &Arc<Node>, pressure: Pressure, holds: bool) {
    if node.pressure.was(pressure) == holds {
        return;
    }
    let reason = match (pressure, holds) {
        (Pressure::Memory, true) => "NodeHasInsufficientMemory",
        (Pressure::Memory, false) => "NodeHasSufficientMemory",
        (Pressure::Disk, true) => "NodeHasDiskPressure",
        (Pressure::Disk, false) => "NodeHasNoDiskPressure",
        (Pressure::Pid, true) => "NodeHasInsufficientPID",
        (Pressure::Pid, false) => "NodeHasSufficientPID",
    };
    let message = format!("Node {} status is now: {reason}", node.config.name);
    about_node(node, holds, reason, &message);
}

fn about_node(node: &Arc<Node>, warning: bool, reason: &str, message: &str) {
    let key = Key::new(kinds::NODE, "", node.config.name.as_str());
    if let Ok(Some(object)) = node.store.get(&key) {
        node.event(ObjectRef::to(&object), warning, reason, message);
    }
}

/// Frees what nobody needs: logs of pods that have ended, then images that no pod uses.
async fn reclaim(node: &Arc<Node>, signal: Signal) {
    let node = Arc::clone(node);
    let done = blocking(move || {
        let enough = || {
            let levels = usage::levels(&node.config.data_dir, node.images.store().folder());
            let (crossed, _) =
                Watch::default().look(&node.config.eviction.thresholds, &levels, Instant::now());
            !crossed.iter().any(|c| c.signal == signal)
        };
        for pod in node.store.list(kinds::POD, None).items {
            if !room::is_live(&pod.value()) && !enough() {
                let paths = node.paths(pod.namespace(), pod.name(), pod.uid());
                if let Err(error) = sandbox::remove_logs(&paths) {
                    tracing::warn!(%error, pod = pod.name(), "remove the logs of an ended pod");
                }
            }
        }
        node.images.remove_unused(&enough)
    });
    if let Some(Err(error)) = done.await {
        tracing::warn!(%error, "remove unused images");
    }
}

/// The pods that run and may go, with what they use.
async fn consumers(node: &Arc<Node>, signal: Signal) -> Vec<Consumer> {
    let node = Arc::clone(node);
    let found = blocking(move || {
        let pods = node.store.list(kinds::POD, None).items;
        pods.iter()
            .filter_map(|object| {
                let pod = object.value();
                let runs = room::is_bound(&pod)
                    && room::is_live(&pod)
                    && pod.pointer("/metadata/deletionTimestamp").is_none();
                // Who holds the system up stays.
                (runs && priority::of(&pod) < priority::CRITICAL)
                    .then(|| consumer(&node, object, &pod, signal))
            })
            .collect()
    });
    found.await.unwrap_or_default()
}

fn consumer(node: &Node, object: &Object, pod: &Value, signal: Signal) -> Consumer {
    let list = |name: &str| {
        let list = pod.pointer(&format!("/spec/{name}")).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut all = list("containers");
    all.extend(
        list("initContainers")
            .into_iter()
            .filter(|c| c["restartPolicy"] == "Always"),
    );
    let resource = if signal == Signal::Memory {
        "memory"
    } else {
        "ephemeral-storage"
    };
    let names: Vec<String> = all
        .iter()
        .filter_map(|c| Some(c["name"].as_str()?.to_owned()))
        .collect();
    let disk = (signal.pressure() == Pressure::Disk).then(|| {
        let paths = node.paths(object.namespace(), object.name(), object.uid());
        usage::disk(&paths, &names, &storage::own_volumes(pod))
    });
    let of = |files: usage::Files| match signal {
        Signal::NodeInodes | Signal::ImageInodes => files.inodes,
        _ => files.bytes,
    };
    let parent = super::cgroup_of(&node.config.cgroup_parent, object.uid());
    let mut containers = Vec::new();
    for container in &all {
        let name = container["name"].as_str().unwrap_or_default().to_owned();
        let request = container
            .pointer(&format!("/resources/requests/{resource}"))
            .and_then(Value::as_str)
            .and_then(|text| text.parse::<berth_api::quantity::Quantity>().ok())
            .map_or(0, |quantity| quantity.ceil().max(0).cast_unsigned());
        let used = match (&disk, signal) {
            (Some(disk), _) => disk.containers.get(&name).copied().map_or(0, of),
            (None, Signal::Memory) => usage::container(&node.layout, &format!("{parent}/{name}")).0,
            (None, _) => usage::container(&node.layout, &format!("{parent}/{name}")).1,
        };
        let counts = !matches!(signal, Signal::Pids | Signal::NodeInodes | Signal::ImageInodes);
        containers.push((name, used, if counts { request } else { 0 }));
    }
    Consumer {
        uid: object.uid().to_owned(),
        priority: priority::of(pod),
        request: containers.iter().map(|(_, _, request)| request).sum(),
        usage: disk.map_or_else(
            || containers.iter().map(|(_, used, _)| used).sum(),
            |d| of(d.total()),
        ),
        containers,
    }
}

/// Tells a pod's worker that it has to go, and waits until it is gone. `disruption` says that others are the reason.
async fn evict(node: &Arc<Node>, uid: &str, message: String, grace: Option<i64>, disruption: bool) {
    tracing::warn!(uid, message, "evict a pod");
    let input = Input::Evict {
        message,
        grace,
        disruption,
    };
    if node.evictions.send((uid.to_owned(), input)).is_err() {
        return;
    }
    let state = node.config.run_dir.join("pods").join(uid);
    let end = tokio::time::Instant::now() + CLEANUP;
    while tokio::fs::try_exists(&state).await.unwrap_or(false) && tokio::time::Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The conditions that hold, for all who look.
#[derive(Debug, Default)]
pub(super) struct Pressures {
    now: std::sync::Mutex<(Vec<Pressure>, Vec<Pressure>)>,
    /// Rings when they change.
    pub changed: tokio::sync::Notify,
}

impl Pressures {
    /// Sets them; true if they are others than before.
    fn set(&self, held: &[Pressure]) -> bool {
        let mut now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if now.0 == held {
            return false;
        }
        now.1 = std::mem::replace(&mut now.0, held.to_vec());
        self.changed.notify_one();
        true
    }

    /// Whether one held before the last change.
    fn was(&self, pressure: Pressure) -> bool {
        let now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        now.1.contains(&pressure)
    }

    /// Those that hold.
    pub fn held(&self) -> Vec<Pressure> {
        let now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        now.0.clone()
    }
}
