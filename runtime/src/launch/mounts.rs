//! Mount sources that the parent opens, and what `--no-pivot` must cover.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use berth_sys::files::{O_DIRECTORY, O_NOFOLLOW, O_PATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS};
use berth_sys::mount::{self, MOUNT_ATTR_IDMAP, MS_SLAVE, MountAttr};
use berth_sys::{files, process, spawn};

use super::LaunchError;
use super::namespaces::write_maps;
use crate::host_mounts::unescape;
use crate::plan::{IdMapping, IdMaps, Inside};

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
    map_ids(&tree, path, idmap)?;
    Ok(tree)
}

/// The same of a place below `root`, which is in the mount namespace of the process behind `pidfd`: as the mounts made there
/// so far show it.
pub(super) fn source_inside(
    pidfd: BorrowedFd<'_>,
    root: BorrowedFd<'_>,
    inside: &Inside,
) -> Result<OwnedFd, LaunchError> {
    let fail = |source| LaunchError::Source {
        path: inside.path.clone(),
        source,
    };
    let within = Within::enter(pidfd).map_err(fail)?;
    // A link there is the container's: it must not lead out of it.
    let flags = O_PATH | if inside.nofollow { O_NOFOLLOW } else { 0 };
    let resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
    let found = files::openat2(root, &inside.place, flags, 0, resolve);
    let tree = found.and_then(|found| mount::clone_of(found.as_fd(), inside.recursive));
    within.leave().map_err(fail)?;
    let tree = tree.map_err(fail)?;
    map_ids(&tree, &inside.path, inside.idmap.as_ref())?;
    Ok(tree)
}

/// This process in another mount namespace: a mount can only be cloned from inside its own. Entering it changes root and
/// working directory.
struct Within {
    namespace: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl Within {
    const MOUNTS: u64 = libc::CLONE_NEWNS as u64;

    fn enter(pidfd: BorrowedFd<'_>) -> io::Result<Self> {
        let own = Self {
            namespace: files::open(Path::new("/proc/self/ns/mnt"), files::O_RDONLY)?,
            root: files::open(Path::new("/"), O_PATH | O_DIRECTORY)?,
            directory: files::open(Path::new("."), O_PATH | O_DIRECTORY)?,
        };
        process::join(pidfd, Self::MOUNTS)?;
        Ok(own)
    }

    fn leave(self) -> io::Result<()> {
        process::join(self.namespace.as_fd(), Self::MOUNTS)?;
        nix::unistd::fchdir(&self.root)?;
        nix::unistd::chroot(".")?;
        Ok(nix::unistd::fchdir(&self.directory)?)
    }
}

fn map_ids(tree: &OwnedFd, path: &Path, idmap: Option<&IdMaps>) -> Result<(), LaunchError> {
    let fail = |source| LaunchError::Source {
        path: path.to_path_buf(),
        source,
    };
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
    Ok(())
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
