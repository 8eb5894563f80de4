//! What can go wrong with a cgroup.

use std::path::PathBuf;

use nix::errno::Errno;

use crate::systemd::SystemdError;

/// A cgroup operation failed; the message says what was attempted, on what, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The path has the systemd form, which the cgroupfs driver cannot create.
    #[error(
        "linux.cgroupsPath {path:?} has the systemd form slice:prefix:name, which needs the systemd cgroup \
         driver; use --systemd-cgroup, or give a path such as /slice/name"
    )]
    SystemdPath {
        /// The path as configured.
        path: String,
    },
    /// systemd was asked and did not do it.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// A system call on a cgroup directory or file failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// The kernel refused a limit's value.
    #[error("{field}: cannot write {value:?} to {}{hint}", path.display())]
    Write {
        /// The field of the configuration.
        field: String,
        /// The file.
        path: PathBuf,
        /// The value.
        value: String,
        /// What the answer means for this file, if that is known; starts with a space.
        hint: String,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// A limit needs a controller that this host does not offer to the container.
    #[error(
        "{field}: the {controller} controller is not available ({reason}); enable it or remove the limit"
    )]
    MissingController {
        /// The field of the configuration.
        field: String,
        /// The controller.
        controller: String,
        /// What is there instead, or why it could not be enabled.
        reason: String,
    },
    /// The controller is there, but this kernel lacks the file that the field needs.
    #[error("{field}: this kernel has no {}; remove the setting or use a kernel that has it", path.display())]
    MissingFile {
        /// The field of the configuration.
        field: String,
        /// The file.
        path: PathBuf,
    },
    /// A value that no kernel would take.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the configuration.
        field: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// The path is taken by a cgroup with processes in it.
    #[error("container's cgroup is not empty: {count} process(es) in {}: choose another linux.cgroupsPath or stop them", path.display())]
    NotEmpty {
        /// The cgroup.
        path: PathBuf,
        /// How many processes are in it.
        count: usize,
    },
    /// The path is taken by a cgroup that is frozen: the container's first process would never run.
    #[error("container's cgroup unexpectedly frozen: thaw {} or choose another linux.cgroupsPath", path.display())]
    Frozen {
        /// The cgroup.
        path: PathBuf,
    },
    /// A v2 cgroup that is threaded, or below one, cannot have domain controllers (cgroups(7), "Thread mode").
    #[error("cgroup {} is in mode {mode:?} and cannot hold a container; use a linux.cgroupsPath whose parents are not threaded", path.display())]
    Threaded {
        /// The cgroup.
        path: PathBuf,
        /// The content of cgroup.type.
        mode: String,
    },
    /// The cgroup still holds processes.
    #[error("cgroup {} still has processes ({}); kill them first", path.display(), pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Busy {
        /// The cgroup.
        path: PathBuf,
        /// Some of the processes.
        pids: Vec<u32>,
    },
    /// The device filter could not be put in place.
    #[error("linux.resources.devices: cannot {action} the device filter for {}", path.display())]
    DeviceFilter {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: Errno,
    },
    /// Freezing or thawing did not finish in time.
    #[error("cgroup {} did not become {wanted} in {seconds} s; it says {found:?}", path.display())]
    FreezeTimeout {
        /// The cgroup.
        path: PathBuf,
        /// "frozen" or "thawed".
        wanted: &'static str,
        /// What it said at last.
        found: String,
        /// How long was waited.
        seconds: u64,
    },
}

impl CgroupError {
    /// The field of the configuration that could not be had, such as `linux.resources.memory.limit`.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Write { field, .. }
            | Self::MissingController { field, .. }
            | Self::MissingFile { field, .. }
            | Self::Invalid { field, .. } => Some(field),
            Self::DeviceFilter { .. } => Some("linux.resources.devices"),
            _ => None,
        }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(Errno) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Whether the caller lacks a right, or the place is not writable for anybody.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Io { source, .. } | Self::Write { source, .. } | Self::DeviceFilter { source, .. } => {
                matches!(source, Errno::EACCES | Errno::EPERM | Errno::EROFS)
            }
            _ => false,
        }
    }

    pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid {
            field: field.into(),
            reason: reason.into(),
        }
    }
}
