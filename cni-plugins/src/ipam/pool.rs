//! Ranges of addresses as host-local's configuration gives them, checked, and the order in which
//! their addresses are tried. No I/O.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::protocol::{Failure, Fields};

/// One range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    /// The subnet.
    pub subnet: IpNet,
    /// First address given out.
    pub start: IpAddr,
    /// Last address given out.
    pub end: IpAddr,
    /// The gateway, never given out.
    pub gateway: IpAddr,
}

/// Ranges of one family; each attachment gets one address of each set.
pub type RangeSet = Vec<Range>;

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn address(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::from(number as u32)),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::from(number)),
    }
}

impl Range {
    /// Reads one range; every mistake names its field.
    pub fn read(fields: &Fields<'_>) -> Result<Self, Failure> {
        let name = |f: &str| fields.name(f);
        let subnet = fields.cidr("subnet")?.ok_or_else(|| {
            Failure::field(
                &name("subnet"),
                "missing: a range needs its subnet, like 10.88.0.0/16",
            )
        })?;
        if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
            return Err(Failure::field(
                &name("subnet"),
                format!("{subnet} is too small: it must have at least four addresses"),
            ));
        }
        if subnet.addr() != subnet.network() {
            return Err(Failure::field(
                &name("subnet"),
                format!("{subnet} has host bits set: did you mean {}?", subnet.trunc()),
            ));
        }
        let network = number(subnet.network());
        // The last address of an IPv4 subnet is its broadcast address.
        let last = number(subnet.broadcast()) - u128::from(subnet.addr().is_ipv4());
        let of = |field: &str, default: u128| -> Result<IpAddr, Failure> {
            let Some(ip) = fields.ip(field)? else {
                return Ok(address(default, subnet.addr()));
            };
            if subnet.contains(&ip) {
                return Ok(ip);
            }
            Err(Failure::field(
                &name(field),
                format!("{ip} is not in subnet {subnet}"),
            ))
        };
        let (start, end) = (of("rangeStart", network + 1)?, of("rangeEnd", last)?);
        if number(end) < number(start) {
            return Err(Failure::field(
                &name("rangeEnd"),
                format!("{end} is before rangeStart {start}"),
            ));
        }
        let gateway = of("gateway", network + 1)?;
        Ok(Self {
            subnet,
            start,
            end,
            gateway,
        })
    }

    /// Whether the range gives out this address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.subnet.addr().is_ipv4()
            && (number(self.start)..=number(self.end)).contains(&number(ip))
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.start) || other.contains(self.start)
    }

    /// How many addresses it gives out, without its gateway.
    pub fn size(&self) -> u128 {
        (number(self.end) - number(self.start)).saturating_add(1) - u128::from(self.contains(self.gateway))
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

/// The ranges as one text, for messages.
pub fn describe(set: &RangeSet) -> String {
    set.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// Checks that ranges of a set are of one family and that no two ranges of any sets overlap.
pub fn check(sets: &[(String, RangeSet)]) -> Result<(), Failure> {
    for (field, set) in sets {
        let Some(first) = set.first() else {
            return Err(Failure::field(
                field,
                "is empty: give it a range, or leave it out",
            ));
        };
        if let Some(other) = set
            .iter()
            .find(|r| r.subnet.addr().is_ipv4() != first.subnet.addr().is_ipv4())
        {
            return Err(Failure::field(
                field,
                format!(
                    "mixes IPv4 and IPv6 ({} and {}): use one list a family",
                    first.subnet, other.subnet
                ),
            ));
        }
    }
    let all: Vec<(&String, &Range)> = sets
        .iter()
        .flat_map(|(f, s)| s.iter().map(move |r| (f, r)))
        .collect();
    for (at, (_, range)) in all.iter().enumerate() {
        if let Some((field, other)) = all.iter().skip(at + 1).find(|(_, r)| r.overlaps(range)) {
            return Err(Failure::field(field, format!("{other} overlaps with {range}")));
        }
    }
    Ok(())
}

/// The addresses of a set in the order they are tried: after the last one given, round and round, each
/// once; never a gateway.
pub fn candidates(set: &RangeSet, last: Option<IpAddr>) -> impl Iterator<Item = (IpAddr, &Range)> {
    let from = last.and_then(|ip| Some((set.iter().position(|r| r.contains(ip))?, number(ip))));
    let (first, after) = from.map_or((0, None), |(i, n)| (i, Some(n)));
    let head = set.iter().skip(first).take(1).flat_map(move |range| {
        let start = after.map_or(number(range.start), |n| n + 1);
        span(range, start, number(range.end))
    });
    let others = (1..set.len()).filter_map(move |i| set.get((first + i) % set.len()));
    let others = others.flat_map(|range| span(range, number(range.start), number(range.end)));
    let tail = set.iter().skip(first).take(1).flat_map(move |range| {
        after
            .into_iter()
            .flat_map(move |n| span(range, number(range.start), n))
    });
    head.chain(others).chain(tail)
}

fn span(range: &Range, from: u128, to: u128) -> impl Iterator<Item = (IpAddr, &Range)> {
    (from..=to)
        .map(move |n| (address(n, range.start), range))
        .filter(|(ip, range)| *ip != range.gateway)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn range(value: &Value) -> Result<Range, Failure> {
        Range::read(&Fields::from_value("ranges[0][0]".into(), value)?)
    }

    fn ips(set: &RangeSet, last: Option<&str>) -> Vec<String> {
        candidates(set, last.map(|l| l.parse().unwrap()))
            .map(|(ip, _)| ip.to_string())
            .collect()
    }

    #[test]
    fn defaults_are_the_references() {
        let v4 = range(&json!({"subnet": "10.1.2.0/24"})).unwrap();
        assert_eq!(
            (v4.to_string(), v4.gateway.to_string()),
            ("10.1.2.1-10.1.2.254".into(), "10.1.2.1".into())
        );
        assert_eq!(v4.size(), 253);
        let v6 = range(&json!({"subnet": "fd00::/126"})).unwrap();
        assert_eq!(
            (v6.to_string(), v6.gateway.to_string()),
            ("fd00::1-fd00::3".into(), "fd00::1".into())
        );
    }

    #[test]
    fn order_is_round_robin_and_skips_gateways() {
        let a = range(&json!({"subnet": "10.0.0.0/29", "rangeEnd": "10.0.0.4"})).unwrap();
        let b = range(&json!({"subnet": "10.0.1.0/30"})).unwrap();
        let set = vec![a, b];
        assert_eq!(ips(&set, None), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.1.2"]);
        assert_eq!(
            ips(&set, Some("10.0.0.3")),
            ["10.0.0.4", "10.0.1.2", "10.0.0.2", "10.0.0.3"]
        );
        assert_eq!(
            ips(&set, Some("10.0.1.2")),
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.1.2"]
        );
        assert_eq!(
            ips(&set, Some("10.9.9.9")).len(),
            4,
            "a last address of nowhere starts at the front"
        );
        let host_bits = range(&json!({"subnet": "10.0.0.5/24"})).unwrap_err();
        assert_eq!(host_bits.code, 7);
        assert!(host_bits.msg.contains("ranges[0][0].subnet") && host_bits.msg.contains("10.0.0.0/24"));
    }

    #[test]
    fn mistakes_name_the_field() {
        for (value, field) in [
            (json!({}), "subnet"),
            (json!({"subnet": "10.0.0.0/31"}), "subnet"),
            (json!({"subnet": "nonsense"}), "subnet"),
            (json!({"subnet": 5}), "subnet"),
            (
                json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.1.5"}),
                "rangeStart",
            ),
            (
                json!({"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9", "rangeEnd": "10.0.0.8"}),
                "rangeEnd",
            ),
            (json!({"subnet": "10.0.0.0/24", "gateway": "fd00::1"}), "gateway"),
        ] {
            let failure = range(&value).unwrap_err();
            assert_eq!(failure.code, 7, "{value}");
            assert!(
                failure.msg.starts_with(&format!("ranges[0][0].{field}: ")),
                "{}",
                failure.msg
            );
        }
    }

    #[test]
    fn sets_do_not_overlap_or_mix_families() {
        let a = range(&json!({"subnet": "10.0.0.0/24"})).unwrap();
        let b = range(&json!({"subnet": "10.0.0.128/25"})).unwrap();
        let c = range(&json!({"subnet": "fd00::/64"})).unwrap();
        assert!(check(&[("x".into(), vec![a.clone()]), ("y".into(), vec![b])]).is_err());
        assert!(check(&[("x".into(), vec![a.clone(), c.clone()])]).is_err());
        assert!(check(&[("x".into(), vec![])]).is_err());
        assert!(check(&[("x".into(), vec![a]), ("y".into(), vec![c])]).is_ok());
    }
}
