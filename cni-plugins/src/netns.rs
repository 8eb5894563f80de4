//! Network namespaces, reached by path.
//!
//! A plugin is a process of one thread, so it may step into a namespace and back (setns(2)).
//! Nothing here is used by `exec`, which runs inside berthd.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::FsType,
};

use crate::protocol::{Failure, code};

/// The calling thread's own network namespace.
const OWN: &str = "/proc/thread-self/ns/net";

/// NSFS_MAGIC of include/uapi/linux/magic.h: the file system of namespace files.
const NSFS: FsType = FsType(0x6e73_6673);

/// An open network namespace.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    path: PathBuf,
}

impl NetNs {
    /// Opens the namespace at `path`; absent when nothing is there (any more) or when the file is not a
    /// namespace: what remains of a bind mount after the namespace went away.
    pub fn find(path: &Path) -> Result<Option<Self>, Failure> {
        match File::open(path) {
            Ok(file) => {
                let is_namespace =
                    nix::sys::statfs::fstatfs(&file).is_ok_and(|s| s.filesystem_type() == NSFS);
                Ok(is_namespace.then(|| Self {
                    file,
                    path: path.to_owned(),
                }))
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            // /proc/<pid>/ns/net of a process that just exited.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            Err(e) => Err(Failure::io("open network namespace", path, &e)),
        }
    }

    /// Opens the namespace at `path`, which must be there.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        Self::find(path)?.ok_or_else(|| {
            Failure::new(
                code::UNKNOWN_CONTAINER,
                format!("CNI_NETNS: {} is not a network namespace", path.display()),
            )
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The descriptor, for IFLA_NET_NS_FD.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Runs `work` inside the namespace and comes back.
    pub fn within<T>(&self, work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let own =
            File::open(OWN).map_err(|e| Failure::io("open own network namespace", Path::new(OWN), &e))?;
        let enter = |file: &File, path: &Path| {
            setns(file, CloneFlags::CLONE_NEWNET)
                .map_err(|e| Failure::io("enter network namespace", path, &io::Error::from(e)))
        };
        enter(&self.file, &self.path)?;
        let result = work();
        enter(&own, Path::new(OWN))?;
        result
    }
}

/// Whether `path` is the network namespace of the calling thread.
pub fn is_own(path: &Path) -> bool {
    match (std::fs::metadata(path), std::fs::metadata(OWN)) {
        (Ok(a), Ok(b)) => a.dev() == b.dev() && a.ino() == b.ino(),
        _ => false,
    }
}
