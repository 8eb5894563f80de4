//! What controllers do to the objects that they made: whose they are, names for new ones, deletion with its event.

use berth_api::kinds::Kind;
use berth_api::selector::LabelSelector;
use serde_json::Value;

use super::fields::{text, uid};
use super::ownership::{claim, controller_of};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Deletion, Event, Key, Object, Preconditions, Store, StoreError};

/// The owners of a kind that an event on one of their dependents concerns: the one that controls
/// it, else whoever's selector matches and so may adopt it.
pub(super) fn owners(store: &Store, kind: &'static Kind, event: &Event) -> Vec<Key> {
    let mut keys = Vec::new();
    for object in [Some(&event.object), event.previous.as_ref()]
        .into_iter()
        .flatten()
    {
        let value = object.value();
        match controller_of(&value) {
            Some(owner) if owner["kind"] == kind.kind => {
                keys.push(Key::new(kind, object.namespace(), text(owner, "/name")));
            }
            Some(_) => {}
            None => keys.extend(matching(store, kind, object.namespace(), &value)),
        }
    }
    keys.sort();
    keys.dedup();
    keys
}

/// The owners of a kind in a namespace whose selector matches an object.
pub(super) fn matching(store: &Store, kind: &'static Kind, namespace: &str, object: &Value) -> Vec<Key> {
    let owners = store.list(kind, Some(namespace)).items;
    let matches = |owner: &&Object| {
        LabelSelector::from_object(owner.value().pointer("/spec/selector"))
            .is_ok_and(|selector| selector.matches_object(object))
    };
    owners
        .iter()
        .filter(matches)
        .map(|owner| owner.key().clone())
        .collect()
}

/// All keys of a kind.
pub(super) fn all(store: &Store, kind: &'static Kind) -> Vec<Key> {
    let objects = store.list(kind, None).items;
    objects.iter().map(|object| object.key().clone()).collect()
}

/// The objects of a kind that `owner` controls, as they are after adoptions and releases are
/// written. `parting` changes an object that is let go.
pub(super) async fn claimed(
    store: &Store,
    kind: &'static Kind,
    owner: &Value,
    matches: impl Fn(&Value) -> bool,
    parting: impl Fn(&mut Value),
) -> Result<Vec<Value>, StoreError> {
    let look = || {
        let objects = store.list(kind, Some(text(owner, "/metadata/namespace"))).items;
        claim(owner, &matches, objects.iter().map(Object::value).collect())
    };
    let claimed = look();
    if claimed.changed.is_empty() {
        return Ok(claimed.owned);
    }
    for mut object in claimed.changed {
        if controller_of(&object).is_none() {
            parting(&mut object);
        }
        store.update(object).await?;
    }
    Ok(look().owned)
}

/// Names are made of these, as upstream: no vowels and nothing that looks like another.
pub(super) const NAME_LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Five letters, as `generateName` adds them.
pub(super) fn random_suffix() -> String {
    (0..5)
        .map(|_| char::from(NAME_LETTERS[rand::random_range(0..NAME_LETTERS.len())]))
        .collect()
}

/// The words of a deletion's events, as upstream's controllers have them.
pub(super) struct Words {
    /// The controller's name.
    pub component: &'static str,
    /// Before the reason why it failed.
    pub failed: &'static str,
    /// When it is done.
    pub done: String,
}

/// Deletes `object`, if it is still the one that was looked at, and records that about its owner.
pub(super) async fn delete(
    store: &Store,
    about: &ObjectRef,
    object: &Value,
    words: &Words,
) -> Result<(), StoreError> {
    let deletion = Deletion {
        preconditions: Preconditions::uid(uid(object)),
        ..Deletion::default()
    };
    let (severity, reason, message, outcome) = match store.begin_delete(&Key::of(object)?, deletion).await {
        Err(StoreError::NotFound { .. }) => return Ok(()),
        Err(error) => {
            let message = format!("{}: {error}", words.failed);
            (Severity::Warning, "FailedDelete", message, Err(error))
        }
        Ok(_) => (Severity::Normal, "SuccessfulDelete", words.done.clone(), Ok(())),
    };
    events::record(store, about, severity, reason, &message, words.component).await?;
    outcome
}
