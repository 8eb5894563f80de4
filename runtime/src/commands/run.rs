//! `run`: create and start in one, in the foreground unless asked otherwise.

use std::os::fd::AsFd;

use clap::Args;

use super::create::{Created, Prepared, SharedArgs};
use super::{Context, ExitCode};
use crate::error::Error;
use crate::log;
use crate::notify::Proxy;
use crate::plan::Gate;
use crate::state::{ContainerId, ReleasedDir};
use crate::supervise::Foreground;

/// Create and run a container
///
/// Makes an instance of a container for a bundle, runs the process of its configuration, and exits with the exit code
/// of that process.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    shared: SharedArgs,
    /// Detach from the container's process
    #[arg(short, long)]
    detach: bool,
    /// Do not delete the container after it exits
    #[arg(long)]
    keep: bool,
    /// Disable the use of the subreaper used to reap reparented processes
    #[arg(long)]
    no_subreaper: bool,
    /// The name of the new container, unique on this host
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(super) fn run(context: &Context, args: &RunArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("run", &args.ids)?;
    let result = if args.detach {
        detached(context, &id, args)
    } else {
        foreground(context, &id, args)
    };
    result.map_err(|source| Error::Failed {
        verb: "run",
        source: Box::new(source),
    })
}

fn detached(context: &Context, id: &ContainerId, args: &RunArgs) -> Result<ExitCode, Error> {
    let prepared = Prepared::new(&args.shared, true)?;
    let console = super::create::connect("--console-socket", args.shared.console_socket.as_deref())?;
    let created = prepared.create(context, id, &args.shared, console, Gate::Direct)?;
    let started = start(created, args)?;
    if let Some(proxy) = started.proxy {
        proxy.wait(started.pid, started.pidfd.as_fd());
    }
    Ok(0)
}

fn foreground(context: &Context, id: &ContainerId, args: &RunArgs) -> Result<ExitCode, Error> {
    let prepared = Prepared::new(&args.shared, false)?;
    let mut foreground = Foreground::prepare(prepared.terminal(), !args.no_subreaper)?;
    let console = foreground.console_socket();
    let created = prepared.create(context, id, &args.shared, console, Gate::Direct)?;
    if let Err(error) = foreground.created() {
        created.undo();
        return Err(error.into());
    }
    let mut started = start(created, args)?;
    if let Some(proxy) = started.proxy.take() {
        foreground.notify(proxy);
    }
    let code = foreground.wait(started.pid, started.pidfd.as_fd())?;
    if !args.keep {
        let lock = match started.dir {
            Some(dir) => dir.lock(id)?,
            None => context.root.lock(id).map(Some)?,
        };
        match lock {
            Some(lock) => started.container.destroy(lock)?,
            None => log::debug("the container was deleted by another command"),
        }
    }
    Ok(code)
}

/// A container whose process runs.
struct Started {
    container: crate::container::Container,
    pid: i32,
    pidfd: std::os::fd::OwnedFd,
    /// Its directory, which others may lock while it runs.
    dir: Option<ReleasedDir>,
    /// What it says to a service manager.
    proxy: Option<Proxy>,
}

/// Writes the pid file, releases the init, runs the poststart hooks. On failure the container is taken away.
fn start(created: Created, args: &RunArgs) -> Result<Started, Error> {
    if let Err(error) = created.tell(&args.shared) {
        created.undo();
        return Err(error);
    }
    let Created {
        container,
        launched,
        lock,
    } = created;
    let started = super::start::proxy(&container).and_then(|proxy| {
        let started = launched.start()?;
        super::start::poststart(&container)?;
        Ok((proxy, started))
    });
    match started {
        Ok((proxy, (pid, pidfd))) => Ok(Started {
            container,
            pid,
            pidfd,
            dir: lock.release(),
            proxy,
        }),
        Err(error) => {
            let undone = container
                .kill_and_wait()
                .map_err(Error::from)
                .and_then(|()| container.destroy(lock));
            if let Err(error) = undone {
                log::warn(&error.chain());
            }
            Err(error)
        }
    }
}
