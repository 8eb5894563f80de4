//! What can go wrong between Berth and systemd.

use std::io;

/// A request to systemd failed; the message says what was attempted and what to do.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Nobody listens where systemd should.
    #[error(
        "systemd not running on this host, cannot use systemd cgroups manager ({tried}): leave --systemd-cgroup out \
         (Docker: --exec-opt native.cgroupdriver=cgroupfs, containerd: SystemdCgroup = false, Podman: \
         --cgroup-manager=cgroupfs)"
    )]
    NotRunning {
        /// The sockets that were tried, with the answers.
        tried: String,
    },
    /// A rootless caller has no user session.
    #[error(
        "systemd's user session was not found ({tried}): log in with a session (loginctl enable-linger USER), or set \
         XDG_RUNTIME_DIR or DBUS_SESSION_BUS_ADDRESS, or leave --systemd-cgroup out"
    )]
    NoSession {
        /// The sockets that were tried, with the answers.
        tried: String,
    },
    /// An address in the environment cannot be used.
    #[error("{variable}={address:?}: not an address of the form unix:path=PATH or unix:abstract=NAME")]
    Address {
        /// The variable.
        variable: &'static str,
        /// Its value.
        address: String,
    },
    /// The connection broke.
    #[error("cannot {action} systemd over D-Bus")]
    Io {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The other side does not speak as it should.
    #[error("systemd's D-Bus socket gave an answer that is none: {what}")]
    Protocol {
        /// What came.
        what: String,
    },
    /// systemd refused a request.
    #[error("systemd refuses to {action} unit {unit}: {message} ({name})")]
    Refused {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The unit.
        unit: String,
        /// The error's name on D-Bus.
        name: String,
        /// systemd's own words.
        message: String,
    },
    /// A job ended otherwise than hoped.
    #[error("systemd could not {action} unit {unit}: its job ended as {result:?}; see journalctl -u {unit}")]
    Job {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The unit.
        unit: String,
        /// canceled, timeout, failed, dependency or skipped.
        result: String,
    },
    /// No answer.
    #[error("systemd did not {action} unit {unit} within {seconds} s; see systemctl list-jobs")]
    Timeout {
        /// What was attempted, as a verb.
        action: &'static str,
        /// The unit.
        unit: String,
        /// How long was waited.
        seconds: u64,
    },
    /// A cgroup path that is not in systemd's form.
    #[error(
        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd cgroups, got {path:?} instead"
    )]
    Path {
        /// The path.
        path: String,
    },
    /// A part of the path is not what systemd takes.
    #[error("linux.cgroupsPath: {what} {name:?}: {reason}")]
    Name {
        /// Which part.
        what: &'static str,
        /// Its text.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An annotation that sets a property cannot be understood, or must not be set.
    #[error("annotations[{key:?}]: {reason}")]
    Annotation {
        /// The annotation.
        key: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
}
