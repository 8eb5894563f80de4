//! PURE: one look at an autoscaler: what its metrics say, what becomes of its target, what its status tells (upstream
//! `reconcileAutoscaler`).

use berth_api::quantity::Quantity;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::fields::{condition, number, text};
use super::limits::{Limits, Memory};
use super::replicas::{Aim, Measure, Outcome, Samples, Tolerance, wanted};
use crate::store::prepare::rfc3339;

/// How far a metric may be off its target where nothing else is said, in thousandths.
const TOLERANCE: i64 = 100;

/// The target of an autoscaler.
#[derive(Debug, Clone)]
pub struct Target {
    /// `spec.replicas`.
    pub replicas: i64,
    /// Its pods, as stored.
    pub pods: Vec<Value>,
    /// Other autoscalers that have some of these pods.
    pub rivals: Vec<String>,
    /// Whether it selects anything.
    pub selects: bool,
}

/// Something for an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Whether somebody may have to look.
    pub warning: bool,
    /// CamelCase word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The target's new number of replicas, and why.
    pub rescale: Option<(i64, String)>,
    /// The autoscaler's status, if the change is made.
    pub status: Value,
    /// What went wrong on the way.
    pub told: Vec<Told>,
}

/// The status that is being made.
struct Draft {
    status: Value,
    now: Timestamp,
    told: Vec<Told>,
}

impl Draft {
    fn new(hpa: &Value, now: Timestamp) -> Self {
        let mut status = hpa.get("status").cloned().unwrap_or_default();
        if !status.is_object() {
            status = json!({});
        }
        status["observedGeneration"] = json!(number(hpa, "/metadata/generation"));
        Self {
            status,
            now,
            told: Vec::new(),
        }
    }

    fn condition(&mut self, kind: &str, holds: bool, reason: &str, message: &str) {
        let status = if holds { "True" } else { "False" };
        let since = condition(&self.status, kind)
            .filter(|known| known["status"] == status)
            .map_or_else(
                || json!(rfc3339(self.now)),
                |known| known["lastTransitionTime"].clone(),
            );
        let fresh = json!({
            "type": kind, "status": status, "lastTransitionTime": since, "reason": reason, "message": message,
        });
        let list = &mut self.status["conditions"];
        match list.as_array_mut() {
            Some(list) => match list.iter_mut().find(|known| known["type"] == kind) {
                Some(known) => *known = fresh,
                None => list.push(fresh),
            },
            None => *list = json!([fresh]),
        }
    }

    /// A condition that does not hold, with its event when that is news.
    fn failed(&mut self, kind: &str, reason: &'static str, message: &str, event: String) {
        let known = condition(&self.status, kind)
            .is_some_and(|known| known["reason"] == reason && known["message"] == message);
        if !known {
            self.warn(reason, event);
        }
        self.condition(kind, false, reason, message);
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.told.push(Told {
            warning: true,
            reason,
            message,
        });
    }

    fn plan(mut self, current: i64, desired: Option<i64>, rescale: Option<(i64, String)>) -> Plan {
        self.status["currentReplicas"] = json!(current);
        let kept = self.status["desiredReplicas"].as_i64().unwrap_or(0);
        self.status["desiredReplicas"] = json!(desired.unwrap_or(kept));
        if let Some((to, _)) = &rescale {
            let message = format!("the HPA controller was able to update the target scale to {to}");
            self.condition("AbleToScale", true, "SucceededRescale", &message);
            self.status["lastScaleTime"] = json!(rfc3339(self.now));
        }
        Plan {
            rescale,
            status: self.status,
            told: self.told,
        }
    }
}

/// A look at an autoscaler whose target cannot be read.
pub fn without_target(hpa: &Value, why: &str, now: Timestamp) -> Plan {
    let mut draft = Draft::new(hpa, now);
    let message = format!("the HPA controller was unable to get the target's current scale: {why}");
    draft.failed("AbleToScale", "FailedGetScale", &message, why.to_owned());
    let current = number(hpa, "/status/currentReplicas");
    draft.plan(current, None, None)
}

/// The status when the target's new size could not be written.
pub fn not_rescaled(hpa: &Value, planned: &Value, why: &str, now: Timestamp) -> Value {
    let mut draft = Draft::new(hpa, now);
    draft.status = planned.clone();
    let message = format!("the HPA controller was unable to update the target scale: {why}");
    draft.condition("AbleToScale", false, "FailedUpdateScale", &message);
    for field in ["desiredReplicas", "lastScaleTime"] {
        let before = hpa.pointer(&format!("/status/{field}")).cloned();
        match (before, draft.status.as_object_mut()) {
            (Some(before), Some(status)) => drop(status.insert(field.to_owned(), before)),
            (None, Some(status)) => drop(status.remove(field)),
            _ => {}
        }
    }
    draft.status["desiredReplicas"] = json!(draft.status["desiredReplicas"].as_i64().unwrap_or(0));
    draft.status
}

/// A look at an autoscaler with its target.
pub fn plan(hpa: &Value, target: &Target, samples: &Samples, memory: &mut Memory, now: Timestamp) -> Plan {
    let mut draft = Draft::new(hpa, now);
    draft.condition(
        "AbleToScale",
        true,
        "SucceededGetScale",
        "the HPA controller was able to get the target's current scale",
    );
    let current = target.replicas;
    if memory.is_empty() {
        memory.recommend(now, current);
    }
    let limits = Limits {
        least: number(hpa, "/spec/minReplicas").max(1),
        most: number(hpa, "/spec/maxReplicas"),
        behavior: hpa.pointer("/spec/behavior").filter(|b| b.is_object()),
    };
    let bounded = if current == 0 {
        let told = "scaling is disabled since the replica count of the target is zero";
        draft.condition("ScalingActive", false, "ScalingDisabled", told);
        return draft.plan(current, Some(0), None);
    } else if current > limits.most {
        Some((limits.most, "Current number of replicas above Spec.MaxReplicas"))
    } else if current < limits.least {
        Some((limits.least, "Current number of replicas below Spec.MinReplicas"))
    } else {
        None
    };
    if let Some((to, reason)) = bounded {
        return draft.plan(current, Some(to), Some((to, reason.to_owned())));
    }
    let Some((recommended, metric)) = recommend(hpa, target, samples, &mut draft) else {
        return draft.plan(current, None, None);
    };
    let stable = limits.stabilized(memory, current, recommended, now);
    memory.recommend(now, recommended);
    draft.condition("AbleToScale", true, stable.reason, stable.message);
    let limited = limits.limited(memory, current, stable.replicas, now);
    let within = limited.replicas == stable.replicas;
    draft.condition("ScalingLimited", !within, limited.reason, limited.message);
    let desired = limited.replicas;
    let reason = if recommended > current {
        format!("{metric} above target")
    } else {
        "All metrics below target".to_owned()
    };
    let rescale = (desired != current).then_some((desired, reason));
    draft.plan(current, Some(desired), rescale)
}

/// The highest number of replicas that a metric asks for, and its name; None where nothing can be said.
fn recommend(hpa: &Value, target: &Target, samples: &Samples, draft: &mut Draft) -> Option<(i64, String)> {
    if !target.selects {
        let told = "the HPA target's scale is missing a selector";
        draft.failed(
            "ScalingActive",
            "InvalidSelector",
            told,
            "selector is required".to_owned(),
        );
        return None;
    }
    if !target.rivals.is_empty() {
        let message = format!(
            "pods by selector are controlled by multiple HPAs: {}",
            target.rivals.join(", ")
        );
        draft.failed("ScalingActive", "AmbiguousSelector", &message, message.clone());
        return None;
    }
    let metrics = hpa.pointer("/spec/metrics").and_then(Value::as_array);
    let metrics = metrics.map_or(&[][..], Vec::as_slice);
    let (mut best, mut statuses) = (None::<(i64, String)>, Vec::new());
    let (mut invalid, mut first) = (0, None::<(&'static str, String)>);
    for spec in metrics {
        match one(hpa, spec, target, samples, draft.now) {
            Ok((outcome, name, status)) => {
                statuses.push(status);
                if best.as_ref().is_none_or(|(most, _)| outcome.replicas > *most) {
                    best = Some((outcome.replicas, name));
                }
            }
            Err((reason, why)) => {
                // Clients match metrics and their status by place.
                statuses.push(json!({"type": ""}));
                invalid += 1;
                first.get_or_insert((reason, why));
            }
        }
    }
    draft.status["currentMetrics"] = Value::Array(statuses);
    let falls = best.as_ref().is_some_and(|(most, _)| *most < target.replicas);
    if let Some((reason, why)) = first.filter(|_| best.is_none() || falls) {
        let message = format!("the HPA was unable to compute the replica count: {why}");
        let known = condition(&draft.status, "ScalingActive")
            .is_some_and(|known| known["reason"] == reason && known["message"] == message.as_str());
        draft.failed("ScalingActive", reason, &message, why.clone());
        if !known {
            draft.warn(
                "FailedComputeMetricsReplicas",
                format!(
                    "invalid metrics ({invalid} invalid out of {}), first error is: {why}",
                    metrics.len()
                ),
            );
        }
        return None;
    }
    let (replicas, name) = best?;
    let message = format!("the HPA was able to successfully calculate a replica count from {name}");
    draft.condition("ScalingActive", true, "ValidMetricFound", &message);
    Some((replicas, name))
}

type Measured = (Outcome, String, Value);

/// One metric: what it asks for, its name in events, its status.
fn one(
    hpa: &Value,
    spec: &Value,
    target: &Target,
    samples: &Samples,
    now: Timestamp,
) -> Result<Measured, (&'static str, String)> {
    let (source, reason, kind) = if spec["type"] == "ContainerResource" {
        (
            "containerResource",
            "FailedGetContainerResourceMetric",
            "container resource",
        )
    } else {
        ("resource", "FailedGetResourceMetric", "resource")
    };
    let metric = &spec[source];
    let container = metric["container"].as_str();
    let resource = text(metric, "/name");
    let measure = Measure { resource, container };
    let (aim, name) = if let Some(percent) = metric["target"]["averageUtilization"].as_i64() {
        (
            Aim::Utilization(percent),
            format!("{resource} {kind} utilization (percentage of request)"),
        )
    } else {
        let amount: Option<Quantity> = text(metric, "/target/averageValue").parse().ok();
        (
            Aim::Average(amount.map_or(1, Quantity::milli)),
            format!("{resource} {kind}"),
        )
    };
    let outcome = wanted(
        measure,
        aim,
        target.replicas,
        &target.pods,
        samples,
        tolerance(hpa),
        now,
    )
    .map_err(|why| {
        let what = match aim {
            Aim::Utilization(_) => "utilization",
            Aim::Average(_) => "usage",
        };
        (reason, format!("failed to get {resource} {what}: {why}"))
    })?;
    let mut current = json!({"averageValue": amount(resource, outcome.average)});
    if let Some(percent) = outcome.utilization {
        current["averageUtilization"] = json!(percent);
    }
    let mut status = json!({"type": spec["type"], (source): {"name": resource, "current": current}});
    if let Some(container) = container {
        status[source]["container"] = json!(container);
    }
    Ok((outcome, name, status))
}

/// `spec.behavior.*.tolerance`.
fn tolerance(hpa: &Value) -> Tolerance {
    let of = |direction: &str| {
        let own = text(hpa, &format!("/spec/behavior/{direction}/tolerance")).parse::<Quantity>();
        own.map_or(TOLERANCE, Quantity::milli)
    };
    Tolerance {
        down: of("scaleDown"),
        up: of("scaleUp"),
    }
}

/// An amount as a quantity: `12m`, or bytes.
fn amount(resource: &str, milli: i64) -> String {
    if resource == "cpu" && milli % 1000 != 0 {
        format!("{milli}m")
    } else {
        (milli / 1000).to_string()
    }
}

/// Whether a status tells more than that the use of something has wavered: only that is worth a write.
pub fn is_news(old: &Value, new: &Value) -> bool {
    let rest = |status: &Value| {
        let mut status = status.clone();
        if let Some(map) = status.as_object_mut() {
            map.remove("currentMetrics");
        }
        status
    };
    let metrics = |status: &Value| status["currentMetrics"].as_array().cloned().unwrap_or_default();
    let (before, after) = (metrics(old), metrics(new));
    rest(old) != rest(new)
        || before.len() != after.len()
        || before
            .iter()
            .zip(&after)
            .any(|(before, after)| differs(before, after))
}

/// A percent of utilization, or a twentieth of the average, makes a difference.
fn differs(before: &Value, after: &Value) -> bool {
    let source = ["resource", "containerResource"]
        .into_iter()
        .find(|source| after.get(*source).is_some());
    let Some(source) = source else {
        return before != after;
    };
    let current = |metric: &Value, field: &str| metric[source]["current"][field].clone();
    if current(before, "averageUtilization") != current(after, "averageUtilization") {
        return true;
    }
    let milli = |metric: &Value| -> Option<i64> {
        let quantity: Quantity = current(metric, "averageValue").as_str()?.parse().ok()?;
        Some(quantity.milli())
    };
    match (milli(before), milli(after)) {
        (Some(before), Some(after)) => (before - after).abs() * 20 > before.max(20),
        (before, after) => before != after,
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
