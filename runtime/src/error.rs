//! The error of a verb, how it is rendered, and the exit code it gives.

use std::error::Error as StdError;
use std::io;
use std::path::PathBuf;

use berth_cgroups::{CgroupError, PathError};
use nix::errno::Errno;
use thiserror::Error;

use crate::bundle::BundleError;
use crate::commands::ps::PsError;
use crate::commands::update::UpdateError;
use crate::container::ContainerError;
use crate::criu::CriuError;
use crate::hooks::HookError;
use crate::host::HostError;
use crate::launch::LaunchError;
use crate::log::LogError;
use crate::notify::NotifyError;
use crate::plan::PlanError;
use crate::resctrl::ResctrlError;
use crate::seccomp::SeccompError;
use crate::state::StateError;
use crate::supervise::SuperviseError;
use crate::validate::Invalid;

/// Whatever ends a verb.
#[derive(Debug, Error)]
pub enum Error {
    /// The command line.
    #[error(transparent)]
    Arguments(#[from] ArgumentError),
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The configuration asks for what cannot be.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The configuration could not be planned.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The container process could not be started.
    #[error("unable to start container process")]
    Launch {
        /// The reason.
        #[from]
        source: LaunchError,
    },
    /// The seccomp profile could not be compiled.
    #[error(transparent)]
    Seccomp(#[from] SeccompError),
    /// The container's cgroup.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The container's cgroup path.
    #[error("linux.cgroupsPath")]
    CgroupPath {
        /// The reason.
        #[from]
        source: PathError,
    },
    /// Telling a service manager.
    #[error(transparent)]
    Notify(#[from] NotifyError),
    /// The container's resctrl group.
    #[error(transparent)]
    Resctrl(#[from] ResctrlError),
    /// The resources of an `update`.
    #[error(transparent)]
    Update(#[from] UpdateError),
    /// `ps` of the host.
    #[error(transparent)]
    Ps(#[from] PsError),
    /// The state root or a container's directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// An existing container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// A hook.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// Standing by a process in the foreground.
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    /// `spec`.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A document could not be serialised.
    #[error("write a JSON document")]
    Json {
        /// The reason.
        source: serde_json::Error,
    },
    /// Standard output.
    #[error("write to standard output")]
    Output {
        /// The reason.
        source: io::Error,
    },
    /// A verb whose errors carry its name, as runc's do.
    #[error("{} {verb} failed", crate::name::get())]
    Failed {
        /// Such as `create`.
        verb: &'static str,
        /// The reason.
        source: Box<Error>,
    },
    /// CRIU.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// `checkpoint` or `restore`, beside CRIU.
    #[error(transparent)]
    Images(#[from] ImageError),
    /// `exec` could not start its process: exit code 255 tells that from the process's own codes.
    #[error("exec failed")]
    Exec {
        /// The reason.
        source: Box<Error>,
    },
}

impl Error {
    /// The error with all of its causes, as one line.
    pub fn chain(&self) -> String {
        chain(self)
    }

    /// What the process exits with: 255 when `exec` could not start, or `run` not its program, else 1.
    pub fn exit_code(&self) -> i32 {
        if matches!(self, Self::Exec { .. }) || self.program().is_some() {
            255
        } else {
            1
        }
    }

    /// What the kernel said of the program of a `run`, where everything else went well: that is not the runtime's failure,
    /// and told as shells tell it.
    pub fn program(&self) -> Option<String> {
        let Self::Failed { verb: "run", source } = self else {
            return None;
        };
        match &**source {
            Self::Launch {
                source: LaunchError::Execute(text),
            } => Some(text.clone()),
            _ => None,
        }
    }
}

/// An error with all of its causes, separated by colons.
pub fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = own_text(error);
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {}", own_text(error));
        source = error.source();
    }
    text
}

/// Errors of the system are rendered as Go does ("no such file or directory"): engines match these texts.
fn own_text(error: &(dyn StdError + 'static)) -> String {
    let code = match (error.downcast_ref::<io::Error>(), error.downcast_ref::<Errno>()) {
        (Some(error), _) => error.raw_os_error(),
        (_, Some(errno)) => Some(*errno as i32),
        _ => None,
    };
    match code {
        Some(code) => Errno::from_raw(code).desc().to_lowercase(),
        None => error.to_string(),
    }
}

/// What is wrong with a command line.
#[derive(Debug, Error)]
pub enum ArgumentError {
    /// The number of arguments.
    #[error("{}: {verb:?} requires exactly {expected} argument(s)", crate::name::get())]
    Exactly {
        /// The verb.
        verb: &'static str,
        /// How many it takes.
        expected: usize,
    },
    /// Too few arguments.
    #[error(
        "{}: {verb:?} requires a minimum of {expected} argument(s)",
        crate::name::get()
    )]
    AtLeast {
        /// The verb.
        verb: &'static str,
        /// How many it takes.
        expected: usize,
    },
    /// Too many arguments.
    #[error(
        "{}: {verb:?} requires a maximum of {expected} argument(s)",
        crate::name::get()
    )]
    AtMost {
        /// The verb.
        verb: &'static str,
        /// How many it takes.
        expected: usize,
    },
    /// `--root /`.
    #[error("Option --root argument should not be set to /")]
    RootIsRoot,
    /// `list` of a state root that does not exist.
    #[error("open {}: no such file or directory: pass the --root that the containers were created with", path.display())]
    NoRoot {
        /// The directory.
        path: PathBuf,
    },
    /// `--rootless` has an unknown word.
    #[error("--rootless: invalid value {value:?}: use 'true', 'false' or 'auto'")]
    Rootless {
        /// The word.
        value: String,
    },
    /// The working directory is gone.
    #[error("getwd: change to an existing directory or pass absolute paths")]
    WorkingDirectory {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `list --format`.
    #[error("invalid format option")]
    ListFormat,
    /// `events --interval`.
    #[error("--interval: {text:?} is no duration: use numbers with units, such as 500ms, 5s or 1m30s")]
    Interval {
        /// The text given.
        text: String,
    },
    /// `events --interval` of no time.
    #[error("duration interval must be greater than 0")]
    NoInterval,
    /// A signal that does not exist.
    #[error("unknown signal {signal:?}")]
    Signal {
        /// The text given.
        signal: String,
    },
    /// A terminal without anyone to take it.
    #[error("cannot allocate tty if berth will detach without setting console socket")]
    TerminalNeedsConsole,
    /// A console socket that nothing will be sent to.
    #[error("cannot use console socket if berth will not detach or allocate tty")]
    ConsoleNeedsTerminal,
    /// `--preserve-fds` names a descriptor that is not open.
    #[error(
        "unable to stat preserved-fd {index} (of {count}): descriptor {fd} is not open: open it before starting berth"
    )]
    PreservedFd {
        /// Position among the preserved descriptors, from 0.
        index: u32,
        /// How many there should be.
        count: u32,
        /// The descriptor.
        fd: u32,
    },
    /// A system call that this build does not know, where the annotation for that refuses it.
    #[error(
        "linux.seccomp.syscalls: unknown system call {name:?}, and run.oci.seccomp_fail_unknown_syscall is set"
    )]
    UnknownCall {
        /// Its name.
        name: String,
    },
    /// `exec` without a command.
    #[error("exec args cannot be empty")]
    NoCommand,
    /// `exec --user`.
    #[error("bad {part}: {value:?} is not a number from 0 to 4294967295: use --user UID[:GID]")]
    User {
        /// uid or gid.
        part: &'static str,
        /// The text given.
        value: String,
    },
    /// `exec --additional-gids`.
    #[error("additional-gids must be a positive number {gid}")]
    AdditionalGid {
        /// The number given.
        gid: i64,
    },
    /// `exec --cap`.
    #[error("--cap: unknown capability {name:?}: use a name such as CAP_NET_ADMIN")]
    Capability {
        /// The name given.
        name: String,
    },
    /// `exec --cgroup`.
    #[error("invalid --cgroup argument: {argument} ({reason})")]
    Cgroup {
        /// The text given.
        argument: String,
        /// What is wrong with it.
        reason: String,
    },
    /// `exec --process` names an unreadable file.
    #[error("open {}", path.display())]
    ProcessFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `--console-socket` or `--pidfd-socket` cannot be connected to.
    #[error("{option}: dial unix {}: pass the path of a listening unix stream socket", path.display())]
    Socket {
        /// The option.
        option: &'static str,
        /// The socket.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `--pid-file` cannot be written.
    #[error("--pid-file: write {}", path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

/// What is wrong with the options of `checkpoint` and `restore`, or with the folders that they name.
#[derive(Debug, Error)]
pub enum ImageError {
    /// `--manage-cgroups-mode`.
    #[error("--manage-cgroups-mode: {word:?}: use soft, full, strict or ignore")]
    CgroupsMode {
        /// The word given.
        word: String,
    },
    /// `--empty-ns`.
    #[error("--empty-ns: namespace {kind:?} is not supported: use network")]
    EmptyNamespace {
        /// The word given.
        kind: String,
    },
    /// `--parent-path` must be found wherever the images are moved to.
    #[error("--parent-path must be relative")]
    AbsoluteParent,
    /// `--parent-path` is no folder.
    #[error("invalid --parent-path: {}", path.display())]
    Parent {
        /// The path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// `--page-server`.
    #[error("Use --page-server ADDRESS:PORT to specify page server")]
    PageServer,
    /// `--status-fd`.
    #[error("invalid --status-fd argument {fd}: not open for writing")]
    StatusFd {
        /// The number given.
        fd: i32,
    },
    /// A folder of images or for CRIU's work.
    #[error("{option}: {}", path.display())]
    Folder {
        /// The option.
        option: &'static str,
        /// The path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A namespace that is to stay outside.
    #[error("linux.namespaces: {}", path.display())]
    Namespace {
        /// Its path.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// A container that nothing runs in.
    #[error("Container cannot be checkpointed in {status} state")]
    NotRunning {
        /// Its status.
        status: crate::state::Status,
    },
}

/// Why `spec` could not write its document.
#[derive(Debug, Error)]
pub enum SpecError {
    /// There is a configuration already. The text is runc's.
    #[error("File {name} exists. Remove it first")]
    Exists {
        /// The file's name.
        name: &'static str,
    },
    /// The bundle's directory cannot be used.
    #[error("chdir {}", path.display())]
    Bundle {
        /// The directory.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// Writing failed.
    #[error("write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_rendered_once_and_as_go_does() {
        let source = io::Error::from_raw_os_error(libc::ENOENT);
        let error = SpecError::Bundle {
            path: "/b".into(),
            source,
        };
        let error = Error::Failed {
            verb: "create",
            source: Box::new(error.into()),
        };
        assert_eq!(
            error.chain(),
            "berth create failed: chdir /b: no such file or directory"
        );
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn exec_exits_with_255() {
        let error = Error::Exec {
            source: Box::new(ArgumentError::NoCommand.into()),
        };
        assert_eq!(error.chain(), "exec failed: exec args cannot be empty");
        assert_eq!(error.exit_code(), 255);
    }
}
