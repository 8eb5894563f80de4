//! Low-level OCI runtime with runc's command line.
//!
//! One straight line from `config.json` to execve(2): [`bundle`] opens, [`validate`] checks, `plan` decides,
//! `launch` and `init` do. Beside the line: [`commands`] (a file a verb), [`state`], [`hooks`], [`log`], [`error`].

pub mod annotations;
pub mod bundle;
pub mod commands;
pub mod container;
pub mod criu;
pub mod error;
pub mod hooks;
pub mod host;
pub mod host_mounts;
pub mod launch;
pub mod log;
pub mod name;
pub mod notify;
mod placement;
pub mod plan;
mod process;
pub mod resctrl;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod supervise;
pub mod validate;
pub mod wire;

// The tiny init is a program of its own (build.rs); as modules of this crate its parts can be tested and linted.
#[cfg(any(test, clippy, feature = "fuzz"))]
use berth_sys::raw as sys;
#[cfg(any(test, clippy, feature = "fuzz"))]
#[allow(dead_code)]
mod init;

#[cfg(any(test, clippy, feature = "fuzz"))]
pub mod fuzz;
