//! The checked form of a profile: rules by architecture and system call number.

use berth_spec::{Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompOperator, LinuxSyscall};
use libseccomp::{ScmpArch, ScmpSyscall};

use super::{SeccompError, invalid};

/// How one argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// One comparison: (argument & mask) against a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub argument: u8,
    pub operator: Operator,
    pub mask: u64,
    pub value: u64,
    /// Whether the profile has a mask, which libseccomp tells from a comparison with all bits.
    pub masked: bool,
}

/// A rule for one system call: if all conditions hold, the action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub conditions: Vec<Condition>,
    /// SECCOMP_RET_* with its data.
    pub action: u32,
    /// The rule of the profile that it comes from.
    pub source: usize,
}

/// A rule as the profile has it, by the number on the native architecture: libseccomp's own terms.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub name: String,
    pub native: i32,
    pub action: u32,
    #[cfg(test)]
    pub conditions: Vec<Condition>,
    /// Position in `linux.seccomp.syscalls`.
    pub index: usize,
}

/// One architecture of the profile.
#[derive(Debug)]
pub(super) struct Architecture {
    pub arch: ScmpArch,
    /// libseccomp's number for it.
    token: u32,
    /// The greatest number that the profile mentions; calls above it are unknown to it.
    pub last: Option<u32>,
    /// Rules with the numbers of their calls, as they come; [`Architecture::settle`] takes them.
    added: Vec<(i32, Rule)>,
    /// Rules in the order of their numbers, those of one call in the profile's order.
    rules: Vec<Rule>,
    /// Each call that has rules, by its number, with the end of its rules in `rules`. Numbers that are negative are
    /// libseccomp's for calls that the architecture does not have.
    calls: Vec<(i32, usize)>,
}

/// Architectures that the kernel reports as one: x86_64 and x32.
pub(super) struct Group<'a> {
    pub audit: u32,
    pub members: Vec<&'a Architecture>,
}

#[derive(Debug)]
pub(super) struct Profile {
    pub default: u32,
    pub notifies: bool,
    /// Whether calls newer than the profile get ENOSYS: not where the default lets them pass.
    pub enosys: bool,
    pub sources: Vec<Source>,
    pub ignored: Vec<String>,
    architectures: Vec<Architecture>,
}

/// x32's numbers have this bit set.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Profile {
    pub fn check(seccomp: &LinuxSeccomp) -> Result<Self, SeccompError> {
        let default = action(
            seccomp.default_action(),
            seccomp.default_errno_ret(),
            "linux.seccomp.defaultErrnoRet",
        )?;
        if seccomp.default_action() == LinuxSeccompAction::ScmpActNotify {
            return Err(invalid(
                "linux.seccomp.defaultAction",
                "SCMP_ACT_NOTIFY cannot be the default action",
            ));
        }
        let mut profile = Self {
            default,
            notifies: false,
            enosys: !matches!(
                seccomp.default_action(),
                LinuxSeccompAction::ScmpActAllow
                    | LinuxSeccompAction::ScmpActLog
                    | LinuxSeccompAction::ScmpActTrace
            ),
            sources: Vec::new(),
            ignored: Vec::new(),
            architectures: architectures(seccomp)?,
        };
        for (index, call) in seccomp.syscalls().iter().flatten().enumerate() {
            profile.add(index, call)?;
        }
        for one in &mut profile.architectures {
            one.settle();
        }
        Ok(profile)
    }

    /// The architectures as the kernel tells them apart, the native one first.
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups: Vec<Group<'_>> = Vec::new();
        for one in &self.architectures {
            let audit = one.audit();
            match groups.iter_mut().find(|group| group.audit == audit) {
                Some(group) => group.members.push(one),
                None => groups.push(Group {
                    audit,
                    members: vec![one],
                }),
            }
        }
        groups
    }

    fn add(&mut self, index: usize, call: &LinuxSyscall) -> Result<(), SeccompError> {
        let field = field(index);
        let action = action(call.action(), call.errno_ret(), &format!("{field}.errnoRet"))?;
        let notify = call.action() == LinuxSeccompAction::ScmpActNotify;
        let lists = conditions(&field, call)?;
        if call.names().is_empty() {
            return Err(invalid(
                format!("{field}.names"),
                "must have at least one system call",
            ));
        }
        for (position, name) in call.names().iter().enumerate() {
            if name.is_empty() || name.contains('\0') {
                return Err(invalid(
                    format!("{field}.names[{position}]"),
                    "is not the name of a system call",
                ));
            }
            if notify && name == "write" {
                return Err(invalid(
                    format!("{field}.names[{position}]"),
                    "SCMP_ACT_NOTIFY cannot be used for write, which the container's start needs",
                ));
            }
            self.notifies |= notify;
            // libseccomp would refuse a rule with the default action; runc leaves it out without a word.
            let rules = if action == self.default { &[][..] } else { &lists };
            // The native architecture is the first.
            let mut native = None;
            for (position, one) in self.architectures.iter_mut().enumerate() {
                let number = one.resolve(name);
                one.mention(number);
                if position == 0 {
                    native = number;
                }
                let (Some(number), Some(_)) = (number, native) else {
                    continue;
                };
                for (offset, conditions) in rules.iter().enumerate() {
                    let rule = Rule {
                        conditions: conditions.clone(),
                        action,
                        source: self.sources.len() + offset,
                    };
                    one.add(name, number, rule);
                }
            }
            let Some(native) = native else {
                if !rules.is_empty() {
                    self.ignored.push(name.clone());
                }
                continue;
            };
            #[cfg_attr(
                not(test),
                expect(unused_variables, reason = "sources have them for tests alone")
            )]
            for conditions in rules {
                self.sources.push(Source {
                    name: name.clone(),
                    native,
                    action,
                    #[cfg(test)]
                    conditions: conditions.clone(),
                    index,
                });
            }
        }
        Ok(())
    }
}

/// The action of a call's rules without regard to arguments, if they have one: the first such rule takes the place of
/// all that look at arguments (libseccomp keeps the most general one).
pub(super) fn unconditional(rules: &[Rule]) -> Option<u32> {
    let mut rules = rules.iter();
    rules
        .find(|rule| rule.conditions.is_empty())
        .map(|rule| rule.action)
}

/// The place of a rule in the configuration.
pub(super) fn field(index: usize) -> String {
    format!("linux.seccomp.syscalls[{index}]")
}

impl Architecture {
    /// Puts the rules that were added in order.
    fn settle(&mut self) {
        let mut added = std::mem::take(&mut self.added);
        added.sort_by_key(|(number, _)| *number);
        self.rules.reserve_exact(added.len());
        for (number, rule) in added {
            self.rules.push(rule);
            match self.calls.last_mut() {
                Some((last, end)) if *last == number => *end = self.rules.len(),
                _ => self.calls.push((number, self.rules.len())),
            }
        }
    }

    fn rules_at(&self, position: usize) -> &[Rule] {
        let start = position.checked_sub(1).map_or(0, |before| self.calls[before].1);
        &self.rules[start..self.calls[position].1]
    }

    pub fn audit(&self) -> u32 {
        if self.arch == ScmpArch::X32 {
            X86_64.1
        } else {
            self.token
        }
    }

    /// Whether arguments have 64 bits.
    pub fn wide(&self) -> bool {
        self.token & 0x8000_0000 != 0
    }

    /// All calls with their rules; a name's number is negative where the architecture does not have the call.
    pub fn calls(&self) -> impl Iterator<Item = (i32, &[Rule])> + '_ {
        let call = |(position, (number, _)): (usize, &(i32, usize))| (*number, self.rules_at(position));
        self.calls.iter().enumerate().map(call)
    }

    pub fn numbers(&self) -> impl Iterator<Item = u32> + '_ {
        self.calls
            .iter()
            .filter_map(|(number, _)| u32::try_from(*number).ok())
    }

    pub fn rules(&self, number: u32) -> &[Rule] {
        let found = i32::try_from(number)
            .ok()
            .and_then(|number| self.calls.binary_search_by_key(&number, |call| call.0).ok());
        found.map_or(&[], |position| self.rules_at(position))
    }

    fn resolve(&self, name: &str) -> Option<i32> {
        ScmpSyscall::from_name_by_arch(name, self.arch)
            .ok()
            .map(ScmpSyscall::as_raw_syscall)
    }

    fn mention(&mut self, number: Option<i32>) {
        let number = number.and_then(|number| u32::try_from(number).ok());
        // 0 does not count, as with runc.
        self.last = self.last.max(number.filter(|number| *number > 0));
    }

    fn add(&mut self, name: &str, number: i32, mut rule: Rule) {
        if self.arch == ScmpArch::X86 && number < 0 {
            self.add_multiplexed(name, number, rule);
            return;
        }
        rule.conditions = normal(&rule.conditions, self.wide());
        self.added.push((number, rule));
    }

    /// i386's socket and System V IPC calls: one number for all, with the operation as first argument, and
    /// since Linux 4.3 (5.1) a number for most.
    fn add_multiplexed(&mut self, name: &str, pseudo: i32, rule: Rule) {
        let (shared, operation) = match pseudo {
            -199..=-100 => (102, (-pseudo) % 100),
            -299..=-200 => (117, (-pseudo) % 200),
            _ => return,
        };
        let mut multiplexed = rule.clone();
        multiplexed.conditions.retain(|condition| condition.argument != 0);
        multiplexed.conditions.insert(
            0,
            Condition {
                argument: 0,
                operator: Operator::Equal,
                mask: u64::MAX,
                value: operation as u64,
                masked: false,
            },
        );
        let direct = I386_DIRECT
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, number)| *number);
        for (number, mut rule) in [Some((shared, multiplexed)), direct.map(|number| (number, rule))]
            .into_iter()
            .flatten()
        {
            rule.conditions = normal(&rule.conditions, false);
            self.added.push((number, rule));
        }
    }
}

/// i386 calls that are both multiplexed and direct (arch/x86/entry/syscalls/syscall_32.tbl).
pub(super) const I386_DIRECT: [(&str, i32); 27] = [
    ("recvmmsg", 337),
    ("sendmmsg", 345),
    ("socket", 359),
    ("socketpair", 360),
    ("bind", 361),
    ("connect", 362),
    ("listen", 363),
    ("accept4", 364),
    ("getsockopt", 365),
    ("setsockopt", 366),
    ("getsockname", 367),
    ("getpeername", 368),
    ("sendto", 369),
    ("sendmsg", 370),
    ("recvfrom", 371),
    ("recvmsg", 372),
    ("shutdown", 373),
    ("semget", 393),
    ("semctl", 394),
    ("shmget", 395),
    ("shmctl", 396),
    ("shmat", 397),
    ("shmdt", 398),
    ("msgget", 399),
    ("msgsnd", 400),
    ("msgrcv", 401),
    ("msgctl", 402),
];

/// Conditions as the architecture tests them: arguments of 32 bits are compared with the low half of the
/// value, and a mask of nothing is no condition.
fn normal(conditions: &[Condition], wide: bool) -> Vec<Condition> {
    let mut list: Vec<Condition> = conditions
        .iter()
        .map(|condition| {
            let mask = if wide {
                condition.mask
            } else {
                condition.mask & 0xffff_ffff
            };
            Condition {
                mask,
                value: condition.value & mask,
                ..*condition
            }
        })
        .filter(|condition| condition.mask != 0)
        .collect();
    list.sort_by_key(|condition| condition.argument);
    list
}

/// The rules' condition lists: one with all, or one for each if an argument occurs twice (then they are
/// alternatives, as in runc and Docker before).
fn conditions(field: &str, call: &LinuxSyscall) -> Result<Vec<Vec<Condition>>, SeccompError> {
    let mut list = Vec::new();
    let mut twice = false;
    for (position, arg) in call.args().iter().flatten().enumerate() {
        let argument = u8::try_from(arg.index())
            .ok()
            .filter(|index| *index < 6)
            .ok_or_else(|| {
                invalid(
                    format!("{field}.args[{position}].index"),
                    format!("{} is not within 0 to 5", arg.index()),
                )
            })?;
        let (operator, mask, value) = match arg.op() {
            LinuxSeccompOperator::ScmpCmpNe => (Operator::NotEqual, u64::MAX, arg.value()),
            LinuxSeccompOperator::ScmpCmpLt => (Operator::Less, u64::MAX, arg.value()),
            LinuxSeccompOperator::ScmpCmpLe => (Operator::LessOrEqual, u64::MAX, arg.value()),
            LinuxSeccompOperator::ScmpCmpEq => (Operator::Equal, u64::MAX, arg.value()),
            LinuxSeccompOperator::ScmpCmpGe => (Operator::GreaterOrEqual, u64::MAX, arg.value()),
            LinuxSeccompOperator::ScmpCmpGt => (Operator::Greater, u64::MAX, arg.value()),
            LinuxSeccompOperator::ScmpCmpMaskedEq => {
                (Operator::Equal, arg.value(), arg.value_two().unwrap_or(0))
            }
        };
        twice |= list.iter().any(|known: &Condition| known.argument == argument);
        let masked = arg.op() == LinuxSeccompOperator::ScmpCmpMaskedEq;
        list.push(Condition {
            argument,
            operator,
            mask,
            value,
            masked,
        });
    }
    Ok(if twice {
        list.into_iter().map(|one| vec![one]).collect()
    } else {
        vec![list]
    })
}

/// SECCOMP_RET_* of an action, with its data.
fn action(action: LinuxSeccompAction, errno: Option<u32>, field: &str) -> Result<u32, SeccompError> {
    const EPERM: u32 = 1;
    let data = match errno {
        Some(value) if value > 0xffff => {
            return Err(invalid(
                field,
                format!("{value} is not an errno; the greatest is 4095"),
            ));
        }
        other => other.unwrap_or(EPERM),
    };
    let plain = match action {
        LinuxSeccompAction::ScmpActErrno => return Ok(0x0005_0000 | data),
        LinuxSeccompAction::ScmpActTrace => return Ok(0x7ff0_0000 | data),
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => 0,
        LinuxSeccompAction::ScmpActKillProcess => 0x8000_0000,
        LinuxSeccompAction::ScmpActTrap => 0x0003_0000,
        LinuxSeccompAction::ScmpActNotify => 0x7fc0_0000,
        LinuxSeccompAction::ScmpActLog => 0x7ffc_0000,
        LinuxSeccompAction::ScmpActAllow => 0x7fff_0000,
    };
    match errno {
        // The specification demands the error; a value of 0 is what some engines write for "none".
        Some(value) if value != 0 => Err(invalid(
            field,
            "only SCMP_ACT_ERRNO and SCMP_ACT_TRACE return a code; remove it or change the action",
        )),
        _ => Ok(plain),
    }
}

/// The native architecture, and those that the profile adds.
fn architectures(seccomp: &LinuxSeccomp) -> Result<Vec<Architecture>, SeccompError> {
    let mut list = vec![NATIVE];
    for (index, arch) in seccomp.architectures().iter().flatten().enumerate() {
        let field = || format!("linux.seccomp.architectures[{index}]");
        if *arch == Arch::ScmpArchNative {
            continue;
        }
        let Some(known) = known(*arch) else {
            let reason =
                format!("{arch} is not an architecture that libseccomp can filter on this host; remove it");
            return Err(invalid(field(), reason));
        };
        // What this host cannot run, the kernel never reports: like any architecture that is not listed.
        if RUNNABLE.contains(&known.0) && !list.contains(&known) {
            list.push(known);
        }
    }
    Ok(list
        .into_iter()
        .map(|(arch, token)| Architecture {
            arch,
            token,
            last: None,
            added: Vec::new(),
            rules: Vec::new(),
            calls: Vec::new(),
        })
        .collect())
}

/// Whether a profile for this host may name an architecture.
pub(super) fn takes(arch: Arch) -> bool {
    arch == Arch::ScmpArchNative || known(arch).is_some()
}

/// One filter cannot serve two byte orders (seccomp_arch_add(3)), and Berth's hosts are little-endian.
fn known(arch: Arch) -> Option<(ScmpArch, u32)> {
    let little = arch as u32 & LITTLE_ENDIAN != 0;
    let mut all = KNOWN.iter().copied();
    all.find(|(_, token)| *token == arch as u32).filter(|_| little)
}

const LITTLE_ENDIAN: u32 = 0x4000_0000;
const X86_64: (ScmpArch, u32) = (ScmpArch::X8664, 0xc000_003e);

#[cfg(target_arch = "x86_64")]
const NATIVE: (ScmpArch, u32) = X86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: (ScmpArch, u32) = (ScmpArch::Aarch64, 0xc000_00b7);

/// Architectures whose peculiarities this compiler knows, among them all that its hosts can run.
const RUNNABLE: [ScmpArch; 6] = [
    ScmpArch::X8664,
    ScmpArch::X86,
    ScmpArch::X32,
    ScmpArch::Aarch64,
    ScmpArch::Arm,
    ScmpArch::Riscv64,
];

/// Little-endian architectures of libseccomp 2.5 with their tokens, which are the kernel's AUDIT_ARCH_* but
/// for x32.
const KNOWN: [(ScmpArch, u32); 10] = [
    X86_64,
    (ScmpArch::X86, 0x4000_0003),
    (ScmpArch::X32, 0x4000_003e),
    (ScmpArch::Arm, 0x4000_0028),
    (ScmpArch::Aarch64, 0xc000_00b7),
    (ScmpArch::Mipsel, 0x4000_0008),
    (ScmpArch::Mipsel64, 0xc000_0008),
    (ScmpArch::Mipsel64N32, 0xe000_0008),
    (ScmpArch::Ppc64Le, 0xc000_0015),
    (ScmpArch::Riscv64, 0xc000_00f3),
];
