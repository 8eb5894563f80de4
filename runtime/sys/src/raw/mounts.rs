//! The mount API by descriptors (Linux 5.2, mount_setattr 5.12), and the few classic calls that are still needed.

use core::ffi::CStr;

use super::arch::{nr, syscall};
use super::files::{AT_EMPTY_PATH, path_or_null};
use super::{Fd, Res, check_fd, check_unit, ptr};

/// open_tree(2): a detached copy instead of a handle to the place.
pub const OPEN_TREE_CLONE: u32 = 1;
/// open_tree(2), mount_setattr(2): the whole subtree.
pub const AT_RECURSIVE: u32 = 0x8000;

/// Read-only.
pub const MOUNT_ATTR_RDONLY: u64 = 0x01;
/// No set-user-id.
pub const MOUNT_ATTR_NOSUID: u64 = 0x02;
/// No device files.
pub const MOUNT_ATTR_NODEV: u64 = 0x04;
/// No execution.
pub const MOUNT_ATTR_NOEXEC: u64 = 0x08;
/// Mask of the three access time modes (relatime is 0).
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
/// No access times.
pub const MOUNT_ATTR_NOATIME: u64 = 0x10;
/// Every access time.
pub const MOUNT_ATTR_STRICTATIME: u64 = 0x20;
/// No access times of directories.
pub const MOUNT_ATTR_NODIRATIME: u64 = 0x80;
/// Map ids by a user namespace.
pub const MOUNT_ATTR_IDMAP: u64 = 0x10_0000;
/// Symbolic links are not followed.
pub const MOUNT_ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

/// Propagation: shared.
pub const MS_SHARED: u64 = 1 << 20;
/// Propagation: private.
pub const MS_PRIVATE: u64 = 1 << 18;
/// Propagation: slave.
pub const MS_SLAVE: u64 = 1 << 19;
/// Propagation: unbindable.
pub const MS_UNBINDABLE: u64 = 1 << 17;
/// mount(2): move a mount.
pub const MS_MOVE: u64 = 1 << 13;
/// umount2(2): now from the tree, later for good.
pub const MNT_DETACH: u32 = 2;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MountAttr {
    /// MOUNT_ATTR_* to set.
    pub set: u64,
    /// MOUNT_ATTR_* to clear.
    pub clear: u64,
    /// One of MS_SHARED, MS_PRIVATE, MS_SLAVE, MS_UNBINDABLE, or 0.
    pub propagation: u64,
    /// User namespace descriptor for MOUNT_ATTR_IDMAP.
    pub userns: u64,
}

/// fsopen(2).
pub fn fsopen(fstype: &CStr) -> Res<Fd> {
    const FSOPEN_CLOEXEC: usize = 1;
    // SAFETY: the name is only read.
    check_fd(unsafe { syscall(nr::FSOPEN, [ptr(fstype), FSOPEN_CLOEXEC, 0, 0, 0, 0]) })
}

fn fsconfig(fs: Fd, command: usize, key: Option<&CStr>, value: Option<&CStr>) -> Res<()> {
    // SAFETY: key and value are only read.
    check_unit(unsafe {
        syscall(
            nr::FSCONFIG,
            [fs.arg(), command, path_or_null(key), path_or_null(value), 0, 0],
        )
    })
}

/// fsconfig(2) FSCONFIG_SET_FLAG.
pub fn fsconfig_flag(fs: Fd, key: &CStr) -> Res<()> {
    fsconfig(fs, 0, Some(key), None)
}

/// fsconfig(2) FSCONFIG_SET_STRING.
pub fn fsconfig_string(fs: Fd, key: &CStr, value: &CStr) -> Res<()> {
    fsconfig(fs, 1, Some(key), Some(value))
}

/// fsconfig(2) FSCONFIG_CMD_CREATE.
pub fn fsconfig_create(fs: Fd) -> Res<()> {
    fsconfig(fs, 6, None, None)
}

/// fsmount(2): a detached mount with MOUNT_ATTR_* `attributes`.
pub fn fsmount(fs: Fd, attributes: u64) -> Res<Fd> {
    const FSMOUNT_CLOEXEC: usize = 1;
    // SAFETY: no memory is involved.
    check_fd(unsafe {
        syscall(
            nr::FSMOUNT,
            [fs.arg(), FSMOUNT_CLOEXEC, attributes as usize, 0, 0, 0],
        )
    })
}

/// open_tree(2), with close-on-exec; `flags` are OPEN_TREE_CLONE and AT_*.
pub fn open_tree(dir: Fd, path: &CStr, flags: u32) -> Res<Fd> {
    const OPEN_TREE_CLOEXEC: usize = 0o2_000_000;
    // SAFETY: the path is only read.
    check_fd(unsafe {
        syscall(
            nr::OPEN_TREE,
            [dir.arg(), ptr(path), flags as usize | OPEN_TREE_CLOEXEC, 0, 0, 0],
        )
    })
}

/// A detached copy of what `fd` points at: open_tree(2) with an empty path.
pub fn clone_tree(fd: Fd, recursive: bool) -> Res<Fd> {
    let flags = OPEN_TREE_CLONE | AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    open_tree(fd, c"", flags)
}

/// move_mount(2) of the mount `from` onto the place `to`, both descriptors.
pub fn move_mount(from: Fd, to: Fd) -> Res<()> {
    const F_EMPTY_PATH: usize = 0x04;
    const T_EMPTY_PATH: usize = 0x40;
    let empty = c"".as_ptr() as usize;
    // SAFETY: the paths are only read.
    check_unit(unsafe {
        syscall(
            nr::MOVE_MOUNT,
            [from.arg(), empty, to.arg(), empty, F_EMPTY_PATH | T_EMPTY_PATH, 0],
        )
    })
}

/// mount_setattr(2) of the mount behind a descriptor.
pub fn mount_setattr(mount: Fd, recursive: bool, attr: &MountAttr) -> Res<()> {
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: attr is read, and has the size told.
    check_unit(unsafe {
        syscall(
            nr::MOUNT_SETATTR,
            [
                mount.arg(),
                c"".as_ptr() as usize,
                flags as usize,
                core::ptr::from_ref(attr) as usize,
                size_of::<MountAttr>(),
                0,
            ],
        )
    })
}

/// mount(2) as used for MS_MOVE, and for propagation where a descriptor does not serve.
pub fn mount(
    source: Option<&CStr>,
    target: &CStr,
    fstype: Option<&CStr>,
    flags: u64,
    data: Option<&CStr>,
) -> Res<()> {
    // SAFETY: the strings are only read.
    check_unit(unsafe {
        syscall(
            nr::MOUNT,
            [
                path_or_null(source),
                ptr(target),
                path_or_null(fstype),
                flags as usize,
                path_or_null(data),
                0,
            ],
        )
    })
}

/// umount2(2).
pub fn umount(target: &CStr, flags: u32) -> Res<()> {
    // SAFETY: the path is only read.
    check_unit(unsafe { syscall(nr::UMOUNT2, [ptr(target), flags as usize, 0, 0, 0, 0]) })
}

/// pivot_root(2).
pub fn pivot_root(new: &CStr, old: &CStr) -> Res<()> {
    // SAFETY: the paths are only read.
    check_unit(unsafe { syscall(nr::PIVOT_ROOT, [ptr(new), ptr(old), 0, 0, 0, 0]) })
}
