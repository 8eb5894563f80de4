//! memory.*, memory.swap.*, memory.events, memory.pressure; v1 memory.*_in_bytes, memsw, kmem.

use std::collections::BTreeMap;

use super::pressure::{Pressure, pressure};
use super::{keyed, number, text};
use crate::dir::Dir;
use crate::{Cgroup, CgroupError};

/// One kind of memory, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryCounter {
    /// In use.
    pub usage: u64,
    /// The most that was in use; 0 where the kernel does not tell.
    pub peak: u64,
    /// The limit, as the kernel says it: without one `u64::MAX` on v2, and on v1 the greatest multiple of the page
    /// size that fits into a signed number.
    pub limit: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

/// Memory in bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryStats {
    /// Page cache.
    pub cache: u64,
    /// Everything, page cache included (the peak on v2: Linux 5.19).
    pub memory: MemoryCounter,
    /// Memory and swap together, as v1 counts it. On v2 it is computed from the two, and there is no peak.
    pub with_swap: MemoryCounter,
    /// Kernel memory; v1 only.
    pub kernel: MemoryCounter,
    /// Buffers of TCP sockets; v1 only.
    pub kernel_tcp: MemoryCounter,
    /// Whether v1's use_hierarchy is on; true on v2.
    pub hierarchical: bool,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// The lines of memory.stat.
    pub detail: BTreeMap<String, u64>,
    /// Pressure; v2 only.
    pub pressure: Option<Pressure>,
}

impl Cgroup {
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

    pub(super) fn memory_stats(&self) -> Result<Option<MemoryStats>, CgroupError> {
        if let Some(dir) = self.v1("memory") {
            let detail = table(&text(dir, "memory.stat")?.unwrap_or_default());
            return Ok(Some(MemoryStats {
                cache: detail.get("cache").copied().unwrap_or_default(),
                memory: counter_v1(dir, "memory")?,
                with_swap: counter_v1(dir, "memory.memsw")?,
                kernel: counter_v1(dir, "memory.kmem")?,
                kernel_tcp: counter_v1(dir, "memory.kmem.tcp")?,
                hierarchical: number(dir, "memory.use_hierarchy")? == Some(1),
                oom_kills: self.oom_kills()?,
                detail,
                pressure: None,
            }));
        }
        let Some(dir) = &self.unified else { return Ok(None) };
        if number(dir, "memory.current")?.is_none() {
            return Ok(None);
        }
        let events = text(dir, "memory.events")?.unwrap_or_default();
        let memory = counter_v2(dir, "memory", &events)?;
        let swap = counter_v2(
            dir,
            "memory.swap",
            &text(dir, "memory.swap.events")?.unwrap_or_default(),
        )?;
        let detail = table(&text(dir, "memory.stat")?.unwrap_or_default());
        Ok(Some(MemoryStats {
            cache: detail.get("file").copied().unwrap_or_default(),
            memory,
            with_swap: MemoryCounter {
                usage: memory.usage.saturating_add(swap.usage),
                peak: 0,
                limit: memory.limit.saturating_add(swap.limit),
                failures: swap.failures,
            },
            hierarchical: true,
            oom_kills: keyed(&events, "oom_kill"),
            detail,
            pressure: pressure(dir, "memory.pressure")?,
            ..MemoryStats::default()
        }))
    }
}

/// Absent files are zeros: swap and kernel memory are options of the kernel, and Linux 6.x has no kmem limit.
fn counter_v1(dir: &Dir, prefix: &str) -> Result<MemoryCounter, CgroupError> {
    let get = |what| number(dir, &format!("{prefix}.{what}")).map(Option::unwrap_or_default);
    Ok(MemoryCounter {
        usage: get("usage_in_bytes")?,
        peak: get("max_usage_in_bytes")?,
        limit: get("limit_in_bytes")?,
        failures: get("failcnt")?,
    })
}

fn counter_v2(dir: &Dir, prefix: &str, events: &str) -> Result<MemoryCounter, CgroupError> {
    let get = |what| number(dir, &format!("{prefix}.{what}")).map(Option::unwrap_or_default);
    Ok(MemoryCounter {
        usage: get("current")?,
        peak: get("peak")?,
        limit: get("max")?,
        failures: keyed(events, "max"),
    })
}

fn table(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once(' ')?;
            Some((key.to_owned(), value.trim().parse().ok()?))
        })
        .collect()
}
