//! `process.capabilities`.

use oci_spec::runtime::Spec;

use super::{Invalid, process};
use crate::host::HostFacts;

/// capset(2) refuses an effective capability that is not permitted. Ambient ones beyond permitted and inheritable
/// are dropped instead, as with runc: its own `spec` wrote such sets for years.
pub(super) fn effective_are_permitted(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(sets) = process(spec).and_then(|process| process.capabilities().as_ref()) else {
        return Ok(());
    };
    let permitted = sets.permitted().as_ref();
    let missing = sets
        .effective()
        .iter()
        .flatten()
        .find(|capability| !permitted.is_some_and(|permitted| permitted.contains(capability)));
    match missing {
        Some(capability) => Err(Invalid::new(
            "process.capabilities.effective",
            format_args!(
                "CAP_{capability} is not in process.capabilities.permitted: add it there or remove it here"
            ),
        )),
        None => Ok(()),
    }
}

/// All names that a configuration may use, sorted by number, as capabilities(7) lists them.
pub fn capability_names() -> Vec<String> {
    const NAMES: [&str; 41] = [
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
    NAMES.iter().map(|name| format!("CAP_{name}")).collect()
}
