//! Time stamps as the CRI log format and the records want them: RFC 3339, UTC, nanoseconds.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Length of a time stamp in bytes.
pub const STAMP_LENGTH: usize = 30;

/// The present time, as `2026-01-02T03:04:05.000000006Z`.
pub fn now() -> String {
    stamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO),
    )
}

/// A time since the epoch as text.
pub fn stamp(since_epoch: Duration) -> String {
    let seconds = since_epoch.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let rest = seconds % 86_400;
    let mut text = Vec::with_capacity(STAMP_LENGTH);
    // Writing to a vector cannot fail.
    let _ = write!(
        text,
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:09}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
        since_epoch.subsec_nanos()
    );
    String::from_utf8_lossy(&text).into_owned()
}

/// Year, month and day of a number of days since 1970 (proleptic Gregorian calendar; the era of 400
/// years starts on 1 March, so that the leap day is its last).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_known_moments() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00.000000000Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.000000001Z"),
            (1_709_251_199, 999_999_999, "2024-02-29T23:59:59.999999999Z"),
            (1_709_251_200, 0, "2024-03-01T00:00:00.000000000Z"),
            (1_767_225_599, 0, "2025-12-31T23:59:59.000000000Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
        ] {
            assert_eq!(stamp(Duration::new(seconds, nanos)), text);
        }
        assert_eq!(now().len(), STAMP_LENGTH);
    }
}
