//! Files, paths and descriptors.

use core::ffi::CStr;

use super::arch::{nr, syscall};
use super::{Errno, Fd, Res, check, check_fd, check_unit, opt_ptr, ptr};

/// Open for reading only.
pub const O_RDONLY: u64 = 0;
/// Open for writing only.
pub const O_WRONLY: u64 = 1;
/// Open for reading and writing.
pub const O_RDWR: u64 = 2;
/// Create the file if it is missing.
pub const O_CREAT: u64 = 0o100;
/// Fail if the file exists.
pub const O_EXCL: u64 = 0o200;
/// Never become the controlling terminal.
pub const O_NOCTTY: u64 = 0o400;
/// Do not wait.
pub const O_NONBLOCK: u64 = 0o4000;
/// Fail unless it is a directory.
#[cfg(target_arch = "x86_64")]
pub const O_DIRECTORY: u64 = 0o200_000;
/// Fail unless it is a directory.
#[cfg(target_arch = "aarch64")]
pub const O_DIRECTORY: u64 = 0o40_000;
/// Do not follow a symbolic link in the last component.
#[cfg(target_arch = "x86_64")]
pub const O_NOFOLLOW: u64 = 0o400_000;
/// Do not follow a symbolic link in the last component.
#[cfg(target_arch = "aarch64")]
pub const O_NOFOLLOW: u64 = 0o100_000;
/// Close on execve(2).
pub const O_CLOEXEC: u64 = 0o2_000_000;
/// A handle to the place only, without opening the file.
pub const O_PATH: u64 = 0o10_000_000;

/// openat2(2): stay on the mount the walk started on.
pub const RESOLVE_NO_XDEV: u64 = 0x01;
/// openat2(2): no /proc/PID/fd-like links.
pub const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
/// openat2(2): no symbolic links at all.
pub const RESOLVE_NO_SYMLINKS: u64 = 0x04;
/// openat2(2): the walk must stay below the directory.
pub const RESOLVE_BENEATH: u64 = 0x08;
/// openat2(2): the directory is the root of the walk.
pub const RESOLVE_IN_ROOT: u64 = 0x10;

/// *at(2): the descriptor itself is meant, the path is empty.
pub const AT_EMPTY_PATH: u32 = 0x1000;
/// *at(2): do not follow a symbolic link in the last component.
pub const AT_SYMLINK_NOFOLLOW: u32 = 0x100;
/// faccessat2(2): check with the effective ids.
pub const AT_EACCESS: u32 = 0x200;

/// Type bits of a mode.
pub const S_IFMT: u32 = 0o170_000;
/// Directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Character device.
pub const S_IFCHR: u32 = 0o020_000;
/// Block device.
pub const S_IFBLK: u32 = 0o060_000;
/// Regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Named pipe.
pub const S_IFIFO: u32 = 0o010_000;
/// Symbolic link.
pub const S_IFLNK: u32 = 0o120_000;

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2); O_CLOEXEC is always added. EAGAIN (a rename raced with the walk) is tried again.
pub fn openat2(dir: Fd, path: &CStr, flags: u64, mode: u64, resolve: u64) -> Res<Fd> {
    let how = OpenHow {
        flags: flags | O_CLOEXEC,
        mode,
        resolve,
    };
    let mut tries = 0;
    loop {
        // SAFETY: path and how are valid for the call, which only reads them.
        let value = unsafe {
            syscall(
                nr::OPENAT2,
                [
                    dir.arg(),
                    ptr(path),
                    core::ptr::from_ref(&how) as usize,
                    size_of::<OpenHow>(),
                    0,
                    0,
                ],
            )
        };
        match check_fd(value) {
            Err(Errno::EAGAIN) if tries < 128 => tries += 1,
            result => return result,
        }
    }
}

/// openat(2); O_CLOEXEC is always added.
pub fn openat(dir: Fd, path: &CStr, flags: u64, mode: u32) -> Res<Fd> {
    // SAFETY: path is valid for the call, which only reads it.
    check_fd(unsafe {
        syscall(
            nr::OPENAT,
            [
                dir.arg(),
                ptr(path),
                (flags | O_CLOEXEC) as usize,
                mode as usize,
                0,
                0,
            ],
        )
    })
}

/// close(2). The number must not be used afterwards.
pub fn close(fd: Fd) {
    // SAFETY: no memory is involved.
    unsafe { syscall(nr::CLOSE, [fd.arg(), 0, 0, 0, 0, 0]) };
}

/// close_range(2) with CLOSE_RANGE_CLOEXEC: descriptors `first..=last` close on execve(2).
pub fn cloexec_range(first: u32, last: u32) -> Res<()> {
    const CLOSE_RANGE_CLOEXEC: usize = 4;
    // SAFETY: no memory is involved.
    check_unit(unsafe {
        syscall(
            nr::CLOSE_RANGE,
            [first as usize, last as usize, CLOSE_RANGE_CLOEXEC, 0, 0, 0],
        )
    })
}

/// fcntl(2) F_SETFD: whether the descriptor closes on execve(2).
pub fn set_cloexec(fd: Fd, on: bool) -> Res<()> {
    const F_SETFD: usize = 2;
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::FCNTL, [fd.arg(), F_SETFD, usize::from(on), 0, 0, 0]) })
}

/// read(2), tried again when interrupted.
pub fn read(fd: Fd, buffer: &mut [u8]) -> Res<usize> {
    loop {
        // SAFETY: the buffer is exclusive and as long as told.
        let value = unsafe {
            syscall(
                nr::READ,
                [fd.arg(), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0],
            )
        };
        match check(value) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// write(2), tried again when interrupted. May write less than all.
pub fn write(fd: Fd, bytes: &[u8]) -> Res<usize> {
    loop {
        // SAFETY: the bytes are valid and as many as told.
        let value = unsafe {
            syscall(
                nr::WRITE,
                [fd.arg(), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0],
            )
        };
        match check(value) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// What statx(2) says of a file, as far as it is used here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Type and permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Size in bytes.
    pub size: u64,
    /// Device number this device file stands for: major, minor.
    pub rdev: (u32, u32),
    /// Device number of the file system: major, minor.
    pub dev: (u32, u32),
    /// Inode number.
    pub ino: u64,
    /// Modification time, seconds and nanoseconds.
    pub mtime: (i64, u32),
}

impl Stat {
    /// The type bits.
    pub fn kind(&self) -> u32 {
        self.mode & S_IFMT
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Statx {
    mask: u32,
    blksize: u32,
    attributes: u64,
    nlink: u32,
    uid: u32,
    gid: u32,
    mode: u16,
    pad0: u16,
    ino: u64,
    size: u64,
    blocks: u64,
    attributes_mask: u64,
    times: [(i64, u32, i32); 4],
    rdev_major: u32,
    rdev_minor: u32,
    dev_major: u32,
    dev_minor: u32,
    spare: [u64; 14],
}

/// statx(2) of `path` below `dir`; `flags` are AT_*.
pub fn stat(dir: Fd, path: &CStr, flags: u32) -> Res<Stat> {
    const STATX_BASIC_STATS: usize = 0x7ff;
    let mut raw = Statx {
        mask: 0,
        blksize: 0,
        attributes: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        mode: 0,
        pad0: 0,
        ino: 0,
        size: 0,
        blocks: 0,
        attributes_mask: 0,
        times: [(0, 0, 0); 4],
        rdev_major: 0,
        rdev_minor: 0,
        dev_major: 0,
        dev_minor: 0,
        spare: [0; 14],
    };
    // SAFETY: `raw` is exclusive and has the size of the kernel's struct statx (256 bytes).
    check(unsafe {
        syscall(
            nr::STATX,
            [
                dir.arg(),
                ptr(path),
                flags as usize,
                STATX_BASIC_STATS,
                core::ptr::from_mut(&mut raw) as usize,
                0,
            ],
        )
    })?;
    Ok(Stat {
        mode: u32::from(raw.mode),
        uid: raw.uid,
        gid: raw.gid,
        size: raw.size,
        rdev: (raw.rdev_major, raw.rdev_minor),
        dev: (raw.dev_major, raw.dev_minor),
        ino: raw.ino,
        mtime: (raw.times[3].0, raw.times[3].1),
    })
}

/// statx(2) of an open descriptor.
pub fn fstat(fd: Fd) -> Res<Stat> {
    stat(fd, c"", AT_EMPTY_PATH)
}

/// Whether the file is in a procfs (statfs(2), PROC_SUPER_MAGIC).
pub fn in_procfs(fd: Fd) -> Res<bool> {
    const MAGIC: u64 = 0x9fa0;
    Ok(statfs(fd)?[0] == MAGIC)
}

/// Attributes of the mount that a file is on, and whether its file system is read-only, as MOUNT_ATTR_* (fstatfs(2)).
pub fn mount_attributes(fd: Fd) -> Res<u64> {
    use super::mounts::{
        MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_STRICTATIME,
    };
    // ST_RDONLY, ST_NOSUID, ST_NODEV and ST_NOEXEC are the same bits as their attributes.
    const SAME: u64 = 0xf;
    const ST_NOATIME: u64 = 0x400;
    const ST_NODIRATIME: u64 = 0x800;
    const ST_RELATIME: u64 = 0x1000;
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    let flags = statfs(fd)?[10];
    let mut attributes = flags & SAME;
    attributes |= match (flags & ST_NOATIME != 0, flags & ST_RELATIME != 0) {
        (true, _) => MOUNT_ATTR_NOATIME,
        (_, true) => 0,
        _ => MOUNT_ATTR_STRICTATIME,
    };
    if flags & ST_NODIRATIME != 0 {
        attributes |= MOUNT_ATTR_NODIRATIME;
    }
    if flags & ST_NOSYMFOLLOW != 0 {
        attributes |= MOUNT_ATTR_NOSYMFOLLOW;
    }
    Ok(attributes)
}

/// `struct statfs` of 64-bit machines, 120 bytes in longs: the type comes first, the flags of the mount are the eleventh.
fn statfs(fd: Fd) -> Res<[u64; 16]> {
    let mut found = [0u64; 16];
    // SAFETY: the buffer is larger than what the kernel writes.
    check_unit(unsafe {
        syscall(
            nr::FSTATFS,
            [fd.arg(), core::ptr::from_mut(&mut found) as usize, 0, 0, 0, 0],
        )
    })?;
    Ok(found)
}

/// mkdirat(2).
pub fn mkdirat(dir: Fd, name: &CStr, mode: u32) -> Res<()> {
    // SAFETY: the name is only read.
    check_unit(unsafe { syscall(nr::MKDIRAT, [dir.arg(), ptr(name), mode as usize, 0, 0, 0]) })
}

/// mknodat(2); `device` as [`makedev`] makes it.
pub fn mknodat(dir: Fd, name: &CStr, mode: u32, device: u64) -> Res<()> {
    // SAFETY: the name is only read.
    check_unit(unsafe {
        syscall(
            nr::MKNODAT,
            [dir.arg(), ptr(name), mode as usize, device as usize, 0, 0],
        )
    })
}

/// The kernel's encoding of a device number in mknod(2).
pub const fn makedev(major: u32, minor: u32) -> u64 {
    ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)) as u64
}

/// symlinkat(2): `name` below `dir` becomes a link to `target`.
pub fn symlinkat(target: &CStr, dir: Fd, name: &CStr) -> Res<()> {
    // SAFETY: the strings are only read.
    check_unit(unsafe { syscall(nr::SYMLINKAT, [ptr(target), dir.arg(), ptr(name), 0, 0, 0]) })
}

/// unlinkat(2); `flags` may be AT_REMOVEDIR.
pub fn unlinkat(dir: Fd, name: &CStr, flags: u32) -> Res<()> {
    // SAFETY: the name is only read.
    check_unit(unsafe { syscall(nr::UNLINKAT, [dir.arg(), ptr(name), flags as usize, 0, 0, 0]) })
}

/// readlinkat(2) into `buffer`; returns the length.
pub fn readlinkat(dir: Fd, name: &CStr, buffer: &mut [u8]) -> Res<usize> {
    // SAFETY: the buffer is exclusive and as long as told.
    check(unsafe {
        syscall(
            nr::READLINKAT,
            [
                dir.arg(),
                ptr(name),
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                0,
                0,
            ],
        )
    })
}

/// fchownat(2); `flags` are AT_*.
pub fn fchownat(dir: Fd, name: &CStr, uid: u32, gid: u32, flags: u32) -> Res<()> {
    // SAFETY: the name is only read.
    check_unit(unsafe {
        syscall(
            nr::FCHOWNAT,
            [
                dir.arg(),
                ptr(name),
                uid as usize,
                gid as usize,
                flags as usize,
                0,
            ],
        )
    })
}

/// fchmod(2).
pub fn fchmod(fd: Fd, mode: u32) -> Res<()> {
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::FCHMOD, [fd.arg(), mode as usize, 0, 0, 0, 0]) })
}

/// utimensat(2) of a descriptor's modification time; the access time becomes the same.
pub fn set_times(fd: Fd, mtime: (i64, u32)) -> Res<()> {
    let times = [[mtime.0, i64::from(mtime.1)]; 2];
    // SAFETY: two `struct timespec` (64-bit) are read.
    check_unit(unsafe { syscall(nr::UTIMENSAT, [fd.arg(), 0, times.as_ptr() as usize, 0, 0, 0]) })
}

/// umask(2).
pub fn umask(mask: u32) {
    // SAFETY: no memory is involved.
    unsafe { syscall(nr::UMASK, [mask as usize, 0, 0, 0, 0, 0]) };
}

/// chdir(2).
pub fn chdir(path: &CStr) -> Res<()> {
    // SAFETY: the path is only read.
    check_unit(unsafe { syscall(nr::CHDIR, [ptr(path), 0, 0, 0, 0, 0]) })
}

/// fchdir(2).
pub fn fchdir(dir: Fd) -> Res<()> {
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::FCHDIR, [dir.arg(), 0, 0, 0, 0, 0]) })
}

/// chroot(2).
pub fn chroot(path: &CStr) -> Res<()> {
    // SAFETY: the path is only read.
    check_unit(unsafe { syscall(nr::CHROOT, [ptr(path), 0, 0, 0, 0, 0]) })
}

/// getcwd(2): the path with its NUL; it starts with `(unreachable)` where the root does not lead to it.
pub fn getcwd(buffer: &mut [u8]) -> Res<usize> {
    // SAFETY: the buffer is exclusive and as long as told.
    check(unsafe {
        syscall(
            nr::GETCWD,
            [buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0, 0],
        )
    })
}

/// faccessat2(2) with AT_EACCESS: may the file be executed?
pub fn executable(path: &CStr) -> Res<()> {
    const X_OK: usize = 1;
    // SAFETY: the path is only read.
    check_unit(unsafe {
        syscall(
            nr::FACCESSAT2,
            [Fd::CWD.arg(), ptr(path), X_OK, AT_EACCESS as usize, 0, 0],
        )
    })
}

/// getdents64(2): raw directory entries.
pub fn getdents(dir: Fd, buffer: &mut [u8]) -> Res<usize> {
    // SAFETY: the buffer is exclusive and as long as told.
    check(unsafe {
        syscall(
            nr::GETDENTS64,
            [dir.arg(), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0],
        )
    })
}

/// flistxattr(2): names of extended attributes, each ended by NUL.
pub fn flistxattr(fd: Fd, buffer: &mut [u8]) -> Res<usize> {
    // SAFETY: the buffer is exclusive and as long as told.
    check(unsafe {
        syscall(
            nr::FLISTXATTR,
            [fd.arg(), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0],
        )
    })
}

/// fgetxattr(2).
pub fn fgetxattr(fd: Fd, name: &CStr, buffer: &mut [u8]) -> Res<usize> {
    // SAFETY: the buffer is exclusive and as long as told.
    check(unsafe {
        syscall(
            nr::FGETXATTR,
            [
                fd.arg(),
                ptr(name),
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                0,
                0,
            ],
        )
    })
}

/// fsetxattr(2).
pub fn fsetxattr(fd: Fd, name: &CStr, value: &[u8]) -> Res<()> {
    // SAFETY: name and value are only read.
    check_unit(unsafe {
        syscall(
            nr::FSETXATTR,
            [fd.arg(), ptr(name), value.as_ptr() as usize, value.len(), 0, 0],
        )
    })
}

/// dup3(2).
pub fn dup3(from: Fd, to: Fd, flags: u64) -> Res<()> {
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::DUP3, [from.arg(), to.arg(), flags as usize, 0, 0, 0]) })
}

/// pipe2(2) with O_CLOEXEC: (read end, write end).
pub fn pipe() -> Res<(Fd, Fd)> {
    let mut fds = [0i32; 2];
    // SAFETY: two ints are written.
    check(unsafe {
        syscall(
            nr::PIPE2,
            [fds.as_mut_ptr() as usize, O_CLOEXEC as usize, 0, 0, 0, 0],
        )
    })?;
    Ok((Fd(fds[0]), Fd(fds[1])))
}

/// lseek(2) to the start.
pub fn rewind(fd: Fd) -> Res<()> {
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::LSEEK, [fd.arg(), 0, 0, 0, 0, 0]) })
}

/// memfd_create(2) with close-on-exec; `flags` are MFD_*.
pub fn memfd_create(name: &CStr, flags: u32) -> Res<Fd> {
    const MFD_CLOEXEC: u32 = 1;
    // SAFETY: the name is only read.
    check_fd(unsafe {
        syscall(
            nr::MEMFD_CREATE,
            [ptr(name), (flags | MFD_CLOEXEC) as usize, 0, 0, 0, 0],
        )
    })
}

/// fcntl(2) F_ADD_SEALS.
pub fn add_seals(fd: Fd, seals: u32) -> Res<()> {
    const F_ADD_SEALS: usize = 1033;
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::FCNTL, [fd.arg(), F_ADD_SEALS, seals as usize, 0, 0, 0]) })
}

/// Something to read, in [`poll`].
pub const POLLIN: i16 = 1;

/// ppoll(2) on one descriptor: the events that are there. `None` waits for ever; otherwise at most as long as
/// told in seconds and nanoseconds, and what remains is left there.
pub fn poll(fd: Fd, events: i16, timeout: Option<&mut [i64; 2]>) -> Res<i16> {
    let mut entry = [fd.0, i32::from(events)];
    let time = timeout.map_or(0, |time| time.as_mut_ptr() as usize);
    // SAFETY: `entry` has the layout of struct pollfd on little-endian machines (fd, events | revents << 16).
    let ready = check(unsafe { syscall(nr::PPOLL, [entry.as_mut_ptr() as usize, 1, time, 0, 0, 0]) })?;
    if ready == 0 {
        return Err(Errno::ETIMEDOUT);
    }
    Ok((entry[1] >> 16) as i16)
}

/// ppoll(2) of two descriptors for reading: whether the first is ready, else the second is.
pub fn poll_two(first: Fd, second: Fd) -> Res<bool> {
    let mut entries = [[first.0, i32::from(POLLIN)], [second.0, i32::from(POLLIN)]];
    // SAFETY: the entries have the layout of struct pollfd on little-endian machines (fd, events | revents << 16).
    check(unsafe { syscall(nr::PPOLL, [entries.as_mut_ptr() as usize, 2, 0, 0, 0, 0]) })?;
    Ok(entries[0][1] >> 16 != 0)
}

/// ioctl(2) with a plain number, or none, as argument.
pub fn ioctl(fd: Fd, request: usize, argument: usize) -> Res<i32> {
    // SAFETY: private requests of this crate only: those used take no pointer.
    check(unsafe { syscall(nr::IOCTL, [fd.arg(), request, argument, 0, 0, 0]) }).map(|value| value as i32)
}

/// TIOCSPTLCK: unlocks the slave of a pseudoterminal's master.
pub fn unlock_pty(master: Fd) -> Res<()> {
    const TIOCSPTLCK: usize = 0x4004_5431;
    let zero = 0i32;
    // SAFETY: the request reads one int.
    check_unit(unsafe {
        syscall(
            nr::IOCTL,
            [
                master.arg(),
                TIOCSPTLCK,
                core::ptr::from_ref(&zero) as usize,
                0,
                0,
                0,
            ],
        )
    })
}

/// TIOCGPTPEER: opens the slave that belongs to this master, whatever /dev/pts says (Linux 4.13).
pub fn pty_peer(master: Fd) -> Res<Fd> {
    const TIOCGPTPEER: usize = 0x5441;
    ioctl(master, TIOCGPTPEER, (O_RDWR | O_NOCTTY | O_CLOEXEC) as usize).map(Fd)
}

/// TIOCSCTTY: makes the terminal the controlling one of this session.
pub fn controlling_terminal(terminal: Fd) -> Res<()> {
    const TIOCSCTTY: usize = 0x540e;
    ioctl(terminal, TIOCSCTTY, 0).map(|_| ())
}

/// TIOCSWINSZ.
pub fn set_window(terminal: Fd, rows: u16, columns: u16) -> Res<()> {
    const TIOCSWINSZ: usize = 0x5414;
    let size = [rows, columns, 0u16, 0u16];
    // SAFETY: the request reads struct winsize: four unsigned shorts.
    check_unit(unsafe {
        syscall(
            nr::IOCTL,
            [terminal.arg(), TIOCSWINSZ, size.as_ptr() as usize, 0, 0, 0],
        )
    })
}

/// The path as an optional argument: `None` is a null pointer.
pub(super) fn path_or_null(path: Option<&CStr>) -> usize {
    opt_ptr(path)
}
