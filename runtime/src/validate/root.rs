//! Fields of the document itself.

use berth_spec::Spec;

use super::Invalid;
use crate::annotations;
use crate::host::HostFacts;

/// config.md "Specification version": MUST be SemVer 2.0.0; all releases of one major version fit together.
pub(super) fn version(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let version = spec.version();
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = core.split('.').map(str::parse::<u32>);
    let parts = (numbers.next(), numbers.next(), numbers.next(), numbers.next());
    match parts {
        (Some(Ok(1)), Some(Ok(_)), Some(Ok(_)), None) => Ok(()),
        (Some(Ok(_)), Some(Ok(_)), Some(Ok(_)), None) => Err(Invalid::new(
            "ociVersion",
            format_args!(
                "{version:?} is not supported: this runtime implements 1.0.0 to {}",
                crate::spec::OCI_VERSION
            ),
        )),
        _ => Err(Invalid::new(
            "ociVersion",
            format_args!("{version:?} is not a version: write it as \"1.2.0\""),
        )),
    }
}

/// config.md "Annotations": keys MUST NOT be empty.
pub(super) fn annotations(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    if spec
        .annotations()
        .as_ref()
        .is_some_and(|annotations| annotations.contains_key(""))
    {
        return Err(Invalid::new(
            "annotations",
            "a key is empty: give it a name or remove it",
        ));
    }
    let invalid =
        |name: &str, problem: &str| Err(Invalid::new(format_args!("annotations[{name:?}]"), problem));
    for (name, instead) in annotations::REFUSED {
        if annotations::get(spec, name).is_some() {
            return invalid(name, instead);
        }
    }
    for name in [
        annotations::HOOKS_STDOUT,
        annotations::HOOKS_STDERR,
        annotations::PIDFD_RECEIVER,
        annotations::SECCOMP_RECEIVER,
    ] {
        if annotations::get(spec, name).is_some_and(|path| !path.starts_with('/')) {
            return invalid(name, "is not absolute: put a / before it");
        }
    }
    if !annotations::CONTEXT_TYPES.contains(&annotations::context_type(spec)) {
        let problem = "use context, fscontext, defcontext or rootcontext";
        return invalid(annotations::CONTEXT_TYPE, problem);
    }
    for (name, value) in annotations::systemd_properties(spec) {
        if !annotations::is_property_name(name) || value.trim().is_empty() {
            let key = format!("{}{name}", annotations::SYSTEMD_PROPERTY);
            return invalid(
                &key,
                "write a property's name, of letters, and its value in GVariant's text format",
            );
        }
    }
    Ok(())
}
