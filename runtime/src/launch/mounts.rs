//! Mount sources that the parent opens, and what `--no-pivot` must cover.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use berth_sys::mount::{self, MOUNT_ATTR_IDMAP, MS_SLAVE, MountAttr};
use berth_sys::{files, spawn};

use super::LaunchError;
use super::namespaces::write_maps;
use crate::host_mounts::unescape;
use crate::plan::{IdMapping, IdMaps};

/// A detached mount of a host path, with its ids mapped if asked for; `slave` takes it out of the host's peer groups,
/// `nofollow` takes a symbolic link for what it is.
pub(super) fn source(
    path: &Path,
    recursive: bool,
    idmap: Option<&IdMaps>,
    slave: bool,
    nofollow: bool,
) -> Result<OwnedFd, LaunchError> {
    let fail = |source| LaunchError::Source {
        path: path.to_path_buf(),
        source,
    };
    let tree = if nofollow {
        mount::clone_link_at(path, recursive)
    } else {
        mount::clone_at(path, recursive)
    };
    let tree = tree.map_err(fail)?;
    if slave {
        // It was made in the host's mount namespace: what is mounted on it later must stay in the container.
        let attr = MountAttr {
            propagation: MS_SLAVE,
            ..MountAttr::default()
        };
        mount::set_attributes(tree.as_fd(), true, &attr).map_err(fail)?;
    }
    if let Some(IdMaps { uids, gids, all, of }) = idmap {
        let namespace = match of {
            Some(path) => files::open(path, files::O_RDONLY).map_err(fail)?,
            None => user_namespace(uids, gids)?,
        };
        let attr = MountAttr {
            set: MOUNT_ATTR_IDMAP,
            userns: namespace.as_raw_fd() as u64,
            ..MountAttr::default()
        };
        mount::set_attributes(tree.as_fd(), *all, &attr).map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => LaunchError::IdMap {
                path: path.to_path_buf(),
                source,
            },
            _ => fail(source),
        })?;
    }
    Ok(tree)
}

/// A user namespace with the given maps. It is only a table for the kernel: the process that made it is killed
/// before it runs anything.
fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd, LaunchError> {
    let system = |source| LaunchError::System {
        what: "make a user namespace for an idmapped mount",
        source,
    };
    spawn::with_user_namespace(|pid| {
        write_maps(pid, uids, gids)?;
        files::open(Path::new(&format!("/proc/{pid}/ns/user")), files::O_RDONLY).map_err(system)
    })
    .map_err(|failure| system(failure.source))?
}

/// Mounts of procfs and sysfs that show everything, outside of the container's root.
pub(super) fn revealing(rootfs: &Path) -> io::Result<Vec<CString>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(revealing_in(&text, rootfs))
}

fn revealing_in(mountinfo: &[u8], rootfs: &Path) -> Vec<CString> {
    let mut found = Vec::new();
    for line in mountinfo.split(|byte| *byte == b'\n') {
        // "36 35 98:0 /root /mount options… - fstype source superoptions" (proc_pid_mountinfo(5)).
        let fields: Vec<_> = line.split(|byte| *byte == b' ').collect();
        let Some(dash) = fields.iter().position(|field| *field == b"-") else {
            continue;
        };
        let (Some(root), Some(point), Some(kind)) = (fields.get(3), fields.get(4), fields.get(dash + 1))
        else {
            continue;
        };
        let point = unescape(point);
        if *root == b"/" && (*kind == b"proc" || *kind == b"sysfs") && !point.starts_with(rootfs) {
            found.extend(CString::new(point.as_os_str().as_bytes()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_proc_and_sysfs_mounts_are_found() {
        let text = b"22 1 0:20 / /proc rw - proc proc rw\n\
            23 1 0:21 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
            24 1 0:20 /sys /elsewhere ro - proc proc rw\n\
            25 1 0:20 / /b/rootfs/proc rw - proc proc rw\n\
            26 1 0:20 / /with\\040space rw - proc proc rw\n\
            27 1 8:1 / / rw - ext4 /dev/vda rw\nnonsense\n";
        let found = revealing_in(text, Path::new("/b/rootfs"));
        let found: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(found, ["/proc", "/sys", "/with space"]);
    }
}
