//! Device rules as an eBPF program for BPF_CGROUP_DEVICE.
//!
//! Its context is `struct bpf_cgroup_dev_ctx`: access (high half) and type (low half), major, minor. The
//! program goes through the rules from the last to the first, and keeps in a register which of the requested
//! kinds of access nobody has decided about yet: an allowing rule that matches takes its kinds away (none
//! left: allowed), a denying rule that has one of them refuses.
//!
//! The kernel's verifier walks every path when the program is loaded, which costs more than everything else
//! about it: with three tests and a verdict a rule, the default devices took it 0.25 ms. So the class is tested
//! once for neighbouring rules of the same class, major and minor together, and all share two verdicts: 0.05 ms.

use berth_sys::bpf::Instruction;

use super::rules::{ALL, Class, Rule};

const CONTEXT: u8 = 1;
const CLASS: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
/// Major and minor as in the kernel's own dev_t: 12 and 20 bits.
const DEVICE: u8 = 6;
const VERDICT: u8 = 0;

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const OR_REGISTER: u8 = 0x4c;
const SHIFT_LEFT: u8 = 0x64;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_EQUAL: u8 = 0x16;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;

const MINOR_BITS: u32 = 20;
const MAJORS: u32 = 1 << 12;

fn instruction(code: u8, target: u8, source: u8, offset: i16, constant: i32) -> Instruction {
    let registers = if cfg!(target_endian = "little") {
        target | source << 4
    } else {
        target << 4 | source
    };
    Instruction {
        code,
        registers,
        offset,
        constant,
    }
}

fn class_number(class: Class) -> i32 {
    match class {
        Class::Block => 1,
        Class::Char => 2,
    }
}

/// A program in the making: the places of the jumps whose targets come later.
#[derive(Default)]
struct Code {
    program: Vec<Instruction>,
    to_allow: Vec<usize>,
    to_deny: Vec<usize>,
}

impl Code {
    fn push(&mut self, code: u8, target: u8, source: u8, constant: i32) -> usize {
        self.program.push(instruction(code, target, source, 0, constant));
        self.program.len() - 1
    }

    fn test(&mut self, code: u8, register: u8, constant: i32) -> usize {
        self.push(code, register, 0, constant)
    }

    /// Lets these jumps go to the instruction that is pushed next.
    fn land(&mut self, jumps: &[usize]) {
        for &jump in jumps {
            self.program[jump].offset = (self.program.len() - jump - 1) as i16;
        }
    }

    fn verdict(&mut self, allow: bool) {
        self.push(MOVE, VERDICT, 0, i32::from(allow));
        self.push(EXIT, 0, 0, 0);
    }

    /// A jump that is taken where the rule decides.
    fn decide(&mut self, allow: bool, code: u8, register: u8, constant: i32) {
        let jump = self.test(code, register, constant);
        if allow {
            self.to_allow.push(jump);
        } else {
            self.to_deny.push(jump);
        }
    }

    /// One rule, for a device of its class.
    fn rule(&mut self, rule: &Rule) {
        let device = match (rule.major, rule.minor) {
            (None, None) => None,
            (Some(major), None) => Some((MAJOR, major)),
            (None, Some(minor)) => Some((MINOR, minor)),
            // No device has such a number.
            (Some(major), Some(minor)) if major >= MAJORS || minor >> MINOR_BITS != 0 => return,
            (Some(major), Some(minor)) => Some((DEVICE, major << MINOR_BITS | minor)),
        };
        if rule.access == ALL {
            match device {
                Some((register, number)) => self.decide(rule.allow, JUMP_EQUAL, register, number as i32),
                // Something was asked for, and nothing of it is decided yet or we would not be here.
                None => self.decide(rule.allow, JUMP_NOT_EQUAL, ACCESS, 0),
            }
            return;
        }
        let skip = device.map(|(register, number)| self.test(JUMP_NOT_EQUAL, register, number as i32));
        if rule.allow {
            self.push(AND, ACCESS, 0, i32::from(ALL & !rule.access));
            self.decide(true, JUMP_EQUAL, ACCESS, 0);
        } else {
            self.decide(false, JUMP_ANY_BIT, ACCESS, i32::from(rule.access));
        }
        self.land(skip.as_slice());
    }
}

/// `rules` as [`super::rules::effective`] gives them: the first decides about everything.
pub(crate) fn build(rules: &[Rule]) -> Vec<Instruction> {
    let mut code = Code::default();
    for (register, offset) in [(CLASS, 0), (MAJOR, 4), (MINOR, 8)] {
        let load = code.push(LOAD_WORD, register, CONTEXT, 0);
        code.program[load].offset = offset;
    }
    code.push(MOVE_REGISTER, ACCESS, CLASS, 0);
    code.push(SHIFT_RIGHT, ACCESS, 0, 16);
    code.push(AND, CLASS, 0, 0xffff);
    code.push(MOVE_REGISTER, DEVICE, MAJOR, 0);
    code.push(SHIFT_LEFT, DEVICE, 0, MINOR_BITS as i32);
    code.push(OR_REGISTER, DEVICE, MINOR, 0);
    let (last, others) = match rules.split_first() {
        Some((first, others)) if first.is_total() => (first.allow, others),
        _ => (false, rules),
    };
    for run in others.chunk_by(|one, next| one.class == next.class).rev() {
        let class = run.first().and_then(|rule| rule.class);
        let skip = class.map(|class| code.test(JUMP_NOT_EQUAL, CLASS, class_number(class)));
        for rule in run.iter().rev() {
            code.rule(rule);
        }
        code.land(skip.as_slice());
    }
    let (same, other) = if last {
        (
            std::mem::take(&mut code.to_allow),
            std::mem::take(&mut code.to_deny),
        )
    } else {
        (
            std::mem::take(&mut code.to_deny),
            std::mem::take(&mut code.to_allow),
        )
    };
    code.land(&same);
    code.verdict(last);
    if !other.is_empty() {
        code.land(&other);
        code.verdict(!last);
    }
    code.program
}

#[cfg(test)]
mod tests {
    use super::super::rules::{MKNOD, READ, WRITE, effective, tests::rule};
    use super::*;

    /// What the kernel would answer, for the instructions used here.
    fn run(program: &[Instruction], class: Class, major: u32, minor: u32, access: u8) -> bool {
        let context = [
            (u32::from(access) << 16) | class_number(class) as u32,
            major,
            minor,
        ];
        let mut registers = [0_u32; 10];
        let mut at = 0_usize;
        loop {
            let Instruction {
                code,
                registers: operands,
                offset,
                constant,
            } = program[at];
            let (target, source) = (usize::from(operands & 15), usize::from(operands >> 4));
            let constant = constant as u32;
            at += 1;
            let taken = match code {
                LOAD_WORD => {
                    registers[target] = context[offset as usize / 4];
                    false
                }
                MOVE => {
                    registers[target] = constant;
                    false
                }
                MOVE_REGISTER => {
                    registers[target] = registers[source];
                    false
                }
                AND => {
                    registers[target] &= constant;
                    false
                }
                OR_REGISTER => {
                    registers[target] |= registers[source];
                    false
                }
                SHIFT_LEFT => {
                    registers[target] <<= constant;
                    false
                }
                SHIFT_RIGHT => {
                    registers[target] >>= constant;
                    false
                }
                JUMP_EQUAL => registers[target] == constant,
                JUMP_NOT_EQUAL => registers[target] != constant,
                JUMP_ANY_BIT => registers[target] & constant != 0,
                EXIT => return registers[0] == 1,
                other => panic!("{other:#x}"),
            };
            if taken {
                at = (at as i64 + i64::from(offset)) as usize;
            }
        }
    }

    /// The meaning of the rules, without any program: the last match decides, for each kind of access.
    fn meaning(rules: &[Rule], class: Class, major: u32, minor: u32, access: u8) -> bool {
        [MKNOD, READ, WRITE]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| {
                rules
                    .iter()
                    .rev()
                    .find(|rule| {
                        rule.access & bit != 0
                            && rule.class.is_none_or(|wanted| wanted == class)
                            && rule.major.is_none_or(|wanted| wanted == major)
                            && rule.minor.is_none_or(|wanted| wanted == minor)
                    })
                    .is_some_and(|rule| rule.allow)
            })
    }

    #[test]
    fn program_and_meaning_agree() {
        let lists: [&[&str]; 9] = [
            &[],
            &["deny a *:* rwm", "allow c 10:229 rw", "deny c 10:229 w"],
            &["allow a *:* rwm", "deny c 1:* w", "allow c 1:9 rwm"],
            &["allow b 8:* r", "allow b 8:0 w", "deny b 8:1 rwm", "deny a *:* m"],
            &["allow a *:* rwm"],
            &["allow a 7:7 rw", "deny c *:7 r"],
            &["allow c *:* rwm", "deny b *:* rwm", "allow b 8:1 r"],
            &["deny c *:* rwm", "allow c 136:* rw", "deny a 1:9 w"],
            &["allow c 4096:3 rwm", "allow c 1:1048579 rwm"],
        ];
        for list in lists {
            let rules = effective(&list.iter().map(|text| rule(text)).collect::<Vec<_>>()).unwrap();
            let program = build(&rules);
            for class in [Class::Block, Class::Char] {
                for (major, minor) in [
                    (1, 3),
                    (1, 1),
                    (1, 9),
                    (5, 2),
                    (136, 4),
                    (8, 0),
                    (8, 1),
                    (8, 2),
                    (10, 229),
                    (10, 7),
                    (7, 7),
                ] {
                    for access in 1..=ALL {
                        assert_eq!(
                            run(&program, class, major, minor, access),
                            meaning(&rules, class, major, minor, access),
                            "{list:?} {class:?} {major}:{minor} {access}"
                        );
                    }
                }
            }
        }
    }
}
