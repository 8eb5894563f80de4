//! Whiteouts in overlayfs form (OCI image specification, layer.md "Whiteouts"). They wait until the
//! layers below are there: only with those it is known what there is to hide.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag, mknodat};

use super::lower::Found;
use super::walk::{self, Parent};
use super::{UnpackError, Unpacker, WHITEOUT_PREFIX, attributes, joined, system};
use crate::tar::{Entry, Kind, printable};

const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// AUFS kept its own files under this prefix; they mean nothing to anyone else.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
/// Whiteouts that may wait for the layers below before they are waited for.
const WAITING_WHITEOUTS: usize = 10_000;

/// A whiteout that is still to be placed.
pub(super) struct Whiteout {
    parent: Rc<[Vec<u8>]>,
    hidden: Vec<u8>,
}

impl Unpacker<'_> {
    pub(super) fn whiteout(
        &mut self,
        entry: &Entry,
        parent: &Parent,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        if name == OPAQUE_MARK {
            return attributes::set_opaque(parent.as_fd())
                .map_err(system(entry, "mark the directory opaque"));
        }
        if name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        if matches!(hidden, b"" | b"." | b"..") || entry.kind == Kind::Directory {
            return Err(UnpackError::Whiteout {
                path: printable(&entry.path),
            });
        }
        self.whiteouts.push(Whiteout {
            parent: Rc::clone(&parent.path),
            hidden: hidden.to_vec(),
        });
        if self.lower.is_open() || self.whiteouts.len() >= WAITING_WHITEOUTS {
            self.place_whiteouts()?;
        }
        Ok(())
    }

    /// Places the whiteouts that have waited, which may wait for the layers below.
    pub(super) fn place_whiteouts(&mut self) -> Result<(), UnpackError> {
        for whiteout in std::mem::take(&mut self.whiteouts) {
            let mut path = whiteout.parent.to_vec();
            path.push(whiteout.hidden.clone());
            self.place_whiteout(&whiteout, &path)
                .map_err(|source| UnpackError::System {
                    path: printable(&joined(&path)),
                    action: "place its whiteout",
                    source,
                })?;
        }
        Ok(())
    }

    fn place_whiteout(&self, whiteout: &Whiteout, path: &[Vec<u8>]) -> io::Result<()> {
        let hidden = whiteout.hidden.as_slice();
        // A folder that a later entry replaced hides all that was below it.
        let Ok(parent) = walk::open_real(self.root, &whiteout.parent) else {
            return Ok(());
        };
        // What this layer itself has there already hides what is below; a folder must do so wholly.
        if let Ok(directory) = walk::open_directory(parent.as_fd(), hidden) {
            return attributes::set_opaque(directory.as_fd());
        }
        // A whiteout over nothing would show up in listings of a folder that only this layer has.
        if matches!(self.lower.find(path)?, Found::Absent) {
            return Ok(());
        }
        match mknodat(parent.as_fd(), hidden, SFlag::S_IFCHR, Mode::empty(), 0) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
