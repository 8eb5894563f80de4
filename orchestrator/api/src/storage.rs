//! PURE: which volume fits a claim, which class is the default, which node a volume is for.
//!
//! Source: Kubernetes documentation "Persistent Volumes", "Storage Classes"; upstream
//! `pkg/controller/volume/persistentvolume` (index.go, pv_controller.go), `component-helpers/storage`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use crate::validate::Node;

/// Berth's own provisioner: it makes folders.
pub const PROVISIONER: &str = "node.berth.dev/folder";
/// The class that is made when there is none.
pub const STANDARD_CLASS: &str = "standard";
/// Marks a default class; the second is what it was called in its beta.
const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
/// Where classes were named before the field was.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(name)?.as_str()
}

/// Whether a claim says anything about its class, be it that it wants none.
pub fn names_class(claim: &Value) -> bool {
    annotation(claim, CLASS).is_some()
        || claim
            .pointer("/spec/storageClassName")
            .is_some_and(|class| !class.is_null())
}

/// The class of a claim or volume; empty if it has none.
pub fn class(object: &Value) -> &str {
    annotation(object, CLASS).unwrap_or_else(|| text(object, "/spec/storageClassName"))
}

/// Whether a class is marked as the default.
pub fn is_default(class: &Value) -> bool {
    DEFAULT_CLASS
        .iter()
        .any(|name| annotation(class, name) == Some("true"))
}

/// The default class: the newest of those that are marked, and of equally new ones the first by name.
pub fn default_class(classes: &[Value]) -> Option<&Value> {
    classes.iter().filter(|class| is_default(class)).min_by(|a, b| {
        let age = |class: &Value| text(class, "/metadata/creationTimestamp").to_owned();
        let name = |class: &Value| text(class, "/metadata/name").to_owned();
        age(b).cmp(&age(a)).then_with(|| name(a).cmp(&name(b)))
    })
}

/// Whether a class binds claims only when a pod needs them.
pub fn waits_for_consumer(class: &Value) -> bool {
    text(class, "/volumeBindingMode") == "WaitForFirstConsumer"
}

/// `ReadWriteOnce,ReadOnlyMany` as tables show it: `RWO,ROX`.
pub fn short_modes(modes: Option<&Value>) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let modes: Vec<&str> = modes
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let shown: Vec<&str> = SHORT
        .iter()
        .filter(|(long, _)| modes.contains(long))
        .map(|(_, short)| *short)
        .collect();
    shown.join(",")
}

/// What a claim asks for, or what a volume has.
pub fn size(object: &Value) -> Option<Quantity> {
    let asked = object
        .pointer("/spec/resources/requests/storage")
        .or_else(|| object.pointer("/spec/capacity/storage"));
    asked.and_then(Value::as_str)?.parse().ok()
}

fn mode(object: &Value) -> &str {
    match text(object, "/spec/volumeMode") {
        "" => "Filesystem",
        mode => mode,
    }
}

fn modes(object: &Value) -> Vec<&str> {
    let list = object.pointer("/spec/accessModes").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether a volume is for this claim by its `claimRef`: of the name, and of the uid if it has one.
pub fn is_for(volume: &Value, claim: &Value) -> bool {
    let uid = text(volume, "/spec/claimRef/uid");
    text(volume, "/spec/claimRef/name") == text(claim, "/metadata/name")
        && text(volume, "/spec/claimRef/namespace") == text(claim, "/metadata/namespace")
        && (uid.is_empty() || uid == text(claim, "/metadata/uid"))
}

/// Whether a volume is for some claim.
pub fn is_taken(volume: &Value) -> bool {
    volume.pointer("/spec/claimRef").is_some_and(|r| !r.is_null())
}

/// Why a claim cannot be bound to the volume that it names; upstream's words.
pub fn misfit(claim: &Value, volume: &Value) -> Option<String> {
    let name = text(volume, "/metadata/name");
    if size(claim) > size(volume) {
        Some("requested PV is too small".to_owned())
    } else if class(claim) != class(volume) {
        Some("storageClassName does not match".to_owned())
    } else if mode(claim) != mode(volume) {
        Some("incompatible volumeMode".to_owned())
    } else if !modes(claim).iter().all(|mode| modes(volume).contains(mode)) {
        Some("incompatible accessMode".to_owned())
    } else if is_deleting(volume) {
        Some(format!("volume {name} is being deleted"))
    } else {
        None
    }
}

fn is_deleting(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|time| !time.is_null())
}

/// The volume that fits a claim best: one that is meant for it, else the one with the fewest access modes more than
/// asked for, the smallest, the first by name. With `reserved` only those that are meant for it count: the claim waits
/// for its first pod.
pub fn best_match<'a>(claim: &Value, volumes: &'a [Value], node: &Node, reserved: bool) -> Option<&'a Value> {
    let fits = |volume: &&Value| misfit(claim, volume).is_none();
    let meant = volumes
        .iter()
        .find(|v| is_taken(v) && is_for(v, claim) && fits(v));
    if meant.is_some() || reserved {
        return meant;
    }
    let selector = claim.pointer("/spec/selector").filter(|s| !s.is_null());
    let selector = selector.map(|s| LabelSelector::from_object(Some(s)));
    volumes
        .iter()
        .filter(|volume| !is_taken(volume) && text(volume, "/status/phase") == "Available")
        .filter(fits)
        .filter(|volume| reaches(volume, node))
        .filter(|volume| match &selector {
            None => true,
            Some(parsed) => parsed.as_ref().is_ok_and(|s| s.matches_object(volume)),
        })
        .min_by(|a, b| {
            let rank = |v: &Value| (modes(v).len(), size(v), text(v, "/metadata/name").to_owned());
            rank(a).cmp(&rank(b))
        })
}

/// Whether a volume can be used on the node: `nodeAffinity.required`.
pub fn reaches(volume: &Value, node: &Node) -> bool {
    let Some(required) = volume
        .pointer("/spec/nodeAffinity/required")
        .filter(|r| !r.is_null())
    else {
        return true;
    };
    let terms = required.get("nodeSelectorTerms").and_then(Value::as_array);
    terms.into_iter().flatten().any(|term| is_term_met(term, node))
}

/// A term holds if all its requirements do; one without any never holds.
fn is_term_met(term: &Value, node: &Node) -> bool {
    let fields = BTreeMap::from([("metadata.name".to_owned(), node.name.clone())]);
    let list = |name: &str| term.get(name).and_then(Value::as_array).into_iter().flatten();
    let mut any = false;
    let mut all = true;
    for (requirements, values) in [
        (list("matchExpressions"), &node.labels),
        (list("matchFields"), &fields),
    ] {
        for requirement in requirements {
            any = true;
            all &= is_requirement_met(requirement, values);
        }
    }
    any && all
}

fn is_requirement_met(requirement: &Value, labels: &BTreeMap<String, String>) -> bool {
    let found = labels.get(text(requirement, "/key"));
    let values: Vec<&str> = requirement["values"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let compared = || -> Option<std::cmp::Ordering> {
        let own: i64 = found?.parse().ok()?;
        let other: i64 = values.first()?.parse().ok()?;
        Some(own.cmp(&other))
    };
    match text(requirement, "/operator") {
        "In" => found.is_some_and(|v| values.contains(&v.as_str())),
        "NotIn" => found.is_none_or(|v| !values.contains(&v.as_str())),
        "Exists" => found.is_some(),
        "DoesNotExist" => found.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

/// The claims that a pod uses: name of the volume, name of the claim, and whether the claim is the pod's own
/// (a volume of type ephemeral).
pub fn claims_of(pod: &Value) -> Vec<(String, String, bool)> {
    let volumes = pod.pointer("/spec/volumes").and_then(Value::as_array);
    volumes
        .into_iter()
        .flatten()
        .filter_map(|volume| {
            let name = text(volume, "/name").to_owned();
            if let Some(claim) = volume.pointer("/persistentVolumeClaim/claimName") {
                return Some((name, claim.as_str()?.to_owned(), false));
            }
            volume.get("ephemeral").filter(|e| !e.is_null())?;
            let claim = ephemeral_name(text(pod, "/metadata/name"), &name);
            Some((name, claim, true))
        })
        .collect()
}

/// The name of the claim of a pod's ephemeral volume.
pub fn ephemeral_name(pod: &str, volume: &str) -> String {
    format!("{pod}-{volume}")
}

/// Whether a claim was made for this pod's ephemeral volume.
pub fn is_own(claim: &Value, pod_uid: &str) -> bool {
    let owners = claim
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    owners
        .into_iter()
        .flatten()
        .any(|o| o["controller"] == true && o["uid"] == pod_uid)
}

#[cfg(test)]
mod tests;
