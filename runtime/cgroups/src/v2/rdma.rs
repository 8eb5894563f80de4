//! rdma.max: the same in v1 and v2.

use std::fmt::Write as _;

use berth_spec::LinuxResources;

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    let Some(map) = resources.rdma() else {
        return Ok(Vec::new());
    };
    let mut devices: Vec<_> = map.iter().collect();
    devices.sort_by_key(|(name, _)| *name);
    let mut writes = Vec::new();
    for (name, limit) in devices {
        let field = format!("linux.resources.rdma[{name:?}]");
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(CgroupError::invalid(field, "not the name of an RDMA device"));
        }
        let mut value = name.clone();
        for (key, number) in [
            ("hca_handle", limit.hca_handles()),
            ("hca_object", limit.hca_objects()),
        ] {
            if let Some(number) = number {
                let _ = write!(value, " {key}={number}");
            }
        }
        if value.len() > name.len() {
            writes.push(Write::named("rdma.max", value, field));
        }
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_a_device() {
        let text = br#"{"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}}}"#;
        let resources: LinuxResources = berth_spec::read(text).unwrap().value;
        let found = writes(&resources, &mut Vec::new()).unwrap();
        assert_eq!(found[0].value, "mlx5_1 hca_handle=3 hca_object=10000");
    }
}
