//! Profiles: one of the shape that engines write, and random ones.

use berth_spec::LinuxSeccomp;
use libseccomp::{ScmpArch, ScmpSyscall};
use serde_json::{Value, json};

/// Numbers that look random and are the same in every run (xorshift64*).
pub(super) struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn pick<T: Clone>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize].clone()
    }
}

/// Names of the calls of x86_64, i386 and arm that libseccomp knows.
pub(super) fn names() -> Vec<String> {
    let mut names: Vec<String> = [ScmpArch::X8664, ScmpArch::X86, ScmpArch::Arm]
        .into_iter()
        .flat_map(|arch| {
            (0..450)
                .filter_map(move |number| ScmpSyscall::from_raw_syscall(number).get_name_by_arch(arch).ok())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

pub(super) fn parse(value: &Value) -> LinuxSeccomp {
    berth_spec::read(value.to_string().as_bytes()).unwrap().value
}

/// What is kept from containers by default, by engines' common judgement; all else is allowed here.
const DENIED: [&str; 62] = [
    "acct",
    "add_key",
    "afs_syscall",
    "bpf",
    "break",
    "clock_adjtime",
    "clock_settime",
    "create_module",
    "delete_module",
    "fanotify_init",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_kernel_syms",
    "get_mempolicy",
    "getpmsg",
    "init_module",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lock",
    "lookup_dcookie",
    "mbind",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "mpx",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pivot_root",
    "prof",
    "profil",
    "putpmsg",
    "query_module",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "security",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "sysfs",
    "umount2",
    "umount",
    "unshare",
    "uselib",
    "userfaultfd",
];

/// A profile of the shape and size of an engine's default.
pub(super) fn engine_like() -> LinuxSeccomp {
    let special = [
        "clone", "clone3", "socket", "ptrace", "vserver", "ustat", "vm86", "vm86old",
    ];
    let allowed: Vec<String> = names()
        .into_iter()
        .filter(|name| !DENIED.contains(&name.as_str()) && !special.contains(&name.as_str()))
        .collect();
    let personality = |value: u64| json!({"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]});
    parse(&json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW"},
            {"names": ["process_vm_readv", "process_vm_writev", "ptrace", "not_a_system_call"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
            personality(0), personality(8), personality(0x20000), personality(0x20008), personality(0xffff_ffff),
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 0, "value": 2_114_060_288_u64, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
        ]
    }))
}

const ACTIONS: [&str; 8] = [
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_TRAP",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
];
const OPERATORS: [&str; 7] = [
    "SCMP_CMP_NE",
    "SCMP_CMP_LT",
    "SCMP_CMP_LE",
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_MASKED_EQ",
];
pub(super) const VALUES: [u64; 12] = [
    0,
    1,
    2,
    5,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0005,
    0x5_0000_0001,
    u64::MAX - 1,
    u64::MAX,
];

/// A random profile; `names` are drawn from a few, so that rules for one call meet.
pub(super) fn random(random: &mut Random, names: &[String]) -> LinuxSeccomp {
    let some: Vec<String> = (0..=random.below(24)).map(|_| random.pick(names)).collect();
    // Few actions in a profile, so that rules with one action are as usual as contradicting ones.
    let actions: Vec<&str> = (0..=random.below(3)).map(|_| random.pick(&ACTIONS)).collect();
    let calls: Vec<Value> = (0..=random.below(20))
        .map(|_| {
            let mut action = random.pick(&actions);
            let count = 1 + random.below(3);
            let chosen: Vec<String> = (0..count).map(|_| random.pick(&some)).collect();
            if action == "SCMP_ACT_NOTIFY" && chosen.iter().any(|name| name == "write") {
                action = "SCMP_ACT_LOG";
            }
            let args: Vec<Value> = (0..[0, 0, 1, 1, 1, 2, 3][random.below(7) as usize])
                .map(|_| {
                    json!({"index": random.below(3), "value": random.pick(&VALUES), "valueTwo": random.pick(&VALUES),
                           "op": random.pick(&OPERATORS)})
                })
                .collect();
            let mut call = json!({"names": chosen, "action": action, "args": args});
            if matches!(action, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") && random.below(2) == 0 {
                call["errnoRet"] = json!(random.below(3) + 1);
            }
            call
        })
        .collect();
    let architectures: Vec<&str> = [
        "SCMP_ARCH_X86_64",
        "SCMP_ARCH_X86",
        "SCMP_ARCH_X32",
        "SCMP_ARCH_AARCH64",
        "SCMP_ARCH_ARM",
    ]
    .into_iter()
    .filter(|_| random.below(2) == 0)
    .collect();
    let mut profile = json!({
        "defaultAction": random.pick(&ACTIONS[..7]),
        "architectures": architectures,
        "syscalls": calls,
        "listenerPath": "/run/listener",
    });
    if profile["defaultAction"] == "SCMP_ACT_ERRNO" {
        profile["defaultErrnoRet"] = json!(random.pick(&[1, 13, 38]));
    }
    parse(&profile)
}
