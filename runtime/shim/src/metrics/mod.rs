//! A container's counters in the two forms in which containerd's clients know them.

mod v1;
mod v2;

use berth_cgroups::{Cgroup, CgroupError, Kind};
use containerd_shim_protos::protobuf;
use containerd_shim_protos::protobuf::well_known_types::any::Any;

use crate::events;

/// Why there are no numbers.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The cgroup.
    #[error("read the cgroup")]
    Cgroup(#[from] CgroupError),
    /// The message.
    #[error("encode the numbers")]
    Encode(#[from] protobuf::Error),
}

/// Reads all counters of `cgroup`. `io.containerd.cgroups.v2.Metrics` where cgroup2 stands alone, else v1's: as
/// containerd's own shims decide.
///
/// # Errors
/// [`MetricsError`].
pub fn read(cgroup: &Cgroup, kind: Kind) -> Result<Any, MetricsError> {
    let stats = cgroup.stats()?;
    Ok(match kind {
        Kind::Unified => events::any("io.containerd.cgroups.v2.Metrics", &v2::metrics(&stats, cgroup))?,
        _ => events::any("io.containerd.cgroups.v1.Metrics", &v1::metrics(&stats, cgroup))?,
    })
}
