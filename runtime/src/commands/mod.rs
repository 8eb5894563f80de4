//! The command line: one file a verb, runc's names, flags, texts and exit codes.

mod checkpoint;
mod create;
mod delete;
mod duration;
mod events;
mod exec;
mod features;
mod kill;
mod list;
mod parse;
mod pause;
mod plan;
pub(crate) mod ps;
mod restore;
mod resume;
mod run;
mod spec;
mod start;
mod state;
pub(crate) mod update;

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use berth_cgroups::CgroupError;
use berth_spec::Spec;
use clap::error::{ContextKind, ErrorKind};
use clap::{Args, CommandFactory, Parser, Subcommand};
use nix::errno::Errno;
use nix::unistd::geteuid;

use crate::annotations;
use crate::container::ContainerError;
use crate::error::{ArgumentError, Error};
use crate::host;
use crate::log::{self, Log};
use crate::name;
use crate::placement::Driver;
use crate::seccomp::{Cache, Program};
use crate::spec::OCI_VERSION;
use crate::state::{ContainerId, StateRoot};

/// What `main` exits with.
pub type ExitCode = i32;

/// Open Container Initiative runtime
///
/// berth runs containers from OCI bundles: directories with a "config.json" and a root file system. Its command line
/// is runc's, so that containerd, CRI-O, Docker, Podman and scripts can drive it in runc's place.
///
/// To start a new instance of a container:
///
///   $ berth run [ -b bundle ] <container-id>
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
    /// Ignored: criu is taken from PATH
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
    Checkpoint(checkpoint::CheckpointArgs),
    Restore(restore::RestoreArgs),
    Create(create::CreateArgs),
    Events(events::EventsArgs),
    Exec(exec::ExecArgs),
    Plan(plan::PlanArgs),
    Run(run::RunArgs),
    Start(start::StartArgs),
    Delete(delete::DeleteArgs),
    Features(features::FeaturesArgs),
    Kill(kill::KillArgs),
    List(list::ListArgs),
    Pause(pause::PauseArgs),
    Ps(ps::PsArgs),
    Resume(resume::ResumeArgs),
    Spec(spec::SpecArgs),
    State(state::StateArgs),
    Update(Box<update::UpdateArgs>),
}

/// What every verb knows.
#[derive(Debug)]
struct Context {
    root: StateRoot,
    /// Whether `--root` was given.
    root_given: bool,
    /// `--systemd-cgroup` and `--rootless`.
    driver: Driver,
}

/// The definition of the command line, for what is made from it: completions, man pages.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// The definition with the layout that runc's help has.
fn with_layout() -> clap::Command {
    let layout = |verb: &str| {
        let name = name::get();
        format!("NAME:\n   {name}{verb} - {{about}}\n\nUSAGE:\n   {{usage}}\n\n{{all-args}}{{after-help}}\n")
    };
    let verb = |command: clap::Command| {
        let layout = layout(&format!(" {}", command.get_name()));
        command.help_template(layout)
    };
    Cli::command().help_template(layout("")).mut_subcommands(verb)
}

/// Tells what is wrong with the command line, or the help that was asked for. Help is not an error; a usage error is 1 as with
/// runc, not clap's 2, and a verb that there is not is 3.
fn tell(error: &clap::Error) -> ExitCode {
    let known = error.kind() != ErrorKind::InvalidSubcommand;
    if let (ErrorKind::InvalidSubcommand, Some(verb)) =
        (error.kind(), error.get(ContextKind::InvalidSubcommand))
    {
        let _ = writeln!(io::stderr(), "No help topic for '{verb}'");
    }
    let _ = error.print();
    if known {
        ExitCode::from(error.use_stderr())
    } else {
        3
    }
}

/// Runs the command line. What it returns is the process's exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    name::set(arguments.first().map(OsString::as_os_str));
    let cli = match parse::command_line(&arguments) {
        Ok(cli) => cli,
        Err(error) => return tell(&error),
    };
    match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            match error.program() {
                Some(text) => log::bare(&error.chain(), &text),
                None => log::fatal(&error.chain()),
            }
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
        return print(with_layout().render_long_help().to_string().as_bytes());
    };
    Log::open(global.log.as_deref(), &global.log_format, global.debug)?.install();
    let context = context(&global)?;
    match command {
        Command::Checkpoint(args) => checkpoint::run(&context, &args),
        Command::Restore(args) => restore::run(&context, &args),
        Command::Create(args) => create::run(&context, &args),
        Command::Events(args) => events::run(&context, &args),
        Command::Exec(args) => exec::run(&context, &args),
        Command::Plan(args) => plan::run(&context, &args),
        Command::Run(args) => run::run(&context, &args),
        Command::Start(args) => start::run(&context, &args),
        Command::Delete(args) => delete::run(&context, &args),
        Command::Features(args) => features::run(&args),
        Command::Kill(args) => kill::run(&context, &args),
        Command::List(args) => list::run(&context, &args),
        Command::Pause(args) => pause::run(&context, &args),
        Command::Ps(args) => ps::run(&context, &args),
        Command::Resume(args) => resume::run(&context, &args),
        Command::Spec(args) => spec::run(&args),
        Command::State(args) => state::run(&context, &args),
        Command::Update(args) => update::run(&context, &args),
    }
}

fn context(global: &GlobalArgs) -> Result<Context, Error> {
    let root = state_root(global.root.as_deref())?;
    Ok(Context {
        root: StateRoot::new(root),
        root_given: global.root.is_some(),
        driver: Driver {
            systemd: global.systemd_cgroup,
            rootless: rootless(&global.rootless)?,
        },
    })
}

/// `--rootless`, in the words that Go takes; none for "auto".
fn rootless(word: &str) -> Result<Option<bool>, Error> {
    match word {
        "" | "auto" => Ok(None),
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
        _ => Err(ArgumentError::Rootless {
            value: word.to_owned(),
        }
        .into()),
    }
}

/// The user's runtime directory for the unprivileged, else /run: for `berth` and what else is kept until the next boot.
fn runtime_file(name: &str) -> Result<PathBuf, Error> {
    // Inside a user namespace the user's own idea of being root decides, as with runc.
    let honour =
        !geteuid().is_root() || (host::in_user_namespace()? && env::var("USER").as_deref() != Ok("root"));
    let own = env::var_os("XDG_RUNTIME_DIR").filter(|dir| honour && !dir.is_empty());
    Ok(own
        .map_or_else(|| PathBuf::from("/run"), PathBuf::from)
        .join(name))
}

/// `--root` made absolute; without it `berth` in the directory for such files.
fn state_root(given: Option<&Path>) -> Result<PathBuf, Error> {
    let Some(given) = given else {
        return runtime_file("berth");
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
    let mut text = format!("{} version {}\n", name::get(), env!("CARGO_PKG_VERSION"));
    if let Some(commit) = option_env!("BERTH_COMMIT").filter(|commit| !commit.is_empty()) {
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

/// Whether a terminal and a console socket fit together: a detached terminal must be handed to somebody.
fn check_terminal(terminal: bool, detach: bool, socket: Option<&Path>) -> Result<(), ArgumentError> {
    let socket = socket.is_some_and(|path| !path.as_os_str().is_empty());
    match (detach, terminal) {
        (true, true) if !socket => Err(ArgumentError::TerminalNeedsConsole),
        (false, _) | (_, false) if socket => Err(ArgumentError::ConsoleNeedsTerminal),
        _ => Ok(()),
    }
}

/// The descriptors that follow the standard ones and those of socket activation must be open.
fn check_preserved_fds(listen_fds: u32, count: u32) -> Result<(), ArgumentError> {
    for index in 0..count {
        let fd = 3 + listen_fds + index;
        if fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_err() {
            return Err(ArgumentError::PreservedFd { index, count, fd });
        }
    }
    Ok(())
}

/// Sends a process's handle to whoever listens at `path`.
fn send_pidfd(path: Option<&Path>, pidfd: BorrowedFd<'_>) -> Result<(), Error> {
    let option = "--pidfd-socket";
    if let (Some(socket), Some(path)) = (create::connect(option, path)?, path) {
        berth_sys::socket::send_fd(socket.as_fd(), b"pidfd", pidfd).map_err(|source| {
            ArgumentError::Socket {
                option,
                path: path.to_path_buf(),
                source,
            }
        })?;
    }
    Ok(())
}

/// Compiles the container's seccomp profile, if it has one.
fn filter(spec: &Spec) -> Result<Option<Program>, Error> {
    let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(None);
    };
    let program = Cache::new(runtime_file("berth.seccomp")?).compile(profile)?;
    // In runc's words.
    log::debug(&format!("seccomp filter flags: {}", program.flags));
    if let Some(name) = program.ignored.first()
        && annotations::get(spec, annotations::SECCOMP_UNKNOWN).is_some()
    {
        return Err(ArgumentError::UnknownCall { name: name.clone() }.into());
    }
    for name in &program.ignored {
        log::debug(&format!("unknown seccomp syscall {name:?} ignored"));
    }
    Ok(Some(program))
}

/// Says what a refused operation on a cgroup most likely is for want of.
fn warn_of_permission(verb: &str, error: &ContainerError) {
    if let ContainerError::Freeze { source }
    | ContainerError::Thaw { source }
    | ContainerError::Pids { source } = error
        && let CgroupError::Io {
            source: Errno::EACCES | Errno::EPERM,
            ..
        } = source
    {
        log::warn(&format!(
            "{} {verb} failure might be caused by lack of full access to cgroups",
            name::get()
        ));
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
                // Writing to a String cannot fail.
                let _ = write!(text, "\\u{:04x}", u32::from(c));
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
    fn options_may_follow_the_id_and_exec_leaves_the_commands_alone() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().command.unwrap();
        let Command::Create(create) = parse("berth create c1 --bundle /b --pid-file /p") else {
            unreachable!()
        };
        assert_eq!(
            (create.ids, create.shared.bundle),
            (vec!["c1".to_owned()], Some("/b".into()))
        );
        let Command::Exec(exec) = parse("berth exec -e A=1 --user 1:2 c1 ls -e --user") else {
            unreachable!()
        };
        assert_eq!(exec.arguments, ["c1", "ls", "-e", "--user"]);
        assert_eq!(exec.env, ["A=1"]);
        let Command::Kill(kill) = parse("berth kill --all c1 9") else {
            unreachable!()
        };
        assert!(kill.all);
        assert_eq!(kill.arguments, ["c1", "9"]);
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
