//! Checkpoint and restore by CRIU: its program is started as `criu swrk FD` and asked over a socket (images/rpc.proto
//! of CRIU, <https://criu.org/RPC>).
//!
//! ```text
//! berth                                   criu swrk
//!   │ request (DUMP, RESTORE, …; options) ──►│
//!   │◄── NOTIFY "setup-namespaces", pid      │ the namespaces are there, no process runs in them
//!   │ (loopback, hooks)                      │
//!   │ NOTIFY, success ──────────────────────►│
//!   │◄── NOTIFY …                            │
//!   │◄── response, pid of the first process  │ which becomes berth's child (rst_sibling)
//! ```

mod error;
mod log;
mod message;
mod protobuf;
mod session;

/// Name of the file in an image's folder that tells what the standard streams were: an array of link texts.
pub const DESCRIPTORS: &str = "descriptors.json";

pub use error::CriuError;
pub use log::quote;
pub use message::{Kind, Response, field};
pub use protobuf::{Malformed, Message};
pub use session::{Event, Session, Version, check_feature, version};
