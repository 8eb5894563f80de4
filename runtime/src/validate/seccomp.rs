//! `linux.seccomp`: rules that cannot be loaded or would hang the container.

use berth_spec::{LinuxSeccompAction, Spec};

use super::{Invalid, linux};
use crate::host::HostFacts;

/// Most arguments a system call has (seccomp(2), struct seccomp_data).
const ARGUMENTS: usize = 6;
/// Largest error number a filter can return (seccomp(2)).
const LARGEST_ERRNO: u32 = 4095;

/// config-linux.md "Seccomp".
pub(super) fn seccomp(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    use LinuxSeccompAction::{ScmpActErrno, ScmpActNotify, ScmpActTrace};
    let Some(seccomp) = linux(spec).and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(());
    };
    let root = "linux.seccomp";
    if seccomp.default_action() == ScmpActNotify {
        let problem =
            "SCMP_ACT_NOTIFY cannot be used as default action: notify of single system calls instead";
        return Err(Invalid::new(format_args!("{root}.defaultAction"), problem));
    }
    let takes_errno = |action| matches!(action, ScmpActErrno | ScmpActTrace);
    let errno = |field: String, action: LinuxSeccompAction, value: Option<u32>| match value {
        Some(value) if value > 0 && !takes_errno(action) => Err(Invalid::new(
            field,
            "only SCMP_ACT_ERRNO and SCMP_ACT_TRACE return a value: remove it",
        )),
        Some(value) if value > LARGEST_ERRNO && action == ScmpActErrno => Err(Invalid::new(
            field,
            format_args!("{value} is no error number: at most {LARGEST_ERRNO}"),
        )),
        _ => Ok(()),
    };
    errno(
        format!("{root}.defaultErrnoRet"),
        seccomp.default_action(),
        seccomp.default_errno_ret(),
    )?;
    let rules = seccomp.syscalls().as_deref().unwrap_or_default();
    for (index, rule) in rules.iter().enumerate() {
        let at = |name: &str| format!("{root}.syscalls[{index}].{name}");
        if rule.names().is_empty() || rule.names().iter().any(String::is_empty) {
            return Err(Invalid::new(
                at("names"),
                "a system call without a name: name it or remove the rule",
            ));
        }
        errno(at("errnoRet"), rule.action(), rule.errno_ret())?;
        if rule.action() == ScmpActNotify && rule.names().iter().any(|name| name == "write") {
            // The init would wait for its own listener.
            return Err(Invalid::new(
                at("names"),
                "SCMP_ACT_NOTIFY cannot be used for the write syscall: remove it",
            ));
        }
        for (position, argument) in rule.args().iter().flatten().enumerate() {
            if argument.index() >= ARGUMENTS {
                let field = format!("{}[{position}].index", at("args"));
                return Err(Invalid::new(
                    field,
                    format_args!("{} is out of range: use 0 to 5", argument.index()),
                ));
            }
        }
    }
    let notifies = rules.iter().any(|rule| rule.action() == ScmpActNotify);
    let path = seccomp
        .listener_path()
        .as_ref()
        .filter(|path| !path.as_os_str().is_empty());
    match path {
        None if notifies => {
            let problem = "required with SCMP_ACT_NOTIFY: name the unix socket of the agent that decides";
            Err(Invalid::new(format_args!("{root}.listenerPath"), problem))
        }
        None if seccomp
            .listener_metadata()
            .as_ref()
            .is_some_and(|text| !text.is_empty()) =>
        {
            let problem = "listenerMetadata without listenerPath reaches nobody: add the path or remove it";
            Err(Invalid::new(format_args!("{root}.listenerMetadata"), problem))
        }
        _ => Ok(()),
    }
}
