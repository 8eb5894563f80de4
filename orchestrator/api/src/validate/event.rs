//! Validation of Event (upstream `pkg/apis/core/validation/events.go`): as core/v1 always had it, and the stricter rules
//! for who writes by events.k8s.io/v1.

use serde_json::Value;

use super::field::{Errors, Path, text};
use super::names;
use crate::status::Cause;

/// Longest `reportingInstance`, `action` and `reason`, in bytes.
const WORD: usize = 128;
/// Longest message, in bytes.
const NOTE: usize = 1024;

/// The rules for every event.
pub(super) fn event(object: &Value, errors: &mut Errors) {
    let place = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (involved, own) = (place("/involvedObject/namespace"), place("/metadata/namespace"));
    let old_form = text(object, "eventTime").is_empty();
    // Events of cluster-wide objects live in `default`; those of the newer form also in `kube-system`.
    let fits = match (involved.is_empty(), old_form) {
        (true, true) => own == "default",
        (true, false) => own == "default" || own == "kube-system",
        (false, true) => own == involved,
        (false, false) => true,
    };
    if !fits {
        let at = Path::root("involvedObject").child("namespace");
        errors.invalid_text(&at, involved, "does not match event.namespace");
    }
    if !old_form {
        newer(object, errors);
    }
}

/// What an event with an `eventTime` must say.
fn newer(object: &Value, errors: &mut Errors) {
    let controller = text(object, "reportingComponent");
    let at = Path::root("reportingController");
    if controller.is_empty() {
        errors.required(&at, "");
    } else {
        for wrong in names::qualified_name(controller) {
            errors.invalid_text(&at, controller, &wrong);
        }
    }
    for (field, limit) in [
        ("reportingInstance", WORD),
        ("action", WORD),
        ("reason", WORD),
        ("message", NOTE),
    ] {
        let said = text(object, field);
        if said.is_empty() && field != "message" {
            errors.required(&Path::root(field), "");
        } else if said.len() > limit {
            let why = format!("can have at most {limit} characters");
            errors.invalid_text(&Path::root(field), "", &why);
        }
    }
}

/// The rules for who creates (`old` is none) or changes an event by events.k8s.io/v1. Both are in their core/v1 form.
pub fn strict_event(object: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut errors = Errors::default();
    match old {
        None => created(object, &mut errors),
        Some(old) => changed(object, old, &mut errors),
    }
    errors.into_causes()
}

fn is_unset(object: &Value, field: &str) -> bool {
    match object.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(Value::Object(members)) => members.values().all(|v| v.is_null() || v == ""),
        Some(_) => false,
    }
}

fn created(object: &Value, errors: &mut Errors) {
    series(object, errors);
    if is_unset(object, "eventTime") {
        errors.required(&Path::root("eventTime"), "");
    }
    let kind = text(object, "type");
    if kind != "Normal" && kind != "Warning" {
        errors.invalid_text(&Path::root("type"), "", &format!("has invalid value: {kind}"));
    }
    for field in ["firstTimestamp", "lastTimestamp", "count", "source"] {
        if !is_unset(object, field) {
            errors.invalid_text(&Path::root(field), "", "needs to be unset");
        }
    }
}

/// Only the series goes on.
fn changed(object: &Value, old: &Value, errors: &mut Errors) {
    let same = |field: &str| {
        object.get(field) == old.get(field) || (is_unset(object, field) && is_unset(old, field))
    };
    if !same("series") {
        series(object, errors);
    }
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "eventTime",
        "action",
        "related",
        "reportingComponent",
        "reportingInstance",
    ] {
        if !same(field) {
            let value = object.get(field).unwrap_or(&Value::Null);
            errors.invalid(&Path::root(field), value, "field is immutable");
        }
    }
}

fn series(object: &Value, errors: &mut Errors) {
    let at = Path::root("series");
    let Some(series) = object.get("series").filter(|s| !s.is_null()) else {
        return;
    };
    if series["count"].as_i64().unwrap_or(0) < 2 {
        errors.invalid_text(&at.child("count"), "", "should be at least 2");
    }
    if is_unset(series, "lastObservedTime") {
        errors.required(&at.child("lastObservedTime"), "");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(causes: &[Cause]) -> Vec<&str> {
        causes.iter().map(|cause| cause.field.as_str()).collect()
    }

    fn good() -> Value {
        json!({
            "metadata": {"name": "e", "namespace": "d"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "involvedObject": {"kind": "Pod", "namespace": "d", "name": "p"}, "type": "Normal", "reason": "Done",
            "action": "Doing", "reportingComponent": "example.com/c", "reportingInstance": "c-1", "message": "m",
        })
    }

    fn usual(object: &Value) -> Vec<Cause> {
        let mut errors = Errors::default();
        event(object, &mut errors);
        errors.into_causes()
    }

    #[test]
    fn both_forms() {
        assert!(usual(&good()).is_empty() && strict_event(&good(), None).is_empty());
        let old = json!({"metadata": {"namespace": "d"}, "involvedObject": {"namespace": "d"}});
        assert!(usual(&old).is_empty());
        let elsewhere = json!({"metadata": {"namespace": "d"}, "involvedObject": {"namespace": "e"}});
        assert_eq!(fields(&usual(&elsewhere)), ["involvedObject.namespace"]);
        assert_eq!(
            fields(&strict_event(&old, None)),
            ["eventTime", "type"],
            "the newer form is asked for"
        );
        let mut wordless = good();
        for field in ["action", "reason", "reportingComponent", "reportingInstance"] {
            wordless[field] = json!("");
        }
        wordless["message"] = json!("x".repeat(NOTE + 1));
        let seen = usual(&wordless);
        assert_eq!(
            fields(&seen),
            [
                "reportingController",
                "reportingInstance",
                "action",
                "reason",
                "message"
            ]
        );
        let mut mixed = good();
        mixed["count"] = json!(2);
        mixed["source"] = json!({"component": "c"});
        mixed["series"] = json!({"count": 1});
        assert_eq!(
            fields(&strict_event(&mixed, None)),
            ["series.count", "series.lastObservedTime", "count", "source"]
        );
    }

    #[test]
    fn only_the_series_goes_on() {
        let mut next = good();
        next["series"] = json!({"count": 2, "lastObservedTime": "2026-01-01T00:00:05.000000Z"});
        next["count"] = json!(null);
        assert!(strict_event(&next, Some(&good())).is_empty());
        next["reason"] = json!("Other");
        assert_eq!(fields(&strict_event(&next, Some(&good()))), ["reason"]);
    }
}
