//! Annotations by which engines ask a runtime for what the specification has no field for: names, meaning, and which
//! of them must not be passed over. runtime/DESIGN.md lists all of runc's and crun's.

use std::path::{Path, PathBuf};

use berth_spec::Spec;

/// Present: the caller's additional groups stay (Podman, `--group-add keep-groups`).
pub const KEEP_GROUPS: &str = "run.oci.keep_original_groups";
/// A file that hooks of the runtime's namespaces write their standard output to.
pub const HOOKS_STDOUT: &str = "run.oci.hooks.stdout";
/// The same for standard error.
pub const HOOKS_STDERR: &str = "run.oci.hooks.stderr";
/// A socket that gets a handle of the container's process: the option `--pidfd-socket` in another place.
pub const PIDFD_RECEIVER: &str = "run.oci.pidfd_receiver";
/// A socket that gets the seccomp listener: `linux.seccomp.listenerPath` in another place.
pub const SECCOMP_RECEIVER: &str = "run.oci.seccomp.receiver";
/// Present: a system call of the profile that is not known is an error.
pub const SECCOMP_UNKNOWN: &str = "run.oci.seccomp_fail_unknown_syscall";
/// The mount option by which SELinux labels are given (mount(8)).
pub const CONTEXT_TYPE: &str = "run.oci.mount_context_type";
/// The words of [`CONTEXT_TYPE`].
pub const CONTEXT_TYPES: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];
/// Prefix of properties of the container's systemd unit.
pub const SYSTEMD_PROPERTY: &str = "org.systemd.property.";

/// Those that ask for another kind of container than Berth makes: without them it would run as nobody meant it.
pub const REFUSED: [(&str, &str); 4] = [
    (
        "run.oci.handler",
        "Berth runs processes, not virtual machines or modules: use crun with that handler",
    ),
    (
        "run.oci.seccomp.plugins",
        "Berth loads no libraries into itself: use linux.seccomp.listenerPath and an agent",
    ),
    (
        "run.oci.seccomp_bpf_data",
        "a filter is compiled from linux.seccomp: write it there",
    ),
    (
        "run.oci.systemd.force_cgroup_v1",
        "mount the hierarchy with an entry of mounts",
    ),
];

/// An annotation's value.
pub fn get<'a>(spec: &'a Spec, name: &str) -> Option<&'a str> {
    spec.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Puts what annotations say into the fields that mean the same, where these are empty.
pub fn apply(spec: &mut Spec) {
    let receiver = get(spec, SECCOMP_RECEIVER).map(PathBuf::from);
    if let (Some(path), Some(seccomp)) = (
        receiver,
        spec.linux.as_mut().and_then(|linux| linux.seccomp.as_mut()),
    ) && seccomp.listener_path.is_none()
    {
        seccomp.listener_path = Some(path);
    }
}

/// The mount option for SELinux labels.
pub fn context_type(spec: &Spec) -> &str {
    get(spec, CONTEXT_TYPE).unwrap_or(CONTEXT_TYPES[0])
}

/// The file that hooks write to, absolute, by its annotation.
pub fn hook_output<'a>(
    annotations: &'a std::collections::BTreeMap<String, String>,
    name: &str,
) -> Option<&'a Path> {
    annotations
        .get(name)
        .map(Path::new)
        .filter(|path| path.is_absolute())
}

/// Properties of the container's systemd unit, as `name` and value in GVariant's text format; the names are checked
/// by the validation.
pub fn systemd_properties(spec: &Spec) -> Vec<(&str, &str)> {
    let all = spec.annotations.iter().flatten();
    all.filter_map(|(key, value)| Some((key.strip_prefix(SYSTEMD_PROPERTY)?, value.as_str())))
        .collect()
}

/// Whether a unit's property can have this name: letters, at least three (runc's rule, which keeps an annotation from
/// setting anything but a property).
pub fn is_property_name(name: &str) -> bool {
    name.len() >= 3 && name.bytes().all(|byte| byte.is_ascii_alphabetic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Spec {
        berth_spec::read(text.as_bytes()).unwrap().value
    }

    #[test]
    fn a_receiver_is_a_listener_unless_there_is_one() {
        let text = |path: &str| {
            format!(
                r#"{{"annotations": {{"run.oci.seccomp.receiver": "/a"}}, "linux": {{"seccomp": {{"defaultAction": "SCMP_ACT_ALLOW"{path}}}}}}}"#
            )
        };
        let listener = |text: &str| {
            let mut spec = spec(text);
            apply(&mut spec);
            spec.linux.unwrap().seccomp.unwrap().listener_path
        };
        assert_eq!(listener(&text("")), Some("/a".into()));
        assert_eq!(listener(&text(r#", "listenerPath": "/b""#)), Some("/b".into()));
    }

    #[test]
    fn properties_of_units() {
        let spec = spec(
            r#"{"annotations": {"org.systemd.property.TimeoutStopUSec": "uint64 5", "org.example": "x",
                "org.systemd.property.CollectMode": "'inactive-or-failed'"}}"#,
        );
        let found = systemd_properties(&spec);
        assert_eq!(
            found,
            [
                ("CollectMode", "'inactive-or-failed'"),
                ("TimeoutStopUSec", "uint64 5")
            ]
        );
        assert!(is_property_name("CollectMode"));
        for bad in ["", "ab", "Collect Mode", "Collect\nMode", "X-Y", "Exec1"] {
            assert!(!is_property_name(bad), "{bad:?}");
        }
    }
}
