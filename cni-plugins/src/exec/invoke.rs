//! One plugin's process: environment, stdin, stdout, exit code.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command as Process, Stdio},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

use crate::protocol::{Command, Failure, code};

/// The CNI_ variables of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Environment<'a> {
    pub command: Command,
    pub container: &'a str,
    pub netns: Option<&'a Path>,
    pub ifname: &'a str,
    pub args: &'a str,
    pub path: &'a [PathBuf],
}

/// Why a plugin gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    /// It said so.
    #[error("{msg}")]
    Refused { code: u32, msg: String, details: String },
    /// It could not be started or talked to.
    #[error("{what}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
}

impl PluginError {
    /// As a delegating plugin passes it on.
    pub fn into_failure(self, plugin: &str) -> Failure {
        match self {
            Self::Refused { code, msg, details } => Failure {
                code,
                msg: format!("{plugin}: {msg}"),
                details,
            },
            Self::Io { what, source } => Failure::new(code::IO, format!("{plugin}: {what}: {source}")),
        }
    }
}

/// Runs a plugin and gives its stdout.
pub(crate) fn run(
    program: &Path,
    environment: &Environment<'_>,
    stdin: &[u8],
    timeout: Option<Duration>,
) -> Result<Vec<u8>, PluginError> {
    let failed = |what: &str| {
        let what = format!("{what} {}", program.display());
        move |source| PluginError::Io { what, source }
    };
    let mut child = spawn(program, environment).map_err(failed("start"))?;
    let talk = converse(&mut child, stdin, timeout.map(|t| Instant::now() + t));
    if talk.is_err() {
        // It is ours and not reaped yet, so the process ID is still its own.
        let _ = child.kill();
    }
    let status = child.wait().map_err(failed("wait for"))?;
    let (out, err) = talk.map_err(failed("talk to"))?;
    if status.success() {
        return Ok(out);
    }
    Err(refusal(&out, &err, &status.to_string()))
}

fn spawn(program: &Path, environment: &Environment<'_>) -> io::Result<Child> {
    let path = std::env::join_paths(environment.path).unwrap_or_else(|_| OsString::new());
    let mut process = Process::new(program);
    process
        .env("CNI_COMMAND", environment.command.as_str())
        .env("CNI_CONTAINERID", environment.container)
        .env("CNI_NETNS", environment.netns.unwrap_or(Path::new("")))
        .env("CNI_IFNAME", environment.ifname)
        .env("CNI_ARGS", environment.args)
        .env("CNI_PATH", path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // "Text file busy": another thread of a program that is just installing plugins forked meanwhile.
    let mut attempts = 0;
    loop {
        match process.spawn() {
            Err(e) if e.kind() == io::ErrorKind::ExecutableFileBusy && attempts < 50 => {
                attempts += 1;
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
}

/// Writes stdin and reads stdout and stderr at once, so that no full pipe stops either side.
fn converse(child: &mut Child, stdin: &[u8], deadline: Option<Instant>) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut input = child.stdin.take();
    let (mut output, mut errors) = (child.stdout.take(), child.stderr.take());
    for fd in [
        input.as_ref().map(|i| i.as_fd()),
        output.as_ref().map(|o| o.as_fd()),
        errors.as_ref().map(|e| e.as_fd()),
    ]
    .into_iter()
    .flatten()
    {
        nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut left = stdin;
    while output.is_some() || errors.is_some() {
        let timeout = match deadline.map(|d| d.saturating_duration_since(Instant::now())) {
            None => PollTimeout::NONE,
            Some(Duration::ZERO) => {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "no answer in time; the plugin was killed",
                ));
            }
            Some(left) => PollTimeout::try_from(left.as_millis().max(1)).unwrap_or(PollTimeout::MAX),
        };
        let mut fds = Vec::with_capacity(3);
        fds.extend(input.as_ref().map(|i| PollFd::new(i.as_fd(), PollFlags::POLLOUT)));
        fds.extend(output.as_ref().map(|o| PollFd::new(o.as_fd(), PollFlags::POLLIN)));
        fds.extend(errors.as_ref().map(|e| PollFd::new(e.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        if let Some(pipe) = input.as_mut() {
            match pipe.write(left) {
                Ok(n) => left = left.get(n..).unwrap_or_default(),
                // A plugin need not read its stdin.
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => left = &[],
                Err(e) if pending(&e) => {}
                Err(e) => return Err(e),
            }
            if left.is_empty() {
                input = None;
            }
        }
        if drain(output.as_mut(), &mut out)? {
            output = None;
        }
        if drain(errors.as_mut(), &mut err)? {
            errors = None;
        }
    }
    Ok((out, err))
}

/// Reads what is there; `true` at the end of the stream.
fn drain(pipe: Option<&mut impl io::Read>, into: &mut Vec<u8>) -> io::Result<bool> {
    let Some(pipe) = pipe else { return Ok(false) };
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(n) => into.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e) if pending(&e) => return Ok(false),
            Err(e) => return Err(e),
        }
    }
}

fn pending(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// The error object on stdout, or what else the plugin left behind.
fn refusal(out: &[u8], err: &[u8], status: &str) -> PluginError {
    if let Ok(Value::Object(object)) = serde_json::from_slice(out) {
        let text = |field: &str| {
            object
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let code = object.get("code").and_then(Value::as_u64).unwrap_or(0);
        let msg = text("msg");
        if !msg.is_empty() || code != 0 {
            return PluginError::Refused {
                code: u32::try_from(code).unwrap_or(0),
                msg,
                details: text("details"),
            };
        }
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().replace('\n', "; ");
    let said = [text(out), text(err)]
        .into_iter()
        .filter(|t| !t.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    let msg = if said.is_empty() {
        format!("{status} without a message")
    } else {
        said
    };
    PluginError::Refused {
        code: 0,
        msg,
        details: String::new(),
    }
}
