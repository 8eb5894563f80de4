//! memory.max, memory.swap.max, memory.low.

use berth_spec::{LinuxMemory, LinuxResources};

use crate::CgroupError;
use crate::resources::{Ignored, Limit, limit};
use crate::write::Write;

const LIMIT: &str = "linux.resources.memory.limit";
const SWAP: &str = "linux.resources.memory.swap";
const RESERVATION: &str = "linux.resources.memory.reservation";

pub(crate) fn writes(
    resources: &LinuxResources,
    ignored: &mut Vec<Ignored>,
) -> Result<Vec<Write>, CgroupError> {
    let Some(memory) = resources.memory() else {
        return Ok(Vec::new());
    };
    note_ignored(memory, ignored);
    let mut writes = Vec::new();
    // Swap first: a container that is over its new memory limit must not be pushed into swap that it is
    // about to lose.
    if let Some(swap) = swap(memory)? {
        let write = write("memory.swap.max", swap, SWAP);
        // Without swap accounting there is no swap to use, which is what 0 asks for.
        writes.push(if swap == Limit::At(0) {
            write.optional()
        } else {
            write
        });
    }
    if let Some(value) = limit(LIMIT, memory.limit())? {
        writes.push(write("memory.max", value, LIMIT));
    }
    if let Some(value) = limit(RESERVATION, memory.reservation())? {
        writes.push(write("memory.low", value, RESERVATION));
    }
    Ok(writes)
}

fn write(file: &'static str, value: Limit, field: &'static str) -> Write {
    match value {
        Limit::None => Write::new(file, "max", field).optional(),
        Limit::At(bytes) => Write::new(file, bytes, field),
    }
}

/// v2 limits swap alone, the configuration (as v1) memory and swap together.
fn swap(memory: &LinuxMemory) -> Result<Option<Limit>, CgroupError> {
    let total = limit(SWAP, memory.swap())?;
    match (limit(LIMIT, memory.limit())?, total) {
        // No limit on memory alone means none on both, as in v1.
        (Some(Limit::None), None) | (_, Some(Limit::None)) => Ok(Some(Limit::None)),
        (_, None) => Ok(None),
        (Some(Limit::None), Some(total)) => Ok(Some(total)),
        (None, Some(_)) => Err(CgroupError::invalid(
            SWAP,
            "limits memory and swap together, which needs memory.limit to be set, too",
        )),
        (Some(Limit::At(bytes)), Some(Limit::At(total))) => match total.checked_sub(bytes) {
            Some(rest) => Ok(Some(Limit::At(rest))),
            None => Err(CgroupError::invalid(
                SWAP,
                format!(
                    "{total} limits memory and swap together and must be at least memory.limit ({bytes})"
                ),
            )),
        },
    }
}

fn note_ignored(memory: &LinuxMemory, ignored: &mut Vec<Ignored>) {
    let mut note = |field, reason| ignored.push(Ignored { field, reason });
    if memory.swappiness().is_some() {
        note(
            "linux.resources.memory.swappiness",
            "cgroup v2 has no swappiness of a cgroup's own",
        );
    }
    if memory.disable_oom_killer() == Some(true) {
        note(
            "linux.resources.memory.disableOOMKiller",
            "cgroup v2 cannot turn the OOM killer off",
        );
    }
    note_obsolete(memory, ignored);
}

/// Kernel memory limits are gone from the kernel (5.16 and 6.x), and runc ignores them everywhere.
#[allow(deprecated)]
pub(crate) fn note_obsolete(memory: &LinuxMemory, ignored: &mut Vec<Ignored>) {
    let mut note = |field| {
        ignored.push(Ignored {
            field,
            reason: "kernels have no separate kernel memory limit any more",
        });
    };
    if memory.kernel().is_some_and(|bytes| bytes != 0) {
        note("linux.resources.memory.kernel");
    }
    if memory.kernel_tcp().is_some_and(|bytes| bytes != 0) {
        note("linux.resources.memory.kernelTCP");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(memory: &str) -> Result<Vec<(String, String)>, String> {
        let resources = LinuxResources {
            memory: Some(berth_spec::read(memory.as_bytes()).unwrap().value),
            ..LinuxResources::default()
        };
        let writes = writes(&resources, &mut Vec::new()).map_err(|error| error.to_string())?;
        Ok(writes
            .into_iter()
            .map(|write| (write.file.into_owned(), write.value))
            .collect())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(file, value)| ((*file).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn swap_is_memsw_minus_memory() {
        assert_eq!(of("{}"), Ok(pairs(&[])));
        assert_eq!(
            of(r#"{"limit": 100, "swap": 150, "reservation": 50}"#),
            Ok(pairs(&[
                ("memory.swap.max", "50"),
                ("memory.max", "100"),
                ("memory.low", "50")
            ]))
        );
        assert_eq!(
            of(r#"{"limit": 100, "swap": 100}"#),
            Ok(pairs(&[("memory.swap.max", "0"), ("memory.max", "100")]))
        );
        assert_eq!(of(r#"{"limit": 100}"#), Ok(pairs(&[("memory.max", "100")])));
        assert_eq!(
            of(r#"{"limit": -1}"#),
            Ok(pairs(&[("memory.swap.max", "max"), ("memory.max", "max")]))
        );
        assert_eq!(
            of(r#"{"limit": -1, "swap": 7}"#),
            Ok(pairs(&[("memory.swap.max", "7"), ("memory.max", "max")]))
        );
        assert_eq!(
            of(r#"{"limit": 9, "swap": -1}"#),
            Ok(pairs(&[("memory.swap.max", "max"), ("memory.max", "9")]))
        );
    }

    #[test]
    fn impossible_values() {
        for (bad, want) in [
            (
                r#"{"swap": 100}"#,
                "linux.resources.memory.swap: limits memory and swap together",
            ),
            (
                r#"{"limit": 100, "swap": 99}"#,
                "linux.resources.memory.swap: 99 limits memory and swap together",
            ),
            (r#"{"limit": -2}"#, "linux.resources.memory.limit: -2 is negative"),
            (
                r#"{"reservation": -5}"#,
                "linux.resources.memory.reservation: -5 is negative",
            ),
        ] {
            let error = of(bad).unwrap_err();
            assert!(error.starts_with(want), "{error}");
        }
    }
}
