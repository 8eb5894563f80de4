//! Defaults of HorizontalPodAutoscaler (upstream `pkg/apis/autoscaling/v2/defaults.go`).

use serde_json::{Value, json};

use super::default;

/// Percent of the requested processor time that is aimed at where nothing else is said.
const UTILIZATION: i32 = 80;

pub(super) fn hpa(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else {
        return;
    };
    default(spec, "minReplicas", 1);
    if spec["metrics"].as_array().is_none_or(Vec::is_empty) {
        spec["metrics"] = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {
            "type": "Utilization", "averageUtilization": UTILIZATION}}}]);
    }
    if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
        default(behavior, "scaleUp", json!({}));
        rules(
            &mut behavior["scaleUp"],
            json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ]),
        );
        default(&mut behavior["scaleUp"], "stabilizationWindowSeconds", 0);
        default(behavior, "scaleDown", json!({}));
        rules(
            &mut behavior["scaleDown"],
            json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]),
        );
    }
}

fn rules(rules: &mut Value, policies: Value) {
    default(rules, "selectPolicy", "Max");
    default(rules, "policies", policies);
}
