//! What becomes of a pod or a claim on its way into the store, whoever makes it: defaults, the node, a pod's classes,
//! LimitRanges, the ServiceAccount's token; a claim's class.
//! The API server and every controller that makes them call [`pod`] and [`claim`].
//!
//! Source: Kubernetes' admission plugins Priority, RuntimeClass, LimitRanger, DefaultTolerationSeconds and
//! ServiceAccount.

use std::collections::BTreeMap;

use berth_api::kinds::{self, Kind};
use berth_api::{defaults, limits, priority, qos, room, runtime_class, storage, validate};
use serde_json::{Value, json};

use crate::controllers::AUTHORITY;
use crate::controllers::volumes::may_grow;
use crate::store::{Key, Store, StoreError};

/// Where programs look for their account's token.
const MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Prefix of the volume's name, as upstream.
const VOLUME: &str = "kube-api-access-";
/// Life of the token in seconds; a pod gets a new one long before that.
const TOKEN_SECONDS: i64 = 3607;

/// Makes a new pod ready for the store.
///
/// # Errors
/// [`StoreError::Forbidden`] when a LimitRange of the namespace is not kept, or a class is not there.
pub fn pod(store: &Store, pod: &mut Value, node_name: &str) -> Result<(), StoreError> {
    classes(store, pod)?;
    defaults::pod(pod, node_name);
    room::tolerate_absence(pod);
    let text = |pod: &Value, pointer: &str| {
        let text = pod.pointer(pointer).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    };
    let ranges: Vec<Value> = store
        .list(kinds::LIMIT_RANGE, Some(&text(pod, "/metadata/namespace")))
        .items
        .iter()
        .map(crate::store::Object::value)
        .collect();
    for range in &ranges {
        limits::fill(range, pod);
    }
    limits(store, pod)?;
    if !ranges.is_empty() {
        pod["status"]["qosClass"] = json!(qos::class(pod));
    }
    if wants_token(store, pod) {
        mount_token(pod);
    }
    Ok(())
}

/// Checks a pod against the LimitRanges of its namespace.
///
/// # Errors
/// [`StoreError::Forbidden`] when one is not kept.
pub fn limits(store: &Store, pod: &Value) -> Result<(), StoreError> {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let ranges = store
        .list(kinds::LIMIT_RANGE, Some(text("/metadata/namespace")))
        .items;
    let wrong: Vec<String> = ranges
        .iter()
        .flat_map(|range| limits::violations(&range.value(), pod))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(StoreError::Forbidden {
        kind: kinds::POD,
        name: text("/metadata/name").to_owned(),
        why: wrong.join(", "),
    })
}

/// What the pod's PriorityClass and RuntimeClass say.
fn classes(store: &Store, pod: &mut Value) -> Result<(), StoreError> {
    let list = store.list(kinds::PRIORITY_CLASS, None).items;
    let list: Vec<Value> = list.iter().map(crate::store::Object::value).collect();
    let key = Key::new(kinds::RUNTIME_CLASS, "", runtime_class::name(pod));
    let class = store.get(&key)?.map(|class| class.value());
    let done = priority::admit(pod, &list).and_then(|()| runtime_class::admit(pod, class.as_ref()));
    done.map_err(|why| StoreError::Forbidden {
        kind: kinds::POD,
        name: pod
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned(),
        why,
    })
}

/// `automountServiceAccountToken` of the pod, else of its account, else yes.
fn wants_token(store: &Store, pod: &Value) -> bool {
    let text = |pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if let Some(own) = pod
        .pointer("/spec/automountServiceAccountToken")
        .and_then(Value::as_bool)
    {
        return own;
    }
    let account = Key::new(
        kinds::SERVICE_ACCOUNT,
        text("/metadata/namespace"),
        text("/spec/serviceAccountName"),
    );
    let account = store.get(&account).ok().flatten();
    account.is_none_or(|a| a.value()["automountServiceAccountToken"] != json!(false))
}

fn mount_token(pod: &mut Value) {
    let spec = &mut pod["spec"];
    let lists = ["containers", "initContainers"];
    let is_mounted = |container: &Value| {
        let mounts = container["volumeMounts"].as_array();
        mounts.into_iter().flatten().any(|m| m["mountPath"] == MOUNT)
    };
    let open = lists
        .iter()
        .filter_map(|list| spec[*list].as_array())
        .flatten()
        .any(|container| !is_mounted(container));
    if !open {
        return;
    }
    let volumes = spec["volumes"].as_array();
    let present = volumes.into_iter().flatten().find_map(|v| {
        let name = v["name"].as_str()?;
        name.starts_with(VOLUME).then(|| name.to_owned())
    });
    let name = present.unwrap_or_else(|| {
        let name = format!("{VOLUME}{}", suffix());
        let volume = volume(&name);
        match spec["volumes"].as_array_mut() {
            Some(list) => list.push(volume),
            None => spec["volumes"] = json!([volume]),
        }
        name
    });
    for list in lists {
        for container in spec
            .get_mut(list)
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if is_mounted(container) {
                continue;
            }
            let mount = json!({"name": name, "readOnly": true, "mountPath": MOUNT});
            match container["volumeMounts"].as_array_mut() {
                Some(mounts) => mounts.push(mount),
                None => container["volumeMounts"] = json!([mount]),
            }
        }
    }
}

/// Makes a new claim ready for the store: defaults and the default class.
///
/// # Errors
/// [`StoreError::Forbidden`] when a LimitRange of the namespace is not kept.
pub fn claim(store: &Store, claim: &mut Value) -> Result<(), StoreError> {
    let kind = kinds::PERSISTENT_VOLUME_CLAIM;
    defaults::apply(kind, claim);
    if !storage::names_class(claim)
        && let Some(class) = storage::default_class(&all(store, kinds::STORAGE_CLASS, None))
        && claim["spec"].is_object()
    {
        claim["spec"]["storageClassName"] = class["metadata"]["name"].clone();
    }
    let namespace = claim["metadata"]["namespace"].as_str().unwrap_or_default();
    let wrong: Vec<String> = all(store, kinds::LIMIT_RANGE, Some(namespace))
        .iter()
        .flat_map(|range| limits::claim_violations(range, claim))
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(forbidden(kind, claim, wrong.join(", ")))
}

/// Whether a claim may be made bigger: only a volume of Berth's own making grows, where its class allows it.
///
/// # Errors
/// [`StoreError::Forbidden`] otherwise.
pub fn resize(store: &Store, claim: &Value, old: &Value) -> Result<(), StoreError> {
    let bound = old.pointer("/spec/volumeName").and_then(Value::as_str);
    let Some(bound) = bound.filter(|_| storage::size(claim) > storage::size(old)) else {
        return Ok(());
    };
    let volume = store.get(&Key::new(kinds::PERSISTENT_VOLUME, "", bound))?;
    let classes = all(store, kinds::STORAGE_CLASS, None);
    if volume.is_some_and(|volume| may_grow(old, &volume.value(), &classes)) {
        return Ok(());
    }
    let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    Err(forbidden(kinds::PERSISTENT_VOLUME_CLAIM, claim, why.to_owned()))
}

fn forbidden(kind: &'static Kind, object: &Value, why: String) -> StoreError {
    StoreError::Forbidden {
        kind,
        name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
        why,
    }
}

fn all(store: &Store, kind: &'static Kind, namespace: Option<&str>) -> Vec<Value> {
    store
        .list(kind, namespace)
        .items
        .iter()
        .map(crate::store::Object::value)
        .collect()
}

/// What selectors of nodes are held against: the labels that the node has by itself, and those it was given.
pub fn node(store: &Store, name: &str) -> validate::Node {
    let stored = store.get(&Key::new(kinds::NODE, "", name));
    let stored = stored.ok().flatten().map(|node| node.value());
    let mut labels: BTreeMap<String, String> = crate::config::node_labels(name).into_iter().collect();
    let own = stored
        .as_ref()
        .and_then(|n| n.pointer("/metadata/labels"))
        .and_then(Value::as_object);
    for (key, value) in own.into_iter().flatten() {
        labels.insert(key.clone(), value.as_str().unwrap_or_default().to_owned());
    }
    validate::Node {
        name: name.to_owned(),
        labels,
    }
}

fn volume(name: &str) -> Value {
    json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
                {"configMap": {"name": AUTHORITY, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{
                    "path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"},
                }]}},
            ],
        },
    })
}

/// Five letters, as `generateName` adds them.
fn suffix() -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    (0..5)
        .map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())]))
        .collect()
}
