//! A new v1 cpuset is empty, and takes no process before it has CPUs and memory nodes.

use std::path::Path;

use nix::errno::Errno;

use crate::CgroupError;
use crate::dir::Dir;

/// Gives the cgroup at `path` what its parent has, for each of cpuset.cpus and cpuset.mems that it
/// lacks (cgroup-v1/cpusets.rst, 1.4). Nothing to do where cgroup.clone_children did it already.
///
/// A parent that lacks them gets them first, also one that was there before: another process may have
/// made it a moment ago and not have come to filling it.
pub(crate) fn cpuset(path: &Path, mount: &Path) -> Result<(), CgroupError> {
    let child = Dir::new(path);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let present = match child.read(file) {
            // Not a cpuset after all (a co-mounted hierarchy seen through another file system).
            Err(Errno::ENOENT) => continue,
            other => other.map_err(CgroupError::io("read", child.file(file)))?,
        };
        if !present.trim().is_empty() {
            continue;
        }
        let Some(above) = path.parent().filter(|_| path != mount) else {
            continue;
        };
        if above != mount {
            cpuset(above, mount)?;
        }
        let parent = Dir::new(above);
        let inherited = parent
            .read(file)
            .map_err(CgroupError::io("read", parent.file(file)))?;
        child
            .write(file, inherited.trim())
            .map_err(CgroupError::io("write the parent's value to", child.file(file)))?;
    }
    Ok(())
}
