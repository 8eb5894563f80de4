//! One container: its processes, its cgroup, and the calls that wait for their turn.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use berth_cgroups::{Cgroup, Layout};
use berth_client::Runtime;
use containerd_shim_protos::api::{CheckpointTaskRequest, CreateTaskRequest, Status};

use crate::oom::Watch;
use crate::options::Options;
use crate::process::{Phase, Process};
use crate::rootfs::Mounting;
use crate::task::Asker;

/// A call that changes the container as a whole; one after the other.
#[derive(Debug)]
pub enum Change {
    /// Run the user's program.
    Start,
    /// Freeze.
    Pause,
    /// Thaw.
    Resume,
    /// New limits: the JSON of an OCI LinuxResources object.
    Update(Vec<u8>),
    /// Write images of the processes.
    Checkpoint(Box<CheckpointTaskRequest>),
    /// Take it away.
    Delete,
}

/// Images from which Start restores the container.
#[derive(Debug)]
pub struct Images {
    /// Their folder.
    pub path: PathBuf,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its bundle.
    pub bundle: PathBuf,
    /// The runtime with its flags.
    pub runtime: Runtime,
    /// The options of its creation.
    pub options: Options,
    /// Something is mounted on the bundle's root, or about to be.
    pub mounted: bool,
    /// Its mounts are being made.
    pub mounting: Option<Mounting>,
    /// The first process.
    pub init: Process,
    /// Processes that were added.
    pub execs: Vec<Process>,
    /// The request of its creation, until the event of that is told.
    pub created_with: Option<Box<CreateTaskRequest>>,
    /// Its cgroup, once there is a process.
    pub cgroup: Option<Cgroup>,
    /// Notice of the OOM killer.
    pub oom: Option<Watch>,
    /// Other processes do not end with the first one by themselves.
    pub kill_others: bool,
    /// It is frozen.
    pub paused: bool,
    /// Start restores it from here.
    pub images: Option<Images>,
    /// Calls that wait.
    pub changes: VecDeque<(Asker, Change)>,
    /// One of them is under way.
    pub changing: bool,
}

impl Container {
    /// A container of which nothing exists yet.
    pub fn new(id: String, bundle: PathBuf, runtime: Runtime, options: Options, init: Process) -> Container {
        Container {
            id,
            bundle,
            runtime,
            options,
            mounted: false,
            mounting: None,
            init,
            execs: Vec::new(),
            created_with: None,
            cgroup: None,
            oom: None,
            kill_others: false,
            paused: false,
            images: None,
            changes: VecDeque::new(),
            changing: false,
        }
    }

    /// A process by the id of its exec; the first one without.
    pub fn process(&self, exec: Option<&str>) -> Option<&Process> {
        match exec {
            None => Some(&self.init),
            Some(id) => self.execs.iter().find(|p| p.exec.as_deref() == Some(id)),
        }
    }

    /// As [`Container::process`].
    pub fn process_mut(&mut self, exec: Option<&str>) -> Option<&mut Process> {
        match exec {
            None => Some(&mut self.init),
            Some(id) => self.execs.iter_mut().find(|p| p.exec.as_deref() == Some(id)),
        }
    }

    /// All processes, added ones first: the first one is the last to be told of.
    pub fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.execs.iter_mut().chain(std::iter::once(&mut self.init))
    }

    /// As [`Container::processes_mut`].
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.execs.iter().chain(std::iter::once(&self.init))
    }

    /// The status of one of its processes as containerd knows it.
    pub fn status(&self, process: &Process) -> Status {
        if self.paused && process.phase == Phase::Running {
            return Status::PAUSED;
        }
        process.phase.status()
    }

    /// Finds the cgroup of the first process and starts to watch it.
    ///
    /// # Errors
    /// The system's answer to the watch.
    pub fn find_cgroup(&mut self, layout: &Layout) -> std::io::Result<()> {
        let text = std::fs::read_to_string(format!("/proc/{}/cgroup", self.init.pid))?;
        let cgroup = Cgroup::from_paths(&locate(layout, &text));
        self.oom = Watch::new(&cgroup)?;
        self.cgroup = Some(cgroup);
        Ok(())
    }
}

/// The folders of the cgroups that /proc/PID/cgroup names, by controller; `""` for the cgroup2 tree.
fn locate(layout: &Layout, text: &str) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else {
            continue;
        };
        let path = Path::new(path);
        if controllers.is_empty() {
            if let Some(place) = layout.unified().and_then(|one| one.locate(path)) {
                found.insert(String::new(), place);
            }
            continue;
        }
        let names: Vec<&str> = controllers.split(',').collect();
        let hierarchy = layout.legacy().iter().find(|one| one.controllers == names);
        if let Some(place) = hierarchy.and_then(|one| one.locate(path)) {
            for name in names {
                found.insert(name.to_owned(), place.clone());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_located_in_every_hierarchy() {
        let mountinfo = "30 1 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                         31 1 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let own = "2:cpu,cpuacct:/\n0::/\n";
        let layout = Layout::from_mountinfo(Path::new("/"), mountinfo, own).unwrap();
        let found = locate(
            &layout,
            "2:cpu,cpuacct:/default/one\n0::/default/one\n5:net_cls:/x\n",
        );
        assert_eq!(found[""], Path::new("/sys/fs/cgroup/unified/default/one"));
        assert_eq!(found["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct/default/one"));
        assert_eq!(found["cpuacct"], found["cpu"]);
        assert_eq!(found.len(), 3);
    }
}
