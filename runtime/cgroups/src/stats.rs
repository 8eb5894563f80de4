//! What a cgroup's controllers count.

use std::collections::BTreeMap;

use nix::errno::Errno;

use crate::dir::Dir;
use crate::{Cgroup, CgroupError};

/// The counters of a cgroup. A part is `None` where the host has no such controller.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time and throttling.
    pub cpu: Option<CpuStats>,
    /// Memory and swap.
    pub memory: Option<MemoryStats>,
    /// Processes.
    pub pids: Option<PidsStats>,
    /// Block I/O.
    pub io: Option<IoStats>,
    /// Huge pages, by page size ("2MB").
    pub hugetlb: BTreeMap<String, HugetlbStats>,
    /// RDMA devices.
    pub rdma: Vec<RdmaEntry>,
}

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

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryStats {
    /// In use, page cache included.
    pub usage: u64,
    /// The most that was in use (v2: Linux 5.19).
    pub peak: u64,
    /// The limit; `u64::MAX` for none.
    pub limit: u64,
    /// How often the limit was hit.
    pub failures: u64,
    /// Swap in use (v2), or memory and swap together (v1).
    pub swap_usage: u64,
    /// The most of it.
    pub swap_peak: u64,
    /// Its limit; `u64::MAX` for none.
    pub swap_limit: u64,
    /// How often its limit was hit.
    pub swap_failures: u64,
    /// Kernel memory in use; v1 only.
    pub kernel_usage: u64,
    /// Whether v1's use_hierarchy is on; true on v2.
    pub hierarchical: bool,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// The lines of memory.stat.
    pub detail: BTreeMap<String, u64>,
    /// Pressure; v2 only.
    pub pressure: Option<Pressure>,
}

/// Numbers of processes and threads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PidsStats {
    /// Present.
    pub current: u64,
    /// Allowed; 0 for no limit, as runc has it.
    pub limit: u64,
}

/// Block I/O, by device and operation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IoStats {
    /// Bytes.
    pub bytes: Vec<IoEntry>,
    /// Operations.
    pub operations: Vec<IoEntry>,
    /// Pressure; v2 only.
    pub pressure: Option<Pressure>,
}

/// One number of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoEntry {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// "Read", "Write", "Sync", "Async", "Discard" or "Total".
    pub operation: String,
    /// The number.
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugetlbStats {
    /// In use.
    pub usage: u64,
    /// The most that was in use; v1 only.
    pub peak: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Resources of one RDMA device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// The device.
    pub device: String,
    /// Handles in use.
    pub handles: u64,
    /// Objects in use.
    pub objects: u64,
}

/// Pressure stall information (Documentation/accounting/psi.rst).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Pressure {
    /// Some tasks were stalled.
    pub some: PressureLine,
    /// All tasks were stalled at once.
    pub full: PressureLine,
}

/// Shares of time in percent over a window, and the total in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PressureLine {
    /// Over 10 s.
    pub avg10: f64,
    /// Over 60 s.
    pub avg60: f64,
    /// Over 300 s.
    pub avg300: f64,
    /// Since the cgroup's birth.
    pub total: u64,
}

/// Clock ticks of v1's cpuacct.stat a second (USER_HZ, fixed on Linux), in nanoseconds each.
const TICK: u64 = 10_000_000;

impl Cgroup {
    /// Reads all counters.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if a file that exists cannot be read.
    pub fn stats(&self) -> Result<Stats, CgroupError> {
        Ok(Stats {
            cpu: self.cpu_stats()?,
            memory: self.memory_stats()?,
            pids: self.pids_stats()?,
            io: self.io_stats()?,
            hugetlb: self.hugetlb_stats()?,
            rdma: self.rdma_stats()?,
        })
    }

    /// How many processes of the cgroup, and of cgroups below it in v2, the kernel has killed for lack of memory; 0 without
    /// a memory controller.
    ///
    /// # Errors
    /// [`CgroupError::Io`] if the file cannot be read; a cgroup that is gone is such a case.
    pub fn oom_kills(&self) -> Result<u64, CgroupError> {
        if let Some(dir) = self.v1("memory") {
            return Ok(keyed(
                &text(dir, "memory.oom_control")?.unwrap_or_default(),
                "oom_kill",
            ));
        }
        match &self.unified {
            Some(dir) => Ok(keyed(
                &text(dir, "memory.events")?.unwrap_or_default(),
                "oom_kill",
            )),
            None => Ok(0),
        }
    }

    fn cpu_stats(&self) -> Result<Option<CpuStats>, CgroupError> {
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

    fn memory_stats(&self) -> Result<Option<MemoryStats>, CgroupError> {
        if let Some(dir) = self.v1("memory") {
            let get = |file| number(dir, file).map(Option::unwrap_or_default);
            return Ok(Some(MemoryStats {
                usage: get("memory.usage_in_bytes")?,
                peak: get("memory.max_usage_in_bytes")?,
                limit: no_limit(get("memory.limit_in_bytes")?),
                failures: get("memory.failcnt")?,
                swap_usage: get("memory.memsw.usage_in_bytes")?,
                swap_peak: get("memory.memsw.max_usage_in_bytes")?,
                swap_limit: no_limit(get("memory.memsw.limit_in_bytes")?),
                swap_failures: get("memory.memsw.failcnt")?,
                kernel_usage: get("memory.kmem.usage_in_bytes")?,
                hierarchical: get("memory.use_hierarchy")? == 1,
                oom_kills: self.oom_kills()?,
                detail: table(&text(dir, "memory.stat")?.unwrap_or_default()),
                pressure: None,
            }));
        }
        let Some(dir) = &self.unified else { return Ok(None) };
        let Some(usage) = number(dir, "memory.current")? else {
            return Ok(None);
        };
        let get = |file| number(dir, file).map(Option::unwrap_or_default);
        let events = text(dir, "memory.events")?.unwrap_or_default();
        Ok(Some(MemoryStats {
            usage,
            peak: get("memory.peak")?,
            limit: get("memory.max")?,
            failures: keyed(&events, "max"),
            swap_usage: get("memory.swap.current")?,
            swap_peak: get("memory.swap.peak")?,
            swap_limit: get("memory.swap.max")?,
            swap_failures: keyed(&text(dir, "memory.swap.events")?.unwrap_or_default(), "max"),
            kernel_usage: 0,
            hierarchical: true,
            oom_kills: keyed(&events, "oom_kill"),
            detail: table(&text(dir, "memory.stat")?.unwrap_or_default()),
            pressure: pressure(dir, "memory.pressure")?,
        }))
    }

    fn pids_stats(&self) -> Result<Option<PidsStats>, CgroupError> {
        let Some(dir) = self.v1("pids").or(self.unified.as_ref()) else {
            return Ok(None);
        };
        let Some(current) = number(dir, "pids.current")? else {
            return Ok(None);
        };
        let limit = number(dir, "pids.max")?
            .filter(|limit| *limit != u64::MAX)
            .unwrap_or(0);
        Ok(Some(PidsStats { current, limit }))
    }

    fn io_stats(&self) -> Result<Option<IoStats>, CgroupError> {
        if let Some(dir) = self.v1("blkio") {
            // BFQ counts where it schedules; the throttling layer counts everywhere else.
            let either = |bfq, all| {
                Ok::<_, CgroupError>(
                    text(dir, bfq)?
                        .filter(|text| text.lines().count() > 1)
                        .or(text(dir, all)?),
                )
            };
            let bytes: Option<String> = either(
                "blkio.bfq.io_service_bytes_recursive",
                "blkio.throttle.io_service_bytes_recursive",
            )?;
            let operations: Option<String> = either(
                "blkio.bfq.io_serviced_recursive",
                "blkio.throttle.io_serviced_recursive",
            )?;
            return Ok(Some(IoStats {
                bytes: io_v1(&bytes.unwrap_or_default()),
                operations: io_v1(&operations.unwrap_or_default()),
                pressure: None,
            }));
        }
        let Some(dir) = &self.unified else { return Ok(None) };
        let Some(stat) = text(dir, "io.stat")? else {
            return Ok(None);
        };
        let (bytes, operations) = io_v2(&stat);
        Ok(Some(IoStats {
            bytes,
            operations,
            pressure: pressure(dir, "io.pressure")?,
        }))
    }

    fn hugetlb_stats(&self) -> Result<BTreeMap<String, HugetlbStats>, CgroupError> {
        let v1 = self.v1("hugetlb");
        let mut found = BTreeMap::new();
        let Some(dir) = v1.or(self.unified.as_ref()) else {
            return Ok(found);
        };
        for size in page_sizes() {
            let name = |what: &str| format!("hugetlb.{size}.{what}");
            let get = |what| number(dir, &name(what)).map(Option::unwrap_or_default);
            let stats = if v1.is_some() {
                HugetlbStats {
                    usage: get("usage_in_bytes")?,
                    peak: get("max_usage_in_bytes")?,
                    failures: get("failcnt")?,
                }
            } else {
                let Some(usage) = number(dir, &name("current"))? else {
                    continue;
                };
                let failures = keyed(&text(dir, &name("events"))?.unwrap_or_default(), "max");
                HugetlbStats {
                    usage,
                    peak: 0,
                    failures,
                }
            };
            found.insert(size, stats);
        }
        Ok(found)
    }

    fn rdma_stats(&self) -> Result<Vec<RdmaEntry>, CgroupError> {
        let Some(dir) = self.v1("rdma").or(self.unified.as_ref()) else {
            return Ok(Vec::new());
        };
        let current = text(dir, "rdma.current")?.unwrap_or_default();
        Ok(current
            .lines()
            .filter_map(|line| {
                let (device, rest) = line.split_once(' ')?;
                let get = |key| {
                    rest.split(' ')
                        .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('=')?.parse().ok())
                        .unwrap_or(0)
                };
                Some(RdmaEntry {
                    device: device.to_owned(),
                    handles: get("hca_handle"),
                    objects: get("hca_object"),
                })
            })
            .collect())
    }
}

/// The sizes of huge pages that this kernel knows, as cgroup files spell them.
fn page_sizes() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/sys/kernel/mm/hugepages") else {
        return Vec::new();
    };
    let mut sizes: Vec<u64> = entries
        .flatten()
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("hugepages-")?
                .strip_suffix("kB")?
                .parse()
                .ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes
        .into_iter()
        .map(|kib| match kib {
            kib if kib >= 1 << 20 => format!("{}GB", kib >> 20),
            kib if kib >= 1 << 10 => format!("{}MB", kib >> 10),
            kib => format!("{kib}KB"),
        })
        .collect()
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

fn table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}

/// v1 writes "no limit" as the greatest multiple of the page size that fits into a signed number.
fn no_limit(value: u64) -> u64 {
    if value >= (i64::MAX as u64) & !0xffff {
        u64::MAX
    } else {
        value
    }
}

/// "8:0 Read 4096".
fn io_v1(text: &str) -> Vec<IoEntry> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split([' ', ':']);
            Some(IoEntry {
                major: words.next()?.parse().ok()?,
                minor: words.next()?.parse().ok()?,
                operation: words.next()?.to_owned(),
                value: words.next()?.parse().ok()?,
            })
        })
        .collect()
}

/// "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0": bytes and operations.
fn io_v2(text: &str) -> (Vec<IoEntry>, Vec<IoEntry>) {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((Ok(major), Ok(minor))) = words
            .next()
            .and_then(|id| id.split_once(':'))
            .map(|(major, minor)| (major.parse(), minor.parse()))
        else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut bytes, "Read"),
                "wbytes" => (&mut bytes, "Write"),
                "dbytes" => (&mut bytes, "Discard"),
                "rios" => (&mut operations, "Read"),
                "wios" => (&mut operations, "Write"),
                "dios" => (&mut operations, "Discard"),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            list.push(IoEntry {
                major,
                minor,
                operation: operation.to_owned(),
                value,
            });
        }
    }
    (bytes, operations)
}

fn pressure(dir: &Dir, file: &str) -> Result<Option<Pressure>, CgroupError> {
    Ok(text(dir, file)?.map(|text| parse_pressure(&text)))
}

/// "some avg10=0.00 avg60=0.00 avg300=0.00 total=0".
fn parse_pressure(text: &str) -> Pressure {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let target = match words.next() {
            Some("some") => &mut pressure.some,
            Some("full") => &mut pressure.full,
            _ => continue,
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => target.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => target.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => target.avg300 = value.parse().unwrap_or(0.0),
                "total" => target.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    pressure
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;

    #[test]
    fn files_of_v2() {
        let temporary = tempfile::tempdir().unwrap();
        for (file, content) in [
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
            ("memory.stat", "anon 100\nfile 200\n"),
            ("pids.current", "3\n"),
            ("pids.max", "max\n"),
            (
                "io.stat",
                "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n",
            ),
            ("rdma.current", "mlx4_0 hca_handle=2 hca_object=2000\n"),
        ] {
            fs::write(temporary.path().join(file), content).unwrap();
        }
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
            (memory.usage, memory.limit, memory.failures, memory.oom_kills),
            (4096, u64::MAX, 3, 2)
        );
        assert_eq!(memory.detail["file"], 200);
        assert_eq!(stats.pids.unwrap(), PidsStats { current: 3, limit: 0 });
        let io = stats.io.unwrap();
        assert_eq!((io.bytes.len(), io.operations[1].value), (3, 2));
        assert_eq!(
            stats.rdma[0],
            RdmaEntry {
                device: "mlx4_0".into(),
                handles: 2,
                objects: 2000
            }
        );
        assert_eq!(group.oom_kills().unwrap(), 2);
    }

    #[test]
    fn files_of_v1() {
        let temporary = tempfile::tempdir().unwrap();
        for (file, content) in [
            ("cpuacct.usage", "77\n"),
            ("cpuacct.usage_percpu", "70 7 \n"),
            ("cpuacct.stat", "user 3\nsystem 1\n"),
            ("memory.usage_in_bytes", "8192\n"),
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            (
                "memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
            ),
            (
                "blkio.throttle.io_service_bytes_recursive",
                "8:0 Read 4096\n8:0 Total 4096\nTotal 4096\n",
            ),
        ] {
            fs::write(temporary.path().join(file), content).unwrap();
        }
        let names = ["cpu", "cpuacct", "memory", "blkio"];
        let paths: BTreeMap<_, _> = names
            .iter()
            .map(|name| ((*name).to_owned(), temporary.path().to_owned()))
            .collect();
        let stats = Cgroup::from_paths(&paths).stats().unwrap();
        let cpu = stats.cpu.unwrap();
        assert_eq!((cpu.usage, cpu.per_cpu, cpu.user), (77, vec![70, 7], 30_000_000));
        let memory = stats.memory.unwrap();
        assert_eq!(
            (memory.usage, memory.limit, memory.oom_kills),
            (8192, u64::MAX, 5)
        );
        assert_eq!(stats.io.unwrap().bytes.len(), 2);
        assert_eq!(stats.pids, None);
    }
}
