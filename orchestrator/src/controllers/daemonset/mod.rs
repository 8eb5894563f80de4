//! DaemonSets: a pod on each node that the template asks for, which is the one node or none (upstream
//! `pkg/controller/daemon`).
//!
//! [`plan::plan`] decides; this file gathers what it looks at and does what it says.

mod plan;

use std::collections::HashMap;
use std::time::Duration;

use berth_api::kinds::{self, Kind};
use berth_api::selector::LabelSelector;
use berth_api::validate::Node;
use berth_api::{placement, room};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::dependents::{self, Words, random_suffix};
use super::fields::{is_deleting, name, number, text, uid};
use super::replicaset::pod_from_template;
use super::revisions::{self, History, REVISION_HASH};
use super::{Again, Controller, is_closing, node};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Event, Key, Object, Store, StoreError};

pub use plan::{Plan, View, plan, status};

/// First and longest pause before a pod that failed is replaced again, and how long a failure is remembered.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(15);
const MEMORY: Duration = Duration::from_mins(30);

/// Keeps DaemonSets.
#[derive(Default)]
pub(crate) struct DaemonSetController {
    failures: HashMap<Key, Failure>,
}

/// The last failed pod of a set.
struct Failure {
    at: Timestamp,
    pause: Duration,
}

impl Controller for DaemonSetController {
    const NAME: &'static str = "daemonset-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[
            kinds::DAEMON_SET,
            kinds::CONTROLLER_REVISION,
            kinds::POD,
            kinds::NODE,
        ]
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let key = event.object.key();
        if key.kind == kinds::DAEMON_SET {
            vec![key.clone()]
        } else if key.kind == kinds::NODE {
            // Its labels or taints may have changed.
            dependents::all(store, kinds::DAEMON_SET)
        } else {
            dependents::owners(store, kinds::DAEMON_SET, event)
        }
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        dependents::all(store, kinds::DAEMON_SET)
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            self.failures.remove(key);
            return Ok(None);
        };
        let set = object.value();
        let about = ObjectRef::to(&object);
        let Ok(selector) = LabelSelector::from_object(set.pointer("/spec/selector")) else {
            return Ok(None);
        };
        if selector.is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            record(store, &about, Severity::Warning, "SelectingAll", message).await?;
            return Ok(None);
        }
        if is_deleting(&set) {
            return Ok(None);
        }
        let history = revisions::settle(store, &object, &set, &selector, REVISION_HASH).await?;
        let Some(history) = history else {
            return Ok(None);
        };
        let node = node::find(store);
        let (fits, stays) = node
            .as_ref()
            .map_or((false, false), |node| suits(store, &set, node));
        let claimed = || {
            let matches = |pod: &Value| selector.matches_object(pod);
            dependents::claimed(store, kinds::POD, &set, matches, |_| {})
        };
        let mut view = View {
            pods: claimed().await?,
            hash: hash_of(&history.latest).to_owned(),
            fits,
            stays,
            patience: self
                .failures
                .get(key)
                .and_then(|f| f.at.checked_add(f.pause).ok()),
            set: set.clone(),
        };
        let now = Timestamp::now();
        let plan = plan(&view, now);
        if plan.failed {
            self.note_failure(key, now);
        }
        let name = node.map(|node| node.name).unwrap_or_default();
        let failure = carry_out(store, &about, &view, &plan, &name).await?;
        // Read again: the status counts what there is now.
        view.pods = claimed().await?;
        let (status, wait) = status(&view, now);
        if set.get("status") != Some(&status) {
            store.update_status(key, object.uid(), status).await?;
        }
        trim(store, &view, &history).await?;
        match failure {
            Some(failure) => Err(failure),
            None => Ok(plan.again.into_iter().chain(wait).min()),
        }
    }
}

impl DaemonSetController {
    /// The pause doubles with each failure, unless the last one is long ago.
    fn note_failure(&mut self, key: &Key, now: Timestamp) {
        let last = self.failures.get(key);
        let last = last.filter(|last| now.duration_since(last.at).unsigned_abs() < MEMORY);
        let pause = last.map_or(FIRST_PAUSE, |last| (last.pause * 2).min(LONGEST_PAUSE));
        self.failures.insert(key.clone(), Failure { at: now, pause });
    }
}

/// The label of a revision that its pods have, too.
fn hash_of(revision: &Value) -> &str {
    let label = revision
        .pointer("/metadata/labels")
        .and_then(|labels| labels[REVISION_HASH].as_str());
    label.unwrap_or_else(|| name(revision))
}

/// Does what the plan says. The answer is why no pod could be made.
async fn carry_out(
    store: &Store,
    about: &ObjectRef,
    view: &View,
    plan: &Plan,
    node: &str,
) -> Result<Option<StoreError>, StoreError> {
    for (severity, reason, message) in &plan.events {
        record(store, about, *severity, reason, message).await?;
    }
    for pod in &plan.delete {
        let words = Words {
            component: DaemonSetController::NAME,
            failed: "Error deleting",
            done: format!("Deleted pod: {}", name(pod)),
        };
        dependents::delete(store, about, pod, &words).await?;
    }
    if !plan.create || is_closing(store, &about.namespace)? {
        return Ok(None);
    }
    match create(store, view, node).await {
        Ok(pod) => {
            let message = format!("Created pod: {}", pod.name());
            record(store, about, Severity::Normal, "SuccessfulCreate", &message).await?;
            Ok(None)
        }
        Err(StoreError::Closed) => Err(StoreError::Closed),
        Err(error) => {
            let message = format!("Error creating: {error}");
            record(store, about, Severity::Warning, "FailedCreate", &message).await?;
            Ok(Some(error))
        }
    }
}

/// Whether a pod of the set may come to the node, and whether one that is there may stay (upstream
/// `NodeShouldRunDaemonPod`).
fn suits(store: &Store, set: &Value, node: &Node) -> (bool, bool) {
    let mut pod = json!({"spec": set["spec"]["template"]["spec"]});
    tolerate(&mut pod);
    let stored = store.get(&Key::new(kinds::NODE, "", node.name.as_str()));
    let taints = stored.ok().flatten().map(|n| room::taints(&n.value()));
    let taints = taints.unwrap_or_default();
    let asked_for = placement::fits(&pod["spec"], node);
    let ending = taints.iter().filter(|taint| taint["effect"] == "NoExecute");
    (
        asked_for && room::repelled(&pod, &taints).is_none(),
        asked_for && ending.into_iter().all(|taint| room::tolerates(&pod, taint)),
    )
}

/// Taints that do not keep a daemon away: it belongs to the node in whatever state that is (upstream
/// `AddOrUpdateDaemonPodTolerations`).
const TOLERATED: [(&str, &str); 6] = [
    ("not-ready", "NoExecute"),
    ("unreachable", "NoExecute"),
    ("disk-pressure", "NoSchedule"),
    ("memory-pressure", "NoSchedule"),
    ("pid-pressure", "NoSchedule"),
    ("unschedulable", "NoSchedule"),
];

fn tolerate(pod: &mut Value) {
    let in_host_network = pod["spec"]["hostNetwork"] == true;
    let network = in_host_network.then_some(("network-unavailable", "NoSchedule"));
    let spec = &mut pod["spec"];
    let mut list = spec["tolerations"].as_array().cloned().unwrap_or_default();
    for (key, effect) in TOLERATED.into_iter().chain(network) {
        let one = json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect});
        if !list.contains(&one) {
            list.push(one);
        }
    }
    spec["tolerations"] = Value::Array(list);
}

async fn create(store: &Store, view: &View, node: &str) -> Result<Object, StoreError> {
    loop {
        let mut pod = pod_from_template(&view.set, &random_suffix(), node);
        pod["metadata"]["labels"][REVISION_HASH] = json!(view.hash);
        tolerate(&mut pod);
        crate::admission::pod(store, &mut pod, node)?;
        match store.create(pod).await {
            // One name in fourteen million: take another.
            Err(StoreError::AlreadyExists { .. }) => {}
            made => return made,
        }
    }
}

/// Forgets the revisions beyond the limit, but none that a pod has.
async fn trim(store: &Store, view: &View, history: &History) -> Result<(), StoreError> {
    let old: Vec<&Value> = history
        .all
        .iter()
        .filter(|revision| uid(revision) != uid(&history.latest))
        .collect();
    let too_many = old.len() as i64 - number(&view.set, "/spec/revisionHistoryLimit");
    let in_use = |revision: &Value| {
        let mut pods = view.pods.iter();
        pods.any(|pod| label(pod) == hash_of(revision))
    };
    revisions::forget(store, revisions::forgettable(old, in_use, too_many)).await
}

fn label(pod: &Value) -> &str {
    pod.pointer("/metadata/labels")
        .map_or("", |labels| text(labels, &format!("/{REVISION_HASH}")))
}

async fn record(
    store: &Store,
    about: &ObjectRef,
    severity: Severity,
    reason: &str,
    message: &str,
) -> Result<(), StoreError> {
    events::record(store, about, severity, reason, message, DaemonSetController::NAME).await
}

#[cfg(test)]
mod tests;
