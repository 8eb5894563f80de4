//! Mounts of type `cgroup` and `cgroup2`.

use std::path::Path;

use berth_cgroups::Kind;
use berth_spec::{LinuxNamespaceType, Mount};
use berth_sys::mount::{MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY};

use super::mounts::data;
use super::options::MountOptions;
use super::{Context, PlanError, path_text, text};
use crate::wire::{InitStep, mount_flags};

/// On a host with one cgroup2 tree, that tree as the cgroup namespace shows it; on others, a tmpfs with one
/// folder a hierarchy. This is what programs in containers expect of each.
pub(super) fn mount(
    context: &Context<'_>,
    mount: &Mount,
    number: u32,
    options: &MountOptions,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    if mount.typ().as_deref() == Some("cgroup2") || context.facts.cgroups.kind() == Kind::Unified {
        return unified_tree(context, mount, number, options, init);
    }
    legacy_tree(context, mount, number, options, init)
}

fn superblock(options: &MountOptions) -> Vec<String> {
    let mut words = options.data.clone();
    if options.set & MOUNT_ATTR_RDONLY != 0 {
        words.push("ro".to_owned());
    }
    words
}

fn unified_tree(
    context: &Context<'_>,
    mount: &Mount,
    number: u32,
    options: &MountOptions,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    // In a user namespace without a cgroup namespace the kernel refuses: then the container's own folder.
    let own = context.cgroup_paths.get("");
    let fallback = match own {
        Some(path) if context.has(LinuxNamespaceType::Cgroup) => path.as_path(),
        _ => Path::new("/sys/fs/cgroup"),
    };
    init.push(InitStep::FsMount {
        fstype: text("mounts.type", "cgroup2")?,
        source: path_text(
            "mounts.source",
            mount.source().as_deref().unwrap_or(Path::new("cgroup")),
        )?,
        options: data(&superblock(options))?,
        attributes: options.set,
        target: path_text("mounts.destination", mount.destination())?,
        propagation: options.propagation,
        fallback: path_text("mounts.destination", fallback)?,
        flags: 0,
        number,
    });
    Ok(())
}

fn legacy_tree(
    context: &Context<'_>,
    mount: &Mount,
    number: u32,
    options: &MountOptions,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let base = mount.destination();
    init.push(InitStep::FsMount {
        fstype: text("mounts.type", "tmpfs")?,
        source: text("mounts.source", "tmpfs")?,
        options: data(&["mode=755".to_owned()])?,
        attributes: MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
        target: path_text("mounts.destination", base)?,
        propagation: options.propagation,
        fallback: text("mounts.type", "")?,
        // That of sysfs, where nobody makes files.
        flags: if options.set & MOUNT_ATTR_RDONLY != 0 {
            mount_flags::INHERIT_MODE
        } else {
            0
        },
        number,
    });
    for hierarchy in context.facts.cgroups.legacy().iter().rev() {
        let Some(name) = hierarchy.mount.file_name() else {
            continue;
        };
        let Some(own) = hierarchy
            .controllers
            .iter()
            .find_map(|controller| context.cgroup_paths.get(controller))
        else {
            continue;
        };
        let target = base.join(name);
        if context.has(LinuxNamespaceType::Cgroup) {
            let controllers = hierarchy.controllers.join(",");
            let source = controllers.strip_prefix("name=").unwrap_or("cgroup");
            let mut words = hierarchy.controllers.clone();
            words.extend(superblock(options));
            init.push(InitStep::FsMount {
                fstype: text("mounts.type", "cgroup")?,
                source: text("mounts.source", source)?,
                options: data(&words)?,
                // As runc, whatever the options say: these hold no programs and no devices.
                attributes: options.set | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC,
                target: path_text("mounts.destination", &target)?,
                propagation: 0,
                fallback: path_text("mounts.source", own)?,
                flags: 0,
                number,
            });
        } else {
            init.push(InitStep::Bind {
                source: path_text("mounts.source", own)?,
                descriptor: None,
                target: path_text("mounts.destination", &target)?,
                set: options.set,
                clear: 0,
                named: 0,
                set_all: 0,
                clear_all: 0,
                propagation: 0,
                propagation_all: false,
                flags: 0,
                number,
            });
        }
        // `cpu` leads to `cpu,cpuacct` where these are mounted together.
        for controller in &hierarchy.controllers {
            if !controller.contains('=') && Path::new(controller).as_os_str() != name {
                init.push(InitStep::Link {
                    target: path_text("mounts.destination", Path::new(name))?,
                    path: path_text("mounts.destination", &base.join(controller))?,
                    existing: false,
                });
            }
        }
    }
    Ok(())
}
