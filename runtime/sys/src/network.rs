//! A network namespace that a helper process makes while this process goes on with its own work.
//!
//! Of all namespaces it is the only one that takes the kernel long (0.3 ms and more, of a container's start a fifth):
//! on a second processor that time is free.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::area::{Area, STACK};
use crate::raw::child::{NetworkOrder, network_maker};
use crate::raw::{self, CloneArgs, Fd};

const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// A network namespace in the making. Dropping it takes it back.
#[derive(Debug)]
pub struct NewNetwork {
    /// The helper, until it was waited for.
    helper: Option<i32>,
    area: Area,
}

impl NewNetwork {
    /// Starts the helper, which shares memory and descriptors, sends no signal when it ends, and does nothing else.
    pub fn begin() -> io::Result<Self> {
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
        Ok(Self {
            helper: Some(helper),
            area,
        })
    }

    /// Waits for the helper: the namespace, in which the device `lo` is up.
    pub fn finish(mut self) -> io::Result<OwnedFd> {
        self.wait()
    }

    fn wait(&mut self) -> io::Result<OwnedFd> {
        let Some(helper) = self.helper.take() else {
            return Err(io::ErrorKind::NotFound.into());
        };
        raw::wait(helper, libc::__WALL as u32).map_err(|errno| io::Error::from_raw_os_error(errno.0))?;
        let order: *mut NetworkOrder = self.area.page();
        // SAFETY: written by `begin`; the helper has ended.
        let NetworkOrder { network, errno } = unsafe { order.read_volatile() };
        if network == Fd(-1) {
            return Err(io::Error::from_raw_os_error(errno));
        }
        // SAFETY: the helper opened it in the descriptor table that it shared, and nobody else knows it.
        Ok(unsafe { OwnedFd::from_raw_fd(network.0) })
    }
}

impl Drop for NewNetwork {
    fn drop(&mut self) {
        let _ = self.wait();
    }
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
        let Ok(network) = NewNetwork::begin().unwrap().finish() else {
            assert!(
                !nix::unistd::geteuid().is_root(),
                "root may make network namespaces"
            );
            return;
        };
        let other = NewNetwork::begin().unwrap().finish().unwrap();
        assert_eq!(own(), before);
        assert_ne!(inode(&network), before);
        assert_ne!(inode(&network), inode(&other));
        // SAFETY: no memory is involved.
        let flags = unsafe { libc::fcntl(network.as_raw_fd(), libc::F_GETFD) };
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
    }

    #[test]
    fn what_is_not_wanted_any_more_is_taken_back() {
        let helper = {
            let network = NewNetwork::begin().unwrap();
            network.helper.unwrap()
        };
        // Waited for: it is no child of this process any more.
        assert_eq!(raw::wait(helper, libc::__WALL as u32), Err(raw::Errno::ECHILD));
    }
}
