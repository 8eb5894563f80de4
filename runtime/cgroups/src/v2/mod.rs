//! cgroup v2: what each controller's files take (Documentation/admin-guide/cgroup-v2.rst). Pure.

pub(crate) mod cpu;
pub(crate) mod cpuset;
pub(crate) mod hugetlb;
pub(crate) mod io;
pub(crate) mod memory;
pub(crate) mod pids;
pub(crate) mod rdma;
