//! Reading and writing the fields of objects that controllers care about.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A number, 0 where it is absent.
pub(super) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// A number, or a percentage of `whole`, rounded up or down; anything else is 0.
pub(super) fn scaled(value: &Value, whole: i64, up: bool) -> i64 {
    let Some(text) = value.as_str() else {
        return value.as_i64().unwrap_or(0).max(0);
    };
    let percent = text.trim_end_matches('%').parse::<i64>().unwrap_or(0).max(0);
    let hundredths = whole * percent;
    if up {
        (hundredths + 99).div_euclid(100)
    } else {
        hundredths.div_euclid(100)
    }
}

/// A text, empty where it is absent.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// A point in time.
pub(super) fn time(object: &Value, pointer: &str) -> Option<Timestamp> {
    object.pointer(pointer)?.as_str()?.parse().ok()
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(super) fn uid(object: &Value) -> &str {
    text(object, "/metadata/uid")
}

/// Whether the object's deletion has begun.
pub(super) fn is_deleting(object: &Value) -> bool {
    object
        .pointer("/metadata/deletionTimestamp")
        .is_some_and(|time| !time.is_null())
}

pub(super) fn has_finalizer(object: &Value, name: &str) -> bool {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|finalizers| finalizers.iter().any(|finalizer| finalizer == name))
}

pub(super) fn remove_finalizer(object: &mut Value, name: &str) {
    if let Some(finalizers) = object
        .pointer_mut("/metadata/finalizers")
        .and_then(Value::as_array_mut)
    {
        finalizers.retain(|finalizer| finalizer != name);
        if finalizers.is_empty()
            && let Some(metadata) = object["metadata"].as_object_mut()
        {
            metadata.remove("finalizers");
        }
    }
}

/// `metadata.labels` or `metadata.annotations` as a map.
pub(super) fn strings(object: &Value, pointer: &str) -> BTreeMap<String, String> {
    let map = object.pointer(pointer).and_then(Value::as_object);
    map.into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// An annotation.
pub(super) fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.pointer("/metadata/annotations")?.get(name)?.as_str()
}

/// Sets an annotation and says whether that changed anything.
pub(super) fn set_annotation(object: &mut Value, name: &str, value: &str) -> bool {
    if annotation(object, name) == Some(value) {
        return false;
    }
    let annotations = &mut object["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = Value::Object(Map::new());
    }
    annotations[name] = json!(value);
    true
}

/// A condition of `status.conditions`.
pub(super) fn condition<'a>(status: &'a Value, kind: &str) -> Option<&'a Value> {
    status
        .get("conditions")?
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

/// Removes a condition.
pub(super) fn remove_condition(status: &mut Value, kind: &str) {
    if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|condition| condition["type"] != kind);
    }
}

/// Adds a condition, in place of one of the same type.
pub(super) fn put_condition(status: &mut Value, condition: Value) {
    remove_condition(status, condition["type"].as_str().unwrap_or_default());
    let conditions = &mut status["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(conditions) = conditions.as_array_mut() {
        conditions.push(condition);
    }
}
