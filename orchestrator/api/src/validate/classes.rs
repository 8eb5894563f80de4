//! Validation of RuntimeClass and PriorityClass.

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use super::names;
use crate::priority::{HIGHEST_USER, SYSTEM_PREFIX, system_value};
use crate::quantity::Quantity;

const IMMUTABLE: &str = "field is immutable";
/// What a taint does to pods that do not tolerate it.
pub(super) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(super) fn runtime_class(object: &Value, errors: &mut Errors) {
    let handler = text(object, "handler");
    for wrong in names::dns_label(handler) {
        errors.invalid_text(&Path::root("handler"), handler, &wrong);
    }
    let fixed = Path::root("overhead").child("podFixed");
    let amounts = object.pointer("/overhead/podFixed").and_then(Value::as_object);
    for (name, amount) in amounts.into_iter().flatten() {
        let quantity: Option<Quantity> = amount.as_str().and_then(|t| t.parse().ok());
        if quantity.is_some_and(Quantity::is_negative) {
            errors.invalid(&fixed.key(name), amount, "must be greater than or equal to 0");
        }
    }
    let scheduling = Path::root("scheduling");
    let selector = object
        .pointer("/scheduling/nodeSelector")
        .and_then(Value::as_object);
    for (key, value) in selector.into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        for wrong in names::qualified_name(key)
            .into_iter()
            .chain(names::label_value(value))
        {
            errors.invalid_text(&scheduling.child("nodeSelector").key(key), value, &wrong);
        }
    }
    let null = Value::Null;
    tolerations(
        &scheduling.child("tolerations"),
        object.get("scheduling").unwrap_or(&null),
        errors,
    );
}

/// `tolerations` of a pod or of a RuntimeClass.
pub(super) fn tolerations(at: &Path, holder: &Value, errors: &mut Errors) {
    for (index, one) in each(holder, "tolerations") {
        let at = at.index(index);
        let (key, operator, effect) = (text(one, "key"), text(one, "operator"), text(one, "effect"));
        for wrong in (!key.is_empty())
            .then(|| names::qualified_name(key))
            .into_iter()
            .flatten()
        {
            errors.invalid_text(&at.child("key"), key, &wrong);
        }
        if key.is_empty() && operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid_text(&at.child("operator"), operator, why);
        }
        if one.get("tolerationSeconds").is_some_and(|s| !s.is_null()) && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid_text(&at.child("effect"), effect, why);
        }
        match operator {
            "" | "Equal" => {
                for wrong in names::label_value(text(one, "value")) {
                    errors.invalid_text(&at.child("operator"), text(one, "value"), &wrong);
                }
            }
            "Exists" if !text(one, "value").is_empty() => {
                let why = "value must be empty when `operator` is 'Exists'";
                errors.invalid_text(&at.child("operator"), text(one, "value"), why);
            }
            "Exists" => {}
            other => errors.unsupported(&at.child("operator"), other, &["Equal", "Exists"]),
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            errors.unsupported(&at.child("effect"), effect, &EFFECTS);
        }
    }
}

pub(super) fn priority_class(object: &Value, errors: &mut Errors) {
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let value = object.get("value").and_then(Value::as_i64).unwrap_or(0);
    if name.starts_with(SYSTEM_PREFIX) {
        if system_value(name) != Some(value) {
            let why = "priority class names with 'system-' prefix are reserved for system use only";
            errors.forbidden(&Path::root("metadata").child("name"), why);
        }
    } else if value > HIGHEST_USER {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST_USER}");
        errors.forbidden(&Path::root("value"), &why);
    }
    if let Some(policy) = object.get("preemptionPolicy") {
        errors.one_of(
            &Path::root("preemptionPolicy"),
            Some(policy),
            &["PreemptLowerPriority", "Never"],
        );
    }
}

/// What of a class is fixed once pods may have it.
pub(super) fn changed(fields: &[&str], object: &Value, old: &Value, errors: &mut Errors) {
    for field in fields {
        let (new, was) = (object.get(*field), old.get(*field));
        if new != was {
            errors.invalid(&Path::root(field), new.unwrap_or(&json!(null)), IMMUTABLE);
        }
    }
}
