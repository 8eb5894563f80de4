//! Says of kinds that are stored and not enforced that they are: an event for each new object.

use berth_api::kinds::{self, Kind};

use super::{Again, Controller};
use crate::events::{self, ObjectRef, Severity};
use crate::store::{Event, EventKind, Key, Store, StoreError};

/// Writes the events.
pub(crate) struct Unenforced;

impl Controller for Unenforced {
    const NAME: &'static str = "network-controller";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::NETWORK_POLICY, kinds::INGRESS]
    }

    fn concerned(&mut self, _: &Store, event: &Event) -> Vec<Key> {
        let new = event.kind == EventKind::Added;
        new.then(|| event.object.key().clone()).into_iter().collect()
    }

    fn all(&mut self, _: &Store) -> Vec<Key> {
        // Those that were there before have their event.
        Vec::new()
    }

    async fn sync(&mut self, store: &Store, key: &Key) -> Result<Again, StoreError> {
        if let (Some(stored), Some(caution)) = (store.get(key)?, key.kind.caution()) {
            let about = ObjectRef::to(&stored);
            events::record(
                store,
                &about,
                Severity::Warning,
                "NotEnforced",
                caution,
                Self::NAME,
            )
            .await?;
        }
        Ok(None)
    }
}
