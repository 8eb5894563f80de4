//! `kill`: sends a signal to a container's init, or to all of its processes.

use std::str::FromStr;

use clap::Args;
use nix::sys::signal::Signal;

use super::{Context, ExitCode};
use crate::container::{Container, ContainerError};
use crate::error::{ArgumentError, Error};
use crate::state::ContainerId;

/// Send the specified signal (default: SIGTERM) to the container's init process
///
/// For example, if the container id is "ubuntu01" the following will send a "KILL" signal to its init process:
///
///   $ berth kill ubuntu01 KILL
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct KillArgs {
    /// Send the signal to all processes of the container, also when its init is gone
    #[arg(short, long)]
    pub(super) all: bool,
    /// The container's id, and the signal's name or number
    #[arg(value_name = "CONTAINER-ID [SIGNAL]", trailing_var_arg = true)]
    pub(super) arguments: Vec<String>,
}

pub(super) fn run(context: &Context, args: &KillArgs) -> Result<ExitCode, Error> {
    super::at_least("kill", &args.arguments, 1)?;
    super::at_most("kill", &args.arguments, 2)?;
    let container = Container::load(&context.root, &ContainerId::parse(&args.arguments[0])?)?;
    let signal = parse_signal(args.arguments.get(1).map_or("SIGTERM", String::as_str))?;
    let result = if args.all {
        container.signal_all(signal)
    } else {
        container.signal(signal)
    };
    match result {
        // Whoever wants all processes gone is content when there are none.
        Err(ContainerError::NotRunning) if args.all => Ok(0),
        Err(error) => Err(error.into()),
        Ok(()) => Ok(0),
    }
}

/// A number, or a name with or without SIG in any case.
fn parse_signal(text: &str) -> Result<i32, ArgumentError> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    Signal::from_str(&name)
        .map(|signal| signal as i32)
        .map_err(|_| ArgumentError::Signal {
            signal: text.to_owned(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_names() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("sigkill", 9),
            ("SIGTERM", 15),
            ("0", 0),
            ("35", 35),
        ] {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "SIG", "NOPE", "KILL "] {
            assert_eq!(
                parse_signal(bad).unwrap_err().to_string(),
                format!("unknown signal {bad:?}")
            );
        }
    }
}
