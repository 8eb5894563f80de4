//! Notice of the kernel's OOM killer in a container's cgroup.
//!
//! | host | what is polled |
//! | --- | --- |
//! | cgroup2 has the memory controller | `memory.events` itself: the kernel wakes its readers with POLLPRI |
//! | cgroup v1 has it | an eventfd registered in `cgroup.event_control` for `memory.oom_control` |

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_cgroups::Cgroup;
use nix::poll::PollFlags;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A watch on one container.
#[derive(Debug)]
pub struct Watch {
    kind: Kind,
    /// Kills that have been told.
    seen: u64,
}

#[derive(Debug)]
enum Kind {
    Events(OwnedFd),
    Eventfd(EventFd),
}

impl Watch {
    /// Watches `cgroup`; `None` where no memory controller is.
    ///
    /// # Errors
    /// The system's answer.
    pub fn new(cgroup: &Cgroup) -> io::Result<Option<Watch>> {
        let paths = cgroup.paths();
        let kind = if let Some(memory) = paths.get("memory") {
            Kind::Eventfd(register(memory)?)
        } else if let Some(unified) = paths.get("") {
            match File::open(unified.join("memory.events")) {
                Ok(file) => Kind::Events(file.into()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        } else {
            return Ok(None);
        };
        let seen = cgroup.oom_kills().unwrap_or(0);
        Ok(Some(Watch { kind, seen }))
    }

    /// What is to be polled.
    pub fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        match &self.kind {
            Kind::Events(file) => (file.as_fd(), PollFlags::POLLPRI),
            Kind::Eventfd(event) => (event.as_fd(), PollFlags::POLLIN),
        }
    }

    /// Whether the killer has killed since the last time.
    pub fn check(&mut self, cgroup: &Cgroup) -> bool {
        match &self.kind {
            // The notice is given again until the file is read through this descriptor.
            Kind::Events(file) => {
                let _ = nix::sys::uio::pread(file, &mut [0; 512], 0);
            }
            Kind::Eventfd(event) => {
                let _ = event.read();
            }
        }
        let kills = cgroup.oom_kills().unwrap_or(0);
        let more = kills > self.seen;
        self.seen = self.seen.max(kills);
        more
    }
}

fn register(memory: &Path) -> io::Result<EventFd> {
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
    let control = File::open(memory.join("memory.oom_control"))?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    std::fs::write(memory.join("cgroup.event_control"), line)?;
    Ok(event)
}
