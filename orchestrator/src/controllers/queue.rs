//! The keys that want to be looked at.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rand::RngExt;

use crate::store::Key;

/// First and longest wait before a failed key is looked at again.
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Keys by the time they are due. A key is in it once: the earlier time wins.
pub(super) struct Queue {
    /// The number makes keys of the same instant come in the order they were added.
    due: BTreeMap<(Instant, u64), Key>,
    places: HashMap<Key, (Instant, u64)>,
    failures: HashMap<Key, u32>,
    sequence: u64,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self {
            due: BTreeMap::new(),
            places: HashMap::new(),
            failures: HashMap::new(),
            sequence: 0,
        }
    }

    /// To be looked at as soon as possible.
    pub(super) fn add(&mut self, key: Key) {
        self.add_at(key, Instant::now());
    }

    /// To be looked at after a while, unless something adds it sooner.
    pub(super) fn add_after(&mut self, key: Key, delay: Duration) {
        self.add_at(key, Instant::now() + delay);
    }

    fn add_at(&mut self, key: Key, at: Instant) {
        if let Some(place) = self.places.get(&key) {
            if place.0 <= at {
                return;
            }
            self.due.remove(place);
        }
        let place = (at, self.sequence);
        self.sequence += 1;
        self.due.insert(place, key.clone());
        self.places.insert(key, place);
    }

    /// After a failure: twice as long as the last time, with jitter, so that keys that failed
    /// together do not come back together.
    pub(super) fn retry(&mut self, key: Key) {
        let failures = self.failures.entry(key.clone()).or_default();
        let wait = FIRST_WAIT
            .saturating_mul(1 << (*failures).min(16))
            .min(LONGEST_WAIT);
        *failures += 1;
        self.add_after(key, wait.mul_f64(rand::rng().random_range(0.8..1.2)));
    }

    /// After a success: the next failure waits shortly again.
    pub(super) fn forget(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// A key that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<Key> {
        let entry = self.due.first_entry().filter(|entry| entry.key().0 <= now)?;
        let key = entry.remove();
        self.places.remove(&key);
        Some(key)
    }

    /// When the next key is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.keys().next().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use berth_api::kinds;

    use super::*;

    fn key(name: &str) -> Key {
        Key::new(kinds::POD, "default", name)
    }

    #[test]
    fn a_key_is_in_the_queue_once_and_the_earlier_time_wins() {
        let mut queue = Queue::new();
        queue.add_after(key("a"), Duration::from_mins(1));
        queue.add(key("b"));
        queue.add(key("a"));
        queue.add_after(key("a"), Duration::from_secs(1));
        let now = Instant::now();
        assert_eq!(
            (queue.pop(now), queue.pop(now), queue.pop(now)),
            (Some(key("b")), Some(key("a")), None)
        );
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_a_limit() {
        let mut queue = Queue::new();
        let mut last = Duration::ZERO;
        for failure in 0..20 {
            let now = Instant::now();
            queue.retry(key("a"));
            let wait = queue.next_due().unwrap() - now;
            assert!(wait <= LONGEST_WAIT.mul_f64(1.3));
            assert!(failure > 11 || wait > last, "{failure}: {wait:?} after {last:?}");
            last = wait;
            assert_eq!(queue.pop(now + wait), Some(key("a")));
        }
        queue.forget(&key("a"));
        queue.retry(key("a"));
        assert!(queue.next_due().unwrap() - Instant::now() < Duration::from_millis(50));
    }
}
