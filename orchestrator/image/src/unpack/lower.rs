//! What the layers below a layer show, merged as overlayfs merges them.

use std::cell::OnceCell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use std::os::unix::ffi::OsStringExt;

use super::attributes::{Attributes, is_opaque};
use super::{NO_FOLLOW, joined};

/// The layers below, the topmost first. They are opened when they are first asked for, so that a
/// layer can be unpacked while those below it still are.
pub(crate) struct Lower<'a> {
    layers: OnceCell<Vec<OwnedFd>>,
    open: Box<dyn Fn() -> io::Result<Vec<OwnedFd>> + 'a>,
}

/// What a path is in the merged view.
#[derive(Debug)]
pub(super) enum Found {
    Absent,
    Directory(Attributes),
    Symlink(Vec<u8>),
    File(File, Attributes),
    Other,
}

/// What one layer says about a path.
enum Said {
    /// Nothing, and what is below may be seen.
    Nothing,
    /// It is hidden from here down.
    Hidden,
    Here(FileStat),
}

pub(super) fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// overlayfs's whiteout: a character device 0:0.
pub(super) fn is_whiteout(stat: &FileStat) -> bool {
    kind(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

impl<'a> Lower<'a> {
    /// `open` gives the layers' directories, the topmost first, as soon as they are complete.
    pub(crate) fn new(open: impl Fn() -> io::Result<Vec<OwnedFd>> + 'a) -> Self {
        Self {
            layers: OnceCell::new(),
            open: Box::new(open),
        }
    }

    /// No layers.
    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self::new(|| Ok(Vec::new()))
    }

    /// Whether the layers are open already.
    pub(super) fn is_open(&self) -> bool {
        self.layers.get().is_some()
    }

    /// Opens the layers, which may wait for them.
    pub(super) fn open(&self) -> io::Result<&[OwnedFd]> {
        if let Some(layers) = self.layers.get() {
            return Ok(layers);
        }
        let layers = (self.open)()?;
        Ok(self.layers.get_or_init(|| layers))
    }

    /// Looks a path up whose parents are all real directories in the merged view.
    pub(super) fn find(&self, path: &[Vec<u8>]) -> io::Result<Found> {
        for layer in self.open()? {
            match ask(layer.as_fd(), path)? {
                Said::Nothing => {}
                Said::Hidden => return Ok(Found::Absent),
                Said::Here(stat) => return describe(layer.as_fd(), path, &stat),
            }
        }
        Ok(Found::Absent)
    }
}

fn ask(layer: BorrowedFd<'_>, path: &[Vec<u8>]) -> io::Result<Said> {
    let mut opaque = is_opaque(layer)?;
    for depth in 1..=path.len() {
        // Every shorter prefix is a real directory of this layer, so nothing is followed.
        let prefix = joined(&path[..depth]);
        let stat = match fstatat(layer, prefix.as_slice(), NO_FOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(if opaque { Said::Hidden } else { Said::Nothing }),
            Err(error) => return Err(error.into()),
        };
        if is_whiteout(&stat) {
            return Ok(Said::Hidden);
        }
        if depth == path.len() {
            return Ok(Said::Here(stat));
        }
        if kind(&stat) != SFlag::S_IFDIR {
            return Ok(Said::Hidden);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        opaque |= is_opaque(openat(layer, prefix.as_slice(), flags, Mode::empty())?.as_fd())?;
    }
    Ok(Said::Nothing)
}

fn describe(layer: BorrowedFd<'_>, path: &[Vec<u8>], stat: &FileStat) -> io::Result<Found> {
    let path = joined(path);
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(match kind(stat) {
        SFlag::S_IFDIR => {
            let directory = openat(layer, path.as_slice(), flags | OFlag::O_DIRECTORY, Mode::empty())?;
            Found::Directory(Attributes::read(stat, directory.as_fd())?)
        }
        SFlag::S_IFREG => {
            let file = openat(layer, path.as_slice(), flags, Mode::empty())?;
            let attributes = Attributes::read(&fstat(file.as_fd())?, file.as_fd())?;
            Found::File(File::from(file), attributes)
        }
        SFlag::S_IFLNK => Found::Symlink(readlinkat(layer, path.as_slice())?.into_vec()),
        _ => Found::Other,
    })
}
