//! PURE: the OCI config.json of a container, as containerd's CRI plugin writes it.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1 as api;
use serde_json::{Value, json};

use super::env::expand;
use super::ids::LENGTH;
use super::pod::Pod;
use super::resources::{self, Amounts};
use super::seccomp;

/// Capabilities that a container has unless it drops them.
const DEFAULT_CAPABILITIES: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// All capabilities by number (capabilities(7)).
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Paths below /proc and /sys that tell or change too much of the host.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];

/// Paths below /proc that are read-only.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// The search path of an image that sets none.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the image says.
#[derive(Debug, Clone, Default)]
pub struct ImageSettings {
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, each `NAME=value`.
    pub env: Vec<String>,
    /// `WorkingDir`.
    pub working_dir: String,
}

/// Who the program runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// More groups.
    pub additional: Vec<u32>,
}

/// A bind mount into the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// In the container.
    pub target: String,
    /// No writing.
    pub read_only: bool,
    /// Nor in what is mounted inside it.
    pub recursive: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub propagation: &'static str,
}

/// A device of the host, for privileged containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Path on the host and in the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: &'static str,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Everything the configuration is made of.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a api::Container,
    /// The image's settings.
    pub image: &'a ImageSettings,
    /// Who the program runs as.
    pub identity: &'a Identity,
    /// The resolved environment of the pod's specification.
    pub env: &'a [(String, String)],
    /// The pod's host name.
    pub hostname: &'a str,
    /// Absolute path of the mounted root file system.
    pub rootfs: &'a Path,
    /// Namespaces of the pod: type and path.
    pub namespaces: &'a [(&'static str, PathBuf)],
    /// Volumes and the node's files, in the order in which they are mounted.
    pub binds: &'a [Bind],
    /// Path of the cgroup below the hierarchies' roots.
    pub cgroup: &'a str,
    /// `oom_score_adj`.
    pub oom_score: i64,
    /// Number of the last capability of the kernel.
    pub last_capability: usize,
    /// The host's devices, if the container is privileged.
    pub devices: &'a [Device],
    /// What user 0 is on the host, for a pod with users of its own.
    pub first_user: Option<u32>,
    /// A seccomp profile read from a file (`Localhost`).
    pub local_seccomp: Option<Value>,
    /// Memory is in cgroup v2.
    pub unified: bool,
}

/// A container that cannot be made from its specification.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Neither the image nor the pod says what to run.
    #[error("no command specified: set command in the pod, or an entrypoint in image {image}")]
    NoCommand {
        /// The image.
        image: String,
    },
    /// A capability that the kernel does not have.
    #[error(
        "securityContext.capabilities: {name:?} is no capability (write it without CAP_, such as NET_ADMIN)"
    )]
    Capability {
        /// As it was written.
        name: String,
    },
}

/// The configuration.
///
/// # Errors
/// [`SpecError`].
pub fn config(parts: &Parts<'_>) -> Result<Value, SpecError> {
    let security = parts.container.security_context.as_ref();
    let privileged = security.and_then(|s| s.privileged).unwrap_or(false);
    let read_only_root = security
        .and_then(|s| s.read_only_root_filesystem)
        .unwrap_or(false);
    let capabilities = capabilities(security, privileged, parts.last_capability)?;
    let escalation = security
        .and_then(|s| s.allow_privilege_escalation)
        .unwrap_or(true);
    let mut process = json!({
        "user": {
            "uid": parts.identity.uid,
            "gid": parts.identity.gid,
            "additionalGids": parts.identity.additional,
        },
        "args": arguments(parts)?,
        "env": variables(parts),
        "cwd": working_dir(parts),
        "capabilities": {
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
        },
        "noNewPrivileges": !escalation && !privileged,
        "oomScoreAdj": parts.oom_score,
    });
    process["terminal"] = json!(parts.container.tty.unwrap_or(false));
    let mut linux = json!({
        "cgroupsPath": parts.cgroup,
        "resources": resources(parts, privileged),
        "namespaces": namespaces(parts, privileged),
    });
    if let Some(first) = parts.first_user {
        // The joined namespace has them already; runc 1.1 wants to be told.
        let map = json!([{"containerID": 0, "hostID": first, "size": LENGTH}]);
        linux["uidMappings"] = map.clone();
        linux["gidMappings"] = map;
    }
    if privileged {
        linux["devices"] = parts.devices.iter().map(device).collect();
    } else {
        if security.and_then(|s| s.proc_mount.as_deref()) != Some("Unmasked") {
            linux["maskedPaths"] = json!(MASKED);
            linux["readonlyPaths"] = json!(READ_ONLY);
        }
        if let Some(profile) = seccomp_profile(parts, &capabilities) {
            linux["seccomp"] = profile;
        }
    }
    if parts.binds.iter().any(|bind| bind.propagation != "rprivate") {
        linux["rootfsPropagation"] = json!("rslave");
    }
    Ok(json!({
        "ociVersion": "1.1.0",
        "process": process,
        "root": {"path": parts.rootfs, "readonly": read_only_root},
        "mounts": mounts(parts, privileged),
        "linux": linux,
        "annotations": {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.container-name": parts.container.name,
            "io.kubernetes.cri.image-name": parts.container.image.clone().unwrap_or_default(),
            "io.kubernetes.cri.sandbox-name": parts.pod.name,
            "io.kubernetes.cri.sandbox-namespace": parts.pod.namespace,
            "io.kubernetes.cri.sandbox-uid": parts.pod.uid,
        },
    }))
}

/// `command` replaces the entrypoint and drops the image's arguments; `args` replaces these only.
fn arguments(parts: &Parts<'_>) -> Result<Vec<String>, SpecError> {
    let expanded = |list: &[String]| -> Vec<String> {
        list.iter()
            .map(|text| {
                expand(text, |name| {
                    parts.env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone())
                })
            })
            .collect()
    };
    let command = parts.container.command.as_deref().filter(|c| !c.is_empty());
    let args = parts.container.args.as_deref().filter(|a| !a.is_empty());
    let mut all = match command {
        Some(command) => expanded(command),
        None => parts.image.entrypoint.clone(),
    };
    match (args, command) {
        (Some(args), _) => all.extend(expanded(args)),
        (None, None) => all.extend(parts.image.cmd.iter().cloned()),
        (None, Some(_)) => {}
    }
    if all.is_empty() {
        let image = parts.container.image.clone().unwrap_or_default();
        return Err(SpecError::NoCommand { image });
    }
    Ok(all)
}

/// The search path and the host name, then the image's variables, then the pod's.
fn variables(parts: &Parts<'_>) -> Vec<String> {
    let mut env: Vec<String> = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", parts.hostname)];
    if parts.container.tty.unwrap_or(false) {
        env.push("TERM=xterm".to_owned());
    }
    let pod = parts.env.iter().map(|(name, value)| format!("{name}={value}"));
    for variable in parts.image.env.iter().cloned().chain(pod) {
        let name = variable.split('=').next().unwrap_or_default().to_owned();
        let same = |known: &&mut String| known.split('=').next() == Some(name.as_str());
        match env.iter_mut().find(same) {
            Some(known) => *known = variable,
            None => env.push(variable),
        }
    }
    env
}

fn working_dir(parts: &Parts<'_>) -> String {
    let chosen = parts.container.working_dir.clone().filter(|dir| !dir.is_empty());
    let dir = chosen.unwrap_or_else(|| parts.image.working_dir.clone());
    if dir.starts_with('/') {
        dir
    } else {
        format!("/{dir}")
    }
}

fn capabilities(
    security: Option<&api::SecurityContext>,
    privileged: bool,
    last: usize,
) -> Result<Vec<String>, SpecError> {
    let all = &CAPABILITIES[..CAPABILITIES.len().min(last + 1)];
    let wanted = security.and_then(|s| s.capabilities.as_ref());
    let list = |names: Option<&Vec<String>>| -> Result<Vec<&'static str>, SpecError> {
        let mut found = Vec::new();
        for name in names.into_iter().flatten() {
            let upper = name.to_ascii_uppercase();
            let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
            if bare == "ALL" {
                found.extend_from_slice(all);
            } else {
                let known = all.iter().find(|known| **known == bare);
                found.push(*known.ok_or_else(|| SpecError::Capability { name: name.clone() })?);
            }
        }
        Ok(found)
    };
    let add = list(wanted.and_then(|c| c.add.as_ref()))?;
    let drop = list(wanted.and_then(|c| c.drop.as_ref()))?;
    let added_all = add.len() >= all.len();
    let base: &[&str] = if privileged || added_all {
        all
    } else {
        &DEFAULT_CAPABILITIES
    };
    let dropped_all = drop.len() >= all.len();
    // A name that is added stays when ALL is dropped, and the other way round.
    let keeps = |name: &&str| {
        if privileged {
            true
        } else if dropped_all {
            add.contains(name) && !added_all
        } else {
            (base.contains(name) && !drop.contains(name)) || (add.contains(name) && !added_all)
        }
    };
    Ok(all
        .iter()
        .copied()
        .filter(keeps)
        .map(|name| format!("CAP_{name}"))
        .collect())
}

fn resources(parts: &Parts<'_>, privileged: bool) -> Value {
    let mut resources = Amounts::of(parts.container).oci();
    resources::protect(&mut resources, parts.container, parts.unified);
    resources["devices"] = if privileged {
        json!([{"allow": true, "access": "rwm"}])
    } else {
        json!([{"allow": false, "access": "rwm"}])
    };
    resources
}

fn namespaces(parts: &Parts<'_>, privileged: bool) -> Value {
    let mut list: Vec<Value> = parts
        .namespaces
        .iter()
        .map(|(kind, path)| json!({"type": kind, "path": path}))
        .collect();
    list.push(json!({"type": "mount"}));
    let joins = parts.namespaces.iter().any(|(kind, _)| *kind == "pid");
    if !joins && !parts.pod.spec().host_pid.unwrap_or(false) {
        list.push(json!({"type": "pid"}));
    }
    if !privileged {
        list.push(json!({"type": "cgroup"}));
    }
    json!(list)
}

fn device(device: &Device) -> Value {
    json!({
        "path": device.path, "type": device.kind, "major": device.major, "minor": device.minor,
        "fileMode": device.mode, "uid": device.uid, "gid": device.gid,
    })
}

fn mounts(parts: &Parts<'_>, privileged: bool) -> Vec<Value> {
    let access = if privileged { "rw" } else { "ro" };
    let mut list = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", access]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
    ];
    for bind in parts.binds {
        // What the pod mounts itself at such a place replaces it.
        list.retain(|mount| mount["destination"] != json!(bind.target));
        let access = match (bind.read_only, bind.recursive) {
            (true, true) => "rro",
            (true, false) => "ro",
            (false, _) => "rw",
        };
        list.push(json!({
            "destination": bind.target, "type": "bind", "source": bind.source,
            "options": ["rbind", bind.propagation, access],
        }));
    }
    list
}

/// The profile; none is unconfined, as kubelet does without SeccompDefault.
fn seccomp_profile(parts: &Parts<'_>, capabilities: &[String]) -> Option<Value> {
    let own = parts
        .container
        .security_context
        .as_ref()
        .and_then(|s| s.seccomp_profile.as_ref());
    let pod = parts
        .pod
        .spec()
        .security_context
        .as_ref()
        .and_then(|s| s.seccomp_profile.as_ref());
    match own.or(pod)?.type_.as_str() {
        "RuntimeDefault" => Some(seccomp::default_profile(capabilities)),
        "Localhost" => parts.local_seccomp.clone(),
        _ => None,
    }
}

#[cfg(test)]
#[path = "spec_tests.rs"]
mod tests;
