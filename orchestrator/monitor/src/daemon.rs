//! The two stages of the start: the first prepares and returns to `berthd`, the second serves.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_client::Runtime;
use berth_client::protocol::{LOCK, SOCKET};
use nix::fcntl::{Flock, FlockArg, OFlag};

use crate::monitor::Monitor;
use crate::{Args, UsageError};

/// Given by stage 1 to stage 2.
pub const SERVE_FLAG: &str = "--serve";

/// Why the monitor did not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// Another monitor serves this pod.
    #[error("{} is locked: another monitor serves this pod", path.display())]
    Taken {
        /// The lock file.
        path: PathBuf,
    },
    /// A file of the pod's folder.
    #[error("{what} {}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// A system call without a file.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: nix::Error,
    },
}

/// Turns an I/O error into [`Error::File`].
fn file_error(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

/// Turns a nix error into [`Error::System`].
fn system_error(what: &'static str) -> impl FnOnce(nix::Error) -> Error {
    move |source| Error::System { what, source }
}

/// Stage 1: takes the pod's lock, binds the socket and starts stage 2 with both.
///
/// # Errors
/// Any [`Error`]; nothing is left behind then but the lock file.
pub fn launch(args: &Args) -> Result<(), Error> {
    let path = args.dir.join(LOCK);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(file_error("open the lock", &path))?;
    let lock = Flock::lock(lock, FlockArg::LockExclusiveNonblock).map_err(|_| Error::Taken { path })?;
    let listener = bind(&args.dir)?;
    let path = args.dir.join("monitor.log");
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&path)
        .map_err(file_error("open the log", &path))?;
    // By its own path, not by /proc/self/exe: ps and top show the name of the file that was executed.
    let program = std::env::current_exe().map_err(file_error("find", Path::new("/proc/self/exe")))?;
    let mut stage2 = Command::new(&program);
    stage2
        .arg(SERVE_FLAG)
        .arg("--dir")
        .arg(&args.dir)
        .arg("--runtime")
        .arg(&args.runtime);
    if let Some(root) = &args.runtime_root {
        stage2.arg("--runtime-root").arg(root);
    }
    let path = args.dir.join(LOCK);
    let held = lock.try_clone().map_err(file_error("share the lock", &path))?;
    stage2
        .env_clear()
        .env(
            "PATH",
            std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()),
        )
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stdout(Stdio::from(held))
        .stderr(Stdio::from(log));
    let child = stage2
        .spawn()
        .map_err(file_error("start the second stage of", &program))?;
    let mut lock_file: &File = &lock;
    let written = lock_file
        .set_len(0)
        .and_then(|()| lock_file.seek(std::io::SeekFrom::Start(0)))
        .and_then(|_| writeln!(lock_file, "{}", child.id()));
    written.map_err(file_error("write the pid into", &path))?;
    // The lock belongs to the open file description, which stage 2 holds: leaving without the unlock of
    // Flock's drop is the point.
    std::mem::forget(lock);
    Ok(())
}

/// Binds the socket through the folder's descriptor: a path of a socket is limited to 107 bytes.
fn bind(dir: &Path) -> Result<UnixListener, Error> {
    let handle = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_PATH | OFlag::O_DIRECTORY).bits())
        .open(dir)
        .map_err(file_error("open the pod's folder", dir))?;
    let path = dir.join(SOCKET);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(file_error("replace the socket", &path)(e));
        }
        _ => {}
    }
    UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", handle.as_raw_fd()))
        .map_err(file_error("bind the socket", &path))
}

/// Stage 2: becomes a daemon and serves until [`berth_client::protocol::Call::Shutdown`].
///
/// # Errors
/// Any [`Error`].
pub fn serve(args: &Args) -> Result<(), Error> {
    nix::unistd::setsid().map_err(system_error("make a session of its own"))?;
    nix::sys::prctl::set_child_subreaper(true).map_err(system_error("become the children's reaper"))?;
    let listener = std::io::stdin().as_fd().try_clone_to_owned();
    let listener = UnixListener::from(listener.map_err(file_error("take over the socket", &args.dir))?);
    let lock = std::io::stdout().as_fd().try_clone_to_owned();
    let lock = lock.map_err(file_error("take over the lock", &args.dir))?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null.map_err(file_error("open", Path::new("/dev/null")))?;
    nix::unistd::dup2_stdin(&null).map_err(system_error("detach stdin"))?;
    nix::unistd::dup2_stdout(&null).map_err(system_error("detach stdout"))?;
    drop(null);
    let mut runtime = Runtime::new(&args.runtime).with_log_dir(&args.dir);
    if let Some(root) = &args.runtime_root {
        runtime = runtime.with_root(root);
    }
    let monitor = Monitor::new(args.dir.clone(), runtime, listener);
    let served = monitor
        .map_err(system_error("prepare signals and the socket"))
        .and_then(|monitor| monitor.run().map_err(system_error("wait for events")));
    if served.is_ok() {
        let _ = std::fs::remove_file(args.dir.join(SOCKET));
    }
    drop(lock);
    served
}
