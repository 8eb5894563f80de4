//! PURE: schedules of CronJobs, as upstream's parser (robfig/cron v3, `ParseStandard`) reads them.
//!
//! Five fields with lists, ranges, steps and names, or a macro. When both day fields are
//! restricted, a day that matches either of them is taken. Hours are walked in absolute time: one
//! that a change of the clock leaves out is skipped, one that it repeats comes twice.

use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};
use thiserror::Error;

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// Years that are searched for the next time.
const YEARS: i16 = 5;

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    /// At the minutes that match.
    Fields(Fields),
    /// Again and again after as long (`@every 90m`).
    Every(Duration),
}

/// The five fields as sets of bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: Set,
    month: u64,
    weekday: Set,
}

/// A field of days: its bits, and whether it was left open (`*`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Set {
    bits: u64,
    open: bool,
}

/// Why a schedule cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ScheduleError {
    /// Nothing is there.
    #[error("empty spec string")]
    Empty,
    /// Not five fields.
    #[error("expected exactly 5 fields, found {found}: [{text}]")]
    Count {
        /// How many there are.
        found: usize,
        /// The schedule.
        text: String,
    },
    /// A macro that nobody knows.
    #[error("unrecognized descriptor: {0}")]
    Macro(String),
    /// `@every` without a duration.
    #[error("failed to parse duration {0}: use a number and a unit, such as @every 90m")]
    Duration(String),
    /// A part of a field is no number and no name.
    #[error("failed to parse int from {0}: use a number, a range, a list or *")]
    Number(String),
    /// Too many `-` or `/`.
    #[error("too many {what}: {text}")]
    TooMany {
        /// `hyphens` or `slashes`.
        what: &'static str,
        /// The part.
        text: String,
    },
    /// A number is out of its field's range.
    #[error("{end} of range ({value}) {side} ({bound}): {text}")]
    Bounds {
        /// `beginning` or `end`.
        end: &'static str,
        /// The number.
        value: u32,
        /// `below minimum` or `above maximum`, or what is beyond.
        side: &'static str,
        /// The limit.
        bound: u32,
        /// The part.
        text: String,
    },
    /// A step of nothing.
    #[error("step of range should be a positive number: {0}")]
    Step(String),
}

/// A time zone by its IANA name.
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// [`ScheduleError`] names the part that is wrong.
    pub fn parse(text: &str) -> Result<Self, ScheduleError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(ScheduleError::Empty);
        }
        if let Some(duration) = text.strip_prefix("@every ") {
            let parsed = duration_of(duration).ok_or_else(|| ScheduleError::Duration(duration.to_owned()))?;
            return Ok(Self::Every(
                Duration::from_secs(parsed.as_secs()).max(Duration::from_secs(1)),
            ));
        }
        let plain = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other if other.starts_with('@') => return Err(ScheduleError::Macro(other.to_owned())),
            other => other,
        };
        let fields: Vec<&str> = plain.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = fields[..] else {
            return Err(ScheduleError::Count {
                found: fields.len(),
                text: fields.join(" "),
            });
        };
        Ok(Self::Fields(Fields {
            minute: field(minute, 0, 59, &[])?.bits,
            hour: field(hour, 0, 23, &[])?.bits,
            day: field(day, 1, 31, &[])?,
            month: field(month, 1, 12, &MONTHS)?.bits,
            weekday: field(weekday, 0, 6, &DAYS)?,
        }))
    }

    /// The first time after `after`; `None` if there is none for five years, or ever.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let second = after.as_second();
        match self {
            Self::Every(pause) => Timestamp::from_second(second)
                .ok()?
                .checked_add(SignedDuration::try_from(*pause).ok()?)
                .ok(),
            Self::Fields(fields) => fields.next(
                Timestamp::from_second(second - second.rem_euclid(60) + 60).ok()?,
                zone,
            ),
        }
    }
}

impl Fields {
    /// The first match at or after a whole minute.
    fn next(&self, from: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let mut at = from;
        let limit = at.to_zoned(zone.clone()).year().checked_add(YEARS)?;
        loop {
            let local = at.to_zoned(zone.clone());
            if local.year() > limit {
                return None;
            }
            let date = local.date();
            at = if !has(self.month, date.month()) {
                midnight(date.first_of_month().checked_add(1.month()).ok()?, zone)?
            } else if !self.takes(date) {
                midnight(date.checked_add(1.day()).ok()?, zone)?
            } else if !has(self.hour, local.hour()) {
                let into = i64::from(local.minute()) * 60 + i64::from(local.second());
                later(at, 3600 - into)?
            } else if local.second() != 0 || !has(self.minute, local.minute()) {
                later(at, 60 - i64::from(local.second()))?
            } else {
                return Some(at);
            };
        }
    }

    fn takes(&self, date: Date) -> bool {
        let day = has(self.day.bits, date.day());
        let weekday = has(self.weekday.bits, date.weekday().to_sunday_zero_offset());
        if self.day.open || self.weekday.open {
            day && weekday
        } else {
            day || weekday
        }
    }
}

fn has(bits: u64, value: i8) -> bool {
    bits >> value & 1 == 1
}

fn later(at: Timestamp, seconds: i64) -> Option<Timestamp> {
    at.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// The beginning of a day, which need not be at 0:00.
fn midnight(date: Date, zone: &TimeZone) -> Option<Timestamp> {
    let start = date.to_zoned(zone.clone()).ok()?.start_of_day().ok()?;
    Some(start.timestamp())
}

/// A list of ranges.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Result<Set, ScheduleError> {
    let mut set = Set { bits: 0, open: false };
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let one = range(part, min, max, names)?;
        set.bits |= one.bits;
        set.open |= one.open;
    }
    if set.bits == 0 {
        return Err(ScheduleError::Number(text.to_owned()));
    }
    Ok(set)
}

/// `*`, `N`, `N-M`, each with or without `/STEP`.
fn range(text: &str, min: u32, max: u32, names: &[&str]) -> Result<Set, ScheduleError> {
    let too_many = |what| ScheduleError::TooMany {
        what,
        text: text.to_owned(),
    };
    let parts: Vec<&str> = text.split('/').collect();
    if parts.len() > 2 {
        return Err(too_many("slashes"));
    }
    let ends: Vec<&str> = parts[0].split('-').collect();
    let open = matches!(ends[0], "*" | "?");
    let (first, mut last) = match ends[..] {
        [_] if open => (min, max),
        [one] => (value(one, min, names)?, value(one, min, names)?),
        [first, last] => (value(first, min, names)?, value(last, min, names)?),
        _ => return Err(too_many("hyphens")),
    };
    let mut step = 1;
    if let Some(text) = parts.get(1) {
        step = value(text, min, &[])?;
        // `N/STEP` means from N on.
        if ends.len() == 1 && !open {
            last = max;
        }
    }
    let bounds = |end, value, side, bound| ScheduleError::Bounds {
        end,
        value,
        side,
        bound,
        text: text.to_owned(),
    };
    if first < min {
        return Err(bounds("beginning", first, "below minimum", min));
    }
    if last > max {
        return Err(bounds("end", last, "above maximum", max));
    }
    if first > last {
        return Err(bounds("beginning", first, "beyond end of range", last));
    }
    let step = usize::try_from(step).unwrap_or_default();
    if step == 0 {
        return Err(ScheduleError::Step(text.to_owned()));
    }
    let bits = (first..=last).step_by(step).fold(0, |bits, n| bits | 1 << n);
    Ok(Set {
        bits,
        open: open && step == 1,
    })
}

fn value(text: &str, min: u32, names: &[&str]) -> Result<u32, ScheduleError> {
    let lower = text.to_lowercase();
    if let Some(at) = names.iter().position(|name| *name == lower) {
        return Ok(at as u32 + min);
    }
    text.parse().map_err(|_| ScheduleError::Number(text.to_owned()))
}

/// A duration as Go writes it: `1h30m`, `1.5h`, `90s`.
fn duration_of(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        sum = sum.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
        rest = &rest[end..];
    }
    Some(sum)
}

#[cfg(test)]
mod tests;
