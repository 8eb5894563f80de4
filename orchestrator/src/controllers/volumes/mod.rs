//! Claims and volumes: binding, folders for claims, what becomes of released volumes, protection of both while they are
//! in use, and the claims of ephemeral volumes (upstream `pkg/controller/volume`).
//!
//! One controller for both kinds: a claim and its volume are never looked at by two tasks at once.

mod claim;
mod ephemeral;
mod folders;
mod volume;

use std::path::PathBuf;
use std::time::Duration;

use berth_api::kinds::{self, Kind};
use berth_api::storage;
use berth_api::validate::Node;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::fields::{annotation, has_finalizer, is_deleting, name, remove_finalizer, text, uid};
use super::{Again, Controller, ownership};
use crate::events::{self, ObjectRef, Severity};
use crate::fault::point;
use crate::store::prepare::{CLAIM_PROTECTION, VOLUME_PROTECTION, rfc3339};
use crate::store::{Event, EventKind, Key, Object, Preconditions, Store, StoreError};
pub(crate) use claim::may_grow;
use claim::{Decision, Told, World};

/// Who made a volume.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Before a folder that could not be removed is tried again.
const FOLDER_PAUSE: Duration = Duration::from_secs(5);

/// Where the volumes of Berth's own provisioner are.
#[derive(Debug, Clone)]
pub struct Place {
    /// The folder that holds one folder a volume.
    pub folders: PathBuf,
    /// Name of the node.
    pub node: String,
}

/// Keeps claims and volumes.
pub(crate) struct VolumeController {
    pub place: Place,
}

impl Controller for VolumeController {
    const NAME: &'static str = "persistentvolume-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[
            kinds::PERSISTENT_VOLUME_CLAIM,
            kinds::PERSISTENT_VOLUME,
            kinds::STORAGE_CLASS,
            kinds::POD,
        ]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let about = &event.object;
        let kind = about.key().kind;
        let versions = [Some(about), event.previous.as_ref()].into_iter().flatten();
        let mut keys = Vec::new();
        if kind == kinds::PERSISTENT_VOLUME_CLAIM {
            keys.push(about.key().clone());
            keys.extend(volumes_of(store, about));
            keys.extend(pod_of(about, event.kind));
        } else if kind == kinds::PERSISTENT_VOLUME {
            keys.push(about.key().clone());
            keys.extend(versions.filter_map(|version| claim_of(&version.value())));
            keys.extend(pending(store));
        } else if kind == kinds::STORAGE_CLASS {
            keys = pending(store);
        } else if uses_claims(about) {
            let pod = about.value();
            let claims = storage::claims_of(&pod).into_iter();
            keys.extend(
                claims
                    .map(|(_, claim, _)| Key::new(kinds::PERSISTENT_VOLUME_CLAIM, about.namespace(), claim)),
            );
            if event.kind == EventKind::Added {
                keys.push(about.key().clone());
            }
        }
        keys
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let pods = store.list(kinds::POD, None).items.into_iter().filter(uses_claims);
        let others = [kinds::PERSISTENT_VOLUME_CLAIM, kinds::PERSISTENT_VOLUME]
            .into_iter()
            .flat_map(|kind| store.list(kind, None).items);
        others.chain(pods).map(|object| object.key().clone()).collect()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            return Ok(None);
        };
        if key.kind == kinds::PERSISTENT_VOLUME_CLAIM {
            self.claim(store, object.value()).await?;
            Ok(None)
        } else if key.kind == kinds::PERSISTENT_VOLUME {
            self.volume(store, object.value()).await
        } else {
            ephemeral::make(store, &object).await?;
            Ok(None)
        }
    }
}

/// Whether a pod has a volume that is a claim; without parsing it.
fn uses_claims(pod: &Object) -> bool {
    ["\"persistentVolumeClaim\"", "\"ephemeral\""]
        .iter()
        .any(|field| pod.json().contains(field))
}

/// The volumes that a claim is or may be bound to.
fn volumes_of(store: &Store, claim: &Object) -> Vec<Key> {
    let value = claim.value();
    store
        .list(kinds::PERSISTENT_VOLUME, None)
        .items
        .iter()
        .filter(|volume| {
            let volume = volume.value();
            name(&volume) == text(&value, "/spec/volumeName")
                || (storage::is_taken(&volume) && storage::is_for(&volume, &value))
        })
        .map(|volume| volume.key().clone())
        .collect()
}

/// The pod whose ephemeral volume has lost its claim.
fn pod_of(claim: &Object, event: EventKind) -> Option<Key> {
    let value = claim.value();
    let owner = ownership::controller_of(&value).filter(|owner| owner["kind"] == "Pod")?;
    (event == EventKind::Deleted).then(|| Key::new(kinds::POD, claim.namespace(), text(owner, "/name")))
}

/// The claim that a volume is bound to.
fn claim_of(volume: &Value) -> Option<Key> {
    let name = text(volume, "/spec/claimRef/name");
    let namespace = text(volume, "/spec/claimRef/namespace");
    (!name.is_empty()).then(|| Key::new(kinds::PERSISTENT_VOLUME_CLAIM, namespace, name))
}

/// The claims that are not bound.
fn pending(store: &Store) -> Vec<Key> {
    let claims = store.list(kinds::PERSISTENT_VOLUME_CLAIM, None).items;
    let open = claims
        .iter()
        .filter(|claim| text(&claim.value(), "/status/phase") != "Bound");
    open.map(|claim| claim.key().clone()).collect()
}

fn values(store: &Store, kind: &'static Kind, namespace: Option<&str>) -> Vec<Value> {
    store
        .list(kind, namespace)
        .items
        .iter()
        .map(Object::value)
        .collect()
}

/// The pods that have a claim among their volumes, as stored.
fn users(store: &Store, claim: &Value) -> Vec<Value> {
    let pods = store
        .list(kinds::POD, Some(text(claim, "/metadata/namespace")))
        .items;
    pods.iter()
        .filter(|pod| uses_claims(pod))
        .map(Object::value)
        .filter(|pod| {
            storage::claims_of(pod)
                .iter()
                .any(|(_, used, own)| used == name(claim) && (!own || storage::is_own(claim, uid(pod))))
        })
        .collect()
}

/// Writes an object and gives what is stored then; without a difference nothing is written.
async fn write(store: &Store, value: Value) -> Result<Value, StoreError> {
    Ok(store.update(value).await?.value())
}

/// Records an event unless that very one is known already: a claim that waits is looked at often.
async fn tell(store: &Store, about: &Value, told: &Told) -> Result<(), StoreError> {
    let Some(object) = store.get(&Key::of(about)?)? else {
        return Ok(());
    };
    let severity = if told.warning {
        Severity::Warning
    } else {
        Severity::Normal
    };
    let about = ObjectRef::to(&object);
    events::record_once(store, &about, severity, told.reason, &told.message, told.by).await
}

impl VolumeController {
    fn node(&self, store: &Store) -> Node {
        crate::admission::node(store, &self.place.node)
    }

    async fn claim(&self, store: &Store, claim: Value) -> Result<(), StoreError> {
        let pods = users(store, &claim);
        if is_deleting(&claim) {
            let held = pods.iter().any(claim::holds);
            if !held && has_finalizer(&claim, CLAIM_PROTECTION) {
                let mut free = claim;
                remove_finalizer(&mut free, CLAIM_PROTECTION);
                store.update(free).await?;
            }
            return Ok(());
        }
        let world = World {
            volumes: &values(store, kinds::PERSISTENT_VOLUME, None),
            classes: &values(store, kinds::STORAGE_CLASS, None),
            has_consumer: pods.iter().any(claim::consumes),
            node: &self.node(store),
        };
        match claim::plan(&claim, &world) {
            Decision::Keep => Ok(()),
            Decision::Bind(volume) => self.bind(store, claim, volume).await,
            Decision::Provision(class) => self.provision(store, claim, &class).await,
            Decision::Expand(volume) => expand(store, claim, volume).await,
            Decision::Class(class) => {
                let mut classed = claim;
                classed["spec"]["storageClassName"] = json!(class);
                store.update(classed).await.map(drop)
            }
            Decision::Wait(told) => {
                phase(store, &claim, "Pending").await?;
                tell(store, &claim, &told).await
            }
            Decision::Lost(told) => {
                phase(store, &claim, "Lost").await?;
                tell(store, &claim, &told).await
            }
        }
    }

    /// Four writes, each of which may be the last before a kill: the next look goes on from there.
    async fn bind(&self, store: &Store, claim: Value, volume: Value) -> Result<(), StoreError> {
        let volume = write(store, claim::taken(volume, &claim)).await?;
        point("bind: the volume is taken");
        set_phase(store, &volume, "Bound", None).await?;
        let node = claim::waited(&claim, &values(store, kinds::STORAGE_CLASS, None));
        let node = node.then_some(self.place.node.as_str());
        let claim = write(store, claim::bound(claim, &volume, node)).await?;
        point("bind: the claim has its volume");
        let status = claim::bound_status(&claim, &volume);
        store
            .update_status(&Key::of(&claim)?, uid(&claim), status)
            .await?;
        Ok(())
    }

    async fn provision(&self, store: &Store, claim: Value, class: &Value) -> Result<(), StoreError> {
        let volume = format!("pvc-{}", uid(&claim));
        let (folders, folder) = (self.place.folders.clone(), volume.clone());
        let made = tokio::task::spawn_blocking(move || folders::make(&folders, &folder)).await;
        let path = match made {
            Ok(Ok(path)) => path,
            Ok(Err(error)) => return self.not_provisioned(store, &claim, &error).await,
            // berthd is ending.
            Err(_) => return Ok(()),
        };
        point("provision: the folder is there");
        let wanted = claim::provisioned(&claim, class, &volume, &path, &self.place.node);
        let stored = match store.create(wanted).await {
            Ok(stored) => stored.value(),
            Err(StoreError::AlreadyExists { .. }) => {
                let key = Key::new(kinds::PERSISTENT_VOLUME, "", volume.as_str());
                store.require(&key)?.value()
            }
            Err(error) => return Err(error),
        };
        point("provision: the volume is stored");
        let told = Told::by_provisioner(
            false,
            "ProvisioningSucceeded",
            format!("Successfully provisioned volume {volume}"),
        );
        tell(store, &claim, &told).await?;
        self.bind(store, claim, stored).await
    }

    async fn not_provisioned(
        &self,
        store: &Store,
        claim: &Value,
        error: &folders::FolderError,
    ) -> Result<(), StoreError> {
        let message = format!(
            "failed to provision volume with StorageClass \"{}\": {}",
            storage::class(claim),
            error.chain()
        );
        tell(
            store,
            claim,
            &Told::by_provisioner(true, "ProvisioningFailed", message.clone()),
        )
        .await?;
        // Looked at again with the controllers' back-off.
        Err(StoreError::Conflict {
            kind: kinds::PERSISTENT_VOLUME_CLAIM,
            name: name(claim).to_owned(),
            why: message,
        })
    }

    async fn volume(&self, store: &Store, volume: Value) -> Result<Again, StoreError> {
        let claim = match claim_of(&volume) {
            Some(key) => store.get(&key)?.map(|claim| claim.value()),
            None => None,
        };
        match volume::plan(&volume, claim.as_ref()) {
            volume::Decision::Keep => {}
            volume::Decision::Phase(phase) => set_phase(store, &volume, phase, None).await?,
            volume::Decision::Unbind => {
                let free = write(store, volume::unbound(volume.clone())).await?;
                set_phase(store, &free, "Available", None).await?;
            }
            volume::Decision::Reclaim => return self.reclaim(store, volume).await,
        }
        let Some(now) = store.get(&Key::of(&volume)?)?.map(|volume| volume.value()) else {
            return Ok(None);
        };
        let bound = text(&now, "/status/phase") == "Bound";
        if is_deleting(&now) && !bound && has_finalizer(&now, VOLUME_PROTECTION) {
            let mut free = now;
            remove_finalizer(&mut free, VOLUME_PROTECTION);
            store.update(free).await?;
        }
        Ok(None)
    }

    /// Removes the folder of a volume whose claim is gone, then the volume.
    async fn reclaim(&self, store: &Store, volume: Value) -> Result<Again, StoreError> {
        let failed = text(&volume, "/status/phase") == "Failed";
        if !failed {
            set_phase(store, &volume, "Released", None).await?;
        }
        let (folders, folder) = (self.place.folders.clone(), name(&volume).to_owned());
        let path = PathBuf::from(text(&volume, "/spec/local/path"));
        let ours = annotation(&volume, PROVISIONED_BY) == Some(storage::PROVISIONER);
        let removed = tokio::task::spawn_blocking(move || {
            if ours {
                folders::remove(&folders, &folder, &path)
            } else {
                Err(folders::FolderError::Foreign { path })
            }
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let message = error.chain();
                set_phase(store, &volume, "Failed", Some(&message)).await?;
                tell(store, &volume, &Told::new(true, "VolumeFailedDelete", message)).await?;
                return Ok(ours.then_some(FOLDER_PAUSE));
            }
            Err(_) => return Ok(None),
        }
        point("reclaim: the folder is gone");
        let key = Key::of(&volume)?;
        let Some(stored) = store.get(&key)? else {
            return Ok(None);
        };
        let mut free = stored.value();
        remove_finalizer(&mut free, VOLUME_PROTECTION);
        let free = write(store, free).await;
        match free {
            // The last finalizer of a volume that was being deleted: it is gone.
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => drop(other?),
        }
        match store.delete(&key, Preconditions::uid(stored.uid())).await {
            Err(StoreError::NotFound { .. }) => Ok(None),
            other => other.map(|_| None),
        }
    }
}

/// Gives a volume, and with it its claim, the size that the claim asks for.
async fn expand(store: &Store, claim: Value, volume: Value) -> Result<(), StoreError> {
    let mut wider = volume;
    wider["spec"]["capacity"]["storage"] = claim["spec"]["resources"]["requests"]["storage"].clone();
    let volume = write(store, wider).await?;
    let status = claim::bound_status(&claim, &volume);
    store
        .update_status(&Key::of(&claim)?, uid(&claim), status)
        .await?;
    let told = Told::new(
        false,
        "VolumeResizeSuccessful",
        "Resize volume succeeded: a folder has no size of its own".to_owned(),
    );
    tell(store, &claim, &told).await
}

/// The phase of a claim.
async fn phase(store: &Store, claim: &Value, phase: &str) -> Result<(), StoreError> {
    let mut status = claim["status"].clone();
    if status["phase"] == phase {
        return Ok(());
    }
    status["phase"] = json!(phase);
    store
        .update_status(&Key::of(claim)?, uid(claim), status)
        .await
        .map(drop)
}

/// The phase of a volume, and why it has failed.
async fn set_phase(
    store: &Store,
    volume: &Value,
    phase: &str,
    message: Option<&str>,
) -> Result<(), StoreError> {
    let known = &volume["status"];
    if known["phase"] == phase && known.get("message").and_then(Value::as_str) == message {
        return Ok(());
    }
    let mut status = json!({"phase": phase, "lastPhaseTransitionTime": rfc3339(Timestamp::now())});
    if known["phase"] == phase && !known["lastPhaseTransitionTime"].is_null() {
        status["lastPhaseTransitionTime"] = known["lastPhaseTransitionTime"].clone();
    }
    if let Some(message) = message {
        status["message"] = json!(message);
        status["reason"] = json!("VolumeFailedDelete");
    }
    store
        .update_status(&Key::of(volume)?, uid(volume), status)
        .await
        .map(drop)
}
