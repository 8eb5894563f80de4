//! io.weight or io.bfq.weight, io.max.

use std::fmt::Write as _;

use berth_spec::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice};

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

/// The file a weight goes to is settled when it is written: io.bfq.weight (1 to 1000, as configured) where
/// the BFQ scheduler is, io.weight (1 to 10000, converted) otherwise.
pub(crate) const BFQ: &str = "io.bfq.weight";
pub(crate) const IOCOST: &str = "io.weight";

pub(crate) fn writes(
    resources: &LinuxResources,
    ignored: &mut Vec<Ignored>,
) -> Result<Vec<Write>, CgroupError> {
    let Some(io) = resources.block_io() else {
        return Ok(Vec::new());
    };
    note_leaf_weights(io, ignored);
    let mut writes = Vec::new();
    if let Some(weight) = weight("linux.resources.blockIO.weight", io.weight())? {
        writes.push(Write::new(BFQ, weight, "linux.resources.blockIO.weight"));
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let field = format!("linux.resources.blockIO.weightDevice[{index}].weight");
        if let Some(weight) = weight(&field, device.weight())? {
            writes.push(Write::named(
                BFQ,
                format!("{}:{} {weight}", device.major(), device.minor()),
                field,
            ));
        }
    }
    writes.extend(throttles(io));
    Ok(writes)
}

/// All four limits of a device in one write.
fn throttles(io: &LinuxBlockIo) -> Vec<Write> {
    let lists: [(&str, &str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", "throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("wbps", "throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("riops", "throttleReadIOPSDevice", io.throttle_read_iops_device()),
        (
            "wiops",
            "throttleWriteIOPSDevice",
            io.throttle_write_iops_device(),
        ),
    ];
    let mut writes: Vec<((i64, i64), Write)> = Vec::new();
    for (key, list, devices) in lists {
        for (index, device) in devices.iter().flatten().enumerate() {
            let id = (device.major(), device.minor());
            // 0 means no limit in v1, and io.max refuses it.
            let rate = if device.rate() == 0 {
                "max".to_owned()
            } else {
                device.rate().to_string()
            };
            if let Some((_, write)) = writes.iter_mut().find(|(known, _)| *known == id) {
                let _ = write!(write.value, " {key}={rate}");
            } else {
                let field = format!("linux.resources.blockIO.{list}[{index}]");
                writes.push((
                    id,
                    Write::named("io.max", format!("{}:{} {key}={rate}", id.0, id.1), field),
                ));
            }
        }
    }
    writes.into_iter().map(|(_, write)| write).collect()
}

/// Checks a weight, 10 to 1000 (runtime-spec, "Block IO"); 0 is unset.
pub(crate) fn weight(field: &str, weight: Option<u16>) -> Result<Option<u16>, CgroupError> {
    match weight {
        None | Some(0) => Ok(None),
        Some(weight @ 10..=1000) => Ok(Some(weight)),
        Some(weight) => Err(CgroupError::invalid(
            field,
            format!("{weight} is not within 10 to 1000"),
        )),
    }
}

/// A weight line meant for io.bfq.weight ("500", "8:0 500"), for io.weight: 10..1000 stretched to 1..10000.
pub(crate) fn to_iocost(line: &str) -> String {
    let (device, weight) = line
        .rsplit_once(' ')
        .map_or(("", line), |(device, weight)| (device, weight));
    let weight: u64 = weight.parse().unwrap_or(100);
    let converted = 1 + weight.saturating_sub(10) * 9999 / 990;
    if device.is_empty() {
        converted.to_string()
    } else {
        format!("{device} {converted}")
    }
}

fn note_leaf_weights(io: &LinuxBlockIo, ignored: &mut Vec<Ignored>) {
    let device = io
        .weight_device()
        .iter()
        .flatten()
        .any(|device| device.leaf_weight().is_some_and(|weight| weight != 0));
    if device || io.leaf_weight().is_some_and(|weight| weight != 0) {
        ignored.push(Ignored {
            field: "linux.resources.blockIO.leafWeight",
            reason: "cgroup v2 has no processes beside child cgroups, so no leaf weight",
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_stretch() {
        for (bfq, iocost) in [
            ("10", "1"),
            ("100", "910"),
            ("500", "4950"),
            ("1000", "10000"),
            ("8:0 1000", "8:0 10000"),
        ] {
            assert_eq!(to_iocost(bfq), iocost);
        }
    }

    #[test]
    fn one_write_a_device() {
        let text = br#"{"blockIO": {"weight": 500,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 300}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}, {"major": 9, "minor": 0, "rate": 0}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 30}]}}"#;
        let resources: LinuxResources = berth_spec::read(text).unwrap().value;
        let found: Vec<_> = writes(&resources, &mut Vec::new())
            .unwrap()
            .into_iter()
            .map(|w| format!("{} {}", w.file, w.value))
            .collect();
        assert_eq!(
            found,
            [
                "io.bfq.weight 500",
                "io.bfq.weight 8:0 300",
                "io.max 8:0 rbps=1000 wiops=30",
                "io.max 9:0 rbps=max"
            ]
        );
    }

    #[test]
    fn weight_out_of_range() {
        let text = br#"{"blockIO": {"weight": 7}}"#;
        let resources: LinuxResources = berth_spec::read(text).unwrap().value;
        let error = writes(&resources, &mut Vec::new()).unwrap_err().to_string();
        assert_eq!(
            error,
            "linux.resources.blockIO.weight: 7 is not within 10 to 1000"
        );
    }
}
