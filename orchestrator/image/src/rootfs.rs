//! A container's root file system: the image's layers below, a private writable layer on top.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use berth_sys::mount::{self as tree, MOUNT_ATTR_IDMAP, MountAttr};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use crate::error::RootfsError;
use crate::unpack::is_rootless;

/// overlayfs refuses more (fs/overlayfs/params.h, OVL_MAX_STACK).
const STACK_LIMIT: usize = 500;
/// mount(2): the options are one page, with the final zero byte.
const OPTIONS_LIMIT: usize = 4095;
/// Where the store is seen with shifted ids while an overlay is being mounted, beside the other folders.
const SHIFTED: &str = "lower";

/// Ids of a container that are others on the host (user_namespaces(7)).
#[derive(Debug, Clone, Copy)]
pub struct Shift<'a> {
    /// The container's user namespace.
    pub namespace: BorrowedFd<'a>,
    /// What its user 0 is on the host.
    pub uid: u32,
    /// What its group 0 is on the host.
    pub gid: u32,
}

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
    pub fn mount(&self) -> Result<(), RootfsError> {
        if is_mount_point(&self.target)? {
            return Ok(());
        }
        self.overlay(&self.links.0)
    }

    /// The same for a container with ids of its own: files that belong to an id of the image belong to what that id
    /// is in the container. The image's files are seen through an idmapped mount of the store (Linux 5.19 for layers
    /// of an overlay), which only lives until the overlay has taken copies of it; the container's own changes belong
    /// on the disk to the ids that the host sees.
    pub fn mount_shifted(&self, shift: &Shift<'_>) -> Result<(), RootfsError> {
        if is_mount_point(&self.target)? {
            return Ok(());
        }
        let file = |action, path: &Path| {
            let path = path.to_owned();
            move |source: io::Error| RootfsError::File { action, path, source }
        };
        std::os::unix::fs::chown(&self.upper, Some(shift.uid), Some(shift.gid))
            .map_err(file("change the owner of", &self.upper))?;
        let place = self.target.with_file_name(SHIFTED);
        release(&place)?;
        fs::create_dir_all(&place).map_err(file("create", &place))?;
        let links = &self.links.0;
        let store = links.parent().unwrap_or(links);
        attach_shifted(store, &place, shift)?;
        let mounted = self.overlay(&place.join(links.file_name().unwrap_or_default()));
        release(&place)?;
        mounted
    }

    /// Mounts the overlay; `folder` has the layers' links.
    ///
    /// The lower folders are given by short names relative to it, so that more than a hundred layers fit into mount's
    /// one page of options. The working directory this takes belongs to a thread of its own (`CLONE_FS` undone), never
    /// to the process.
    fn overlay(&self, folder: &Path) -> Result<(), RootfsError> {
        let names = &self.links.1;
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
        release(&container_dir.join(SHIFTED))?;
        unmount_all(&container_dir.join("rootfs"))
    }

    /// Unmounts a container's root and deletes its folders and changes. May be repeated.
    pub fn remove(container_dir: &Path) -> Result<(), RootfsError> {
        Self::unmount(container_dir)?;
        for name in ["rootfs", "work", "upper", SHIFTED] {
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

/// Makes the store visible at `place` with its ids shifted.
fn attach_shifted(store: &Path, place: &Path, shift: &Shift<'_>) -> Result<(), RootfsError> {
    let fail = |source| RootfsError::Shift {
        path: store.to_owned(),
        source,
    };
    let copy = tree::clone_at(store, true).map_err(fail)?;
    let attributes = MountAttr {
        set: MOUNT_ATTR_IDMAP,
        userns: shift.namespace.as_raw_fd() as u64,
        ..MountAttr::default()
    };
    tree::set_attributes(copy.as_fd(), true, &attributes).map_err(fail)?;
    let target = fs::File::open(place).map_err(fail)?;
    tree::attach(copy.as_fd(), target.as_fd()).map_err(fail)
}

/// Takes the shifted store away again, if it is there.
fn release(place: &Path) -> Result<(), RootfsError> {
    if place.exists() {
        unmount_all(place)?;
    }
    Ok(())
}

/// Unmounts everything at a path; a mount that is still busy is detached.
fn unmount_all(target: &Path) -> Result<(), RootfsError> {
    loop {
        let flags = MntFlags::UMOUNT_NOFOLLOW;
        let unmounted = match umount2(target, flags) {
            Err(Errno::EBUSY) => umount2(target, flags | MntFlags::MNT_DETACH),
            other => other,
        };
        match unmounted {
            // Once more, should it have been mounted twice.
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(error) => {
                return Err(RootfsError::File {
                    action: "unmount",
                    path: target.to_owned(),
                    source: error.into(),
                });
            }
        }
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
