//! The root file system: mounted, filled, entered, closed.

use berth_spec::LinuxNamespaceType;

use berth_sys::mount::{MOUNT_ATTR_RDONLY, MS_PRIVATE, MS_SHARED, MS_SLAVE};

use super::{
    Context, CreateOptions, HostStep, PlanError, devices, mounts, namespaces, options, path_text, process,
    text,
};
use crate::wire::{InitStep, Slot};

/// Everything between the birth of the first process and its user's program that concerns files.
pub(super) fn enter(
    context: &Context<'_>,
    create: &CreateOptions<'_>,
    host: &mut Vec<HostStep>,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let private = context.has(LinuxNamespaceType::Mount);
    let propagation = root_propagation(context)?;
    if context.makes(LinuxNamespaceType::Mount) {
        // Until the root has changed nothing may reach the host, whatever the container's root gets in the end.
        let flags = if propagation.is_none_or(|(flag, _)| flag & (MS_SHARED | MS_SLAVE) != 0) {
            MS_SLAVE
        } else {
            MS_PRIVATE
        };
        init.push(InitStep::Propagation {
            flags,
            recursive: true,
        });
    }
    let source = (private && parent_opens(context))
        .then(|| mounts::source(host, context.rootfs, true, None, true, false));
    init.push(InitStep::Root {
        path: path_text("root.path", context.rootfs)?,
        source: source.map(Slot::Source),
        mount: private,
    });
    if !private {
        refuse_protection(context)?;
    }
    // Without a mount namespace they are made all the same, where the host sees them (`host_mounts`).
    let mounted = private || context.spec.mounts().iter().flatten().next().is_some();
    let late = if mounted {
        let late = mounts::all(context, host, init)?;
        devices::all(context, init)?;
        late
    } else {
        Vec::new()
    };
    if let Some(process) = context.process
        && process.cwd().as_os_str() != "/"
    {
        init.push(InitStep::Folder {
            path: path_text("process.cwd", process.cwd())?,
            mode: 0o755,
        });
    }
    namespaces::hook_point(context, init)?;
    init.push(match create.no_pivot {
        _ if !private => InitStep::ChangeRoot {},
        false => InitStep::PivotRoot {},
        // What is to be covered is known when it is launched.
        true => InitStep::MoveRoot { cover: Vec::new() },
    });
    process::terminal(context, create.console, mounted, init)?;
    if mounted {
        init.push(InitStep::ReopenNull {});
    }
    init.extend(late);
    if private {
        finish(context, propagation, init)?;
    }
    protect(context, init)
}

/// Whether bind sources are opened by the parent: where the container's user has no right to (user namespaces),
/// and where mounts must stay in the host's peer groups, so that they propagate both ways.
pub(super) fn parent_opens(context: &Context<'_>) -> bool {
    let privileged = context.facts.euid == 0 && !context.facts.in_user_namespace;
    privileged && (context.has(LinuxNamespaceType::User) || shares(context))
}

/// Whether mounts stay in the host's peer groups (`rootfsPropagation` shared), so that a bind mount of the host
/// can propagate both ways.
pub(super) fn shares(context: &Context<'_>) -> bool {
    root_propagation(context).is_ok_and(|found| found.is_some_and(|(flag, _)| flag == MS_SHARED))
}

/// `linux.rootfsPropagation`.
pub(super) fn root_propagation(context: &Context<'_>) -> Result<Option<(u64, bool)>, PlanError> {
    let word = context
        .spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.rootfs_propagation().as_deref())
        .filter(|word| !word.is_empty());
    word.map(|word| {
        options::propagation(word).ok_or_else(|| PlanError::Unknown {
            field: "linux.rootfsPropagation",
            value: word.to_owned(),
        })
    })
    .transpose()
}

fn finish(
    context: &Context<'_>,
    propagation: Option<(u64, bool)>,
    init: &mut Vec<InitStep>,
) -> Result<(), PlanError> {
    let read_only = context
        .spec
        .root()
        .as_ref()
        .and_then(berth_spec::Root::readonly)
        .unwrap_or_default();
    // Slave is what the tree already is.
    let propagation = propagation.filter(|(flag, _)| *flag != MS_SLAVE && *flag != MS_PRIVATE);
    if read_only {
        init.push(InitStep::Attributes {
            target: text("root.path", "/")?,
            set: MOUNT_ATTR_RDONLY,
            clear: 0,
            propagation: 0,
            recursive: false,
        });
    }
    if let Some((flag, all)) = propagation {
        init.push(InitStep::Attributes {
            target: text("root.path", "/")?,
            set: 0,
            clear: 0,
            propagation: flag,
            recursive: all,
        });
    }
    Ok(())
}

/// Kernel parameters, labels, read-only and masked paths.
fn protect(context: &Context<'_>, init: &mut Vec<InitStep>) -> Result<(), PlanError> {
    let Some(linux) = context.spec.linux() else {
        return Ok(());
    };
    let mut sysctls: Vec<_> = linux.sysctl().iter().flatten().collect();
    sysctls.sort();
    if process::needs_proc(context) || !sysctls.is_empty() {
        init.push(InitStep::OpenProc {});
    }
    process::labels(context, init)?;
    for (key, value) in sysctls {
        init.push(InitStep::Sysctl {
            path: text("linux.sysctl", &sysctl_path(key))?,
            value: value.clone().into_bytes(),
        });
    }
    let label = linux
        .mount_label()
        .as_deref()
        .filter(|_| context.facts.selinux)
        .unwrap_or_default();
    for path in linux.readonly_paths().iter().flatten() {
        init.push(InitStep::ReadOnly {
            path: text("linux.readonlyPaths", path)?,
        });
    }
    let mut masked = std::collections::HashSet::new();
    for path in linux.masked_paths().iter().flatten() {
        // A mask over a mask would hide nothing more.
        if !masked.insert(path) {
            continue;
        }
        init.push(InitStep::Mask {
            path: text("linux.maskedPaths", path)?,
            label: text("linux.mountLabel", label)?,
        });
    }
    Ok(())
}

/// `net.ipv4.conf.eth0/1.forwarding` is net/ipv4/conf/eth0.1/forwarding (sysctl(8)): the first separator decides
/// which of the two characters is one.
fn sysctl_path(key: &str) -> String {
    let slashes = key.find(['.', '/']).is_some_and(|at| key.as_bytes()[at] == b'/');
    let path: String = if slashes {
        key.to_owned()
    } else {
        key.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect()
    };
    format!("sys/{path}")
}

/// Paths of the host are not to be covered.
fn refuse_protection(context: &Context<'_>) -> Result<(), PlanError> {
    let linux = context.spec.linux().as_ref();
    let some = |list: Option<&Vec<String>>| list.is_some_and(|list| !list.is_empty());
    let field = if some(linux.and_then(|linux| linux.masked_paths().as_ref())) {
        "linux.maskedPaths"
    } else if some(linux.and_then(|linux| linux.readonly_paths().as_ref())) {
        "linux.readonlyPaths"
    } else {
        return Ok(());
    };
    Err(PlanError::NeedsMountNamespace { field })
}

#[cfg(test)]
mod tests {
    use super::sysctl_path;

    #[test]
    fn sysctl_names_in_both_spellings() {
        assert_eq!(sysctl_path("kernel.msgmax"), "sys/kernel/msgmax");
        assert_eq!(sysctl_path("net/ipv4/ip_forward"), "sys/net/ipv4/ip_forward");
        assert_eq!(
            sysctl_path("net.ipv4.conf.eth0/1.forwarding"),
            "sys/net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(
            sysctl_path("net/ipv4/conf/eth0.1/forwarding"),
            "sys/net/ipv4/conf/eth0.1/forwarding"
        );
    }
}
