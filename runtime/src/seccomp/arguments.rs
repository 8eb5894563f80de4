//! Rules that look at arguments, as comparisons of 32 bits each.

use std::cmp::{Ordering, Reverse};

use super::assembler::{Assembler, Label, Test};
use super::profile::{Condition, Operator, Rule};

/// Writes the test of `rules`: `action` if any of them holds, `default` otherwise. `wide`: arguments have 64
/// bits.
pub(super) fn any_of(code: &mut Assembler, rules: &[Rule], action: u32, default: u32, wide: bool) -> Label {
    let (values, others) = split(rules, wide);
    let mut next = Label::Return(default);
    for rule in others.iter().rev() {
        let mut success = Label::Return(action);
        for condition in rule.conditions.iter().rev() {
            success = test(code, *condition, success, next, wide);
        }
        next = success;
    }
    for group in values.iter().rev() {
        next = one_of(code, group, Label::Return(action), next, wide);
    }
    next
}

/// Writes the test of `rules`, whose actions differ: the first one that holds decides, in libseccomp's order,
/// which is from the most specific condition to the most general one.
pub(super) fn first_of(code: &mut Assembler, rules: &[Rule], default: u32, wide: bool) -> Label {
    let mut sorted: Vec<&Rule> = rules.iter().collect();
    sorted.sort_by(|one, two| order(one, two, wide));
    let mut next = Label::Return(default);
    for rule in sorted.into_iter().rev() {
        let mut success = Label::Return(rule.action);
        for condition in rule.conditions.iter().rev() {
            success = test(code, *condition, success, next, wide);
        }
        next = success;
    }
    next
}

/// Later arguments come first; values, then upper bounds (the lowest first), then lower bounds (the highest
/// first); a rule with fewer conditions comes before one that adds to them.
fn order(one: &Rule, two: &Rule, wide: bool) -> Ordering {
    let key = |condition: &Condition, word: u64| match condition.operator {
        Operator::Equal | Operator::NotEqual => (0, Reverse(word)),
        Operator::Less | Operator::LessOrEqual => (1, Reverse(u64::MAX - word)),
        Operator::Greater | Operator::GreaterOrEqual => (2, Reverse(word)),
    };
    for (a, b) in one.conditions.iter().zip(&two.conditions) {
        let high = |condition: &Condition| {
            if wide {
                key(condition, condition.value >> 32)
            } else {
                key(condition, 0)
            }
        };
        let low = |condition: &Condition| key(condition, condition.value & 0xffff_ffff);
        let found = b
            .argument
            .cmp(&a.argument)
            .then(high(a).cmp(&high(b)))
            .then(low(a).cmp(&low(b)));
        if found != Ordering::Equal {
            return found;
        }
    }
    one.conditions.len().cmp(&two.conditions.len())
}

/// Values of one argument that are told apart by its low half alone.
struct Values {
    argument: u8,
    high: u32,
    low: Vec<u32>,
}

/// Collects the rules that only want an argument to have a value: the halves are then loaded once for all
/// of them (personality, socket and the like have lists of such rules). Any order of rules means the same,
/// since they have one action.
fn split(rules: &[Rule], wide: bool) -> (Vec<Values>, Vec<&Rule>) {
    let (mut values, mut others): (Vec<Values>, Vec<&Rule>) = (Vec::new(), Vec::new());
    let full = if wide { u64::MAX } else { u64::from(u32::MAX) };
    for rule in rules {
        match rule.conditions.as_slice() {
            [one] if one.operator == Operator::Equal && one.mask == full => {
                let (high, low) = ((one.value >> 32) as u32, one.value as u32);
                match values
                    .iter_mut()
                    .find(|known| known.argument == one.argument && known.high == high)
                {
                    Some(known) if known.low.contains(&low) => {}
                    Some(known) => known.low.push(low),
                    None => values.push(Values {
                        argument: one.argument,
                        high,
                        low: vec![low],
                    }),
                }
            }
            _ => others.push(rule),
        }
    }
    (values, others)
}

fn one_of(code: &mut Assembler, values: &Values, success: Label, failure: Label, wide: bool) -> Label {
    let mut next = failure;
    for low in values.low.iter().rev() {
        next = Label::At(code.jump_if_equal(*low, success, next));
    }
    code.lead_to(next);
    let mut start = Label::At(code.load_argument(values.argument, false));
    if wide {
        start = Label::At(code.jump_if_equal(values.high, start, failure));
        code.lead_to(start);
        start = Label::At(code.load_argument(values.argument, true));
    }
    start
}

/// Writes one condition.
fn test(code: &mut Assembler, condition: Condition, success: Label, failure: Label, wide: bool) -> Label {
    let (success, failure, operator) = match condition.operator {
        // The contrary is tested, with the ways out exchanged.
        Operator::NotEqual => (failure, success, Test::Equal),
        Operator::Less => (failure, success, Test::GreaterOrEqual),
        Operator::LessOrEqual => (failure, success, Test::Greater),
        Operator::Equal => (success, failure, Test::Equal),
        Operator::Greater => (success, failure, Test::Greater),
        Operator::GreaterOrEqual => (success, failure, Test::GreaterOrEqual),
    };
    let half = |high: bool, word: u64| if high { (word >> 32) as u32 } else { word as u32 };
    let mut next = success;
    if half(false, condition.mask) != 0 {
        next = compare(
            code,
            condition,
            false,
            operator,
            half(false, condition.value),
            (success, failure),
        );
    }
    if wide && half(true, condition.mask) != 0 {
        let value = half(true, condition.value);
        if operator == Test::Equal {
            return compare(code, condition, true, Test::Equal, value, (next, failure));
        }
        // Greater in the high half decides; equal leaves it to the low half.
        let equal = Label::At(code.test(Test::Equal, value, next, failure));
        return compare(code, condition, true, Test::Greater, value, (success, equal));
    }
    next
}

fn compare(
    code: &mut Assembler,
    condition: Condition,
    high: bool,
    operator: Test,
    value: u32,
    (success, failure): (Label, Label),
) -> Label {
    let start = Label::At(code.test(operator, value, success, failure));
    code.lead_to(start);
    let mask = if high {
        (condition.mask >> 32) as u32
    } else {
        condition.mask as u32
    };
    if mask != u32::MAX {
        code.mask(mask);
    }
    Label::At(code.load_argument(condition.argument, high))
}
