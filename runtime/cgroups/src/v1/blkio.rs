//! blkio.weight (or blkio.bfq.weight), leaf weights, and throttling.

use berth_spec::{LinuxBlockIo, LinuxResources, LinuxThrottleDevice};

use crate::CgroupError;
use crate::resources::Ignored;
use crate::v2::io::weight;
use crate::write::Write;

/// CFQ's files, gone with it in Linux 5.0; BFQ has blkio.bfq.weight and blkio.bfq.weight_device, which are
/// used instead when these are missing (`group::place_weights`).
pub(crate) const WEIGHT: &str = "blkio.weight";
pub(crate) const WEIGHT_DEVICE: &str = "blkio.weight_device";

pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    let Some(io) = resources.block_io() else {
        return Ok(Vec::new());
    };
    let mut writes = Vec::new();
    for (file, value, field) in [
        (WEIGHT, io.weight(), "linux.resources.blockIO.weight"),
        (
            "blkio.leaf_weight",
            io.leaf_weight(),
            "linux.resources.blockIO.leafWeight",
        ),
    ] {
        if let Some(weight) = weight(field, value)? {
            writes.push(Write::new(file, weight, field));
        }
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        for (file, value, name) in [
            (WEIGHT_DEVICE, device.weight(), "weight"),
            ("blkio.leaf_weight_device", device.leaf_weight(), "leafWeight"),
        ] {
            let field = format!("linux.resources.blockIO.weightDevice[{index}].{name}");
            if let Some(weight) = weight(&field, value)? {
                writes.push(Write::named(
                    file,
                    format!("{}:{} {weight}", device.major(), device.minor()),
                    field,
                ));
            }
        }
    }
    writes.extend(throttles(io));
    Ok(writes)
}

fn throttles(io: &LinuxBlockIo) -> impl Iterator<Item = Write> {
    let lists: [(&'static str, &str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        (
            "blkio.throttle.read_bps_device",
            "throttleReadBpsDevice",
            io.throttle_read_bps_device(),
        ),
        (
            "blkio.throttle.write_bps_device",
            "throttleWriteBpsDevice",
            io.throttle_write_bps_device(),
        ),
        (
            "blkio.throttle.read_iops_device",
            "throttleReadIOPSDevice",
            io.throttle_read_iops_device(),
        ),
        (
            "blkio.throttle.write_iops_device",
            "throttleWriteIOPSDevice",
            io.throttle_write_iops_device(),
        ),
    ];
    lists.into_iter().flat_map(|(file, list, devices)| {
        devices.iter().flatten().enumerate().map(move |(index, device)| {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            Write::named(file, value, format!("linux.resources.blockIO.{list}[{index}]"))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let text = br#"{"blockIO": {"weight": 300, "leafWeight": 20,
            "throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 1048576}]}}"#;
        let resources: LinuxResources = berth_spec::read(text).unwrap().value;
        let found: Vec<_> = writes(&resources, &mut Vec::new())
            .unwrap()
            .into_iter()
            .map(|w| format!("{} {}", w.file, w.value))
            .collect();
        assert_eq!(
            found,
            [
                "blkio.weight 300",
                "blkio.leaf_weight 20",
                "blkio.throttle.write_bps_device 8:16 1048576"
            ]
        );
    }
}
