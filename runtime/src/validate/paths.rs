//! Paths and words of `linux` that stand alone.

use std::path::{Component, Path};

use berth_spec::Spec;

use super::{Invalid, linux};
use crate::host::HostFacts;

/// Words of mount_namespaces(7), also applied recursively.
const PROPAGATION: [&str; 8] = [
    "private",
    "rprivate",
    "slave",
    "rslave",
    "shared",
    "rshared",
    "unbindable",
    "runbindable",
];

/// config-linux.md "Masked Paths" and "Readonly Paths": absolute paths in the container.
pub(super) fn hidden(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(linux) = linux(spec) else { return Ok(()) };
    for (name, list) in [
        ("maskedPaths", linux.masked_paths()),
        ("readonlyPaths", linux.readonly_paths()),
    ] {
        for (index, path) in list.iter().flatten().enumerate() {
            if !Path::new(path).is_absolute() || path.contains('\0') {
                let field = format!("linux.{name}[{index}]");
                return Err(Invalid::new(
                    field,
                    format_args!("{path:?} is not an absolute path: put a / before it"),
                ));
            }
        }
    }
    Ok(())
}

/// A path that climbs would leave the tree it was given to (CVE-class: cgroup escape by `..`).
pub(super) fn cgroup(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(path) = linux(spec).and_then(|linux| linux.cgroups_path().as_ref()) else {
        return Ok(());
    };
    if path
        .components()
        .any(|component| component == Component::ParentDir)
    {
        let problem = format!(
            "{}: \"..\" is not allowed: write the path it means",
            path.display()
        );
        return Err(Invalid::new("linux.cgroupsPath", problem));
    }
    Ok(())
}

/// config-linux.md "Rootfs Mount Propagation".
pub(super) fn propagation(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(word) = linux(spec).and_then(|linux| linux.rootfs_propagation().as_deref()) else {
        return Ok(());
    };
    if word.is_empty() || PROPAGATION.contains(&word) {
        return Ok(());
    }
    let problem = format!(
        "rootfsPropagation={word} is not supported: use one of {}",
        PROPAGATION.join(", ")
    );
    Err(Invalid::new("linux.rootfsPropagation", problem))
}

/// Whether a mount option sets propagation.
pub(super) fn is_propagation(option: &str) -> bool {
    PROPAGATION.contains(&option)
}
