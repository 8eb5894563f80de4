//! `process.capabilities`.

use berth_spec::{Capability, Spec};

use super::{Invalid, process};
use crate::host::HostFacts;

/// capset(2) refuses an effective capability that is not permitted. Ambient ones beyond permitted and inheritable
/// are dropped instead, as with runc: its own `spec` wrote such sets for years.
pub(super) fn effective_are_permitted(spec: &Spec, _: &HostFacts) -> Result<(), Invalid> {
    let Some(sets) = process(spec).and_then(|process| process.capabilities().as_ref()) else {
        return Ok(());
    };
    let permitted = sets.permitted().as_ref();
    let missing = sets
        .effective()
        .iter()
        .flatten()
        .find(|capability| !permitted.is_some_and(|permitted| permitted.contains(*capability)));
    match missing {
        Some(capability) => Err(Invalid::new(
            "process.capabilities.effective",
            format_args!(
                "CAP_{capability} is not in process.capabilities.permitted: add it there or remove it here"
            ),
        )),
        None => Ok(()),
    }
}

/// All names that a configuration may use, sorted by number, as capabilities(7) lists them.
pub fn capability_names() -> Vec<String> {
    Capability::ALL
        .iter()
        .map(|capability| format!("CAP_{capability}"))
        .collect()
}
