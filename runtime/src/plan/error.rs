//! Why a configuration cannot be planned. `validate` finds most mistakes before; these depend on the host, or
//! would be found by nobody else.

use std::path::PathBuf;

use thiserror::Error;

/// Why a configuration cannot be planned.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum PlanError {
    /// A string of the configuration has a NUL, which no path or argument can have.
    #[error("{field}: contains a NUL character: remove it")]
    Nul {
        /// The field.
        field: &'static str,
    },
    /// The configuration asks for something that only a mount namespace can give.
    #[error(
        "{field}: needs a mount namespace of the container's own: add {{\"type\": \"mount\"}} to linux.namespaces"
    )]
    NeedsMountNamespace {
        /// The field.
        field: &'static str,
    },
    /// A mount lacks what its type needs.
    #[error("mounts: {}: {reason}", destination.display())]
    Mount {
        /// Where it was to go.
        destination: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A word of the configuration is not known.
    #[error("{field}: unknown value {value:?}: use one of those of runtime-spec")]
    Unknown {
        /// The field.
        field: &'static str,
        /// The word.
        value: String,
    },
    /// A list of processors or memory nodes does not parse.
    #[error("{field}: {value:?} is no list such as 0-3,7")]
    List {
        /// The field.
        field: &'static str,
        /// The text.
        value: String,
    },
    /// A terminal, but nobody to take its other end.
    #[error("process.terminal: is true, but there is no socket for the terminal: pass --console-socket")]
    NoConsole,
    /// A namespace by path that CRIU cannot restore a container into.
    #[error("linux.namespaces: a {kind} namespace by path ({}) cannot be restored into: leave its path out", path.display())]
    Unrestorable {
        /// Its kind.
        kind: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// No process, or no arguments.
    #[error("process.args: must name a program")]
    NoProgram,
}
