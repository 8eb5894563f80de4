//! Validation of quotas, limit ranges, disruption budgets and leases.

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use crate::quantity::Quantity;
use crate::quota::CLASS_SUFFIX;
use crate::selector::LabelSelector;

/// Resources that a quota counts, beside `requests.*`, `limits.*` and `count/RESOURCE`.
const QUOTAS: [&str; 11] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
];
/// Scopes that a quota may have.
const SCOPES: [&str; 4] = ["BestEffort", "NotBestEffort", "NotTerminating", "Terminating"];

pub(super) fn quota(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec").child("hard");
    let hard = object.pointer("/spec/hard").and_then(Value::as_object);
    for (name, value) in hard.into_iter().flatten() {
        let counted = QUOTAS.contains(&name.as_str())
            || name == "services.nodeports"
            || ["requests.", "limits."]
                .iter()
                .any(|p| name.strip_prefix(p).is_some_and(|r| !r.is_empty()))
            || name.strip_prefix("count/").is_some_and(|r| !r.is_empty())
            || name
                .split_once(CLASS_SUFFIX)
                .is_some_and(|(_, what)| matches!(what, "requests.storage" | "persistentvolumeclaims"));
        if !counted {
            errors.invalid_text(&at.key(name), name, "must be a standard resource for quota");
        }
        amount(&at.key(name), value, errors);
    }
    for (index, scope) in object
        .get("spec")
        .map(|s| each(s, "scopes"))
        .into_iter()
        .flatten()
    {
        let scope = scope.as_str().unwrap_or_default();
        if !SCOPES.contains(&scope) {
            errors.unsupported(&Path::root("spec").child("scopes").index(index), scope, &SCOPES);
        }
    }
}

fn amount(at: &Path, value: &Value, errors: &mut Errors) -> Option<Quantity> {
    let quantity: Option<Quantity> = value.as_str().and_then(|t| t.parse().ok());
    match quantity {
        Some(quantity) if quantity.is_negative() => {
            errors.invalid(at, value, "must be greater than or equal to 0");
            None
        }
        other => other,
    }
}

pub(super) fn limit_range(object: &Value, errors: &mut Errors) {
    let root = Path::root("spec").child("limits");
    for (index, item) in object
        .get("spec")
        .map(|s| each(s, "limits"))
        .into_iter()
        .flatten()
    {
        let at = root.index(index);
        let kind = text(item, "type");
        if !matches!(kind, "Container" | "Pod" | "PersistentVolumeClaim") {
            errors.unsupported(
                &at.child("type"),
                kind,
                &["Container", "PersistentVolumeClaim", "Pod"],
            );
        }
        if kind == "Pod" {
            for field in ["default", "defaultRequest"] {
                if item
                    .get(field)
                    .and_then(Value::as_object)
                    .is_some_and(|m| !m.is_empty())
                {
                    errors.forbidden(
                        &at.child(field),
                        &format!("may not be specified when `type` is '{kind}'"),
                    );
                }
            }
        }
        ordered(&at, item, errors);
    }
}

/// min ≤ defaultRequest ≤ default ≤ max, for each resource.
fn ordered(at: &Path, item: &Value, errors: &mut Errors) {
    const ORDER: [&str; 4] = ["min", "defaultRequest", "default", "max"];
    let mut names: Vec<&String> = ORDER
        .iter()
        .filter_map(|f| item.get(*f)?.as_object())
        .flat_map(|m| m.keys())
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let mut lowest: Option<(&str, Quantity)> = None;
        for field in ORDER {
            let Some(value) = item.get(field).and_then(|m| m.get(name)) else {
                continue;
            };
            let at = at.child(field).key(name);
            let Some(quantity) = amount(&at, value, errors) else {
                continue;
            };
            if let Some((below, least)) = lowest
                && quantity < least
            {
                errors.invalid(
                    &at,
                    value,
                    &format!("must be greater than or equal to {below} value"),
                );
            }
            lowest = Some((field, quantity));
        }
    }
}

pub(super) fn disruption_budget(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let there = |field: &str| spec.get(field).is_some_and(|v| !v.is_null());
    if there("minAvailable") && there("maxUnavailable") {
        errors.invalid(
            &at,
            &json!({}),
            "minAvailable and maxUnavailable cannot be both set",
        );
    }
    for field in ["minAvailable", "maxUnavailable"] {
        let wrong = match spec.get(field) {
            Some(Value::Number(n)) => n.as_i64().is_none_or(|n| n < 0),
            Some(Value::String(text)) => text
                .strip_suffix('%')
                .and_then(|p| p.parse::<u32>().ok())
                .is_none_or(|p| p > 100),
            _ => false,
        };
        if wrong {
            let value = spec.get(field).unwrap_or(&Value::Null);
            errors.invalid(
                &at.child(field),
                value,
                "must be a whole number, or a percentage of at most 100% such as '50%'",
            );
        }
    }
    if let Some(policy) = spec.get("unhealthyPodEvictionPolicy") {
        errors.one_of(
            &at.child("unhealthyPodEvictionPolicy"),
            Some(policy),
            &["AlwaysAllow", "IfHealthyBudget"],
        );
    }
    if let Err(error) = LabelSelector::from_object(spec.get("selector")) {
        let selector = spec.get("selector").unwrap_or(&Value::Null);
        errors.invalid(&at.child("selector"), selector, &error.to_string());
    }
}

pub(super) fn lease(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if let Some(value) = spec.get("leaseDurationSeconds")
        && value.as_i64().is_none_or(|n| n <= 0)
    {
        errors.invalid(&at.child("leaseDurationSeconds"), value, "must be greater than 0");
    }
    errors.not_negative(&at.child("leaseTransitions"), spec.get("leaseTransitions"));
}
