use std::collections::BTreeSet;

use berth_spec::LinuxSeccomp;

use super::profiles::{Random, VALUES, engine_like, names, random};
use super::*;
use crate::seccomp::profile::{Condition, Operator, unconditional};

/// Numbers around everything that could matter: each ABI's table, x32's bit, and below zero.
fn numbers() -> Vec<u32> {
    let table = 0..600_u32;
    let bases = [0, 1 << 30, 2 << 30, 3 << 30];
    let mut numbers: Vec<u32> = table.flat_map(|number| bases.map(|base| base | number)).collect();
    numbers.extend((0..8).map(|below| u32::MAX - below));
    numbers.extend([
        (1 << 30) - 1,
        (1 << 31) - 1,
        0x0f_0000,
        0x0f_0001,
        0x0f_0005,
        0x0f_ffff,
    ]);
    numbers
}

/// Values at and beside those of the profile's rules, in both halves.
fn interesting(seccomp: &LinuxSeccomp) -> Vec<u64> {
    let mut values = VALUES.to_vec();
    for arg in seccomp
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|call| call.args().iter().flatten())
    {
        for value in [arg.value(), arg.value_two().unwrap_or(0)] {
            values.extend([
                value,
                value.wrapping_sub(1),
                value.wrapping_add(1),
                value ^ (1 << 32),
                value | 1 << 63,
                !value,
            ]);
        }
    }
    values.sort_unstable();
    values.dedup();
    values
}

/// The actions of the rules that hold for `call`, read off the profile without any program; the default if
/// none does. `None` for numbers without rules that look at arguments.
fn meaning(profile: &Profile, call: &Call) -> Option<(Vec<u32>, bool)> {
    let groups = profile.groups();
    let group = groups.iter().find(|group| group.audit == call.audit)?;
    let member = group
        .members
        .iter()
        .find(|one| !one.rules(call.number).is_empty())?;
    let rules = member.rules(call.number);
    // i386's direct socket calls can be newer than all that the profile names, by runc's count.
    let unknown = profile.enosys && member.last.is_some_and(|last| call.number > last);
    if unknown || unconditional(rules).is_some() {
        return None;
    }
    let holds = |condition: &Condition| {
        let argument = call.arguments[usize::from(condition.argument)];
        let word = if member.wide() {
            argument
        } else {
            argument & 0xffff_ffff
        } & condition.mask;
        match condition.operator {
            Operator::Equal => word == condition.value,
            Operator::NotEqual => word != condition.value,
            Operator::Less => word < condition.value,
            Operator::LessOrEqual => word <= condition.value,
            Operator::Greater => word > condition.value,
            Operator::GreaterOrEqual => word >= condition.value,
        }
    };
    let mut actions: Vec<u32> = rules
        .iter()
        .filter(|rule| rule.conditions.iter().all(holds))
        .map(|rule| rule.action)
        .collect();
    if actions.is_empty() {
        actions.push(profile.default);
    }
    // libseccomp merges several rules for one call into a tree. Rules of several conditions can share a part
    // there so that one is taken for the other, and even what no rule allows is allowed; and of several actions
    // for bounds, the one that was added first or last wins above 2^32. There the profile's own words are the
    // only measure.
    let several = rules.iter().any(|rule| rule.action != rules[0].action);
    let bounds = rules
        .iter()
        .flat_map(|rule| &rule.conditions)
        .any(|one| one.operator != Operator::Equal);
    let tangled =
        rules.len() > 1 && (rules.iter().any(|rule| rule.conditions.len() > 1) || several && bounds);
    Some((actions, tangled))
}

/// Compares with `reference` and with the profile's own words; returns how many calls were left to the latter
/// alone.
fn compare(
    seccomp: &LinuxSeccomp,
    reference: impl Fn(&Call) -> u32,
    dice: &mut Random,
    vectors: usize,
) -> usize {
    let program = ours(seccomp);
    let values = interesting(seccomp);
    // Numbers with rules get many argument vectors, all others one.
    let profile = Profile::check(seccomp).unwrap();
    let ruled: BTreeSet<u32> = profile
        .groups()
        .iter()
        .flat_map(|group| {
            group
                .members
                .iter()
                .flat_map(|one| one.numbers().collect::<Vec<_>>())
        })
        .collect();
    let audits = [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0xc000_00f3];
    let mut differing = 0;
    for number in numbers() {
        let count = if ruled.contains(&number) { vectors } else { 1 };
        for audit in audits {
            for _ in 0..count {
                let call = Call {
                    number,
                    audit,
                    arguments: std::array::from_fn(|_| dice.pick(&values)),
                };
                let (found, wanted) = (run(&program, &call), reference(&call));
                let text = || format!("{seccomp:?}");
                let meant = meaning(&profile, &call);
                if let Some((actions, _)) = &meant {
                    assert!(
                        actions.contains(&found),
                        "{call:x?}: {found:#x} instead of one of {actions:x?} in {}",
                        text()
                    );
                }
                if found != wanted && meant.is_some_and(|(_, tangled)| tangled) {
                    differing += 1;
                    continue;
                }
                assert_eq!(
                    found,
                    wanted,
                    "{call:x?}: {found:#x} instead of {wanted:#x} in {}",
                    text()
                );
            }
        }
    }
    differing
}

#[test]
fn an_engines_profile() {
    let seccomp = engine_like();
    let mut dice = Random::new(1);
    // runc has libseccomp build a tree for profiles of this size; the plain chain means the same.
    for optimize in [1, 2] {
        let reference = Reference::new(&seccomp, optimize).unwrap();
        assert_eq!(compare(&seccomp, |call| reference.answer(call), &mut dice, 20), 0);
        assert_eq!(
            compare(&seccomp, |call| reference.answer_of_program(call), &mut dice, 20),
            0
        );
    }
    assert_eq!(compile(&seccomp).unwrap().ignored, ["not_a_system_call"]);
}

#[test]
fn random_profiles() {
    let names = names();
    let (mut equal, mut refused) = (0, 0);
    for seed in 0..500 {
        let mut dice = Random::new(seed + 77);
        let seccomp = random(&mut dice, &names);
        if let Some(reference) = Reference::new(&seccomp, 1) {
            compare(&seccomp, |call| reference.answer(call), &mut dice, 40);
            equal += 1;
            continue;
        }
        // Contradictions are judged on the host's own architecture alone.
        let mut native = seccomp.clone();
        native.architectures = None;
        if Reference::new(&native, 1).is_none() {
            assert!(compile(&seccomp).is_err(), "libseccomp refuses {native:?}");
            refused += 1;
        }
    }
    assert!(
        equal >= 300 && refused >= 1,
        "{equal} compared, {refused} refused"
    );
}

#[test]
fn rules_for_one_call_meet() {
    let names: Vec<String> = ["socket", "personality", "clone", "semop", "accept", "read"]
        .map(str::to_owned)
        .to_vec();
    let mut compared = 0;
    for seed in 0..400 {
        let mut dice = Random::new(seed + 100_000);
        let seccomp = random(&mut dice, &names);
        if let Some(reference) = Reference::new(&seccomp, 1) {
            compare(&seccomp, |call| reference.answer(call), &mut dice, 40);
            compared += 1;
        }
    }
    assert!(compared >= 100, "{compared}");
}

/// The table of i386's direct numbers against libseccomp's.
#[test]
fn direct_numbers_of_i386() {
    use super::super::profile::I386_DIRECT;
    for (name, number) in I386_DIRECT {
        let found = ScmpSyscall::from_raw_syscall(number)
            .get_name_by_arch(ScmpArch::X86)
            .unwrap();
        assert_eq!(found, name);
    }
    let multiplexed = (0..600_i32).filter(|number| {
        let Ok(name) = ScmpSyscall::from_raw_syscall(*number).get_name_by_arch(ScmpArch::X86) else {
            return false;
        };
        ScmpSyscall::from_name_by_arch(&name, ScmpArch::X86).is_ok_and(|call| call.as_raw_syscall() < 0)
    });
    let found: Vec<i32> = multiplexed.collect();
    let mut table: Vec<i32> = I386_DIRECT.iter().map(|(_, number)| *number).collect();
    table.sort_unstable();
    assert_eq!(found, table);
}
