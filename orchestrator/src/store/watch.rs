//! Watching one kind.

use berth_api::kinds::Kind;
use tokio::sync::watch;

use super::Store;
use super::error::WatchError;
use super::index::Event;

/// A cursor into a kind's history. Holds no events itself: all watchers share one history, so a
/// slow one costs nothing and a thousand cost a thousand cursors.
pub struct Watch {
    pub(super) store: Store,
    pub(super) kind: &'static Kind,
    pub(super) namespace: Option<String>,
    pub(super) version: u64,
    pub(super) signal: watch::Receiver<u64>,
}

impl Watch {
    /// The next event, in the order of commits.
    ///
    /// Cancel-safe: an event is only passed over once it was returned.
    pub async fn recv(&mut self) -> Result<Event, WatchError> {
        loop {
            // Marked before looking, so that a commit between looking and waiting wakes us.
            self.signal.borrow_and_update();
            if let Some(event) = self.try_recv()? {
                return Ok(event);
            }
            self.signal.changed().await.map_err(|_| WatchError::Closed)?;
        }
    }

    /// The next event, if it has happened already.
    pub fn try_recv(&mut self) -> Result<Option<Event>, WatchError> {
        let index = self.store.read();
        let kind = index.kind(self.kind).ok_or(WatchError::Closed)?;
        if !kind.reaches(self.version) {
            return Err(WatchError::Expired);
        }
        if let Some(event) = kind.next(self.version, self.namespace.as_deref()) {
            self.version = event.object.resource_version();
            return Ok(Some(event.clone()));
        }
        // Nothing for this namespace up to here: do not scan the same events again.
        self.version = self.version.max(index.resource_version);
        Ok(None)
    }

    /// Everything up to this version has been returned: what a bookmark may claim.
    pub fn resource_version(&self) -> u64 {
        self.version
    }
}
