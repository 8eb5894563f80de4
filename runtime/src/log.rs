//! The runtime's log, in the formats of runc's: engines read the last line with `"level":"error"` of the file given
//! with `--log` to tell their users what went wrong.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use crate::state::rfc3339;

static LOG: OnceLock<Log> = OnceLock::new();

/// Severity, by logrus's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Shown with `--debug` only.
    Debug,
    /// For information.
    Info,
    /// Something was tolerated.
    Warning,
    /// A verb failed.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `time="..." level=... msg="..."`.
    Text,
    /// `{"level":"...","msg":"...","time":"..."}`.
    Json,
}

/// Why the log could not be set up.
#[derive(Debug, Error)]
pub enum LogError {
    /// `--log-format` has an unknown word.
    #[error("invalid log-format: {format}")]
    Format {
        /// The word.
        format: String,
    },
    /// `--log` cannot be opened.
    #[error("open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// Where log lines go.
#[derive(Debug)]
pub struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
    started: Instant,
}

impl Log {
    /// Opens the log: `path` is appended to, standard error is used without one.
    pub fn open(path: Option<&Path>, format: &str, debug: bool) -> Result<Self, LogError> {
        let format = match format {
            "" | "text" => Format::Text,
            "json" => Format::Json,
            other => {
                return Err(LogError::Format {
                    format: other.to_owned(),
                });
            }
        };
        let file = match path.filter(|path| !path.as_os_str().is_empty()) {
            None => None,
            Some(path) => Some(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o644)
                    .open(path)
                    .map_err(|source| LogError::Open {
                        path: path.to_path_buf(),
                        source,
                    })?,
            ),
        };
        Ok(Self {
            file,
            format,
            debug,
            started: Instant::now(),
        })
    }

    /// Makes this the process's log. The first one stays.
    pub fn install(self) {
        let _ = LOG.set(self);
    }

    fn write(&self, level: Level, message: &str) {
        if level == Level::Debug && !self.debug {
            return;
        }
        let time = second(SystemTime::now());
        let line = match (self.format, &self.file) {
            (Format::Json, _) => json_line(level, message, &time),
            (Format::Text, None) if io::stderr().is_terminal() => {
                format!(
                    "{}[{:04}] {message}\n",
                    short(level),
                    self.started.elapsed().as_secs()
                )
            }
            (Format::Text, _) => text_line(level, message, &time),
        };
        // A log that cannot be written has nowhere to complain.
        let _ = match &self.file {
            Some(file) => (&mut &*file).write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }
}

/// Logs a line; before [`Log::install`] it goes to standard error.
pub fn write(level: Level, message: &str) {
    if let Some(log) = LOG.get() {
        log.write(level, message);
        return;
    }
    let fallback = Log {
        file: None,
        format: Format::Text,
        debug: false,
        started: Instant::now(),
    };
    fallback.write(level, message);
}

/// Logs what only `--debug` shows.
pub fn debug(message: &str) {
    write(Level::Debug, message);
}

/// Logs what failed without ending the verb.
pub fn error(message: &str) {
    write(Level::Error, message);
}

/// Logs what was tolerated.
pub fn warn(message: &str) {
    write(Level::Warning, message);
}

/// Logs the error that ends a verb. With a log file, people see the bare text on standard error too, as with runc.
pub fn fatal(message: &str) {
    write(Level::Error, message);
    if LOG.get().is_some_and(|log| log.file.is_some()) {
        let _ = writeln!(io::stderr(), "{message}");
    }
}

/// RFC 3339 to the second, as logrus writes it.
fn second(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    rfc3339(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// As [`fatal`], of a failure that people know in few words: they see these alone, and a log file has the whole.
pub fn bare(message: &str, short: &str) {
    if LOG
        .get()
        .is_some_and(|log| log.file.is_some() || log.format == Format::Json)
    {
        write(Level::Error, message);
    }
    let _ = writeln!(io::stderr(), "{short}");
}

/// Whether [`debug`] lines are shown: making them costs.
pub fn is_debug() -> bool {
    LOG.get().is_some_and(|log| log.debug)
}

fn short(level: Level) -> &'static str {
    match level {
        Level::Debug => "DEBU",
        Level::Info => "INFO",
        Level::Warning => "WARN",
        Level::Error => "ERRO",
    }
}

fn json_line(level: Level, message: &str, time: &str) -> String {
    let quoted = serde_json::Value::from(message);
    format!(
        "{{\"level\":\"{}\",\"msg\":{quoted},\"time\":\"{time}\"}}\n",
        level.name()
    )
}

fn text_line(level: Level, message: &str, time: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    let quoted = if !message.is_empty() && message.chars().all(plain) {
        message.to_owned()
    } else {
        format!("{message:?}")
    };
    format!("time=\"{time}\" level={} msg={quoted}\n", level.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_logrus() {
        let time = "2026-01-02T03:04:05Z";
        assert_eq!(
            json_line(Level::Error, "exec: \"x\"", time),
            "{\"level\":\"error\",\"msg\":\"exec: \\\"x\\\"\",\"time\":\"2026-01-02T03:04:05Z\"}\n"
        );
        assert_eq!(
            text_line(Level::Warning, "a b", time),
            "time=\"2026-01-02T03:04:05Z\" level=warning msg=\"a b\"\n"
        );
        assert_eq!(
            text_line(Level::Error, "plain", time),
            "time=\"2026-01-02T03:04:05Z\" level=error msg=plain\n"
        );
    }

    #[test]
    fn a_log_file_is_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for message in ["one", "two"] {
            Log::open(Some(&path), "json", false)
                .unwrap()
                .write(Level::Error, message);
        }
        Log::open(Some(&path), "json", false)
            .unwrap()
            .write(Level::Debug, "not shown");
        assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 2);
        assert!(Log::open(None, "yaml", false).is_err());
    }
}
