//! net_cls.classid, net_prio.ifpriomap: v1 only.

use berth_spec::LinuxResources;

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

// One signature for all subjects.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn class(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    let class = resources
        .network()
        .as_ref()
        .and_then(berth_spec::LinuxNetwork::class_id)
        .filter(|class| *class != 0);
    Ok(class
        .map(|class| Write::new("net_cls.classid", class, "linux.resources.network.classID"))
        .into_iter()
        .collect())
}

pub(crate) fn priorities(
    resources: &LinuxResources,
    _: &mut Vec<Ignored>,
) -> Result<Vec<Write>, CgroupError> {
    let list = resources
        .network()
        .as_ref()
        .and_then(|network| network.priorities().as_ref());
    let mut writes = Vec::new();
    for (index, one) in list.into_iter().flatten().enumerate() {
        let field = format!("linux.resources.network.priorities[{index}]");
        if one.name().is_empty() || one.name().contains(char::is_whitespace) {
            return Err(CgroupError::invalid(
                field,
                format!("{:?} is not the name of a network interface", one.name()),
            ));
        }
        writes.push(Write::named(
            "net_prio.ifpriomap",
            format!("{} {}", one.name(), one.priority()),
            field,
        ));
    }
    Ok(writes)
}
