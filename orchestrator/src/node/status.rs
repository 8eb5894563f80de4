//! PURE: the status of a pod as kubelet writes it (kubernetes `pkg/kubelet/kubelet_pods.go`,
//! `pkg/kubelet/status/generate.go`), from what was observed.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::claims::UNSCHEDULABLE;
use super::observed::{Ended, Observed, Seen, State};
use super::pod::{Definition, Pod, Role};
use super::{plan, resources};
use crate::store::prepare::rfc3339;

/// Conditions of a resize that is not done: one that has not begun, and one that is under way.
const RESIZE: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Scheme of `containerID` in container statuses.
pub const ID_SCHEME: &str = "berth://";

/// `status` of the pod at `now`. `host_ip` is the node's address.
pub fn status(pod: &Pod, seen: &Observed, host_ip: &str, now: Timestamp) -> Value {
    let previous = previous(pod);
    if pod.finished && !seen.sandbox.touched {
        // The pod is over and what was observed of it is gone: the stored status is the truth.
        return previous;
    }
    if let Some(failure) = seen.failure.as_ref().filter(|f| f.reason == UNSCHEDULABLE)
        && !seen.sandbox.touched
    {
        return unplaced(pod, &failure.message, &previous, now);
    }
    let phase = phase(pod, seen);
    let mut status = json!({
        "phase": phase,
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": previous.get("startTime").cloned().unwrap_or_else(|| json!(rfc3339(seen.accepted))),
        "qosClass": resources::qos(pod.spec()),
        "conditions": conditions(pod, seen, phase, &previous, now),
        "containerStatuses": containers(pod, seen, |role| role == Role::Main, now),
    });
    if let Some(generation) = pod.object.metadata.generation {
        status["observedGeneration"] = json!(generation);
    }
    let init = containers(pod, seen, |role| matches!(role, Role::Init | Role::Sidecar), now);
    if !init.is_empty() {
        status["initContainerStatuses"] = json!(init);
    }
    let ephemeral = containers(pod, seen, |role| role == Role::Ephemeral, now);
    if !ephemeral.is_empty() {
        status["ephemeralContainerStatuses"] = json!(ephemeral);
    }
    let ips: Vec<String> = if pod.host_network() {
        vec![host_ip.to_owned()]
    } else {
        seen.sandbox.ips.iter().map(ToString::to_string).collect()
    };
    if let Some(first) = ips.first() {
        status["podIP"] = json!(first);
        status["podIPs"] = ips.iter().map(|ip| json!({ "ip": ip })).collect();
    }
    if let Some((reason, message)) = &seen.verdict {
        status["reason"] = json!(reason);
        status["message"] = json!(message);
    }
    status
}

/// The status of a pod that waits for its claims, as kube-scheduler leaves it.
fn unplaced(pod: &Pod, message: &str, previous: &Value, now: Timestamp) -> Value {
    let old = previous["conditions"].as_array();
    let same = old
        .into_iter()
        .flatten()
        .find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
    let since = same.map_or_else(|| json!(rfc3339(now)), |c| c["lastTransitionTime"].clone());
    let mut status = json!({
        "phase": "Pending",
        "qosClass": resources::qos(pod.spec()),
        "conditions": [{
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": null,
            "lastTransitionTime": since,
            "reason": "Unschedulable",
            "message": message,
        }],
    });
    if let Some(generation) = pod.object.metadata.generation {
        status["observedGeneration"] = json!(generation);
    }
    status
}

/// The stored status as JSON.
fn previous(pod: &Pod) -> Value {
    pod.object
        .status
        .as_ref()
        .and_then(|s| serde_json::to_value(s).ok())
        .unwrap_or_else(|| json!({}))
}

/// `status.phase`.
fn phase(pod: &Pod, seen: &Observed) -> &'static str {
    if seen.verdict.is_some() {
        return "Failed";
    }
    let (mut waiting, mut running, mut stopped, mut succeeded, mut again) = (0, 0, 0, 0, 0);
    for definition in &pod.containers {
        let one = seen.seen(&definition.spec.name);
        match definition.role {
            Role::Init => match one.ended() {
                Some(ended) if ended.code == 0 => {}
                Some(ended) if !definition.restarts(ended.code) => return "Failed",
                _ if !any_main_begun(pod, seen) => return "Pending",
                _ => {}
            },
            Role::Sidecar => {
                if !one.running() && !any_main_begun(pod, seen) {
                    return "Pending";
                }
            }
            Role::Ephemeral => {}
            Role::Main => match &one.state {
                State::Running { .. } => running += 1,
                State::Ended(ended) => {
                    stopped += 1;
                    succeeded += usize::from(ended.code == 0 && !ended.start_failed);
                    again += usize::from(definition.restarts(ended.code));
                }
                // Between two runs.
                _ if one.last.is_some() => again += 1,
                _ => waiting += 1,
            },
        }
    }
    if waiting > 0 {
        "Pending"
    } else if running > 0 || again > 0 {
        "Running"
    } else if stopped == succeeded {
        "Succeeded"
    } else {
        "Failed"
    }
}

fn any_main_begun(pod: &Pod, seen: &Observed) -> bool {
    pod.containers
        .iter()
        .any(|c| c.role == Role::Main && !matches!(seen.seen(&c.spec.name).state, State::Absent))
}

/// The statuses of the containers of some roles, in the order of the specification.
fn containers(pod: &Pod, seen: &Observed, of: impl Fn(Role) -> bool, now: Timestamp) -> Vec<Value> {
    pod.containers
        .iter()
        .filter(|c| of(c.role))
        .map(|c| container(pod, seen, c, now))
        .collect()
}

fn container(pod: &Pod, seen: &Observed, definition: &Definition, now: Timestamp) -> Value {
    let one = seen.seen(&definition.spec.name);
    let (state, last) = states(pod, seen, definition, &one, now);
    let (image, image_id) = one
        .image
        .clone()
        .unwrap_or_else(|| (definition.spec.image.clone().unwrap_or_default(), String::new()));
    let done = definition.role == Role::Init && one.ended().is_some_and(|e| e.code == 0);
    let mut status = json!({
        "name": definition.spec.name,
        "image": image,
        "imageID": image_id,
        "ready": (one.running() && one.ready) || done,
        "started": one.running() && one.started,
        "restartCount": one.attempt,
        "state": state,
        "lastState": last.map_or_else(|| json!({}), |ended| json!({"terminated": terminated(&ended)})),
    });
    if let Some(share) = one.share.as_ref().filter(|_| one.running()) {
        let mut resources = serde_json::to_value(&definition.spec.resources).unwrap_or_default();
        if !resources.is_object() {
            resources = json!({});
        }
        for (which, has) in [("requests", &share.requests), ("limits", &share.limits)] {
            for (name, amount) in has {
                resources[which][name] = json!(amount);
            }
        }
        if resources.as_object().is_some_and(Map::is_empty) {
            resources = Value::Null;
        }
        if let Some(requests) = resources.get("requests").filter(|r| !r.is_null()) {
            status["allocatedResources"] = requests.clone();
        }
        if !resources.is_null() {
            status["resources"] = resources;
        }
    }
    let id = match &one.state {
        State::Running { id, .. } => Some(id),
        State::Ended(ended) => Some(&ended.id),
        _ => one.last.as_ref().map(|ended| &ended.id),
    };
    if let Some(id) = id {
        status["containerID"] = json!(format!("{ID_SCHEME}{id}"));
    }
    status
}

/// `state` and what `lastState` is made of.
fn states(
    pod: &Pod,
    seen: &Observed,
    definition: &Definition,
    one: &Seen,
    now: Timestamp,
) -> (Value, Option<Ended>) {
    let last = one.last.clone();
    match &one.state {
        State::Absent => {
            let message = seen
                .failure
                .as_ref()
                .map_or("", |failure| failure.message.as_str());
            let waits_for_init = definition.role == Role::Main && !initialized(pod, seen);
            let reason = if waits_for_init {
                "PodInitializing"
            } else {
                "ContainerCreating"
            };
            (waiting(reason, message), last)
        }
        State::Refused(failure) => (waiting(&failure.reason, &failure.message), last),
        State::Pulling | State::Creating { .. } => (waiting("ContainerCreating", ""), last),
        State::Running { since, .. } => (json!({"running": {"startedAt": rfc3339(*since)}}), last),
        State::Ended(ended) => {
            let again = definition.restarts(ended.code)
                && pod.deletion.is_none()
                && seen.verdict.is_none()
                && !plan::is_over(pod, seen);
            if again && ended.start_failed {
                (waiting("RunContainerError", &ended.message), Some(ended.clone()))
            } else if again && one.backoff.until(ended.finished).is_some_and(|until| until > now) {
                let message = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    human(one.backoff.delay()),
                    definition.spec.name,
                    pod.name,
                    pod.namespace,
                    pod.uid
                );
                (waiting("CrashLoopBackOff", &message), Some(ended.clone()))
            } else {
                (json!({"terminated": terminated(ended)}), last)
            }
        }
    }
}

/// Seconds as Go prints a duration: `10s`, `1m20s`, `5m0s`.
fn human(seconds: i64) -> String {
    if seconds < 60 {
        format!("{seconds}s")
    } else {
        format!("{}m{}s", seconds / 60, seconds % 60)
    }
}

fn waiting(reason: &str, message: &str) -> Value {
    let mut waiting = json!({ "reason": reason });
    if !message.is_empty() {
        waiting["message"] = json!(message);
    }
    json!({ "waiting": waiting })
}

fn terminated(ended: &Ended) -> Value {
    let mut value = json!({
        "exitCode": ended.code,
        "reason": ended.reason,
        "startedAt": ended.started.map(rfc3339),
        "finishedAt": rfc3339(ended.finished),
        "containerID": format!("{ID_SCHEME}{}", ended.id),
    });
    if let Some(signal) = ended.signal {
        value["signal"] = json!(signal);
    }
    if !ended.message.is_empty() {
        value["message"] = json!(ended.message);
    }
    value
}

/// Whether the init containers are through and the sidecars started.
fn initialized(pod: &Pod, seen: &Observed) -> bool {
    incomplete(pod, seen).is_empty() || any_main_begun(pod, seen)
}

fn incomplete<'a>(pod: &'a Pod, seen: &Observed) -> Vec<&'a str> {
    pod.containers
        .iter()
        .filter(|c| {
            let one = seen.seen(&c.spec.name);
            match c.role {
                Role::Init => one.ended().is_none_or(|e| e.code != 0),
                Role::Sidecar => !(one.running() && one.started),
                Role::Main | Role::Ephemeral => false,
            }
        })
        .map(|c| c.spec.name.as_str())
        .collect()
}

/// One condition before its transition time is known.
struct Condition {
    kind: &'static str,
    reason: &'static str,
    message: String,
    holds: bool,
}

/// `status.conditions`: ours, then those that others have set.
fn conditions(pod: &Pod, seen: &Observed, phase: &str, previous: &Value, now: Timestamp) -> Vec<Value> {
    let old: Vec<&Map<String, Value>> = previous["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .collect();
    let find = |kind: &str| {
        old.iter()
            .copied()
            .find(|c| c.get("type").is_some_and(|t| t == kind))
    };
    let ours = own_conditions(pod, seen, phase, |gate| {
        find(gate).is_some_and(|c| c.get("status").is_some_and(|s| s == "True"))
    });
    let mut list: Vec<Value> = ours
        .iter()
        .map(|condition| {
            let status = if condition.holds { "True" } else { "False" };
            let same = find(condition.kind).filter(|c| c.get("status").is_some_and(|s| s == status));
            let since = same.and_then(|c| c.get("lastTransitionTime")).cloned();
            let mut value = json!({
                "type": condition.kind,
                "status": status,
                "lastProbeTime": null,
                "lastTransitionTime": since.unwrap_or_else(|| json!(rfc3339(now))),
            });
            if !condition.reason.is_empty() {
                value["reason"] = json!(condition.reason);
                if !condition.message.is_empty() {
                    value["message"] = json!(condition.message);
                }
            }
            value
        })
        .collect();
    if let Some((_, message)) = seen.verdict.as_ref().filter(|_| seen.disrupted)
        && find("DisruptionTarget").is_none()
    {
        list.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message,
            "lastProbeTime": null, "lastTransitionTime": rfc3339(now),
        }));
    }
    if let Some(pending) = &seen.resize {
        let kind = if pending.reason == "Error" {
            RESIZE[1]
        } else {
            RESIZE[0]
        };
        let same = find(kind).and_then(|c| c.get("lastTransitionTime")).cloned();
        list.push(json!({
            "type": kind, "status": "True", "reason": pending.reason, "message": pending.message,
            "observedGeneration": pending.generation,
            "lastProbeTime": null, "lastTransitionTime": same.unwrap_or_else(|| json!(rfc3339(now))),
        }));
    }
    let foreign = |c: &&&Map<String, Value>| {
        // Only there as long as there is a reason.
        let passing = RESIZE.iter().any(|kind| c.get("type").is_some_and(|t| t == kind));
        !passing
            && !ours
                .iter()
                .any(|own| c.get("type").is_some_and(|t| t == own.kind))
    };
    list.extend(old.iter().filter(foreign).map(|c| Value::Object((*c).clone())));
    list
}

fn own_conditions(pod: &Pod, seen: &Observed, phase: &str, gate: impl Fn(&str) -> bool) -> [Condition; 5] {
    let over = matches!(phase, "Succeeded" | "Failed");
    let unready: Vec<&str> = pod
        .containers
        .iter()
        .filter(|c| !matches!(c.role, Role::Init | Role::Ephemeral))
        .filter(|c| {
            let one = seen.seen(&c.spec.name);
            !(one.running() && one.ready)
        })
        .map(|c| c.spec.name.as_str())
        .collect();
    let closed: Vec<&str> = pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .map(|g| g.condition_type.as_str())
        .filter(|kind| !gate(kind))
        .collect();
    let (reason, message) = match phase {
        "Succeeded" => ("PodCompleted", String::new()),
        "Failed" => ("PodFailed", String::new()),
        _ if unready.is_empty() => ("", String::new()),
        _ => (
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        ),
    };
    let containers_ready = unready.is_empty() && !over;
    let (ready_reason, ready_message) = if containers_ready && !closed.is_empty() {
        (
            "ReadinessGatesNotReady",
            format!(
                "the status of pod readiness gate {:?} is not True",
                closed.join(", ")
            ),
        )
    } else {
        (reason, message.clone())
    };
    let waiting_for = if initialized(pod, seen) {
        Vec::new()
    } else {
        incomplete(pod, seen)
    };
    let (init_reason, init_message) = match (waiting_for.is_empty(), phase) {
        (true, "Succeeded") => ("PodCompleted", String::new()),
        (true, _) => ("", String::new()),
        (false, _) => (
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", waiting_for.join(" ")),
        ),
    };
    let condition = |kind, holds, reason, message| Condition {
        kind,
        reason,
        message,
        holds,
    };
    [
        condition(
            "PodReadyToStartContainers",
            seen.sandbox.ready && !seen.released,
            "",
            String::new(),
        ),
        condition("Initialized", waiting_for.is_empty(), init_reason, init_message),
        condition(
            "Ready",
            containers_ready && closed.is_empty(),
            ready_reason,
            ready_message,
        ),
        condition("ContainersReady", containers_ready, reason, message),
        condition("PodScheduled", true, "", String::new()),
    ]
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
