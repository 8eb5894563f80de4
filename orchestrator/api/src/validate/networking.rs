//! Validation of NetworkPolicy and Ingress (`k8s.io/kubernetes/pkg/apis/networking/validation`).

use ipnet::IpNet;
use serde_json::Value;

use super::field::{Errors, Path, each, text};
use super::names;
use crate::selector::LabelSelector;

const NULL: &Value = &Value::Null;

pub(super) fn network_policy(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(NULL);
    selector(&at.child("podSelector"), spec.get("podSelector"), errors);
    for (list, peers) in [("ingress", "from"), ("egress", "to")] {
        for (index, rule) in each(spec, list) {
            let at = at.child(list).index(index);
            for (index, port) in each(rule, "ports") {
                policy_port(&at.child("ports").index(index), port, errors);
            }
            for (index, peer) in each(rule, peers) {
                policy_peer(&at.child(peers).index(index), peer, errors);
            }
        }
    }
    let types = at.child("policyTypes");
    for (index, kind) in each(spec, "policyTypes") {
        errors.one_of(&types.index(index), Some(kind), &["Ingress", "Egress"]);
    }
    if each(spec, "policyTypes").count() > 2 {
        errors.invalid(
            &types,
            &spec["policyTypes"],
            "may not specify more than two policyTypes",
        );
    }
}

fn selector(at: &Path, selector: Option<&Value>, errors: &mut Errors) {
    if let Err(error) = LabelSelector::from_object(selector) {
        errors.invalid(at, selector.unwrap_or(NULL), &error.to_string());
    }
}

fn policy_port(at: &Path, port: &Value, errors: &mut Errors) {
    errors.one_of(
        &at.child("protocol"),
        port.get("protocol"),
        &["SCTP", "TCP", "UDP"],
    );
    let end = port.get("endPort").and_then(Value::as_i64);
    match port.get("port") {
        Some(Value::String(name)) => {
            for wrong in names::port_name(name) {
                errors.invalid_text(&at.child("port"), name, &wrong);
            }
            if end.is_some() {
                errors.invalid(
                    &at.child("endPort"),
                    &port["endPort"],
                    "may not be specified when `port` is non-numeric",
                );
            }
        }
        Some(number) if !number.is_null() => {
            errors.port(&at.child("port"), Some(number), false);
            if end.is_some() {
                errors.port(&at.child("endPort"), port.get("endPort"), false);
            }
            if end.zip(number.as_i64()).is_some_and(|(end, first)| end < first) {
                errors.invalid(
                    &at.child("endPort"),
                    &port["endPort"],
                    "must be greater than or equal to `port`",
                );
            }
        }
        _ if end.is_some() => {
            errors.invalid(
                &at.child("endPort"),
                &port["endPort"],
                "may not be specified when `port` is not specified",
            );
        }
        _ => {}
    }
}

fn policy_peer(at: &Path, peer: &Value, errors: &mut Errors) {
    let set = |field: &str| peer.get(field).is_some_and(|value| !value.is_null());
    for field in ["podSelector", "namespaceSelector"] {
        if set(field) {
            selector(&at.child(field), peer.get(field), errors);
        }
    }
    match (set("ipBlock"), set("podSelector") || set("namespaceSelector")) {
        (true, true) => errors.forbidden(at, "may not specify both ipBlock and another peer"),
        (false, false) => errors.required(at, "must specify a peer"),
        (true, false) => ip_block(&at.child("ipBlock"), &peer["ipBlock"], errors),
        (false, true) => {}
    }
}

fn ip_block(at: &Path, block: &Value, errors: &mut Errors) {
    let cidr = text(block, "cidr");
    let Ok(network) = cidr.parse::<IpNet>() else {
        errors.invalid_text(
            &at.child("cidr"),
            cidr,
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
        return;
    };
    for (index, except) in each(block, "except") {
        let (at, except) = (
            at.child("except").index(index),
            except.as_str().unwrap_or_default(),
        );
        match except.parse::<IpNet>() {
            Err(_) => errors.invalid_text(
                &at,
                except,
                "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            Ok(part) if !network.contains(&part) || part.prefix_len() <= network.prefix_len() => {
                errors.invalid_text(&at, except, "must be a strict subset of `cidr`");
            }
            Ok(_) => {}
        }
    }
}

pub(super) fn ingress(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(NULL);
    let whole = spec.get("defaultBackend").filter(|backend| !backend.is_null());
    if each(spec, "rules").next().is_none() && whole.is_none() {
        errors.invalid(&at, spec, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(default) = whole {
        backend(&at.child("defaultBackend"), default, errors);
    }
    for (index, rule) in each(spec, "rules") {
        let at = at.child("rules").index(index);
        host(&at.child("host"), text(rule, "host"), errors);
        let http = rule.get("http").unwrap_or(NULL);
        if !http.is_null() && each(http, "paths").next().is_none() {
            errors.required(&at.child("http").child("paths"), "");
        }
        for (index, path) in each(http, "paths") {
            http_path(&at.child("http").child("paths").index(index), path, errors);
        }
    }
    for (index, tls) in each(spec, "tls") {
        let at = at.child("tls").index(index).child("hosts");
        for (index, name) in each(tls, "hosts") {
            host(&at.index(index), name.as_str().unwrap_or_default(), errors);
        }
    }
    let class = text(spec, "ingressClassName");
    if !class.is_empty() {
        for wrong in names::dns_subdomain(class) {
            errors.invalid_text(&at.child("ingressClassName"), class, &wrong);
        }
    }
}

/// A host's name; its first label may be `*`.
fn host(at: &Path, name: &str, errors: &mut Errors) {
    if name.is_empty() {
        return;
    }
    if name.parse::<std::net::IpAddr>().is_ok() {
        errors.invalid_text(at, name, "must be a DNS name, not an IP address");
        return;
    }
    for wrong in names::dns_subdomain(name.strip_prefix("*.").unwrap_or(name)) {
        errors.invalid_text(at, name, &wrong);
    }
}

fn http_path(at: &Path, path: &Value, errors: &mut Errors) {
    const TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];
    let place = text(path, "path");
    match path.get("pathType").and_then(Value::as_str) {
        None | Some("") => errors.required(&at.child("pathType"), "pathType must be specified"),
        Some(kind) if !TYPES.contains(&kind) => errors.unsupported(&at.child("pathType"), kind, TYPES),
        Some(kind) => {
            let free = kind == "ImplementationSpecific" && place.is_empty();
            if !free && !place.starts_with('/') {
                errors.invalid_text(&at.child("path"), place, "must be an absolute path");
            }
            for wrong in ["//", "/./", "/../", "%2f", "%2F"] {
                if kind != "ImplementationSpecific" && place.contains(wrong) {
                    errors.invalid_text(&at.child("path"), place, &format!("must not contain '{wrong}'"));
                }
            }
        }
    }
    backend(&at.child("backend"), path.get("backend").unwrap_or(NULL), errors);
}

fn backend(at: &Path, backend: &Value, errors: &mut Errors) {
    let set = |field: &str| backend.get(field).is_some_and(|value| !value.is_null());
    match (set("service"), set("resource")) {
        (true, true) => errors.invalid(at, backend, "cannot set both resource and service backends"),
        (false, false) => errors.required(at, "must specify a service or a resource"),
        (false, true) => {}
        (true, false) => {
            let at = at.child("service");
            let service = &backend["service"];
            let name = text(service, "name");
            if name.is_empty() {
                errors.required(&at.child("name"), "");
            } else {
                for wrong in names::dns_label_1035(name) {
                    errors.invalid_text(&at.child("name"), name, &wrong);
                }
            }
            let port = service.get("port").unwrap_or(NULL);
            let number = port
                .get("number")
                .filter(|number| number.as_i64().is_some_and(|n| n != 0));
            match (number, text(port, "name")) {
                (Some(_), name) if !name.is_empty() => {
                    errors.invalid(&at.child("port"), port, "cannot set both port name & port number");
                }
                (Some(number), _) => errors.port(&at.child("port").child("number"), Some(number), false),
                (None, "") => errors.required(&at.child("port"), "port name or number is required"),
                (None, name) => {
                    for wrong in names::port_name(name) {
                        errors.invalid_text(&at.child("port").child("name"), name, &wrong);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::{Node, create};
    use crate::{defaults, kinds};

    use super::*;

    fn wrong(kind: &'static kinds::Kind, spec: &Value) -> Vec<String> {
        let mut object = json!({"metadata": {"name": "x", "namespace": "default"}, "spec": spec});
        defaults::apply(kind, &mut object);
        let causes = create(kind, &object, &Node::default());
        causes
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect()
    }

    #[test]
    fn policies() {
        let good = json!({"podSelector": {}, "ingress": [{"from": [
            {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"namespaceSelector": {}}],
            "ports": [{"port": 80, "endPort": 90}, {"port": "http"}]}]});
        assert_eq!(wrong(kinds::NETWORK_POLICY, &good), [""; 0]);
        for (rule, found) in [
            (json!({"from": [{}]}), "spec.ingress[0].from[0]: Required"),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}),
                "ipBlock.cidr: Invalid",
            ),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8"]}}]}),
                "strict subset",
            ),
            (
                json!({"from": [{"ipBlock": {"cidr": "::/0"}, "podSelector": {}}]}),
                "may not specify both",
            ),
            (
                json!({"ports": [{"port": 80, "endPort": 79}]}),
                "greater than or equal",
            ),
            (
                json!({"ports": [{"protocol": "ICMP"}]}),
                "ports[0].protocol: Unsupported",
            ),
        ] {
            let all = wrong(
                kinds::NETWORK_POLICY,
                &json!({"podSelector": {}, "ingress": [rule]}),
            );
            assert!(
                all.iter().any(|message| message.contains(found)),
                "{found}: {all:?}"
            );
        }
    }

    #[test]
    fn ingresses() {
        let path = |path: &Value| json!({"rules": [{"host": "a.example", "http": {"paths": [path]}}]});
        let service = json!({"service": {"name": "web", "port": {"number": 80}}});
        let good = path(&json!({"path": "/", "pathType": "Prefix", "backend": service}));
        assert_eq!(wrong(kinds::INGRESS, &good), [""; 0]);
        for (spec, found) in [
            (json!({}), "either `defaultBackend` or `rules`"),
            (
                path(&json!({"path": "/", "pathType": "Like", "backend": service})),
                "pathType: Unsupported",
            ),
            (
                path(&json!({"path": "a", "pathType": "Exact", "backend": service})),
                "must be an absolute path",
            ),
            (
                path(&json!({"path": "/", "pathType": "Exact", "backend": {}})),
                "must specify a service",
            ),
            (
                json!({"defaultBackend": {"service": {"name": "web", "port": {}}}}),
                "port name or number is required",
            ),
            (json!({"rules": [{"host": "10.0.0.1"}]}), "not an IP address"),
        ] {
            let all = wrong(kinds::INGRESS, &spec);
            assert!(
                all.iter().any(|message| message.contains(found)),
                "{found}: {all:?}"
            );
        }
    }
}
