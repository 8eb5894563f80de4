//! PURE: which pod goes first when there are too many (upstream `ActivePodsWithRanks`).

use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::Value;

use crate::controllers::fields::{annotation, text, time, uid};
use crate::controllers::pod_state::{is_ready, most_restarts, ready_since};

/// Users make pods cheaper or dearer to delete with this annotation.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// `Less` means `a` is deleted before `b`: the one without a node, the one that has come less
/// far, the one that is not ready, the cheaper one, the one ready for a shorter time, the one with
/// more restarts, the younger one.
pub(in crate::controllers) fn compare(a: &Value, b: &Value, now: Timestamp) -> Ordering {
    let assigned = |pod| !text(pod, "/spec/nodeName").is_empty();
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| progress(a).cmp(&progress(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| {
            if is_ready(a) && is_ready(b) {
                by_age(ready_since(a), ready_since(b), now)
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| most_restarts(b).cmp(&most_restarts(a)))
        .then_with(|| {
            let created = |pod| time(pod, "/metadata/creationTimestamp");
            by_age(created(a), created(b), now)
        })
        .then_with(|| uid(a).cmp(uid(b)))
}

fn progress(pod: &Value) -> u8 {
    match text(pod, "/status/phase") {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    }
}

fn cost(pod: &Value) -> i32 {
    annotation(pod, DELETION_COST)
        .and_then(|cost| cost.parse().ok())
        .unwrap_or(0)
}

/// Younger first, by the order of magnitude of the age, so that among pods of about the same age
/// chance decides and not always the youngest are hit (upstream LogarithmicScaleDown).
fn by_age(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => magnitude(a, now).cmp(&magnitude(b, now)),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

fn magnitude(since: Timestamp, now: Timestamp) -> i32 {
    let age = now.as_nanosecond() - since.as_nanosecond();
    u128::try_from(age)
        .ok()
        .and_then(u128::checked_ilog2)
        .map_or(-1, |bits| bits as i32)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> String {
        Timestamp::from_second(1_000_000 + seconds).unwrap().to_string()
    }

    fn pod(uid: &str, ready: bool, ready_since: i64) -> Value {
        json!({
            "metadata": { "uid": uid, "creationTimestamp": at(0), "annotations": {} },
            "spec": { "nodeName": "n" },
            "status": {
                "phase": "Running",
                "conditions": [{
                    "type": "Ready",
                    "status": if ready { "True" } else { "False" },
                    "lastTransitionTime": at(ready_since),
                }],
                "containerStatuses": [{ "restartCount": 0 }],
            },
        })
    }

    #[test]
    fn each_rule_decides_where_the_ones_before_do_not() {
        let now = Timestamp::from_second(1_000_100).unwrap();
        let base = pod("b", true, 10);
        let change = |pointer: &str, value: Value| {
            let mut pod = pod("a", true, 10);
            *pod.pointer_mut(pointer).unwrap() = value;
            pod
        };
        let earlier: Vec<(&str, Value)> = vec![
            ("no node", change("/spec/nodeName", json!(""))),
            ("pending", change("/status/phase", json!("Pending"))),
            ("unknown", change("/status/phase", json!("Unknown"))),
            ("not ready", pod("a", false, 10)),
            (
                "cheaper",
                change("/metadata/annotations", json!({ DELETION_COST: "-5" })),
            ),
            ("ready for less long", pod("a", true, 95)),
            (
                "more restarts",
                change("/status/containerStatuses/0/restartCount", json!(3)),
            ),
            ("younger", change("/metadata/creationTimestamp", json!(at(98)))),
            ("smaller uid", pod("a", true, 10)),
            ("about as long ready", pod("a", true, 11)),
        ];
        for (rule, pod) in earlier {
            assert_eq!(compare(&pod, &base, now), Ordering::Less, "{rule}");
            assert_eq!(compare(&base, &pod, now), Ordering::Greater, "{rule}");
        }
        // An earlier rule beats all later ones.
        let not_ready_but_dear = {
            let mut pod = pod("z", false, 10);
            pod["metadata"]["annotations"][DELETION_COST] = json!("1000");
            pod
        };
        assert_eq!(compare(&not_ready_but_dear, &base, now), Ordering::Less);
    }
}
