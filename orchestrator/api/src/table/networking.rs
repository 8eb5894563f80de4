//! Columns of NetworkPolicy and Ingress.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::workload::selector;
use super::{Column, age, column, name, or_none, text};

pub(super) const NETWORK_POLICY: &[Column] = &[column("Name"), column("Pod-Selector"), column("Age")];
pub(super) const INGRESS: &[Column] = &[
    column("Name"),
    column("Class"),
    column("Hosts"),
    column("Address"),
    column("Ports"),
    column("Age"),
];

pub(super) fn network_policy(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        or_none(&selector(object.pointer("/spec/podSelector"))),
        age(object, now),
    ]
}

pub(super) fn ingress(object: &Value, now: Timestamp) -> Vec<Value> {
    let list = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let hosts: Vec<&str> = list("/spec/rules")
        .filter_map(|rule| rule["host"].as_str())
        .filter(|host| !host.is_empty())
        .collect();
    let addresses: Vec<&str> = list("/status/loadBalancer/ingress")
        .filter_map(|point| point["ip"].as_str().or(point["hostname"].as_str()))
        .collect();
    let hosts = if hosts.is_empty() {
        "*".to_owned()
    } else {
        hosts.join(",")
    };
    let ports = if list("/spec/tls").next().is_some() {
        "80, 443"
    } else {
        "80"
    };
    vec![
        name(object),
        or_none(text(object, "/spec/ingressClassName")),
        json!(hosts),
        json!(addresses.join(",")),
        json!(ports),
        age(object, now),
    ]
}
