//! A new v1 cpuset is empty, and takes no process before it has CPUs and memory nodes.

use nix::errno::Errno;

use crate::CgroupError;
use crate::dir::Dir;

/// Gives `child` what `parent` has, for each of cpuset.cpus and cpuset.mems that `child` lacks
/// (cgroup-v1/cpusets.rst, 1.4). Nothing to do where cgroup.clone_children did it already.
pub(crate) fn cpuset(parent: &Dir, child: &Dir) -> Result<(), CgroupError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let present = match child.read(file) {
            // Not a cpuset after all (a co-mounted hierarchy seen through another file system).
            Err(Errno::ENOENT) => continue,
            other => other.map_err(CgroupError::io("read", child.file(file)))?,
        };
        if present.trim().is_empty() {
            let inherited = parent
                .read(file)
                .map_err(CgroupError::io("read", parent.file(file)))?;
            child
                .write(file, inherited.trim())
                .map_err(CgroupError::io("write the parent's value to", child.file(file)))?;
        }
    }
    Ok(())
}
