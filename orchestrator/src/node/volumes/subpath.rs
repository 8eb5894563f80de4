//! `volumeMounts[].subPath`: a part of a volume, reached without leaving the volume.
//!
//! A container that can write to a volume can put symbolic links into it, and a path that is looked up
//! twice can be exchanged in between (CVE-2017-1002101, CVE-2021-25741). So every step is taken from an
//! open descriptor with `openat2(RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)`, and what was opened is bind
//! mounted by its descriptor: the runtime is given the place of that mount.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::{VolumeError, project};

/// Bind mounts `sub` of the volume at `root` onto `target`, which is made; missing folders of `sub` are
/// made, too.
///
/// # Errors
/// [`VolumeError`]; a link that leads out of the volume is answered by the kernel with EXDEV.
pub fn bind(volume: &str, root: &Path, sub: &str, target: &Path) -> Result<(), VolumeError> {
    let checked = project::checked(volume, sub)?;
    let fail = |path: PathBuf| {
        move |source: nix::Error| VolumeError::File {
            path,
            source: source.into(),
        }
    };
    let handle = open_root(root).map_err(fail(root.to_owned()))?;
    let found = descend(&handle, &checked).map_err(fail(root.join(&checked)))?;
    let kind = fstat(&found).map_err(fail(root.join(&checked)))?.st_mode;
    let is_dir = SFlag::from_bits_truncate(kind) & SFlag::S_IFMT == SFlag::S_IFDIR;
    let io = |source| VolumeError::File {
        path: target.to_owned(),
        source,
    };
    if is_dir {
        std::fs::create_dir_all(target).map_err(io)?;
    } else {
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(target)
            .map_err(io)?;
    }
    let source = format!("/proc/thread-self/fd/{}", found.as_raw_fd());
    mount(
        Some(source.as_str()),
        target,
        None::<&str>,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        None::<&str>,
    )
    .map_err(|source| VolumeError::Mount {
        what: format!("subPath {sub}"),
        path: target.to_owned(),
        source,
    })
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
