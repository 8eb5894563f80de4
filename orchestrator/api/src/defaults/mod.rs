//! Defaults: what an API server fills in before it validates and stores an object.
//!
//! Source: `k8s.io/kubernetes/pkg/apis/*/v1/defaults.go`, and the admission defaults that matter
//! on one node.

mod access;
mod autoscaling;
mod batch;
mod namespace;
mod networking;
mod pod;
mod secret;
mod service;
mod storage;
mod workload;

use serde_json::{Map, Value};

use crate::kinds::Kind;

/// Fills in the defaults of an object that follows its schema. Running it twice changes nothing.
pub fn apply(kind: &Kind, object: &mut Value) {
    match kind.kind {
        "Pod" => pod::pod(object),
        "Deployment" => workload::deployment(object),
        "ReplicaSet" => workload::replica_set(object),
        "DaemonSet" => workload::daemon_set(object),
        "StatefulSet" => workload::stateful_set(object),
        "HorizontalPodAutoscaler" => autoscaling::hpa(object),
        "Job" => batch::job(object),
        "CronJob" => batch::cron_job(object),
        "PersistentVolumeClaim" => storage::claim(object),
        "PersistentVolume" => storage::volume(object),
        "StorageClass" => storage::class(object),
        "Namespace" => namespace::namespace(object),
        "Secret" => secret::secret(object),
        "Service" => service::service(object),
        "Endpoints" => service::endpoints(object),
        "EndpointSlice" => service::endpoint_slice(object),
        "NetworkPolicy" => networking::network_policy(object),
        "PriorityClass" => default(object, "preemptionPolicy", "PreemptLowerPriority"),
        "RoleBinding" | "ClusterRoleBinding" => access::binding(object),
        _ => {}
    }
}

/// Everything that becomes of a pod on its way into the store: defaults, the node it runs on, and
/// a status that says it has not begun. Controllers call it for the pods they make.
pub fn pod(object: &mut Value, node_name: &str) {
    pod::pod(object);
    pod::admit(object, node_name);
}

pub use batch::identify as job_identity;

/// Sets a member that is absent or null.
fn default(object: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        default_in(map, name, value);
    }
}

fn default_in(map: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    if map.get(name).is_none_or(Value::is_null) {
        map.insert(name.to_owned(), value.into());
    }
}

/// The elements of a list member; none if it is absent.
fn each<'a>(object: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(name)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests;
