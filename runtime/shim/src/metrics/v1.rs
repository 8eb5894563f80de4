//! `io.containerd.cgroups.v1.Metrics`.

use berth_cgroups::{Cgroup, IoEntry, MemoryCounter, MemoryStats, RdmaEntry, Stats};
use containerd_shim_protos::cgroups::metrics as proto;
use containerd_shim_protos::protobuf::MessageField;

pub fn metrics(stats: &Stats, cgroup: &Cgroup) -> proto::Metrics {
    let mut all = proto::Metrics::new();
    if let Some(pids) = &stats.pids {
        let mut out = proto::PidsStat::new();
        out.current = pids.current;
        out.limit = pids.limit;
        all.pids = MessageField::some(out);
    }
    if let Some(cpu) = &stats.cpu {
        let mut usage = proto::CPUUsage::new();
        usage.total = cpu.usage;
        usage.kernel = cpu.system;
        usage.user = cpu.user;
        usage.per_cpu.clone_from(&cpu.per_cpu);
        let mut throttling = proto::Throttle::new();
        throttling.periods = cpu.periods;
        throttling.throttled_periods = cpu.throttled_periods;
        throttling.throttled_time = cpu.throttled_time;
        let mut out = proto::CPUStat::new();
        out.usage = MessageField::some(usage);
        out.throttling = MessageField::some(throttling);
        all.cpu = MessageField::some(out);
    }
    if let Some(memory) = &stats.memory {
        all.memory = MessageField::some(self::memory(memory));
        all.memory_oom_control = MessageField::some(oom_control(memory, cgroup));
    }
    if let Some(io) = &stats.io {
        let mut out = proto::BlkIOStat::new();
        out.io_service_bytes_recursive = io.bytes.iter().map(entry).collect();
        out.io_serviced_recursive = io.operations.iter().map(entry).collect();
        out.io_queued_recursive = io.queued.iter().map(entry).collect();
        out.io_service_time_recursive = io.service_time.iter().map(entry).collect();
        out.io_wait_time_recursive = io.wait_time.iter().map(entry).collect();
        out.io_merged_recursive = io.merged.iter().map(entry).collect();
        out.io_time_recursive = io.time.iter().map(entry).collect();
        out.sectors_recursive = io.sectors.iter().map(entry).collect();
        all.blkio = MessageField::some(out);
    }
    for (size, pages) in &stats.hugetlb {
        let mut out = proto::HugetlbStat::new();
        out.usage = pages.usage;
        out.max = pages.peak;
        out.failcnt = pages.failures;
        out.pagesize.clone_from(size);
        all.hugetlb.push(out);
    }
    if !stats.rdma.current.is_empty() || !stats.rdma.limit.is_empty() {
        let mut out = proto::RdmaStat::new();
        out.current = stats.rdma.current.iter().map(device).collect();
        out.limit = stats.rdma.limit.iter().map(device).collect();
        all.rdma = MessageField::some(out);
    }
    all
}

fn memory(stats: &MemoryStats) -> proto::MemoryStat {
    let of = |name: &str| stats.detail.get(name).copied().unwrap_or(0);
    let entry = |counter: &MemoryCounter| {
        let mut out = proto::MemoryEntry::new();
        out.usage = counter.usage;
        out.max = counter.peak;
        out.limit = counter.limit;
        out.failcnt = counter.failures;
        MessageField::some(out)
    };
    let mut out = proto::MemoryStat::new();
    out.cache = of("cache");
    out.rss = of("rss");
    out.rss_huge = of("rss_huge");
    out.mapped_file = of("mapped_file");
    out.dirty = of("dirty");
    out.writeback = of("writeback");
    out.pg_pg_in = of("pgpgin");
    out.pg_pg_out = of("pgpgout");
    out.pg_fault = of("pgfault");
    out.pg_maj_fault = of("pgmajfault");
    out.inactive_anon = of("inactive_anon");
    out.active_anon = of("active_anon");
    out.inactive_file = of("inactive_file");
    out.active_file = of("active_file");
    out.unevictable = of("unevictable");
    out.hierarchical_memory_limit = of("hierarchical_memory_limit");
    out.hierarchical_swap_limit = of("hierarchical_memsw_limit");
    out.total_cache = of("total_cache");
    out.total_rss = of("total_rss");
    out.total_rss_huge = of("total_rss_huge");
    out.total_mapped_file = of("total_mapped_file");
    out.total_dirty = of("total_dirty");
    out.total_writeback = of("total_writeback");
    out.total_pg_pg_in = of("total_pgpgin");
    out.total_pg_pg_out = of("total_pgpgout");
    out.total_pg_fault = of("total_pgfault");
    out.total_pg_maj_fault = of("total_pgmajfault");
    out.total_inactive_anon = of("total_inactive_anon");
    out.total_active_anon = of("total_active_anon");
    out.total_inactive_file = of("total_inactive_file");
    out.total_active_file = of("total_active_file");
    out.total_unevictable = of("total_unevictable");
    out.usage = entry(&stats.memory);
    out.swap = entry(&stats.with_swap);
    out.kernel = entry(&stats.kernel);
    out.kernel_tcp = entry(&stats.kernel_tcp);
    out
}

/// The lines of memory.oom_control, of which the statistics have only the last.
fn oom_control(stats: &MemoryStats, cgroup: &Cgroup) -> proto::MemoryOomControl {
    let text = cgroup
        .paths()
        .get("memory")
        .and_then(|dir| std::fs::read_to_string(dir.join("memory.oom_control")).ok())
        .unwrap_or_default();
    let of = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .find(|(key, _)| *key == name)
            .and_then(|(_, value)| value.trim().parse().ok())
            .unwrap_or(0)
    };
    let mut out = proto::MemoryOomControl::new();
    out.oom_kill_disable = of("oom_kill_disable");
    out.under_oom = of("under_oom");
    out.oom_kill = stats.oom_kills;
    out
}

fn entry(one: &IoEntry) -> proto::BlkIOEntry {
    let mut out = proto::BlkIOEntry::new();
    out.op.clone_from(&one.operation);
    out.major = one.major;
    out.minor = one.minor;
    out.value = one.value;
    out
}

fn device(one: &RdmaEntry) -> proto::RdmaEntry {
    let mut out = proto::RdmaEntry::new();
    out.device.clone_from(&one.device);
    out.hca_handles = one.handles;
    out.hca_objects = one.objects;
    out
}
