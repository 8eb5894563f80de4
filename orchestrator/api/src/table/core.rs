//! Columns of the core kinds but Pod.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::age::since;
use super::{Column, age, column, count, name, number, or_none, text, wide};

pub(super) const PLAIN: &[Column] = &[column("Name"), column("Age")];
pub(super) const NAMESPACE: &[Column] = &[column("Name"), column("Status"), column("Age")];
pub(super) const CONFIG_MAP: &[Column] = &[column("Name"), number("Data"), column("Age")];
pub(super) const SECRET: &[Column] = &[column("Name"), column("Type"), number("Data"), column("Age")];
pub(super) const NODE: &[Column] = &[
    column("Name"),
    column("Status"),
    column("Roles"),
    column("Age"),
    column("Version"),
    wide("Internal-IP"),
    wide("External-IP"),
    wide("OS-Image"),
    wide("Kernel-Version"),
    wide("Container-Runtime"),
];
pub(super) const EVENT: &[Column] = &[
    column("Last Seen"),
    column("Type"),
    column("Reason"),
    column("Object"),
    wide("Subobject"),
    wide("Source"),
    column("Message"),
    wide("First Seen"),
    wide("Count"),
    wide("Name"),
];

pub(super) fn plain(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) fn namespace(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(text(object, "/status/phase")),
        age(object, now),
    ]
}

fn members(object: &Value, field: &str) -> usize {
    object
        .get(field)
        .and_then(Value::as_object)
        .map_or(0, serde_json::Map::len)
}

pub(super) fn config_map(object: &Value, now: Timestamp) -> Vec<Value> {
    let data = members(object, "data") + members(object, "binaryData");
    vec![name(object), json!(data), age(object, now)]
}

pub(super) fn secret(object: &Value, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(text(object, "/type")),
        json!(members(object, "data")),
        age(object, now),
    ]
}

pub(super) fn node(object: &Value, now: Timestamp) -> Vec<Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "Ready")
        .map_or("Unknown", |c| {
            if c["status"] == "True" {
                "Ready"
            } else {
                "NotReady"
            }
        });
    let cordoned = object.pointer("/spec/unschedulable") == Some(&json!(true));
    let status = if cordoned {
        format!("{ready},SchedulingDisabled")
    } else {
        ready.to_owned()
    };
    let prefix = "node-role.kubernetes.io/";
    let roles: Vec<&str> = object
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, _)| key.strip_prefix(prefix))
        .collect();
    let address = |kind: &str| {
        let all = object.pointer("/status/addresses").and_then(Value::as_array);
        let found = all.into_iter().flatten().find(|a| a["type"] == kind);
        or_none(found.and_then(|a| a["address"].as_str()).unwrap_or_default())
    };
    let info = |field: &str| {
        let found = text(object, &format!("/status/nodeInfo/{field}"));
        json!(if found.is_empty() { "<unknown>" } else { found })
    };
    vec![
        name(object),
        json!(status),
        or_none(&roles.join(",")),
        age(object, now),
        json!(text(object, "/status/nodeInfo/kubeletVersion")),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(super) fn event(object: &Value, now: Timestamp) -> Vec<Value> {
    let time = |fields: [&str; 2]| {
        let found = fields
            .iter()
            .filter_map(|f| object.get(*f))
            .find(|v| v.is_string());
        since(
            found.or_else(|| object.pointer("/metadata/creationTimestamp")),
            now,
        )
    };
    let first = time(["firstTimestamp", "eventTime"]);
    let times = count(object, "/count");
    let mut last = time(["lastTimestamp", "eventTime"]);
    if times > 1 {
        last = format!("{last} (x{times} over {first})");
    }
    let kind = text(object, "/involvedObject/kind").to_lowercase();
    let target = match text(object, "/involvedObject/name") {
        "" => kind,
        named => format!("{kind}/{named}"),
    };
    let component = text(object, "/source/component");
    let host = text(object, "/source/host");
    let source = if host.is_empty() {
        component.to_owned()
    } else {
        format!("{component}, {host}")
    };
    vec![
        json!(last),
        json!(text(object, "/type")),
        json!(text(object, "/reason")),
        json!(target),
        json!(text(object, "/involvedObject/fieldPath")),
        json!(source),
        json!(text(object, "/message").trim()),
        json!(first),
        json!(times.max(1)),
        name(object),
    ]
}
