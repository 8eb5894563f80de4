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
//! Containers can see it, and one with CAP_SYS_PTRACE could take it over: nothing of the host must be reachable through
//! it.
//!
//! Sources: pid_namespaces(7), pivot_root(2), seccomp(2) (SECCOMP_SET_MODE_STRICT), sigaction(2) (SIG_IGN of SIGCHLD).

use std::fs::File;
use std::io::{PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Gid, Pid, Uid, pivot_root, setgroups, setresgid, setresuid};

/// Given to the program that is to be process 1; paths of namespaces to join follow.
pub const HOLD_FLAG: &str = "--hold-pids";
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
        let program = std::env::current_exe().map_err(system("find this program"))?;
        let own = File::open("/proc/self/ns/pid").map_err(system("open /proc/self/ns/pid"))?;
        let (lifeline, alive) = std::io::pipe().map_err(system("make a pipe"))?;
        let (mut words, speaker) = std::io::pipe().map_err(system("make a pipe"))?;
        let mut command = Command::new(program);
        command
            .arg0(NAME)
            .arg(HOLD_FLAG)
            .args(join)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(lifeline))
            .stdout(Stdio::from(speaker))
            .stderr(Stdio::null());
        // Counts for children only, and until it is taken back.
        unshare(CloneFlags::CLONE_NEWPID).map_err(system("make a process namespace"))?;
        let child = command.spawn();
        setns(own, CloneFlags::CLONE_NEWPID).map_err(system("go back to the host's process namespace"))?;
        drop(command);
        let child = child.map_err(system("start its first process"))?;
        let pids = Pids {
            pid: child.id().cast_signed(),
            _alive: alive,
        };
        let mut text = String::new();
        let mut wait = [PollFd::new(words.as_fd(), PollFlags::POLLIN)];
        // It says all it has to say at once.
        if poll(&mut wait, PollTimeout::from(PATIENCE)).is_ok_and(|n| n > 0) {
            words
                .read_to_string(&mut text)
                .map_err(system("hear from its first process"))?;
        }
        if text == READY {
            return Ok(pids);
        }
        pids.end();
        Err(PidsError::First(if text.is_empty() {
            "its first process does not answer".to_owned()
        } else {
            text
        }))
    }

    /// Kills process 1, and with it everything in the namespace.
    fn end(&self) {
        // Our unreaped child: the pid cannot have been reused.
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

/// Process 1's side: confines itself, says so, and is there until the monitor ends.
pub fn be(join: &[PathBuf]) {
    let told = match confine(join) {
        Ok(()) => READY.to_owned(),
        Err(error) => {
            let mut text = error.to_string();
            if let Some(source) = std::error::Error::source(&error) {
                text = format!("{text}: {source}");
            }
            text
        }
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
