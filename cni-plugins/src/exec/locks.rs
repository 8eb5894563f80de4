//! One operation at a time for a container; no ADD or DEL of a network during its GC.
//!
//! One file for all: byte ranges of open file description locks (fcntl(2), F_OFD_SETLKW) stand for
//! networks and containers, so no lock files remain and threads exclude each other like processes.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
};
use sha2::{Digest as _, Sha256};

use super::ExecError;

/// Networks lock one byte of the first part of the file, containers one of the second.
const CONTAINERS: i64 = 1 << 40;

/// Held for an operation; released when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// The lock file of a cache directory.
#[derive(Debug, Clone)]
pub(super) struct Locks {
    path: PathBuf,
}

fn place(name: &str) -> i64 {
    let digest = Sha256::digest(name.as_bytes());
    digest.iter().take(5).fold(0, |n, b| n << 8 | i64::from(*b))
}

impl Locks {
    pub fn new(dir: &Path) -> Self {
        Self {
            path: dir.join("berth-cni.lock"),
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> ExecError + use<'_> {
        move |source| ExecError::Io {
            what,
            path: self.path.clone(),
            source,
        }
    }

    fn take(&self, kinds: &[(libc::c_int, i64)]) -> Result<Lock, ExecError> {
        if let Some(dir) = self.path.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(self.failed("create the directory of the lock"))?;
        }
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)
            .map_err(self.failed("open the lock"))?;
        for (kind, start) in kinds {
            let range = libc::flock {
                l_type: *kind as libc::c_short,
                l_whence: libc::SEEK_SET as libc::c_short,
                l_start: *start,
                l_len: 1,
                l_pid: 0,
            };
            loop {
                match fcntl(&file, FcntlArg::F_OFD_SETLKW(&range)) {
                    Ok(_) => break,
                    Err(Errno::EINTR) => {}
                    Err(e) => return Err(self.failed("take the lock")(e.into())),
                }
            }
        }
        Ok(Lock { _file: file })
    }

    /// For an operation on one container.
    pub fn container(&self, network: &str, container: &str) -> Result<Lock, ExecError> {
        self.take(&[
            (libc::F_RDLCK, place(network)),
            (libc::F_WRLCK, CONTAINERS + place(container)),
        ])
    }

    /// For an operation on one container by somebody who holds its network.
    pub fn only_container(&self, container: &str) -> Result<Lock, ExecError> {
        self.take(&[(libc::F_WRLCK, CONTAINERS + place(container))])
    }

    /// For GC of a network: no operation on any of its containers.
    pub fn network(&self, network: &str) -> Result<Lock, ExecError> {
        self.take(&[(libc::F_WRLCK, place(network))])
    }
}
