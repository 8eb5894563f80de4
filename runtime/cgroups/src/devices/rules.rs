//! The checked form of device rules.

use berth_spec::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::CgroupError;

pub(crate) const READ: u8 = 2;
pub(crate) const WRITE: u8 = 4;
pub(crate) const MKNOD: u8 = 1;
pub(crate) const ALL: u8 = READ | WRITE | MKNOD;

/// Block or character device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Block,
    Char,
}

impl Class {
    pub(crate) fn letter(self) -> char {
        match self {
            Self::Block => 'b',
            Self::Char => 'c',
        }
    }
}

/// One rule; `None` matches everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub allow: bool,
    pub class: Option<Class>,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Bits of READ, WRITE and MKNOD, as the kernel's BPF_DEVCG_ACC_*.
    pub access: u8,
    /// The index in `linux.resources.devices`; `None` for the default devices.
    pub index: Option<usize>,
}

impl Rule {
    /// Whether the rule decides about everything, whatever came before it.
    pub(crate) fn is_total(&self) -> bool {
        self.class.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }
}

/// What every container may do: make any device node (using it is another matter), and use the devices of
/// runtime-spec, config-linux.md, "Default Devices": null, zero, full, random, urandom, tty, pts/* and ptmx. And, as
/// with runc and crun, /dev/net/tun, which VPN programs make for themselves.
const DEFAULTS: [(Class, Option<u32>, Option<u32>, u8); 11] = [
    (Class::Char, None, None, MKNOD),
    (Class::Block, None, None, MKNOD),
    (Class::Char, Some(1), Some(3), ALL),
    (Class::Char, Some(1), Some(5), ALL),
    (Class::Char, Some(1), Some(7), ALL),
    (Class::Char, Some(1), Some(8), ALL),
    (Class::Char, Some(1), Some(9), ALL),
    (Class::Char, Some(5), Some(0), ALL),
    (Class::Char, Some(5), Some(2), ALL),
    (Class::Char, Some(136), None, ALL),
    (Class::Char, Some(10), Some(200), ALL),
];

/// The rules that matter, in order: what follows the last rule that decides about everything, and the
/// default devices. The first of them is such a rule, if only the denial of everything that is the start.
pub(crate) fn effective(devices: &[LinuxDeviceCgroup]) -> Result<Vec<Rule>, CgroupError> {
    let mut rules = vec![Rule {
        allow: false,
        class: None,
        major: None,
        minor: None,
        access: ALL,
        index: None,
    }];
    for (index, device) in devices.iter().enumerate() {
        let rule = check(index, device)?;
        if rule.is_total() {
            rules.clear();
        }
        rules.push(rule);
    }
    // Nothing to add where everything is allowed and nothing denied afterwards.
    if rules.iter().any(|rule| !rule.allow) {
        rules.extend(DEFAULTS.iter().map(|(class, major, minor, access)| Rule {
            allow: true,
            class: Some(*class),
            major: *major,
            minor: *minor,
            access: *access,
            index: None,
        }));
    }
    Ok(rules)
}

fn check(index: usize, device: &LinuxDeviceCgroup) -> Result<Rule, CgroupError> {
    let field = |name: &str| format!("linux.resources.devices[{index}].{name}");
    let class = match device.typ() {
        None | Some(LinuxDeviceType::A) => None,
        Some(LinuxDeviceType::B) => Some(Class::Block),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(Class::Char),
        Some(other) => {
            let reason = format!(
                "{:?} is not a type of device that access can be limited to; write a, b or c",
                other.as_str()
            );
            return Err(CgroupError::invalid(field("type"), reason));
        }
    };
    let number = |name, value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(value) => match u32::try_from(value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(CgroupError::invalid(
                field(name),
                format!("{value} is not a device number; write -1 for all"),
            )),
        },
    };
    let mut access = 0;
    for letter in device.access().as_deref().unwrap_or_default().chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            // As with runc, it stands for none of them.
            'a' => 0,
            _ => {
                let reason = format!("{letter:?} is not one of r, w and m");
                return Err(CgroupError::invalid(field("access"), reason));
            }
        };
    }
    Ok(Rule {
        allow: device.allow(),
        class,
        major: number("major", device.major())?,
        minor: number("minor", device.minor())?,
        access: if access == 0 { ALL } else { access },
        index: Some(index),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// "allow c 1:3 rw", "deny a *:* rwm".
    pub(crate) fn rule(text: &str) -> LinuxDeviceCgroup {
        let words: Vec<&str> = text.split(' ').collect();
        let typ = match words[1] {
            "a" => LinuxDeviceType::A,
            "b" => LinuxDeviceType::B,
            "c" => LinuxDeviceType::C,
            "p" => LinuxDeviceType::P,
            other => panic!("{other}"),
        };
        let (major, minor) = words[2].split_once(':').unwrap();
        let number = |text: &str| if text == "*" { -1 } else { text.parse().unwrap() };
        LinuxDeviceCgroup {
            allow: words[0] == "allow",
            typ: Some(typ),
            major: Some(number(major)),
            minor: Some(number(minor)),
            access: Some(words[3].to_owned()),
        }
    }

    #[test]
    fn what_a_total_rule_follows_does_not_matter() {
        let rules = effective(&[
            rule("allow c 10:201 rwm"),
            rule("deny a *:* rwm"),
            rule("allow c 10:229 rw"),
        ])
        .unwrap();
        assert_eq!(rules.len(), 13);
        assert!(rules[0].is_total() && !rules[0].allow);
        assert_eq!(
            (rules[1].major, rules[1].minor, rules[1].access),
            (Some(10), Some(229), READ | WRITE)
        );
        assert_eq!(
            effective(&[rule("deny a *:* rwm"), rule("allow a *:* rwm")])
                .unwrap()
                .len(),
            1
        );
        assert_eq!(effective(&[]).unwrap().len(), 12);
    }

    #[test]
    fn refused() {
        for (text, want) in [
            ("allow p 1:3 rw", "devices[0].type: \"p\" is not a type"),
            ("allow c -7:3 rw", "devices[0].major: -7 is not a device number"),
            ("allow c 1:3 rx", "devices[0].access: 'x' is not one of"),
        ] {
            let error = effective(&[rule(text)]).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
