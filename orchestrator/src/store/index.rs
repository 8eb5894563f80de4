//! The in-memory side: every committed object, and the recent history of each kind.

use std::collections::{BTreeMap, VecDeque};

use berth_api::kinds::{self, Kind};
use tokio::sync::watch;

use super::object::{Key, Object};

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Added,
    /// It changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// One step in a kind's history.
#[derive(Debug, Clone)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The new version; of a deleted object the last one, with the version of the deletion.
    pub object: Object,
    /// The version before, so that a selector can tell what left its view.
    pub previous: Option<Object>,
}

/// Events kept a kind. A watcher that falls further behind lists again.
const HISTORY_EVENTS: usize = 1024;
/// Bytes of JSON kept a kind: bounds memory when objects are large.
const HISTORY_BYTES: usize = 2 << 20;

/// One kind's objects and history.
pub(super) struct KindIndex {
    /// By (namespace, name).
    pub objects: BTreeMap<(String, String), Object>,
    history: VecDeque<Event>,
    history_bytes: usize,
    /// Events up to and including this version are no longer (or never were) in the history.
    floor: u64,
    /// Wakes watchers; holds the version of the kind's newest event.
    pub signal: watch::Sender<u64>,
}

/// All kinds.
pub(super) struct Index {
    kinds: BTreeMap<&'static Kind, KindIndex>,
    /// Version of the newest committed write.
    pub resource_version: u64,
    /// Versions in `(lost.0, lost.1]` may have been handed out before an unclean stop and then lost.
    pub lost: (u64, u64),
}

impl Index {
    /// An empty index. `persisted` is the last version found on disk, `resource_version` the one
    /// that writes go on from.
    pub fn new(persisted: u64, resource_version: u64) -> Self {
        let kinds = kinds::ALL
            .iter()
            .map(|&kind| (kind, KindIndex::new(persisted)))
            .collect();
        Self {
            kinds,
            resource_version,
            lost: (persisted, resource_version),
        }
    }

    pub fn kind(&self, kind: &Kind) -> Option<&KindIndex> {
        self.kinds.get(kind)
    }

    pub fn get(&self, key: &Key) -> Option<&Object> {
        self.kinds
            .get(key.kind)?
            .objects
            .get(&(key.namespace.clone(), key.name.clone()))
    }

    /// Puts a loaded object in place, without history.
    pub fn load(&mut self, object: Object) {
        if let Some(kind) = self.kinds.get_mut(object.key().kind) {
            let key = object.key();
            kind.objects
                .insert((key.namespace.clone(), key.name.clone()), object);
        }
    }

    /// Applies one committed event.
    pub fn publish(&mut self, event: Event) {
        let version = event.object.resource_version();
        self.resource_version = self.resource_version.max(version);
        let Some(kind) = self.kinds.get_mut(event.object.key().kind) else {
            return;
        };
        let key = event.object.key();
        let place = (key.namespace.clone(), key.name.clone());
        if event.kind == EventKind::Deleted {
            kind.objects.remove(&place);
        } else {
            kind.objects.insert(place, event.object.clone());
        }
        kind.remember(event);
        kind.signal.send_replace(version);
    }
}

impl KindIndex {
    fn new(floor: u64) -> Self {
        Self {
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            floor,
            signal: watch::Sender::new(floor),
        }
    }

    fn remember(&mut self, event: Event) {
        self.history_bytes += event.object.json().len();
        self.history.push_back(event);
        // The newest event always stays: a watcher must be able to move at all.
        while self.history.len() > HISTORY_EVENTS
            || (self.history_bytes > HISTORY_BYTES && self.history.len() > 1)
        {
            if let Some(old) = self.history.pop_front() {
                self.history_bytes -= old.object.json().len();
                self.floor = old.object.resource_version();
            }
        }
    }

    /// Whether a watch can go on after `version`.
    pub fn reaches(&self, version: u64) -> bool {
        version >= self.floor
    }

    /// The first event after `version` that a namespace's watcher wants.
    pub fn next(&self, version: u64, namespace: Option<&str>) -> Option<&Event> {
        let start = self
            .history
            .partition_point(|e| e.object.resource_version() <= version);
        self.history
            .iter()
            .skip(start)
            .find(|e| namespace.is_none_or(|ns| e.object.namespace() == ns))
    }
}
