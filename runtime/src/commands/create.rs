//! `create`, and what `run` shares with it: from a bundle to a process that waits to be started.

use std::collections::BTreeMap;
use std::env;
use std::error::Error as StdError;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use berth_cgroups::systemd::Placeholder;
use berth_cgroups::{Cgroup, CgroupError};
use berth_spec::{Hook, LinuxNamespaceType, LinuxResources};
use berth_sys::network::NewNetwork;
use clap::Args;

use super::{Context, ExitCode};
use crate::annotations;
use crate::bundle::Bundle;
use crate::container::{Container, ContainerError};
use crate::error::{ArgumentError, Error};
use crate::hooks::{self, HookState};
use crate::host::HostFacts;
use crate::host_mounts;
use crate::launch::{self, HookPoint, LaunchError, Launched};
use crate::log;
use crate::notify::Manager;
use crate::placement::Placement;
use crate::plan::{self, CreateOptions, Gate};
use crate::resctrl::Group;
use crate::seccomp::Program;
use crate::spec::OCI_VERSION;
use crate::state::{ContainerId, LaterHooks, LockedDir, Record, Status, SystemdUnit, rfc3339};
use crate::validate;

/// Create a container
///
/// Makes an instance of a container for a bundle. The process of its configuration is started by `start`.
#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    #[command(flatten)]
    pub(super) shared: SharedArgs,
    /// The name of the new container, unique on this host
    #[arg(value_name = "CONTAINER-ID")]
    pub(super) ids: Vec<String>,
}

/// Options of `create` and `run`.
#[derive(Debug, Args)]
pub(super) struct SharedArgs {
    /// Path to the root of the bundle directory, defaults to the current directory
    #[arg(short, long, value_name = "DIR")]
    pub(super) bundle: Option<PathBuf>,
    /// Path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's
    /// pseudoterminal
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// Path to an AF_UNIX socket which will receive a file descriptor referencing the init process
    #[arg(long, value_name = "SOCKET")]
    pub(super) pidfd_socket: Option<PathBuf>,
    /// Specify the file to write the process id to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// Do not use pivot root to jail process inside rootfs. This should be used whenever the rootfs is on top of a
    /// ramdisk
    #[arg(long)]
    pub(super) no_pivot: bool,
    /// Do not create a new session keyring for the container. This will cause the container to inherit the calling
    /// processes session key
    #[arg(long)]
    pub(super) no_new_keyring: bool,
    /// Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) preserve_fds: u32,
}

pub(super) fn run(context: &Context, args: &CreateArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("create", &args.ids)?;
    let create = || -> Result<(), Error> {
        let prepared = Prepared::new(&args.shared, true)?;
        let console = connect("--console-socket", args.shared.console_socket.as_deref())?;
        let created = prepared.create(context, &id, &args.shared, console, Gate::Park)?;
        created.announce(&args.shared)
    };
    create().map_err(|source| Error::Failed {
        verb: "create",
        source: Box::new(source),
    })?;
    Ok(0)
}

/// A bundle that can be had on this host, with the command line checked against it. Nothing was made yet that outlives
/// this process.
pub(super) struct Prepared {
    pub(super) bundle: Bundle,
    pub(super) host: HostFacts,
    listen_fds: u32,
    /// The network namespace of a new container, where it is made beside.
    network: Option<NewNetwork>,
}

impl Prepared {
    /// For a new container.
    pub(super) fn new(args: &SharedArgs, detach: bool) -> Result<Self, Error> {
        let bundle = Bundle::open(args.bundle.as_deref().unwrap_or(Path::new(".")))?;
        // First of all: it takes the kernel as long as everything up to the first process takes this one.
        let network = launch::network_beside(&bundle.spec)?;
        Self::check(bundle, network, args, detach)
    }

    /// For a container that CRIU restores, namespaces and all.
    pub(super) fn restored(args: &SharedArgs, detach: bool) -> Result<Self, Error> {
        let bundle = Bundle::open(args.bundle.as_deref().unwrap_or(Path::new(".")))?;
        Self::check(bundle, None, args, detach)
    }

    fn check(
        bundle: Bundle,
        network: Option<NewNetwork>,
        args: &SharedArgs,
        detach: bool,
    ) -> Result<Self, Error> {
        let mut host = HostFacts::collect()?;
        host.look_at(&bundle.spec);
        validate::validate(&bundle.spec, &host)?;
        for warning in bundle.warnings.iter().chain(&validate::warnings(&bundle.spec)) {
            log::warn(warning);
        }
        let prepared = Self {
            bundle,
            host,
            listen_fds: listen_fds(),
            network,
        };
        super::check_terminal(prepared.terminal(), detach, args.console_socket.as_deref())?;
        super::check_preserved_fds(prepared.listen_fds, args.preserve_fds)?;
        Ok(prepared)
    }

    /// Whether the process gets a terminal.
    pub(super) fn terminal(&self) -> bool {
        self.bundle
            .spec
            .process()
            .as_ref()
            .and_then(berth_spec::Process::terminal)
            .unwrap_or(false)
    }

    /// Makes the container. On failure nothing of it is left.
    pub(super) fn create(
        mut self,
        context: &Context,
        id: &ContainerId,
        args: &SharedArgs,
        console: Option<OwnedFd>,
        gate: Gate,
    ) -> Result<Created, Error> {
        let request = Request {
            id,
            args,
            console,
            gate,
            network: self.network.take(),
            placement: Placement::new(&self.bundle.spec, id.as_str(), context.driver, &self.host)?,
            rootless: context.driver.is_rootless(&self.host),
            seccomp: super::filter(&self.bundle.spec)?,
        };
        let lock = context.root.create(id)?;
        match self.with_cgroup(request, &lock) {
            Ok((launched, record)) => {
                let container = Container {
                    record,
                    dir: lock.path().to_path_buf(),
                };
                Ok(Created {
                    container,
                    launched,
                    lock,
                })
            }
            Err(error) => {
                if let Err(error) = lock.remove() {
                    log::warn(&crate::error::chain(&error));
                }
                Err(error)
            }
        }
    }

    /// Makes the cgroup and what goes into it.
    fn with_cgroup(&mut self, request: Request<'_>, lock: &LockedDir) -> Result<(Launched, Record), Error> {
        if let Some(manager) = Manager::from_environment() {
            manager.prepare(&mut self.bundle.spec, lock.path())?;
        }
        let none = LinuxResources::default();
        let linux = self.bundle.spec.linux().as_ref();
        let resources = linux
            .and_then(|linux| linux.resources().as_ref())
            .unwrap_or(&none);
        let id = request.id.as_str();
        let (cgroup, placeholder) = request.placement.make(&self.host.cgroups, id, resources)?;
        let limited = Limited {
            cgroup: &cgroup,
            resources,
            placeholder,
        };
        // Only now: whoever finds a configuration without a record takes its cgroup for this container's.
        let launched = lock
            .write_config(&self.bundle.config)
            .map_err(Error::from)
            .and_then(|()| self.launch(request, lock, limited));
        launched.inspect_err(|_| remove_cgroup(&cgroup))
    }

    /// Limits the cgroup, starts the init in it, and writes the record.
    fn launch(
        &self,
        request: Request<'_>,
        lock: &LockedDir,
        limited: Limited<'_>,
    ) -> Result<(Launched, Record), Error> {
        let Limited {
            cgroup,
            resources,
            placeholder,
        } = limited;
        for ignored in cgroup.limit(resources)? {
            log::warn(&format!("{}: ignored: {}", ignored.field, ignored.reason));
        }
        allowed(cgroup.list_devices(resources), request.rootless)?;
        let group = self.resctrl_group(request.id)?;
        let mounted_before = self.mounted_before()?;
        let parent = Parent {
            id: request.id,
            bundle: &self.bundle,
            annotations: all_annotations(&self.bundle),
            resources,
            cgroup,
            placeholder,
            rootless: request.rootless,
            group: group.as_ref(),
            mounted_before: mounted_before.as_deref(),
            lock,
            record: None,
        };
        let launched = self.launch_under(parent, request);
        if let (Err(_), Some(before)) = (&launched, &mounted_before)
            && let Err(error) = host_mounts::detach(&self.bundle.rootfs, before)
        {
            log::warn(&format!("unmount what the container has mounted: {error}"));
        }
        if let (Err(_), Some(group)) = (&launched, &group)
            && let Err(error) = group.delete()
        {
            log::warn(&crate::error::chain(&error));
        }
        launched
    }

    /// For a container without a mount namespace, whose mounts are seen by all: what is there without them.
    fn mounted_before(&self) -> Result<Option<Vec<PathBuf>>, Error> {
        let spec = &self.bundle.spec;
        let namespaces = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_ref());
        let private = namespaces
            .iter()
            .flat_map(|list| list.iter())
            .any(|entry| entry.typ() == LinuxNamespaceType::Mount);
        if private {
            return Ok(None);
        }
        let root = &self.bundle.rootfs;
        let found = host_mounts::below(root).map_err(|source| ContainerError::Mounts {
            root: root.clone(),
            source,
        })?;
        Ok(Some(found))
    }

    /// The group of `linux.intelRdt`, made and with its shares.
    fn resctrl_group(&self, id: &ContainerId) -> Result<Option<Group>, Error> {
        let linux = self.bundle.spec.linux().as_ref();
        let asked = linux.and_then(|linux| linux.intel_rdt().as_ref());
        match (asked, &self.host.resctrl) {
            (Some(asked), Some(found)) => Ok(Some(Group::create(&found.mounted, asked, id.as_str())?)),
            _ => Ok(None),
        }
    }

    /// Starts the init and writes the record.
    fn launch_under(
        &self,
        mut parent: Parent<'_>,
        request: Request<'_>,
    ) -> Result<(Launched, Record), Error> {
        let (lock, cgroup) = (parent.lock, parent.cgroup);
        let paths = cgroup.paths();
        let options = CreateOptions {
            id: request.id.as_str(),
            cgroup_paths: &paths,
            no_pivot: request.args.no_pivot,
            no_new_keyring: request.args.no_new_keyring,
            preserve_fds: request.args.preserve_fds,
            listen_fds: self.listen_fds,
            console: request.console.is_some(),
            gate: request.gate,
            seccomp: request.seccomp.as_ref(),
            network: request.network.is_some(),
        };
        let plan = plan::create(&self.bundle, &self.host, &options)?;
        let launched = launch::launch(
            &plan,
            launch::Context {
                spec: &self.bundle.spec,
                state_dir: Some(lock.path()),
                cgroup,
                network: request.network,
                console_socket: request.console,
                host: &mut parent,
            },
        )
        .map_err(unwrap_own)?;
        lock.publish_record()?;
        let record = parent.record.ok_or(LaunchError::Protocol)?;
        Ok((launched, record))
    }
}

/// What is asked for beside the bundle.
struct Request<'a> {
    id: &'a ContainerId,
    args: &'a SharedArgs,
    console: Option<OwnedFd>,
    gate: Gate,
    placement: Placement,
    rootless: bool,
    seccomp: Option<Program>,
    network: Option<NewNetwork>,
}

/// A new cgroup with what it is to be limited to, and what keeps it alive while it has no process.
struct Limited<'a> {
    cgroup: &'a Cgroup,
    resources: &'a LinuxResources,
    placeholder: Option<Placeholder>,
}

/// As with runc: a user who may set up no device filter has no right to devices that are not open to all, either.
fn allowed(done: Result<(), CgroupError>, rootless: bool) -> Result<(), CgroupError> {
    match done {
        Err(error) if rootless && error.is_permission() => {
            log::debug(&format!("no device filter: {}", crate::error::chain(&error)));
            Ok(())
        }
        done => done,
    }
}

/// Kills and removes what a failed start may have left.
pub(super) fn remove_cgroup(cgroup: &Cgroup) {
    for result in [cgroup.kill(), cgroup.delete()] {
        if let Err(error) = result {
            log::warn(&crate::error::chain(&error));
        }
    }
}

/// A failure of what was done beside the launch is no failure of the launch.
pub(super) fn unwrap_own(error: LaunchError) -> Error {
    match error {
        LaunchError::Beside(own) => match own.downcast::<Error>() {
            Ok(own) => *own,
            Err(other) => LaunchError::Beside(other).into(),
        },
        error => error.into(),
    }
}

pub(super) fn all_annotations(bundle: &Bundle) -> BTreeMap<String, String> {
    let annotations = bundle.spec.annotations().iter().flatten();
    annotations
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

pub(super) fn record(
    id: &ContainerId,
    bundle: &Bundle,
    annotations: BTreeMap<String, String>,
    (pid, start_time): (i32, u64),
    cgroup: &Cgroup,
    mounted_before: Option<&[PathBuf]>,
    intel_rdt: Option<&Group>,
) -> Record {
    let spec = &bundle.spec;
    let namespaces = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default();
    let private_pid_namespace = namespaces.iter().any(|entry| {
        entry.typ() == LinuxNamespaceType::Pid
            && entry
                .path()
                .as_ref()
                .is_none_or(|path| path.as_os_str().is_empty())
    });
    let hooks = spec.hooks().as_ref();
    let list = |list: Option<&Option<Vec<Hook>>>| list.and_then(Clone::clone).unwrap_or_default();
    Record {
        oci_version: OCI_VERSION.to_owned(),
        id: id.to_string(),
        pid,
        start_time,
        bundle: bundle.path.clone(),
        rootfs: bundle.rootfs.clone(),
        created: rfc3339(SystemTime::now()),
        annotations,
        cgroup_paths: cgroup.paths(),
        systemd: cgroup.unit().map(SystemdUnit::from),
        private_pid_namespace,
        mounted_before: mounted_before.map(<[PathBuf]>::to_vec),
        intel_rdt: intel_rdt.cloned(),
        descriptors: descriptors(pid),
        hooks: LaterHooks {
            poststart: list(hooks.map(berth_spec::Hooks::poststart)),
            poststop: list(hooks.map(berth_spec::Hooks::poststop)),
        },
    }
}

/// What a process's standard streams are; nothing where they cannot be seen (a process of another user namespace).
fn descriptors(pid: i32) -> Vec<String> {
    let link = |number| std::fs::read_link(format!("/proc/{pid}/fd/{number}"));
    let links = (0..3).map_while(|number| link(number).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

/// A container whose init waits.
pub(super) struct Created {
    pub(super) container: Container,
    pub(super) launched: Launched,
    pub(super) lock: LockedDir,
}

impl Created {
    /// Tells the caller about the container: the pid file and the pidfd. On failure the container is taken away again.
    pub(super) fn announce(self, args: &SharedArgs) -> Result<(), Error> {
        let result = self.tell(args);
        if result.is_err() {
            self.undo();
        }
        result
    }

    /// Writes the pid file and sends the pidfd, as asked for.
    pub(super) fn tell(&self, args: &SharedArgs) -> Result<(), Error> {
        if let Some(path) = &args.pid_file {
            write_pid_file(path, self.launched.pid)?;
        }
        let receiver = self.container.record.annotations.get(annotations::PIDFD_RECEIVER);
        let socket = args.pidfd_socket.as_deref().or(receiver.map(Path::new));
        super::send_pidfd(socket, self.launched.pidfd.as_fd())
    }

    /// Takes the container away again after a failure that is reported by the caller.
    pub(super) fn undo(self) {
        let Self { container, lock, .. } = self;
        let undone = container
            .kill_and_wait()
            .map_err(Error::from)
            .and_then(|()| container.destroy(lock));
        if let Err(error) = undone {
            log::warn(&error.chain());
        }
    }
}

/// Writes a process id so that a reader sees all of it or nothing.
pub(super) fn write_pid_file(path: &Path, pid: i32) -> Result<(), Error> {
    let fail = |source| ArgumentError::PidFile {
        path: path.to_path_buf(),
        source,
    };
    let name = path
        .file_name()
        .ok_or_else(|| fail(std::io::ErrorKind::InvalidInput.into()))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    let temporary = path.with_file_name(hidden);
    // Exclusive, as runc's: nobody can have put a link there for us to write through.
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o666)
        .open(&temporary)
        .and_then(|mut file| file.write_all(pid.to_string().as_bytes()))
        .and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| Error::from(fail(source)))
}

/// Number of descriptors that socket activation passes to us (sd_listen_fds(3)).
fn listen_fds() -> u32 {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() => count,
        _ => 0,
    }
}

/// What the launcher asks its parent for.
struct Parent<'a> {
    id: &'a ContainerId,
    bundle: &'a Bundle,
    annotations: BTreeMap<String, String>,
    resources: &'a LinuxResources,
    cgroup: &'a Cgroup,
    placeholder: Option<Placeholder>,
    /// Whether this user may lack the right to a device filter.
    rootless: bool,
    group: Option<&'a Group>,
    mounted_before: Option<&'a [PathBuf]>,
    lock: &'a LockedDir,
    /// The container's record, once its first process is there.
    record: Option<Record>,
}

impl Parent<'_> {
    fn state(&self, status: Status, pid: i32) -> HookState<'_> {
        HookState {
            oci_version: OCI_VERSION,
            id: self.id.as_str(),
            status,
            pid,
            bundle: &self.bundle.path,
            annotations: &self.annotations,
        }
    }
}

impl launch::Host for Parent<'_> {
    fn beside(&mut self, pid: i32, start_time: u64) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let own = |error: Error| -> Box<dyn StdError + Send + Sync> { Box::new(error) };
        // The container's process keeps the cgroup alive now.
        drop(self.placeholder.take());
        let filtered = self.cgroup.filter_devices(self.resources);
        allowed(filtered, self.rootless).map_err(|error| own(error.into()))?;
        if let Some(group) = self.group {
            group.add(pid).map_err(|error| own(error.into()))?;
        }
        let record = record(
            self.id,
            self.bundle,
            self.annotations.clone(),
            (pid, start_time),
            self.cgroup,
            self.mounted_before,
            self.group,
        );
        self.lock
            .prepare_record(&record)
            .map_err(|error| own(error.into()))?;
        self.record = Some(record);
        Ok(())
    }

    fn hooks(&mut self, point: HookPoint, pid: i32) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let Some(all) = self.bundle.spec.hooks() else {
            return Ok(());
        };
        let (name, list) = match point {
            HookPoint::Prestart => ("prestart", all.prestart()),
            HookPoint::CreateRuntime => ("createRuntime", all.create_runtime()),
        };
        let list = list.as_deref().unwrap_or_default();
        Ok(hooks::run(name, list, &self.state(Status::Creating, pid))?)
    }

    fn state_document(&mut self, status: &str, pid: i32) -> Vec<u8> {
        let status = match status {
            "creating" => Status::Creating,
            "running" => Status::Running,
            "stopped" => Status::Stopped,
            _ => Status::Created,
        };
        // A document of strings and numbers always serialises.
        serde_json::to_vec(&self.state(status, pid)).unwrap_or_default()
    }
}

/// Connects to a socket that is to receive a descriptor.
pub(super) fn connect(option: &'static str, path: Option<&Path>) -> Result<Option<OwnedFd>, Error> {
    let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(None);
    };
    let stream = UnixStream::connect(path).map_err(|source| ArgumentError::Socket {
        option,
        path: path.to_path_buf(),
        source,
    })?;
    Ok(Some(stream.into()))
}
