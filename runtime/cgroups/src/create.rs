//! Making a container's cgroup in all hierarchies.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::dir::Dir;
use crate::group::{Legacy, rmdir};
use crate::layout::Hierarchy;
use crate::{Cgroup, CgroupError, CgroupPath, Kind, Layout, State, subtree, v1};

impl Cgroup {
    /// Makes the cgroup at `path` in all hierarchies of `layout`, with all controllers of a cgroup2 tree
    /// enabled that its parents can give.
    ///
    /// An existing cgroup is taken if it has no process. Parents that are missing are made, and stay when
    /// the cgroup is deleted (as with runc).
    ///
    /// # Errors
    /// [`CgroupError`] for a systemd path, a cgroup in use or frozen, or a refused system call. What was made by then
    /// is removed again.
    pub fn create(layout: &Layout, path: &CgroupPath) -> Result<Self, CgroupError> {
        let mut group = Self::open(layout, path)?;
        let mut made = Vec::new();
        match group.make(layout, &mut made) {
            Ok(()) => Ok(group),
            Err(error) => Err(undo(&made, error)),
        }
    }

    /// As [`Cgroup::create`], for a user who may lack the right to: a hierarchy that refuses it is left out. A limit
    /// that needs such a hierarchy is an error when it is set.
    ///
    /// # Errors
    /// As [`Cgroup::create`], but for missing rights.
    pub fn create_if_allowed(layout: &Layout, path: &CgroupPath) -> Result<Self, CgroupError> {
        let mut group = Self::bare(None, Vec::new());
        let mut made = Vec::new();
        let mut existed = false;
        let hierarchies = layout.unified().into_iter().chain(layout.legacy());
        for found in hierarchies {
            let beside = found.controllers.is_empty() && layout.is_unified();
            let directory = place(found, path, beside)
                .and_then(|place| Ok((make_all(&place, &found.mount, &mut made)?, place)));
            match directory {
                Ok((new, place)) => {
                    existed |= !new;
                    group.take(found, place);
                }
                Err(CgroupError::Io {
                    action,
                    path,
                    source: source @ (Errno::EACCES | Errno::EPERM | Errno::EROFS | Errno::ENOENT),
                }) => {
                    let reason = format!("cannot {action} {}: {}", path.display(), source.desc());
                    group.denied.push((found.controllers.clone(), reason));
                }
                Err(error) => return Err(undo(&made, error)),
            }
        }
        let finished = group.make_directories(layout, &mut made);
        match finished.and_then(|_| if existed { group.check_unused() } else { Ok(()) }) {
            Ok(()) => Ok(group),
            Err(error) => Err(undo(&made, error)),
        }
    }

    fn take(&mut self, found: &Hierarchy, place: PathBuf) {
        if found.controllers.is_empty() {
            self.unified = Some(Dir::new(place));
        } else {
            self.legacy.push(Legacy {
                controllers: found.controllers.clone(),
                dir: Dir::new(place),
            });
        }
    }

    /// Makes what systemd leaves to be made: hierarchies and controllers that it does not manage.
    pub(crate) fn make_complete(&mut self, layout: &Layout) -> Result<(), CgroupError> {
        self.make_directories(layout, &mut Vec::new()).map(drop)
    }

    /// Makes the directories alone.
    pub(crate) fn make_plain(&self, layout: &Layout) -> Result<(), CgroupError> {
        let mut made = Vec::new();
        if let (Some(dir), Some(found)) = (&self.unified, layout.unified()) {
            make_all(dir.path(), &found.mount, &mut made)?;
        }
        for (one, found) in pairs(&self.legacy, layout) {
            make_all(one.dir.path(), &found.mount, &mut made)?;
        }
        Ok(())
    }

    fn make(&mut self, layout: &Layout, made: &mut Vec<PathBuf>) -> Result<(), CgroupError> {
        if self.make_directories(layout, made)? {
            self.check_unused()
        } else {
            Ok(())
        }
    }

    /// True if one of them was there.
    fn make_directories(&mut self, layout: &Layout, made: &mut Vec<PathBuf>) -> Result<bool, CgroupError> {
        let mut existed = false;
        if let (Some(dir), Some(found)) = (&self.unified, layout.unified()) {
            existed |= !make_all(dir.path(), &found.mount, made)?;
            if layout.kind() == Kind::Unified {
                let (root, own) = (
                    subtree::controllers(&Dir::new(&found.mount))?,
                    subtree::controllers(dir)?,
                );
                let missing: Vec<String> = root.into_iter().filter(|name| !own.contains(name)).collect();
                if missing.is_empty() {
                    self.available.get_or_init(|| own);
                } else {
                    self.blocked = subtree::enable(dir, &missing);
                }
            }
        }
        for (one, found) in pairs(&self.legacy, layout) {
            existed |= !make_all(one.dir.path(), &found.mount, made)?;
            if one.controllers.iter().any(|name| name == "cpuset") {
                v1::inherit::cpuset(one.dir.path(), &found.mount)?;
            }
        }
        Ok(existed)
    }

    fn check_unused(&self) -> Result<(), CgroupError> {
        let directories = self.unified.iter().chain(self.legacy.iter().map(|one| &one.dir));
        for dir in directories {
            let count = crate::kill::processes(dir)?.len();
            if count > 0 {
                return Err(CgroupError::NotEmpty {
                    path: dir.path().to_owned(),
                    count,
                });
            }
        }
        match self.state()? {
            State::Thawed => Ok(()),
            State::Frozen => {
                let path = self
                    .unified
                    .as_ref()
                    .or(self.v1("freezer"))
                    .map(|dir| dir.path().to_owned());
                Err(CgroupError::Frozen {
                    path: path.unwrap_or_default(),
                })
            }
        }
    }
}

/// The cgroup's directories with their hierarchies.
fn pairs<'a>(legacy: &'a [Legacy], layout: &'a Layout) -> impl Iterator<Item = (&'a Legacy, &'a Hierarchy)> {
    legacy.iter().filter_map(|one| {
        let mut hierarchies = layout.legacy().iter();
        Some((
            one,
            hierarchies.find(|found| found.controllers == one.controllers)?,
        ))
    })
}

/// The directory of `path` in the hierarchy `found`. On a pure v2 host a relative path lies beside the
/// caller's cgroup: inside, its own processes would keep controllers from being enabled.
pub(crate) fn place(found: &Hierarchy, path: &CgroupPath, beside: bool) -> Result<PathBuf, CgroupError> {
    match path {
        CgroupPath::Absolute(below) => Ok(found.mount.join(below)),
        CgroupPath::Relative(below) => {
            let own = if beside {
                found.own.parent().unwrap_or(Path::new("/"))
            } else {
                &found.own
            };
            // Beside the root of a cgroup namespace there is nothing to be seen: the root itself serves.
            let base = found
                .locate(own)
                .or_else(|| beside.then(|| found.locate(&found.own)).flatten());
            let base = base.ok_or_else(|| {
                CgroupError::io(
                    "find, below the mounted hierarchy, this process's own cgroup",
                    own,
                )(Errno::ENOENT)
            })?;
            Ok(base.join(below))
        }
        CgroupPath::Systemd(_) => Err(CgroupError::SystemdPath {
            path: path.to_string(),
        }),
    }
}

/// Removes what was made before an error, which is returned.
fn undo(made: &[PathBuf], error: CgroupError) -> CgroupError {
    for path in made.iter().rev() {
        // Best effort: the error that led here is the one to tell.
        let _ = rmdir(path);
    }
    error
}

/// mkdir -p; true if the directory itself is new. New directories are noted in `made`, outermost first.
fn make_all(path: &Path, mount: &Path, made: &mut Vec<PathBuf>) -> Result<bool, CgroupError> {
    // The leaf first: its parents are usually there. A parent may vanish between two steps, when somebody
    // cleans up empty cgroups: then once more.
    for _ in 0..8 {
        match nix::unistd::mkdir(path, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {
                made.push(path.to_owned());
                return Ok(true);
            }
            Err(Errno::EEXIST) => return Ok(false),
            Err(Errno::ENOENT) => match path.parent() {
                Some(parent) if parent != mount && path != mount => {
                    make_all(parent, mount, made)?;
                }
                // The hierarchy's mount point itself is not there.
                _ => return Err(CgroupError::io("create cgroup", path)(Errno::ENOENT)),
            },
            Err(source) => return Err(CgroupError::io("create cgroup", path)(source)),
        }
    }
    Err(CgroupError::io("create cgroup", path)(Errno::ENOENT))
}
