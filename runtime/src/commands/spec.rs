//! `spec`: writes a starting configuration.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;

use super::ExitCode;
use crate::bundle::CONFIG;
use crate::error::{Error, SpecError};
use crate::host::HostFacts;
use crate::spec::{default_document, rootless_document};

/// Create a new specification file
///
/// Writes "config.json" for a bundle: a starter that opens a shell in the directory "rootfs". Edit it to taste.
#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// Path to the root of the bundle directory
    #[arg(short, long, value_name = "DIR")]
    bundle: Option<PathBuf>,
    /// Generate a configuration for a rootless container
    #[arg(long)]
    rootless: bool,
    #[arg(hide = true)]
    arguments: Vec<String>,
}

pub(super) fn run(args: &SpecArgs) -> Result<ExitCode, Error> {
    super::exactly("spec", &args.arguments, 0)?;
    let bundle = args.bundle.as_deref().unwrap_or(Path::new("."));
    fs::metadata(bundle).map_err(|source| SpecError::Bundle {
        path: bundle.to_path_buf(),
        source,
    })?;
    let host = HostFacts::collect()?;
    let unified = host.unified_cgroups();
    let text = if args.rootless {
        rootless_document(&host, unified)
    } else {
        default_document(unified)
    };
    let path = bundle.join(CONFIG);
    let written = OpenOptions::new().write(true).create_new(true).open(&path);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => SpecError::Exists { name: CONFIG },
            _ => SpecError::Write {
                path: path.clone(),
                source,
            },
        })?;
    Ok(0)
}
