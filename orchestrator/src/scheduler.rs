//! Pods that had no room on the node when they were made: they get it when there is, the most important first, and
//! push less important ones out if they may.
//!
//! ```text
//! store (room.rs): fits ─► node at once            no event, no second write: the ordinary case
//!                  does not ─► waits ─► bell ─► round: bind, else PREEMPT (PURE: api room), else say why
//! ```
//!
//! Source: Kubernetes documentation "Scheduling Framework", "Pod Priority and Preemption".

use std::fmt::Write as _;
use std::time::Duration;

use berth_api::kinds;
use berth_api::quantity::Quantity;
use berth_api::quota::Amounts;
use berth_api::room::{self, Candidate};
use berth_api::{disruption, priority};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::controllers::disruption::come_to;
use crate::events::{self, ObjectRef, Severity};
use crate::store::prepare::condition;
use crate::store::{Deletion, Key, Object, Preconditions, Store, StoreError};

/// Who says the events.
const COMPONENT: &str = "default-scheduler";
/// Pods are looked at again after a failure of the store.
const RETRY: Duration = Duration::from_secs(5);
/// Between two looks at many waiting pods.
const PAUSE: Duration = Duration::from_millis(100);
/// So many are many.
const MANY: usize = 32;
/// So many pods are named that hold what another one lacks.
const HOLDERS: usize = 3;
const UNHELPFUL: &str = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
const NO_VICTIMS: &str =
    "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";

/// Places waiting pods until shutdown.
pub async fn run(store: Store, node: String, mut shutdown: watch::Receiver<bool>) {
    let bell = store.bell();
    // What an earlier berthd has left waiting.
    let mut again = Some(Duration::ZERO);
    loop {
        let fresh = tokio::select! {
            stir = bell.wait() => (!stir.freed && again.is_none()).then_some(stir.fresh),
            () = tokio::time::sleep(again.unwrap_or(Duration::MAX)) => None,
            _ = shutdown.wait_for(|stop| *stop) => return,
        };
        again = match round(&store, &node, fresh.as_deref()).await {
            Ok(waiting) => {
                if waiting > MANY {
                    tokio::time::sleep(PAUSE).await;
                }
                None
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "place waiting pods");
                Some(RETRY)
            }
        };
    }
}

/// Tries to place the pods of these keys, or all that wait. Returns how many there were.
async fn round(store: &Store, node: &str, keys: Option<&[Key]>) -> Result<usize, StoreError> {
    let objects: Vec<Object> = match keys {
        Some(keys) => keys
            .iter()
            .filter_map(|key| store.get(key).ok().flatten())
            .collect(),
        None => store.list(kinds::POD, None).items,
    };
    let mut waiting: Vec<(Object, Value)> = objects
        .into_iter()
        .map(|object| {
            let value = object.value();
            (object, value)
        })
        .filter(|(_, pod)| {
            !room::is_bound(pod) && room::is_live(pod) && pod.pointer("/metadata/deletionTimestamp").is_none()
        })
        .collect();
    waiting.sort_by(|a, b| room::order(&a.1, &b.1));
    for (object, pod) in &waiting {
        match place(store, node, object, pod).await {
            // Deleted or changed meanwhile: the change rings again.
            Ok(()) | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(waiting.len())
}

async fn place(store: &Store, node: &str, object: &Object, pod: &Value) -> Result<(), StoreError> {
    let about = ObjectRef::to(object);
    if room::is_gated(pod) {
        let why = "Scheduling is blocked due to non-empty scheduling gates";
        return refuse(store, object, pod, "SchedulingGated", (why, ""), false).await;
    }
    let bound = store.bind(object.key(), object.uid(), node).await?;
    if room::is_bound(&bound.value()) {
        let message = format!(
            "Successfully assigned {}/{} to {node}",
            object.namespace(),
            object.name()
        );
        return events::record(store, &about, Severity::Normal, "Scheduled", &message, COMPONENT).await;
    }
    let world = World::now(store, node, object.key(), pod);
    let repelled = room::repelled(pod, &world.taints);
    let needs = room::needs(pod);
    let short = room::insufficient(&needs, &world.used, &world.allocatable);
    let mut nominated = false;
    let told = if repelled.is_some() {
        UNHELPFUL.to_owned()
    } else if !room::preempts(pod) {
        "preemption: not eligible due to preemptionPolicy=Never.".to_owned()
    } else if world.makes_room(pod, &needs) {
        nominated = true;
        "preemption: not eligible due to terminating pods on the nominated node.".to_owned()
    } else {
        match room::victims(
            &needs,
            &world.used,
            &world.allocatable,
            world.candidates(store, pod),
        ) {
            None if short.iter().any(|name| !world.allocatable.contains_key(name)) => UNHELPFUL.to_owned(),
            None => NO_VICTIMS.to_owned(),
            Some(victims) => {
                nominated = true;
                for victim in victims {
                    preempt(store, node, object, &victim).await?;
                }
                String::new()
            }
        }
    };
    let mut message = room::reasons(&short, repelled);
    if !told.is_empty() {
        message = format!("{message} {told}");
    }
    // Room that was taken by a pod which ends just now is no reason any more: the end rings.
    if !short.is_empty() || repelled.is_some() {
        let evidence = if repelled.is_some() {
            String::new()
        } else {
            world.evidence(&short, &needs)
        };
        let new = refuse(
            store,
            object,
            pod,
            "Unschedulable",
            (&message, &evidence),
            nominated,
        );
        new.await?;
    }
    Ok(())
}

/// What there is on the node.
struct World {
    pods: Vec<(Object, Value)>,
    used: Amounts,
    allocatable: Amounts,
    taints: Vec<Value>,
}

impl World {
    /// For a pod that wants to come: what is kept for others that matter as much counts as used.
    fn now(store: &Store, node: &str, key: &Key, pod: &Value) -> World {
        let stored = store.get(&Key::new(kinds::NODE, "", node)).ok().flatten();
        let node = stored.map(|n| n.value()).unwrap_or_default();
        let all = store.list(kinds::POD, None).items.into_iter().map(|object| {
            let value = object.value();
            (object, value)
        });
        let live = all.filter(|(_, other)| room::is_live(other));
        let (pods, waiting): (Vec<_>, Vec<_>) = live.partition(|(_, other)| room::is_bound(other));
        let kept = waiting.iter().filter(|(object, other)| {
            let nominated = other.pointer("/status/nominatedNodeName").is_some();
            nominated && priority::of(other) >= priority::of(pod) && object.key() != key
        });
        let mut used = Amounts::new();
        for (_, other) in pods.iter().chain(kept) {
            berth_api::quota::add(&mut used, &room::needs(other));
        }
        World {
            pods,
            used,
            allocatable: room::allocatable(&node).unwrap_or_default(),
            taints: room::taints(&node),
        }
    }

    /// Whether pods that end already, and matter less, leave enough room.
    fn makes_room(&self, pod: &Value, needs: &Amounts) -> bool {
        let mut left = self.used.clone();
        let mut any = false;
        for (_, other) in &self.pods {
            let ends = other.pointer("/metadata/deletionTimestamp").is_some();
            if ends && priority::of(other) < priority::of(pod) {
                room::subtract(&mut left, &room::needs(other));
                any = true;
            }
        }
        any && room::insufficient(needs, &left, &self.allocatable).is_empty()
    }

    /// Of each resource that is short: how much is wanted, how much there is, and which pods hold most of it.
    fn evidence(&self, short: &[String], needs: &Amounts) -> String {
        let mut text = String::new();
        for name in short {
            let amount = |of: &Amounts| of.get(name).copied().unwrap_or(Quantity::ZERO);
            let all = amount(&self.allocatable);
            let _ = write!(
                text,
                " {name}: {} requested, {} of {all} free",
                amount(needs),
                free(all, amount(&self.used))
            );
            let mut holders: Vec<(Quantity, &Object)> = self
                .pods
                .iter()
                .map(|(object, other)| (amount(&room::needs(other)), object))
                .filter(|(held, _)| *held > Quantity::ZERO)
                .collect();
            holders.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.key().cmp(b.1.key())));
            let told: Vec<String> = holders
                .iter()
                .take(HOLDERS)
                .map(|(held, pod)| format!("{}/{} ({held})", pod.namespace(), pod.name()))
                .collect();
            if !told.is_empty() {
                let _ = write!(text, ", held by {}", told.join(", "));
            }
            match holders.len().saturating_sub(HOLDERS) {
                0 => {}
                more => {
                    let _ = write!(text, " and {more} more");
                }
            }
            text.push('.');
        }
        text
    }

    /// The pods that matter less.
    fn candidates(&self, store: &Store, pod: &Value) -> Vec<Candidate> {
        let budgets: Vec<(Object, Value)> = store
            .list(kinds::POD_DISRUPTION_BUDGET, None)
            .items
            .into_iter()
            .map(|object| {
                let value = object.value();
                (object, value)
            })
            .collect();
        // What each budget still allows: the pods are looked at in order of age, as upstream does.
        let mut allowed: Vec<i64> = budgets
            .iter()
            .map(|(object, budget)| come_to(store, object.namespace(), budget).allowed())
            .collect();
        let mut less: Vec<&(Object, Value)> = self
            .pods
            .iter()
            .filter(|(_, other)| priority::of(other) < priority::of(pod))
            .collect();
        less.sort_by(|a, b| room::order(&a.1, &b.1));
        less.iter()
            .map(|(object, other)| {
                let mut guarded = false;
                for (n, (owner, budget)) in budgets.iter().enumerate() {
                    let covers = owner.namespace() == object.namespace() && disruption::covers(budget, other);
                    if covers && disruption::is_ready(other) {
                        allowed[n] -= 1;
                        guarded |= allowed[n] < 0;
                    }
                }
                let text = |pointer: &str| other.pointer(pointer).and_then(Value::as_str);
                Candidate {
                    name: (object.namespace().to_owned(), object.name().to_owned()),
                    needs: room::needs(other),
                    priority: priority::of(other),
                    since: text("/status/startTime")
                        .or(text("/metadata/creationTimestamp"))
                        .unwrap_or_default()
                        .to_owned(),
                    guarded,
                }
            })
            .collect()
    }
}

/// Ends a pod politely so that another one has room.
async fn preempt(store: &Store, node: &str, by: &Object, victim: &Candidate) -> Result<(), StoreError> {
    let key = Key::new(kinds::POD, victim.name.0.as_str(), victim.name.1.as_str());
    let Some(object) = store.get(&key)? else {
        return Ok(());
    };
    let mut value = object.value();
    if value.pointer("/metadata/deletionTimestamp").is_some() {
        return Ok(());
    }
    let why = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{COMPONENT}: preempting to accommodate a higher priority pod"),
    });
    condition(&mut value, why, Timestamp::now());
    store
        .update_status(&key, object.uid(), value["status"].take())
        .await?;
    let deletion = Deletion {
        preconditions: Preconditions::uid(object.uid()),
        ..Deletion::default()
    };
    match store.begin_delete(&key, deletion).await {
        Ok(_) | Err(StoreError::NotFound { .. } | StoreError::Conflict { .. }) => {}
        Err(error) => return Err(error),
    }
    let message = format!("Preempted by pod {} on node {node}", by.uid());
    let about = ObjectRef::to(&object);
    events::record(store, &about, Severity::Normal, "Preempted", &message, COMPONENT).await
}

/// What is left of a resource: nothing where more is used than there is.
fn free(all: Quantity, used: Quantity) -> Quantity {
    let left = all.minus(used);
    if left.is_negative() { Quantity::ZERO } else { left }
}

/// Says in the pod's status why it waits, and when that is new in an event, with the evidence: that changes with every
/// pod that comes or goes, and is written once only.
async fn refuse(
    store: &Store,
    object: &Object,
    pod: &Value,
    reason: &str,
    (message, evidence): (&str, &str),
    nominated: bool,
) -> Result<(), StoreError> {
    let mut value = pod.clone();
    let said = pod
        .pointer("/status/conditions")
        .and_then(Value::as_array)
        .and_then(|list| list.iter().find(|c| c["type"] == "PodScheduled"))
        .is_some_and(|c| c["message"] == message);
    let why = json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message});
    condition(&mut value, why, Timestamp::now());
    if let Some(status) = value["status"].as_object_mut() {
        if nominated {
            status.insert("nominatedNodeName".to_owned(), json!(node_of(store)));
        } else {
            status.remove("nominatedNodeName");
        }
    }
    store
        .update_status(object.key(), object.uid(), value["status"].take())
        .await?;
    if !said && reason == "Unschedulable" {
        let about = ObjectRef::to(object);
        events::record(
            store,
            &about,
            Severity::Warning,
            "FailedScheduling",
            &format!("{message}{evidence}"),
            COMPONENT,
        )
        .await?;
    }
    Ok(())
}

/// Name of the one node.
fn node_of(store: &Store) -> String {
    let nodes = store.list(kinds::NODE, None).items;
    nodes.first().map(|n| n.name().to_owned()).unwrap_or_default()
}
