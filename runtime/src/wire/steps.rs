//! The steps of the init program.

#[cfg(not(berth_init))]
use super::encode;
use super::fields::{Bytes, Descriptor, Field, Flag, Text, Texts, U32, U64};
use super::reader::{Malformed, Reader};

macro_rules! steps {
    ($($(#[$doc:meta])* $name:ident = $tag:literal { $($(#[$field_doc:meta])* $field:ident: $kind:ident),* })*) => {
        /// One step of the init program, as the plan keeps it.
        #[cfg(not(berth_init))]
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum InitStep {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: <$kind as Field>::Owned),* },)*
        }

        /// One step, as the init program sees it.
        #[derive(Debug, Clone)]
        pub enum Step<'a> {
            $($(#[$doc])* $name { $($(#[$field_doc])* $field: <$kind as Field>::Borrowed<'a>),* },)*
        }

        impl<'a> Step<'a> {
            pub(super) fn decode_body(tag: u32, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
                match tag {
                    $($tag => Ok(Self::$name { $($field: $kind::decode(reader)?),* }),)*
                    _ => Err(Malformed),
                }
            }
        }

        #[cfg(not(berth_init))]
        impl InitStep {
            /// Number of this kind of step on the wire.
            pub fn tag(&self) -> u32 {
                match self { $(Self::$name { .. } => $tag,)* }
            }

            pub(super) fn encode_body(&self, writer: &mut encode::Writer<'_>) {
                match self {
                    $(Self::$name { $($field),* } => {
                        let _ = &writer;
                        $($kind::encode($field, writer);)*
                    })*
                }
            }
        }

        #[cfg(not(berth_init))]
        impl core::fmt::Display for InitStep {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                match self {
                    $(Self::$name { $($field),* } => {
                        f.write_str(stringify!($name))?;
                        $(
                            write!(f, " {}=", stringify!($field))?;
                            $kind::show($field, f)?;
                        )*
                        Ok(())
                    })*
                }
            }
        }
    };
}

/// [`Step::FsMount`], [`Step::Bind`]: flag bits.
pub mod mount_flags {
    /// Copy what the target folder holds into the new file system (`tmpcopyup`).
    pub const COPY_UP: u32 = 1;
    /// Keep the mount's descriptor as the handle for /proc.
    pub const KEEP_PROC: u32 = 2;
    /// Bind the whole subtree.
    pub const RECURSIVE: u32 = 8;
    /// The source's attributes are locked: they stay unless clearing them is asked for by name, which is refused.
    pub const LOCKED: u32 = 16;
    /// Do not follow a symbolic link at the source.
    pub const SOURCE_NOFOLLOW: u32 = 32;
    /// Do not follow a symbolic link at the target.
    pub const TARGET_NOFOLLOW: u32 = 64;
    /// The new file system's root gets the permissions of the folder it covers.
    pub const INHERIT_MODE: u32 = 128;
    /// The target may be a file of procfs: one of those that hide what is the host's.
    pub const IN_PROC: u32 = 256;
    /// The tree was handed over by the parent ([`super::Step::TakeSource`]).
    pub const HANDED: u32 = 512;
}

/// Places where the init waits for its parent.
pub mod sync {
    /// The mounts are made, the root is not yet changed: hooks run now.
    pub const MOUNTED: u32 = 1;
    /// Everything is done but the start (gate of `run`).
    pub const READY: u32 = 2;
    /// Of a container that is restored: its namespaces are there, no process runs in them.
    pub const NAMESPACES: u32 = 3;
}

steps! {
    /// Give the process a name for ps(1).
    Name = 1 {
        /// At most 15 bytes.
        name: Text
    }
    /// Report that a place is reached and wait for the parent's byte.
    Sync = 2 {
        /// One of the constants in `sync`.
        point: U32
    }
    /// Start a session.
    Session = 3 {}
    /// Join a new session keyring, readable and searchable by its owner.
    Keyring = 4 {
        /// The keyring's name.
        name: Text
    }
    /// Make namespaces that clone3(2) could not make: of cgroups, once the process is in its own; of messages,
    /// once it is the user that its file system shall belong to.
    Unshare = 5 {
        /// CLONE_NEW* kinds.
        kinds: U64
    }
    /// Bring the loopback device up.
    Loopback = 6 {}
    /// Set the host name.
    Hostname = 7 {
        /// The name.
        name: Bytes
    }
    /// Set the NIS domain name.
    Domainname = 8 {
        /// The name.
        name: Bytes
    }
    /// Change the propagation of the whole tree.
    Propagation = 9 {
        /// MS_* propagation.
        flags: U64,
        /// With everything below.
        recursive: Flag
    }
    /// Make the root file system a mount and open it.
    Root = 10 {
        /// Its path on the host.
        path: Text,
        /// A detached mount of it, or none to make one here.
        source: Descriptor,
        /// Whether it becomes a mount; without a mount namespace it must not.
        mount: Flag
    }
    /// Use the current root folder as the container's root, as it is.
    CurrentRoot = 11 {}
    /// Mount a new file system.
    FsMount = 12 {
        /// File system type.
        fstype: Text,
        /// Source, or empty.
        source: Text,
        /// Options: `key=value` or `key`.
        options: Texts,
        /// MOUNT_ATTR_*.
        attributes: U64,
        /// Place below the root.
        target: Text,
        /// MS_* propagation to set, or 0.
        propagation: U64,
        /// Host path to bind if the kernel refuses a new file system (user namespaces), or empty.
        fallback: Text,
        /// Bits of `mount_flags`.
        flags: U32,
        /// Index in the configuration's `mounts`.
        number: U32
    }
    /// Bind a file or folder.
    Bind = 13 {
        /// Path on the host.
        source: Text,
        /// A detached mount of it, or none to make one here.
        descriptor: Descriptor,
        /// Place below the root.
        target: Text,
        /// MOUNT_ATTR_* to set on the top mount.
        set: U64,
        /// MOUNT_ATTR_* to clear on the top mount.
        clear: U64,
        /// Of these, the ones that were named.
        named: U64,
        /// MOUNT_ATTR_* to set on all of the subtree.
        set_all: U64,
        /// MOUNT_ATTR_* to clear on all of the subtree.
        clear_all: U64,
        /// MS_* propagation to set, or 0.
        propagation: U64,
        /// Whether the propagation is for all of the subtree.
        propagation_all: Flag,
        /// Bits of `mount_flags`.
        flags: U32,
        /// Index in the configuration's `mounts`.
        number: U32
    }
    /// Have the parent make a detached mount of a place below the root, as the mounts made so far show it, and take it.
    TakeSource = 50 {
        /// Which.
        slot: U32
    }
    /// Change attributes of the mount at a place.
    Attributes = 14 {
        /// Place below the root.
        target: Text,
        /// MOUNT_ATTR_* to set.
        set: U64,
        /// MOUNT_ATTR_* to clear.
        clear: U64,
        /// MS_* propagation to set, or 0.
        propagation: U64,
        /// With everything below.
        recursive: Flag
    }
    /// Make a folder, and those above it.
    Folder = 15 {
        /// Place below the root.
        path: Text,
        /// Permissions of those that are made.
        mode: U32
    }
    /// Make a symbolic link, unless something is there.
    Link = 16 {
        /// What the link says.
        target: Text,
        /// Place below the root.
        path: Text,
        /// Only if the target is there.
        existing: Flag
    }
    /// Make a device file; where that is not allowed, bind the host's.
    Device = 17 {
        /// Place below the root, and on the host.
        path: Text,
        /// Type and permissions.
        mode: U32,
        /// Major number.
        major: U32,
        /// Minor number.
        minor: U32,
        /// Owner.
        uid: U32,
        /// Group.
        gid: U32,
        /// Bind without trying to make it (user namespaces).
        bind: Flag
    }
    /// Change the root with pivot_root(2).
    PivotRoot = 19 {}
    /// Change the root with MS_MOVE and chroot(2).
    MoveRoot = 20 {
        /// The host's mounts of procfs and sysfs, to be hidden first: the old root stays reachable.
        cover: Texts
    }
    /// Change the root with chroot(2) only.
    ChangeRoot = 21 {}
    /// Open a procfs of our own.
    OpenProc = 22 {}
    /// Write a kernel parameter.
    Sysctl = 23 {
        /// Path below /proc, as `sys/kernel/msgmax`.
        path: Text,
        /// The value.
        value: Bytes
    }
    /// Set the label of the next program.
    Label = 24 {
        /// Path below /proc, as `thread-self/attr/exec`.
        path: Text,
        /// The label as the security module takes it.
        value: Bytes
    }
    /// Make a path read-only, if it exists.
    ReadOnly = 25 {
        /// Place below the root.
        path: Text
    }
    /// Cover a path with nothing, if it exists.
    Mask = 26 {
        /// Place below the root.
        path: Text,
        /// SELinux mount option for the covering file system, or empty.
        label: Text
    }
    /// Make a pseudoterminal and use it for standard input, output and error.
    Console = 27 {
        /// Where its master goes.
        socket: Descriptor,
        /// Lines, or 0.
        rows: U32,
        /// Characters a line, or 0.
        columns: U32,
        /// Owner to be.
        uid: U32,
        /// Also at /dev/console.
        device: Flag
    }
    /// Use the container's /dev/null where a standard stream is the host's.
    ReopenNull = 49 {}
    /// Give standard input, output and error to the user.
    StdioOwner = 28 {
        /// The user.
        uid: U32
    }
    /// Set a resource limit.
    Limit = 29 {
        /// RLIMIT_* number.
        resource: U32,
        /// Soft limit.
        soft: U64,
        /// Hard limit.
        hard: U64
    }
    /// Forbid gaining privileges by execve(2).
    NoNewPrivileges = 30 {}
    /// Load a system call filter.
    Seccomp = 31 {
        /// `struct sock_filter` array.
        program: Bytes,
        /// SECCOMP_FILTER_FLAG_*.
        flags: U32,
        /// Hand the listener's descriptor to the parent.
        listener: Flag
    }
    /// Drop capabilities from the bounding set.
    Bounding = 32 {
        /// Those to keep, as a mask.
        keep: U64
    }
    /// Become the user, keeping capabilities for now.
    User = 33 {
        /// User id.
        uid: U32,
        /// Group id.
        gid: U32,
        /// Whether the list of additional groups may be and is set.
        set_groups: Flag,
        /// Additional groups, native-endian 32-bit numbers.
        groups: Bytes
    }
    /// Set the capability sets.
    Capabilities = 34 {
        /// Effective.
        effective: U64,
        /// Permitted.
        permitted: U64,
        /// Inheritable.
        inheritable: U64,
        /// Ambient.
        ambient: U64
    }
    /// Set the file mode creation mask.
    Umask = 35 {
        /// The mask.
        mask: U32
    }
    /// Change to the working directory.
    WorkingDirectory = 36 {
        /// Its path in the container.
        path: Text,
        /// Failing for lack of permission is not the last word: it is tried again as the user.
        lenient: Flag
    }
    /// Look the user's home folder up in the container's /etc/passwd, for the variable HOME.
    Home = 37 {
        /// The user.
        uid: U32
    }
    /// Find the user's program.
    Program = 38 {
        /// First argument.
        name: Text,
        /// Value of PATH in its environment.
        search: Text
    }
    /// Run a hook.
    Hook = 39 {
        /// Program.
        path: Text,
        /// Its arguments, the name first.
        arguments: Texts,
        /// Its environment.
        environment: Texts,
        /// Time it has, in milliseconds, or 0.
        timeout: U64,
        /// The state document, as standard input.
        document: Descriptor,
        /// Name of the field in `hooks`.
        kind: Text,
        /// Index in that list.
        number: U32,
        /// Whether it gets the process' HOME, if its environment has none.
        home: Flag,
        /// `struct sock_filter` array that it runs under, or nothing.
        filter: Bytes,
        /// SECCOMP_FILTER_FLAG_* for it.
        filter_flags: U32
    }
    /// Report that everything is done and wait on the gate for the start.
    Park = 40 {
        /// The listening socket.
        gate: Descriptor
    }
    /// Become the user's program.
    Execute = 41 {
        /// Arguments.
        arguments: Texts,
        /// Environment.
        environment: Texts
    }
    /// Set the execution domain.
    Personality = 42 {
        /// PER_* and flags.
        persona: U32
    }
    /// Set the I/O priority.
    IoPriority = 43 {
        /// Class and level as ioprio_set(2) takes them.
        priority: U32
    }
    /// Set the scheduling policy.
    Scheduler = 44 {
        /// `struct sched_attr`.
        attributes: Bytes
    }
    /// Bind to processors.
    Affinity = 45 {
        /// One bit a processor.
        mask: Bytes
    }
    /// Set the NUMA memory policy.
    MemoryPolicy = 46 {
        /// MPOL_* mode and flags.
        mode: U32,
        /// One bit a node, as bytes.
        nodes: Bytes
    }
    /// Check that the working directory and open descriptors are inside the container, and mark all but the kept
    /// ones to be closed.
    Seal = 47 {}
    /// Take back any bond to processors that was inherited: the cgroup's cpuset alone decides.
    AnyProcessor = 48 {}
}
