//! Rules of one system call that have several actions, and which libseccomp refuses to take together: one
//! that is more general than an earlier one, with another action.

use libseccomp::error::SeccompError as LibraryError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};

use super::SeccompError;
use super::profile::{Architecture, Condition, Operator, Profile, Rule, field};

/// Fails if rules of `profile` contradict each other, in libseccomp's judgement.
pub(super) fn check(profile: &Profile) -> Result<(), SeccompError> {
    let judged = |member: &&Architecture| member.arch == ScmpArch::native();
    // On other architectures libseccomp judges calls together that are one on this one (x86's socket(2) with its
    // socketcall(2)), and refuses rules of engines' default profiles there.
    let native = profile
        .groups()
        .iter()
        .any(|group| group.members.iter().any(judged));
    for group in profile.groups() {
        for member in group.members.iter().filter(|member| !native || judged(member)) {
            for (number, rules) in member.calls() {
                if contested(rules) {
                    check_call(profile, member, number, rules)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether there is anything to judge: several actions that depend on arguments.
fn contested(rules: &[Rule]) -> bool {
    !rules[0].conditions.is_empty() && rules.iter().any(|rule| rule.action != rules[0].action)
}

fn check_call(
    profile: &Profile,
    member: &Architecture,
    number: i32,
    rules: &[Rule],
) -> Result<(), SeccompError> {
    // Under the number's own name: i386's socket calls share one that none of the rules has.
    let native = if number >= 0 {
        ScmpSyscall::from_raw_syscall(number)
            .get_name_by_arch(member.arch)
            .and_then(|name| ScmpSyscall::from_name(&name))
            .map_err(refused("a system call's number"))?
    } else {
        ScmpSyscall::from_raw_syscall(profile.sources[rules[0].source].native)
    };
    let mut filter = context(profile, member)?;
    for rule in rules {
        add(profile, &mut filter, native, rule.source, &rule.conditions)?;
    }
    Ok(())
}

fn refused(what: &str) -> impl FnOnce(LibraryError) -> SeccompError {
    let what = what.to_owned();
    move |source| SeccompError::Library {
        field: "linux.seccomp".to_owned(),
        what,
        source,
    }
}

/// A filter for one architecture.
fn context(profile: &Profile, member: &Architecture) -> Result<ScmpFilterContext, SeccompError> {
    let mut filter =
        ScmpFilterContext::new(action(profile.default)).map_err(refused("the default action"))?;
    if member.arch != ScmpArch::native() {
        filter
            .add_arch(member.arch)
            .map_err(refused("the architecture"))?;
        filter
            .remove_arch(ScmpArch::Native)
            .map_err(refused("the architecture"))?;
    }
    Ok(filter)
}

fn add(
    profile: &Profile,
    filter: &mut ScmpFilterContext,
    number: ScmpSyscall,
    source: usize,
    conditions: &[Condition],
) -> Result<(), SeccompError> {
    let Some(source) = profile.sources.get(source) else {
        return Ok(());
    };
    let conditions: Vec<ScmpArgCompare> = conditions.iter().map(|one| compare(*one)).collect();
    match filter.add_rule_conditional(action(source.action), number, &conditions) {
        Ok(_) => Ok(()),
        Err(error) => Err(SeccompError::Library {
            field: field(source.index),
            what: format!("the rule for {:?} (it contradicts an earlier rule)", source.name),
            source: error,
        }),
    }
}

pub(super) fn action(value: u32) -> ScmpAction {
    let data = (value & 0xffff) as u16;
    match value & 0xffff_0000 {
        0x8000_0000 => ScmpAction::KillProcess,
        0x0003_0000 => ScmpAction::Trap,
        0x0005_0000 => ScmpAction::Errno(i32::from(data)),
        0x7fc0_0000 => ScmpAction::Notify,
        0x7ff0_0000 => ScmpAction::Trace(data),
        0x7ffc_0000 => ScmpAction::Log,
        0x7fff_0000 => ScmpAction::Allow,
        _ => ScmpAction::KillThread,
    }
}

pub(super) fn compare(condition: Condition) -> ScmpArgCompare {
    let operator = match condition.operator {
        Operator::Equal if condition.masked => ScmpCompareOp::MaskedEqual(condition.mask),
        Operator::Equal => ScmpCompareOp::Equal,
        Operator::NotEqual => ScmpCompareOp::NotEqual,
        Operator::Less => ScmpCompareOp::Less,
        Operator::LessOrEqual => ScmpCompareOp::LessOrEqual,
        Operator::Greater => ScmpCompareOp::Greater,
        Operator::GreaterOrEqual => ScmpCompareOp::GreaterEqual,
    };
    ScmpArgCompare::new(u32::from(condition.argument), operator, condition.value)
}
