//! `hooks`.

use berth_spec::{Hook, Spec};

use super::Invalid;
use super::process::environment_problem;
use crate::host::HostFacts;

/// config.md "POSIX-platform Hooks": absolute paths, timeouts above zero.
pub(super) fn hooks(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    let lists: [(&str, &Option<Vec<Hook>>); 6] = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (name, list) in lists {
        for (index, hook) in list.iter().flatten().enumerate() {
            check(hook, &|field| format!("hooks.{name}[{index}].{field}"))?;
        }
    }
    Ok(())
}

fn check(hook: &Hook, at: &dyn Fn(&str) -> String) -> Result<(), Invalid> {
    let path = hook.path();
    if !path.is_absolute() {
        let problem = format!(
            "{:?} is not an absolute path: put a / before it",
            path.display().to_string()
        );
        return Err(Invalid::new(at("path"), problem));
    }
    if let Some(timeout) = hook.timeout().filter(|timeout| *timeout <= 0) {
        return Err(Invalid::new(
            at("timeout"),
            format_args!("{timeout} is not above 0: give seconds or remove it"),
        ));
    }
    for (index, entry) in hook.env().iter().flatten().enumerate() {
        if let Some(problem) = environment_problem(entry) {
            return Err(Invalid::new(format!("{}[{index}]", at("env")), problem));
        }
    }
    Ok(())
}
