//! `linux.seccomp` to classic BPF.
//!
//! The kernel runs a filter for every system call number once when it is loaded (to find the calls that are
//! always allowed), so its shape decides what loading costs: libseccomp's chain of comparisons takes 0.9 ms
//! for an engine's usual profile. Here the numbers are cut into ranges with one outcome each, and searched by
//! a balanced tree:
//!
//! ```text
//! profile ──► rules, by architecture and number (profile) ──► ranges of numbers (ranges) ──► code
//!              names by libseccomp                                                    tree, arguments, dispatch
//! ```
//!
//! The outcome for every number, architecture and argument is the one that runc gets from libseccomp,
//! including its answer ENOSYS to calls that are newer than the profile; the tests compare the two.

mod arguments;
mod assembler;
mod cache;
mod contradictions;
mod profile;
mod ranges;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use berth_spec::{Arch, LinuxSeccomp, LinuxSeccompFilterFlag};
use libseccomp::error::SeccompError as LibraryError;

pub use cache::Cache;

use assembler::{Assembler, Label};
use profile::{Architecture, Profile};
use ranges::Outcome;

/// A compiled filter, ready for seccomp(2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    /// `struct sock_filter` instructions in the host's byte order, at most 4096.
    pub filter: Vec<[u8; 8]>,
    /// SECCOMP_FILTER_FLAG_* for SECCOMP_SET_MODE_FILTER; has NEW_LISTENER if the profile notifies.
    pub flags: u32,
    /// Where the notification descriptor goes; set exactly if `flags` has NEW_LISTENER.
    pub listener: Option<Listener>,
    /// Names of system calls that libseccomp does not know: no rule was made for them.
    pub ignored: Vec<String>,
}

/// The receiver of seccomp notifications (runtime-spec, config-linux.md, "Seccomp").
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listener {
    /// The UNIX socket that the descriptor is sent to.
    pub path: PathBuf,
    /// The opaque text that goes with it.
    pub metadata: String,
}

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// A field has a value that makes no sense, or not together with another.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field of the configuration.
        field: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// libseccomp does not know the architecture, or does not take the rules.
    #[error("{field}: libseccomp refuses {what}")]
    Library {
        /// The field of the configuration.
        field: String,
        /// What it was given.
        what: String,
        /// Its answer.
        #[source]
        source: LibraryError,
    },
    /// The filter is longer than the kernel takes (BPF_MAXINSNS).
    #[error(
        "linux.seccomp: the filter needs {0} instructions, and the kernel takes 4096; use fewer rules with arguments"
    )]
    TooLong(usize),
}

const FLAG_LOG: u32 = 1 << 1;
const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

const FLAG_TSYNC: u32 = 1;

/// Architectures that a profile for this host may name.
pub fn architectures() -> impl Iterator<Item = Arch> {
    Arch::ALL.iter().copied().filter(|arch| profile::takes(*arch))
}

/// SECCOMP_FILTER_FLAG_* of a word, with those that the kernel takes it together with.
pub fn kernel_flags(word: LinuxSeccompFilterFlag) -> u32 {
    match word {
        LinuxSeccompFilterFlag::SeccompFilterFlagTsync => FLAG_TSYNC,
        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
        LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
            FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV
        }
    }
}

const RET_KILL_THREAD: u32 = 0;
const MAX_INSTRUCTIONS: usize = 4096;

/// Compiles `seccomp`.
///
/// # Errors
/// [`SeccompError`] names the field; unknown system call names are no error, as with runc.
pub fn compile(seccomp: &LinuxSeccomp) -> Result<Program, SeccompError> {
    let profile = Profile::check(seccomp)?;
    let flags = flags(seccomp, profile.notifies)?;
    contradictions::check(&profile)?;
    let filter = assemble(&profile);
    if filter.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLong(filter.len()));
    }
    Ok(Program {
        filter,
        flags,
        listener: listener(seccomp, profile.notifies)?,
        ignored: profile.ignored,
    })
}

/// The flags that are asked for; without any list, what the specification says is the default.
fn flags(seccomp: &LinuxSeccomp, notifies: bool) -> Result<u32, SeccompError> {
    let mut flags = if notifies { FLAG_NEW_LISTENER } else { 0 };
    let Some(list) = seccomp.flags() else {
        return Ok(flags | FLAG_SPEC_ALLOW);
    };
    for (index, flag) in list.iter().enumerate() {
        flags |= match flag {
            // The filter is loaded by a process with one thread.
            LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
            LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if notifies => FLAG_WAIT_KILLABLE_RECV,
            LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                return Err(invalid(
                    format!("linux.seccomp.flags[{index}]"),
                    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a system call with SCMP_ACT_NOTIFY",
                ));
            }
        };
    }
    Ok(flags)
}

fn listener(seccomp: &LinuxSeccomp, notifies: bool) -> Result<Option<Listener>, SeccompError> {
    let path = seccomp
        .listener_path()
        .clone()
        .filter(|path| !path.as_os_str().is_empty());
    let metadata = seccomp.listener_metadata().clone();
    match path {
        None if notifies => Err(invalid(
            "linux.seccomp.listenerPath",
            "must be set where a system call has SCMP_ACT_NOTIFY",
        )),
        None if metadata.as_ref().is_some_and(|text| !text.is_empty()) => Err(invalid(
            "linux.seccomp.listenerMetadata",
            "must not be set without linux.seccomp.listenerPath",
        )),
        Some(path) if notifies => Ok(Some(Listener {
            path,
            metadata: metadata.unwrap_or_default(),
        })),
        _ => Ok(None),
    }
}

pub(crate) fn invalid(field: impl Into<String>, reason: impl Into<String>) -> SeccompError {
    SeccompError::Invalid {
        field: field.into(),
        reason: reason.into(),
    }
}

/// The whole filter: the architecture decides first, then the number. Code is written from its end.
fn assemble(profile: &Profile) -> Vec<[u8; 8]> {
    let mut code = Assembler::new();
    let mut sections = Vec::new();
    // The native architecture comes last here, so it is first in the program.
    for group in profile.groups().iter().rev() {
        let ranges = ranges::of(profile, group);
        let mut leaves: Vec<(u32, Label)> = Vec::with_capacity(ranges.len());
        for (start, outcome) in &ranges {
            let label = match outcome {
                Outcome::Return(action) => Label::Return(*action),
                Outcome::Rules(member, number) => rules(&mut code, profile, member, *number),
            };
            leaves.push((*start, label));
        }
        let tree = code.search(&leaves);
        let entry = code.load_number(tree);
        sections.push((group.audit, entry));
    }
    let mut next = Label::Return(RET_KILL_THREAD);
    for (audit, entry) in sections {
        next = Label::At(code.jump_if_equal(audit, Label::At(entry), next));
    }
    code.load_architecture();
    code.finish()
}

/// The rules of one system call that look at its arguments.
fn rules(code: &mut Assembler, profile: &Profile, member: &Architecture, number: u32) -> Label {
    let rules = member.rules(number);
    let action = rules.first().map_or(profile.default, |rule| rule.action);
    if rules.iter().all(|rule| rule.action == action) {
        return arguments::any_of(code, rules, action, profile.default, member.wide());
    }
    arguments::first_of(code, rules, profile.default, member.wide())
}
