//! PURE: a DaemonSet, its pods and the one node, to the next step (upstream `podsShouldBeOnNode`, `rollingUpdate`,
//! `updateDaemonSetStatus`).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::controllers::fields::{is_deleting, name, number, scaled, text};
use crate::controllers::pod_state::{available_in, has_ended, is_available, is_ready};
use crate::controllers::revisions::REVISION_HASH;
use crate::events::Severity;

/// What there is.
#[derive(Debug, Clone)]
pub struct View {
    /// The DaemonSet.
    pub set: Value,
    /// The pods it controls, ended and ending ones included.
    pub pods: Vec<Value>,
    /// The hash of the present template's revision.
    pub hash: String,
    /// The one node is there, among those that the template asks for, and has no taint that keeps its pods away.
    pub fits: bool,
    /// Pods that are there may stay: of what keeps new ones away there are only taints that do not end old ones.
    pub stays: bool,
    /// Failed pods stay until then, so that one that always fails is not made anew without a pause.
    pub patience: Option<Timestamp>,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Plan {
    /// A pod of the present template is to be made.
    pub create: bool,
    /// Pods to delete.
    pub delete: Vec<Value>,
    /// One of them has failed.
    pub failed: bool,
    /// What to tell people.
    pub events: Vec<(Severity, &'static str, String)>,
    /// When to look again if nothing happens before.
    pub again: Option<Duration>,
}

/// How far a rolling update may go on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    rolling: bool,
    surge: bool,
}

impl Limits {
    /// Percentages are of the one node, rounded up: each is all or nothing. Without a surge one pod may be unavailable,
    /// or nothing would ever move.
    fn of(set: &Value) -> Self {
        let strategy = &set["spec"]["updateStrategy"];
        let rolling = text(strategy, "/type") == "RollingUpdate";
        Self {
            rolling,
            surge: rolling && scaled(&strategy["rollingUpdate"]["maxSurge"], 1, true) > 0,
        }
    }
}

impl View {
    /// Pods that are on the node still: of those that were deleted, the ones whose programs may run.
    fn present(&self) -> impl Iterator<Item = &Value> {
        self.pods
            .iter()
            .filter(|pod| !(is_deleting(pod) && has_ended(pod)))
    }

    fn is_new(&self, pod: &Value) -> bool {
        pod.pointer("/metadata/labels")
            .is_some_and(|labels| labels[REVISION_HASH] == self.hash)
    }

    fn available(&self, pod: &Value, now: Timestamp) -> bool {
        is_available(pod, self.min_ready(), now)
    }

    fn min_ready(&self) -> i64 {
        number(&self.set, "/spec/minReadySeconds")
    }

    /// Oldest first. Times are whole seconds, so within one the pods of the present template are the younger ones.
    fn by_age<'a>(&self, mut pods: Vec<&'a Value>) -> Vec<&'a Value> {
        pods.sort_by_key(|pod| {
            let created = text(pod, "/metadata/creationTimestamp");
            (created, self.is_new(pod), name(pod))
        });
        pods
    }
}

/// Decides the next step. First the node gets the pods it has to have, then an update goes on.
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    if is_deleting(&view.set) {
        return plan;
    }
    let limits = Limits::of(&view.set);
    place(view, limits, now, &mut plan);
    if limits.rolling && view.fits && !plan.create && plan.delete.is_empty() {
        roll(view, limits, now, &mut plan);
    }
    plan
}

/// One pod on the node if it fits, two during a surge, else none. One that is there may stay where none would come to.
fn place(view: &View, limits: Limits, now: Timestamp, plan: &mut Plan) {
    let staying = view.present().filter(|pod| !is_deleting(pod));
    if !view.stays {
        plan.delete.extend(staying.cloned());
        return;
    }
    if view.present().next().is_none() {
        plan.create = view.fits;
        return;
    }
    let mut running = Vec::new();
    for pod in staying {
        match text(pod, "/status/phase") {
            "Failed" => replace_failed(view, pod, now, plan),
            "Succeeded" => {
                let message = format!(
                    "Found succeeded daemon pod {}, will try to delete it",
                    place_of(pod)
                );
                plan.events
                    .push((Severity::Normal, "SucceededDaemonPod", message));
                plan.delete.push(pod.clone());
            }
            _ => running.push(pod),
        }
    }
    let running = view.by_age(running);
    if limits.surge {
        prune(view, &running, now, plan);
    } else {
        plan.delete.extend(running.into_iter().skip(1).cloned());
    }
}

fn place_of(pod: &Value) -> String {
    format!(
        "{}/{} on node {}",
        text(pod, "/metadata/namespace"),
        name(pod),
        text(pod, "/spec/nodeName")
    )
}

fn replace_failed(view: &View, pod: &Value, now: Timestamp, plan: &mut Plan) {
    if let Some(until) = view.patience.filter(|until| *until > now) {
        let wait = until.duration_since(now);
        plan.again = Some(wait.unsigned_abs());
        return;
    }
    let message = format!("Found failed daemon pod {}, will try to kill it", place_of(pod));
    plan.events.push((Severity::Warning, "FailedDaemonPod", message));
    plan.delete.push(pod.clone());
    plan.failed = true;
}

/// During a surge: the oldest pod of the present template and the oldest of a former one stay; the latter goes as soon
/// as it is worth nothing or the former is available.
fn prune(view: &View, running: &[&Value], now: Timestamp, plan: &mut Plan) {
    let (new, old): (Vec<&Value>, Vec<&Value>) = running.iter().partition(|pod| view.is_new(pod));
    let surplus = new.iter().skip(1).chain(old.iter().skip(1));
    plan.delete.extend(surplus.map(|pod| (*pod).clone()));
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!is_ready(old) || view.available(new, now))
    {
        plan.delete.push((*old).clone());
    }
}

/// The next step of an update, when the node has just the pods it should have.
fn roll(view: &View, limits: Limits, now: Timestamp, plan: &mut Plan) {
    let staying = view.present().filter(|pod| !is_deleting(pod) && !has_ended(pod));
    let (new, old): (Vec<&Value>, Vec<&Value>) = staying.partition(|pod| view.is_new(pod));
    if let ([], [old]) = (&new[..], &old[..]) {
        if limits.surge {
            plan.create = true;
        } else {
            plan.delete.push((*old).clone());
        }
    }
    let waits = new
        .iter()
        .filter_map(|pod| available_in(pod, view.min_ready(), now));
    plan.again = soonest(plan.again, waits);
}

/// The sooner of a pause and what pods still have to be ready for, in seconds.
fn soonest(again: Option<Duration>, waits: impl Iterator<Item = i64>) -> Option<Duration> {
    let waits = waits
        .filter(|wait| *wait > 0)
        .map(|wait| Duration::from_secs(wait.unsigned_abs()));
    waits.chain(again).min()
}

/// The counts, and when they change by time alone. Counts that upstream leaves out when they are zero are left out.
pub fn status(view: &View, now: Timestamp) -> (Value, Option<Duration>) {
    let pods = view.by_age(view.present().collect());
    let oldest = pods.first().filter(|_| view.fits);
    let holds = |what: &dyn Fn(&Value) -> bool| i64::from(oldest.is_some_and(|pod| what(pod)));
    let available = holds(&|pod| view.available(pod, now));
    let desired = i64::from(view.fits);
    let mut status = json!({
        "currentNumberScheduled": i64::from(oldest.is_some()),
        "numberMisscheduled": i64::from(!view.fits && !pods.is_empty()),
        "desiredNumberScheduled": desired,
        "numberReady": holds(&is_ready),
    });
    let more = [
        ("observedGeneration", number(&view.set, "/metadata/generation")),
        ("updatedNumberScheduled", holds(&|pod| view.is_new(pod))),
        ("numberAvailable", available),
        ("numberUnavailable", desired - available),
        ("collisionCount", number(&view.set, "/status/collisionCount")),
    ];
    for (field, count) in more.into_iter().filter(|(_, count)| *count > 0) {
        status[field] = json!(count);
    }
    if let Some(conditions) = view.set.pointer("/status/conditions") {
        status["conditions"] = conditions.clone();
    }
    let waits = pods.iter().filter(|pod| !is_deleting(pod));
    let waits = waits.filter_map(|pod| available_in(pod, view.min_ready(), now));
    (status, soonest(None, waits))
}
