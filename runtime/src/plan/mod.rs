//! From configuration to plan: what the parent does ([`HostStep`]), and what the container's first process does
//! from inside ([`InitStep`]), in order. Pure: nothing here asks the system.
//!
//! A field of config.json is handled in the file of its subject, which has the same name as in `init/`.

mod cgroup;
mod checkpoint;
mod devices;
mod error;
mod host;
mod mounts;
mod namespaces;
pub mod options;
mod process;
mod root;
mod seccomp;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::path::{Path, PathBuf};

use berth_spec::{LinuxNamespace, LinuxNamespaceType, Process, Spec};

pub use checkpoint::{CgroupsMode, External, ImageOptions, Restore, checkpoint, restore};
pub use error::PlanError;
pub use host::{Clone, HostStep, IdMapping, IdMaps, Inside, Join, JoinSource};

use crate::bundle::Bundle;
use crate::host::HostFacts;
use crate::seccomp::Program;
use crate::wire::InitStep;

/// Everything that will be done, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Plan {
    /// What the parent does.
    pub host: Vec<HostStep>,
    /// What the first process does.
    pub init: Vec<InitStep>,
    /// First descriptor that the user's program does not get.
    pub first_private: u32,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "host:")?;
        for step in &self.host {
            writeln!(f, "  {step}")?;
        }
        writeln!(f, "init:")?;
        for step in &self.init {
            writeln!(f, "  {step}")?;
        }
        Ok(())
    }
}

/// How the user's program is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// `create`: on a socket in the state directory, until `start` connects.
    Park,
    /// `run`: on the parent's socket, until the parent lets it go.
    Direct,
}

/// Options of `create` and `run` that reach the container.
#[derive(Debug, std::clone::Clone, Copy)]
pub struct CreateOptions<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The container's folder for each controller (`Cgroup::paths`); `""` is the unified tree.
    pub cgroup_paths: &'a BTreeMap<String, PathBuf>,
    /// `--no-pivot`: move the root's mount over `/` instead of pivot_root(2).
    pub no_pivot: bool,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// Descriptors that the program gets beside standard ones and those of socket activation.
    pub preserve_fds: u32,
    /// Descriptors passed by socket activation, from 3 on: LISTEN_FDS is set to it.
    pub listen_fds: u32,
    /// Whether a socket for the terminal's master is given.
    pub console: bool,
    /// Where the program waits.
    pub gate: Gate,
    /// The compiled `linux.seccomp`.
    pub seccomp: Option<&'a Program>,
    /// Whether the network namespace is made beside: see [`network_beside`].
    pub network: bool,
}

/// Options of `exec`.
#[derive(Debug)]
pub struct ExecOptions<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The container's first process.
    pub init_pid: i32,
    /// The folders that the process is put into.
    pub cgroup_paths: &'a BTreeMap<String, PathBuf>,
    /// Keep the caller's session keyring.
    pub no_new_keyring: bool,
    /// As in [`CreateOptions`].
    pub preserve_fds: u32,
    /// As in [`CreateOptions`].
    pub listen_fds: u32,
    /// As in [`CreateOptions`].
    pub console: bool,
    /// The compiled `linux.seccomp` of the container.
    pub seccomp: Option<&'a Program>,
}

/// Facts of one configuration that several subjects need.
#[derive(Debug)]
struct Context<'a> {
    spec: &'a Spec,
    process: Option<&'a Process>,
    bundle: &'a Path,
    rootfs: &'a Path,
    facts: &'a HostFacts,
    cgroup_paths: &'a BTreeMap<String, PathBuf>,
    /// The network namespace is made beside.
    network: bool,
}

impl Context<'_> {
    fn namespace(&self, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
        let namespaces = self.spec.linux().as_ref()?.namespaces().as_ref()?;
        namespaces.iter().find(|namespace| namespace.typ() == kind)
    }

    /// Whether the container gets a namespace of this kind, new or joined.
    fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.namespace(kind).is_some()
    }

    /// Whether the container gets a new namespace of this kind.
    fn makes(&self, kind: LinuxNamespaceType) -> bool {
        self.namespace(kind)
            .is_some_and(|namespace| joined(namespace).is_none())
    }
}

/// The path of a namespace that is to be joined; a missing or empty one means a new namespace.
fn joined(namespace: &LinuxNamespace) -> Option<&PathBuf> {
    namespace
        .path()
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty())
}

/// Whether a container's network namespace can be made by a helper, beside what else its start needs, instead of by
/// clone3(2): there is to be one, it belongs to the host's user namespace, and no device is moved into it before its
/// first process runs.
pub fn network_beside(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else { return false };
    let Some(namespaces) = linux.namespaces() else {
        return false;
    };
    let of = |kind| namespaces.iter().find(|namespace| namespace.typ() == kind);
    of(LinuxNamespaceType::Network).is_some_and(|network| joined(network).is_none())
        && of(LinuxNamespaceType::User).is_none()
        && linux.net_devices().as_ref().is_none_or(BTreeMap::is_empty)
}

/// Plans `create` and `run`.
pub fn create(bundle: &Bundle, facts: &HostFacts, options: &CreateOptions<'_>) -> Result<Plan, PlanError> {
    let spec = &bundle.spec;
    let context = Context {
        spec,
        process: spec.process().as_ref(),
        bundle: &bundle.path,
        rootfs: &bundle.rootfs,
        facts,
        cgroup_paths: options.cgroup_paths,
        network: options.network,
    };
    let mut host = Vec::with_capacity(8);
    let mut init = Vec::with_capacity(64);
    if options.gate == Gate::Park {
        init.push(InitStep::Name {
            name: c"berth:[INIT]".to_owned(),
        });
    }
    namespaces::inside(&context, &mut init)?;
    process::session(options.id, options.no_new_keyring, &mut init)?;
    root::enter(&context, options, &mut host, &mut init)?;
    let environment = process::Environment {
        listen_fds: options.listen_fds,
    };
    process::finish(
        &context,
        &environment,
        options.seccomp,
        Some(options.gate),
        &mut init,
    )?;
    let host = namespaces::create(&context, options.gate, host);
    Ok(Plan {
        host,
        init,
        first_private: 3 + options.preserve_fds + options.listen_fds,
    })
}

/// Plans `exec`: `process` runs in the namespaces of the container that `spec` describes.
pub fn exec(
    process: &Process,
    spec: &Spec,
    facts: &HostFacts,
    options: &ExecOptions<'_>,
) -> Result<Plan, PlanError> {
    let context = Context {
        spec,
        process: Some(process),
        bundle: Path::new("/"),
        rootfs: Path::new("/"),
        facts,
        cgroup_paths: options.cgroup_paths,
        network: false,
    };
    let mut init = vec![];
    process::session(options.id, options.no_new_keyring, &mut init)?;
    init.push(InitStep::CurrentRoot {});
    process::terminal(&context, options.console, false, &mut init)?;
    if process::needs_proc(&context) {
        init.push(InitStep::OpenProc {});
    }
    process::labels(&context, &mut init)?;
    let environment = process::Environment {
        listen_fds: options.listen_fds,
    };
    process::finish(&context, &environment, options.seccomp, None, &mut init)?;
    let host = namespaces::exec(&context, options.init_pid)?;
    Ok(Plan {
        host,
        init,
        first_private: 3 + options.preserve_fds + options.listen_fds,
    })
}

/// A string for the kernel, from a field of the configuration.
fn text(field: &'static str, value: &str) -> Result<CString, PlanError> {
    CString::new(value).map_err(|_| PlanError::Nul { field })
}

/// A path for the kernel, from a field of the configuration.
fn path_text(field: &'static str, path: &Path) -> Result<CString, PlanError> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| PlanError::Nul { field })
}
