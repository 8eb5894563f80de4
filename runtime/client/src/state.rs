//! What `state` and `list` print (OCI runtime specification, "State"; runc's additions).

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A container's status as the runtime names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerStatus {
    /// `create` is under way.
    Creating,
    /// Created, the user's program is not started.
    Created,
    /// Running.
    Running,
    /// The process is gone.
    Stopped,
    /// Frozen.
    Paused,
}

/// The answer of `state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerState {
    /// Version of the OCI specification.
    pub oci_version: String,
    /// The container.
    pub id: String,
    /// Process in the host's pid namespace; 0 or absent when stopped.
    #[serde(default)]
    pub pid: i32,
    /// Its status.
    pub status: ContainerStatus,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root file system (runc prints it, not every runtime does).
    #[serde(default)]
    pub rootfs: PathBuf,
    /// Time of creation, RFC 3339.
    #[serde(default)]
    pub created: String,
    /// The bundle's annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// One row of `list --format json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListEntry {
    /// The container.
    pub id: String,
    /// Its process, 0 when stopped.
    #[serde(default)]
    pub pid: i32,
    /// Its status.
    pub status: ContainerStatus,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Time of creation, RFC 3339.
    #[serde(default)]
    pub created: String,
}
