//! Holds one pod's containers: their stdio, logs and exit codes.
//!
//! One process a pod, started by `berthd` and outliving it. Single-threaded, no asynchronous runtime, a
//! `poll` loop: a node with many pods has many of these, and each may cost a mebibyte at most.
//!
//! ```text
//! berthd ──spawn──▶ stage 1: lock, bind socket, open log ──spawn──▶ stage 2: setsid, subreaper, poll loop
//!            ◀─exit 0: the socket listens─┘                          └─▶ runtime create/start/exec/delete
//! ```
//!
//! Stage 1 hands the listening socket over as stdin and the lock as stdout, so that no moment exists in
//! which the socket is there and nobody will answer it.

mod attached;
mod children;
mod clock;
mod console;
mod container;
mod daemon;
mod exec;
mod log;
mod monitor;
mod oom;
mod peer;
mod pids;
mod record;

use std::path::PathBuf;
use std::process::ExitCode;

/// Command line: `berth-monitor --dir DIR --runtime PATH [--runtime-root DIR]`.
#[derive(Debug)]
struct Args {
    dir: PathBuf,
    runtime: PathBuf,
    runtime_root: Option<PathBuf>,
    serve: bool,
}

/// What can be wrong with the command line.
#[derive(Debug, thiserror::Error)]
enum UsageError {
    #[error("unknown argument {0:?}; usage: berth-monitor --dir DIR --runtime PATH [--runtime-root DIR]")]
    Unknown(std::ffi::OsString),
    #[error("{0} needs a value")]
    Value(&'static str),
    #[error("{0} is missing; usage: berth-monitor --dir DIR --runtime PATH [--runtime-root DIR]")]
    Missing(&'static str),
}

/// Parsed by hand: an argument parser would be half of the program.
fn args(mut given: impl Iterator<Item = std::ffi::OsString>) -> Result<Args, UsageError> {
    let (mut dir, mut runtime, mut runtime_root, mut serve) = (None, None, None, false);
    while let Some(arg) = given.next() {
        let mut value = |name| given.next().map(PathBuf::from).ok_or(UsageError::Value(name));
        match arg.to_str() {
            Some("--dir") => dir = Some(value("--dir")?),
            Some("--runtime") => runtime = Some(value("--runtime")?),
            Some("--runtime-root") => runtime_root = Some(value("--runtime-root")?),
            Some(daemon::SERVE_FLAG) => serve = true,
            _ => return Err(UsageError::Unknown(arg)),
        }
    }
    Ok(Args {
        dir: dir.ok_or(UsageError::Missing("--dir"))?,
        runtime: runtime.ok_or(UsageError::Missing("--runtime"))?,
        runtime_root,
        serve,
    })
}

fn main() -> ExitCode {
    let mut given = std::env::args_os().skip(1);
    let first = given.next().unwrap_or_default();
    let mut paths = || given.by_ref().map(PathBuf::from).collect::<Vec<_>>();
    if first == pids::HOLD_FLAG {
        pids::be(&paths());
        return ExitCode::FAILURE;
    }
    if first == pids::HOLD_BELOW_FLAG {
        pids::make_below(&paths());
        return ExitCode::SUCCESS;
    }
    let result = args(std::env::args_os().skip(1))
        .map_err(daemon::Error::from)
        .and_then(|args| {
            if args.serve {
                daemon::serve(&args)
            } else {
                daemon::launch(&args)
            }
        });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = format!("berth-monitor: {error}");
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}
