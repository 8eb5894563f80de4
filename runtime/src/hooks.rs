//! Hooks that run in the runtime's namespaces: prestart, createRuntime, poststart, poststop
//! (runtime-spec config.md "POSIX-platform Hooks"). createContainer and startContainer run inside, see `init`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use berth_spec::Hook;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Serialize;
use thiserror::Error;

use crate::annotations;
use crate::state::Status;

/// How much of a hook's output goes into an error message.
const OUTPUT_SHOWN: usize = 4096;

/// The state document that hooks read on standard input (runtime-spec runtime.md "State").
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HookState<'a> {
    /// The version of the specification that this document complies with.
    pub oci_version: &'a str,
    /// The container's id.
    pub id: &'a str,
    /// The container's status at this moment.
    pub status: Status,
    /// The init's process id in the runtime's pid namespace; 0 is left out.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    /// The bundle's directory.
    pub bundle: &'a Path,
    /// The configuration's annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: &'a BTreeMap<String, String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

/// A hook that failed. The text is runc's.
#[derive(Debug, Error)]
#[error("error running {name} hook #{index}")]
pub struct HookError {
    /// The list's name in the configuration, such as `poststop`.
    pub name: &'static str,
    /// Position in the list, from 0.
    pub index: usize,
    /// What went wrong.
    #[source]
    pub source: HookFailure,
}

/// What can go wrong with one hook.
#[derive(Debug, Error)]
pub enum HookFailure {
    /// It could not be started.
    #[error("fork/exec {}", path.display())]
    Start {
        /// The program.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// It ended with anything but 0.
    #[error("{}, stdout: {stdout}, stderr: {stderr}", ended(*status))]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        stdout: String,
        /// What it complained about.
        stderr: String,
    },
    /// It outlived its timeout and was killed.
    #[error("hook ran past specified timeout of {:.1}s", timeout.as_secs_f64())]
    Timeout {
        /// The timeout of the configuration.
        timeout: Duration,
    },
    /// The system refused what running a hook needs.
    #[error("{attempted}")]
    System {
        /// What was attempted.
        attempted: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

fn ended(status: ExitStatus) -> String {
    match (status.code(), status.signal().map(Signal::try_from)) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(Ok(signal))) => format!("signal: {signal}"),
        (None, _) => status.to_string(),
    }
}

/// Runs a list of hooks in order and stops at the first failure.
pub fn run(name: &'static str, hooks: &[Hook], state: &HookState<'_>) -> Result<(), HookError> {
    hooks.iter().enumerate().try_for_each(|(index, hook)| {
        run_one(hook, state).map_err(|source| HookError { name, index, source })
    })
}

/// Runs all hooks of a list whatever their fate, and returns the failures: poststop hooks must not keep each other
/// from cleaning up (runtime-spec runtime.md, lifecycle step 13).
pub fn run_all(name: &'static str, hooks: &[Hook], state: &HookState<'_>) -> Vec<HookError> {
    let run = |(index, hook)| {
        run_one(hook, state)
            .err()
            .map(|source| HookError { name, index, source })
    };
    hooks.iter().enumerate().filter_map(run).collect()
}

fn run_one(hook: &Hook, state: &HookState<'_>) -> Result<(), HookFailure> {
    let system = |attempted| move |source| HookFailure::System { attempted, source };
    let document = serde_json::to_vec(state)
        .map_err(io::Error::from)
        .map_err(system("write the state document"))?;
    // Files in memory instead of pipes: neither side can block the other, and a hook that leaves a daemon behind
    // does not hold up the container.
    let mut stdin = scratch().map_err(system("create a file in memory"))?;
    stdin
        .write_all(&document)
        .and_then(|()| stdin.rewind())
        .map_err(system("write the state document"))?;
    let mut stdout = scratch().map_err(system("create a file in memory"))?;
    let mut stderr = scratch().map_err(system("create a file in memory"))?;

    let mut command = Command::new(hook.path());
    let mut args = hook.args().iter().flatten();
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    command.args(args);
    if let Some(env) = hook.env().as_deref().filter(|env| !env.is_empty()) {
        command.env_clear().envs(
            env.iter()
                .map(|entry| entry.split_once('=').unwrap_or((entry, ""))),
        );
    }
    let clone = |file: &File| {
        file.try_clone()
            .map(Stdio::from)
            .map_err(system("duplicate a descriptor"))
    };
    let output = |name: &'static str, own: &File| match annotations::hook_output(state.annotations, name) {
        Some(path) => append(path)
            .map(Stdio::from)
            .map_err(system("open the file of the annotation for hooks' output")),
        None => clone(own),
    };
    command
        .stdin(stdin)
        .stdout(output(annotations::HOOKS_STDOUT, &stdout)?)
        .stderr(output(annotations::HOOKS_STDERR, &stderr)?)
        .process_group(0);
    berth_sys::command::unblock_signals(&mut command).map_err(system("read the signal mask"))?;

    let mut child = command.spawn().map_err(|source| HookFailure::Start {
        path: hook.path().clone(),
        source,
    })?;
    let timeout = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    let status = wait(&mut child, timeout)?;
    if status.success() {
        return Ok(());
    }
    Err(HookFailure::Ended {
        status,
        stdout: shown(&mut stdout),
        stderr: shown(&mut stderr),
    })
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
}

fn scratch() -> io::Result<File> {
    Ok(File::from(memfd_create("hook", MFdFlags::MFD_CLOEXEC)?))
}

fn shown(file: &mut File) -> String {
    let mut text = Vec::new();
    // Output that cannot be read back is not worth a second error.
    if file.rewind().is_ok() {
        let _ = file.take(OUTPUT_SHOWN as u64).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// Waits for the hook; past its timeout it is killed with its process group.
fn wait(child: &mut Child, timeout: Option<Duration>) -> Result<ExitStatus, HookFailure> {
    let system = |attempted| move |source| HookFailure::System { attempted, source };
    if let Some(timeout) = timeout {
        let pid = child.id() as i32;
        let pidfd = berth_sys::pidfd::open(pid).map_err(system("open the hook's process"))?;
        if !exits_within(&pidfd, timeout).map_err(system("wait for the hook"))? {
            // The group, so that what a shell script waits for dies with it.
            let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            let _ = child.kill();
            child.wait().map_err(system("wait for the hook"))?;
            return Err(HookFailure::Timeout { timeout });
        }
    }
    child.wait().map_err(system("wait for the hook"))
}

fn exits_within(pidfd: &OwnedFd, timeout: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], wait) {
            Ok(0) | Err(nix::errno::Errno::EINTR) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Hook {
        Hook {
            path: "/bin/sh".into(),
            args: Some(vec!["hook-name".to_owned(), "-c".to_owned(), script.to_owned()]),
            env: Some(vec!["PATH=/usr/bin:/bin".to_owned(), "GREETING=hello".to_owned()]),
            timeout: None,
        }
    }

    fn run_list(hooks: &[Hook]) -> Result<(), HookError> {
        let annotations = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
        let state = HookState {
            oci_version: "1.2.0",
            id: "c1",
            status: Status::Creating,
            pid: 7,
            bundle: Path::new("/tmp"),
            annotations: &annotations,
        };
        run("createRuntime", hooks, &state)
    }

    fn chain(error: &dyn std::error::Error) -> String {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        text
    }

    #[test]
    fn a_hook_gets_state_arguments_and_only_its_environment() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!(
            "{{ cat; echo; echo $0 $GREETING; env | wc -l; }} > {}",
            out.display()
        );
        run_list(&[shell(&script)]).unwrap();
        let text = std::fs::read_to_string(out).unwrap();
        let mut lines = text.lines();
        assert_eq!(
            lines.next().unwrap(),
            r#"{"ociVersion":"1.2.0","id":"c1","status":"creating","pid":7,"bundle":"/tmp","annotations":{"k":"v"}}"#
        );
        assert_eq!(lines.next().unwrap(), "hook-name hello");
        // The two given, and PWD which the shell itself adds.
        assert!(lines.next().unwrap().parse::<u32>().unwrap() <= 3);
    }

    #[test]
    fn the_first_failure_ends_the_list_and_shows_the_output() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let list = [
            shell("true"),
            shell("echo why >&2; exit 3"),
            shell(&format!("touch {}", out.display())),
        ];
        let text = chain(&run_list(&list).unwrap_err());
        assert_eq!(
            text,
            "error running createRuntime hook #1: exit status 3, stdout: , stderr: why"
        );
        assert!(!out.exists());
    }

    #[test]
    fn a_timeout_kills_the_hook_and_its_children() {
        let mut hook = shell("sleep 1000 & wait");
        hook.timeout = Some(1);
        let started = Instant::now();
        let text = chain(&run_list(&[hook]).unwrap_err());
        assert_eq!(
            text,
            "error running createRuntime hook #0: hook ran past specified timeout of 1.0s"
        );
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_missing_program_is_named() {
        let hook = Hook {
            path: "/no/such".into(),
            ..Hook::default()
        };
        let text = chain(&run_list(&[hook]).unwrap_err());
        assert!(
            text.starts_with("error running createRuntime hook #0: fork/exec /no/such: No such file"),
            "{text}"
        );
    }
}
