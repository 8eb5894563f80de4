//! `start`: lets a created container run the user's program.

use std::os::fd::AsFd;

use clap::Args;

use super::{Context, ExitCode};
use crate::container::{Container, ContainerError};
use crate::error::Error;
use crate::hooks;
use crate::launch;
use crate::notify::{Manager, Proxy};
use crate::state::Status;

/// Executes the user defined process in a created container
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(super) fn run(context: &Context, args: &StartArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("start", &args.ids)?;
    let lock = context.root.lock(&id)?;
    let container = Container::load(&context.root, &id)?;
    let status = container.status()?;
    if status != Status::Created {
        return Err(ContainerError::NotCreated { status }.into());
    }
    let proxy = proxy(&container)?;
    launch::start(&container.dir)?;
    poststart(&container)?;
    // Others may work on the container while its readiness is waited for.
    drop(lock);
    if let (Some(proxy), Some(init)) = (proxy, container.init()?) {
        proxy.wait(container.record.pid, init.as_fd());
    }
    Ok(0)
}

/// Listens for the container's readiness, if there is a service manager to tell.
pub(super) fn proxy(container: &Container) -> Result<Option<Proxy>, Error> {
    match Manager::from_environment() {
        Some(manager) => Ok(manager.listen(&container.dir)?),
        None => Ok(None),
    }
}

/// Runs the poststart hooks. If one fails, the container is killed (runtime-spec runtime.md, lifecycle step 9).
pub(super) fn poststart(container: &Container) -> Result<(), Error> {
    let state = container.hook_state(Status::Running);
    if let Err(error) = hooks::run("poststart", &container.record.hooks.poststart, &state) {
        container.kill_and_wait()?;
        return Err(error.into());
    }
    Ok(())
}
