//! cpu.stat, cpu.pressure; v1 cpu.stat and cpuacct.*.

use super::pressure::{Pressure, pressure};
use super::{keyed, number, text};
use crate::{Cgroup, CgroupError};

/// CPU time in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CpuStats {
    /// All time used.
    pub usage: u64,
    /// Time in user mode.
    pub user: u64,
    /// Time in the kernel.
    pub system: u64,
    /// Time by CPU; v1 only.
    pub per_cpu: Vec<u64>,
    /// User time by CPU; v1 only.
    pub per_cpu_user: Vec<u64>,
    /// Kernel time by CPU; v1 only.
    pub per_cpu_system: Vec<u64>,
    /// Enforcement periods that have passed.
    pub periods: u64,
    /// Periods in which the quota was used up.
    pub throttled_periods: u64,
    /// Time spent waiting for a new period.
    pub throttled_time: u64,
    /// Pressure; v2 only.
    pub pressure: Option<Pressure>,
}

/// Clock ticks of v1's cpuacct.stat a second (USER_HZ, fixed on Linux), in nanoseconds each.
const TICK: u64 = 10_000_000;

impl Cgroup {
    pub(super) fn cpu_stats(&self) -> Result<Option<CpuStats>, CgroupError> {
        if self.v1("cpu").is_some() || self.v1("cpuacct").is_some() {
            return self.cpu_stats_v1().map(Some);
        }
        let Some(dir) = &self.unified else { return Ok(None) };
        let Some(stat) = text(dir, "cpu.stat")? else {
            return Ok(None);
        };
        let micro = |key| keyed(&stat, key).saturating_mul(1000);
        Ok(Some(CpuStats {
            usage: micro("usage_usec"),
            user: micro("user_usec"),
            system: micro("system_usec"),
            periods: keyed(&stat, "nr_periods"),
            throttled_periods: keyed(&stat, "nr_throttled"),
            throttled_time: micro("throttled_usec"),
            pressure: pressure(dir, "cpu.pressure")?,
            ..CpuStats::default()
        }))
    }

    fn cpu_stats_v1(&self) -> Result<CpuStats, CgroupError> {
        let mut stats = CpuStats::default();
        if let Some(dir) = self.v1("cpu") {
            let stat = text(dir, "cpu.stat")?.unwrap_or_default();
            stats.periods = keyed(&stat, "nr_periods");
            stats.throttled_periods = keyed(&stat, "nr_throttled");
            stats.throttled_time = keyed(&stat, "throttled_time");
        }
        if let Some(dir) = self.v1("cpuacct") {
            stats.usage = number(dir, "cpuacct.usage")?.unwrap_or(0);
            let list = |text: Option<String>| -> Vec<u64> {
                text.unwrap_or_default()
                    .split_whitespace()
                    .filter_map(|word| word.parse().ok())
                    .collect()
            };
            stats.per_cpu = list(text(dir, "cpuacct.usage_percpu")?);
            stats.per_cpu_user = list(text(dir, "cpuacct.usage_percpu_user")?);
            stats.per_cpu_system = list(text(dir, "cpuacct.usage_percpu_sys")?);
            let stat = text(dir, "cpuacct.stat")?.unwrap_or_default();
            stats.user = keyed(&stat, "user").saturating_mul(TICK);
            stats.system = keyed(&stat, "system").saturating_mul(TICK);
        }
        Ok(stats)
    }
}
