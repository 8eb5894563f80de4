//! libseccomp's filters as it prints them (seccomp_export_pfc(3)): what it means its program to do. The
//! program itself is not a fit reference: libseccomp 2.5 compares with the wrong half of an argument where
//! two comparisons share code, and forgets to load the number where an architecture lacks the first call.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _};

use libseccomp::ScmpFilterContext;

use super::Call;

#[derive(Debug)]
enum Step {
    If {
        operand: Operand,
        mask: u32,
        operator: String,
        value: u32,
        then: Vec<Step>,
        otherwise: Vec<Step>,
    },
    Action(u32),
}

#[derive(Debug, Clone, Copy)]
enum Operand {
    High(usize),
    Low(usize),
}

/// The printed filter.
#[derive(Debug)]
pub(super) struct Pseudo {
    /// By architecture token and number.
    calls: HashMap<(u32, u32), Vec<Step>>,
    tokens: Vec<u32>,
    default: u32,
}

const ARCH: &str = "# filter for arch ";
const X86_64: u32 = 0xc000_003e;
const X32: u32 = 0x4000_003e;

impl Pseudo {
    pub fn of(filter: &ScmpFilterContext, default: u32) -> Self {
        let file = nix::sys::memfd::memfd_create("pfc", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap();
        let mut file = std::fs::File::from(file);
        filter.export_pfc(&file).unwrap();
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        let mut pseudo = Self {
            calls: HashMap::new(),
            tokens: Vec::new(),
            default,
        };
        let lines: Vec<(usize, &str)> = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#') || line.starts_with(ARCH))
            .map(|line| (line.len() - line.trim_start().len(), line.trim_start()))
            .collect();
        let mut at = 0;
        while at < lines.len() {
            let (indent, line) = lines[at];
            at += 1;
            if let Some((name, number)) = line.strip_prefix(ARCH).and_then(|rest| rest.split_once(" (")) {
                // x32 is printed with the number of x86_64.
                pseudo.tokens.push(if name == "x32" {
                    X32
                } else {
                    number.trim_end_matches(')').parse().unwrap()
                });
            } else if let Some(number) = between(line, "if ($syscall == ", ")") {
                let steps = block(&lines, &mut at, indent);
                pseudo
                    .calls
                    .insert((*pseudo.tokens.last().unwrap(), number), steps);
            }
        }
        pseudo
    }

    pub fn answer(&self, call: &Call) -> u32 {
        let x32 = call.number & (1 << 30) != 0;
        let has = |token| self.tokens.contains(&token);
        if !has(call.audit) {
            return 0;
        }
        // libseccomp's check of the two ABIs that share an architecture.
        if call.audit == X86_64 && !has(X32) && call.number >= 1 << 30 && call.number != u32::MAX {
            return 0;
        }
        let token = if call.audit == X86_64 && x32 {
            X32
        } else {
            call.audit
        };
        self.calls
            .get(&(token, call.number))
            .and_then(|steps| walk(steps, call))
            .unwrap_or(self.default)
    }
}

fn walk(steps: &[Step], call: &Call) -> Option<u32> {
    steps.iter().find_map(|step| match step {
        Step::Action(action) => Some(*action),
        Step::If {
            operand,
            mask,
            operator,
            value,
            then,
            otherwise,
        } => {
            let word = match operand {
                Operand::High(index) => (call.arguments[*index] >> 32) as u32,
                Operand::Low(index) => call.arguments[*index] as u32,
            } & mask;
            let holds = match operator.as_str() {
                "==" => word == *value,
                ">" => word > *value,
                ">=" => word >= *value,
                other => panic!("{other}"),
            };
            walk(if holds { then } else { otherwise }, call)
        }
    })
}

fn between(line: &str, before: &str, after: &str) -> Option<u32> {
    line.strip_prefix(before)?.strip_suffix(after)?.parse().ok()
}

/// The steps that are indented more than `outer`.
fn block(lines: &[(usize, &str)], at: &mut usize, outer: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    while let Some((indent, line)) = lines.get(*at).copied().filter(|(indent, _)| *indent > outer) {
        *at += 1;
        if let Some(action) = line.strip_prefix("action ") {
            steps.push(Step::Action(parse_action(action.trim_end_matches(';'))));
            continue;
        }
        let condition = line.strip_prefix("if (").unwrap().strip_suffix(')').unwrap();
        let words: Vec<&str> = condition.split(' ').collect();
        let (name, mask, operator, value) = match words.as_slice() {
            [name, operator, value] => (*name, u32::MAX, *operator, *value),
            [name, "&", mask, operator, value] => {
                let name = name.trim_start_matches('(');
                let mask = mask.trim_end_matches(')').trim_start_matches("0x");
                (name, u32::from_str_radix(mask, 16).unwrap(), *operator, *value)
            }
            other => panic!("{other:?}"),
        };
        let index: usize = name[2..3].parse().unwrap();
        let operand = if name.strip_suffix(".hi32").is_some() {
            Operand::High(index)
        } else {
            Operand::Low(index)
        };
        let then = block(lines, at, indent);
        let otherwise = if lines.get(*at) == Some(&(indent, "else")) {
            *at += 1;
            block(lines, at, indent)
        } else {
            Vec::new()
        };
        steps.push(Step::If {
            operand,
            mask,
            operator: operator.to_owned(),
            value: value.parse().unwrap(),
            then,
            otherwise,
        });
    }
    steps
}

fn parse_action(text: &str) -> u32 {
    let data = |name: &str| {
        text.strip_prefix(name)?
            .strip_prefix('(')?
            .strip_suffix(')')?
            .parse::<u32>()
            .ok()
    };
    match text {
        "KILL_PROCESS" => 0x8000_0000,
        "KILL" | "KILL_THREAD" => 0,
        "TRAP" => 0x0003_0000,
        "LOG" => 0x7ffc_0000,
        "0x7fc00000" => 0x7fc0_0000,
        "ALLOW" => 0x7fff_0000,
        _ => data("ERRNO")
            .map(|data| 0x0005_0000 | data)
            .or(data("TRACE").map(|data| 0x7ff0_0000 | data))
            .unwrap(),
    }
}
