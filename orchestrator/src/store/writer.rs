//! The one writer: a thread that takes requests in order, commits them in groups and publishes
//! what was committed.
//!
//! Requests that arrive while a commit runs share the next one, so that many writers pay for one
//! sync. Nothing is visible to readers or acknowledged to its caller before it is committed.
//!
//! Two kinds of write wait for the next commit that is made anyway: a heartbeat, and the removal of
//! Events that are too old. Nobody is harmed if they are lost, and an idle node writes nothing for them.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, PoisonError, RwLock};

use berth_api::kinds::{self, Kind};
use berth_api::{quota, room, storage};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::oneshot;

use super::database::{Database, Row, SKIP};
use super::error::StoreError;
use super::index::{Event, EventKind, Index};
use super::object::{Deleted, Key, Object, Preconditions};
use super::prepare;
use super::room::Room;
use crate::fault::point;

/// Most requests in one commit: bounds how long the first of them waits.
const GROUP: usize = 256;

/// What a caller asks for.
pub(super) enum Operation {
    Create { key: Key, value: Value },
    Update { key: Key, value: Value },
    UpdateStatus { key: Key, uid: String, status: Value },
    Refresh { key: Key, uid: String, status: Value },
    Expire { object: Object },
    Bind { key: Key, uid: String, node: String },
    Delete { key: Key, preconditions: Preconditions },
    BeginDelete { key: Key, deletion: prepare::Deletion },
}

/// What a caller gets.
pub(super) type Outcome = Result<Deleted, StoreError>;

pub(super) enum Message {
    Write {
        operation: Box<Operation>,
        reply: oneshot::Sender<Outcome>,
    },
    Close(oneshot::Sender<Result<(), String>>),
}

pub(super) struct Writer {
    pub database: Database,
    pub index: Arc<RwLock<Index>>,
    pub receiver: Receiver<Message>,
    pub room: Room,
    /// The newest version on disk.
    pub persisted: u64,
    /// What has been made of objects since, without having been written; `None` for removed.
    pub unwritten: HashMap<Key, Option<Object>>,
}

/// A group being put together.
struct Group<'a> {
    index: &'a Index,
    /// The room as earlier requests of this group have left it.
    room: &'a mut Room,
    /// What earlier requests of this group made of a key; `None` for removed.
    pending: HashMap<Key, Option<Object>>,
    events: Vec<Event>,
    version: u64,
    sync: bool,
    /// None of the events has to be written now.
    idle: bool,
    now: Timestamp,
}

/// A group that was put together.
struct Done {
    answers: Vec<(Outcome, oneshot::Sender<Outcome>)>,
    events: Vec<Event>,
    version: u64,
    sync: bool,
    idle: bool,
}

impl Writer {
    /// Runs until the store is closed or dropped.
    pub fn run(mut self) {
        while let Ok(message) = self.receiver.recv() {
            let mut batch = Vec::new();
            let mut closing = None;
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Write { operation, reply } => batch.push((operation, reply)),
                    Message::Close(done) => {
                        closing = Some(done);
                        break;
                    }
                }
                next = if batch.len() < GROUP {
                    self.receiver.try_recv().ok()
                } else {
                    None
                };
            }
            self.commit(batch);
            if let Some(done) = closing {
                let written = self.write(&[], self.persisted, false);
                let closed = written.and_then(|()| self.database.close());
                // The caller may have given up waiting; the file is closed either way.
                let _ = done.send(closed.map_err(|e| e.to_string()));
                return;
            }
        }
    }

    fn commit(&mut self, batch: Vec<(Box<Operation>, oneshot::Sender<Outcome>)>) {
        if batch.is_empty() {
            return;
        }
        let mut done = self.put_together(batch);
        if !done.events.is_empty() {
            match self.persist(&done) {
                Ok(()) => {
                    let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
                    for event in done.events {
                        index.publish(event);
                    }
                    drop(index);
                    self.room.announce();
                }
                Err(error) => {
                    let error = StoreError::Database(error.to_string());
                    self.room
                        .rebuild(&self.index.read().unwrap_or_else(PoisonError::into_inner));
                    for (answer, _) in &mut done.answers {
                        if answer.is_ok() {
                            *answer = Err(error.clone());
                        }
                    }
                }
            }
        }
        for (answer, reply) in done.answers {
            // A caller that went away does not undo its write.
            let _ = reply.send(answer);
        }
    }

    fn put_together(&mut self, batch: Vec<(Box<Operation>, oneshot::Sender<Outcome>)>) -> Done {
        let index = self.index.read().unwrap_or_else(PoisonError::into_inner);
        let mut group = Group {
            index: &index,
            room: &mut self.room,
            pending: HashMap::new(),
            events: Vec::new(),
            version: index.resource_version,
            sync: false,
            idle: true,
            now: Timestamp::now(),
        };
        let answers = batch
            .into_iter()
            .map(|(operation, reply)| (group.apply(*operation), reply))
            .collect();
        Done {
            answers,
            events: group.events,
            version: group.version,
            sync: group.sync,
            idle: group.idle,
        }
    }

    /// Writes a group, or keeps it for later if all of it may wait. Versions that are handed out without being on disk
    /// stay fewer than are skipped at the next start, so that none is ever handed out twice.
    fn persist(&mut self, done: &Done) -> rusqlite::Result<()> {
        if done.idle && done.version.saturating_sub(self.persisted) < SKIP / 2 {
            for event in &done.events {
                let object = (event.kind != EventKind::Deleted).then(|| event.object.clone());
                self.unwritten.insert(event.object.key().clone(), object);
            }
            return Ok(());
        }
        point("store: before a commit");
        let committed = self.write(&done.events, done.version, done.sync);
        point("store: after a commit");
        committed
    }

    /// Writes what has waited and these events.
    fn write(&mut self, events: &[Event], version: u64, sync: bool) -> rusqlite::Result<()> {
        let waited = self.unwritten.iter().map(|(key, object)| match object {
            Some(object) => Row::Put(object),
            None => Row::Remove(key),
        });
        let rows: Vec<Row<'_>> = waited.chain(events.iter().map(row)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let version = self
            .unwritten
            .values()
            .flatten()
            .map(Object::resource_version)
            .fold(version, u64::max);
        self.database.commit(&rows, version, sync)?;
        self.persisted = version;
        self.unwritten.clear();
        Ok(())
    }
}

fn row(event: &Event) -> Row<'_> {
    match event.kind {
        EventKind::Deleted => Row::Remove(event.object.key()),
        EventKind::Added | EventKind::Modified => Row::Put(&event.object),
    }
}

impl Group<'_> {
    fn current(&self, key: &Key) -> Option<Object> {
        match self.pending.get(key) {
            Some(pending) => pending.clone(),
            None => self.index.get(key).cloned(),
        }
    }

    fn existing(&self, key: &Key) -> Result<Object, StoreError> {
        self.current(key).ok_or_else(|| StoreError::NotFound {
            kind: key.kind,
            name: key.name.clone(),
        })
    }

    fn apply(&mut self, operation: Operation) -> Outcome {
        match operation {
            Operation::Create { key, value } => self.create(&key, value),
            Operation::Update { key, value } => self.update(&key, value),
            Operation::UpdateStatus { key, uid, status } => self.update_status(&key, &uid, status),
            Operation::Refresh { key, uid, status } => self.refresh(&key, &uid, status),
            Operation::Expire { object } => self.expire(&object),
            Operation::Bind { key, uid, node } => self.bind(&key, &uid, &node),
            Operation::Delete { key, preconditions } => self.delete(&key, &preconditions),
            Operation::BeginDelete { key, deletion } => self.begin_delete(&key, &deletion),
        }
    }

    fn create(&mut self, key: &Key, value: Value) -> Outcome {
        if self.current(key).is_some() {
            return Err(StoreError::AlreadyExists {
                kind: key.kind,
                name: key.name.clone(),
            });
        }
        let mut value = prepare::created(value, key.kind, self.now)?;
        self.within_quotas(key, &value)?;
        if key.kind == kinds::POD
            && !self.room.fits(key, &value)
            && let Some(spec) = value["spec"].as_object_mut()
        {
            spec.remove("nodeName");
        }
        self.put(key, value, None, true)
    }

    /// Whether the namespace's quotas leave room. Here, where writes come one by one, nobody can slip in between.
    fn within_quotas(&self, key: &Key, value: &Value) -> Result<(), StoreError> {
        if !key.kind.namespaced || key.kind == kinds::EVENT || key.kind == kinds::LEASE {
            return Ok(());
        }
        for stored in self.listed(kinds::RESOURCE_QUOTA, &key.namespace) {
            let limits = stored.value();
            let objects: Vec<(&'static Kind, Value)> = crate::controllers::counted(&limits)
                .into_iter()
                .flat_map(|kind| {
                    self.listed(kind, &key.namespace)
                        .into_iter()
                        .filter(|object| object.key() != key)
                        .map(move |o| (kind, o.value()))
                })
                .collect();
            let used = quota::used(&limits, objects.iter().map(|(kind, value)| (*kind, value)));
            quota::fits(&limits, &used, key.kind, value).map_err(|why| StoreError::Forbidden {
                kind: key.kind,
                name: key.name.clone(),
                why,
            })?;
        }
        Ok(())
    }

    /// The objects of a namespace as this group has left them.
    fn listed(&self, kind: &'static Kind, namespace: &str) -> Vec<Object> {
        let stored = self.index.kind(kind).into_iter().flat_map(|k| {
            k.objects
                .range((namespace.to_owned(), String::new())..)
                .take_while(|((of, _), _)| of == namespace)
                .map(|(_, object)| object)
        });
        let mut all: Vec<Object> = stored
            .filter(|object| !self.pending.contains_key(object.key()))
            .cloned()
            .collect();
        let fresh = self
            .pending
            .iter()
            .filter(|(k, _)| k.kind == kind && k.namespace == namespace);
        all.extend(fresh.filter_map(|(_, object)| object.clone()));
        all
    }

    fn update(&mut self, key: &Key, value: Value) -> Outcome {
        let old = self.existing(key)?;
        check_unchanged(&value, &old)?;
        let mut value = prepare::updated(value, &old)?;
        if prepare::may_go(&value) {
            return self.remove(key, value, old);
        }
        value["metadata"]["resourceVersion"] = Value::String(old.resource_version().to_string());
        if value == old.value() {
            return Ok(Deleted::Marked(old));
        }
        // A claim may ask for more later, and a pod may be resized.
        let claims =
            key.kind == kinds::PERSISTENT_VOLUME_CLAIM && storage::size(&value) > storage::size(&old.value());
        if claims || (key.kind == kinds::POD && room::needs(&value) != room::needs(&old.value())) {
            self.within_quotas(key, &value)?;
        }
        self.put(key, value, Some(old), true)
    }

    fn update_status(&mut self, key: &Key, uid: &str, status: Value) -> Outcome {
        let old = self.existing(key)?;
        if !uid.is_empty() && uid != old.uid() {
            return Err(StoreError::Conflict {
                kind: key.kind,
                name: key.name.clone(),
                why: format!("the object is another one of that name now: UID is {}", old.uid()),
            });
        }
        let value = prepare::with_status(&old, status)?;
        if value == old.value() {
            return Ok(Deleted::Marked(old));
        }
        self.put(key, value, Some(old), false)
    }

    /// A status that may be lost: it is written with the next commit.
    fn refresh(&mut self, key: &Key, uid: &str, status: Value) -> Outcome {
        let idle = self.idle;
        let outcome = self.update_status(key, uid, status);
        self.idle = idle;
        outcome
    }

    /// Removes an object for its age, if it has not changed; on disk with the next commit.
    fn expire(&mut self, object: &Object) -> Outcome {
        let old = self.existing(object.key())?;
        let value = old.value();
        if old.resource_version() != object.resource_version() || prepare::is_held(&value) {
            return Ok(Deleted::Marked(old));
        }
        let (idle, sync) = (self.idle, self.sync);
        let key = object.key().clone();
        let outcome = self.remove(&key, value, old);
        (self.idle, self.sync) = (idle, sync);
        outcome
    }

    /// Gives a waiting pod the node, if it fits now; else it stays as it is.
    fn bind(&mut self, key: &Key, uid: &str, node: &str) -> Outcome {
        let old = self.existing(key)?;
        let value = old.value();
        let waits = old.uid() == uid
            && !room::is_bound(&value)
            && value.pointer("/metadata/deletionTimestamp").is_none();
        if !waits || !self.room.fits(key, &value) {
            return Ok(Deleted::Marked(old));
        }
        let value = prepare::bound(value, node, self.now);
        self.put(key, value, Some(old), true)
    }

    fn delete(&mut self, key: &Key, preconditions: &Preconditions) -> Outcome {
        let old = self.existing(key)?;
        preconditions.check(&old)?;
        let value = old.value();
        if !prepare::is_held(&value) {
            return self.remove(key, value, old);
        }
        let marked = prepare::marked(&old, self.now)?;
        if marked.pointer("/metadata/deletionTimestamp") == value.pointer("/metadata/deletionTimestamp")
            && marked.pointer("/metadata/deletionGracePeriodSeconds")
                == value.pointer("/metadata/deletionGracePeriodSeconds")
        {
            return Ok(Deleted::Marked(old));
        }
        self.put(key, marked, Some(old), true)
    }

    fn begin_delete(&mut self, key: &Key, deletion: &prepare::Deletion) -> Outcome {
        let old = self.existing(key)?;
        deletion.preconditions.check(&old)?;
        match prepare::deletion_begun(&old, deletion, self.now)? {
            None => self.remove(key, old.value(), old),
            Some(value) if value == old.value() => Ok(Deleted::Marked(old)),
            Some(value) => self.put(key, value, Some(old), true),
        }
    }

    fn put(&mut self, key: &Key, value: Value, previous: Option<Object>, intent: bool) -> Outcome {
        self.room.note(key, &value);
        let object = prepare::sealed(value, key, self.version + 1)?;
        let kind = if previous.is_some() {
            EventKind::Modified
        } else {
            EventKind::Added
        };
        self.record(kind, &object, previous, intent);
        self.pending.insert(key.clone(), Some(object.clone()));
        Ok(Deleted::Marked(object))
    }

    fn remove(&mut self, key: &Key, value: Value, old: Object) -> Outcome {
        self.room.forget(key);
        let object = prepare::sealed(value, key, self.version + 1)?;
        self.record(EventKind::Deleted, &object, Some(old), true);
        self.pending.insert(key.clone(), None);
        Ok(Deleted::Removed(object))
    }

    fn record(&mut self, kind: EventKind, object: &Object, previous: Option<Object>, intent: bool) {
        self.version += 1;
        self.idle = false;
        // Events tell what happened; losing the last of them with the machine's power harms nobody.
        self.sync |= intent && object.key().kind != berth_api::kinds::EVENT;
        self.events.push(Event {
            kind,
            object: object.clone(),
            previous,
        });
    }
}

fn check_unchanged(value: &Value, old: &Object) -> Result<(), StoreError> {
    let conflict = |why: &str| StoreError::Conflict {
        kind: old.key().kind,
        name: old.name().to_owned(),
        why: why.to_owned(),
    };
    if let Some(version) = prepare::expected_version(value)?
        && version != old.resource_version()
    {
        return Err(conflict(
            "the object has been modified; please apply your changes to the latest version and try again",
        ));
    }
    if let Some(uid) = value.pointer("/metadata/uid").and_then(Value::as_str)
        && !uid.is_empty()
        && uid != old.uid()
    {
        return Err(conflict(&format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            old.uid()
        )));
    }
    Ok(())
}
