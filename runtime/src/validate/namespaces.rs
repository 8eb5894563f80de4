//! `linux.namespaces`, and what cannot be had without one.

use berth_spec::{LinuxNamespaceType, Spec};

use super::{Invalid, linux, namespace};
use crate::host::{HostFacts, Joined};

/// Host names are at most this long (uname(2), __NEW_UTS_LEN).
const LONGEST_NAME: usize = 64;

/// config-linux.md "Namespaces": a kind given twice MUST be an error.
pub(super) fn unique(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(entries) = linux(spec).and_then(|linux| linux.namespaces().as_ref()) else {
        return Ok(());
    };
    for (index, entry) in entries.iter().enumerate() {
        if entries[..index]
            .iter()
            .any(|earlier| earlier.typ() == entry.typ())
        {
            let problem = format!("duplicated ns {:?}: keep one entry", entry.typ().as_str());
            return Err(Invalid::new(
                format_args!("linux.namespaces[{index}].type"),
                problem,
            ));
        }
    }
    Ok(())
}

/// config-linux.md "Namespaces": a path MUST be absolute and lead to a namespace of its kind.
pub(super) fn joined(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let Some(entries) = linux(spec).and_then(|linux| linux.namespaces().as_ref()) else {
        return Ok(());
    };
    for (index, entry) in entries.iter().enumerate() {
        let Some(path) = entry.path().as_ref().filter(|path| !path.as_os_str().is_empty()) else {
            continue;
        };
        let field = format!("linux.namespaces[{index}].path");
        let shown = path.display();
        if !path.is_absolute() {
            return Err(Invalid::new(
                field,
                format_args!("{shown} is not absolute: put a / before it"),
            ));
        }
        let kind = entry.typ().as_str();
        match host
            .joined
            .iter()
            .find(|joined| joined.path == *path)
            .map(|joined| &joined.found)
        {
            Some(Joined::Missing { reason }) => {
                let problem = format!(
                    "{shown}: {reason}: name a {kind} namespace that exists, such as /proc/PID/ns/{}, or leave the \
                     path out for a new one",
                    if kind == "mount" {
                        "mnt"
                    } else if kind == "network" {
                        "net"
                    } else {
                        kind
                    }
                );
                return Err(Invalid::new(field, problem));
            }
            Some(Joined::NotANamespace) => {
                let problem =
                    format!("{shown} is not a namespace: name a file of /proc/PID/ns or a bind mount of one");
                return Err(Invalid::new(field, problem));
            }
            Some(Joined::Foreign | Joined::Own) | None => {}
        }
    }
    Ok(())
}

/// Kinds that a kernel may have been built without.
pub(super) fn supported(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let kinds = [
        (LinuxNamespaceType::User, host.namespaces.user),
        (LinuxNamespaceType::Cgroup, host.namespaces.cgroup),
        (LinuxNamespaceType::Time, host.namespaces.time),
    ];
    for (kind, supported) in kinds {
        if !supported && namespace(spec, kind).is_some() {
            let problem = format!(
                "{0} namespaces aren't enabled in the kernel: remove the {0} entry",
                kind.as_str()
            );
            return Err(Invalid::new("linux.namespaces", problem));
        }
    }
    Ok(())
}

/// Without a mount namespace of its own, a container's paths are the host's.
pub(super) fn mounts_need_one(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    if namespace(spec, LinuxNamespaceType::Mount).is_some() {
        return Ok(());
    }
    let fix = "add {\"type\": \"mount\"} to linux.namespaces";
    let Some(linux) = linux(spec) else { return Ok(()) };
    for (name, list) in [
        ("maskedPaths", linux.masked_paths()),
        ("readonlyPaths", linux.readonly_paths()),
    ] {
        if list.as_ref().is_some_and(|list| !list.is_empty()) {
            let problem = format!("unable to restrict sys entries without a private MNT namespace: {fix}");
            return Err(Invalid::new(format_args!("linux.{name}"), problem));
        }
    }
    Ok(())
}

/// Mounts of a container without a mount namespace are made, as by runc, where everybody sees them.
pub(super) fn visible_mounts(spec: &Spec) -> Option<String> {
    let some = spec.mounts().as_ref().is_some_and(|mounts| !mounts.is_empty());
    (some && namespace(spec, LinuxNamespaceType::Mount).is_none()).then(|| {
        "mounts: the container has no mount namespace: they are made on the host, below its root, until it is deleted"
            .to_owned()
    })
}

/// A host name belongs to a UTS namespace (uts_namespaces(7)).
pub(super) fn names_need_one(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let private = namespace(spec, LinuxNamespaceType::Uts).is_some();
    for (field, name) in [("hostname", spec.hostname()), ("domainname", spec.domainname())] {
        let Some(name) = name.as_deref().filter(|name| !name.is_empty()) else {
            continue;
        };
        if !private {
            let problem = format!(
                "unable to set {field} without a private UTS namespace: add {{\"type\": \"uts\"}} to linux.namespaces"
            );
            return Err(Invalid::new(field, problem));
        }
        if name.len() > LONGEST_NAME {
            let problem = format!("is {} bytes long: at most {LONGEST_NAME}", name.len());
            return Err(Invalid::new(field, problem));
        }
    }
    Ok(())
}
