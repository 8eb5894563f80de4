//! rdma.current and rdma.max, in v1 and v2.

use super::text;
use crate::dir::Dir;
use crate::{Cgroup, CgroupError};

/// RDMA devices: what is in use, and what may be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdmaStats {
    /// In use.
    pub current: Vec<RdmaEntry>,
    /// Allowed.
    pub limit: Vec<RdmaEntry>,
}

/// Resources of one RDMA device; `u32::MAX` for no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RdmaEntry {
    /// The device.
    pub device: String,
    /// Handles.
    pub handles: u32,
    /// Objects.
    pub objects: u32,
}

impl Cgroup {
    pub(super) fn rdma_stats(&self) -> Result<RdmaStats, CgroupError> {
        let Some(dir) = self.v1("rdma").or(self.unified.as_ref()) else {
            return Ok(RdmaStats::default());
        };
        Ok(RdmaStats {
            current: entries(dir, "rdma.current")?,
            limit: entries(dir, "rdma.max")?,
        })
    }
}

/// "mlx4_0 hca_handle=2 hca_object=max".
fn entries(dir: &Dir, file: &str) -> Result<Vec<RdmaEntry>, CgroupError> {
    let parse = |line: &str| {
        let (device, rest) = line.split_once(' ')?;
        let get = |key| {
            rest.split(' ')
                .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
                .map_or(0, |value| match value {
                    "max" => u32::MAX,
                    value => value.parse().unwrap_or(0),
                })
        };
        Some(RdmaEntry {
            device: device.to_owned(),
            handles: get("hca_handle"),
            objects: get("hca_object"),
        })
    };
    let text = text(dir, file)?.unwrap_or_default();
    Ok(text.lines().filter_map(parse).collect())
}
