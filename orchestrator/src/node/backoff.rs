//! PURE: exponential back-off, with kubelet's rules for containers (`client-go/util/flowcontrol`).

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// First delay of a container's restarts, in seconds.
pub const RESTART_FIRST: i64 = 10;
/// Longest delay of a container's restarts, in seconds; twice that without a failure resets it.
pub const RESTART_LIMIT: i64 = 300;

/// The restarts of one container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    /// Present delay in seconds; 0 before the first restart.
    delay: i64,
    /// When the delay was last changed.
    changed: Option<Timestamp>,
}

impl Backoff {
    /// Until when a container that ended at `ended` must wait; None when it may start at once. The first
    /// restart waits for nothing.
    pub fn until(&self, ended: Timestamp) -> Option<Timestamp> {
        if self.delay == 0 || self.expired(ended) {
            None
        } else {
            Some(after(ended, self.delay))
        }
    }

    /// Takes note of a restart at `now` of a container that ended at `ended`.
    pub fn next(&mut self, ended: Timestamp, now: Timestamp) {
        self.delay = if self.delay == 0 || self.expired(ended) {
            RESTART_FIRST
        } else {
            (self.delay * 2).min(RESTART_LIMIT)
        };
        self.changed = Some(now);
    }

    /// The present delay in seconds.
    pub fn delay(&self) -> i64 {
        self.delay
    }

    fn expired(&self, ended: Timestamp) -> bool {
        self.changed.is_none_or(|changed| {
            ended.duration_since(changed) > SignedDuration::from_secs(2 * RESTART_LIMIT)
        })
    }
}

/// `seconds` after `time`; the end of time if that is later.
pub fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds))
        .unwrap_or(Timestamp::MAX)
}

/// The delay before the next try of something that failed `failures` times in a row: doubling from
/// `first` to `limit`, in seconds.
pub fn retry_delay(failures: u32, first: i64, limit: i64) -> i64 {
    first
        .saturating_mul(
            1_i64
                .checked_shl(failures.saturating_sub(1).min(30))
                .unwrap_or(i64::MAX),
        )
        .min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    #[test]
    fn the_delay_doubles_to_its_limit() {
        let mut backoff = Backoff::default();
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..8 {
            // The container ends at once each time.
            let ended = at(now);
            let until = backoff.until(ended).unwrap_or(ended);
            delays.push(until.duration_since(ended).as_secs());
            now += delays[delays.len() - 1];
            backoff.next(ended, at(now));
        }
        assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn ten_quiet_minutes_reset_it() {
        let mut backoff = Backoff::default();
        backoff.next(at(0), at(0));
        backoff.next(at(10), at(20));
        assert_eq!(backoff.until(at(600)), Some(at(620)));
        assert_eq!(backoff.until(at(621)), None);
        backoff.next(at(621), at(621));
        assert_eq!(backoff.delay(), RESTART_FIRST);
    }

    #[test]
    fn retries_double_too() {
        let delays: Vec<i64> = (1..8).map(|n| retry_delay(n, 1, 30)).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(retry_delay(u32::MAX, 1, 30), 30);
    }
}
