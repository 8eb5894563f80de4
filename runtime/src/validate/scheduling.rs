//! How the process is scheduled: policy, io priority, cpu affinity, memory policy.

use berth_spec::{LinuxSchedulerPolicy, MemoryPolicyModeType, Spec};

use super::{Invalid, is_number_list, linux, process};
use crate::host::HostFacts;

/// sched_setattr(2): which fields belong to which policy.
pub(super) fn scheduler(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    use LinuxSchedulerPolicy::{SchedBatch, SchedDeadline, SchedFifo, SchedIso, SchedOther, SchedRr};
    let Some(scheduler) = process(spec).and_then(|process| process.scheduler().as_ref()) else {
        return Ok(());
    };
    let policy = *scheduler.policy();
    let field = |name: &str| format!("process.scheduler.{name}");
    if policy == SchedIso {
        return Err(Invalid::new(
            field("policy"),
            "SCHED_ISO is reserved and not implemented by Linux: choose another",
        ));
    }
    let nice = scheduler.nice().unwrap_or_default();
    if matches!(policy, SchedOther | SchedBatch) && !(-20..=19).contains(&nice) {
        return Err(Invalid::new(
            field("nice"),
            format_args!("{nice} is out of range: use -20 to 19"),
        ));
    }
    let priority = scheduler.priority().unwrap_or_default();
    if matches!(policy, SchedFifo | SchedRr) {
        if !(1..=99).contains(&priority) {
            let problem = format!("{priority} is out of range for {policy}: use 1 to 99");
            return Err(Invalid::new(field("priority"), problem));
        }
    } else if priority != 0 {
        let problem = format!("can only be specified for SCHED_FIFO or SCHED_RR, not {policy}: remove it");
        return Err(Invalid::new(field("priority"), problem));
    }
    let (runtime, deadline, period) = (
        scheduler.runtime().unwrap_or_default(),
        scheduler.deadline().unwrap_or_default(),
        scheduler.period().unwrap_or_default(),
    );
    if policy != SchedDeadline {
        let given = [("runtime", runtime), ("deadline", deadline), ("period", period)];
        return match given.iter().find(|(_, value)| *value != 0) {
            Some((name, _)) => {
                let problem = format!("can only be specified for SCHED_DEADLINE, not {policy}: remove it");
                Err(Invalid::new(field(name), problem))
            }
            None => Ok(()),
        };
    }
    // A period of 0 means the deadline.
    let period = if period == 0 { deadline } else { period };
    if runtime < 1024 || runtime > deadline || deadline > period {
        let problem = "SCHED_DEADLINE needs 1024 <= runtime <= deadline <= period (nanoseconds)";
        return Err(Invalid::new(field("runtime"), problem));
    }
    Ok(())
}

/// ioprio_set(2).
pub(super) fn io_priority(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    match process(spec).and_then(|process| process.io_priority().as_ref()) {
        Some(io) if !(0..=7).contains(&io.priority()) => Err(Invalid::new(
            "process.ioPriority.priority",
            format_args!("{} is out of range: use 0 (highest) to 7", io.priority()),
        )),
        _ => Ok(()),
    }
}

/// config.md "execCPUAffinity": lists of cpus.
pub(super) fn cpu_affinity(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(affinity) = process(spec).and_then(|process| process.exec_cpu_affinity().as_ref()) else {
        return Ok(());
    };
    for (name, list) in [
        ("initial", affinity.initial()),
        ("final", affinity.cpu_affinity_final()),
    ] {
        if let Some(list) = list
            .as_deref()
            .filter(|list| !list.is_empty() && !is_number_list(list))
        {
            let field = format!("process.execCPUAffinity.{name}");
            return Err(Invalid::new(
                field,
                format_args!("{list:?} is not a list of cpus: write it as \"0-3,7\""),
            ));
        }
    }
    Ok(())
}

/// set_mempolicy(2): which modes take nodes.
pub(super) fn memory_policy(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    use MemoryPolicyModeType::{
        MpolBind, MpolDefault, MpolInterleave, MpolLocal, MpolPreferred, MpolPreferredMany,
        MpolWeightedInterleave,
    };
    let Some(policy) = linux(spec).and_then(|linux| linux.memory_policy().as_ref()) else {
        return Ok(());
    };
    let field = "linux.memoryPolicy.nodes";
    let nodes = policy.nodes().as_deref().unwrap_or_default();
    if !nodes.is_empty() && !is_number_list(nodes) {
        return Err(Invalid::new(
            field,
            format_args!(
                "invalid memory policy nodes: {nodes:?} is not a list of nodes: write it as \"0-1,3\""
            ),
        ));
    }
    match policy.mode() {
        MpolDefault | MpolLocal if !nodes.is_empty() => Err(Invalid::new(
            field,
            format_args!(
                "memory policy mode requires 0 nodes but got {}: remove them",
                listed(nodes)
            ),
        )),
        MpolBind | MpolInterleave | MpolPreferredMany | MpolWeightedInterleave if nodes.is_empty() => Err(
            Invalid::new(field, "this mode requires at least one node: name it"),
        ),
        MpolDefault
        | MpolLocal
        | MpolBind
        | MpolInterleave
        | MpolPreferredMany
        | MpolWeightedInterleave
        | MpolPreferred => Ok(()),
    }
}

/// How many numbers a list such as `0-3,7` has.
fn listed(list: &str) -> u64 {
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    let parts = list.split(',').map(|part| match part.split_once('-') {
        Some((first, last)) => number(last).saturating_sub(number(first)) + 1,
        None => 1,
    });
    parts.sum()
}
