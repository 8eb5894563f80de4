//! The room on the node: what pods take of it, and whether one more fits.
//!
//! It is kept where writes come one by one, as quotas are, so that nobody can slip in between. A pod that fits when it is
//! made has its node from the beginning; the others wait for the scheduler.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use berth_api::quota::{self, Amounts};
use berth_api::room;
use berth_api::{kinds, priority};
use serde_json::Value;
use tokio::sync::Notify;

use super::index::Index;
use super::object::Key;

/// What a pod takes, or wants to take.
#[derive(Debug, Clone)]
struct Taken {
    needs: Amounts,
    priority: i64,
    /// It has a node; otherwise it waits for one.
    bound: bool,
    /// Room is being made for it.
    nominated: bool,
}

/// What the scheduler has to look at.
#[derive(Debug, Default)]
pub struct Stir {
    /// Pods that wait since a moment ago.
    pub fresh: Vec<Key>,
    /// There may be room now that was not there before.
    pub freed: bool,
}

/// Tells the scheduler.
#[derive(Debug, Clone, Default)]
pub struct Bell {
    stir: Arc<Mutex<Stir>>,
    notify: Arc<Notify>,
}

impl Bell {
    fn ring(&self, news: Stir) {
        let mut stir = self.stir.lock().unwrap_or_else(PoisonError::into_inner);
        stir.fresh.extend(news.fresh);
        stir.freed |= news.freed;
        self.notify.notify_one();
    }

    /// Waits until there is something to look at, and takes it.
    pub async fn wait(&self) -> Stir {
        self.notify.notified().await;
        std::mem::take(&mut *self.stir.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The room and its pods.
#[derive(Debug, Default)]
pub(super) struct Room {
    allocatable: Option<Amounts>,
    taints: Vec<Value>,
    pods: HashMap<Key, Taken>,
    /// What the pods with a node take together.
    used: Amounts,
    waiting: usize,
    /// What is to be told once it is committed: before, nobody else sees it.
    news: Stir,
    pub bell: Bell,
}

impl Room {
    /// The room as the stored objects make it.
    pub fn new(index: &Index) -> Room {
        let mut room = Room::default();
        room.rebuild(index);
        room
    }

    /// After a commit that failed: what was noted since is not true.
    pub fn rebuild(&mut self, index: &Index) {
        let bell = self.bell.clone();
        *self = Room {
            bell,
            ..Room::default()
        };
        for kind in [kinds::NODE, kinds::POD] {
            for object in index.kind(kind).into_iter().flat_map(|k| k.objects.values()) {
                self.note(object.key(), &object.value());
            }
        }
        self.announce();
    }

    /// Tells the scheduler what has been noted: it is committed now.
    pub fn announce(&mut self) {
        if self.news.freed || !self.news.fresh.is_empty() {
            self.bell.ring(std::mem::take(&mut self.news));
        }
    }

    /// Takes note of an object as it is written.
    pub fn note(&mut self, key: &Key, value: &Value) {
        if key.kind == kinds::NODE {
            let (allocatable, taints) = (room::allocatable(value), room::taints(value));
            if (&allocatable, &taints) != (&self.allocatable, &self.taints) {
                (self.allocatable, self.taints) = (allocatable, taints);
                self.free();
            }
        } else if key.kind == kinds::POD {
            self.pod(key, value);
        }
    }

    /// Takes note of an object that is gone.
    pub fn forget(&mut self, key: &Key) {
        if key.kind == kinds::POD {
            self.take_out(key);
        }
    }

    fn pod(&mut self, key: &Key, value: &Value) {
        let deleting = value.pointer("/metadata/deletionTimestamp").is_some();
        let bound = room::is_bound(value);
        let gated = !bound && room::is_gated(value);
        if !room::is_live(value) || (!bound && deleting) || gated {
            self.take_out(key);
            if gated && !deleting {
                // Somebody has to say why it waits.
                self.news.fresh.push(key.clone());
            }
            return;
        }
        let nominated = value
            .pointer("/status/nominatedNodeName")
            .and_then(Value::as_str)
            .is_some_and(|n| !n.is_empty());
        let taken = Taken {
            needs: room::needs(value),
            priority: priority::of(value),
            bound,
            nominated,
        };
        let before = self.pods.get(key);
        let known = before.is_some_and(|b| b.bound == bound);
        if known && before.is_some_and(|b| b.needs == taken.needs && b.nominated == nominated) {
            return;
        }
        let smaller = before.is_some_and(|b| b.bound && b.needs != taken.needs);
        if let Some(before) = self.pods.insert(key.clone(), taken.clone()) {
            self.uncount(&before);
        }
        if bound {
            quota::add(&mut self.used, &taken.needs);
        } else {
            self.waiting += 1;
            if !known {
                self.news.fresh.push(key.clone());
            }
        }
        if smaller {
            self.free();
        }
    }

    fn take_out(&mut self, key: &Key) {
        if let Some(before) = self.pods.remove(key) {
            self.uncount(&before);
            self.free();
        }
    }

    fn uncount(&mut self, taken: &Taken) {
        if taken.bound {
            room::subtract(&mut self.used, &taken.needs);
        } else {
            self.waiting -= 1;
        }
    }

    fn free(&mut self) {
        self.news.freed |= self.waiting > 0;
    }

    /// Whether a pod may have the node. Room that is being made for others is theirs, if they matter as much. Before the
    /// node has said what it has, everything fits.
    pub fn fits(&self, key: &Key, pod: &Value) -> bool {
        if room::is_gated(pod) || room::repelled(pod, &self.taints).is_some() {
            return false;
        }
        let Some(allocatable) = &self.allocatable else {
            return true;
        };
        let own = priority::of(pod);
        let mut used = self.used.clone();
        for (other, taken) in &self.pods {
            if !taken.bound && taken.nominated && taken.priority >= own && other != key {
                quota::add(&mut used, &taken.needs);
            }
        }
        room::insufficient(&room::needs(pod), &used, allocatable).is_empty()
    }
}
