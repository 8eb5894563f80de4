//! Removing a cgroup with what the container made below it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use berth_sys::pidfd;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::dir::Dir;
use crate::group::rmdir;
use crate::kill::processes;
use crate::{Cgroup, CgroupError};

/// Killed processes leave their cgroup when they exit, which takes as long as freeing their memory does.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Removes the cgroup and all cgroups below it, in all hierarchies, and the unit that it belongs to. Processes
    /// that are about to exit are waited for; nothing is killed.
    ///
    /// # Errors
    /// [`CgroupError::Busy`] if processes are left after 10 s, or another [`CgroupError`]. A cgroup that is
    /// gone is no error.
    pub fn delete(&self) -> Result<(), CgroupError> {
        let end = Instant::now() + PATIENCE;
        if let Some(unit) = &self.unit {
            // systemd waits for the end of a cgroup that somebody else removed.
            if let Some(dir) = self.members() {
                wait_for_all(dir, end)?;
            }
            unit.stop()?;
        }
        let directories = self.legacy.iter().map(|one| &one.dir).chain(&self.unified);
        // Go on after a failure: one hierarchy's trouble should not leave the others behind.
        let mut first = Ok(());
        for dir in directories {
            let done = remove(dir, end);
            if first.is_ok() {
                first = done;
            }
        }
        first
    }
}

/// Waits until no process is left in `dir` and below.
fn wait_for_all(dir: &Dir, end: Instant) -> Result<(), CgroupError> {
    while !processes(dir)?.is_empty() {
        wait_until_empty(dir, end)?;
    }
    Ok(())
}

/// Removes `dir`: at once, as almost always works; else children first, waiting for processes to exit.
fn remove(dir: &Dir, end: Instant) -> Result<(), CgroupError> {
    loop {
        match rmdir(dir.path()) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            // Directories with content are ENOTEMPTY in a plain file system, EBUSY in a cgroup's.
            Err(Errno::EBUSY | Errno::ENOTEMPTY) => {}
            Err(source) => return Err(CgroupError::io("remove cgroup", dir.path())(source)),
        }
        remove_children(dir, end)?;
        match rmdir(dir.path()) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY) => wait_until_empty(dir, end)?,
            Err(source) => return Err(CgroupError::io("remove cgroup", dir.path())(source)),
        }
    }
}

fn remove_children(dir: &Dir, end: Instant) -> Result<(), CgroupError> {
    match dir.children() {
        Ok(children) => children.iter().try_for_each(|child| remove(child, end)),
        Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
        Err(source) => Err(CgroupError::io("list cgroup", dir.path())(source)),
    }
}

/// Waits for the next sign that `dir` may be removable, at most until `end`.
fn wait_until_empty(dir: &Dir, end: Instant) -> Result<(), CgroupError> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(match processes(dir)? {
            pids if pids.is_empty() => CgroupError::io("remove cgroup", dir.path())(Errno::EBUSY),
            mut pids => {
                pids.truncate(10);
                CgroupError::Busy {
                    path: dir.path().to_owned(),
                    pids,
                }
            }
        });
    }
    match dir.open("cgroup.events", OFlag::O_RDONLY) {
        Ok(events) => wait_unpopulated(dir, &events, left),
        Err(Errno::ENOENT | Errno::ENODEV) => wait_for_exit(dir, left),
        Err(source) => Err(CgroupError::io("open", dir.file("cgroup.events"))(source)),
    }
}

/// v2 announces the last process's exit.
fn wait_unpopulated(dir: &Dir, events: &OwnedFd, left: Duration) -> Result<(), CgroupError> {
    let mut buffer = [0; 256];
    let len = match nix::sys::uio::pread(events, &mut buffer, 0) {
        Ok(len) => len,
        Err(Errno::ENODEV | Errno::EINTR) => return Ok(()),
        Err(source) => return Err(CgroupError::io("read", dir.file("cgroup.events"))(source)),
    };
    if String::from_utf8_lossy(&buffer[..len]).contains("populated 1") {
        return sleep_on(&[events], PollFlags::POLLPRI, left, dir.path());
    }
    // Empty, and still busy: the last task is between leaving and being freed.
    sleep_on(
        &[],
        PollFlags::empty(),
        left.min(Duration::from_millis(1)),
        dir.path(),
    )
}

/// v1 announces nothing; but the exit of a process can be waited for.
fn wait_for_exit(dir: &Dir, left: Duration) -> Result<(), CgroupError> {
    let first = processes(dir)?
        .into_iter()
        .find_map(|pid| pidfd::open(pid as i32).ok());
    match first {
        Some(process) => sleep_on(&[&process], PollFlags::POLLIN, left, dir.path()),
        None => sleep_on(
            &[],
            PollFlags::empty(),
            left.min(Duration::from_millis(1)),
            dir.path(),
        ),
    }
}

fn sleep_on(files: &[&OwnedFd], flags: PollFlags, left: Duration, path: &Path) -> Result<(), CgroupError> {
    let mut polled: Vec<_> = files
        .iter()
        .map(|file| PollFd::new(file.as_fd(), flags))
        .collect();
    match poll(
        &mut polled,
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
    ) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(source) => Err(CgroupError::io("wait for processes of cgroup", path)(source)),
    }
}
