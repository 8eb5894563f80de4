//! What the tests share: finding Berth's programs, making root file systems and private
//! namespaces, waiting for conditions, counting what a host holds.
//!
//! A test that lacks something it needs says so with [`skip!`]; `tests/run` counts these and
//! fails on one that it does not expect.

mod containerd;
mod lab;
mod node;
mod programs;
mod rootfs;
mod snapshot;
mod user;

pub use containerd::{Containerd, Release};
pub use lab::Lab;
pub use node::{Node, NodeOptions};
pub use programs::{bin, kubectl, kubectl_versions, minor_version, program, repository_root};
pub use rootfs::{Bundle, busybox_rootfs};
pub use snapshot::HostSnapshot;
pub use user::{SUBORDINATE_ID, USER_ID, User, chown_all};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fmt::Debug;
use std::io::Write as _;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Ends the test as skipped, with the reason on stderr and in the file named by `BERTH_SKIP_LOG`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::note_skip(&format!($($reason)*));
        return;
    }};
}

/// Skips the test unless it runs as root in the initial user namespace.
#[macro_export]
macro_rules! need_root {
    () => {
        if !$crate::is_root() {
            $crate::skip!("needs root");
        }
    };
}

/// Skips the test unless a program of the host is on `PATH`; gives its path.
#[macro_export]
macro_rules! need_program {
    ($name:expr) => {
        match $crate::program($name) {
            Some(path) => path,
            None => $crate::skip!("needs the program {}", $name),
        }
    };
}

/// Records a skipped test; called by [`skip!`].
pub fn note_skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("SKIP {}: {reason}\n", thread.name().unwrap_or("?"));
    eprint!("{line}");
    if let Ok(path) = std::env::var("BERTH_SKIP_LOG")
        && let Ok(mut file) = std::fs::OpenOptions::new().append(true).create(true).open(path)
    {
        file.write_all(line.as_bytes())
            .expect("the skip log takes a line");
    }
}

/// Whether the test process may do what root may.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What a finished command left: exit code, standard output, standard error.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output, lossily decoded.
    pub stdout: String,
    /// Standard error, lossily decoded.
    pub stderr: String,
}

impl Outcome {
    /// The exit code; 128 + signal when a signal ended the process, as a shell says it.
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt as _;
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// Asserts success and gives standard output.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.status.success(),
            "exit code {}\nstdout: {}\nstderr: {}",
            self.code(),
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Asserts failure and gives standard error.
    #[track_caller]
    pub fn err(self) -> String {
        assert!(
            !self.status.success(),
            "succeeded though it must not\nstdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self.stderr
    }
}

/// Runs a command to its end with no standard input and gives what it left.
///
/// Output goes through temporary files, not pipes: a daemon that a command leaves behind may
/// keep its descriptors without holding up the test.
#[track_caller]
pub fn run(command: &mut Command) -> Outcome {
    run_with_input(command, b"")
}

/// [`run`] with bytes on standard input.
#[track_caller]
pub fn run_with_input(command: &mut Command, input: &[u8]) -> Outcome {
    use std::io::{Read as _, Seek as _};
    let mut stdin = tempfile::tempfile().expect("temporary file");
    stdin.write_all(input).expect("write input");
    stdin.rewind().expect("rewind input");
    let mut out = tempfile::tempfile().expect("temporary file");
    let mut err = tempfile::tempfile().expect("temporary file");
    command
        .stdin(Stdio::from(stdin))
        .stdout(Stdio::from(out.try_clone().expect("clone")))
        .stderr(Stdio::from(err.try_clone().expect("clone")));
    let status = command
        .status()
        .unwrap_or_else(|e| panic!("start {command:?}: {e}"));
    let text = |file: &mut std::fs::File| {
        let mut bytes = Vec::new();
        file.rewind().expect("rewind");
        file.read_to_end(&mut bytes).expect("read output");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Outcome {
        status,
        stdout: text(&mut out),
        stderr: text(&mut err),
    }
}

/// How many times as long everything may take here: `BERTH_TEST_PATIENCE`, which emulated machines set.
fn patience() -> u32 {
    let text = std::env::var("BERTH_TEST_PATIENCE").ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Waits until `condition` gives a value, looking every few milliseconds; panics with `what`
/// and the last error text after `timeout` (times [`patience`]).
#[track_caller]
pub fn wait_for<T, E: Debug>(
    what: &str,
    timeout: Duration,
    mut condition: impl FnMut() -> Result<T, E>,
) -> T {
    let timeout = timeout * patience();
    let end = Instant::now() + timeout;
    loop {
        match condition() {
            Ok(value) => return value,
            Err(error) if Instant::now() >= end => panic!("waited {timeout:?} for {what}; last: {error:?}"),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Moves the calling test thread (and what it starts from now on) into its own network and
/// mount namespace, with `lo` up: what the test does to links, routes, rules or mounts reaches
/// neither the host nor another test, and ends with it.
pub fn isolate() {
    isolate_mounts();
    unshare(CloneFlags::CLONE_NEWNET).expect("unshare the network");
    run(Command::new("ip").args(["link", "set", "lo", "up"])).ok();
}

/// Moves the calling test thread (and what it starts from now on) into its own mount namespace.
pub fn isolate_mounts() {
    unshare(CloneFlags::CLONE_NEWNS).expect("unshare mounts");
    let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).expect("make the mounts private");
}
