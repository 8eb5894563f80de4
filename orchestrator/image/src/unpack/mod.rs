//! Unpacks a layer into a folder that is an overlayfs lower directory.
//!
//! The archive is hostile until proven otherwise. Every path is walked from the layer's root by
//! descriptors, one real directory at a time; symbolic links on the way are resolved by us,
//! inside the root; the last component is never followed. So nothing is created, changed, linked
//! or read outside the root. Counts and sizes are bounded by [`Limits`].
//!
//! Whiteouts (OCI image specification, layer.md) become what overlayfs understands: `.wh.NAME` a
//! character device 0:0 named NAME, `.wh..wh..opq` the attribute `trusted.overlay.opaque`.

mod attributes;
mod lower;
mod walk;
mod whiteout;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, fstatat, mkdirat, mknodat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::tar::{Archive, Entry, Kind, TarError, printable};
pub(crate) use attributes::is_rootless;
use attributes::{Attributes, Target};
use lower::Found;
pub(crate) use lower::Lower;
use walk::Parent;
use whiteout::Whiteout;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// How much is written between two looks at the free space.
const SPACE_CHECK: u64 = 64 << 20;

/// How much one layer may contain. The defaults are far above real images and far below what
/// would take a machine down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Entries in the archive.
    pub entries: u64,
    /// Bytes of file contents, holes not counted.
    pub bytes: u64,
    /// Apparent size of one file in bytes, holes counted.
    pub file_size: u64,
    /// Device nodes.
    pub devices: u64,
    /// Components of one path, symbolic links resolved.
    pub depth: usize,
    /// Bytes that must stay free on the store's file system.
    pub keep_free: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            bytes: 64 << 30,
            file_size: 1 << 40,
            devices: 4096,
            depth: 256,
            keep_free: 256 << 20,
        }
    }
}

/// What a layer turned out to contain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    devices: u64,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("entry {path:?} has \"..\" in its path, which would lead out of the layer")]
    Escapes { path: String },
    #[error("hard link {path:?} points to {target:?}, which is in neither this layer nor the ones below")]
    LinkTarget { path: String, target: String },
    #[error("whiteout {path:?} names no file")]
    Whiteout { path: String },
    #[error("entry {path:?} replaces the layer's root with something that is no directory")]
    Root { path: String },
    #[error("entry {path:?}: {component:?} on the way is not a directory")]
    NotADirectory { path: String, component: String },
    #[error("entry {path:?}: too many symbolic links on the way")]
    Loop { path: String },
    #[error("entry {path:?} is nested deeper than {limit} directories")]
    Depth { path: String, limit: usize },
    #[error("the layer has more than {limit} {what}")]
    TooMany { what: &'static str, limit: u64 },
    #[error("entry {path:?} has {size} bytes, more than the limit of {limit} for {what}")]
    TooBig {
        path: String,
        size: u64,
        limit: u64,
        what: &'static str,
    },
    #[error("unpacking would leave less than {keep} bytes free on the store's file system")]
    NoSpace { keep: u64 },
    #[error("entry {path:?}: cannot {action}")]
    System {
        path: String,
        action: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Unpacks a plain tar stream below `root`, an empty directory. `lower` are the layers below:
/// folders that this layer leaves out get their mode and owner from there.
pub(crate) fn unpack(
    stream: impl Read,
    root: BorrowedFd<'_>,
    lower: &Lower<'_>,
    limits: &Limits,
) -> Result<Contents, UnpackError> {
    let mut archive = Archive::new(stream);
    let mut unpacker = Unpacker {
        root,
        lower,
        limits,
        contents: Contents::default(),
        next_space_check: SPACE_CHECK,
        times: BTreeMap::new(),
        parent: None,
        whiteouts: Vec::new(),
        buffer: vec![0; 128 * 1024],
    };
    while let Some(entry) = archive.next()? {
        unpacker.admit(&entry)?;
        unpacker.place(&entry, &mut archive)?;
    }
    archive.drain()?;
    unpacker.place_whiteouts()?;
    unpacker.set_directory_times()?;
    Ok(unpacker.contents)
}

struct Unpacker<'a> {
    root: BorrowedFd<'a>,
    lower: &'a Lower<'a>,
    limits: &'a Limits,
    contents: Contents,
    next_space_check: u64,
    /// Directories' modification times: set last, since every entry made inside changes them.
    times: BTreeMap<Vec<u8>, (i64, u32)>,
    /// The directory of the previous entry: archives list a directory's entries together.
    parent: Option<(Vec<Vec<u8>>, Parent)>,
    /// Whiteouts that wait for the layers below: only with those it is known what they hide.
    whiteouts: Vec<Whiteout>,
    buffer: Vec<u8>,
}

/// The path as written, without empty and `.` components; `..` is an attack or a mistake.
fn components(path: &[u8]) -> Result<Vec<Vec<u8>>, UnpackError> {
    let mut found = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                return Err(UnpackError::Escapes {
                    path: printable(path),
                });
            }
            name => found.push(name.to_vec()),
        }
    }
    Ok(found)
}

fn joined(components: &[Vec<u8>]) -> Vec<u8> {
    if components.is_empty() {
        b".".to_vec()
    } else {
        components.join(&b'/')
    }
}

fn system<E: Into<io::Error>>(entry: &Entry, action: &'static str) -> impl FnOnce(E) -> UnpackError {
    let path = printable(&entry.path);
    move |source| UnpackError::System {
        path,
        action,
        source: source.into(),
    }
}

impl Unpacker<'_> {
    /// Holds the entry against the limits before anything is made.
    fn admit(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        self.contents.entries += 1;
        if self.contents.entries > self.limits.entries {
            return Err(UnpackError::TooMany {
                what: "entries",
                limit: self.limits.entries,
            });
        }
        if matches!(entry.kind, Kind::Character | Kind::Block) {
            self.contents.devices += 1;
            if self.contents.devices > self.limits.devices {
                return Err(UnpackError::TooMany {
                    what: "device nodes",
                    limit: self.limits.devices,
                });
            }
        }
        let too_big = |size, limit, what| {
            Err(UnpackError::TooBig {
                path: printable(&entry.path),
                size,
                limit,
                what,
            })
        };
        if entry.size > self.limits.file_size {
            return too_big(entry.size, self.limits.file_size, "one file");
        }
        let stored = match &entry.sparse {
            Some(segments) => segments.iter().map(|segment| segment.length).sum(),
            None => entry.size,
        };
        self.contents.bytes = self.contents.bytes.saturating_add(stored);
        if self.contents.bytes > self.limits.bytes {
            return too_big(self.contents.bytes, self.limits.bytes, "all files of a layer");
        }
        Ok(())
    }

    fn place(&mut self, entry: &Entry, data: &mut impl Read) -> Result<(), UnpackError> {
        let mut path = components(&entry.path)?;
        let Some(name) = path.pop() else {
            if entry.kind != Kind::Directory {
                return Err(UnpackError::Root {
                    path: printable(&entry.path),
                });
            }
            Attributes::of(entry)
                .apply(&Target::Open(self.root))
                .map_err(system(entry, "set the attributes of the root"))?;
            self.times.insert(b".".to_vec(), entry.mtime);
            return Ok(());
        };
        let parent = self.parent(entry, path)?;
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(entry, &parent, &name);
        }
        match entry.kind {
            Kind::File => self.file(entry, &parent, &name, data),
            Kind::Directory => self.directory(entry, &parent, &name),
            Kind::HardLink => self.hard_link(entry, &parent, &name),
            Kind::Symlink | Kind::Character | Kind::Block | Kind::Fifo => self.special(entry, &parent, &name),
        }
    }

    /// The open directory that holds an entry, made if the layer left it out.
    fn parent(&mut self, entry: &Entry, path: Vec<Vec<u8>>) -> Result<Parent, UnpackError> {
        if let Some((known, parent)) = &self.parent
            && *known == path
        {
            return Ok(parent.clone());
        }
        let parent = walk::open(self, entry, &path)?;
        self.parent = Some((path, parent.clone()));
        Ok(parent)
    }

    fn file(
        &mut self,
        entry: &Entry,
        parent: &Parent,
        name: &[u8],
        data: &mut impl Read,
    ) -> Result<(), UnpackError> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let descriptor = self.replacing(entry, parent, name, "create the file", || {
            openat(parent.as_fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        })?;
        let mut file = File::from(descriptor);
        self.copy(entry, &mut file, data)?;
        let attributes = Attributes::of(entry);
        let target = Target::Open(file.as_fd());
        attributes
            .apply(&target)
            .map_err(system(entry, "set the file's attributes"))?;
        attributes
            .apply_time(&target)
            .map_err(system(entry, "set the file's time"))
    }

    fn copy(&mut self, entry: &Entry, file: &mut File, data: &mut impl Read) -> Result<(), UnpackError> {
        let Some(segments) = &entry.sparse else {
            self.copy_bytes(entry, file, data, entry.size)?;
            return Ok(());
        };
        for segment in segments {
            file.seek(SeekFrom::Start(segment.offset))
                .map_err(system(entry, "seek in the file"))?;
            self.copy_bytes(entry, file, data, segment.length)?;
        }
        file.set_len(entry.size)
            .map_err(system(entry, "set the file's size"))
    }

    fn copy_bytes(
        &mut self,
        entry: &Entry,
        file: &mut File,
        data: &mut impl Read,
        mut left: u64,
    ) -> Result<(), UnpackError> {
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let count = match data.read(&mut self.buffer[..most]) {
                Ok(0) => return Err(system(entry, "read the file's contents")(Errno::ENODATA)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(system(entry, "read the file's contents")(error)),
            };
            file.write_all(&self.buffer[..count])
                .map_err(system(entry, "write the file's contents"))?;
            left -= count as u64;
            self.next_space_check = self.next_space_check.saturating_sub(count as u64);
            if self.next_space_check == 0 {
                self.next_space_check = SPACE_CHECK;
                self.check_space(entry)?;
            }
        }
        Ok(())
    }

    fn check_space(&self, entry: &Entry) -> Result<(), UnpackError> {
        let state = fstatvfs(self.root).map_err(system(entry, "ask for the free space"))?;
        if state.blocks_available().saturating_mul(state.fragment_size()) < self.limits.keep_free {
            return Err(UnpackError::NoSpace {
                keep: self.limits.keep_free,
            });
        }
        Ok(())
    }

    fn directory(&mut self, entry: &Entry, parent: &Parent, name: &[u8]) -> Result<(), UnpackError> {
        let mut opaque = false;
        match mkdirat(parent.as_fd(), name, Mode::S_IRWXU) {
            Err(Errno::EEXIST) if !walk::is_directory(parent, name) => {
                // What stood here in this layer hid the folder below; the new folder must, too.
                self.remove(entry, parent, name)?;
                mkdirat(parent.as_fd(), name, Mode::S_IRWXU)
                    .map_err(system(entry, "create the directory"))?;
                opaque = true;
            }
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(error) => return Err(system(entry, "create the directory")(error)),
        }
        let directory =
            walk::open_directory(parent.as_fd(), name).map_err(system(entry, "open the directory"))?;
        if opaque {
            attributes::set_opaque(directory.as_fd()).map_err(system(entry, "mark the directory opaque"))?;
        }
        Attributes::of(entry)
            .apply(&Target::Open(directory.as_fd()))
            .map_err(system(entry, "set the directory's attributes"))?;
        self.times.insert(parent.child(name), entry.mtime);
        Ok(())
    }

    fn special(&mut self, entry: &Entry, parent: &Parent, name: &[u8]) -> Result<(), UnpackError> {
        let owner = Mode::S_IRUSR | Mode::S_IWUSR;
        let (major, minor) = entry.device;
        let device = nix::sys::stat::makedev(u64::from(major), u64::from(minor));
        let node = |kind, device| mknodat(parent.as_fd(), name, kind, owner, device);
        let is_device = matches!(entry.kind, Kind::Character | Kind::Block) && entry.device != (0, 0);
        if is_device && attributes::is_rootless() {
            // Only the initial user namespace may make them; containers get theirs from the runtime.
            return Ok(());
        }
        self.replacing(entry, parent, name, "create the entry", || match entry.kind {
            Kind::Symlink => symlinkat(entry.link.as_slice(), parent.as_fd(), name),
            Kind::Character => node(SFlag::S_IFCHR, device),
            Kind::Block => node(SFlag::S_IFBLK, device),
            _ => node(SFlag::S_IFIFO, 0),
        })?;
        let target = Target::Named {
            parent: parent.as_fd(),
            name,
            symlink: entry.kind == Kind::Symlink,
        };
        let attributes = Attributes::of(entry);
        attributes
            .apply(&target)
            .map_err(system(entry, "set the entry's attributes"))?;
        attributes
            .apply_time(&target)
            .map_err(system(entry, "set the entry's time"))
    }

    fn hard_link(&mut self, entry: &Entry, parent: &Parent, name: &[u8]) -> Result<(), UnpackError> {
        let missing = || UnpackError::LinkTarget {
            path: printable(&entry.path),
            target: printable(&entry.link),
        };
        let mut target = components(&entry.link)?;
        let target_name = target.pop().ok_or_else(missing)?;
        let holder = match walk::open_existing(self.root, &target) {
            Ok(holder) => holder,
            // Not in this layer: perhaps below.
            Err(Errno::ENOENT | Errno::ENOTDIR) => walk::open(self, entry, &target)?,
            Err(error) => return Err(system(entry, "open the hard link's target")(error)),
        };
        if holder.is_same_entry(&target_name, parent, name) {
            return Ok(());
        }
        // A whiteout says that there is nothing.
        let found = fstatat(holder.as_fd(), target_name.as_slice(), NO_FOLLOW);
        if found.is_ok_and(|stat| lower::is_whiteout(&stat)) {
            return Err(missing());
        }
        let mut link = || {
            self.replacing(entry, parent, name, "create the hard link", || {
                match linkat(
                    holder.as_fd(),
                    target_name.as_slice(),
                    parent.as_fd(),
                    name,
                    LinkatFlags::empty(),
                ) {
                    // Told apart from EEXIST-like failures by the caller.
                    Err(Errno::ENOENT) => Ok(false),
                    other => other.map(|()| true),
                }
            })
        };
        if link()? {
            return Ok(());
        }
        let holder_path = walk::open(self, entry, &target)?;
        self.copy_up(entry, &holder_path, &target_name)?
            .ok_or_else(missing)?;
        self.replacing(entry, parent, name, "create the hard link", || {
            linkat(
                holder_path.as_fd(),
                target_name.as_slice(),
                parent.as_fd(),
                name,
                LinkatFlags::empty(),
            )
        })
    }

    /// Copies a file of a layer below into this one, as overlayfs does before it links to it.
    fn copy_up(&mut self, entry: &Entry, parent: &Parent, name: &[u8]) -> Result<Option<()>, UnpackError> {
        self.lower
            .open()
            .map_err(system(entry, "look into the layers below"))?;
        self.place_whiteouts()?;
        let mut path = parent.path.to_vec();
        path.push(name.to_vec());
        let Found::File(mut source, attributes) = self
            .lower
            .find(&path)
            .map_err(system(entry, "look into the layers below"))?
        else {
            return Ok(None);
        };
        let size = source
            .metadata()
            .map_err(system(entry, "read the file below"))?
            .len();
        self.contents.bytes = self.contents.bytes.saturating_add(size);
        if self.contents.bytes > self.limits.bytes {
            return Err(UnpackError::TooBig {
                path: printable(&entry.path),
                size: self.contents.bytes,
                limit: self.limits.bytes,
                what: "all files of a layer",
            });
        }
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let descriptor = openat(parent.as_fd(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(system(entry, "copy up the hard link's target"))?;
        let mut file = File::from(descriptor);
        self.copy_bytes(entry, &mut file, &mut source, size)?;
        let target = Target::Open(file.as_fd());
        attributes
            .apply(&target)
            .map_err(system(entry, "copy up the hard link's target"))?;
        attributes
            .apply_time(&target)
            .map_err(system(entry, "copy up the hard link's target"))?;
        Ok(Some(()))
    }

    /// Makes an entry; one of the same name that this layer had before is replaced.
    fn replacing<T>(
        &mut self,
        entry: &Entry,
        parent: &Parent,
        name: &[u8],
        action: &'static str,
        mut make: impl FnMut() -> nix::Result<T>,
    ) -> Result<T, UnpackError> {
        match make() {
            Err(Errno::EEXIST) => {
                self.remove(entry, parent, name)?;
                make().map_err(system(entry, action))
            }
            made => made.map_err(system(entry, action)),
        }
    }

    fn remove(&mut self, entry: &Entry, parent: &Parent, name: &[u8]) -> Result<(), UnpackError> {
        self.parent = None;
        match unlinkat(parent.as_fd(), name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => std::fs::remove_dir_all(attributes::magic_path(parent.as_fd(), name))
                .map_err(system(entry, "replace the directory that stood there")),
            removed => removed.map_err(system(entry, "replace the entry that stood there")),
        }
    }

    fn set_directory_times(&self) -> Result<(), UnpackError> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        for (path, &(seconds, nanoseconds)) in &self.times {
            // A directory that a later entry replaced has no time to set.
            let Ok(directory) = openat2(self.root, path.as_slice(), how) else {
                continue;
            };
            let time = TimeSpec::new(seconds, i64::from(nanoseconds));
            nix::sys::stat::futimens(directory.as_fd(), &time, &time).map_err(|error| {
                UnpackError::System {
                    path: printable(path),
                    action: "set the directory's time",
                    source: error.into(),
                }
            })?;
        }
        Ok(())
    }
}

/// Sets the time of something that is named, not open.
fn set_named_time(parent: BorrowedFd<'_>, name: &[u8], time: (i64, u32)) -> nix::Result<()> {
    let time = TimeSpec::new(time.0, i64::from(time.1));
    utimensat(parent, name, &time, &time, UtimensatFlags::NoFollowSymlink)
}

/// What `*at` calls need to leave a symbolic link alone.
const NO_FOLLOW: AtFlags = AtFlags::AT_SYMLINK_NOFOLLOW;

#[cfg(test)]
mod tests;
