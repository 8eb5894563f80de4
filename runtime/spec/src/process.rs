//! The process (runtime-spec config.md "Process").

use std::path::PathBuf;

use crate::value::words;
use crate::{Capabilities, object};

object! {
    /// The program to run, and what it is given.
    pub struct Process {
        /// Whether it gets a terminal.
        terminal: copy Option<bool> = "terminal",
        /// The terminal's size.
        console_size: copy Option<ConsoleSize> = "consoleSize",
        /// Who it runs as; root if it is left out, as Go's zero value is.
        user: by_ref User = "user",
        /// The program and its arguments.
        args: by_ref Option<Vec<String>> = "args",
        /// Its environment, as NAME=VALUE.
        env: by_ref Option<Vec<String>> = "env",
        /// Its working directory, absolute.
        cwd: by_ref PathBuf = "cwd" required,
        /// Its capabilities.
        capabilities: by_ref Option<LinuxCapabilities> = "capabilities",
        /// Its limits.
        rlimits: by_ref Option<Vec<PosixRlimit>> = "rlimits",
        /// Whether it can never gain privileges (prctl(2), PR_SET_NO_NEW_PRIVS).
        no_new_privileges: copy Option<bool> = "noNewPrivileges",
        /// Its AppArmor profile.
        apparmor_profile: by_ref Option<String> = "apparmorProfile",
        /// How eagerly it is killed when memory is short (proc(5), oom_score_adj).
        oom_score_adj: copy Option<i32> = "oomScoreAdj",
        /// Its SELinux label.
        selinux_label: by_ref Option<String> = "selinuxLabel",
        /// Its input and output priority.
        io_priority: by_ref Option<LinuxIOPriority> = "ioPriority",
        /// Its scheduling policy.
        scheduler: by_ref Option<Scheduler> = "scheduler",
        /// Processors for `exec`.
        exec_cpu_affinity: by_ref Option<ExecCPUAffinity> = "execCPUAffinity",
    }
}

object! {
    /// A terminal's size in characters.
    #[derive(Copy)]
    pub struct ConsoleSize {
        /// Rows.
        height: copy u64 = "height",
        /// Columns.
        width: copy u64 = "width",
    }
}

object! {
    /// Whom a process runs as.
    pub struct User {
        /// The user id inside the container.
        uid: copy u32 = "uid",
        /// The group id inside the container.
        gid: copy u32 = "gid",
        /// The file mode creation mask.
        umask: copy Option<u32> = "umask",
        /// Supplementary groups.
        additional_gids: by_ref Option<Vec<u32>> = "additionalGids",
        /// The name, on systems that have no numbers.
        username: by_ref Option<String> = "username",
    }
}

object! {
    /// The five sets of capabilities(7).
    pub struct LinuxCapabilities {
        /// What can ever be had.
        bounding: by_ref Option<Capabilities> = "bounding",
        /// What is in use.
        effective: by_ref Option<Capabilities> = "effective",
        /// What is kept over execve(2) of a program with the same in its file.
        inheritable: by_ref Option<Capabilities> = "inheritable",
        /// What can be put into use.
        permitted: by_ref Option<Capabilities> = "permitted",
        /// What is kept over execve(2) of any program.
        ambient: by_ref Option<Capabilities> = "ambient",
    }
}

object! {
    /// A limit (setrlimit(2)).
    #[derive(Copy)]
    pub struct PosixRlimit {
        /// Of what.
        typ: copy PosixRlimitType = "type" required,
        /// How far the process may raise it.
        hard: copy u64 = "hard",
        /// The limit in force.
        soft: copy u64 = "soft",
    }
}

words! {
    /// What is limited (setrlimit(2)).
    pub enum PosixRlimitType {
        RlimitCpu => "RLIMIT_CPU",
        RlimitFsize => "RLIMIT_FSIZE",
        RlimitData => "RLIMIT_DATA",
        RlimitStack => "RLIMIT_STACK",
        RlimitCore => "RLIMIT_CORE",
        RlimitRss => "RLIMIT_RSS",
        RlimitNproc => "RLIMIT_NPROC",
        RlimitNofile => "RLIMIT_NOFILE",
        RlimitMemlock => "RLIMIT_MEMLOCK",
        RlimitAs => "RLIMIT_AS",
        RlimitLocks => "RLIMIT_LOCKS",
        RlimitSigpending => "RLIMIT_SIGPENDING",
        RlimitMsgqueue => "RLIMIT_MSGQUEUE",
        RlimitNice => "RLIMIT_NICE",
        RlimitRtprio => "RLIMIT_RTPRIO",
        RlimitRttime => "RLIMIT_RTTIME",
    }
}

object! {
    /// Input and output priority (ioprio_set(2)).
    #[derive(Copy)]
    pub struct LinuxIOPriority {
        /// The class.
        class: copy IOPriorityClass = "class",
        /// The level within the class, 0 the highest.
        priority: copy i64 = "priority",
    }
}

words! {
    /// Class of an input and output priority.
    pub enum IOPriorityClass {
        IoprioClassBe => "IOPRIO_CLASS_BE",
        IoprioClassRt => "IOPRIO_CLASS_RT",
        IoprioClassIdle => "IOPRIO_CLASS_IDLE",
    }
}

object! {
    /// Scheduling (sched_setattr(2)).
    pub struct Scheduler {
        /// The policy.
        policy: by_ref LinuxSchedulerPolicy = "policy" required,
        /// For SCHED_OTHER and SCHED_BATCH.
        nice: by_ref Option<i32> = "nice",
        /// For SCHED_FIFO and SCHED_RR.
        priority: by_ref Option<i32> = "priority",
        /// Flags.
        flags: by_ref Option<Vec<LinuxSchedulerFlag>> = "flags",
        /// For SCHED_DEADLINE, in nanoseconds.
        runtime: by_ref Option<u64> = "runtime",
        /// For SCHED_DEADLINE, in nanoseconds.
        deadline: by_ref Option<u64> = "deadline",
        /// For SCHED_DEADLINE, in nanoseconds.
        period: by_ref Option<u64> = "period",
    }
}

words! {
    /// A scheduling policy (sched(7)).
    pub enum LinuxSchedulerPolicy {
        SchedOther => "SCHED_OTHER",
        SchedFifo => "SCHED_FIFO",
        SchedRr => "SCHED_RR",
        SchedBatch => "SCHED_BATCH",
        SchedIso => "SCHED_ISO",
        SchedIdle => "SCHED_IDLE",
        SchedDeadline => "SCHED_DEADLINE",
    }
}

words! {
    /// A flag of sched_setattr(2).
    pub enum LinuxSchedulerFlag {
        SchedResetOnFork => "SCHED_FLAG_RESET_ON_FORK",
        SchedFlagReclaim => "SCHED_FLAG_RECLAIM",
        SchedFlagDLOverrun => "SCHED_FLAG_DL_OVERRUN",
        SchedFlagKeepPolicy => "SCHED_FLAG_KEEP_POLICY",
        SchedFlagKeepParams => "SCHED_FLAG_KEEP_PARAMS",
        SchedFlagUtilClampMin => "SCHED_FLAG_UTIL_CLAMP_MIN",
        SchedFlagUtilClampMax => "SCHED_FLAG_UTIL_CLAMP_MAX",
    }
}

object! {
    /// Processors of a process that `exec` makes, as lists such as `0-3,7`.
    pub struct ExecCPUAffinity {
        /// While it moves into the container's cgroup.
        initial: by_ref Option<String> = "initial",
        /// From then on.
        cpu_affinity_final: by_ref Option<String> = "final",
    }
}
