//! Failures of task calls, and how they are told.

use std::path::PathBuf;

use containerd_shim_protos::ttrpc::proto::Code;

use crate::server::wire::Refusal;

/// Why a call of the task service failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The request is not the message that the method takes.
    #[error("decode the request of {method}")]
    Decode {
        /// The method.
        method: String,
        /// What is wrong with it.
        #[source]
        source: containerd_shim_protos::protobuf::Error,
    },
    /// No such service or method.
    #[error("/{service}/{method} is not implemented")]
    Unimplemented {
        /// The service asked for.
        service: String,
        /// The method asked for.
        method: String,
    },
    /// A field of the request.
    #[error("{field}: {reason}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// No such container or process.
    #[error("{what} {id} does not exist")]
    NotFound {
        /// `container`, `exec` or the like.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The process has ended.
    #[error("process already finished")]
    Finished,
    /// The id is taken.
    #[error("{what} {id} already exists")]
    Exists {
        /// `container` or `exec`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The container is not in the state that the call needs.
    #[error("cannot {verb} {id}: it is {state}")]
    State {
        /// What was asked.
        verb: &'static str,
        /// Of which container or exec.
        id: String,
        /// What it is.
        state: &'static str,
    },
    /// The runtime failed.
    #[error("OCI runtime {verb} failed: {}", reason(source))]
    Runtime {
        /// `create`, `start`, `exec` and so on.
        verb: &'static str,
        /// What it said.
        source: berth_client::Error,
    },
    /// A file or a system call on one.
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
    /// The root file system.
    #[error("mount the root file system")]
    Rootfs(#[from] crate::rootfs::MountError),
    /// Standard input and output.
    #[error("open the standard streams")]
    Stdio(#[from] crate::stdio::StdioError),
    /// The options of the runtime.
    #[error("read the runtime's options")]
    Options(#[from] crate::options::OptionsError),
    /// Cgroups.
    #[error("read the cgroup of container {id}")]
    Cgroup {
        /// The container.
        id: String,
        /// What failed.
        #[source]
        source: Box<berth_cgroups::CgroupError>,
    },
    /// An answer that cannot be encoded.
    #[error("encode the answer")]
    Encode(#[source] containerd_shim_protos::protobuf::Error),
}

impl TaskError {
    /// [`TaskError::File`] for use with `map_err`.
    pub fn file(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> TaskError {
        let path = path.into();
        move |source| TaskError::File { what, path, source }
    }

    fn code(&self) -> Code {
        match self {
            TaskError::Decode { .. } | TaskError::Invalid { .. } | TaskError::Options(_) => {
                Code::INVALID_ARGUMENT
            }
            TaskError::Unimplemented { .. } => Code::UNIMPLEMENTED,
            TaskError::NotFound { .. } | TaskError::Finished => Code::NOT_FOUND,
            TaskError::Exists { .. } => Code::ALREADY_EXISTS,
            TaskError::State { .. } => Code::FAILED_PRECONDITION,
            TaskError::Runtime { .. }
            | TaskError::File { .. }
            | TaskError::Rootfs(_)
            | TaskError::Stdio(_)
            | TaskError::Cgroup { .. }
            | TaskError::Encode(_) => Code::UNKNOWN,
        }
    }
}

impl From<TaskError> for Refusal {
    fn from(error: TaskError) -> Refusal {
        let code = error.code();
        let mut message = match &error {
            // Its source is part of its text already.
            TaskError::Runtime { .. } => error.to_string(),
            _ => chain(&error),
        };
        // As containerd's own shims end their texts; its clients of version 1 put these words there themselves.
        if let Some(class) = class(code) {
            message.push_str(": ");
            message.push_str(class);
        }
        Refusal { code, message }
    }
}

/// containerd's word for a class of errors (`errdefs`).
fn class(code: Code) -> Option<&'static str> {
    match code {
        Code::INVALID_ARGUMENT => Some("invalid argument"),
        Code::UNIMPLEMENTED => Some("not implemented"),
        Code::NOT_FOUND => Some("not found"),
        Code::ALREADY_EXISTS => Some("already exists"),
        Code::FAILED_PRECONDITION => Some("failed precondition"),
        _ => None,
    }
}

/// What the runtime itself said, else why it could not be asked.
fn reason(error: &berth_client::Error) -> String {
    match error {
        berth_client::Error::Failed { message, .. } => message.clone(),
        _ => chain(error),
    }
}

/// An error with all its causes in one line.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
