//! `linux.namespaces`, id mappings, time offsets: how the first process is made, and what follows from it.

use std::fmt::Write;

use berth_spec::{Hook, LinuxIdMapping, LinuxNamespaceType};

use super::host::{Clone, HostStep, IdMapping, Join, JoinSource};
use super::{Context, Gate, PlanError, process};
use crate::seccomp::Program;
use crate::wire::{InitStep, Slot, sync};

const NETWORK: u64 = LinuxNamespaceType::Network as u64;
const USER: u64 = LinuxNamespaceType::User as u64;
const TIME: u64 = LinuxNamespaceType::Time as u64;
const IPC: u64 = LinuxNamespaceType::Ipc as u64;
const CGROUP: u64 = LinuxNamespaceType::Cgroup as u64;

/// Whether the ipc namespace is made by the first process itself: the root folder of its mqueue file system
/// belongs to the user who makes it, which in a new user namespace must be its root.
fn ipc_inside(context: &Context<'_>) -> bool {
    context.makes(LinuxNamespaceType::Ipc) && context.makes(LinuxNamespaceType::User)
}

/// What is done right after the first process runs: what the new namespaces need to be of use.
pub(super) fn inside(context: &Context<'_>, init: &mut Vec<InitStep>) -> Result<(), PlanError> {
    let mut kinds = if context.makes(LinuxNamespaceType::Cgroup) {
        CGROUP
    } else {
        0
    };
    if ipc_inside(context) {
        kinds |= IPC;
    }
    if kinds != 0 {
        init.push(InitStep::Unshare { kinds });
    }
    if context.makes(LinuxNamespaceType::Network) && !context.network {
        init.push(InitStep::Loopback {});
    }
    let spec = context.spec;
    if let Some(name) = spec.hostname().as_ref().filter(|name| !name.is_empty()) {
        init.push(InitStep::Hostname {
            name: super::text("hostname", name)?.into_bytes(),
        });
    }
    if let Some(name) = spec.domainname().as_ref().filter(|name| !name.is_empty()) {
        init.push(InitStep::Domainname {
            name: super::text("domainname", name)?.into_bytes(),
        });
    }
    Ok(())
}

/// The parent's part of `create` and `run`; `before` are the steps that come first.
pub(super) fn create(context: &Context<'_>, gate: Gate, before: Vec<HostStep>) -> Vec<HostStep> {
    let mut host = before;
    let mut clone = clone(context);
    let place = placement(context, &mut clone);
    let maps = clone.becomes_root && context.makes(LinuxNamespaceType::User);
    let devices = net_devices(context);
    // Kernel parameters of a device can be set when it is there.
    clone.waits |= (maps && !clone.helper_user) || devices.is_some();
    let waits = clone.waits;
    let helper = (clone.helper_user, clone.helper_time);
    host.push(HostStep::Clone(clone));
    if maps {
        host.push(id_maps(context));
    }
    if helper.1 {
        host.push(time_offsets(context));
    }
    host.extend(devices);
    // Placing takes longer than the first process needs to get to its mounts: they go on side by side, unless its
    // cgroup namespace is to show where it was placed.
    let first = context.makes(LinuxNamespaceType::Cgroup);
    if waits && !first {
        host.push(HostStep::Release);
    }
    host.extend(place);
    attributes(context, &mut host);
    if waits && first {
        host.push(HostStep::Release);
    }
    hooks(context, &mut host);
    host.push(HostStep::AwaitReady);
    if gate == Gate::Direct {
        host.push(HostStep::AwaitExec);
    }
    host
}

/// The parent's part of `exec`.
pub(super) fn exec(context: &Context<'_>, init_pid: i32) -> Result<Vec<HostStep>, PlanError> {
    let mut kinds = 0;
    for namespace in namespaces(context) {
        kinds |= namespace.typ() as u64;
    }
    let mut clone = Clone {
        joins: vec![Join {
            source: JoinSource::Process(init_pid),
            kinds,
        }],
        becomes_root: kinds & USER != 0,
        ..Clone::default()
    };
    let place = placement(context, &mut clone);
    let mut after = Vec::new();
    after.extend(place);
    attributes(context, &mut after);
    // Nothing else holds the program back until these are done.
    clone.waits |= !after.is_empty();
    let waits = clone.waits;
    let mut host = Vec::new();
    if let Some(list) = context.process.and_then(process::initial_affinity) {
        let mask = process::bits("process.execCPUAffinity.initial", list)?;
        host.push(HostStep::Affinity { mask });
    }
    host.push(HostStep::Clone(clone));
    host.append(&mut after);
    if waits {
        host.push(HostStep::Release);
    }
    host.push(HostStep::AwaitExec);
    Ok(host)
}

fn namespaces<'a>(context: &Context<'a>) -> &'a [berth_spec::LinuxNamespace] {
    context
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_deref())
        .unwrap_or_default()
}

/// Sorts the namespaces: made by clone3(2), joined, or made by the joining helper. The cgroup namespace is made
/// by the first process itself, once it is in its cgroups.
fn clone(context: &Context<'_>) -> Clone {
    let mut clone = Clone::default();
    for namespace in namespaces(context) {
        let kind = namespace.typ() as u64;
        match super::joined(namespace) {
            Some(path) => {
                clone.joins.push(Join {
                    source: JoinSource::Path(path.clone()),
                    kinds: kind,
                });
                clone.becomes_root |= kind == USER;
            }
            None if kind == TIME => clone.helper_time = true,
            None if kind == NETWORK && context.network => clone.network = true,
            None if kind == CGROUP || kind == IPC && ipc_inside(context) => {}
            None => clone.namespaces |= kind,
        }
    }
    if clone.namespaces & USER != 0 {
        clone.becomes_root = true;
        // The time namespace belongs to the user namespace that is current when it is made.
        if clone.helper_time {
            clone.helper_user = true;
            clone.namespaces &= !USER;
        }
    }
    clone
}

/// How the process gets into its cgroups: by birth where there is a cgroup2 folder, by writing its id for v1.
fn placement(context: &Context<'_>, clone: &mut Clone) -> Option<HostStep> {
    let paths = context.cgroup_paths;
    let unified = paths.contains_key("");
    let legacy = paths.keys().any(|controller| !controller.is_empty());
    // Inside another user namespace the helper has no right to the host's cgroup folder.
    let foreign = clone.helper_user || clone.joins.iter().any(|join| join.kinds & USER != 0);
    clone.into_cgroup = unified && !foreign;
    if !legacy && clone.into_cgroup {
        return None;
    }
    if !legacy && !unified {
        return None;
    }
    clone.waits |= context.makes(LinuxNamespaceType::Cgroup);
    Some(HostStep::Place {
        all: !clone.into_cgroup,
    })
}

/// What needs the parent's rights: inside another user namespace, limits cannot be raised any more.
fn attributes(context: &Context<'_>, host: &mut Vec<HostStep>) {
    let Some(process) = context.process else { return };
    if let Some(score) = process.oom_score_adj() {
        host.push(HostStep::OomScore { score });
    }
    if context.has(LinuxNamespaceType::User) {
        for (resource, soft, hard) in process::limits(process) {
            host.push(HostStep::Limit { resource, soft, hard });
        }
    }
}

fn some(hooks: Option<&Vec<Hook>>) -> bool {
    hooks.is_some_and(|hooks| !hooks.is_empty())
}

/// Hooks that run before the root changes, and the documents of those that run inside.
#[allow(deprecated)]
pub(super) fn hooks(context: &Context<'_>, host: &mut Vec<HostStep>) {
    let Some(hooks) = context.spec.hooks() else { return };
    let create = some(hooks.create_container().as_ref());
    let start = some(hooks.start_container().as_ref());
    let runtime = some(hooks.prestart().as_ref()) || some(hooks.create_runtime().as_ref());
    if !(create || start || runtime) {
        return;
    }
    host.push(HostStep::Await { point: sync::MOUNTED });
    if runtime {
        host.push(HostStep::RuntimeHooks);
    }
    if create {
        host.push(HostStep::Document {
            slot: Slot::CreatingDocument,
            status: "creating",
        });
    }
    if start {
        host.push(HostStep::Document {
            slot: Slot::CreatedDocument,
            status: "created",
        });
    }
    host.push(HostStep::Resume);
}

/// The init's part of the same: the point where the parent's hooks run, then createContainer.
#[allow(deprecated)]
pub(super) fn hook_point(context: &Context<'_>, init: &mut Vec<InitStep>) -> Result<(), PlanError> {
    let Some(hooks) = context.spec.hooks() else {
        return Ok(());
    };
    let inside = some(hooks.create_container().as_ref());
    if inside
        || some(hooks.start_container().as_ref())
        || some(hooks.prestart().as_ref())
        || some(hooks.create_runtime().as_ref())
    {
        init.push(InitStep::Sync { point: sync::MOUNTED });
    }
    if let Some(list) = hooks.create_container() {
        run_hooks("createContainer", Slot::CreatingDocument, list, None, None, init)?;
    }
    Ok(())
}

/// One step a hook. Hooks without an environment have `own`, that of the process, as with runc; the specification does not
/// say.
pub(super) fn run_hooks(
    kind: &'static str,
    document: Slot,
    hooks: &[Hook],
    own: Option<&[String]>,
    filter: Option<&Program>,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    for (number, hook) in hooks.iter().enumerate() {
        let path = super::path_text("hooks.path", hook.path())?;
        let mut arguments = Vec::new();
        for argument in hook.args().iter().flatten() {
            arguments.push(super::text("hooks.args", argument)?);
        }
        if arguments.is_empty() {
            arguments.push(path.clone());
        }
        let mut environment = Vec::new();
        let inherit = own.filter(|_| hook.env().is_none());
        for variable in hook.env().as_deref().or(inherit).unwrap_or_default() {
            environment.push(super::text("hooks.env", variable)?);
        }
        init.push(InitStep::Hook {
            path,
            arguments,
            environment,
            timeout: hook.timeout().map_or(0, |seconds| seconds.max(0) as u64 * 1000),
            document: Some(document),
            kind: super::text("hooks", kind)?,
            number: number as u32,
            home: inherit.is_some(),
            filter: filter.map(|program| program.filter.concat()).unwrap_or_default(),
            filter_flags: filter.map_or(0, |program| program.flags),
        });
    }
    Ok(())
}

/// Id mappings of the configuration.
pub(super) fn mappings(list: Option<&Vec<LinuxIdMapping>>) -> Vec<IdMapping> {
    list.into_iter()
        .flatten()
        .map(|mapping| IdMapping {
            container: mapping.container_id(),
            host: mapping.host_id(),
            size: mapping.size(),
        })
        .collect()
}

fn id_maps(context: &Context<'_>) -> HostStep {
    let linux = context.spec.linux().as_ref();
    HostStep::IdMaps {
        uids: mappings(linux.and_then(|linux| linux.uid_mappings().as_ref())),
        gids: mappings(linux.and_then(|linux| linux.gid_mappings().as_ref())),
    }
}

/// `linux.netDevices`, in the order of their names.
fn net_devices(context: &Context<'_>) -> Option<HostStep> {
    let devices = context.spec.linux().as_ref()?.net_devices().as_ref()?;
    let names = devices.iter().map(|(name, device)| {
        let inside = device.name().as_deref().filter(|inside| !inside.is_empty());
        (name.clone(), inside.unwrap_or(name).to_owned())
    });
    let devices: Vec<_> = names.collect();
    (!devices.is_empty()).then_some(HostStep::NetDevices { devices })
}

fn time_offsets(context: &Context<'_>) -> HostStep {
    let mut offsets = String::new();
    let configured = context
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.time_offsets().as_ref());
    let mut clocks: Vec<_> = configured.into_iter().flatten().collect();
    clocks.sort_by_key(|(clock, _)| *clock);
    for (clock, offset) in clocks {
        let seconds = offset.secs().unwrap_or_default();
        let nanoseconds = offset.nanosecs().unwrap_or_default();
        let _ = writeln!(offsets, "{clock} {seconds} {nanoseconds}");
    }
    HostStep::TimeOffsets { offsets }
}
