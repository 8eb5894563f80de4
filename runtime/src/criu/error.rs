//! Why CRIU did not do what it was asked for.

use std::io;

use thiserror::Error;

use super::session::Version;

/// Why CRIU did not do what it was asked for. The texts that engines match are runc's.
#[derive(Debug, Error)]
pub enum CriuError {
    /// Its program could not be started.
    #[error("exec: \"criu\": cannot be started: install criu, in a folder of PATH")]
    Start {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The socket to it failed.
    #[error("{attempted}")]
    Socket {
        /// What was attempted.
        attempted: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It ended before it answered.
    #[error("criu ended without an answer: {status}: does `criu check` succeed on this kernel?")]
    Ended {
        /// How.
        status: String,
    },
    /// It said no.
    #[error("criu failed: type {kind} errno {errno}{message}")]
    Failed {
        /// What it was asked for.
        kind: &'static str,
        /// Its error number.
        errno: i32,
        /// Its own words, with a colon before them, or nothing.
        message: String,
    },
    /// Its answer is not one.
    #[error("criu's answer cannot be understood: is another program named criu?")]
    Protocol,
    /// It lacks something.
    #[error("criu is missing features: [{name}]: use a newer criu, or a kernel with it")]
    Missing {
        /// The feature.
        name: &'static str,
    },
    /// It is too old.
    #[error("{what} requires at least CRIU {needed}, this is {found}")]
    TooOld {
        /// What needs it.
        what: &'static str,
        /// The version needed.
        needed: Version,
        /// The version found.
        found: Version,
    },
}
