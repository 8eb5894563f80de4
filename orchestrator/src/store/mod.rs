//! The object store: what every part of berthd reads, writes and watches.
//!
//! Objects are rows in SQLite and, as compact JSON, in memory; reads never touch the disk. One
//! thread writes, in groups (see [`writer`]). Every write gets the next resource version; each
//! kind keeps a bounded history that watches follow.
//!
//! Semantics follow `k8s.io/apiserver` storage: optimistic concurrency by resourceVersion, status
//! as a part of its own, finalizers that hold a deleted object.

mod database;
mod error;
mod index;
mod object;
pub mod prepare;
mod room;
mod watch;
mod writer;

use std::collections::HashMap;
use std::path::Path;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use berth_api::kinds::Kind;
use serde_json::Value;
use tokio::sync::oneshot;

pub use database::file_in;
pub use error::{OpenError, StoreError, WatchError};
pub use index::{Event, EventKind};
pub use object::{Deleted, Key, Object, Preconditions};
pub use prepare::{Deletion, Propagation};
pub use room::{Bell, Stir};
pub use watch::Watch;

use database::Database;
use index::Index;
use writer::{Message, Operation, Outcome, Writer};

/// A consistent view of one kind.
#[derive(Debug, Clone)]
pub struct List {
    /// The objects, in the order of namespace, then name.
    pub items: Vec<Object>,
    /// The version this view is of: a watch from here misses nothing.
    pub resource_version: u64,
}

/// Handle to the store; clones share it.
#[derive(Clone)]
pub struct Store {
    index: Arc<RwLock<Index>>,
    writer: Sender<Message>,
    bell: Bell,
}

impl Store {
    /// Opens the database file, making it if it is missing, and starts the writer thread.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let (database, index) = Database::open(path)?;
        let room = room::Room::new(&index);
        let bell = room.bell.clone();
        let persisted = index.lost.0;
        let index = Arc::new(RwLock::new(index));
        let (sender, receiver) = mpsc::channel();
        let writer = Writer {
            database,
            index: Arc::clone(&index),
            receiver,
            room,
            persisted,
            unwritten: HashMap::new(),
        };
        std::thread::Builder::new()
            .name("store".into())
            .stack_size(512 << 10)
            .spawn(move || writer.run())
            .map_err(OpenError::Thread)?;
        Ok(Self {
            index,
            writer: sender,
            bell,
        })
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        // A reader never leaves the index half-changed, and the writer publishes whole events.
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object, or `None`.
    pub fn get(&self, key: &Key) -> Result<Option<Object>, StoreError> {
        Ok(self.read().get(key).cloned())
    }

    /// One object; its absence is an error.
    pub fn require(&self, key: &Key) -> Result<Object, StoreError> {
        self.get(key)?.ok_or_else(|| StoreError::NotFound {
            kind: key.kind,
            name: key.name.clone(),
        })
    }

    /// Every object of a kind, in one namespace or in all.
    pub fn list(&self, kind: &'static Kind, namespace: Option<&str>) -> List {
        let index = self.read();
        let items = match (index.kind(kind), namespace) {
            (None, _) => Vec::new(),
            (Some(kind), None) => kind.objects.values().cloned().collect(),
            (Some(kind), Some(ns)) => kind
                .objects
                .range((ns.to_owned(), String::new())..)
                .take_while(|((namespace, _), _)| namespace == ns)
                .map(|(_, object)| object.clone())
                .collect(),
        };
        List {
            items,
            resource_version: index.resource_version,
        }
    }

    /// Version of the newest committed write.
    pub fn resource_version(&self) -> u64 {
        self.read().resource_version
    }

    /// Stores a new object; sets uid, creationTimestamp, resourceVersion, generation.
    pub async fn create(&self, value: Value) -> Result<Object, StoreError> {
        let key = Key::of(&value)?;
        self.write(Operation::Create { key, value }).await.map(object)
    }

    /// Replaces an object. `Conflict` when `metadata.resourceVersion` is given and stale.
    ///
    /// Identity is kept, and status where it is a subresource; generation counts up when anything
    /// but metadata and status changed. An update without effect writes nothing. One that takes
    /// the last finalizer off a deleted object removes it.
    pub async fn update(&self, value: Value) -> Result<Object, StoreError> {
        let key = Key::of(&value)?;
        self.write(Operation::Update { key, value }).await.map(object)
    }

    /// Replaces the status of the object with this uid (any, if empty), and nothing else.
    ///
    /// A status equal to the stored one writes nothing.
    pub async fn update_status(&self, key: &Key, uid: &str, status: Value) -> Result<Object, StoreError> {
        let operation = Operation::UpdateStatus {
            key: key.clone(),
            uid: uid.to_owned(),
            status,
        };
        self.write(operation).await.map(object)
    }

    /// Like [`Self::update_status`] for a status that nobody misses if berthd is killed, such as a heartbeat: readers
    /// and watchers see it at once, and it is written to disk with the next write of something else.
    pub async fn refresh_status(&self, key: &Key, uid: &str, status: Value) -> Result<Object, StoreError> {
        let operation = Operation::Refresh {
            key: key.clone(),
            uid: uid.to_owned(),
            status,
        };
        self.write(operation).await.map(object)
    }

    /// Removes an object for its age, if it is still as it was seen; on disk with the next write of something else.
    pub async fn expire(&self, seen: Object) -> Result<(), StoreError> {
        self.write(Operation::Expire { object: seen }).await.map(drop)
    }

    /// Gives a pod without node the node, if it fits now. The answer is the pod as it is then.
    pub async fn bind(&self, key: &Key, uid: &str, node: &str) -> Result<Object, StoreError> {
        let operation = Operation::Bind {
            key: key.clone(),
            uid: uid.to_owned(),
            node: node.to_owned(),
        };
        self.write(operation).await.map(object)
    }

    /// What tells the scheduler that there is something to do.
    pub fn bell(&self) -> Bell {
        self.bell.clone()
    }

    /// Deletes an object for good, or, while finalizers hold it, marks it deleted.
    pub async fn delete(&self, key: &Key, preconditions: Preconditions) -> Result<Deleted, StoreError> {
        self.write(Operation::Delete {
            key: key.clone(),
            preconditions,
        })
        .await
    }

    /// Begins a deletion as a user's DELETE does: a pod gets its grace period and is removed by the
    /// node, a namespace is emptied by its controller, other kinds go at once or with their last
    /// finalizer.
    pub async fn begin_delete(&self, key: &Key, deletion: Deletion) -> Result<Deleted, StoreError> {
        self.write(Operation::BeginDelete {
            key: key.clone(),
            deletion,
        })
        .await
    }

    /// Follows a kind from after a version (0: from now), in one namespace or in all.
    pub fn watch(
        &self,
        kind: &'static Kind,
        namespace: Option<&str>,
        from: u64,
    ) -> Result<Watch, WatchError> {
        let index = self.read();
        let history = index.kind(kind).ok_or(WatchError::Closed)?;
        let version = if from == 0 { index.resource_version } else { from };
        let lost = version > index.lost.0 && version < index.lost.1;
        if lost || !history.reaches(version) {
            return Err(WatchError::Expired);
        }
        let signal = history.signal.subscribe();
        Ok(Watch {
            store: self.clone(),
            kind,
            namespace: namespace.map(str::to_owned),
            version,
            signal,
        })
    }

    /// Commits what is queued and closes the database; later writes fail with `Closed`.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (done, closed) = oneshot::channel();
        self.writer
            .send(Message::Close(done))
            .map_err(|_| StoreError::Closed)?;
        closed
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(StoreError::Database)
    }

    async fn write(&self, operation: Operation) -> Outcome {
        let (reply, answer) = oneshot::channel();
        let operation = Box::new(operation);
        self.writer
            .send(Message::Write { operation, reply })
            .map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

fn object(outcome: Deleted) -> Object {
    match outcome {
        Deleted::Removed(object) | Deleted::Marked(object) => object,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod unwritten_tests;
