//! `linux`, apart from limits and seccomp (runtime-spec config-linux.md).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::reader::{Failed, Reader, Value};
use crate::value::words;
use crate::{LinuxDeviceCgroup, LinuxResources, LinuxSeccomp, object};

object! {
    /// What only Linux has.
    pub struct Linux {
        /// Network interfaces of the runtime's namespace that move into the container's, by name.
        net_devices: by_ref Option<BTreeMap<String, LinuxNetDevice>> = "netDevices",
        /// User ids of a new user namespace.
        uid_mappings: by_ref Option<Vec<LinuxIdMapping>> = "uidMappings",
        /// Group ids of a new user namespace.
        gid_mappings: by_ref Option<Vec<LinuxIdMapping>> = "gidMappings",
        /// Kernel parameters.
        sysctl: by_ref Option<BTreeMap<String, String>> = "sysctl",
        /// Limits.
        resources: by_ref Option<LinuxResources> = "resources",
        /// The cgroup.
        cgroups_path: by_ref Option<PathBuf> = "cgroupsPath",
        /// New or joined namespaces.
        namespaces: by_ref Option<Vec<LinuxNamespace>> = "namespaces",
        /// Devices to make.
        devices: by_ref Option<Vec<LinuxDevice>> = "devices",
        /// The filter of system calls.
        seccomp: by_ref Option<LinuxSeccomp> = "seccomp",
        /// The root's mount propagation.
        rootfs_propagation: by_ref Option<String> = "rootfsPropagation",
        /// Paths that cannot be read inside.
        masked_paths: by_ref Option<Vec<String>> = "maskedPaths",
        /// Paths that cannot be written inside.
        readonly_paths: by_ref Option<Vec<String>> = "readonlyPaths",
        /// SELinux label of the mounts.
        mount_label: by_ref Option<String> = "mountLabel",
        /// Cache and memory bandwidth of the processor.
        intel_rdt: by_ref Option<LinuxIntelRdt> = "intelRdt",
        /// Placement of memory.
        memory_policy: by_ref Option<LinuxMemoryPolicy> = "memoryPolicy",
        /// The execution domain.
        personality: by_ref Option<LinuxPersonality> = "personality",
        /// Offsets of a new time namespace, by clock.
        time_offsets: by_ref Option<BTreeMap<String, LinuxTimeOffset>> = "timeOffsets",
    }
}

object! {
    /// A range of ids (user_namespaces(7)).
    #[derive(Copy)]
    pub struct LinuxIdMapping {
        /// The first outside.
        host_id: copy u32 = "hostID",
        /// The first inside.
        container_id: copy u32 = "containerID",
        /// How many.
        size: copy u32 = "size",
    }
}

object! {
    /// An interface that moves into the container.
    pub struct LinuxNetDevice {
        /// Its name there.
        name: by_ref Option<String> = "name",
    }
}

object! {
    /// A namespace.
    pub struct LinuxNamespace {
        /// Of what.
        typ: copy LinuxNamespaceType = "type" required,
        /// One to join instead of a new one.
        path: by_ref Option<PathBuf> = "path",
    }
}

/// What a namespace is of; the value is the flag of clone(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum LinuxNamespaceType {
    /// Mounts.
    Mount = 0x0002_0000,
    /// Cgroups.
    Cgroup = 0x0200_0000,
    /// Host and domain name.
    Uts = 0x0400_0000,
    /// System V objects and POSIX message queues.
    Ipc = 0x0800_0000,
    /// Users and groups.
    User = 0x1000_0000,
    /// Processes.
    #[default]
    Pid = 0x2000_0000,
    /// The network.
    Network = 0x4000_0000,
    /// Monotonic and boot time.
    Time = 0x0000_0080,
}

/// The name in /proc/PID/ns.
impl fmt::Display for LinuxNamespaceType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Mount => "mnt",
            Self::Cgroup => "cgroup",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::User => "user",
            Self::Pid => "pid",
            Self::Network => "net",
            Self::Time => "time",
        })
    }
}

impl LinuxNamespaceType {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Mount,
        Self::Cgroup,
        Self::Uts,
        Self::Ipc,
        Self::User,
        Self::Pid,
        Self::Network,
        Self::Time,
    ];

    const WORDS: &[&str] = &["mount", "cgroup", "uts", "ipc", "user", "pid", "network", "time"];

    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Cgroup => "cgroup",
            Self::Uts => "uts",
            Self::Ipc => "ipc",
            Self::User => "user",
            Self::Pid => "pid",
            Self::Network => "network",
            Self::Time => "time",
        }
    }
}

impl Value for LinuxNamespaceType {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        reader.word(Self::WORDS).map(|index| Self::ALL[index])
    }
}

object! {
    /// A device to make.
    pub struct LinuxDevice {
        /// Where, inside the container.
        path: by_ref PathBuf = "path",
        /// Its kind.
        typ: copy LinuxDeviceType = "type" required,
        /// Its major number.
        major: copy i64 = "major",
        /// Its minor number.
        minor: copy i64 = "minor",
        /// Its permissions.
        file_mode: copy Option<u32> = "fileMode",
        /// Its owner inside.
        uid: copy Option<u32> = "uid",
        /// Its group inside.
        gid: copy Option<u32> = "gid",
    }
}

/// The rule that lets the device be used.
impl From<&LinuxDevice> for LinuxDeviceCgroup {
    fn from(device: &LinuxDevice) -> Self {
        Self {
            allow: true,
            typ: Some(device.typ),
            major: Some(device.major),
            minor: Some(device.minor),
            access: Some("rwm".to_owned()),
        }
    }
}

words! {
    /// Kind of a device.
    pub enum LinuxDeviceType {
        A => "a",
        B => "b",
        C => "c",
        U => "u",
        P => "p",
    }
}

object! {
    /// Resource Director Technology of the processor (resctrl).
    pub struct LinuxIntelRdt {
        /// The class of service.
        clos_id: by_ref Option<String> = "closID",
        /// Lines of `schemata`.
        schemata: by_ref Option<Vec<String>> = "schemata",
        /// The line for the third level cache.
        l3_cache_schema: by_ref Option<String> = "l3CacheSchema",
        /// The line for memory bandwidth.
        mem_bw_schema: by_ref Option<String> = "memBwSchema",
        /// Cache monitoring, of versions before 1.3.
        enable_cmt: by_ref Option<bool> = "enableCMT",
        /// Memory bandwidth monitoring, of versions before 1.3.
        enable_mbm: by_ref Option<bool> = "enableMBM",
        /// Monitoring.
        enable_monitoring: by_ref Option<bool> = "enableMonitoring",
    }
}

object! {
    /// Placement of memory (set_mempolicy(2)).
    pub struct LinuxMemoryPolicy {
        /// The mode.
        mode: copy MemoryPolicyModeType = "mode" required,
        /// Nodes, as a list such as `0-1`.
        nodes: by_ref Option<String> = "nodes",
        /// Flags.
        flags: by_ref Option<Vec<MemoryPolicyFlagType>> = "flags",
    }
}

words! {
    /// A mode of set_mempolicy(2).
    pub enum MemoryPolicyModeType {
        MpolDefault => "MPOL_DEFAULT",
        MpolBind => "MPOL_BIND",
        MpolInterleave => "MPOL_INTERLEAVE",
        MpolWeightedInterleave => "MPOL_WEIGHTED_INTERLEAVE",
        MpolPreferred => "MPOL_PREFERRED",
        MpolPreferredMany => "MPOL_PREFERRED_MANY",
        MpolLocal => "MPOL_LOCAL",
    }
}

words! {
    /// A flag of set_mempolicy(2).
    pub enum MemoryPolicyFlagType {
        MpolFNumaBalancing => "MPOL_F_NUMA_BALANCING",
        MpolFRelativeNodes => "MPOL_F_RELATIVE_NODES",
        MpolFStaticNodes => "MPOL_F_STATIC_NODES",
    }
}

object! {
    /// The execution domain (personality(2)).
    pub struct LinuxPersonality {
        /// The domain.
        domain: copy LinuxPersonalityDomain = "domain" required,
        /// Flags; the specification has none yet.
        flags: by_ref Option<Vec<String>> = "flags",
    }
}

words! {
    /// An execution domain.
    pub enum LinuxPersonalityDomain {
        PerLinux => "LINUX",
        PerLinux32 => "LINUX32",
    }
}

object! {
    /// A clock's offset in a time namespace (time_namespaces(7)).
    pub struct LinuxTimeOffset {
        /// Seconds.
        secs: copy Option<i64> = "secs",
        /// Nanoseconds.
        nanosecs: copy Option<u32> = "nanosecs",
    }
}
