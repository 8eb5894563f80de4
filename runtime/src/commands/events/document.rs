//! The statistics as runc prints them: names, order, and which zeros are left out.

use std::collections::BTreeMap;

use berth_cgroups::{
    CpuStats, CpusetStats, HugetlbStats, IoEntry, IoStats, MemoryCounter, MemoryStats, PidsStats, Pressure,
    PressureLine, RdmaEntry, RdmaStats, Stats,
};
use serde::{Serialize, Serializer};

use crate::resctrl;

/// All statistics of a container.
#[derive(Debug, Serialize)]
pub(super) struct Document {
    cpu: Cpu,
    cpuset: Cpuset,
    memory: Memory,
    pids: Pids,
    blkio: Blkio,
    hugetlb: BTreeMap<String, Hugetlb>,
    intel_rdt: resctrl::Stats,
    /// Berth's own: runc reads these counters and does not print them.
    #[serde(skip_serializing_if = "Option::is_none")]
    rdma: Option<Rdma>,
    /// runc has this member for networks that it makes itself, which no configuration can ask for.
    network_interfaces: (),
}

impl Document {
    pub(super) fn new(stats: Stats, shares: resctrl::Stats) -> Self {
        Self {
            cpu: stats.cpu.unwrap_or_default().into(),
            cpuset: stats.cpuset.unwrap_or_default().into(),
            memory: stats.memory.unwrap_or_default().into(),
            pids: stats.pids.unwrap_or_default().into(),
            blkio: stats.io.unwrap_or_default().into(),
            hugetlb: stats
                .hugetlb
                .into_iter()
                .map(|(size, pages)| (size, pages.into()))
                .collect(),
            intel_rdt: shares,
            rdma: Rdma::new(stats.rdma),
            network_interfaces: (),
        }
    }
}

/// Go's `omitempty`.
fn zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Cpu {
    #[serde(skip_serializing_if = "zero")]
    usage: CpuUsage,
    #[serde(skip_serializing_if = "zero")]
    throttling: Throttling,
    #[serde(skip_serializing_if = "zero")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct CpuUsage {
    #[serde(skip_serializing_if = "zero")]
    total: u64,
    #[serde(skip_serializing_if = "zero")]
    percpu: Vec<u64>,
    #[serde(skip_serializing_if = "zero")]
    percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "zero")]
    percpu_user: Vec<u64>,
    kernel: u64,
    user: u64,
}

#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Throttling {
    #[serde(skip_serializing_if = "zero")]
    periods: u64,
    #[serde(skip_serializing_if = "zero")]
    throttled_periods: u64,
    #[serde(skip_serializing_if = "zero")]
    throttled_time: u64,
}

impl From<CpuStats> for Cpu {
    fn from(stats: CpuStats) -> Self {
        Self {
            usage: CpuUsage {
                total: stats.usage,
                percpu: stats.per_cpu,
                percpu_kernel: stats.per_cpu_system,
                percpu_user: stats.per_cpu_user,
                kernel: stats.system,
                user: stats.user,
            },
            throttling: Throttling {
                periods: stats.periods,
                throttled_periods: stats.throttled_periods,
                throttled_time: stats.throttled_time,
            },
            psi: stats.pressure.map(Psi::from),
        }
    }
}

#[derive(Debug, Serialize)]
struct Cpuset {
    #[serde(skip_serializing_if = "zero")]
    cpus: Vec<u16>,
    cpu_exclusive: u64,
    #[serde(skip_serializing_if = "zero")]
    mems: Vec<u16>,
    mem_hardwall: u64,
    mem_exclusive: u64,
    memory_migrate: u64,
    memory_spread_page: u64,
    memory_spread_slab: u64,
    memory_pressure: u64,
    sched_load_balance: u64,
    sched_relax_domain_level: i64,
}

impl From<CpusetStats> for Cpuset {
    fn from(stats: CpusetStats) -> Self {
        Self {
            cpus: stats.cpus,
            cpu_exclusive: stats.cpu_exclusive,
            mems: stats.mems,
            mem_hardwall: stats.mem_hardwall,
            mem_exclusive: stats.mem_exclusive,
            memory_migrate: stats.memory_migrate,
            memory_spread_page: stats.memory_spread_page,
            memory_spread_slab: stats.memory_spread_slab,
            memory_pressure: stats.memory_pressure,
            sched_load_balance: stats.sched_load_balance,
            sched_relax_domain_level: stats.sched_relax_domain_level,
        }
    }
}

#[derive(Debug, Serialize)]
struct Memory {
    #[serde(skip_serializing_if = "zero")]
    cache: u64,
    #[serde(skip_serializing_if = "zero")]
    usage: MemoryEntry,
    #[serde(skip_serializing_if = "zero")]
    swap: MemoryEntry,
    #[serde(skip_serializing_if = "zero")]
    kernel: MemoryEntry,
    #[serde(rename = "kernelTCP", skip_serializing_if = "zero")]
    kernel_tcp: MemoryEntry,
    #[serde(skip_serializing_if = "zero")]
    raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "zero")]
    psi: Option<Psi>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct MemoryEntry {
    limit: u64,
    #[serde(skip_serializing_if = "zero")]
    usage: u64,
    #[serde(skip_serializing_if = "zero")]
    max: u64,
    failcnt: u64,
}

impl From<MemoryCounter> for MemoryEntry {
    fn from(counter: MemoryCounter) -> Self {
        Self {
            limit: counter.limit,
            usage: counter.usage,
            max: counter.peak,
            failcnt: counter.failures,
        }
    }
}

impl From<MemoryStats> for Memory {
    fn from(stats: MemoryStats) -> Self {
        Self {
            cache: stats.cache,
            usage: stats.memory.into(),
            swap: stats.with_swap.into(),
            kernel: stats.kernel.into(),
            kernel_tcp: stats.kernel_tcp.into(),
            raw: stats.detail,
            psi: stats.pressure.map(Psi::from),
        }
    }
}

#[derive(Debug, Serialize)]
struct Pids {
    #[serde(skip_serializing_if = "zero")]
    current: u64,
    #[serde(skip_serializing_if = "zero")]
    limit: u64,
}

impl From<PidsStats> for Pids {
    fn from(stats: PidsStats) -> Self {
        Self {
            current: stats.current,
            limit: stats.limit,
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Blkio {
    #[serde(skip_serializing_if = "zero")]
    io_service_bytes_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    io_serviced_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    io_queue_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    io_service_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    io_wait_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    io_merged_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    io_time_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    sectors_recursive: Vec<BlkioEntry>,
    #[serde(skip_serializing_if = "zero")]
    psi: Option<Psi>,
}

#[derive(Debug, PartialEq, Serialize)]
struct BlkioEntry {
    #[serde(skip_serializing_if = "zero")]
    major: u64,
    #[serde(skip_serializing_if = "zero")]
    minor: u64,
    #[serde(skip_serializing_if = "zero")]
    op: String,
    #[serde(skip_serializing_if = "zero")]
    value: u64,
}

impl From<IoStats> for Blkio {
    fn from(stats: IoStats) -> Self {
        let list = |entries: Vec<IoEntry>| {
            let entry = |entry: IoEntry| BlkioEntry {
                major: entry.major,
                minor: entry.minor,
                op: entry.operation,
                value: entry.value,
            };
            entries.into_iter().map(entry).collect()
        };
        Self {
            io_service_bytes_recursive: list(stats.bytes),
            io_serviced_recursive: list(stats.operations),
            io_queue_recursive: list(stats.queued),
            io_service_time_recursive: list(stats.service_time),
            io_wait_time_recursive: list(stats.wait_time),
            io_merged_recursive: list(stats.merged),
            io_time_recursive: list(stats.time),
            sectors_recursive: list(stats.sectors),
            psi: stats.pressure.map(Psi::from),
        }
    }
}

#[derive(Debug, Serialize)]
struct Hugetlb {
    #[serde(skip_serializing_if = "zero")]
    usage: u64,
    #[serde(skip_serializing_if = "zero")]
    max: u64,
    failcnt: u64,
}

impl From<HugetlbStats> for Hugetlb {
    fn from(stats: HugetlbStats) -> Self {
        Self {
            usage: stats.usage,
            max: stats.peak,
            failcnt: stats.failures,
        }
    }
}

#[derive(Debug, Serialize)]
struct Rdma {
    #[serde(skip_serializing_if = "zero")]
    current: Vec<RdmaDevice>,
    #[serde(skip_serializing_if = "zero")]
    limit: Vec<RdmaDevice>,
}

#[derive(Debug, PartialEq, Serialize)]
struct RdmaDevice {
    device: String,
    hca_handles: u32,
    hca_objects: u32,
}

impl Rdma {
    fn new(stats: RdmaStats) -> Option<Self> {
        if stats == RdmaStats::default() {
            return None;
        }
        let list = |entries: Vec<RdmaEntry>| {
            let device = |entry: RdmaEntry| RdmaDevice {
                device: entry.device,
                hca_handles: entry.handles,
                hca_objects: entry.objects,
            };
            entries.into_iter().map(device).collect()
        };
        Some(Self {
            current: list(stats.current),
            limit: list(stats.limit),
        })
    }
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct Psi {
    #[serde(skip_serializing_if = "zero")]
    some: PsiLine,
    #[serde(skip_serializing_if = "zero")]
    full: PsiLine,
}

#[derive(Debug, Default, PartialEq, Serialize)]
struct PsiLine {
    #[serde(serialize_with = "go_number")]
    avg10: f64,
    #[serde(serialize_with = "go_number")]
    avg60: f64,
    #[serde(serialize_with = "go_number")]
    avg300: f64,
    total: u64,
}

impl From<Pressure> for Psi {
    fn from(pressure: Pressure) -> Self {
        let line = |line: PressureLine| PsiLine {
            avg10: line.avg10,
            avg60: line.avg60,
            avg300: line.avg300,
            total: line.total,
        };
        Self {
            some: line(pressure.some),
            full: line(pressure.full),
        }
    }
}

/// Go writes whole numbers without a fraction. Shares of time are at most 100.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn go_number<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(stats: Stats) -> String {
        serde_json::to_string(&Document::new(stats, resctrl::Stats::default())).unwrap()
    }

    const NO_CPUSET: &str = concat!(
        r#""cpuset":{"cpu_exclusive":0,"mem_hardwall":0,"mem_exclusive":0,"memory_migrate":0,"memory_spread_page":0,"#,
        r#""memory_spread_slab":0,"memory_pressure":0,"sched_load_balance":0,"sched_relax_domain_level":0}"#,
    );

    #[test]
    fn nothing_counted() {
        let expected = format!(
            r#"{{"cpu":{{}},{NO_CPUSET},"memory":{{}},"pids":{{}},"blkio":{{}},"hugetlb":{{}},"intel_rdt":{{}},"network_interfaces":null}}"#
        );
        assert_eq!(json(Stats::default()), expected);
    }

    #[test]
    fn everything_counted() {
        let pressure = Pressure {
            some: PressureLine {
                avg10: 1.5,
                avg60: 2.0,
                avg300: 0.0,
                total: 42,
            },
            full: PressureLine::default(),
        };
        let entry = |operation: &str, value| IoEntry {
            major: 8,
            minor: 0,
            operation: operation.to_owned(),
            value,
        };
        let device = |handles| RdmaEntry {
            device: "mlx4_0".to_owned(),
            handles,
            objects: u32::MAX,
        };
        let stats = Stats {
            cpu: Some(CpuStats {
                usage: 10,
                user: 6,
                throttled_periods: 3,
                pressure: Some(pressure.clone()),
                ..CpuStats::default()
            }),
            memory: Some(MemoryStats {
                cache: 5,
                memory: MemoryCounter {
                    usage: 7,
                    peak: 9,
                    limit: u64::MAX,
                    failures: 0,
                },
                detail: [("file".to_owned(), 5), ("anon".to_owned(), 2)].into(),
                ..MemoryStats::default()
            }),
            pids: Some(PidsStats { current: 2, limit: 0 }),
            io: Some(IoStats {
                bytes: vec![entry("Read", 4096), entry("Write", 0)],
                ..IoStats::default()
            }),
            hugetlb: [("2MB".to_owned(), HugetlbStats::default())].into(),
            rdma: RdmaStats {
                current: vec![device(1)],
                limit: vec![device(3)],
            },
            ..Stats::default()
        };
        let expected = [
            r#"{"cpu":{"usage":{"total":10,"kernel":0,"user":6},"throttling":{"throttledPeriods":3},"#,
            r#""psi":{"some":{"avg10":1.5,"avg60":2,"avg300":0,"total":42}}},"#,
            NO_CPUSET,
            r#","memory":{"cache":5,"usage":{"limit":18446744073709551615,"usage":7,"max":9,"failcnt":0},"#,
            r#""raw":{"anon":2,"file":5}},"pids":{"current":2},"#,
            r#""blkio":{"ioServiceBytesRecursive":[{"major":8,"op":"Read","value":4096},{"major":8,"op":"Write"}]},"#,
            r#""hugetlb":{"2MB":{"failcnt":0}},"intel_rdt":{},"#,
            r#""rdma":{"current":[{"device":"mlx4_0","hca_handles":1,"hca_objects":4294967295}],"#,
            r#""limit":[{"device":"mlx4_0","hca_handles":3,"hca_objects":4294967295}]},"network_interfaces":null}"#,
        ]
        .concat();
        assert_eq!(json(stats), expected);
    }
}
