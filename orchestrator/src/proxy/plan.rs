//! PURE: from Services and EndpointSlices to what the kernel shall know.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use cni_plugins::services::{Frontend, Protocol, Service, Services};
use ipnet::Ipv4Net;
use serde_json::Value;

use super::Settings;
use super::routes::Leading;
use crate::controllers::own;

/// Label that names the Service of a slice.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One endpoint's answer to one port.
struct Backend {
    place: SocketAddrV4,
    ready: bool,
    /// Being deleted, but still answering: used where nobody else is left.
    serving: bool,
}

/// What is to be done.
#[derive(Debug)]
pub struct Plan {
    /// What the kernel shall know.
    pub services: Services,
    /// The pods that are led to, without those that a Service leads to until their very end
    /// (`publishNotReadyAddresses`).
    pub(super) leading: Leading,
    /// There are Services beside the node's own.
    pub others: bool,
}

/// What the kernel shall know. `networks` are those that the host itself is in.
pub fn plan(services: &[Value], slices: &[Value], settings: &Settings, networks: &[Ipv4Net]) -> Plan {
    let mut by_service: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
    for slice in slices.iter().filter(|slice| slice["addressType"] == "IPv4") {
        let service = slice["metadata"]["labels"][SERVICE_NAME]
            .as_str()
            .unwrap_or_default();
        let namespace = slice["metadata"]["namespace"].as_str().unwrap_or_default();
        by_service.entry((namespace, service)).or_default().push(slice);
    }
    let mut all = BTreeMap::new();
    let (mut leading, mut others) = (Leading::new(), false);
    for service in services {
        let meta = |field: &str| service["metadata"][field].as_str().unwrap_or_default();
        let (namespace, name) = (meta("namespace"), meta("name"));
        let slices = by_service.get(&(namespace, name)).map_or(&[][..], Vec::as_slice);
        for port in service["spec"]["ports"].as_array().into_iter().flatten() {
            let port_name = port["name"].as_str().unwrap_or_default();
            if let Some(found) = one(service, port, slices, &settings.own) {
                others |= ![own::API, own::DNS].contains(&(namespace, name));
                if service["spec"]["publishNotReadyAddresses"] != true {
                    leading.extend(found.backends.iter().map(SocketAddrV4::ip));
                }
                let number = &port["port"];
                let shown = if port_name.is_empty() {
                    number.to_string()
                } else {
                    port_name.to_owned()
                };
                all.insert(format!("{namespace}/{name}:{shown}"), found);
            }
        }
    }
    let direct = direct(&all, networks);
    Plan {
        services: Services {
            services: all,
            addresses: settings.addresses,
            direct,
        },
        leading,
        others,
    }
}

/// One port of a Service; nothing for those that have no address.
fn one(service: &Value, port: &Value, slices: &[&Value], own: &BTreeSet<SocketAddrV4>) -> Option<Service> {
    let spec = &service["spec"];
    if spec["type"] == "ExternalName" {
        return None;
    }
    let address: Ipv4Addr = spec["clusterIP"].as_str()?.parse().ok()?;
    let protocol = match port["protocol"].as_str().unwrap_or("TCP") {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return None,
    };
    let number = |field: &str| {
        port[field]
            .as_u64()
            .and_then(|n| u16::try_from(n).ok())
            .filter(|n| *n > 0)
    };
    let mut frontends = BTreeSet::from([Frontend {
        address: Some(address),
        protocol,
        port: number("port")?,
    }]);
    frontends.extend(number("nodePort").map(|port| Frontend {
        address: None,
        protocol,
        port,
    }));
    let shown = number("port")?;
    frontends.extend(outside(service).map(|address| Frontend {
        address: Some(address),
        protocol,
        port: shown,
    }));
    let mut backends = backends(port, slices);
    // What listens on 127.0.0.1 trusts that only the host itself comes.
    backends.retain(|backend| !backend.ip().is_loopback() || own.contains(backend));
    Some(Service {
        frontends,
        backends,
        sticky: spec["sessionAffinity"] == "ClientIP",
    })
}

/// Addresses of the host, and others that are routed to it, that a Service has beside its own: what its specification
/// asks for, and what the load balancer's controller gave it.
fn outside(service: &Value) -> impl Iterator<Item = Ipv4Addr> {
    let asked = service["spec"]["externalIPs"].as_array().into_iter().flatten();
    let balanced = service["spec"]["type"] == "LoadBalancer";
    let given = service["status"]["loadBalancer"]["ingress"].as_array();
    let given = given
        .filter(|_| balanced)
        .into_iter()
        .flatten()
        .map(|point| &point["ip"]);
    asked.chain(given).filter_map(|ip| ip.as_str()?.parse().ok())
}

/// Where a port's connections go, in an order that does not change: the ready endpoints, or, where all are being
/// deleted, those that still answer.
fn backends(port: &Value, slices: &[&Value]) -> Vec<SocketAddrV4> {
    let mut all: Vec<Backend> = slices.iter().flat_map(|slice| offered(port, slice)).collect();
    let any_ready = all.iter().any(|backend| backend.ready);
    all.retain(|backend| if any_ready { backend.ready } else { backend.serving });
    let mut places: Vec<SocketAddrV4> = all.into_iter().map(|backend| backend.place).collect();
    places.sort_unstable();
    places.dedup();
    places
}

fn offered(port: &Value, slice: &Value) -> Vec<Backend> {
    let text = |value: &Value, field: &str, default: &'static str| {
        value[field].as_str().unwrap_or(default).to_owned()
    };
    let same = |offered: &&Value| {
        text(offered, "name", "") == text(port, "name", "")
            && text(offered, "protocol", "TCP") == text(port, "protocol", "TCP")
    };
    let found = slice["ports"].as_array().into_iter().flatten().find(same);
    let Some(number) = found
        .and_then(|port| port["port"].as_u64())
        .and_then(|n| u16::try_from(n).ok())
    else {
        return Vec::new();
    };
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints
        .filter_map(|endpoint| {
            // Only the first address counts; the others are the same endpoint's (discovery/v1 Endpoint).
            let address: Ipv4Addr = endpoint["addresses"][0].as_str()?.parse().ok()?;
            let is = |field: &str, default: bool| endpoint["conditions"][field].as_bool().unwrap_or(default);
            let ready = is("ready", true);
            Some(Backend {
                place: SocketAddrV4::new(address, number),
                ready,
                serving: is("serving", ready) && is("terminating", false),
            })
        })
        .collect()
}

/// The networks of the host in which backends are: their neighbours would answer a client there directly.
fn direct(services: &BTreeMap<String, Service>, networks: &[Ipv4Net]) -> BTreeSet<Ipv4Net> {
    let backends: BTreeSet<&Ipv4Addr> = services
        .values()
        .flat_map(|service| &service.backends)
        .map(SocketAddrV4::ip)
        .collect();
    networks
        .iter()
        .filter(|network| backends.iter().any(|address| network.contains(*address)))
        .copied()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[allow(clippy::needless_pass_by_value)] // json!() where it is called
    fn service(spec: Value) -> Value {
        json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec})
    }

    #[allow(clippy::needless_pass_by_value)] // json!() where it is called
    fn slice(endpoints: Value) -> Value {
        json!({
            "metadata": {"namespace": "default", "name": "web-x", "labels": {SERVICE_NAME: "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            "endpoints": endpoints,
        })
    }

    fn endpoint(address: &str, ready: bool, terminating: bool) -> Value {
        json!({"addresses": [address], "conditions": {"ready": ready, "serving": true, "terminating": terminating}})
    }

    fn web() -> Value {
        service(json!({
            "type": "NodePort", "clusterIP": "10.96.0.40",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}],
        }))
    }

    fn plan_of(service: Value, slices: &[Value]) -> Plan {
        let networks = ["10.90.0.0/16".parse().unwrap(), "192.0.2.0/24".parse().unwrap()];
        let settings = Settings {
            addresses: "10.96.0.0/16".parse().unwrap(),
            own: BTreeSet::from(["127.0.0.1:6443".parse().unwrap()]),
            check: std::time::Duration::ZERO,
        };
        plan(&[service], slices, &settings, &networks)
    }

    fn planned(service: Value, slices: &[Value]) -> Services {
        plan_of(service, slices).services
    }

    fn addresses(found: &Services) -> Vec<String> {
        let all = found.services.values().flat_map(|service| &service.backends);
        all.map(ToString::to_string).collect()
    }

    #[test]
    fn ready_endpoints_serve_and_the_last_ones_go_on_until_they_are_gone() {
        let some = slice(json!([
            endpoint("10.90.0.3", true, false),
            endpoint("10.90.0.2", true, false),
            endpoint("10.90.0.4", false, true),
        ]));
        let found = planned(web(), &[some]);
        assert_eq!(addresses(&found), ["10.90.0.2:8080", "10.90.0.3:8080"]);
        let service = &found.services["default/web:http"];
        let ports: Vec<(bool, u16)> = service
            .frontends
            .iter()
            .map(|f| (f.address.is_some(), f.port))
            .collect();
        assert_eq!(ports, [(false, 30080), (true, 80)]);
        assert_eq!(found.direct, BTreeSet::from(["10.90.0.0/16".parse().unwrap()]));
        let last = slice(json!([
            endpoint("10.90.0.4", false, true),
            endpoint("10.90.0.5", false, false)
        ]));
        assert_eq!(addresses(&planned(web(), &[last])), ["10.90.0.4:8080"]);
    }

    #[test]
    fn slices_add_up_and_other_ports_and_families_do_not_count() {
        let mut other = slice(json!([endpoint("10.90.0.9", true, false)]));
        other["ports"][0]["name"] = json!("metrics");
        let mut six = slice(json!([endpoint("fd00::1", true, false)]));
        six["addressType"] = json!("IPv6");
        let one = slice(json!([endpoint("10.90.0.2", true, false)]));
        // Without conditions an endpoint is ready.
        let two = slice(json!([{"addresses": ["192.0.2.7"]}]));
        let found = planned(web(), &[other, six, one, two]);
        assert_eq!(addresses(&found), ["10.90.0.2:8080", "192.0.2.7:8080"]);
    }

    #[test]
    fn addresses_from_outside_lead_to_the_same_pods() {
        let mut service = web();
        service["spec"]["externalIPs"] = json!(["198.51.100.7", "2001:db8::1"]);
        service["status"]["loadBalancer"]["ingress"] = json!([{"ip": "192.0.2.1"}]);
        let shown = |service: &Value| -> Vec<String> {
            let found = planned(
                service.clone(),
                &[slice(json!([endpoint("10.90.0.2", true, false)]))],
            );
            let frontends = found.services["default/web:http"].frontends.iter();
            frontends
                .filter_map(|f| f.address.map(|ip| format!("{ip}:{}", f.port)))
                .collect()
        };
        assert_eq!(shown(&service), ["10.96.0.40:80", "198.51.100.7:80"]);
        service["spec"]["type"] = json!("LoadBalancer");
        assert_eq!(
            shown(&service),
            ["10.96.0.40:80", "192.0.2.1:80", "198.51.100.7:80"]
        );
    }

    #[test]
    fn of_the_hosts_loopback_only_berthds_own_sockets_are_led_to() {
        let mut here = slice(json!([endpoint("127.0.0.1", true, false)]));
        assert_eq!(addresses(&planned(web(), &[here.clone()])), [""; 0]);
        here["ports"][0]["port"] = json!(6443);
        assert_eq!(addresses(&planned(web(), &[here])), ["127.0.0.1:6443"]);
    }

    #[test]
    fn a_pod_that_ends_does_not_wait_for_services_that_publish_it_until_then() {
        let some = slice(json!([endpoint("10.90.0.2", true, false)]));
        let leads = |service: Value| plan_of(service, std::slice::from_ref(&some)).leading.len();
        assert_eq!(leads(web()), 1);
        let mut published = web();
        published["spec"]["publishNotReadyAddresses"] = json!(true);
        assert_eq!(leads(published.clone()), 0);
        assert!(plan_of(published.clone(), &[]).others);
        published["metadata"] = json!({"namespace": "default", "name": "kubernetes"});
        assert!(!plan_of(published, &[]).others);
    }

    #[test]
    fn services_without_an_address_have_no_rules() {
        for spec in [
            json!({"type": "ClusterIP", "clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "example.com", "ports": [{"port": 80}]}),
        ] {
            assert!(planned(service(spec), &[]).services.is_empty());
        }
    }
}
