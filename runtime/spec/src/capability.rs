//! Capabilities (capabilities(7)) by their names and numbers.

use std::fmt;

use crate::reader::{Failed, Reader, Value};

macro_rules! capabilities {
    ($($variant:ident = $number:literal => $name:literal,)*) => {
        /// A capability; its value is the kernel's number.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Capability {
            $(#[doc = concat!("`CAP_", $name, "`")] $variant = $number,)*
        }

        impl Capability {
            /// All of them, by number.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            const NAMES: &[&str] = &[$($name),*];
        }
    };
}

capabilities! {
    Chown = 0 => "CHOWN",
    DacOverride = 1 => "DAC_OVERRIDE",
    DacReadSearch = 2 => "DAC_READ_SEARCH",
    Fowner = 3 => "FOWNER",
    Fsetid = 4 => "FSETID",
    Kill = 5 => "KILL",
    Setgid = 6 => "SETGID",
    Setuid = 7 => "SETUID",
    Setpcap = 8 => "SETPCAP",
    LinuxImmutable = 9 => "LINUX_IMMUTABLE",
    NetBindService = 10 => "NET_BIND_SERVICE",
    NetBroadcast = 11 => "NET_BROADCAST",
    NetAdmin = 12 => "NET_ADMIN",
    NetRaw = 13 => "NET_RAW",
    IpcLock = 14 => "IPC_LOCK",
    IpcOwner = 15 => "IPC_OWNER",
    SysModule = 16 => "SYS_MODULE",
    SysRawio = 17 => "SYS_RAWIO",
    SysChroot = 18 => "SYS_CHROOT",
    SysPtrace = 19 => "SYS_PTRACE",
    SysPacct = 20 => "SYS_PACCT",
    SysAdmin = 21 => "SYS_ADMIN",
    SysBoot = 22 => "SYS_BOOT",
    SysNice = 23 => "SYS_NICE",
    SysResource = 24 => "SYS_RESOURCE",
    SysTime = 25 => "SYS_TIME",
    SysTtyConfig = 26 => "SYS_TTY_CONFIG",
    Mknod = 27 => "MKNOD",
    Lease = 28 => "LEASE",
    AuditWrite = 29 => "AUDIT_WRITE",
    AuditControl = 30 => "AUDIT_CONTROL",
    Setfcap = 31 => "SETFCAP",
    MacOverride = 32 => "MAC_OVERRIDE",
    MacAdmin = 33 => "MAC_ADMIN",
    Syslog = 34 => "SYSLOG",
    WakeAlarm = 35 => "WAKE_ALARM",
    BlockSuspend = 36 => "BLOCK_SUSPEND",
    AuditRead = 37 => "AUDIT_READ",
    Perfmon = 38 => "PERFMON",
    Bpf = 39 => "BPF",
    CheckpointRestore = 40 => "CHECKPOINT_RESTORE",
}

impl Capability {
    /// The capability of that name, with or without `CAP_`, in letters of either case.
    pub fn from_name(name: &str) -> Option<Self> {
        let prefixed = name
            .get(..4)
            .is_some_and(|prefix| prefix.eq_ignore_ascii_case("CAP_"));
        let bare = if prefixed { &name[4..] } else { name };
        let index = Self::NAMES
            .iter()
            .position(|known| known.eq_ignore_ascii_case(bare))?;
        Some(Self::ALL[index])
    }
}

/// The name without `CAP_`.
impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::NAMES[*self as usize])
    }
}

/// A set of capabilities.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The set as the kernel writes it: a bit for each number.
    pub fn mask(self) -> u64 {
        self.0
    }

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many there are.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether `capability` is in it.
    pub fn contains(self, capability: Capability) -> bool {
        self.0 & 1 << capability as u8 != 0
    }

    /// Puts `capability` into it.
    pub fn insert(&mut self, capability: Capability) {
        self.0 |= 1 << capability as u8;
    }

    /// Its members by number.
    pub fn iter(self) -> CapabilityIter {
        CapabilityIter(self.0)
    }
}

/// The members of a set, by number.
#[derive(Debug, Clone)]
pub struct CapabilityIter(u64);

impl Iterator for CapabilityIter {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        let found = Capability::ALL.get(self.0.trailing_zeros() as usize)?;
        self.0 &= self.0 - 1;
        Some(*found)
    }
}

impl IntoIterator for &Capabilities {
    type Item = Capability;
    type IntoIter = CapabilityIter;

    fn into_iter(self) -> CapabilityIter {
        self.iter()
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        let mut set = Self::default();
        for capability in capabilities {
            set.insert(capability);
        }
        set
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Names that are not known are left out with a warning: an engine that is newer than the runtime must not be locked
/// out (runtime-spec config.md: "runtimes SHOULD log a warning").
impl Value for Capabilities {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed> {
        let mut set = Self::default();
        reader.array(&mut |reader| {
            let name = reader.string()?;
            match Capability::from_name(&name) {
                Some(capability) => set.insert(capability),
                None => reader.warn(format_args!("ignoring unknown capability {name:?}")),
            }
            Ok(())
        })?;
        Ok(set)
    }
}
