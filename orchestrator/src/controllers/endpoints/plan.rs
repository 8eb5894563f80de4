//! PURE: from a Service and its pods to slices and Endpoints.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::controllers::fields::{condition, is_deleting, name, strings, text};
use crate::controllers::ownership::controller_reference;

/// Label that names the Service of a slice.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// Label that names who keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const MIRRORING: &str = "endpointslicemirroring-controller.k8s.io";
/// Label that tells our Endpoints from a user's.
const ENDPOINTS_MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const ENDPOINTS_CONTROLLER: &str = "endpoint-controller";
/// Label of a headless Service's endpoints.
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints of one slice, as upstream by default.
const SLICE_SIZE: usize = 100;

/// A port of the Service as pods offer it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    name: String,
    protocol: String,
    number: i64,
}

/// A pod that the Service selects.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoint {
    address: String,
    ready: bool,
    serving: bool,
    terminating: bool,
    hostname: Option<String>,
    node: String,
    pod: Value,
}

/// Endpoints by the ports they offer: a named port may have another number in another pod.
pub(super) type Groups = BTreeMap<Vec<Port>, Vec<Endpoint>>;

pub(super) fn has_selector(service: &Value) -> bool {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    text(service, "/spec/type") != "ExternalName" && selector.is_some_and(|map| !map.is_empty())
}

/// Whether a Service selects a pod.
pub(super) fn selects(service: &Value, pod: &Value) -> bool {
    let labels = strings(pod, "/metadata/labels");
    has_selector(service)
        && strings(service, "/spec/selector")
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value))
}

/// Sorts the pods that a Service selects.
pub(super) fn groups(service: &Value, pods: &[Value]) -> Groups {
    let publish = service["spec"]["publishNotReadyAddresses"] == true;
    let mut groups = Groups::new();
    for pod in pods {
        let address = text(pod, "/status/podIP");
        if address.is_empty() || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            continue;
        }
        let ready = pod
            .get("status")
            .and_then(|status| condition(status, "Ready"))
            .is_some_and(|condition| condition["status"] == "True");
        let going = is_deleting(pod);
        let hostname = text(pod, "/spec/hostname");
        let named = !hostname.is_empty() && text(pod, "/spec/subdomain") == name(service);
        groups.entry(ports(service, pod)).or_default().push(Endpoint {
            address: address.to_owned(),
            ready: publish || (ready && !going),
            serving: ready,
            terminating: going,
            hostname: named.then(|| hostname.to_owned()),
            node: text(pod, "/spec/nodeName").to_owned(),
            pod: json!({
                "kind": "Pod",
                "namespace": pod["metadata"]["namespace"],
                "name": pod["metadata"]["name"],
                "uid": pod["metadata"]["uid"],
            }),
        });
    }
    for list in groups.values_mut() {
        list.sort_by(|a, b| a.address.cmp(&b.address));
    }
    groups
}

/// The Service's ports as this pod has them. A named one that the pod does not have is left out.
fn ports(service: &Value, pod: &Value) -> Vec<Port> {
    let list = service.pointer("/spec/ports").and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let number = match &port["targetPort"] {
                Value::String(name) => container_port(pod, name, protocol)?,
                Value::Number(number) => number.as_i64()?,
                _ => port["port"].as_i64()?,
            };
            Some(Port {
                name: port["name"].as_str().unwrap_or_default().to_owned(),
                protocol: protocol.to_owned(),
                number,
            })
        })
        .collect()
}

/// The number of a named port: of the containers, and of init containers that go on running.
fn container_port(pod: &Value, wanted: &str, protocol: &str) -> Option<i64> {
    let list = |field: &str| pod["spec"][field].as_array().cloned().unwrap_or_default();
    let sidecars = list("initContainers")
        .into_iter()
        .filter(|c| c["restartPolicy"] == "Always");
    list("containers")
        .into_iter()
        .chain(sidecars)
        .flat_map(|container| container["ports"].as_array().cloned().unwrap_or_default())
        .find(|port| port["name"] == wanted && port["protocol"].as_str().unwrap_or("TCP") == protocol)
        .and_then(|port| port["containerPort"].as_i64())
}

/// The slices of a Service with a selector.
pub(super) fn slices(service: &Value, groups: &Groups) -> Vec<Value> {
    let mut slices = Vec::new();
    for (ports, endpoints) in groups {
        for (number, chunk) in endpoints.chunks(SLICE_SIZE).enumerate() {
            let ports: Vec<Value> = ports.iter().map(slice_port).collect();
            let endpoints: Vec<Value> = chunk.iter().map(slice_endpoint).collect();
            slices.push(slice(service, CONTROLLER, number, &ports, &endpoints));
        }
    }
    slices
}

fn slice(service: &Value, keeper: &str, number: usize, ports: &[Value], endpoints: &[Value]) -> Value {
    let mut labels: Map<String, Value> = Map::new();
    labels.insert(SERVICE_NAME.to_owned(), json!(name(service)));
    labels.insert(MANAGED_BY.to_owned(), json!(keeper));
    if text(service, "/spec/clusterIP") == "None" {
        labels.insert(HEADLESS.to_owned(), json!(""));
    }
    let ports = json!(ports);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": service["metadata"]["namespace"],
            "name": format!("{}-{}", name(service), letters(&format!("{ports}{number}"))),
            "generateName": format!("{}-", name(service)),
            "labels": labels,
            "ownerReferences": [controller_reference(service)],
        },
        "addressType": "IPv4",
        "ports": ports,
        "endpoints": endpoints,
    })
}

/// Five letters that are always the same for a text: the slice of a set of ports keeps its name.
fn letters(text: &str) -> String {
    let alphabet = crate::controllers::dependents::NAME_LETTERS;
    // FNV-1a.
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..5)
        .map(|_| {
            let letter = alphabet[usize::try_from(hash % 27).unwrap_or(0)];
            hash /= 27;
            char::from(letter)
        })
        .collect()
}

fn slice_port(port: &Port) -> Value {
    json!({"name": port.name, "protocol": port.protocol, "port": port.number})
}

fn slice_endpoint(endpoint: &Endpoint) -> Value {
    let mut value = json!({
        "addresses": [endpoint.address],
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
        "targetRef": endpoint.pod,
        "nodeName": endpoint.node,
    });
    if let Some(hostname) = &endpoint.hostname {
        value["hostname"] = json!(hostname);
    }
    value
}

/// The Endpoints object of a Service with a selector.
pub(super) fn endpoints(service: &Value, groups: &Groups) -> Value {
    let address = |endpoint: &Endpoint| {
        let mut value = json!({
            "ip": endpoint.address,
            "nodeName": endpoint.node,
            "targetRef": endpoint.pod,
        });
        if let Some(hostname) = &endpoint.hostname {
            value["hostname"] = json!(hostname);
        }
        value
    };
    let mut subsets = Vec::new();
    for (ports, endpoints) in groups {
        let mut subset = Map::new();
        let ready: Vec<Value> = endpoints.iter().filter(|e| e.ready).map(address).collect();
        let waiting: Vec<Value> = endpoints
            .iter()
            .filter(|e| !e.ready && !e.terminating)
            .map(address)
            .collect();
        if ready.is_empty() && waiting.is_empty() {
            continue;
        }
        if !ready.is_empty() {
            subset.insert("addresses".to_owned(), json!(ready));
        }
        if !waiting.is_empty() {
            subset.insert("notReadyAddresses".to_owned(), json!(waiting));
        }
        let ports: Vec<Value> = ports
            .iter()
            .map(|port| {
                let mut value = json!({"port": port.number, "protocol": port.protocol});
                if !port.name.is_empty() {
                    value["name"] = json!(port.name);
                }
                value
            })
            .collect();
        if !ports.is_empty() {
            subset.insert("ports".to_owned(), json!(ports));
        }
        subsets.push(Value::Object(subset));
    }
    let mut labels = strings(service, "/metadata/labels");
    labels.insert(ENDPOINTS_MANAGED_BY.to_owned(), ENDPOINTS_CONTROLLER.to_owned());
    if text(service, "/spec/clusterIP") == "None" {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let mut value = json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "namespace": service["metadata"]["namespace"],
            "name": service["metadata"]["name"],
            "labels": labels,
        },
    });
    if !subsets.is_empty() {
        value["subsets"] = json!(subsets);
    }
    value
}

/// Slices that say what a user's Endpoints say.
pub(super) fn mirrored(service: &Value, endpoints: &Value) -> Vec<Value> {
    if is_own_endpoints(endpoints) || is_deleting(endpoints) {
        return Vec::new();
    }
    let mut slices = Vec::new();
    for subset in endpoints["subsets"].as_array().into_iter().flatten() {
        let ports: Vec<Value> = subset["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| {
                json!({
                    "name": port["name"].as_str().unwrap_or_default(),
                    "protocol": port["protocol"].as_str().unwrap_or("TCP"),
                    "port": port["port"],
                })
            })
            .collect();
        let one = |address: &Value, ready: bool| {
            let mut value = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
            for field in ["hostname", "nodeName", "targetRef"] {
                if let Some(found) = address.get(field) {
                    value[field] = found.clone();
                }
            }
            value
        };
        let list = |field: &str| subset[field].as_array().cloned().unwrap_or_default();
        let ready = list("addresses").into_iter().map(|address| one(&address, true));
        let waiting = list("notReadyAddresses")
            .into_iter()
            .map(|address| one(&address, false));
        let all: Vec<Value> = ready.chain(waiting).collect();
        for chunk in all.chunks(SLICE_SIZE) {
            slices.push(slice(service, MIRRORING, slices.len(), &ports, chunk));
        }
    }
    slices
}

pub(super) fn is_own_slice(slice: &Value) -> bool {
    let keeper = strings(slice, "/metadata/labels").remove(MANAGED_BY);
    keeper.is_some_and(|keeper| keeper == CONTROLLER || keeper == MIRRORING)
}

pub(super) fn is_own_endpoints(endpoints: &Value) -> bool {
    let keeper = strings(endpoints, "/metadata/labels").remove(ENDPOINTS_MANAGED_BY);
    keeper.is_some_and(|keeper| keeper == ENDPOINTS_CONTROLLER)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "web", "uid": "s1"}, "spec": spec,
        })
    }

    fn pod(name: &str, ip: &str, ready: bool) -> Value {
        json!({
            "metadata": {"namespace": "default", "name": name, "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        })
    }

    fn web() -> Value {
        service(&json!({"selector": {"app": "web"}, "clusterIP": "10.96.0.40",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]}))
    }

    #[test]
    fn readiness_and_deletion_decide_about_traffic() {
        let mut going = pod("c", "10.90.0.4", true);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut ended = pod("d", "10.90.0.5", true);
        ended["status"]["phase"] = json!("Succeeded");
        let pods = [
            pod("b", "10.90.0.3", false),
            pod("a", "10.90.0.2", true),
            going,
            ended,
            pod("e", "", true),
        ];
        let groups = groups(&web(), &pods);
        let slices = slices(&web(), &groups);
        assert_eq!(slices.len(), 1);
        let conditions: Vec<(&str, bool, bool, bool)> = slices[0]["endpoints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| {
                let is = |field: &str| e["conditions"][field] == true;
                (
                    e["addresses"][0].as_str().unwrap(),
                    is("ready"),
                    is("serving"),
                    is("terminating"),
                )
            })
            .collect();
        assert_eq!(
            conditions,
            [
                ("10.90.0.2", true, true, false),
                ("10.90.0.3", false, false, false),
                ("10.90.0.4", false, true, true)
            ]
        );
        assert_eq!(
            slices[0]["ports"],
            json!([{"name": "", "protocol": "TCP", "port": 8080}])
        );
        let endpoints = endpoints(&web(), &groups);
        assert_eq!(endpoints["subsets"][0]["addresses"][0]["ip"], "10.90.0.2");
        assert_eq!(
            endpoints["subsets"][0]["notReadyAddresses"]
                .as_array()
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn unready_pods_are_published_where_the_service_says_so() {
        let mut service = web();
        service["spec"]["publishNotReadyAddresses"] = json!(true);
        let slices = slices(&service, &groups(&service, &[pod("a", "10.90.0.2", false)]));
        assert_eq!(slices[0]["endpoints"][0]["conditions"]["ready"], true);
        assert_eq!(slices[0]["endpoints"][0]["conditions"]["serving"], false);
    }

    #[test]
    fn pods_with_other_ports_get_slices_of_their_own_and_large_sets_are_cut() {
        let mut other = pod("z", "10.90.9.9", true);
        other["spec"]["containers"][0]["ports"][0]["containerPort"] = json!(9090);
        let mut pods: Vec<Value> = (0..150)
            .map(|n| pod(&format!("p{n}"), &format!("10.90.1.{n}"), true))
            .collect();
        pods.push(other);
        let slices = slices(&web(), &groups(&web(), &pods));
        let sizes: Vec<usize> = slices
            .iter()
            .map(|s| s["endpoints"].as_array().unwrap().len())
            .collect();
        assert_eq!(sizes, [100, 50, 1]);
        let names: std::collections::BTreeSet<&str> = slices.iter().map(name).collect();
        assert_eq!(names.len(), 3);
    }

    #[test]
    fn a_users_endpoints_are_mirrored_and_ours_are_not() {
        let service = service(&json!({"ports": [{"port": 80}]}));
        let theirs = json!({"metadata": {"name": "web"}, "subsets": [{
            "addresses": [{"ip": "192.0.2.9"}], "notReadyAddresses": [{"ip": "192.0.2.10"}],
            "ports": [{"port": 5432, "protocol": "TCP"}],
        }]});
        let slices = mirrored(&service, &theirs);
        assert_eq!(slices[0]["endpoints"][0]["addresses"], json!(["192.0.2.9"]));
        assert_eq!(slices[0]["endpoints"][1]["conditions"]["ready"], false);
        assert_eq!(slices[0]["ports"][0]["port"], 5432);
        let ours = endpoints(&web(), &groups(&web(), &[pod("a", "10.90.0.2", true)]));
        assert!(mirrored(&service, &ours).is_empty());
    }
}
