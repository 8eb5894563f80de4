//! What the two sides of a container's start say to each other.
//!
//! `launch` writes the plan's init steps behind the init program, in the same memory file, before the program is
//! executed; from then on they talk over one SOCK_SEQPACKET pair:
//!
//! ```text
//!   berth (launch/)                                   first process (init/)
//!     │ clone3 ───────────────────────────────────────► │ child of the same memory
//!     │ id maps, cgroups v1                             │ (waits, only if one of these is needed)
//!     │ 1 byte ───────────────────────────────────────► │ execveat(sealed file: program + plan)
//!     │                                                 │ step 0, 1, 2 …
//!     │ ◄─────────────────────────── Report::Reached(p) │ Step::Sync: before pivot_root, if there are hooks
//!     │ prestart, createRuntime hooks                   │
//!     │ 1 byte ───────────────────────────────────────► │ …
//!     │ ◄──────────────────────────────── Report::Ready │ Step::Park: waits on the gate socket (create)
//!     ╎ (a later `berth start` connects, sends 1 byte)  │   or on this one (run)
//!     │ ◄────────────────────────────── end of file     │ execve of the user's program closed the socket
//!     │ ◄──────────── Report::Failed at any time instead│ and exits
//! ```
//!
//! This file is compiled into both: into `berth` with the owned [`InitStep`] and the encoder, into the tiny init
//! with the borrowed [`Step`] and the decoder only. The decoder checks every length: a plan that was cut or
//! damaged is an error, never a wild access.

use core::ffi::CStr;

/// First bytes of a plan.
pub const MAGIC: u32 = u32::from_le_bytes(*b"brth");
/// Bytes before the first step: two lengths, then [`Header`]'s numbers.
pub const HEADER_LENGTH: usize = 16 + 5 * 4;

/// Why bytes are no plan or report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// Reads numbers and strings from bytes, in the order they were written.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Takes the next `count` bytes.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.bytes.split_at_checked(count).ok_or(Malformed)?;
        self.bytes = rest;
        Ok(head)
    }

    /// Takes a 32-bit number.
    pub fn u32(&mut self) -> Result<u32, Malformed> {
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// Takes a 64-bit number.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Takes a byte string with its length in front.
    pub fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = self.u32()? as usize;
        self.take(length)
    }

    /// Takes a string that ends with its only NUL.
    pub fn text(&mut self) -> Result<&'a CStr, Malformed> {
        CStr::from_bytes_with_nul(self.bytes()?).map_err(|_| Malformed)
    }

    /// Whether everything was taken.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A list of strings inside a plan, checked when it was decoded.
#[derive(Debug, Clone)]
pub struct TextList<'a> {
    count: usize,
    reader: Reader<'a>,
}

impl<'a> TextList<'a> {
    fn decode(reader: &mut Reader<'a>) -> Result<Self, Malformed> {
        let count = reader.u32()? as usize;
        let list = Self {
            count,
            reader: reader.clone(),
        };
        for _ in 0..count {
            reader.text()?;
        }
        Ok(list)
    }

    /// How many strings.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for TextList<'a> {
    type Item = &'a CStr;

    fn next(&mut self) -> Option<&'a CStr> {
        self.count = self.count.checked_sub(1)?;
        self.reader.text().ok()
    }
}

/// A kind of field of a step: how it is kept in a plan, and how the init sees it.
pub trait Field {
    /// As the init sees it.
    type Borrowed<'a>;
    /// As the plan keeps it.
    #[cfg(not(berth_init))]
    type Owned: Clone + PartialEq + Eq + core::fmt::Debug;
    /// Reads it.
    fn decode<'a>(reader: &mut Reader<'a>) -> Result<Self::Borrowed<'a>, Malformed>;
    /// Writes it.
    #[cfg(not(berth_init))]
    fn encode(owned: &Self::Owned, writer: &mut encode::Writer<'_>);
    /// Shows it in `berth plan`.
    #[cfg(not(berth_init))]
    fn show(owned: &Self::Owned, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result;
}

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $owned:ty, $borrowed:ty, $read:ident;)*) => { $(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}

        impl Field for $name {
            type Borrowed<'a> = $borrowed;
            #[cfg(not(berth_init))]
            type Owned = $owned;
            fn decode<'a>(reader: &mut Reader<'a>) -> Result<Self::Borrowed<'a>, Malformed> {
                reader.$read()
            }
            #[cfg(not(berth_init))]
            fn encode(owned: &Self::Owned, writer: &mut encode::Writer<'_>) {
                encode::Encode::put(owned, writer);
            }
            #[cfg(not(berth_init))]
            fn show(owned: &Self::Owned, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                encode::Encode::show(owned, f)
            }
        }
    )* };
}

impl<'a> Reader<'a> {
    fn list(&mut self) -> Result<TextList<'a>, Malformed> {
        TextList::decode(self)
    }

    fn fd(&mut self) -> Result<i32, Malformed> {
        Ok(self.u32()? as i32)
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed),
        }
    }
}

fields! {
    /// A 32-bit number.
    U32: u32, u32, u32;
    /// A 64-bit number, shown in hexadecimal: flags and masks.
    U64: u64, u64, u64;
    /// Yes or no.
    Flag: bool, bool, flag;
    /// A string: a path, a name.
    Text: std::ffi::CString, &'a CStr, text;
    /// Several strings.
    Texts: Vec<std::ffi::CString>, TextList<'a>, list;
    /// Bytes without meaning to the init: a filter, a structure for the kernel.
    Bytes: Vec<u8>, &'a [u8], bytes;
    /// A descriptor that the init inherits, or none (-1).
    Descriptor: Option<Slot>, i32, fd;
}

/// Descriptors that a plan refers to before they have numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The listening socket that `berth start` connects to.
    Gate,
    /// The connected socket that gets the pseudoterminal's master.
    Console,
    /// A detached mount made by the host step with this number.
    Source(u32),
    /// The state document for hooks that run while the container is created.
    CreatingDocument,
    /// The state document for hooks that run when it is started.
    CreatedDocument,
}

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
            fn decode_body(tag: u32, reader: &mut Reader<'a>) -> Result<Self, Malformed> {
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

            fn encode_body(&self, writer: &mut encode::Writer<'_>) {
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
    /// The attributes to clear were asked for, and not only implied by those to set.
    pub const CLEAR_STRICT: u32 = 16;
    /// Do not follow a symbolic link at the source.
    pub const SOURCE_NOFOLLOW: u32 = 32;
    /// Do not follow a symbolic link at the target.
    pub const TARGET_NOFOLLOW: u32 = 64;
    /// The new file system's root gets the permissions of the folder it covers.
    pub const INHERIT_MODE: u32 = 128;
    /// The target may be a file of procfs: one of those that hide what is the host's.
    pub const IN_PROC: u32 = 256;
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
        number: U32
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

/// What stands before the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The init's end of the socket.
    pub socket: i32,
    /// First descriptor that the user's program does not get.
    pub first_private: u32,
    /// How many steps follow.
    pub steps: u32,
}

/// Decodes a plan: its header and an iterator over its steps.
pub fn decode(plan: &[u8]) -> Result<(Header, Steps<'_>), Malformed> {
    let mut reader = Reader::new(plan);
    let length = reader.u64()?;
    reader.u64()?;
    if length != plan.len() as u64 || reader.u32()? != MAGIC || reader.u32()? != env_version() {
        return Err(Malformed);
    }
    let header = Header {
        socket: reader.fd()?,
        first_private: reader.u32()?,
        steps: reader.u32()?,
    };
    Ok((
        header,
        Steps {
            reader,
            left: header.steps,
        },
    ))
}

/// Version of this wire format: the two sides are always built together, this only catches mistakes.
const fn env_version() -> u32 {
    1
}

/// The steps of a plan, decoded one by one.
#[derive(Debug, Clone)]
pub struct Steps<'a> {
    reader: Reader<'a>,
    left: u32,
}

impl<'a> Steps<'a> {
    fn read(&mut self) -> Result<(u32, Step<'a>), Malformed> {
        let tag = self.reader.u32()?;
        let mut body = Reader::new(self.reader.bytes()?);
        let step = Step::decode_body(tag, &mut body)?;
        if body.is_empty() {
            Ok((tag, step))
        } else {
            Err(Malformed)
        }
    }
}

impl<'a> Iterator for Steps<'a> {
    type Item = Result<(u32, Step<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let item = self.read();
        if item.is_err() {
            self.left = 0;
        }
        Some(item)
    }
}

/// Longest report in bytes.
pub const REPORT_LENGTH: usize = 512;

/// What the init tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report<'a> {
    /// A [`Step::Sync`] is reached.
    Reached(u32),
    /// Everything is done, and the process waits for its start.
    Ready,
    /// A seccomp listener's descriptor comes with this message.
    Listener,
    /// A step failed; the process ends.
    Failed {
        /// Index of the step in the plan.
        step: u32,
        /// Kind of the step.
        tag: u32,
        /// Error number, or 0.
        errno: i32,
        /// What exactly, for steps that can fail in several ways: see `reason`.
        reason: u32,
        /// Index of a hook in its list.
        number: u32,
        /// A path or message; no NUL.
        detail: &'a [u8],
    },
}

/// Ways a step can fail that an error number does not tell.
pub mod reason {
    /// The system call failed.
    pub const CALL: u32 = 0;
    /// The program was not found in any folder of PATH.
    pub const NOT_IN_PATH: u32 = 1;
    /// The program is a folder.
    pub const IS_FOLDER: u32 = 2;
    /// A handle is not what it should be: somebody put something else there.
    pub const UNSAFE: u32 = 3;
    /// A hook took too long.
    pub const TIMEOUT: u32 = 4;
    /// A hook ended with the status in `errno`.
    pub const STATUS: u32 = 5;
    /// A hook was killed by the signal in `errno`.
    pub const SIGNAL: u32 = 6;
    /// The target of a mount could not be made or opened.
    pub const TARGET: u32 = 7;
    /// The source of a bind mount could not be opened.
    pub const SOURCE: u32 = 8;
    /// The file system refused an option; `detail` is its message.
    pub const OPTION: u32 = 9;
    /// The program exists, but stat(2) failed.
    pub const STAT: u32 = 10;
    /// The plan could not be decoded, or its scratch memory is too small.
    pub const PLAN: u32 = 11;
    /// The working directory is outside of the container's root.
    pub const OUTSIDE: u32 = 12;
    /// The target of a mount is in procfs, whose files must be the kernel's.
    pub const IN_PROC: u32 = 13;
}

impl<'a> Report<'a> {
    /// Writes the report into `buffer`; returns its length. A detail that is too long is cut.
    pub fn encode(&self, buffer: &mut [u8; REPORT_LENGTH]) -> usize {
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            let end = (length + bytes.len()).min(REPORT_LENGTH);
            buffer[length..end].copy_from_slice(&bytes[..end - length]);
            length = end;
        };
        match *self {
            Self::Reached(point) => {
                put(&1u32.to_le_bytes());
                put(&point.to_le_bytes());
            }
            Self::Ready => put(&2u32.to_le_bytes()),
            Self::Listener => put(&3u32.to_le_bytes()),
            Self::Failed {
                step,
                tag,
                errno,
                reason,
                number,
                detail,
            } => {
                for word in [4, step, tag, errno as u32, reason, number] {
                    put(&word.to_le_bytes());
                }
                put(detail);
            }
        }
        length
    }

    /// Reads a report.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let report = match reader.u32()? {
            1 => Self::Reached(reader.u32()?),
            2 => Self::Ready,
            3 => Self::Listener,
            4 => Self::Failed {
                step: reader.u32()?,
                tag: reader.u32()?,
                errno: reader.u32()? as i32,
                reason: reader.u32()?,
                number: reader.u32()?,
                detail: core::mem::take(&mut reader.bytes),
            },
            _ => return Err(Malformed),
        };
        if reader.is_empty() {
            Ok(report)
        } else {
            Err(Malformed)
        }
    }
}

#[cfg(not(berth_init))]
#[path = "wire/encode.rs"]
pub mod encode;

#[cfg(all(test, not(berth_init)))]
#[path = "wire/tests.rs"]
mod tests;
