//! Device rules as DevicePolicy= and DeviceAllow=.
//!
//! systemd only knows lists of what is allowed. Rules that are such a list are told to it, and its filter stands beside
//! Berth's; both must let an access pass. Where the rules are more than a list, systemd gets no filter, instead of one
//! that would deny what the configuration allows at systemd's next reload.

use super::message::Value;
use super::properties::Property;
use crate::devices::{ALL, Class, MKNOD, READ, Rule, WRITE};

/// The properties for `rules`, which begin with one about everything; `known` is the content of /proc/devices.
pub(crate) fn properties(rules: &[Rule], known: &str) -> Vec<Property> {
    let list = allowed(rules, known);
    let policy = if list.is_some() { "strict" } else { "auto" };
    let entries = list
        .unwrap_or_default()
        .into_iter()
        .map(|(device, access)| Value::Struct(vec![Value::Text(device), Value::Text(access)]));
    vec![
        Property::new("DevicePolicy", Value::Text(policy.to_owned())),
        Property::new("DeviceAllow", Value::Array("(ss)".to_owned(), entries.collect())),
    ]
}

fn allowed(rules: &[Rule], known: &str) -> Option<Vec<(String, String)>> {
    let (first, rest) = rules.split_first()?;
    if first.allow {
        return None;
    }
    let mut list = Vec::new();
    for rule in rest {
        if !rule.allow {
            return None;
        }
        let classes = match rule.class {
            Some(class) => vec![class],
            None => vec![Class::Block, Class::Char],
        };
        for class in classes {
            list.push((device(class, rule.major, rule.minor, known)?, access(rule.access)));
        }
    }
    Some(list)
}

/// `/dev/char/1:3`, all of a major number by its driver's name (`char-pts`), or all (`char-*`).
fn device(class: Class, major: Option<u32>, minor: Option<u32>, known: &str) -> Option<String> {
    let kind = match class {
        Class::Block => "block",
        Class::Char => "char",
    };
    match (major, minor) {
        (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
        (Some(major), None) => driver(class, major, known).map(|name| format!("{kind}-{name}")),
        (None, None) => Some(format!("{kind}-*")),
        // One minor number of all drivers.
        (None, Some(_)) => None,
    }
}

/// The driver of a major number (proc_devices(5)): two lists, each with a title. A name that systemd would take for a
/// pattern is none.
fn driver(class: Class, major: u32, known: &str) -> Option<&str> {
    let (characters, blocks) = known.split_once("Block devices:")?;
    let list = match class {
        Class::Char => characters,
        Class::Block => blocks,
    };
    let found = list.lines().find_map(|line| {
        let (number, name) = line.trim().split_once(' ')?;
        (number.parse() == Ok(major)).then_some(name)
    })?;
    let plain = !found.contains(['*', '?', '[', '\\', '/']);
    plain.then_some(found)
}

fn access(bits: u8) -> String {
    debug_assert_eq!(bits & !ALL, 0);
    [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
        .into_iter()
        .filter(|(bit, _)| bits & bit != 0)
        .map(|(_, letter)| letter)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::{effective, rule};

    const KNOWN: &str =
        "Character devices:\n  1 mem\n  4 /dev/vc/0\n136 pts\n195 nvidia\n\nBlock devices:\n  8 sd\n";

    fn of(rules: &[&str]) -> Option<Vec<(String, String)>> {
        let rules: Vec<_> = rules.iter().map(|text| rule(text)).collect();
        allowed(&effective(&rules).unwrap(), KNOWN)
    }

    fn has(list: &[(String, String)], device: &str, access: &str) -> bool {
        list.iter()
            .any(|(name, letters)| name == device && letters == access)
    }

    #[test]
    fn lists_are_told() {
        let list = of(&[
            "deny a *:* rwm",
            "allow c 10:229 rw",
            "allow c 195:* rwm",
            "allow b 8:* r",
            "allow b *:* r",
        ])
        .unwrap();
        for (device, access) in [
            ("/dev/char/10:229", "rw"),
            ("char-nvidia", "rwm"),
            ("block-sd", "r"),
            ("block-*", "r"),
            // The default devices.
            ("/dev/char/1:3", "rwm"),
            ("char-pts", "rwm"),
            ("char-*", "m"),
            ("block-*", "m"),
        ] {
            assert!(has(&list, device, access), "{device} {access}: {list:?}");
        }
    }

    #[test]
    fn what_is_no_list_is_left_to_the_other_filter() {
        for rules in [
            &["allow a *:* rwm"][..],
            &["allow a *:* rwm", "deny c 10:229 rwm"],
            &["allow c 10:* rwm", "deny c 10:229 rwm"],
            &["allow c 77:* rwm"],
            &["allow c 4:* rwm"],
            &["allow c *:3 rwm"],
        ] {
            assert_eq!(of(rules), None, "{rules:?}");
        }
        let rules = effective(&[rule("allow a *:* rwm")]).unwrap();
        let list = properties(&rules, KNOWN);
        assert_eq!(list[0].value, Value::Text("auto".into()));
        assert_eq!(list[1].value, Value::Array("(ss)".into(), Vec::new()));
    }
}
