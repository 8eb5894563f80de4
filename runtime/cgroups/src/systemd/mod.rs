//! The systemd driver: a container's cgroup is made by systemd, as a transient scope in a slice.
//!
//! ```text
//! slice:prefix:name ─► Place ──┐
//! annotations ─► properties ───┼─► StartTransientUnit ─► job ─► ControlGroup ─► the cgroup, then as without systemd
//! resources ─► files ─► properties
//! ```
//!
//! systemd owns the scope and delegates what is in it (Delegate=yes). Limits are told to it as properties and then
//! written to the files, which have all of them and exactly. Nothing here is run for a container that does not ask
//! for it. The D-Bus client speaks the few types that this needs; runtime/DESIGN.md has the reason.
//!
//! Source: systemd's "The New Control Group Interfaces", org.freedesktop.systemd1(5), systemd.resource-control(5).

mod annotations;
mod connection;
mod devices;
mod driver;
mod error;
mod message;
mod properties;
mod unit;

pub use connection::Instance;
pub use driver::{Placeholder, Scope};
pub use error::SystemdError;
pub use unit::Unit;
