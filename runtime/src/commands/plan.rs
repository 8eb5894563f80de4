//! `plan`: prints every step that `create` would take, without taking any.

use std::path::{Path, PathBuf};

use berth_cgroups::{Cgroup, CgroupPath};
use clap::Args;

use super::ExitCode;
use crate::bundle::Bundle;
use crate::error::Error;
use crate::host::HostFacts;
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

pub(super) fn run(args: &PlanArgs) -> Result<ExitCode, Error> {
    let id = super::one_id("plan", &args.ids)?;
    let bundle = Bundle::open(args.bundle.as_deref().unwrap_or(Path::new(".")))?;
    let mut host = HostFacts::collect()?;
    host.look_at(&bundle.spec);
    validate::validate(&bundle.spec, &host)?;
    let linux = bundle.spec.linux().as_ref();
    let seccomp = super::filter(&bundle.spec)?;
    let configured = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let cgroup = Cgroup::open(
        &host.cgroups,
        &CgroupPath::for_container(configured, id.as_str())?,
    )?;
    let options = CreateOptions {
        id: id.as_str(),
        cgroup_paths: &cgroup.paths(),
        no_pivot: args.no_pivot,
        no_new_keyring: args.no_new_keyring,
        preserve_fds: 0,
        listen_fds: 0,
        console: false,
        gate: Gate::Park,
        seccomp: seccomp.as_ref(),
    };
    super::print(plan::create(&bundle, &host, &options)?.to_string().as_bytes())
}
