//! What can go wrong between this node and a registry.

use std::io;
use std::path::PathBuf;

/// Why a request to a registry came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The configuration file cannot be read.
    #[error("cannot read {path:?}")]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The configuration file is malformed.
    #[error("{path:?} is malformed: {why}")]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, with the field's name.
        why: String,
    },
    /// The configuration forbids the registry.
    #[error("registry {registry:?} is blocked by {path:?}")]
    Blocked {
        /// The prefix that is blocked.
        registry: String,
        /// The file that says so.
        path: PathBuf,
    },
    /// Certificates or keys for a registry cannot be used.
    #[error("cannot use the certificate file {path:?}: {why}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// No root certificates on this host.
    #[error(
        "this host has no root certificates (looked at {looked_at}): install ca-certificates, or set SSL_CERT_FILE"
    )]
    NoRoots {
        /// The files tried.
        looked_at: String,
    },
    /// A URL, of the registry's or of ours, that makes no sense.
    #[error("{url:?} is no usable URL: {why}")]
    Url {
        /// The text.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// No connection.
    #[error("cannot connect to {authority}")]
    Connect {
        /// Host and port.
        authority: String,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("cannot agree on TLS with {authority}{hint}")]
    Tls {
        /// Host and port.
        authority: String,
        /// What may help.
        hint: &'static str,
        /// What rustls says.
        #[source]
        source: io::Error,
    },
    /// The proxy refuses to connect us.
    #[error("proxy {proxy} does not connect to {authority}: {answer}")]
    Proxy {
        /// The proxy's host and port.
        proxy: String,
        /// Where to.
        authority: String,
        /// Its answer.
        answer: String,
    },
    /// The connection broke.
    #[error("the connection to {authority} broke")]
    Broken {
        /// Host and port.
        authority: String,
        /// What hyper says.
        #[source]
        source: hyper::Error,
    },
    /// An answer had less than it promised.
    #[error("the answer of {authority} ended early")]
    Short {
        /// Host and port.
        authority: String,
    },
    /// Nothing came for too long.
    #[error("{authority} did not answer for {seconds} seconds")]
    Timeout {
        /// Host and port.
        authority: String,
        /// How long was waited.
        seconds: u64,
    },
    /// The registry refused; the message is its own.
    #[error("{method} {url} was answered with {status}{message}")]
    Status {
        /// The request's method.
        method: &'static str,
        /// What was asked for.
        url: Box<str>,
        /// The HTTP status.
        status: u16,
        /// What the registry said, after a colon; may be empty.
        message: Box<str>,
        /// How long it wants to be left alone, in seconds.
        retry_after: Option<u64>,
    },
    /// Nobody, or nobody we know the password of, may do this.
    #[error("{registry} refuses access to {what}: {why}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        what: String,
        /// What was tried, and what to do.
        why: String,
    },
    /// The registry's answer does not make sense.
    #[error("the answer of {url} cannot be used: {why}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// A file to be uploaded cannot be read.
    #[error("cannot read {path:?}")]
    Upload {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The caller does not want it any more.
    #[error("the transfer was cancelled")]
    Cancelled,
}

impl RegistryError {
    /// Whether another try may help: lost connections, time-outs, an overloaded registry.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::Short { .. } | Self::Timeout { .. } => true,
            Self::Tls { source, .. } => source.kind() == io::ErrorKind::UnexpectedEof,
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether the registry says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Status { status: 404, .. })
    }
}
