//! HorizontalPodAutoscalers: replicas that follow what the pods use (upstream `pkg/controller/podautoscaler`).

pub mod limits;
pub mod plan;
pub mod replicas;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use berth_api::kinds::{self, Kind};
use berth_api::selector::LabelSelector;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::fields::{name, number, text};
use super::{Again, Controller};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Event, EventKind, Key, Object, Store, StoreError};
use crate::usage::{self, Look};
use limits::Memory;
use plan::{Plan, Target, Told};
use replicas::{Amounts, Sample, Samples};

/// Between two looks at an autoscaler.
const PERIOD: Duration = Duration::from_secs(15);
/// Between the first look at a target's counters and the second.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// A shorter time says too little about processor time.
const SHORTEST_WINDOW: Duration = Duration::from_millis(500);
/// A look that nobody has asked for again since is forgotten.
const STALE: Duration = Duration::from_mins(2);

/// Keeps autoscalers.
pub(crate) struct Autoscaler {
    /// The cgroup below which the pods' are.
    cgroup_parent: String,
    /// By uid of the autoscaler.
    memories: HashMap<String, Memory>,
    /// By uid of the pod, and run of the container.
    looks: HashMap<(String, String), Look>,
}

impl Autoscaler {
    pub(super) fn new(cgroup_parent: String) -> Self {
        Self {
            cgroup_parent,
            memories: HashMap::new(),
            looks: HashMap::new(),
        }
    }
}

impl Controller for Autoscaler {
    const NAME: &'static str = "horizontal-pod-autoscaler";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::HORIZONTAL_POD_AUTOSCALER]
    }

    fn concerned(&mut self, _: &Store, event: &Event) -> Vec<Key> {
        let about = &event.object;
        if event.kind == EventKind::Deleted {
            self.memories.remove(about.uid());
            return Vec::new();
        }
        // Its own status is no reason to look again.
        let same = event
            .previous
            .as_ref()
            .is_some_and(|before| before.value()["spec"] == about.value()["spec"]);
        if same {
            Vec::new()
        } else {
            vec![about.key().clone()]
        }
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        let all = store.list(kinds::HORIZONTAL_POD_AUTOSCALER, None).items;
        all.iter().map(|object| object.key().clone()).collect()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            return Ok(None);
        };
        let hpa = object.value();
        let scaled = match scaled(store, &hpa)? {
            Ok(scaled) => scaled,
            Err(why) => {
                let plan = plan::without_target(&hpa, &why, Timestamp::now());
                publish(store, &object, &hpa, plan.status, plan.told).await?;
                return Ok(Some(PERIOD));
            }
        };
        let (pods, target) = target(store, &hpa, &scaled);
        let samples = self.samples(pods).await;
        // Processor time is a difference: the first look at a target tells nothing.
        let first = !self.memories.contains_key(object.uid());
        if first && samples.is_empty() && !target.pods.is_empty() {
            self.memories.insert(object.uid().to_owned(), Memory::default());
            return Ok(Some(FIRST_WINDOW));
        }
        let memory = self.memories.entry(object.uid().to_owned()).or_default();
        let plan = plan::plan(&hpa, &target, &samples, memory, Timestamp::now());
        rescale(store, &object, &hpa, &scaled, plan, memory).await?;
        Ok(Some(PERIOD))
    }
}

/// The object that an autoscaler scales; the inner error is why there is none.
fn scaled(store: &Store, hpa: &Value) -> Result<Result<Object, String>, StoreError> {
    let reference = |field: &str| text(hpa, &format!("/spec/scaleTargetRef/{field}"));
    let (version, wanted) = (reference("apiVersion"), reference("kind"));
    let kind = kinds::by_api_version(version, wanted).filter(|kind| kind.has("scale"));
    let Some(kind) = kind else {
        let (group, _) = kinds::split_api_version(version);
        return Ok(Err(format!("no matches for kind {wanted:?} in group {group:?}")));
    };
    let key = Key::new(kind, text(hpa, "/metadata/namespace"), reference("name"));
    let why = || {
        let group = if kind.group.is_empty() {
            String::new()
        } else {
            format!(".{}", kind.group)
        };
        format!("{}/scale{group} {:?} not found", kind.plural, key.name)
    };
    Ok(store.get(&key)?.ok_or_else(why))
}

/// The pods that an object selects.
fn selected(store: &Store, scaled: &Object) -> Option<Vec<Object>> {
    let selector = scaled.value().pointer("/spec/selector").cloned();
    let selector = LabelSelector::from_object(selector.as_ref()).ok()?;
    if selector.is_empty() {
        return None;
    }
    let mut pods = store.list(kinds::POD, Some(scaled.namespace())).items;
    pods.retain(|pod| selector.matches_object(&pod.value()));
    Some(pods)
}

fn target(store: &Store, hpa: &Value, scaled: &Object) -> (Vec<Object>, Target) {
    let pods = selected(store, scaled);
    let target = Target {
        replicas: replicas_of(&scaled.value()),
        pods: pods.iter().flatten().map(Object::value).collect(),
        rivals: rivals(store, hpa, pods.as_deref().unwrap_or_default()),
        selects: pods.is_some(),
    };
    (pods.unwrap_or_default(), target)
}

fn replicas_of(scaled: &Value) -> i64 {
    let own = scaled.pointer("/spec/replicas").and_then(Value::as_i64);
    own.unwrap_or(1)
}

/// All autoscalers that have some of these pods, if there are others beside this one.
fn rivals(store: &Store, hpa: &Value, pods: &[Object]) -> Vec<String> {
    let namespace = text(hpa, "/metadata/namespace");
    let all = store
        .list(kinds::HORIZONTAL_POD_AUTOSCALER, Some(namespace))
        .items;
    let mut names: Vec<String> = all
        .iter()
        .map(Object::value)
        .filter(|other| name(other) != name(hpa))
        .filter(|other| {
            let theirs = scaled(store, other).ok().and_then(Result::ok);
            let theirs = theirs
                .and_then(|scaled| selected(store, &scaled))
                .unwrap_or_default();
            theirs.iter().any(|pod| pods.contains(pod))
        })
        .map(|other| name(&other).to_owned())
        .collect();
    if !names.is_empty() {
        names.push(name(hpa).to_owned());
        names.sort();
    }
    names
}

impl Autoscaler {
    /// What the pods use since the look before.
    async fn samples(&mut self, pods: Vec<Object>) -> Samples {
        let places: Vec<(Object, Vec<usage::Place>)> = pods
            .into_iter()
            .map(|pod| {
                let places = usage::places(&self.cgroup_parent, &pod);
                (pod, places)
            })
            .filter(|(_, places)| !places.is_empty())
            .collect();
        let looked = tokio::task::spawn_blocking(move || {
            let looks = usage::looks(&places);
            (places, looks)
        });
        let mut samples = Samples::new();
        // Cut off: berthd is ending.
        let Ok((places, looks)) = looked.await else {
            return samples;
        };
        for ((pod, places), looks) in places.iter().zip(looks) {
            let mut containers = BTreeMap::new();
            let mut window = Duration::MAX;
            for (place, look) in places.iter().zip(looks) {
                let Some(look) = look else { continue };
                let key = (pod.uid().to_owned(), place.id.clone());
                let before = self.looks.get(&key).copied();
                let before = before.filter(|before| look.at.duration_since(before.at) >= SHORTEST_WINDOW);
                if before.is_some() || !self.looks.contains_key(&key) {
                    self.looks.insert(key, look);
                }
                if let Some(before) = before {
                    window = window.min(look.at.duration_since(before.at));
                    let amounts = Amounts {
                        cpu: i64::try_from(look.cores(before) / 1_000_000).unwrap_or(i64::MAX),
                        memory: i64::try_from(look.memory.saturating_mul(1000)).unwrap_or(i64::MAX),
                    };
                    containers.insert(place.name.clone(), amounts);
                }
            }
            // A container that was not measured would make the pod look idle.
            if containers.len() == places.len() {
                let sample = Sample {
                    at: Timestamp::now(),
                    window: SignedDuration::try_from(window).unwrap_or_default(),
                    containers,
                };
                samples.insert(pod.name().to_owned(), sample);
            }
        }
        let now = Instant::now();
        self.looks.retain(|_, look| now.duration_since(look.at) < STALE);
        samples
    }
}

/// Carries a plan out.
async fn rescale(
    store: &Store,
    object: &Object,
    hpa: &Value,
    scaled: &Object,
    plan: Plan,
    memory: &mut Memory,
) -> Result<(), StoreError> {
    let Plan {
        rescale,
        mut status,
        mut told,
    } = plan;
    if let Some((to, reason)) = rescale {
        let mut changed = scaled.value();
        let from = replicas_of(&changed);
        changed["spec"]["replicas"] = json!(to);
        match store.update(changed).await {
            Ok(_) => {
                memory.rescaled(Timestamp::now(), from, to);
                told.push(Told {
                    warning: false,
                    reason: "SuccessfulRescale",
                    message: format!("New size: {to}; reason: {reason}"),
                });
            }
            // Somebody else has changed it since: looked at again.
            Err(error @ (StoreError::Conflict { .. } | StoreError::NotFound { .. } | StoreError::Closed)) => {
                return Err(error);
            }
            Err(error) => {
                told.push(Told {
                    warning: true,
                    reason: "FailedRescale",
                    message: format!("New size: {to}; reason: {reason}; error: {error}"),
                });
                status = plan::not_rescaled(hpa, &status, &error.to_string(), Timestamp::now());
            }
        }
    }
    publish(store, object, hpa, status, told).await
}

async fn publish(
    store: &Store,
    object: &Object,
    hpa: &Value,
    status: Value,
    told: Vec<Told>,
) -> Result<(), StoreError> {
    let about = ObjectRef::to(object);
    for told in told {
        let severity = if told.warning {
            Severity::Warning
        } else {
            Severity::Normal
        };
        events::record(
            store,
            &about,
            severity,
            told.reason,
            &told.message,
            Autoscaler::NAME,
        )
        .await?;
    }
    let known = &hpa["status"];
    let fresh = number(known, "/observedGeneration") != number(&status, "/observedGeneration");
    if fresh || plan::is_news(known, &status) {
        store.update_status(object.key(), object.uid(), status).await?;
    }
    Ok(())
}
