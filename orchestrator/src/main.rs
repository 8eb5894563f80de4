//! The node daemon: Kubernetes API, controllers, node agent.

use std::error::Error;
use std::process::ExitCode;

use berthd::config::Config;
use berthd::node::namespaces;
use berthd::service;
use clap::Parser;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|first| first == namespaces::ARGUMENT)
    {
        return namespaces::serve();
    }
    let config = Config::parse();
    let filter = EnvFilter::try_from_env("BERTHD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
    match service::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut message = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                message.push_str(": ");
                message.push_str(&cause.to_string());
                source = cause.source();
            }
            tracing::error!("{message}");
            ExitCode::FAILURE
        }
    }
}
