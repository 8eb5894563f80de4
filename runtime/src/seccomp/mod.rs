//! System call filters (`linux.seccomp`).

use std::path::PathBuf;

/// Who gets the listener's descriptor (config-linux.md, "listenerPath").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The agent's unix socket.
    pub path: PathBuf,
    /// What it is told.
    pub metadata: String,
}

/// A filter, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// `struct sock_filter` in the machine's byte order, at most 4096 of them.
    pub filter: Vec<[u8; 8]>,
    /// SECCOMP_FILTER_FLAG_* for seccomp(2), with NEW_LISTENER if there is a listener.
    pub flags: u32,
    /// The agent for SCMP_ACT_NOTIFY.
    pub listener: Option<Listener>,
    /// Names of system calls that are not known here.
    pub ignored: Vec<String>,
}
