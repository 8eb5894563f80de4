//! PURE: what a namespace's objects use of its ResourceQuotas, and whether one more fits.
//!
//! Source: Kubernetes documentation "Resource Quotas"; `k8s.io/kubernetes/pkg/quota/v1/evaluator/core`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::kinds::{self, Kind};
use crate::qos;
use crate::quantity::Quantity;
use crate::storage;

/// Between the name of a class and what is counted of its claims.
pub const CLASS_SUFFIX: &str = ".storageclass.storage.k8s.io/";

/// Amounts by the names that quotas have for them.
pub type Amounts = BTreeMap<String, Quantity>;

fn one() -> Quantity {
    Quantity::whole(1)
}

/// What an object uses; nothing for a pod that has ended.
pub fn usage(kind: &Kind, object: &Value) -> Amounts {
    let mut used = Amounts::new();
    if kind == kinds::POD && is_over(object) {
        return used;
    }
    used.insert(format!("count/{}", kind.resource()), one());
    if kind.group.is_empty() {
        used.insert(kind.plural.to_owned(), one());
    }
    if kind == kinds::PERSISTENT_VOLUME_CLAIM {
        let class = storage::class(object);
        let of_class = |name: &str| format!("{class}{CLASS_SUFFIX}{name}");
        if !class.is_empty() {
            used.insert(of_class(kind.plural), one());
        }
        if let Some(size) = storage::size(object) {
            used.insert("requests.storage".to_owned(), size);
            if !class.is_empty() {
                used.insert(of_class("requests.storage"), size);
            }
        }
    }
    if kind == kinds::POD {
        for (list, prefix) in [("requests", "requests."), ("limits", "limits.")] {
            for (name, amount) in pod_amounts(object, list) {
                if list == "requests" {
                    used.insert(name.clone(), amount);
                }
                used.insert(format!("{prefix}{name}"), amount);
            }
        }
    }
    used
}

fn is_over(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str);
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// What a pod asks for: of its containers and sidecars together, or of its largest init container if that is more;
/// and what its runtime takes (`overhead`), which limits have only where the containers do.
pub fn pod_amounts(pod: &Value, list: &str) -> Amounts {
    let of = |container: &Value| -> Amounts {
        let amounts = container
            .pointer(&format!("/resources/{list}"))
            .and_then(Value::as_object);
        amounts
            .into_iter()
            .flatten()
            .filter_map(|(name, text)| Some((name.clone(), text.as_str()?.parse().ok()?)))
            .collect()
    };
    let each = |list: &str| {
        let list = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        list.into_iter().flatten()
    };
    let mut sum = Amounts::new();
    for container in each("containers") {
        add(&mut sum, &of(container));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in each("initContainers") {
        let own = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &own);
            for (name, amount) in together {
                let known = most.entry(name).or_insert(amount);
                *known = amount.max(*known);
            }
        }
    }
    for (name, amount) in most {
        let known = sum.entry(name).or_insert(amount);
        *known = amount.max(*known);
    }
    let overhead = pod.pointer("/spec/overhead").and_then(Value::as_object);
    for (name, text) in overhead.into_iter().flatten() {
        let amount: Option<Quantity> = text.as_str().and_then(|t| t.parse().ok());
        if let Some(amount) = amount
            && (list == "requests" || sum.contains_key(name))
        {
            let known = sum.entry(name.clone()).or_insert(Quantity::ZERO);
            *known = known.plus(amount);
        }
    }
    sum
}

/// Adds amounts to others.
pub fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let known = sum.entry(name.clone()).or_insert(Quantity::ZERO);
        *known = known.plus(*amount);
    }
}

/// Whether a quota counts an object: its scopes are about pods.
pub fn counts(quota: &Value, kind: &Kind, object: &Value) -> bool {
    let scopes = quota.pointer("/spec/scopes").and_then(Value::as_array);
    scopes
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .all(|scope| {
            if kind != kinds::POD {
                return false;
            }
            let best_effort = qos::class(object) == "BestEffort";
            let terminating = object
                .pointer("/spec/activeDeadlineSeconds")
                .is_some_and(|d| !d.is_null());
            match scope {
                "BestEffort" => best_effort,
                "NotBestEffort" => !best_effort,
                "Terminating" => terminating,
                "NotTerminating" => !terminating,
                _ => false,
            }
        })
}

/// The limits of a quota.
pub fn hard(quota: &Value) -> Amounts {
    let hard = quota.pointer("/spec/hard").and_then(Value::as_object);
    hard.into_iter()
        .flatten()
        .filter_map(|(name, text)| Some((name.clone(), text.as_str()?.parse().ok()?)))
        .collect()
}

/// What a set of objects uses of a quota's resources.
pub fn used<'a>(quota: &Value, objects: impl Iterator<Item = (&'a Kind, &'a Value)>) -> Amounts {
    let mut sum: Amounts = hard(quota)
        .into_keys()
        .map(|name| (name, Quantity::ZERO))
        .collect();
    for (kind, object) in objects {
        if counts(quota, kind, object) {
            let mut own = usage(kind, object);
            own.retain(|name, _| sum.contains_key(name));
            add(&mut sum, &own);
        }
    }
    sum
}

/// Whether a new object fits into a quota beside what is used already; the refusal in upstream's words.
///
/// # Errors
/// The text of the refusal.
pub fn fits(quota: &Value, used: &Amounts, kind: &Kind, object: &Value) -> Result<(), String> {
    if !counts(quota, kind, object) {
        return Ok(());
    }
    let name = quota
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let (hard, own) = (hard(quota), usage(kind, object));
    if kind == kinds::POD {
        let missing = unspecified(&hard, object);
        if !missing.is_empty() {
            return Err(format!(
                "failed quota: {name}: must specify {}",
                missing.join("; ")
            ));
        }
    }
    let list = |of: &dyn Fn(&String) -> Quantity, names: &[&String]| -> String {
        let shown: Vec<String> = names.iter().map(|n| format!("{n}={}", of(n))).collect();
        shown.join(",")
    };
    let zero = Quantity::ZERO;
    let over: Vec<&String> = hard
        .iter()
        .filter(|(resource, limit)| {
            own.get(*resource).is_some_and(|more| {
                let before = used.get(*resource).copied().unwrap_or(zero);
                *more > zero && before.plus(*more) > **limit
            })
        })
        .map(|(resource, _)| resource)
        .collect();
    if over.is_empty() {
        return Ok(());
    }
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        list(&|n| own.get(n).copied().unwrap_or(zero), &over),
        list(&|n| used.get(n).copied().unwrap_or(zero), &over),
        list(&|n| hard.get(n).copied().unwrap_or(zero), &over),
    ))
}

/// Amounts of containers that a quota limits, and that a pod leaves open.
fn unspecified(hard: &Amounts, pod: &Value) -> Vec<String> {
    let mut missing = Vec::new();
    for resource in hard.keys() {
        let (list, name) = match resource.split_once('.') {
            Some((list @ ("requests" | "limits"), name)) => (list, name),
            None if matches!(resource.as_str(), "cpu" | "memory") => ("requests", resource.as_str()),
            _ => continue,
        };
        if !matches!(name, "cpu" | "memory") {
            continue;
        }
        let open: Vec<&str> = ["containers", "initContainers"]
            .iter()
            .filter_map(|l| pod.pointer(&format!("/spec/{l}"))?.as_array())
            .flatten()
            .filter(|c| c.pointer(&format!("/resources/{list}/{name}")).is_none())
            .filter_map(|c| c["name"].as_str())
            .collect();
        if !open.is_empty() {
            missing.push(format!("{resource} for: {}", open.join(",")));
        }
    }
    missing
}

/// `status` of a quota.
pub fn status(quota: &Value, used: &Amounts) -> Value {
    let text = |amounts: &Amounts| -> BTreeMap<String, String> {
        amounts
            .iter()
            .map(|(name, amount)| (name.clone(), amount.to_string()))
            .collect()
    };
    json!({"hard": text(&hard(quota)), "used": text(used)})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cpu: &str, memory: &str) -> Value {
        json!({"spec": {"containers": [{"name": "a", "resources": {
            "requests": {"cpu": cpu, "memory": memory}, "limits": {"memory": memory}}}]}})
    }

    #[test]
    fn what_fits_and_what_does_not() {
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {
            "pods": "2", "requests.cpu": "1", "memory": "1Gi", "count/configmaps": "1"}}});
        let there = [pod("600m", "256Mi")];
        let used = used(&quota, there.iter().map(|p| (kinds::POD, p)));
        assert_eq!(used["requests.cpu"].to_string(), "600m");
        assert_eq!(used["memory"].to_string(), "256Mi");
        assert!(fits(&quota, &used, kinds::POD, &pod("400m", "768Mi")).is_ok());
        let refused = fits(&quota, &used, kinds::POD, &pod("401m", "769Mi")).unwrap_err();
        assert_eq!(
            refused,
            "exceeded quota: q, requested: memory=769Mi,requests.cpu=401m, used: memory=256Mi,requests.cpu=600m, limited: memory=1Gi,requests.cpu=1"
        );
        let open = json!({"spec": {"containers": [{"name": "b"}]}});
        let refused = fits(&quota, &used, kinds::POD, &open).unwrap_err();
        assert_eq!(
            refused,
            "failed quota: q: must specify memory for: b; requests.cpu for: b"
        );
        assert!(fits(&quota, &used, kinds::CONFIG_MAP, &json!({})).is_ok());
        let over = json!({"status": {"phase": "Succeeded"}, "spec": {"containers": []}});
        assert!(usage(kinds::POD, &over).is_empty());
    }

    #[test]
    fn scopes_and_init_containers() {
        let quota = json!({"spec": {"scopes": ["BestEffort"], "hard": {"pods": "1"}}});
        assert!(!counts(&quota, kinds::POD, &pod("1", "1Gi")));
        assert!(counts(
            &quota,
            kinds::POD,
            &json!({"spec": {"containers": [{"name": "a"}]}})
        ));
        assert!(!counts(&quota, kinds::CONFIG_MAP, &json!({})));
        let cpu = |n: &str| json!({"requests": {"cpu": n}});
        let pod = json!({"spec": {
        "containers": [{"resources": cpu("300m")}, {"resources": cpu("200m")}],
        "initContainers": [
            {"resources": cpu("100m"), "restartPolicy": "Always"}, {"resources": cpu("1")},
        ]}});
        assert_eq!(pod_amounts(&pod, "requests")["cpu"].to_string(), "1100m");
    }
}
