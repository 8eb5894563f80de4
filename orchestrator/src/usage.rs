//! What containers use, by the counters of their cgroups: for `kubectl top` and for autoscalers.
//!
//! Processor time is a difference of two looks. Memory is the working set, as kubelet counts it: what is used without the
//! page cache that has not been touched for long.

use std::path::Path;
use std::time::Instant;

use berth_cgroups::{Cgroup, CgroupPath, Layout};

use crate::store::Object;

/// One look at the counters of something.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Nanoseconds of processor time.
    pub cpu: u64,
    /// Bytes of memory in use.
    pub memory: u64,
    /// When.
    pub at: Instant,
}

impl Look {
    /// Billionths of a processor in use since an earlier look.
    pub fn cores(self, before: Look) -> u64 {
        let passed = self.at.duration_since(before.at).as_nanos().max(1);
        let used = u128::from(self.cpu.saturating_sub(before.cpu));
        (used * 1_000_000_000 / passed).min(u128::from(u64::MAX)) as u64
    }
}

/// A container that runs, and where its counters are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Name of the container.
    pub name: String,
    /// Its run: a new one counts from zero.
    pub id: String,
    cgroup: String,
}

/// The containers of a pod that run; `parent` is the cgroup below which the pods' are.
pub(crate) fn places(parent: &str, pod: &Object) -> Vec<Place> {
    let value = pod.value();
    let parent = crate::node::cgroup_of(parent, pod.uid());
    [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ]
    .iter()
    .filter_map(|list| value.pointer(&format!("/status/{list}"))?.as_array())
    .flatten()
    .filter(|status| status.pointer("/state/running").is_some())
    .filter_map(|status| {
        let name = status["name"].as_str()?.to_owned();
        let id = status["containerID"].as_str().unwrap_or_default().to_owned();
        let cgroup = format!("{parent}/{name}");
        Some(Place { name, id, cgroup })
    })
    .collect()
}

/// Looks at the containers of some pods. Blocks.
pub(crate) fn looks(pods: &[(Object, Vec<Place>)]) -> Vec<Vec<Option<Look>>> {
    let layout = Layout::detect(Path::new("/")).ok();
    let look = |place: &Place| {
        let path = CgroupPath::parse(&place.cgroup).ok()?;
        let stats = Cgroup::open(layout.as_ref()?, &path).ok()?.stats().ok()?;
        let memory = stats.memory?;
        let idle = ["inactive_file", "total_inactive_file"]
            .iter()
            .find_map(|name| memory.detail.get(*name))
            .copied()
            .unwrap_or(0);
        Some(Look {
            cpu: stats.cpu?.usage,
            memory: memory.memory.usage.saturating_sub(idle),
            at: Instant::now(),
        })
    };
    pods.iter()
        .map(|(_, places)| places.iter().map(look).collect())
        .collect()
}
