//! PURE: what is to be done about a claim, and what it and its volume become.

use std::path::Path;

use berth_api::storage::{self, PROVISIONER};
use berth_api::validate::Node;
use serde_json::{Value, json};

use super::super::fields::{annotation, condition, is_deleting, name, set_annotation, text, uid};
use super::PROVISIONED_BY;

/// Says that a claim was bound once.
const COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Says that the partner was found, not named by a user.
pub(super) const BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// The node whose pod a claim has waited for.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Who made, or is to make, a claim's volume: now, and in the beta.
const STORAGE_PROVISIONER: [&str; 2] = [
    "volume.kubernetes.io/storage-provisioner",
    "volume.beta.kubernetes.io/storage-provisioner",
];
/// The provisioner of classes whose volumes are all made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Something to say about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whether somebody may have to look.
    pub warning: bool,
    /// CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// Who says it.
    pub by: &'static str,
}

impl Told {
    pub(super) fn new(warning: bool, reason: &'static str, message: String) -> Self {
        Self {
            warning,
            reason,
            message,
            by: "persistentvolume-controller",
        }
    }

    pub(super) fn by_provisioner(warning: bool, reason: &'static str, message: String) -> Self {
        Self {
            by: PROVISIONER,
            ..Self::new(warning, reason, message)
        }
    }
}

/// What a claim is judged by.
#[derive(Debug, Clone, Copy)]
pub struct World<'a> {
    /// All volumes.
    pub volumes: &'a [Value],
    /// All classes.
    pub classes: &'a [Value],
    /// Whether there is a pod that needs the claim.
    pub has_consumer: bool,
    /// The one node.
    pub node: &'a Node,
}

/// What to do about a claim.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// Everything is as it should be.
    Keep,
    /// Bind it to this volume, or restore what is missing of the bond.
    Bind(Value),
    /// Make a volume for it, as this class says.
    Provision(Value),
    /// Give it and its volume the size that it asks for.
    Expand(Value),
    /// Give it the default class, which there was none of when it was made.
    Class(String),
    /// It waits.
    Wait(Told),
    /// Its volume is gone, or somebody else's.
    Lost(Told),
}

/// Decides about a claim that is not being deleted.
pub fn plan(claim: &Value, world: &World<'_>) -> Decision {
    let wanted = text(claim, "/spec/volumeName");
    let volume = world.volumes.iter().find(|volume| name(volume) == wanted);
    if annotation(claim, COMPLETED).is_some() {
        return bound_once(claim, wanted, volume, world);
    }
    if wanted.is_empty() {
        return search(claim, world);
    }
    let wait = |warning, reason, message| Decision::Wait(Told::new(warning, reason, message));
    match volume {
        None => wait(
            false,
            "FailedBinding",
            format!("persistentvolume {wanted:?} not found"),
        ),
        Some(volume) if !storage::is_taken(volume) => match storage::misfit(claim, volume) {
            None => Decision::Bind(volume.clone()),
            Some(why) => wait(
                true,
                "VolumeMismatch",
                format!("Cannot bind to requested volume {wanted:?}: {why}"),
            ),
        },
        Some(volume) if storage::is_for(volume, claim) => Decision::Bind(volume.clone()),
        Some(_) => wait(
            false,
            "FailedBinding",
            format!("volume {wanted:?} already bound to a different claim."),
        ),
    }
}

fn bound_once(claim: &Value, wanted: &str, volume: Option<&Value>, world: &World<'_>) -> Decision {
    let lost = |reason, message: &str| Decision::Lost(Told::new(true, reason, message.to_owned()));
    if wanted.is_empty() {
        return lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    }
    let Some(volume) = volume else {
        return lost(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        );
    };
    if storage::is_taken(volume) && !storage::is_for(volume, claim) {
        return lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        );
    }
    if storage::size(claim) > storage::size(volume) && may_grow(claim, volume, world.classes) {
        return Decision::Expand(volume.clone());
    }
    let whole = text(volume, "/spec/claimRef/uid") == uid(claim)
        && text(volume, "/status/phase") == "Bound"
        && bound_status(claim, volume) == claim["status"];
    if whole {
        Decision::Keep
    } else {
        Decision::Bind(volume.clone())
    }
}

/// Whether a claim may ask for more than its volume has: the volume is of Berth's making, the class allows it.
pub fn may_grow(claim: &Value, volume: &Value, classes: &[Value]) -> bool {
    let class = class_of(claim, classes);
    annotation(volume, PROVISIONED_BY) == Some(PROVISIONER)
        && class.is_some_and(|class| class["allowVolumeExpansion"] == true)
}

fn class_of<'a>(claim: &Value, classes: &'a [Value]) -> Option<&'a Value> {
    classes.iter().find(|class| name(class) == storage::class(claim))
}

/// Whether a claim's class lets it wait for a pod.
pub fn waited(claim: &Value, classes: &[Value]) -> bool {
    class_of(claim, classes).is_some_and(storage::waits_for_consumer)
}

fn search(claim: &Value, world: &World<'_>) -> Decision {
    if !storage::names_class(claim)
        && let Some(class) = storage::default_class(world.classes)
    {
        return Decision::Class(name(class).to_owned());
    }
    let waits = waited(claim, world.classes) && !world.has_consumer;
    if let Some(volume) = storage::best_match(claim, world.volumes, world.node, waits) {
        return Decision::Bind(volume.clone());
    }
    let wait = |reason, message: &str| Decision::Wait(Told::new(false, reason, message.to_owned()));
    let failed = |message: String| Decision::Wait(Told::new(true, "ProvisioningFailed", message));
    if waits {
        return wait(
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        );
    }
    let wanted = storage::class(claim);
    if wanted.is_empty() {
        return wait(
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        );
    }
    let Some(class) = class_of(claim, world.classes) else {
        return failed(format!("storageclass.storage.k8s.io {wanted:?} not found"));
    };
    match text(class, "/provisioner") {
        PROVISIONER if claim.pointer("/spec/selector").is_some_and(|s| !s.is_null()) => failed(
            "claim Selector is not supported: a new volume has no labels; leave the selector out".to_owned(),
        ),
        PROVISIONER => Decision::Provision(class.clone()),
        NO_PROVISIONER => wait(
            "FailedBinding",
            "no persistent volumes available for this claim, and its storage class makes none",
        ),
        other => wait(
            "ExternalProvisioning",
            &format!(
                "Waiting for a volume to be created either by the external provisioner '{other}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
            ),
        ),
    }
}

/// Whether a pod needs its claims: it has not ended and is not being deleted.
pub fn consumes(pod: &Value) -> bool {
    !is_deleting(pod) && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

/// Whether a pod keeps a claim from being deleted: as upstream, every pod that has got beyond waiting for its claims,
/// until it is gone.
pub fn holds(pod: &Value) -> bool {
    let placed = condition(&pod["status"], "PodScheduled");
    placed.is_none_or(|condition| condition["status"] != "False")
}

/// The volume, taken for the claim.
pub fn taken(mut volume: Value, claim: &Value) -> Value {
    let reference = &volume["spec"]["claimRef"];
    if text(reference, "/uid") == uid(claim) {
        return volume;
    }
    let named = storage::is_taken(&volume);
    let spec = &mut volume["spec"];
    spec["claimRef"] = json!({
        "kind": "PersistentVolumeClaim",
        "apiVersion": "v1",
        "namespace": claim["metadata"]["namespace"],
        "name": name(claim),
        "uid": uid(claim),
        "resourceVersion": claim["metadata"]["resourceVersion"],
    });
    if !named {
        set_annotation(&mut volume, BY_CONTROLLER, "yes");
    }
    volume
}

/// The claim, bound to the volume; `node` if it has waited for a pod there.
pub fn bound(mut claim: Value, volume: &Value, node: Option<&str>) -> Value {
    if text(&claim, "/spec/volumeName").is_empty() {
        claim["spec"]["volumeName"] = json!(name(volume));
        set_annotation(&mut claim, BY_CONTROLLER, "yes");
    }
    set_annotation(&mut claim, COMPLETED, "yes");
    if let Some(provisioner) = annotation(volume, PROVISIONED_BY) {
        for known in STORAGE_PROVISIONER {
            set_annotation(&mut claim, known, provisioner);
        }
        if let Some(node) = node {
            set_annotation(&mut claim, SELECTED_NODE, node);
        }
    }
    claim
}

/// `status` of a claim that is bound to the volume.
pub fn bound_status(claim: &Value, volume: &Value) -> Value {
    let mut status = claim["status"].clone();
    if !status.is_object() {
        status = json!({});
    }
    status["phase"] = json!("Bound");
    status["accessModes"] = volume["spec"]["accessModes"].clone();
    status["capacity"] = volume["spec"]["capacity"].clone();
    status
}

/// The volume that is made for a claim.
pub fn provisioned(claim: &Value, class: &Value, volume: &str, path: &Path, node: &str) -> Value {
    let mut made = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": volume, "annotations": {(PROVISIONED_BY): PROVISIONER}},
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": class["reclaimPolicy"],
            "storageClassName": storage::class(claim),
            "volumeMode": "Filesystem",
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
        "status": {"phase": "Pending"},
    });
    made = taken(made, claim);
    made
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
