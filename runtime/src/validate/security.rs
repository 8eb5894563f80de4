//! What needs a security module or a processor feature.

use berth_spec::Spec;

use super::{Invalid, linux, process};
use crate::host::HostFacts;

/// A label that the host would ignore is a protection that is not there.
pub(super) fn labels(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let Some(process) = process(spec) else {
        return Ok(());
    };
    let given = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    if given(process.apparmor_profile()) && !host.apparmor {
        let problem = "apparmor profile is specified in config, but apparmor is disabled or not supported: remove it \
                       or boot with apparmor";
        return Err(Invalid::new("process.apparmorProfile", problem));
    }
    if given(process.selinux_label()) && !host.selinux {
        let problem = "selinux label is specified in config, but selinux is disabled or not supported: remove it or \
                       boot with selinux";
        return Err(Invalid::new("process.selinuxLabel", problem));
    }
    Ok(())
}

/// config-linux.md "IntelRdt": a group of resctrl, named by one directory.
pub(super) fn intel_rdt(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let Some(rdt) = linux(spec).and_then(|linux| linux.intel_rdt().as_ref()) else {
        return Ok(());
    };
    if !host.resctrl {
        let problem = "is specified in config, but Intel RDT is not enabled: mount resctrl on /sys/fs/resctrl or \
                       remove it";
        return Err(Invalid::new("linux.intelRdt", problem));
    }
    let name = rdt.clos_id().as_deref().unwrap_or_default();
    if name == "." || name == ".." || (name.len() > 1 && name.contains('/')) {
        let problem = format!("invalid intelRdt.ClosID {name:?}: use a plain name");
        return Err(Invalid::new("linux.intelRdt.closID", problem));
    }
    Ok(())
}
