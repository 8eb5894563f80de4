//! Freezing and thawing.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::dir::{Dir, uninterrupted};
use crate::{Cgroup, CgroupError};

/// Whether a cgroup is frozen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its processes run.
    Thawed,
    /// Its processes are stopped, or are about to be.
    Frozen,
}

/// A task in uninterruptible sleep delays the freezer for as long as its I/O takes.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Stops all processes of the cgroup, and returns when all of them stand still.
    ///
    /// In a cgroup2 tree (hybrid hosts have one, too) by cgroup.freeze, whose frozen processes can still be
    /// killed and whose end is announced; otherwise by the v1 freezer.
    ///
    /// # Errors
    /// [`CgroupError::FreezeTimeout`] after 10 s, in which case the cgroup is thawed again;
    /// [`CgroupError::MissingController`] without any freezer.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        let done = self.turn(State::Frozen);
        if matches!(done, Err(CgroupError::FreezeTimeout { .. })) {
            self.turn(State::Thawed)?;
        }
        done
    }

    /// Lets the processes of the cgroup run again, whichever freezer stopped them. A cgroup that is gone is
    /// no error.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn thaw(&self) -> Result<(), CgroupError> {
        if let (Some(_), Some(dir)) = (self.v2_freezer(), self.v1("freezer"))
            && v1_state(dir)? != "THAWED"
        {
            v1_turn(dir, State::Thawed)?;
        }
        match self.turn(State::Thawed) {
            // Nothing is left to thaw.
            Err(CgroupError::Io {
                source: Errno::ENOENT | Errno::ENODEV,
                ..
            }) if self.members().is_none_or(|dir| !dir.exists()) => Ok(()),
            other => other,
        }
    }

    /// Whether the cgroup is frozen, by itself; a cgroup that is gone is not.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if the state cannot be read.
    pub fn state(&self) -> Result<State, CgroupError> {
        if let Some(dir) = self.v2_freezer() {
            match dir.read("cgroup.freeze") {
                Ok(text) if text.trim() == "1" => return Ok(State::Frozen),
                Ok(_) | Err(Errno::ENOENT | Errno::ENODEV) => {}
                Err(source) => return Err(CgroupError::io("read", dir.file("cgroup.freeze"))(source)),
            }
        }
        if let Some(dir) = self.v1("freezer")
            && v1_state(dir)? != "THAWED"
        {
            return Ok(State::Frozen);
        }
        Ok(State::Thawed)
    }

    fn v2_freezer(&self) -> Option<&Dir> {
        self.unified.as_ref()
    }

    fn turn(&self, wanted: State) -> Result<(), CgroupError> {
        if let Some(dir) = self.v2_freezer() {
            match v2_turn(dir, wanted) {
                // Before Linux 5.2.
                Err(CgroupError::Io {
                    source: Errno::ENOENT,
                    ..
                }) if dir.exists() && self.v1("freezer").is_some() => {}
                other => return other,
            }
        }
        match self.v1("freezer") {
            Some(dir) => v1_turn(dir, wanted),
            None => Err(CgroupError::MissingController {
                field: "pause".to_owned(),
                controller: "freezer".to_owned(),
                reason: "no hierarchy can freeze".to_owned(),
            }),
        }
    }
}

fn word(wanted: State) -> &'static str {
    if wanted == State::Frozen {
        "frozen"
    } else {
        "thawed"
    }
}

/// Writes cgroup.freeze, and waits for cgroup.events to announce the result (it is poll(2)-able).
fn v2_turn(dir: &Dir, wanted: State) -> Result<(), CgroupError> {
    let events = dir
        .open("cgroup.events", OFlag::O_RDONLY)
        .map_err(CgroupError::io("open", dir.file("cgroup.events")))?;
    let (value, line) = if wanted == State::Frozen {
        ("1", "frozen 1")
    } else {
        ("0", "frozen 0")
    };
    dir.write("cgroup.freeze", value)
        .map_err(CgroupError::io("write", dir.file("cgroup.freeze")))?;
    wait_for(events.as_fd(), |text| text.lines().any(|found| found == line)).map_err(|failed| match failed {
        Waited::TimedOut(found) => CgroupError::FreezeTimeout {
            path: dir.path().to_owned(),
            wanted: word(wanted),
            found: found.replace('\n', ", "),
            seconds: PATIENCE.as_secs(),
        },
        Waited::Failed(source) => CgroupError::io("read", dir.file("cgroup.events"))(source),
    })
}

pub(crate) enum Waited {
    TimedOut(String),
    Failed(Errno),
}

/// Waits until the text of `events`, an open cgroup.events, satisfies `done`. The kernel marks the file for
/// POLLPRI at each change after the last read.
pub(crate) fn wait_for(
    events: std::os::fd::BorrowedFd<'_>,
    done: impl Fn(&str) -> bool,
) -> Result<(), Waited> {
    let end = Instant::now() + PATIENCE;
    let mut buffer = [0; 512];
    loop {
        let len = uninterrupted(|| nix::sys::uio::pread(events, &mut buffer, 0)).map_err(Waited::Failed)?;
        let text = String::from_utf8_lossy(&buffer[..len]);
        if done(&text) {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Waited::TimedOut(text.trim().to_owned()));
        }
        let mut polled = [PollFd::new(events, PollFlags::POLLPRI)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(source) => return Err(Waited::Failed(source)),
        }
    }
}

fn v1_state(dir: &Dir) -> Result<String, CgroupError> {
    match dir.read("freezer.state") {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(Errno::ENOENT | Errno::ENODEV) => Ok("THAWED".to_owned()),
        Err(source) => Err(CgroupError::io("read", dir.file("freezer.state"))(source)),
    }
}

/// The v1 freezer announces nothing, and each read or write of freezer.state takes it a step further
/// (cgroup-v1/freezer-subsystem.rst): a new process that was forked meanwhile is caught by the next write.
fn v1_turn(dir: &Dir, wanted: State) -> Result<(), CgroupError> {
    let value = if wanted == State::Frozen {
        "FROZEN"
    } else {
        "THAWED"
    };
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(10);
    loop {
        dir.write("freezer.state", value)
            .map_err(CgroupError::io("write", dir.file("freezer.state")))?;
        let found = v1_state(dir)?;
        if found == value {
            return Ok(());
        }
        if Instant::now() >= end {
            return Err(CgroupError::FreezeTimeout {
                path: dir.path().to_owned(),
                wanted: word(wanted),
                found,
                seconds: PATIENCE.as_secs(),
            });
        }
        // Nothing to wait on: give the tasks the CPU that they need to reach the freezer.
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}
