//! `exec`: another process in a running container.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};

use berth_cgroups::{Cgroup, Layout};
use berth_spec::{Capability, Process, Spec};
use clap::Args;

use super::create::{connect, write_pid_file};
use super::{Context, ExitCode};
use crate::bundle;
use crate::container::{Container, ContainerError};
use crate::error::{ArgumentError, Error};
use crate::host::HostFacts;
use crate::launch::{self, HookPoint};
use crate::log;
use crate::plan::{self, ExecOptions};
use crate::state::{ContainerId, Status};
use crate::supervise::Foreground;
use crate::validate;

/// Execute new process inside the container
///
/// For example, if the container is configured to run the linux ps command the following will output a list of
/// processes running in the container:
///
///   $ berth exec <container-id> ps
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ExecArgs {
    /// Path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's
    /// pseudoterminal
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Path to an AF_UNIX socket which will receive a file descriptor referencing the exec process
    #[arg(long, value_name = "SOCKET")]
    pidfd_socket: Option<PathBuf>,
    /// Current working directory in the container
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set environment variables
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Allocate a pseudo-TTY
    #[arg(short, long)]
    tty: bool,
    /// UID (format: <uid>[:<gid>])
    #[arg(short, long, value_name = "UID[:GID]")]
    user: Option<String>,
    /// Additional gids
    #[arg(short = 'g', long, value_name = "GID", allow_negative_numbers = true)]
    additional_gids: Vec<i64>,
    /// Path to the process.json
    #[arg(short, long, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Detach from the container's process
    #[arg(short, long)]
    detach: bool,
    /// Specify the file to write the process id to
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Set the asm process label for the process commonly used with selinux
    #[arg(long, value_name = "LABEL")]
    process_label: Option<String>,
    /// Set the apparmor profile for the process
    #[arg(long, value_name = "PROFILE")]
    apparmor: Option<String>,
    /// Set the no new privileges value for the process
    #[arg(long)]
    no_new_privs: bool,
    /// Add a capability to the bounding set for the process
    #[arg(short, long, value_name = "CAP")]
    cap: Vec<String>,
    /// Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: u32,
    /// Run the process in an (existing) sub-cgroup(s). Format is [<controller>:]<cgroup>
    #[arg(long, value_name = "CGROUP")]
    cgroup: Vec<String>,
    /// Allow exec in a paused container
    #[arg(long)]
    ignore_paused: bool,
    /// The container's id, and the command with its arguments
    #[arg(value_name = "CONTAINER-ID COMMAND", trailing_var_arg = true)]
    pub(super) arguments: Vec<String>,
}

pub(super) fn run(context: &Context, args: &ExecArgs) -> Result<ExitCode, Error> {
    super::at_least("exec", &args.arguments, 1)?;
    execute(context, args).map_err(|source| Error::Exec {
        source: Box::new(source),
    })
}

fn execute(context: &Context, args: &ExecArgs) -> Result<ExitCode, Error> {
    let container = Container::load(&context.root, &ContainerId::parse(&args.arguments[0])?)?;
    match container.status()? {
        Status::Paused if args.ignore_paused => {}
        Status::Running | Status::Created => {}
        status => return Err(ContainerError::NotExecutable { status }.into()),
    }
    let spec = container.spec()?;
    let process = process(args, &spec)?;
    let mut host = HostFacts::collect_for_exec()?;
    host.look_at_process(&process);
    validate::validate_process(&process, &spec, &host)?;
    let terminal = process.terminal().unwrap_or(false);
    super::check_terminal(terminal, args.detach, args.console_socket.as_deref())?;
    super::check_preserved_fds(0, args.preserve_fds)?;
    let cgroup_paths = if args.cgroup.is_empty() {
        own_cgroups(&container)
    } else {
        sub_cgroups(&container.record.cgroup_paths, &args.cgroup)?
    };
    let seccomp = super::filter(&spec)?;
    let (mut foreground, console) = if args.detach {
        (None, connect("--console-socket", args.console_socket.as_deref())?)
    } else {
        let mut foreground = Foreground::prepare(terminal, false)?;
        let console = foreground.console_socket();
        (Some(foreground), console)
    };
    let options = ExecOptions {
        id: &container.record.id,
        init_pid: container.record.pid,
        cgroup_paths: &cgroup_paths,
        preserve_fds: args.preserve_fds,
        listen_fds: 0,
        no_new_keyring: true,
        console: console.is_some(),
        seccomp: seccomp.as_ref(),
    };
    let plan = plan::exec(&process, &spec, &host, &options)?;
    let launched = launch::launch(
        &plan,
        launch::Context {
            spec: &spec,
            state_dir: None,
            cgroup: &Cgroup::from_paths(&cgroup_paths).with_unit(container.unit()),
            network: None,
            console_socket: console,
            host: &mut Parent {
                container: &container,
            },
        },
    )?;
    let (pid, pidfd) = launched.start()?;
    let told = foreground
        .as_mut()
        .map_or(Ok(()), Foreground::created)
        .map_err(Error::from)
        .and_then(|()| {
            args.pid_file
                .as_deref()
                .map_or(Ok(()), |path| write_pid_file(path, pid))
        })
        .and_then(|()| super::send_pidfd(args.pidfd_socket.as_deref(), pidfd.as_fd()));
    if let Err(error) = told {
        // Nobody would know of the process.
        let _ = berth_sys::pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
        return Err(error);
    }
    match foreground {
        Some(foreground) => Ok(foreground.wait(pid, pidfd.as_fd())?),
        None => Ok(0),
    }
}

/// The process to run: a document of its own, or the container's with what the options change.
fn process(args: &ExecArgs, spec: &Spec) -> Result<Process, Error> {
    if let Some(path) = &args.process {
        let text = fs::read(path).map_err(|source| ArgumentError::ProcessFile {
            path: path.clone(),
            source,
        })?;
        let (process, warnings) = bundle::parse_process(path, &text).map_err(ContainerError::from)?;
        for warning in &warnings {
            log::warn(warning);
        }
        return Ok(completed(process, spec.process().as_ref()));
    }
    let command = args.arguments.get(1..).unwrap_or_default();
    if command.is_empty() {
        return Err(ArgumentError::NoCommand.into());
    }
    let mut process = spec.process().clone().unwrap_or_else(|| Process {
        cwd: PathBuf::from("/"),
        ..Process::default()
    });
    process.args = Some(command.to_vec());
    process.terminal = Some(args.tty);
    if let Some(cwd) = args.cwd.as_ref().filter(|cwd| !cwd.as_os_str().is_empty()) {
        process.cwd.clone_from(cwd);
    }
    if args.apparmor.is_some() {
        process.apparmor_profile.clone_from(&args.apparmor);
    }
    if args.process_label.is_some() {
        process.selinux_label.clone_from(&args.process_label);
    }
    if args.no_new_privs {
        process.no_new_privileges = Some(true);
    }
    process
        .env
        .get_or_insert_default()
        .extend(args.env.iter().cloned());
    add_capabilities(&mut process, &args.cap)?;
    change_user(&mut process, args)?;
    Ok(process)
}

/// What a process document leaves out is the container's, as with runc: a document is more often written by hand than
/// meant to give up what the container has.
fn completed(mut process: Process, container: Option<&Process>) -> Process {
    let Some(container) = container else {
        return process;
    };
    if process.capabilities.is_none() {
        process.capabilities.clone_from(&container.capabilities);
    }
    if process.rlimits.iter().flatten().next().is_none() {
        process.rlimits.clone_from(&container.rlimits);
    }
    let empty = |text: &Option<String>| text.as_deref().is_none_or(str::is_empty);
    if empty(&process.apparmor_profile) {
        process.apparmor_profile.clone_from(&container.apparmor_profile);
    }
    if empty(&process.selinux_label) {
        process.selinux_label.clone_from(&container.selinux_label);
    }
    if process.scheduler.is_none() {
        process.scheduler.clone_from(&container.scheduler);
    }
    if process.io_priority.is_none() {
        process.io_priority.clone_from(&container.io_priority);
    }
    if process.exec_cpu_affinity.is_none() {
        process.exec_cpu_affinity.clone_from(&container.exec_cpu_affinity);
    }
    process.user.umask = process.user.umask.or(container.user.umask);
    process
}

/// Adds to the bounding, effective and permitted sets; to the ambient one only if there are inheritable ones, without
/// which the kernel takes none (capabilities(7)).
fn add_capabilities(process: &mut Process, names: &[String]) -> Result<(), Error> {
    if names.is_empty() {
        return Ok(());
    }
    let sets = process.capabilities.get_or_insert_default();
    for name in names {
        let capability =
            Capability::from_name(name).ok_or_else(|| ArgumentError::Capability { name: name.clone() })?;
        for set in [&mut sets.bounding, &mut sets.effective, &mut sets.permitted] {
            set.get_or_insert_default().insert(capability);
        }
        if sets.inheritable.is_some() {
            sets.ambient.get_or_insert_default().insert(capability);
        }
    }
    Ok(())
}

fn change_user(process: &mut Process, args: &ExecArgs) -> Result<(), Error> {
    let user = &mut process.user;
    if let Some(text) = args.user.as_deref().filter(|text| !text.is_empty()) {
        let (uid, gid) = parse_user(text)?;
        user.uid = uid;
        if let Some(gid) = gid {
            user.gid = gid;
        }
    }
    if !args.additional_gids.is_empty() {
        let groups = user.additional_gids.get_or_insert_default();
        for gid in &args.additional_gids {
            groups.push(u32::try_from(*gid).map_err(|_| ArgumentError::AdditionalGid { gid: *gid })?);
        }
    }
    Ok(())
}

/// Strictly numbers: a name that looks like one must not become another user (CVE-2026-30892).
fn parse_user(text: &str) -> Result<(u32, Option<u32>), ArgumentError> {
    let number = |part: &'static str, value: &str| {
        let digits = value.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = value.parse().ok().filter(|_| digits);
        parsed.ok_or_else(|| ArgumentError::User {
            part,
            value: value.to_owned(),
        })
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number("uid", uid)?, Some(number("gid", gid)?))),
        None => Ok((number("uid", text)?, None)),
    }
}

/// The container's cgroups. In one that passes controllers on to others, as systemd or Docker inside make it, cgroup2
/// allows no process (cgroups(7), "no internal processes" rule): then the one that the init has gone to.
fn own_cgroups(container: &Container) -> BTreeMap<String, PathBuf> {
    let mut paths = container.record.cgroup_paths.clone();
    let Some(own) = paths.get_mut("") else {
        return paths;
    };
    let passed_on = fs::read_to_string(own.join("cgroup.subtree_control")).unwrap_or_default();
    if passed_on.trim().is_empty() {
        return paths;
    }
    let text = fs::read_to_string(format!("/proc/{}/cgroup", container.record.pid)).unwrap_or_default();
    let now = text.lines().find_map(|line| line.strip_prefix("0::"));
    let layout = Layout::detect(Path::new("/")).ok();
    let located = now.and_then(|now| layout?.unified()?.locate(Path::new(now)));
    if let Some(located) = located.filter(|located| located.starts_with(&*own)) {
        *own = located;
    }
    paths
}

/// The directories of existing sub-cgroups: `controller[,controller]:path`, or a path for all hierarchies.
fn sub_cgroups(
    paths: &BTreeMap<String, PathBuf>,
    arguments: &[String],
) -> Result<BTreeMap<String, PathBuf>, ArgumentError> {
    let mut result = paths.clone();
    let mut seen: Vec<&str> = Vec::new();
    for argument in arguments {
        let fail = |reason: &str| ArgumentError::Cgroup {
            argument: argument.clone(),
            reason: reason.to_owned(),
        };
        let (controllers, path) = match argument.split_once(':') {
            Some((controllers, path)) => (Some(controllers), path),
            None if arguments.len() == 1 => (None, argument.as_str()),
            None => return Err(fail("missing <controller>: prefix")),
        };
        let below = Path::new(path)
            .components()
            .filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
        let below: PathBuf = below.collect();
        if below.components().any(|part| part == Component::ParentDir) {
            return Err(fail(
                "bad sub cgroup path: \"..\" leads out of the container's cgroup",
            ));
        }
        let chosen: Vec<&str> = match controllers {
            None => paths.keys().map(String::as_str).collect(),
            Some(list) => list.split(',').collect(),
        };
        for controller in chosen {
            if controllers.is_some() && controller.is_empty() {
                return Err(fail("empty <controller> prefix"));
            }
            if seen.contains(&controller) {
                return Err(fail("a controller is specified multiple times"));
            }
            let parent = paths.get(controller).ok_or_else(|| {
                fail(&format!(
                    "unknown controller {controller}: the container has no cgroup of it"
                ))
            })?;
            let dir = parent.join(&below);
            if !dir.is_dir() {
                let dir = dir.display();
                return Err(fail(&format!(
                    "error adding pid to {dir}: no such file or directory: make the sub-cgroup first"
                )));
            }
            result.insert(controller.to_owned(), dir);
            seen.push(controller);
        }
    }
    Ok(result)
}

/// What the launcher may ask for: nothing, as no hook belongs to `exec`.
struct Parent<'a> {
    container: &'a Container,
}

impl launch::Host for Parent<'_> {
    fn beside(&mut self, pid: i32, _: u64) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match &self.container.record.intel_rdt {
            Some(group) => Ok(group.add_if_there(pid)?),
            None => Ok(()),
        }
    }

    fn hooks(&mut self, _: HookPoint, _: i32) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(())
    }

    fn state_document(&mut self, _: &str, _: i32) -> Vec<u8> {
        // What seccomp agents get with the listener of a process in a running container.
        serde_json::to_vec(&self.container.hook_state(Status::Running)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_numbers() {
        assert_eq!(parse_user("5").unwrap(), (5, None));
        assert_eq!(parse_user("5:6").unwrap(), (5, Some(6)));
        for bad in ["", "root", "5:", ":5", "+5", "-1", "0x1", "5:6:7", "4294967296"] {
            assert!(parse_user(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sub_cgroups_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("cpu/sub")).unwrap();
        let paths: BTreeMap<_, _> = [("cpu".to_owned(), dir.path().join("cpu"))].into();
        let ask = |argument: &str| sub_cgroups(&paths, &[argument.to_owned()]);
        assert_eq!(ask("cpu:/sub").unwrap()["cpu"], dir.path().join("cpu/sub"));
        assert_eq!(ask("sub").unwrap()["cpu"], dir.path().join("cpu/sub"));
        for bad in [
            "cpu:../x",
            "cpu:nosuch",
            "memory:sub",
            ":sub",
            "cpu,cpu:sub",
            "sub/../..",
        ] {
            assert!(ask(bad).is_err(), "{bad}");
        }
    }
}
