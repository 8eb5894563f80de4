//! `linux.timeOffsets` (time_namespaces(7)).

use berth_spec::{LinuxNamespaceType, Spec};

use super::{Invalid, linux, namespace};
use crate::host::HostFacts;

const FIELD: &str = "linux.timeOffsets";

/// Offsets belong to a time namespace made for the container, and exist for two clocks.
pub(super) fn offsets(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(offsets) = linux(spec).and_then(|linux| linux.time_offsets().as_ref()) else {
        return Ok(());
    };
    if offsets.is_empty() {
        return Ok(());
    }
    let Some(entry) = namespace(spec, LinuxNamespaceType::Time) else {
        return Err(Invalid::new(
            FIELD,
            "time namespace offsets specified, but time namespace isn't enabled in the config: add \
             {\"type\": \"time\"} to linux.namespaces",
        ));
    };
    if entry
        .path()
        .as_ref()
        .is_some_and(|path| !path.as_os_str().is_empty())
    {
        return Err(Invalid::new(
            FIELD,
            "time namespace enabled, but both namespace path and time offsets specified: you may only provide one",
        ));
    }
    for (clock, offset) in offsets {
        if !["monotonic", "boottime"].contains(&clock.as_str()) {
            return Err(Invalid::new(
                format_args!("{FIELD}.{clock}"),
                "unknown clock: use monotonic or boottime",
            ));
        }
        if offset
            .nanosecs()
            .is_some_and(|nanoseconds| nanoseconds >= 1_000_000_000)
        {
            return Err(Invalid::new(
                format_args!("{FIELD}.{clock}.nanosecs"),
                "is a second or more: use secs",
            ));
        }
    }
    Ok(())
}
