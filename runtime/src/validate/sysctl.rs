//! `linux.sysctl`: only what belongs to one of the container's own namespaces may be set.

use berth_spec::{LinuxNamespaceType, Spec};

use super::{Invalid, linux, namespace};
use crate::host::{HostFacts, Joined};

/// Settings of an IPC namespace (ipc_namespaces(7)), beside fs.mqueue.
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The key with dots as separators. sysctl(8) also takes slashes: then dots belong to names.
pub(super) fn dotted(key: &str) -> String {
    match key.find(['.', '/']) {
        Some(first) if key.as_bytes()[first] == b'/' => key
            .chars()
            .map(|c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            })
            .collect(),
        _ => key.to_owned(),
    }
}

/// Everything else would change the host for everybody.
pub(super) fn sysctl(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let Some(settings) = linux(spec).and_then(|linux| linux.sysctl().as_ref()) else {
        return Ok(());
    };
    let mut keys: Vec<&String> = settings.keys().collect();
    keys.sort();
    for written in keys {
        let key = dotted(written);
        let problem = problem(spec, host, &key);
        if let Some(problem) = problem {
            return Err(Invalid::new(format_args!("linux.sysctl[{written:?}]"), problem));
        }
        if key
            .split('.')
            .any(|part| part.is_empty() || part == "/" || part.contains('\0'))
            || key.contains("//")
        {
            return Err(Invalid::new(
                format_args!("linux.sysctl[{written:?}]"),
                "is not a name of /proc/sys: correct it",
            ));
        }
    }
    Ok(())
}

fn problem(spec: &Spec, host: &HostFacts, key: &str) -> Option<String> {
    let has = |kind| namespace(spec, kind).is_some();
    if IPC.contains(&key) || key.starts_with("fs.mqueue.") {
        return (!has(LinuxNamespaceType::Ipc)).then(|| {
            format!("sysctl {key:?} is not allowed in the hosts ipc namespace: add {{\"type\": \"ipc\"}} to linux.namespaces")
        });
    }
    if key.starts_with("net.") {
        return hosts_network(spec, host).then(|| {
            format!("sysctl {key:?} not allowed in host network namespace: add {{\"type\": \"network\"}} to linux.namespaces")
        });
    }
    if key == "kernel.domainname" && has(LinuxNamespaceType::Uts) {
        return None;
    }
    if key == "kernel.hostname" && has(LinuxNamespaceType::Uts) {
        return Some(format!(
            "sysctl {key:?} is not allowed as it conflicts with the OCI \"hostname\" field: use that"
        ));
    }
    if key.starts_with("user.") {
        return (!has(LinuxNamespaceType::User)).then(|| {
            format!("setting ucounts without a user namespace not allowed: {key}: add {{\"type\": \"user\"}} to linux.namespaces")
        });
    }
    Some(format!(
        "sysctl {key:?} is not in a separate kernel namespace: set it on the host instead"
    ))
}

/// Whether the container shares the network namespace that this runtime lives in.
fn hosts_network(spec: &Spec, host: &HostFacts) -> bool {
    let Some(entry) = namespace(spec, LinuxNamespaceType::Network) else {
        return true;
    };
    let Some(path) = entry.path().as_ref() else {
        return false;
    };
    host.joined.iter().any(|joined| {
        joined.kind == LinuxNamespaceType::Network && joined.path == *path && joined.found == Joined::Own
    })
}
