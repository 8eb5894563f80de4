//! containerd's shim for Berth: holds the containers of a pod, their streams and their exit codes, while containerd
//! comes and goes.
//!
//! ```text
//! containerd ──exec──▶ start ──spawn──▶ serve (this program again): session, subreaper, one thread, one poll loop
//!      │         ◀─address┘               │
//!      └──ttrpc: task v2, v3─────────────▶│──exec──▶ berth, runc, … create/start/exec/kill/delete
//!      ◀──────────────ttrpc: events───────┘
//!      ──exec──▶ delete        after a shim that is gone
//! ```
//!
//! Nothing here waits for anything but `poll`: a call that takes a run of the runtime is answered when that child has
//! ended, so a slow container never holds up another one of the pod.

mod args;
mod bootstrap;
mod config;
mod container;
mod delete;
mod error;
mod events;
mod info;
mod log;
mod metrics;
mod oom;
mod options;
mod process;
mod publish;
mod rootfs;
mod server;
mod start;
mod stdio;
mod task;
mod toml;

use std::io::Write;
use std::process::ExitCode;

use args::Action;

/// Why the program failed.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Usage(#[from] args::UsageError),
    #[error(transparent)]
    Start(#[from] start::StartError),
    #[error(transparent)]
    Delete(#[from] delete::DeleteError),
    #[error(transparent)]
    Info(#[from] info::InfoError),
    #[error(transparent)]
    Serve(#[from] server::ServeError),
}

fn run() -> Result<(), Error> {
    let args = args::parse(std::env::args_os().skip(1))?;
    match args.action {
        Action::Version => return Ok(info::version()?),
        Action::Info => return Ok(info::run(&args)?),
        _ => args.check()?,
    }
    match args.action {
        Action::Start => start::run(&args)?,
        Action::Delete => delete::run(&args)?,
        _ => server::serve(args)?,
    }
    Ok(())
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(
                std::io::stderr(),
                "containerd-shim-berth-v2: {}",
                error::chain(&error)
            );
            ExitCode::FAILURE
        }
    }
}
