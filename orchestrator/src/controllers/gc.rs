//! Garbage collection: objects whose owners are gone, owners that wait for what they own
//! (Kubernetes documentation, "Garbage Collection"; upstream `pkg/controller/garbagecollector`).

use std::collections::{BTreeSet, HashMap};

use berth_api::kinds::{self, Kind};
use serde_json::Value;

use super::fields::{has_finalizer, is_deleting, remove_finalizer, text, uid};
use super::ownership::{references, release};
use super::{Again, Controller};
use crate::store::{Deletion, Event, EventKind, Key, Object, Preconditions, Propagation, Store, StoreError};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// Deletes what nobody owns any more.
#[derive(Default)]
pub(crate) struct GarbageCollector {
    graph: Graph,
}

/// Who refers to whom, kept up to date by events: a deletion must not cost a look at every object.
#[derive(Default)]
struct Graph {
    dependents: HashMap<String, BTreeSet<Key>>,
    owners: HashMap<Key, Vec<String>>,
}

impl Graph {
    fn note(&mut self, object: &Object) {
        self.forget(object.key());
        // Most objects have no owner: no need to parse those.
        if !object.json().contains("\"ownerReferences\"") {
            return;
        }
        let value = object.value();
        let uids: Vec<String> = references(&value)
            .iter()
            .map(|owner| text(owner, "/uid").to_owned())
            .collect();
        for uid in &uids {
            self.dependents
                .entry(uid.clone())
                .or_default()
                .insert(object.key().clone());
        }
        if !uids.is_empty() {
            self.owners.insert(object.key().clone(), uids);
        }
    }

    fn forget(&mut self, key: &Key) {
        for uid in self.owners.remove(key).unwrap_or_default() {
            if let Some(dependents) = self.dependents.get_mut(&uid) {
                dependents.remove(key);
                if dependents.is_empty() {
                    self.dependents.remove(&uid);
                }
            }
        }
    }

    fn of(&self, uid: &str) -> Vec<Key> {
        self.dependents.get(uid).into_iter().flatten().cloned().collect()
    }
}

/// What an owner reference refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// An object that stays, or something that this node does not serve and must not judge.
    Solid,
    /// Nothing: the owner is gone.
    Gone,
    /// An owner that is being deleted and waits for this object to go first.
    Waiting,
}

/// What to do about an object.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// It keeps at least one owner; these references are taken off.
    Release(Vec<String>),
    /// It has no owner left.
    Delete(Propagation),
}

/// PURE: judges an object by its owners, in the order of its references.
pub fn judge(object: &Value, owners: &[Owner]) -> Verdict {
    if owners.is_empty() || is_deleting(object) {
        return Verdict::Keep;
    }
    let uids = |unwanted: &dyn Fn(Owner) -> bool| {
        let pairs = references(object).iter().zip(owners);
        pairs
            .filter(|(_, owner)| unwanted(**owner))
            .map(|(owner, _)| text(owner, "/uid").to_owned())
            .collect()
    };
    if owners.contains(&Owner::Solid) {
        let unwanted: Vec<String> = uids(&|owner| owner != Owner::Solid);
        return if unwanted.is_empty() {
            Verdict::Keep
        } else {
            Verdict::Release(unwanted)
        };
    }
    // What an owner waits for waits for its own dependents in turn.
    Verdict::Delete(if owners.contains(&Owner::Waiting) {
        Propagation::Foreground
    } else if has_finalizer(object, ORPHAN) {
        Propagation::Orphan
    } else if has_finalizer(object, FOREGROUND) {
        Propagation::Foreground
    } else {
        Propagation::Background
    })
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "garbage-collector";

    fn kinds(&self) -> &'static [&'static Kind] {
        kinds::ALL
    }

    fn concerned(&mut self, store: &Store, event: &Event) -> Vec<Key> {
        let object = &event.object;
        if event.kind == EventKind::Deleted {
            let mut keys = self.graph.of(object.uid());
            // Owners that wait for this one to go.
            let owners = self.graph.owners.get(object.key()).cloned().unwrap_or_default();
            keys.extend(owner_keys(object, &owners, store));
            self.graph.forget(object.key());
            return keys;
        }
        self.graph.note(object);
        let owned = self.graph.owners.contains_key(object.key());
        let waiting = object.json().contains("\"deletionTimestamp\"")
            && (object.json().contains(FOREGROUND) || object.json().contains(ORPHAN));
        let mut keys = Vec::new();
        if owned || waiting {
            keys.push(object.key().clone());
        }
        keys
    }

    fn all(&mut self, store: &Store) -> Vec<Key> {
        self.graph = Graph::default();
        let mut keys = Vec::new();
        for kind in kinds::ALL {
            for object in store.list(kind, None).items {
                self.graph.note(&object);
                keys.push(object.key().clone());
            }
        }
        keys
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        let Some(object) = store.get(key)? else {
            return Ok(None);
        };
        let value = object.value();
        if is_deleting(&value) {
            if has_finalizer(&value, ORPHAN) {
                self.orphan(store, value).await?;
            } else if has_finalizer(&value, FOREGROUND) {
                self.delete_dependents(store, value).await?;
            }
            return Ok(None);
        }
        let owners: Vec<Owner> = references(&value)
            .iter()
            .map(|owner| look_up(store, key, owner))
            .collect::<Result<_, _>>()?;
        match judge(&value, &owners) {
            Verdict::Keep => {}
            Verdict::Release(uids) => {
                let mut value = value;
                release(&mut value, &uids.iter().map(String::as_str).collect::<Vec<_>>());
                store.update(value).await?;
            }
            Verdict::Delete(propagation) => {
                tracing::debug!(%key, ?propagation, "its owners are gone");
                delete(store, &object, propagation).await?;
            }
        }
        Ok(None)
    }
}

impl GarbageCollector {
    /// Takes the owner's reference off everything it owns, then lets it go.
    async fn orphan(&self, store: &Store, mut owner: Value) -> Result<(), StoreError> {
        for key in self.graph.of(uid(&owner)) {
            if let Some(dependent) = store.get(&key)? {
                let mut value = dependent.value();
                release(&mut value, &[uid(&owner)]);
                store.update(value).await?;
            }
        }
        remove_finalizer(&mut owner, ORPHAN);
        store.update(owner).await.map(|_| ())
    }

    /// Deletes everything that holds the owner up, and lets it go when nothing does any more.
    async fn delete_dependents(&self, store: &Store, mut owner: Value) -> Result<(), StoreError> {
        let mut blocked = false;
        for key in self.graph.of(uid(&owner)) {
            let Some(dependent) = store.get(&key)? else {
                continue;
            };
            let value = dependent.value();
            let mine = references(&value)
                .iter()
                .find(|reference| reference["uid"] == uid(&owner));
            let Some(mine) = mine else { continue };
            blocked |= mine["blockOwnerDeletion"] == true;
            if !is_deleting(&value) {
                let owners: Vec<Owner> = references(&value)
                    .iter()
                    .map(|owner| look_up(store, &key, owner))
                    .collect::<Result<_, _>>()?;
                match judge(&value, &owners) {
                    Verdict::Delete(propagation) => delete(store, &dependent, propagation).await?,
                    // It has another owner: it stays, and this one need not wait for it.
                    Verdict::Release(uids) => {
                        let mut value = value.clone();
                        release(&mut value, &uids.iter().map(String::as_str).collect::<Vec<_>>());
                        store.update(value).await?;
                    }
                    Verdict::Keep => {}
                }
            }
        }
        // What is gone or released sends an event, and with it this is looked at again.
        if !blocked {
            remove_finalizer(&mut owner, FOREGROUND);
            store.update(owner).await?;
        }
        Ok(())
    }
}

/// The keys of an object's owners, for when the object is gone.
fn owner_keys(object: &Object, uids: &[String], store: &Store) -> Vec<Key> {
    if uids.is_empty() {
        return Vec::new();
    }
    let value = object.value();
    let keys = references(&value)
        .iter()
        .filter_map(|owner| owner_key(object.key(), owner));
    keys.filter(|key| store.get(key).is_ok_and(|owner| owner.is_some()))
        .collect()
}

fn owner_key(dependent: &Key, owner: &Value) -> Option<Key> {
    let kind = kinds::by_api_version(text(owner, "/apiVersion"), text(owner, "/kind"))?;
    Some(Key::new(kind, dependent.namespace.as_str(), text(owner, "/name")))
}

fn look_up(store: &Store, dependent: &Key, owner: &Value) -> Result<Owner, StoreError> {
    let Some(key) = owner_key(dependent, owner) else {
        return Ok(Owner::Solid);
    };
    // A cluster-wide object cannot be owned by one in a namespace: nobody can tell which.
    if key.kind.namespaced && !dependent.kind.namespaced {
        return Ok(Owner::Solid);
    }
    let Some(found) = store.get(&key)? else {
        return Ok(Owner::Gone);
    };
    if found.uid() != text(owner, "/uid") {
        return Ok(Owner::Gone);
    }
    let value = found.value();
    let waiting = is_deleting(&value) && has_finalizer(&value, FOREGROUND);
    Ok(if waiting { Owner::Waiting } else { Owner::Solid })
}

async fn delete(store: &Store, object: &Object, propagation: Propagation) -> Result<(), StoreError> {
    let preconditions = Preconditions::uid(object.uid());
    let deletion = Deletion {
        preconditions,
        propagation,
        grace: None,
    };
    match store.begin_delete(object.key(), deletion).await {
        Err(StoreError::NotFound { .. }) => Ok(()),
        deleted => deleted.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(owners: &[&str], finalizers: &[&str]) -> Value {
        let owners: Vec<Value> = owners.iter().map(|uid| json!({ "uid": uid })).collect();
        json!({ "metadata": { "ownerReferences": owners, "finalizers": finalizers } })
    }

    #[test]
    fn objects_are_judged_by_their_owners() {
        use Owner::{Gone, Solid, Waiting};
        let release = |uids: &[&str]| Verdict::Release(uids.iter().map(|uid| (*uid).to_owned()).collect());
        let cases = [
            (object(&[], &[]), vec![], Verdict::Keep),
            (object(&["a"], &[]), vec![Solid], Verdict::Keep),
            (
                object(&["a"], &[]),
                vec![Gone],
                Verdict::Delete(Propagation::Background),
            ),
            (
                object(&["a"], &[]),
                vec![Waiting],
                Verdict::Delete(Propagation::Foreground),
            ),
            (object(&["a", "b"], &[]), vec![Solid, Gone], release(&["b"])),
            (object(&["a", "b"], &[]), vec![Waiting, Solid], release(&["a"])),
            (
                object(&["a", "b"], &[]),
                vec![Gone, Waiting],
                Verdict::Delete(Propagation::Foreground),
            ),
            (
                object(&["a"], &[ORPHAN]),
                vec![Gone],
                Verdict::Delete(Propagation::Orphan),
            ),
            (
                object(&["a"], &[FOREGROUND]),
                vec![Gone],
                Verdict::Delete(Propagation::Foreground),
            ),
        ];
        for (object, owners, expected) in cases {
            assert_eq!(judge(&object, &owners), expected, "{object} {owners:?}");
        }
        let mut going = object(&["a"], &[]);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(judge(&going, &[Gone]), Verdict::Keep);
    }
}
