//! What a cgroup's controllers count.

mod cpu;
mod cpuset;
mod hugetlb;
mod io;
mod memory;
mod pressure;
mod rdma;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use nix::errno::Errno;

pub use cpu::CpuStats;
pub use cpuset::CpusetStats;
pub use hugetlb::HugetlbStats;
pub use io::{IoEntry, IoStats};
pub use memory::{MemoryCounter, MemoryStats};
pub use pressure::{Pressure, PressureLine};
pub use rdma::{RdmaEntry, RdmaStats};

use crate::dir::Dir;
use crate::{Cgroup, CgroupError};

/// The counters of a cgroup. A part is `None` where the host has no such controller.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time and throttling.
    pub cpu: Option<CpuStats>,
    /// Processors and memory nodes; v1 only.
    pub cpuset: Option<CpusetStats>,
    /// Memory and swap.
    pub memory: Option<MemoryStats>,
    /// Processes.
    pub pids: Option<PidsStats>,
    /// Block I/O.
    pub io: Option<IoStats>,
    /// Huge pages, by page size ("2MB").
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// RDMA devices.
    pub rdma: RdmaStats,
}

/// Numbers of processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Present.
    pub current: u64,
    /// Allowed; 0 for no limit, as runc has it.
    pub limit: u64,
}

impl Cgroup {
    /// Reads all counters.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if a file that exists cannot be read.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        Ok(Stats {
            cpu: self.cpu_stats()?,
            cpuset: self.cpuset_stats()?,
            memory: self.memory_stats()?,
            pids: self.pids_stats()?,
            io: self.io_stats()?,
            hugetlb: self.hugetlb_stats()?,
            rdma: self.rdma_stats()?,
        })
    }

    fn pids_stats(&self) -> Result<Option<PidsStats>, CgroupError> {
        let Some(dir) = self.v1("pids").or(self.unified.as_ref()) else {
            return Ok(None);
        };
        let Some(current) = number(dir, "pids.current")? else {
            // Without the controller the processes themselves can be counted.
            let current = crate::kill::processes(dir)?.len() as u64;
            return Ok(Some(PidsStats { current, limit: 0 }));
        };
        let limit = number(dir, "pids.max")?
            .filter(|limit| *limit != u64::MAX)
            .unwrap_or(0);
        Ok(Some(PidsStats { current, limit }))
    }
}

/// A file's text; `None` if there is no such file.
fn text(dir: &Dir, file: &str) -> Result<Option<String>, CgroupError> {
    match dir.read(file) {
        Ok(text) => Ok(Some(text)),
        Err(Errno::ENOENT) if dir.exists() => Ok(None),
        // Pressure accounting can be turned off (EOPNOTSUPP), by boot parameter or cgroup.pressure.
        Err(Errno::EOPNOTSUPP) => Ok(None),
        Err(source) => Err(CgroupError::io("read", dir.file(file))(source)),
    }
}

/// A file with one number, or "max".
fn number(dir: &Dir, file: &str) -> Result<Option<u64>, CgroupError> {
    Ok(text(dir, file)?.map(|text| match text.trim() {
        "max" => u64::MAX,
        number => number.parse().unwrap_or(0),
    }))
}

/// The value of `key` in a file of "key value" lines; 0 if absent.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
        .unwrap_or(0)
}
