//! `delete`: takes away what a shim that is gone has left of one container.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use containerd_shim_protos::api::DeleteResponse;
use containerd_shim_protos::protobuf::{self, Message};

use crate::args::Args;
use crate::options::{Options, OptionsError};
use crate::{events, rootfs};

/// The exit status of a container whose shim is gone: it was killed.
const KILLED: u32 = 128 + nix::libc::SIGKILL as u32;

/// Why nothing could be cleaned up.
#[derive(Debug, thiserror::Error)]
pub enum DeleteError {
    /// The bundle.
    #[error("find the bundle")]
    Bundle(#[source] std::io::Error),
    /// The runtime's options.
    #[error("read the runtime's options")]
    Options(#[from] OptionsError),
    /// The answer cannot be encoded.
    #[error("encode the answer")]
    Encode(#[from] protobuf::Error),
    /// The answer cannot be written.
    #[error("write the answer to standard output")]
    Write(#[source] std::io::Error),
}

/// Kills and deletes the container, unmounts its root, removes the shim's socket if nobody listens there, and prints
/// a `DeleteResponse`. What cannot be taken away is told on standard error, which containerd logs.
///
/// # Errors
/// [`DeleteError`] if there is no answer.
pub fn run(args: &Args) -> Result<(), DeleteError> {
    let bundle = bundle(args).map_err(DeleteError::Bundle)?;
    let options = Options::load(&bundle)?;
    let runtime = options.runtime(&args.namespace, &bundle, args.debug);
    if let Err(error) = runtime.delete(&args.id, true).run()
        && !error.is_not_found()
    {
        complain(&format!(
            "delete container {}: {}",
            args.id,
            crate::error::chain(&error)
        ));
    }
    if let Err(error) = rootfs::unmount(&bundle.join(rootfs::DIR)) {
        complain(&crate::error::chain(&error));
    }
    remove_dead_socket(&bundle);
    let mut answer = DeleteResponse::new();
    answer.pid = crate::process::read_pid(&bundle.join(crate::process::PID_FILE)).unwrap_or(0) as u32;
    answer.exit_status = KILLED;
    answer.set_exited_at(events::now());
    std::io::stdout()
        .write_all(&answer.write_to_bytes()?)
        .map_err(DeleteError::Write)
}

/// containerd runs every command in a bundle, but with a pod it may be that of another container.
fn bundle(args: &Args) -> std::io::Result<PathBuf> {
    let here = std::env::current_dir()?;
    Ok(match &args.bundle {
        Some(bundle) => here.join(bundle),
        None => here.parent().unwrap_or(Path::new("/")).join(&args.id),
    })
}

/// A shim that was killed leaves its socket. One of a pod may live on.
fn remove_dead_socket(bundle: &Path) {
    let Ok(address) = std::fs::read_to_string(bundle.join("address")) else {
        return;
    };
    let Some(path) = address.trim().strip_prefix("unix://") else {
        return;
    };
    if let Err(error) = UnixStream::connect(path)
        && error.kind() == std::io::ErrorKind::ConnectionRefused
    {
        // Best effort: another `delete` of the same pod may have been quicker.
        let _ = std::fs::remove_file(path);
    }
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "containerd-shim-berth-v2: {text}");
}
