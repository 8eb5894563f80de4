//! The command line: one file a verb, runc's names, flags, texts and exit codes.

mod delete;
mod features;
mod kill;
mod list;
mod spec;
mod state;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};
use nix::unistd::geteuid;

use crate::error::{ArgumentError, Error};
use crate::host;
use crate::log::{self, Log};
use crate::spec::OCI_VERSION;
use crate::state::{ContainerId, StateRoot};

/// What `main` exits with.
pub type ExitCode = i32;

/// Where state lives when root says nothing else.
const DEFAULT_ROOT: &str = "/run/berth";

/// Open Container Initiative runtime
///
/// berth runs containers from OCI bundles: directories with a "config.json" and a root file system. Its command line
/// is runc's, so that containerd, CRI-O, Docker, Podman and scripts can drive it in runc's place.
///
/// To start a new instance of a container:
///
///     # berth run [ -b bundle ] <container-id>
#[derive(Debug, Parser)]
#[command(
    name = "berth",
    disable_version_flag = true,
    verbatim_doc_comment,
    max_term_width = 110
)]
struct Cli {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct GlobalArgs {
    /// Enable debug logging
    #[arg(long)]
    debug: bool,
    /// Set the log file to write logs to (default is '/dev/stderr')
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Set the log format ('text', or 'json')
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: String,
    /// Root directory for storage of container state, in a tmpfs [default: /run/berth]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Expect linux.cgroupsPath to be of the form "slice:prefix:name" and let systemd make the cgroup
    #[arg(long)]
    systemd_cgroup: bool,
    /// Path to the criu binary used for checkpoint and restore
    #[arg(long, value_name = "PATH", hide = true)]
    criu: Option<PathBuf>,
    /// Ignore cgroup permission errors ('true', 'false', or 'auto')
    #[arg(long, value_name = "WHEN", default_value = "auto")]
    rootless: String,
    /// Print the version
    #[arg(short = 'v', long)]
    version: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    Delete(delete::DeleteArgs),
    Features(features::FeaturesArgs),
    Kill(kill::KillArgs),
    List(list::ListArgs),
    Spec(spec::SpecArgs),
    State(state::StateArgs),
}

/// What every verb knows.
#[derive(Debug)]
struct Context {
    root: StateRoot,
    /// Whether `--root` was given.
    root_given: bool,
    /// `--rootless`: tolerate cgroups that may not be written. `None` decides by privilege.
    rootless: Option<bool>,
}

/// Runs the command line. What it returns is the process's exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        // Help is not an error; a usage error is 1 as with runc, not clap's 2.
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.use_stderr());
        }
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            log::fatal(&error.chain());
            error.exit_code()
        }
    }
}

fn dispatch(cli: Cli) -> Result<ExitCode, Error> {
    let Cli { global, command } = cli;
    if global.version {
        return print(version().as_bytes());
    }
    let Some(command) = command else {
        return print(Cli::command().render_long_help().to_string().as_bytes());
    };
    Log::open(global.log.as_deref(), &global.log_format, global.debug)?.install();
    let context = context(&global)?;
    match command {
        Command::Delete(args) => delete::run(&context, &args),
        Command::Features(args) => features::run(&args),
        Command::Kill(args) => kill::run(&context, &args),
        Command::List(args) => list::run(&context, &args),
        Command::Spec(args) => spec::run(&args),
        Command::State(args) => state::run(&context, &args),
    }
}

fn context(global: &GlobalArgs) -> Result<Context, Error> {
    if global.systemd_cgroup {
        return Err(ArgumentError::SystemdCgroup.into());
    }
    if global.criu.is_some() {
        return Err(ArgumentError::Criu.into());
    }
    let rootless = match global.rootless.to_ascii_lowercase().as_str() {
        "" | "auto" => None,
        "true" | "t" | "1" => Some(true),
        "false" | "f" | "0" => Some(false),
        _ => {
            return Err(ArgumentError::Rootless {
                value: global.rootless.clone(),
            }
            .into());
        }
    };
    let root = state_root(global.root.as_deref())?;
    Ok(Context {
        root: StateRoot::new(root),
        root_given: global.root.is_some(),
        rootless,
    })
}

/// `--root` made absolute; without it the user's runtime directory for the unprivileged, else /run/berth.
fn state_root(given: Option<&Path>) -> Result<PathBuf, Error> {
    let Some(given) = given else {
        // Inside a user namespace the user's own idea of being root decides, as with runc.
        let honour =
            !geteuid().is_root() || (host::in_user_namespace()? && env::var("USER").as_deref() != Ok("root"));
        return Ok(
            match env::var_os("XDG_RUNTIME_DIR").filter(|dir| honour && !dir.is_empty()) {
                Some(dir) => Path::new(&dir).join("berth"),
                None => PathBuf::from(DEFAULT_ROOT),
            },
        );
    };
    let absolute = absolute(given)?;
    if absolute == Path::new("/") {
        return Err(ArgumentError::RootIsRoot.into());
    }
    Ok(absolute)
}

/// The path against the working directory, with `.` and `..` resolved as text, so that it stays the same file after
/// a change of directory. The empty path is the working directory.
fn absolute(path: &Path) -> Result<PathBuf, Error> {
    let joined = env::current_dir()
        .map(|dir| dir.join(path))
        .map_err(|source| ArgumentError::WorkingDirectory { source })?;
    let mut clean = PathBuf::from("/");
    for component in joined.components() {
        match component {
            std::path::Component::Normal(name) => clean.push(name),
            std::path::Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    Ok(clean)
}

/// The layout of runc's `--version`, as Docker and Podman parse it.
fn version() -> String {
    let mut text = format!("berth version {}\n", env!("CARGO_PKG_VERSION"));
    if let Some(commit) = option_env!("BERTH_COMMIT") {
        text = format!("{text}commit: {commit}\n");
    }
    format!("{text}spec: {OCI_VERSION}\n")
}

/// The single id that most verbs take.
fn one_id(verb: &'static str, ids: &[String]) -> Result<ContainerId, Error> {
    exactly(verb, ids, 1)?;
    Ok(ContainerId::parse(&ids[0])?)
}

fn exactly(verb: &'static str, arguments: &[String], expected: usize) -> Result<(), ArgumentError> {
    if arguments.len() == expected {
        Ok(())
    } else {
        Err(ArgumentError::Exactly { verb, expected })
    }
}

fn at_least(verb: &'static str, arguments: &[String], expected: usize) -> Result<(), ArgumentError> {
    if arguments.len() >= expected {
        Ok(())
    } else {
        Err(ArgumentError::AtLeast { verb, expected })
    }
}

fn at_most(verb: &'static str, arguments: &[String], expected: usize) -> Result<(), ArgumentError> {
    if arguments.len() <= expected {
        Ok(())
    } else {
        Err(ArgumentError::AtMost { verb, expected })
    }
}

/// Writes a verb's result to standard output. A reader that has gone away is no error.
fn print(text: &[u8]) -> Result<ExitCode, Error> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => Err(Error::Output { source }),
        _ => Ok(0),
    }
}

/// JSON as Go writes it: `<`, `>`, `&` and the line separators U+2028, U+2029 escaped. They only occur in strings.
fn go_json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn paths_become_absolute_as_text() {
        assert_eq!(absolute(Path::new("/a/./b/../c")).unwrap(), Path::new("/a/c"));
        assert_eq!(absolute(Path::new("/../..")).unwrap(), Path::new("/"));
        assert_eq!(absolute(Path::new("")).unwrap(), env::current_dir().unwrap());
    }

    #[test]
    fn json_is_escaped_as_go_does() {
        assert_eq!(go_json("{\"a\":\"<&>\"}"), "{\"a\":\"\\u003c\\u0026\\u003e\"}");
    }
}
