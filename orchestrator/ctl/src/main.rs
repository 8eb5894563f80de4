//! Operator's command line: images, apply, get, logs, rollout.
//!
//! What `kubectl` does for a node's objects, for those who do not have it, in its words and
//! formats, and what it has no verb for: images. Both may be used on the same objects.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 the command line is wrong.

mod cli;
mod client;
mod commands;
mod describe;
mod error;
mod kubeconfig;
mod manifest;
mod output;
mod patch;
mod resource;
mod tree;

use std::process::ExitCode;

use clap::Parser;

use cli::Arguments;
use error::CtlError;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(commands::run(arguments));
    // A thread that still reads an upload must not hold the exit up.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read our output has seen enough.
        Err(CtlError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", error.rendered());
            ExitCode::FAILURE
        }
    }
}
