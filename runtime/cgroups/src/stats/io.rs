//! io.stat, io.pressure; v1 blkio.*.

use super::pressure::{Pressure, pressure};
use super::text;
use crate::dir::Dir;
use crate::{Cgroup, CgroupError};

/// Block I/O, by device and operation. The lists below `operations` come from I/O schedulers of v1.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct IoStats {
    /// Bytes.
    pub bytes: Vec<IoEntry>,
    /// Operations.
    pub operations: Vec<IoEntry>,
    /// Operations waiting at this moment.
    pub queued: Vec<IoEntry>,
    /// Nanoseconds from dispatch to completion.
    pub service_time: Vec<IoEntry>,
    /// Nanoseconds in the scheduler's queues.
    pub wait_time: Vec<IoEntry>,
    /// Operations merged into others.
    pub merged: Vec<IoEntry>,
    /// Milliseconds of a device's time.
    pub time: Vec<IoEntry>,
    /// Sectors of 512 bytes.
    pub sectors: Vec<IoEntry>,
    /// Pressure; v2 only.
    pub pressure: Option<Pressure>,
}

/// One number of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IoEntry {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// "Read", "Write", "Sync", "Async", "Discard", "Total", or empty for all together.
    pub operation: String,
    /// The number.
    pub value: u64,
}

/// A list of the statistics, by the file that fills it.
type Fill = (&'static str, fn(&mut IoStats) -> &mut Vec<IoEntry>);

const BFQ_DETAIL: &[Fill] = &[
    ("blkio.bfq.sectors_recursive", |stats| &mut stats.sectors),
    ("blkio.bfq.io_service_time_recursive", |stats| {
        &mut stats.service_time
    }),
    ("blkio.bfq.io_wait_time_recursive", |stats| &mut stats.wait_time),
    ("blkio.bfq.io_merged_recursive", |stats| &mut stats.merged),
    ("blkio.bfq.io_queued_recursive", |stats| &mut stats.queued),
    ("blkio.bfq.time_recursive", |stats| &mut stats.time),
    ("blkio.bfq.io_serviced_recursive", |stats| &mut stats.operations),
    ("blkio.bfq.io_service_bytes_recursive", |stats| &mut stats.bytes),
];
const BFQ: &[Fill] = &[
    ("blkio.bfq.io_serviced_recursive", |stats| &mut stats.operations),
    ("blkio.bfq.io_service_bytes_recursive", |stats| &mut stats.bytes),
];
const CFQ: &[Fill] = &[
    ("blkio.sectors_recursive", |stats| &mut stats.sectors),
    ("blkio.io_service_time_recursive", |stats| &mut stats.service_time),
    ("blkio.io_wait_time_recursive", |stats| &mut stats.wait_time),
    ("blkio.io_merged_recursive", |stats| &mut stats.merged),
    ("blkio.io_queued_recursive", |stats| &mut stats.queued),
    ("blkio.time_recursive", |stats| &mut stats.time),
    ("blkio.io_serviced_recursive", |stats| &mut stats.operations),
    ("blkio.io_service_bytes_recursive", |stats| &mut stats.bytes),
];
const THROTTLE: &[Fill] = &[
    ("blkio.throttle.io_serviced_recursive", |stats| {
        &mut stats.operations
    }),
    ("blkio.throttle.io_service_bytes_recursive", |stats| {
        &mut stats.bytes
    }),
];
const THROTTLE_OWN: &[Fill] = &[
    ("blkio.throttle.io_serviced", |stats| &mut stats.operations),
    ("blkio.throttle.io_service_bytes", |stats| &mut stats.bytes),
];

/// The layers of the kernel that count, the one that tells most first.
const LAYERS: [&[Fill]; 5] = [BFQ_DETAIL, BFQ, CFQ, THROTTLE, THROTTLE_OWN];

impl Cgroup {
    pub(super) fn io_stats(&self) -> Result<Option<IoStats>, CgroupError> {
        if let Some(dir) = self.v1("blkio") {
            return io_v1(dir).map(Some);
        }
        let Some(dir) = &self.unified else { return Ok(None) };
        let Some(stat) = text(dir, "io.stat")? else {
            return Ok(None);
        };
        let mut stats = io_v2(&stat);
        stats.pressure = pressure(dir, "io.pressure")?;
        Ok(Some(stats))
    }
}

/// The first layer that has counted anything tells all it has.
fn io_v1(dir: &Dir) -> Result<IoStats, CgroupError> {
    let mut stats = IoStats::default();
    for layer in LAYERS {
        for (file, list) in layer {
            let entries = text(dir, file)?.map(|text| entries_v1(&text)).unwrap_or_default();
            if entries.is_empty() {
                break;
            }
            *list(&mut stats) = entries;
        }
        if stats != IoStats::default() {
            break;
        }
    }
    Ok(stats)
}

/// "8:0 Read 4096", or "8:0 4096". The line "Total 4096" is about no device.
fn entries_v1(text: &str) -> Vec<IoEntry> {
    let entry = |line: &str| {
        let words: Vec<&str> = line.split([' ', ':']).collect();
        let (operation, value) = match words[..] {
            [_, _, operation, value] => (operation, value),
            [_, _, value] => ("", value),
            _ => return None,
        };
        Some(IoEntry {
            major: words[0].parse().ok()?,
            minor: words[1].parse().ok()?,
            operation: operation.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// "8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0": bytes and operations. Discards have no place in the
/// lists that runc prints.
fn io_v2(text: &str) -> IoStats {
    let mut stats = IoStats::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some((Ok(major), Ok(minor))) = words
            .next()
            .and_then(|id| id.split_once(':'))
            .map(|(major, minor)| (major.parse(), minor.parse()))
        else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let (list, operation) = match key {
                "rbytes" => (&mut stats.bytes, "Read"),
                "wbytes" => (&mut stats.bytes, "Write"),
                "rios" => (&mut stats.operations, "Read"),
                "wios" => (&mut stats.operations, "Write"),
                _ => continue,
            };
            let value = value.parse().unwrap_or(0);
            list.push(IoEntry {
                major,
                minor,
                operation: operation.to_owned(),
                value,
            });
        }
    }
    stats
}
