//! cgroup v1: what each controller's files take (Documentation/admin-guide/cgroup-v1/). Pure, but for the
//! inheritance of cpusets. cpuset, pids and rdma take the same as in v2.

pub(crate) mod blkio;
pub(crate) mod cpu;
pub(crate) mod hugetlb;
pub(crate) mod inherit;
pub(crate) mod memory;
pub(crate) mod net;
