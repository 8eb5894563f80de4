//! cpu.pressure, memory.pressure, io.pressure.

use super::text;
use crate::CgroupError;
use crate::dir::Dir;

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pressure {
    /// Some tasks were stalled.
    pub some: PressureLine,
    /// All tasks were stalled at once.
    pub full: PressureLine,
}

/// Shares of time in percent over a window, and the total in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Over 10 s.
    pub avg10: f64,
    /// Over 60 s.
    pub avg60: f64,
    /// Over 300 s.
    pub avg300: f64,
    /// Since the cgroup's birth.
    pub total: u64,
}

pub(super) fn pressure(dir: &Dir, file: &str) -> Result<Option<Pressure>, CgroupError> {
    Ok(text(dir, file)?.map(|text| parse(&text)))
}

/// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
fn parse(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let target = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => target.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => target.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => target.avg300 = value.parse().unwrap_or(0.0),
                "total" => target.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    pressure
}
