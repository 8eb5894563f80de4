//! Columns of RuntimeClass and PriorityClass.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, column, count, name, number, text};

pub(super) const RUNTIME_CLASS: &[Column] = &[column("Name"), column("Handler"), column("Age")];
pub(super) const PRIORITY_CLASS: &[Column] = &[
    column("Name"),
    number("Value"),
    column("Global-Default"),
    column("Age"),
    column("PreemptionPolicy"),
];

pub(super) fn runtime_class(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, "/handler")), age(object, now)]
}

pub(super) fn priority_class(object: &Value, now: Timestamp) -> Vec<Value> {
    let default = object.get("globalDefault") == Some(&json!(true));
    vec![
        name(object),
        json!(count(object, "/value")),
        json!(if default { "true" } else { "false" }),
        age(object, now),
        json!(text(object, "/preemptionPolicy")),
    ]
}
