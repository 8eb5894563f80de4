//! Descriptors and paths: openat2(2), close_range(2), sealed memory files.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::raw::{self, Errno, Fd};

pub use crate::raw::{
    O_DIRECTORY, O_NOFOLLOW, O_PATH, O_RDONLY, O_RDWR, O_WRONLY, RESOLVE_BENEATH, RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV,
};

/// F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE.
const ALL_SEALS: u32 = 0xf;
/// memfd_create(2) MFD_ALLOW_SEALING.
const MFD_ALLOW_SEALING: u32 = 2;
/// memfd_create(2) MFD_EXEC (Linux 6.3).
const MFD_EXEC: u32 = 0x10;

fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}

fn owned(fd: Fd) -> OwnedFd {
    // SAFETY: called with descriptors the kernel has just returned, which nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd.0) }
}

/// A path as the kernel takes it. Fails when it has a NUL inside.
pub fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// openat2(2) with close-on-exec: `flags` are O_*, `resolve` RESOLVE_*.
pub fn openat2(dir: BorrowedFd<'_>, path: &Path, flags: u64, mode: u64, resolve: u64) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    raw::openat2(Fd(dir.as_raw_fd()), &path, flags, mode, resolve)
        .map(owned)
        .map_err(error)
}

/// Opens `path`, relative to the working directory, with O_* `flags` and close-on-exec.
pub fn open(path: &Path, flags: u64) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    raw::openat(Fd::CWD, &path, flags, 0).map(owned).map_err(error)
}

/// The content of a file whose size says nothing, such as those of procfs, in as few calls as can be.
pub fn read_all(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path, O_RDONLY)?;
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        match raw::read(Fd(file.as_raw_fd()), &mut part).map_err(error)? {
            0 => return Ok(text),
            length => text.extend_from_slice(&part[..length]),
        }
    }
}

/// The bytes of an ordinary file: as [`std::fs::read`], without a last read(2) that only says that there is no more.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len() as usize;
    // Room for one byte more: a read that leaves it free has met the end.
    let mut bytes = vec![0; size + 1];
    let mut length = 0;
    loop {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if length == size {
            break;
        }
        if length == bytes.len() {
            // It has grown meanwhile.
            bytes.resize(2 * length, 0);
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

/// As [`read_all`], for text.
pub fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read_all(path)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The path of a folder, absolute and without symbolic links: the kernel looks it up once and says where it is, instead
/// of a readlink(2) for each name in it.
pub fn canonical_folder(path: &Path) -> io::Result<PathBuf> {
    let folder = open(path, O_PATH | O_DIRECTORY)?;
    let link = CString::new(format!("/proc/self/fd/{}", folder.as_raw_fd()))?;
    let mut place = [0; libc::PATH_MAX as usize];
    let length = raw::readlinkat(Fd::CWD, &link, &mut place).map_err(error)?;
    let text = &place[..length];
    // The kernel has no path for what is too deep, was removed meanwhile, or lies outside of this process's root.
    if text.starts_with(b"/") && !text.ends_with(b" (deleted)") && length < place.len() {
        Ok(Path::new(OsStr::from_bytes(text)).to_owned())
    } else {
        path.canonicalize()
    }
}

/// close_range(2): every descriptor from `first` on closes on execve(2).
pub fn cloexec_from(first: u32) -> io::Result<()> {
    raw::cloexec_range(first, u32::MAX).map_err(error)
}

/// A descriptor that the process was started with, such as one of sd_listen_fds(3), duplicated so
/// that it has an owner; both it and the original close on execve(2).
pub fn inherited(number: i32) -> io::Result<OwnedFd> {
    let first = u32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the descriptor is only borrowed for the duplication; if it is not open, that fails.
    let owned = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?;
    raw::cloexec_range(first, first).map_err(error)?;
    Ok(owned)
}

/// A memory file for a program, that can be sealed with [`seal`].
pub fn memory_program(name: &CStr) -> io::Result<OwnedFd> {
    // Kernels before 6.3 do not know MFD_EXEC and make every memory file executable.
    match raw::memfd_create(name, MFD_ALLOW_SEALING | MFD_EXEC) {
        Err(Errno::EINVAL) => raw::memfd_create(name, MFD_ALLOW_SEALING),
        result => result,
    }
    .map(owned)
    .map_err(error)
}

/// A memory file for data, that can be sealed with [`seal`].
pub fn memory_file(name: &CStr) -> io::Result<OwnedFd> {
    /// memfd_create(2) MFD_NOEXEC_SEAL (Linux 6.3), which implies that sealing is allowed.
    const MFD_NOEXEC_SEAL: u32 = 8;
    match raw::memfd_create(name, MFD_NOEXEC_SEAL) {
        Err(Errno::EINVAL) => raw::memfd_create(name, MFD_ALLOW_SEALING),
        result => result,
    }
    .map(owned)
    .map_err(error)
}

/// Makes a memory file unchangeable for good (fcntl(2) F_ADD_SEALS).
pub fn seal(file: BorrowedFd<'_>) -> io::Result<()> {
    raw::add_seals(Fd(file.as_raw_fd()), ALL_SEALS).map_err(error)
}

/// Device number behind an open device file, and whether it is a character device.
pub fn device_of(file: BorrowedFd<'_>) -> io::Result<(u32, u32, bool)> {
    let stat = raw::fstat(Fd(file.as_raw_fd())).map_err(error)?;
    Ok((stat.rdev.0, stat.rdev.1, stat.kind() == raw::S_IFCHR))
}

/// Makes an empty file in a folder; something that is there already, also a link, is an error.
pub fn make_file(dir: BorrowedFd<'_>, name: &std::ffi::OsStr, mode: u32) -> io::Result<()> {
    let name = c_path(Path::new(name))?;
    let flags = raw::O_WRONLY | raw::O_CREAT | raw::O_EXCL | raw::O_NOFOLLOW;
    let fd = raw::openat(Fd(dir.as_raw_fd()), &name, flags, mode).map_err(error)?;
    drop(owned(fd));
    Ok(())
}

/// Makes a folder in a folder.
pub fn make_folder(dir: BorrowedFd<'_>, name: &std::ffi::OsStr, mode: u32) -> io::Result<()> {
    let name = c_path(Path::new(name))?;
    raw::mkdirat(Fd(dir.as_raw_fd()), &name, mode).map_err(error)
}
