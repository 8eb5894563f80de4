//! The interpreter of the plan's host steps.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use berth_sys::spawn::{self, HelperNeeds, Request, SpawnFailure, Spawned, Stage};
use berth_sys::{process, socket};
use nix::sched::CpuSet;

use super::affinity;
use super::error::Failed;
use super::restored::{Restoring, mount_point};
use super::{
    Context, HookPoint, LaunchError, Launched, gate, listener, mounts, namespaces, net_devices, program,
    start_time,
};
use crate::log;
use crate::plan::{Clone, HostStep, JoinSource, Plan};
use crate::wire::encode::SlotNumbers;
use crate::wire::{InitStep, REPORT_LENGTH, Report, Slot, sync};

const CLONE_NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

/// Descriptors that the first process inherits.
#[derive(Debug, Default)]
struct Slots(Vec<(Slot, OwnedFd)>);

impl Slots {
    fn get(&self, slot: Slot) -> Option<BorrowedFd<'_>> {
        self.0
            .iter()
            .find(|(key, _)| *key == slot)
            .map(|(_, fd)| fd.as_fd())
    }
}

impl SlotNumbers for Slots {
    fn number(&self, slot: Slot) -> i32 {
        self.get(slot).map_or(-1, |fd| fd.as_raw_fd())
    }
}

/// A first process, on its way.
#[derive(Debug)]
enum Child {
    /// Not made yet.
    None,
    /// It may still share our memory.
    Young(Spawned),
    /// It runs the init program.
    Running(i32, OwnedFd),
    /// CRIU is about to restore it.
    Restoring(Box<Restoring>),
}

/// A launch in progress. Dropping it before it is complete kills the process and removes the gate.
pub(super) struct Launch<'a> {
    plan: &'a Plan,
    context: Context<'a>,
    slots: Slots,
    sync: OwnedFd,
    child_sync: Option<OwnedFd>,
    child: Child,
    /// All cgroups are joined already, because clone3(2) could not do it.
    placed: bool,
    undumpable: bool,
    gated: bool,
    /// What this process was bound to before the plan bound it to other processors.
    own_processors: Option<CpuSet>,
    /// The first process's, once [`super::Host::beside`] was called.
    start_time: Option<u64>,
}

impl Drop for Launch<'_> {
    fn drop(&mut self) {
        match std::mem::replace(&mut self.child, Child::None) {
            Child::None => return,
            // CRIU undoes what it did when its socket closes.
            Child::Restoring(restoring) => return drop(restoring),
            Child::Young(spawned) => spawned.abort(),
            Child::Running(pid, pidfd) => {
                let _ = berth_sys::pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
                let _ = berth_sys::raw::wait(pid, 0);
            }
        }
        if let (true, Some(folder)) = (self.gated, self.context.state_dir) {
            gate::remove(folder);
        }
    }
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> LaunchError {
    move |source| LaunchError::System { what, source }
}

impl<'a> Launch<'a> {
    pub(super) fn new(plan: &'a Plan, context: Context<'a>) -> Result<Self, LaunchError> {
        let (sync, child_sync) = socket::pair().map_err(system("make a socket pair"))?;
        Ok(Self {
            plan,
            context,
            slots: Slots::default(),
            sync,
            child_sync: Some(child_sync),
            child: Child::None,
            placed: false,
            undumpable: false,
            gated: false,
            own_processors: None,
            start_time: None,
        })
    }

    pub(super) fn run(mut self) -> Result<Launched, LaunchError> {
        let plan = self.plan;
        for step in &plan.host {
            if matches!(
                step,
                HostStep::Await { .. } | HostStep::AwaitReady | HostStep::AwaitExec
            ) {
                self.beside()?;
            }
            self.log(step);
            match step {
                HostStep::AwaitReady => {
                    self.await_ready()?;
                    break;
                }
                HostStep::AwaitExec => {
                    self.await_exec()?;
                    break;
                }
                step => self.step(step)?,
            }
        }
        let Child::Running(pid, pidfd) = std::mem::replace(&mut self.child, Child::None) else {
            return Err(LaunchError::Protocol);
        };
        if log::is_debug() {
            log::debug(&format!(
                "init: closing the pipe to signal completion: process {pid}"
            ));
        }
        let start_time = self.start_time.unwrap_or_default();
        let parked = plan.init.iter().any(|step| matches!(step, InitStep::Park { .. }));
        let restored = plan.host.iter().any(|step| matches!(step, HostStep::Restore(_)));
        let waits = !parked && !restored && plan.host.contains(&HostStep::AwaitReady);
        let waiting = if waits {
            Some((
                self.sync.try_clone().map_err(system("keep a socket"))?,
                plan.init.clone(),
            ))
        } else {
            None
        };
        Ok(Launched {
            pid,
            pidfd,
            start_time,
            waiting,
        })
    }

    /// What `--debug` shows: the steps, with runc's words for the places that scripts look for.
    fn log(&self, step: &HostStep) {
        if !log::is_debug() {
            return;
        }
        log::debug(&match step {
            HostStep::Affinity { mask } => format!("nsexec: {step}: affinity: {}", affinity::number(mask)),
            HostStep::Clone(_) => format!("nsexec container setup: {step}"),
            HostStep::AwaitReady => {
                let steps = self.plan.init.len();
                format!("{step}: child process in init(): {steps} steps")
            }
            HostStep::AwaitExec => {
                let steps = self.plan.init.len();
                format!("{step}: child process in init(): {steps} steps, setns_init: about to exec")
            }
            step => step.to_string(),
        });
    }

    fn step(&mut self, step: &HostStep) -> Result<(), LaunchError> {
        match step {
            HostStep::Source {
                slot,
                path,
                recursive,
                idmap,
                slave,
                nofollow,
            } => {
                let tree = mounts::source(path, *recursive, idmap.as_ref(), *slave, *nofollow)?;
                self.slots.0.push((Slot::Source(*slot), tree));
            }
            HostStep::Affinity { mask } => self.own_processors = Some(affinity::narrow(mask)?),
            HostStep::Clone(clone) => self.clone(clone)?,
            HostStep::MountPoint { base, path, like } => mount_point(base, path, like.as_deref())?,
            HostStep::Restore(restore) => {
                let folder = self.context.state_dir.ok_or(LaunchError::Protocol)?;
                let restoring = Restoring::start(restore, folder, self.context.cgroup)?;
                self.child = Child::Restoring(Box::new(restoring));
            }
            HostStep::Loopback => match &self.child {
                Child::Restoring(restoring) => restoring.loopback()?,
                _ => return Err(LaunchError::Protocol),
            },
            HostStep::IdMaps { uids, gids } => {
                if !self.helper_user() {
                    namespaces::write_maps(self.pid()?, uids, gids)?;
                }
            }
            HostStep::Place { all } => self.place(*all)?,
            HostStep::NetDevices { devices } => net_devices::attach(devices, self.pid()?)?,
            HostStep::OomScore { score } => self.oom_score(*score)?,
            HostStep::Limit { resource, soft, hard } => {
                let set = process::set_limit(self.pid()?, *resource, *soft, *hard);
                set.map_err(|source| LaunchError::Limit {
                    resource: *resource,
                    soft: *soft,
                    hard: *hard,
                    source,
                })?;
            }
            HostStep::Release | HostStep::Resume => {
                if let Child::Restoring(restoring) = &mut self.child {
                    return restoring.go_on();
                }
                socket::send(self.sync.as_fd(), &[0]).map_err(LaunchError::Ended)?;
            }
            HostStep::Await { point } => self.await_point(*point)?,
            HostStep::RuntimeHooks => self.hooks()?,
            HostStep::Document { slot, status } => {
                // Hooks inside the container see its process by the id it has there (config.md, "Hooks").
                let inner =
                    namespaces::inner_pid(self.pid()?).map_err(system("read the first process's status"))?;
                let text = self.context.host.state_document(status, inner);
                let file = self.slots.get(*slot).ok_or(LaunchError::Protocol)?;
                namespaces::fill(file, &text).map_err(system("write the state document for hooks"))?;
            }
            // The helper asked for the offsets already, the init asks for sources; `run` waits.
            HostStep::TimeOffsets { .. }
            | HostStep::SourceInside(_)
            | HostStep::AwaitReady
            | HostStep::AwaitExec => {}
        }
        Ok(())
    }

    /// Uses the time that the first process needs for itself.
    fn beside(&mut self) -> Result<(), LaunchError> {
        // What CRIU restores is told of when it is there.
        if self.start_time.is_none() && !matches!(self.child, Child::Restoring(_)) {
            let pid = self.pid()?;
            // Nobody waited for the process: its id is still its own, even if it has failed.
            let start_time = start_time(pid).unwrap_or_default();
            self.start_time = Some(start_time);
            self.context
                .host
                .beside(pid, start_time)
                .map_err(LaunchError::Beside)?;
        }
        if let Some(network) = self.context.network.take() {
            network.finish().map_err(no_network)?;
        }
        Ok(())
    }

    fn pid(&self) -> Result<i32, LaunchError> {
        match &self.child {
            Child::None => Err(LaunchError::Protocol),
            Child::Young(spawned) => Ok(spawned.pid()),
            Child::Running(pid, _) => Ok(*pid),
            Child::Restoring(restoring) => Ok(restoring.pid),
        }
    }

    /// Waits for the restored process.
    fn await_restored(&mut self) -> Result<(), LaunchError> {
        let Child::Restoring(restoring) = std::mem::replace(&mut self.child, Child::None) else {
            return Err(LaunchError::Protocol);
        };
        let pid = restoring.finish(&mut self.context.console_socket)?;
        let pidfd = berth_sys::pidfd::open(pid).map_err(system("open the restored process"))?;
        self.child = Child::Running(pid, pidfd);
        self.beside()
    }

    fn helper_user(&self) -> bool {
        self.plan
            .host
            .iter()
            .any(|step| matches!(step, HostStep::Clone(clone) if clone.helper_user))
    }

    /// Descriptors that the init's steps refer to, beside mount sources.
    fn fill_slots(&mut self) -> Result<(), LaunchError> {
        for step in &self.plan.init {
            match step {
                InitStep::Park { .. } => {
                    let folder = self.context.state_dir.ok_or(LaunchError::Protocol)?;
                    let listener = gate::listen(folder)?;
                    self.gated = true;
                    self.slots.0.push((Slot::Gate, listener));
                }
                InitStep::Console { .. } => {
                    let socket = self.context.console_socket.take().ok_or(LaunchError::Protocol)?;
                    self.slots.0.push((Slot::Console, socket));
                }
                InitStep::Hook {
                    document: Some(slot), ..
                } if self.slots.get(*slot).is_none() => {
                    let file = namespaces::document().map_err(system("make a file in memory"))?;
                    self.slots.0.push((*slot, file));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn clone(&mut self, clone: &Clone) -> Result<(), LaunchError> {
        self.fill_slots()?;
        let child_sync = self.child_sync.take().ok_or(LaunchError::Protocol)?;
        let folder = self.context.state_dir.unwrap_or(Path::new("/run"));
        let covered = self.covered()?;
        let steps = covered.as_deref().unwrap_or(&self.plan.init);
        let private = self.plan.first_private;
        let program = program::build(steps, child_sync.as_raw_fd(), private, &self.slots, folder)
            .map_err(system("make the init program's file"))?;
        let opened: Vec<OwnedFd> = clone
            .joins
            .iter()
            .map(namespaces::open)
            .collect::<Result<_, _>>()?;
        let joins = namespaces::borrowed(&clone.joins, &opened);
        let mut inherit: Vec<RawFd> = self.slots.0.iter().map(|(_, fd)| fd.as_raw_fd()).collect();
        inherit.push(child_sync.as_raw_fd());
        // A process inside the user namespace that is joined could otherwise write into memory that is still
        // this program's, as soon as the child appears there.
        let watched = |join: &crate::plan::Join| {
            join.kinds & CLONE_NEWUSER != 0 || matches!(join.source, JoinSource::Process(_))
        };
        if clone.joins.iter().any(watched) {
            process::set_dumpable(false).map_err(system("protect this process's memory"))?;
            self.undumpable = true;
        }
        let cgroup = if clone.into_cgroup {
            self.context.cgroup.unified_fd().map_err(LaunchError::Cgroup)?
        } else {
            None
        };
        let network = match &mut self.context.network {
            Some(network) if clone.network => Some(network.namespace().map_err(no_network)?),
            None if clone.network => return Err(LaunchError::Protocol),
            _ => None,
        };
        let mut request = Request {
            namespaces: clone.namespaces,
            joins: &joins,
            helper_user: clone.helper_user,
            helper_time: clone.helper_time,
            network: network.as_ref().map(AsFd::as_fd),
            cgroup,
            sync: child_sync.as_fd(),
            program: program.as_fd(),
            wait: clone.waits,
            become_root: clone.becomes_root,
            first_private: private,
            inherit: &inherit,
        };
        let host = &self.plan.host;
        let answer = |need: HelperNeeds, helper: i32| answer(host, need, helper).map_err(io::Error::other);
        let mut made = spawn::spawn(&request, self.sync.as_fd(), answer);
        if matches!(&made, Err(failure) if failure.stage == Stage::Clone && cgroup.is_some()) {
            // The kernel could have refused the birth in the cgroup only: by permission, or because the cgroup is
            // threaded, frozen, or of a kind it cannot do this for.
            request.cgroup = None;
            request.wait = true;
            made = spawn::spawn(&request, self.sync.as_fd(), answer);
            self.placed = made.is_ok();
        }
        if let Some(processors) = self.own_processors.take() {
            affinity::restore(&processors);
        }
        let spawned = made.map_err(|failure| spawn_error(failure, clone))?;
        let pid = spawned.pid();
        self.child = Child::Young(spawned);
        drop(child_sync);
        if self.placed {
            self.context.cgroup.add(pid as u32).map_err(LaunchError::Cgroup)?;
            if !clone.waits {
                socket::send(self.sync.as_fd(), &[0]).map_err(LaunchError::Ended)?;
            }
        }
        Ok(())
    }

    /// The init's steps with the mounts that `--no-pivot` must cover, if it is used.
    fn covered(&self) -> Result<Option<Vec<InitStep>>, LaunchError> {
        let is_move = |step: &InitStep| matches!(step, InitStep::MoveRoot { .. });
        if !self.plan.init.iter().any(is_move) {
            return Ok(None);
        }
        let rootfs = self.plan.init.iter().find_map(|step| match step {
            InitStep::Root { path, .. } => Some(path.to_string_lossy().into_owned()),
            _ => None,
        });
        let rootfs = rootfs.unwrap_or_default();
        let found = mounts::revealing(Path::new(&rootfs)).map_err(system("read /proc/self/mountinfo"))?;
        let mut steps = self.plan.init.clone();
        for step in &mut steps {
            if let InitStep::MoveRoot { cover } = step {
                cover.clone_from(&found);
            }
        }
        Ok(Some(steps))
    }

    fn place(&mut self, all: bool) -> Result<(), LaunchError> {
        if self.placed {
            return Ok(());
        }
        let pid = self.pid()? as u32;
        let cgroup = self.context.cgroup;
        let placed = if all {
            cgroup.add(pid)
        } else {
            cgroup.add_after_clone(pid)
        };
        placed.map_err(LaunchError::Cgroup)
    }

    fn oom_score(&self, score: i32) -> Result<(), LaunchError> {
        match namespaces::write_proc(self.pid()?, "oom_score_adj", &score.to_string()) {
            // An unprivileged user may not lower it; the container works without, as it does under runc.
            Err(LaunchError::Proc { source, .. })
                if source.kind() == io::ErrorKind::PermissionDenied && !nix::unistd::geteuid().is_root() =>
            {
                Ok(())
            }
            result => result,
        }
    }

    fn hooks(&mut self) -> Result<(), LaunchError> {
        let pid = self.pid()?;
        for point in [HookPoint::Prestart, HookPoint::CreateRuntime] {
            self.context
                .host
                .hooks(point, pid)
                .map_err(LaunchError::RuntimeHook)?;
        }
        Ok(())
    }

    /// The next message. The first one shows that the process runs the init program, and no longer uses our
    /// memory.
    fn receive(&mut self, buffer: &mut [u8; REPORT_LENGTH]) -> Result<usize, LaunchError> {
        loop {
            let (length, fd) = socket::receive_fd(self.sync.as_fd(), buffer).map_err(LaunchError::Ended)?;
            self.grown(length != 0)?;
            let report = Report::decode(&buffer[..length]);
            if let Ok(Report::Source(slot)) = report
                && length != 0
            {
                self.hand_source(slot, fd)?;
                continue;
            }
            if length != 0 && report == Ok(Report::Listener) {
                let listener = fd.ok_or(LaunchError::Protocol)?;
                let pid = self.pid()?;
                let state = self.context.host.state_document("creating", pid);
                listener::hand_over(self.context.spec, &state, pid, &listener)?;
                socket::send(self.sync.as_fd(), &[0]).map_err(LaunchError::Ended)?;
                continue;
            }
            if let Ok(report) = &report
                && let Some((step, _, failed)) = Failed::of(report)
            {
                return Err(failed.explain(self.plan.init.get(step as usize)));
            }
            return Ok(length);
        }
    }

    /// Serves the init's wish for the source of a bind mount.
    fn hand_source(&self, wanted: u32, root: Option<OwnedFd>) -> Result<(), LaunchError> {
        let plan = self.plan;
        let found = plan.host.iter().find_map(|step| match step {
            HostStep::SourceInside(inside) if inside.slot == wanted => Some(inside),
            _ => None,
        });
        let (Some(inside), Some(root), Child::Running(_, pidfd)) = (found, root, &self.child) else {
            return Err(LaunchError::Protocol);
        };
        let tree = mounts::source_inside(pidfd.as_fd(), root.as_fd(), inside)?;
        socket::send_fd(self.sync.as_fd(), &[0], tree.as_fd()).map_err(LaunchError::Ended)
    }

    /// The child answered, or its socket was closed.
    fn grown(&mut self, answered: bool) -> Result<(), LaunchError> {
        if self.undumpable {
            self.undumpable = false;
            process::set_dumpable(true).map_err(system("restore this process's dumpability"))?;
        }
        match std::mem::replace(&mut self.child, Child::None) {
            Child::Young(spawned) if !answered && spawned.failed() => {
                let clone = self.plan.host.iter().find_map(|step| match step {
                    HostStep::Clone(clone) => Some(clone),
                    _ => None,
                });
                let clone = clone.ok_or(LaunchError::Protocol)?;
                Err(spawn_error(spawned.failure(), clone))
            }
            Child::Young(spawned) => {
                let (pid, pidfd) = spawned.running();
                self.child = Child::Running(pid, pidfd);
                Ok(())
            }
            other => {
                self.child = other;
                Ok(())
            }
        }
    }

    fn await_point(&mut self, point: u32) -> Result<(), LaunchError> {
        if let Child::Restoring(restoring) = &mut self.child {
            return restoring.await_namespaces(&mut self.context.console_socket);
        }
        let mut buffer = [0u8; REPORT_LENGTH];
        let length = self.receive(&mut buffer)?;
        match Report::decode(&buffer[..length]) {
            Ok(Report::Reached(reached)) if reached == point => Ok(()),
            _ if length == 0 => Err(self.ended()),
            _ => Err(LaunchError::Protocol),
        }
    }

    fn await_ready(&mut self) -> Result<(), LaunchError> {
        if matches!(self.child, Child::Restoring(_)) {
            return self.await_restored();
        }
        let mut buffer = [0u8; REPORT_LENGTH];
        let length = self.receive(&mut buffer)?;
        match Report::decode(&buffer[..length]) {
            Ok(Report::Ready | Report::Reached(sync::READY)) => Ok(()),
            _ if length == 0 => Err(self.ended()),
            _ => Err(LaunchError::Protocol),
        }
    }

    fn await_exec(&mut self) -> Result<(), LaunchError> {
        let mut buffer = [0u8; REPORT_LENGTH];
        match self.receive(&mut buffer)? {
            0 => Ok(()),
            _ => Err(LaunchError::Protocol),
        }
    }

    /// How the process ended, as the reason of an error.
    fn ended(&mut self) -> LaunchError {
        let Child::Running(pid, _) = &self.child else {
            return LaunchError::Protocol;
        };
        let status = berth_sys::raw::wait(*pid, 0);
        self.child = Child::None;
        let how = match status {
            Ok(status) if status & 0x7f != 0 => format!("killed by signal {}", status & 0x7f),
            Ok(status) => format!("exit status {}", (status >> 8) & 0xff),
            Err(errno) => io::Error::from_raw_os_error(errno.0).to_string(),
        };
        LaunchError::Ended(io::Error::other(how))
    }
}

/// Waits until the socket of a released process is closed by its execve(2).
pub(super) fn await_exec(sync: BorrowedFd<'_>, steps: &[InitStep]) -> Result<(), LaunchError> {
    let mut buffer = [0u8; REPORT_LENGTH];
    let length = match socket::receive(sync, &mut buffer) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
        result => result.map_err(LaunchError::Ended)?,
    };
    if length == 0 {
        return Ok(());
    }
    let report = Report::decode(&buffer[..length]).map_err(|_| LaunchError::Protocol)?;
    match Failed::of(&report) {
        Some((step, _, failed)) => Err(failed.explain(steps.get(step as usize))),
        None => Err(LaunchError::Protocol),
    }
}

/// Serves the joining helper.
fn answer(host: &[HostStep], need: HelperNeeds, helper: i32) -> Result<(), LaunchError> {
    for step in host {
        match (need, step) {
            (HelperNeeds::IdMaps, HostStep::IdMaps { uids, gids }) => {
                namespaces::write_maps(helper, uids, gids)?;
            }
            (HelperNeeds::TimeOffsets, HostStep::TimeOffsets { offsets }) if !offsets.is_empty() => {
                namespaces::write_proc(helper, "timens_offsets", offsets)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn spawn_error(failure: SpawnFailure, clone: &Clone) -> LaunchError {
    let SpawnFailure { stage, join, source } = failure;
    let what = match stage {
        Stage::Join => {
            return LaunchError::Join {
                what: clone.joins.get(join).map(namespaces::name).unwrap_or_default(),
                source,
            };
        }
        Stage::UnshareUser => "its user namespace cannot be made",
        Stage::UnshareTime => "its time namespace cannot be made",
        Stage::BecomeRoot => "it cannot become root of its user namespace: is the id 0 mapped?",
        Stage::Clone => "clone3 failed: are all of linux.namespaces allowed on this host?",
        Stage::Descriptors => "its descriptors cannot be closed",
        Stage::Network => "it cannot enter its network namespace",
        Stage::Exec => "its init program cannot be executed",
        Stage::Wait | Stage::None => return LaunchError::Ended(source),
    };
    LaunchError::Spawn { what, source }
}

/// The network namespace could not be made beside.
pub(super) fn no_network(source: io::Error) -> LaunchError {
    LaunchError::Spawn {
        what: "its network namespace cannot be made: is it allowed on this host (linux.namespaces, \
               /proc/sys/user/max_net_namespaces)?",
        source,
    }
}
