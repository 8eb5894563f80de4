//! `mounts`.

use std::path::Path;

use berth_spec::{LinuxNamespaceType, Mount, Spec};

use super::{Invalid, ids, namespace};
use crate::host::HostFacts;

/// Options that are the runtime's business (config.md "Linux mount options", runc's and crun's extensions); all others
/// are handed to the file system. Sorted, as `features` lists them.
pub const KNOWN_OPTIONS: &[&str] = &[
    "async",
    "atime",
    "bind",
    "defaults",
    "dest-nofollow",
    "dev",
    "diratime",
    "dirsync",
    "exec",
    "idmap",
    "iversion",
    "lazytime",
    "loud",
    "mand",
    "noatime",
    "nodev",
    "nodiratime",
    "noexec",
    "noiversion",
    "nolazytime",
    "nomand",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nosymfollow",
    "private",
    "ratime",
    "rbind",
    "rdev",
    "rdiratime",
    "relatime",
    "remount",
    "rexec",
    "ridmap",
    "rnoatime",
    "rnodev",
    "rnodiratime",
    "rnoexec",
    "rnorelatime",
    "rnostrictatime",
    "rnosuid",
    "rnosymfollow",
    "ro",
    "rprivate",
    "rrelatime",
    "rro",
    "rrw",
    "rshared",
    "rslave",
    "rstrictatime",
    "rsuid",
    "rsymfollow",
    "runbindable",
    "rw",
    "shared",
    "silent",
    "slave",
    "src-nofollow",
    "strictatime",
    "suid",
    "symfollow",
    "sync",
    "tmpcopyup",
    "unbindable",
];

/// Options without a value that file systems in containers take. A word of a mount that is neither here nor among the
/// runtime's is taken for a typing error only where the file system is known to refuse it.
const SIMPLE_FILE_SYSTEMS: &[(&str, &[&str])] = &[
    (
        "tmpfs",
        &[
            "size",
            "nr_blocks",
            "nr_inodes",
            "mode",
            "uid",
            "gid",
            "mpol",
            "huge",
            "inode32",
            "inode64",
            "noswap",
            "quota",
            "usrquota",
            "grpquota",
            "usrquota_block_hardlimit",
            "usrquota_inode_hardlimit",
            "grpquota_block_hardlimit",
            "grpquota_inode_hardlimit",
            "context",
            "fscontext",
            "defcontext",
            "rootcontext",
            "acl",
            "noacl",
            "casefold",
            "strict_encoding",
        ],
    ),
    (
        "devpts",
        &[
            "newinstance",
            "gid",
            "uid",
            "mode",
            "ptmxmode",
            "max",
            "context",
            "fscontext",
            "defcontext",
        ],
    ),
    ("proc", &["hidepid", "gid", "subset", "pidns"]),
];

fn options(mount: &Mount) -> impl Iterator<Item = &str> {
    mount.options().iter().flatten().map(String::as_str)
}

fn has(mount: &Mount, names: &[&str]) -> bool {
    options(mount).any(|option| names.contains(&option))
}

fn is_bind(mount: &Mount) -> bool {
    has(mount, &["bind", "rbind"]) || mount.typ().as_deref() == Some("bind")
}

/// The part of an option before its value.
fn key(option: &str) -> &str {
    option.split_once('=').map_or(option, |(key, _)| key)
}

fn is_known(option: &str) -> bool {
    KNOWN_OPTIONS.binary_search(&option).is_ok()
        // With mappings of their own: crun's extension, `idmap=uids=0-1-10;gids=...`.
        || option.starts_with("idmap=")
        || option.starts_with("ridmap=")
}

/// config.md "Mounts": what no mount can be made from.
pub(super) fn mounts(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let at = |name: &str| format!("mounts[{index}].{name}");
        let destination = mount.destination();
        if destination.as_os_str().is_empty() {
            return Err(Invalid::new(
                at("destination"),
                "is empty: name the directory to mount on",
            ));
        }
        for (name, path) in [
            ("destination", Some(destination)),
            ("source", mount.source().as_ref()),
        ] {
            if path.is_some_and(|path| path.as_os_str().as_encoded_bytes().contains(&0)) {
                return Err(Invalid::new(
                    at(name),
                    "mount field contains null byte: remove it",
                ));
            }
        }
        if is_bind(mount) {
            bind(mount, &at)?;
        } else {
            file_system(mount, &at)?;
        }
    }
    Ok(())
}

fn bind(mount: &Mount, at: &dyn Fn(&str) -> String) -> Result<(), Invalid> {
    if !has(mount, &["remount"])
        && mount
            .source()
            .as_ref()
            .is_none_or(|source| source.as_os_str().is_empty())
    {
        return Err(Invalid::new(
            at("source"),
            "a bind mount needs one: name the file or directory to bind",
        ));
    }
    // The kernel ignores the file system's options on a bind mount, so they would be promises not kept.
    for (position, option) in options(mount).enumerate() {
        if !is_known(option) && !option.is_empty() {
            let problem = format!(
                "{option:?}: bind mounts cannot have any filesystem-specific options applied: remove it or correct \
                 its spelling"
            );
            return Err(Invalid::new(format!("{}[{position}]", at("options")), problem));
        }
    }
    if has(mount, &["tmpcopyup"]) {
        return Err(Invalid::new(
            at("options"),
            "tmpcopyup only works on a tmpfs: remove it",
        ));
    }
    Ok(())
}

fn file_system(mount: &Mount, at: &dyn Fn(&str) -> String) -> Result<(), Invalid> {
    let kind = mount.typ().as_deref().unwrap_or_default();
    if kind.is_empty() || kind == "none" {
        if has(mount, &["remount"]) || options(mount).any(super::paths::is_propagation) {
            return Ok(());
        }
        let problem = "required unless options contain bind or rbind: name a file system such as tmpfs";
        return Err(Invalid::new(at("type"), problem));
    }
    if has(mount, &["tmpcopyup"]) && kind != "tmpfs" {
        return Err(Invalid::new(
            at("options"),
            format_args!("tmpcopyup only works on a tmpfs, not {kind}: remove it"),
        ));
    }
    let Some((_, accepted)) = SIMPLE_FILE_SYSTEMS.iter().find(|(name, _)| *name == kind) else {
        return Ok(());
    };
    for (position, option) in options(mount).enumerate() {
        if !is_known(option) && !option.is_empty() && !accepted.contains(&key(option)) {
            let problem =
                format!("{option:?}: unknown mount option for {kind}: remove it or correct its spelling");
            return Err(Invalid::new(format!("{}[{position}]", at("options")), problem));
        }
    }
    Ok(())
}

/// config.md "uidMappings", "gidMappings" of mounts: on bind mounts, by a runtime with privilege.
pub(super) fn id_mapped(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let uids = mount.uid_mappings().as_deref().unwrap_or_default();
        let gids = mount.gid_mappings().as_deref().unwrap_or_default();
        let wanted = options(mount).any(|option| ["idmap", "ridmap"].contains(&key(option)));
        if !wanted && uids.is_empty() && gids.is_empty() {
            continue;
        }
        let at = |name: &str| format!("mounts[{index}].{name}");
        if !is_bind(mount) {
            let problem =
                "id-mapped mounts are only supported for bind-mounts: add the option bind, or remove this";
            return Err(Invalid::new(at("options"), problem));
        }
        if host.euid != 0 {
            let problem = "id-mapped mounts are not supported for rootless containers: remove the mappings";
            return Err(Invalid::new(at("uidMappings"), problem));
        }
        if !host.kernel.at_least(5, 12) {
            return Err(Invalid::new(
                at("uidMappings"),
                "id-mapped mounts need Linux 5.12: use a newer kernel",
            ));
        }
        let by_option = options(mount).any(|option| option.contains("idmap="));
        let own = !uids.is_empty() || !gids.is_empty();
        if own && (uids.is_empty() || gids.is_empty()) {
            let missing = if uids.is_empty() {
                "uidMappings"
            } else {
                "gidMappings"
            };
            let problem = "id-mapped mounts must have both uid and gid mappings specified: add it";
            return Err(Invalid::new(at(missing), problem));
        }
        if !own && !by_option && namespace(spec, LinuxNamespaceType::User).is_none() {
            let problem = "idmap without mappings takes those of the user namespace, and there is none: add \
                           uidMappings and gidMappings";
            return Err(Invalid::new(at("options"), problem));
        }
        ids::map(&at("uidMappings"), uids)?;
        ids::map(&at("gidMappings"), gids)?;
    }
    Ok(())
}

/// runc mounts relative destinations below / and says that it should not have to.
pub(super) fn deprecated(spec: &Spec) -> Vec<String> {
    let relative = |path: &Path| !path.is_absolute() && !path.as_os_str().is_empty();
    let mounts = spec.mounts().iter().flatten().enumerate();
    mounts
        .filter(|(_, mount)| relative(mount.destination()))
        .map(|(index, mount)| {
            format!(
                "mounts[{index}].destination: {}: relative destination path is **deprecated**, using it as relative \
                 to /",
                mount.destination().display()
            )
        })
        .collect()
}
