//! Names of units: from `slice:prefix:name` to a scope in a slice.

use std::fmt::Write as _;

use super::connection::Instance;
use super::error::SystemdError;
use crate::path::SystemdPath;

/// The longest name of a unit (systemd.unit(5)).
const LONGEST: usize = 255;

/// A container's unit: a transient scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The scope's name, such as `berth-web.scope`.
    pub name: String,
    /// Whose systemd it belongs to.
    pub instance: Instance,
}

/// A unit that is to be made, with the slice for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub unit: Unit,
    pub slice: String,
}

impl Place {
    /// The unit for a container `id` whose `linux.cgroupsPath` is `configured`; without one, `berth-ID.scope` in
    /// system.slice, or in user.slice under the user's own manager. A slice's parents are made by systemd
    /// (`a-b.slice` lies in `a.slice`).
    pub(crate) fn new(
        configured: Option<&SystemdPath>,
        id: &str,
        instance: Instance,
    ) -> Result<Self, SystemdError> {
        let (slice, prefix, name) = configured.map_or(("", "berth", id), |path| {
            (path.slice.as_str(), path.prefix.as_str(), path.name.as_str())
        });
        let slice = match (slice, instance) {
            ("", Instance::System) => "system.slice",
            ("", Instance::User) => "user.slice",
            (given, _) => given,
        };
        check_slice(slice)?;
        check_name("prefix", prefix)?;
        check_name("name", name)?;
        if name.strip_suffix(".slice").is_some() {
            return Err(SystemdError::Name {
                what: "name",
                name: name.to_owned(),
                reason: "a slice holds no processes of its own, so no container: leave .slice out",
            });
        }
        let scope = format!("{prefix}-{name}.scope");
        if scope.len() > LONGEST {
            return Err(SystemdError::Name {
                what: "unit",
                name: scope,
                reason: "a unit's name has at most 255 characters",
            });
        }
        Ok(Self {
            unit: Unit {
                name: scope,
                instance,
            },
            slice: slice.to_owned(),
        })
    }
}

/// systemd takes letters, digits and `:-_.\` in names (systemd.unit(5)); all others would have to be escaped.
fn check_name(what: &'static str, name: &str) -> Result<(), SystemdError> {
    if name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || ":-_.\\".contains(c))
    {
        return Ok(());
    }
    Err(SystemdError::Name {
        what,
        name: name.to_owned(),
        reason: "use only letters, digits and the characters : - _ . and \\",
    })
}

/// Each dash of a slice's name is a level, so none may be empty. `-.slice` is the root.
fn check_slice(slice: &str) -> Result<(), SystemdError> {
    check_name("slice", slice)?;
    let fail = |reason| {
        Err(SystemdError::Name {
            what: "slice",
            name: slice.to_owned(),
            reason,
        })
    };
    let Some(levels) = slice.strip_suffix(".slice") else {
        return fail("must end in .slice");
    };
    if slice.len() > LONGEST {
        return fail("a unit's name has at most 255 characters");
    }
    if levels != "-" && levels.split('-').any(str::is_empty) {
        return fail("a dash separates a slice from its parent, so it must stand between names");
    }
    Ok(())
}

impl Unit {
    /// The unit's object on D-Bus: every byte but letters and digits becomes `_` and two hexadecimal digits, a
    /// leading digit as well.
    pub(super) fn object(&self) -> String {
        let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
        for (index, byte) in self.name.bytes().enumerate() {
            if byte.is_ascii_alphabetic() || (index > 0 && byte.is_ascii_digit()) {
                path.push(char::from(byte));
            } else {
                // Writing to a String cannot fail.
                let _ = write!(path, "_{byte:02x}");
            }
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CgroupPath;

    fn place(text: &str, instance: Instance) -> Result<(String, String), String> {
        let path = match CgroupPath::parse(text) {
            Ok(CgroupPath::Systemd(path)) => Some(path),
            _ => None,
        };
        Place::new(path.as_ref(), "web", instance)
            .map(|place| (place.slice, place.unit.name))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn places() {
        let pair = |slice: &str, name: &str| Ok((slice.to_owned(), name.to_owned()));
        assert_eq!(
            place("", Instance::System),
            pair("system.slice", "berth-web.scope")
        );
        assert_eq!(place("", Instance::User), pair("user.slice", "berth-web.scope"));
        assert_eq!(
            place("a-b.slice:cri-containerd:77", Instance::System),
            pair("a-b.slice", "cri-containerd-77.scope")
        );
        assert_eq!(
            place(":libpod:77", Instance::User),
            pair("user.slice", "libpod-77.scope")
        );
        assert_eq!(
            place("-.slice:p:n", Instance::System),
            pair("-.slice", "p-n.scope")
        );
    }

    #[test]
    fn refused() {
        for (text, want) in [
            ("system:p:n", "must end in .slice"),
            ("a--b.slice:p:n", "must stand between names"),
            ("-a.slice:p:n", "must stand between names"),
            ("a-.slice:p:n", "must stand between names"),
            (".slice:p:n", "must stand between names"),
            ("a.slice:p:n.slice", "leave .slice out"),
            ("a.slice:p p:n", "prefix \"p p\": use only"),
            ("a.slice:p:n\tm", "name \"n\\tm\": use only"),
            ("a.slice:p:%n", "name \"%n\": use only"),
            ("a b.slice:p:n", "slice \"a b.slice\": use only"),
        ] {
            let error = place(text, Instance::System).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        let long = format!(":p:{}", "x".repeat(255));
        assert!(
            place(&long, Instance::System)
                .unwrap_err()
                .contains("at most 255")
        );
    }

    #[test]
    fn objects() {
        let unit = Unit {
            name: "0berth-a_b.scope".into(),
            instance: Instance::System,
        };
        assert_eq!(
            unit.object(),
            "/org/freedesktop/systemd1/unit/_30berth_2da_5fb_2escope"
        );
    }
}
