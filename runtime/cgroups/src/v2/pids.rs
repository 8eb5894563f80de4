//! pids.max: the same in v1 and v2.

use berth_spec::{LinuxPids, LinuxResources};

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

const LIMIT: &str = "linux.resources.pids.limit";

// One signature for all subjects.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    let Some(limit) = resources.pids().as_ref().and_then(LinuxPids::limit) else {
        return Ok(Vec::new());
    };
    Ok(vec![match limit {
        // As runc 1.5: 0 is the smallest limit (the container's own process), negative means none.
        0 => Write::new("pids.max", 1, LIMIT),
        limit if limit > 0 => Write::new("pids.max", limit, LIMIT),
        _ => Write::new("pids.max", "max", LIMIT).optional(),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let written = |limit| {
            let resources = LinuxResources {
                pids: Some(LinuxPids { limit }),
                ..LinuxResources::default()
            };
            let writes = writes(&resources, &mut Vec::new()).unwrap();
            writes.into_iter().map(|write| write.value).collect::<Vec<_>>()
        };
        for (limit, want) in [(20, "20"), (0, "1"), (-1, "max"), (-7, "max")] {
            assert_eq!(written(Some(limit)), [want]);
        }
        assert!(written(None).is_empty(), "no limit is asked for");
    }
}
