//! The first process of a process namespace that a pod's containers share.
//!
//! A process namespace lives as long as its process 1, and no container may be that: its end would be the end of all.
//! So the monitor starts this program once more in a new namespace, where it does nothing but be there:
//!
//! ```text
//! monitor ──unshare, spawn──▶ process 1: joins the pod's namespaces, empty root, no user, no capabilities,
//!    │  ◀──── "ready", EOF ──    nothing but read(2) allowed; the kernel reaps its orphans (SIGCHLD is ignored)
//!    └── holds a pipe ─────────▶ reads it; its end is the monitor's end: the kernel then kills all that is left
//! ```
//!
//! A pod with users of its own has a user namespace that must own this one, or nobody in it could mount /proc. The
//! monitor could not come back from there, so a process between the two goes there first, and ends:
//!
//! ```text
//! monitor ──spawn──▶ joins the user namespace, becomes its root ──unshare, spawn──▶ process 1
//!    ◀──── "pid N" ────┘ ends: process 1 becomes the monitor's child
//! ```
//!
//! Containers can see it, and one with CAP_SYS_PTRACE could take it over: nothing of the host must be reachable through
//! it.
//!
//! Sources: pid_namespaces(7), pivot_root(2), seccomp(2) (SECCOMP_SET_MODE_STRICT), sigaction(2) (SIG_IGN of SIGCHLD).

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, pivot_root, setgroups, setresgid, setresuid};

/// Given to the program that is to be process 1; paths of namespaces to join follow.
pub const HOLD_FLAG: &str = "--hold-pids";
/// Given to the process that makes it in a user namespace, whose path follows, and then those of the others.
pub const HOLD_BELOW_FLAG: &str = "--hold-pids-below";
/// What that process says before the number of process 1.
const NUMBER: &str = "pid ";
/// What it is called in the pod.
const NAME: &str = "berth-pod";
/// What it says when it is there.
const READY: &str = "ready\n";
/// How long that may take, in milliseconds.
const PATIENCE: u16 = 10_000;
/// nobody, who owns nothing.
const NOBODY: u32 = 65_534;

/// Why no namespace can be held.
#[derive(Debug, thiserror::Error)]
pub enum PidsError {
    /// A system call of the monitor or of process 1.
    #[error("hold a process namespace for the pod: {what}")]
    System {
        /// What was attempted.
        what: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// Process 1 has said why it cannot be.
    #[error("hold a process namespace for the pod: {0}")]
    First(String),
}

fn system<E: Into<std::io::Error>>(what: &str) -> impl FnOnce(E) -> PidsError + use<E> {
    let what = what.to_owned();
    move |source| PidsError::System {
        what,
        source: source.into(),
    }
}

/// The monitor's side: a namespace is held as long as this value.
#[derive(Debug)]
pub struct Pids {
    /// Process 1, in the host's numbers.
    pub pid: i32,
    _alive: PipeWriter,
}

impl Pids {
    /// Starts process 1 and waits until it is confined. `join` are the pod's other namespaces.
    ///
    /// # Errors
    /// Any [`PidsError`]; no process is left then.
    pub fn hold(join: &[PathBuf]) -> Result<Pids, PidsError> {
        let (lifeline, alive) = std::io::pipe().map_err(system("make a pipe"))?;
        let (mut words, speaker) = std::io::pipe().map_err(system("make a pipe"))?;
        let (stdin, stdout) = (Stdio::from(lifeline), Stdio::from(speaker));
        // The user namespace comes first.
        let below = join.first().is_some_and(|path| path.ends_with("user"));
        let started = if below {
            command(HOLD_BELOW_FLAG, join, stdin, stdout)
                .spawn()
                .map_err(system("start a process in the pod's user namespace"))?
        } else {
            let own = File::open("/proc/self/ns/pid").map_err(system("open /proc/self/ns/pid"))?;
            let first = in_new_namespace(command(HOLD_FLAG, join, stdin, stdout));
            setns(own, CloneFlags::CLONE_NEWPID)
                .map_err(system("go back to the host's process namespace"))?;
            first?
        };
        let mut text = String::new();
        let mut wait = [PollFd::new(words.as_fd(), PollFlags::POLLIN)];
        // Who speaks ends soon, or is process 1 and says all it has to say at once.
        if poll(&mut wait, PollTimeout::from(PATIENCE)).is_ok_and(|n| n > 0) {
            words
                .read_to_string(&mut text)
                .map_err(system("hear from its first process"))?;
        }
        let number = text
            .lines()
            .find_map(|line| line.strip_prefix(NUMBER)?.parse().ok());
        let pids = Pids {
            pid: number.unwrap_or_else(|| started.id().cast_signed()),
            _alive: alive,
        };
        let words: Vec<&str> = text.lines().filter(|line| !line.starts_with(NUMBER)).collect();
        if words == [READY.trim_end()] && below == number.is_some() {
            return Ok(pids);
        }
        pids.end();
        Err(PidsError::First(if words.is_empty() {
            "its first process does not answer".to_owned()
        } else {
            words.join("; ")
        }))
    }

    /// Kills process 1, and with it everything in the namespace.
    fn end(&self) {
        // Our unreaped child: the pid cannot have been reused.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

/// This program once more, with one of the two flags.
fn command(flag: &str, join: &[PathBuf], stdin: Stdio, stdout: Stdio) -> Command {
    // Not by its path: in another user namespace it may not be reached.
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0(NAME)
        .arg(flag)
        .args(join)
        .env_clear()
        .current_dir("/")
        .stdin(stdin)
        .stdout(stdout)
        .stderr(Stdio::null());
    command
}

/// Starts a command as process 1. The caller stays where it is, but what it starts from then on does not.
fn in_new_namespace(mut command: Command) -> Result<Child, PidsError> {
    // Counts for children only.
    unshare(CloneFlags::CLONE_NEWPID).map_err(system("make a process namespace"))?;
    command.spawn().map_err(system("start its first process"))
}

/// The process between the monitor and process 1 in a pod with users of its own: makes it, and says which it is.
pub fn make_below(join: &[PathBuf]) {
    let told = below(join).map_or_else(|error| with_source(&error), |pid| format!("{NUMBER}{pid}"));
    let _ = std::io::stdout().write_all(format!("{told}\n").as_bytes());
}

fn below(join: &[PathBuf]) -> Result<u32, PidsError> {
    let what = |path: &Path| format!("join the namespace {}", path.display());
    // The pod's root would not get to their places.
    let mut open = Vec::new();
    for path in join {
        open.push((path, File::open(path).map_err(system(&what(path)))?));
    }
    for (number, (path, file)) in open.into_iter().enumerate() {
        setns(file, CloneFlags::empty()).map_err(system(&what(path)))?;
        if number == 0 {
            let (user, group) = (Uid::from_raw(0), Gid::from_raw(0));
            setgroups(&[])
                .and_then(|()| setresgid(group, group, group))
                .and_then(|()| setresuid(user, user, user))
                .map_err(system("become the pod's root"))?;
        }
    }
    let first = in_new_namespace(command(HOLD_FLAG, &[], Stdio::inherit(), Stdio::inherit()))?;
    Ok(first.id())
}

fn with_source(error: &PidsError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Process 1's side: confines itself, says so, and is there until the monitor ends.
pub fn be(join: &[PathBuf]) {
    let told = match confine(join) {
        Ok(()) => READY.to_owned(),
        Err(error) => with_source(&error),
    };
    let _ = std::io::stdout().write_all(told.as_bytes());
    let _ = std::io::stdout().flush();
    // The monitor waits for the end of what it hears.
    for fd in [1, 2] {
        let _ = nix::unistd::close(fd);
    }
    if told != READY || berth_sys::process::allow_only_reading().is_err() {
        return;
    }
    let mut byte = [0];
    while !matches!(nix::unistd::read(std::io::stdin(), &mut byte), Ok(0)) {}
}

fn confine(join: &[PathBuf]) -> Result<(), PidsError> {
    // Children that have ended, also those of others, then need nobody who waits for them.
    berth_sys::signal::ignore_children().map_err(system("ignore SIGCHLD"))?;
    // What ps(1) shows: it was started by the name "exe".
    nix::sys::prctl::set_name(c"berth-pod").map_err(system("take its name"))?;
    nix::sys::prctl::set_no_new_privs().map_err(system("give up new privileges"))?;
    for path in join {
        let what = format!("join the namespace {}", path.display());
        let file = File::open(path).map_err(system(&what))?;
        setns(file, CloneFlags::empty()).map_err(system(&what))?;
    }
    empty_root().map_err(system("make an empty root"))?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).map_err(system("give up groups"))?;
    setresgid(group, group, group).map_err(system("become nobody"))?;
    // With root's id go all capabilities (capabilities(7)).
    setresuid(user, user, user).map_err(system("become nobody"))?;
    nix::sys::prctl::set_dumpable(false).map_err(system("close its memory to others"))
}

/// A mount namespace with an empty directory in it.
fn empty_root() -> nix::Result<()> {
    const PLACE: &str = "/proc";
    let none = None::<&Path>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(
        Some("none"),
        PLACE,
        Some("tmpfs"),
        flags,
        Some("size=4k,mode=555"),
    )?;
    nix::unistd::chdir(PLACE)?;
    // Puts the old root on top of the new one, from where it is taken (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    nix::unistd::chdir("/")
}
