//! The processes of a cgroup, and killing them.

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::dir::Dir;
use crate::{Cgroup, CgroupError};

/// The processes of `dir` and of all cgroups below it. A cgroup that is gone has none.
pub(crate) fn processes(dir: &Dir) -> Result<Vec<u32>, CgroupError> {
    let mut pids = Vec::new();
    collect(dir, &mut pids)?;
    pids.sort_unstable();
    pids.dedup();
    Ok(pids)
}

fn collect(dir: &Dir, pids: &mut Vec<u32>) -> Result<(), CgroupError> {
    match dir.read("cgroup.procs") {
        Ok(text) => pids.extend(
            text.lines()
                .filter_map(|line| line.parse::<u32>().ok())
                .filter(|pid| *pid != 0),
        ),
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
        // A threaded cgroup: its processes are listed by the domain above.
        Err(Errno::EOPNOTSUPP) => {}
        Err(source) => return Err(CgroupError::io("read", dir.file("cgroup.procs"))(source)),
    }
    let children = match dir.children() {
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
        other => other.map_err(CgroupError::io("list cgroup", dir.path()))?,
    };
    children.iter().try_for_each(|child| collect(child, pids))
}

impl Cgroup {
    /// One directory that holds all processes of the container.
    pub(crate) fn members(&self) -> Option<&Dir> {
        self.unified
            .as_ref()
            .or_else(|| {
                ["freezer", "devices", "pids"]
                    .iter()
                    .find_map(|name| self.v1(name))
            })
            .or_else(|| self.legacy.first().map(|one| &one.dir))
    }

    /// The ids of all processes in the cgroup and the cgroups below it, in ascending order; empty if the
    /// cgroup is gone.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if a cgroup cannot be read.
    pub fn pids(&self) -> Result<Vec<u32>, CgroupError> {
        self.members().map_or_else(|| Ok(Vec::new()), processes)
    }

    /// Sends SIGKILL to every process in the cgroup and below, also to those that are being forked, and
    /// makes sure that none of them is frozen. Does not wait for their end.
    ///
    /// With a cgroup2 tree this is one write to cgroup.kill (Linux 5.14); otherwise the cgroup is frozen, so
    /// that nobody forks meanwhile, its processes are killed one by one, and it is thawed.
    ///
    /// # Errors
    /// [`CgroupError`] if the cgroup can neither be killed nor read. A cgroup that is gone is no error.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if self.is_none() {
            return Ok(());
        }
        if let Some(dir) = &self.unified {
            match dir.write("cgroup.kill", "1") {
                Ok(()) => return self.thaw_frozen_v1(),
                Err(Errno::ENOENT) if dir.exists() => {}
                Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
                // A threaded cgroup has no cgroup.kill of its own.
                Err(Errno::EOPNOTSUPP) => {}
                Err(source) => return Err(CgroupError::io("write", dir.file("cgroup.kill"))(source)),
            }
        }
        // Freezing is what makes the list complete; without it, lists are taken until one is empty.
        let frozen = self.freeze().is_ok();
        let killed = self.kill_listed(frozen);
        self.thaw()?;
        killed
    }

    fn kill_listed(&self, frozen: bool) -> Result<(), CgroupError> {
        let rounds = if frozen { 1 } else { 16 };
        for _ in 0..rounds {
            let pids = self.pids()?;
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                match kill(Pid::from_raw(pid as i32), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(source) => {
                        return Err(CgroupError::io(
                            "kill a process of cgroup",
                            self.path_for_messages(),
                        )(source));
                    }
                }
            }
        }
        Ok(())
    }

    /// A process frozen by the v1 freezer does not die before it is thawed; in v2 it does.
    fn thaw_frozen_v1(&self) -> Result<(), CgroupError> {
        match self.v1("freezer") {
            Some(dir) => match dir.write("freezer.state", "THAWED") {
                Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
                Err(source) => Err(CgroupError::io("thaw cgroup", dir.path())(source)),
            },
            None => Ok(()),
        }
    }

    pub(crate) fn path_for_messages(&self) -> std::path::PathBuf {
        self.members()
            .map(|dir| dir.path().to_owned())
            .unwrap_or_default()
    }
}
