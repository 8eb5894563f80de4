//! The system call numbers of an architecture, cut into ranges with one outcome each.

use libseccomp::ScmpArch;

use super::profile::{Architecture, Group, Profile, X32_BIT, unconditional};

/// What happens to the calls of a range.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome<'a> {
    /// This SECCOMP_RET_* value.
    Return(u32),
    /// The rules of this number decide by the arguments.
    Rules(&'a Architecture, u32),
}

impl PartialEq for Outcome<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Return(one), Self::Return(two)) => one == two,
            (Self::Rules(one, n), Self::Rules(two, m)) => std::ptr::eq(*one, *two) && n == m,
            _ => false,
        }
    }
}

const RET_KILL_THREAD: u32 = 0;
const RET_ENOSYS: u32 = 0x0005_0026;

/// The ranges of `group` by their first number, ascending from 0; neighbours differ.
pub(super) fn of<'a>(profile: &Profile, group: &Group<'a>) -> Vec<(u32, Outcome<'a>)> {
    // Nothing changes but at these numbers: the outcome of one number is all that needs to be written down.
    let mut starts = vec![0, X32_BIT, 2 * X32_BIT, 3 * X32_BIT, u32::MAX];
    for member in &group.members {
        starts.extend(member.last.and_then(|last| last.checked_add(1)));
        for number in member.numbers() {
            starts.extend([Some(number), number.checked_add(1)].into_iter().flatten());
        }
    }
    starts.sort_unstable();
    starts.dedup();
    let mut ranges: Vec<(u32, Outcome<'a>)> = Vec::new();
    for start in starts {
        let found = outcome(profile, group, start);
        if ranges.last().is_none_or(|(_, last)| *last != found) {
            ranges.push((start, found));
        }
    }
    ranges
}

fn outcome<'a>(profile: &Profile, group: &Group<'a>, number: u32) -> Outcome<'a> {
    let x32 = number & X32_BIT != 0;
    let member = |arch| group.members.iter().find(|one| one.arch == arch).copied();
    let (addressed, refused) = match group.members.as_slice() {
        [one] if one.arch == ScmpArch::X8664 => {
            // Without x32 in the profile, its calls are those of a foreign architecture. -1 is no call: a tracer
            // skips one so (seccomp(2)), and libseccomp lets it through to the default.
            (
                Some(*one).filter(|_| !x32),
                number >= X32_BIT && number != u32::MAX,
            )
        }
        [one] => (Some(*one), false),
        _ => (member(if x32 { ScmpArch::X32 } else { ScmpArch::X8664 }), false),
    };
    // runc: what is newer than the newest call of the profile does not exist, so that programs fall back to
    // what the profile's author knew.
    if profile.enosys
        && addressed
            .and_then(|one| one.last)
            .is_some_and(|last| number > last)
    {
        return Outcome::Return(RET_ENOSYS);
    }
    if refused {
        return Outcome::Return(RET_KILL_THREAD);
    }
    for one in &group.members {
        let rules = one.rules(number);
        if let Some(action) = unconditional(rules) {
            return Outcome::Return(action);
        }
        if !rules.is_empty() {
            return Outcome::Rules(one, number);
        }
    }
    Outcome::Return(profile.default)
}
