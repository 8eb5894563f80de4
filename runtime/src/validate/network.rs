//! `linux.netDevices` (runtime-spec 1.3).

use berth_spec::{LinuxNamespaceType, Spec};

use super::{Invalid, linux, namespace};
use crate::host::HostFacts;

/// The kernel's rule for names of network devices (dev_valid_name in net/core/dev.c, IFNAMSIZ with its null byte).
fn is_valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < 16
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c.is_ascii_whitespace() || c == '\0')
}

/// Devices move into a network namespace, which takes privilege over it.
pub(super) fn devices(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let Some(devices) = linux(spec).and_then(|linux| linux.net_devices().as_ref()) else {
        return Ok(());
    };
    if devices.is_empty() {
        return Ok(());
    }
    let field = "linux.netDevices";
    if namespace(spec, LinuxNamespaceType::Network).is_none() {
        let problem = "unable to move network devices without a NET namespace: add {\"type\": \"network\"} to \
                       linux.namespaces";
        return Err(Invalid::new(field, problem));
    }
    if host.euid != 0 {
        let problem = "network devices are not supported for rootless containers: remove them or run as root";
        return Err(Invalid::new(field, problem));
    }
    let mut targets: Vec<&str> = Vec::with_capacity(devices.len());
    for (name, device) in devices {
        let target = device
            .name()
            .as_deref()
            .filter(|name| !name.is_empty())
            .unwrap_or(name);
        for (at, name) in [
            (format!("{field}.{name}"), name.as_str()),
            (format!("{field}.{name}.name"), target),
        ] {
            if !is_valid_name(name) {
                let problem =
                    format!("invalid network device name {name:?}: 1 to 15 bytes without blanks, / and :");
                return Err(Invalid::new(at, problem));
            }
        }
        // The kernel makes a name of a template.
        if !target.contains('%') && targets.contains(&target) {
            let problem = format!("two devices would be named {target:?}: give them different names");
            return Err(Invalid::new(format_args!("{field}.{name}.name"), problem));
        }
        targets.push(target);
    }
    Ok(())
}
