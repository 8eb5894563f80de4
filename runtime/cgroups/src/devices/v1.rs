//! cgroup v1: devices.allow and devices.deny (cgroup-v1/devices.rst).
//!
//! The controller knows a default and a set of exceptions to it. A rule that contradicts the default adds an
//! exception; one that agrees with it removes those exceptions that it covers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use berth_spec::LinuxDeviceCgroup;

use super::rules::{ALL, MKNOD, READ, WRITE};
use super::{Class, Rule, effective};
use crate::CgroupError;
use crate::dir::Dir;

type Key = (Class, Option<u32>, Option<u32>);

/// What the controller enforces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct List {
    allow: bool,
    exceptions: BTreeMap<Key, u8>,
}

/// One line for devices.allow (true) or devices.deny.
pub(crate) type Line = (bool, String);

/// Puts `devices` in force by the fewest writes. On a running container nothing is taken away meanwhile
/// that is allowed before and after.
pub(crate) fn restrict(dir: &Dir, devices: &[LinuxDeviceCgroup], fresh: bool) -> Result<(), CgroupError> {
    let wanted = List::of(&effective(devices)?)?;
    // A new cgroup has its parent's list, which is not worth a read: the first write replaces it.
    let present = if fresh {
        None
    } else {
        Some(List::parse(
            &dir.read("devices.list")
                .map_err(CgroupError::io("read", dir.file("devices.list")))?,
        ))
    };
    for (allow, line) in changes(present.as_ref(), &wanted) {
        let file = if allow { "devices.allow" } else { "devices.deny" };
        dir.write(file, &line).map_err(|source| CgroupError::Write {
            field: "linux.resources.devices".to_owned(),
            path: dir.file(file),
            hint: if allow {
                " (the parent cgroup may not allow it)"
            } else {
                ""
            }
            .to_owned(),
            value: line.clone(),
            source,
        })?;
    }
    Ok(())
}

impl List {
    /// The list that has the meaning of `rules`.
    ///
    /// Fails for what the controller cannot express: an exception from an exception.
    fn of(rules: &[Rule]) -> Result<Self, CgroupError> {
        let mut list = Self {
            allow: false,
            exceptions: BTreeMap::new(),
        };
        for rule in rules {
            if rule.is_total() {
                list = Self {
                    allow: rule.allow,
                    exceptions: BTreeMap::new(),
                };
                continue;
            }
            let classes = match rule.class {
                Some(class) => vec![class],
                None => vec![Class::Block, Class::Char],
            };
            for class in classes {
                list.add(rule, (class, rule.major, rule.minor))?;
            }
        }
        Ok(list)
    }

    fn add(&mut self, rule: &Rule, key: Key) -> Result<(), CgroupError> {
        if rule.allow != self.allow {
            *self.exceptions.entry(key).or_default() |= rule.access;
            return Ok(());
        }
        for (known, access) in &mut self.exceptions {
            if covers(key, *known) {
                *access &= !rule.access;
            } else if covers(*known, key) && *access & rule.access != 0 {
                // A default device inside of a denied range stays denied rather than refusing the list.
                let Some(index) = rule.index else { continue };
                let verb = if rule.allow { "allow" } else { "deny" };
                return Err(CgroupError::invalid(
                    format!("linux.resources.devices[{index}]"),
                    format!(
                        "cgroup v1 cannot {verb} {} alone out of {}, which an earlier rule has; list the devices one by one",
                        line(key, rule.access),
                        line(*known, *access),
                    ),
                ));
            }
        }
        self.exceptions.retain(|_, access| *access != 0);
        Ok(())
    }

    /// devices.list. It cannot show exceptions from "allow all": then only their absence is known.
    fn parse(text: &str) -> Self {
        let mut list = Self {
            allow: false,
            exceptions: BTreeMap::new(),
        };
        for words in text
            .lines()
            .map(|line| line.split([' ', ':']).collect::<Vec<_>>())
        {
            let [class, major, minor, access] = words.as_slice() else {
                continue;
            };
            let number = |text: &str| text.parse().ok();
            let class = match *class {
                "b" => Class::Block,
                "c" => Class::Char,
                _ => {
                    list.allow = true;
                    continue;
                }
            };
            let bits = access.bytes().map(|letter| match letter {
                b'r' => READ,
                b'w' => WRITE,
                _ => MKNOD,
            });
            *list
                .exceptions
                .entry((class, number(major), number(minor)))
                .or_default() |= bits.fold(0, |all, bit| all | bit);
        }
        list
    }
}

fn covers(wide: Key, narrow: Key) -> bool {
    wide.0 == narrow.0 && (wide.1.is_none() || wide.1 == narrow.1) && (wide.2.is_none() || wide.2 == narrow.2)
}

fn line((class, major, minor): Key, access: u8) -> String {
    let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    let mut line = format!("{} {}:{} ", class.letter(), number(major), number(minor));
    for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
        if access & bit != 0 {
            let _ = line.write_char(letter);
        }
    }
    line
}

/// The writes that lead from `present` (`None`: unknown) to `wanted`.
fn changes(present: Option<&List>, wanted: &List) -> Vec<Line> {
    // The list of exceptions from "allow all" cannot be read, so such a list is written anew.
    let start = match present {
        Some(present) if present.allow == wanted.allow && !present.allow => present.clone(),
        _ => List {
            allow: wanted.allow,
            exceptions: BTreeMap::new(),
        },
    };
    let mut lines = Vec::new();
    if present.is_none_or(|present| present.allow != wanted.allow || present.allow) {
        lines.push((wanted.allow, "a".to_owned()));
    }
    // First what is added, so that nothing is missing in between.
    for (key, access) in &wanted.exceptions {
        let missing = access & !start.exceptions.get(key).copied().unwrap_or(0);
        if missing != 0 {
            lines.push((!wanted.allow, line(*key, missing)));
        }
    }
    for (key, access) in &start.exceptions {
        let surplus = access & !wanted.exceptions.get(key).copied().unwrap_or(0);
        if surplus & ALL != 0 {
            lines.push((wanted.allow, line(*key, surplus)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::rule;
    use super::*;

    fn of(list: &[&str]) -> Result<List, String> {
        let rules = effective(&list.iter().map(|text| rule(text)).collect::<Vec<_>>()).unwrap();
        List::of(&rules).map_err(|error| error.to_string())
    }

    #[test]
    fn a_new_cgroup_is_closed_and_then_opened() {
        let lines = changes(None, &of(&["allow c 10:229 rw"]).unwrap());
        assert_eq!(lines[0], (false, "a".to_owned()));
        assert_eq!(lines.len(), 13);
        assert!(lines[1..].iter().all(|(allow, _)| *allow));
        assert!(lines.contains(&(true, "c 10:229 rw".to_owned())));
        assert!(lines.contains(&(true, "c *:* m".to_owned())));
        assert_eq!(
            changes(None, &of(&["allow a *:* rwm"]).unwrap()),
            [(true, "a".to_owned())]
        );
    }

    #[test]
    fn an_update_writes_the_difference() {
        let before = of(&["allow c 10:229 rw", "allow b 8:0 r"]).unwrap();
        let after = of(&["allow c 10:229 r", "allow b 8:0 rw"]).unwrap();
        assert_eq!(
            changes(Some(&before), &after),
            [(true, "b 8:0 w".to_owned()), (false, "c 10:229 w".to_owned())]
        );
        assert_eq!(changes(Some(&after), &after), []);
    }

    #[test]
    fn a_hole_in_a_wildcard_is_refused() {
        let error = of(&["allow c 1:* rw", "deny c 1:11 rw"]).unwrap_err();
        assert!(
            error.starts_with(
                "linux.resources.devices[1]: cgroup v1 cannot deny c 1:11 rw alone out of c 1:* rw"
            ),
            "{error}"
        );
        // The same device as allowed, or a wider rule, is fine.
        assert!(of(&["allow c 10:229 rw", "deny c 10:229 w"]).is_ok());
        assert!(of(&["allow c 10:229 rw", "deny c *:* rwm"]).is_ok());
        assert!(of(&["allow a *:* rwm", "deny c 10:* rwm", "allow c 10:229 r"]).is_err());
    }

    #[test]
    fn the_kernels_list_is_understood() {
        let list = List::parse("c 1:3 rwm\nb *:* m\n");
        assert_eq!(list.exceptions.get(&(Class::Char, Some(1), Some(3))), Some(&ALL));
        assert_eq!(list.exceptions.get(&(Class::Block, None, None)), Some(&MKNOD));
        assert!(List::parse("a *:* rwm\n").allow);
    }
}
