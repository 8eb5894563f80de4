//! What is known about a container: its id, its record, its status.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use berth_cgroups::systemd::{Instance, Unit};
use berth_spec::Hook;
use serde::{Deserialize, Serialize};

use super::StateError;
use crate::resctrl::Group;

/// A container's id, checked: it names a directory and a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// Accepts what runc accepts: letters, digits, `_`, `+`, `-`, `.`, and neither `.` nor `..`.
    pub fn parse(id: &str) -> Result<Self, StateError> {
        if id.is_empty() {
            return Err(StateError::EmptyId);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_+-.".contains(c);
        if id == "." || id == ".." || !id.chars().all(allowed) {
            return Err(StateError::InvalidId { id: id.to_owned() });
        }
        Ok(Self(id.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is kept about a container from create to delete.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The version of the specification that the state documents comply with.
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// Process id of the init in the runtime's pid namespace.
    pub pid: i32,
    /// Start time of the init in clock ticks after boot (field 22 of proc_pid_stat(5)): together with the pid it
    /// names a process for good, so that a reused pid is never signalled.
    pub start_time: u64,
    /// The bundle's directory, absolute.
    pub bundle: PathBuf,
    /// The root directory, absolute.
    pub rootfs: PathBuf,
    /// Creation time, RFC 3339 with nanoseconds, UTC.
    pub created: String,
    /// The configuration's annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The container's cgroup in each hierarchy: v1 controller, or the empty string for the unified hierarchy.
    #[serde(default)]
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    /// The unit that the cgroup belongs to, if systemd made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<SystemdUnit>,
    /// Whether the container has a pid namespace of its own, so that the end of its init is the end of all.
    pub private_pid_namespace: bool,
    /// For a container without a mount namespace: what was mounted below its root before its own mounts were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounted_before: Option<Vec<PathBuf>>,
    /// The resctrl group, for `linux.intelRdt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intel_rdt: Option<Group>,
    /// What the standard streams of the init were when it was made, as /proc/PID/fd tells: a restored one gets pipes
    /// of its restorer in the place of such pipes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub descriptors: Vec<String>,
    /// The hooks that later verbs run.
    #[serde(default)]
    pub hooks: LaterHooks,
}

/// A unit of systemd's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemdUnit {
    /// Its name.
    pub unit: String,
    /// Whether it belongs to the user's own manager, not to the system's.
    #[serde(default)]
    pub user: bool,
}

impl From<&Unit> for SystemdUnit {
    fn from(unit: &Unit) -> Self {
        Self {
            unit: unit.name.clone(),
            user: unit.instance == Instance::User,
        }
    }
}

impl From<&SystemdUnit> for Unit {
    fn from(stored: &SystemdUnit) -> Self {
        Self {
            name: stored.unit.clone(),
            instance: if stored.user {
                Instance::User
            } else {
                Instance::System
            },
        }
    }
}

/// Hooks that run after the container was created: kept here so that `start` and `delete` need not parse the
/// configuration again.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LaterHooks {
    /// Run by `start`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststart: Vec<Hook>,
    /// Run by `delete`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub poststop: Vec<Hook>,
}

/// Status of a container (runtime-spec runtime.md, plus runc's `paused`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being created; hooks see this.
    Creating,
    /// The init waits for `start`.
    Created,
    /// The user's program was started.
    Running,
    /// The cgroup is frozen.
    Paused,
    /// The init has exited.
    Stopped,
}

impl Status {
    /// The word of the specification.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
