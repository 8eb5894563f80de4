//! The compiled filter against libseccomp's own, run by an interpreter over numbers, architectures and
//! arguments; and both in the kernel.

mod cache;
mod equality;
mod kernel;
mod profiles;
mod pseudo;
mod refused;

use std::io::{Read as _, Seek as _};

use berth_spec::LinuxSeccomp;
use libseccomp::{ScmpArch, ScmpFilterContext, ScmpSyscall};

use super::assembler::Instruction;
use super::profile::Profile;
use super::{compile, contradictions};

/// `struct seccomp_data`, without the instruction pointer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    pub number: u32,
    pub audit: u32,
    pub arguments: [u64; 6],
}

/// What the kernel answers to `call` (net/core/filter.c, kernel/seccomp.c).
pub(super) fn run(program: &[Instruction], call: &Call) -> u32 {
    let word = |offset: u32| match offset {
        0 => call.number,
        4 => call.audit,
        16.. => (call.arguments[(offset as usize - 16) / 8] >> (offset % 8 * 8)) as u32,
        other => panic!("load of {other}"),
    };
    let (mut at, mut value) = (0_usize, 0_u32);
    loop {
        let one = program[at];
        at += 1;
        let taken = match one.code {
            0x20 => {
                value = word(one.value);
                continue;
            }
            0x54 => {
                value &= one.value;
                continue;
            }
            0x05 => {
                at += one.value as usize;
                continue;
            }
            0x06 => return one.value,
            0x15 => value == one.value,
            0x25 => value > one.value,
            0x35 => value >= one.value,
            0x45 => value & one.value != 0,
            other => panic!("instruction {other:#x}"),
        };
        at += usize::from(if taken { one.on_true } else { one.on_false });
    }
}

pub(super) fn decode(filter: &[[u8; 8]]) -> Vec<Instruction> {
    filter.iter().map(|bytes| Instruction::decode(*bytes)).collect()
}

/// What runc loads: libseccomp's filter behind a stub that answers ENOSYS.
pub(super) struct Reference {
    /// libseccomp's program.
    pub program: Vec<Instruction>,
    /// What it means.
    pseudo: pseudo::Pseudo,
    /// By architecture: the greatest number that the profile names.
    last: Vec<(ScmpArch, Option<u32>)>,
    enosys: bool,
}

const ENOSYS: u32 = 0x0005_0026;

pub(super) const ALL: [(ScmpArch, u32); 5] = [
    (ScmpArch::X8664, 0xc000_003e),
    (ScmpArch::X32, 0xc000_003e),
    (ScmpArch::X86, 0x4000_0003),
    (ScmpArch::Aarch64, 0xc000_00b7),
    (ScmpArch::Arm, 0x4000_0028),
];

impl Reference {
    /// `None` if libseccomp refuses a rule. `optimize`: 2 for libseccomp's own tree.
    pub fn new(seccomp: &LinuxSeccomp, optimize: u32) -> Option<Self> {
        let profile = Profile::check(seccomp).unwrap();
        let (filter, members) = Self::filter(&profile, optimize)?;
        let last = members
            .into_iter()
            .map(|arch| {
                let names = seccomp
                    .syscalls()
                    .iter()
                    .flatten()
                    .flat_map(berth_spec::LinuxSyscall::names);
                let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok());
                let greatest = numbers.map(ScmpSyscall::as_raw_syscall).max().unwrap_or(0);
                (arch, u32::try_from(greatest).ok().filter(|number| *number > 0))
            })
            .collect();
        let program = decode(&export(&filter).unwrap());
        Some(Self {
            program,
            pseudo: pseudo::Pseudo::of(&filter, profile.default),
            last,
            enosys: profile.enosys,
        })
    }

    fn filter(profile: &Profile, optimize: u32) -> Option<(ScmpFilterContext, Vec<ScmpArch>)> {
        let mut filter = ScmpFilterContext::new(contradictions::action(profile.default)).unwrap();
        filter.set_ctl_optimize(optimize).unwrap();
        let mut members: Vec<ScmpArch> = Vec::new();
        for group in profile.groups() {
            for member in &group.members {
                members.push(member.arch);
                if member.arch != ScmpArch::native() {
                    filter.add_arch(member.arch).unwrap();
                }
            }
        }
        for source in &profile.sources {
            let conditions: Vec<_> = source
                .conditions
                .iter()
                .map(|one| contradictions::compare(*one))
                .collect();
            let number = ScmpSyscall::from_raw_syscall(source.native);
            filter
                .add_rule_conditional(contradictions::action(source.action), number, &conditions)
                .ok()?;
        }
        Some((filter, members))
    }

    pub fn answer(&self, call: &Call) -> u32 {
        if self.enosys && self.is_new(call) {
            ENOSYS
        } else {
            self.pseudo.answer(call)
        }
    }

    /// The answer of libseccomp's program rather than of its meaning.
    pub fn answer_of_program(&self, call: &Call) -> u32 {
        if self.enosys && self.is_new(call) {
            ENOSYS
        } else {
            run(&self.program, call)
        }
    }

    /// runc's stub, in its own terms: on x86_64, bit 30 tells which of two ABIs is meant.
    fn is_new(&self, call: &Call) -> bool {
        let arch = match ALL.iter().find(|(_, audit)| *audit == call.audit) {
            Some((ScmpArch::X8664, _)) if call.number & (1 << 30) != 0 => ScmpArch::X32,
            Some((arch, _)) => *arch,
            None => return false,
        };
        self.last
            .iter()
            .any(|(known, last)| *known == arch && last.is_some_and(|last| call.number > last))
    }
}

pub(super) fn ours(seccomp: &LinuxSeccomp) -> Vec<Instruction> {
    decode(&compile(seccomp).unwrap().filter)
}

/// libseccomp 2.5 exports to a descriptor only.
fn export(filter: &ScmpFilterContext) -> Result<Vec<[u8; 8]>, std::io::Error> {
    let file = nix::sys::memfd::memfd_create("bpf", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    let mut file = std::fs::File::from(file);
    filter.export_bpf(&file).unwrap();
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes.as_chunks::<8>().0.to_vec())
}
