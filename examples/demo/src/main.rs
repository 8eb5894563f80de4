//! `berth-demo`: a Kubernetes Deployment from apply to running, reachable, self-healing
//! containers, in namespaces of its own, with everything it claims measured in that run.
//!
//! `run` starts a node, goes through the phases and takes the node away. `up` leaves a node
//! running whose API is on the user's loopback; `down` ends it.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod cgroups;
mod enclosure;
mod http;
mod memory;
mod node;
mod phases;
mod playground;
mod report;
mod traffic;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// What went wrong, in one line, with what to do where that is known.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// A program could not be started or a file not be used.
    #[error("{action}: {source}")]
    System {
        /// What was attempted, on what.
        action: String,
        /// The system's answer.
        #[source]
        source: std::io::Error,
    },
    /// One of Berth's programs failed.
    #[error("{command}: {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// What it wrote to stderr.
        stderr: String,
    },
    /// A condition did not come true in time.
    #[error("waited {seconds} s for {what}; last seen: {last}")]
    Timeout {
        /// The condition.
        what: String,
        /// How long, in seconds.
        seconds: u64,
        /// What was seen last.
        last: String,
    },
    /// A phase saw something that must not be.
    #[error("{0}")]
    Wrong(String),
}

impl DemoError {
    /// For `map_err`: a failed system operation with what was attempted.
    pub fn io<E: Into<std::io::Error>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::System {
            action,
            source: source.into(),
        }
    }
}

#[derive(Parser)]
#[command(about = "Berth in one command: apply a Deployment, watch it run, heal, roll and survive")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Go through all phases and print what was measured
    Run(Place),
    /// Start a node and leave it running
    Up(Place),
    /// End the node that `up` started
    Down {
        /// The demo's own folder
        #[arg(long, default_value = ".demo")]
        dir: PathBuf,
    },
    /// PID 1 of the demo's namespaces
    #[command(hide = true)]
    Init {
        /// What to run under it: `phases` or `serve`
        role: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Where the demo finds programs and manifests, and keeps its files.
#[derive(clap::Args, Clone, Debug)]
pub struct Place {
    /// Directory with Berth's programs
    #[arg(long)]
    pub bin_dir: PathBuf,
    /// The demo's own folder
    #[arg(long, default_value = ".demo")]
    pub dir: PathBuf,
    /// Directory with user-service.yaml and db-secret.yaml
    #[arg(long, default_value = "examples/manifests")]
    pub manifests: PathBuf,
    /// The programs the image is made of are there under these names
    #[arg(long, default_value = "user-service")]
    pub app: String,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(place) => enclosure::run(&place),
        Command::Up(place) => playground::up(&place),
        Command::Down { dir } => playground::down(&dir),
        Command::Init { role, place } => return enclosure::init(&role, &place),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("berth-demo: {error}");
            ExitCode::FAILURE
        }
    }
}
