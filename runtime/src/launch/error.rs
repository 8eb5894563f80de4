//! Why a container could not be launched, in the words of runc where engines look for them.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use berth_cgroups::CgroupError;
use thiserror::Error;

use crate::criu::CriuError;
use crate::wire::{InitStep, Report, reason};

/// Why a container could not be launched.
#[derive(Debug, Error)]
pub enum LaunchError {
    /// The user's program cannot be run. The texts are those of Go's os/exec, which engines match.
    #[error("{0}")]
    Program(String),
    /// The user's program was found, and the kernel does not run it.
    #[error("{0}")]
    Execute(String),
    /// A step inside the container failed.
    #[error("error during container init: {0}")]
    Init(String),
    /// A hook inside the container failed.
    #[error("error during container init: error running {kind} hook #{number}: {reason}")]
    Hook {
        /// createContainer or startContainer.
        kind: String,
        /// Index in its list.
        number: u32,
        /// How.
        reason: String,
    },
    /// A hook of the runtime namespace failed.
    #[error("error running hooks before the container's root is entered")]
    RuntimeHook(#[source] Box<dyn Error + Send + Sync>),
    /// What the caller did beside the first process failed.
    #[error(transparent)]
    Beside(Box<dyn Error + Send + Sync>),
    /// CRIU did not restore the container.
    #[error(transparent)]
    Criu(#[from] CriuError),
    /// The restored process has a terminal, and nobody takes its other end.
    #[error("the container was checkpointed with a terminal: pass --console-socket, or do not detach")]
    NoConsole,
    /// A namespace could not be joined.
    #[error("linux.namespaces: cannot join {what}")]
    Join {
        /// Which.
        what: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The first process could not be made.
    #[error("cannot make the container's first process: {what}")]
    Spawn {
        /// Which part.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The source of a mount could not be opened.
    #[error("error mounting {:?}: cannot open it", path.display().to_string())]
    Source {
        /// The path on the host.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The ids of a mount could not be mapped.
    #[error(
        "error mounting {:?}: its ids cannot be mapped: the file system there has no id-mapped mounts on this kernel \
         (tmpfs since Linux 6.3, overlayfs since 6.10): use another file system, or leave the mappings out",
        path.display().to_string()
    )]
    IdMap {
        /// The path on the host.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The process could not be put into its cgroups.
    #[error("cannot put the container's first process into its cgroups")]
    Cgroup(#[source] CgroupError),
    /// A file of procfs about the first process could not be written.
    #[error("cannot write {value:?} to {file}: {advice}")]
    Proc {
        /// The file.
        file: String,
        /// What was to be written.
        value: String,
        /// What to check.
        advice: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A limit could not be set.
    #[error("process.rlimits: cannot set limit {resource} to {soft}:{hard}")]
    Limit {
        /// RLIMIT_* number.
        resource: u32,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The program newuidmap or newgidmap failed.
    #[error("{program} failed: {reason}: check the user's line in /etc/subuid and /etc/subgid")]
    MapTool {
        /// Which.
        program: &'static str,
        /// Its message.
        reason: String,
    },
    /// A network device could not be moved.
    #[error("linux.netDevices.{name}: cannot {action}")]
    NetDevice {
        /// Its name on the host.
        name: String,
        /// What was attempted.
        action: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// `exec` cannot run where it should.
    #[error("process.execCPUAffinity.initial: these processors cannot be used: name some that are online")]
    Affinity {
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The seccomp agent could not be reached.
    #[error(
        "linux.seccomp.listenerPath: failed to connect with seccomp agent: cannot hand the listener to {}",
        path.display()
    )]
    Listener {
        /// Its socket.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The container's first process ended without a word.
    #[error("the container's first process ended before it was ready")]
    Ended(#[source] io::Error),
    /// The socket that `start` connects to.
    #[error("cannot {action} the start socket in {}", folder.display())]
    Gate {
        /// What was attempted.
        action: &'static str,
        /// The container's state directory.
        folder: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Something that does not depend on the configuration failed.
    #[error("cannot {what}")]
    System {
        /// What.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The two sides do not understand each other: a bug.
    #[error("the container's first process sent a message that is none: please report this")]
    Protocol,
}

/// What a failure report says of a step.
pub(super) struct Failed<'a> {
    pub(super) errno: i32,
    pub(super) reason: u32,
    /// Index of a hook in its list.
    pub(super) number: u32,
    pub(super) detail: &'a [u8],
}

impl<'a> Failed<'a> {
    pub(super) fn of(report: &Report<'a>) -> Option<(u32, u32, Self)> {
        match *report {
            Report::Failed {
                step,
                tag,
                errno,
                reason,
                number,
                detail,
            } => Some((
                step,
                tag,
                Self {
                    errno,
                    reason,
                    number,
                    detail,
                },
            )),
            _ => None,
        }
    }

    fn detail(&self) -> String {
        String::from_utf8_lossy(self.detail).into_owned()
    }

    /// strerror(3) in lower case, as Go prints it.
    fn errno(&self) -> String {
        let text = io::Error::from_raw_os_error(self.errno).to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        let mut characters = text.chars();
        match characters.next() {
            Some(first) => first.to_lowercase().chain(characters).collect(),
            None => format!("error {}", self.errno),
        }
    }

    /// The message for a step of a plan.
    pub(super) fn explain(&self, step: Option<&InitStep>) -> LaunchError {
        if self.reason == reason::PLAN {
            return LaunchError::Protocol;
        }
        let errno = self.errno();
        match step {
            Some(InitStep::Program { .. }) => LaunchError::Program(self.program()),
            Some(InitStep::Hook {
                kind, path, number, ..
            }) => LaunchError::Hook {
                kind: kind.to_string_lossy().into_owned(),
                number: *number,
                reason: self.hook(&path.to_string_lossy()),
            },
            Some(InitStep::Execute { .. }) => {
                LaunchError::Execute(format!("exec {}: {errno}", self.detail()))
            }
            Some(step) => LaunchError::Init(self.describe(step, &errno)),
            None => LaunchError::Init(errno),
        }
    }

    /// The message for the steps behind the gate, when nobody has the plan any more.
    pub(super) fn explain_late(&self, tag: u32) -> LaunchError {
        let detail = self.detail();
        match tag {
            39 => LaunchError::Hook {
                kind: "startContainer".to_owned(),
                number: self.number,
                reason: self.hook(&detail),
            },
            41 => LaunchError::Execute(format!("exec {detail}: {}", self.errno())),
            _ => LaunchError::Init(format!("{}: {}", detail, self.errno())),
        }
    }

    fn program(&self) -> String {
        let name = self.detail();
        match self.reason {
            reason::NOT_IN_PATH if self.errno == 13 => format!("exec: {name:?}: permission denied"),
            reason::NOT_IN_PATH => format!("exec: {name:?}: executable file not found in $PATH"),
            reason::STAT => format!("exec: {name:?}: stat {name}: {}", self.errno()),
            reason::IS_FOLDER => format!("exec: {name:?}: is a directory"),
            _ => format!("exec: {name:?}: {}", self.errno()),
        }
    }

    fn hook(&self, path: &str) -> String {
        match self.reason {
            reason::STATUS => {
                format!(
                    "exit status {}, stdout: , stderr: {}",
                    self.errno,
                    self.detail().trim_end()
                )
            }
            reason::SIGNAL => format!(
                "{path}: killed by signal {}{}",
                self.errno,
                signal_name(self.errno)
            ),
            reason::TIMEOUT => format!("{path}: took longer than its timeout"),
            _ => format!("{path}: {}", self.errno()),
        }
    }

    fn describe(&self, step: &InitStep, errno: &str) -> String {
        let detail = self.detail();
        let in_proc = |target: &str| {
            format!("{target:?} cannot be mounted because it is inside /proc: mount it elsewhere")
        };
        let unsafe_place =
            || format!("{detail}: is not what it should be: the image has put something else there");
        match step {
            InitStep::FsMount {
                fstype,
                target,
                source,
                number,
                ..
            } => {
                let (fstype, target) = (fstype.to_string_lossy(), target.to_string_lossy());
                let source = source.to_string_lossy();
                let why = match self.reason {
                    reason::UNSAFE => {
                        format!("filesystem {fstype:?} must be mounted on ordinary directory: {target}: {errno}")
                    }
                    reason::TARGET => format!("create mountpoint {target}: {errno}"),
                    reason::IN_PROC => in_proc(&target),
                    reason::OPTION => format!("mount {fstype}:{target}: {detail}: {errno}"),
                    _ if detail.is_empty() => format!("mount {fstype}:{target}: {errno}"),
                    _ => format!("mount {fstype}:{target}, data: {detail}: {errno}"),
                };
                format!("error mounting {source:?} to rootfs at {target:?} (mounts[{number}]): {why}")
            }
            InitStep::Bind {
                source,
                target,
                number,
                ..
            } => {
                let (source, target) = (source.to_string_lossy(), target.to_string_lossy());
                let why = match self.reason {
                    reason::SOURCE => format!("stat {source}: {errno}"),
                    reason::TARGET => format!("create mountpoint {target}: {errno}"),
                    reason::IN_PROC => in_proc(&target),
                    reason::LOCKED => format!(
                        "failed to set user-requested vfs flags on bind-mount: the source's mount has attributes, or an \
                         access time, that a container with a user namespace may not take away: leave the contrary \
                         option out, or mount the source without them: {errno}"
                    ),
                    _ => errno.to_owned(),
                };
                format!("error mounting {source:?} to rootfs at {target:?} (mounts[{number}]): {why}")
            }
            InitStep::Attributes { target, .. } => {
                format!("error changing mount {:?}: {errno}", target.to_string_lossy())
            }
            InitStep::Root { path, .. } => {
                format!("error preparing rootfs {:?}: {errno}", path.to_string_lossy())
            }
            InitStep::Folder { path, .. } => format!("mkdir {}: {errno}", path.to_string_lossy()),
            InitStep::Link { path, .. } => format!("error creating symlink {}: {errno}", path.to_string_lossy()),
            InitStep::Device { path, .. } if self.reason == reason::UNSAFE => format!(
                "error creating device nodes: {}: exists and is another kind of file or device",
                path.to_string_lossy()
            ),
            InitStep::Device { path, .. } => {
                format!("error creating device nodes: mknod {}: {errno}", path.to_string_lossy())
            }
            InitStep::Sysctl { path, value } => format!(
                "error setting sysctl: write {:?} to /proc/{}: {errno}",
                String::from_utf8_lossy(value),
                path.to_string_lossy()
            ),
            InitStep::Label { path, value } => label(&path.to_string_lossy(), value, errno),
            InitStep::ReadOnly { path } => {
                format!("can't make {:?} read-only: {errno}", path.to_string_lossy())
            }
            InitStep::Mask { .. } | InitStep::Console { .. } if self.reason == reason::UNSAFE => unsafe_place(),
            InitStep::Mask { path, .. } => format!("can't mask path {:?}: {errno}", path.to_string_lossy()),
            InitStep::Console { .. } if detail.is_empty() => format!("unable to set up the console: {errno}"),
            InitStep::Console { .. } => format!("unable to set up the console: {detail}: {errno}"),
            InitStep::WorkingDirectory { path, .. } => format!(
                "chdir to cwd ({:?}) set in config.json failed: {errno}",
                path.to_string_lossy()
            ),
            InitStep::Seal {} if self.reason == reason::OUTSIDE => {
                "current working directory is outside of container mount namespace root -- possible container breakout detected".to_owned()
            }
            InitStep::Limit { resource, .. } => format!("error setting rlimit type {resource}: {errno}"),
            InitStep::User { uid, gid, .. } => {
                format!("unable to become user {uid}:{gid}: {detail}: {errno}: is the id mapped in linux.uidMappings and linux.gidMappings?")
            }
            InitStep::Capabilities { .. } | InitStep::Bounding { .. } => {
                format!("unable to apply capabilities: {errno}")
            }
            InitStep::Seccomp { .. } => format!("unable to init seccomp: error loading seccomp filter: {errno}"),
            InitStep::Keyring { .. } => format!("unable to join session keyring: {errno}: pass --no-new-keyring"),
            InitStep::PivotRoot {} => format!("error jailing process inside rootfs: pivot_root .: {errno}"),
            InitStep::Hostname { .. } => format!("sethostname: {errno}: is there a uts namespace?"),
            InitStep::Domainname { .. } => format!("setdomainname: {errno}: is there a uts namespace?"),
            InitStep::Affinity { .. } => format!(
                "process.execCPUAffinity.final: {errno}: name processors that are online and in the container's cpuset"
            ),
            InitStep::Scheduler { attributes } => scheduler(attributes, self.errno, errno),
            InitStep::IoPriority { .. } => format!("process.ioPriority: {errno}"),
            InitStep::MemoryPolicy { .. } => format!("linux.memoryPolicy: {errno}: are the nodes there and allowed?"),
            InitStep::Personality { .. } => format!("linux.personality: {errno}"),
            step => {
                let text = step.to_string();
                let name = text.split(' ').next().unwrap_or_default();
                let separator = if detail.is_empty() { "" } else { ": " };
                format!("{name}{separator}{detail}: {errno}")
            }
        }
    }
}

/// What a signal that ends a hook says of it, as Go prints it.
fn signal_name(signal: i32) -> &'static str {
    match signal {
        libc::SIGABRT => ": aborted",
        libc::SIGKILL => ": killed",
        libc::SIGSEGV => ": segmentation fault",
        libc::SIGTERM => ": terminated",
        libc::SIGSYS => ": bad system call: linux.seccomp forbids one that it makes",
        _ => "",
    }
}

/// A label that the kernel does not take: a profile that is not loaded, a label that no policy knows.
fn label(path: &str, value: &[u8], errno: &str) -> String {
    let value = String::from_utf8_lossy(value);
    if path.contains("apparmor") {
        let profile = value.strip_prefix("exec ").unwrap_or(&value);
        return format!(
            "unable to apply apparmor profile process.apparmorProfile {profile:?}: write /proc/{path}: {errno}: load it with \
             apparmor_parser first"
        );
    }
    format!("unable to apply process.selinuxLabel {value:?}: write /proc/{path}: {errno}")
}

/// What sched_setattr(2) refuses, with what it may be: the errors say little by themselves.
fn scheduler(attributes: &[u8], number: i32, errno: &str) -> String {
    const DEADLINE: u8 = 6;
    const UTIL_CLAMP: u8 = 0x60;
    let deadline = attributes.get(4) == Some(&DEADLINE);
    let clamped = attributes.get(8).is_some_and(|flags| flags & UTIL_CLAMP != 0);
    let why = match number {
        libc::EOPNOTSUPP if clamped => {
            ".flags: SCHED_FLAG_UTIL_CLAMP_MIN and _MAX need a kernel with CONFIG_UCLAMP_TASK"
        }
        libc::EBUSY if deadline => {
            ".runtime: SCHED_DEADLINE: there is not so much processor time left: ask for less of each period"
        }
        libc::EPERM if deadline => {
            ": SCHED_DEADLINE needs the capability CAP_SYS_NICE, and a process that may run on all processors of its \
             scheduling domain"
        }
        libc::EPERM => {
            ": a policy or a priority above the caller's needs the capability CAP_SYS_NICE, a real-time one a share of \
             the cpu controller's real-time runtime as well"
        }
        _ => "",
    };
    if why.starts_with('.') || why.starts_with(':') {
        return format!("process.scheduler{why}: {errno}");
    }
    format!("process.scheduler: {errno}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(reason: u32, errno: i32, name: &str) -> String {
        let failed = Failed {
            errno,
            reason,
            number: 0,
            detail: name.as_bytes(),
        };
        failed.program()
    }

    #[test]
    fn program_errors_are_those_of_runc() {
        assert_eq!(
            program(reason::NOT_IN_PATH, 2, "nosuch"),
            r#"exec: "nosuch": executable file not found in $PATH"#
        );
        assert_eq!(
            program(reason::STAT, 2, "/nosuch"),
            r#"exec: "/nosuch": stat /nosuch: no such file or directory"#
        );
        assert_eq!(
            program(reason::IS_FOLDER, 21, "/etc"),
            r#"exec: "/etc": is a directory"#
        );
        assert_eq!(
            program(reason::CALL, 13, "/f"),
            r#"exec: "/f": permission denied"#
        );
    }
}
