//! The walk from a layer's root to the directory that holds an entry.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::attributes::{Attributes, Target, set_opaque};
use super::lower::{Found, is_whiteout, kind};
use super::{NO_FOLLOW, UnpackError, Unpacker, joined, system};
use crate::tar::{Entry, printable};

/// As many links as the kernel follows (path_resolution(7)).
const LINK_LIMIT: usize = 40;

const DIRECTORY: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// An open directory of the layer and where it really is, symbolic links resolved.
#[derive(Debug, Clone)]
pub(super) struct Parent {
    directory: Rc<OwnedFd>,
    pub(super) path: Rc<[Vec<u8>]>,
}

impl AsFd for Parent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl Parent {
    /// The real path of something inside.
    pub(super) fn child(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path.to_vec();
        path.push(name.to_vec());
        joined(&path)
    }

    /// Whether two names in two directories are one directory entry.
    pub(super) fn is_same_entry(&self, name: &[u8], other: &Self, other_name: &[u8]) -> bool {
        let identity = |parent: &Self| fstat(parent.as_fd()).map(|stat| (stat.st_dev, stat.st_ino));
        name == other_name && identity(self).is_ok_and(|mine| Ok(mine) == identity(other))
    }
}

/// Opens a directory by one component, never through a link.
pub(super) fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> nix::Result<OwnedFd> {
    openat(parent, name, DIRECTORY, Mode::empty())
}

pub(super) fn is_directory(parent: &Parent, name: &[u8]) -> bool {
    fstatat(parent.as_fd(), name, NO_FOLLOW).is_ok_and(|stat| kind(&stat) == SFlag::S_IFDIR)
}

/// Opens a directory that the layer has, without following any link.
pub(super) fn open_real(root: BorrowedFd<'_>, path: &[Vec<u8>]) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(DIRECTORY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(root, joined(path).as_slice(), how)
}

/// Opens a directory that the layer has; links on the way are followed inside the root. The path
/// given back is only good for opening, since links may lie on it.
pub(super) fn open_existing(root: BorrowedFd<'_>, path: &[Vec<u8>]) -> nix::Result<Parent> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let directory = openat2(root, joined(path).as_slice(), how)?;
    Ok(Parent {
        directory: Rc::new(directory),
        path: path.into(),
    })
}

/// Opens the directory `path` of the layer for the sake of `entry`. What the layer left out is
/// made as the layers below have it, or else plain. Symbolic links, in this layer or below, are
/// followed inside the root.
pub(super) fn open(
    unpacker: &mut Unpacker<'_>,
    entry: &Entry,
    path: &[Vec<u8>],
) -> Result<Parent, UnpackError> {
    let limit = unpacker.limits.depth;
    let deep = || UnpackError::Depth {
        path: printable(&entry.path),
        limit,
    };
    if path.len() > limit {
        return Err(deep());
    }
    if let Ok(directory) = open_real(unpacker.root, path) {
        return Ok(Parent {
            directory: Rc::new(directory),
            path: path.into(),
        });
    }
    // What is left out has to be looked for below, and what is hidden there must be known.
    unpacker
        .lower
        .open()
        .map_err(system(entry, "look into the layers below"))?;
    unpacker.place_whiteouts()?;
    let mut walk = Walk {
        ahead: path.iter().cloned().collect(),
        behind: Vec::new(),
        here: open_real(unpacker.root, &[]).map_err(system(entry, "open the layer's root"))?,
        links: 0,
    };
    while let Some(component) = walk.ahead.pop_front() {
        if walk.behind.len() >= limit {
            return Err(deep());
        }
        walk.step(unpacker, entry, component)?;
    }
    Ok(Parent {
        directory: Rc::new(walk.here),
        path: walk.behind.into(),
    })
}

struct Walk {
    ahead: VecDeque<Vec<u8>>,
    /// Where `here` is: real directories only.
    behind: Vec<Vec<u8>>,
    here: OwnedFd,
    links: usize,
}

impl Walk {
    fn step(
        &mut self,
        unpacker: &mut Unpacker<'_>,
        entry: &Entry,
        component: Vec<u8>,
    ) -> Result<(), UnpackError> {
        if component == b".." {
            // Only a link's target can say so; at the root it stays there, as in a chroot.
            self.behind.pop();
            return self.reopen(unpacker, entry);
        }
        let stat = match fstatat(self.here.as_fd(), component.as_slice(), NO_FOLLOW) {
            Err(Errno::ENOENT) => return self.step_below(unpacker, entry, component),
            stat => stat.map_err(system(entry, "look up a directory on the way"))?,
        };
        match kind(&stat) {
            SFlag::S_IFDIR => self.enter(entry, component),
            SFlag::S_IFLNK => {
                let target = readlinkat(self.here.as_fd(), component.as_slice())
                    .map_err(system(entry, "read a link on the way"))?;
                self.follow(unpacker, entry, &target.into_vec())
            }
            _ if is_whiteout(&stat) => {
                unlinkat(
                    self.here.as_fd(),
                    component.as_slice(),
                    UnlinkatFlags::NoRemoveDir,
                )
                .map_err(system(entry, "replace a whiteout on the way"))?;
                self.make(unpacker, entry, component, &Attributes::plain_directory(), true)
            }
            _ => Err(not_a_directory(entry, &component)),
        }
    }

    /// The layer itself does not have the component: the layers below may.
    fn step_below(
        &mut self,
        unpacker: &mut Unpacker<'_>,
        entry: &Entry,
        component: Vec<u8>,
    ) -> Result<(), UnpackError> {
        let mut path = self.behind.clone();
        path.push(component.clone());
        match unpacker
            .lower
            .find(&path)
            .map_err(system(entry, "look into the layers below"))?
        {
            Found::Directory(attributes) => self.make(unpacker, entry, component, &attributes, false),
            Found::Symlink(target) => self.follow(unpacker, entry, &target),
            Found::Absent => self.make(unpacker, entry, component, &Attributes::plain_directory(), false),
            Found::File(..) | Found::Other => Err(not_a_directory(entry, &component)),
        }
    }

    fn make(
        &mut self,
        unpacker: &mut Unpacker<'_>,
        entry: &Entry,
        component: Vec<u8>,
        attributes: &Attributes,
        opaque: bool,
    ) -> Result<(), UnpackError> {
        let failed = |error: std::io::Error| system(entry, "create a directory on the way")(error);
        mkdirat(self.here.as_fd(), component.as_slice(), Mode::S_IRWXU)
            .map_err(|error| failed(error.into()))?;
        self.enter(entry, component)?;
        if opaque {
            set_opaque(self.here.as_fd()).map_err(failed)?;
        }
        attributes
            .apply(&Target::Open(self.here.as_fd()))
            .map_err(failed)?;
        unpacker.times.insert(joined(&self.behind), attributes.mtime());
        Ok(())
    }

    fn enter(&mut self, entry: &Entry, component: Vec<u8>) -> Result<(), UnpackError> {
        self.here = open_directory(self.here.as_fd(), &component)
            .map_err(system(entry, "open a directory on the way"))?;
        self.behind.push(component);
        Ok(())
    }

    fn follow(
        &mut self,
        unpacker: &mut Unpacker<'_>,
        entry: &Entry,
        target: &[u8],
    ) -> Result<(), UnpackError> {
        self.links += 1;
        if self.links > LINK_LIMIT {
            return Err(UnpackError::Loop {
                path: printable(&entry.path),
            });
        }
        let ahead = target
            .split(|&byte| byte == b'/')
            .filter(|part| !matches!(*part, b"" | b"."));
        for part in ahead.rev() {
            self.ahead.push_front(part.to_vec());
        }
        if target.starts_with(b"/") {
            self.behind.clear();
            return self.reopen(unpacker, entry);
        }
        Ok(())
    }

    fn reopen(&mut self, unpacker: &Unpacker<'_>, entry: &Entry) -> Result<(), UnpackError> {
        self.here =
            open_real(unpacker.root, &self.behind).map_err(system(entry, "open a directory on the way"))?;
        Ok(())
    }
}

fn not_a_directory(entry: &Entry, component: &[u8]) -> UnpackError {
    UnpackError::NotADirectory {
        path: printable(&entry.path),
        component: printable(component),
    }
}
