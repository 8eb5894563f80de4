//! Being told when the kernel runs out of a cgroup's memory, and when the cgroup is empty.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::uio::pread;

use crate::dir::{Dir, uninterrupted};
use crate::{Cgroup, CgroupError};

/// What an [`OomWatch`] has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// Memory ran out: v1 tells so at the moment it happens, v2 after a process was killed for it.
    OutOfMemory,
    /// No process is left in the cgroup, or the cgroup is gone.
    Ended,
    /// Nothing until the given time.
    Nothing,
}

/// Listens to a cgroup.
#[derive(Debug)]
pub struct OomWatch {
    memory: Option<Memory>,
    /// cgroup.events of the cgroup2 tree, if there is one.
    events: Option<OwnedFd>,
    /// To look for where there is no cgroup2 tree.
    legacy: Option<Dir>,
}

#[derive(Debug)]
enum Memory {
    /// An eventfd that is registered for memory.oom_control, which stays open with it.
    V1 {
        event: EventFd,
        _control: OwnedFd,
        /// Whether it is gone tells an event from the one at the cgroup's end.
        dir: Dir,
    },
    /// memory.events, and the kills it told of last.
    V2 { events: OwnedFd, kills: u64 },
}

impl Cgroup {
    /// Starts listening.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if a file that should announce something cannot be used.
    pub fn watch_oom(&self) -> Result<OomWatch, CgroupError> {
        let events = match &self.unified {
            Some(dir) => Some(open(dir, "cgroup.events")?),
            None => None,
        };
        let legacy = self.legacy.first().filter(|_| events.is_none());
        Ok(OomWatch {
            memory: self.watch_memory()?,
            events,
            legacy: legacy.map(|one| Dir::new(one.dir.path())),
        })
    }

    fn watch_memory(&self) -> Result<Option<Memory>, CgroupError> {
        if let Some(dir) = self.v1("memory") {
            let control = open(dir, "memory.oom_control")?;
            let file = "cgroup.event_control";
            let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(CgroupError::io("make an eventfd for", dir.file(file)))?;
            // cgroup-v1/memory.rst, "OOM Control".
            let line = format!("{} {}", event.as_fd().as_raw_fd(), control.as_raw_fd());
            dir.write(file, &line)
                .map_err(CgroupError::io("write", dir.file(file)))?;
            return Ok(Some(Memory::V1 {
                event,
                _control: control,
                dir: Dir::new(dir.path()),
            }));
        }
        let Some(dir) = &self.unified else { return Ok(None) };
        if !dir.has("memory.events") {
            return Ok(None);
        }
        let events = open(dir, "memory.events")?;
        let kills = value(events.as_fd(), "oom_kill").unwrap_or_default();
        Ok(Some(Memory::V2 { events, kills }))
    }
}

fn open(dir: &Dir, file: &str) -> Result<OwnedFd, CgroupError> {
    dir.open(file, OFlag::O_RDONLY)
        .map_err(CgroupError::io("open", dir.file(file)))
}

/// The value of a key in an open file of "key value" lines; `None` if the cgroup is gone. Reading arms the file for the
/// next POLLPRI.
fn value(file: BorrowedFd<'_>, key: &str) -> Option<u64> {
    let mut buffer = [0; 1024];
    let length = uninterrupted(|| pread(file, &mut buffer, 0)).ok()?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    Some(
        line.and_then(|number| number.trim().parse().ok())
            .unwrap_or_default(),
    )
}

impl OomWatch {
    /// Whether this host announces a lack of memory at all.
    pub fn sees_memory(&self) -> bool {
        self.memory.is_some()
    }

    /// Waits for the next announcement, or until `until`.
    ///
    /// # Errors
    /// The reason why poll(2) failed.
    pub fn wait(&mut self, until: Instant) -> Result<Announced, Errno> {
        loop {
            // Before the end of the cgroup is looked for: what killed its last process comes first.
            if self.out_of_memory() {
                return Ok(Announced::OutOfMemory);
            }
            if self.ended() {
                return Ok(Announced::Ended);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Announced::Nothing);
            }
            // A millisecond more, as poll(2) counts whole ones and may be early.
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut self.interests(), timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    fn interests(&self) -> Vec<PollFd<'_>> {
        let memory = self.memory.as_ref().map(|memory| match memory {
            Memory::V1 { event, .. } => PollFd::new(event.as_fd(), PollFlags::POLLIN),
            Memory::V2 { events, .. } => PollFd::new(events.as_fd(), PollFlags::POLLPRI),
        });
        let events = self.events.as_ref();
        memory
            .into_iter()
            .chain(events.map(|events| PollFd::new(events.as_fd(), PollFlags::POLLPRI)))
            .collect()
    }

    fn out_of_memory(&mut self) -> bool {
        match &mut self.memory {
            Some(Memory::V1 { event, dir, .. }) => event.read().is_ok() && dir.exists(),
            Some(Memory::V2 { events, kills }) => {
                let now = value(events.as_fd(), "oom_kill").unwrap_or(*kills);
                std::mem::replace(kills, now) < now
            }
            None => false,
        }
    }

    fn ended(&self) -> bool {
        match &self.events {
            Some(events) => value(events.as_fd(), "populated").unwrap_or_default() == 0,
            None => self.legacy.as_ref().is_some_and(|dir| !dir.exists()),
        }
    }
}
