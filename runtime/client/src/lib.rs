//! Drives any runc-compatible runtime binary (berth, runc, crun, Kata) by executing it.
//!
//! The runtime forks, so everybody else reaches it by `exec`, through this crate: that is also what
//! makes another runtime binary a drop-in. Blocking, no threads, no asynchronous runtime: the monitor
//! of a pod uses it and has less than a mebibyte.
//!
//! ```text
//! Runtime ──verb──▶ Invocation ──run()────────────────────▶ Result<output, Error>      waits
//!                        └──────spawn()──▶ Pending ──finish(status)──▶ Result<(), Error>   the caller waits
//! ```
//!
//! `Pending` exists for callers with an event loop of their own, who reap children themselves.
//!
//! [`protocol`] is what `berthd` and `berth-monitor` say to each other; it lives here because this is
//! the one crate that both depend on.

mod error;
mod invoke;
pub mod protocol;
mod runtime;
mod state;

pub use error::{Error, Failure};
pub use invoke::{Invocation, Pending};
pub use runtime::{CheckpointOptions, CreateOptions, ExecOptions, RestoreOptions, Runtime};
pub use state::{ContainerState, ContainerStatus, ListEntry};
