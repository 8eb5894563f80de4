//! Volumes that claims are bound to: where they are, and whose group they get.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as api;
use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::{Gid, fchownat};

use super::super::claims::{Backing, claim_name};
use super::{Sources, VolumeError, file, fs_group, host_path};
use crate::node::pod::Pod;

/// What a group must be able to do with a file, and with a folder (kubernetes `pkg/volume/volume_linux.go`).
const FILE_BITS: u32 = 0o660;
const FOLDER_BITS: u32 = 0o2770;
/// Depth of folders up to which a volume's group is changed: each level holds a descriptor.
const DEEPEST: usize = 256;

/// Whether containers may only read the volume, whatever their mounts say.
pub fn is_read_only(pod: &Pod, volume: &str) -> bool {
    let volumes = pod.spec().volumes.iter().flatten();
    volumes
        .filter(|v| v.name == volume)
        .filter_map(|v| v.persistent_volume_claim.as_ref())
        .any(|claim| claim.read_only == Some(true))
}

/// The place of a volume that is a claim; None for another kind of volume.
pub(super) fn place(
    pod: &Pod,
    volume: &api::Volume,
    sources: &dyn Sources,
) -> Result<Option<PathBuf>, VolumeError> {
    let Some(claim) = claim_name(pod, volume) else {
        return Ok(None);
    };
    let Some(backing) = sources.backing(&claim) else {
        return Err(VolumeError::Unbound {
            volume: volume.name.clone(),
            claim,
        });
    };
    located(volume, &backing).map(Some)
}

fn located(volume: &api::Volume, backing: &Backing) -> Result<PathBuf, VolumeError> {
    if let Some(kind) = &backing.host_path {
        let source = api::HostPathVolumeSource {
            path: backing.path.to_string_lossy().into_owned(),
            type_: Some(kind.clone()),
        };
        return host_path(volume, &source);
    }
    if backing.path.is_dir() {
        return Ok(backing.path.clone());
    }
    Err(VolumeError::Folder {
        volume: volume.name.clone(),
        persistent: backing.volume.clone(),
        path: backing.path.clone(),
    })
}

/// Gives the pod's `fsGroup` to its claims' volumes, with all that is in them; to those on a path of the host that
/// somebody has chosen (`hostPath`) not, as kubelet.
///
/// # Errors
/// [`VolumeError::File`] of the first file that cannot be changed.
pub fn give_group(pod: &Pod, sources: &dyn Sources) -> Result<(), VolumeError> {
    let Some(group) = fs_group(pod) else { return Ok(()) };
    let security = pod.spec().security_context.as_ref();
    let policy = security.and_then(|s| s.fs_group_change_policy.as_deref());
    for volume in pod.spec().volumes.iter().flatten() {
        let Some(claim) = claim_name(pod, volume) else {
            continue;
        };
        let Some(backing) = sources.backing(&claim) else {
            continue;
        };
        if backing.host_path.is_some() || is_read_only(pod, &volume.name) {
            continue;
        }
        let root = File::open(&backing.path).map_err(file(&backing.path))?;
        let found = fstat(&root).map_err(|error| failed(&backing.path, error))?;
        let same = found.st_gid == group && found.st_mode & FOLDER_BITS == FOLDER_BITS;
        if policy == Some("OnRootMismatch") && same {
            continue;
        }
        // The root comes last: one that is right tells that all else is.
        walk(&root.into(), &backing.path, group, 0)?;
    }
    Ok(())
}

fn failed(path: &Path, error: nix::Error) -> VolumeError {
    file(path)(error.into())
}

/// A folder and everything in it, by descriptors: another pod may put links into it at this moment.
fn walk(folder: &OwnedFd, path: &Path, group: u32, depth: usize) -> Result<(), VolumeError> {
    if depth > DEEPEST {
        return Err(failed(path, nix::Error::ELOOP));
    }
    let copy = folder.try_clone().map_err(file(path))?;
    let mut names = Vec::new();
    let mut listing = Dir::from_fd(copy).map_err(|error| failed(path, error))?;
    for entry in listing.iter() {
        let name = entry.map_err(|error| failed(path, error))?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    drop(listing);
    for name in names {
        let inner = path.join(name.to_string_lossy().as_ref());
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = match openat(folder, name.as_c_str(), flags, Mode::empty()) {
            Ok(opened) => opened,
            // Somebody has removed it since.
            Err(nix::Error::ENOENT) => continue,
            Err(error) => return Err(failed(&inner, error)),
        };
        let found = fstat(&opened).map_err(|error| failed(&inner, error))?;
        if kind(&found) == SFlag::S_IFDIR {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let folder = openat(&opened, ".", flags, Mode::empty()).map_err(|error| failed(&inner, error))?;
            walk(&folder, &inner, group, depth + 1)?;
        } else {
            change(opened.as_fd(), &found, group).map_err(|error| failed(&inner, error))?;
        }
    }
    let found = fstat(folder).map_err(|error| failed(path, error))?;
    change(folder.as_fd(), &found, group).map_err(|error| failed(path, error))
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

/// Group and permissions of what is open. A link gets the group only: it has no permissions of its own.
fn change(opened: BorrowedFd<'_>, found: &FileStat, group: u32) -> nix::Result<()> {
    if found.st_gid != group {
        fchownat(
            opened,
            "",
            None,
            Some(Gid::from_raw(group)),
            AtFlags::AT_EMPTY_PATH,
        )?;
    }
    if kind(found) == SFlag::S_IFLNK {
        return Ok(());
    }
    let bits = if kind(found) == SFlag::S_IFDIR {
        FOLDER_BITS
    } else {
        FILE_BITS
    };
    let mode = found.st_mode & 0o7777;
    // A change of the group takes setuid and setgid bits off, so they are looked at again.
    if mode & bits != bits || found.st_gid != group {
        let path = format!("/proc/thread-self/fd/{}", opened.as_raw_fd());
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode | bits))
            .map_err(|error| nix::Error::from_raw(error.raw_os_error().unwrap_or_default()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_group_gets_everything_but_what_links_point_at() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        for file in [&outside, &root.join("a/b/file")] {
            std::fs::write(file, "x").unwrap();
            std::fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
        }
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        walk(&File::open(&root).unwrap().into(), &root, 4242, 0).unwrap();
        let seen = |path: &Path| {
            let found = std::fs::symlink_metadata(path).unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(seen(&root.join("a/b/file")), (4242, 0o660));
        assert_eq!(seen(&root.join("link")).0, 4242);
        for folder in ["", "a", "a/b"] {
            let (group, mode) = seen(&root.join(folder));
            assert_eq!((group, mode & FOLDER_BITS), (4242, FOLDER_BITS), "{folder}");
        }
        assert_eq!(seen(&outside), (0, 0o600));
    }
}
