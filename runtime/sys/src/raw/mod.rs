//! Raw system calls: no libc, no allocation, no thread-local errno.
//!
//! These files are compiled twice: as a module of `berth_sys`, and by themselves (`crate.rs`, `no_std`) for the
//! tiny program that sets a container up from inside. That program, and a child that shares its parent's memory
//! between clone3(2) and execveat(2), may use nothing but this.
//!
//! Every function makes exactly the system call of its name. Arguments that the kernel checks are passed through:
//! a wrong descriptor or flag is an error, never undefined behaviour, and so the functions are safe to call.

mod arch;
pub mod child;
mod clone;
mod files;
mod mounts;
mod process;
mod socket;

pub use clone::{CloneArgs, clone_with_stack, spawn};
pub use files::*;
pub use mounts::*;
pub use process::*;
pub use socket::*;

use core::ffi::CStr;

/// An error number as the kernel returns it (errno(3)), always positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Self = Self(1);
    /// No such file or directory.
    pub const ENOENT: Self = Self(2);
    /// Interrupted system call.
    pub const EINTR: Self = Self(4);
    /// Exec format error.
    pub const ENOEXEC: Self = Self(8);
    /// Bad file descriptor.
    pub const EBADF: Self = Self(9);
    /// No child processes.
    pub const ECHILD: Self = Self(10);
    /// Try again.
    pub const EAGAIN: Self = Self(11);
    /// Out of memory.
    pub const ENOMEM: Self = Self(12);
    /// Permission denied.
    pub const EACCES: Self = Self(13);
    /// Device or resource busy.
    pub const EBUSY: Self = Self(16);
    /// File exists.
    pub const EEXIST: Self = Self(17);
    /// Cross-device link; openat2(2): the path leaves what RESOLVE_* allows.
    pub const EXDEV: Self = Self(18);
    /// Not a directory.
    pub const ENOTDIR: Self = Self(20);
    /// Is a directory.
    pub const EISDIR: Self = Self(21);
    /// Invalid argument.
    pub const EINVAL: Self = Self(22);
    /// Not a terminal, or an unknown ioctl.
    pub const ENOTTY: Self = Self(25);
    /// Read-only file system.
    pub const EROFS: Self = Self(30);
    /// Too many levels of symbolic links.
    pub const ELOOP: Self = Self(40);
    /// No such system call.
    pub const ENOSYS: Self = Self(38);
    /// File name too long.
    pub const ENAMETOOLONG: Self = Self(36);
    /// No data available.
    pub const ENODATA: Self = Self(61);
    /// Message malformed.
    pub const EBADMSG: Self = Self(74);
    /// Not supported.
    pub const EOPNOTSUPP: Self = Self(95);
    /// Timed out.
    pub const ETIMEDOUT: Self = Self(110);
}

/// What every call here returns.
pub type Res<T> = Result<T, Errno>;

/// A descriptor's number. It does not own the descriptor: the tiny init leaves closing to execve(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fd(pub i32);

impl Fd {
    /// "Relative to the working directory" of the *at(2) calls.
    pub const CWD: Self = Self(-100);
    /// Standard input.
    pub const STDIN: Self = Self(0);
    /// Standard output.
    pub const STDOUT: Self = Self(1);
    /// Standard error.
    pub const STDERR: Self = Self(2);

    fn arg(self) -> usize {
        self.0 as isize as usize
    }
}

/// Turns the kernel's return value into a result: -4095..-1 are error numbers (syscall(2)).
fn check(value: isize) -> Res<usize> {
    if (-4095..0).contains(&value) {
        Err(Errno(-value as i32))
    } else {
        Ok(value as usize)
    }
}

fn check_fd(value: isize) -> Res<Fd> {
    check(value).map(|number| Fd(number as i32))
}

fn check_unit(value: isize) -> Res<()> {
    check(value).map(|_| ())
}

fn ptr(text: &CStr) -> usize {
    text.as_ptr() as usize
}

fn opt_ptr(text: Option<&CStr>) -> usize {
    text.map_or(0, ptr)
}
