//! Defaults of Deployment and ReplicaSet.

use serde_json::{Value, json};

use super::{default, pod};

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

pub(super) fn template(spec: &mut Value) {
    if let Some(template) = spec.get_mut("template") {
        default(template, "metadata", json!({}));
        if let Some(pod_spec) = template.get_mut("spec") {
            pod::spec(pod_spec);
        }
    }
}
