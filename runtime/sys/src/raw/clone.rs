//! Making processes: clone3(2) onto a stack of its own, and vfork-like children for hooks.

use core::arch::asm;
use core::ffi::{CStr, c_char, c_void};

use super::arch::{nr, syscall};
use super::{Errno, Fd, Res, StringArray, check, exit};

/// `struct clone_args` of clone3(2), all of its versions up to Linux 5.7 (`CLONE_ARGS_SIZE_VER2`).
#[repr(C, align(8))]
#[derive(Debug, Default, Clone, Copy)]
pub struct CloneArgs {
    /// CLONE_* flags.
    pub flags: u64,
    /// Where the kernel stores the pidfd (`int *`), with CLONE_PIDFD.
    pub pidfd: u64,
    /// Where the child's thread id is stored in the child (`pid_t *`).
    pub child_tid: u64,
    /// Where the child's thread id is stored in the parent (`pid_t *`).
    pub parent_tid: u64,
    /// Signal sent to the parent at the child's end.
    pub exit_signal: u64,
    /// Lowest address of the child's stack, or 0 for the parent's.
    pub stack: u64,
    /// Size of the stack in bytes.
    pub stack_size: u64,
    /// Thread-local storage of the child.
    pub tls: u64,
    /// `pid_t[]` for CLONE into chosen ids.
    pub set_tid: u64,
    /// Entries of `set_tid`.
    pub set_tid_size: u64,
    /// Descriptor of a cgroup2 directory, with CLONE_INTO_CGROUP.
    pub cgroup: u64,
}

/// clone3(2): the child runs `entry(argument)` on the stack given in `args`; returns the child's id.
///
/// # Safety
/// `args.stack` must be memory of `args.stack_size` bytes, 16-byte aligned at its end, that nobody else uses until
/// the child has exec'ed or ended. `entry` must not return, and `argument` must stay valid for as long. With
/// CLONE_VM the child writes into this process's memory: `entry` must confine itself to raw system calls and to
/// memory handed to it. Pointers in `args` must be valid.
pub unsafe fn clone_with_stack(
    args: &CloneArgs,
    entry: unsafe extern "C" fn(*mut c_void) -> !,
    argument: *mut c_void,
) -> Res<i32> {
    let value: isize;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: in the parent only rax, rcx and r11 change. In the child the kernel has set rsp to the end of the
    // new stack, so the call pushes there; nothing of this function's frame is used after that.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") nr::CLONE3 as isize => value,
            in("rdi") core::ptr::from_ref(args),
            in("rsi") size_of::<CloneArgs>(),
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above: in the child sp is the end of the new stack, and this frame is not used again.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") nr::CLONE3,
            inlateout("x0") core::ptr::from_ref(args) as isize => value,
            in("x1") size_of::<CloneArgs>(),
            in("x20") argument,
            in("x21") entry,
        );
    }
    check(value).map(|pid| pid as i32)
}

/// Size of the stack a hook's child gets: it only makes a handful of system calls.
const SPAWN_STACK: usize = 8192;

#[repr(C, align(16))]
struct SpawnStack([u8; SPAWN_STACK]);

struct SpawnOrder {
    path: *const c_char,
    argv: *const *const c_char,
    envp: *const *const c_char,
    stdin: Fd,
    output: Fd,
    filter: *const u8,
    filter_length: usize,
    filter_flags: u32,
    failure: i32,
}

unsafe extern "C" fn spawned(order: *mut c_void) -> ! {
    // SAFETY: the parent is suspended (CLONE_VFORK) and passed a valid, exclusive `SpawnOrder`.
    let order = unsafe { &mut *order.cast::<SpawnOrder>() };
    let _ = super::dup3(order.stdin, Fd::STDIN, 0);
    let _ = super::dup3(order.output, Fd::STDOUT, 0);
    let _ = super::dup3(order.output, Fd::STDERR, 0);
    if order.filter_length != 0 {
        // SAFETY: pointer and length are of a slice that outlives the call.
        let filter = unsafe { core::slice::from_raw_parts(order.filter, order.filter_length) };
        if let Err(errno) = super::load_filter(filter, order.filter_flags) {
            order.failure = errno.0;
            exit(127);
        }
    }
    // SAFETY: path, argv and envp come from a `CStr` and two `StringArray`s that outlive the call.
    let value = unsafe {
        syscall(
            nr::EXECVE,
            [
                order.path as usize,
                order.argv as usize,
                order.envp as usize,
                0,
                0,
                0,
            ],
        )
    };
    order.failure = -value as i32;
    exit(127)
}

/// Runs a program in a child that borrows this process's memory until its execve(2) (vfork(2)); returns its id.
/// Its standard input is `stdin`, its standard output and error `output`; a failed execve(2) is this function's
/// error. With a filter, an array of `struct sock_filter` and its flags, it runs under that (seccomp(2)).
pub fn spawn(
    path: &CStr,
    argv: &StringArray<'_>,
    envp: &StringArray<'_>,
    (stdin, output): (Fd, Fd),
    filter: Option<(&[u8], u32)>,
) -> Res<i32> {
    const CLONE_VM: u64 = 0x100;
    const CLONE_VFORK: u64 = 0x4000;
    const SIGCHLD: u64 = 17;
    let mut stack = SpawnStack([0; SPAWN_STACK]);
    let mut order = SpawnOrder {
        path: path.as_ptr(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        stdin,
        output,
        filter: filter.map_or(core::ptr::null(), |(program, _)| program.as_ptr()),
        filter_length: filter.map_or(0, |(program, _)| program.len()),
        filter_flags: filter.map_or(0, |(_, flags)| flags),
        failure: 0,
    };
    let args = CloneArgs {
        flags: CLONE_VM | CLONE_VFORK,
        exit_signal: SIGCHLD,
        stack: core::ptr::from_mut(&mut stack) as u64,
        stack_size: SPAWN_STACK as u64,
        ..CloneArgs::default()
    };
    // SAFETY: stack and order outlive the child's use of them, because CLONE_VFORK suspends this process until
    // the child has exec'ed or ended; `spawned` makes raw system calls only.
    let pid = unsafe { clone_with_stack(&args, spawned, core::ptr::from_mut(&mut order).cast()) }?;
    // SAFETY: `order` is a live local; the child wrote to it before this process went on.
    let failure = unsafe { core::ptr::read_volatile(&raw const order.failure) };
    if failure == 0 {
        return Ok(pid);
    }
    let _ = super::wait(pid, 0);
    Err(Errno(failure))
}
