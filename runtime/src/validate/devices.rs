//! `linux.devices`, and `linux.resources.devices`.

use berth_spec::{LinuxDeviceType, Spec};

use super::{Invalid, linux};
use crate::host::HostFacts;

/// Device numbers have 12 and 20 bits in Linux (kdev_t.h).
const LARGEST_MAJOR: i64 = (1 << 12) - 1;
const LARGEST_MINOR: i64 = (1 << 20) - 1;

/// config-linux.md "Devices": what mknod(2) can make.
pub(super) fn nodes(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    for (index, device) in linux(spec)
        .and_then(|linux| linux.devices().as_ref())
        .into_iter()
        .flatten()
        .enumerate()
    {
        let at = |name: &str| format!("linux.devices[{index}].{name}");
        let path = device.path();
        if !path.is_absolute() || path.as_os_str().as_encoded_bytes().contains(&0) {
            return Err(Invalid::new(
                at("path"),
                format_args!(
                    "{:?} is not an absolute path: write /dev/NAME",
                    path.display().to_string()
                ),
            ));
        }
        match device.typ() {
            LinuxDeviceType::A => {
                return Err(Invalid::new(
                    at("type"),
                    "invalid device type \"a\": use c, b, u or p",
                ));
            }
            LinuxDeviceType::P => {}
            LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U => {
                number(&at("major"), device.major(), LARGEST_MAJOR)?;
                number(&at("minor"), device.minor(), LARGEST_MINOR)?;
            }
        }
        if device.file_mode().is_some_and(|mode| mode & !0o777_7777 != 0) {
            return Err(Invalid::new(
                at("fileMode"),
                "has bits beyond a file mode: use permission bits such as 438 (octal 666)",
            ));
        }
    }
    Ok(())
}

fn number(field: &str, value: i64, largest: i64) -> Result<(), Invalid> {
    if (0..=largest).contains(&value) {
        return Ok(());
    }
    Err(Invalid::new(
        field,
        format_args!("{value} is out of range: use 0 to {largest}"),
    ))
}

/// config-linux.md "Allowed Device list": absent or -1 is any number.
pub(super) fn rules(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let rules = linux(spec)
        .and_then(|linux| linux.resources().as_ref())
        .and_then(|all| all.devices().as_ref());
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let at = |name: &str| format!("linux.resources.devices[{index}].{name}");
        if matches!(rule.typ(), Some(LinuxDeviceType::U | LinuxDeviceType::P)) {
            return Err(Invalid::new(
                at("type"),
                "invalid cgroup device type: use a, b or c",
            ));
        }
        for (name, value, largest) in [
            ("major", rule.major(), LARGEST_MAJOR),
            ("minor", rule.minor(), LARGEST_MINOR),
        ] {
            if let Some(value) = value.filter(|value| *value != -1) {
                number(&at(name), value, largest)?;
            }
        }
        let access = rule.access().as_deref().unwrap_or_default();
        if access.is_empty() {
            let problem = format!("device access at {index} field cannot be empty: use letters of \"rwm\"");
            return Err(Invalid::new(at("access"), problem));
        }
        // `a` gives nothing; configurations that runc takes have it.
        if let Some(letter) = access.chars().find(|letter| !"rwma".contains(*letter)) {
            return Err(Invalid::new(
                at("access"),
                format_args!("unknown access {letter:?}: use letters of \"rwm\""),
            ));
        }
    }
    Ok(())
}
