//! The program that sets a container up from inside: it runs the plan's steps, one after the other, and becomes
//! the user's program.
//!
//! It is a static program of some tens of KiB without libc, heap or text of its own: what it needs stands in the
//! plan, which was mapped with it. So /proc/PID/exe of a container's process never leads to the runtime's binary
//! (CVE-2019-5736), nothing of the runtime's memory is in reach of the container, and almost none of the
//! container's memory limit is used. It decides nothing: what depends on the configuration was decided in `plan/`.

mod console;
mod copy;
mod devices;
mod hooks;
mod identity;
mod mounts;
mod path;
mod program;
mod root;
mod security;

#[cfg(any(test, clippy, feature = "fuzz"))]
pub use program::home_of;

use super::sys::{self, Errno, Fd};
use super::wire::{self, REPORT_LENGTH, Report, Step, reason};

/// What the program finds in its memory when it starts.
#[derive(Debug)]
pub struct Start {
    /// The plan's bytes, which the kernel mapped privately from the program's own file.
    pub plan: &'static [u8],
    /// Zeroed memory behind the plan, for pointer arrays.
    pub scratch: &'static mut [usize],
}

/// Why a step failed. The parent, which has the plan, makes the message.
#[derive(Debug, Clone, Copy)]
struct Failure<'a> {
    errno: i32,
    reason: u32,
    number: u32,
    detail: &'a [u8],
}

impl From<Errno> for Failure<'_> {
    fn from(errno: Errno) -> Self {
        Self {
            errno: errno.0,
            reason: reason::CALL,
            number: 0,
            detail: b"",
        }
    }
}

impl<'a> Failure<'a> {
    fn new(reason: u32, errno: Errno, detail: &'a [u8]) -> Self {
        Self {
            errno: errno.0,
            reason,
            number: 0,
            detail,
        }
    }
}

type Done<'a> = Result<(), Failure<'a>>;

/// Longest path the kernel takes, with its NUL.
const PATH_MAX: usize = 4096;

/// A string in fixed memory: a path that is put together, a variable.
#[derive(Debug)]
struct Buffer {
    bytes: [u8; PATH_MAX],
    length: usize,
}

impl Buffer {
    const fn new() -> Self {
        Self {
            bytes: [0; PATH_MAX],
            length: 0,
        }
    }

    fn clear(&mut self) {
        self.length = 0;
        self.bytes[0] = 0;
    }

    /// Appends; one byte is always left for the NUL.
    fn push(&mut self, bytes: &[u8]) -> Result<(), Errno> {
        let end = self.length + bytes.len();
        let place = self
            .bytes
            .get_mut(self.length..end + 1)
            .ok_or(Errno::ENAMETOOLONG)?;
        let (text, nul) = place.split_at_mut(bytes.len());
        text.copy_from_slice(bytes);
        nul[0] = 0;
        self.length = end;
        Ok(())
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn text(&self) -> &core::ffi::CStr {
        core::ffi::CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

/// What earlier steps leave for later ones.
#[derive(Debug)]
struct Init {
    /// Where reports go: the socket to the parent, later the connection of `berth start`.
    channel: Fd,
    first_private: u32,
    /// The container's root folder.
    root: Fd,
    /// A procfs that nobody else could have tampered with.
    proc: Option<Fd>,
    /// A handle on /dev/null, checked to be it.
    null: Option<Fd>,
    /// A detached, empty, read-only file system for covering folders.
    empty: Option<Fd>,
    /// The source of the next bind mount.
    handed: Option<Fd>,
    /// The folder of the last device or link, and its path.
    folder: Option<Fd>,
    folder_path: Buffer,
    /// What the standard streams are, once they were looked at.
    streams: Option<[Option<sys::Stat>; 3]>,
    /// Whether the working directory is the root.
    at_root: bool,
    /// Whether the working directory is reached.
    in_place: bool,
    /// Path of the user's program.
    program: Buffer,
    /// `HOME=…`, if the environment lacks it.
    home: Buffer,
    /// For messages of the kernel and putting paths together.
    text: Buffer,
    scratch: &'static mut [usize],
}

/// Runs the plan. Returns only if something failed: the exit status.
pub fn run(start: Start) -> i32 {
    // Nobody may look into this process or take its descriptors (CVE-2016-9962), not even with the same user id.
    let _ = sys::set_dumpable(false);
    let Start { plan, scratch } = start;
    let Ok((header, steps)) = wire::decode(plan) else {
        return 125;
    };
    let mut init = Init::new(Fd(header.socket), header.first_private, scratch);
    // The descriptors inherited for this program must not reach the next one.
    let _ = sys::cloexec_range(header.first_private, u32::MAX);
    sys::umask(0);
    for (index, step) in steps.enumerate() {
        let done = match step {
            Ok((tag, step)) => init.step(step).map_err(|failure| (tag, failure)),
            Err(_) => Err((0, Failure::new(reason::PLAN, Errno::EBADMSG, b""))),
        };
        if let Err((tag, failure)) = done {
            init.report_failure(index as u32, tag, &failure);
            return 1;
        }
    }
    1
}

impl Init {
    const fn new(channel: Fd, first_private: u32, scratch: &'static mut [usize]) -> Self {
        Self {
            channel,
            first_private,
            root: Fd::CWD,
            proc: None,
            null: None,
            empty: None,
            handed: None,
            folder: None,
            folder_path: Buffer::new(),
            streams: None,
            at_root: false,
            in_place: false,
            program: Buffer::new(),
            home: Buffer::new(),
            text: Buffer::new(),
            scratch,
        }
    }

    fn step<'a>(&mut self, step: Step<'a>) -> Done<'a> {
        if !matches!(step, Step::Device { .. } | Step::Link { .. }) {
            self.leave_place();
        }
        match step {
            Step::Name { name } => {
                sys::set_name(name);
                Ok(())
            }
            Step::Sync { point } => self.sync(point),
            Step::Session {} => console::session(),
            Step::Keyring { name } => identity::keyring(name),
            Step::Unshare { kinds } => Ok(sys::unshare(kinds)?),
            Step::ReopenNull {} => self.reopen_null(),
            Step::Loopback {} => Ok(sys::loopback_up()?),
            Step::Hostname { name } => Ok(sys::sethostname(name)?),
            Step::Domainname { name } => Ok(sys::setdomainname(name)?),
            Step::Propagation { flags, recursive } => root::propagation(flags, recursive),
            Step::Root { path, source, mount } => self.make_root(path, source, mount),
            Step::CurrentRoot {} => self.current_root(),
            Step::FsMount { .. } => self.fs_mount(&step),
            Step::TakeSource { slot } => self.take_source(slot),
            Step::Bind { .. } => self.bind(&step),
            Step::Attributes {
                target,
                set,
                clear,
                propagation,
                recursive,
            } => self.attributes(target, set, clear, propagation, recursive),
            Step::Folder { path, mode } => self.folder(path, mode),
            Step::Link {
                target,
                path,
                existing,
            } => self.link(target, path, existing),
            Step::Device { .. } => self.device(&step),
            Step::PivotRoot {} => self.pivot_root(),
            Step::MoveRoot { cover } => self.move_root(cover),
            Step::ChangeRoot {} => self.change_root(),
            Step::OpenProc {} => self.open_proc(),
            Step::Sysctl { path, value } | Step::Label { path, value } => self.proc_write(path, value),
            Step::ReadOnly { path } => self.read_only(path),
            Step::Mask { path, label } => self.mask(path, label),
            Step::Console {
                socket,
                rows,
                columns,
                uid,
                device,
            } => self.console(Fd(socket), (rows as u16, columns as u16), uid, device),
            Step::StdioOwner { uid } => console::stdio_owner(uid, self.streams),
            step => self.process_step(step),
        }
    }

    fn process_step<'a>(&mut self, step: Step<'a>) -> Done<'a> {
        match step {
            Step::Limit { resource, soft, hard } => Ok(sys::prlimit(0, resource, soft, hard)?),
            Step::NoNewPrivileges {} => Ok(sys::no_new_privileges()?),
            Step::Seccomp {
                program,
                flags,
                listener,
            } => self.seccomp(program, flags, listener),
            Step::Bounding { keep } => identity::bounding(keep),
            Step::User {
                uid,
                gid,
                set_groups,
                groups,
            } => identity::user(uid, gid, set_groups.then_some(groups)),
            Step::Capabilities {
                effective,
                permitted,
                inheritable,
                ambient,
            } => identity::capabilities(effective, permitted, inheritable, ambient),
            Step::Umask { mask } => {
                sys::umask(mask);
                Ok(())
            }
            Step::WorkingDirectory { path, lenient } => self.working_directory(path, lenient),
            Step::Home { uid } => self.find_home(uid),
            Step::Program { name, search } => self.find_program(name, search),
            Step::Hook { .. } => self.hook(&step),
            Step::Park { gate } => self.park(Fd(gate)),
            Step::Execute {
                arguments,
                environment,
            } => self.execute(arguments, environment),
            Step::Personality { persona } => Ok(sys::personality(persona)?),
            Step::IoPriority { priority } => Ok(sys::ioprio_set(priority)?),
            Step::Scheduler { attributes } => Ok(sys::sched_setattr(attributes)?),
            Step::Affinity { mask } => Ok(sys::sched_setaffinity(mask)?),
            Step::AnyProcessor {} => {
                // The kernel cuts the mask to the processors there can be. Failing leaves the inherited bond.
                let _ = sys::sched_setaffinity(&[0xff; 1024]);
                Ok(())
            }
            Step::MemoryPolicy { mode, nodes } => Ok(sys::set_mempolicy(mode, nodes)?),
            Step::Seal {} => self.seal(),
            // `step` handles the others.
            _ => Err(Failure::new(reason::PLAN, Errno::EBADMSG, b"")),
        }
    }

    fn report(&self, report: &Report<'_>) -> Result<(), Errno> {
        let mut buffer = [0u8; REPORT_LENGTH];
        let length = report.encode(&mut buffer);
        sys::send(self.channel, &buffer[..length])
    }

    fn report_failure(&self, step: u32, tag: u32, failure: &Failure<'_>) {
        let detail = if failure.reason == reason::OPTION || failure.reason == reason::STATUS {
            self.text.bytes()
        } else {
            failure.detail
        };
        // Nobody is left to be told when this fails.
        let _ = self.report(&Report::Failed {
            step,
            tag,
            errno: failure.errno,
            reason: failure.reason,
            number: failure.number,
            detail,
        });
    }

    /// Waits for one byte. A parent that has gone takes its container with it.
    fn wait_for_byte(&self) -> Result<(), Errno> {
        let mut byte = [0u8; 1];
        match sys::recv(self.channel, &mut byte)? {
            1 => Ok(()),
            _ => sys::exit(1),
        }
    }

    fn sync<'a>(&mut self, point: u32) -> Done<'a> {
        self.report(&Report::Reached(point))?;
        Ok(self.wait_for_byte()?)
    }

    /// The parent may go; `berth start` connects and sends one byte when the user's program is to run.
    fn park<'a>(&mut self, gate: Fd) -> Done<'a> {
        // What only the mounts needed is not to lie here for as long as nobody calls `start`.
        self.leave_place();
        for fd in [self.null.take(), self.empty.take()].into_iter().flatten() {
            sys::close(fd);
        }
        // The first process of a pid namespace gets no signal that it does not wait for, so it waits for those that
        // would end any other: a container that was never started can be told to go.
        let mask = sys::set_signal_mask(FATAL)?;
        let signals = sys::signal_fd(FATAL)?;
        self.report(&Report::Ready)?;
        sys::close(self.channel);
        loop {
            match sys::poll_two(signals, gate) {
                Err(Errno::EINTR) => continue,
                Ok(true) => end_by(signals)?,
                Ok(false) => {}
                Err(errno) => return Err(errno.into()),
            }
            self.channel = sys::accept(gate)?;
            let mut byte = [0u8; 1];
            if let Ok(1) = sys::recv(self.channel, &mut byte) {
                sys::close(gate);
                sys::close(signals);
                sys::set_signal_mask(mask)?;
                return Ok(());
            }
            // Somebody connected and went away, such as a `start` that was interrupted: wait for another.
            sys::close(self.channel);
        }
    }
}

/// SIGHUP, SIGINT, SIGQUIT, SIGABRT, SIGTERM, as rt_sigprocmask(2) takes them: the signals that end a parked runc.
const FATAL: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 5 | 1 << 14;

/// Ends as shells tell of a process that a signal has ended.
fn end_by(signals: Fd) -> Result<(), Errno> {
    // `struct signalfd_siginfo` begins with the signal's number.
    let mut info = [0u8; 128];
    sys::read(signals, &mut info)?;
    let [first, ..] = info;
    sys::exit(128 + i32::from(first));
}
