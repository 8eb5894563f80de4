//! What containerd says to `start`, and in which form it wants the answer. No I/O here.
//!
//! | containerd | says | reads |
//! | --- | --- | --- |
//! | 1.x | flags, TTRPC_ADDRESS; the options as `Any` on standard input | the address as text |
//! | 2.0 to 2.2 | the same | the same, for version 2 of the task service |
//! | 2.3 and later | `BootstrapParams` on standard input | `BootstrapResult`, with the version |

use std::path::PathBuf;

use containerd_shim_protos::TASK_API_VERSION;
use containerd_shim_protos::bootstrap_api::{BootstrapParams, BootstrapResult};
use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message};

use crate::args::Args;

/// The folder of sockets when containerd names none; as its own shims have it.
const SOCKET_DIR: &str = "/run/containerd/s";

/// The level from which debug lines are wanted (`LOG_LEVEL_DEBUG`).
const LEVEL_DEBUG: i32 = -4;

/// What `start` needs to know.
#[derive(Debug, Clone, PartialEq)]
pub struct Bootstrap {
    /// The folder for the socket.
    pub socket_dir: PathBuf,
    /// The runtime's options.
    pub options: Option<Any>,
    /// containerd's socket for events.
    pub ttrpc_address: Option<String>,
    /// containerd's gRPC socket, which is part of the socket's name.
    pub address: String,
    /// Log more.
    pub debug: bool,
    messages: bool,
}

/// What standard input had was neither form.
#[derive(Debug, thiserror::Error)]
#[error("decode what containerd wrote to standard input: neither options nor parameters of a start")]
pub struct BootstrapError(#[source] protobuf::Error);

impl Bootstrap {
    /// Reads `input`, which must name the same container and namespace as the flags to be taken for parameters: bare
    /// options would parse as these, too, with their type in the container's place.
    ///
    /// # Errors
    /// [`BootstrapError`].
    pub fn new(
        input: &[u8],
        args: &Args,
        ttrpc_address: Option<String>,
    ) -> Result<Bootstrap, BootstrapError> {
        let mut found = Bootstrap {
            socket_dir: SOCKET_DIR.into(),
            options: None,
            ttrpc_address,
            address: args.address.clone(),
            debug: args.debug,
            messages: false,
        };
        if input.is_empty() {
            return Ok(found);
        }
        match BootstrapParams::parse_from_bytes(input) {
            Ok(given) if given.instance_id == args.id && given.namespace == args.namespace => {
                found.take(given);
            }
            _ => found.options = Some(Any::parse_from_bytes(input).map_err(BootstrapError)?),
        }
        Ok(found)
    }

    fn take(&mut self, given: BootstrapParams) {
        self.messages = true;
        if let Some(dir) = given.socket_dir.filter(|dir| !dir.is_empty()) {
            self.socket_dir = dir.into();
        }
        if !given.containerd_ttrpc_address.is_empty() {
            self.ttrpc_address = Some(given.containerd_ttrpc_address);
        }
        if !given.containerd_grpc_address.is_empty() {
            self.address = given.containerd_grpc_address;
        }
        self.debug |= given.log_level.value() <= LEVEL_DEBUG;
        self.options = given
            .extensions
            .into_iter()
            .filter_map(|one| one.value.into_option())
            .find(|value| value.type_url.ends_with("v1.Options"));
    }

    /// The answer for `address` (`unix://PATH`).
    ///
    /// # Errors
    /// [`protobuf::Error`].
    pub fn answer(&self, address: &str) -> Result<Vec<u8>, protobuf::Error> {
        if !self.messages {
            return Ok(address.as_bytes().to_vec());
        }
        let mut result = BootstrapResult::new();
        result.version = TASK_API_VERSION;
        address.clone_into(&mut result.address);
        "ttrpc".clone_into(&mut result.protocol);
        result.write_to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> Args {
        Args {
            namespace: "default".to_owned(),
            id: "one".to_owned(),
            address: "/run/c.sock".to_owned(),
            ..Args::default()
        }
    }

    #[test]
    fn old_containerd_gets_text() {
        let given = Bootstrap::new(&[], &args(), Some("/t".to_owned())).unwrap();
        assert_eq!(given.answer("unix:///s").unwrap(), b"unix:///s");
        let mut any = Any::new();
        any.type_url = "containerd.runc.v1.Options".to_owned();
        let given = Bootstrap::new(&any.write_to_bytes().unwrap(), &args(), None).unwrap();
        assert_eq!(given.options, Some(any));
        assert_eq!(given.answer("unix:///s").unwrap(), b"unix:///s");
    }

    #[test]
    fn new_containerd_gets_a_message_with_the_version() {
        let mut params = BootstrapParams::new();
        params.instance_id = "one".to_owned();
        params.namespace = "default".to_owned();
        params.containerd_ttrpc_address = "/new.ttrpc".to_owned();
        params.socket_dir = Some("/short".to_owned());
        let given = Bootstrap::new(&params.write_to_bytes().unwrap(), &args(), None).unwrap();
        assert_eq!(given.ttrpc_address.as_deref(), Some("/new.ttrpc"));
        assert_eq!(given.socket_dir, PathBuf::from("/short"));
        let answer = BootstrapResult::parse_from_bytes(&given.answer("unix:///s").unwrap()).unwrap();
        assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
    }

    #[test]
    fn noise_is_refused() {
        assert!(Bootstrap::new(&[0xff, 0xff], &args(), None).is_err());
    }
}
