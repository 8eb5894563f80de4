//! PURE: a StatefulSet, its revisions and its pods, to the next step (upstream `updateStatefulSet`).

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::claims;
use super::identity::{new_pod, ordinal, relabelled, revision, start};
use crate::controllers::fields::{is_deleting, name, number, scaled, text, uid};
use crate::controllers::pod_state::{has_ended, is_available};
use crate::controllers::revisions::restored;

/// How many pods are made for one look: more come with the next.
const BURST: usize = 500;

/// What there is.
#[derive(Debug, Clone)]
pub struct View {
    /// The set.
    pub set: Value,
    /// Its pods, ended and ending ones included.
    pub pods: Vec<Value>,
    /// The revision that pods below the partition have, and that an update goes away from.
    pub current: Value,
    /// The revision of the present template.
    pub update: Value,
    /// The claims that are there, of those that the set's pods have.
    pub claims: Vec<Value>,
    /// Name of the node.
    pub node: String,
}

/// Something to be done.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// A new claim of a pod.
    Claim {
        /// The claim.
        claim: Value,
        /// The pod's name.
        pod: String,
    },
    /// A claim, with other owners.
    Own(Value),
    /// A new pod.
    Create(Value),
    /// A pod, with other labels.
    Relabel(Value),
    /// A pod to delete.
    Delete(Value),
}

/// What a set asks for, read once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) replicas: u64,
    start: u64,
    ordered: bool,
    pub(super) rolling: bool,
    partition: u64,
    /// Pods that an update may make unavailable.
    unavailable: u64,
    min_ready: i64,
}

impl Wanted {
    pub(super) fn of(set: &Value) -> Self {
        let replicas = set
            .pointer("/spec/replicas")
            .and_then(Value::as_i64)
            .unwrap_or(1)
            .max(0);
        let strategy = &set["spec"]["updateStrategy"];
        let rolling = text(strategy, "/type") == "RollingUpdate";
        let most = strategy.pointer("/rollingUpdate/maxUnavailable");
        // A small percentage of few pods is still one.
        let most = most.map_or(1, |most| scaled(most, replicas, false).max(1));
        Self {
            replicas: replicas.unsigned_abs(),
            start: start(set),
            ordered: text(set, "/spec/podManagementPolicy") != "Parallel",
            rolling,
            partition: number(strategy, "/rollingUpdate/partition").unsigned_abs(),
            unavailable: most.unsigned_abs(),
            min_ready: number(set, "/spec/minReadySeconds"),
        }
    }
}

/// A set at work: pods by their place (the ordinal less the first), and what has been decided.
struct Work<'a> {
    view: &'a View,
    wanted: Wanted,
    now: Timestamp,
    /// Pods that should be there.
    members: BTreeMap<u64, &'a Value>,
    /// Pods beyond the wanted number, or below the first, highest first.
    condemned: Vec<&'a Value>,
    actions: Vec<Action>,
    /// Uids of pods that are to be deleted.
    gone: BTreeSet<&'a str>,
}

/// Whether the work goes on with the next part, or ends until something has happened.
#[derive(PartialEq)]
enum Flow {
    On,
    Stop,
}

/// Decides the next step. In order: each pod is made when all before it are available, and deleted when all behind it
/// are gone. In parallel: all at once. An update begins when the set has the pods that it should have.
pub fn plan(view: &View, now: Timestamp) -> Vec<Action> {
    if is_deleting(&view.set) {
        return Vec::new();
    }
    let mut work = Work::of(view, now);
    if work.fill() == Flow::On && work.shrink() == Flow::On {
        work.update();
    }
    work.actions
}

/// Whether a pod runs and has been ready for long enough.
pub(super) fn serves(pod: &Value, min_ready: i64, now: Timestamp) -> bool {
    text(pod, "/status/phase") == "Running" && is_available(pod, min_ready, now)
}

impl<'a> Work<'a> {
    fn of(view: &'a View, now: Timestamp) -> Self {
        let wanted = Wanted::of(&view.set);
        let mut members = BTreeMap::new();
        let mut condemned = Vec::new();
        for pod in &view.pods {
            let Some(ordinal) = ordinal(&view.set, pod) else {
                continue;
            };
            match ordinal
                .checked_sub(wanted.start)
                .filter(|place| *place < wanted.replicas)
            {
                Some(place) => {
                    members.insert(place, pod);
                }
                None => condemned.push((ordinal, pod)),
            }
        }
        condemned.sort_by_key(|(ordinal, _)| std::cmp::Reverse(*ordinal));
        Self {
            view,
            wanted,
            now,
            members,
            condemned: condemned.into_iter().map(|(_, pod)| pod).collect(),
            actions: Vec::new(),
            gone: BTreeSet::new(),
        }
    }

    /// Whether a pod serves and stays.
    fn is_healthy(&self, pod: &Value) -> bool {
        serves(pod, self.wanted.min_ready, self.now) && !is_deleting(pod) && !self.gone.contains(uid(pod))
    }

    fn delete(&mut self, pod: &'a Value) {
        self.gone.insert(uid(pod));
        self.actions.push(Action::Delete(pod.clone()));
    }

    /// Pods that are missing are made; such as have ended are deleted first, whatever their exit code: a set's pods
    /// never have done their work.
    fn fill(&mut self) -> Flow {
        let mut made = 0;
        for place in 0..self.wanted.replicas {
            let Some(pod) = self.members.get(&place).copied() else {
                made += usize::from(self.make(place));
                if self.wanted.ordered || made == BURST {
                    return Flow::Stop;
                }
                continue;
            };
            if has_ended(pod) {
                if !is_deleting(pod) {
                    self.delete(pod);
                }
            } else {
                if text(pod, "/status/phase") == "Pending" && !is_deleting(pod) {
                    self.claim(pod);
                }
                if self.wanted.ordered && !self.is_healthy(pod) {
                    return Flow::Stop;
                }
                self.own(pod, false);
                self.relabel(place, pod);
                continue;
            }
            if self.wanted.ordered {
                return Flow::Stop;
            }
        }
        Flow::On
    }

    /// Makes a pod and the claims that it lacks, unless it has to wait for a former one to go. Says whether it did.
    fn make(&mut self, place: u64) -> bool {
        let pod = self.new_pod(place);
        let waits = |claim: &Value| claims::is_going(claim, name(&pod), None);
        if self.claims_of(&pod).any(waits) {
            return false;
        }
        self.claim(&pod);
        self.actions.push(Action::Create(pod));
        true
    }

    /// The claims of a pod that are there.
    fn claims_of(&self, pod: &Value) -> impl Iterator<Item = &'a Value> + use<'a> {
        let names: Vec<Value> = claims::of_pod(&self.view.set, name(pod));
        let view = self.view;
        let wanted = move |claim: &&Value| names.iter().any(|known| name(known) == name(claim));
        view.claims.iter().filter(wanted)
    }

    /// Makes the claims that a pod lacks.
    fn claim(&mut self, pod: &Value) {
        for claim in claims::of_pod(&self.view.set, name(pod)) {
            if self.view.claims.iter().any(|known| name(known) == name(&claim)) {
                continue;
            }
            let claim = claims::owned(&self.view.set, &claim, pod, false).unwrap_or(claim);
            let pod = name(pod).to_owned();
            self.actions.push(Action::Claim { claim, pod });
        }
    }

    /// Gives a pod's claims the owners that the set's policy wants.
    fn own(&mut self, pod: &Value, condemned: bool) {
        let set = &self.view.set;
        let changed: Vec<Value> = self
            .claims_of(pod)
            .filter(|claim| !is_deleting(claim))
            .filter_map(|claim| claims::owned(set, claim, pod, condemned))
            .collect();
        self.actions.extend(changed.into_iter().map(Action::Own));
    }

    fn relabel(&mut self, place: u64, pod: &Value) {
        if !is_deleting(pod)
            && let Some(labelled) = relabelled(pod, self.wanted.start + place)
        {
            self.actions.push(Action::Relabel(labelled));
        }
    }

    /// Below the partition a pod is of the current revision, also when it is made anew.
    fn new_pod(&self, place: u64) -> Value {
        let below = self.wanted.rolling && place < self.wanted.partition;
        let of = if below {
            &self.view.current
        } else {
            &self.view.update
        };
        let set = restored(&self.view.set, of);
        new_pod(&set, name(of), self.wanted.start + place, &self.view.node)
    }

    /// Pods that are too many are deleted, from the highest down. In order: one at a time, and none while another pod
    /// is not well, unless it is that pod.
    fn shrink(&mut self) -> Flow {
        for pod in self.condemned.clone() {
            self.own(pod, true);
        }
        if !self.wanted.ordered {
            for pod in self.condemned.clone() {
                if !is_deleting(pod) {
                    self.delete(pod);
                }
            }
            return Flow::On;
        }
        let Some(last) = self.condemned.first().copied() else {
            return Flow::On;
        };
        // The wanted pods are all well, or the work would have stopped before. One that has ended never will be: there is
        // nothing to wait for, though upstream does if there are two of them.
        let unwell = |pod: &&&Value| !self.is_healthy(pod) && !has_ended(pod);
        let lowest = self.condemned.iter().rev().find(unwell);
        let other = lowest.is_some_and(|pod| uid(pod) != uid(last));
        let waits = is_deleting(last) || (unwell(&&last) && other);
        if !waits {
            self.delete(last);
        }
        Flow::Stop
    }

    /// Pods of another revision are deleted, from the highest down to the partition, to be made anew.
    ///
    /// An old pod that does not serve may always go, as far as there is room among those that are under way. One that
    /// serves goes only if then no more pods are missing than may be, the broken ones included: upstream leaves these
    /// out in a parallel set, and so takes down pods that serve beside those that do not.
    fn update(&mut self) {
        if !self.wanted.rolling {
            return;
        }
        let replicas = self.wanted.replicas;
        let new = name(&self.view.update);
        let healthy = self.members.values().filter(|pod| self.is_healthy(pod)).count() as u64;
        let mut missing = replicas - healthy;
        let old_and_broken = |pod: &&&Value| {
            !self.is_healthy(pod)
                && !is_deleting(pod)
                && !self.gone.contains(uid(pod))
                && revision(pod) != new
        };
        let broken = self.members.values().filter(old_and_broken).count() as u64;
        let mut under_way = missing - broken;
        let old: Vec<&'a Value> = self
            .members
            .range(self.wanted.partition.min(replicas)..)
            .rev()
            .map(|(_, pod)| *pod)
            .filter(|pod| revision(pod) != new && !is_deleting(pod))
            .collect();
        for pod in old {
            if self.gone.contains(uid(pod)) {
                continue;
            }
            if under_way >= self.wanted.unavailable {
                return;
            }
            if self.is_healthy(pod) {
                if missing >= self.wanted.unavailable {
                    continue;
                }
                missing += 1;
            }
            under_way += 1;
            self.delete(pod);
        }
    }
}
