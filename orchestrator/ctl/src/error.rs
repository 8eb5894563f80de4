//! What can go wrong, and how it is told.

use std::error::Error;
use std::io;
use std::path::PathBuf;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    #[error("cannot read the kubeconfig {path:?}: give one with --kubeconfig or KUBECONFIG")]
    KubeconfigFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the kubeconfig {path:?} is malformed")]
    KubeconfigSyntax {
        path: PathBuf,
        #[source]
        source: serde_yaml_ng::Error,
    },
    #[error("the kubeconfig has no {what} {name:?}")]
    KubeconfigEntry { what: &'static str, name: String },
    #[error("{what} of the kubeconfig cannot be used: {why}")]
    KubeconfigValue { what: &'static str, why: String },
    #[error("cannot reach the node at {server}: is berthd running?")]
    Connect {
        server: String,
        #[source]
        source: io::Error,
    },
    #[error("the connection to {server} broke")]
    Http {
        server: String,
        #[source]
        source: hyper::Error,
    },
    #[error("the node answered with something that is no JSON ({what})")]
    Answer {
        what: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("{message}")]
    Api {
        code: u16,
        reason: String,
        message: String,
    },
    #[error("cannot read {path:?}")]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot write {path:?}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{origin}, document {number}: not a manifest")]
    Syntax {
        origin: String,
        number: usize,
        #[source]
        source: serde_yaml_ng::Error,
    },
    #[error("{origin}, document {number}: {why}")]
    Manifest {
        origin: String,
        number: usize,
        why: String,
    },
    #[error("the server doesn't have a resource type {text:?}")]
    ResourceType { text: String },
    #[error(transparent)]
    Net(#[from] cni_plugins::exec::ExecError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Refused(String),
    #[error("timed out waiting for {0}")]
    Timeout(String),
    #[error("cannot write the output")]
    Output(#[from] io::Error),
    /// Several objects, each with its own line.
    #[error("{}", .0.iter().map(CtlError::rendered).collect::<Vec<_>>().join("\n"))]
    Several(Vec<CtlError>),
}

impl CtlError {
    /// The line for people, with everything that led to it, worded as kubectl does.
    pub(crate) fn rendered(&self) -> String {
        match self {
            Self::Several(_) => self.to_string(),
            Self::Api { reason, message, .. } if reason.is_empty() => {
                format!("Error from server: {message}")
            }
            Self::Api { reason, message, .. } if reason == "Invalid" => format!("The {message}"),
            Self::Api { reason, message, .. } => format!("Error from server ({reason}): {message}"),
            _ => {
                let mut text = format!("error: {self}");
                let mut source = self.source();
                while let Some(cause) = source {
                    text = format!("{text}: {cause}");
                    source = cause.source();
                }
                text
            }
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { code: 404, .. })
    }

    /// One error for what went wrong with several objects; nothing if nothing did.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<(), Self> {
        match errors.len() {
            0 => Ok(()),
            1 => errors.pop().map_or(Ok(()), Err),
            _ => Err(Self::Several(errors)),
        }
    }
}
