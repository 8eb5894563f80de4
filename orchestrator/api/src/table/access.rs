//! Columns of RBAC's kinds, quotas, limit ranges, disruption budgets, leases and accounts.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, column, count, name, number, text, wide};

pub(super) const ROLE: &[Column] = &[column("Name"), column("Created At")];
pub(super) const BINDING: &[Column] = &[
    column("Name"),
    column("Role"),
    column("Age"),
    wide("Users"),
    wide("Groups"),
    wide("ServiceAccounts"),
];
pub(super) const QUOTA: &[Column] = &[column("Name"), column("Request"), column("Limit"), column("Age")];
pub(super) const LIMIT_RANGE: &[Column] = &[column("Name"), column("Created At")];
pub(super) const BUDGET: &[Column] = &[
    column("Name"),
    column("Min Available"),
    column("Max Unavailable"),
    number("Allowed Disruptions"),
    column("Age"),
];
pub(super) const LEASE: &[Column] = &[column("Name"), column("Holder"), column("Age")];
pub(super) const ACCOUNT: &[Column] = &[column("Name"), number("Secrets"), column("Age")];

pub(super) fn created(object: &Value) -> Vec<Value> {
    vec![name(object), json!(text(object, "/metadata/creationTimestamp"))]
}

pub(super) fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let role = format!(
        "{}/{}",
        text(object, "/roleRef/kind"),
        text(object, "/roleRef/name")
    );
    let subjects = |kind: &str| -> String {
        let all = object.get("subjects").and_then(Value::as_array);
        let names = all.into_iter().flatten().filter(|s| s["kind"] == kind).map(|s| {
            let namespace = text(s, "/namespace");
            if namespace.is_empty() {
                text(s, "/name").to_owned()
            } else {
                format!("{namespace}/{}", text(s, "/name"))
            }
        });
        names.collect::<Vec<_>>().join(", ")
    };
    vec![
        name(object),
        json!(role),
        age(object, now),
        json!(subjects("User")),
        json!(subjects("Group")),
        json!(subjects("ServiceAccount")),
    ]
}

pub(super) fn quota(object: &Value, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    let hard = object.pointer("/status/hard").and_then(Value::as_object);
    for (resource, hard) in hard.into_iter().flatten() {
        let used = object.pointer("/status/used").and_then(|u| u.get(resource));
        let shown = format!(
            "{resource}: {}/{}",
            used.and_then(Value::as_str).unwrap_or("0"),
            hard.as_str().unwrap_or("0")
        );
        if resource.starts_with("limits.") {
            limits.push(shown);
        } else {
            requests.push(shown);
        }
    }
    vec![
        name(object),
        json!(requests.join(", ")),
        json!(limits.join(", ")),
        age(object, now),
    ]
}

pub(super) fn budget(object: &Value, now: Timestamp) -> Vec<Value> {
    let amount = |pointer: &str| match object.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => "N/A".to_owned(),
    };
    vec![
        name(object),
        json!(amount("/spec/minAvailable")),
        json!(amount("/spec/maxUnavailable")),
        json!(count(object, "/status/disruptionsAllowed")),
        age(object, now),
    ]
}

pub(super) fn lease(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(text(object, "/spec/holderIdentity")),
        age(object, now),
    ]
}

pub(super) fn account(object: &Value, now: Timestamp) -> Vec<Value> {
    let secrets = object
        .get("secrets")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    vec![name(object), json!(secrets), age(object, now)]
}
