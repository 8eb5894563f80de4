//! Enabling controllers down the cgroup2 tree, and why one could not be (cgroup-v2.rst, "Controlling
//! Controllers", "Threads").

use std::path::Path;

use nix::errno::Errno;

use crate::CgroupError;
use crate::dir::Dir;

const CONTROL: &str = "cgroup.subtree_control";

/// A controller that an ancestor did not pass on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub controller: String,
    pub reason: String,
}

pub(crate) fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// The controllers of `dir`.
pub(crate) fn controllers(dir: &Dir) -> Result<Vec<String>, CgroupError> {
    dir.read("cgroup.controllers")
        .map(|text| words(&text))
        .map_err(CgroupError::io("read", dir.file("cgroup.controllers")))
}

/// Enables `wanted` for `leaf` in all its ancestors, from the root of the tree down. What cannot be enabled
/// is returned with the reason; whether that matters is up to the limits that are asked for.
pub(crate) fn enable(leaf: &Dir, wanted: &[String]) -> Vec<Blocked> {
    let mut ancestors: Vec<Dir> = leaf
        .path()
        .ancestors()
        .skip(1)
        .map(Dir::new)
        .take_while(|dir| dir.path() != Path::new("/") && dir.has(CONTROL))
        .collect();
    ancestors.reverse();
    let mut blocked: Vec<Blocked> = Vec::new();
    for dir in &ancestors {
        let on = dir.read(CONTROL).map(|text| words(&text)).unwrap_or_default();
        let missing: Vec<&String> = wanted
            .iter()
            .filter(|name| !on.contains(name) && !blocked.iter().any(|one| one.controller == **name))
            .collect();
        if missing.is_empty() {
            continue;
        }
        let all = missing
            .iter()
            .map(|name| format!("+{name}"))
            .collect::<Vec<_>>()
            .join(" ");
        if dir.write(CONTROL, &all).is_ok() {
            continue;
        }
        // One refusal refuses them all: try one by one, to lose only those.
        for name in missing {
            if let Err(error) = dir.write(CONTROL, &format!("+{name}")) {
                blocked.push(Blocked {
                    controller: name.clone(),
                    reason: reason(dir, error),
                });
            }
        }
    }
    blocked
}

fn reason(dir: &Dir, error: Errno) -> String {
    let path = dir.path().display();
    // Controllers that threads can have may have been given to it before: then the refusal is about its mode.
    let crowded = || dir.read("cgroup.procs").is_ok_and(|text| !text.trim().is_empty());
    match error {
        Errno::ENOENT => format!("{path} does not have it"),
        Errno::EBUSY | Errno::EOPNOTSUPP | Errno::EINVAL if error == Errno::EBUSY || crowded() => format!(
            "{path} has processes of its own, and cgroup v2 gives no controllers to the children of such a cgroup; \
             move the processes into a child cgroup"
        ),
        Errno::EOPNOTSUPP | Errno::EINVAL => match dir.read("cgroup.type") {
            Ok(mode) if mode.trim() != "domain" => format!("{path} is in mode {:?}", mode.trim()),
            _ => format!("{path} refuses it: {}", error.desc()),
        },
        Errno::EACCES | Errno::EPERM | Errno::EROFS => {
            format!("{path}/{CONTROL} is not writable for this user")
        }
        other => format!("{path} refuses it: {}", other.desc()),
    }
}

/// Prepares `leaf` for a process if an ancestor made it "domain invalid": without domain controllers it can
/// join the threaded tree; with them it cannot be used.
pub(crate) fn settle_type(leaf: &Dir, needs_domain: bool) -> Result<(), CgroupError> {
    let mode = match leaf.read("cgroup.type") {
        Ok(mode) => mode.trim().to_owned(),
        // The root cgroup and plain directories have no type.
        Err(Errno::ENOENT) => return Ok(()),
        Err(source) => return Err(CgroupError::io("read", leaf.file("cgroup.type"))(source)),
    };
    match mode.as_str() {
        "domain" => Ok(()),
        "domain invalid" if !needs_domain => leaf
            .write("cgroup.type", "threaded")
            .map_err(CgroupError::io("make threaded", leaf.path())),
        _ if needs_domain => Err(CgroupError::Threaded {
            path: leaf.path().to_owned(),
            mode,
        }),
        _ => Ok(()),
    }
}

/// Controllers that work in threaded cgroups; all others are domain controllers.
pub(crate) fn is_threaded(controller: &str) -> bool {
    matches!(controller, "cpu" | "cpuset" | "pids" | "perf_event")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_ancestor_is_written_once() {
        let temporary = tempfile::tempdir().unwrap();
        let leaf = temporary.path().join("a/b");
        fs::create_dir_all(&leaf).unwrap();
        for (dir, on) in [("", "cpu memory\n"), ("a", "\n")] {
            fs::write(temporary.path().join(dir).join(CONTROL), on).unwrap();
        }
        let blocked = enable(&Dir::new(&leaf), &["cpu".to_owned(), "memory".to_owned()]);
        assert_eq!(blocked, []);
        // Already on: not written again. The fake file keeps what was written.
        assert_eq!(
            fs::read_to_string(temporary.path().join(CONTROL)).unwrap(),
            "cpu memory\n"
        );
        assert_eq!(
            fs::read_to_string(temporary.path().join("a").join(CONTROL)).unwrap(),
            "+cpu +memory"
        );
    }

    #[test]
    fn types() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::new(temporary.path());
        settle_type(&dir, true).unwrap();
        let file = temporary.path().join("cgroup.type");
        fs::write(&file, "threaded\n").unwrap();
        let error = settle_type(&dir, true).unwrap_err().to_string();
        assert!(
            error.contains("is in mode \"threaded\" and cannot hold a container"),
            "{error}"
        );
        settle_type(&dir, false).unwrap();
        fs::write(&file, "domain invalid\n").unwrap();
        settle_type(&dir, false).unwrap();
        assert!(fs::read_to_string(&file).unwrap().starts_with("threaded"));
    }
}
