//! The process itself: identity, capabilities, limits, namespaces, execution.

use core::ffi::{CStr, c_char};
use core::sync::atomic::AtomicU32;

use super::arch::{nr, syscall};
use super::{AT_EMPTY_PATH, Errno, Fd, Res, check, check_fd, check_unit, ptr};

/// exit_group(2).
pub fn exit(status: i32) -> ! {
    loop {
        // SAFETY: the call does not return.
        unsafe { syscall(nr::EXIT_GROUP, [status as usize, 0, 0, 0, 0, 0]) };
    }
}

/// A null-terminated array of strings, as execve(2) takes two of.
#[derive(Debug)]
pub struct StringArray<'a> {
    pointers: &'a [usize],
}

impl<'a> StringArray<'a> {
    /// Fills `memory` with the addresses of `strings` and a null behind them; `None` when it is too short. The
    /// rest of the memory is handed back.
    pub fn fill(
        memory: &'a mut [usize],
        strings: impl Iterator<Item = &'a CStr>,
    ) -> Option<(Self, &'a mut [usize])> {
        let mut count = 0;
        for string in strings {
            *memory.get_mut(count)? = string.as_ptr() as usize;
            count += 1;
        }
        *memory.get_mut(count)? = 0;
        let (pointers, rest) = memory.split_at_mut_checked(count + 1)?;
        Some((Self { pointers }, rest))
    }

    /// The first string, or nothing.
    pub fn first(&self) -> &'a [u8] {
        match self.pointers.first() {
            // SAFETY: every entry but the last, which is zero, is the address of a string that outlives `'a`.
            Some(address) if *address != 0 => unsafe { CStr::from_ptr(*address as *const c_char) }.to_bytes(),
            _ => b"",
        }
    }

    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr().cast()
    }
}

/// execve(2); returns only on failure.
pub fn execve(path: &CStr, argv: &StringArray<'_>, envp: &StringArray<'_>) -> Errno {
    // SAFETY: a `StringArray` is a null-terminated array of pointers to strings that outlive it.
    let value = unsafe {
        syscall(
            nr::EXECVE,
            [ptr(path), argv.as_ptr() as usize, envp.as_ptr() as usize, 0, 0, 0],
        )
    };
    Errno(-value as i32)
}

/// execveat(2) of an open program with one argument, its name, and no environment; returns only on failure.
pub fn exec_fd(program: Fd, name: &CStr) -> Errno {
    let argv = [name.as_ptr(), core::ptr::null()];
    let envp: [*const c_char; 1] = [core::ptr::null()];
    // SAFETY: both arrays end with a null pointer and live through the call.
    let value = unsafe {
        syscall(
            nr::EXECVEAT,
            [
                program.arg(),
                c"".as_ptr() as usize,
                argv.as_ptr() as usize,
                envp.as_ptr() as usize,
                AT_EMPTY_PATH as usize,
                0,
            ],
        )
    };
    Errno(-value as i32)
}

/// wait4(2) for one child: its wait status. `options` as in wait(2).
pub fn wait(pid: i32, options: u32) -> Res<i32> {
    let mut status = 0i32;
    loop {
        // SAFETY: one int is written.
        let value = unsafe {
            syscall(
                nr::WAIT4,
                [
                    pid as isize as usize,
                    core::ptr::from_mut(&mut status) as usize,
                    options as usize,
                    0,
                    0,
                    0,
                ],
            )
        };
        match check(value) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => return Ok(status),
        }
    }
}

/// kill(2).
pub fn kill(pid: i32, signal: i32) -> Res<()> {
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::KILL, [pid as isize as usize, signal as usize, 0, 0, 0, 0]) })
}

/// pidfd_open(2).
pub fn pidfd_open(pid: i32) -> Res<Fd> {
    // SAFETY: no memory is involved.
    check_fd(unsafe { syscall(nr::PIDFD_OPEN, [pid as usize, 0, 0, 0, 0, 0]) })
}

/// pidfd_send_signal(2).
pub fn pidfd_send_signal(process: Fd, signal: i32) -> Res<()> {
    // SAFETY: no siginfo is passed.
    check_unit(unsafe {
        syscall(
            nr::PIDFD_SEND_SIGNAL,
            [process.arg(), signal as usize, 0, 0, 0, 0],
        )
    })
}

/// prctl(2) with plain numbers.
pub fn prctl(option: u32, a: usize, b: usize, c: usize) -> Res<usize> {
    // SAFETY: the options used in this crate with this function take no pointer.
    check(unsafe { syscall(nr::PRCTL, [option as usize, a, b, c, 0, 0]) })
}

/// prctl(2) PR_SET_NAME: at most 15 bytes are kept.
pub fn set_name(name: &CStr) {
    const PR_SET_NAME: usize = 15;
    // SAFETY: the name is only read.
    unsafe { syscall(nr::PRCTL, [PR_SET_NAME, ptr(name), 0, 0, 0, 0]) };
}

/// prctl(2) PR_SET_DUMPABLE: whether others may look into this process.
pub fn set_dumpable(on: bool) -> Res<()> {
    const PR_SET_DUMPABLE: u32 = 4;
    prctl(PR_SET_DUMPABLE, usize::from(on), 0, 0).map(|_| ())
}

/// prctl(2) PR_SET_NO_NEW_PRIVS.
pub fn no_new_privileges() -> Res<()> {
    const PR_SET_NO_NEW_PRIVS: u32 = 38;
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0).map(|_| ())
}

/// prctl(2) PR_SET_KEEPCAPS: whether permitted capabilities outlive the change to another user id.
pub fn keep_capabilities(on: bool) -> Res<()> {
    const PR_SET_KEEPCAPS: u32 = 8;
    prctl(PR_SET_KEEPCAPS, usize::from(on), 0, 0).map(|_| ())
}

/// prctl(2) PR_CAPBSET_DROP.
pub fn drop_bounding(capability: u32) -> Res<()> {
    const PR_CAPBSET_DROP: u32 = 24;
    prctl(PR_CAPBSET_DROP, capability as usize, 0, 0).map(|_| ())
}

/// prctl(2) PR_CAP_AMBIENT_RAISE.
pub fn raise_ambient(capability: u32) -> Res<()> {
    const PR_CAP_AMBIENT: u32 = 47;
    const PR_CAP_AMBIENT_RAISE: usize = 2;
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability as usize, 0).map(|_| ())
}

/// prctl(2) PR_CAP_AMBIENT_CLEAR_ALL.
pub fn clear_ambient() -> Res<()> {
    const PR_CAP_AMBIENT: u32 = 47;
    const PR_CAP_AMBIENT_CLEAR_ALL: usize = 4;
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0).map(|_| ())
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Three capability sets as bit masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySets {
    /// Effective.
    pub effective: u64,
    /// Permitted.
    pub permitted: u64,
    /// Inheritable.
    pub inheritable: u64,
}

/// capset(2) of this process.
pub fn capset(sets: CapabilitySets) -> Res<()> {
    let header = [CAPABILITY_VERSION_3, 0];
    let half = |shift: u32| {
        [
            (sets.effective >> shift) as u32,
            (sets.permitted >> shift) as u32,
            (sets.inheritable >> shift) as u32,
        ]
    };
    let data = [half(0), half(32)];
    // SAFETY: header and data have the layout of version 3 of the interface and are only read.
    check_unit(unsafe {
        syscall(
            nr::CAPSET,
            [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0],
        )
    })
}

/// capget(2) of this process.
pub fn capget() -> Res<CapabilitySets> {
    let header = [CAPABILITY_VERSION_3, 0];
    let mut data = [[0u32; 3]; 2];
    // SAFETY: header is read, data written, both with the layout of version 3 of the interface.
    check(unsafe {
        syscall(
            nr::CAPGET,
            [header.as_ptr() as usize, data.as_mut_ptr() as usize, 0, 0, 0, 0],
        )
    })?;
    let join = |index: usize| u64::from(data[0][index]) | (u64::from(data[1][index]) << 32);
    Ok(CapabilitySets {
        effective: join(0),
        permitted: join(1),
        inheritable: join(2),
    })
}

/// setgroups(2); `groups` are native-endian 32-bit ids.
pub fn setgroups(groups: &[u8]) -> Res<()> {
    // SAFETY: the kernel reads as many ids as told, and asks for no alignment.
    check_unit(unsafe {
        syscall(
            nr::SETGROUPS,
            [groups.len() / 4, groups.as_ptr() as usize, 0, 0, 0, 0],
        )
    })
}

/// setresuid(2): real, effective and saved id at once.
pub fn setresuid(uid: u32) -> Res<()> {
    let uid = uid as usize;
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::SETRESUID, [uid, uid, uid, 0, 0, 0]) })
}

/// setresgid(2): real, effective and saved id at once.
pub fn setresgid(gid: u32) -> Res<()> {
    let gid = gid as usize;
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::SETRESGID, [gid, gid, gid, 0, 0, 0]) })
}

/// setsid(2).
pub fn setsid() -> Res<()> {
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::SETSID, [0; 6]) })
}

/// setns(2).
pub fn setns(fd: Fd, kinds: u64) -> Res<()> {
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::SETNS, [fd.arg(), kinds as usize, 0, 0, 0, 0]) })
}

/// FUTEX_WAKE of futex(2): wakes whoever of this memory's users waits for the word.
pub fn futex_wake(word: &AtomicU32) {
    const FUTEX_WAKE_PRIVATE: usize = 129;
    // SAFETY: the word lives; the kernel only takes its address.
    unsafe {
        syscall(
            nr::FUTEX,
            [
                word.as_ptr() as usize,
                FUTEX_WAKE_PRIVATE,
                i32::MAX as usize,
                0,
                0,
                0,
            ],
        )
    };
}

/// FUTEX_WAIT of futex(2): returns when the word is no longer `value`, somebody wakes, or so many milliseconds (less than a
/// second's) have passed.
pub fn futex_wait(word: &AtomicU32, value: u32, milliseconds: u32) {
    const FUTEX_WAIT_PRIVATE: usize = 128;
    let time = [0_i64, i64::from(milliseconds) * 1_000_000];
    // SAFETY: the word and the time live through the call.
    unsafe {
        syscall(
            nr::FUTEX,
            [
                word.as_ptr() as usize,
                FUTEX_WAIT_PRIVATE,
                value as usize,
                time.as_ptr() as usize,
                0,
                0,
            ],
        )
    };
}

/// unshare(2).
pub fn unshare(kinds: u64) -> Res<()> {
    // SAFETY: no memory is involved. CLONE_VM and CLONE_FILES, which could surprise safe code, only stop sharing.
    check_unit(unsafe { syscall(nr::UNSHARE, [kinds as usize, 0, 0, 0, 0, 0]) })
}

/// sethostname(2).
pub fn sethostname(name: &[u8]) -> Res<()> {
    // SAFETY: the name is read, as long as told.
    check_unit(unsafe { syscall(nr::SETHOSTNAME, [name.as_ptr() as usize, name.len(), 0, 0, 0, 0]) })
}

/// setdomainname(2).
pub fn setdomainname(name: &[u8]) -> Res<()> {
    // SAFETY: the name is read, as long as told.
    check_unit(unsafe {
        syscall(
            nr::SETDOMAINNAME,
            [name.as_ptr() as usize, name.len(), 0, 0, 0, 0],
        )
    })
}

/// prlimit64(2) of `pid` (0 is this process).
pub fn prlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> Res<()> {
    let limit = [soft, hard];
    // SAFETY: struct rlimit64 is two 64-bit numbers, and only read.
    check_unit(unsafe {
        syscall(
            nr::PRLIMIT64,
            [pid as usize, resource as usize, limit.as_ptr() as usize, 0, 0, 0],
        )
    })
}

/// personality(2).
pub fn personality(persona: u32) -> Res<()> {
    // SAFETY: no memory is involved.
    check_unit(unsafe { syscall(nr::PERSONALITY, [persona as usize, 0, 0, 0, 0, 0]) })
}

/// ioprio_set(2) of this process; `priority` is class and data.
pub fn ioprio_set(priority: u32) -> Res<()> {
    const IOPRIO_WHO_PROCESS: usize = 1;
    // SAFETY: no memory is involved.
    check_unit(unsafe {
        syscall(
            nr::IOPRIO_SET,
            [IOPRIO_WHO_PROCESS, 0, priority as usize, 0, 0, 0],
        )
    })
}

/// sched_setattr(2) of this process; `attr` is a `struct sched_attr` whose first word is its size.
pub fn sched_setattr(attr: &[u8]) -> Res<()> {
    if attr.len() < 48 {
        return Err(Errno::EINVAL);
    }
    // SAFETY: the kernel reads as many bytes as the structure's first word says; `launch` writes its length there
    // and the length is checked to hold at least the first version of it.
    check_unit(unsafe { syscall(nr::SCHED_SETATTR, [0, attr.as_ptr() as usize, 0, 0, 0, 0]) })
}

/// sched_setaffinity(2) of this process; `mask` has one bit a processor.
pub fn sched_setaffinity(mask: &[u8]) -> Res<()> {
    // SAFETY: the mask is read, as long as told.
    check_unit(unsafe {
        syscall(
            nr::SCHED_SETAFFINITY,
            [0, mask.len(), mask.as_ptr() as usize, 0, 0, 0],
        )
    })
}

/// keyctl(2) KEYCTL_JOIN_SESSION_KEYRING: the new keyring's id.
pub fn join_session_keyring(name: &CStr) -> Res<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    // SAFETY: the name is only read.
    check(unsafe { syscall(nr::KEYCTL, [KEYCTL_JOIN_SESSION_KEYRING, ptr(name), 0, 0, 0, 0]) })
        .map(|id| id as i32)
}

/// keyctl(2) KEYCTL_DESCRIBE into `buffer`: the description's length with its NUL.
pub fn describe_key(key: i32, buffer: &mut [u8]) -> Res<usize> {
    const KEYCTL_DESCRIBE: usize = 6;
    // SAFETY: the buffer is exclusive and as long as told.
    check(unsafe {
        syscall(
            nr::KEYCTL,
            [
                KEYCTL_DESCRIBE,
                key as usize,
                buffer.as_mut_ptr() as usize,
                buffer.len(),
                0,
                0,
            ],
        )
    })
}

/// keyctl(2) KEYCTL_SETPERM.
pub fn set_key_permissions(key: i32, permissions: u32) -> Res<()> {
    const KEYCTL_SETPERM: usize = 5;
    // SAFETY: no memory is involved.
    check_unit(unsafe {
        syscall(
            nr::KEYCTL,
            [KEYCTL_SETPERM, key as usize, permissions as usize, 0, 0, 0],
        )
    })
}

/// [`seccomp`], with the right to: without no_new_privs the effective set must have CAP_SYS_ADMIN, and becoming the user
/// emptied it.
pub fn load_filter(program: &[u8], flags: u32) -> Res<usize> {
    match seccomp(program, flags) {
        Err(Errno::EACCES) => {
            let mut sets = capget()?;
            sets.effective = sets.permitted;
            capset(sets)?;
            seccomp(program, flags)
        }
        result => result,
    }
}

/// seccomp(2) SECCOMP_SET_MODE_FILTER. `program` is an array of `struct sock_filter`; with
/// SECCOMP_FILTER_FLAG_NEW_LISTENER the result is the listener's descriptor.
pub fn seccomp(program: &[u8], flags: u32) -> Res<usize> {
    #[repr(C)]
    struct Program {
        length: u16,
        filter: *const u8,
    }
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    let length = program.len() / 8;
    if length == 0 || length > 4096 {
        return Err(Errno::EINVAL);
    }
    let header = Program {
        length: length as u16,
        filter: program.as_ptr(),
    };
    // SAFETY: header and filter are only read; the filter has as many 8-byte instructions as told.
    check(unsafe {
        syscall(
            nr::SECCOMP,
            [
                SECCOMP_SET_MODE_FILTER,
                flags as usize,
                core::ptr::from_ref(&header) as usize,
                0,
                0,
                0,
            ],
        )
    })
}

/// set_mempolicy(2); `nodes` has one bit a node, in whole 64-bit words.
pub fn set_mempolicy(mode: u32, nodes: &[u8]) -> Res<()> {
    let bits = nodes.len() / 8 * 64 + usize::from(!nodes.is_empty());
    // No nodes are no mask: with a mask, no bits are too few.
    let mask = if nodes.is_empty() {
        0
    } else {
        nodes.as_ptr() as usize
    };
    // SAFETY: the mask is read, as many bits as told (the kernel counts one more than it reads).
    check_unit(unsafe { syscall(nr::SET_MEMPOLICY, [mode as usize, mask, bits, 0, 0, 0]) })
}

/// rt_sigprocmask(2): sets the mask of blocked signals, returns the old one (bit n-1 for signal n).
pub fn set_signal_mask(mask: u64) -> Res<u64> {
    const SIG_SETMASK: usize = 2;
    let mut old = 0u64;
    // SAFETY: one 64-bit set is read, one written.
    check(unsafe {
        syscall(
            nr::RT_SIGPROCMASK,
            [
                SIG_SETMASK,
                core::ptr::from_ref(&mask) as usize,
                core::ptr::from_mut(&mut old) as usize,
                8,
                0,
                0,
            ],
        )
    })?;
    Ok(old)
}

/// signalfd4(2): a descriptor that becomes readable when one of these blocked signals is there (bit n-1 for signal n).
pub fn signal_fd(mask: u64) -> Res<Fd> {
    const SFD_CLOEXEC: usize = 0o2_000_000;
    // SAFETY: one 64-bit set is read.
    check_fd(unsafe {
        syscall(
            nr::SIGNALFD4,
            [
                usize::MAX,
                core::ptr::from_ref(&mask) as usize,
                8,
                SFD_CLOEXEC,
                0,
                0,
            ],
        )
    })
}

/// rt_sigaction(2): gives a signal its default action.
pub fn default_signal(signal: i32) -> Res<()> {
    let action = [0usize; 4];
    // SAFETY: an all-zero struct sigaction is SIG_DFL without flags; it is only read.
    check_unit(unsafe {
        syscall(
            nr::RT_SIGACTION,
            [signal as usize, action.as_ptr() as usize, 0, 8, 0, 0],
        )
    })
}

/// getpid(2).
pub fn getpid() -> i32 {
    // SAFETY: no memory is involved.
    unsafe { syscall(nr::GETPID, [0; 6]) as i32 }
}

/// getuid(2).
pub fn getuid() -> u32 {
    // SAFETY: no memory is involved.
    unsafe { syscall(nr::GETUID, [0; 6]) as u32 }
}
