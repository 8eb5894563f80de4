//! v1 cpuset.*: what a container may run on, and the hierarchy's switches. On v2 they are cpuset.cpus and cpuset.mems
//! alone, which runc does not report.

use super::{number, text};
use crate::{Cgroup, CgroupError};

/// Processors and memory nodes of a v1 cpuset, and its switches (cpuset(7)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpusetStats {
    /// Numbers of the processors.
    pub cpus: Vec<u16>,
    /// Numbers of the memory nodes.
    pub mems: Vec<u16>,
    /// cpuset.cpu_exclusive.
    pub cpu_exclusive: u64,
    /// cpuset.mem_exclusive.
    pub mem_exclusive: u64,
    /// cpuset.mem_hardwall.
    pub mem_hardwall: u64,
    /// cpuset.memory_migrate.
    pub memory_migrate: u64,
    /// cpuset.memory_spread_page.
    pub memory_spread_page: u64,
    /// cpuset.memory_spread_slab.
    pub memory_spread_slab: u64,
    /// cpuset.memory_pressure: how fast processes ask for memory that must be freed first.
    pub memory_pressure: u64,
    /// cpuset.sched_load_balance.
    pub sched_load_balance: u64,
    /// cpuset.sched_relax_domain_level; -1 for the system's.
    pub sched_relax_domain_level: i64,
}

impl Cgroup {
    pub(super) fn cpuset_stats(&self) -> Result<Option<CpusetStats>, CgroupError> {
        let Some(dir) = self.v1("cpuset") else {
            return Ok(None);
        };
        let list = |file| -> Result<_, CgroupError> {
            Ok(text(dir, file)?.map_or_else(Vec::new, |text| numbers(&text)))
        };
        let get = |file| number(dir, file).map(Option::unwrap_or_default);
        let level = text(dir, "cpuset.sched_relax_domain_level")?.unwrap_or_default();
        Ok(Some(CpusetStats {
            cpus: list("cpuset.cpus")?,
            mems: list("cpuset.mems")?,
            cpu_exclusive: get("cpuset.cpu_exclusive")?,
            mem_exclusive: get("cpuset.mem_exclusive")?,
            mem_hardwall: get("cpuset.mem_hardwall")?,
            memory_migrate: get("cpuset.memory_migrate")?,
            memory_spread_page: get("cpuset.memory_spread_page")?,
            memory_spread_slab: get("cpuset.memory_spread_slab")?,
            memory_pressure: get("cpuset.memory_pressure")?,
            sched_load_balance: get("cpuset.sched_load_balance")?,
            sched_relax_domain_level: level.trim().parse().unwrap_or(0),
        }))
    }
}

/// "0-2,7".
fn numbers(text: &str) -> Vec<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(numbers("0-2,7\n"), [0, 1, 2, 7]);
        assert_eq!(numbers("\n"), Vec::<u16>::new());
    }
}
