//! `volumeMounts[].subPath`: a part of a volume, reached without leaving the volume; and volumes of pods with users of
//! their own, by idmapped mounts.
//!
//! A container that can write to a volume can put symbolic links into it, and a path that is looked up
//! twice can be exchanged in between (CVE-2017-1002101, CVE-2021-25741). So every step is taken from an
//! open descriptor with `openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)`, and what was opened is bind
//! mounted by its descriptor: the runtime is given the place of that mount.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_sys::mount::{self as tree, MOUNT_ATTR_IDMAP, MountAttr};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::{VolumeError, project};

/// Bind mounts `sub` of the volume at `root`, or the whole of it, onto `target`, which is made; missing folders of
/// `sub` are made, too. With a user namespace, what belongs to an id in the volume belongs to that id of the namespace
/// in the mount.
///
/// # Errors
/// [`VolumeError`]; a link that leads out of the volume is answered by the kernel with EXDEV.
pub fn bind(
    volume: &str,
    root: &Path,
    sub: Option<&str>,
    target: &Path,
    users: Option<BorrowedFd<'_>>,
) -> Result<(), VolumeError> {
    let fail = |path: PathBuf| {
        move |source: nix::Error| VolumeError::File {
            path,
            source: source.into(),
        }
    };
    let (found, place) = if let Some(sub) = sub {
        let checked = project::checked(volume, sub)?;
        let handle = open_root(root).map_err(fail(root.to_owned()))?;
        let place = root.join(&checked);
        (descend(&handle, &checked).map_err(fail(place.clone()))?, place)
    } else {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let found = nix::fcntl::open(root, flags, Mode::empty());
        (found.map_err(fail(root.to_owned()))?, root.to_owned())
    };
    let kind = fstat(&found).map_err(fail(place.clone()))?.st_mode;
    let is_dir = SFlag::from_bits_truncate(kind) & SFlag::S_IFMT == SFlag::S_IFDIR;
    make_target(target, is_dir)?;
    let source = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
    if let Some(users) = users {
        return bind_shifted(volume, &place, Path::new(&source), target, users);
    }
    mount(
        Some(source.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|source| VolumeError::Mount {
        what: format!("{} of volume {volume}", place.display()),
        path: target.to_owned(),
        source,
    })
}

/// The place of a mount: a folder, or an empty file.
fn make_target(target: &Path, is_dir: bool) -> Result<(), VolumeError> {
    let made = if is_dir {
        std::fs::create_dir_all(target)
    } else {
        let parent = target.parent().map_or(Ok(()), std::fs::create_dir_all);
        parent.and_then(|()| {
            let mut options = std::fs::OpenOptions::new();
            options.create(true).append(true).open(target).map(drop)
        })
    };
    made.map_err(|source| VolumeError::File {
        path: target.to_owned(),
        source,
    })
}

/// A bind mount with mapped ids. What is mounted below keeps the host's ids, as under kubelet.
fn bind_shifted(
    volume: &str,
    place: &Path,
    source: &Path,
    target: &Path,
    users: BorrowedFd<'_>,
) -> Result<(), VolumeError> {
    let io = |source| VolumeError::File {
        path: target.to_owned(),
        source,
    };
    let copy = tree::clone_at(source, true).map_err(io)?;
    let attributes = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns: users.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    tree::set_attributes(copy.as_fd(), false, &attributes).map_err(|source| VolumeError::Shift {
        volume: volume.to_owned(),
        path: place.to_owned(),
        source,
    })?;
    let on = nix::fcntl::open(target, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|error| io(error.into()))?;
    tree::attach(copy.as_fd(), on.as_fd()).map_err(io)
}

fn how(flags: OFlag) -> OpenHow {
    OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

fn open_root(root: &Path) -> nix::Result<OwnedFd> {
    nix::fcntl::open(
        root,
        OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY,
        Mode::empty(),
    )
}

/// Opens the path below the root, making missing folders on the way.
fn descend(root: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    match openat2(root, path, how(OFlag::O_PATH)) {
        Err(nix::Error::ENOENT) => {}
        found => return found,
    }
    let mut walked = PathBuf::new();
    for part in path.components() {
        let parent = if walked.as_os_str().is_empty() {
            openat2(root, ".", how(OFlag::O_PATH | OFlag::O_DIRECTORY))?
        } else {
            openat2(root, &walked, how(OFlag::O_PATH | OFlag::O_DIRECTORY))?
        };
        walked.push(part);
        match mkdirat(
            &parent,
            Path::new(part.as_os_str()),
            Mode::from_bits_truncate(0o755),
        ) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error),
        }
    }
    openat2(root, path, how(OFlag::O_PATH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_do_not_lead_out() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("in")).unwrap();
        symlink("in", dir.path().join("fine")).unwrap();
        symlink("/etc", dir.path().join("absolute")).unwrap();
        symlink("../..", dir.path().join("up")).unwrap();
        let open = |path: &str| descend(&open_root(dir.path()).unwrap(), Path::new(path)).map(drop);
        assert_eq!(open("in"), Ok(()));
        assert_eq!(open("fine"), Ok(()));
        assert_eq!(open("absolute"), Err(nix::Error::EXDEV));
        assert_eq!(open("absolute/passwd"), Err(nix::Error::EXDEV));
        assert_eq!(open("up/x"), Err(nix::Error::EXDEV));
        assert_eq!(open("new/deep/folder"), Ok(()));
        assert!(dir.path().join("new/deep/folder").is_dir());
    }
}
