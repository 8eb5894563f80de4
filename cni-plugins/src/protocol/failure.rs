//! The error object of the protocol.

use serde_json::json;

/// Error codes of the CNI specification 1.1, section "Error", and the two that the reference
/// implementation uses beside it.
pub mod code {
    /// The plugin does not speak the configuration's version.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field has a value that this plugin does not support; the message names both.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A CNI_ environment variable is missing or malformed; the message names it.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// The configuration is not JSON, or a nested document cannot be decoded.
    pub const DECODE: u32 = 6;
    /// The configuration is valid JSON but not a valid configuration; the message names the field.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is missing or is the plugin's own (not in the specification's list).
    pub const INVALID_NETNS: u32 = 8;
    /// A passing condition: try again later.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: the plugin cannot serve ADD.
    pub const NOT_AVAILABLE: u32 = 50;
    /// STATUS: as 50, and existing containers have limited connectivity.
    pub const LIMITED_CONNECTIVITY: u32 = 51;
    /// The kernel refused an operation (100 and above are the plugin's own).
    pub const KERNEL: u32 = 100;
    /// CHECK found a difference.
    pub const CHECK_FAILED: u32 = 101;
    /// The thing asked for is taken by another attachment.
    pub const CONFLICT: u32 = 102;
}

/// What a plugin prints when it fails: code, message, details (specification, section "Error").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{msg}{}{details}", if details.is_empty() { "" } else { ": " })]
pub struct Failure {
    /// One of [`code`], or a delegated plugin's own.
    pub code: u32,
    /// One line: what was attempted, on what, what to do.
    pub msg: String,
    /// More about it; may be empty.
    pub details: String,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        Self {
            code,
            msg: msg.into(),
            details: String::new(),
        }
    }

    /// A configuration field has an impossible value (code 7).
    pub fn field(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(code::INVALID_CONFIG, format!("{field}: {problem}"))
    }

    /// A configuration field has a value that this plugin does not support (code 2).
    pub fn unsupported(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(code::UNSUPPORTED_FIELD, format!("{field}: {problem}"))
    }

    /// CHECK found that something is missing or different.
    pub fn check(problem: impl Into<String>) -> Self {
        Self::new(code::CHECK_FAILED, problem)
    }

    /// A file could not be read or written (code 5).
    pub fn io(what: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new(code::IO, format!("{what} {}: {error}", path.display()))
    }

    /// The error object for stdout.
    pub fn to_json(&self, version: &str) -> String {
        let mut object = json!({"cniVersion": version, "code": self.code, "msg": self.msg});
        if !self.details.is_empty() {
            object["details"] = self.details.clone().into();
        }
        object.to_string()
    }
}
