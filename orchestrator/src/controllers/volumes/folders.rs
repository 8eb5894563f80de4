//! The folders of Berth's own provisioner. Everything here blocks.
//!
//! A folder has no limit of its size; `capacity` is what the claim has asked for, and what quotas count.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Why a folder could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The system's refusal.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// Something is mounted in it.
    #[error("{} is not removed: {} is mounted in it; unmount that first", path.display(), mount.display())]
    Mounted {
        /// The folder.
        path: PathBuf,
        /// The place of the mount.
        mount: PathBuf,
    },
    /// It is none of ours.
    #[error(
        "only folders that berthd has made are removed: empty {} yourself and delete the volume, or set its reclaim policy to Retain", path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
}

impl FolderError {
    /// The whole story in one line.
    pub fn chain(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

fn fail(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FolderError + use<> {
    let path = path.to_owned();
    move |source| FolderError::File { action, path, source }
}

/// Makes the folder of a volume, for any user to write to; it is on the disk when this returns. Can be repeated.
///
/// # Errors
/// [`FolderError::File`].
pub fn make(folders: &Path, name: &str) -> Result<PathBuf, FolderError> {
    let path = folders.join(name);
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folders)
        .map_err(fail("make", folders))?;
    match std::fs::create_dir(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => {
            made.map_err(fail("make", &path))?;
            // Not by the mode of mkdir, which the umask cuts.
            std::fs::set_permissions(&path, Permissions::from_mode(0o777)).map_err(fail("make", &path))?;
        }
    }
    for dir in [&path, folders] {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(fail("write to the disk", dir))?;
    }
    Ok(path)
}

/// Removes the folder of a volume with everything in it, if it is one of ours. Can be repeated. Links are not followed.
///
/// # Errors
/// [`FolderError`].
pub fn remove(folders: &Path, name: &str, path: &Path) -> Result<(), FolderError> {
    if path != folders.join(name) {
        return Err(FolderError::Foreign {
            path: path.to_owned(),
        });
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(fail("read", Path::new("/proc/self/mountinfo")))?;
    if let Some(mount) = mount_in(&mounts, path) {
        return Err(FolderError::Mounted {
            path: path.to_owned(),
            mount,
        });
    }
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("remove", path)(error)),
        _ => Ok(()),
    }
}

/// A mount in the folder or on it (proc(5), mountinfo: the fifth field, with octal escapes).
fn mount_in(mountinfo: &str, path: &Path) -> Option<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|field| PathBuf::from(unescaped(field)))
        .find(|mount| mount.starts_with(path))
}

fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, plain)| {
            text.replace(escape, plain)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_and_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let folders = dir.path().join("volumes");
        let path = make(&folders, "pvc-1").unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o777);
        std::fs::create_dir_all(path.join("a/b")).unwrap();
        std::fs::write(dir.path().join("kept"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), path.join("a/link")).unwrap();
        assert_eq!(make(&folders, "pvc-1").unwrap(), path);
        assert!(path.join("a/b").exists(), "making it again leaves it as it is");
        assert!(matches!(
            remove(&folders, "pvc-1", dir.path()),
            Err(FolderError::Foreign { .. })
        ));
        for _ in 0..2 {
            remove(&folders, "pvc-1", &path).unwrap();
            assert!(!path.exists() && dir.path().join("kept").exists());
        }
    }

    #[test]
    fn mounts_are_seen() {
        let line = |place: &str| format!("36 35 98:0 / {place} rw,noatime master:1 - ext3 /dev/root rw\n");
        let path = Path::new("/var/lib/berth/volumes/pvc-1");
        let found = mount_in(&line("/var/lib/berth/volumes/pvc-1/my\\040disk"), path);
        assert_eq!(found.unwrap(), path.join("my disk"));
        assert!(mount_in(&line("/var/lib/berth/volumes/pvc-12"), path).is_none());
    }
}
