//! Files of an image with the ids of a user namespace, without changing their owners on the disk (mount_setattr(2)).

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use berth_sys::mount::{self, MOUNT_ATTR_IDMAP, MOUNT_ATTR_RDONLY, MS_PRIVATE, MountAttr};
use berth_sys::spawn;

use super::options::{Ids, Range, common_lower, with_lower};

/// Where mapped layers are mounted for the moment, beside the root.
const LAYERS: &str = "layers";

/// A user namespace that holds a table of ids.
pub(super) struct Namespace(OwnedFd);

impl Namespace {
    pub fn new(ids: &Ids) -> io::Result<Self> {
        let made = spawn::with_user_namespace(|pid| {
            std::fs::write(format!("/proc/{pid}/uid_map"), lines(&ids.users))?;
            std::fs::write(format!("/proc/{pid}/gid_map"), lines(&ids.groups))?;
            File::open(format!("/proc/{pid}/ns/user"))
        });
        let namespace = made.map_err(|failure| failure.source)??;
        Ok(Self(namespace.into()))
    }

    /// A copy of the mounts at `path` with this namespace's ids.
    fn copy(&self, path: &Path, set: u64) -> io::Result<OwnedFd> {
        let tree = mount::clone_at(path, true)?;
        let attr = MountAttr {
            set: MOUNT_ATTR_IDMAP | set,
            propagation: MS_PRIVATE,
            userns: self.0.as_raw_fd() as u64,
            ..MountAttr::default()
        };
        mount::set_attributes(tree.as_fd(), true, &attr)?;
        Ok(tree)
    }

    /// Covers what is mounted at `target` with such a copy of it.
    pub fn cover(&self, target: &Path) -> io::Result<()> {
        let copy = self.copy(target, 0)?;
        mount::attach(copy.as_fd(), File::open(target)?.as_fd())
    }
}

fn lines(ranges: &[Range]) -> String {
    let mut text = String::new();
    for [inside, host, count] in ranges {
        let _ = writeln!(text, "{inside} {host} {count}");
    }
    text
}

/// The lower layers of an overlay with mapped ids. Overlay takes mounts of its own from their places, which must be
/// attached for that moment (before Linux 6.15).
pub(super) struct Layers {
    place: PathBuf,
    /// Overlay's options with the layers there.
    pub data: String,
}

impl Layers {
    /// Mounts the folder that the layers in `data` are in, beside `root`. `None` without layers.
    pub fn new(data: &str, namespace: &Namespace, root: &Path) -> io::Result<Option<Self>> {
        let Some((common, relative)) = common_lower(data) else {
            return Ok(None);
        };
        let copy = namespace.copy(&common, MOUNT_ATTR_RDONLY)?;
        let place = root.with_file_name(LAYERS);
        std::fs::create_dir(&place)?;
        let layers: Vec<String> = relative
            .iter()
            .map(|layer| place.join(layer).display().to_string())
            .collect();
        let layers = Self {
            data: with_lower(data, &layers.join(":")),
            place,
        };
        mount::attach(copy.as_fd(), File::open(&layers.place)?.as_fd())?;
        Ok(Some(layers))
    }

    /// Takes the place away; the overlay has its own mounts of the layers.
    pub fn take_away(&self) -> io::Result<()> {
        mount::detach(&self.place)?;
        std::fs::remove_dir(&self.place)
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        // Best effort: either `take_away` has done it, or an error is on its way already.
        let _ = mount::detach(&self.place);
        let _ = std::fs::remove_dir(&self.place);
    }
}
