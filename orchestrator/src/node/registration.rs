//! The Node object: capacity, addresses, and a heartbeat that is rarely written.

use std::net::{IpAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use berth_api::kinds;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Node;
use crate::store::prepare::rfc3339;
use crate::store::{Key, StoreError};

/// Pods that the node takes.
const MAX_PODS: u32 = 250;
/// Time between heartbeats: each is a write, and on one node nobody waits for them.
const HEARTBEAT: Duration = Duration::from_mins(5);
/// Pause before a failed registration is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Registers the node and keeps its condition fresh, until shutdown.
pub(super) async fn run(node: Arc<Node>, mut shutdown: watch::Receiver<bool>) {
    loop {
        let pause = match register(&node).await {
            Ok(()) => HEARTBEAT,
            Err(error) => {
                tracing::warn!(%error, "register the node");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = shutdown.wait_for(|stop| *stop) => return,
        }
    }
}

async fn register(node: &Node) -> Result<(), StoreError> {
    let name = &node.config.name;
    let key = Key::new(kinds::NODE, "", name);
    let architecture = if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        "amd64"
    };
    if node.store.get(&key)?.is_none() {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {
                "name": name,
                "labels": {
                    "kubernetes.io/hostname": name,
                    "kubernetes.io/os": "linux",
                    "kubernetes.io/arch": architecture,
                    "node-role.kubernetes.io/control-plane": "",
                },
            },
            "spec": {},
        });
        match node.store.create(object).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let stored = node.store.require(&key)?;
    let status = status(node, &stored.value(), Timestamp::now());
    node.store.update_status(&key, "", status).await.map(drop)
}

fn status(node: &Node, stored: &Value, now: Timestamp) -> Value {
    let old: Vec<&Value> = stored
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .collect();
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let since = old
            .iter()
            .find(|c| c["type"] == kind && c["status"] == status)
            .and_then(|c| c.get("lastTransitionTime"))
            .cloned()
            .unwrap_or_else(|| json!(rfc3339(now)));
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": rfc3339(now), "lastTransitionTime": since,
        })
    };
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let os_image = read("/etc/os-release")
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned());
    let disk = nix::sys::statvfs::statvfs(&node.config.data_dir).map_or(0, |s| {
        u64::from(s.blocks() as u32).max(s.blocks()) * s.fragment_size()
    });
    let resources = json!({
        "cpu": (node.cpu / 1000).to_string(),
        "memory": format!("{}Ki", node.memory / 1024),
        "ephemeral-storage": format!("{}Ki", disk / 1024),
        "pods": MAX_PODS.to_string(),
    });
    json!({
        "capacity": resources,
        "allocatable": resources,
        "addresses": [
            {"type": "InternalIP", "address": host_ip()},
            {"type": "Hostname", "address": node.config.name},
        ],
        "conditions": [
            condition("MemoryPressure", false, "KubeletHasSufficientMemory", "the node has sufficient memory available"),
            condition("DiskPressure", false, "KubeletHasNoDiskPressure", "the node has no disk pressure"),
            condition("PIDPressure", false, "KubeletHasSufficientPID", "the node has sufficient PID available"),
            condition("Ready", true, "KubeletReady", "the node runs pods"),
        ],
        "runtimeHandlers": std::iter::once("")
            .chain(node.config.handlers.keys().map(String::as_str))
            .map(|name| json!({"name": name}))
            .collect::<Vec<Value>>(),
        "nodeInfo": {
            "machineID": read("/etc/machine-id"),
            "systemUUID": read("/sys/class/dmi/id/product_uuid"),
            "bootID": node.boot,
            "kernelVersion": read("/proc/sys/kernel/osrelease"),
            "osImage": os_image,
            "containerRuntimeVersion": concat!("berth://", env!("CARGO_PKG_VERSION")),
            "kubeletVersion": concat!("v1.37.0+berth.", env!("CARGO_PKG_VERSION")),
            "kubeProxyVersion": "",
            "operatingSystem": "linux",
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        },
    })
}

/// Address of the node: the one from which it would reach others, else the loopback's. No packet is sent.
pub(crate) fn host_ip() -> String {
    let route = |bind: &str, far: &str| -> Option<IpAddr> {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(far).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    // Documentation addresses (RFC 5737, RFC 3849): only the routing table is asked.
    route("0.0.0.0:0", "192.0.2.1:9")
        .or_else(|| route("[::]:0", "[2001:db8::1]:9"))
        .map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string())
}
