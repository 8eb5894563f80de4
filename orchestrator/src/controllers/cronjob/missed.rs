//! PURE: which run of a schedule is due (upstream `mostRecentScheduleTime`).

use berth_api::schedule::Schedule;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// More runs missed than this are worth a warning.
const MANY: i64 = 100;

/// The newest time that has come since the last run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) at: Timestamp,
    /// Whether so many were missed that something is wrong.
    pub(super) too_many: bool,
}

/// Looks for the newest time after `since` and not after `now`. An error says why the schedule
/// makes no sense.
pub(super) fn due(
    schedule: &Schedule,
    zone: &TimeZone,
    since: Timestamp,
    now: Timestamp,
) -> Result<Option<Due>, String> {
    let Some(first) = schedule.next(since, zone).filter(|first| *first <= now) else {
        return Ok(None);
    };
    let Some(second) = schedule.next(first, zone) else {
        return Ok(Some(Due {
            at: first,
            too_many: false,
        }));
    };
    if second > now {
        return Ok(Some(Due {
            at: first,
            too_many: false,
        }));
    }
    let pause = second.as_second() - first.as_second();
    if pause < 1 {
        return Err("time difference between two schedules is less than 1 second".to_owned());
    }
    // Years of missed minutes are not walked one by one: from near the end on is enough, if
    // anything lies there.
    let missed = (now.as_second() - first.as_second()) / pause + 1;
    let near = first
        .checked_add(SignedDuration::from_secs((missed - 2).max(0) * pause - 1))
        .ok();
    let mut newest = None;
    for start in near.into_iter().chain([first]) {
        let mut at = start;
        while let Some(next) = schedule.next(at, zone).filter(|next| *next <= now) {
            newest = Some(next);
            at = next;
        }
        if newest.is_some() {
            break;
        }
    }
    Ok(Some(Due {
        at: newest.unwrap_or(first),
        too_many: missed > MANY,
    }))
}
