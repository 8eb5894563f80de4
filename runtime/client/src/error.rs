//! What a runtime says when it fails, as a typed error.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

/// Why an invocation of the runtime did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The binary could not be started at all.
    #[error("start the runtime {} for `{verb}`: is the path right and the file executable?", runtime.display())]
    Spawn {
        /// Path of the runtime binary.
        runtime: PathBuf,
        /// The verb that was to be run.
        verb: &'static str,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Input for the runtime could not be handed over, or its output not be read.
    #[error("exchange data with the runtime during `{verb}` of {id}")]
    Pipe {
        /// The verb.
        verb: &'static str,
        /// The container, or an empty string.
        id: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// The runtime ran and failed.
    #[error("runtime {verb} {id}: {message}")]
    Failed {
        /// The verb.
        verb: &'static str,
        /// The container, or an empty string.
        id: String,
        /// What kind of failure it is, as far as the text says.
        failure: Failure,
        /// The runtime's own words, from its log file, else its stderr, else its exit status.
        message: String,
    },
    /// The runtime succeeded, but what it printed is not what the verb prints.
    #[error("read what the runtime printed for `{verb}`")]
    Output {
        /// The verb.
        verb: &'static str,
        /// Why it could not be decoded.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// The kind of failure when the runtime ran and failed.
    pub fn failure(&self) -> Option<Failure> {
        match self {
            Error::Failed { failure, .. } => Some(*failure),
            _ => None,
        }
    }

    /// Whether the runtime failed without a word where this program can read it.
    pub fn is_silent(&self) -> bool {
        matches!(self, Error::Failed { message, .. } if message.starts_with(SILENT))
    }

    /// Whether the runtime does not know the container: for a delete that is success.
    pub fn is_not_found(&self) -> bool {
        self.failure() == Some(Failure::NotFound)
    }
}

/// How the message of a runtime begins that left none.
const SILENT: &str = "no message";

/// The kinds of failure that callers tell apart. Runtimes have one exit code for all of them, so they
/// are recognised by the texts of runc, crun, youki and berth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No container of that id.
    NotFound,
    /// The id is taken.
    Exists,
    /// The container is there, but its process is not.
    NotRunning,
    /// The program to be run is missing or cannot be executed.
    Program,
    /// Anything else: read the message.
    Other,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::NotFound => "no such container",
            Failure::Exists => "the id is taken",
            Failure::NotRunning => "the container is not running",
            Failure::Program => "the program cannot be executed",
            Failure::Other => "the runtime failed",
        })
    }
}

/// Sorts a runtime's message into a [`Failure`].
pub(crate) fn classify(message: &str) -> Failure {
    let m = message.to_ascii_lowercase();
    let has = |part: &str| m.contains(part);
    if has("executable file not found")
        || has("exec format error")
        || (has("exec")
            && (has("no such file or directory") || has("permission denied") || has("is a directory")))
        || has("find `") && has("` in $path")
    {
        Failure::Program
    } else if has("does not exist") || (has("/status`") && has("no such file")) {
        Failure::NotFound
    } else if has("already exists") || has("container with id exists") || has("id already in use") {
        Failure::Exists
    } else if has("not running") || has("has stopped") || has("already finished") || has("is stopped") {
        Failure::NotRunning
    } else {
        Failure::Other
    }
}

/// The message of a failed run: the last error of the JSON log file, else the last lines of stderr, else
/// the exit status.
pub(crate) fn message(log: Option<&Path>, stderr: &[u8], status: ExitStatus) -> String {
    if let Some(text) = log.and_then(|path| std::fs::read_to_string(path).ok())
        && let Some(found) = last_error(&text)
    {
        return found;
    }
    let text = String::from_utf8_lossy(stderr);
    match text.lines().rev().map(str::trim).find(|line| !line.is_empty()) {
        Some(line) => line.trim_start_matches("ERRO[0000] ").to_owned(),
        None => format!("{SILENT}, {status}"),
    }
}

/// The last line of level error or fatal in a log of `--log-format json`; lines of crun's plain text too.
fn last_error(log: &str) -> Option<String> {
    log.lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .find_map(|line| match serde_json::from_str::<serde_json::Value>(line) {
            Ok(entry) => {
                let level = entry.get("level").and_then(|v| v.as_str()).unwrap_or("error");
                matches!(level, "error" | "fatal" | "panic")
                    .then(|| {
                        entry
                            .get("msg")
                            .and_then(|v| v.as_str())
                            .unwrap_or_default()
                            .trim()
                            .to_owned()
                    })
                    .filter(|msg| !msg.is_empty())
            }
            Err(_) => Some(line.trim().to_owned()),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_four_runtimes_are_sorted() {
        for (text, failure) in [
            ("container does not exist", Failure::NotFound),
            (
                "error opening file `/run/crun/x/status`: No such file or directory",
                Failure::NotFound,
            ),
            ("container with id exists: x", Failure::Exists),
            ("container with given ID already exists", Failure::Exists),
            ("container `x` already exists", Failure::Exists),
            ("cannot exec a container that has stopped", Failure::NotRunning),
            ("container not running", Failure::NotRunning),
            (
                "kill container: the container `x` is not running",
                Failure::NotRunning,
            ),
            (
                "unable to start container process: exec: \"nope\": executable file not found in $PATH",
                Failure::Program,
            ),
            (
                "executable file `nope` not found in $PATH: No such file or directory",
                Failure::Program,
            ),
            ("exec /bin/x: permission denied", Failure::Program),
            ("mount proc: operation not permitted", Failure::Other),
        ] {
            assert_eq!(classify(text), failure, "{text}");
        }
    }

    #[test]
    fn the_last_error_of_the_log_wins() {
        let log = concat!(
            r#"{"level":"error","msg":"first","time":"t"}"#,
            "\n",
            r#"{"level":"error","msg":"second","time":"t"}"#,
            "\n",
            r#"{"level":"debug","msg":"closing","time":"t"}"#,
            "\n\n"
        );
        assert_eq!(last_error(log).as_deref(), Some("second"));
        assert_eq!(last_error("plain words\n").as_deref(), Some("plain words"));
        assert_eq!(last_error(""), None);
    }
}
