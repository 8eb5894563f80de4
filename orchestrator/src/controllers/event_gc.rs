//! Events that are too old (upstream keeps them by `--event-ttl` of kube-apiserver).

use std::time::Duration;

use berth_api::kinds::{self, Kind};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Again, Controller};
use crate::store::{Event, Key, Object, Store, StoreError};

/// How long an Event is kept after it was last seen.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
/// Shortest time between two looks: Events end in company.
const PAUSE: Duration = Duration::from_mins(1);

/// Removes old Events.
#[derive(Default)]
pub(crate) struct EventCollector {
    /// A look is due already, and new Events end later than that.
    waiting: bool,
}

impl Controller for EventCollector {
    const NAME: &'static str = "event-garbage-collector";

    fn kinds(&self) -> &'static [&'static Kind] {
        &[kinds::EVENT]
    }

    /// One look is at all of them.
    fn concerned(&mut self, _: &Store, _: &Event) -> Vec<Key> {
        if self.waiting {
            Vec::new()
        } else {
            vec![everything()]
        }
    }

    fn all(&mut self, _: &Store) -> Vec<Key> {
        vec![everything()]
    }

    async fn sync(&mut self, store: &Store, _: &Key) -> Result<Again, StoreError> {
        let now = Timestamp::now();
        let next = look(store, now).await?;
        self.waiting = next.is_some();
        Ok(next.map(|next| next.duration_since(now).unsigned_abs().max(PAUSE)))
    }
}

/// Removes the Events that are too old. The answer is when the next one will be.
async fn look(store: &Store, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
    let mut next: Option<Timestamp> = None;
    for event in store.list(kinds::EVENT, None).items {
        let end = end(&event, now);
        if end > now {
            next = Some(next.map_or(end, |next| next.min(end)));
            continue;
        }
        match store.expire(event).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(next)
}

fn everything() -> Key {
    Key::new(kinds::EVENT, "", "")
}

fn end(event: &Object, now: Timestamp) -> Timestamp {
    let seen = last_seen(&event.value()).unwrap_or(now);
    seen.checked_add(KEPT).unwrap_or(Timestamp::MAX)
}

/// The latest of its times.
fn last_seen(event: &Value) -> Option<Timestamp> {
    [
        "/lastTimestamp",
        "/series/lastObservedTime",
        "/eventTime",
        "/metadata/creationTimestamp",
    ]
    .into_iter()
    .filter_map(|field| event.pointer(field)?.as_str()?.parse().ok())
    .max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{EventKind, file_in};

    fn event(name: &str) -> Value {
        json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": "default"}})
    }

    #[tokio::test]
    async fn old_events_go_and_watchers_hear_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&file_in(dir.path())).unwrap();
        let now = Timestamp::now();
        store.create(event("old")).await.unwrap();
        let mut seen_again = event("seen-again");
        let later = now + SignedDuration::from_mins(30);
        seen_again["lastTimestamp"] = json!(crate::store::prepare::rfc3339(later));
        store.create(seen_again).await.unwrap();
        let mut watch = store.watch(kinds::EVENT, None, 0).unwrap();

        let mut collector = EventCollector::default();
        let added = Event {
            kind: EventKind::Added,
            object: store.list(kinds::EVENT, None).items.remove(0),
            previous: None,
        };
        assert_eq!(collector.concerned(&store, &added).len(), 1);
        let again = collector.sync(&store, &everything()).await.unwrap().unwrap();
        assert!(again > Duration::from_mins(50) && again <= Duration::from_hours(1));
        assert!(
            collector.concerned(&store, &added).is_empty(),
            "a look is due already"
        );

        let next = look(&store, now + SignedDuration::from_mins(61)).await.unwrap();
        let left = store.list(kinds::EVENT, None).items;
        assert_eq!(left.iter().map(Object::name).collect::<Vec<_>>(), ["seen-again"]);
        let told = watch.recv().await.unwrap();
        assert_eq!((told.kind, told.object.name()), (EventKind::Deleted, "old"));
        let due = next.unwrap().duration_since(later);
        assert!((SignedDuration::from_mins(59)..=SignedDuration::from_hours(1)).contains(&due));
        look(&store, now + SignedDuration::from_mins(91)).await.unwrap();
        assert!(store.list(kinds::EVENT, None).items.is_empty());
    }
}
