//! Durations as Go writes them: `500ms`, `1m30s`, `1.5h`.

use std::time::Duration;

/// Units with their nanoseconds.
const UNITS: [(&str, f64); 8] = [
    ("ns", 1.0),
    ("us", 1e3),
    ("µs", 1e3),
    ("μs", 1e3),
    ("ms", 1e6),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
];

/// Parses what Go's `time.ParseDuration` takes. `None` for anything else; a negative duration is zero.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if unsigned == "0" {
        return Some(Duration::ZERO);
    }
    if unsigned.is_empty() {
        return None;
    }
    let mut nanoseconds = 0.0;
    let mut rest = unsigned;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let length = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[..length])?;
        nanoseconds += number * unit;
        rest = &rest[length..];
    }
    if negative {
        return Some(Duration::ZERO);
    }
    // Go's durations are 63-bit numbers of nanoseconds.
    (nanoseconds < 9.2e18).then(|| Duration::from_nanos(nanoseconds as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units() {
        for (text, milliseconds) in [
            ("5s", 5000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("+2s", 2000),
            (".5s", 500),
            ("1000us", 1),
            ("0", 0),
            ("-5s", 0),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
        for bad in ["", "5", "s", "5x", "1m30", "-", "1..5s", " 5s", "9999999h"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
