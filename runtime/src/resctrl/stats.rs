//! What a group was given and what it uses, in runc's words.

use std::fs;
use std::path::Path;

use serde::Serialize;

use super::{Group, Resctrl, ResctrlError};

/// The part `intel_rdt` of the statistics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// What the hardware offers of cache shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub l3_cache_info: Option<CacheInfo>,
    /// Cache shares of the default group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema_root: String,
    /// Cache shares of the container's group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub l3_cache_schema: String,
    /// What the hardware offers of bandwidth shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mem_bw_info: Option<BandwidthInfo>,
    /// Bandwidth shares of the default group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema_root: String,
    /// Bandwidth shares of the container's group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mem_bw_schema: String,
    /// All shares of the container's group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schemata: Vec<String>,
    /// Memory traffic by NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mbm_stats: Option<Vec<Traffic>>,
    /// Cache in use by NUMA node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmt_stats: Option<Vec<Occupancy>>,
}

/// info/L3.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CacheInfo {
    /// All bits of a share.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cbm_mask: String,
    /// The fewest bits of a share.
    pub min_cbm_bits: u64,
    /// How many groups there can be.
    pub num_closids: u64,
}

/// info/MB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BandwidthInfo {
    /// Steps of a share, percent.
    pub bandwidth_gran: u64,
    /// Whether delays grow evenly.
    pub delay_linear: u64,
    /// The smallest share, percent.
    pub min_bandwidth: u64,
    /// How many groups there can be.
    pub num_closids: u64,
}

/// Memory traffic of one NUMA node, bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// All of it.
    pub mbm_total_bytes: u64,
    /// To the node's own memory.
    pub mbm_local_bytes: u64,
}

/// Cache in use on one NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Occupancy {
    /// Bytes.
    pub llc_occupancy: u64,
}

impl Group {
    /// Reads the group's shares and counters.
    ///
    /// # Errors
    /// [`ResctrlError::Io`].
    pub fn stats(&self) -> Result<Stats, ResctrlError> {
        let resctrl = self.resctrl();
        let defaults = resctrl.text(&self.root.join("schemata"))?;
        let own = resctrl.text(&self.path.join("schemata"))?;
        let line = |text: &str, name: &str| {
            let found = text.lines().rfind(|line| line.contains(name));
            found.map(|line| line.trim().to_owned()).unwrap_or_default()
        };
        let mut stats = Stats {
            schemata: own.lines().map(str::to_owned).collect(),
            ..Stats::default()
        };
        if resctrl.has_cache() {
            stats.l3_cache_info = Some(resctrl.cache_info()?);
            stats.l3_cache_schema_root = line(&defaults, "L3");
            stats.l3_cache_schema = line(&own, "L3");
        }
        if resctrl.has_bandwidth() {
            stats.mem_bw_info = Some(resctrl.bandwidth_info()?);
            stats.mem_bw_schema_root = line(&defaults, "MB");
            stats.mem_bw_schema = line(&own, "MB");
        }
        resctrl.monitored(self.monitor.as_ref().unwrap_or(&self.path), &mut stats)?;
        Ok(stats)
    }
}

impl Resctrl {
    fn text(&self, path: &Path) -> Result<String, ResctrlError> {
        let text = fs::read_to_string(path).map_err(self.fail("read", path))?;
        Ok(text.trim().to_owned())
    }

    fn number(&self, path: &Path) -> Result<u64, ResctrlError> {
        // A counter that is unavailable at the moment says so in words.
        Ok(self.text(path)?.parse().unwrap_or_default())
    }

    fn cache_info(&self) -> Result<CacheInfo, ResctrlError> {
        let folder = self.root.join("info/L3");
        Ok(CacheInfo {
            cbm_mask: self.text(&folder.join("cbm_mask"))?,
            min_cbm_bits: self.number(&folder.join("min_cbm_bits"))?,
            num_closids: self.number(&folder.join("num_closids"))?,
        })
    }

    fn bandwidth_info(&self) -> Result<BandwidthInfo, ResctrlError> {
        let folder = self.root.join("info/MB");
        Ok(BandwidthInfo {
            bandwidth_gran: self.number(&folder.join("bandwidth_gran"))?,
            delay_linear: self.number(&folder.join("delay_linear"))?,
            min_bandwidth: self.number(&folder.join("min_bandwidth"))?,
            num_closids: self.number(&folder.join("num_closids"))?,
        })
    }

    fn monitored(&self, folder: &Path, stats: &mut Stats) -> Result<(), ResctrlError> {
        let features = fs::read_to_string(self.root.join("info/L3_MON/mon_features")).unwrap_or_default();
        let has = |name: &str| features.lines().any(|line| line == name);
        let (total, local, occupancy) = (
            has("mbm_total_bytes"),
            has("mbm_local_bytes"),
            has("llc_occupancy"),
        );
        if !(total || local || occupancy) {
            return Ok(());
        }
        let data = folder.join("mon_data");
        let entries = fs::read_dir(&data).map_err(self.fail("read", &data))?;
        let mut nodes: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        nodes.retain(|path| path.is_dir());
        nodes.sort();
        let counter = |node: &Path, name: &str, there: bool| {
            if there {
                self.number(&node.join(name))
            } else {
                Ok(0)
            }
        };
        let (mut traffic, mut cache) = (Vec::new(), Vec::new());
        for node in &nodes {
            traffic.push(Traffic {
                mbm_total_bytes: counter(node, "mbm_total_bytes", total)?,
                mbm_local_bytes: counter(node, "mbm_local_bytes", local)?,
            });
            cache.push(Occupancy {
                llc_occupancy: counter(node, "llc_occupancy", occupancy)?,
            });
        }
        stats.mbm_stats = (total || local).then_some(traffic);
        stats.cmt_stats = occupancy.then_some(cache);
        Ok(())
    }
}
