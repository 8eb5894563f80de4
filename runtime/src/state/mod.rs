//! Where a container's record lives, and what status follows from it.
//!
//! `<root>/<id>/` holds `state.json` (the [`Record`], written once, atomically, when the init is ready), `config.json`
//! (the configuration the container was created from) and the gate that the init waits at until `start`.
//! The status is derived from the record, the init process and the gate each time it is asked for, never stored.
//! Verbs that change a container hold an exclusive lock (flock(2)) on the directory itself; readers need none,
//! since the record only appears by rename(2).

mod date;
mod directory;
mod record;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

pub use date::rfc3339;
pub use directory::{LockedDir, ReleasedDir};
pub use record::{ContainerId, LaterHooks, Record, Status, SystemdUnit};

/// Name of the record in a container's directory.
pub const STATE_FILE: &str = "state.json";
/// A record on its way to become [`STATE_FILE`].
const PREPARED_FILE: &str = ".state.json";
/// Name of the copy of the configuration in a container's directory.
pub const CONFIG_FILE: &str = "config.json";
/// A configuration on its way to become [`CONFIG_FILE`].
const PREPARED_CONFIG: &str = ".config.json";

/// Name of the gate in a container's directory: the socket at which an init waits between create and start.
pub const GATE: &str = "start.sock";

/// How long a verb waits for another verb on the same container.
const LOCK_WAIT: Duration = Duration::from_secs(30);

/// Why a container's state could not be used. Texts that engines match are runc's.
#[derive(Debug, Error)]
pub enum StateError {
    /// The id is empty.
    #[error("container id cannot be empty")]
    EmptyId,
    /// The id has a character that an id may not have.
    #[error("invalid container ID format: {id:?}: use only letters, digits, '_', '+', '-' and '.'")]
    InvalidId {
        /// The id given.
        id: String,
    },
    /// There is no such container.
    #[error("container does not exist")]
    NotExist,
    /// The id is taken.
    #[error("container with given ID already exists")]
    Exists,
    /// Another verb holds the container for too long.
    #[error("container {id}: another command has been working on it for {} s: wait for that command or end it", LOCK_WAIT.as_secs())]
    Busy {
        /// The container.
        id: String,
    },
    /// The record cannot be parsed.
    #[error("{}: not a container record of this runtime: remove the container with `delete --force`", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        #[source]
        source: serde_json::Error,
    },
    /// A file operation failed.
    #[error("{} {}", attempted, path.display())]
    Io {
        /// What was attempted, such as `create`.
        attempted: &'static str,
        /// On which path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    fn io(attempted: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            attempted,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// The directory under which all containers of one `--root` live.
#[derive(Debug, Clone)]
pub struct StateRoot {
    path: PathBuf,
}

impl StateRoot {
    /// Uses `path`, which need not exist yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory of one container, existing or not.
    pub fn dir_of(&self, id: &ContainerId) -> PathBuf {
        self.path.join(id.as_str())
    }

    /// Takes an id: makes the container's directory and returns it locked.
    pub fn create(&self, id: &ContainerId) -> Result<LockedDir, StateError> {
        let path = self.dir_of(id);
        let make = || DirBuilder::new().mode(0o711).create(&path);
        let made = match make() {
            // The first container: the root is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_root(&self.path)?;
                make()
            }
            result => result,
        };
        made.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => StateError::Exists,
            _ => StateError::io("create", &path, source),
        })?;
        // Between mkdir and flock a `delete --force` may take the directory away: then the id was lost, not taken.
        LockedDir::lock(path, id)?.ok_or(StateError::NotExist)
    }

    /// Locks an existing container's directory, waiting for a verb that works on it.
    pub fn lock(&self, id: &ContainerId) -> Result<LockedDir, StateError> {
        LockedDir::lock(self.dir_of(id), id)?.ok_or(StateError::NotExist)
    }

    /// Reads a container's record.
    pub fn load(&self, id: &ContainerId) -> Result<Record, StateError> {
        let path = self.dir_of(id).join(STATE_FILE);
        let text = berth_sys::files::read_file(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StateError::NotExist,
            _ => StateError::io("read", &path, source),
        })?;
        serde_json::from_slice(&text).map_err(|source| StateError::Corrupt { path, source })
    }

    /// Names of all directories under this root in byte order, with their owner's user id. They need not be
    /// containers. `Ok(None)` when the root does not exist.
    pub fn entries(&self) -> Result<Option<Vec<(String, u32)>>, StateError> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::io("open", &self.path, source)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|source| StateError::io("read", &self.path, source))?;
            // A container deleted meanwhile is no container.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                names.push((entry.file_name().to_string_lossy().into_owned(), metadata.uid()));
            }
        }
        names.sort();
        Ok(Some(names))
    }
}

/// The root must be traversable by container users (the state directory is 0711), writable only by its owner.
fn make_root(path: &Path) -> Result<(), StateError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| StateError::io("create", path, source))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::UNIX_EPOCH;

    use super::*;

    fn record(id: &str) -> Record {
        Record {
            oci_version: "1.2.0".into(),
            id: id.into(),
            pid: 1,
            start_time: 2,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: rfc3339(UNIX_EPOCH),
            annotations: BTreeMap::new(),
            cgroup_paths: BTreeMap::new(),
            systemd: None,
            private_pid_namespace: true,
            mounted_before: None,
            intel_rdt: None,
            descriptors: Vec::new(),
            hooks: LaterHooks::default(),
        }
    }

    #[test]
    fn ids_are_what_runc_accepts() {
        for good in ["a", "a.b", "A-1_2+3", "...", "-x"] {
            assert!(ContainerId::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", "a\0"] {
            assert!(ContainerId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_record_survives_and_its_id_is_taken_until_removed() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::new(dir.path().join("root"));
        let id = ContainerId::parse("one").unwrap();
        assert!(matches!(root.load(&id), Err(StateError::NotExist)));
        let locked = root.create(&id).unwrap();
        assert!(matches!(root.create(&id), Err(StateError::Exists)));
        assert!(
            matches!(root.load(&id), Err(StateError::NotExist)),
            "no record before it is written"
        );
        locked.write_record(&record("one")).unwrap();
        assert_eq!(root.load(&id).unwrap().start_time, 2);
        assert_eq!(root.entries().unwrap().unwrap()[0].0, "one");
        locked.remove().unwrap();
        assert!(matches!(root.lock(&id), Err(StateError::NotExist)));
    }

    #[test]
    fn a_waiting_verb_does_not_get_a_removed_directory() {
        let dir = tempfile::tempdir().unwrap();
        let root = StateRoot::new(dir.path());
        let id = ContainerId::parse("one").unwrap();
        let locked = root.create(&id).unwrap();
        let (other, other_id) = (root.clone(), id.clone());
        let waiter = std::thread::spawn(move || other.lock(&other_id).map(|_| ()));
        locked.remove().unwrap();
        assert!(matches!(waiter.join().unwrap(), Err(StateError::NotExist)));
    }
}
