//! PURE: a deployment's ReplicaSets as numbers, and the arithmetic of surge and availability.

use std::cmp::Reverse;

use serde_json::{Value, json};

use super::revision::{self, revision_of};
use crate::controllers::fields::{name, number, scaled, set_annotation, text, uid};

/// The label that tells the pods of one template from those of another.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// A ReplicaSet being worked on.
#[derive(Debug, Clone)]
pub(super) struct Set {
    pub(super) value: Value,
    /// Wanted pods: changes as the work goes on.
    pub(super) replicas: i64,
    /// Its object differs from what is stored.
    pub(super) changed: bool,
    /// It is not stored yet.
    pub(super) new: bool,
}

impl Set {
    pub(super) fn of(value: Value) -> Self {
        let replicas = value
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        Self {
            value,
            replicas,
            changed: false,
            new: false,
        }
    }

    pub(super) fn name(&self) -> &str {
        name(&self.value)
    }

    pub(super) fn uid(&self) -> &str {
        uid(&self.value)
    }

    pub(super) fn available(&self) -> i64 {
        number(&self.value, "/status/availableReplicas")
    }

    /// Available pods that stay: of more than are wanted, the surplus is about to be deleted,
    /// though the status may still count it.
    pub(super) fn lasting(&self) -> i64 {
        self.available().min(self.replicas)
    }

    pub(super) fn ready(&self) -> i64 {
        number(&self.value, "/status/readyReplicas")
    }

    /// Pods there are.
    pub(super) fn actual(&self) -> i64 {
        number(&self.value, "/status/replicas")
    }

    /// Pods that may be there: those wanted, and those that a set has not got rid of yet. Upstream
    /// counts only the former, and so exceeds the surge while a set is slow to shrink.
    pub(super) fn present(&self) -> i64 {
        self.actual().max(self.replicas)
    }

    pub(super) fn terminating(&self) -> i64 {
        number(&self.value, "/status/terminatingReplicas")
    }

    /// Orders by age. Times are whole seconds, so within one the revision decides, then the name.
    pub(super) fn age(&self) -> (&str, i64, &str) {
        (
            text(&self.value, "/metadata/creationTimestamp"),
            revision_of(&self.value),
            self.name(),
        )
    }

    pub(super) fn set_replicas(&mut self, replicas: i64) {
        self.replicas = replicas;
        self.value["spec"]["replicas"] = json!(replicas);
        self.changed = true;
    }

    /// Notes the deployment's size on the set, for proportional scaling later.
    pub(super) fn note_size(&mut self, desired: i64, most: i64) {
        let desired = set_annotation(&mut self.value, revision::DESIRED_REPLICAS, &desired.to_string());
        let most = set_annotation(&mut self.value, revision::MAX_REPLICAS, &most.to_string());
        self.changed |= desired || most;
    }
}

/// Sum over sets.
pub(super) fn total<'a>(sets: impl IntoIterator<Item = &'a Set>, what: impl Fn(&Set) -> i64) -> i64 {
    sets.into_iter().map(what).sum()
}

/// What a deployment wants, read once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) replicas: i64,
    pub(super) rolling: bool,
    /// Pods there may be above `replicas` during a rollout.
    pub(super) surge: i64,
    /// Pods that may be unavailable during a rollout.
    pub(super) unavailable: i64,
}

impl Wanted {
    /// Reads the specification. Percentages are of `replicas`; surge is rounded up, unavailable
    /// down; both zero would never move, so then one may be unavailable (upstream
    /// `ResolveFenceposts`, `MaxUnavailable`).
    pub(super) fn of(deployment: &Value) -> Self {
        let replicas = deployment
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or(1);
        let rolling = text(deployment, "/spec/strategy/type") != "Recreate";
        if !rolling {
            return Self {
                replicas,
                rolling,
                surge: 0,
                unavailable: 0,
            };
        }
        let parameter = |name: &str| deployment.pointer(&format!("/spec/strategy/rollingUpdate/{name}"));
        let default = json!("25%");
        let scaled = |name: &str, up: bool| scaled(parameter(name).unwrap_or(&default), replicas, up);
        let surge = scaled("maxSurge", true);
        let mut unavailable = scaled("maxUnavailable", false);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self {
            replicas,
            rolling,
            surge,
            unavailable: unavailable.min(replicas),
        }
    }

    pub(super) fn most(&self) -> i64 {
        self.replicas + self.surge
    }

    pub(super) fn least_available(&self) -> i64 {
        self.replicas - self.unavailable
    }
}

/// How large the new set may be now: as many as are wanted, if the surge allows.
pub(super) fn new_set_size(wanted: &Wanted, all: i64, new: i64) -> i64 {
    if !wanted.rolling {
        return wanted.replicas;
    }
    if all >= wanted.most() {
        return new;
    }
    new + (wanted.most() - all).min(wanted.replicas - new)
}

/// The set with the deployment's template: the oldest of them, should there be several.
pub(super) fn find_new(deployment: &Value, sets: &[Set]) -> Option<usize> {
    let same = |index: &usize| same_template(deployment, &sets[*index].value);
    (0..sets.len())
        .filter(same)
        .min_by_key(|index| sets[*index].age())
}

/// Whether a set's template is the deployment's, but for the hash label.
pub(super) fn same_template(deployment: &Value, set: &Value) -> bool {
    let mut of_set = set["spec"]["template"].clone();
    if let Some(labels) = of_set
        .pointer_mut("/metadata/labels")
        .and_then(Value::as_object_mut)
    {
        labels.remove(TEMPLATE_HASH);
    }
    normal(of_set) == normal(deployment["spec"]["template"].clone())
}

/// A template without the fields that say nothing: null, and an empty label map.
fn normal(mut template: Value) -> Value {
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()));
    }
    template
}

/// Sets with pods wanted.
pub(super) fn active(sets: &[Set]) -> impl Iterator<Item = &Set> {
    sets.iter().filter(|set| set.replicas > 0)
}

/// The one active set, or the newest if none is; nothing if several are. `new` is the set of the
/// current template.
pub(super) fn active_or_latest(sets: &[Set], new: Option<usize>) -> Option<usize> {
    let mut active = (0..sets.len()).filter(|index| sets[*index].replicas > 0);
    match (active.next(), active.next()) {
        (Some(only), None) => Some(only),
        (Some(_), Some(_)) => None,
        (None, _) => new.or_else(|| (0..sets.len()).max_by_key(|index| sets[*index].age())),
    }
}

/// Indices of the old sets, oldest first.
pub(super) fn old_by_age(sets: &[Set], new: Option<usize>) -> Vec<usize> {
    let mut old: Vec<usize> = (0..sets.len()).filter(|index| Some(*index) != new).collect();
    old.sort_by(|a, b| sets[*a].age().cmp(&sets[*b].age()));
    old
}

/// How the sets' sizes change when the deployment is resized in the middle of a rollout: each
/// keeps its share, the largest takes what rounding leaves (upstream `scale`, `GetProportion`).
/// Gives the new sizes in the order of `sets`; idle sets stay idle.
pub(super) fn proportional(sets: &[Set], wanted: &Wanted) -> Vec<i64> {
    let allowed = if wanted.replicas > 0 { wanted.most() } else { 0 };
    let to_add = allowed - total(sets, |set| set.replicas);
    let mut sizes: Vec<i64> = sets.iter().map(|set| set.replicas).collect();
    let mut order: Vec<usize> = (0..sets.len())
        .filter(|index| sets[*index].replicas > 0)
        .collect();
    if to_add == 0 || order.is_empty() {
        return sizes;
    }
    // Growing favours the newer of equally large sets, shrinking hits the older one.
    order.sort_by(|a, b| {
        let (a, b) = (&sets[*a], &sets[*b]);
        let by_age = if to_add > 0 {
            b.age().cmp(&a.age())
        } else {
            a.age().cmp(&b.age())
        };
        Reverse(a.replicas).cmp(&Reverse(b.replicas)).then(by_age)
    });
    let mut added = 0;
    for &index in &order {
        let share = share(&sets[index], wanted);
        let left = to_add - added;
        let part = if to_add > 0 {
            share.min(left).max(0)
        } else {
            share.max(left).min(0)
        };
        sizes[index] += part;
        added += part;
    }
    sizes[order[0]] = (sizes[order[0]] + to_add - added).max(0);
    sizes
}

/// How many pods a set gains or loses if it keeps its share of the deployment's largest size.
fn share(set: &Set, wanted: &Wanted) -> i64 {
    if wanted.replicas == 0 {
        return -set.replicas;
    }
    let noted = crate::controllers::fields::annotation(&set.value, revision::MAX_REPLICAS)
        .and_then(|text| text.parse::<i64>().ok())
        .filter(|most| *most > 0);
    let Some(most) = noted else { return 0 };
    // Rounded to the nearest, in whole numbers.
    (2 * set.replicas * wanted.most() + most).div_euclid(2 * most) - set.replicas
}

#[cfg(test)]
mod tests;
