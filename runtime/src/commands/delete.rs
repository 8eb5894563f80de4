//! `delete`: removes what a stopped container holds; with `--force` of any container.

use std::fs;

use berth_cgroups::CgroupPath;
use clap::Args;

use super::{Context, ExitCode};
use crate::bundle;
use crate::container::{Container, ContainerError};
use crate::error::Error;
use crate::host::HostFacts;
use crate::placement::{Driver, Placement};
use crate::state::{CONFIG_FILE, ContainerId, LockedDir, StateError, Status};

/// Delete any resources held by the container, often used with a detached container
#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// Forcibly deletes the container if it is still running (uses SIGKILL)
    #[arg(short, long)]
    pub(super) force: bool,
    /// The container's id
    #[arg(value_name = "CONTAINER-ID")]
    ids: Vec<String>,
}

pub(super) fn run(context: &Context, args: &DeleteArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("delete", &args.ids)?;
    let lock = match context.root.lock(&id) {
        Err(StateError::NotExist) if args.force => return Ok(0),
        other => other?,
    };
    let container = match Container::load(&context.root, &id) {
        Ok(container) => container,
        // An aborted create, or a record that cannot be read.
        Err(Error::State(error @ (StateError::NotExist | StateError::Corrupt { .. }))) => {
            if args.force || matches!(error, StateError::NotExist) {
                remove_unfinished(context, lock, &id)?;
            }
            return if args.force { Ok(0) } else { Err(error.into()) };
        }
        Err(error) => return Err(error),
    };
    match container.status()? {
        _ if args.force => container.kill_and_wait()?,
        Status::Stopped => {}
        Status::Created => container.kill_and_wait()?,
        status => {
            return Err(ContainerError::NotStopped {
                id: id.to_string(),
                status,
            }
            .into());
        }
    }
    container.destroy(lock)?;
    Ok(0)
}

/// Removes what an aborted create left: its directory, and the cgroup that its configuration names with whatever is
/// in it.
fn remove_unfinished(context: &Context, lock: LockedDir, id: &ContainerId) -> Result<(), Error> {
    let file = lock.path().join(CONFIG_FILE);
    if let Ok(text) = fs::read(&file)
        && let Ok((spec, _)) = bundle::parse_spec(&file, &text)
    {
        let host = HostFacts::collect()?;
        // Only systemd makes what is named in its form, whether the option is given now or not.
        let configured = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.cgroups_path().as_deref());
        let named = CgroupPath::for_container(configured, id.as_str())?;
        let driver = Driver {
            systemd: context.driver.systemd || matches!(named, CgroupPath::Systemd(_)),
            ..context.driver
        };
        let placement = Placement::new(&spec, id.as_str(), driver, &host)?;
        if let Some(cgroup) = placement.find(&host.cgroups)? {
            cgroup.kill()?;
            cgroup.delete()?;
        }
    }
    Ok(lock.remove()?)
}
