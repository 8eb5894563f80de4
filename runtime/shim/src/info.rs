//! `-info` and `-v`: what this shim and its runtime are.

use std::io::{Read, Write};
use std::path::Path;

use containerd_shim_protos::protobuf::well_known_types::any::Any;
use containerd_shim_protos::protobuf::{self, Message, MessageField};
use containerd_shim_protos::types::introspection::{RuntimeInfo, RuntimeVersion};

use crate::args::Args;
use crate::options::{Options, OptionsError};

/// The name under which containerd knows the runtime.
pub const NAME: &str = "io.containerd.berth.v2";

/// The type of the OCI runtime specification's features document, as containerd spells it.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// Why there is no information.
#[derive(Debug, thiserror::Error)]
pub enum InfoError {
    /// Standard input or output.
    #[error("{0}")]
    Stream(&'static str, #[source] std::io::Error),
    /// What containerd wrote, or the answer.
    #[error("{0}")]
    Message(&'static str, #[source] protobuf::Error),
    /// The runtime's options.
    #[error("read the runtime's options")]
    Options(#[from] OptionsError),
}

/// Reads options from standard input and prints a `RuntimeInfo`. A runtime without the verb `features` has none.
///
/// # Errors
/// [`InfoError`].
pub fn run(args: &Args) -> Result<(), InfoError> {
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .map_err(|e| InfoError::Stream("read the options from standard input", e))?;
    let any = Any::parse_from_bytes(&input).map_err(|e| InfoError::Message("decode the options", e))?;
    let options = Options::from_any(Some(&any))?;
    let mut info = RuntimeInfo::new();
    NAME.clone_into(&mut info.name);
    let mut version = RuntimeVersion::new();
    env!("CARGO_PKG_VERSION").clone_into(&mut version.version);
    info.version = MessageField::some(version);
    if !any.type_url.is_empty() {
        info.options = MessageField::some(any);
    }
    let runtime = options.runtime(&args.namespace, Path::new("/"), args.debug);
    // Without the folder of a bundle there is no place for a log.
    let runtime = berth_client::Runtime::new(runtime.path());
    match runtime.features() {
        Ok(features) => {
            let mut any = Any::new();
            FEATURES.clone_into(&mut any.type_url);
            any.value = features.to_string().into_bytes();
            info.features = MessageField::some(any);
        }
        Err(error @ berth_client::Error::Spawn { .. }) => {
            let _ = writeln!(std::io::stderr(), "{}", crate::error::chain(&error));
        }
        Err(_) => {}
    }
    let bytes = info
        .write_to_bytes()
        .map_err(|e| InfoError::Message("encode the answer", e))?;
    std::io::stdout()
        .write_all(&bytes)
        .map_err(|e| InfoError::Stream("write the answer to standard output", e))
}

/// Prints the version in the form of containerd's own shims.
///
/// # Errors
/// [`InfoError::Stream`].
pub fn version() -> Result<(), InfoError> {
    let text = format!(
        "containerd-shim-berth-v2:\n  Version:  {}\n",
        env!("CARGO_PKG_VERSION")
    );
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| InfoError::Stream("write the version to standard output", e))
}
