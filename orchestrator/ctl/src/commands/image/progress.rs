//! Progress of a transfer on standard error: a bar for each layer on a terminal, elsewhere a line for
//! each thing that happened.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::size;
use crate::tree::{number, text};

/// Time between two drawings.
const PACE: Duration = Duration::from_millis(100);
const BAR: usize = 30;

struct Layer {
    digest: String,
    size: i64,
    bytes: i64,
    state: String,
}

/// Shows the steps of a transfer.
pub(super) struct Display {
    quiet: bool,
    terminal: bool,
    layers: Vec<Layer>,
    drawn: usize,
    last: Option<Instant>,
}

impl Display {
    pub(super) fn new(quiet: bool) -> Self {
        Self {
            quiet,
            terminal: io::stderr().is_terminal(),
            layers: Vec::new(),
            drawn: 0,
            last: None,
        }
    }

    /// Takes one step, as the node tells it.
    pub(super) fn step(&mut self, step: &Value) {
        let digest = text(step, "/digest");
        let short: String = digest.trim_start_matches("sha256:").chars().take(12).collect();
        match text(step, "/step") {
            "resolved" => {
                self.say(&format!(
                    "Resolved {} at {}",
                    text(step, "/manifest"),
                    text(step, "/place")
                ));
                return;
            }
            "layer" if self.find(digest).is_none() => self.layers.push(Layer {
                digest: digest.to_owned(),
                size: number(step, "/size"),
                bytes: 0,
                state: "waiting".to_owned(),
            }),
            kind => {
                let bytes = number(step, "/bytes");
                let why = text(step, "/why").to_owned();
                let Some(layer) = self.find(digest) else {
                    return;
                };
                match kind {
                    "bytes" => (layer.bytes, layer.state) = (bytes, "transferring".to_owned()),
                    "retry" => {
                        layer.bytes = bytes;
                        layer.state = format!("interrupted ({why}), going on");
                    }
                    "exists" => "already exists".clone_into(&mut layer.state),
                    "complete" if layer.state != "already exists" => {
                        (layer.bytes, layer.state) = (layer.size, "complete".to_owned());
                    }
                    _ => {}
                }
                let line = format!(
                    "{short} {} of {}: {}",
                    size(layer.bytes),
                    size(layer.size),
                    layer.state
                );
                if !self.terminal && kind != "bytes" {
                    self.say(&line);
                }
            }
        }
        if self.terminal && !self.quiet && self.last.is_none_or(|last| last.elapsed() >= PACE) {
            self.draw();
        }
    }

    /// Shows the last state.
    pub(super) fn end(&mut self) {
        if self.terminal && !self.quiet && !self.layers.is_empty() {
            self.draw();
        }
    }

    fn find(&mut self, digest: &str) -> Option<&mut Layer> {
        self.layers.iter_mut().find(|layer| layer.digest == digest)
    }

    fn say(&self, line: &str) {
        if !self.quiet {
            // Nobody may be there to read it.
            let _ = io::Write::write_fmt(&mut io::stderr(), format_args!("{line}\n"));
        }
    }

    fn draw(&mut self) {
        use std::fmt::Write as _;
        let mut out = String::new();
        if self.drawn > 0 {
            // Writing to a text cannot fail.
            let _ = write!(out, "\x1b[{}A", self.drawn);
        }
        for layer in &self.layers {
            let short: String = layer
                .digest
                .trim_start_matches("sha256:")
                .chars()
                .take(12)
                .collect();
            let _ = writeln!(out, "\x1b[2K{short} {}", drawn(layer));
        }
        self.drawn = self.layers.len();
        self.last = Some(Instant::now());
        let _ = io::Write::write_all(&mut io::stderr(), out.as_bytes());
    }
}

fn drawn(layer: &Layer) -> String {
    if layer.state == "already exists" || layer.size <= 0 {
        return layer.state.clone();
    }
    let part = layer.bytes.clamp(0, layer.size);
    let filled = (part.unsigned_abs() as usize).saturating_mul(BAR) / (layer.size.unsigned_abs() as usize);
    let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled));
    format!(
        "{bar} {:>9} of {:<9} {}",
        size(layer.bytes),
        size(layer.size),
        layer.state
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_how_far_it_is() {
        let layer = |bytes, state: &str| Layer {
            digest: String::new(),
            size: 100,
            bytes,
            state: state.to_owned(),
        };
        assert!(drawn(&layer(0, "waiting")).starts_with(&"░".repeat(BAR)));
        assert!(drawn(&layer(50, "x")).starts_with(&format!("{}░", "█".repeat(15))));
        assert!(drawn(&layer(1000, "x")).starts_with(&"█".repeat(BAR)));
        assert_eq!(drawn(&layer(0, "already exists")), "already exists");
    }
}
