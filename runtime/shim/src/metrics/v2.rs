//! `io.containerd.cgroups.v2.Metrics`.

use berth_cgroups::{Cgroup, IoEntry, IoStats, MemoryStats, Pressure, PressureLine, RdmaEntry, Stats};
use containerd_shim_protos::cgroups_v2::metrics as proto;
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
        let mut out = proto::CPUStat::new();
        out.usage_usec = cpu.usage / 1000;
        out.user_usec = cpu.user / 1000;
        out.system_usec = cpu.system / 1000;
        out.nr_periods = cpu.periods;
        out.nr_throttled = cpu.throttled_periods;
        out.throttled_usec = cpu.throttled_time / 1000;
        out.psi = pressure(cpu.pressure.as_ref());
        all.cpu = MessageField::some(out);
    }
    if let Some(memory) = &stats.memory {
        all.memory = MessageField::some(self::memory(memory));
        all.memory_events = MessageField::some(memory_events(cgroup));
    }
    if let Some(io) = &stats.io {
        all.io = MessageField::some(self::io(io));
    }
    for (size, pages) in &stats.hugetlb {
        let mut out = proto::HugeTlbStat::new();
        out.current = pages.usage;
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
    let mut out = proto::MemoryStat::new();
    out.anon = of("anon");
    out.file = of("file");
    out.kernel_stack = of("kernel_stack");
    out.slab = of("slab");
    out.sock = of("sock");
    out.shmem = of("shmem");
    out.file_mapped = of("file_mapped");
    out.file_dirty = of("file_dirty");
    out.file_writeback = of("file_writeback");
    out.anon_thp = of("anon_thp");
    out.inactive_anon = of("inactive_anon");
    out.active_anon = of("active_anon");
    out.inactive_file = of("inactive_file");
    out.active_file = of("active_file");
    out.unevictable = of("unevictable");
    out.slab_reclaimable = of("slab_reclaimable");
    out.slab_unreclaimable = of("slab_unreclaimable");
    out.pgfault = of("pgfault");
    out.pgmajfault = of("pgmajfault");
    // Since Linux 5.9 one counter for each kind of page.
    out.workingset_refault = of("workingset_refault_anon") + of("workingset_refault_file");
    out.workingset_activate = of("workingset_activate_anon") + of("workingset_activate_file");
    out.workingset_nodereclaim = of("workingset_nodereclaim");
    out.pgrefill = of("pgrefill");
    out.pgscan = of("pgscan");
    out.pgsteal = of("pgsteal");
    out.pgactivate = of("pgactivate");
    out.pgdeactivate = of("pgdeactivate");
    out.pglazyfree = of("pglazyfree");
    out.pglazyfreed = of("pglazyfreed");
    out.thp_fault_alloc = of("thp_fault_alloc");
    out.thp_collapse_alloc = of("thp_collapse_alloc");
    out.usage = stats.memory.usage;
    out.usage_limit = stats.memory.limit;
    out.max_usage = stats.memory.peak;
    // Swap alone, as cgroup2 has it; the statistics have it together with memory.
    out.swap_usage = stats.with_swap.usage.saturating_sub(stats.memory.usage);
    out.swap_limit = match stats.with_swap.limit {
        u64::MAX => u64::MAX,
        limit => limit.saturating_sub(stats.memory.limit),
    };
    out.psi = pressure(stats.pressure.as_ref());
    out
}

fn memory_events(cgroup: &Cgroup) -> proto::MemoryEvents {
    let text = cgroup
        .paths()
        .get("")
        .and_then(|dir| std::fs::read_to_string(dir.join("memory.events")).ok())
        .unwrap_or_default();
    let mut out = proto::MemoryEvents::new();
    for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
        let value = value.trim().parse().unwrap_or(0);
        match key {
            "low" => out.low = value,
            "high" => out.high = value,
            "max" => out.max = value,
            "oom" => out.oom = value,
            "oom_kill" => out.oom_kill = value,
            "oom_group_kill" => out.oom_group_kill = value,
            _ => {}
        }
    }
    out
}

fn io(stats: &IoStats) -> proto::IOStat {
    let mut out = proto::IOStat::new();
    let mut add = |one: &IoEntry, set: fn(&mut proto::IOEntry, &str, u64)| {
        let found = out
            .usage
            .iter()
            .position(|entry| (entry.major, entry.minor) == (one.major, one.minor));
        let index = found.unwrap_or_else(|| {
            let mut entry = proto::IOEntry::new();
            entry.major = one.major;
            entry.minor = one.minor;
            out.usage.push(entry);
            out.usage.len() - 1
        });
        set(&mut out.usage[index], &one.operation, one.value);
    };
    for one in &stats.bytes {
        add(one, |entry, operation, value| match operation {
            "Read" => entry.rbytes = value,
            "Write" => entry.wbytes = value,
            _ => {}
        });
    }
    for one in &stats.operations {
        add(one, |entry, operation, value| match operation {
            "Read" => entry.rios = value,
            "Write" => entry.wios = value,
            _ => {}
        });
    }
    out.psi = pressure(stats.pressure.as_ref());
    out
}

fn pressure(given: Option<&Pressure>) -> MessageField<proto::PSIStats> {
    let line = |line: &PressureLine| {
        let mut out = proto::PSIData::new();
        out.avg10 = line.avg10;
        out.avg60 = line.avg60;
        out.avg300 = line.avg300;
        out.total = line.total;
        MessageField::some(out)
    };
    MessageField::from_option(given.map(|given| {
        let mut out = proto::PSIStats::new();
        out.some = line(&given.some);
        out.full = line(&given.full);
        out
    }))
}

fn device(one: &RdmaEntry) -> proto::RdmaEntry {
    let mut out = proto::RdmaEntry::new();
    out.device.clone_from(&one.device);
    out.hca_handles = one.handles;
    out.hca_objects = one.objects;
    out
}
