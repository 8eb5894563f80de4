//! `pause`: stops all processes of a container.

use clap::Args;

use super::{Context, ExitCode};
use crate::container::Container;
use crate::error::Error;

/// Pause suspends all processes inside the container
///
/// Use `berth list` to identify containers and their current status.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(super) fn run(context: &Context, args: &PauseArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("pause", &args.ids)?;
    let _lock = context.root.lock(&id)?;
    let paused = Container::load(&context.root, &id)?.pause();
    paused.inspect_err(|error| super::warn_of_permission("pause", error))?;
    Ok(0)
}
