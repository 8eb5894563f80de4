//! `process`, and what of `linux` is applied to the process itself.

use std::ffi::CString;

use berth_spec::{
    Capabilities, IOPriorityClass, LinuxNamespaceType, LinuxPersonalityDomain, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, PosixRlimitType, Process,
};

use super::{Context, Gate, PlanError, namespaces, path_text, seccomp, text};
use crate::annotations;
use crate::seccomp::Program;
use crate::wire::{InitStep, Slot, sync};

/// What the environment gets beside what the configuration says.
#[derive(Debug, Default)]
pub(super) struct Environment {
    /// LISTEN_FDS (sd_listen_fds(3)), 0 for none.
    pub(super) listen_fds: u32,
}

/// A session and a session keyring.
pub(super) fn session(id: &str, no_new_keyring: bool, init: &mut Vec<InitStep>) -> Result<(), PlanError> {
    init.push(InitStep::Session {});
    if !no_new_keyring {
        init.push(InitStep::Keyring {
            name: text("id", &format!("_ses.{id}"))?,
        });
    }
    Ok(())
}

/// `process.terminal`, `process.consoleSize`.
pub(super) fn terminal(
    context: &Context<'_>,
    socket: bool,
    device: bool,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let Some(process) = context.process else {
        return Ok(());
    };
    if !process.terminal().unwrap_or_default() {
        return Ok(());
    }
    if !socket {
        return Err(PlanError::NoConsole);
    }
    let size = process.console_size();
    init.push(InitStep::Console {
        socket: Some(Slot::Console),
        rows: size.map_or(0, |size| size.height() as u32),
        columns: size.map_or(0, |size| size.width() as u32),
        uid: process.user().uid(),
        device,
    });
    Ok(())
}

fn apparmor<'a>(context: &Context<'a>) -> Option<&'a str> {
    let profile = context.process?.apparmor_profile().as_deref()?;
    (context.facts.apparmor && !profile.is_empty()).then_some(profile)
}

fn selinux<'a>(context: &Context<'a>) -> Option<&'a str> {
    let label = context.process?.selinux_label().as_deref()?;
    (context.facts.selinux && !label.is_empty()).then_some(label)
}

/// Whether labels are to be written to procfs.
pub(super) fn needs_proc(context: &Context<'_>) -> bool {
    apparmor(context).is_some() || selinux(context).is_some()
}

/// Labels of the next program (`process.apparmorProfile`, `process.selinuxLabel`).
pub(super) fn labels(context: &Context<'_>, init: &mut Vec<InitStep>) -> Result<(), PlanError> {
    if let Some(profile) = apparmor(context) {
        init.push(InitStep::Label {
            path: text("process.apparmorProfile", "thread-self/attr/apparmor/exec")?,
            value: format!("exec {profile}").into_bytes(),
        });
    }
    if let Some(label) = selinux(context) {
        init.push(InitStep::Label {
            path: text("process.selinuxLabel", "thread-self/attr/exec")?,
            value: label.as_bytes().to_vec(),
        });
    }
    Ok(())
}

/// Everything from the limits to execve(2).
pub(super) fn finish(
    context: &Context<'_>,
    environment: &Environment,
    program: Option<&Program>,
    gate: Option<Gate>,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let process = context.process.ok_or(PlanError::NoProgram)?;
    scheduling(context, process, gate.is_none(), init)?;
    if !context.has(LinuxNamespaceType::User) {
        for (resource, soft, hard) in limits(process) {
            init.push(InitStep::Limit { resource, soft, hard });
        }
    }
    let locked = process.no_new_privileges().unwrap_or_default();
    if locked {
        init.push(InitStep::NoNewPrivileges {});
    }
    let sets = process.capabilities().as_ref();
    init.push(InitStep::Bounding {
        keep: mask(sets.and_then(|sets| sets.bounding().as_ref())),
    });
    let cwd = path_text("process.cwd", process.cwd())?;
    init.push(InitStep::WorkingDirectory {
        path: cwd.clone(),
        lenient: true,
    });
    identity(context, process, init);
    init.push(InitStep::WorkingDirectory {
        path: cwd,
        lenient: false,
    });
    init.push(InitStep::Seal {});
    init.push(InitStep::Umask {
        mask: process.user().umask().unwrap_or(0o022),
    });
    let capabilities = capabilities(process);
    if locked {
        init.push(capabilities.clone());
    }
    let (arguments, environment) = program_of(process, environment, init)?;
    let silent = program.filter(|program| program.listener.is_none());
    let listening = program.filter(|program| program.listener.is_some());
    if let Some(program) = listening {
        // Somebody must take the listener's descriptor while the parent is still there.
        init.push(seccomp::step(program));
    }
    match gate {
        Some(Gate::Park) => init.push(InitStep::Park {
            gate: Some(Slot::Gate),
        }),
        Some(Gate::Direct) => init.push(InitStep::Sync { point: sync::READY }),
        None => {}
    }
    if gate.is_some()
        && let Some(hooks) = context
            .spec
            .hooks()
            .as_ref()
            .and_then(|hooks| hooks.start_container().as_ref())
    {
        let own = process.env().as_deref();
        // They are held to the filter as the program is; this process, which has more to do, is not yet.
        let document = Slot::CreatedDocument;
        namespaces::run_hooks("startContainer", document, hooks, own, silent, init)?;
    }
    if let Some(program) = silent {
        init.push(seccomp::step(program));
    }
    if !locked {
        init.push(capabilities);
    }
    init.push(InitStep::Execute {
        arguments,
        environment,
    });
    Ok(())
}

fn identity(context: &Context<'_>, process: &Process, init: &mut Vec<InitStep>) {
    let user = process.user();
    init.push(InitStep::StdioOwner { uid: user.uid() });
    init.push(InitStep::User {
        uid: user.uid(),
        gid: user.gid(),
        set_groups: annotations::get(context.spec, annotations::KEEP_GROUPS).is_none(),
        groups: user
            .additional_gids()
            .iter()
            .flatten()
            .flat_map(|gid| gid.to_ne_bytes())
            .collect(),
    });
}

fn capabilities(process: &Process) -> InitStep {
    let sets = process.capabilities().as_ref();
    let permitted = mask(sets.and_then(|sets| sets.permitted().as_ref()));
    InitStep::Capabilities {
        // The kernel refuses an effective capability that is not permitted.
        effective: mask(sets.and_then(|sets| sets.effective().as_ref())) & permitted,
        permitted,
        inheritable: mask(sets.and_then(|sets| sets.inheritable().as_ref())),
        ambient: mask(sets.and_then(|sets| sets.ambient().as_ref())),
    }
}

fn mask(set: Option<&Capabilities>) -> u64 {
    set.map_or(0, |set| set.mask())
}

/// Plans how the program is found; returns its arguments and environment.
fn program_of(
    process: &Process,
    more: &Environment,
    init: &mut Vec<InitStep>,
) -> Result<(Vec<CString>, Vec<CString>), PlanError> {
    let mut arguments = Vec::new();
    for argument in process.args().iter().flatten() {
        arguments.push(text("process.args", argument)?);
    }
    let name = arguments.first().cloned().ok_or(PlanError::NoProgram)?;
    let mut environment = Vec::new();
    let mut search = None;
    for variable in process.env().iter().flatten() {
        if let Some(value) = variable.strip_prefix("PATH=") {
            search = Some(text("process.env", value)?);
        }
        environment.push(text("process.env", variable)?);
    }
    keep_last(&mut environment);
    // An empty HOME is none.
    let home = |variable: &CString| {
        variable
            .as_bytes()
            .strip_prefix(b"HOME=")
            .is_some_and(|value| !value.is_empty())
    };
    if !environment.iter().any(home) {
        environment.retain(|variable| variable.as_bytes() != b"HOME=");
        init.push(InitStep::Home {
            uid: process.user().uid(),
        });
    }
    if more.listen_fds > 0 {
        environment.push(text("process.env", &format!("LISTEN_FDS={}", more.listen_fds))?);
        environment.push(text("process.env", "LISTEN_PID=1")?);
    }
    init.push(InitStep::Program {
        name,
        search: search.unwrap_or_default(),
    });
    Ok((arguments, environment))
}

/// Of variables given twice the last counts, as with runc and crun: which one a program takes would be its own choice.
fn keep_last(environment: &mut Vec<CString>) {
    let name = |variable: &CString| {
        let bytes = variable.as_bytes();
        let end = bytes.iter().position(|byte| *byte == b'=').unwrap_or(bytes.len());
        bytes[..end].to_vec()
    };
    let mut seen = std::collections::HashSet::with_capacity(environment.len());
    let mut kept: Vec<CString> = environment
        .drain(..)
        .rev()
        .filter(|variable| seen.insert(name(variable)))
        .collect();
    kept.reverse();
    *environment = kept;
}

/// (RLIMIT_* number, soft, hard) of `process.rlimits`.
pub(super) fn limits(process: &Process) -> Vec<(u32, u64, u64)> {
    let number = |kind| match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    };
    process
        .rlimits()
        .iter()
        .flatten()
        .map(|limit| (number(limit.typ()), limit.soft(), limit.hard()))
        .collect()
}

/// Personality, processors, memory nodes, priorities.
fn scheduling(
    context: &Context<'_>,
    process: &Process,
    exec: bool,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let linux = context.spec.linux().as_ref();
    if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
        init.push(InitStep::Personality {
            persona: match personality.domain() {
                LinuxPersonalityDomain::PerLinux => 0,
                LinuxPersonalityDomain::PerLinux32 => 8,
            },
        });
    }
    if let Some(policy) = linux.and_then(|linux| linux.memory_policy().as_ref()) {
        let mut mode = match policy.mode() {
            MemoryPolicyModeType::MpolDefault => 0,
            MemoryPolicyModeType::MpolPreferred => 1,
            MemoryPolicyModeType::MpolBind => 2,
            MemoryPolicyModeType::MpolInterleave => 3,
            MemoryPolicyModeType::MpolLocal => 4,
            MemoryPolicyModeType::MpolPreferredMany => 5,
            MemoryPolicyModeType::MpolWeightedInterleave => 6,
        };
        for flag in policy.flags().iter().flatten() {
            mode |= match flag {
                MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
            };
        }
        let nodes = policy.nodes().as_deref().unwrap_or_default();
        init.push(InitStep::MemoryPolicy {
            mode,
            nodes: bits("linux.memoryPolicy.nodes", nodes)?,
        });
    }
    affinity(process, exec, init)?;
    if let Some(scheduler) = process.scheduler() {
        init.push(InitStep::Scheduler {
            attributes: scheduler_attributes(scheduler),
        });
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        init.push(InitStep::IoPriority {
            priority: class << 13 | (priority.priority() as u32 & 0x1fff),
        });
    }
    Ok(())
}

/// `process.execCPUAffinity`, whose parts are for `exec` alone. With `initial` alone the process keeps what it was
/// born with; with neither it must not inherit what its caller happens to be bound to.
fn affinity(process: &Process, exec: bool, init: &mut Vec<InitStep>) -> Result<(), PlanError> {
    let affinity = process.exec_cpu_affinity().as_ref().filter(|_| exec);
    let last = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref());
    if let Some(list) = last.filter(|list| !list.is_empty()) {
        init.push(InitStep::Affinity {
            mask: bits("process.execCPUAffinity.final", list)?,
        });
    } else if initial_affinity(process).is_none() || !exec {
        init.push(InitStep::AnyProcessor {});
    }
    Ok(())
}

/// `process.execCPUAffinity.initial`: where `exec` itself is to run until the process is in its cgroup.
pub(super) fn initial_affinity(process: &Process) -> Option<&str> {
    let affinity = process.exec_cpu_affinity().as_ref()?;
    affinity.initial().as_deref().filter(|list| !list.is_empty())
}

/// `struct sched_attr` (sched_setattr(2)): size, policy, flags, nice, priority, runtime, deadline, period, and the two
/// bounds of utilization. The specification has flags for these and no values: as with runc they are 0.
fn scheduler_attributes(scheduler: &berth_spec::Scheduler) -> Vec<u8> {
    /// `SCHED_ATTR_SIZE_VER1`: the kernel refuses the flags SCHED_FLAG_UTIL_CLAMP_* with a shorter one.
    const SIZE: u32 = 56;
    use berth_spec::LinuxSchedulerFlag as Flag;
    let policy: u32 = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0u64, |flags, flag| {
        flags
            | match flag {
                Flag::SchedResetOnFork => 0x01,
                Flag::SchedFlagReclaim => 0x02,
                Flag::SchedFlagDLOverrun => 0x04,
                Flag::SchedFlagKeepPolicy => 0x08,
                Flag::SchedFlagKeepParams => 0x10,
                Flag::SchedFlagUtilClampMin => 0x20,
                Flag::SchedFlagUtilClampMax => 0x40,
            }
    });
    let mut attributes = Vec::with_capacity(SIZE as usize);
    attributes.extend(SIZE.to_ne_bytes());
    attributes.extend(policy.to_ne_bytes());
    attributes.extend(flags.to_ne_bytes());
    attributes.extend(scheduler.nice().unwrap_or_default().to_ne_bytes());
    attributes.extend((scheduler.priority().unwrap_or_default() as u32).to_ne_bytes());
    attributes.extend(scheduler.runtime().unwrap_or_default().to_ne_bytes());
    attributes.extend(scheduler.deadline().unwrap_or_default().to_ne_bytes());
    attributes.extend(scheduler.period().unwrap_or_default().to_ne_bytes());
    attributes.extend([0; 8]);
    attributes
}

/// `0-3,7` as a bit mask in whole 64-bit words.
pub(super) fn bits(field: &'static str, list: &str) -> Result<Vec<u8>, PlanError> {
    const MOST: usize = 8192;
    let fail = || PlanError::List {
        field,
        value: list.to_owned(),
    };
    let mut mask = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.parse().map_err(|_| fail())?;
        let last: usize = last.parse().map_err(|_| fail())?;
        if first > last || last >= MOST {
            return Err(fail());
        }
        for bit in first..=last {
            if mask.len() <= bit / 8 {
                mask.resize((bit / 64 + 1) * 8, 0);
            }
            mask[bit / 8] |= 1u8 << (bit % 8);
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_processors() {
        assert_eq!(bits("f", "0-2,8").unwrap(), [7, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bits("f", "64").unwrap().len(), 16);
        assert!(bits("f", "").unwrap().is_empty());
        for bad in ["x", "3-1", "1-", "-1", "99999999"] {
            assert!(bits("f", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capability_numbers_are_the_kernels() {
        use berth_spec::Capability;
        let set: Capabilities = [
            Capability::Chown,
            Capability::SysAdmin,
            Capability::CheckpointRestore,
        ]
        .into_iter()
        .collect();
        assert_eq!(mask(Some(&set)), 1 | 1 << 21 | 1 << 40);
        assert_eq!(mask(None), 0);
    }
}
