//! Making a container's first process with clone3(2), without a re-exec and, where the kernel allows, without
//! copying page tables.
//!
//! The first process shares this process's memory until it execs the init program: everything it needs lies in
//! one mapping that lives until then. If namespaces are joined, a helper that shares memory and descriptors joins
//! them and makes the first process as its own sibling (CLONE_PARENT), so that this process is the parent either
//! way.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use crate::area::{Area, PAGE, STACK};
use crate::raw::child::{CLONE_PARENT, JoinOrder, MAX_JOINS, Order, first_process, joiner};
use crate::raw::{self, CloneArgs, Fd};

pub use crate::raw::child::Stage;

const CLONE_VM: u64 = 0x100;
const CLONE_FILES: u64 = 0x400;
const CLONE_PIDFD: u64 = 0x1000;
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
const SIGCHLD: u64 = 17;

/// How to make the first process.
#[derive(Debug)]
pub struct Request<'a> {
    /// CLONE_NEW* kinds to make.
    pub namespaces: u64,
    /// Namespaces to join before.
    pub joins: &'a [(BorrowedFd<'a>, u64)],
    /// Make a user namespace already in the joining helper (needed when a time namespace is made with it).
    pub helper_user: bool,
    /// Make a time namespace in the joining helper.
    pub helper_time: bool,
    /// The network namespace to enter, from [`crate::network::NewNetwork`].
    pub network: Option<BorrowedFd<'a>>,
    /// cgroup2 directory to be born into.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child's end of a socket pair made by [`crate::socket::pair`].
    pub sync: BorrowedFd<'a>,
    /// The init program.
    pub program: BorrowedFd<'a>,
    /// Whether the first process waits for a byte from [`Spawned::release`] before it runs the program.
    pub wait: bool,
    /// Whether it lives in another user namespace, whose root it must become.
    pub become_root: bool,
    /// First descriptor not kept for the user's program: 3 plus `--preserve-fds`.
    pub first_private: u32,
    /// Descriptors the program inherits, besides those below `first_private`.
    pub inherit: &'a [RawFd],
}

/// A failure of one of the children before the program ran.
#[derive(Debug)]
pub struct SpawnFailure {
    /// Where.
    pub stage: Stage,
    /// For [`Stage::Join`]: index in [`Request::joins`].
    pub join: usize,
    /// Why.
    pub source: io::Error,
}

impl SpawnFailure {
    fn clone(source: io::Error) -> Self {
        Self {
            stage: Stage::Clone,
            join: 0,
            source,
        }
    }
}

/// Where the children and this process share an [`Order`].
#[derive(Debug)]
struct Shared(Area);

impl Shared {
    fn order(&self) -> *mut Order {
        self.0.page()
    }

    /// The answer so far: stage, index, error number, pid.
    fn answer(&self) -> (u32, u32, i32, i32) {
        let order = self.order();
        // SAFETY: the order was written when the area was set up; the children only store plain numbers.
        unsafe {
            (
                std::ptr::read_volatile(&raw const (*order).stage),
                std::ptr::read_volatile(&raw const (*order).index),
                std::ptr::read_volatile(&raw const (*order).errno),
                std::ptr::read_volatile(&raw const (*order).pid),
            )
        }
    }
}

const _: () = assert!(size_of::<Order>() + 16 <= PAGE);

/// A first process that is on its way to the init program.
#[derive(Debug)]
pub struct Spawned {
    pid: i32,
    pidfd: OwnedFd,
    area: Shared,
    // The children read the array by its address.
    _inherit: Box<[RawFd]>,
}

impl Spawned {
    /// Its process id in this process's pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// To be called once the program has answered on the socket. The children's memory stays mapped until this
    /// process ends: giving it back now would interrupt the other processors (TLB) while the container waits.
    pub fn running(self) -> (i32, OwnedFd) {
        std::mem::forget(self.area);
        (self.pid, self.pidfd)
    }

    /// Whether it failed before its program ran. Only to be asked when its socket was closed.
    pub fn failed(&self) -> bool {
        self.area.answer().0 != Stage::None as u32
    }

    /// The socket was closed without an answer: why. The process is reaped.
    pub fn failure(self) -> SpawnFailure {
        let _ = raw::pidfd_send_signal(Fd(self.pidfd.as_raw_fd()), libc::SIGKILL);
        let status = raw::wait(self.pid, libc::__WALL as u32);
        failure_of(&self.area, status)
    }

    /// Kills and reaps the process.
    pub fn abort(self) {
        let _ = self.failure();
    }
}

fn failure_of(area: &Shared, status: raw::Res<i32>) -> SpawnFailure {
    let (stage, join, errno, _) = area.answer();
    let stage = match stage {
        1 => Stage::Join,
        2 => Stage::UnshareUser,
        3 => Stage::UnshareTime,
        4 => Stage::BecomeRoot,
        5 => Stage::Clone,
        6 => Stage::Descriptors,
        7 => Stage::Exec,
        8 => Stage::Wait,
        9 => Stage::Network,
        _ => Stage::None,
    };
    let source = if stage == Stage::None {
        let how = match status {
            Ok(status) if status & 0x7f != 0 => format!("killed by signal {}", status & 0x7f),
            Ok(status) => format!("ended with status {}", (status >> 8) & 0xff),
            Err(errno) => io::Error::from_raw_os_error(errno.0).to_string(),
        };
        io::Error::other(how)
    } else {
        io::Error::from_raw_os_error(errno)
    };
    SpawnFailure {
        stage,
        join: join as usize,
        source,
    }
}

/// What the helper asks this process to do before it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelperNeeds {
    /// Write the id maps of its new user namespace.
    IdMaps,
    /// Write the offsets of its new time namespace.
    TimeOffsets,
}

/// Gives `look` the id of a process in a new user namespace, which lives that long and never runs anything: the namespace
/// is only a table of ids for the kernel. Its maps are to be written, and /proc/PID/ns/user opened.
pub fn with_user_namespace<T>(look: impl FnOnce(i32) -> T) -> Result<T, SpawnFailure> {
    let (ours, theirs) = crate::socket::pair().map_err(SpawnFailure::clone)?;
    let request = Request {
        namespaces: libc::CLONE_NEWUSER as u64,
        joins: &[],
        helper_user: false,
        helper_time: false,
        network: None,
        cgroup: None,
        sync: theirs.as_fd(),
        // Never executed: it waits for a byte that nobody sends.
        program: theirs.as_fd(),
        wait: true,
        become_root: false,
        first_private: 3,
        inherit: &[],
    };
    let holder = spawn(&request, ours.as_fd(), |_, _| Ok(()))?;
    let seen = look(holder.pid());
    holder.abort();
    Ok(seen)
}

/// Makes the first process. `answer` serves the joining helper, whose process id it is given; `parent_sync` is
/// this process's end of the socket.
pub fn spawn(
    request: &Request<'_>,
    parent_sync: BorrowedFd<'_>,
    mut answer: impl FnMut(HelperNeeds, i32) -> io::Result<()>,
) -> Result<Spawned, SpawnFailure> {
    let helper = !request.joins.is_empty() || request.helper_user || request.helper_time;
    if request.joins.len() > MAX_JOINS {
        return Err(SpawnFailure::clone(io::Error::from_raw_os_error(libc::EINVAL)));
    }
    // Time namespaces are only entered by processes with memory of their own (setns(2), EUSERS).
    let time = libc::CLONE_NEWTIME as u64;
    let own_memory = request.helper_time || request.joins.iter().any(|(_, kinds)| kinds & time != 0);
    let memory = if own_memory { 0 } else { CLONE_VM };

    // Shared, so that a helper that was forked with its own memory can still answer.
    let area = Shared(Area::new(libc::MAP_SHARED, 2).map_err(SpawnFailure::clone)?);
    let mut pidfd: i32 = -1;
    let inherit: Box<[RawFd]> = request.inherit.into();
    let mut flags = request.namespaces | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | memory;
    if request.cgroup.is_some() {
        flags |= CLONE_INTO_CGROUP;
    }
    if helper {
        flags |= CLONE_PARENT;
    }
    // The helper's own memory is not ours: it gets the descriptor into the shared area.
    let pidfd_at = area.order() as u64 + size_of::<Order>().next_multiple_of(8) as u64;
    let init = CloneArgs {
        flags,
        pidfd: if helper { pidfd_at } else { &raw mut pidfd as u64 },
        // CLONE_PARENT takes over the exit signal of the helper.
        exit_signal: if helper { 0 } else { SIGCHLD },
        stack: area.0.stack(0),
        stack_size: STACK as u64,
        cgroup: request.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
        ..CloneArgs::default()
    };
    let mut joins = [JoinOrder { fd: Fd(-1), kinds: 0 }; MAX_JOINS];
    for (slot, (fd, kinds)) in joins.iter_mut().zip(request.joins) {
        *slot = JoinOrder {
            fd: Fd(fd.as_raw_fd()),
            kinds: *kinds,
        };
    }
    let order = Order {
        init,
        sync: Fd(request.sync.as_raw_fd()),
        parent: Fd(parent_sync.as_raw_fd()),
        program: Fd(request.program.as_raw_fd()),
        network: Fd(request.network.map_or(-1, |fd| fd.as_raw_fd())),
        wait: request.wait,
        become_root: request.become_root,
        first_private: request.first_private,
        inherit: inherit.as_ptr(),
        inherit_count: inherit.len(),
        joins,
        join_count: request.joins.len(),
        unshare_user: request.helper_user,
        unshare_time: request.helper_time,
        stage: 0,
        index: 0,
        errno: 0,
        pid: 0,
    };
    // SAFETY: the area is large enough (asserted above), aligned to a page, and nobody else uses it yet.
    unsafe { area.order().write(order) };
    let pid = if helper {
        let args = CloneArgs {
            flags: memory | CLONE_FILES | CLONE_CLEAR_SIGHAND,
            exit_signal: SIGCHLD,
            stack: area.0.stack(1),
            stack_size: STACK as u64,
            ..CloneArgs::default()
        };
        // SAFETY: the stacks are disjoint parts of the area, which is only dropped after the helper was waited for
        // and, in `Spawned`, after the first process has exec'ed or ended.
        let helper = unsafe { raw::clone_with_stack(&args, joiner, area.order().cast()) };
        let helper = helper.map_err(|errno| SpawnFailure::clone(io::Error::from_raw_os_error(errno.0)))?;
        let served = serve(request, parent_sync, helper, &mut answer);
        if served.is_err() {
            let _ = raw::kill(helper, libc::SIGKILL);
        }
        let status = raw::wait(helper, libc::__WALL as u32);
        // SAFETY: the kernel stored an int there, or it is still zero.
        pidfd = unsafe { std::ptr::read_volatile(pidfd_at as *const i32) };
        served?;
        if area.answer().3 == 0 {
            return Err(failure_of(&area, status));
        }
        area.answer().3
    } else {
        // SAFETY: as above.
        unsafe { raw::clone_with_stack(&init, first_process, area.order().cast()) }
            .map_err(|errno| SpawnFailure::clone(io::Error::from_raw_os_error(errno.0)))?
    };
    Ok(Spawned {
        pid,
        // SAFETY: the kernel made this descriptor for us; with a helper it is in the shared descriptor table.
        pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        area,
        _inherit: inherit,
    })
}

fn serve(
    request: &Request<'_>,
    sync: BorrowedFd<'_>,
    helper: i32,
    answer: &mut impl FnMut(HelperNeeds, i32) -> io::Result<()>,
) -> Result<(), SpawnFailure> {
    let needs = [
        (request.helper_user, HelperNeeds::IdMaps, Stage::UnshareUser),
        (request.helper_time, HelperNeeds::TimeOffsets, Stage::UnshareTime),
    ];
    for (wanted, need, stage) in needs {
        if !wanted {
            continue;
        }
        let fail = |source| SpawnFailure {
            stage,
            join: 0,
            source,
        };
        let asked = wait_for_helper(sync, helper).map_err(fail)?;
        if !asked {
            // It ended with an answer in the area.
            return Ok(());
        }
        answer(need, helper).map_err(fail)?;
        crate::socket::send(sync, &[0]).map_err(fail)?;
    }
    Ok(())
}

/// Waits until the helper asks or ends; whether it asked. The socket alone does not tell: this process holds the
/// child's end open, too.
fn wait_for_helper(sync: BorrowedFd<'_>, helper: i32) -> io::Result<bool> {
    let pidfd = crate::pidfd::open(helper)?;
    let mut polled = [sync.as_raw_fd(), pidfd.as_raw_fd()].map(|fd| libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    });
    loop {
        // SAFETY: two pollfd structures that live through the call.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), 2, -1) };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            continue;
        }
        if polled[0].revents != 0 {
            let mut byte = [0u8; 1];
            return Ok(crate::socket::receive(sync, &mut byte)? == 1);
        }
        if polled[1].revents != 0 {
            return Ok(false);
        }
    }
}
