//! A container's root file system: the image's layers below, a private writable layer on top.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::error::RootfsError;
use crate::unpack::is_rootless;

/// overlayfs refuses more (fs/overlayfs/params.h, OVL_MAX_STACK).
const STACK_LIMIT: usize = 500;
/// mount(2): the options are one page, with the final zero byte.
const OPTIONS_LIMIT: usize = 4095;

/// An overlay ready to be mounted, and its folders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rootfs {
    /// The layers' unpacked folders, the topmost first, as overlayfs orders them.
    pub lower: Vec<PathBuf>,
    /// The container's own changes.
    pub upper: PathBuf,
    /// overlayfs's work folder, on the same file system as `upper`.
    pub work: PathBuf,
    /// Where the merged view is mounted: the container's root.
    pub target: PathBuf,
    /// The folder with the layers' short links, and the names in it, topmost first.
    pub(crate) links: (PathBuf, Vec<String>),
}

impl Rootfs {
    /// Makes the folders of a container's root below `container_dir`.
    pub(crate) fn prepare(
        container_dir: &Path,
        lower: Vec<PathBuf>,
        links: (PathBuf, Vec<String>),
    ) -> Result<Self, RootfsError> {
        let rootfs = Self {
            lower,
            upper: container_dir.join("upper"),
            work: container_dir.join("work"),
            target: container_dir.join("rootfs"),
            links,
        };
        // The upper folder's mode is the mode of the container's `/`.
        for (folder, mode) in [
            (&rootfs.upper, 0o755),
            (&rootfs.work, 0o700),
            (&rootfs.target, 0o755),
        ] {
            match fs::DirBuilder::new().mode(mode).create(folder) {
                Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(RootfsError::File {
                        action: "create",
                        path: folder.clone(),
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(rootfs)
    }

    /// Mounts the merged view on [`Self::target`]; does nothing if it is mounted already.
    ///
    /// The lower folders are given by short names relative to the links' folder, so that more
    /// than a hundred layers fit into mount's one page of options. The working directory this
    /// takes belongs to a thread of its own (`CLONE_FS` undone), never to the process.
    pub fn mount(&self) -> Result<(), RootfsError> {
        if is_mount_point(&self.target)? {
            return Ok(());
        }
        let (folder, names) = &self.links;
        let options = format!(
            "lowerdir={},upperdir={},workdir={},index=off{}",
            names.join(":"),
            escaped(&self.upper),
            escaped(&self.work),
            if is_rootless() { ",userxattr" } else { "" }
        );
        if names.len() > STACK_LIMIT || options.len() > OPTIONS_LIMIT {
            return Err(RootfsError::TooManyLayers { layers: names.len() });
        }
        let mounted = std::thread::scope(|scope| {
            scope
                .spawn(|| -> io::Result<()> {
                    unshare(CloneFlags::CLONE_FS)?;
                    std::env::set_current_dir(folder)?;
                    let none = MsFlags::empty();
                    mount(
                        Some("overlay"),
                        &self.target,
                        Some("overlay"),
                        none,
                        Some(options.as_str()),
                    )?;
                    Ok(())
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the mounting thread panicked")))
        });
        mounted.map_err(|source| RootfsError::Mount {
            path: self.target.clone(),
            options,
            source,
        })
    }

    /// Unmounts a container's root; does nothing if it is not mounted. A root that is still busy
    /// is detached: the kernel frees it with its last user.
    pub fn unmount(container_dir: &Path) -> Result<(), RootfsError> {
        let target = container_dir.join("rootfs");
        loop {
            let flags = MntFlags::UMOUNT_NOFOLLOW;
            let unmounted = match umount2(&target, flags) {
                Err(Errno::EBUSY) => umount2(&target, flags | MntFlags::MNT_DETACH),
                other => other,
            };
            match unmounted {
                // Once more, should it have been mounted twice.
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
                Err(error) => {
                    return Err(RootfsError::File {
                        action: "unmount",
                        path: target,
                        source: error.into(),
                    });
                }
            }
        }
    }

    /// Unmounts a container's root and deletes its folders and changes. May be repeated.
    pub fn remove(container_dir: &Path) -> Result<(), RootfsError> {
        Self::unmount(container_dir)?;
        for name in ["rootfs", "work", "upper"] {
            let path = container_dir.join(name);
            match fs::remove_dir_all(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(RootfsError::File {
                        action: "delete",
                        path,
                        source,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether something is mounted on a folder: its mount is another than its parent's.
fn is_mount_point(path: &Path) -> Result<bool, RootfsError> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let status = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()).map_err(|error| {
        RootfsError::File {
            action: "inspect",
            path: path.to_owned(),
            source: error.into(),
        }
    })?;
    Ok(status.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// overlayfs splits its options at commas and takes a backslash as an escape.
fn escaped(path: &Path) -> String {
    let mut text = String::new();
    for letter in path.to_string_lossy().chars() {
        if matches!(letter, ',' | '\\') {
            text.push('\\');
        }
        text.push(letter);
    }
    text
}
