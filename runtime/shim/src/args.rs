//! The command line, in the form of Go's flag package: `-name value`, `-name=value`, `--name`.

use std::ffi::OsString;
use std::path::PathBuf;

/// What containerd gives every shim, and what `start` gives the serving process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Args {
    /// containerd's namespace.
    pub namespace: String,
    /// The container.
    pub id: String,
    /// containerd's gRPC socket.
    pub address: String,
    /// The program that publishes events, where there is no ttrpc socket for them.
    pub publish_binary: PathBuf,
    /// The bundle, where it is not the working directory (`delete`).
    pub bundle: Option<PathBuf>,
    /// The socket that the serving process was given, to be removed at its end.
    pub socket: Option<PathBuf>,
    /// Log more.
    pub debug: bool,
    /// What to do.
    pub action: Action,
}

/// What the shim is asked to do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Serve tasks; the socket is standard input.
    #[default]
    Serve,
    /// Start the serving process, or find it, and print its address.
    Start,
    /// Clean up after a serving process that is gone.
    Delete,
    /// Print what the runtime is (`-info`).
    Info,
    /// Print the version (`-v`).
    Version,
}

/// What can be wrong with the command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UsageError {
    /// No such flag.
    #[error(
        "unknown flag {0:?}: known are -namespace, -id, -address, -publish-binary, -bundle, -socket, -debug, -info, -v"
    )]
    Unknown(OsString),
    /// No such action.
    #[error("unknown action {0:?}: known are start and delete")]
    Action(OsString),
    /// A flag at the end.
    #[error("-{0} needs a value")]
    Value(&'static str),
    /// A value that is not UTF-8.
    #[error("-{0} is not valid UTF-8")]
    Encoding(&'static str),
    /// Not given.
    #[error("-{0} is missing: containerd gives it to every shim")]
    Missing(&'static str),
}

/// Flags with a value.
const VALUES: [&str; 8] = [
    "namespace",
    "id",
    "address",
    "publish-binary",
    "bundle",
    "socket",
    "debug-socket",
    "log-level",
];

/// Parses what follows the program's name.
///
/// # Errors
/// [`UsageError`].
pub fn parse(given: impl IntoIterator<Item = OsString>) -> Result<Args, UsageError> {
    let mut given = given.into_iter();
    let mut args = Args::default();
    while let Some(word) = given.next() {
        let text = word.to_str().unwrap_or_default();
        let Some(flag) = text.strip_prefix("--").or_else(|| text.strip_prefix('-')) else {
            args.action = match text {
                "start" => Action::Start,
                "delete" => Action::Delete,
                _ => return Err(UsageError::Action(word)),
            };
            continue;
        };
        let (name, inline) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (flag, None),
        };
        match name {
            "debug" => args.debug = inline.is_none_or(|v| v == "true"),
            "info" => args.action = Action::Info,
            "v" | "version" => args.action = Action::Version,
            _ => {
                let Some(name) = VALUES.into_iter().find(|known| *known == name) else {
                    return Err(UsageError::Unknown(word));
                };
                let value = inline.or_else(|| given.next()).ok_or(UsageError::Value(name))?;
                args.set(name, value)?;
            }
        }
    }
    Ok(args)
}

impl Args {
    fn set(&mut self, name: &'static str, value: OsString) -> Result<(), UsageError> {
        let text = |value: OsString| value.into_string().map_err(|_| UsageError::Encoding(name));
        match name {
            "namespace" => self.namespace = text(value)?,
            "id" => self.id = text(value)?,
            "address" => self.address = text(value)?,
            "publish-binary" => self.publish_binary = value.into(),
            "bundle" => self.bundle = Some(value.into()),
            "socket" => self.socket = Some(value.into()),
            // Nothing of the shim is behind these.
            _ => {}
        }
        Ok(())
    }

    /// Checks that containerd's namespace and the container's id are given.
    ///
    /// # Errors
    /// [`UsageError::Missing`].
    pub fn check(&self) -> Result<(), UsageError> {
        if self.namespace.is_empty() {
            return Err(UsageError::Missing("namespace"));
        }
        if self.id.is_empty() {
            return Err(UsageError::Missing("id"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, UsageError> {
        parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn what_containerd_gives_is_understood() {
        let args = parsed(
            "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id one -debug start",
        )
        .unwrap();
        assert_eq!(args.namespace, "default");
        assert_eq!(args.id, "one");
        assert_eq!(args.address, "/run/c.sock");
        assert!(args.debug && args.action == Action::Start);
        let args = parsed("--namespace=k8s.io -id=x -bundle /b delete").unwrap();
        assert_eq!((args.namespace.as_str(), args.action), ("k8s.io", Action::Delete));
        assert_eq!(args.bundle.as_deref(), Some(std::path::Path::new("/b")));
        assert_eq!(parsed("-info").unwrap().action, Action::Info);
        assert_eq!(parsed("-v").unwrap().action, Action::Version);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(matches!(parsed("-nope"), Err(UsageError::Unknown(_))));
        assert!(matches!(parsed("stop"), Err(UsageError::Action(_))));
        assert_eq!(parsed("-id"), Err(UsageError::Value("id")));
        assert_eq!(
            parsed("-id x start").unwrap().check(),
            Err(UsageError::Missing("namespace"))
        );
    }
}
