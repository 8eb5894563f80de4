//! CRIU's own log: the reason of a failure is only there.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::log;

/// Lines before one with an error that are quoted.
const BEFORE: usize = 5;

/// Logs the lines with errors of CRIU's log file, and what came before them.
pub fn quote(file: &Path) {
    let Ok(open) = File::open(file) else { return };
    let (mut before, mut quoted) = (VecDeque::new(), false);
    for (number, line) in BufReader::new(open)
        .split(b'\n')
        .map_while(Result::ok)
        .enumerate()
    {
        let line = format!("{}:{}", number + 1, String::from_utf8_lossy(&line));
        let wrong = line.contains("Error");
        before.push_back(line);
        if wrong {
            if !quoted {
                log::warn(&format!("--- Quoting {:?}", file.display().to_string()));
                quoted = true;
            }
            before.drain(..).for_each(|line| log::warn(&line));
        } else if before.len() > BEFORE {
            before.pop_front();
        }
    }
    if quoted {
        log::warn("---");
    }
}
