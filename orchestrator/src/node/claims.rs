//! What a pod's claims say: whether it can be placed, and where their volumes are.
//!
//! On one node the scheduler's part is small: a pod with claims waits here until they are bound, with the words that
//! kube-scheduler has for it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_api::kinds;
use berth_api::storage;
use berth_api::validate::Node;
use serde_json::Value;

use super::pod::Pod;
use crate::store::{Key, Object, Store};

/// Reason of a pod that waits.
pub const UNSCHEDULABLE: &str = "FailedScheduling";

/// Where a claim's volume is on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backing {
    /// The volume's name.
    pub volume: String,
    /// Its folder or file.
    pub path: PathBuf,
    /// `hostPath.type`; None for a local volume, which is a folder that is there.
    pub host_path: Option<String>,
}

/// Whether a pod has a volume that is a claim.
pub fn has_claims(pod: &Pod) -> bool {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes
        .into_iter()
        .any(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some())
}

/// Name of the claim behind a volume of the pod.
pub fn claim_name(pod: &Pod, volume: &k8s_openapi::api::core::v1::Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(storage::ephemeral_name(&pod.name, &volume.name)),
        (None, None) => None,
    }
}

/// Where the volume of a claim is; None while it has none, or none that this node serves.
pub fn backing(store: &Store, namespace: &str, claim: &str) -> Option<Backing> {
    let get = |key: Key| store.get(&key).ok().flatten().map(|object| object.value());
    let claim = get(Key::new(kinds::PERSISTENT_VOLUME_CLAIM, namespace, claim))?;
    let text =
        |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let name = text(&claim, "/spec/volumeName")?;
    let volume = get(Key::new(kinds::PERSISTENT_VOLUME, "", name.as_str()))?;
    if let Some(path) = text(&volume, "/spec/local/path") {
        return Some(Backing {
            volume: name,
            path: path.into(),
            host_path: None,
        });
    }
    let path = text(&volume, "/spec/hostPath/path")?;
    Some(Backing {
        volume: name,
        path: path.into(),
        host_path: Some(text(&volume, "/spec/hostPath/type").unwrap_or_default()),
    })
}

/// Why the pod cannot run yet because of its claims; None if they are all bound and may be used.
pub fn obstacle(store: &Store, node: &Node, pod: &Pod) -> Option<String> {
    if !has_claims(pod) {
        return None;
    }
    let object = store.get(&Key::new(kinds::POD, pod.namespace.as_str(), pod.name.as_str()));
    let pod = object.ok().flatten()?.value();
    let classes = values(store, kinds::STORAGE_CLASS);
    let mut claims = BTreeMap::new();
    for (volume, claim, own) in storage::claims_of(&pod) {
        let key = Key::new(kinds::PERSISTENT_VOLUME_CLAIM, namespace(&pod), claim.as_str());
        let stored = store.get(&key).ok().flatten().map(|object| object.value());
        claims.insert((volume, claim, own), stored);
    }
    let volumes = values(store, kinds::PERSISTENT_VOLUME);
    let why =
        first_obstacle(&pod, &claims, &volumes, &classes, node).or_else(|| shared(store, &pod, &claims))?;
    Some(format!("0/1 nodes are available: {why}"))
}

fn values(store: &Store, kind: &'static kinds::Kind) -> Vec<Value> {
    store.list(kind, None).items.iter().map(Object::value).collect()
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn namespace(pod: &Value) -> &str {
    text(pod, "/metadata/namespace")
}

/// Claims by name of the volume, name of the claim, and whether it is the pod's own.
type Claims = BTreeMap<(String, String, bool), Option<Value>>;

/// PURE: the first claim that cannot be used.
fn first_obstacle(
    pod: &Value,
    claims: &Claims,
    volumes: &[Value],
    classes: &[Value],
    node: &Node,
) -> Option<String> {
    let uid = text(pod, "/metadata/uid");
    for ((_, name, own), claim) in claims {
        let Some(claim) = claim else {
            return Some(if *own {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}."
                )
            } else {
                format!("persistentvolumeclaim {name:?} not found.")
            });
        };
        if *own && !storage::is_own(claim, uid) {
            let (namespace, pod) = (namespace(pod), text(pod, "/metadata/name"));
            return Some(format!(
                "PVC {namespace}/{name} was not created for pod {namespace}/{pod} (pod is not owner)."
            ));
        }
        if claim.pointer("/metadata/deletionTimestamp").is_some() {
            return Some(format!("persistentvolumeclaim {name:?} is being deleted."));
        }
        let bound = text(claim, "/spec/volumeName");
        let volume = volumes.iter().find(|v| text(v, "/metadata/name") == bound);
        match (text(claim, "/status/phase"), volume) {
            ("Bound", Some(volume)) if storage::reaches(volume, node) => {}
            ("Bound", Some(_)) => return Some("1 node(s) had volume node affinity conflict.".to_owned()),
            ("Bound" | "Lost", None) => {
                return Some(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {bound:?}."
                ));
            }
            _ => {
                let class = classes
                    .iter()
                    .find(|class| text(class, "/metadata/name") == storage::class(claim));
                return Some(if class.is_some_and(storage::waits_for_consumer) {
                    "1 node(s) didn't find available persistent volumes to bind.".to_owned()
                } else {
                    "pod has unbound immediate PersistentVolumeClaims.".to_owned()
                });
            }
        }
    }
    None
}

/// A claim for one pod only (ReadWriteOncePod) that another pod has.
fn shared(store: &Store, pod: &Value, claims: &Claims) -> Option<String> {
    let alone = |claim: &Option<Value>| {
        let modes = claim.as_ref().and_then(|c| c.pointer("/spec/accessModes"));
        storage::short_modes(modes) == "RWOP"
    };
    let names: Vec<&String> = claims
        .iter()
        .filter(|(_, claim)| alone(claim))
        .map(|((_, name, _), _)| name)
        .collect();
    if names.is_empty() {
        return None;
    }
    let others = store.list(kinds::POD, Some(namespace(pod))).items;
    let taken = others.iter().map(Object::value).any(|other| {
        storage::claims_of(&other)
            .iter()
            .any(|(_, name, _)| names.contains(&name))
            && precedes(&other, pod)
    });
    taken.then(|| {
        "1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode."
            .to_owned()
    })
}

/// PURE: whether another pod has a claim before this one: it has been placed, or came first and may be.
fn precedes(other: &Value, pod: &Value) -> bool {
    if text(other, "/metadata/uid") == text(pod, "/metadata/uid")
        || matches!(text(other, "/status/phase"), "Succeeded" | "Failed")
    {
        return false;
    }
    let conditions = other.pointer("/status/conditions").and_then(Value::as_array);
    let placed = conditions
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "PodScheduled");
    let age = |pod: &Value| {
        (
            text(pod, "/metadata/creationTimestamp").to_owned(),
            text(pod, "/metadata/uid").to_owned(),
        )
    };
    placed.map_or_else(
        || age(other) < age(pod),
        |condition| condition["status"] == "True",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, second: u8, placed: Option<&str>) -> Value {
        let conditions: Vec<Value> = placed
            .map(|status| json!({"type": "PodScheduled", "status": status}))
            .into_iter()
            .collect();
        json!({
            "metadata": {"name": name, "namespace": "d", "uid": name,
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "status": {"phase": "Pending", "conditions": conditions},
        })
    }

    #[test]
    fn one_pod_of_two_comes_first() {
        let (old, new) = (pod("a", 1, None), pod("b", 2, None));
        assert!(precedes(&old, &new) && !precedes(&new, &old) && !precedes(&old, &old));
        assert!(precedes(&pod("b", 2, Some("True")), &old));
        // One that waits for something else leaves the claim to others.
        assert!(!precedes(&pod("a", 1, Some("False")), &new));
        let mut over = old;
        over["status"]["phase"] = json!("Succeeded");
        assert!(!precedes(&over, &new));
    }

    #[test]
    fn what_a_pod_waits_for() {
        let claim = |phase: &str, class: &str| {
            json!({
                "metadata": {"name": "c"}, "status": {"phase": phase},
                "spec": {"storageClassName": class, "volumeName": if phase == "Bound" { "v" } else { "" }},
            })
        };
        let node = Node {
            name: "here".to_owned(),
            ..Node::default()
        };
        let away = json!({"required": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["there"]}]}]}});
        let volume = json!({"metadata": {"name": "v"}, "spec": {}});
        let mut far = volume.clone();
        far["spec"]["nodeAffinity"] = away;
        let late = json!({"metadata": {"name": "late"}, "volumeBindingMode": "WaitForFirstConsumer"});
        let told = |claim: Option<Value>, own: bool, volumes: &[Value]| {
            let claims = BTreeMap::from([(("x".to_owned(), "c".to_owned(), own), claim)]);
            let classes = [late.clone()];
            first_obstacle(&pod("p", 1, None), &claims, volumes, &classes, &node).unwrap_or_default()
        };
        let there = [volume];
        assert_eq!(
            told(None, false, &there),
            "persistentvolumeclaim \"c\" not found."
        );
        assert!(told(None, true, &there).contains("to create the persistentvolumeclaim"));
        assert!(told(Some(claim("Bound", "")), true, &there).contains("(pod is not owner)"));
        assert_eq!(told(Some(claim("Bound", "")), false, &there), "");
        assert!(told(Some(claim("Bound", "")), false, &[]).contains("non-existent"));
        assert!(told(Some(claim("Bound", "")), false, &[far]).contains("node affinity conflict"));
        assert!(told(Some(claim("Pending", "now")), false, &there).contains("unbound immediate"));
        assert!(told(Some(claim("Pending", "late")), false, &there).contains("didn't find available"));
        let mut going = claim("Bound", "");
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(told(Some(going), false, &there).contains("is being deleted"));
    }
}
