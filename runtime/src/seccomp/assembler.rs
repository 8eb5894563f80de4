//! Classic BPF, written from the end of the program to its start: jumps lead forward only, so their targets
//! are known when they are written.

const LOAD: u16 = 0x20;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;

/// The fields of `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Label {
    /// To the instruction that is this far from the program's end.
    At(usize),
    /// Nowhere: the filter's answer.
    Return(u32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    pub code: u16,
    pub on_true: u8,
    pub on_false: u8,
    pub value: u32,
}

impl Instruction {
    #[cfg(test)]
    pub fn decode(bytes: [u8; 8]) -> Self {
        Self {
            code: u16::from_ne_bytes([bytes[0], bytes[1]]),
            on_true: bytes[2],
            on_false: bytes[3],
            value: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }

    fn encode(self) -> [u8; 8] {
        let code = self.code.to_ne_bytes();
        let value = self.value.to_ne_bytes();
        [
            code[0],
            code[1],
            self.on_true,
            self.on_false,
            value[0],
            value[1],
            value[2],
            value[3],
        ]
    }
}

/// A comparison of the accumulator with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Test {
    Equal,
    Greater,
    GreaterOrEqual,
}

#[derive(Debug, Default)]
pub(super) struct Assembler {
    /// The last instruction first.
    reversed: Vec<Instruction>,
    /// Where each action was last returned.
    returns: Vec<(u32, usize)>,
}

impl Assembler {
    pub fn new() -> Self {
        Self::default()
    }

    fn push(&mut self, code: u16, value: u32) -> usize {
        self.reversed.push(Instruction {
            code,
            on_true: 0,
            on_false: 0,
            value,
        });
        self.reversed.len() - 1
    }

    fn push_return(&mut self, action: u32) -> usize {
        let at = self.push(RETURN, action);
        match self.returns.iter_mut().find(|(known, _)| *known == action) {
            Some((_, last)) => *last = at,
            None => self.returns.push((action, at)),
        }
        at
    }

    pub fn load_number(&mut self, next: Label) -> usize {
        self.lead_to(next);
        self.push(LOAD, NUMBER)
    }

    pub fn load_architecture(&mut self) -> usize {
        self.push(LOAD, ARCHITECTURE)
    }

    /// Loads half of an argument, in front of what was written last.
    pub fn load_argument(&mut self, argument: u8, high: bool) -> usize {
        let second = u32::from(high == cfg!(target_endian = "little")) * 4;
        self.push(LOAD, ARGUMENTS + u32::from(argument) * 8 + second)
    }

    pub fn mask(&mut self, mask: u32) -> usize {
        self.push(AND, mask)
    }

    pub fn jump_if_equal(&mut self, value: u32, on_true: Label, on_false: Label) -> usize {
        self.test(Test::Equal, value, on_true, on_false)
    }

    /// Compares the accumulator and goes on at one of two places.
    pub fn test(&mut self, test: Test, value: u32, on_true: Label, on_false: Label) -> usize {
        // Each may need an instruction of its own nearby, which takes the other one further away.
        let (mut near_true, mut near_false) = (self.near(on_true), self.near(on_false));
        if !self.reaches(near_true) {
            near_true = self.near(on_true);
        }
        if !self.reaches(near_false) {
            near_false = self.near(on_false);
        }
        let code = match test {
            Test::Equal => JUMP_EQUAL,
            Test::Greater => JUMP_GREATER,
            Test::GreaterOrEqual => JUMP_GREATER_OR_EQUAL,
        };
        let distance = |target: usize| (self.reversed.len() - target - 1) as u8;
        let instruction = Instruction {
            code,
            on_true: distance(near_true),
            on_false: distance(near_false),
            value,
        };
        self.reversed.push(instruction);
        self.reversed.len() - 1
    }

    /// Whether a conditional jump written next gets to `target`.
    fn reaches(&self, target: usize) -> bool {
        u8::try_from(self.reversed.len() - target - 1).is_ok()
    }

    /// An instruction within reach that leads to `label`, written if there is none.
    fn near(&mut self, label: Label) -> usize {
        match label {
            Label::At(target) if self.reaches(target) => target,
            Label::At(target) => {
                let distance = self.reversed.len() - target - 1;
                self.push(JUMP, distance as u32)
            }
            Label::Return(action) => {
                // One less than the reach: room for the other branch's instruction.
                let window = self.reversed.len().saturating_sub(usize::from(u8::MAX));
                let mut known = self.returns.iter();
                match known.find(|(known, at)| *known == action && *at >= window) {
                    Some((_, at)) => *at,
                    None => self.push_return(action),
                }
            }
        }
    }

    /// Makes sure that what is written next is followed by `label`.
    pub fn lead_to(&mut self, label: Label) -> usize {
        match label {
            Label::At(target) if target + 1 == self.reversed.len() => target,
            Label::At(target) => {
                let distance = self.reversed.len() - target - 1;
                self.push(JUMP, distance as u32)
            }
            Label::Return(action) => self.push_return(action),
        }
    }

    /// A balanced search of the accumulator among ranges, given by their first values (the first is 0).
    pub fn search(&mut self, ranges: &[(u32, Label)]) -> Label {
        match ranges {
            [] => Label::Return(0),
            [(_, only)] => *only,
            // One number amid a range: one comparison instead of two.
            [(_, before), (number, inside), (after, behind)] if before == behind && *after == number + 1 => {
                Label::At(self.jump_if_equal(*number, *inside, *before))
            }
            _ => {
                let (low, high) = ranges.split_at(middle(ranges));
                let pivot = high[0].0;
                let high = self.search(high);
                let low = self.search(low);
                Label::At(self.test(Test::GreaterOrEqual, pivot, high, low))
            }
        }
    }

    pub fn finish(self) -> Vec<[u8; 8]> {
        self.reversed.into_iter().rev().map(Instruction::encode).collect()
    }
}

/// Where to cut `ranges` in two: in the middle, but not between a single number and what surrounds it.
fn middle(ranges: &[(u32, Label)]) -> usize {
    let middle = ranges.len() / 2;
    let single = |at: usize| {
        at >= 1
            && at + 1 < ranges.len()
            && ranges[at - 1].1 == ranges[at + 1].1
            && ranges[at + 1].0 == ranges[at].0 + 1
    };
    // A single number at `middle` belongs to its neighbours on both sides.
    [middle, middle + 1, middle.wrapping_sub(1)]
        .into_iter()
        .find(|at| *at >= 1 && *at < ranges.len() && !single(*at) && !single(*at - 1))
        .unwrap_or(middle)
}
