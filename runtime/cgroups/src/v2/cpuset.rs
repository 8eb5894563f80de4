//! cpuset.cpus, cpuset.mems: the same in v1 and v2.

use berth_spec::LinuxResources;

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    let Some(cpu) = resources.cpu() else {
        return Ok(Vec::new());
    };
    let mut writes = Vec::new();
    let wanted = [
        ("cpuset.cpus", cpu.cpus(), "linux.resources.cpu.cpus"),
        ("cpuset.mems", cpu.mems(), "linux.resources.cpu.mems"),
    ];
    for (file, list, field) in wanted {
        if let Some(list) = list.as_deref().map(str::trim).filter(|list| !list.is_empty()) {
            check(list, field)?;
            writes.push(Write::new(file, list, field));
        }
    }
    Ok(writes)
}

/// "0-3,8": numbers and ranges. The kernel would answer EINVAL, or take a newline for the end.
fn check(list: &str, field: &'static str) -> Result<(), CgroupError> {
    let number = |text: &str| text.parse::<u32>().ok().filter(|_| !text.starts_with('+'));
    for part in list.split(',') {
        // The kernel also knows 0-31:2/8 (every group of eight, the first two).
        let (range, groups) = part
            .split_once(':')
            .map_or((part, None), |(range, groups)| (range, Some(groups)));
        let range = range.split_once('-').map_or_else(
            || number(range).is_some(),
            |(first, last)| matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last),
        );
        let groups = groups.is_none_or(|groups| {
            groups
                .split_once('/')
                .is_some_and(|(used, size)| number(used).is_some() && number(size).is_some())
        });
        if !range || !groups {
            return Err(CgroupError::invalid(
                field,
                format!("{part:?} is not a number or a range such as 0-3"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        for good in ["0", "0-3", "0,2-3,7", "0-31:2/8"] {
            assert!(check(good, "f").is_ok(), "{good}");
        }
        for bad in ["", "a", "3-1", "0-", "-1", "+1", "0\n1", "0;1", "0-3:2"] {
            assert!(check(bad, "f").is_err(), "{bad:?}");
        }
    }
}
