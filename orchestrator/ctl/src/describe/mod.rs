//! `describe`: one object in detail, with what happened to it.

mod fields;
mod pod;
mod sets;

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_api::kinds;
use serde_json::Value;

use crate::client::{Call, Client};
use crate::error::CtlError;
use crate::output;
use crate::resource::{Target, query};
use crate::tree::{annotation, list, members, name, namespace, number, plain, text};
use fields::Fields;

pub(crate) use pod::template;

const REVISION: &str = "deployment.kubernetes.io/revision";

/// The text about one object.
pub(crate) async fn object(client: &Client, target: &Target, object: &Value) -> Result<String, CtlError> {
    let mut fields = Fields::new();
    fields.put("Name", name(object));
    if target.kind.namespaced {
        fields.put("Namespace", namespace(object));
    }
    match target.kind.kind {
        "Pod" => pod::describe(&mut fields, object),
        "Deployment" => deployment(client, target, &mut fields, object).await?,
        "ReplicaSet" => replica_set(&mut fields, object),
        "DaemonSet" => sets::daemon_set(&mut fields, object),
        "StatefulSet" => sets::stateful_set(&mut fields, object),
        "Node" => node(&mut fields, object),
        "ConfigMap" => config_map(&mut fields, object),
        "Secret" => secret(&mut fields, object),
        _ => other(&mut fields, object),
    }
    if target.kind != kinds::EVENT {
        fields.text(&events(client, target, object).await?);
    }
    Ok(fields.finish())
}

fn meta(fields: &mut Fields, object: &Value) {
    fields.map("Labels", members(object, "/metadata/labels"));
    let annotations = members(object, "/metadata/annotations")
        .filter(|(key, _)| *key != "kubectl.kubernetes.io/last-applied-configuration");
    fields.map("Annotations", annotations);
}

fn timed_meta(fields: &mut Fields, object: &Value) {
    fields.put("CreationTimestamp", text(object, "/metadata/creationTimestamp"));
    meta(fields, object);
}

fn selector(object: &Value) -> String {
    let mut terms: Vec<String> = members(object, "/spec/selector/matchLabels")
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    for term in list(object, "/spec/selector/matchExpressions") {
        let values: Vec<String> = list(term, "/values").iter().map(plain).collect();
        terms.push(format!(
            "{} {} ({})",
            text(term, "/key"),
            text(term, "/operator").to_lowercase(),
            values.join(",")
        ));
    }
    if terms.is_empty() {
        "<none>".to_owned()
    } else {
        terms.join(",")
    }
}

async fn deployment(
    client: &Client,
    target: &Target,
    fields: &mut Fields,
    object: &Value,
) -> Result<(), CtlError> {
    timed_meta(fields, object);
    fields.put("Selector", &selector(object));
    let status = |field: &str| number(object, &format!("/status/{field}"));
    fields.put(
        "Replicas",
        &format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            number(object, "/spec/replicas"),
            status("updatedReplicas"),
            status("replicas"),
            status("availableReplicas"),
            status("unavailableReplicas")
        ),
    );
    fields.put("StrategyType", text(object, "/spec/strategy/type"));
    fields.put(
        "MinReadySeconds",
        &number(object, "/spec/minReadySeconds").to_string(),
    );
    if let Some(rolling) = object.pointer("/spec/strategy/rollingUpdate") {
        let value = |field: &str| rolling.get(field).map_or_else(|| "25%".to_owned(), plain);
        fields.put(
            "RollingUpdateStrategy",
            &format!(
                "{} max unavailable, {} max surge",
                value("maxUnavailable"),
                value("maxSurge")
            ),
        );
    }
    fields.text(&template(&object["spec"]["template"]));
    conditions(fields, object);
    let all = Target::new(kinds::REPLICA_SET, &target.namespace, None);
    let path = format!(
        "{}{}",
        all.path(),
        query(&[("labelSelector", selector_query(object))])
    );
    let answer = client.json(Call::get(&path)).await?;
    let uid = text(object, "/metadata/uid");
    let (mut old, mut new) = (Vec::new(), Vec::new());
    for set in list(&answer, "/items") {
        if !list(set, "/metadata/ownerReferences")
            .iter()
            .any(|owner| owner["uid"] == uid)
        {
            continue;
        }
        let line = format!(
            "{} ({}/{} replicas created)",
            name(set),
            number(set, "/status/replicas"),
            number(set, "/spec/replicas")
        );
        let current =
            annotation(set, REVISION).is_some() && annotation(set, REVISION) == annotation(object, REVISION);
        if current { new.push(line) } else { old.push(line) }
    }
    let joined = |sets: Vec<String>| {
        if sets.is_empty() {
            "<none>".to_owned()
        } else {
            sets.join(", ")
        }
    };
    fields.put("OldReplicaSets", &joined(old));
    fields.put("NewReplicaSet", &joined(new));
    Ok(())
}

fn selector_query(object: &Value) -> String {
    let terms: Vec<String> = members(object, "/spec/selector/matchLabels")
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    terms.join(",")
}

fn replica_set(fields: &mut Fields, object: &Value) {
    fields.put("Selector", &selector(object));
    meta(fields, object);
    if let Some(owner) = list(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true)
    {
        fields.put(
            "Controlled By",
            &format!("{}/{}", text(owner, "/kind"), text(owner, "/name")),
        );
    }
    fields.put(
        "Replicas",
        &format!(
            "{} current / {} desired",
            number(object, "/status/replicas"),
            number(object, "/spec/replicas")
        ),
    );
    fields.put(
        "Pods Status",
        &format!(
            "{} Ready / {} Available",
            number(object, "/status/readyReplicas"),
            number(object, "/status/availableReplicas")
        ),
    );
    fields.text(&template(&object["spec"]["template"]));
    conditions(fields, object);
}

fn node(fields: &mut Fields, object: &Value) {
    timed_meta(fields, object);
    conditions(fields, object);
    let addresses: Vec<String> = list(object, "/status/addresses")
        .iter()
        .map(|address| format!("  {}:  {}\n", text(address, "/type"), text(address, "/address")))
        .collect();
    fields.text(&format!("Addresses:\n{}", addresses.concat()));
    for (title, pointer) in [
        ("Capacity", "/status/capacity"),
        ("Allocatable", "/status/allocatable"),
        ("System Info", "/status/nodeInfo"),
    ] {
        let rows: Vec<Vec<String>> = members(object, pointer)
            .map(|(key, value)| vec![format!("  {key}:"), plain(value)])
            .collect();
        fields.text(&format!("{title}:\n{}", output::table(&rows)));
    }
}

fn config_map(fields: &mut Fields, object: &Value) {
    meta(fields, object);
    let mut out = "\nData\n====\n".to_owned();
    for (key, value) in members(object, "/data") {
        let _ = write!(out, "{key}:\n----\n{}\n\n", plain(value));
    }
    fields.text(&out);
}

fn secret(fields: &mut Fields, object: &Value) {
    meta(fields, object);
    fields.put("Type", text(object, "/type"));
    let rows: Vec<Vec<String>> = members(object, "/data")
        .map(|(key, value)| {
            let length = berth_api::base64::decoded_len(&plain(value));
            vec![format!("{key}:"), format!("{length} bytes")]
        })
        .collect();
    fields.text(&format!("\nData\n====\n{}", output::table(&rows)));
}

/// Kinds without a text of their own: everything but the metadata, as YAML.
fn other(fields: &mut Fields, object: &Value) {
    meta(fields, object);
    fields.put("API Version", text(object, "/apiVersion"));
    fields.put("Kind", text(object, "/kind"));
    for (key, value) in members(object, "") {
        if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
            fields.block(key, value);
        }
    }
}

fn conditions(fields: &mut Fields, object: &Value) {
    let found = list(object, "/status/conditions");
    if found.is_empty() {
        return;
    }
    let mut rows = vec![["  Type", "Status", "Reason"].map(str::to_owned).to_vec()];
    rows.push(["  ----", "------", "------"].map(str::to_owned).to_vec());
    rows.extend(found.iter().map(|condition| {
        vec![
            format!("  {}", text(condition, "/type")),
            text(condition, "/status").to_owned(),
            text(condition, "/reason").to_owned(),
        ]
    }));
    fields.text(&format!("Conditions:\n{}", output::table(&rows)));
}

/// The events about an object, oldest first.
async fn events(client: &Client, target: &Target, object: &Value) -> Result<String, CtlError> {
    let space = if target.namespace.is_empty() {
        "default"
    } else {
        &target.namespace
    };
    let all = Target::new(kinds::EVENT, space, None);
    let chosen = format!(
        "involvedObject.name={},involvedObject.uid={}",
        name(object),
        text(object, "/metadata/uid")
    );
    let path = format!("{}{}", all.path(), query(&[("fieldSelector", chosen)]));
    let answer = client.json(Call::get(&path)).await?;
    let mut found: Vec<&Value> = list(&answer, "/items").iter().collect();
    if found.is_empty() {
        return Ok("Events:  <none>\n".to_owned());
    }
    found.sort_by_key(|event| text(event, "/lastTimestamp"));
    let mut rows = vec![
        ["  Type", "Reason", "Age", "From", "Message"]
            .map(str::to_owned)
            .to_vec(),
    ];
    rows.push(
        ["  ----", "------", "----", "----", "-------"]
            .map(str::to_owned)
            .to_vec(),
    );
    rows.extend(found.into_iter().map(|event| {
        vec![
            format!("  {}", text(event, "/type")),
            text(event, "/reason").to_owned(),
            event_age(event),
            text(event, "/source/component").to_owned(),
            text(event, "/message").trim().to_owned(),
        ]
    }));
    Ok(format!("Events:\n{}", output::table(&rows)))
}

fn event_age(event: &Value) -> String {
    let age = |pointer: &str| age(text(event, pointer));
    match number(event, "/count") {
        0 | 1 => age("/firstTimestamp"),
        count => format!(
            "{} (x{count} over {})",
            age("/lastTimestamp"),
            age("/firstTimestamp")
        ),
    }
}

/// Time since a point in time.
fn age(time: &str) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() as i64);
    time.parse::<jiff::Timestamp>().map_or_else(
        |_| "<unknown>".to_owned(),
        |time| berth_api::table::human(now - time.as_second()),
    )
}
