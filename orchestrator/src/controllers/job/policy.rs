//! PURE: what a Job's policies say about a failed pod, and about success (KEP-3329, KEP-3998).

use berth_api::indexes::Indexes;
use serde_json::Value;

use crate::controllers::fields::{name, text};

/// What becomes of a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// It counts, as without a policy.
    Count,
    /// It is as if it had not been.
    Ignore,
    /// The pod's index is given up.
    FailIndex,
    /// The Job is given up, with this message.
    FailJob(String),
}

/// The first rule that matches decides.
pub(super) fn answer(policy: Option<&Value>, pod: &Value) -> Answer {
    let rules = policy.and_then(|p| p["rules"].as_array()).into_iter().flatten();
    for (number, rule) in rules.enumerate() {
        let action = text(rule, "/action");
        let cause = if let Some(codes) = rule.get("onExitCodes").filter(|c| !c.is_null()) {
            exit_code(codes, pod).map(|(container, code)| {
                format!(
                    "Container {container} for pod {}/{} failed with exit code {code} matching {action} rule at index {number}",
                    text(pod, "/metadata/namespace"),
                    name(pod)
                )
            })
        } else {
            pod_condition(rule, pod).map(|kind| {
                format!(
                    "Pod {}/{} has condition {kind} matching {action} rule at index {number}",
                    text(pod, "/metadata/namespace"),
                    name(pod)
                )
            })
        };
        if let Some(message) = cause {
            return match action {
                "Ignore" => Answer::Ignore,
                "FailIndex" => Answer::FailIndex,
                "FailJob" => Answer::FailJob(message),
                _ => Answer::Count,
            };
        }
    }
    Answer::Count
}

/// The container whose exit code matches. Success never does.
fn exit_code<'a>(codes: &Value, pod: &'a Value) -> Option<(&'a str, i64)> {
    let only = codes.get("containerName").and_then(Value::as_str);
    let values = codes["values"].as_array();
    ["containerStatuses", "initContainerStatuses"]
        .iter()
        .filter_map(|list| pod.pointer(&format!("/status/{list}"))?.as_array())
        .flatten()
        .filter(|status| only.is_none_or(|only| status["name"] == only))
        .find_map(|status| {
            let code = status.pointer("/state/terminated/exitCode")?.as_i64()?;
            let listed = values.is_some_and(|v| v.iter().any(|v| v.as_i64() == Some(code)));
            let wanted = text(codes, "/operator") == "In";
            (code != 0 && listed == wanted).then(|| (text(status, "/name"), code))
        })
}

fn pod_condition<'a>(rule: &'a Value, pod: &Value) -> Option<&'a str> {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array)?;
    rule["onPodConditions"].as_array()?.iter().find_map(|pattern| {
        let status = pattern.get("status").and_then(Value::as_str).unwrap_or("True");
        let found = conditions
            .iter()
            .any(|c| c["type"] == pattern["type"] && c["status"] == status);
        found.then(|| text(pattern, "/type"))
    })
}

/// The first rule of success that is kept, as a message.
pub(super) fn success(policy: Option<&Value>, completions: u32, done: &Indexes) -> Option<String> {
    let rules = policy?["rules"].as_array()?;
    let met = rules.iter().position(|rule| {
        let count = rule.get("succeededCount").and_then(Value::as_u64);
        let of = rule.get("succeededIndexes").and_then(Value::as_str);
        let (have, all) = match of {
            None => (done.len(), usize::MAX),
            Some(text) => {
                let wanted = Indexes::kept(text, completions);
                let have = wanted.iter().filter(|index| done.contains(*index)).count();
                (have, wanted.len())
            }
        };
        let needed = count.map_or(all, |count| usize::try_from(count).unwrap_or(usize::MAX));
        have >= needed
    });
    met.map(|number| format!("Matched rules at index {number}"))
}
