//! The claims of ephemeral volumes: made with the pod, gone with it (upstream `pkg/controller/volume/ephemeral`).

use berth_api::storage;
use serde_json::{Value, json};

use super::super::fields::{name, uid};
use super::super::ownership::controller_reference;
use super::claim::{Told, consumes};
use super::tell;
use crate::store::{Key, Object, Store, StoreError};

const COMPONENT: &str = "ephemeral-volume-controller";

/// Makes the claims that a pod lacks.
pub(super) async fn make(store: &Store, object: &Object) -> Result<(), StoreError> {
    let pod = object.value();
    if !consumes(&pod) {
        return Ok(());
    }
    let volumes = pod["spec"]["volumes"].as_array();
    for volume in volumes.into_iter().flatten() {
        let Some(template) = volume.pointer("/ephemeral/volumeClaimTemplate") else {
            continue;
        };
        let volume = volume["name"].as_str().unwrap_or_default();
        let mut wanted = claim(&pod, volume, template);
        crate::admission::claim(store, &mut wanted)?;
        let key = Key::of(&wanted)?;
        let why = match store.get(&key)? {
            Some(known) if storage::is_own(&known.value(), uid(&pod)) => continue,
            Some(_) => format!(
                "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
                key.namespace,
                key.name,
                key.namespace,
                name(&pod)
            ),
            None => match store.create(wanted).await {
                Ok(_) | Err(StoreError::AlreadyExists { .. }) => continue,
                Err(error @ StoreError::Forbidden { .. }) => error.to_string(),
                Err(error) => return Err(error),
            },
        };
        let told = Told {
            by: COMPONENT,
            ..Told::new(true, "FailedBinding", format!("ephemeral volume {volume}: {why}"))
        };
        tell(store, &pod, &told).await?;
    }
    Ok(())
}

/// The claim of a pod's volume.
fn claim(pod: &Value, volume: &str, template: &Value) -> Value {
    let mut metadata = json!({
        "name": storage::ephemeral_name(name(pod), volume),
        "namespace": pod["metadata"]["namespace"],
        "ownerReferences": [controller_reference(pod)],
    });
    for field in ["labels", "annotations"] {
        if let Some(given) = template.pointer(&format!("/metadata/{field}")) {
            metadata[field] = given.clone();
        }
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": template["spec"],
    })
}
