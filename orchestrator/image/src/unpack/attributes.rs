//! Owner, mode, extended attributes and time of what a layer contains.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use rustix::fs::XattrFlags;

use super::{NO_FOLLOW, set_named_time};
use crate::tar::Entry;

/// Marks a directory whose contents in lower layers are hidden (kernel documentation,
/// filesystems/overlayfs "whiteouts and opaque directories"): in the initial user namespace, and in
/// another one, where overlayfs is mounted with `userxattr`.
const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Whether this process lives in a user namespace of its own: then `trusted.*` attributes cannot be
/// set, device nodes not be made, and only mapped owners be given.
pub(crate) fn is_rootless() -> bool {
    static ROOTLESS: OnceLock<bool> = OnceLock::new();
    *ROOTLESS.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let whole: Vec<&str> = map.split_whitespace().collect();
        !whole.is_empty() && whole != ["0", "0", "4294967295"]
    })
}

fn opaque_name() -> &'static str {
    OPAQUE[usize::from(is_rootless())]
}

/// overlayfs's own attributes. From an image they could redirect a lookup to another file of the
/// host's file system (`redirect`, `metacopy`), so they are never taken over.
const OVERLAY_PREFIXES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
/// Attributes that mean the same on every host. Others (security.selinux, security.ima) belong to
/// the host that made the image.
const KEPT_PREFIXES: [&[u8]; 2] = [b"user.", b"trusted."];
const KEPT: [&[u8]; 3] = [
    b"security.capability",
    b"system.posix_acl_access",
    b"system.posix_acl_default",
];

/// What gets the attributes.
pub(super) enum Target<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// Something that cannot be opened without an effect: link, device, pipe.
    Named {
        parent: BorrowedFd<'a>,
        name: &'a [u8],
        symlink: bool,
    },
}

/// All attributes of an entry.
#[derive(Debug)]
pub(super) struct Attributes {
    uid: u32,
    gid: u32,
    mode: u32,
    mtime: (i64, u32),
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            uid: entry.uid,
            gid: entry.gid,
            mode: entry.mode,
            mtime: entry.mtime,
            xattrs: entry
                .xattrs
                .iter()
                .filter(|(name, _)| kept(name))
                .cloned()
                .collect(),
        }
    }

    /// Those of a file or directory that is there already.
    pub(super) fn read(stat: &FileStat, file: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            xattrs: read_xattrs(file)?,
        })
    }

    /// What a folder gets that nobody described.
    pub(super) fn plain_directory() -> Self {
        Self {
            uid: 0,
            gid: 0,
            mode: 0o755,
            mtime: (0, 0),
            xattrs: Vec::new(),
        }
    }

    pub(super) fn mtime(&self) -> (i64, u32) {
        self.mtime
    }

    /// Owner, then extended attributes, then mode: chown clears set-id bits and capabilities.
    pub(super) fn apply(&self, target: &Target<'_>) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)));
        let given = match *target {
            Target::Open(file) => fchown(file, uid, gid),
            Target::Named { parent, name, .. } => fchownat(parent, name, uid, gid, NO_FOLLOW),
        };
        match given {
            Err(Errno::EINVAL) if is_rootless() => {
                return Err(io::Error::other(format!(
                    "owner {}:{} is not mapped in this user namespace: map more ids (subuid(5), subgid(5))",
                    self.uid, self.gid
                )));
            }
            given => given?,
        }
        for (name, value) in &self.xattrs {
            set_xattr(target, name, value)?;
        }
        let mode = Mode::from_bits_truncate(self.mode);
        match *target {
            Target::Open(file) => fchmod(file, mode)?,
            Target::Named { symlink: true, .. } => {}
            Target::Named { parent, name, .. } => {
                fchmodat(parent, name, mode, FchmodatFlags::FollowSymlink)?;
            }
        }
        Ok(())
    }

    pub(super) fn apply_time(&self, target: &Target<'_>) -> io::Result<()> {
        match *target {
            Target::Open(file) => {
                let time = TimeSpec::new(self.mtime.0, i64::from(self.mtime.1));
                futimens(file, &time, &time)?;
            }
            Target::Named { parent, name, .. } => set_named_time(parent, name, self.mtime)?,
        }
        Ok(())
    }
}

fn kept(name: &[u8]) -> bool {
    !OVERLAY_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        && (KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
}

/// A file system without extended attributes (or without this one on links) leaves them out.
fn set_xattr(target: &Target<'_>, name: &[u8], value: &[u8]) -> io::Result<()> {
    let set = match *target {
        Target::Open(file) => rustix::fs::fsetxattr(file, name, value, XattrFlags::empty()),
        Target::Named {
            parent, name: entry, ..
        } => rustix::fs::lsetxattr(magic_path(parent, entry), name, value, XattrFlags::empty()),
    };
    let user = name.starts_with(b"user.");
    match set {
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
        // user.* is for files and directories only (xattr(7)).
        Err(rustix::io::Errno::PERM) if user && matches!(target, Target::Named { .. }) => Ok(()),
        Err(rustix::io::Errno::PERM) if is_rootless() && name.starts_with(b"trusted.") => Ok(()),
        set => Ok(set?),
    }
}

/// Marks an open directory opaque.
pub(super) fn set_opaque(directory: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(
        directory,
        opaque_name(),
        b"y",
        XattrFlags::empty(),
    )?)
}

/// Whether an open directory is opaque.
pub(super) fn is_opaque(directory: BorrowedFd<'_>) -> io::Result<bool> {
    let mut value = [0u8; 8];
    match rustix::fs::fgetxattr(directory, opaque_name(), &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn read_xattrs(file: BorrowedFd<'_>) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    // The kernel's limits (xattr(7)): 64 KiB of names, 64 KiB a value.
    let mut names = vec![0u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(file, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        length => length?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|&byte| byte == 0).filter(|name| kept(name)) {
        let mut value = vec![0u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(file, name, &mut value[..])?;
        value.truncate(length);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// A path for the few calls that take no descriptor. The descriptor pins the directory, and
/// `name` is one component, which those calls do not follow.
pub(super) fn magic_path(parent: BorrowedFd<'_>, name: &[u8]) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd())).join(OsStr::from_bytes(name))
}
