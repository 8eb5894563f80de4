//! Validation of claims, volumes and classes (upstream `ValidatePersistentVolumeClaimSpec`,
//! `ValidatePersistentVolumeSpec`, `pkg/apis/storage/validation`).

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use super::names;
use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use crate::storage::PROVISIONER;

const MODES: [&str; 4] = [
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];
const ALONE: &str = "ReadWriteOncePod";
const IMMUTABLE: &str = "field is immutable";

pub(super) fn claim(object: &Value, errors: &mut Errors) {
    let null = Value::Null;
    claim_spec(&Path::root("spec"), object.get("spec").unwrap_or(&null), errors);
}

/// A claim's specification, of its own or in a template.
pub(super) fn claim_spec(at: &Path, spec: &Value, errors: &mut Errors) {
    modes(&at.child("accessModes"), spec, errors);
    if let Some(selector) = spec.get("selector").filter(|s| !s.is_null())
        && let Err(wrong) = LabelSelector::from_object(Some(selector))
    {
        errors.invalid(&at.child("selector"), selector, &wrong.to_string());
    }
    let place = at.child("resources").child("requests").key("storage");
    match spec.pointer("/resources/requests/storage") {
        None => errors.required(&place, ""),
        Some(amount) => positive(&place, amount, errors),
    }
    class_name(at, spec, errors);
    volume_mode(at, spec, errors);
}

fn modes(at: &Path, spec: &Value, errors: &mut Errors) {
    let all: Vec<&str> = each(spec, "accessModes")
        .filter_map(|(_, m)| m.as_str())
        .collect();
    if all.is_empty() {
        errors.required(at, "at least 1 access mode is required");
    }
    for mode in all.iter().filter(|mode| !MODES.contains(mode)) {
        errors.unsupported(at, mode, &MODES);
    }
    if all.contains(&ALONE) && all.iter().any(|mode| *mode != ALONE) {
        errors.forbidden(at, "may not use ReadWriteOncePod with other access modes");
    }
}

fn positive(at: &Path, amount: &Value, errors: &mut Errors) {
    let parsed = amount.as_str().and_then(|t| t.parse::<Quantity>().ok());
    if parsed.is_some_and(|q| q <= Quantity::ZERO) {
        errors.invalid(at, amount, "must be greater than zero");
    }
}

fn class_name(at: &Path, spec: &Value, errors: &mut Errors) {
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        for wrong in names::dns_subdomain(class) {
            errors.invalid_text(&at.child("storageClassName"), class, &wrong);
        }
    }
}

/// `Block` is refused by the table of fields, in a sentence of its own.
fn volume_mode(at: &Path, spec: &Value, errors: &mut Errors) {
    let mode = text(spec, "volumeMode");
    if !matches!(mode, "" | "Filesystem" | "Block") {
        errors.unsupported(&at.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
}

/// What of a claim may change: a bound one may ask for more, an unbound one may be told its class and volume once.
pub(super) fn claim_changed(object: &Value, old: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = |object: &Value| object.get("spec").cloned().unwrap_or_default();
    let (mut new, was) = (spec(object), spec(old));
    let asked = |spec: &Value| spec.pointer("/resources/requests/storage").cloned();
    let bound = text(object.get("status").unwrap_or(&Value::Null), "phase") == "Bound";
    let (before, after) = (asked(&was), asked(&new));
    if bound && let (Some(before), Some(place)) = (&before, new.pointer_mut("/resources/requests/storage")) {
        *place = before.clone();
    }
    for field in ["volumeName", "storageClassName"] {
        if was
            .get(field)
            .is_none_or(|v| v.is_null() || (field == "volumeName" && v == ""))
        {
            match was.get(field) {
                Some(value) => new[field] = value.clone(),
                None => drop(new.as_object_mut().and_then(|spec| spec.remove(field))),
            }
        }
    }
    if new != was {
        errors.forbidden(
            &at,
            "spec is immutable after creation except resources.requests for bound claims",
        );
    }
    let amount = |value: &Option<Value>| -> Option<Quantity> { value.as_ref()?.as_str()?.parse().ok() };
    let has: Option<Quantity> = object
        .pointer("/status/capacity/storage")
        .and_then(Value::as_str)
        .and_then(|t| t.parse().ok());
    if amount(&after) < amount(&before) && has.is_some_and(|has| amount(&after) < Some(has)) {
        let place = at.child("resources").child("requests").child("storage");
        errors.forbidden(&place, "field can not be less than status.capacity");
    }
}

pub(super) fn volume(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    modes(&at.child("accessModes"), spec, errors);
    let place = at.child("capacity");
    match spec.get("capacity").and_then(Value::as_object) {
        Some(map) if map.contains_key("storage") => positive(&place.key("storage"), &map["storage"], errors),
        Some(map) if !map.is_empty() => {
            let name = map.keys().next().map(String::as_str).unwrap_or_default();
            errors.unsupported(&place, name, &["storage"]);
        }
        _ => errors.required(&place, ""),
    }
    source(&at, spec, errors);
    let policy = text(spec, "persistentVolumeReclaimPolicy");
    if policy == "Recycle" {
        let told = "not supported here: nobody empties a folder in place; use Retain or Delete";
        errors.forbidden(&at.child("persistentVolumeReclaimPolicy"), told);
    } else if !matches!(policy, "" | "Retain" | "Delete") {
        let place = at.child("persistentVolumeReclaimPolicy");
        errors.unsupported(&place, policy, &["Delete", "Retain"]);
    }
    class_name(&at, spec, errors);
    volume_mode(&at, spec, errors);
    if let Some(claim) = spec.get("claimRef").filter(|c| !c.is_null()) {
        for field in ["name", "namespace"] {
            if text(claim, field).is_empty() {
                errors.required(&at.child("claimRef").child(field), "");
            }
        }
    }
    affinity(&at.child("nodeAffinity"), spec, errors);
}

/// Exactly one source; those that are not served are refused by the table of fields.
fn source(at: &Path, spec: &Value, errors: &mut Errors) {
    const OTHER: [&str; 12] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
        "hostPath",
        "local",
        "",
    ];
    let foreign = spec
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, value)| !OTHER.contains(&name.as_str()) && !value.is_null());
    let present = |name: &str| spec.get(name).is_some_and(|v| !v.is_null());
    let mut count = foreign.count();
    for name in ["hostPath", "local"] {
        if !present(name) {
            continue;
        }
        count += 1;
        let place = at.child(name);
        if count > 1 {
            errors.forbidden(&place, "may not specify more than 1 volume type");
        }
        if name == "hostPath" {
            super::volume::host_path(&place, &spec[name], errors);
        } else {
            local(&place, text(&spec[name], "path"), errors);
        }
    }
    if count == 0 {
        errors.required(at, "must specify a volume type");
    }
    if present("local") && spec.pointer("/nodeAffinity/required").is_none_or(Value::is_null) {
        errors.required(&at.child("nodeAffinity"), "Local volume requires node affinity");
    }
}

fn local(at: &Path, path: &str, errors: &mut Errors) {
    if path.is_empty() {
        errors.required(&at.child("path"), "");
    } else if !path.starts_with('/') {
        errors.invalid_text(&at.child("path"), path, "must be an absolute path");
    } else if path.split('/').any(|part| part == "..") {
        errors.invalid_text(&at.child("path"), path, "must not contain '..'");
    }
}

fn affinity(at: &Path, spec: &Value, errors: &mut Errors) {
    let Some(given) = spec.get("nodeAffinity").filter(|a| !a.is_null()) else {
        return;
    };
    let at = at.child("required");
    let Some(required) = given.get("required").filter(|r| !r.is_null()) else {
        errors.required(&at, "must specify required node constraints");
        return;
    };
    let place = at.child("nodeSelectorTerms");
    if each(required, "nodeSelectorTerms").next().is_none() {
        errors.required(&place, "must have at least one node selector term");
    }
    for (index, term) in each(required, "nodeSelectorTerms") {
        let at = place.index(index);
        for list in ["matchExpressions", "matchFields"] {
            for (index, requirement) in each(term, list) {
                self::requirement(&at.child(list).index(index), requirement, errors);
            }
        }
    }
}

fn requirement(at: &Path, requirement: &Value, errors: &mut Errors) {
    let operator = text(requirement, "operator");
    let values = each(requirement, "values").count();
    let place = at.child("values");
    match operator {
        "In" | "NotIn" if values == 0 => {
            errors.required(&place, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if values > 0 => {
            errors.forbidden(
                &place,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "Gt" | "Lt" if values != 1 => {
            errors.required(
                &place,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => errors.unsupported(
            &at.child("operator"),
            operator,
            &["DoesNotExist", "Exists", "Gt", "In", "Lt", "NotIn"],
        ),
    }
    for wrong in names::qualified_name(text(requirement, "key")) {
        errors.invalid_text(&at.child("key"), text(requirement, "key"), &wrong);
    }
}

/// The folder of a volume stays the one that it is.
pub(super) fn volume_changed(object: &Value, old: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let member = |object: &Value, name: &str| object.pointer(&format!("/spec/{name}")).cloned();
    if ["hostPath", "local"]
        .iter()
        .any(|source| member(object, source) != member(old, source))
    {
        let told = "spec.persistentvolumesource is immutable after creation";
        errors.forbidden(&at.child("persistentvolumesource"), told);
    }
    for field in ["volumeMode", "nodeAffinity"] {
        let (new, was) = (member(object, field), member(old, field));
        if new != was && !(field == "nodeAffinity" && was.is_none()) {
            errors.invalid(&at.child(field), &new.unwrap_or_default(), IMMUTABLE);
        }
    }
}

pub(super) fn class(object: &Value, errors: &mut Errors) {
    let provisioner = text(object, "provisioner");
    let at = Path::root("provisioner");
    if provisioner.is_empty() {
        errors.required(&at, "");
    } else {
        for wrong in names::qualified_name(&provisioner.to_lowercase()) {
            errors.invalid_text(&at, provisioner, &wrong);
        }
    }
    let parameters = object.get("parameters").and_then(Value::as_object);
    if let Some(name) = parameters.and_then(|p| p.keys().next())
        && provisioner == PROVISIONER
    {
        let told = format!("the provisioner {PROVISIONER} has no parameters; leave them out");
        errors.invalid(&Path::root("parameters").key(name), &json!(name), &told);
    }
    for (field, known) in [
        ("reclaimPolicy", ["Delete", "Retain"]),
        ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"]),
    ] {
        errors.one_of(&Path::root(field), object.get(field), &known);
    }
}

pub(super) fn class_changed(object: &Value, old: &Value, errors: &mut Errors) {
    let empty = |v: &Value| v.is_null() || v.as_object().is_some_and(serde_json::Map::is_empty);
    for (field, told) in [
        ("parameters", "updates to parameters are forbidden."),
        ("provisioner", "updates to provisioner are forbidden."),
        ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
        ("volumeBindingMode", IMMUTABLE),
    ] {
        let (new, was) = (&object[field], &old[field]);
        if new != was && !(empty(new) && empty(was)) {
            errors.forbidden(&Path::root(field), told);
        }
    }
}
