//! cpu.shares, cpu.idle, cpu.cfs_*, cpu.rt_*.

use berth_spec::LinuxResources;

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

const SHARES: &str = "linux.resources.cpu.shares";

pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    let Some(cpu) = resources.cpu() else {
        return Ok(Vec::new());
    };
    let mut writes = Vec::new();
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        // The kernel clamps without a word (MIN_SHARES, MAX_SHARES in kernel/sched/sched.h).
        if !(2..=262_144).contains(&shares) {
            return Err(CgroupError::invalid(
                SHARES,
                format!("{shares} is not within 2 to 262144"),
            ));
        }
        writes.push(Write::new("cpu.shares", shares, SHARES));
    }
    if let Some(idle) = cpu.idle() {
        writes.push(Write::new("cpu.idle", idle, "linux.resources.cpu.idle"));
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        writes.push(Write::new(
            "cpu.rt_period_us",
            period,
            "linux.resources.cpu.realtimePeriod",
        ));
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        writes.push(Write::new(
            "cpu.rt_runtime_us",
            runtime,
            "linux.resources.cpu.realtimeRuntime",
        ));
    }
    if let Some(period) = cpu.period().filter(|period| *period != 0) {
        writes.push(Write::new(
            "cpu.cfs_period_us",
            period,
            "linux.resources.cpu.period",
        ));
    }
    if let Some(quota) = cpu.quota().filter(|quota| *quota != 0) {
        let write = Write::new("cpu.cfs_quota_us", quota.max(-1), "linux.resources.cpu.quota");
        writes.push(if quota < 0 { write.optional() } else { write });
    }
    if let Some(burst) = cpu.burst() {
        writes.push(Write::new("cpu.cfs_burst_us", burst, "linux.resources.cpu.burst"));
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let of = |cpu: &str| {
            let resources = LinuxResources {
                cpu: Some(berth_spec::read(cpu.as_bytes()).unwrap().value),
                ..LinuxResources::default()
            };
            writes(&resources, &mut Vec::new())
                .map(|list| {
                    list.into_iter()
                        .map(|w| format!("{} {}", w.file, w.value))
                        .collect::<Vec<_>>()
                })
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            of(r#"{"shares": 512, "quota": -1, "period": 50000, "burst": 100, "idle": 1}"#).unwrap(),
            [
                "cpu.shares 512",
                "cpu.idle 1",
                "cpu.cfs_period_us 50000",
                "cpu.cfs_quota_us -1",
                "cpu.cfs_burst_us 100"
            ]
        );
        assert!(of(r#"{"shares": 1}"#).unwrap_err().contains("2 to 262144"));
        assert!(of(r#"{"shares": 0, "quota": 0}"#).unwrap().is_empty());
    }
}
