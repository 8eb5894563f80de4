//! Limits as properties of a unit, so that systemd knows them and does not set others at its next reload.
//!
//! They are derived from what is written to the cgroup's files, so that both always say the same. As with runc,
//! properties cover what systemd manages of a scope (memory, CPU, cpuset, pids); the files have it all.

use super::message::Value;
use crate::CgroupError;
use crate::write::Write;

/// A property of a unit, with the first version of systemd that has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    pub name: String,
    pub value: Value,
    pub since: u32,
}

impl Property {
    pub(crate) fn new(name: impl Into<String>, value: Value) -> Self {
        Self {
            name: name.into(),
            value,
            since: 0,
        }
    }

    fn since(mut self, version: u32) -> Self {
        self.since = version;
        self
    }

    /// As SetUnitProperties and StartTransientUnit take it.
    pub(crate) fn argument(&self) -> Value {
        Value::Struct(vec![
            Value::Text(self.name.clone()),
            Value::Variant(Box::new(self.value.clone())),
        ])
    }
}

/// The signature of a list of properties.
pub(crate) const LIST: &str = "(sv)";

/// systemd's "no limit".
const INFINITY: u64 = u64::MAX;
/// The kernel's period where only a quota is given (cgroup-v2.rst, cpu.max), in microseconds.
const PERIOD: u64 = 100_000;
/// CPUQuota= is a whole percentage inside systemd: hundredths of a second a second.
const PERCENT: u64 = 10_000;

/// The properties for `writes`, the values of cgroup v2's files; `cpu_max` is the present content of cpu.max, for values
/// that leave a part of it alone.
pub(crate) fn of(writes: &[Write], cpu_max: &str) -> Result<Vec<Property>, CgroupError> {
    let mut list = Vec::new();
    let idle = writes
        .iter()
        .any(|write| write.file == "cpu.idle" && write.value.trim() == "1");
    for write in writes {
        let value = write.value.trim();
        match write.file.as_ref() {
            "memory.max" => list.push(limit(write, "MemoryMax")?),
            "memory.high" => list.push(limit(write, "MemoryHigh")?),
            "memory.low" => list.push(limit(write, "MemoryLow")?),
            "memory.min" => list.push(limit(write, "MemoryMin")?),
            "memory.swap.max" => list.push(limit(write, "MemorySwapMax")?),
            "pids.max" => list.push(limit(write, "TasksMax")?),
            // An idle group has no weight: systemd's word for it is the weight 0.
            "cpu.idle" if idle => list.push(Property::new("CPUWeight", Value::Uint64(0)).since(252)),
            "cpu.weight" if !idle => list.push(limit(write, "CPUWeight")?),
            "cpu.max" => quota(write, cpu_max, &mut list)?,
            "cpuset.cpus" => list.push(set(write, "AllowedCPUs", value)?),
            "cpuset.mems" => list.push(set(write, "AllowedMemoryNodes", value)?),
            _ => {}
        }
    }
    Ok(list)
}

fn wrong(write: &Write, what: &str) -> CgroupError {
    CgroupError::invalid(write.field.clone(), format!("{:?} is not {what}", write.value))
}

fn number(write: &Write, text: &str) -> Result<u64, CgroupError> {
    if text == "max" {
        return Ok(INFINITY);
    }
    text.parse()
        .map_err(|_| wrong(write, "a number, or max for no limit"))
}

fn limit(write: &Write, name: &'static str) -> Result<Property, CgroupError> {
    Ok(Property::new(
        name,
        Value::Uint64(number(write, write.value.trim())?),
    ))
}

/// cpu.max is "quota period" in microseconds; systemd has the quota a second, in whole percent. Rounded up, so that the
/// exact value in the file is never above it.
fn quota(write: &Write, present: &str, list: &mut Vec<Property>) -> Result<(), CgroupError> {
    let mut now = present.split_whitespace();
    let (quota_now, period_now) = (now.next().unwrap_or("max"), now.next());
    let mut words = write.value.split_whitespace();
    let (quota, period) = if write.keep_first {
        (quota_now, words.next())
    } else {
        (words.next().unwrap_or("max"), words.next())
    };
    let given = period.is_some();
    let period = period
        .or(period_now)
        .map_or(Ok(PERIOD), |text| number(write, text))?;
    let quota = number(write, quota)?;
    if given {
        list.push(Property::new("CPUQuotaPeriodUSec", Value::Uint64(period)).since(242));
    }
    let a_second = if quota == INFINITY {
        INFINITY
    } else {
        let exact = u128::from(quota) * 1_000_000 / u128::from(period.max(1));
        let rounded = u64::try_from(exact).unwrap_or(INFINITY - PERCENT);
        rounded.div_ceil(PERCENT).saturating_mul(PERCENT)
    };
    list.push(Property::new("CPUQuotaPerSecUSec", Value::Uint64(a_second)));
    Ok(())
}

/// "0-2,5" as a mask, lowest number first.
fn set(write: &Write, name: &'static str, text: &str) -> Result<Property, CgroupError> {
    /// CONFIG_NR_CPUS is at most 8192.
    const MOST: usize = 8192;
    let what = "a list of numbers and ranges, such as 0-2,5";
    let mut mask = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let bound = |text: &str| text.trim().parse::<usize>().ok().filter(|bit| *bit < MOST);
        let (Some(first), Some(last)) = (bound(first), bound(last)) else {
            return Err(wrong(write, what));
        };
        if first > last {
            return Err(wrong(write, what));
        }
        if mask.len() <= last / 8 {
            mask.resize(last / 8 + 1, 0u8);
        }
        for bit in first..=last {
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    Ok(Property::new(name, Value::bytes(&mask)).since(244))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(file: &'static str, value: &str) -> Vec<Property> {
        of(&[Write::new(file, value, "field")], "").unwrap()
    }

    fn numbers(list: &[Property]) -> Vec<(&str, u64)> {
        list.iter()
            .map(|property| match property.value {
                Value::Uint64(number) => (property.name.as_str(), number),
                _ => panic!("{property:?}"),
            })
            .collect()
    }

    #[test]
    fn plain_limits() {
        for (file, name) in [
            ("memory.max", "MemoryMax"),
            ("memory.high", "MemoryHigh"),
            ("memory.low", "MemoryLow"),
            ("memory.min", "MemoryMin"),
            ("memory.swap.max", "MemorySwapMax"),
            ("pids.max", "TasksMax"),
            ("cpu.weight", "CPUWeight"),
        ] {
            assert_eq!(numbers(&one(file, "77")), [(name, 77)]);
            assert_eq!(numbers(&one(file, "max")), [(name, INFINITY)]);
        }
        assert_eq!(one("io.max", "8:0 rbps=1"), []);
        assert_eq!(one("hugetlb.2MB.max", "0"), []);
    }

    #[test]
    fn quotas_are_a_second_and_in_whole_percent() {
        let quota = "CPUQuotaPerSecUSec";
        let period = "CPUQuotaPeriodUSec";
        assert_eq!(
            numbers(&one("cpu.max", "50000 100000")),
            [(period, 100_000), (quota, 500_000)]
        );
        // 0.3333 of a CPU is at least 34 %.
        assert_eq!(
            numbers(&one("cpu.max", "3333 10000")),
            [(period, 10_000), (quota, 340_000)]
        );
        assert_eq!(numbers(&one("cpu.max", "200000")), [(quota, 2_000_000)]);
        assert_eq!(
            numbers(&one("cpu.max", "max 5000")),
            [(period, 5000), (quota, INFINITY)]
        );
        let of = |write, present| of(&[write], present).unwrap();
        let kept = of(
            Write::new("cpu.max", "20000", "field").keeping_first(),
            "5000 10000\n",
        );
        assert_eq!(numbers(&kept), [(period, 20_000), (quota, 250_000)]);
        let kept = of(Write::new("cpu.max", "5000", "field"), "max 20000\n");
        assert_eq!(numbers(&kept), [(quota, 250_000)]);
        assert!(numbers(&one("cpu.max", "18446744073709551614 1"))[1].1 >= INFINITY - PERCENT);
    }

    #[test]
    fn idle_is_a_weight() {
        let writes = |idle| {
            [
                Write::new("cpu.idle", idle, "field"),
                Write::new("cpu.weight", 5, "field"),
            ]
        };
        assert_eq!(numbers(&of(&writes(1), "").unwrap()), [("CPUWeight", 0)]);
        assert_eq!(numbers(&of(&writes(0), "").unwrap()), [("CPUWeight", 5)]);
    }

    #[test]
    fn sets_are_masks() {
        let mask = |text| match one("cpuset.cpus", text).remove(0).value {
            Value::Array(_, list) => list,
            other => panic!("{other:?}"),
        };
        assert_eq!(mask("0-2,5"), [Value::Byte(0b10_0111)]);
        assert_eq!(mask("9"), [Value::Byte(0), Value::Byte(2)]);
        for bad in ["x", "3-1", "0-", "1-2-3", "8192"] {
            let error = of(&[Write::new("cpuset.mems", bad, "field")], "").unwrap_err();
            assert!(error.to_string().contains("is not a list of numbers"), "{error}");
        }
    }

    #[test]
    fn nonsense_names_the_field() {
        let error = of(&[Write::new("memory.high", "12G", "linux.resources.unified")], "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "linux.resources.unified: \"12G\" is not a number, or max for no limit"
        );
    }
}
