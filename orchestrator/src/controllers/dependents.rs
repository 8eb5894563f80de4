//! What controllers do to the objects that they made: names for new ones, deletion with its event.

use serde_json::Value;

use super::fields::uid;
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Deletion, Key, Preconditions, Store, StoreError};

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
