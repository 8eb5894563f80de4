//! Validation of HorizontalPodAutoscaler (upstream `pkg/apis/autoscaling/validation`).

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use crate::quantity::Quantity;

/// Longest time that recommendations are looked back at, and longest period of a policy, in seconds.
const LONGEST_WINDOW: i64 = 3600;
const LONGEST_PERIOD: i64 = 1800;
/// What the node measures of containers.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

pub(super) fn hpa(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let number = |name: &str| spec.get(name).and_then(Value::as_i64);
    let (least, most) = (number("minReplicas"), number("maxReplicas").unwrap_or(0));
    if let Some(least) = least.filter(|n| *n < 1) {
        let place = at.child("minReplicas");
        errors.invalid(&place, &json!(least), "must be greater than or equal to 1");
    }
    if most < 1 {
        errors.invalid(&at.child("maxReplicas"), &json!(most), "must be greater than 0");
    } else if least.is_some_and(|least| most < least) {
        let told = "must be greater than or equal to `minReplicas`";
        errors.invalid(&at.child("maxReplicas"), &json!(most), told);
    }
    let place = at.child("scaleTargetRef");
    let target = spec.get("scaleTargetRef").unwrap_or(&Value::Null);
    for field in ["kind", "name"] {
        let value = text(target, field);
        if value.is_empty() {
            errors.required(&place.child(field), "");
        } else if value == "." || value == ".." || value.contains(['/', '%']) {
            let told = "may not be '.' or '..', and may not contain '/' or '%'";
            errors.invalid_text(&place.child(field), value, told);
        }
    }
    for (index, metric) in each(spec, "metrics") {
        self::metric(&at.child("metrics").index(index), metric, errors);
    }
    if let Some(behavior) = spec.get("behavior") {
        for field in ["scaleUp", "scaleDown"] {
            if let Some(rules) = behavior.get(field).filter(|r| !r.is_null()) {
                self::rules(&at.child("behavior").child(field), rules, errors);
            }
        }
    }
}

fn metric(at: &Path, metric: &Value, errors: &mut Errors) {
    let source = match text(metric, "type") {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        // Their sources are refused by the table of fields, with the reason.
        "Pods" | "Object" | "External" => return,
        "" => return errors.required(&at.child("type"), "must specify a metric source type"),
        other => return errors.unsupported(&at.child("type"), other, &["ContainerResource", "Resource"]),
    };
    let place = at.child(source);
    let Some(value) = metric.get(source).filter(|s| !s.is_null()) else {
        let told = format!("must populate the given metric source only: {source}");
        return errors.required(&place, &told);
    };
    let other = if source == "resource" {
        "containerResource"
    } else {
        "resource"
    };
    if metric.get(other).is_some_and(|s| !s.is_null()) {
        errors.forbidden(&at.child(other), "must populate the given metric source only");
    }
    let name = text(value, "name");
    if name.is_empty() {
        errors.required(&place.child("name"), "must specify a resource name");
    } else if !RESOURCES.contains(&name) {
        errors.unsupported(&place.child("name"), name, &RESOURCES);
    }
    if source == "containerResource" && text(value, "container").is_empty() {
        errors.required(&place.child("container"), "must specify a container");
    }
    target(
        &place.child("target"),
        value.get("target").unwrap_or(&Value::Null),
        errors,
    );
}

fn target(at: &Path, target: &Value, errors: &mut Errors) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.required(&at.child("type"), "must specify a metric target type");
    } else if !matches!(kind, "Utilization" | "AverageValue") {
        errors.unsupported(&at.child("type"), kind, &["AverageValue", "Utilization"]);
    }
    let utilization = target.get("averageUtilization").filter(|v| !v.is_null());
    let value = target.get("averageValue").filter(|v| !v.is_null());
    if utilization.is_some_and(|n| n.as_i64().is_none_or(|n| n < 1)) {
        let shown = utilization.unwrap_or(&Value::Null);
        errors.invalid(&at.child("averageUtilization"), shown, "must be greater than 0");
    }
    if let Some(shown) = value
        && parsed(shown).is_none_or(|q| q <= Quantity::ZERO)
    {
        errors.invalid(&at.child("averageValue"), shown, "must be positive");
    }
    match (utilization, value) {
        (None, None) => errors.required(
            &at.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (Some(_), Some(_)) => errors.forbidden(
            &at.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        _ => {}
    }
}

fn parsed(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

fn rules(at: &Path, rules: &Value, errors: &mut Errors) {
    let window = rules.get("stabilizationWindowSeconds").filter(|v| !v.is_null());
    if let Some(seconds) = window
        && !seconds
            .as_i64()
            .is_some_and(|n| (0..=LONGEST_WINDOW).contains(&n))
    {
        let told = format!("must be between 0 and {LONGEST_WINDOW}");
        errors.invalid(&at.child("stabilizationWindowSeconds"), seconds, &told);
    }
    if let Some(tolerance) = rules.get("tolerance").filter(|v| !v.is_null())
        && parsed(tolerance).is_none_or(Quantity::is_negative)
    {
        let told = "must be greater than or equal to 0";
        errors.invalid(&at.child("tolerance"), tolerance, told);
    }
    let select = text(rules, "selectPolicy");
    if !matches!(select, "" | "Max" | "Min" | "Disabled") {
        errors.unsupported(&at.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
    }
    let place = at.child("policies");
    if rules.get("policies").is_some() && each(rules, "policies").next().is_none() {
        errors.required(&place, "must specify at least one Policy");
    }
    for (index, policy) in each(rules, "policies") {
        let at = place.index(index);
        let kind = text(policy, "type");
        if !matches!(kind, "Pods" | "Percent") {
            errors.unsupported(&at.child("type"), kind, &["Percent", "Pods"]);
        }
        for (field, most) in [("value", i64::MAX), ("periodSeconds", LONGEST_PERIOD)] {
            let number = policy.get(field).and_then(Value::as_i64).unwrap_or(0);
            if number < 1 {
                errors.invalid(&at.child(field), &json!(number), "must be greater than zero");
            } else if number > most {
                let told = format!("must be less than or equal to {most}");
                errors.invalid(&at.child(field), &json!(number), &told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::HORIZONTAL_POD_AUTOSCALER;
    use crate::{defaults, validate};

    fn told(spec: Value) -> String {
        let mut object = json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h", "namespace": "d"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"}},
        });
        let Value::Object(fields) = spec else {
            panic!("no object")
        };
        for (field, value) in fields {
            object["spec"][&field] = value;
        }
        defaults::apply(HORIZONTAL_POD_AUTOSCALER, &mut object);
        let causes = validate::create(HORIZONTAL_POD_AUTOSCALER, &object, &validate::Node::default());
        let lines: Vec<String> = causes
            .iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        lines.join("\n")
    }

    #[test]
    fn what_is_let_in_and_what_not() {
        assert_eq!(told(json!({})), "");
        assert_eq!(
            told(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 0, "tolerance": "0.05"}}})),
            ""
        );
        let metric = |target: Value| json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}]});
        assert_eq!(
            told(metric(json!({"type": "AverageValue", "averageValue": "100m"}))),
            ""
        );
        for (spec, part) in [
            (
                json!({"minReplicas": 0}),
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            ),
            (
                json!({"minReplicas": 5}),
                "must be greater than or equal to `minReplicas`",
            ),
            (
                json!({"maxReplicas": 0}),
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
            ),
            (
                json!({"scaleTargetRef": {"kind": "Deployment"}}),
                "spec.scaleTargetRef.name: Required value",
            ),
            (
                metric(json!({"type": "Utilization"})),
                "must set either a target raw value",
            ),
            (
                metric(json!({"type": "Value", "value": "1"})),
                "Unsupported value: \"Value\"",
            ),
            (
                metric(json!({"type": "Utilization", "averageUtilization": 0})),
                "must be greater than 0",
            ),
            (
                json!({"metrics": [{"type": "Pods", "pods": {"metric": {"name": "rps"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]}),
                "spec.metrics[0].pods: Forbidden: not supported here: only what containers use",
            ),
            (
                json!({"metrics": [{"type": "Resource", "resource": {"name": "disk", "target": {"type": "AverageValue", "averageValue": "1"}}}]}),
                "Unsupported value: \"disk\"",
            ),
            (
                json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601}}}),
                "must be between 0 and 3600",
            ),
            (
                json!({"behavior": {"scaleUp": {"policies": []}}}),
                "must specify at least one Policy",
            ),
            (
                json!({"behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}}}),
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801",
            ),
        ] {
            let found = told(spec.clone());
            assert!(found.contains(part), "{spec}: {found:?}");
        }
    }
}
