//! Validation of Service, Endpoints and EndpointSlice.
//!
//! Source: `k8s.io/kubernetes/pkg/apis/core/validation` and `pkg/apis/discovery/validation`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::field::{Errors, Path, each, text};
use super::{metadata, names};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
/// One day, as upstream.
const LONGEST_AFFINITY: i64 = 86_400;
/// Endpoints in one slice, as upstream.
const SLICE_LIMIT: usize = 1000;
const PORT_LIMIT: usize = 100;

pub(super) fn service(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    errors.one_of(&at.child("type"), spec.get("type"), TYPES);
    metadata::labels(&at.child("selector"), spec.get("selector"), errors);
    affinity(&at, spec, errors);
    let headless = text(spec, "clusterIP") == "None";
    match text(spec, "type") {
        "ExternalName" => external_name(&at, spec, errors),
        "NodePort" | "LoadBalancer" if headless => errors.invalid_text(
            &at.child("clusterIPs").index(0),
            "None",
            &format!("may not be set to 'None' for {} services", text(spec, "type")),
        ),
        _ => {}
    }
    if text(spec, "type") != "ExternalName" {
        addresses(&at, spec, errors);
        for (field, allowed) in [
            ("internalTrafficPolicy", ["Cluster", "Local"]),
            ("ipFamilyPolicy", ["PreferDualStack", "SingleStack"]),
        ] {
            errors.one_of(&at.child(field), spec.get(field), &allowed);
        }
    }
    for (index, address) in each(spec, "externalIPs") {
        let address = address.as_str().unwrap_or_default();
        endpoint_address(&at.child("externalIPs").index(index), address, errors);
    }
    let class = text(spec, "loadBalancerClass");
    if !class.is_empty() {
        let at = at.child("loadBalancerClass");
        if text(spec, "type") == "LoadBalancer" {
            for wrong in names::qualified_name(class) {
                errors.invalid_text(&at, class, &wrong);
            }
        } else {
            errors.forbidden(&at, "may only be used when `type` is 'LoadBalancer'");
        }
    }
    external_policy(&at, spec, errors);
    ports(&at, spec, headless, errors);
}

fn affinity(at: &Path, spec: &Value, errors: &mut Errors) {
    errors.one_of(
        &at.child("sessionAffinity"),
        spec.get("sessionAffinity"),
        &["ClientIP", "None"],
    );
    let path = at.child("sessionAffinityConfig");
    let seconds = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds");
    if text(spec, "sessionAffinity") == "None" {
        if spec.get("sessionAffinityConfig").is_some() {
            errors.forbidden(&path, "must not be set when session affinity is None");
        }
    } else if let Some(value) = seconds
        && !value
            .as_i64()
            .is_some_and(|n| (1..=LONGEST_AFFINITY).contains(&n))
    {
        errors.invalid(
            &path.child("clientIP").child("timeoutSeconds"),
            value,
            &format!("must be greater than 0 and less than {LONGEST_AFFINITY}"),
        );
    }
}

fn external_name(at: &Path, spec: &Value, errors: &mut Errors) {
    let address = text(spec, "clusterIP");
    if !address.is_empty() {
        errors.forbidden(
            &at.child("clusterIPs"),
            "may not be set for ExternalName services",
        );
    }
    let name = text(spec, "externalName").trim_end_matches('.');
    if name.is_empty() {
        errors.required(&at.child("externalName"), "");
        return;
    }
    for wrong in names::dns_subdomain(name) {
        errors.invalid_text(&at.child("externalName"), name, &wrong);
    }
}

fn addresses(at: &Path, spec: &Value, errors: &mut Errors) {
    for (index, family) in each(spec, "ipFamilies") {
        if family != "IPv4" || index > 0 {
            errors.invalid(
                &at.child("ipFamilies").index(index),
                family,
                "may not be used on a cluster which is not configured for it: pods have IPv4 addresses",
            );
        }
    }
    let list: Vec<&str> = each(spec, "clusterIPs")
        .filter_map(|(_, ip)| ip.as_str())
        .collect();
    if let Some(first) = list.first()
        && *first != text(spec, "clusterIP")
    {
        errors.invalid_text(
            &at.child("clusterIPs").index(0),
            first,
            "first value must match `clusterIP`",
        );
    }
    if list.len() > 1 {
        errors.invalid(
            &at.child("clusterIPs"),
            &spec["clusterIPs"],
            "may only hold one value: there are no IPv6 services",
        );
    }
    for (index, address) in list.iter().enumerate() {
        if *address != "None" && address.parse::<std::net::Ipv4Addr>().is_err() {
            errors.invalid_text(
                &at.child("clusterIPs").index(index),
                address,
                "must be an IPv4 address or 'None'",
            );
        }
    }
}

fn external_policy(at: &Path, spec: &Value, errors: &mut Errors) {
    let path = at.child("externalTrafficPolicy");
    let outside = matches!(text(spec, "type"), "NodePort" | "LoadBalancer");
    match (outside, spec.get("externalTrafficPolicy")) {
        (true, policy) => errors.one_of(&path, policy, &["Cluster", "Local"]),
        (false, Some(policy)) => errors.invalid(
            &path,
            policy,
            "may only be set for externally-accessible services",
        ),
        (false, None) => {}
    }
}

fn ports(at: &Path, spec: &Value, headless: bool, errors: &mut Errors) {
    let count = spec.get("ports").and_then(Value::as_array).map_or(0, Vec::len);
    if count == 0 && !headless && text(spec, "type") != "ExternalName" {
        errors.required(&at.child("ports"), "");
    }
    let mut seen_names = BTreeSet::new();
    let mut seen_ports = BTreeSet::new();
    let mut seen_node_ports = BTreeSet::new();
    for (index, port) in each(spec, "ports") {
        let path = at.child("ports").index(index);
        let name = text(port, "name");
        if name.is_empty() {
            if count > 1 {
                errors.required(&path.child("name"), "");
            }
        } else {
            for wrong in names::dns_label(name) {
                errors.invalid_text(&path.child("name"), name, &wrong);
            }
            if !seen_names.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        errors.port(&path.child("port"), port.get("port"), true);
        errors.one_of(&path.child("protocol"), port.get("protocol"), PROTOCOLS);
        match port.get("targetPort") {
            Some(Value::String(name)) => {
                for wrong in names::port_name(name) {
                    errors.invalid_text(&path.child("targetPort"), name, &wrong);
                }
            }
            target => errors.port(&path.child("targetPort"), target, false),
        }
        let protocol = text(port, "protocol");
        let number = port.get("port").and_then(Value::as_i64).unwrap_or(0);
        if !seen_ports.insert((protocol, number)) {
            errors.duplicate(&path, &format!("{protocol}/{number}"));
        }
        node_port(&path.child("nodePort"), spec, port, &mut seen_node_ports, errors);
    }
}

fn node_port<'a>(
    path: &Path,
    spec: &Value,
    port: &'a Value,
    seen: &mut BTreeSet<(&'a str, i64)>,
    errors: &mut Errors,
) {
    let Some(number) = port.get("nodePort").and_then(Value::as_i64).filter(|n| *n != 0) else {
        return;
    };
    if !matches!(text(spec, "type"), "NodePort" | "LoadBalancer") {
        errors.forbidden(
            path,
            &format!("may not be used when `type` is '{}'", text(spec, "type")),
        );
    }
    errors.port(path, port.get("nodePort"), false);
    if !seen.insert((text(port, "protocol"), number)) {
        errors.duplicate(path, &number.to_string());
    }
}

pub(super) fn endpoints(object: &Value, errors: &mut Errors) {
    for (index, subset) in each(object, "subsets") {
        let at = Path::root("subsets").index(index);
        let some = |list: &str| {
            subset
                .get(list)
                .and_then(Value::as_array)
                .is_some_and(|l| !l.is_empty())
        };
        if !some("addresses") && !some("notReadyAddresses") {
            errors.required(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (index, address) in each(subset, list) {
                let at = at.child(list).index(index).child("ip");
                endpoint_address(&at, text(address, "ip"), errors);
            }
        }
        endpoint_ports(&at, subset, errors);
    }
}

pub(super) fn endpoint_slice(object: &Value, errors: &mut Errors) {
    errors.one_of(
        &Path::root("addressType"),
        object.get("addressType"),
        &["FQDN", "IPv4", "IPv6"],
    );
    let kind = text(object, "addressType");
    let count = object
        .get("endpoints")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    if count > SLICE_LIMIT {
        errors.too_many(&Path::root("endpoints"), count, SLICE_LIMIT);
    }
    for (index, endpoint) in each(object, "endpoints") {
        let at = Path::root("endpoints").index(index).child("addresses");
        if each(endpoint, "addresses").next().is_none() {
            errors.required(&at, "must contain at least 1 address");
        }
        for (index, address) in each(endpoint, "addresses") {
            let (at, address) = (at.index(index), address.as_str().unwrap_or_default());
            match (kind, address.parse::<IpAddr>()) {
                ("FQDN", _) => {
                    for wrong in names::dns_subdomain(address) {
                        errors.invalid_text(&at, address, &wrong);
                    }
                }
                ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {
                    endpoint_address(&at, address, errors);
                }
                _ => errors.invalid_text(&at, address, &format!("must be an {kind} address")),
            }
        }
    }
    endpoint_ports(&Path::root(""), object, errors);
}

/// What nobody may send traffic to by an endpoint, or take traffic of by a Service.
fn endpoint_address(at: &Path, address: &str, errors: &mut Errors) {
    let Ok(ip) = address.parse::<IpAddr>() else {
        errors.invalid_text(at, address, "must be a valid IP address");
        return;
    };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let wrong = if ip.is_unspecified() {
        "may not be unspecified"
    } else if ip.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)"
    } else if ip.is_multicast() {
        "may not be in the multicast range"
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
    } else {
        return;
    };
    errors.invalid_text(at, address, wrong);
}

fn endpoint_ports(at: &Path, object: &Value, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    let count = object.get("ports").and_then(Value::as_array).map_or(0, Vec::len);
    if count > PORT_LIMIT {
        errors.too_many(&at.child("ports"), count, PORT_LIMIT);
    }
    for (index, port) in each(object, "ports") {
        let path = at.child("ports").index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            for wrong in names::dns_label(name) {
                errors.invalid_text(&path.child("name"), name, &wrong);
            }
        }
        if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        errors.port(&path.child("port"), port.get("port"), false);
        errors.one_of(&path.child("protocol"), port.get("protocol"), PROTOCOLS);
    }
}
