//! The table at the end: only what this run measured.

use std::time::Duration;

/// Lines of the table in the order they were measured.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<(String, String)>,
}

impl Report {
    /// Adds a line.
    pub fn add(&mut self, what: impl Into<String>, value: impl Into<String>) {
        self.rows.push((what.into(), value.into()));
    }

    /// Adds a duration in milliseconds or seconds, whichever reads better.
    pub fn time(&mut self, what: &str, duration: Duration) {
        let value = if duration < Duration::from_secs(10) {
            format!("{} ms", duration.as_millis())
        } else {
            format!("{:.1} s", duration.as_secs_f64())
        };
        self.add(what, value);
    }

    /// The table as text.
    pub fn render(&self) -> String {
        let width = self.rows.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
        let values = self.rows.iter().map(|(_, value)| value.len()).max().unwrap_or(0);
        let line = format!("+-{}-+-{}-+\n", "-".repeat(width), "-".repeat(values));
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|(what, value)| format!("| {what:width$} | {value:values$} |\n"))
            .collect();
        format!("{line}{}{line}", rows.concat())
    }
}
