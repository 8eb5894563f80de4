//! DaemonSets and StatefulSets in detail.

use serde_json::Value;

use super::fields::Fields;
use super::{conditions, meta, selector, template, timed_meta};
use crate::tree::{list, members, number, plain, text};

pub(super) fn daemon_set(fields: &mut Fields, object: &Value) {
    fields.put("Selector", &selector(object));
    let labels: Vec<String> = members(object, "/spec/template/spec/nodeSelector")
        .map(|(key, value)| format!("{key}={}", plain(value)))
        .collect();
    let labels = if labels.is_empty() {
        "<none>".to_owned()
    } else {
        labels.join(",")
    };
    fields.put("Node-Selector", &labels);
    meta(fields, object);
    for (title, field) in [
        ("Desired Number of Nodes Scheduled", "desiredNumberScheduled"),
        ("Current Number of Nodes Scheduled", "currentNumberScheduled"),
        (
            "Number of Nodes Scheduled with Up-to-date Pods",
            "updatedNumberScheduled",
        ),
        ("Number of Nodes Scheduled with Available Pods", "numberAvailable"),
        ("Number of Nodes Misscheduled", "numberMisscheduled"),
    ] {
        fields.put(title, &number(object, &format!("/status/{field}")).to_string());
    }
    strategy(fields, object, &["maxUnavailable", "maxSurge"]);
    fields.text(&template(&object["spec"]["template"]));
    conditions(fields, object);
}

pub(super) fn stateful_set(fields: &mut Fields, object: &Value) {
    timed_meta(fields, object);
    fields.put("Selector", &selector(object));
    let status = |field: &str| number(object, &format!("/status/{field}"));
    let counts = [
        ("desired", number(object, "/spec/replicas")),
        ("updated", status("updatedReplicas")),
        ("total", status("replicas")),
        ("ready", status("readyReplicas")),
        ("available", status("availableReplicas")),
    ];
    let counts: Vec<String> = counts
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    fields.put("Replicas", &counts.join(" | "));
    fields.put("Pod Management Policy", text(object, "/spec/podManagementPolicy"));
    strategy(fields, object, &["partition", "maxUnavailable"]);
    fields.put("Current Revision", text(object, "/status/currentRevision"));
    fields.put("Update Revision", text(object, "/status/updateRevision"));
    fields.text(&template(&object["spec"]["template"]));
    let claims: Vec<&str> = list(object, "/spec/volumeClaimTemplates")
        .iter()
        .map(|claim| text(claim, "/metadata/name"))
        .collect();
    if !claims.is_empty() {
        fields.put("Volume Claims", &claims.join(", "));
    }
    conditions(fields, object);
}

fn strategy(fields: &mut Fields, object: &Value, parameters: &[&str]) {
    fields.put("Update Strategy", text(object, "/spec/updateStrategy/type"));
    for parameter in parameters {
        let pointer = format!("/spec/updateStrategy/rollingUpdate/{parameter}");
        if let Some(value) = object.pointer(&pointer) {
            fields.put(&format!("  {parameter}"), &plain(value));
        }
    }
}
