//! cpu.weight, cpu.idle, cpu.max, cpu.max.burst.

use berth_spec::{LinuxCpu, LinuxResources};

use crate::CgroupError;
use crate::resources::Ignored;
use crate::write::Write;

const SHARES: &str = "linux.resources.cpu.shares";
const QUOTA: &str = "linux.resources.cpu.quota";
const PERIOD: &str = "linux.resources.cpu.period";

pub(crate) fn writes(resources: &LinuxResources, _: &mut Vec<Ignored>) -> Result<Vec<Write>, CgroupError> {
    let Some(cpu) = resources.cpu() else {
        return Ok(Vec::new());
    };
    refuse_realtime(cpu)?;
    let mut writes = Vec::new();
    if let Some(idle) = cpu.idle() {
        writes.push(Write::new("cpu.idle", idle, "linux.resources.cpu.idle"));
    }
    if let Some(weight) = weight(cpu.shares()) {
        writes.push(Write::new("cpu.weight", weight, SHARES));
    }
    if let Some(max) = max(cpu) {
        writes.push(max);
    }
    if let Some(burst) = cpu.burst() {
        writes.push(Write::new("cpu.max.burst", burst, "linux.resources.cpu.burst"));
    }
    Ok(writes)
}

/// cpu.max is "quota period"; a value without the period leaves the period as it is.
fn max(cpu: &LinuxCpu) -> Option<Write> {
    let period = cpu.period().filter(|period| *period != 0);
    match (cpu.quota().filter(|quota| *quota != 0), period) {
        (None, None) => None,
        (Some(quota), period) => {
            let mut value = if quota > 0 {
                quota.to_string()
            } else {
                "max".to_owned()
            };
            let unlimited = quota < 0;
            if let Some(period) = period {
                value = format!("{value} {period}");
            }
            let write = Write::new("cpu.max", value, QUOTA);
            Some(if unlimited { write.optional() } else { write })
        }
        (None, Some(period)) => Some(Write::new("cpu.max", period, PERIOD).keeping_first()),
    }
}

/// v1 shares (2 to 262144, default 1024) to a v2 weight (1 to 10000, default 100): the curve that runc 1.3
/// introduced, which maps minimum, maximum and default onto each other.
pub(crate) fn weight(shares: Option<u64>) -> Option<u64> {
    match shares {
        None | Some(0) => None,
        Some(1..=2) => Some(1),
        Some(262_144..) => Some(10_000),
        Some(shares) => {
            // Below 2^18, so exact.
            let log = f64::from(u32::try_from(shares).unwrap_or(u32::MAX)).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            Some(10f64.powf(exponent).ceil() as u64)
        }
    }
}

fn refuse_realtime(cpu: &LinuxCpu) -> Result<(), CgroupError> {
    let field = if cpu.realtime_runtime().is_some_and(|value| value != 0) {
        "linux.resources.cpu.realtimeRuntime"
    } else if cpu.realtime_period().is_some_and(|value| value != 0) {
        "linux.resources.cpu.realtimePeriod"
    } else {
        return Ok(());
    };
    Err(CgroupError::invalid(
        field,
        "cgroup v2 has no real-time bandwidth; remove the setting",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_to_weight() {
        let points = [
            (0, None),
            (1, Some(1)),
            (2, Some(1)),
            (1024, Some(100)),
            (262_144, Some(10_000)),
            (u64::MAX, Some(10_000)),
        ];
        for (shares, want) in points {
            assert_eq!(weight(Some(shares)), want, "{shares}");
        }
        assert_eq!(weight(Some(102)), Some(17));
        assert_eq!(weight(Some(512)), Some(59));
        assert_eq!(weight(Some(2048)), Some(174));
        let all: Vec<u64> = (2..262_144).filter_map(|shares| weight(Some(shares))).collect();
        assert!(all.is_sorted() && all[0] == 1 && all[all.len() - 1] == 10_000);
    }

    #[test]
    fn quota_and_period() {
        let of = |cpu: &str| {
            let resources = LinuxResources {
                cpu: Some(berth_spec::read(cpu.as_bytes()).unwrap().value),
                ..LinuxResources::default()
            };
            writes(&resources, &mut Vec::new()).map_err(|error| error.to_string())
        };
        let value = |list: Vec<Write>| {
            list.into_iter()
                .map(|write| (write.file.into_owned(), write.value))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            value(of(r#"{"quota": 5000, "period": 10000}"#).unwrap()),
            [("cpu.max".into(), "5000 10000".into())]
        );
        assert_eq!(
            value(of(r#"{"quota": 5000}"#).unwrap()),
            [("cpu.max".into(), "5000".into())]
        );
        assert_eq!(
            value(of(r#"{"quota": -1}"#).unwrap()),
            [("cpu.max".into(), "max".into())]
        );
        assert!(of(r#"{"period": 10000}"#).unwrap()[0].keep_first);
        assert_eq!(of(r#"{"quota": 0, "period": 0}"#).unwrap(), []);
        assert!(
            of(r#"{"realtimeRuntime": 950}"#)
                .unwrap_err()
                .contains("realtimeRuntime")
        );
    }
}
