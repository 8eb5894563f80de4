//! The scale subresource: `autoscaling/v1 Scale` over the replicas of a workload.

use berth_api::kinds::Kind;
use berth_api::selector::LabelSelector;
use berth_api::status::{ApiError, Cause};
use berth_api::table;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::respond::Form;

/// The Scale of a workload.
pub(super) fn of(workload: &Value) -> Value {
    let meta = |field: &str| {
        workload
            .pointer(&format!("/metadata/{field}"))
            .cloned()
            .unwrap_or_default()
    };
    let count = |pointer: &str| workload.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let selector = LabelSelector::from_object(workload.pointer("/spec/selector"));
    let selector = selector.map(|selector| selector.to_string()).unwrap_or_default();
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {
            "name": meta("name"),
            "namespace": meta("namespace"),
            "uid": meta("uid"),
            "resourceVersion": meta("resourceVersion"),
            "creationTimestamp": meta("creationTimestamp"),
        },
        "spec": {"replicas": count("/spec/replicas")},
        "status": {"replicas": count("/status/replicas"), "selector": selector},
    })
}

/// The Scale of a workload in the form asked for.
pub(super) fn shown(workload: &Value, form: Form, now: Timestamp) -> Value {
    let scale = of(workload);
    match form {
        Form::Object => scale,
        Form::Partial => table::partial(&scale),
        Form::Table(include) => table::scale(&scale, include, now),
    }
}

/// The workload with the replicas of a Scale, and its resourceVersion if it names one.
pub(super) fn apply(kind: &Kind, workload: &Value, scale: &Value) -> Result<Value, ApiError> {
    let replicas = scale
        .pointer("/spec/replicas")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if replicas < 0 {
        let name = workload
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        return Err(ApiError::invalid(
            kind,
            name,
            vec![Cause {
                reason: "FieldValueInvalid".into(),
                message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
                field: "spec.replicas".into(),
            }],
        ));
    }
    let mut changed = workload.clone();
    changed["spec"]["replicas"] = json!(replicas);
    if let Some(version) = scale.pointer("/metadata/resourceVersion") {
        changed["metadata"]["resourceVersion"] = version.clone();
    }
    Ok(changed)
}
