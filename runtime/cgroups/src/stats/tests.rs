use super::*;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

fn fill(dir: &Path, files: &[(&str, &str)]) {
    for (file, content) in files {
        fs::write(dir.join(file), content).unwrap();
    }
}

#[test]
fn files_of_v2() {
    let temporary = tempfile::tempdir().unwrap();
    fill(
        temporary.path(),
        &[
            (
                "cpu.stat",
                "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 9\nnr_throttled 4\nthrottled_usec 7\n",
            ),
            (
                "cpu.pressure",
                "some avg10=1.50 avg60=0.25 avg300=0.00 total=42\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n",
            ),
            ("memory.current", "4096\n"),
            ("memory.max", "max\n"),
            (
                "memory.events",
                "low 0\nhigh 0\nmax 3\noom 1\noom_kill 2\noom_group_kill 0\n",
            ),
            ("memory.swap.current", "100\n"),
            ("memory.swap.max", "max\n"),
            ("memory.stat", "anon 100\nfile 200\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "io.stat",
                "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
            ),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
            ("rdma.max", "mlx4_0 hca_handle=3 hca_object=max\n"),
        ],
    );
    let paths: BTreeMap<_, _> = [(String::new(), temporary.path().to_owned())].into();
    let group = Cgroup::from_paths(&paths);
    let stats = group.stats().unwrap();
    let cpu = stats.cpu.unwrap();
    assert_eq!(
        (cpu.usage, cpu.throttled_time, cpu.throttled_periods),
        (5000, 7000, 4)
    );
    assert_eq!(
        cpu.pressure.unwrap().some,
        PressureLine {
            avg10: 1.5,
            avg60: 0.25,
            avg300: 0.0,
            total: 42
        }
    );
    let memory = stats.memory.unwrap();
    assert_eq!(
        memory.memory,
        MemoryCounter {
            usage: 4096,
            peak: 0,
            limit: u64::MAX,
            failures: 3
        }
    );
    assert_eq!((memory.with_swap.usage, memory.with_swap.limit), (4196, u64::MAX));
    assert_eq!(
        (memory.oom_kills, memory.cache, memory.detail["anon"]),
        (2, 200, 100)
    );
    assert_eq!(stats.cpuset, None);
    assert_eq!(stats.pids.unwrap(), PidsStats { current: 3, limit: 0 });
    let io = stats.io.unwrap();
    assert_eq!((io.bytes.len(), io.operations[1].value), (2, 2));
    let rdma = |handles, objects| {
        vec![RdmaEntry {
            device: "mlx4_0".into(),
            handles,
            objects,
        }]
    };
    assert_eq!(stats.rdma.current, rdma(2, 2000));
    assert_eq!(stats.rdma.limit, rdma(3, u32::MAX));
    assert_eq!(group.oom_kills().unwrap(), 2);
}

#[test]
fn files_of_v1() {
    let temporary = tempfile::tempdir().unwrap();
    fill(
        temporary.path(),
        &[
            ("cpuacct.usage", "77\n"),
            ("cpuacct.usage_percpu", "70 7 \n"),
            ("cpuacct.stat", "user 3\nsystem 1\n"),
            ("cpuset.cpus", "0-1,3\n"),
            ("cpuset.mems", "0\n"),
            ("cpuset.sched_load_balance", "1\n"),
            ("cpuset.sched_relax_domain_level", "-1\n"),
            ("memory.usage_in_bytes", "8192\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.kmem.usage_in_bytes", "5\n"),
            ("memory.stat", "cache 12\nrss 4\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
            ),
            ("blkio.bfq.io_serviced_recursive", "Total 0\n"),
            (
                "blkio.throttle.io_serviced_recursive",
                "8:0 Read 1\n8:0 Total 1\nTotal 1\n",
            ),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n",
            ),
        ],
    );
    let names = ["cpu", "cpuacct", "cpuset", "memory", "blkio"];
    let paths: BTreeMap<_, _> = names
        .iter()
        .map(|name| ((*name).to_owned(), temporary.path().to_owned()))
        .collect();
    let stats = Cgroup::from_paths(&paths).stats().unwrap();
    let cpu = stats.cpu.unwrap();
    assert_eq!((cpu.usage, cpu.per_cpu, cpu.user), (77, vec![70, 7], 30_000_000));
    let cpuset = stats.cpuset.unwrap();
    assert_eq!((cpuset.cpus, cpuset.mems), (vec![0, 1, 3], vec![0]));
    assert_eq!(
        (cpuset.sched_load_balance, cpuset.sched_relax_domain_level),
        (1, -1)
    );
    let memory = stats.memory.unwrap();
    // As the kernel says it, since engines know this number.
    assert_eq!(memory.memory.limit, 9_223_372_036_854_771_712);
    assert_eq!(
        (
            memory.memory.usage,
            memory.kernel.usage,
            memory.cache,
            memory.oom_kills
        ),
        (8192, 5, 12, 5)
    );
    let io = stats.io.unwrap();
    assert_eq!((io.bytes.len(), io.operations.len()), (2, 2));
    assert_eq!(stats.pids, None);
}

#[test]
fn a_scheduler_tells_more_than_the_throttling_layer() {
    let temporary = tempfile::tempdir().unwrap();
    fill(
        temporary.path(),
        &[
            ("blkio.bfq.sectors_recursive", "8:16 24\n"),
            ("blkio.bfq.io_service_time_recursive", "8:16 Read 9\nTotal 9\n"),
            ("blkio.throttle.io_serviced_recursive", "8:0 Read 1\n"),
        ],
    );
    let paths: BTreeMap<_, _> = [("blkio".to_owned(), temporary.path().to_owned())].into();
    let io = Cgroup::from_paths(&paths).stats().unwrap().io.unwrap();
    assert_eq!(
        io.sectors,
        [IoEntry {
            major: 8,
            minor: 16,
            operation: String::new(),
            value: 24
        }]
    );
    assert_eq!(io.service_time[0].value, 9);
    assert!(io.operations.is_empty(), "one layer tells all: {io:?}");
}
