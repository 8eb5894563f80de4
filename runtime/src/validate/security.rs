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

/// The same of the label of mounts (config-linux.md "Mount Label").
pub(super) fn mount_label(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let label = linux(spec).and_then(|linux| linux.mount_label().as_deref());
    if label.is_some_and(|label| !label.is_empty()) && !host.selinux {
        let problem = "a mount label is specified in config, but selinux is disabled or not supported: remove it or \
                       boot with selinux";
        return Err(Invalid::new("linux.mountLabel", problem));
    }
    Ok(())
}

/// config-linux.md "IntelRdt": a group of resctrl, named by one directory.
pub(super) fn intel_rdt(spec: &Spec, host: &HostFacts) -> Result<(), Invalid> {
    let Some(rdt) = linux(spec).and_then(|linux| linux.intel_rdt().as_ref()) else {
        return Ok(());
    };
    let Some(found) = &host.resctrl else {
        let problem = "is specified in config, but Intel RDT is not enabled: mount resctrl on /sys/fs/resctrl or \
                       remove it";
        return Err(Invalid::new("linux.intelRdt", problem));
    };
    let name = rdt.clos_id().as_deref().unwrap_or_default();
    if name == "." || name == ".." || (name.len() > 1 && name.contains('/')) {
        let problem = format!("invalid intelRdt.ClosID {name:?}: use a plain name");
        return Err(Invalid::new("linux.intelRdt.closID", problem));
    }
    let (cache, bandwidth) = (rdt.l3_cache_schema().as_deref(), rdt.mem_bw_schema().as_deref());
    let present = |schema: Option<&str>| schema.is_some_and(|schema| !schema.is_empty());
    if present(cache) && !found.cache {
        let problem = "is specified in config, but Intel RDT/CAT is not enabled: remove it";
        return Err(Invalid::new("linux.intelRdt.l3CacheSchema", problem));
    }
    if present(bandwidth) && !found.bandwidth {
        let problem = "is specified in config, but Intel RDT/MBA is not enabled: remove it";
        return Err(Invalid::new("linux.intelRdt.memBwSchema", problem));
    }
    if let Some(schema) = bandwidth.filter(|schema| !schema.is_empty() && !schema.starts_with("MB:")) {
        let problem = format!("{schema:?} must start with \"MB:\"");
        return Err(Invalid::new("linux.intelRdt.memBwSchema", problem));
    }
    let lists = rdt.schemata().iter().flatten().map(String::as_str);
    let fields = [
        ("linux.intelRdt.l3CacheSchema", cache),
        ("linux.intelRdt.memBwSchema", bandwidth),
    ];
    let single = fields
        .into_iter()
        .filter_map(|(field, schema)| Some((field, schema?)));
    let mut all = single.chain(lists.map(|schema| ("linux.intelRdt.schemata", schema)));
    match all.find(|(_, schema)| schema.contains('\n')) {
        Some((field, _)) => Err(Invalid::new(
            field,
            "must not contain newlines: give a line an element",
        )),
        None => Ok(()),
    }
}
