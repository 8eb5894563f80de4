//! Limits of the configuration to values in files: which controller enforces a field, and where it is.

use std::borrow::Cow;

use berth_spec::LinuxResources;

use crate::write::Write;
use crate::{CgroupError, v1, v2};

/// A setting that this host has no counterpart for and that the specification's reference ignores, too:
/// nothing is enforced, and the caller should log it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ignored {
    /// The field of the configuration.
    pub field: &'static str,
    /// Why it has no effect.
    pub reason: &'static str,
}

/// What a controller's values are computed with.
pub(crate) type Compute = fn(&LinuxResources, &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError>;

/// One subject of `linux.resources`: its controller in v1 and in v2, and what each takes.
pub(crate) struct Subject {
    pub v1: &'static str,
    pub v2: &'static str,
    pub for_v1: Compute,
    pub for_v2: Compute,
}

/// In the order in which they are written.
pub(crate) const SUBJECTS: [Subject; 9] = [
    Subject {
        v1: "memory",
        v2: "memory",
        for_v1: v1::memory::writes,
        for_v2: v2::memory::writes,
    },
    Subject {
        v1: "cpu",
        v2: "cpu",
        for_v1: v1::cpu::writes,
        for_v2: v2::cpu::writes,
    },
    Subject {
        v1: "cpuset",
        v2: "cpuset",
        for_v1: v2::cpuset::writes,
        for_v2: v2::cpuset::writes,
    },
    Subject {
        v1: "pids",
        v2: "pids",
        for_v1: v2::pids::writes,
        for_v2: v2::pids::writes,
    },
    Subject {
        v1: "blkio",
        v2: "io",
        for_v1: v1::blkio::writes,
        for_v2: v2::io::writes,
    },
    Subject {
        v1: "hugetlb",
        v2: "hugetlb",
        for_v1: v1::hugetlb::writes,
        for_v2: v2::hugetlb::writes,
    },
    Subject {
        v1: "rdma",
        v2: "rdma",
        for_v1: v2::rdma::writes,
        for_v2: v2::rdma::writes,
    },
    Subject {
        v1: "net_cls",
        v2: "",
        for_v1: v1::net::class,
        for_v2: v1::net::class,
    },
    Subject {
        v1: "net_prio",
        v2: "",
        for_v1: v1::net::priorities,
        for_v2: v1::net::priorities,
    },
];

/// Where a subject's controller was found.
pub(crate) enum Home {
    V1,
    V2,
    Missing(String),
}

/// The values for one controller.
#[derive(Debug)]
pub(crate) struct Part {
    pub controller: &'static str,
    pub unified: bool,
    pub writes: Vec<Write>,
}

/// Computes all values; `home` says where a controller (by its v1 and v2 names) is, and is asked only about
/// subjects that the configuration limits.
pub(crate) fn parts(
    resources: &LinuxResources,
    mut home: impl FnMut(&str, &str) -> Result<Home, CgroupError>,
    ignored: &mut Vec<Ignored>,
) -> Result<Vec<Part>, CgroupError> {
    let mut parts = Vec::new();
    for subject in &SUBJECTS {
        // Asked with the v2 meaning first: a subject without values needs no controller.
        let mut unsaid = Vec::new();
        let probe = (subject.for_v1)(resources, &mut unsaid);
        if matches!(&probe, Ok(writes) if writes.is_empty()) && unsaid.is_empty() {
            continue;
        }
        let (unified, writes) = match home(subject.v1, subject.v2)? {
            Home::V1 => {
                ignored.append(&mut unsaid);
                (false, probe?)
            }
            Home::V2 => (true, (subject.for_v2)(resources, ignored)?),
            Home::Missing(reason) => {
                if let Some(asked) = probe?.into_iter().find(|write| !write.optional) {
                    return Err(CgroupError::MissingController {
                        field: asked.field.into_owned(),
                        controller: if subject.v2.is_empty() {
                            subject.v1
                        } else {
                            subject.v2
                        }
                        .to_owned(),
                        reason,
                    });
                }
                continue;
            }
        };
        let controller = if unified { subject.v2 } else { subject.v1 };
        if !writes.is_empty() {
            parts.push(Part {
                controller,
                unified,
                writes,
            });
        }
    }
    Ok(parts)
}

/// `linux.resources.unified`: file names of cgroup v2 with their values, a line a write.
pub(crate) fn unified(resources: &LinuxResources) -> Result<Vec<(String, Write)>, CgroupError> {
    let mut found = Vec::new();
    let Some(map) = resources.unified() else {
        return Ok(found);
    };
    let mut keys: Vec<_> = map.iter().collect();
    keys.sort();
    for (file, value) in keys {
        let field = format!("linux.resources.unified[{file:?}]");
        let controller = match file.split_once('.') {
            Some((controller, rest)) if !file.contains('/') && !controller.is_empty() && !rest.is_empty() => {
                controller
            }
            _ => {
                return Err(CgroupError::invalid(
                    field,
                    "not a file name of the form controller.name",
                ));
            }
        };
        for line in value.lines().filter(|line| !line.trim().is_empty()) {
            let write = Write::named(Cow::Owned(file.clone()), line, Cow::Owned(field.clone()));
            found.push((controller.to_owned(), write));
        }
    }
    Ok(found)
}

/// A limit as runtime-spec writes it: 0 is unset, -1 unlimited.
pub(crate) fn limit(field: &'static str, value: Option<i64>) -> Result<Option<Limit>, CgroupError> {
    match value {
        None | Some(0) => Ok(None),
        Some(-1) => Ok(Some(Limit::None)),
        Some(value) => match u64::try_from(value) {
            Ok(value) => Ok(Some(Limit::At(value))),
            Err(_) => Err(CgroupError::invalid(
                field,
                format!("{value} is negative; write -1 for no limit"),
            )),
        },
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    None,
    At(u64),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CgroupError;
    fn resources(text: &str) -> LinuxResources {
        berth_spec::read(text.as_bytes()).unwrap().value
    }

    #[allow(clippy::unnecessary_wraps)]
    fn missing(_: &str, _: &str) -> Result<Home, CgroupError> {
        Ok(Home::Missing("no such controller".into()))
    }

    #[test]
    fn a_limit_without_its_controller_is_refused() {
        let memory = resources(r#"{"memory": {"limit": 1048576}}"#);
        let error = parts(&memory, missing, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(
            error,
            "linux.resources.memory.limit: the memory controller is not available (no such controller); \
             enable it or remove the limit"
        );
        let network = resources(r#"{"network": {"classID": 7}}"#);
        let error = parts(&network, missing, &mut Vec::new()).unwrap_err().to_string();
        assert!(
            error.starts_with("linux.resources.network.classID: the net_cls controller"),
            "{error}"
        );
    }

    #[test]
    fn no_limit_needs_no_controller() {
        let resources = resources(r#"{"memory": {"limit": -1}, "pids": {"limit": -1}}"#);
        assert!(parts(&resources, missing, &mut Vec::new()).unwrap().is_empty());
        assert!(
            parts(
                &LinuxResources::default(),
                |_, _| panic!("asked"),
                &mut Vec::new()
            )
            .unwrap()
            .is_empty()
        );
    }

    #[test]
    fn unified_keys() {
        let map = |key: &str, value: &str| LinuxResources {
            unified: Some([(key.to_owned(), value.to_owned())].into()),
            ..LinuxResources::default()
        };
        let found = unified(&map("io.max", "8:0 rbps=1\n8:16 rbps=2\n")).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].0.as_str(), found[1].1.value.as_str()),
            ("io", "8:16 rbps=2")
        );
        for bad in ["memory", "../memory.max", ".max", "memory."] {
            let error = unified(&map(bad, "1")).unwrap_err().to_string();
            assert!(error.contains("not a file name"), "{error}");
        }
    }
}
