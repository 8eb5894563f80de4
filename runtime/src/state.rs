//! Where a container's record lives, and what status follows from it.
//!
//! `<root>/<id>/` holds `state.json` (the [`Record`], written once, atomically, when the init is ready), `config.json`
//! (the configuration the container was created from) and the gate that the init waits at until `start`.
//! The status is derived from the record, the init process and the gate each time it is asked for, never stored.
//! Verbs that change a container hold an exclusive lock (flock(2)) on the directory itself; readers need none,
//! since the record only appears by rename(2).

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use berth_cgroups::systemd::{Instance, Unit};
use berth_spec::Hook;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::resctrl::Group;

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

/// A container's directory, held exclusively until dropped.
#[derive(Debug)]
pub struct LockedDir {
    path: PathBuf,
    lock: Flock<OwnedFd>,
    identity: Identity,
}

/// A container's directory that was locked before, and may be locked again without looking for it.
#[derive(Debug)]
pub struct ReleasedDir {
    path: PathBuf,
    dir: OwnedFd,
    identity: Identity,
}

/// Device and inode: which directory it is, whatever its name.
type Identity = (u64, u64);

impl ReleasedDir {
    /// `Ok(None)` when the directory of that name is not this one any more, since the container was deleted.
    pub fn lock(self, id: &ContainerId) -> Result<Option<LockedDir>, StateError> {
        let Self { path, dir, identity } = self;
        let deadline = Instant::now() + LOCK_WAIT;
        let lock = wait_for_lock(dir, &path, id, deadline)?;
        Ok(is_still(&path, identity).then_some(LockedDir { path, lock, identity }))
    }
}

impl LockedDir {
    /// `Ok(None)` when there is no such directory (any more).
    fn lock(path: PathBuf, id: &ContainerId) -> Result<Option<Self>, StateError> {
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            let dir = match OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC | libc::O_NOFOLLOW)
                .open(&path)
            {
                Ok(dir) => dir,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(source) => return Err(StateError::io("open", &path, source)),
            };
            let opened = dir
                .metadata()
                .map_err(|source| StateError::io("stat", &path, source))?;
            let identity = (opened.dev(), opened.ino());
            let lock = wait_for_lock(dir.into(), &path, id, deadline)?;
            // The holder before us may have been a delete: then this is not the directory of that name.
            if is_still(&path, identity) {
                return Ok(Some(Self { path, lock, identity }));
            }
        }
    }

    /// Lets others have it. `None` if the kernel refuses, and the lock ends all the same.
    pub fn release(self) -> Option<ReleasedDir> {
        let Self { path, lock, identity } = self;
        let dir = lock.unlock().ok()?;
        Some(ReleasedDir { path, dir, identity })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the configuration's copy.
    pub fn write_config(&self, config: &[u8]) -> Result<(), StateError> {
        let path = self.path.join(CONFIG_FILE);
        write_new(&path, config, 0o600)
    }

    /// Puts another configuration in the copy's place, so that a reader sees the one or the other.
    pub fn replace_config(&self, config: &[u8]) -> Result<(), StateError> {
        let prepared = self.path.join(PREPARED_CONFIG);
        write_new(&prepared, config, 0o600)?;
        fs::rename(&prepared, self.path.join(CONFIG_FILE))
            .map_err(|source| StateError::io("rename", &prepared, source))
    }

    /// Writes the record so that a reader sees all of it or nothing.
    pub fn write_record(&self, record: &Record) -> Result<(), StateError> {
        self.prepare_record(record)?;
        self.publish_record()
    }

    /// Writes the record where nobody reads it yet.
    pub fn prepare_record(&self, record: &Record) -> Result<(), StateError> {
        let text = serde_json::to_vec(record).map_err(|source| StateError::Corrupt {
            path: self.path.join(STATE_FILE),
            source,
        })?;
        write_new(&self.path.join(PREPARED_FILE), &text, 0o600)
    }

    /// Makes the prepared record the container's: from now on it exists for other commands.
    pub fn publish_record(&self) -> Result<(), StateError> {
        let prepared = self.path.join(PREPARED_FILE);
        fs::rename(&prepared, self.path.join(STATE_FILE))
            .map_err(|source| StateError::io("rename", &prepared, source))
    }

    /// Takes the container's directory away; its id is free again.
    pub fn remove(self) -> Result<(), StateError> {
        // What is nearly always all there is; its absence is no error.
        for name in [STATE_FILE, CONFIG_FILE] {
            let _ = unlinkat(&*self.lock, name, UnlinkatFlags::NoRemoveDir);
        }
        let removed = fs::remove_dir(&self.path).or_else(|error| match error.kind() {
            io::ErrorKind::DirectoryNotEmpty => fs::remove_dir_all(&self.path),
            _ => Err(error),
        });
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StateError::io("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }
}

fn is_still(path: &Path, identity: Identity) -> bool {
    fs::symlink_metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == identity)
}

/// flock(2) with an end to the waiting.
fn wait_for_lock(
    mut dir: OwnedFd,
    path: &Path,
    id: &ContainerId,
    deadline: Instant,
) -> Result<Flock<OwnedFd>, StateError> {
    loop {
        let errno;
        (dir, errno) = match Flock::lock(dir, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err(refused) => refused,
        };
        match errno {
            Errno::EINTR => {}
            Errno::EWOULDBLOCK if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
            Errno::EWOULDBLOCK => return Err(StateError::Busy { id: id.to_string() }),
            errno => return Err(StateError::io("lock", path, errno.into())),
        }
    }
}

fn write_new(path: &Path, text: &[u8], mode: u32) -> Result<(), StateError> {
    let write = || -> io::Result<()> {
        let mut file: File = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(path)?;
        file.write_all(text)
    };
    write().map_err(|source| StateError::io("write", path, source))
}

/// The instant as Go prints it with `time.RFC3339Nano` in UTC: nanoseconds without trailing zeros.
pub fn rfc3339(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days);
    let mut text = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    if since.subsec_nanos() != 0 {
        let fraction = format!(".{:09}", since.subsec_nanos());
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Date of a day counted from 1970-01-01, by the 400-year cycle of the Gregorian calendar with years that begin in
/// March, so that the leap day is a year's last.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn dates_are_gregorian() {
        let at = |seconds, nanos| rfc3339(UNIX_EPOCH + Duration::new(seconds, nanos));
        assert_eq!(at(0, 0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399, 120_000_000), "2000-02-28T23:59:59.12Z");
        assert_eq!(at(951_782_400, 1), "2000-02-29T00:00:00.000000001Z");
        assert_eq!(at(1_735_689_599, 0), "2024-12-31T23:59:59Z");
        assert_eq!(at(4_107_542_400, 0), "2100-03-01T00:00:00Z");
    }
}
