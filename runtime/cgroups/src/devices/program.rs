//! Device rules as an eBPF program for BPF_CGROUP_DEVICE.
//!
//! Its context is `struct bpf_cgroup_dev_ctx`: access (high half) and type (low half), major, minor. The
//! program goes through the rules from the last to the first, and keeps in a register which of the requested
//! kinds of access nobody has decided about yet: an allowing rule that matches takes its kinds away (none
//! left: allowed), a denying rule that has one of them refuses.

use berth_sys::bpf::Instruction;

use super::rules::{ALL, Class, Rule};

const CONTEXT: u8 = 1;
const CLASS: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const VERDICT: u8 = 0;

const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_ANY_BIT: u8 = 0x46;
const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;

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

/// `rules` as [`super::rules::effective`] gives them: the first decides about everything.
pub(crate) fn build(rules: &[Rule]) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, CLASS, CONTEXT, 0, 0),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        instruction(MOVE_REGISTER, ACCESS, CLASS, 0, 0),
        instruction(SHIFT_RIGHT, ACCESS, 0, 0, 16),
        instruction(AND, CLASS, 0, 0, 0xffff),
    ];
    let (last, others) = match rules.split_first() {
        Some((first, others)) if first.is_total() => (first.allow, others),
        _ => (false, rules),
    };
    for rule in others.iter().rev() {
        push_rule(&mut program, rule);
    }
    push_verdict(&mut program, last);
    program
}

fn push_verdict(program: &mut Vec<Instruction>, allow: bool) {
    program.push(instruction(MOVE, VERDICT, 0, 0, i32::from(allow)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
}

fn push_rule(program: &mut Vec<Instruction>, rule: &Rule) {
    let mut conditions = Vec::new();
    if let Some(class) = rule.class {
        conditions.push((CLASS, class_number(class)));
    }
    if let Some(major) = rule.major {
        conditions.push((MAJOR, major as i32));
    }
    if let Some(minor) = rule.minor {
        conditions.push((MINOR, minor as i32));
    }
    let mut body = Vec::new();
    if rule.access != ALL && rule.allow {
        body.push(instruction(AND, ACCESS, 0, 0, i32::from(ALL & !rule.access)));
        body.push(instruction(JUMP_NOT_EQUAL, ACCESS, 0, 2, 0));
    } else if rule.access != ALL {
        body.push(instruction(JUMP_ANY_BIT, ACCESS, 0, 1, i32::from(rule.access)));
        body.push(instruction(JUMP, 0, 0, 2, 0));
    }
    push_verdict(&mut body, rule.allow);
    let mut distance = conditions.len() + body.len();
    for (register, value) in conditions {
        distance -= 1;
        program.push(instruction(JUMP_NOT_EQUAL, register, 0, distance as i16, value));
    }
    program.append(&mut body);
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
                SHIFT_RIGHT => {
                    registers[target] >>= constant;
                    false
                }
                JUMP => true,
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
        let lists: [&[&str]; 6] = [
            &[],
            &["deny a *:* rwm", "allow c 10:229 rw", "deny c 10:229 w"],
            &["allow a *:* rwm", "deny c 1:* w", "allow c 1:9 rwm"],
            &["allow b 8:* r", "allow b 8:0 w", "deny b 8:1 rwm", "deny a *:* m"],
            &["allow a *:* rwm"],
            &["allow a 7:7 rw", "deny c *:7 r"],
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
