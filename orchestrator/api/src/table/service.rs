//! Columns of Service, Endpoints and EndpointSlice.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, column, name, or_none, text, wide};

pub(super) const SERVICE: &[Column] = &[
    column("Name"),
    column("Type"),
    column("Cluster-IP"),
    column("External-IP"),
    column("Port(s)"),
    column("Age"),
    wide("Selector"),
];
pub(super) const ENDPOINTS: &[Column] = &[column("Name"), column("Endpoints"), column("Age")];
pub(super) const ENDPOINT_SLICE: &[Column] = &[
    column("Name"),
    column("AddressType"),
    column("Ports"),
    column("Endpoints"),
    column("Age"),
];

/// Addresses shown before the rest is only counted.
const SHOWN: usize = 3;

pub(super) fn service(object: &Value, now: Timestamp) -> Vec<Value> {
    let kind = text(object, "/spec/type");
    let selector: Vec<String> = object
        .pointer("/spec/selector")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    vec![
        name(object),
        json!(kind),
        or_none(text(object, "/spec/clusterIP")),
        external(object, kind),
        or_none(&service_ports(object)),
        age(object, now),
        or_none(&selector.join(",")),
    ]
}

fn external(object: &Value, kind: &str) -> Value {
    let text_of = |value: &Value| value.as_str().map(str::to_owned);
    let own = list(object, "/spec/externalIPs").filter_map(text_of);
    let given = list(object, "/status/loadBalancer/ingress")
        .filter(|_| kind == "LoadBalancer")
        .filter_map(|point| text_of(&point["ip"]).or(text_of(&point["hostname"])));
    let all: Vec<String> = given.chain(own).collect();
    match kind {
        "ExternalName" => or_none(text(object, "/spec/externalName")),
        "LoadBalancer" if all.is_empty() => json!("<pending>"),
        _ => or_none(&all.join(",")),
    }
}

fn service_ports(object: &Value) -> String {
    let one = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or_default();
        match port["nodePort"].as_i64().filter(|n| *n > 0) {
            Some(node) => format!("{}:{node}/{protocol}", port["port"]),
            None => format!("{}/{protocol}", port["port"]),
        }
    };
    let ports: Vec<String> = list(object, "/spec/ports").map(one).collect();
    ports.join(",")
}

fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

pub(super) fn endpoints(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let ports: Vec<&Value> = list(subset, "/ports").collect();
        for address in list(subset, "/addresses") {
            let ip = address["ip"].as_str().unwrap_or_default();
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    vec![name(object), shortened(&all), age(object, now)]
}

pub(super) fn endpoint_slice(object: &Value, now: Timestamp) -> Vec<Value> {
    let ports: BTreeSet<String> = list(object, "/ports")
        .map(|port| match port["port"].as_i64() {
            Some(number) => number.to_string(),
            None => "*".to_owned(),
        })
        .collect();
    let ports: Vec<String> = ports.into_iter().collect();
    let addresses: Vec<String> = list(object, "/endpoints")
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    let unset = |cell: Value| if cell == "<none>" { json!("<unset>") } else { cell };
    vec![
        name(object),
        json!(text(object, "/addressType")),
        unset(shortened(&ports)),
        unset(shortened(&addresses)),
        age(object, now),
    ]
}

fn shortened(all: &[String]) -> Value {
    if all.len() > SHOWN {
        return json!(format!(
            "{} + {} more...",
            all[..SHOWN].join(","),
            all.len() - SHOWN
        ));
    }
    or_none(&all.join(","))
}
