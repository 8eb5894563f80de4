//! Columns of Deployment, ReplicaSet, DaemonSet, StatefulSet and ControllerRevision.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, column, count, name, number, or_none, text, wide};

pub(super) const DEPLOYMENT: &[Column] = &[
    column("Name"),
    column("Ready"),
    number("Up-to-date"),
    number("Available"),
    column("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const REPLICA_SET: &[Column] = &[
    column("Name"),
    number("Desired"),
    number("Current"),
    number("Ready"),
    column("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const DAEMON_SET: &[Column] = &[
    column("Name"),
    number("Desired"),
    number("Current"),
    number("Ready"),
    number("Up-to-date"),
    number("Available"),
    column("Node Selector"),
    column("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const STATEFUL_SET: &[Column] = &[
    column("Name"),
    column("Ready"),
    column("Age"),
    wide("Containers"),
    wide("Images"),
];
pub(super) const CONTROLLER_REVISION: &[Column] = &[
    column("Name"),
    column("Controller"),
    number("Revision"),
    column("Age"),
];

pub(super) fn deployment(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = format!(
        "{}/{}",
        count(object, "/status/readyReplicas"),
        count(object, "/spec/replicas")
    );
    let mut cells = vec![
        name(object),
        json!(ready),
        json!(count(object, "/status/updatedReplicas")),
        json!(count(object, "/status/availableReplicas")),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

pub(super) fn replica_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(object),
        json!(count(object, "/spec/replicas")),
        json!(count(object, "/status/replicas")),
        json!(count(object, "/status/readyReplicas")),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

pub(super) fn daemon_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let status = |field: &str| json!(count(object, &format!("/status/{field}")));
    let labels = object
        .pointer("/spec/template/spec/nodeSelector")
        .and_then(Value::as_object);
    let labels: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let mut cells = vec![
        name(object),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        or_none(&labels.join(",")),
        age(object, now),
    ];
    cells.extend(template(object));
    cells
}

pub(super) fn stateful_set(object: &Value, now: Timestamp) -> Vec<Value> {
    let ready = count(object, "/status/readyReplicas");
    let mut cells = vec![
        name(object),
        json!(format!("{ready}/{}", count(object, "/spec/replicas"))),
        age(object, now),
    ];
    let [containers, images, _] = template(object);
    cells.extend([containers, images]);
    cells
}

pub(super) fn controller_revision(object: &Value, now: Timestamp) -> Vec<Value> {
    let owners = object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array);
    let owner = owners.into_iter().flatten().find(|o| o["controller"] == true);
    let owner = owner.map_or(String::new(), |owner| {
        let (version, kind) = (text(owner, "/apiVersion"), text(owner, "/kind"));
        let (group, _) = crate::kinds::split_api_version(version);
        let dot = if group.is_empty() { "" } else { "." };
        format!("{}{dot}{group}/{}", kind.to_lowercase(), text(owner, "/name"))
    });
    vec![
        name(object),
        or_none(&owner),
        json!(count(object, "/revision")),
        age(object, now),
    ]
}

/// Containers, images and selector.
fn template(object: &Value) -> [Value; 3] {
    let containers = object
        .pointer("/spec/template/spec/containers")
        .and_then(Value::as_array);
    let join = |field: &str| {
        let all: Vec<&str> = containers
            .into_iter()
            .flatten()
            .filter_map(|c| c.get(field)?.as_str())
            .collect();
        json!(all.join(","))
    };
    [
        join("name"),
        join("image"),
        or_none(&selector(object.pointer("/spec/selector"))),
    ]
}

/// A selector in its query form.
pub(super) fn selector(selector: Option<&Value>) -> String {
    let member = |name: &str| selector.and_then(|s| s.get(name));
    let mut terms: Vec<String> = member("matchLabels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    for term in member("matchExpressions")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let key = term["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = term["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        terms.push(match term["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.sort();
    terms.join(",")
}
