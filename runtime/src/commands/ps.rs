//! `ps`: the processes of a container, by their ids on the host.

use std::io;
use std::process::{Command, ExitStatus};

use clap::Args;
use thiserror::Error as ThisError;

use super::{Context, ExitCode};
use crate::container::{Container, ContainerError};
use crate::error::{ArgumentError, Error};
use crate::state::ContainerId;

/// Display the processes running inside a container
///
/// A table is what ps(1) of the host prints about them: options after the id are passed to it, "-ef" without any. It
/// must have a column PID.
#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Select one of: table or json
    #[arg(short, long, default_value = "table")]
    format: String,
    /// The container's id, and options of ps(1)
    #[arg(value_name = "CONTAINER-ID [PS OPTIONS]", trailing_var_arg = true)]
    pub(super) arguments: Vec<String>,
}

/// Why the processes could not be shown.
#[derive(Debug, ThisError)]
pub enum PsError {
    /// There is no ps(1).
    #[error("run ps: install it (Debian: procps) or use --format json")]
    Start {
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// ps(1) did not like its options.
    #[error("ps: {status}: {output}")]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// What it printed.
        output: String,
    },
    /// Its output cannot be matched with processes.
    #[error("couldn't find PID field in ps output: pass options that show it, such as -o pid,args")]
    NoPid,
    /// A line without a number where the heading has PID.
    #[error("unable to parse pid in the line {line:?} of ps output")]
    BadPid {
        /// The line.
        line: String,
    },
}

pub(super) fn run(context: &Context, args: &PsArgs) -> Result<ExitCode, Error> {
    super::at_least("ps", &args.arguments, 1)?;
    let (id, options) = args.arguments.split_at(1);
    let container = Container::load(&context.root, &ContainerId::parse(&id[0])?)?;
    let pids = container
        .cgroup()
        .pids()
        .map_err(|source| ContainerError::Pids { source })
        .inspect_err(|error| super::warn_of_permission("ps", error))?;
    match args.format.as_str() {
        "table" => super::print(table(options, &pids)?.as_bytes()),
        // Go encodes a nil slice as null.
        "json" if pids.is_empty() => super::print(b"null\n"),
        "json" => {
            let json = serde_json::to_string(&pids).map_err(|source| Error::Json { source })?;
            super::print(format!("{json}\n").as_bytes())
        }
        _ => Err(ArgumentError::ListFormat.into()),
    }
}

fn table(options: &[String], pids: &[u32]) -> Result<String, PsError> {
    let mut command = Command::new("ps");
    if options.is_empty() {
        command.arg("-ef");
    }
    let output = command
        .args(options)
        .output()
        .map_err(|source| PsError::Start { source })?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(PsError::Failed {
            status: output.status,
            output: format!("{text}{complaint}").trim_end().to_owned(),
        });
    }
    select(&text, pids)
}

/// The heading and the lines of these processes.
fn select(text: &str, pids: &[u32]) -> Result<String, PsError> {
    let heading = text.lines().next().unwrap_or_default();
    let column = heading
        .split_whitespace()
        .position(|name| name == "PID")
        .ok_or(PsError::NoPid)?;
    let mut selected = format!("{heading}\n");
    for line in text.lines().skip(1).filter(|line| !line.is_empty()) {
        let pid = line
            .split_whitespace()
            .nth(column)
            .and_then(|word| word.parse().ok());
        let pid: u32 = pid.ok_or_else(|| PsError::BadPid {
            line: line.to_owned(),
        })?;
        if pids.contains(&pid) {
            selected += line;
            selected.push('\n');
        }
    }
    Ok(selected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_selected_by_the_column_of_the_heading() {
        let text = "UID   PID CMD\nroot   1 init 22\nroot  22 sleep 1\n\n";
        assert_eq!(select(text, &[22]).unwrap(), "UID   PID CMD\nroot  22 sleep 1\n");
        assert_eq!(select(text, &[]).unwrap(), "UID   PID CMD\n");
        assert!(matches!(select("UID CMD\n", &[1]), Err(PsError::NoPid)));
        assert!(matches!(select("PID\nx\n", &[1]), Err(PsError::BadPid { .. })));
    }
}
