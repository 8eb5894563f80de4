//! A container's directory, which is also its lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{
    CONFIG_FILE, ContainerId, LOCK_WAIT, PREPARED_CONFIG, PREPARED_FILE, Record, STATE_FILE, StateError,
};

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
    pub(super) fn lock(path: PathBuf, id: &ContainerId) -> Result<Option<Self>, StateError> {
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
