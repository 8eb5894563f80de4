//! `mounts`.

use std::path::{Component, Path, PathBuf};

use berth_spec::{LinuxNamespaceType, Mount};
use berth_sys::mount::{
    MOUNT_ATTR_ATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
};

use super::options::{IdMap, MountOptions};
use super::{Context, HostStep, IdMaps, Inside, PlanError, cgroup, namespaces, path_text, root, text};
use crate::annotations;
use crate::wire::{InitStep, Slot, mount_flags};

/// All attributes that mount(2) with MS_REMOUNT would clear if they are not named.
const REPLACED: u64 =
    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NOSYMFOLLOW;

/// Attributes of the access time. They stay as they are, unless one of them is named: then all of them are replaced.
const ACCESS: u64 = MOUNT_ATTR_ATIME | MOUNT_ATTR_NODIRATIME;

/// Files of procfs that may be covered, as with runc: by what tells the container's limits in place of the host's.
const COVERED_IN_PROC: &[&str] = &[
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// File systems that a security label cannot be given to when they are mounted.
const UNLABELLED: &[&str] = &["proc", "sysfs", "mqueue", "cgroup", "cgroup2"];

/// Adds a host step that opens a source; returns its number.
pub(super) fn source(
    host: &mut Vec<HostStep>,
    path: &Path,
    recursive: bool,
    idmap: Option<IdMaps>,
    slave: bool,
    nofollow: bool,
) -> u32 {
    let slot = host.len() as u32;
    host.push(HostStep::Source {
        slot,
        path: path.to_path_buf(),
        recursive,
        idmap,
        slave,
        nofollow,
    });
    slot
}

/// Plans all mounts. Returns what must wait until devices and folders are made in them.
pub(super) fn all(
    context: &Context<'_>,
    host: &mut Vec<HostStep>,
    init: &mut Vec<InitStep>,
) -> Result<Vec<InitStep>, PlanError> {
    let mut late = Vec::new();
    for (number, mount) in context.spec.mounts().iter().flatten().enumerate() {
        let number = number as u32;
        let options = MountOptions::parse(mount.options().as_deref().unwrap_or_default());
        let kind = mount.typ().as_deref().unwrap_or_default();
        if options.bind || kind == "bind" {
            bind(context, mount, number, &options, host, init)?;
        } else if kind == "cgroup" || kind == "cgroup2" {
            cgroup::mount(context, mount, number, &options, init)?;
        } else {
            filesystem(context, mount, number, options, init, &mut late)?;
        }
    }
    Ok(late)
}

/// A path without `.`, `..` and double slashes, absolute: the way the kernel resolves it inside the root where no
/// link is on it.
pub(super) fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

fn may_cover_proc(destination: &Path) -> bool {
    let place = clean(destination);
    COVERED_IN_PROC.iter().any(|path| Path::new(path) == place)
}

/// Where a mount goes. A destination that begins with the root's own path is meant below it, as with runc: its callers of
/// old wrote them so.
fn destination(context: &Context<'_>, mount: &Mount) -> PathBuf {
    let path = mount.destination();
    match path.strip_prefix(context.rootfs) {
        Ok(below) if context.rootfs != Path::new("/") && !below.as_os_str().is_empty() => {
            Path::new("/").join(below)
        }
        _ => path.clone(),
    }
}

fn bind(
    context: &Context<'_>,
    mount: &Mount,
    number: u32,
    options: &MountOptions,
    host: &mut Vec<HostStep>,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let fail = |reason: &str| PlanError::Mount {
        destination: mount.destination().clone(),
        reason: reason.to_owned(),
    };
    let path = mount
        .source()
        .as_ref()
        .ok_or_else(|| fail("a bind mount needs a source"))?;
    let path = context.bundle.join(path);
    let idmap = id_mappings(context, mount, options);
    let origin = origin(context, number, &path, options, idmap, host);
    if let Origin::Inside(slot) = origin {
        init.push(InitStep::TakeSource { slot });
    }
    let mut flags = 0;
    for (on, flag) in [
        (options.recursive, mount_flags::RECURSIVE),
        (matches!(origin, Origin::Inside(_)), mount_flags::HANDED),
        // As if the mount were made inside, where what the host's mount forbids is locked (mount_namespaces(7)).
        (context.has(LinuxNamespaceType::User), mount_flags::LOCKED),
        (options.source_nofollow, mount_flags::SOURCE_NOFOLLOW),
        (options.target_nofollow, mount_flags::TARGET_NOFOLLOW),
        (may_cover_proc(mount.destination()), mount_flags::IN_PROC),
    ] {
        if on {
            flags |= flag;
        }
    }
    init.push(InitStep::Bind {
        source: path_text("mounts.source", &path)?,
        descriptor: match origin {
            Origin::Parent(slot) => Some(Slot::Source(slot)),
            Origin::Init | Origin::Inside(_) => None,
        },
        target: path_text("mounts.destination", &destination(context, mount))?,
        set: options.set,
        clear: cleared(options),
        named: options.cleared_by_name & REPLACED,
        set_all: options.set_all,
        clear_all: options.clear_all,
        propagation: options.propagation,
        propagation_all: options.propagation_all,
        flags,
        number,
    });
    Ok(())
}

/// Who opens the source of a bind.
enum Origin {
    /// The init itself.
    Init,
    /// The parent, before the init is made.
    Parent(u32),
    /// The parent, at the mount's turn.
    Inside(u32),
}

fn origin(
    context: &Context<'_>,
    number: u32,
    path: &Path,
    options: &MountOptions,
    idmap: Option<IdMaps>,
    host: &mut Vec<HostStep>,
) -> Origin {
    if idmap.is_none() && !root::parent_opens(context) {
        return Origin::Init;
    }
    let (recursive, nofollow) = (options.recursive, options.source_nofollow);
    let private = context.has(LinuxNamespaceType::Mount);
    match place_inside(context, path) {
        Some(place) if private && covered(context, number, &place, recursive) => {
            let slot = host.len() as u32;
            host.push(HostStep::SourceInside(Inside {
                slot,
                path: path.to_path_buf(),
                place,
                recursive,
                nofollow,
                idmap,
            }));
            Origin::Inside(slot)
        }
        _ => {
            let slave = !root::shares(context);
            Origin::Parent(source(host, path, recursive, idmap, slave, nofollow))
        }
    }
}

/// What a bind clears: options replace the attributes that the source's mount has, and without any they stay.
fn cleared(options: &MountOptions) -> u64 {
    if options.set | options.clear | options.cleared_by_name == 0 {
        return 0;
    }
    let access = options.clear & MOUNT_ATTR_ATIME | options.set & MOUNT_ATTR_NODIRATIME;
    let replaced = if access == 0 { REPLACED } else { REPLACED | ACCESS };
    replaced & !(options.set & !MOUNT_ATTR_ATIME)
}

/// The place of a host path below the container's root, if it names one.
fn place_inside(context: &Context<'_>, path: &Path) -> Option<PathBuf> {
    if context.rootfs == Path::new("/") {
        return None;
    }
    let below = clean(path).strip_prefix(context.rootfs).ok()?.to_path_buf();
    Some(Path::new("/").join(below))
}

/// Whether a mount before the one of this number is at the place or above it or, for a recursive bind, below it.
fn covered(context: &Context<'_>, number: u32, place: &Path, recursive: bool) -> bool {
    let before = context.spec.mounts().iter().flatten().take(number as usize);
    before
        .map(|mount| clean(&destination(context, mount)))
        .any(|other| place.starts_with(&other) || (recursive && other.starts_with(place)))
}

/// The mount's own id mappings, or the container's with `idmap` alone.
fn id_mappings(context: &Context<'_>, mount: &Mount, options: &MountOptions) -> Option<IdMaps> {
    let all = options.idmap == Some(IdMap::Recursive);
    let uids = namespaces::mappings(mount.uid_mappings().as_ref());
    let gids = namespaces::mappings(mount.gid_mappings().as_ref());
    if !uids.is_empty() || !gids.is_empty() {
        return Some(IdMaps {
            uids,
            gids,
            all,
            of: None,
        });
    }
    options.idmap?;
    let linux = context.spec.linux().as_ref()?;
    let of = context
        .namespace(LinuxNamespaceType::User)
        .and_then(super::joined)
        .cloned();
    Some(IdMaps {
        of,
        uids: namespaces::mappings(linux.uid_mappings().as_ref()),
        gids: namespaces::mappings(linux.gid_mappings().as_ref()),
        all,
    })
}

fn filesystem(
    context: &Context<'_>,
    mount: &Mount,
    number: u32,
    mut options: MountOptions,
    init: &mut Vec<InitStep>,
    late: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let kind = mount.typ().as_deref().unwrap_or_default();
    if kind.is_empty() {
        return Err(PlanError::Mount {
            destination: mount.destination().clone(),
            reason: "type: must be set unless the options have bind or rbind".to_owned(),
        });
    }
    let place = clean(mount.destination());
    let target = path_text("mounts.destination", &destination(context, mount))?;
    if options.set & MOUNT_ATTR_RDONLY != 0 {
        if place == Path::new("/dev") {
            // Devices are still to be made in it.
            options.set &= !MOUNT_ATTR_RDONLY;
            late.push(InitStep::Attributes {
                target: target.clone(),
                set: MOUNT_ATTR_RDONLY,
                clear: 0,
                propagation: 0,
                recursive: false,
            });
        } else if kind != "tmpfs" {
            // As mount(2) with MS_RDONLY: mount and file system. A tmpfs is only its mount, and may be filled.
            options.data.push("ro".to_owned());
        }
    }
    let label = context
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.mount_label().as_deref())
        .filter(|label| context.facts.selinux && !label.is_empty() && !UNLABELLED.contains(&kind));
    if let Some(label) = label {
        let kind = annotations::context_type(context.spec);
        options.data.push(format!("{kind}={label}"));
    }
    let mut flags = 0;
    if options.copy_up {
        flags |= mount_flags::COPY_UP;
    } else if kind == "tmpfs"
        && !data(&options.data)?
            .iter()
            .any(|option| option.as_bytes().starts_with(b"mode="))
    {
        flags |= mount_flags::INHERIT_MODE;
    }
    // These two must be where the container looks for them, not where a link of the image leads (CVE-2019-19921).
    if options.target_nofollow || kind == "proc" || kind == "sysfs" {
        flags |= mount_flags::TARGET_NOFOLLOW;
    }
    if kind == "proc" && place == Path::new("/proc") {
        flags |= mount_flags::KEEP_PROC | mount_flags::IN_PROC;
    } else if may_cover_proc(&place) {
        flags |= mount_flags::IN_PROC;
    }
    let fallback = if kind == "sysfs" { "/sys" } else { "" };
    let source = mount.source().as_deref().unwrap_or(Path::new(kind));
    let step = InitStep::FsMount {
        fstype: text("mounts.type", kind)?,
        source: path_text("mounts.source", source)?,
        options: data(&options.data)?,
        attributes: options.set,
        target: target.clone(),
        propagation: if options.propagation_all {
            0
        } else {
            options.propagation
        },
        fallback: text("mounts.type", fallback)?,
        flags,
        number,
    };
    init.push(step);
    if options.set_all | options.clear_all != 0 {
        init.push(InitStep::Attributes {
            target: target.clone(),
            set: options.set_all,
            clear: options.clear_all,
            propagation: 0,
            recursive: true,
        });
    }
    if options.propagation_all {
        init.push(InitStep::Attributes {
            target,
            set: 0,
            clear: 0,
            propagation: options.propagation,
            recursive: true,
        });
    }
    Ok(())
}

/// Options for the file system. One text may hold several, separated by commas, as engines write them.
pub(super) fn data(options: &[String]) -> Result<Vec<std::ffi::CString>, PlanError> {
    options
        .iter()
        .flat_map(|option| split(option))
        .map(|option| text("mounts.options", &option))
        .collect()
}

/// Commas separate options; a backslash keeps one (overlayfs paths), quotes keep all of them (SELinux labels).
fn split(option: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut characters = option.chars().peekable();
    while let Some(c) = characters.next() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '\\' if characters.peek() == Some(&',') => {
                part.push(c);
                part.extend(characters.next());
            }
            '"' => quoted = !quoted,
            ',' if !quoted => parts.push(String::new()),
            c => part.push(c),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_split_at_commas_that_are_not_protected() {
        assert_eq!(split("size=64k,mode=755"), ["size=64k", "mode=755"]);
        assert_eq!(
            split(r#"context="u:r:t:s0:c1,c2",ro"#),
            ["context=u:r:t:s0:c1,c2", "ro"]
        );
        assert_eq!(split(r"lowerdir=/a\,b:/c"), [r"lowerdir=/a\,b:/c"]);
        assert!(split(",,").is_empty());
    }

    #[test]
    fn options_of_a_bind_replace_what_is_not_named() {
        let cleared = |words: &[&str]| cleared(&MountOptions::parse(words));
        assert_eq!(cleared(&["rbind", "rprivate"]), 0);
        assert_eq!(cleared(&["bind", "dev"]), REPLACED);
        assert_eq!(cleared(&["bind", "atime"]), REPLACED);
        assert_eq!(cleared(&["bind", "ro"]), REPLACED & !MOUNT_ATTR_RDONLY);
        assert_eq!(cleared(&["bind", "relatime"]), REPLACED | ACCESS);
        assert_eq!(cleared(&["bind", "nodiratime"]), REPLACED | MOUNT_ATTR_ATIME);
        assert_eq!(
            cleared(&["bind", "noatime", "nodiratime"]),
            REPLACED | MOUNT_ATTR_ATIME
        );
    }

    #[test]
    fn paths_are_cleaned_like_the_kernel_walks() {
        for (path, clean_path) in [
            ("/dev/", "/dev"),
            ("dev", "/dev"),
            ("/a/../dev/.", "/dev"),
            ("/../..", "/"),
        ] {
            assert_eq!(clean(Path::new(path)), Path::new(clean_path));
        }
    }
}
