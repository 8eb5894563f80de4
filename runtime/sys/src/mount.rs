//! Mounts by descriptors (open_tree(2), move_mount(2), mount_setattr(2), fsopen(2)).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::files::c_path;
use crate::raw::{self, Errno, Fd};

pub use crate::raw::{
    AT_RECURSIVE, MOUNT_ATTR_ATIME, MOUNT_ATTR_IDMAP, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_STRICTATIME, MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE, MountAttr,
};

fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}

fn owned(fd: Fd) -> OwnedFd {
    // SAFETY: called with descriptors the kernel has just returned, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd.0) }
}

/// A detached copy of the mount at `path`, with everything below it if `recursive`.
pub fn clone_at(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    clone_with(path, recursive, 0)
}

/// The same of a symbolic link itself, if `path` is one.
pub fn clone_link_at(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    clone_with(path, recursive, raw::AT_SYMLINK_NOFOLLOW)
}

fn clone_with(path: &Path, recursive: bool, flags: u32) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = flags | raw::OPEN_TREE_CLONE | if recursive { AT_RECURSIVE } else { 0 };
    raw::open_tree(Fd::CWD, &path, flags).map(owned).map_err(error)
}

/// A detached copy of the mount that an open file or folder is on, from there down, as [`clone_at`].
pub fn clone_of(place: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    raw::clone_tree(Fd(place.as_raw_fd()), recursive)
        .map(owned)
        .map_err(error)
}

/// Attaches a detached mount onto the place behind `target`.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    raw::move_mount(Fd(mount.as_raw_fd()), Fd(target.as_raw_fd())).map_err(error)
}

/// Changes attributes of the mount behind a descriptor.
pub fn set_attributes(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    raw::mount_setattr(Fd(mount.as_raw_fd()), recursive, attr).map_err(error)
}

/// A new, detached file system: `options` are `key=value` or bare flags.
pub fn create(fstype: &str, source: Option<&str>, options: &[&str], attributes: u64) -> io::Result<OwnedFd> {
    let fs = raw::fsopen(&CString::new(fstype)?).map(owned).map_err(error)?;
    let handle = Fd(fs.as_raw_fd());
    if let Some(source) = source {
        raw::fsconfig_string(handle, c"source", &CString::new(source)?).map_err(error)?;
    }
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => raw::fsconfig_string(handle, &CString::new(key)?, &CString::new(value)?),
            None => raw::fsconfig_flag(handle, &CString::new(*option)?),
        }
        .map_err(error)?;
    }
    raw::fsconfig_create(handle).map_err(error)?;
    raw::fsmount(handle, attributes).map(owned).map_err(error)
}

/// Takes a mount out of the tree now, and away for good when nobody uses it any more.
pub fn detach(path: &Path) -> io::Result<()> {
    raw::umount(&c_path(path)?, raw::MNT_DETACH).map_err(error)
}
