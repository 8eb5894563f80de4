//! PURE: the next step of a deployment.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::progress;
use super::revision::{self, REVISION, revision_of};
use super::sets::{Set, Wanted, find_new, new_set_size, old_by_age, total};
use crate::controllers::fields::{annotation, is_deleting, number, text};
use crate::controllers::ownership::controller_of;

/// What there is: the deployment, the ReplicaSets it controls, their pods.
#[derive(Debug, Clone)]
pub struct View {
    /// The deployment.
    pub deployment: Value,
    /// Its sets.
    pub sets: Vec<Value>,
    /// Pods of its sets, ended and ending ones included.
    pub pods: Vec<Value>,
    /// Its namespace takes no new objects.
    pub closing: bool,
}

/// Something to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A new set.
    CreateSet(Value),
    /// A set, changed.
    UpdateSet(Value),
    /// A set that the history has no room for.
    DeleteSet {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// The deployment, changed outside its status.
    Update(Value),
    /// The deployment's status.
    Status(Value),
    /// What to tell people.
    Event {
        /// Its reason.
        reason: &'static str,
        /// Its text.
        message: String,
    },
}

/// What to write now, in this order, and when to look again if nothing happens before.
#[derive(Debug, Default, PartialEq)]
pub struct Outcome {
    /// The changes.
    pub changes: Vec<Change>,
    /// When to look again.
    pub again: Option<Duration>,
}

/// The work on one deployment: sets are changed in place, and what differs in the end is written.
pub(super) struct Work {
    pub(super) deployment: Value,
    pub(super) wanted: Wanted,
    pub(super) sets: Vec<Set>,
    /// The set of the current template.
    pub(super) new: Option<usize>,
    pub(super) events: Vec<Change>,
    deletions: Vec<Change>,
    /// The deployment differs from what is stored, outside its status.
    changed: bool,
    now: Timestamp,
}

/// Decides the next step. Every step leaves the surge and the availability kept, so that it does
/// not matter when, or whether, the next one comes.
pub fn reconcile(view: &View, now: Timestamp) -> Outcome {
    let mut work = Work {
        wanted: Wanted::of(&view.deployment),
        deployment: view.deployment.clone(),
        sets: view.sets.iter().cloned().map(Set::of).collect(),
        new: None,
        events: Vec::new(),
        deletions: Vec::new(),
        changed: false,
        now,
    };
    if is_deleting(&work.deployment) {
        work.new = find_new(&work.deployment, &work.sets);
        let status = progress::counted(&work.deployment, &work.sets, work.new, &work.wanted, now);
        return work.finish(&view.deployment, status);
    }
    if let Some(status) = progress::paused(&work.deployment, now) {
        work.deployment["status"] = status;
    }
    work.find_new_set(false);
    let paused = work.deployment.pointer("/spec/paused") == Some(&Value::Bool(true));
    if paused || work.was_resized() {
        work.resize();
        if paused {
            work.clean_up();
        }
        let status = progress::counted(&work.deployment, &work.sets, work.new, &work.wanted, now);
        return work.finish(&view.deployment, status);
    }
    if work.wanted.rolling {
        work.roll(view.closing);
    } else {
        work.recreate(&view.pods, view.closing);
    }
    let status = progress::of_rollout(&work.deployment, &work.sets, work.new, &work.wanted, now);
    work.finish(&view.deployment, status)
}

impl Work {
    /// A rolling update's next step: grow the new set, or else shrink the old ones, or else, when
    /// all is done, forget the oldest.
    fn roll(&mut self, closing: bool) {
        self.find_new_set(!closing);
        let Some(new) = self.new else { return };
        if self.grow_new(new) || self.shrink_old(new) {
            return;
        }
        self.clean_up_if_complete();
    }

    /// Recreate's next step: all old pods go, and only when they are gone the new ones come.
    fn recreate(&mut self, pods: &[Value], closing: bool) {
        let mut shrunk = false;
        for old in old_by_age(&self.sets, self.new) {
            shrunk |= self.scale(old, 0);
        }
        if shrunk || self.old_pods_left(pods) {
            return;
        }
        self.find_new_set(!closing);
        let Some(new) = self.new else { return };
        self.scale(new, self.wanted.replicas);
        self.clean_up_if_complete();
    }

    fn old_pods_left(&self, pods: &[Value]) -> bool {
        let new = self.new.map(|index| self.sets[index].uid());
        let old_sets = old_by_age(&self.sets, self.new);
        total(old_sets.iter().map(|index| &self.sets[*index]), Set::actual) > 0
            || pods.iter().any(|pod| {
                let ended = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
                let owner = controller_of(pod).and_then(|owner| owner["uid"].as_str());
                !ended && owner != new
            })
    }

    /// Finds the set of the current template and brings its annotations up to date, or makes one.
    fn find_new_set(&mut self, make: bool) {
        self.new = find_new(&self.deployment, &self.sets);
        let old = old_by_age(&self.sets, self.new);
        let next = old
            .iter()
            .map(|index| revision_of(&self.sets[*index].value))
            .max()
            .unwrap_or(0)
            + 1;
        if let Some(index) = self.new {
            self.refresh(index, next);
        } else if make {
            self.make(next);
        }
    }

    fn refresh(&mut self, index: usize, next: i64) {
        let min_ready = number(&self.deployment, "/spec/minReadySeconds");
        let set = &mut self.sets[index];
        set.changed |= revision::annotate(&self.deployment, &mut set.value, next);
        if number(&set.value, "/spec/minReadySeconds") != min_ready {
            set.value["spec"]["minReadySeconds"] = min_ready.into();
            set.changed = true;
        }
        let name = set.name().to_owned();
        let revision = annotation(&set.value, REVISION).unwrap_or_default().to_owned();
        self.changed |= revision::note(&mut self.deployment, &revision);
        progress::note_new_set(&mut self.deployment, &name, false, self.now);
    }

    fn make(&mut self, next: i64) {
        let size = new_set_size(&self.wanted, total(&self.sets, Set::present), 0);
        let mut set = Set::of(revision::new_set(&self.deployment, next, size, &self.wanted));
        set.new = true;
        let name = set.name().to_owned();
        if size > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {size}");
            self.events.push(Change::Event {
                reason: "ScalingReplicaSet",
                message,
            });
        }
        self.sets.push(set);
        self.new = Some(self.sets.len() - 1);
        self.changed |= revision::note(&mut self.deployment, &next.to_string());
        progress::note_new_set(&mut self.deployment, &name, true, self.now);
    }

    fn clean_up_if_complete(&mut self) {
        let stored = self.deployment.get("status").cloned().unwrap_or_default();
        if progress::complete(&self.deployment, &stored, &self.wanted) {
            self.clean_up();
        }
    }

    /// Deletes the oldest revisions that the history has no room for, never one with pods.
    fn clean_up(&mut self) {
        let limit = self
            .deployment
            .pointer("/spec/revisionHistoryLimit")
            .and_then(Value::as_i64)
            .filter(|limit| *limit != i64::from(i32::MAX));
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            return;
        };
        let mut old: Vec<&Set> = old_by_age(&self.sets, self.new)
            .into_iter()
            .map(|index| &self.sets[index])
            .filter(|set| !is_deleting(&set.value))
            .collect();
        old.sort_by_key(|set| revision_of(&set.value));
        let surplus = old.len().saturating_sub(limit);
        let idle = |set: &&Set| {
            let observed = number(&set.value, "/status/observedGeneration");
            set.actual() == 0 && set.replicas == 0 && observed >= number(&set.value, "/metadata/generation")
        };
        self.deletions = old
            .into_iter()
            .take(surplus)
            .filter(idle)
            .map(|set| Change::DeleteSet {
                name: set.name().to_owned(),
                uid: set.uid().to_owned(),
            })
            .collect();
    }

    /// What differs from what is stored. Sets that shrink are written before one that grows, and
    /// the status last, when everything it tells has happened.
    fn finish(mut self, stored: &Value, status: Value) -> Outcome {
        let (mut updates, mut creations) = (Vec::new(), Vec::new());
        for set in self.sets {
            if set.new {
                creations.push(Change::CreateSet(set.value));
            } else if set.changed {
                updates.push(Change::UpdateSet(set.value));
            }
        }
        let mut changes = creations;
        changes.append(&mut updates);
        changes.append(&mut self.events);
        changes.append(&mut self.deletions);
        let again = progress::next_look(&self.deployment, &status, &self.wanted, self.now);
        if self.changed {
            changes.push(Change::Update(self.deployment));
        }
        if stored.get("status") != Some(&status) {
            changes.push(Change::Status(status));
        }
        Outcome { changes, again }
    }
}
