//! Whether a configuration can be had at all: a flat list of named checks over the configuration and the host's facts,
//! without any I/O. What only the kernel can tell (does the executable exist, is the device busy) shows later, in
//! `launch`. Sources: runtime-spec 1.3 config.md and config-linux.md (each MUST and SHOULD), and what runc refuses.

mod capabilities;
mod devices;
mod hooks;
mod ids;
mod limits;
mod mounts;
mod namespaces;
mod network;
mod paths;
mod process;
mod resources;
mod root;
mod scheduling;
mod seccomp;
mod security;
mod sysctl;
#[cfg(test)]
mod tests;
mod time;

use std::fmt;

use berth_spec::{Linux, LinuxNamespace, LinuxNamespaceType, Process, Spec};
use thiserror::Error;

use crate::host::HostFacts;

pub use capabilities::capability_names;
pub use mounts::KNOWN_OPTIONS as KNOWN_MOUNT_OPTIONS;

/// A field that cannot be satisfied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// The field's path in config.json, such as `linux.namespaces[2].path`.
    pub field: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

impl Invalid {
    fn new(field: impl fmt::Display, problem: impl fmt::Display) -> Self {
        Self {
            field: field.to_string(),
            problem: problem.to_string(),
        }
    }
}

type Check = fn(&Spec, &HostFacts) -> Result<(), Invalid>;

/// Every check by name, in the order of a reader: the first failure is reported.
const CHECKS: &[(&str, Check)] = &[
    ("version", root::version),
    ("annotations", root::annotations),
    ("process", process::required),
    ("arguments", process::arguments),
    ("working directory", process::working_directory),
    ("environment", process::environment),
    ("console size", process::console_size),
    ("umask", process::umask),
    ("rlimits", limits::rlimits),
    ("oom score", limits::oom_score),
    ("capabilities", capabilities::effective_are_permitted),
    ("scheduler", scheduling::scheduler),
    ("io priority", scheduling::io_priority),
    ("cpu affinity", scheduling::cpu_affinity),
    ("memory policy", scheduling::memory_policy),
    ("namespaces", namespaces::unique),
    ("namespace paths", namespaces::joined),
    ("namespace support", namespaces::supported),
    ("mount namespace", namespaces::mounts_need_one),
    ("uts namespace", namespaces::names_need_one),
    ("user namespace", ids::mappings_need_namespace),
    ("id mappings", ids::mappings),
    ("mapped users", ids::users_are_mapped),
    ("rootless", ids::rootless),
    ("time offsets", time::offsets),
    ("hidden paths", paths::hidden),
    ("cgroup path", paths::cgroup),
    ("propagation", paths::propagation),
    ("mounts", mounts::mounts),
    ("id-mapped mounts", mounts::id_mapped),
    ("devices", devices::nodes),
    ("device rules", devices::rules),
    ("network devices", network::devices),
    ("sysctl", sysctl::sysctl),
    ("memory", resources::memory),
    ("cpu", resources::cpu),
    ("block io", resources::block_io),
    ("huge pages", resources::huge_pages),
    ("unified", resources::unified),
    ("seccomp", seccomp::seccomp),
    ("security labels", security::labels),
    ("mount label", security::mount_label),
    ("intel rdt", security::intel_rdt),
    ("hooks", hooks::hooks),
];

/// Checks a configuration against a host. The first problem found is the answer.
pub fn validate(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    CHECKS.iter().try_for_each(|(_, check)| check(spec, host))
}

/// Checks a process document as `exec` takes it.
pub fn validate_process(process: &Process, spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let mut with = spec.clone();
    with.process = Some(process.clone());
    let checks: [Check; 12] = [
        process::required,
        process::arguments,
        process::working_directory,
        process::environment,
        process::console_size,
        process::umask,
        limits::rlimits,
        limits::oom_score,
        capabilities::effective_are_permitted,
        scheduling::scheduler,
        scheduling::io_priority,
        scheduling::cpu_affinity,
    ];
    checks.iter().try_for_each(|check| check(&with, host))?;
    ids::users_are_mapped(&with, host)?;
    security::labels(&with, host)
}

/// Checks `linux.resources` alone, as `update` changes them.
pub fn validate_resources(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let checks: [Check; 6] = [
        resources::memory,
        resources::cpu,
        resources::block_io,
        resources::huge_pages,
        resources::unified,
        devices::rules,
    ];
    checks.iter().try_for_each(|check| check(spec, host))
}

/// What is accepted though it should not be written, to be logged.
pub fn warnings(spec: &Spec) -> Vec<String> {
    let mut warnings = mounts::deprecated(spec);
    warnings.extend(namespaces::visible_mounts(spec));
    warnings.extend(resources::ignored(spec));
    warnings.extend(ambient(spec));
    let personality = linux(spec).and_then(|linux| linux.personality().as_ref());
    if personality.is_some_and(|personality| personality.flags().iter().flatten().next().is_some()) {
        warnings.push("linux.personality.flags: ignored: the specification defines none".to_owned());
    }
    warnings
}

/// Ambient capabilities that the kernel refuses, as they are not permitted and inheritable (capabilities(7)); in runc's words.
fn ambient(spec: &Spec) -> Vec<String> {
    let Some(sets) = process(spec).and_then(|process| process.capabilities().as_ref()) else {
        return Vec::new();
    };
    let has = |set: &Option<berth_spec::Capabilities>, one| set.is_some_and(|set| set.contains(one));
    let refused =
        |one: &berth_spec::Capability| !has(sets.permitted(), *one) || !has(sets.inheritable(), *one);
    let asked = sets.ambient().iter().flat_map(|set| set.iter());
    asked
        .filter(refused)
        .map(|one| format!("can't raise ambient capability CAP_{one}: operation not permitted"))
        .collect()
}

fn linux(spec: &Spec) -> Option<&Linux> {
    spec.linux().as_ref()
}

fn process(spec: &Spec) -> Option<&Process> {
    spec.process().as_ref()
}

/// The entry for a kind of namespace, if the container has one that is not the runtime's.
fn namespace(spec: &Spec, kind: LinuxNamespaceType) -> Option<&LinuxNamespace> {
    linux(spec)?
        .namespaces()
        .iter()
        .flatten()
        .find(|entry| entry.typ() == kind)
}

/// A list of numbers and ranges as cpuset(7) and numa(7) write it: `0-3,8`.
fn is_number_list(list: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().ok();
    list.split(',').all(|part| match part.split_once('-') {
        Some((first, last)) => matches!((number(first), number(last)), (Some(a), Some(b)) if a <= b),
        None => number(part).is_some(),
    })
}
