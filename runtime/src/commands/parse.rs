//! From the words of the command line to [`Cli`]: the short way that engines take, and runc's forms of flags.

use std::ffi::OsString;

use clap::{Arg, ArgAction, Args, CommandFactory, FromArgMatches};

use super::{Cli, GlobalArgs, create, delete, exec, kill, run, start, state};

/// Parses `arguments`, the program's name among them.
///
/// # Errors
///
/// What is wrong with them, or a text that was asked for, such as that of `--help`.
pub(super) fn command_line(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let rewritten = with_two_dashes(arguments);
    let arguments = rewritten.as_deref().unwrap_or(arguments);
    if let Some(cli) = parse_one(arguments) {
        return Ok(cli);
    }
    super::with_layout()
        .try_get_matches_from(arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .or_else(|error| parse_with_values(arguments).ok_or(error))
}

/// The command line with a second dash for long options that have one, as Go's programs take them: go-runc, and so
/// containerd's own shim, calls `restore -no-subreaper`. `None` where there are none, up to the first operand of the verb,
/// since what follows may be another program's.
fn with_two_dashes(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let may_be = |argument: &OsString| {
        matches!(
            argument.as_encoded_bytes(),
            [b'-', b'a'..=b'z', b'a'..=b'z' | b'-', ..]
        )
    };
    if !arguments.iter().any(may_be) {
        return None;
    }
    let definition = Cli::command();
    let mut command = &definition;
    let mut words = arguments.to_vec();
    let mut changed = false;
    let mut at = 1;
    while let Some(word) = words.get(at).and_then(|word| word.to_str()).map(str::to_owned) {
        at += 1;
        if word == "--" {
            break;
        }
        let Some(dashed) = word.strip_prefix('-') else {
            let Some(verb) = command.find_subcommand(&word) else {
                break;
            };
            command = verb;
            continue;
        };
        let long = dashed.strip_prefix('-');
        let (name, value) = match long.unwrap_or(dashed).split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (long.unwrap_or(dashed), None),
        };
        let is_named = |option: &&Arg| {
            option.get_long() == Some(name) || option.get_short().is_some_and(|c| name == c.to_string())
        };
        // Whatever is not known here is told as wrong where the whole is parsed.
        let Some(option) = command.get_arguments().find(is_named) else {
            continue;
        };
        if long.is_none() && name.len() > 1 {
            words[at - 1] = format!("-{word}").into();
            changed = true;
        }
        if value.is_none() && option.get_action().takes_values() {
            at += 1;
        }
    }
    changed.then_some(words)
}

/// Parses the command line with the one verb that is named in it, for those that engines call all the time: to set up
/// the definitions of all the others takes longer than the parsing. Whatever does not fit is the whole parser's matter,
/// which tells what is wrong.
fn parse_one(arguments: &[OsString]) -> Option<Cli> {
    let (name, define): (_, fn(clap::Command) -> clap::Command) =
        arguments.iter().skip(1).find_map(|argument| {
            Some(match argument.to_str()? {
                "create" => ("create", create::CreateArgs::augment_args as _),
                "delete" => ("delete", delete::DeleteArgs::augment_args as _),
                "exec" => ("exec", exec::ExecArgs::augment_args as _),
                "kill" => ("kill", kill::KillArgs::augment_args as _),
                "run" => ("run", run::RunArgs::augment_args as _),
                "start" => ("start", start::StartArgs::augment_args as _),
                "state" => ("state", state::StateArgs::augment_args as _),
                _ => return None,
            })
        })?;
    let mut command = GlobalArgs::augment_args(clap::Command::new("berth").disable_version_flag(true))
        .subcommand(define(clap::Command::new(name)));
    let matches = command.try_get_matches_from_mut(arguments).ok()?;
    // Taking the definitions apart again would cost more than they did.
    std::mem::forget(command);
    Cli::from_arg_matches(&matches).ok()
}

/// Parses the command line with flags that have a value, `--force=false`, as Go's programs take them. Help and
/// completions do not show that form, hence it is looked at only where the usual one does not fit.
fn parse_with_values(arguments: &[OsString]) -> Option<Cli> {
    let has_value = |argument: &OsString| {
        argument
            .to_str()
            .is_some_and(|text| text.starts_with('-') && text.contains('='))
    };
    if !arguments.iter().any(has_value) {
        return None;
    }
    let matches = with_values(Cli::command()).try_get_matches_from(arguments).ok()?;
    Cli::from_arg_matches(&matches).ok()
}

/// `command` whose flags, and those of its verbs, take `=VALUE`.
fn with_values(command: clap::Command) -> clap::Command {
    let flag = |argument: Arg| match argument.get_action() {
        ArgAction::SetTrue => argument
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .default_value("false")
            .default_missing_value("true")
            .value_parser(boolean),
        _ => argument,
    };
    command.mut_args(flag).mut_subcommands(with_values)
}

/// The words for true and false that Go's `strconv.ParseBool` knows.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("neither true nor false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Command;
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        command_line(&words)
    }

    fn is_forced(line: &str) -> Option<bool> {
        match parse(line).ok()?.command {
            Some(Command::Delete(args)) => Some(args.force),
            _ => None,
        }
    }

    #[test]
    fn one_verb_is_parsed_as_all_are() {
        let lines = [
            "create c1 --bundle /b --pid-file /p",
            "--root /r --log l --log-format json --debug create c1",
            "exec -e A=1 --user 1:2 -t -d c1 ls -e --user",
            "--root start exec c1 run",
            "run --keep c1",
            "start c1",
            "state c1 c2",
            "kill --all c1 9",
            "delete -f c1",
            "--systemd-cgroup --rootless true delete c1",
        ];
        for line in lines {
            let arguments: Vec<OsString> = format!("berth {line}").split(' ').map(Into::into).collect();
            let whole = Cli::try_parse_from(&arguments).unwrap();
            let one = parse_one(&arguments);
            // The value of an option may look like a verb; then all of them are tried.
            assert_eq!(one.is_none(), line.contains("--root start"), "{line}");
            if let Some(one) = one {
                assert_eq!(format!("{one:?}"), format!("{whole:?}"));
            }
        }
        for line in [
            "run --help",
            "run --nosuch",
            "list",
            "--version",
            "help run",
            "--bad run",
        ] {
            let arguments: Vec<OsString> = format!("berth {line}").split(' ').map(Into::into).collect();
            assert!(parse_one(&arguments).is_none(), "{line}");
        }
    }

    #[test]
    fn flags_may_have_a_value() {
        assert_eq!(is_forced("berth delete c"), Some(false));
        assert_eq!(is_forced("berth delete --force c"), Some(true));
        assert_eq!(is_forced("berth delete --force=true c"), Some(true));
        assert_eq!(is_forced("berth delete --force=T c"), Some(true));
        assert_eq!(is_forced("berth delete --force=false c"), Some(false));
        assert_eq!(is_forced("berth delete -f=0 c"), Some(false));
        assert_eq!(is_forced("berth delete --force=perhaps c"), None);
        assert!(parse("berth --debug=true delete c").is_ok_and(|cli| cli.global.debug));
        assert!(parse("berth --debug=false list --quiet=true").is_ok_and(|cli| !cli.global.debug));
    }

    #[test]
    fn long_options_may_have_one_dash() {
        for (one, two) in [
            (
                "-root /r restore -no-subreaper -detach -bundle /b c",
                "--root /r restore --no-subreaper --detach --bundle /b c",
            ),
            (
                "exec -cap CAP_KILL -env A=-user -user 1:2 -pid-file=/p c ls -all -user",
                "exec --cap CAP_KILL --env A=-user --user 1:2 --pid-file=/p c ls -all -user",
            ),
            (
                "-root log -log root list -quiet",
                "--root log --log root list --quiet",
            ),
            ("delete -force=false c", "delete --force=false c"),
        ] {
            let parsed = |line: &str| format!("{:?}", parse(&format!("berth {line}")).unwrap());
            assert_eq!(parsed(one), parsed(two), "{one}");
        }
        for left_alone in [
            "exec -td c ls -all",
            "kill -a c -kill",
            "exec c -root",
            "list -- -quiet",
        ] {
            let words: Vec<OsString> = format!("berth {left_alone}").split(' ').map(Into::into).collect();
            assert_eq!(with_two_dashes(&words), None, "{left_alone}");
        }
        assert!(parse("berth delete -forced c").is_err());
    }

    #[test]
    fn the_containers_own_arguments_are_left_alone() {
        let cli = parse("berth exec --tty=false c program --tty=true --force=false").unwrap();
        let Some(Command::Exec(args)) = cli.command else {
            panic!("not exec: {cli:?}");
        };
        assert!(
            format!("{args:?}").contains("\"--tty=true\", \"--force=false\""),
            "{args:?}"
        );
    }

    #[test]
    fn mistakes_are_told_as_without_values() {
        let error = parse("berth delete --forced=true c").unwrap_err();
        assert!(error.to_string().contains("--forced"), "{error}");
    }
}
