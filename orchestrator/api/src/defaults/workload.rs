//! Defaults of Deployment, ReplicaSet, DaemonSet and StatefulSet.

use serde_json::{Value, json};

use super::{default, each, pod, storage};

pub(super) fn deployment(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "progressDeadlineSeconds", 600);
    default(spec, "strategy", json!({}));
    default(&mut spec["strategy"], "type", "RollingUpdate");
    if spec["strategy"]["type"] == "RollingUpdate" {
        default(&mut spec["strategy"], "rollingUpdate", json!({}));
        default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
        default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
    }
    template(spec);
}

pub(super) fn replica_set(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    default(spec, "replicas", 1);
    template(spec);
}

pub(super) fn daemon_set(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    default(spec, "revisionHistoryLimit", 10);
    if let Some(rolling) = rolling_update(spec) {
        default(rolling, "maxUnavailable", 1);
        default(rolling, "maxSurge", 0);
    }
    template(spec);
}

pub(super) fn stateful_set(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else {
        return;
    };
    default(spec, "replicas", 1);
    default(spec, "revisionHistoryLimit", 10);
    default(spec, "podManagementPolicy", "OrderedReady");
    if let Some(rolling) = rolling_update(spec) {
        default(rolling, "partition", 0);
        default(rolling, "maxUnavailable", 1);
    }
    default(spec, "persistentVolumeClaimRetentionPolicy", json!({}));
    let retention = &mut spec["persistentVolumeClaimRetentionPolicy"];
    default(retention, "whenDeleted", "Retain");
    default(retention, "whenScaled", "Retain");
    for claim in each(spec, "volumeClaimTemplates") {
        default(claim, "apiVersion", "v1");
        default(claim, "kind", "PersistentVolumeClaim");
        storage::claim(claim);
    }
    template(spec);
}

/// `updateStrategy.rollingUpdate`, if that is the strategy, which it is by default.
fn rolling_update(spec: &mut Value) -> Option<&mut Value> {
    default(spec, "updateStrategy", json!({}));
    let strategy = &mut spec["updateStrategy"];
    default(strategy, "type", "RollingUpdate");
    if strategy["type"] != "RollingUpdate" {
        return None;
    }
    default(strategy, "rollingUpdate", json!({}));
    strategy
        .get_mut("rollingUpdate")
        .filter(|rolling| rolling.is_object())
}

pub(super) fn template(spec: &mut Value) {
    if let Some(template) = spec.get_mut("template") {
        default(template, "metadata", json!({}));
        if let Some(pod_spec) = template.get_mut("spec") {
            pod::spec(pod_spec);
        }
    }
}
