//! PURE: PodDisruptionBudgets: how many pods may be taken away now.
//!
//! Source: Kubernetes documentation "Specifying a Disruption Budget"; `pkg/controller/disruption`.

use serde_json::{Value, json};

use crate::selector::LabelSelector;

/// What a budget comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Pods that are ready and stay.
    pub healthy: i64,
    /// Pods that have to be.
    pub desired: i64,
    /// Pods that there should be.
    pub expected: i64,
}

impl Budget {
    /// Pods that may be taken away now.
    pub fn allowed(self) -> i64 {
        if self.expected == 0 {
            0
        } else {
            (self.healthy - self.desired).max(0)
        }
    }
}

/// Whether a pod is covered by a budget of its namespace.
pub fn covers(budget: &Value, pod: &Value) -> bool {
    let selector = budget.pointer("/spec/selector").filter(|s| !s.is_null());
    // In policy/v1 an empty selector is every pod, none is no pod.
    selector.is_some_and(|s| LabelSelector::from_object(Some(s)).is_ok_and(|s| s.matches_object(pod)))
}

/// Whether a pod is ready.
pub fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    conditions
        .into_iter()
        .flatten()
        .any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Whether a pod counts: it has not ended.
pub fn is_live(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a budget comes to for the live pods that it covers. `expected` is how many their owners want together.
pub fn budget(object: &Value, pods: &[Value], expected: i64) -> Budget {
    let healthy = pods
        .iter()
        .filter(|p| is_live(p) && is_ready(p) && p.pointer("/metadata/deletionTimestamp").is_none())
        .count() as i64;
    let spec = |field: &str| object.pointer(&format!("/spec/{field}")).filter(|v| !v.is_null());
    let count = pods.iter().filter(|p| is_live(p)).count() as i64;
    let (desired, expected) = match (spec("minAvailable"), spec("maxUnavailable")) {
        // A plain number needs no owners: it is about the pods that there are.
        (Some(Value::Number(least)), _) => (least.as_i64().unwrap_or(0), count),
        (Some(least), _) => (share(least, expected), expected),
        (None, Some(most)) => ((expected - share(most, expected)).max(0), expected),
        (None, None) => ((expected - 1).max(0), expected),
    };
    Budget {
        healthy,
        desired,
        expected,
    }
}

/// A number, or a percentage of `whole`, rounded up.
fn share(value: &Value, whole: i64) -> i64 {
    match value {
        Value::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            (whole * percent + 99) / 100
        }
        other => other.as_i64().unwrap_or(0),
    }
}

/// Whether an unready pod may go although nothing is allowed: it disturbs nobody.
pub fn may_go_unready(object: &Value, pod: &Value, budget: Budget) -> bool {
    let policy = object
        .pointer("/spec/unhealthyPodEvictionPolicy")
        .and_then(Value::as_str);
    !is_ready(pod)
        && match policy {
            Some("AlwaysAllow") => true,
            _ => budget.healthy >= budget.desired && budget.desired > 0,
        }
}

/// `status` of a budget at `now`.
pub fn status(object: &Value, budget: Budget, now: &str) -> Value {
    let allowed = budget.allowed();
    let (condition, reason) = if allowed > 0 {
        ("True", "SufficientPods")
    } else {
        ("False", "InsufficientPods")
    };
    let before = object
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .and_then(|list| list.iter().find(|c| c["type"] == "DisruptionAllowed"));
    let since = before
        .filter(|c| c["status"] == condition)
        .map_or_else(|| json!(now), |c| c["lastTransitionTime"].clone());
    json!({
        "currentHealthy": budget.healthy,
        "desiredHealthy": budget.desired,
        "expectedPods": budget.expected,
        "disruptionsAllowed": allowed,
        "observedGeneration": object.pointer("/metadata/generation"),
        "conditions": [{
            "type": "DisruptionAllowed", "status": condition, "reason": reason, "message": "",
            "lastTransitionTime": since, "observedGeneration": object.pointer("/metadata/generation"),
        }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pods(ready: usize, unready: usize, leaving: usize) -> Vec<Value> {
        let pod = |ready: bool, leaving: bool| {
            let mut pod = json!({"metadata": {}, "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": if ready { "True" } else { "False" }}]}});
            if leaving {
                pod["metadata"]["deletionTimestamp"] = json!("now");
            }
            pod
        };
        let mut all = vec![pod(true, false); ready];
        all.extend(vec![pod(false, false); unready]);
        all.extend(vec![pod(true, true); leaving]);
        all
    }

    #[test]
    fn budgets() {
        let allowed = |spec: Value, pods: &[Value], expected| {
            budget(&json!({ "spec": spec }), pods, expected).allowed()
        };
        assert_eq!(allowed(json!({"minAvailable": 2}), &pods(3, 0, 0), 3), 1);
        assert_eq!(allowed(json!({"minAvailable": 2}), &pods(2, 1, 0), 3), 0);
        assert_eq!(allowed(json!({"minAvailable": 2}), &pods(2, 0, 1), 3), 0);
        assert_eq!(allowed(json!({"minAvailable": "50%"}), &pods(3, 0, 0), 3), 1);
        assert_eq!(allowed(json!({"maxUnavailable": 1}), &pods(3, 0, 0), 3), 1);
        assert_eq!(allowed(json!({"maxUnavailable": "34%"}), &pods(3, 0, 0), 3), 2);
        assert_eq!(allowed(json!({"maxUnavailable": 0}), &pods(3, 0, 0), 3), 0);
        assert_eq!(allowed(json!({}), &pods(3, 0, 0), 3), 1);
        assert_eq!(allowed(json!({"maxUnavailable": 1}), &[], 0), 0);
        let always = json!({"spec": {"minAvailable": 3, "unhealthyPodEvictionPolicy": "AlwaysAllow"}});
        let list = pods(1, 1, 0);
        let come = budget(&always, &list, 2);
        assert!(may_go_unready(&always, &list[1], come) && !may_go_unready(&always, &list[0], come));
        let strict = json!({"spec": {"minAvailable": 3}});
        assert!(!may_go_unready(&strict, &list[1], come));
    }
}
