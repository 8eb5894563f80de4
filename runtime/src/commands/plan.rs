//! `plan`: prints every step that `create` would take, without taking any.

use std::path::{Path, PathBuf};

use clap::Args;

use super::{Context, ExitCode};
use crate::bundle::Bundle;
use crate::error::Error;
use crate::host::HostFacts;
use crate::placement::Placement;
use crate::plan::{self, CreateOptions, Gate};
use crate::validate;

/// Print the steps by which a bundle's container would be made
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// Path to the root of the bundle directory, defaults to the current directory
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Do not use pivot root to jail process inside rootfs
    #[arg(long)]
    no_pivot: bool,
    /// Do not create a new session keyring for the container
    #[arg(long)]
    no_new_keyring: bool,
    /// The name the container would have
    #[arg(value_name = "CONTAINER-ID", default_value = "example")]
    ids: Vec<String>,
}

pub(super) fn run(context: &Context, args: &PlanArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("plan", &args.ids)?;
    let bundle = Bundle::open(args.bundle.as_deref().unwrap_or(Path::new(".")))?;
    let mut host = HostFacts::collect()?;
    host.look_at(&bundle.spec);
    validate::validate(&bundle.spec, &host)?;
    let seccomp = super::filter(&bundle.spec)?;
    let placement = Placement::new(&bundle.spec, id.as_str(), context.driver, &host)?;
    let cgroup_paths = placement.paths(&host.cgroups)?;
    let options = CreateOptions {
        id: id.as_str(),
        cgroup_paths: &cgroup_paths,
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: 0,
        listen_fds: 0,
        console: false,
        gate: Gate::Park,
        seccomp: seccomp.as_ref(),
        network: plan::network_beside(&bundle.spec),
    };
    super::print(plan::create(&bundle, &host, &options)?.to_string().as_bytes())
}
