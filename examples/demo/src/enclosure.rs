//! The namespaces that the demo runs in: PID, mount and network, so that nothing it does reaches
//! the host and everything ends with it, also when it is killed.
//!
//! ```text
//! berth-demo run            outer: makes network and PID namespaces, waits, removes cgroups and the folder
//!   └─ berth-demo init      PID 1: own mounts, lo, reaps orphans; dies with outer
//!        └─ the phases      (a thread's child process) berthd, berthctl, requests
//! ```

use crate::{DemoError, Place, cgroups, node, phases};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Takes the demo's folder for this process; a second demo in the same folder is refused.
pub fn lock(dir: &Path) -> Result<Flock<File>, DemoError> {
    std::fs::create_dir_all(dir).map_err(DemoError::io(format!("create {}", dir.display())))?;
    let path = dir.join("lock");
    let file = File::create(&path).map_err(DemoError::io(format!("create {}", path.display())))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
        DemoError::Wrong(format!(
            "a node runs in {} already: end it with `make down`",
            dir.display()
        ))
    })
}

/// Refuses early, with the reason, where namespaces cannot be made.
pub fn require_root() -> Result<(), DemoError> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(DemoError::Wrong(
            "the demo makes namespaces and cgroups: run it as root (sudo make demo)".to_owned(),
        ))
    }
}

/// The command that makes this program PID 1 of new namespaces once the caller has unshared.
pub fn init_command(role: &str, place: &Place) -> Result<Command, DemoError> {
    let exe = std::env::current_exe().map_err(DemoError::io("find this program"))?;
    let mut command = Command::new(exe);
    command.args(["init", role]);
    command
        .arg("--bin-dir")
        .arg(&place.bin_dir)
        .arg("--dir")
        .arg(&place.dir);
    command
        .arg("--manifests")
        .arg(&place.manifests)
        .arg("--app")
        .arg(&place.app);
    Ok(command)
}

/// Leaves the host's network and, for children, its processes behind. Mounts stay the host's here:
/// this process removes the folder in the end.
fn leave_host() -> Result<(), DemoError> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWPID).map_err(DemoError::io("make namespaces"))
}

/// `run`: everything from nothing to nothing.
pub fn run(place: &Place) -> Result<ExitCode, DemoError> {
    require_root()?;
    let place = absolute(place)?;
    let lock = lock(&place.dir)?;
    cgroups::remove_leftovers(&node::cgroup_parent(&place.dir))?;
    leave_host()?;
    let mut init = init_command("phases", &place)?
        .env("BERTH_DEMO_BOUND", "1")
        .spawn()
        .map_err(DemoError::io("start the demo's first process"))?;
    let status = init.wait().map_err(DemoError::io("wait for the demo"))?;
    let left = cgroups::remove_leftovers(&node::cgroup_parent(&place.dir))?;
    drop(lock);
    std::fs::remove_dir_all(&place.dir).map_err(DemoError::io(format!("remove {}", place.dir.display())))?;
    if status.success() && !left.is_empty() {
        return Err(DemoError::Wrong(format!(
            "the node left cgroups behind: {}",
            left.join(", ")
        )));
    }
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The place with absolute paths: the process inside sees the same files from another directory.
pub fn absolute(place: &Place) -> Result<Place, DemoError> {
    let full =
        |path: &Path| std::path::absolute(path).map_err(DemoError::io(format!("resolve {}", path.display())));
    Ok(Place {
        bin_dir: full(&place.bin_dir)?,
        dir: full(&place.dir)?,
        manifests: full(&place.manifests)?,
        app: place.app.clone(),
    })
}

/// PID 1 inside: mounts, `lo`, then the role as a child; reaps whatever daemons leave behind.
pub fn init(role: &str, place: &Place) -> ExitCode {
    match inside(role, place) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("berth-demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn inside(role: &str, place: &Place) -> Result<u8, DemoError> {
    if std::env::var_os("BERTH_DEMO_ROLE").is_some() {
        return if role == "phases" {
            phases::run(place).map(|()| 0)
        } else {
            node::serve(place).map(|()| 0)
        };
    }
    if std::env::var_os("BERTH_DEMO_BOUND").is_some() {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
            .map_err(DemoError::io("tie this process to its parent"))?;
    }
    prepare_mounts(place)?;
    node::loopback_up(place)?;
    let mut command = init_command(role, place)?;
    let child = command
        .env("BERTH_DEMO_ROLE", role)
        .spawn()
        .map_err(DemoError::io("start the demo inside its namespaces"))?;
    let child = nix::unistd::Pid::from_raw(child.id().cast_signed());
    loop {
        match waitpid(None, Some(WaitPidFlag::empty())) {
            Ok(WaitStatus::Exited(pid, code)) if pid == child => return Ok(u8::try_from(code).unwrap_or(1)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                return Err(DemoError::Wrong(format!("the demo was ended by {signal}")));
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(DemoError::io("wait for children")(error)),
        }
    }
}

/// Private mounts, a /proc of the new PID namespace, and a tmpfs for all of the node's files:
/// none of them outlives the namespace.
fn prepare_mounts(place: &Place) -> Result<(), DemoError> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS).map_err(DemoError::io("make a mount namespace"))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(DemoError::io("make mounts private"))?;
    mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        none,
    )
    .map_err(DemoError::io("mount /proc"))?;
    let files = node::files(&place.dir);
    std::fs::create_dir_all(&files).map_err(DemoError::io(format!("create {}", files.display())))?;
    mount(
        Some("berth-demo"),
        &files,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .map_err(DemoError::io(format!("mount a tmpfs at {}", files.display())))
}
