//! Validation of Deployment and ReplicaSet, and of what all workloads of an endless kind have.

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use super::{Node, metadata, names, pod};
use crate::selector::LabelSelector;

pub(super) fn deployment(object: &Value, node: &Node, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    errors.not_negative(&at.child("replicas"), spec.get("replicas"));
    common(&at, spec, &SETS, errors, |at, spec, errors| {
        pod::validate(at, spec, node, errors);
    });
    strategy(
        &at.child("strategy"),
        spec.get("strategy").unwrap_or(&Value::Null),
        errors,
    );
    errors.not_negative(
        &at.child("revisionHistoryLimit"),
        spec.get("revisionHistoryLimit"),
    );
    errors.not_negative(
        &at.child("progressDeadlineSeconds"),
        spec.get("progressDeadlineSeconds"),
    );
    let number = |name: &str| spec.get(name).and_then(Value::as_i64);
    if let Some(deadline) = number("progressDeadlineSeconds")
        && deadline <= number("minReadySeconds").unwrap_or(0)
    {
        let path = at.child("progressDeadlineSeconds");
        errors.invalid(&path, &json!(deadline), "must be greater than minReadySeconds");
    }
}

pub(super) fn replica_set(object: &Value, node: &Node, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    errors.not_negative(&at.child("replicas"), spec.get("replicas"));
    common(&at, spec, &SETS, errors, |at, spec, errors| {
        pod::validate(at, spec, node, errors);
    });
}

/// How messages name a kind.
pub(super) struct Words {
    /// In what is said of its selector.
    pub(super) selector: &'static str,
    /// In what is said of its template.
    pub(super) template: &'static str,
}

const SETS: Words = Words {
    selector: "deployment",
    template: "ReplicaSet",
};

/// Checks minReadySeconds, selector and template; `pod_spec` checks the specification of the template's pods.
pub(super) fn common(
    at: &Path,
    spec: &Value,
    words: &Words,
    errors: &mut Errors,
    pod_spec: impl FnOnce(&Path, &Value, &mut Errors),
) {
    errors.not_negative(&at.child("minReadySeconds"), spec.get("minReadySeconds"));
    let selector = selector(&at.child("selector"), spec.get("selector"), words, errors);
    let Some(template) = spec.get("template") else {
        errors.required(&at.child("template"), "");
        return;
    };
    let at = at.child("template");
    let labels = template.pointer("/metadata/labels");
    metadata::labels(&at.child("metadata").child("labels"), labels, errors);
    if selector.is_some_and(|s| !s.matches_object(template)) {
        let shown = labels.cloned().unwrap_or_else(|| json!({}));
        let path = at.child("metadata").child("labels");
        errors.invalid(&path, &shown, "`selector` does not match template `labels`");
    }
    let at = at.child("spec");
    let inner = template.get("spec").unwrap_or(&Value::Null);
    pod_spec(&at, inner, errors);
    if text(inner, "restartPolicy") != "Always" && !text(inner, "restartPolicy").is_empty() {
        errors.unsupported(
            &at.child("restartPolicy"),
            text(inner, "restartPolicy"),
            &["Always"],
        );
    }
    if inner.get("activeDeadlineSeconds").is_some() {
        let told = format!("activeDeadlineSeconds in {} is not Supported", words.template);
        errors.forbidden(&at.child("activeDeadlineSeconds"), &told);
    }
}

/// Checks a selector; `None` if there is no usable one.
fn selector(
    at: &Path,
    selector: Option<&Value>,
    words: &Words,
    errors: &mut Errors,
) -> Option<LabelSelector> {
    let Some(selector) = selector else {
        errors.required(at, "");
        return None;
    };
    let before = errors.len();
    metadata::labels(&at.child("matchLabels"), selector.get("matchLabels"), errors);
    for (index, term) in each(selector, "matchExpressions") {
        let at = at.child("matchExpressions").index(index);
        let values = term.get("values").and_then(Value::as_array).map_or(0, Vec::len);
        match text(term, "operator") {
            "In" | "NotIn" if values == 0 => {
                errors.required(
                    &at.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if values > 0 => {
                errors.forbidden(
                    &at.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid_text(&at.child("operator"), other, "not a valid selector operator"),
        }
        for wrong in names::qualified_name(text(term, "key")) {
            errors.invalid_text(&at.child("key"), text(term, "key"), &wrong);
        }
    }
    let empty = ["matchLabels", "matchExpressions"]
        .iter()
        .all(|name| match selector.get(*name) {
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            _ => true,
        });
    if empty {
        let told = format!("empty selector is invalid for {}", words.selector);
        errors.invalid(at, selector, &told);
    }
    if errors.len() > before {
        None
    } else {
        LabelSelector::from_object(Some(selector)).ok()
    }
}

fn strategy(at: &Path, strategy: &Value, errors: &mut Errors) {
    errors.one_of(
        &at.child("type"),
        strategy.get("type"),
        &["Recreate", "RollingUpdate"],
    );
    let rolling = strategy.get("rollingUpdate");
    if text(strategy, "type") == "Recreate" {
        if rolling.is_some() {
            errors.forbidden(
                &at.child("rollingUpdate"),
                "may not be specified when strategy `type` is 'Recreate'",
            );
        }
        return;
    }
    let at = at.child("rollingUpdate");
    let Some(rolling) = rolling else { return };
    let unavailable = int_or_percent(&at.child("maxUnavailable"), rolling.get("maxUnavailable"), errors);
    let surge = int_or_percent(&at.child("maxSurge"), rolling.get("maxSurge"), errors);
    at_most_all(&at.child("maxUnavailable"), rolling.get("maxUnavailable"), errors);
    if unavailable == Some(0) && surge == Some(0) {
        let value = rolling.get("maxUnavailable").cloned().unwrap_or_default();
        errors.invalid(
            &at.child("maxUnavailable"),
            &value,
            "may not be 0 when `maxSurge` is 0",
        );
    }
}

/// The number in `3` or `25%`; an error is recorded for anything else.
pub(super) fn int_or_percent(at: &Path, value: Option<&Value>, errors: &mut Errors) -> Option<i64> {
    match value? {
        Value::String(text) => {
            let number = text
                .strip_suffix('%')
                .and_then(|n| n.parse::<i64>().ok())
                .filter(|n| *n >= 0);
            if number.is_none() {
                errors.invalid_text(at, text, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
            }
            number
        }
        value => {
            errors.not_negative(at, Some(value));
            value.as_i64().filter(|n| *n >= 0)
        }
    }
}

/// A percentage of pods is not more than all of them.
pub(super) fn at_most_all(at: &Path, value: Option<&Value>, errors: &mut Errors) {
    if let Some(value) = value
        && let Some(text) = value.as_str()
        && text.trim_end_matches('%').parse::<i64>().is_ok_and(|n| n > 100)
    {
        errors.invalid(at, value, "must not be greater than 100%");
    }
}
