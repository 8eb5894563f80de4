//! A cgroup directory: its path, and a descriptor that is opened at the first use and kept.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::dir::{Dir as DirStream, Type};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{read, write};

#[derive(Debug)]
pub(crate) struct Dir {
    path: PathBuf,
    fd: OnceLock<OwnedFd>,
}

/// Repeats a call that a signal interrupted.
pub(crate) fn uninterrupted<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

impl Dir {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            fd: OnceLock::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory's descriptor; O_RDONLY, since CLONE_INTO_CGROUP and BPF attachment refuse O_PATH.
    pub(crate) fn fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        if let Some(fd) = self.fd.get() {
            return Ok(fd.as_fd());
        }
        let opened = uninterrupted(|| {
            nix::fcntl::open(
                &self.path,
                OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
                Mode::empty(),
            )
        })?;
        Ok(self.fd.get_or_init(|| opened).as_fd())
    }

    pub(crate) fn open(&self, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        let dir = self.fd()?;
        uninterrupted(|| openat(dir, name, flags | OFlag::O_CLOEXEC, Mode::empty()))
    }

    pub(crate) fn child(&self, name: &OsStr) -> Dir {
        Dir::new(self.path.join(name))
    }

    /// One value in one write(2): kernfs hands each write to the controller as a whole.
    pub(crate) fn write(&self, name: &str, value: &str) -> Result<(), Errno> {
        let file = self.open(name, OFlag::O_WRONLY)?;
        write_value(file.as_fd(), value)
    }

    pub(crate) fn read(&self, name: &str) -> Result<String, Errno> {
        let file = self.open(name, OFlag::O_RDONLY)?;
        read_all(file.as_fd())
    }

    pub(crate) fn exists(&self) -> bool {
        matches!(nix::sys::stat::stat(&self.path), Ok(FileStat { .. }))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.fd()
            .and_then(|dir| fstatat(dir, name, AtFlags::empty()))
            .is_ok()
    }

    /// The cgroups below this one.
    pub(crate) fn children(&self) -> Result<Vec<Dir>, Errno> {
        // A stream of its own: reading through the kept descriptor would move its offset for good.
        let mut stream = DirStream::open(
            &self.path,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut found = Vec::new();
        for entry in stream.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if entry.file_type() == Some(Type::Directory) && name != b"." && name != b".." {
                found.push(self.child(OsStr::from_bytes(name)));
            }
        }
        Ok(found)
    }
}

pub(crate) fn write_value(file: BorrowedFd<'_>, value: &str) -> Result<(), Errno> {
    let done = uninterrupted(|| write(file, value.as_bytes()))?;
    // A control file takes a value whole or refuses it; less would mean it is not a control file.
    if done == value.len() {
        Ok(())
    } else {
        Err(Errno::EIO)
    }
}

pub(crate) fn read_all(file: BorrowedFd<'_>) -> Result<String, Errno> {
    let mut buffer = vec![0; 4096];
    let mut len = 0;
    loop {
        let got = uninterrupted(|| read(file, &mut buffer[len..]))?;
        if got == 0 {
            break;
        }
        len += got;
        if len == buffer.len() {
            buffer.resize(len * 2, 0);
        } else if len < 512 {
            // Short control files come in one piece; the second read(2) would only say so.
            break;
        }
    }
    buffer.truncate(len);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}
