//! `restore`: a container comes back from image files, by CRIU.

use std::error::Error as StdError;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use berth_cgroups::Cgroup;
use berth_spec::LinuxResources;
use clap::Args;

use super::checkpoint::ImageArgs;
use super::create::{self, Created, Prepared, SharedArgs};
use super::{Context, ExitCode};
use crate::bundle::Bundle;
use crate::container::Container;
use crate::criu::{self, CriuError, Version};
use crate::error::Error;
use crate::hooks;
use crate::hooks::HookState;
use crate::launch::{self, HookPoint, LaunchError, Launched};
use crate::log;
use crate::placement::Placement;
use crate::plan::{self, CreateOptions, Gate, ImageOptions};
use crate::spec::OCI_VERSION;
use crate::state::{ContainerId, LockedDir, Record, StateError, Status};
use crate::supervise::Foreground;

/// Versions of CRIU below this one cannot change labels.
const LABELS: Version = Version(3, 16, 0);

/// Restore a container from a previous checkpoint
///
/// Brings the saved state of a container back that was saved by checkpoint, and exits with the exit code of its first
/// process.
#[derive(Debug, Args)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    images: ImageArgs,
    /// Path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's
    /// pseudoterminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Path to the root of the bundle directory, defaults to the current directory
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Detach from the container's process
    #[arg(short, long)]
    detach: bool,
    /// Specify the file to write the process id to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Disable the use of the subreaper used to reap reparented processes
    #[arg(long)]
    no_subreaper: bool,
    /// Accepted as by runc: CRIU changes the root by itself
    #[arg(long)]
    no_pivot: bool,
    /// Specify an LSM profile to be used during restore in the form of TYPE:NAME
    #[arg(long, value_name = "TYPE:NAME")]
    lsm_profile: Option<String>,
    /// Specify an LSM mount context to be used during restore
    #[arg(long, value_name = "LABEL")]
    lsm_mount_context: Option<String>,
    /// The name of the container, unique on this host
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(super) fn run(context: &Context, args: &RestoreArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("restore", &args.ids)?;
    super::checkpoint::warn_rootless("restore")?;
    let shared = SharedArgs {
        bundle: args.bundle.clone(),
        console_socket: args.console_socket.clone(),
        pidfd_socket: None,
        pid_file: args.pid_file.clone(),
        no_pivot: args.no_pivot,
        no_new_keyring: false,
        preserve_fds: 0,
    };
    restore(context, &id, args, &shared).map_err(|source| Error::Failed {
        verb: "restore",
        source: Box::new(source),
    })
}

fn restore(
    context: &Context,
    id: &ContainerId,
    args: &RestoreArgs,
    shared: &SharedArgs,
) -> Result<ExitCode, Error> {
    let images = args.images.parse()?;
    let prepared = Prepared::restored(shared, args.detach)?;
    check_labels(args)?;
    super::checkpoint::folders(&images)?;
    if args.detach {
        let console = create::connect("--console-socket", args.console_socket.as_deref())?;
        let created = bring_back(&prepared, context, id, args, images, console)?;
        return created.announce(shared).map(|()| 0);
    }
    let terminal = prepared.terminal();
    let mut foreground = Foreground::prepare(terminal, !args.no_subreaper)?;
    let console = foreground.console_socket();
    let created = bring_back(&prepared, context, id, args, images, console)?;
    let told = foreground
        .created()
        .map_err(Error::from)
        .and_then(|()| created.tell(shared));
    if let Err(error) = told {
        created.undo();
        return Err(error);
    }
    let Created {
        container,
        launched,
        lock,
    } = created;
    // Other commands may work on the container from now on.
    drop(lock);
    let (pid, pidfd) = launched.start().map_err(Error::from)?;
    let code = foreground.wait(pid, pidfd.as_fd())?;
    match context.root.lock(id) {
        Ok(lock) => container.destroy(lock)?,
        Err(StateError::NotExist) => log::debug("the container was deleted by another command"),
        Err(error) => return Err(error.into()),
    }
    Ok(code)
}

fn check_labels(args: &RestoreArgs) -> Result<(), Error> {
    let given = |text: &Option<String>| text.as_deref().is_some_and(|text| !text.is_empty());
    let what = match (given(&args.lsm_profile), given(&args.lsm_mount_context)) {
        (true, _) => "--lsm-profile",
        (false, true) => "--lsm-mount-context",
        _ => return Ok(()),
    };
    let found = criu::version()?;
    if found < LABELS {
        let needed = LABELS;
        return Err(CriuError::TooOld { what, needed, found }.into());
    }
    Ok(())
}

/// Makes the container from its images. On failure nothing of it is left.
fn bring_back(
    prepared: &Prepared,
    context: &Context,
    id: &ContainerId,
    args: &RestoreArgs,
    images: ImageOptions,
    console: Option<OwnedFd>,
) -> Result<Created, Error> {
    let placement = Placement::new(&prepared.bundle.spec, id.as_str(), context.driver, &prepared.host)?;
    let none = LinuxResources::default();
    let linux = prepared.bundle.spec.linux().as_ref();
    let resources = linux
        .and_then(|linux| linux.resources().as_ref())
        .unwrap_or(&none);
    let lock = context.root.create(id)?;
    let made = placement
        .make(&prepared.host.cgroups, id.as_str(), resources)
        .and_then(|(cgroup, placeholder)| {
            let group = (&cgroup, resources);
            let restored = with_cgroup(prepared, id, args, images, console, &lock, group);
            // Until here it kept a unit of systemd's alive.
            drop(placeholder);
            restored.inspect_err(|_| create::remove_cgroup(&cgroup))
        });
    match made {
        Ok((launched, record)) => Ok(Created {
            container: Container {
                record,
                dir: lock.path().to_path_buf(),
            },
            launched,
            lock,
        }),
        Err(error) => {
            if let Err(error) = lock.remove() {
                log::warn(&crate::error::chain(&error));
            }
            Err(error)
        }
    }
}

fn with_cgroup(
    prepared: &Prepared,
    id: &ContainerId,
    args: &RestoreArgs,
    images: ImageOptions,
    console: Option<OwnedFd>,
    lock: &LockedDir,
    (cgroup, resources): (&Cgroup, &LinuxResources),
) -> Result<(Launched, Record), Error> {
    let bundle = &prepared.bundle;
    lock.write_config(&bundle.config)?;
    for ignored in cgroup.apply(resources)? {
        log::warn(&format!("{}: ignored: {}", ignored.field, ignored.reason));
    }
    let paths = cgroup.paths();
    let create = CreateOptions {
        id: id.as_str(),
        cgroup_paths: &paths,
        no_pivot: false,
        no_new_keyring: false,
        preserve_fds: 0,
        listen_fds: 0,
        console: true,
        gate: Gate::Direct,
        seccomp: None,
        network: false,
    };
    let label = |text: &'_ Option<String>| text.clone().filter(|text| !text.is_empty());
    let (profile, mount) = (label(&args.lsm_profile), label(&args.lsm_mount_context));
    let labels = (profile.as_deref(), mount.as_deref());
    let plan = plan::restore(bundle, &prepared.host, &create, images, labels)?;
    let mut parent = Parent {
        id,
        bundle,
        cgroup,
        lock,
        record: None,
    };
    let launched = launch::launch(
        &plan,
        launch::Context {
            spec: &bundle.spec,
            state_dir: Some(lock.path()),
            cgroup,
            network: None,
            console_socket: console,
            host: &mut parent,
        },
    )
    .map_err(create::unwrap_own)?;
    if let Some(config) = with_time_namespace(&bundle.config, launched.pid) {
        lock.write_config(&config)?;
    }
    lock.publish_record()?;
    let record = parent.record.ok_or(LaunchError::Protocol)?;
    Ok((launched, record))
}

/// CRIU restores into a time namespace, so that clocks go on where they were: processes that join the container later
/// must join it, too.
fn with_time_namespace(config: &[u8], pid: i32) -> Option<Vec<u8>> {
    let link = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/time"));
    if link(&pid.to_string()).ok()? == link("self").ok()? {
        return None;
    }
    let mut config: serde_json::Value = serde_json::from_slice(config).ok()?;
    let namespaces = config.pointer_mut("/linux/namespaces")?.as_array_mut()?;
    if namespaces.iter().any(|entry| entry["type"] == "time") {
        return None;
    }
    namespaces.push(serde_json::json!({"type": "time"}));
    serde_json::to_vec(&config).ok()
}

/// What the launcher asks for.
struct Parent<'a> {
    id: &'a ContainerId,
    bundle: &'a Bundle,
    cgroup: &'a Cgroup,
    lock: &'a LockedDir,
    record: Option<Record>,
}

impl launch::Host for Parent<'_> {
    fn beside(&mut self, pid: i32, start_time: u64) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let annotations = create::all_annotations(self.bundle);
        let place = (pid, start_time);
        let record = create::record(self.id, self.bundle, annotations, place, self.cgroup, None, None);
        let prepared = self.lock.prepare_record(&record).map_err(Error::from);
        self.record = Some(record);
        prepared.map_err(|error| -> Box<dyn StdError + Send + Sync> { Box::new(error) })
    }

    fn hooks(&mut self, point: HookPoint, pid: i32) -> Result<(), Box<dyn StdError + Send + Sync>> {
        let Some(all) = self.bundle.spec.hooks() else {
            return Ok(());
        };
        let (name, list) = match point {
            HookPoint::Prestart => ("prestart", all.prestart()),
            HookPoint::CreateRuntime => ("createRuntime", all.create_runtime()),
        };
        let annotations = create::all_annotations(self.bundle);
        let state = HookState {
            oci_version: OCI_VERSION,
            id: self.id.as_str(),
            status: Status::Creating,
            pid,
            bundle: &self.bundle.path,
            annotations: &annotations,
        };
        Ok(hooks::run(name, list.as_deref().unwrap_or_default(), &state)?)
    }

    fn state_document(&mut self, _: &str, _: i32) -> Vec<u8> {
        Vec::new()
    }
}
