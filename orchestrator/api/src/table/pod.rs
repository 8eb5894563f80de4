//! Columns of Pod.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, age, column, human, name, or_none, text, wide};

pub(super) const COLUMNS: &[Column] = &[
    column("Name"),
    column("Ready"),
    column("Status"),
    column("Restarts"),
    column("Age"),
    wide("IP"),
    wide("Node"),
    wide("Nominated Node"),
    wide("Readiness Gates"),
];

pub(super) fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let total = list(pod, "/spec/containers").count();
    let ready = list(pod, "/status/containerStatuses")
        .filter(|s| s["ready"] == true && s.pointer("/state/running").is_some())
        .count();
    vec![
        name(pod),
        json!(format!("{ready}/{total}")),
        json!(status(pod)),
        json!(restarts(pod, now)),
        age(pod, now),
        or_none(text(pod, "/status/podIP")),
        or_none(text(pod, "/spec/nodeName")),
        or_none(text(pod, "/status/nominatedNodeName")),
        or_none(""),
    ]
}

fn list<'a>(pod: &'a Value, pointer: &str) -> impl DoubleEndedIterator<Item = &'a Value> {
    pod.pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
}

/// The one word that says how the pod is.
fn status(pod: &Value) -> String {
    let reason = match (text(pod, "/status/reason"), text(pod, "/status/phase")) {
        ("", phase) => phase.to_owned(),
        (reason, _) => reason.to_owned(),
    };
    let gated = list(pod, "/status/conditions")
        .any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated");
    let reason = if gated {
        "SchedulingGated".to_owned()
    } else {
        reason
    };
    let (mut reason, initializing) = initializing(pod, reason);
    if !initializing {
        reason = running(pod, reason);
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some() {
        let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
        return if text(pod, "/status/reason") == "NodeLost" {
            "Unknown".to_owned()
        } else if ended {
            reason
        } else {
            "Terminating".to_owned()
        };
    }
    reason
}

/// What a container that ended is called.
fn ended(terminated: &Value) -> String {
    if let Some(reason) = terminated["reason"].as_str().filter(|r| !r.is_empty()) {
        return reason.to_owned();
    }
    match terminated["signal"].as_i64().filter(|s| *s != 0) {
        Some(signal) => format!("Signal:{signal}"),
        None => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
    }
}

/// The first init container that is not through.
fn initializing(pod: &Value, reason: String) -> (String, bool) {
    let total = list(pod, "/spec/initContainers").count();
    for (at, container) in list(pod, "/status/initContainerStatuses").enumerate() {
        let state = &container["state"];
        if let Some(terminated) = state.get("terminated") {
            if terminated["exitCode"].as_i64() == Some(0) {
                continue;
            }
            return (format!("Init:{}", ended(terminated)), true);
        }
        let waiting = state
            .pointer("/waiting/reason")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return (format!("Init:{waiting}"), true);
        }
        return (format!("Init:{at}/{total}"), true);
    }
    (reason, false)
}

/// The last container that has something to say, else the phase.
fn running(pod: &Value, phase: String) -> String {
    let mut reason = phase;
    let mut any_running = false;
    for container in list(pod, "/status/containerStatuses").rev() {
        let state = &container["state"];
        let waiting = state
            .pointer("/waiting/reason")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !waiting.is_empty() {
            waiting.clone_into(&mut reason);
        } else if let Some(terminated) = state.get("terminated") {
            reason = ended(terminated);
        } else if container["ready"] == true && state.get("running").is_some() {
            any_running = true;
        }
    }
    if reason == "Completed" && any_running {
        let ready = list(pod, "/status/conditions").any(|c| c["type"] == "Ready" && c["status"] == "True");
        return if ready { "Running" } else { "NotReady" }.to_owned();
    }
    reason
}

/// Number of restarts, and when the last was.
fn restarts(pod: &Value, now: Timestamp) -> String {
    let mut total = 0;
    let mut last: Option<Timestamp> = None;
    for container in list(pod, "/status/containerStatuses") {
        total += container["restartCount"].as_i64().unwrap_or(0);
        let finished = container
            .pointer("/lastState/terminated/finishedAt")
            .and_then(Value::as_str)
            .and_then(|t| t.parse::<Timestamp>().ok());
        last = last.max(finished);
    }
    match last {
        Some(last) if total > 0 => {
            format!("{total} ({} ago)", human(now.as_second() - last.as_second()))
        }
        _ => total.to_string(),
    }
}
