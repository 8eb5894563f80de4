//! hugetlb.SIZE.*, in v1 and v2.

use std::collections::BTreeMap;

use super::{keyed, number, text};
use crate::{Cgroup, CgroupError};

/// Huge pages of one size, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HugetlbStats {
    /// Reserved (Linux 5.7), before that in use.
    pub usage: u64,
    /// The most of it; v1 only.
    pub peak: u64,
    /// How often the limit was hit.
    pub failures: u64,
}

impl Cgroup {
    pub(super) fn hugetlb_stats(&self) -> Result<BTreeMap<String, HugetlbStats>, CgroupError> {
        let v1 = self.v1("hugetlb");
        let mut found = BTreeMap::new();
        let Some(dir) = v1.or(self.unified.as_ref()) else {
            return Ok(found);
        };
        for size in page_sizes() {
            let plain = format!("hugetlb.{size}");
            let reserved = format!("{plain}.rsvd");
            let file = if v1.is_some() { "usage_in_bytes" } else { "current" };
            let mut prefix = &reserved;
            let mut usage = number(dir, &format!("{reserved}.{file}"))?;
            if usage.is_none() {
                prefix = &plain;
                usage = number(dir, &format!("{plain}.{file}"))?;
            }
            let Some(usage) = usage else { continue };
            let get = |what| number(dir, &format!("{prefix}.{what}")).map(Option::unwrap_or_default);
            let stats = if v1.is_some() {
                HugetlbStats {
                    usage,
                    peak: get("max_usage_in_bytes")?,
                    failures: get("failcnt")?,
                }
            } else {
                let events = text(dir, &format!("{plain}.events"))?.unwrap_or_default();
                HugetlbStats {
                    usage,
                    peak: 0,
                    failures: keyed(&events, "max"),
                }
            };
            found.insert(size, stats);
        }
        Ok(found)
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
