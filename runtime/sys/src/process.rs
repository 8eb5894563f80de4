//! Other processes and this one: namespaces, limits, dumpability.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use crate::raw::{self, Errno, Fd};

fn error(errno: Errno) -> io::Error {
    io::Error::from_raw_os_error(errno.0)
}

/// setns(2): `kinds` are CLONE_NEW*.
pub fn join(namespace: BorrowedFd<'_>, kinds: u64) -> io::Result<()> {
    raw::setns(Fd(namespace.as_raw_fd()), kinds).map_err(error)
}

/// unshare(2): `kinds` are CLONE_NEW*.
pub fn unshare(kinds: u64) -> io::Result<()> {
    raw::unshare(kinds).map_err(error)
}

/// prlimit(2) of another process.
pub fn set_limit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    raw::prlimit(pid, resource, soft, hard).map_err(error)
}

/// PR_SET_DUMPABLE: whether processes with the same user may look into this one's memory.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    raw::set_dumpable(on).map_err(error)
}

/// SECCOMP_MODE_STRICT: from here on this thread may do read(2), write(2) and its own end; any other system call kills
/// it (seccomp(2)).
pub fn allow_only_reading() -> io::Result<()> {
    const PR_SET_SECCOMP: u32 = 22;
    const SECCOMP_MODE_STRICT: usize = 1;
    raw::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT, 0, 0)
        .map(|_| ())
        .map_err(error)
}

/// Whether the kernel knows these SECCOMP_FILTER_FLAG_*: it looks at them first, and then misses the filter (seccomp(2),
/// EFAULT).
pub fn knows_seccomp_flags(flags: u32) -> bool {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    // SAFETY: the kernel reads the filter from the null pointer, which fails: nothing changes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(flags),
            std::ptr::null::<libc::sock_fprog>(),
        )
    };
    result == -1 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

/// PR_SET_CHILD_SUBREAPER: orphaned descendants become children of this process (prctl(2)).
pub fn become_subreaper() -> io::Result<()> {
    const PR_SET_CHILD_SUBREAPER: u32 = 36;
    raw::prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0)
        .map(|_| ())
        .map_err(error)
}

/// PR_SET_PDEATHSIG: the signal this process gets when its parent thread ends. 0 for none.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    const PR_SET_PDEATHSIG: u32 = 1;
    raw::prctl(PR_SET_PDEATHSIG, signal as usize, 0, 0)
        .map(|_| ())
        .map_err(error)
}

/// Collects one child that has ended, without waiting (waitpid(2) with WNOHANG). `None` if there is none.
///
/// Beside nix's function because that fails for a child that a real-time signal has killed, when it is already collected.
pub fn reap() -> io::Result<Option<(i32, ExitStatus)>> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one int, which `status` is.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid > 0 {
            return Ok(Some((pid, ExitStatus::from_raw(status))));
        }
        if pid == 0 {
            return Ok(None);
        }
        match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ECHILD) => return Ok(None),
            e if e.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// PR_SCHED_CORE_CREATE for this process' group: its processes share processor cores with nobody else (Linux 5.14,
/// Documentation/admin-guide/hw-vuln/core-scheduling.rst).
pub fn schedule_group_on_own_cores() -> io::Result<()> {
    const PR_SCHED_CORE: u32 = 62;
    const PR_SCHED_CORE_CREATE: usize = 1;
    const PROCESS_GROUP: usize = 2;
    raw::prctl(PR_SCHED_CORE, PR_SCHED_CORE_CREATE, 0, PROCESS_GROUP)
        .map(|_| ())
        .map_err(error)
}

/// Starts a session of its own (setsid(2)).
pub fn new_session() -> io::Result<()> {
    raw::setsid().map_err(error)
}

/// Splits this process: `Some(pid)` in the parent, `None` in the child, as fork(2). For daemons: only while this
/// process has a single thread, which is checked.
pub fn fork() -> io::Result<Option<i32>> {
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other("fork of a process with several threads"));
    }
    // SAFETY: with a single thread, no lock can be held by a thread that the child lacks.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => Ok(Some(pid)),
    }
}
