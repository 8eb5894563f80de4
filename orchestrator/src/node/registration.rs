//! The Node object: capacity, addresses, and a heartbeat that is never written for its own sake.

use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_api::kinds;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Node;
use super::eviction::threshold::Pressure;
use crate::store::prepare::rfc3339;
use crate::store::{Key, StoreError};

/// Pause before a failed registration is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Registers the node and keeps its condition fresh, until shutdown.
pub(super) async fn run(node: Arc<Node>, mut shutdown: watch::Receiver<bool>) {
    loop {
        let pause = match register(&node).await {
            Ok(()) => node.config.heartbeat,
            Err(error) => {
                tracing::warn!(%error, "register the node");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = node.pressure.changed.notified() => {}
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
    let mut stored = node.store.require(&key)?;
    let held = node.pressure.held();
    let mut value = stored.value();
    if set_taints(&mut value, &held) {
        stored = node.store.update(value).await?;
    }
    let stored = stored.value();
    let status = status(node, &stored, Timestamp::now());
    let done = if is_heartbeat(&status, &stored["status"]) {
        node.store.refresh_status(&key, "", status).await
    } else {
        node.store.update_status(&key, "", status).await
    };
    done.map(drop)
}

/// Whether nothing of a status is new but when the node was last heard of.
fn is_heartbeat(status: &Value, old: &Value) -> bool {
    let lasting = |status: &Value| {
        let mut status = status.clone();
        let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
        for condition in conditions.into_iter().flatten().filter_map(Value::as_object_mut) {
            condition.remove("lastHeartbeatTime");
        }
        status
    };
    lasting(status) == lasting(old)
}

/// Huge pages that the host has set aside: `hugepages-2Mi` and so on, with their sum as it is written.
fn huge_pages(dir: &Path) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut found: Vec<(String, String)> = entries
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let kibibytes: u64 = name
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()?;
            let pages = std::fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
            let pages: u64 = pages.trim().parse().ok()?;
            let (unit, size) = match kibibytes {
                n if n % (1 << 20) == 0 => ("Gi", n >> 20),
                n if n % (1 << 10) == 0 => ("Mi", n >> 10),
                n => ("Ki", n),
            };
            let total = if pages == 0 {
                "0".to_owned()
            } else {
                format!("{}{unit}", pages * size)
            };
            Some((format!("hugepages-{size}{unit}"), total))
        })
        .collect();
    found.sort();
    found
}

/// Gives the Node the taints of the pressures that hold, and takes the others away; true if that changed anything.
fn set_taints(object: &mut Value, held: &[Pressure]) -> bool {
    let list = object.pointer("/spec/taints").and_then(Value::as_array);
    let before = list.cloned().unwrap_or_default();
    let is_ours = |taint: &Value| Pressure::ALL.iter().any(|p| taint["key"] == p.taint());
    let mut taints: Vec<Value> = before.iter().filter(|t| !is_ours(t)).cloned().collect();
    taints.extend(
        held.iter()
            .map(|p| json!({"key": p.taint(), "effect": "NoSchedule"})),
    );
    if taints == before {
        return false;
    }
    if !object["spec"].is_object() {
        object["spec"] = json!({});
    }
    if taints.is_empty() {
        if let Some(spec) = object["spec"].as_object_mut() {
            spec.remove("taints");
        }
    } else {
        object["spec"]["taints"] = json!(taints);
    }
    true
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
    let held = node.pressure.held();
    let pressure = |which: Pressure| match (which, held.contains(&which)) {
        (Pressure::Memory, false) => condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "the node has sufficient memory available",
        ),
        (Pressure::Memory, true) => condition(
            "MemoryPressure",
            true,
            "KubeletHasInsufficientMemory",
            "the node has insufficient memory available",
        ),
        (Pressure::Disk, false) => condition(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "the node has no disk pressure",
        ),
        (Pressure::Disk, true) => condition(
            "DiskPressure",
            true,
            "KubeletHasDiskPressure",
            "the node has disk pressure",
        ),
        (Pressure::Pid, false) => condition(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "the node has sufficient PID available",
        ),
        (Pressure::Pid, true) => condition(
            "PIDPressure",
            true,
            "KubeletHasInsufficientPID",
            "the node has insufficient PID available",
        ),
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
    let resources = |reserved: &dyn Fn(&str) -> i64| {
        let milli = (node.cpu - reserved("cpu")).max(0);
        let cpu = if milli % 1000 == 0 {
            (milli / 1000).to_string()
        } else {
            format!("{milli}m")
        };
        let kibibytes = |name: &str, bytes: i64| format!("{}Ki", (bytes - reserved(name)).max(0) / 1024);
        let mut list = json!({
            "cpu": cpu,
            "memory": kibibytes("memory", node.memory),
            "ephemeral-storage": kibibytes("ephemeral-storage", disk.cast_signed()),
            "pods": node.config.max_pods.to_string(),
        });
        for (name, bytes) in huge_pages(Path::new("/sys/kernel/mm/hugepages")) {
            list[name] = json!(bytes);
        }
        list
    };
    json!({
        "capacity": resources(&|_| 0),
        "allocatable": resources(&|name| node.config.reserved.get(name).copied().unwrap_or(0)),
        "addresses": [
            {"type": "InternalIP", "address": host_ip()},
            {"type": "Hostname", "address": node.config.name},
        ],
        "conditions": [
            pressure(Pressure::Memory),
            pressure(Pressure::Disk),
            pressure(Pressure::Pid),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_nothing_else() {
        let status = |second: u8, ready: &str, since: u8| {
            json!({"capacity": {"cpu": "2"}, "conditions": [{
                "type": "Ready", "status": ready, "lastHeartbeatTime": format!("2026-01-01T00:00:{second:02}Z"),
                "lastTransitionTime": format!("2026-01-01T00:00:{since:02}Z"),
            }]})
        };
        assert!(is_heartbeat(&status(9, "True", 1), &status(4, "True", 1)));
        assert!(!is_heartbeat(&status(9, "False", 9), &status(4, "True", 1)));
        assert!(!is_heartbeat(&status(9, "True", 1), &Value::Null));
        let mut larger = status(9, "True", 1);
        larger["capacity"]["cpu"] = json!("4");
        assert!(!is_heartbeat(&larger, &status(4, "True", 1)));
    }
}
