//! Limits of what a pod may have on the disk: `sizeLimit` of emptyDirs, `ephemeral-storage` of containers.
//!
//! Files are counted, as kubelet does without project quotas. Only pods with such a limit are looked at, and each at most
//! so often that counting takes a thousandth of a processor.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use berth_api::kinds;
use berth_api::quantity::Quantity;
use berth_api::room;
use serde_json::Value;

use super::super::{Node, blocking};
use super::usage::{self, Disk};

/// A pod that was counted for so long is left alone for so many times that long.
const REST: u32 = 1000;

/// When each pod with limits is to be counted again.
#[derive(Debug, Default)]
pub(super) struct Limits {
    due: HashMap<String, Instant>,
}

impl Limits {
    /// Looks at the pods that are due; true if one had to go.
    pub async fn enforce(&mut self, node: &Arc<Node>) -> bool {
        let mut evicted = false;
        let mut known = HashMap::new();
        for object in node.store.list(kinds::POD, None).items {
            // A limit is a word of the specification: most pods are passed over without being parsed.
            let json = object.json();
            if !json.contains("\"ephemeral-storage\"") && !json.contains("\"sizeLimit\"") {
                continue;
            }
            let pod = object.value();
            let wanted = Wanted::of(&pod);
            let runs = room::is_bound(&pod)
                && room::is_live(&pod)
                && pod.pointer("/metadata/deletionTimestamp").is_none();
            if !runs || wanted.is_empty() {
                continue;
            }
            let uid = object.uid().to_owned();
            let begun = Instant::now();
            if let Some(due) = self.due.get(&uid).filter(|due| **due > begun) {
                known.insert(uid, *due);
                continue;
            }
            let paths = node.paths(object.namespace(), object.name(), &uid);
            let (names, volumes) = (wanted.names.clone(), own_volumes(&pod));
            let Some(disk) = blocking(move || usage::disk(&paths, &names, &volumes)).await else {
                continue;
            };
            known.insert(uid.clone(), Instant::now() + begun.elapsed() * REST);
            if let Some(message) = wanted.exceeded(&disk) {
                super::evict(node, &uid, message, Some(super::AT_ONCE), false).await;
                evicted = true;
            }
        }
        self.due = known;
        evicted
    }
}

/// Names of the volumes that are the pod's own and on the disk.
pub(super) fn own_volumes(pod: &Value) -> Vec<String> {
    let list = pod.pointer("/spec/volumes").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter(|v| {
            v.get("emptyDir")
                .is_some_and(|e| e["medium"].as_str().unwrap_or_default().is_empty())
        })
        .filter_map(|v| Some(v["name"].as_str()?.to_owned()))
        .collect()
}

/// PURE: what a pod may have.
#[derive(Debug, Default)]
struct Wanted {
    /// All its containers.
    names: Vec<String>,
    /// Of containers: name, bytes, as it is written.
    containers: Vec<(String, u64, String)>,
    /// Of volumes.
    volumes: Vec<(String, u64, String)>,
    /// Of all containers together, if each has one.
    total: Option<u64>,
}

impl Wanted {
    fn of(pod: &Value) -> Wanted {
        let bytes = |text: &str| {
            text.parse::<Quantity>()
                .ok()
                .map(|q| q.ceil().max(0).cast_unsigned())
        };
        let each = |pointer: &str| {
            let list = pod.pointer(pointer).and_then(Value::as_array);
            list.cloned().unwrap_or_default()
        };
        let mut wanted = Wanted::default();
        let mut all = each("/spec/containers");
        let mains = all.len();
        all.extend(
            each("/spec/initContainers")
                .into_iter()
                .filter(|c| c["restartPolicy"] == "Always"),
        );
        for container in &all {
            let name = container["name"].as_str().unwrap_or_default().to_owned();
            let limit = container
                .pointer("/resources/limits/ephemeral-storage")
                .and_then(Value::as_str);
            if let Some((bytes, text)) = limit.and_then(|text| Some((bytes(text)?, text.to_owned()))) {
                wanted.containers.push((name.clone(), bytes, text));
            }
            wanted.names.push(name);
        }
        if wanted.containers.len() == all.len() && mains > 0 {
            wanted.total = Some(wanted.containers.iter().map(|(_, bytes, _)| bytes).sum());
        }
        for volume in each("/spec/volumes") {
            let Some(empty) = volume.get("emptyDir") else {
                continue;
            };
            // One in memory has the kernel's own limit.
            if !empty["medium"].as_str().unwrap_or_default().is_empty() {
                continue;
            }
            let limit = empty["sizeLimit"].as_str();
            if let Some((bytes, text)) = limit.and_then(|text| Some((bytes(text)?, text.to_owned())))
                && bytes > 0
            {
                let name = volume["name"].as_str().unwrap_or_default().to_owned();
                wanted.volumes.push((name, bytes, text));
            }
        }
        wanted
    }

    fn is_empty(&self) -> bool {
        self.containers.is_empty() && self.volumes.is_empty()
    }

    /// What is beyond its limit, in kubelet's words.
    fn exceeded(&self, disk: &Disk) -> Option<String> {
        let mut text = String::new();
        for (name, bytes, limit) in &self.volumes {
            if disk.volumes.get(name).is_some_and(|files| files.bytes > *bytes) {
                let _ = write!(
                    text,
                    "Usage of EmptyDir volume {name:?} exceeds the limit {limit:?}. "
                );
            }
        }
        if text.is_empty()
            && let Some(total) = self.total
            && disk.total().bytes > total
        {
            let shown = Quantity::whole(total.cast_signed());
            let _ = write!(
                text,
                "Pod ephemeral local storage usage exceeds the total limit of containers {shown}. "
            );
        }
        if text.is_empty() {
            for (name, bytes, limit) in &self.containers {
                if disk
                    .containers
                    .get(name)
                    .is_some_and(|files| files.bytes > *bytes)
                {
                    let _ = write!(
                        text,
                        "Container {name} exceeded its local ephemeral storage limit {limit:?}. "
                    );
                }
            }
        }
        (!text.is_empty()).then_some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::super::usage::Files;
    use super::*;
    use serde_json::json;

    #[test]
    fn limits_are_compared() {
        let pod = json!({"spec": {
            "containers": [
                {"name": "a", "resources": {"limits": {"ephemeral-storage": "1Mi"}}},
                {"name": "b", "resources": {"limits": {"ephemeral-storage": "2Mi"}}},
            ],
            "volumes": [
                {"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}, {"name": "w", "emptyDir": {}},
                {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            ],
        }});
        let wanted = Wanted::of(&pod);
        assert_eq!(own_volumes(&pod), ["v", "w"]);
        assert_eq!(wanted.total, Some(3 << 20));
        let told = |a: u64, b: u64, v: u64, w: u64| {
            let files = |kib: u64| Files {
                bytes: kib << 10,
                inodes: 1,
            };
            let disk = Disk {
                containers: [("a".to_owned(), files(a)), ("b".to_owned(), files(b))].into(),
                volumes: [("v".to_owned(), files(v)), ("w".to_owned(), files(w))].into(),
            };
            wanted.exceeded(&disk).unwrap_or_default()
        };
        assert_eq!(told(1024, 1, 1, 1), "");
        assert_eq!(
            told(1025, 1, 1, 1),
            "Container a exceeded its local ephemeral storage limit \"1Mi\". "
        );
        assert_eq!(
            told(1, 1, 1025, 1),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "
        );
        assert!(
            told(1000, 1000, 1, 1200)
                .starts_with("Pod ephemeral local storage usage exceeds the total limit of containers ")
        );
    }
}
