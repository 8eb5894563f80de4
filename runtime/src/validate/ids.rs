//! User namespaces, their mappings, and users in them (user_namespaces(7)).

use berth_spec::{LinuxIdMapping, LinuxNamespaceType, Spec};

use super::{Invalid, linux, namespace, process};
use crate::host::HostFacts;

/// Most lines that a kernel takes in one map (user_namespaces(7)).
const MOST_MAPPINGS: usize = 340;

fn lists(spec: &Spec) -> [(&'static str, &[LinuxIdMapping]); 2] {
    let linux = linux(spec);
    [
        (
            "linux.uidMappings",
            linux
                .and_then(|linux| linux.uid_mappings().as_deref())
                .unwrap_or_default(),
        ),
        (
            "linux.gidMappings",
            linux
                .and_then(|linux| linux.gid_mappings().as_deref())
                .unwrap_or_default(),
        ),
    ]
}

/// Whether the container gets a user namespace that is made for it.
fn new_namespace(spec: &Spec) -> bool {
    namespace(spec, LinuxNamespaceType::User).is_some_and(|entry| {
        entry
            .path()
            .as_ref()
            .is_none_or(|path| path.as_os_str().is_empty())
    })
}

/// Mappings and a user namespace belong together. A joined one brings its own mappings; engines repeat them.
pub(super) fn mappings_need_namespace(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    if namespace(spec, LinuxNamespaceType::User).is_none() {
        return match lists(spec).into_iter().find(|(_, list)| !list.is_empty()) {
            Some((field, _)) => Err(Invalid::new(
                field,
                "user namespace mappings specified, but user namespace isn't enabled in the config: add \
                 {\"type\": \"user\"} to linux.namespaces",
            )),
            None => Ok(()),
        };
    }
    if !new_namespace(spec) {
        return Ok(());
    }
    for (field, list) in lists(spec) {
        let zero = list
            .iter()
            .any(|mapping| mapping.container_id() == 0 && mapping.size() > 0);
        if list.is_empty() {
            return Err(Invalid::new(
                field,
                "user namespaces enabled, but no namespace path to join nor mappings to apply specified: map at \
                 least container id 0",
            ));
        }
        if !zero {
            return Err(Invalid::new(
                field,
                "container id 0 is not mapped: the container's files need an owner: map it",
            ));
        }
    }
    Ok(())
}

/// What the kernel refuses in a map.
pub(super) fn mappings(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    lists(spec)
        .into_iter()
        .try_for_each(|(field, list)| map(field, list))
}

/// Checks one map: sizes, ranges, overlaps. Also used for mounts' own mappings.
pub(super) fn map(field: &str, list: &[LinuxIdMapping]) -> Result<(), Invalid> {
    if list.len() > MOST_MAPPINGS {
        return Err(Invalid::new(
            field,
            format_args!("{} entries: at most {MOST_MAPPINGS}", list.len()),
        ));
    }
    for (index, mapping) in list.iter().enumerate() {
        let at = |name: &str| format!("{field}[{index}].{name}");
        if mapping.size() == 0 {
            return Err(Invalid::new(at("size"), "is 0: give the number of ids to map"));
        }
        for (name, first) in [
            ("containerID", mapping.container_id()),
            ("hostID", mapping.host_id()),
        ] {
            if first.checked_add(mapping.size()).is_none() {
                return Err(Invalid::new(
                    at(name),
                    format_args!("{first} plus size leaves the range of ids"),
                ));
            }
        }
        for (other, earlier) in list[..index].iter().enumerate() {
            let overlap = |a: u32, b: u32| a < b + earlier.size() && b < a + mapping.size();
            if overlap(mapping.container_id(), earlier.container_id()) {
                return Err(Invalid::new(
                    at("containerID"),
                    format_args!("overlaps entry {other}: separate them"),
                ));
            }
            if overlap(mapping.host_id(), earlier.host_id()) {
                return Err(Invalid::new(
                    at("hostID"),
                    format_args!("overlaps entry {other}: separate them"),
                ));
            }
        }
    }
    Ok(())
}

/// The process's ids must exist in the container's user namespace.
pub(super) fn users_are_mapped(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(user) = process(spec).map(berth_spec::Process::user) else {
        return Ok(());
    };
    if !new_namespace(spec) {
        return Ok(());
    }
    let [(uids, uid_map), (gids, gid_map)] = lists(spec);
    let mapped = |map: &[LinuxIdMapping], id: u32| {
        map.iter().any(|range| {
            id.checked_sub(range.container_id())
                .is_some_and(|offset| offset < range.size())
        })
    };
    let check = |field: String, list: &str, map, id| {
        if mapped(map, id) {
            return Ok(());
        }
        Err(Invalid::new(
            field,
            format_args!("{id} is not mapped: add it to {list}"),
        ))
    };
    check("process.user.uid".to_owned(), uids, uid_map, user.uid())?;
    check("process.user.gid".to_owned(), gids, gid_map, user.gid())?;
    let additional = user.additional_gids().as_deref().unwrap_or_default();
    additional.iter().enumerate().try_for_each(|(index, gid)| {
        check(
            format!("process.user.additionalGids[{index}]"),
            gids,
            gid_map,
            *gid,
        )
    })
}

/// What an unprivileged user cannot ask for.
pub(super) fn rootless(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    if host.euid == 0 {
        return Ok(());
    }
    if namespace(spec, LinuxNamespaceType::User).is_none() {
        return Err(Invalid::new(
            "linux.namespaces",
            "rootless container requires user namespaces: make the bundle with `berth spec --rootless`, or run as root",
        ));
    }
    let groups = process(spec).and_then(|process| process.user().additional_gids().as_ref());
    if groups.is_some_and(|groups| !groups.is_empty()) {
        return Err(Invalid::new(
            "process.user.additionalGids",
            "cannot set any additional groups in a rootless container: remove them",
        ));
    }
    Ok(())
}
