//! `start`: lets a created container run the user's program.

use clap::Args;

use super::{Context, ExitCode};
use crate::container::{Container, ContainerError};
use crate::error::Error;
use crate::hooks;
use crate::launch;
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
    let _lock = context.root.lock(&id)?;
    let container = Container::load(&context.root, &id)?;
    let status = container.status()?;
    if status != Status::Created {
        return Err(ContainerError::NotCreated { status }.into());
    }
    launch::start(&container.dir)?;
    poststart(&container)?;
    Ok(0)
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
