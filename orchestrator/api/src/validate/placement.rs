//! Validation of where a pod wants to run.

use serde_json::Value;

use super::field::{Errors, Path, each, text};
use super::{Node, names};
use crate::placement::{self, OPERATORS};

/// Checks what is asked for, whatever the node is.
pub(super) fn form(at: &Path, spec: &Value, errors: &mut Errors) {
    for (key, value) in selected(spec) {
        let at = at.child("nodeSelector").key(key);
        for wrong in names::qualified_name(key)
            .into_iter()
            .chain(names::label_value(value))
        {
            errors.invalid_text(&at, value, &wrong);
        }
    }
    if let Some(required) = placement::required(spec) {
        node_selector(&affinity(at), required, errors);
    }
    super::classes::tolerations(&at.child("tolerations"), spec, errors);
    for field in ["runtimeClassName", "priorityClassName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            for wrong in names::dns_subdomain(name) {
                errors.invalid_text(&at.child(field), name, &wrong);
            }
        }
    }
    if let Some(policy) = spec.get("preemptionPolicy") {
        let known = ["PreemptLowerPriority", "Never"];
        errors.one_of(&at.child("preemptionPolicy"), Some(policy), &known);
    }
    let scheduler = text(spec, "schedulerName");
    if !scheduler.is_empty() && scheduler != "default-scheduler" {
        errors.unsupported(&at.child("schedulerName"), scheduler, &["default-scheduler"]);
    }
    let system = text(spec.get("os").unwrap_or(&Value::Null), "name");
    if !system.is_empty() && system != "linux" {
        errors.unsupported(&at.child("os").child("name"), system, &["linux"]);
    }
}

/// What would keep the pod from ever running on the one node there is.
pub(super) fn fits(at: &Path, spec: &Value, node: &Node, errors: &mut Errors) {
    let named = text(spec, "nodeName");
    if !named.is_empty() && named != node.name {
        let detail = format!("there is one node, named {:?}: leave the field out", node.name);
        errors.invalid_text(&at.child("nodeName"), named, &detail);
    }
    for (key, wanted) in selected(spec) {
        let found = match node.labels.get(key) {
            Some(label) if label == wanted => continue,
            Some(label) => format!("{label:?}"),
            None => "no such label".to_owned(),
        };
        let detail = format!(
            "the one node, {:?}, has {found}: the pod could never run",
            node.name
        );
        errors.invalid_text(&at.child("nodeSelector").key(key), wanted, &detail);
    }
    if let Some(required) = placement::required(spec)
        && !placement::matches(required, node)
    {
        let detail = format!(
            "none of the terms holds for the one node, {:?}: the pod could never run",
            node.name
        );
        let at = affinity(at).child("nodeSelectorTerms");
        errors.invalid(&at, &required["nodeSelectorTerms"], &detail);
    }
}

fn affinity(at: &Path) -> Path {
    at.child("affinity")
        .child("nodeAffinity")
        .child("requiredDuringSchedulingIgnoredDuringExecution")
}

fn selected(spec: &Value) -> impl Iterator<Item = (&String, &str)> {
    let labels = spec.get("nodeSelector").and_then(Value::as_object);
    labels
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
}

/// Upstream `ValidateNodeSelector`.
fn node_selector(at: &Path, selector: &Value, errors: &mut Errors) {
    let at = at.child("nodeSelectorTerms");
    if each(selector, "nodeSelectorTerms").next().is_none() {
        errors.required(&at, "must have at least one node selector term");
    }
    for (index, term) in each(selector, "nodeSelectorTerms") {
        let at = at.index(index);
        for (index, one) in each(term, "matchExpressions") {
            let at = at.child("matchExpressions").index(index);
            requirement(&at, one, errors);
            for wrong in names::qualified_name(text(one, "key")) {
                errors.invalid_text(&at.child("key"), text(one, "key"), &wrong);
            }
        }
        for (index, one) in each(term, "matchFields") {
            field(&at.child("matchFields").index(index), one, errors);
        }
    }
}

fn requirement(at: &Path, requirement: &Value, errors: &mut Errors) {
    let count = each(requirement, "values").count();
    let at_values = at.child("values");
    match text(requirement, "operator") {
        "In" | "NotIn" if count == 0 => {
            errors.required(&at_values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if count > 0 => {
            errors.forbidden(
                &at_values,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "Gt" | "Lt" if count != 1 => {
            errors.required(
                &at_values,
                "must be specified single value when `operator` is 'Lt' or 'Gt'",
            );
        }
        known if OPERATORS.contains(&known) => {}
        other => errors.invalid_text(&at.child("operator"), other, "not a valid selector operator"),
    }
}

/// A requirement on a field of the node: its name is the only one.
fn field(at: &Path, requirement: &Value, errors: &mut Errors) {
    let operator = text(requirement, "operator");
    if !matches!(operator, "In" | "NotIn") {
        errors.invalid_text(&at.child("operator"), operator, "not a valid selector operator");
    } else if each(requirement, "values").count() != 1 {
        errors.required(
            &at.child("values"),
            "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
        );
    }
    let key = text(requirement, "key");
    if key != "metadata.name" {
        errors.invalid_text(&at.child("key"), key, "not a valid field selector key");
    }
}
