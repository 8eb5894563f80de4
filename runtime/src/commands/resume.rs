//! `resume`: lets the processes of a paused container go on.

use clap::Args;

use super::{Context, ExitCode};
use crate::container::Container;
use crate::error::Error;

/// Resumes all processes that have been previously paused
///
/// Use `berth list` to identify containers and their current status.
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(super) fn run(context: &Context, args: &ResumeArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("resume", &args.ids)?;
    let _lock = context.root.lock(&id)?;
    let resumed = Container::load(&context.root, &id)?.resume();
    resumed.inspect_err(|error| super::warn_of_permission("resume", error))?;
    Ok(0)
}
