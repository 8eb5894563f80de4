//! A container's cgroup in all hierarchies of the host.

use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use berth_spec::{LinuxDeviceCgroup, LinuxMemory, LinuxResources};
use nix::errno::Errno;

use crate::create::place;
use crate::dir::Dir;
use crate::resources::{Home, Ignored, Part, parts, unified};
use crate::subtree::{self, Blocked};
use crate::systemd::Unit;
use crate::write::{self, Write};
use crate::{CgroupError, CgroupPath, Kind, Layout, devices, v1, v2};

/// A container's cgroup: the same path in the cgroup2 tree and in every v1 hierarchy, as far as the host
/// has them.
///
/// Descriptors of the directories are opened at the first use and kept, so that a later rename or a new
/// cgroup of the same name cannot be mistaken for this one.
#[derive(Debug)]
pub struct Cgroup {
    pub(crate) unified: Option<Dir>,
    pub(crate) legacy: Vec<Legacy>,
    /// Controllers that an ancestor did not pass on, found when the cgroup was made.
    pub(crate) blocked: Vec<Blocked>,
    /// The cgroup2 controllers that the cgroup has, read at most once.
    pub(crate) available: OnceLock<Vec<String>>,
    /// Hierarchies in which this user may have no cgroup, with the reason.
    pub(crate) denied: Vec<(Vec<String>, String)>,
    /// The unit it belongs to, if systemd made it.
    pub(crate) unit: Option<Unit>,
}

/// The cgroup in one v1 hierarchy.
#[derive(Debug)]
pub(crate) struct Legacy {
    pub controllers: Vec<String>,
    pub dir: Dir,
}

impl Cgroup {
    pub(crate) fn bare(unified: Option<Dir>, legacy: Vec<Legacy>) -> Self {
        Self {
            unified,
            legacy,
            blocked: Vec::new(),
            available: OnceLock::new(),
            denied: Vec::new(),
            unit: None,
        }
    }

    /// Whether the container has no cgroup of its own anywhere.
    pub fn is_none(&self) -> bool {
        self.unified.is_none() && self.legacy.is_empty()
    }

    /// The cgroup at `path`, without touching it.
    ///
    /// # Errors
    /// [`CgroupError::SystemdPath`], or [`CgroupError::Io`] if the host does not show the place where a
    /// relative path would lie.
    pub fn open(layout: &Layout, path: &CgroupPath) -> Result<Self, CgroupError> {
        let unified = layout
            .unified()
            .map(|found| place(found, path, layout.kind() == Kind::Unified))
            .transpose()?;
        let mut legacy = Vec::with_capacity(layout.legacy().len());
        for found in layout.legacy() {
            legacy.push(Legacy {
                controllers: found.controllers.clone(),
                dir: Dir::new(place(found, path, false)?),
            });
        }
        Ok(Self::bare(unified.map(Dir::new), legacy))
    }

    /// The cgroup that systemd has at `own`, a path as in /proc/PID/cgroup, in every hierarchy; `None` if the mounts do
    /// not show it.
    pub(crate) fn located(layout: &Layout, own: &Path) -> Option<Self> {
        let unified = match layout.unified() {
            Some(found) => Some(Dir::new(found.locate(own)?)),
            None => None,
        };
        let mut legacy = Vec::with_capacity(layout.legacy().len());
        for found in layout.legacy() {
            legacy.push(Legacy {
                controllers: found.controllers.clone(),
                dir: Dir::new(found.locate(own)?),
            });
        }
        Some(Self::bare(unified, legacy))
    }

    /// The cgroup of this name below, in every hierarchy.
    pub(crate) fn below(&self, name: &str) -> Self {
        let below = |dir: &Dir| Dir::new(dir.path().join(name));
        let legacy = self.legacy.iter().map(|one| Legacy {
            controllers: one.controllers.clone(),
            dir: below(&one.dir),
        });
        Self::bare(self.unified.as_ref().map(below), legacy.collect()).with_unit(self.unit.clone())
    }

    /// Belonging to the unit of a container's state record.
    pub fn with_unit(mut self, unit: Option<Unit>) -> Self {
        self.unit = unit;
        self
    }

    /// The unit, if systemd made the cgroup.
    pub fn unit(&self) -> Option<&Unit> {
        self.unit.as_ref()
    }

    /// The cgroup whose directories a container's state record holds (see [`Cgroup::paths`]). No I/O.
    pub fn from_paths(paths: &BTreeMap<String, PathBuf>) -> Self {
        let mut legacy: Vec<Legacy> = Vec::new();
        for (name, path) in paths.iter().filter(|(name, _)| !name.is_empty()) {
            match legacy.iter_mut().find(|known| known.dir.path() == path) {
                Some(known) => known.controllers.push(name.clone()),
                None => legacy.push(Legacy {
                    controllers: vec![name.clone()],
                    dir: Dir::new(path),
                }),
            }
        }
        let unified = paths.get("").map(Dir::new);
        Self::bare(unified, legacy)
    }

    /// The directories by controller, for the state record: runc's `cgroup_paths`, with the key `""` for
    /// the cgroup2 tree.
    pub fn paths(&self) -> BTreeMap<String, PathBuf> {
        let mut paths = BTreeMap::new();
        for one in &self.legacy {
            for name in &one.controllers {
                paths.insert(name.clone(), one.dir.path().to_owned());
            }
        }
        if let Some(dir) = &self.unified {
            paths.insert(String::new(), dir.path().to_owned());
        }
        paths
    }

    /// The descriptor of the cgroup2 directory, for clone3's CLONE_INTO_CGROUP; `None` without a cgroup2
    /// tree. On a hybrid host the child then still needs [`Cgroup::add_after_clone`].
    ///
    /// # Errors
    /// [`CgroupError::Io`] if the directory cannot be opened.
    pub fn unified_fd(&self) -> Result<Option<BorrowedFd<'_>>, CgroupError> {
        self.unified
            .as_ref()
            .map(|dir| dir.fd().map_err(CgroupError::io("open cgroup", dir.path())))
            .transpose()
    }

    /// Moves the process `pid` into the cgroup, in all hierarchies.
    ///
    /// # Errors
    /// [`CgroupError::Io`], with ESRCH if there is no such process.
    pub fn add(&self, pid: u32) -> Result<(), CgroupError> {
        if let Some(dir) = &self.unified {
            match (add(dir, pid), &self.unit) {
                // The process is in a cgroup that this user may not take it out of; but systemd may.
                (
                    Err(CgroupError::Io {
                        source: Errno::EACCES | Errno::EPERM,
                        ..
                    }),
                    Some(unit),
                ) => self.attach_to_unit(unit, pid)?,
                (done, _) => done?,
            }
        }
        self.add_after_clone(pid)
    }

    /// Moves a process that was cloned into [`Cgroup::unified_fd`] into the cgroup of the v1 hierarchies.
    ///
    /// # Errors
    /// As [`Cgroup::add`].
    pub fn add_after_clone(&self, pid: u32) -> Result<(), CgroupError> {
        self.legacy.iter().try_for_each(|one| add(&one.dir, pid))
    }

    /// Puts the limits of a new container in place: everything in `resources`, and the device filter (all
    /// but the default devices is denied, then `resources.devices` apply in order) even if it is absent.
    ///
    /// Returns the settings that this host has no counterpart for, for the log.
    ///
    /// # Errors
    /// [`CgroupError`] naming the field, if a limit cannot be enforced.
    pub fn apply(&self, resources: &LinuxResources) -> Result<Vec<Ignored>, CgroupError> {
        let ignored = self.limit(resources)?;
        self.list_devices(resources)?;
        self.filter_devices(resources)?;
        Ok(ignored)
    }

    /// The first part of [`Cgroup::apply`]: everything but devices.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn limit(&self, resources: &LinuxResources) -> Result<Vec<Ignored>, CgroupError> {
        self.write_limits(resources)
    }

    /// The second part of [`Cgroup::apply`]: the list of a v1 devices controller; nothing on v2. It is made by several
    /// writes, between which a first process in the cgroup would be refused the devices that it makes: so it comes
    /// before that process.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn list_devices(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        match self.v1("devices") {
            Some(dir) => devices::v1::restrict(dir, resources.devices().as_deref().unwrap_or_default(), true),
            None => Ok(()),
        }
    }

    /// The third part of [`Cgroup::apply`]: the eBPF device filter. It is the slow one, as the kernel verifies a
    /// program, and only has to be there before the user's program runs.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn filter_devices(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        if self.v1("devices").is_some() {
            return Ok(());
        }
        let rules: &[LinuxDeviceCgroup] = resources.devices().as_deref().unwrap_or_default();
        self.restrict(rules, true)
    }

    /// Changes the limits of a running container: only what `resources` has. If one of them cannot be had, those
    /// that were changed by then get their former values back, as far as the kernel takes them.
    ///
    /// # Errors
    /// As [`Cgroup::apply`].
    pub fn update(&self, resources: &LinuxResources) -> Result<Vec<Ignored>, CgroupError> {
        if let Some(memory) = resources.memory() {
            self.check_usage(memory)?;
        }
        let mut ignored = Vec::new();
        let wanted = self.wanted(resources, &mut ignored)?;
        let before: Vec<_> = wanted
            .iter()
            .map(|(dir, writes)| (*dir, write::former(dir, writes)))
            .collect();
        let write = || {
            let mut files = wanted.iter();
            files.try_for_each(|(dir, writes)| write::apply(dir, writes))?;
            match resources.devices() {
                Some(rules) => self.restrict(rules, false),
                None => Ok(()),
            }
        };
        // systemd is told when the kernel has taken all of it, as what it was told would stay. It then writes what it has
        // understood, in whole percents of CPU; the files get their own values again.
        let written = write().and_then(|()| match &self.unit {
            Some(unit) => self.tell_unit(unit, resources).and_then(|()| write()),
            None => Ok(()),
        });
        if let Err(error) = written {
            for (dir, writes) in before.iter().rev() {
                // Best effort: the error that led here is the one to tell.
                let _ = write::apply(dir, writes);
            }
            return Err(error);
        }
        Ok(ignored)
    }

    fn write_limits(&self, resources: &LinuxResources) -> Result<Vec<Ignored>, CgroupError> {
        let mut ignored = Vec::new();
        for (dir, writes) in self.wanted(resources, &mut ignored)? {
            write::apply(dir, &writes)?;
        }
        Ok(ignored)
    }

    /// Everything that `resources` asks for, with the directory it goes to, in order.
    fn wanted(
        &self,
        resources: &LinuxResources,
        ignored: &mut Vec<Ignored>,
    ) -> Result<Vec<(&Dir, Vec<Write>)>, CgroupError> {
        let parts = parts(resources, |v1, v2| self.home(v1, v2), ignored)?;
        let extra = unified(resources)?;
        self.prepare_unified(&parts, &extra)?;
        let mut wanted: Vec<(&Dir, Vec<Write>)> = Vec::with_capacity(parts.len() + extra.len());
        for part in parts {
            if let Some(dir) = self.directory(&part) {
                let writes = place_weights(dir, part);
                wanted.push((dir, writes));
            }
        }
        if let Some(dir) = &self.unified {
            // Each on its own: they are not tried again after one another.
            wanted.extend(extra.into_iter().map(|(_, one)| (dir, vec![one])));
        }
        Ok(wanted)
    }

    fn directory(&self, part: &Part) -> Option<&Dir> {
        if part.unified {
            self.unified.as_ref()
        } else {
            self.v1(part.controller)
        }
    }

    /// The cgroup's directory in the hierarchy that has `controller` bound.
    pub(crate) fn v1(&self, controller: &str) -> Option<&Dir> {
        self.legacy
            .iter()
            .find(|one| one.controllers.iter().any(|name| name == controller))
            .map(|one| &one.dir)
    }

    fn home(&self, v1: &str, v2: &str) -> Result<Home, CgroupError> {
        if self.v1(v1).is_some() {
            return Ok(Home::V1);
        }
        if let Some(reason) = self.why_denied(v1) {
            return Ok(Home::Missing(reason));
        }
        let Some(dir) = &self.unified else {
            let have: Vec<_> = self.legacy.iter().map(|one| one.controllers.join(",")).collect();
            return Ok(Home::Missing(format!(
                "no v1 hierarchy has it; mounted are {}",
                have.join(", ")
            )));
        };
        if v2.is_empty() {
            return Ok(Home::Missing("cgroup v2 has no such controller".to_owned()));
        }
        if self.has(dir, v2)? {
            return Ok(Home::V2);
        }
        Ok(Home::Missing(self.why_missing(dir, v2)))
    }

    /// Why the hierarchy that has `v1` bound, or else the cgroup2 tree, could not be used.
    fn why_denied(&self, v1: &str) -> Option<String> {
        let bound = |names: &[String]| names.iter().any(|name| name == v1);
        let found = self
            .denied
            .iter()
            .find(|(names, _)| bound(names))
            .or_else(|| self.denied.iter().find(|(names, _)| names.is_empty()))?;
        Some(format!(
            "{}; without the right to make cgroups there are no limits",
            found.1
        ))
    }

    /// Whether the cgroup2 directory has `controller`, which is enabled in its ancestors if need be: on a
    /// hybrid host nobody did that beforehand.
    fn has(&self, dir: &Dir, controller: &str) -> Result<bool, CgroupError> {
        let known = if let Some(known) = self.available.get() {
            known
        } else {
            let read = subtree::controllers(dir)?;
            self.available.get_or_init(|| read)
        };
        if known.iter().any(|name| name == controller) {
            return Ok(true);
        }
        if self.blocked.iter().any(|one| one.controller == controller) {
            return Ok(false);
        }
        subtree::enable(dir, &[controller.to_owned()]);
        Ok(subtree::controllers(dir)?.iter().any(|name| name == controller))
    }

    fn why_missing(&self, dir: &Dir, controller: &str) -> String {
        let wanted = [controller.to_owned()];
        let blocked = match self.blocked.iter().find(|one| one.controller == controller) {
            Some(known) => Some(known.clone()),
            None => subtree::enable(dir, &wanted).into_iter().next(),
        };
        match blocked {
            Some(blocked) => blocked.reason,
            None => format!("{} does not list it", dir.file("cgroup.controllers").display()),
        }
    }

    /// Checks the controllers of the `unified` map, and the cgroup's type against what is wanted.
    fn prepare_unified(&self, wanted: &[Part], extra: &[(String, Write)]) -> Result<(), CgroupError> {
        let Some(dir) = &self.unified else {
            return match extra.first() {
                Some((controller, write)) if !self.denied.is_empty() => Err(CgroupError::MissingController {
                    field: write.field.clone().into_owned(),
                    controller: controller.clone(),
                    reason: self.why_denied("").unwrap_or_default(),
                }),
                Some((_, write)) => Err(CgroupError::invalid(
                    write.field.clone(),
                    "this host has no cgroup v2 tree; use the v1 fields of linux.resources",
                )),
                None => Ok(()),
            };
        };
        for (controller, write) in extra {
            // cgroup.* belongs to no controller; memory, cpu and io pressure files neither.
            let core = controller == "cgroup" || write.file.ends_with(".pressure");
            if !core && !self.has(dir, controller)? {
                return Err(CgroupError::MissingController {
                    field: write.field.clone().into_owned(),
                    controller: controller.clone(),
                    reason: self.why_missing(dir, controller),
                });
            }
        }
        if self.blocked.is_empty() {
            return Ok(());
        }
        let domain = wanted
            .iter()
            .any(|part| part.unified && !subtree::is_threaded(part.controller))
            || extra
                .iter()
                .any(|(name, _)| name != "cgroup" && !subtree::is_threaded(name));
        subtree::settle_type(dir, domain)
    }

    fn restrict(&self, rules: &[LinuxDeviceCgroup], fresh: bool) -> Result<(), CgroupError> {
        if let Some(dir) = self.v1("devices") {
            return devices::v1::restrict(dir, rules, fresh);
        }
        match &self.unified {
            Some(dir) => devices::v2::restrict(dir, rules, fresh),
            // Somebody without the right to a cgroup has no right to devices either, but for those that are open to all.
            None if !self.denied.is_empty() => Ok(()),
            None => Err(CgroupError::MissingController {
                field: "linux.resources.devices".to_owned(),
                controller: "devices".to_owned(),
                reason: "no v1 hierarchy has it and there is no cgroup v2 tree".to_owned(),
            }),
        }
    }

    /// `memory.checkBeforeUpdate`: refuses a limit below what is in use, which on v2 would set the OOM
    /// killer to work (v1 refuses by itself).
    fn check_usage(&self, memory: &LinuxMemory) -> Result<(), CgroupError> {
        let (Some(true), None, Some(dir)) = (memory.check_before_update(), self.v1("memory"), &self.unified)
        else {
            return Ok(());
        };
        let text = dir
            .read("memory.current")
            .map_err(CgroupError::io("read", dir.file("memory.current")))?;
        let usage: u64 = text.trim().parse().unwrap_or(0);
        let limits = [
            ("linux.resources.memory.swap", memory.swap()),
            ("linux.resources.memory.limit", memory.limit()),
        ];
        let set = |limit: Option<i64>| {
            limit
                .and_then(|limit| u64::try_from(limit).ok())
                .filter(|limit| *limit > 0)
        };
        let below = limits
            .into_iter()
            .find_map(|(field, limit)| Some((field, set(limit).filter(|limit| *limit <= usage)?)));
        match below {
            None => Ok(()),
            Some((field, limit)) => Err(CgroupError::invalid(
                field,
                format!("{limit} is not more than the {usage} bytes in use, and checkBeforeUpdate is set"),
            )),
        }
    }
}

pub(crate) fn rmdir(path: &Path) -> Result<(), Errno> {
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(()),
        Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
    }
}

fn add(dir: &Dir, pid: u32) -> Result<(), CgroupError> {
    dir.write("cgroup.procs", &pid.to_string())
        .map_err(CgroupError::io(
            "move the container's process into cgroup",
            dir.path(),
        ))
}

/// Settles which file takes block I/O weights on this kernel.
fn place_weights(dir: &Dir, part: Part) -> Vec<Write> {
    let (from, to): (&[&str], &[&str]) = match part.controller {
        "io" => (&[v2::io::BFQ], &[v2::io::IOCOST]),
        "blkio" => (
            &[v1::blkio::WEIGHT, v1::blkio::WEIGHT_DEVICE],
            &["blkio.bfq.weight", "blkio.bfq.weight_device"],
        ),
        _ => return part.writes,
    };
    let weighted = part
        .writes
        .iter()
        .any(|write| from.contains(&write.file.as_ref()));
    if !weighted || dir.has(from[0]) {
        return part.writes;
    }
    let mut writes = part.writes;
    for write in &mut writes {
        if let Some(index) = from.iter().position(|name| *name == write.file) {
            write.file = to[index].into();
            if part.unified {
                write.value = v2::io::to_iocost(&write.value);
            }
        }
    }
    writes
}
