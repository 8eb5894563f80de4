//! PURE: whether a pod has room on the node, and who has to go for it.
//!
//! Source: kube-scheduler's plugins NodeResourcesFit, NodeUnschedulable, TaintToleration, SchedulingGates and
//! DefaultPreemption.

use serde_json::{Value, json};

use crate::quantity::Quantity;
use crate::quota::{self, Amounts};
use crate::{priority, qos};

/// Taint of a node that takes no new pods.
pub const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Taints of a node that does not answer: pods stay for five minutes, if they do not say otherwise.
const AWAY: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
/// Taint of a node that runs out of memory.
pub const MEMORY_PRESSURE: &str = "node.kubernetes.io/memory-pressure";

/// What a pod takes of the node: its requests, and one of the pods that the node runs.
pub fn needs(pod: &Value) -> Amounts {
    let mut amounts = quota::pod_amounts(pod, "requests");
    amounts.retain(|_, amount| *amount > Quantity::ZERO);
    amounts.insert("pods".to_owned(), Quantity::whole(1));
    amounts
}

/// Whether a pod has a node.
pub fn is_bound(pod: &Value) -> bool {
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str);
    node.is_some_and(|n| !n.is_empty())
}

/// Whether a pod takes room, once it has a node: it has not ended.
pub fn is_live(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a pod is not to be placed yet.
pub fn is_gated(pod: &Value) -> bool {
    let gates = pod.pointer("/spec/schedulingGates").and_then(Value::as_array);
    gates.is_some_and(|g| !g.is_empty())
}

/// What the node can give to pods; None as long as it has not said.
pub fn allocatable(node: &Value) -> Option<Amounts> {
    let list = node.pointer("/status/allocatable")?.as_object()?;
    Some(
        list.iter()
            .filter_map(|(name, text)| Some((name.clone(), text.as_str()?.parse().ok()?)))
            .collect(),
    )
}

/// Names of resources of which there is not enough.
pub fn insufficient(needs: &Amounts, used: &Amounts, allocatable: &Amounts) -> Vec<String> {
    let zero = Quantity::ZERO;
    let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(zero);
    needs
        .iter()
        .filter(|(name, amount)| of(used, name).plus(**amount) > of(allocatable, name))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The node's taints, with that of a node that is cordoned.
pub fn taints(node: &Value) -> Vec<Value> {
    let list = node.pointer("/spec/taints").and_then(Value::as_array);
    let mut taints = list.cloned().unwrap_or_default();
    if is_cordoned(node) && !taints.iter().any(|taint| taint["key"] == UNSCHEDULABLE) {
        taints.push(json!({"key": UNSCHEDULABLE, "effect": "NoSchedule"}));
    }
    taints
}

/// Whether a node takes no new pods.
pub fn is_cordoned(node: &Value) -> bool {
    node.pointer("/spec/unschedulable") == Some(&json!(true))
}

/// How long a pod may stay on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// As long as it likes.
    Forever,
    /// Seconds from now; none at all for 0.
    Seconds(u64),
}

/// How long a pod stays with these taints: of those with the effect `NoExecute` each needs a toleration, and the
/// shortest `tolerationSeconds` counts.
pub fn stay(pod: &Value, taints: &[Value]) -> Stay {
    let mut shortest: Option<u64> = None;
    for taint in taints.iter().filter(|taint| taint["effect"] == "NoExecute") {
        let Some(toleration) = toleration(pod, taint) else {
            return Stay::Seconds(0);
        };
        if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
            let seconds = u64::try_from(seconds).unwrap_or(0);
            shortest = Some(shortest.map_or(seconds, |known| known.min(seconds)));
        }
    }
    shortest.map_or(Stay::Forever, Stay::Seconds)
}

/// Gives a new pod five minutes on a node that does not answer, unless it says something about that itself (admission
/// plugin DefaultTolerationSeconds).
pub fn tolerate_absence(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").filter(|spec| spec.is_object()) else {
        return;
    };
    let mut list = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for key in AWAY {
        let says = |one: &Value| {
            let text = |field: &str| one[field].as_str().unwrap_or_default();
            matches!(text("effect"), "" | "NoExecute") && (text("key").is_empty() || text("key") == key)
        };
        if !list.iter().any(says) {
            list.push(json!({
                "key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300,
            }));
        }
    }
    spec["tolerations"] = Value::Array(list);
}

/// The first taint that keeps a new pod away.
pub fn repelled<'a>(pod: &Value, taints: &'a [Value]) -> Option<&'a Value> {
    taints
        .iter()
        .filter(|taint| matches!(taint["effect"].as_str(), Some("NoSchedule" | "NoExecute")))
        .find(|taint| {
            // Kubernetes documentation, "Taint based Evictions": only BestEffort pods are kept away for memory.
            let exempt = taint["key"] == MEMORY_PRESSURE && qos::class(pod) != "BestEffort";
            !exempt && !tolerates(pod, taint)
        })
}

/// Whether a pod tolerates a taint (core/v1 `Toleration.ToleratesTaint`).
pub fn tolerates(pod: &Value, taint: &Value) -> bool {
    toleration(pod, taint).is_some()
}

/// The first toleration of a pod that fits a taint.
fn toleration<'a>(pod: &'a Value, taint: &Value) -> Option<&'a Value> {
    fn text<'v>(object: &'v Value, field: &str) -> &'v str {
        object[field].as_str().unwrap_or_default()
    }
    let list = pod.pointer("/spec/tolerations").and_then(Value::as_array);
    list.into_iter().flatten().find(|one| {
        let (effect, key) = (text(one, "effect"), text(one, "key"));
        (effect.is_empty() || effect == text(taint, "effect"))
            && (key.is_empty() || key == text(taint, "key"))
            && match text(one, "operator") {
                "Exists" => true,
                "" | "Equal" => text(one, "value") == text(taint, "value"),
                _ => false,
            }
    })
}

/// Why a pod has no place, in kube-scheduler's words.
pub fn reasons(short: &[String], repelled: Option<&Value>) -> String {
    if let Some(taint) = repelled {
        if taint["key"] == UNSCHEDULABLE {
            return "0/1 nodes are available: 1 node(s) were unschedulable.".to_owned();
        }
        let value = taint["value"].as_str().unwrap_or_default();
        let key = taint["key"].as_str().unwrap_or_default();
        return format!("0/1 nodes are available: 1 node(s) had untolerated taint {{{key}: {value}}}.");
    }
    let list: Vec<String> = short
        .iter()
        .map(|name| match name.as_str() {
            "pods" => "1 Too many pods".to_owned(),
            name => format!("1 Insufficient {name}"),
        })
        .collect();
    format!("0/1 nodes are available: {}.", list.join(", "))
}

/// A pod that may have to go.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Namespace and name.
    pub name: (String, String),
    /// What goes with it.
    pub needs: Amounts,
    /// How much it matters.
    pub priority: i64,
    /// When it was started, or else made.
    pub since: String,
    /// Its end would break a disruption budget.
    pub guarded: bool,
}

/// The pods that have to go so that one more fits: as few as possible, the least important first, those that a budget
/// guards last. `used` is what all pods use that stay or may go. None if even the end of all would not do.
pub fn victims(
    needs: &Amounts,
    used: &Amounts,
    allocatable: &Amounts,
    candidates: Vec<Candidate>,
) -> Option<Vec<Candidate>> {
    let mut left = used.clone();
    for candidate in &candidates {
        subtract(&mut left, &candidate.needs);
    }
    if candidates.is_empty() || !insufficient(needs, &left, allocatable).is_empty() {
        return None;
    }
    // The most important first: as many of them as possible stay.
    let mut order = candidates;
    order.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| a.since.cmp(&b.since)));
    let (guarded, others): (Vec<_>, Vec<_>) = order.into_iter().partition(|c| c.guarded);
    let mut gone = Vec::new();
    for candidate in guarded.into_iter().chain(others) {
        let mut with = left.clone();
        quota::add(&mut with, &candidate.needs);
        if insufficient(needs, &with, allocatable).is_empty() {
            left = with;
        } else {
            gone.push(candidate);
        }
    }
    Some(gone)
}

/// Takes amounts off others.
pub fn subtract(sum: &mut Amounts, less: &Amounts) {
    for (name, amount) in less {
        if let Some(known) = sum.get_mut(name) {
            *known = known.minus(*amount);
        }
    }
}

/// Whether a pod may push others out.
pub fn preempts(pod: &Value) -> bool {
    pod.pointer("/spec/preemptionPolicy").and_then(Value::as_str) != Some("Never")
}

/// Whether `one` is placed before `other`: by priority, then by age.
pub fn order(one: &Value, other: &Value) -> std::cmp::Ordering {
    let key = |pod: &Value| {
        let text = |pointer: &str| {
            pod.pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        (
            text("/metadata/creationTimestamp"),
            text("/metadata/namespace"),
            text("/metadata/name"),
        )
    };
    priority::of(other)
        .cmp(&priority::of(one))
        .then_with(|| key(one).cmp(&key(other)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(cpu: i64, pods: i64) -> Amounts {
        [("cpu", cpu), ("pods", pods)]
            .into_iter()
            .map(|(name, n)| (name.to_owned(), Quantity::whole(n)))
            .collect()
    }

    fn candidate(name: &str, cpu: i64, priority: i64, since: &str, guarded: bool) -> Candidate {
        Candidate {
            name: ("d".into(), name.into()),
            needs: amounts(cpu, 1),
            priority,
            since: since.into(),
            guarded,
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "2", "example.com/gpu": "1"}}}]}});
        let short = insufficient(&needs(&pod), &amounts(3, 9), &amounts(4, 10));
        assert_eq!(short, ["cpu", "example.com/gpu"]);
        assert_eq!(
            reasons(&short, None),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu."
        );
        assert!(insufficient(&needs(&pod), &amounts(3, 10), &amounts(4, 10)).contains(&"pods".to_owned()));
    }

    #[test]
    fn taints_keep_away_who_does_not_tolerate_them() {
        let node = json!({"spec": {"unschedulable": true, "taints": [{"key": MEMORY_PRESSURE, "effect": "NoSchedule"}]}});
        let taints = taints(&node);
        let pod = |spec: Value| json!({ "spec": spec });
        let bare = pod(json!({"containers": [{}]}));
        assert_eq!(repelled(&bare, &taints).unwrap()["key"], MEMORY_PRESSURE);
        let asks = pod(json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]}));
        assert_eq!(repelled(&asks, &taints).unwrap()["key"], UNSCHEDULABLE);
        let all = pod(json!({"tolerations": [{"operator": "Exists"}]}));
        assert!(repelled(&all, &taints).is_none());
        let other = pod(json!({"tolerations": [{"key": UNSCHEDULABLE, "value": "x"}], "containers": [{}]}));
        assert!(repelled(&other, &taints[1..]).is_some());
    }

    #[test]
    fn how_long_a_pod_stays() {
        let taints = [
            json!({"key": "a", "effect": "NoSchedule"}),
            json!({"key": "b", "value": "1", "effect": "NoExecute"}),
            json!({"key": "c", "effect": "NoExecute"}),
        ];
        let stays = |tolerations: Value| stay(&json!({"spec": {"tolerations": tolerations}}), &taints);
        let b = |seconds: Value| json!({"key": "b", "value": "1", "effect": "NoExecute", "tolerationSeconds": seconds});
        assert_eq!(stay(&json!({}), &taints[..1]), Stay::Forever);
        assert_eq!(stay(&json!({}), &taints), Stay::Seconds(0));
        assert_eq!(
            stays(json!([b(json!(9))])),
            Stay::Seconds(0),
            "the other is not tolerated"
        );
        let both = |seconds: Value| stays(json!([b(seconds), {"key": "c", "operator": "Exists"}]));
        assert_eq!(both(json!(9)), Stay::Seconds(9));
        assert_eq!(both(json!(-1)), Stay::Seconds(0));
        assert_eq!(both(Value::Null), Stay::Forever);
        let shorter = json!({"key": "c", "operator": "Exists", "tolerationSeconds": 5});
        assert_eq!(stays(json!([b(json!(9)), shorter])), Stay::Seconds(5));
        // The first that fits counts.
        let all = json!({"operator": "Exists"});
        assert_eq!(stays(json!([all, b(json!(9))])), Stay::Forever);
    }

    #[test]
    fn absence_is_tolerated_unless_a_pod_says_otherwise() {
        let admitted = |tolerations: Value| {
            let mut pod = json!({"spec": {"tolerations": tolerations}});
            tolerate_absence(&mut pod);
            let list = pod["spec"]["tolerations"].as_array().unwrap().clone();
            list.iter().filter(|one| one["tolerationSeconds"] == 300).count()
        };
        assert_eq!(admitted(Value::Null), 2);
        assert_eq!(
            admitted(json!([{"key": AWAY[0], "operator": "Exists", "effect": "NoExecute"}])),
            1
        );
        assert_eq!(
            admitted(json!([{"key": AWAY[0], "operator": "Exists", "effect": "NoSchedule"}])),
            2
        );
        assert_eq!(admitted(json!([{"operator": "Exists"}])), 0);
    }

    #[test]
    fn the_least_important_go_and_no_more_than_need_be() {
        let all = vec![
            candidate("low-old", 2, 1, "1", false),
            candidate("low-new", 2, 1, "2", false),
            candidate("mid", 2, 5, "1", false),
            candidate("guarded", 2, 1, "3", true),
        ];
        let gone = |cpu: i64| {
            let victims = victims(&amounts(cpu, 1), &amounts(8, 4), &amounts(8, 10), all.clone());
            victims.map(|v| v.into_iter().map(|c| c.name.1).collect::<Vec<_>>())
        };
        assert_eq!(gone(2).unwrap(), ["low-new"]);
        assert_eq!(gone(4).unwrap(), ["low-old", "low-new"]);
        assert_eq!(gone(6).unwrap(), ["mid", "low-old", "low-new"]);
        assert_eq!(gone(8).unwrap().len(), 4);
        assert_eq!(gone(9), None);
    }
}
