//! `linux.seccomp` (runtime-spec config-linux.md "Seccomp").

use std::path::PathBuf;

use crate::object;
use crate::value::words;

object! {
    /// A filter of system calls.
    pub struct LinuxSeccomp {
        /// What happens to calls that no rule is about.
        default_action: copy LinuxSeccompAction = "defaultAction" required,
        /// Their error, where the action returns one.
        default_errno_ret: copy Option<u32> = "defaultErrnoRet",
        /// Architectures besides the native one.
        architectures: by_ref Option<Vec<Arch>> = "architectures",
        /// Flags of seccomp(2).
        flags: by_ref Option<Vec<LinuxSeccompFilterFlag>> = "flags",
        /// The socket of an agent that decides calls with SCMP_ACT_NOTIFY.
        listener_path: by_ref Option<PathBuf> = "listenerPath",
        /// What the agent is told.
        listener_metadata: by_ref Option<String> = "listenerMetadata",
        /// The rules.
        syscalls: by_ref Option<Vec<LinuxSyscall>> = "syscalls",
    }
}

object! {
    /// A rule for some system calls.
    pub struct LinuxSyscall {
        /// The calls.
        names: by_ref Vec<String> = "names" required,
        /// What happens to them.
        action: copy LinuxSeccompAction = "action" required,
        /// Their error, where the action returns one.
        errno_ret: copy Option<u32> = "errnoRet",
        /// Conditions.
        args: by_ref Option<Vec<LinuxSeccompArg>> = "args",
    }
}

object! {
    /// A condition.
    #[derive(Copy)]
    pub struct LinuxSeccompArg {
        /// The argument's position, from 0.
        index: copy usize = "index" required,
        /// What it is compared with; for SCMP_CMP_MASKED_EQ the mask.
        value: copy u64 = "value" required,
        /// What the masked argument is compared with.
        value_two: copy Option<u64> = "valueTwo",
        /// How it is compared.
        op: copy LinuxSeccompOperator = "op" required,
    }
}

words! {
    /// What happens to a call (seccomp(2)).
    pub enum LinuxSeccompAction {
        ScmpActAllow => "SCMP_ACT_ALLOW",
        ScmpActKill => "SCMP_ACT_KILL",
        ScmpActKillThread => "SCMP_ACT_KILL_THREAD",
        ScmpActKillProcess => "SCMP_ACT_KILL_PROCESS",
        ScmpActTrap => "SCMP_ACT_TRAP",
        ScmpActErrno => "SCMP_ACT_ERRNO",
        ScmpActNotify => "SCMP_ACT_NOTIFY",
        ScmpActTrace => "SCMP_ACT_TRACE",
        ScmpActLog => "SCMP_ACT_LOG",
    }
}

words! {
    /// An architecture; the value is the kernel's (linux/audit.h).
    #[repr(u32)]
    pub enum Arch {
        ScmpArchNative = 0x0000_0000 => "SCMP_ARCH_NATIVE",
        ScmpArchX86 = 0x4000_0003 => "SCMP_ARCH_X86",
        ScmpArchX86_64 = 0xc000_003e => "SCMP_ARCH_X86_64",
        ScmpArchX32 = 0x4000_003e => "SCMP_ARCH_X32",
        ScmpArchArm = 0x4000_0028 => "SCMP_ARCH_ARM",
        ScmpArchAarch64 = 0xc000_00b7 => "SCMP_ARCH_AARCH64",
        ScmpArchMips = 0x0000_0008 => "SCMP_ARCH_MIPS",
        ScmpArchMips64 = 0x8000_0008 => "SCMP_ARCH_MIPS64",
        ScmpArchMips64n32 = 0xa000_0008 => "SCMP_ARCH_MIPS64N32",
        ScmpArchMipsel = 0x4000_0008 => "SCMP_ARCH_MIPSEL",
        ScmpArchMipsel64 = 0xc000_0008 => "SCMP_ARCH_MIPSEL64",
        ScmpArchMipsel64n32 = 0xe000_0008 => "SCMP_ARCH_MIPSEL64N32",
        ScmpArchPpc = 0x0000_0014 => "SCMP_ARCH_PPC",
        ScmpArchPpc64 = 0x8000_0015 => "SCMP_ARCH_PPC64",
        ScmpArchPpc64le = 0xc000_0015 => "SCMP_ARCH_PPC64LE",
        ScmpArchS390 = 0x0000_0016 => "SCMP_ARCH_S390",
        ScmpArchS390x = 0x8000_0016 => "SCMP_ARCH_S390X",
        ScmpArchParisc = 0x0000_000f => "SCMP_ARCH_PARISC",
        ScmpArchParisc64 = 0x8000_000f => "SCMP_ARCH_PARISC64",
        ScmpArchRiscv64 = 0xc000_00f3 => "SCMP_ARCH_RISCV64",
        ScmpArchLoongarch64 = 0xc000_0102 => "SCMP_ARCH_LOONGARCH64",
        ScmpArchM68k = 0x0000_0004 => "SCMP_ARCH_M68K",
        ScmpArchSh = 0x4000_002a => "SCMP_ARCH_SH",
        ScmpArchSheb = 0x0000_002a => "SCMP_ARCH_SHEB",
    }
}

words! {
    /// A flag of seccomp(2).
    pub enum LinuxSeccompFilterFlag {
        SeccompFilterFlagLog => "SECCOMP_FILTER_FLAG_LOG",
        SeccompFilterFlagTsync => "SECCOMP_FILTER_FLAG_TSYNC",
        SeccompFilterFlagSpecAllow => "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
        SeccompFilterFlagWaitKillableRecv => "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV",
    }
}

words! {
    /// How an argument is compared.
    #[repr(u32)]
    pub enum LinuxSeccompOperator {
        ScmpCmpNe = 1 => "SCMP_CMP_NE",
        ScmpCmpLt = 2 => "SCMP_CMP_LT",
        ScmpCmpLe = 3 => "SCMP_CMP_LE",
        ScmpCmpEq = 4 => "SCMP_CMP_EQ",
        ScmpCmpGe = 5 => "SCMP_CMP_GE",
        ScmpCmpGt = 6 => "SCMP_CMP_GT",
        ScmpCmpMaskedEq = 7 => "SCMP_CMP_MASKED_EQ",
    }
}
