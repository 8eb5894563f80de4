//! `process`: what runs.

use berth_spec::Spec;

use super::{Invalid, process};
use crate::host::HostFacts;

/// runc starts nothing without `process`, and neither do we: a container's init is this process.
pub(super) fn required(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    match process(spec) {
        Some(_) => Ok(()),
        None => Err(Invalid::new(
            "process",
            "property must not be empty: say what to run",
        )),
    }
}

/// config.md "Process": at least one argument, and none that execve(2) cannot take.
pub(super) fn arguments(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(args) = process(spec).map(|process| process.args().as_deref().unwrap_or_default()) else {
        return Ok(());
    };
    match args.first() {
        None => {
            return Err(Invalid::new(
                "process.args",
                "args must not be empty: name the program to run",
            ));
        }
        Some(program) if program.is_empty() => {
            return Err(Invalid::new(
                "process.args[0]",
                "is empty: name the program to run",
            ));
        }
        Some(_) => {}
    }
    match args.iter().position(|arg| arg.contains('\0')) {
        Some(index) => Err(Invalid::new(
            format_args!("process.args[{index}]"),
            "contains a null byte: remove it",
        )),
        None => Ok(()),
    }
}

/// config.md "Process": `cwd` MUST be an absolute path.
pub(super) fn working_directory(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(cwd) = process(spec).map(berth_spec::Process::cwd) else {
        return Ok(());
    };
    if cwd.as_os_str().is_empty() {
        return Err(Invalid::new(
            "process.cwd",
            "Cwd property must not be empty: use \"/\"",
        ));
    }
    if !cwd.is_absolute() {
        let problem = format_args!(
            "{:?}: Cwd must be an absolute path: put a / before it",
            cwd.display()
        )
        .to_string();
        return Err(Invalid::new("process.cwd", problem));
    }
    Ok(())
}

/// Entries are NAME=VALUE (environ(7)).
pub(super) fn environment(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let entries = process(spec).and_then(|process| process.env().as_ref());
    for (index, entry) in entries.into_iter().flatten().enumerate() {
        if let Some(problem) = environment_problem(entry) {
            return Err(Invalid::new(format_args!("process.env[{index}]"), problem));
        }
    }
    Ok(())
}

pub(super) fn environment_problem(entry: &str) -> Option<String> {
    match entry.split_once('=') {
        _ if entry.contains('\0') => Some("contains a null byte: remove it".to_owned()),
        None => Some(format!(
            "invalid environment variable {entry:?}: missing '=': write NAME=VALUE"
        )),
        Some(("", _)) => Some(format!(
            "invalid environment variable {entry:?}: its name is empty: write NAME=VALUE"
        )),
        Some(_) => None,
    }
}

/// ioctl_tty(2) sizes are 16 bits wide.
pub(super) fn console_size(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(size) = process(spec).and_then(berth_spec::Process::console_size) else {
        return Ok(());
    };
    for (name, value) in [("height", size.height()), ("width", size.width())] {
        if value > u64::from(u16::MAX) {
            let field = format!("process.consoleSize.{name}");
            return Err(Invalid::new(
                field,
                format_args!("{value} is too large: at most {}", u16::MAX),
            ));
        }
    }
    Ok(())
}

/// umask(2) takes permission bits.
pub(super) fn umask(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    match process(spec).and_then(|process| process.user().umask()) {
        Some(umask) if umask > 0o777 => Err(Invalid::new(
            "process.user.umask",
            format_args!("{umask} has more than permission bits: at most 511 (octal 777)"),
        )),
        _ => Ok(()),
    }
}
