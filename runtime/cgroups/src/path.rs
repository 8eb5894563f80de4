//! The checked form of `linux.cgroupsPath`.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// Where a container's cgroup is: `linux.cgroupsPath`, checked.
///
/// Source: OCI runtime-spec, config-linux.md, "Cgroups Path"; the systemd form is runc's
/// `slice:prefix:name` (docs/systemd.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CgroupPath {
    /// `/a/b`: below the root of every hierarchy. Kept without the leading slash; never empty.
    Absolute(PathBuf),
    /// `a/b`: below the cgroup of the process that creates the container (in v1), or beside it (in v2,
    /// where a cgroup with processes cannot have controllers enabled for its children).
    Relative(PathBuf),
    /// `slice:prefix:name`: a transient unit that only systemd may create.
    Systemd(SystemdPath),
}

/// The three parts of a systemd cgroup path, as written (an empty slice means systemd's default).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemdPath {
    /// The parent slice, for example `system.slice`; may be empty.
    pub slice: String,
    /// The unit name's prefix; may be empty.
    pub prefix: String,
    /// The unit name, without `.scope`.
    pub name: String,
}

/// Why a cgroup path was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A `..` would leave the place meant for the container.
    #[error("linux.cgroupsPath {0:?} contains \"..\"; write the path without it")]
    Parent(String),
    /// The path names the root of the hierarchies.
    #[error("linux.cgroupsPath {0:?} names the root cgroup; give the container a cgroup of its own below it")]
    Root(String),
    /// A NUL or a newline cannot be part of a cgroup's name (cgroups(7); the kernel refuses newlines).
    #[error("linux.cgroupsPath {0:?} contains a NUL or newline; remove it")]
    Character(String),
    /// Two colons make a systemd path, and its name part must not be empty or hold a slash.
    #[error("linux.cgroupsPath {0:?} is not a valid systemd path; write slice:prefix:name")]
    Systemd(String),
    /// The path is not UTF-8.
    #[error("linux.cgroupsPath {0:?} is not UTF-8")]
    Encoding(PathBuf),
}

impl CgroupPath {
    /// Checks `text`, the value of `linux.cgroupsPath`.
    ///
    /// # Errors
    /// [`PathError`] for `..`, the root itself, NUL, newline, or a malformed systemd form.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.contains(['\0', '\n']) {
            return Err(PathError::Character(text.to_owned()));
        }
        if !text.contains('/') && text.matches(':').count() == 2 {
            return Self::parse_systemd(text);
        }
        let mut clean = PathBuf::new();
        for part in Path::new(text).components() {
            match part {
                Component::Normal(name) => clean.push(name),
                Component::ParentDir => return Err(PathError::Parent(text.to_owned())),
                Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
            }
        }
        if clean.as_os_str().is_empty() {
            return Err(PathError::Root(text.to_owned()));
        }
        Ok(if text.starts_with('/') {
            Self::Absolute(clean)
        } else {
            Self::Relative(clean)
        })
    }

    fn parse_systemd(text: &str) -> Result<Self, PathError> {
        let mut parts = text.splitn(3, ':').map(str::to_owned);
        let (Some(slice), Some(prefix), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(PathError::Systemd(text.to_owned()));
        };
        if name.is_empty() || name == ".." || slice.contains("..") {
            return Err(PathError::Systemd(text.to_owned()));
        }
        Ok(Self::Systemd(SystemdPath { slice, prefix, name }))
    }

    /// The path of a container: what its configuration says, or its id relative to the caller's cgroup.
    ///
    /// # Errors
    /// As [`CgroupPath::parse`].
    pub fn for_container(configured: Option<&Path>, id: &str) -> Result<Self, PathError> {
        match configured {
            Some(path) if !path.as_os_str().is_empty() => match path.to_str() {
                Some(text) => Self::parse(text),
                None => Err(PathError::Encoding(path.to_owned())),
            },
            _ => Self::parse(id),
        }
    }
}

impl fmt::Display for CgroupPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absolute(path) => write!(f, "/{}", path.display()),
            Self::Relative(path) => write!(f, "{}", path.display()),
            Self::Systemd(path) => write!(f, "{}:{}:{}", path.slice, path.prefix, path.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        assert_eq!(
            CgroupPath::parse("/a//./b/").unwrap(),
            CgroupPath::Absolute("a/b".into())
        );
        assert_eq!(
            CgroupPath::parse("c1").unwrap(),
            CgroupPath::Relative("c1".into())
        );
        let CgroupPath::Systemd(unit) = CgroupPath::parse("machine.slice:libpod:77").unwrap() else {
            panic!("not the systemd form");
        };
        assert_eq!(
            (unit.slice.as_str(), unit.prefix.as_str(), unit.name.as_str()),
            ("machine.slice", "libpod", "77")
        );
        // Colons inside a path with slashes are ordinary characters (Kubernetes-style ids).
        assert_eq!(
            CgroupPath::parse("/a:b:c").unwrap(),
            CgroupPath::Absolute("a:b:c".into())
        );
    }

    #[test]
    fn refused() {
        for (text, want) in [
            ("/a/../b", "contains \"..\""),
            ("..", "contains \"..\""),
            ("/", "names the root cgroup"),
            ("", "names the root cgroup"),
            ("/a\nb", "newline"),
            ("a\0b", "NUL"),
            ("a:b:", "slice:prefix:name"),
            ("..:b:c", "slice:prefix:name"),
        ] {
            let error = CgroupPath::parse(text).unwrap_err().to_string();
            assert!(error.contains(want), "{text:?}: {error}");
        }
    }

    #[test]
    fn default_is_the_id() {
        assert_eq!(CgroupPath::for_container(None, "web").unwrap().to_string(), "web");
        assert_eq!(
            CgroupPath::for_container(Some(Path::new("/x/y")), "web")
                .unwrap()
                .to_string(),
            "/x/y"
        );
        assert_eq!(
            CgroupPath::for_container(Some(Path::new("")), "web")
                .unwrap()
                .to_string(),
            "web"
        );
    }
}
