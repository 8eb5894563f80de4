use super::*;

fn next(schedule: &str, after: &str, in_zone: &str) -> String {
    let schedule = Schedule::parse(schedule).unwrap();
    let zone = zone(in_zone).unwrap();
    schedule
        .next(after.parse().unwrap(), &zone)
        .map_or_else(|| "never".to_owned(), |time| time.to_zoned(zone).to_string())
}

#[test]
fn the_next_time_is_the_first_that_matches() {
    let after = "2026-03-04T10:17:30Z"; // a Wednesday
    for (schedule, expected) in [
        ("* * * * *", "2026-03-04T10:18:00"),
        ("*/15 * * * *", "2026-03-04T10:30:00"),
        ("5 * * * *", "2026-03-04T11:05:00"),
        ("5/20 * * * *", "2026-03-04T10:25:00"),
        ("0-10/5,50 * * * *", "2026-03-04T10:50:00"),
        ("0 9 * * mon-fri", "2026-03-05T09:00:00"),
        ("0 9 * * SAT", "2026-03-07T09:00:00"),
        ("0 0 29 feb ?", "2028-02-29T00:00:00"),
        ("59 23 31 12 *", "2026-12-31T23:59:00"),
        // Both days restricted: either will do. One of them open: both must match.
        ("0 0 13 * fri", "2026-03-06T00:00:00"),
        ("0 0 5 * fri", "2026-03-05T00:00:00"),
        ("0 0 */2 * fri", "2026-03-05T00:00:00"),
        ("0 0 * * fri", "2026-03-06T00:00:00"),
        ("@yearly", "2027-01-01T00:00:00"),
        ("@monthly", "2026-04-01T00:00:00"),
        ("@weekly", "2026-03-08T00:00:00"),
        ("@daily", "2026-03-05T00:00:00"),
        ("@hourly", "2026-03-04T11:00:00"),
        ("@every 1h30m", "2026-03-04T11:47:30"),
    ] {
        assert_eq!(
            next(schedule, after, "UTC"),
            format!("{expected}+00:00[UTC]"),
            "{schedule}"
        );
    }
    assert_eq!(next("59 23 31 2 *", after, "UTC"), "never");
    // A time that matches is not its own next.
    assert_eq!(
        next("0 * * * *", "2026-03-04T10:00:00Z", "UTC"),
        "2026-03-04T11:00:00+00:00[UTC]"
    );
}

#[test]
fn clocks_that_change_skip_and_repeat() {
    let berlin = "Europe/Berlin";
    // 02:30 does not exist on 29 March 2026.
    assert_eq!(
        next("30 2 * * *", "2026-03-28T12:00:00Z", berlin),
        "2026-03-30T02:30:00+02:00[Europe/Berlin]"
    );
    // 02:30 comes twice on 25 October 2026.
    assert_eq!(
        next("30 2 * * *", "2026-10-24T12:00:00Z", berlin),
        "2026-10-25T02:30:00+02:00[Europe/Berlin]"
    );
    assert_eq!(
        next("30 2 * * *", "2026-10-25T00:30:00Z", berlin),
        "2026-10-25T02:30:00+01:00[Europe/Berlin]"
    );
    // A day that begins at 01:00.
    assert_eq!(
        next("0 1 6 9 *", "2026-09-05T12:00:00Z", "America/Santiago"),
        "2026-09-06T01:00:00-03:00[America/Santiago]"
    );
    assert_eq!(
        next("0 9 * * *", "2026-06-01T00:00:00Z", "Asia/Kolkata"),
        "2026-06-01T09:00:00+05:30[Asia/Kolkata]"
    );
}

#[test]
fn every_answer_matches_and_none_before_it_does() {
    let zone = zone("UTC").unwrap();
    for text in [
        "*/7 3,5 * * *",
        "0 0 1-7 * mon",
        "13 4 */3 jan-jun sun,wed",
        "1 1 31 * *",
    ] {
        let schedule = Schedule::parse(text).unwrap();
        let Schedule::Fields(fields) = &schedule else {
            unreachable!("fields")
        };
        let matches = |at: Timestamp| {
            let local = at.to_zoned(zone.clone());
            has(fields.minute, local.minute())
                && has(fields.hour, local.hour())
                && has(fields.month, local.month())
                && fields.takes(local.date())
        };
        let mut at: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for _ in 0..5 {
            let found = schedule.next(at, &zone).unwrap();
            let mut minute = later(at, 60).unwrap();
            while minute < found {
                assert!(!matches(minute), "{text}: {minute} before {found}");
                minute = later(minute, 60).unwrap();
            }
            assert!(matches(found), "{text}: {found}");
            at = found;
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    for (schedule, expected) in [
        ("", "empty"),
        ("* * * *", "expected exactly 5 fields, found 4"),
        ("* * * * * *", "found 6"),
        ("60 * * * *", "end of range (60) above maximum (59)"),
        ("* * 0 * *", "beginning of range (0) below minimum (1)"),
        ("* * * * 7", "above maximum (6)"),
        ("5-1 * * * *", "beyond end of range"),
        ("*/0 * * * *", "positive number"),
        ("1-2-3 * * * *", "too many hyphens"),
        ("1/2/3 * * * *", "too many slashes"),
        ("x * * * *", "failed to parse int from x"),
        ("@often", "unrecognized descriptor: @often"),
        ("@every soon", "failed to parse duration"),
    ] {
        let told = Schedule::parse(schedule).unwrap_err().to_string();
        assert!(told.contains(expected), "{schedule}: {told}");
    }
    assert!(zone("Europe/Atlantis").is_none());
}
