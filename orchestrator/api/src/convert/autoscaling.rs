//! autoscaling/v1 and v2 of a HorizontalPodAutoscaler.
//!
//! v1 knows a utilization of processor time. What it does not know travels in annotations, as upstream
//! (`pkg/apis/autoscaling/v1/conversion.go`), so that nothing is lost on the way there and back.

use serde_json::{Map, Value, json};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const TARGET: &str = "targetCPUUtilizationPercentage";
const USED: &str = "currentCPUUtilizationPercentage";

/// Both forms of a source of metrics.
const SOURCES: [&str; 2] = ["resource", "containerResource"];

fn take_annotation(object: &mut Value, name: &str) -> Option<Value> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let text = annotations.remove(name)?;
    if annotations.is_empty() {
        object["metadata"].as_object_mut()?.remove("annotations");
    }
    serde_json::from_str(text.as_str()?).ok()
}

fn put_annotation(object: &mut Value, name: &str, value: &Value) {
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][name] = json!(value.to_string());
}

fn is_cpu_utilization(metric: &Value, member: &str) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"][member]["averageUtilization"].is_i64()
}

fn remove(object: &mut Value, member: &str) -> Option<Value> {
    object.as_object_mut()?.remove(member).filter(|v| !v.is_null())
}

/// A metric of v1's annotation: target and current value are members of the source itself.
fn flat(metric: &Value, member: &str, prefix: &str) -> Value {
    let mut out = metric.clone();
    for source in SOURCES {
        let Some(source) = out.get_mut(source) else {
            continue;
        };
        let inner = remove(source, member).unwrap_or_default();
        for field in ["AverageUtilization", "AverageValue"] {
            let value = &inner[format!("a{}", &field[1..])];
            if !value.is_null() {
                source[format!("{prefix}{field}")] = value.clone();
            }
        }
    }
    out
}

/// The way back.
fn nested(metric: &Value, member: &str, prefix: &str) -> Value {
    let mut out = metric.clone();
    for source in SOURCES {
        let Some(source) = out.get_mut(source) else {
            continue;
        };
        let mut inner = Map::new();
        for field in ["AverageUtilization", "AverageValue"] {
            if let Some(value) = remove(source, &format!("{prefix}{field}")) {
                inner.insert(format!("a{}", &field[1..]), value);
            }
        }
        if member == "target" {
            let kind = if inner.contains_key("averageUtilization") {
                "Utilization"
            } else {
                "AverageValue"
            };
            inner.insert("type".to_owned(), json!(kind));
        }
        source[member] = Value::Object(inner);
    }
    out
}

/// An autoscaling/v1 object as v2.
pub fn to_v2(mut object: Value) -> Value {
    object["apiVersion"] = json!("autoscaling/v2");
    let list = |value: Option<Value>| match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut metrics: Vec<Value> = list(take_annotation(&mut object, METRICS))
        .iter()
        .map(|metric| nested(metric, "target", "target"))
        .collect();
    let mut current: Vec<Value> = list(take_annotation(&mut object, CURRENT))
        .iter()
        .map(|metric| nested(metric, "current", "current"))
        .collect();
    let conditions = take_annotation(&mut object, CONDITIONS);
    let behavior = take_annotation(&mut object, BEHAVIOR);
    if let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) {
        if let Some(percent) = remove(spec, TARGET) {
            metrics.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu", "target": {
                    "type": "Utilization", "averageUtilization": percent}}}),
            );
        }
        if !metrics.is_empty() {
            spec["metrics"] = Value::Array(metrics);
        }
        if let Some(behavior) = behavior {
            spec["behavior"] = behavior;
        }
    }
    if let Some(status) = object.get_mut("status").filter(|s| s.is_object()) {
        if let Some(percent) = remove(status, USED) {
            current.insert(
                0,
                json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}),
            );
        }
        if !current.is_empty() {
            status["currentMetrics"] = Value::Array(current);
        }
        if let Some(conditions) = conditions {
            status["conditions"] = conditions;
        }
    }
    object
}

/// A stored object as autoscaling/v1.
pub fn to_v1(mut object: Value) -> Value {
    object["apiVersion"] = json!("autoscaling/v1");
    let mut kept: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) {
        let metrics = remove(spec, "metrics");
        let mut metrics: Vec<Value> = metrics.and_then(|m| m.as_array().cloned()).unwrap_or_default();
        if let Some(at) = metrics.iter().position(|m| is_cpu_utilization(m, "target")) {
            let metric = metrics.remove(at);
            spec[TARGET] = metric["resource"]["target"]["averageUtilization"].clone();
        }
        if !metrics.is_empty() {
            let metrics = metrics.iter().map(|metric| flat(metric, "target", "target"));
            kept.push((METRICS, metrics.collect()));
        }
        kept.extend(remove(spec, "behavior").map(|behavior| (BEHAVIOR, behavior)));
    }
    if let Some(status) = object.get_mut("status").filter(|s| s.is_object()) {
        let current = remove(status, "currentMetrics");
        let current: Vec<Value> = current.and_then(|m| m.as_array().cloned()).unwrap_or_default();
        if let Some(metric) = current.iter().find(|m| is_cpu_utilization(m, "current")) {
            status[USED] = metric["resource"]["current"]["averageUtilization"].clone();
        }
        if !current.is_empty() {
            let current = current.iter().map(|metric| flat(metric, "current", "current"));
            kept.push((CURRENT, current.collect()));
        }
        kept.extend(remove(status, "conditions").map(|conditions| (CONDITIONS, conditions)));
    }
    for (name, value) in kept {
        put_annotation(&mut object, name, &value);
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_v1_does_not_know_comes_back() {
        let stored = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {
                "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"},
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 0}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                        "target": {"type": "Utilization", "averageUtilization": 50}}},
                ],
            },
            "status": {"desiredReplicas": 2, "conditions": [{"type": "AbleToScale", "status": "True"}]},
        });
        let old = to_v1(stored.clone());
        assert_eq!(old["apiVersion"], "autoscaling/v1");
        assert_eq!(old["spec"][TARGET], 70);
        assert!(old["spec"].get("metrics").is_none() && old["status"].get("conditions").is_none());
        let kept: Value =
            serde_json::from_str(old["metadata"]["annotations"][METRICS].as_str().unwrap()).unwrap();
        assert_eq!(
            kept[0]["resource"],
            json!({"name": "memory", "targetAverageValue": "1Gi"})
        );
        assert_eq!(to_v2(old), stored);
    }

    #[test]
    fn a_plain_v1_object() {
        let old = json!({
            "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "minReplicas": 1, (TARGET): 80, "scaleTargetRef": {"kind": "Deployment", "name": "web"}},
        });
        let new = to_v2(old.clone());
        assert_eq!(
            new["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
            80
        );
        assert!(new["spec"].get(TARGET).is_none());
        assert_eq!(to_v1(new), old);
        let current = json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 3, "averageValue": "1m"}}}]);
        let seen = to_v1(json!({"metadata": {}, "status": {"currentMetrics": current}}));
        assert_eq!(seen["status"][USED], 3);
    }
}
