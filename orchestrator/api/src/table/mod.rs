//! Tables: the columns that `kubectl get` prints.
//!
//! Source: `k8s.io/kubernetes/pkg/printers/internalversion/printers.go` for names, order and
//! wording of columns; the encoding is `meta.k8s.io/v1 Table`.

mod access;
mod age;
mod autoscaling;
mod batch;
mod classes;
mod core;
mod networking;
mod pod;
mod service;
mod storage;
mod workload;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kinds::Kind;

pub use age::human;

/// A column: name, type, whether only `-o wide` shows it.
pub struct Column {
    name: &'static str,
    kind: &'static str,
    wide: bool,
}

const fn column(name: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        wide: false,
    }
}

const fn number(name: &'static str) -> Column {
    Column {
        name,
        kind: "integer",
        wide: false,
    }
}

const fn wide(name: &'static str) -> Column {
    Column {
        name,
        kind: "string",
        wide: true,
    }
}

/// How much of each object goes with its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// Its metadata, as `PartialObjectMetadata`.
    Metadata,
    /// All of it.
    Object,
}

/// The columns of a kind.
pub fn columns(kind: &Kind) -> &'static [Column] {
    match kind.kind {
        "Pod" => pod::COLUMNS,
        "Deployment" => workload::DEPLOYMENT,
        "ReplicaSet" => workload::REPLICA_SET,
        "DaemonSet" => workload::DAEMON_SET,
        "StatefulSet" => workload::STATEFUL_SET,
        "ControllerRevision" => workload::CONTROLLER_REVISION,
        "HorizontalPodAutoscaler" => autoscaling::HPA,
        "Job" => batch::JOB,
        "CronJob" => batch::CRON_JOB,
        "PersistentVolumeClaim" => storage::CLAIM,
        "PersistentVolume" => storage::VOLUME,
        "StorageClass" => storage::CLASS,
        "Namespace" => core::NAMESPACE,
        "Node" => core::NODE,
        "ConfigMap" => core::CONFIG_MAP,
        "Secret" => core::SECRET,
        "Event" => core::EVENT,
        "Service" => service::SERVICE,
        "Endpoints" => service::ENDPOINTS,
        "EndpointSlice" => service::ENDPOINT_SLICE,
        "Role" | "ClusterRole" => access::ROLE,
        "RoleBinding" | "ClusterRoleBinding" => access::BINDING,
        "ResourceQuota" => access::QUOTA,
        "LimitRange" => access::LIMIT_RANGE,
        "PodDisruptionBudget" => access::BUDGET,
        "Lease" => access::LEASE,
        "RuntimeClass" => classes::RUNTIME_CLASS,
        "PriorityClass" => classes::PRIORITY_CLASS,
        "ServiceAccount" => access::ACCOUNT,
        "NetworkPolicy" => networking::NETWORK_POLICY,
        "Ingress" => networking::INGRESS,
        _ => core::PLAIN,
    }
}

/// The cells of an object, one a column.
pub fn cells(kind: &Kind, object: &Value, now: Timestamp) -> Vec<Value> {
    match kind.kind {
        "Pod" => pod::cells(object, now),
        "Deployment" => workload::deployment(object, now),
        "ReplicaSet" => workload::replica_set(object, now),
        "DaemonSet" => workload::daemon_set(object, now),
        "StatefulSet" => workload::stateful_set(object, now),
        "ControllerRevision" => workload::controller_revision(object, now),
        "HorizontalPodAutoscaler" => autoscaling::hpa(object, now),
        "Job" => batch::job(object, now),
        "CronJob" => batch::cron_job(object, now),
        "PersistentVolumeClaim" => storage::claim(object, now),
        "PersistentVolume" => storage::volume(object, now),
        "StorageClass" => storage::class(object, now),
        "Namespace" => core::namespace(object, now),
        "Node" => core::node(object, now),
        "ConfigMap" => core::config_map(object, now),
        "Secret" => core::secret(object, now),
        "Event" => core::event(object, now),
        "Service" => service::service(object, now),
        "Endpoints" => service::endpoints(object, now),
        "EndpointSlice" => service::endpoint_slice(object, now),
        "Role" | "ClusterRole" | "LimitRange" => access::created(object),
        "RoleBinding" | "ClusterRoleBinding" => access::binding(object, now),
        "ResourceQuota" => access::quota(object, now),
        "PodDisruptionBudget" => access::budget(object, now),
        "Lease" => access::lease(object, now),
        "RuntimeClass" => classes::runtime_class(object, now),
        "PriorityClass" => classes::priority_class(object, now),
        "ServiceAccount" => access::account(object, now),
        "NetworkPolicy" => networking::network_policy(object, now),
        "Ingress" => networking::ingress(object, now),
        _ => core::plain(object, now),
    }
}

/// A table without rows; `metadata` is the list's.
pub fn header(kind: &Kind, metadata: &Value) -> Value {
    framed(columns(kind), metadata)
}

fn framed(columns: &[Column], metadata: &Value) -> Value {
    let definitions: Vec<Value> = columns
        .iter()
        .map(|c| {
            json!({
                "name": c.name,
                "type": c.kind,
                "format": if c.name == "Name" { "name" } else { "" },
                "description": "",
                "priority": i32::from(c.wide),
            })
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": [],
    })
}

/// The row of an object.
pub fn row(kind: &Kind, object: &Value, include: Include, now: Timestamp) -> Value {
    with_object(&cells(kind, object, now), object, include)
}

fn with_object(cells: &[Value], object: &Value, include: Include) -> Value {
    let mut row = json!({ "cells": cells });
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(object),
        Include::Object => row["object"] = object.clone(),
    }
    row
}

/// The table of a Scale: it is no kind of its own.
pub fn scale(scale: &Value, include: Include, now: Timestamp) -> Value {
    const COLUMNS: &[Column] = &[
        column("Name"),
        number("Desired"),
        number("Available"),
        column("Age"),
    ];
    let version = scale.pointer("/metadata/resourceVersion").cloned();
    let mut out = framed(COLUMNS, &json!({"resourceVersion": version.unwrap_or_default()}));
    let cells = [
        name(scale),
        json!(count(scale, "/spec/replicas")),
        json!(count(scale, "/status/replicas")),
        age(scale, now),
    ];
    out["rows"] = json!([with_object(&cells, scale, include)]);
    out
}

/// An object reduced to its metadata.
pub fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_default(),
    })
}

fn name(object: &Value) -> Value {
    object.pointer("/metadata/name").cloned().unwrap_or_default()
}

/// Time since creation.
fn age(object: &Value, now: Timestamp) -> Value {
    Value::String(age::since(object.pointer("/metadata/creationTimestamp"), now))
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn or_none(text: &str) -> Value {
    Value::String(if text.is_empty() {
        "<none>".to_owned()
    } else {
        text.to_owned()
    })
}

fn count(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

#[cfg(test)]
mod tests;
