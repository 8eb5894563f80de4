//! A network namespace that a helper process makes while this process goes on with its own work.
//!
//! Of all namespaces it is the only one that takes the kernel long (0.3 ms and more, of a container's start a fifth):
//! on a second processor that time is free.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::area::{Area, STACK};
use crate::raw::child::{FAILED, NetworkOrder, OPENED, network_maker};
use crate::raw::{self, CloneArgs};

const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// How long the helper is waited for before this process looks whether it is still there, in milliseconds.
const LOOK: u32 = 50;

/// A network namespace in the making. Dropping it takes it back.
#[derive(Debug)]
pub struct NewNetwork {
    /// The helper, until it was waited for.
    helper: Option<i32>,
    /// The namespace was handed over.
    taken: bool,
    area: Area,
}

impl NewNetwork {
    /// Starts the helper, which shares memory and descriptors, sends no signal when it ends, and does nothing else. None
    /// if this process may run on one processor only, where a helper would but cost its own time.
    pub fn begin() -> io::Result<Option<Self>> {
        let Some(others) = other_processors() else {
            return Ok(None);
        };
        let area = Area::new(libc::MAP_PRIVATE, 1)?;
        let order: *mut NetworkOrder = area.page();
        // SAFETY: the page is aligned, large enough (checked by `page`), and nobody else uses it yet.
        unsafe { order.write(NetworkOrder::default()) };
        let args = CloneArgs {
            flags: CLONE_VM | CLONE_FILES | CLONE_CLEAR_SIGHAND,
            stack: area.stack(0),
            stack_size: STACK as u64,
            ..CloneArgs::default()
        };
        // SAFETY: order and stack lie in the area, which lives until the helper was waited for.
        let helper = unsafe { raw::clone_with_stack(&args, network_maker, order.cast()) }
            .map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
        // Left to the scheduler, it would often begin only when this process waits. Without the right to, it is left.
        let _ = sched_setaffinity(Pid::from_raw(helper), &others);
        Ok(Some(Self {
            helper: Some(helper),
            taken: false,
            area,
        }))
    }

    fn order(&self) -> &NetworkOrder {
        // SAFETY: written by `begin`, lives as long as the area, and is shared by atomic words only.
        unsafe { &*self.area.page::<NetworkOrder>() }
    }

    /// Waits until the namespace is there, and hands it over. Its `lo` may not be up yet: [`NewNetwork::finish`].
    pub fn namespace(&mut self) -> io::Result<OwnedFd> {
        loop {
            match self.order().state.load(Ordering::Acquire) {
                OPENED if self.taken => return Err(io::ErrorKind::NotFound.into()),
                OPENED => {
                    self.taken = true;
                    // SAFETY: the helper opened it in the descriptor table that it shares, and nobody else has it.
                    return Ok(unsafe { OwnedFd::from_raw_fd(self.order().network.load(Ordering::Relaxed)) });
                }
                FAILED => return Err(self.answer()),
                _ if self.helper.is_none() => return Err(io::Error::other("its helper was killed")),
                state => {
                    raw::futex_wait(&self.order().state, state, LOOK);
                    self.reap(WaitPidFlag::WNOHANG)?;
                }
            }
        }
    }

    /// Waits for the helper: `lo` is up in the namespace.
    pub fn finish(mut self) -> io::Result<()> {
        self.reap(WaitPidFlag::empty())?;
        let order = self.order();
        match (
            order.state.load(Ordering::Acquire),
            order.errno.load(Ordering::Relaxed),
        ) {
            (OPENED, 0) => Ok(()),
            (OPENED | FAILED, _) => Err(self.answer()),
            _ => Err(io::Error::other("its helper was killed")),
        }
    }

    fn answer(&self) -> io::Error {
        io::Error::from_raw_os_error(self.order().errno.load(Ordering::Relaxed))
    }

    /// After a success without WNOHANG, nobody but this process uses the area.
    fn reap(&mut self, options: WaitPidFlag) -> io::Result<()> {
        while let Some(helper) = self.helper {
            match waitpid(Pid::from_raw(helper), Some(options | WaitPidFlag::__WALL)) {
                Err(Errno::EINTR) => {}
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) => self.helper = None,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Drop for NewNetwork {
    fn drop(&mut self) {
        let _ = self.reap(WaitPidFlag::empty());
        if !self.taken {
            // What there is goes with the value.
            let _ = self.namespace();
        }
    }
}

/// The processors that this process may run on, but for the one it runs on now; None if there is no other.
fn other_processors() -> Option<CpuSet> {
    let mut set = sched_getaffinity(Pid::from_raw(0)).ok()?;
    // SAFETY: no memory is involved.
    let here = usize::try_from(unsafe { libc::sched_getcpu() }).ok()?;
    set.unset(here).ok()?;
    (0..CpuSet::count())
        .any(|processor| set.is_set(processor) == Ok(true))
        .then_some(set)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn inode(fd: &OwnedFd) -> u64 {
        // SAFETY: an all-zero stat is a valid one, which the call fills.
        let mut stat: libc::stat = unsafe { std::mem::zeroed() };
        // SAFETY: a live descriptor and a structure of ours.
        assert_eq!(unsafe { libc::fstat(fd.as_raw_fd(), &raw mut stat) }, 0);
        stat.st_ino
    }

    fn own() -> u64 {
        let name = std::fs::read_link("/proc/self/ns/net").unwrap();
        let name = name.to_string_lossy().into_owned();
        name.trim_start_matches("net:[")
            .trim_end_matches(']')
            .parse()
            .unwrap()
    }

    #[test]
    fn the_namespace_is_new_and_this_process_stays_where_it_is() {
        let before = own();
        let Some(mut made) = NewNetwork::begin().unwrap() else {
            return;
        };
        let Ok(network) = made.namespace() else {
            assert!(
                !nix::unistd::geteuid().is_root(),
                "root may make network namespaces"
            );
            return;
        };
        made.finish().unwrap();
        let mut second = NewNetwork::begin().unwrap().unwrap();
        let other = second.namespace().unwrap();
        assert!(second.namespace().is_err(), "it was handed over");
        second.finish().unwrap();
        assert_eq!(own(), before);
        assert_ne!(inode(&network), before);
        assert_ne!(inode(&network), inode(&other));
        // SAFETY: no memory is involved.
        let flags = unsafe { libc::fcntl(network.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_taken_back() {
        let Some(network) = NewNetwork::begin().unwrap() else {
            return;
        };
        let helper = network.helper.unwrap();
        drop(network);
        // Waited for: it is no child of this process any more.
        assert_eq!(raw::wait(helper, libc::__WALL as u32), Err(raw::Errno::ECHILD));
    }
}
