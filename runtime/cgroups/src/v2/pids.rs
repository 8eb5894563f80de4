//! pids.max: the same in v1 and v2.

use berth_spec::LinuxResources;

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

const LIMIT: &str = "linux.resources.pids.limit";

// One signature for all subjects.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    let Some(pids) = resources.pids() else {
        return Ok(Vec::new());
    };
    Ok(vec![match pids.limit() {
        // As runc 1.5: 0 is the smallest limit (the container's own process), negative means none.
        0 => Write::new("pids.max", 1, LIMIT),
        limit if limit > 0 => Write::new("pids.max", limit, LIMIT),
        _ => Write::new("pids.max", "max", LIMIT).optional(),
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_spec::LinuxPids;

    #[test]
    fn values() {
        for (limit, want) in [(20, "20"), (0, "1"), (-1, "max"), (-7, "max")] {
            let resources = LinuxResources {
                pids: Some(LinuxPids { limit }),
                ..LinuxResources::default()
            };
            assert_eq!(writes(&resources, &mut Vec::new()).unwrap()[0].value, want);
        }
    }
}
