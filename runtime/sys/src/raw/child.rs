//! What runs between clone3(2) and execveat(2): in the container's first and in the short-lived process
//! that joins namespaces on its behalf.
//!
//! Both may share the parent's memory (CLONE_VM: no page table is copied), so they touch nothing but the
//! [`Order`] and their own stack, and make raw system calls only.

use core::ffi::c_void;
use core::sync::atomic::{AtomicI32, AtomicU32, Ordering};

use super::clone::{CloneArgs, clone_with_stack};
use super::{
    Errno, Fd, Res, capget, capset, cloexec_range, close, exec_fd, exit, futex_wake, network_with_loopback,
    raise_ambient, recv, send, set_cloexec, set_dumpable, setns, setresgid, setresuid, unshare,
};

/// CLONE_NEWUSER.
pub const CLONE_NEWUSER: u64 = 0x1000_0000;
/// CLONE_NEWNET.
pub const CLONE_NEWNET: u64 = 0x4000_0000;
/// CLONE_NEWTIME.
pub const CLONE_NEWTIME: u64 = 0x80;
/// CLONE_PARENT: the new process is a sibling.
pub const CLONE_PARENT: u64 = 0x8000;

/// Most namespaces that can be joined: one of each kind.
pub const MAX_JOINS: usize = 8;

/// Where a child failed before its program could run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Nothing failed.
    None = 0,
    /// setns(2) of the join with the index told.
    Join = 1,
    /// unshare(2) of the user namespace.
    UnshareUser = 2,
    /// unshare(2) of the time namespace.
    UnshareTime = 3,
    /// Becoming root of the user namespace.
    BecomeRoot = 4,
    /// clone3(2) of the first process.
    Clone = 5,
    /// Setting close-on-exec.
    Descriptors = 6,
    /// execveat(2) of the init program.
    Exec = 7,
    /// Waiting for the parent.
    Wait = 8,
    /// setns(2) of the network namespace that was made beside.
    Network = 9,
}

/// A namespace to join.
#[derive(Debug, Clone, Copy)]
pub struct JoinOrder {
    /// A namespace's descriptor, or a pidfd.
    pub fd: Fd,
    /// CLONE_NEW* kinds to take from it.
    pub kinds: u64,
}

/// Everything the children need, in memory that outlives them, and what they answer.
#[derive(Debug)]
pub struct Order {
    /// Arguments of the first process's clone3(2), its own stack included.
    pub init: CloneArgs,
    /// The child's end of the socket to the parent.
    pub sync: Fd,
    /// The parent's end of it, which the first process has a copy of.
    pub parent: Fd,
    /// The init program.
    pub program: Fd,
    /// The network namespace to enter, or -1.
    pub network: Fd,
    /// Wait for one message before execveat(2).
    pub wait: bool,
    /// Become root of the user namespace before execveat(2).
    pub become_root: bool,
    /// First descriptor that is not kept for the user's program.
    pub first_private: u32,
    /// Descriptors to leave open over execveat(2).
    pub inherit: *const i32,
    /// How many.
    pub inherit_count: usize,
    /// Namespaces to join; used by [`joiner`] only.
    pub joins: [JoinOrder; MAX_JOINS],
    /// How many.
    pub join_count: usize,
    /// The joiner makes a user namespace and waits for its id maps.
    pub unshare_user: bool,
    /// The joiner makes a time namespace and waits for its offsets.
    pub unshare_time: bool,
    /// Answer: where it failed.
    pub stage: u32,
    /// Answer: for [`Stage::Join`], which.
    pub index: u32,
    /// Answer: the error number.
    pub errno: i32,
    /// Answer: the first process's id in the parent's pid namespace.
    pub pid: i32,
}

fn fail(order: &mut Order, stage: Stage, errno: Errno) -> ! {
    order.stage = stage as u32;
    order.errno = errno.0;
    exit(125)
}

fn wait_for_parent(order: &mut Order) {
    let mut byte = [0u8; 1];
    match recv(order.sync, &mut byte) {
        Ok(1) => {}
        Ok(_) => fail(order, Stage::Wait, Errno(104)),
        Err(errno) => fail(order, Stage::Wait, errno),
    }
}

/// Root of the user namespace, so that execve(2) keeps the capabilities. Where its id 0 is not mapped, ambient
/// capabilities do the same for any other user.
fn become_root() -> Res<()> {
    match setresgid(0).and_then(|()| setresuid(0)) {
        Err(Errno::EINVAL) => {
            let mut sets = capget()?;
            sets.inheritable = sets.permitted;
            capset(sets)?;
            for capability in 0..64 {
                if sets.permitted & (1 << capability) != 0 {
                    raise_ambient(capability)?;
                }
            }
            Ok(())
        }
        result => result,
    }
}

/// Entry of the container's first process.
///
/// # Safety
/// `argument` points at a valid [`Order`] that only this process uses until it execs or ends.
pub unsafe extern "C" fn first_process(argument: *mut c_void) -> ! {
    // SAFETY: the caller's promise.
    let order = unsafe { &mut *argument.cast::<Order>() };
    if order.network != Fd(-1)
        && let Err(errno) = setns(order.network, CLONE_NEWNET)
    {
        fail(order, Stage::Network, errno);
    }
    if order.wait {
        // With the copy open, the end of a parent that is killed would not be noticed.
        close(order.parent);
        wait_for_parent(order);
    }
    if order.become_root
        && let Err(errno) = become_root()
    {
        fail(order, Stage::BecomeRoot, errno);
    }
    let kept = cloexec_range(order.first_private, u32::MAX).and_then(|()| {
        // SAFETY: the parent keeps the array alive until this process has exec'ed.
        let inherit = unsafe { core::slice::from_raw_parts(order.inherit, order.inherit_count) };
        inherit.iter().try_for_each(|fd| set_cloexec(Fd(*fd), false))
    });
    if let Err(errno) = kept {
        fail(order, Stage::Descriptors, errno);
    }
    let errno = exec_fd(order.program, c"berth-init");
    fail(order, Stage::Exec, errno)
}

/// Namespaces first from outside the user namespace, as far as that is allowed, then the user namespace, then
/// the rest: whichever user namespace owns them, one of the two has the right.
fn join_all(order: &mut Order) {
    let mut left = 0u32;
    let count = order.join_count.min(MAX_JOINS);
    let has_user = order.joins[..count]
        .iter()
        .any(|join| join.kinds & CLONE_NEWUSER != 0);
    for index in 0..count {
        let join = order.joins[index];
        if join.kinds & CLONE_NEWUSER != 0 {
            left |= 1 << index;
            continue;
        }
        match setns(join.fd, join.kinds) {
            Ok(()) => {}
            Err(Errno::EPERM) if has_user => left |= 1 << index,
            Err(errno) => {
                order.index = index as u32;
                fail(order, Stage::Join, errno);
            }
        }
    }
    for user in [true, false] {
        for index in 0..count {
            let join = order.joins[index];
            if left & (1 << index) == 0 || (join.kinds & CLONE_NEWUSER != 0) != user {
                continue;
            }
            if let Err(errno) = setns(join.fd, join.kinds) {
                order.index = index as u32;
                fail(order, Stage::Join, errno);
            }
        }
    }
}

/// Entry of the process that joins namespaces, makes the first process as its sibling, and ends.
///
/// # Safety
/// As [`first_process`]; the stacks of the two are different memory.
pub unsafe extern "C" fn joiner(argument: *mut c_void) -> ! {
    // SAFETY: the caller's promise.
    let order = unsafe { &mut *argument.cast::<Order>() };
    join_all(order);
    if order.unshare_user {
        if let Err(errno) = unshare(CLONE_NEWUSER) {
            fail(order, Stage::UnshareUser, errno);
        }
        ask_parent(order);
        if let Err(errno) = become_root() {
            fail(order, Stage::BecomeRoot, errno);
        }
        // The change of ids made /proc/PID unwritable for an unprivileged parent.
        let _ = set_dumpable(true);
    }
    if order.unshare_time {
        if let Err(errno) = unshare(CLONE_NEWTIME) {
            fail(order, Stage::UnshareTime, errno);
        }
        ask_parent(order);
    }
    let args = order.init;
    // SAFETY: the first process has its own stack in `args`, and only it uses the order from here on, but for the
    // two fields of the answer.
    match unsafe { clone_with_stack(&args, first_process, argument) } {
        Ok(pid) => {
            order.pid = pid;
            exit(0)
        }
        Err(errno) => fail(order, Stage::Clone, errno),
    }
}

fn ask_parent(order: &mut Order) {
    if let Err(errno) = send(order.sync, &[0]) {
        fail(order, Stage::Wait, errno);
    }
    wait_for_parent(order);
}

/// What [`network_maker`] answers, in this order.
#[derive(Debug, Default)]
pub struct NetworkOrder {
    /// [`OPENED`] or [`FAILED`] once the namespace is there or will not be; a futex(2).
    pub state: AtomicU32,
    /// The namespace, if it is there.
    pub network: AtomicI32,
    /// Why there is none, or why `lo` is not up in it; 0 if all is well.
    pub errno: AtomicI32,
}

/// The namespace is open.
pub const OPENED: u32 = 1;
/// There is none.
pub const FAILED: u32 = 2;

/// Entry of the process that makes a network namespace, opens it in the descriptor table it shares, sets `lo` up, and ends.
///
/// # Safety
/// `argument` points at a valid [`NetworkOrder`] that lives until this process ends.
pub unsafe extern "C" fn network_maker(argument: *mut c_void) -> ! {
    // SAFETY: the caller's promise.
    let order = unsafe { &*argument.cast::<NetworkOrder>() };
    let tell = |state: u32| {
        order.state.store(state, Ordering::Release);
        futex_wake(&order.state);
    };
    let made = unshare(CLONE_NEWNET).and_then(|()| {
        network_with_loopback(|network| {
            order.network.store(network.0, Ordering::Relaxed);
            tell(OPENED);
        })
    });
    if let Err(errno) = made {
        order.errno.store(errno.0, Ordering::Relaxed);
        if order.state.load(Ordering::Relaxed) != OPENED {
            tell(FAILED);
        }
    }
    exit(0)
}
