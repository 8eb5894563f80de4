//! memory.limit_in_bytes, memory.memsw.limit_in_bytes, memory.soft_limit_in_bytes, memory.swappiness,
//! memory.oom_control.

use berth_spec::LinuxResources;

use crate::CgroupError;
use crate::resources::{Ignored, Limit, limit};
use crate::v2::memory::note_obsolete;
use crate::write::Write;

const LIMIT: &str = "linux.resources.memory.limit";
const SWAP: &str = "linux.resources.memory.swap";
const RESERVATION: &str = "linux.resources.memory.reservation";
const SWAPPINESS: &str = "linux.resources.memory.swappiness";

/// Memory before memory+swap, as lowering needs it; `write::apply` turns the two round when raising.
pub(crate) fn writes(
    resources: &LinuxResources,
    ignored: &mut Vec<Ignored>,
) -> Result<Vec<Write>, CgroupError> {
    let Some(memory) = resources.memory() else {
        return Ok(Vec::new());
    };
    note_obsolete(memory, ignored);
    let mut writes = Vec::new();
    let (bytes, total) = (limit(LIMIT, memory.limit())?, limit(SWAP, memory.swap())?);
    if let (Some(Limit::At(bytes)), Some(Limit::At(total))) = (bytes, total)
        && total < bytes
    {
        let reason =
            format!("{total} limits memory and swap together and must be at least memory.limit ({bytes})");
        return Err(CgroupError::invalid(SWAP, reason));
    }
    if let Some(value) = bytes {
        writes.push(write("memory.limit_in_bytes", value, LIMIT));
    }
    match (bytes, total) {
        // No limit on memory alone means none on both.
        (Some(Limit::None), None) => writes.push(write("memory.memsw.limit_in_bytes", Limit::None, SWAP)),
        (_, Some(value)) => writes.push(write("memory.memsw.limit_in_bytes", value, SWAP)),
        _ => {}
    }
    if let Some(value) = limit(RESERVATION, memory.reservation())? {
        writes.push(write("memory.soft_limit_in_bytes", value, RESERVATION));
    }
    if memory.disable_oom_killer() == Some(true) {
        writes.push(Write::new(
            "memory.oom_control",
            1,
            "linux.resources.memory.disableOOMKiller",
        ));
    }
    match memory.swappiness() {
        Some(value @ 0..=100) => writes.push(Write::new("memory.swappiness", value, SWAPPINESS)),
        Some(value) => {
            return Err(CgroupError::invalid(
                SWAPPINESS,
                format!("{value} is not within 0 to 100"),
            ));
        }
        None => {}
    }
    Ok(writes)
}

fn write(file: &'static str, value: Limit, field: &'static str) -> Write {
    match value {
        Limit::None => Write::new(file, -1, field).optional(),
        Limit::At(bytes) => Write::new(file, bytes, field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let of = |memory: &str| {
            let resources = LinuxResources {
                memory: Some(berth_spec::read(memory.as_bytes()).unwrap().value),
                ..LinuxResources::default()
            };
            writes(&resources, &mut Vec::new())
                .map(|list| {
                    list.into_iter()
                        .map(|w| format!("{} {}", w.file, w.value))
                        .collect::<Vec<_>>()
                })
                .map_err(|error| error.to_string())
        };
        assert_eq!(
            of(
                r#"{"limit": 100, "swap": 200, "reservation": 50, "swappiness": 0, "disableOOMKiller": true}"#
            )
            .unwrap(),
            [
                "memory.limit_in_bytes 100",
                "memory.memsw.limit_in_bytes 200",
                "memory.soft_limit_in_bytes 50",
                "memory.oom_control 1",
                "memory.swappiness 0"
            ]
        );
        assert_eq!(
            of(r#"{"limit": -1}"#).unwrap(),
            ["memory.limit_in_bytes -1", "memory.memsw.limit_in_bytes -1"]
        );
        assert!(
            of(r#"{"limit": 100, "swap": 50}"#)
                .unwrap_err()
                .contains("must be at least memory.limit")
        );
        assert!(of(r#"{"swappiness": 101}"#).unwrap_err().contains("0 to 100"));
    }
}
