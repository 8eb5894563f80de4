//! Validation: whether an object that follows its schema makes sense, and may replace an old one.
//!
//! Source: `k8s.io/kubernetes/pkg/apis/*/validation`; paths, reasons and wording are those that
//! users know from a real API server. Pure: what depends on other objects is the server's.

mod access;
mod autoscaling;
mod classes;
mod config;
mod container;
mod controller_revision;
mod cron_job;
mod daemon_set;
mod dns;
mod event;
pub mod field;
mod job;
mod job_policy;
pub mod metadata;
pub mod names;
mod namespace;
mod networking;
mod node;
mod own_users;
mod placement;
mod pod;
mod policy;
mod probe;
mod service;
mod stateful_set;
mod storage;
mod update;
mod volume;
mod workload;

use std::collections::BTreeMap;

use serde_json::Value;

use crate::kinds::Kind;
use crate::status::Cause;
use crate::support;
pub use event::strict_event;
use field::{Errors, Path};

/// What validation must know about the one node.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its labels, which nodeSelector must match.
    pub labels: BTreeMap<String, String>,
}

/// Checks a new object.
pub fn create(kind: &Kind, object: &Value, node: &Node) -> Vec<Cause> {
    let mut errors = Errors::default();
    metadata::validate(kind, object, &mut errors);
    content(kind, object, node, &mut errors);
    no_ephemeral(&Path::root("spec"), object.get("spec"), &mut errors);
    let template = object.pointer("/spec/template/spec");
    no_ephemeral(
        &Path::root("spec").child("template").child("spec"),
        template,
        &mut errors,
    );
    if kind.kind == "Job" {
        job::created(object, &mut errors);
    }
    support::check(kind, object, &mut errors);
    errors.into_causes()
}

/// Checks a pod whose ephemeral containers are to replace those of `old`.
pub fn ephemeral_containers(kind: &Kind, pod: &Value, old: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    pod::ephemeral(pod, old, &mut errors);
    support::check(kind, pod, &mut errors);
    errors.into_causes()
}

/// Checks the resources of a pod's containers.
pub fn resources(pod: &Value) -> Vec<Cause> {
    let mut errors = Errors::default();
    for list in ["containers", "initContainers"] {
        let at = Path::root("spec").child(list);
        for (index, container) in field::each(&pod["spec"], list) {
            let at = at.index(index).child("resources");
            container::resources(&at, &container["resources"], &mut errors);
        }
    }
    errors.into_causes()
}

/// Ephemeral containers come to a pod that is there.
fn no_ephemeral(at: &Path, spec: Option<&Value>, errors: &mut Errors) {
    let list = spec
        .and_then(|s| s.get("ephemeralContainers"))
        .and_then(Value::as_array);
    if list.is_some_and(|l| !l.is_empty()) {
        let why = "cannot be set here: add them to a running pod (kubectl debug)";
        errors.forbidden(&at.child("ephemeralContainers"), why);
    }
}

/// Checks an object that is to replace `old`.
pub fn update(kind: &Kind, object: &Value, old: &Value, node: &Node) -> Vec<Cause> {
    let mut errors = Errors::default();
    metadata::validate(kind, object, &mut errors);
    metadata::validate_update(object, old, &mut errors);
    if update::immutable(kind, object, old, &mut errors) {
        content(kind, object, node, &mut errors);
        support::check(kind, object, &mut errors);
    }
    errors.into_causes()
}

fn content(kind: &Kind, object: &Value, node: &Node, errors: &mut Errors) {
    let spec = Path::root("spec");
    match kind.kind {
        "Pod" => pod::validate(&spec, object.get("spec").unwrap_or(&Value::Null), node, errors),
        "Deployment" => workload::deployment(object, node, errors),
        "ReplicaSet" => workload::replica_set(object, node, errors),
        "DaemonSet" => daemon_set::daemon_set(object, errors),
        "StatefulSet" => stateful_set::stateful_set(object, node, errors),
        "ControllerRevision" => controller_revision::validate(object, errors),
        "HorizontalPodAutoscaler" => autoscaling::hpa(object, errors),
        "Job" => job::job(object, node, errors),
        "CronJob" => cron_job::cron_job(object, node, errors),
        "ConfigMap" => config::config_map(object, errors),
        "Secret" => config::secret(object, errors),
        "Namespace" => namespace::validate(object, errors),
        "Node" => node::node(object, errors),
        "Event" => event::event(object, errors),
        "PersistentVolumeClaim" => storage::claim(object, errors),
        "PersistentVolume" => storage::volume(object, errors),
        "StorageClass" => storage::class(object, errors),
        "Service" => service::service(object, errors),
        "Endpoints" => service::endpoints(object, errors),
        "EndpointSlice" => service::endpoint_slice(object, errors),
        "Role" | "ClusterRole" => access::role(kind, object, errors),
        "RoleBinding" | "ClusterRoleBinding" => access::binding(kind, object, errors),
        "ResourceQuota" => policy::quota(object, errors),
        "LimitRange" => policy::limit_range(object, errors),
        "PodDisruptionBudget" => policy::disruption_budget(object, errors),
        "Lease" => policy::lease(object, errors),
        "NetworkPolicy" => networking::network_policy(object, errors),
        "Ingress" => networking::ingress(object, errors),
        "RuntimeClass" => classes::runtime_class(object, errors),
        "PriorityClass" => classes::priority_class(object, errors),
        _ => {}
    }
}

#[cfg(test)]
mod tests;
