//! PURE: a Job, its pods and the time, to what is to be done (upstream `syncJob`, `manageJob`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use berth_api::indexes::Indexes;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::desired::{Desired, expiry, finished};
use super::pods::{
    Slot, ended_at, failed, failures_before, index, is_terminating, is_tracked, pause, pause_of_all,
    succeeded,
};
use super::policy::{Answer, answer};
use super::{status, verdict};
use crate::controllers::fields::{is_deleting, uid};
use crate::controllers::pod_state::{has_ended, is_active};
use crate::events::Severity;

/// How many pods are made or deleted for one look: more come with the next.
const BURST: usize = 500;

/// What is to be done, in this order. Stopping after any step and planning again is safe.
#[derive(Debug, Default)]
pub struct Plan {
    /// Pods that are not needed: their finalizer goes, then they are deleted; they do not count.
    pub drop: Vec<Value>,
    /// Pods to delete that will count as failed.
    pub delete: Vec<Value>,
    /// Pods to make.
    pub create: Vec<Slot>,
    /// The status to write, as if all of the above had been done.
    pub status: Value,
    /// Pods whose end that status has noted: their finalizer goes.
    pub release: Vec<Value>,
    /// What people should know, once the status is written.
    pub events: Vec<(Severity, &'static str, String)>,
    /// The Job has ended so long ago that it goes itself.
    pub expired: bool,
    /// When to look again.
    pub again: Option<Duration>,
}

impl Plan {
    fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |other| other.min(after)));
    }
}

/// What the pods come to.
pub(super) struct Seen<'a> {
    pub(super) desired: &'a Desired<'a>,
    pub(super) pods: &'a [Value],
    pub(super) active: Vec<&'a Value>,
    pub(super) terminating: usize,
    /// Pods that have been noted in the status, but whose finalizer may still be there.
    pub(super) noted_succeeded: BTreeSet<String>,
    pub(super) noted_failed: BTreeSet<String>,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) done: Indexes,
    pub(super) given_up: Indexes,
    /// The last failed pod of an index: it tells its successor how often that has been.
    pub(super) kept: BTreeMap<u32, &'a Value>,
}

/// Plans the next step. `pods` are those that the Job controls.
pub fn plan(job: &Value, pods: &[Value], now: Timestamp) -> Plan {
    let mut plan = Plan {
        status: job.get("status").cloned().unwrap_or_default(),
        ..Plan::default()
    };
    if finished(job).is_some() {
        plan.release = pods.iter().filter(|pod| is_tracked(pod)).cloned().collect();
        if let Some(end) = expiry(job).filter(|_| !is_deleting(job)) {
            plan.expired = end <= now;
            if !plan.expired {
                plan.look_again(Duration::try_from(end.duration_since(now)).unwrap_or_default());
            }
        }
        return plan;
    }
    let desired = Desired::of(job);
    let seen = look(&desired, pods);
    let mut verdict = verdict::verdict(&seen, now);
    let mut managed = false;
    if verdict.is_some() {
        plan.delete = seen.active.iter().take(BURST).map(|pod| (*pod).clone()).collect();
    } else if !is_deleting(job) {
        managed = true;
        manage(&seen, now, &mut plan);
        if let Some(left) = deadline_in(&desired, now) {
            plan.look_again(left);
        }
    }
    let active = seen.active.len() - plan.drop.len() - plan.delete.len() + plan.create.len();
    if verdict.is_none() && active == 0 && plan.create.is_empty() {
        verdict = verdict::complete(&seen);
    }
    status::write(&seen, verdict.as_ref(), managed, active, now, &mut plan);
    plan
}

/// What is left of activeDeadlineSeconds.
fn deadline_in(desired: &Desired<'_>, now: Timestamp) -> Option<Duration> {
    let seconds = desired.deadline.filter(|_| !desired.suspended)?;
    let start = desired.started().unwrap_or(now);
    let end = start.checked_add(SignedDuration::from_secs(seconds)).ok()?;
    Some(Duration::try_from(end.duration_since(now)).unwrap_or_default())
}

fn look<'a>(desired: &'a Desired<'a>, pods: &'a [Value]) -> Seen<'a> {
    let noted = |field: &str| -> BTreeSet<String> {
        let list = desired
            .job
            .pointer(&format!("/status/uncountedTerminatedPods/{field}"));
        let list = list.and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|uid| uid.as_str().map(str::to_owned)).collect()
    };
    let (noted_succeeded, noted_failed) = (noted("succeeded"), noted("failed"));
    let is_fresh = |pod: &&Value| {
        is_tracked(pod)
            && !noted_succeeded.contains(uid(pod))
            && !noted_failed.contains(uid(pod))
            && (!desired.indexed || index(pod, desired).is_some())
    };
    let fresh: Vec<&Value> = pods.iter().filter(is_fresh).collect();
    let fresh_failed: Vec<&Value> = fresh.iter().copied().filter(|pod| failed(pod, desired)).collect();
    let counts = |pod: &&&Value| answer(desired.failure_policy, pod) != Answer::Ignore;
    let failures = desired.counted("failed")
        + noted_failed.len() as u64
        + fresh_failed.iter().filter(counts).count() as u64;
    let successes = || {
        let fresh = fresh.iter().filter(|pod| succeeded(pod)).count() as u64;
        desired.counted("succeeded") + noted_succeeded.len() as u64 + fresh
    };
    let (mut done, mut given_up) = (Indexes::default(), Indexes::default());
    if desired.indexed {
        let of = |pods: &[&Value], wanted: &dyn Fn(&Value) -> bool| -> Vec<u32> {
            let pods = pods.iter().filter(|pod| wanted(pod));
            pods.filter_map(|pod| index(pod, desired)).collect()
        };
        done = desired.known("completedIndexes").with(of(&fresh, &succeeded));
        if desired.per_index.is_some() {
            let over = |pod: &Value| gives_up(desired, pod);
            let new = of(&fresh_failed, &over);
            given_up = desired
                .known("failedIndexes")
                .with(new.into_iter().filter(|index| !done.contains(*index)));
        }
    }
    let succeeded = if desired.indexed {
        done.len() as u64
    } else {
        successes()
    };
    let active: Vec<&Value> = pods.iter().filter(|pod| is_active(pod)).collect();
    let mut seen = Seen {
        desired,
        pods,
        active,
        terminating: pods.iter().filter(|pod| is_terminating(pod)).count(),
        noted_succeeded,
        noted_failed,
        succeeded,
        failed: failures,
        done,
        given_up,
        kept: BTreeMap::new(),
    };
    if desired.per_index.is_some() {
        seen.kept = last_failures(&seen, &fresh_failed);
    }
    seen
}

/// Whether a failed pod is the last its index gets.
fn gives_up(desired: &Desired<'_>, pod: &Value) -> bool {
    let limit = desired.per_index.unwrap_or(u64::MAX);
    match answer(desired.failure_policy, pod) {
        Answer::FailIndex => true,
        Answer::Ignore => false,
        Answer::Count | Answer::FailJob(_) => failures_before(pod).0 >= limit,
    }
}

/// The last failed pod of each index that has to be tried again.
fn last_failures<'a>(seen: &Seen<'a>, failures: &[&'a Value]) -> BTreeMap<u32, &'a Value> {
    let busy: BTreeSet<u32> = seen
        .active
        .iter()
        .filter_map(|pod| index(pod, seen.desired))
        .collect();
    let rank = |pod: &Value| {
        let (counted, ignored) = failures_before(pod);
        (counted + ignored, ended_at(pod))
    };
    let mut last: BTreeMap<u32, &Value> = BTreeMap::new();
    for pod in failures {
        let Some(index) = index(pod, seen.desired) else {
            continue;
        };
        if busy.contains(&index) || seen.done.contains(index) || seen.given_up.contains(index) {
            continue;
        }
        let kept = last.entry(index).or_insert(pod);
        if rank(pod) > rank(kept) {
            *kept = pod;
        }
    }
    last
}

/// Pods to make and to take away while the Job goes on.
fn manage(seen: &Seen<'_>, now: Timestamp, plan: &mut Plan) {
    let desired = seen.desired;
    if desired.suspended {
        plan.drop = surplus(seen, seen.active.len(), now);
        return;
    }
    let active = seen.active.len();
    let leaving = if desired.replaces_ended {
        seen.terminating
    } else {
        0
    };
    let wanted = match desired.completions {
        // Once one has succeeded, the others run to their end, and no more are made.
        None if seen.succeeded > 0 => active,
        None => desired.parallelism,
        Some(completions) => {
            let left = u64::from(completions).saturating_sub(seen.succeeded);
            desired
                .parallelism
                .min(usize::try_from(left).unwrap_or(usize::MAX))
        }
    };
    plan.drop = surplus(seen, active.saturating_sub(wanted), now);
    if !plan.drop.is_empty() {
        return;
    }
    let room = wanted.saturating_sub(active + leaving).min(BURST);
    if room == 0 {
        return;
    }
    if desired.per_index.is_some() {
        return create_independently(seen, room, now, plan);
    }
    let pause = pause_of_all(seen.pods, desired, now);
    if pause > Duration::ZERO {
        return plan.look_again(pause);
    }
    plan.create = if desired.indexed {
        let slot = |index| Slot {
            index: Some(index),
            failures: None,
        };
        pending(seen).take(room).map(slot).collect()
    } else {
        vec![Slot::default(); room]
    };
}

/// Indexes that need a pod.
fn pending<'a>(seen: &'a Seen<'a>) -> impl Iterator<Item = u32> + 'a {
    let desired = seen.desired;
    let leaving = |pod: &&Value| desired.replaces_ended && is_terminating(pod);
    let busy: BTreeSet<u32> = seen
        .active
        .iter()
        .copied()
        .chain(seen.pods.iter().filter(leaving))
        .filter_map(|pod| index(pod, desired))
        .collect();
    (0..desired.completions.unwrap_or(0)).filter(move |index| {
        !busy.contains(index) && !seen.done.contains(*index) && !seen.given_up.contains(*index)
    })
}

/// Each index waits for its own failures only.
fn create_independently(seen: &Seen<'_>, room: usize, now: Timestamp, plan: &mut Plan) {
    let mut soonest: Option<Duration> = None;
    let mut slots = Vec::new();
    for index in pending(seen) {
        if slots.len() == room {
            break;
        }
        let last = seen.kept.get(&index);
        let (mut counted, mut ignored) = last.map_or((0, 0), |pod| failures_before(pod));
        if let Some(pod) = last {
            if answer(seen.desired.failure_policy, pod) == Answer::Ignore {
                ignored += 1;
            } else {
                counted += 1;
            }
        }
        let left = pause(counted + ignored, last.and_then(|pod| ended_at(pod)), now);
        if left > Duration::ZERO {
            soonest = Some(soonest.map_or(left, |other| other.min(left)));
            continue;
        }
        slots.push(Slot {
            index: Some(index),
            failures: Some((counted, ignored)),
        });
    }
    plan.create = slots;
    if let Some(left) = soonest {
        plan.look_again(left);
    }
}

/// At least `count` active pods that go: those without an index of their own first, then those
/// that have come least far.
fn surplus(seen: &Seen<'_>, count: usize, now: Timestamp) -> Vec<Value> {
    let mut left: Vec<&Value> = seen.active.clone();
    left.sort_by(|a, b| crate::controllers::replicaset::compare(a, b, now));
    let mut gone = Vec::new();
    if seen.desired.indexed {
        let mut taken = BTreeSet::new();
        // The pod of an index that has come farthest stays.
        left.reverse();
        left.retain(|pod| {
            let own = index(pod, seen.desired)
                .is_some_and(|index| !seen.done.contains(index) && taken.insert(index));
            if !own {
                gone.push((*pod).clone());
            }
            own
        });
        left.reverse();
    }
    let more = count.saturating_sub(gone.len());
    gone.extend(left.into_iter().take(more).cloned());
    gone.truncate(BURST);
    gone
}

/// Whether the pod's end is to be noted, or there is nothing to note about it.
pub(super) fn may_go(seen: &Seen<'_>, over: bool, pod: &Value) -> bool {
    let ended = has_ended(pod) || failed(pod, seen.desired);
    if !(is_deleting(seen.desired.job) || over || ended) {
        return false;
    }
    // It is needed until its index has another pod, unless all is over.
    let needed = index(pod, seen.desired)
        .and_then(|index| seen.kept.get(&index))
        .is_some_and(|kept| uid(kept) == uid(pod));
    over || is_deleting(seen.desired.job) || !needed
}
