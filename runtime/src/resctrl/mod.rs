//! `linux.intelRdt`: shares of the last cache and of the memory bandwidth, by a group in the resctrl file system
//! (Documentation/filesystems/resctrl.rst; runtime-spec config-linux.md, "IntelRdt"). Intel's RDT and AMD's QoS alike.
//!
//! A group is a folder below the file system's root: its `tasks` are the processes in it, its `schemata` their shares,
//! `mon_groups/NAME` counts for some of them.

mod schemata;
mod stats;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_spec::LinuxIntelRdt;
use nix::sys::statfs::statfs;
use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use stats::{BandwidthInfo, CacheInfo, Occupancy, Stats, Traffic};

/// Where resctrl is by custom.
const MOUNT_POINT: &str = "/sys/fs/resctrl";

/// `RDTGROUP_SUPER_MAGIC` (include/uapi/linux/magic.h).
const MAGIC: i64 = 0x0765_5821;

/// Why a container's resctrl group could not be had.
#[derive(Debug, Error)]
pub enum ResctrlError {
    /// A group that nothing is asked of must be there already (config-linux.md).
    #[error(
        "linux.intelRdt.closID: there is no group {}: make it beforehand, or set schemata, l3CacheSchema or memBwSchema",
        path.display()
    )]
    NoGroup {
        /// The group.
        path: PathBuf,
    },
    /// A group that somebody else made has other shares.
    #[error("{field}: {wanted:?} does not match the schemata of the existing group {}: {found:?}", path.display())]
    Mismatch {
        /// The field.
        field: &'static str,
        /// Its value.
        wanted: String,
        /// The group's schemata.
        found: String,
        /// The group.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("linux.intelRdt: cannot {action} {}{}", path.display(), status(last_status))]
    Io {
        /// What was attempted, such as `write`.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's explanation, from info/last_cmd_status.
        last_status: String,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `update` of a container without a group.
    #[error("updating a non-existent Intel RDT configuration is not supported")]
    NotConfigured,
}

fn status(last: &str) -> String {
    if last.is_empty() || last == "ok" {
        String::new()
    } else {
        format!(" (last_cmd_status: {last})")
    }
}

/// A mounted resctrl file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resctrl {
    root: PathBuf,
}

impl Resctrl {
    /// Uses the file system at `root`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The mounted one, if there is any: at its usual place, else wherever /proc/self/mountinfo shows it.
    pub fn find() -> Option<Self> {
        let usual = statfs(MOUNT_POINT).ok()?;
        #[allow(
            clippy::useless_conversion,
            reason = "the type of f_type depends on the architecture"
        )]
        if i64::from(usual.filesystem_type().0) == MAGIC {
            return Some(Self::at(MOUNT_POINT));
        }
        // The folder is there, so this kernel has resctrl.
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        mounted(&mounts).map(Self::at)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether the cache can be shared out (CAT).
    pub fn has_cache(&self) -> bool {
        self.root.join("info/L3").is_dir()
    }

    /// Whether memory bandwidth can be shared out (MBA).
    pub fn has_bandwidth(&self) -> bool {
        self.root.join("info/MB").is_dir()
    }

    fn fail(&self, action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResctrlError {
        let (root, path) = (self.root.clone(), path.to_path_buf());
        move |source| {
            let last = fs::read_to_string(root.join("info/last_cmd_status")).unwrap_or_default();
            ResctrlError::Io {
                action,
                path,
                last_status: last.trim().to_owned(),
                source,
            }
        }
    }

    /// Makes a folder; true if it is new.
    fn make(&self, path: &Path) -> Result<bool, ResctrlError> {
        match fs::create_dir(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(self.fail("create", path)(error)),
        }
    }

    fn write(&self, path: &Path, value: &str) -> Result<(), ResctrlError> {
        let written = fs::OpenOptions::new().write(true).open(path);
        written
            .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()))
            .map_err(self.fail("write", path))
    }

    fn remove(&self, path: &Path) -> Result<(), ResctrlError> {
        match fs::remove_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.fail("remove", path)(error)),
            _ => Ok(()),
        }
    }
}

/// The mount point of the first resctrl in a mountinfo (proc_pid_mountinfo(5)).
fn mounted(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (fields, rest) = line.split_once(" - ")?;
        (rest.split(' ').next() == Some("resctrl")).then(|| fields.split(' ').nth(4).map(PathBuf::from))?
    })
}

/// A container's group, as its record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The file system's root.
    root: PathBuf,
    /// The group's folder.
    path: PathBuf,
    /// The folder that counts for this container alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    monitor: Option<PathBuf>,
    /// Whether the group is the container's own: named after it, and made for it.
    own: bool,
}

impl Group {
    /// Makes the group that `asked` describes, for the container `id`, with its shares. What was made is taken away
    /// again on failure.
    ///
    /// # Errors
    /// [`ResctrlError`].
    pub fn create(resctrl: &Resctrl, asked: &LinuxIntelRdt, id: &str) -> Result<Self, ResctrlError> {
        let name = asked.clos_id().as_deref().filter(|name| !name.is_empty());
        let path = match name {
            Some("/") => resctrl.root.clone(),
            name => resctrl.root.join(name.unwrap_or(id)),
        };
        let lines = schemata::lines(asked);
        if name.is_some() && lines.is_empty() && !path.is_dir() {
            return Err(ResctrlError::NoGroup { path });
        }
        let made = name != Some("/") && resctrl.make(&path)?;
        let mut group = Self {
            root: resctrl.root.clone(),
            path,
            monitor: None,
            own: made && name.is_none(),
        };
        let filled = if made || name.is_none() {
            group.write_schemata(&lines)
        } else {
            group.compare(&lines)
        };
        let ready = filled.and_then(|()| {
            if asked.enable_monitoring().is_some_and(|on| on) {
                let monitor = group.path.join("mon_groups").join(id);
                resctrl.make(&monitor)?;
                group.monitor = Some(monitor);
            }
            Ok(())
        });
        match ready {
            Ok(()) => Ok(group),
            Err(error) => {
                if made {
                    // Best effort: the error that led here is the one to tell.
                    let _ = resctrl.remove(&group.path);
                }
                Err(error)
            }
        }
    }

    fn resctrl(&self) -> Resctrl {
        Resctrl::at(&self.root)
    }

    fn write_schemata(&self, lines: &[(&'static str, &str)]) -> Result<(), ResctrlError> {
        if lines.is_empty() {
            return Ok(());
        }
        let text = lines
            .iter()
            .fold(String::new(), |text, (_, line)| text + line + "\n");
        self.resctrl().write(&self.path.join("schemata"), &text)
    }

    /// A group that was there before must have what is asked for (config-linux.md).
    fn compare(&self, lines: &[(&'static str, &str)]) -> Result<(), ResctrlError> {
        if lines.is_empty() {
            return Ok(());
        }
        let file = self.path.join("schemata");
        let present = fs::read_to_string(&file).map_err(self.resctrl().fail("read", &file))?;
        match lines.iter().find(|(_, line)| !schemata::holds(&present, line)) {
            None => Ok(()),
            Some((field, line)) => Err(ResctrlError::Mismatch {
                field,
                wanted: (*line).to_owned(),
                found: present.trim().replace('\n', ", "),
                path: self.path.clone(),
            }),
        }
    }

    /// Puts a process into the group.
    ///
    /// # Errors
    /// [`ResctrlError::Io`].
    pub fn add(&self, pid: i32) -> Result<(), ResctrlError> {
        let folders = std::iter::once(&self.path).chain(&self.monitor);
        for folder in folders {
            self.resctrl().write(&folder.join("tasks"), &pid.to_string())?;
        }
        Ok(())
    }

    /// The same for a process that joins the container later: if the group is gone, there is nothing to join.
    ///
    /// # Errors
    /// [`ResctrlError::Io`].
    pub fn add_if_there(&self, pid: i32) -> Result<(), ResctrlError> {
        if self.path.is_dir() { self.add(pid) } else { Ok(()) }
    }

    /// Gives the group other shares.
    ///
    /// # Errors
    /// [`ResctrlError::Io`].
    pub fn update(&self, cache: Option<&str>, bandwidth: Option<&str>) -> Result<(), ResctrlError> {
        let lines: Vec<_> = [("--l3-cache-schema", cache), ("--mem-bw-schema", bandwidth)]
            .into_iter()
            .filter_map(|(field, line)| Some((field, line?)))
            .collect();
        self.write_schemata(&lines)
    }

    /// Takes away what was made for the container alone.
    ///
    /// # Errors
    /// [`ResctrlError::Io`].
    pub fn delete(&self) -> Result<(), ResctrlError> {
        if self.own {
            // Its monitoring groups go with it.
            return self.resctrl().remove(&self.path);
        }
        self.monitor
            .as_ref()
            .map_or(Ok(()), |monitor| self.resctrl().remove(monitor))
    }
}
