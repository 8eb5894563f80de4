//! PURE: requests and limits, as numbers, QoS class and cgroup values.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};

/// CFS period in microseconds, as kubelet sets it.
const CFS_PERIOD: i64 = 100_000;
/// Smallest CFS quota that the kernel takes, in microseconds.
const CFS_QUOTA_MIN: i64 = 1_000;
/// Smallest and largest `cpu.shares`.
const SHARES: (i64, i64) = (2, 262_144);

/// A quantity that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{field}: {text:?} is not a quantity; write a number with an optional suffix such as 250m, 512Mi, 1Gi"
)]
pub struct QuantityError {
    /// Path of the field.
    pub field: String,
    /// Its content.
    pub text: String,
}

/// A quantity in thousandths, rounded up (Kubernetes API conventions, "Quantity").
pub fn thousandths(text: &str) -> Option<i128> {
    const SUFFIXES: [(&str, i128, u32); 14] = [
        ("Ki", 2, 10),
        ("Mi", 2, 20),
        ("Gi", 2, 30),
        ("Ti", 2, 40),
        ("Pi", 2, 50),
        ("Ei", 2, 60),
        ("n", 10, 0),
        ("u", 10, 0),
        ("m", 10, 0),
        ("k", 10, 3),
        ("M", 10, 6),
        ("G", 10, 9),
        ("T", 10, 12),
        ("P", 10, 15),
    ];
    let text = text.trim();
    let (number, factor, divisor) = match SUFFIXES.iter().find(|(suffix, ..)| text.ends_with(suffix)) {
        Some((suffix, base, power)) => {
            let divisor = match *suffix {
                "n" => 1_000_000_000,
                "u" => 1_000_000,
                "m" => 1_000,
                _ => 1,
            };
            (text.strip_suffix(suffix)?, base.checked_pow(*power)?, divisor)
        }
        None => match text.strip_suffix('E') {
            Some(number) => (number, 10_i128.pow(18), 1),
            None => (text, 1, 1),
        },
    };
    let (number, exponent) = match number.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().ok().filter(|e| e.abs() <= 18)?),
        None => (number, 0),
    };
    let negative = number.starts_with('-');
    let digits = number.trim_start_matches(['-', '+']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty())
        || !whole.chars().chain(fraction.chars()).all(|c| c.is_ascii_digit())
        || fraction.len() > 12
        || whole.len() > 18
    {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut scaled = mantissa.checked_mul(factor)?.checked_mul(1000)?;
    let mut below = divisor * 10_i128.pow(fraction.len() as u32);
    if exponent >= 0 {
        scaled = scaled.checked_mul(10_i128.pow(exponent.unsigned_abs()))?;
    } else {
        below = below.checked_mul(10_i128.pow(exponent.unsigned_abs()))?;
    }
    let rounded = (scaled + below - 1).div_euclid(below);
    Some(if negative { -rounded } else { rounded })
}

/// One resource of a list, in thousandths.
fn amount(list: Option<&std::collections::BTreeMap<String, Quantity>>, name: &str) -> Option<i128> {
    list?.get(name).and_then(|quantity| thousandths(&quantity.0))
}

/// The numbers of one container; None where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    /// CPU request in thousandths of a CPU.
    pub cpu_request: Option<i64>,
    /// CPU limit in thousandths of a CPU.
    pub cpu_limit: Option<i64>,
    /// Memory request in bytes.
    pub memory_request: Option<i64>,
    /// Memory limit in bytes.
    pub memory_limit: Option<i64>,
}

impl Amounts {
    /// The numbers of a container; a request that is not given is its limit.
    pub fn of(container: &api::Container) -> Amounts {
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|r| r.limits.as_ref());
        let requests = resources.and_then(|r| r.requests.as_ref());
        let whole = |thousandths: i128| ((thousandths + 999) / 1000) as i64;
        let cpu_limit = amount(limits, "cpu").map(|n| n as i64);
        let memory_limit = amount(limits, "memory").map(whole);
        Amounts {
            cpu_request: amount(requests, "cpu").map(|n| n as i64).or(cpu_limit),
            cpu_limit,
            memory_request: amount(requests, "memory").map(whole).or(memory_limit),
            memory_limit,
        }
    }

    /// Checks that every quantity can be read.
    ///
    /// # Errors
    /// [`QuantityError`] with the field's path.
    pub fn check(container: &api::Container) -> Result<(), QuantityError> {
        let Some(resources) = &container.resources else {
            return Ok(());
        };
        for (kind, list) in [("limits", &resources.limits), ("requests", &resources.requests)] {
            for (name, quantity) in list.iter().flatten() {
                if thousandths(&quantity.0).is_none_or(|n| n < 0) {
                    let field = format!("containers[{}].resources.{kind}.{name}", container.name);
                    return Err(QuantityError {
                        field,
                        text: quantity.0.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The OCI `linux.resources` of the numbers (kubelet's `sharesAndQuota` rules).
    pub fn oci(&self) -> Value {
        let shares = self
            .cpu_request
            .map_or(SHARES.0, |milli| (milli * 1024 / 1000).clamp(SHARES.0, SHARES.1));
        let mut cpu = json!({"shares": shares});
        if let Some(limit) = self.cpu_limit.filter(|limit| *limit > 0) {
            cpu["period"] = json!(CFS_PERIOD);
            cpu["quota"] = json!((limit * CFS_PERIOD / 1000).max(CFS_QUOTA_MIN));
        }
        let mut resources = json!({"cpu": cpu});
        if let Some(limit) = self.memory_limit.filter(|limit| *limit > 0) {
            resources["memory"] = json!({"limit": limit});
        }
        resources
    }
}

/// What a container asked for is its own even when memory is short, and it is slowed down before it is killed (kubelet's
/// MemoryQoS): `memory.min` and `memory.high` on cgroup v2; on v1 there is only a soft limit for when memory is short. And
/// huge pages: none beyond what it may have.
pub fn protect(resources: &mut Value, container: &api::Container, unified: bool) {
    const PAGE: i64 = 4096;
    let amounts = Amounts::of(container);
    if let Some(request) = amounts.memory_request.filter(|n| *n > 0) {
        if unified {
            resources["unified"] = json!({"memory.min": request.to_string()});
            // Nine tenths of the way from the request to the limit, in whole pages.
            if let Some(limit) = amounts.memory_limit.filter(|limit| *limit > request) {
                let high = (request + (limit - request) / 10 * 9) / PAGE * PAGE;
                resources["unified"]["memory.high"] = json!(high.to_string());
            }
        } else {
            resources["memory"]["reservation"] = json!(request);
        }
    }
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let pages: Vec<Value> = limits
        .into_iter()
        .flatten()
        .filter_map(|(name, amount)| {
            let size = thousandths(name.strip_prefix("hugepages-")?)? / 1000;
            Some(json!({"pageSize": page_size(size)?, "limit": thousandths(&amount.0)? / 1000}))
        })
        .collect();
    if !pages.is_empty() {
        resources["hugepageLimits"] = json!(pages);
    }
}

/// As the kernel names page sizes in its files: `2MB`, `1GB`.
fn page_size(bytes: i128) -> Option<String> {
    [("GB", 30), ("MB", 20), ("KB", 10)]
        .into_iter()
        .find_map(|(unit, shift)| {
            let number = bytes >> shift;
            (number > 0 && number << shift == bytes).then(|| format!("{number}{unit}"))
        })
}

/// `status.qosClass` (kubelet `qos.ComputePodQOS`).
pub fn qos(spec: &api::PodSpec) -> &'static str {
    let all: Vec<Amounts> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(Amounts::of)
        .collect();
    let some = |n: Option<i64>| n.is_some_and(|n| n > 0);
    if all
        .iter()
        .all(|a| !some(a.cpu_request) && !some(a.memory_request))
    {
        return "BestEffort";
    }
    let guaranteed = all.iter().all(|a| {
        some(a.cpu_limit)
            && some(a.memory_limit)
            && a.cpu_request == a.cpu_limit
            && a.memory_request == a.memory_limit
    });
    if guaranteed { "Guaranteed" } else { "Burstable" }
}

/// `oom_score_adj` of a container (kubelet `qos.GetContainerOOMScoreAdjust`); `capacity` is the node's
/// memory in bytes.
pub fn oom_score(qos: &str, container: &api::Container, capacity: i64) -> i64 {
    match qos {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = Amounts::of(container).memory_request.unwrap_or(0);
            (1000 - 1000_i64.saturating_mul(request) / capacity.max(1)).clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::from_value;

    #[test]
    fn quantities() {
        for (text, want) in [
            ("1", Some(1000)),
            ("250m", Some(250)),
            ("0.5", Some(500)),
            ("1.5Gi", Some(1_610_612_736_000)),
            ("512Mi", Some(536_870_912_000)),
            ("1e3", Some(1_000_000)),
            ("1E", Some(1_000_000_000_000_000_000_000)),
            ("12E2", Some(1_200_000)),
            ("100n", Some(1)),
            ("2k", Some(2_000_000)),
            ("-1", Some(-1000)),
            ("", None),
            ("Mi", None),
            ("1.2.3", None),
            ("1 Mi", None),
            ("abc", None),
            ("1e99", None),
        ] {
            assert_eq!(thousandths(text), want, "{text}");
        }
    }

    fn spec(resources: &[Value]) -> api::PodSpec {
        let containers: Vec<Value> = resources
            .iter()
            .enumerate()
            .map(|(n, r)| json!({"name": format!("c{n}"), "resources": r}))
            .collect();
        from_value(json!({ "containers": containers })).unwrap()
    }

    #[test]
    fn classes() {
        let full = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
        let half = json!({"requests": {"cpu": "100m"}});
        let none = json!({});
        let uneven =
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "2", "memory": "1Gi"}});
        for (resources, want) in [
            (vec![full.clone()], "Guaranteed"),
            (vec![full.clone(), none.clone()], "Burstable"),
            (vec![half.clone()], "Burstable"),
            (vec![uneven], "Burstable"),
            (vec![none.clone(), none], "BestEffort"),
        ] {
            assert_eq!(qos(&spec(&resources)), want);
        }
        let burst = spec(&[json!({"requests": {"memory": "1Gi"}})]);
        assert_eq!(oom_score("Burstable", &burst.containers[0], 4 << 30), 750);
    }

    #[test]
    fn cgroup_values() {
        let one = spec(&[
            json!({"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"cpu": "500m", "memory": "512Mi"}}),
        ]);
        let want = json!({
            "cpu": {"shares": 256, "quota": 50_000, "period": 100_000},
            "memory": {"limit": 536_870_912},
        });
        assert_eq!(Amounts::of(&one.containers[0]).oci(), want);
        assert_eq!(Amounts::default().oci(), json!({"cpu": {"shares": 2}}));
        let mut v2 = json!({"cpu": {}});
        protect(&mut v2, &one.containers[0], true);
        // 256Mi + 0.9 * 256Mi, in whole pages.
        assert_eq!(
            v2["unified"],
            json!({"memory.min": "268435456", "memory.high": "510025728"})
        );
        let mut v1 = json!({"cpu": {}});
        protect(&mut v1, &one.containers[0], false);
        assert_eq!(v1["memory"], json!({"reservation": 268_435_456}));
        let huge = spec(&[json!({"limits": {"cpu": "1", "hugepages-2Mi": "8Mi", "hugepages-1Gi": "1Gi"}})]);
        let mut pages = json!({});
        protect(&mut pages, &huge.containers[0], true);
        assert_eq!(
            pages["hugepageLimits"],
            json!([{"pageSize": "1GB", "limit": 1 << 30}, {"pageSize": "2MB", "limit": 8 << 20}])
        );
        let bad = spec(&[json!({"limits": {"memory": "lots"}})]);
        let error = Amounts::check(&bad.containers[0]).unwrap_err();
        assert_eq!(error.field, "containers[c0].resources.limits.memory");
    }
}
