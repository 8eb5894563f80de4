//! PURE: the default seccomp profile (`seccompProfile.type: RuntimeDefault`).
//!
//! Our own: a list of what is denied. Every call that is not on it is allowed, so a new kernel's harmless
//! calls work at once; what is on it lets a container reach beyond itself. Denied calls answer EPERM, or
//! ENOSYS where C libraries have a fallback that they only take then. Some are open again to a container
//! that was given the capability they serve.

use serde_json::{Value, json};

/// EPERM and ENOSYS (errno(3)).
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Never: kernel state of the whole host, or attack surface that containers do not use.
const NEVER: &[&str] = &[
    "_sysctl",
    "add_key",
    "create_module",
    "get_kernel_syms",
    "get_mempolicy",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "map_shadow_stack",
    "mbind",
    "migrate_pages",
    "move_pages",
    "nfsservctl",
    "pivot_root",
    "query_module",
    "request_key",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "sysfs",
    "swapoff",
    "swapon",
    "uselib",
    "userfaultfd",
    "ustat",
    "vm86",
    "vm86old",
    "afs_syscall",
    "break",
    "ftime",
    "putpmsg",
    "security",
    "tuxcall",
    "vserver",
    "quotactl_fd",
];

/// Open with a capability: the calls, and the capability.
const GUARDED: [(&str, &[&str]); 12] = [
    (
        "CAP_SYS_ADMIN",
        &[
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "quotactl",
            "setdomainname",
            "sethostname",
            "setns",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("CAP_BPF", &["bpf"]),
    ("CAP_PERFMON", &["perf_event_open"]),
    ("CAP_SYS_BOOT", &["reboot"]),
    (
        "CAP_SYS_MODULE",
        &["delete_module", "finit_module", "init_module"],
    ),
    ("CAP_SYS_PACCT", &["acct"]),
    (
        "CAP_SYS_PTRACE",
        &[
            "kcmp",
            "pidfd_getfd",
            "process_madvise",
            "process_vm_readv",
            "process_vm_writev",
        ],
    ),
    ("CAP_SYS_RAWIO", &["ioperm", "iopl"]),
    (
        "CAP_SYS_TIME",
        &["clock_adjtime", "clock_settime", "settimeofday", "stime"],
    ),
    ("CAP_SYS_TTY_CONFIG", &["vhangup"]),
    ("CAP_SYSLOG", &["syslog"]),
    ("CAP_DAC_READ_SEARCH", &["open_by_handle_at"]),
];

/// clone(2) flags that make namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 =
    0x0002_0000 | 0x0200_0000 | 0x0400_0000 | 0x0800_0000 | 0x1000_0000 | 0x2000_0000 | 0x4000_0000;
/// Socket families that are refused: AF_VSOCK reaches the hypervisor, AF_ALG the kernel's crypto.
const FAMILIES: [u64; 2] = [40, 38];

/// The profile for a container with these capabilities (`CAP_…`).
pub fn default_profile(capabilities: &[String]) -> Value {
    let has = |name: &str| capabilities.iter().any(|c| c == name);
    let mut rules = vec![json!({"names": NEVER, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM})];
    for (capability, names) in GUARDED {
        let broad = matches!(capability, "CAP_BPF" | "CAP_PERFMON" | "CAP_SYSLOG") && has("CAP_SYS_ADMIN");
        if !has(capability) && !broad {
            rules.push(json!({"names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM}));
        }
    }
    if !has("CAP_SYS_ADMIN") {
        // clone3 hides its flags in memory, where a filter cannot look: ENOSYS makes callers take clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}));
        for bit in (0..64)
            .map(|n| 1_u64 << n)
            .filter(|bit| CLONE_NAMESPACES & bit != 0)
        {
            rules.push(json!({
                "names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM,
                "args": [{"index": 0, "value": bit, "valueTwo": bit, "op": "SCMP_CMP_MASKED_EQ"}],
            }));
        }
    }
    for family in FAMILIES {
        rules.push(json!({
            "names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM,
            "args": [{"index": 0, "value": family, "op": "SCMP_CMP_EQ"}],
        }));
    }
    let (native, others) = if cfg!(target_arch = "aarch64") {
        ("SCMP_ARCH_AARCH64", vec!["SCMP_ARCH_ARM"])
    } else {
        ("SCMP_ARCH_X86_64", vec!["SCMP_ARCH_X86", "SCMP_ARCH_X32"])
    };
    let mut architectures = vec![native];
    architectures.extend(others);
    json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": architectures, "syscalls": rules})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(profile: &Value, call: &str) -> bool {
        profile["syscalls"].as_array().unwrap().iter().any(|rule| {
            rule.get("args").is_none() && rule["names"].as_array().unwrap().iter().any(|n| n == call)
        })
    }

    #[test]
    fn capabilities_open_what_they_serve() {
        let plain = default_profile(&[]);
        let admin = default_profile(&["CAP_SYS_ADMIN".to_owned()]);
        for call in ["mount", "unshare", "bpf", "clone3", "kexec_load", "init_module"] {
            assert!(denied(&plain, call), "{call}");
        }
        for call in ["mount", "unshare", "bpf", "clone3"] {
            assert!(!denied(&admin, call), "{call}");
        }
        assert!(denied(&admin, "init_module") && denied(&admin, "kexec_load"));
        assert!(!denied(&plain, "read") && !denied(&plain, "clone"));
    }
}
