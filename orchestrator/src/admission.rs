//! What becomes of a pod on its way into the store, whoever makes it: defaults, the node, LimitRanges, the ServiceAccount's
//! token.
//! The API server and every controller that makes pods call [`pod`].
//!
//! Source: Kubernetes' admission plugins ServiceAccount and LimitRanger.

use berth_api::{defaults, kinds, limits, qos};
use serde_json::{Value, json};

use crate::controllers::AUTHORITY;
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
/// [`StoreError::Forbidden`] when a LimitRange of the namespace is not kept.
pub fn pod(store: &Store, pod: &mut Value, node_name: &str) -> Result<(), StoreError> {
    defaults::pod(pod, node_name);
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
    let wrong: Vec<String> = ranges
        .iter()
        .flat_map(|range| limits::violations(range, pod))
        .collect();
    if !wrong.is_empty() {
        return Err(StoreError::Forbidden {
            kind: kinds::POD,
            name: text(pod, "/metadata/name"),
            why: wrong.join(", "),
        });
    }
    if !ranges.is_empty() {
        pod["status"]["qosClass"] = json!(qos::class(pod));
    }
    if wants_token(store, pod) {
        mount_token(pod);
    }
    Ok(())
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
