//! Columns of HorizontalPodAutoscaler.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, column, count, name, number, text};

pub(super) const HPA: &[Column] = &[
    column("Name"),
    column("Reference"),
    column("Targets"),
    column("MinPods"),
    column("MaxPods"),
    number("Replicas"),
    column("Age"),
];
/// Metrics that the column has room for.
const SHOWN: usize = 2;

pub(super) fn hpa(object: &Value, now: Timestamp) -> Vec<Value> {
    let reference = format!(
        "{}/{}",
        text(object, "/spec/scaleTargetRef/kind"),
        text(object, "/spec/scaleTargetRef/name")
    );
    let least = object.pointer("/spec/minReplicas").and_then(Value::as_i64);
    vec![
        name(object),
        json!(reference),
        json!(targets(object)),
        json!(least.map_or_else(|| "<unset>".to_owned(), |n| n.to_string())),
        json!(count(object, "/spec/maxReplicas").to_string()),
        json!(count(object, "/status/currentReplicas")),
        age(object, now),
    ]
}

fn targets(object: &Value) -> String {
    let list = |pointer: &str| {
        let list = object.pointer(pointer).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let (wanted, current) = (list("/spec/metrics"), list("/status/currentMetrics"));
    if wanted.is_empty() {
        return "<none>".to_owned();
    }
    let mut shown: Vec<String> = wanted
        .iter()
        .enumerate()
        .map(|(at, metric)| target(metric, current.get(at)))
        .collect();
    let more = shown.len().saturating_sub(SHOWN);
    shown.truncate(SHOWN);
    let text = shown.join(", ");
    if more > 0 {
        format!("{text} + {more} more...")
    } else {
        text
    }
}

/// `cpu: 12%/80%`, of the resource of all containers or of one.
fn target(metric: &Value, current: Option<&Value>) -> String {
    let source = if metric["type"] == "ContainerResource" {
        "containerResource"
    } else {
        "resource"
    };
    let metric = &metric[source];
    let seen = |field: &str| {
        current
            .map(|c| c[source]["current"][field].clone())
            .unwrap_or_default()
    };
    let percent = |value: &Value, missing: &str| {
        value
            .as_i64()
            .map_or_else(|| missing.to_owned(), |n| format!("{n}%"))
    };
    let (used, wanted) = if metric["target"]["averageValue"].is_string() {
        let used = seen("averageValue");
        (
            used.as_str().unwrap_or("<unknown>").to_owned(),
            text(metric, "/target/averageValue").to_owned(),
        )
    } else {
        (
            percent(&seen("averageUtilization"), "<unknown>"),
            percent(&metric["target"]["averageUtilization"], "<auto>"),
        )
    };
    format!("{}: {used}/{wanted}", text(metric, "/name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_aimed_at_and_what_is_used() {
        let metric = |source: &str, name: &str, target: Value| {
            let kind = if source == "resource" {
                "Resource"
            } else {
                "ContainerResource"
            };
            json!({"type": kind, (source): {"name": name, "target": target}})
        };
        let mut object = json!({"spec": {"metrics": [
            metric("resource", "cpu", json!({"averageUtilization": 80})),
            metric("containerResource", "memory", json!({"averageValue": "1Gi"})),
        ]}});
        assert_eq!(targets(&object), "cpu: <unknown>/80%, memory: <unknown>/1Gi");
        object["status"] = json!({"currentMetrics": [
            {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7, "averageValue": "3m"}}},
            {"type": "ContainerResource", "containerResource": {"name": "memory", "current": {"averageValue": "20Mi"}}},
        ]});
        assert_eq!(targets(&object), "cpu: 7%/80%, memory: 20Mi/1Gi");
        let third = metric("resource", "memory", json!({"averageUtilization": 50}));
        object["spec"]["metrics"].as_array_mut().unwrap().push(third);
        assert_eq!(targets(&object), "cpu: 7%/80%, memory: 20Mi/1Gi + 1 more...");
        assert_eq!(targets(&json!({})), "<none>");
    }
}
