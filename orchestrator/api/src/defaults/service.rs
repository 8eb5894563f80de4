//! Defaults of Service, Endpoints and EndpointSlice.

use serde_json::{Value, json};

use super::{default, each};

/// Seconds that a client stays with its endpoint, as upstream.
const AFFINITY_SECONDS: i64 = 10_800;

pub(super) fn service(object: &mut Value) {
    default(object, "spec", json!({}));
    let spec = &mut object["spec"];
    default(spec, "type", "ClusterIP");
    default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({}));
        default(&mut spec["sessionAffinityConfig"], "clientIP", json!({}));
        default(
            &mut spec["sessionAffinityConfig"]["clientIP"],
            "timeoutSeconds",
            AFFINITY_SECONDS,
        );
    }
    let external_name = spec["type"] == "ExternalName";
    for port in each(spec, "ports") {
        default(port, "protocol", "TCP");
        if port.get("targetPort").is_none_or(is_unset) {
            let same = port.get("port").cloned().unwrap_or_default();
            default_over(port, "targetPort", same);
        }
    }
    if external_name {
        return;
    }
    default(spec, "internalTrafficPolicy", "Cluster");
    if spec["type"] == "NodePort" || spec["type"] == "LoadBalancer" {
        default(spec, "externalTrafficPolicy", "Cluster");
    }
    if spec["type"] == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
    default(spec, "ipFamilyPolicy", "SingleStack");
    default(spec, "ipFamilies", json!(["IPv4"]));
    // Either names the address.
    if let Some(first) = spec.pointer("/clusterIPs/0").cloned() {
        if spec.get("clusterIP").is_none_or(is_unset) {
            default_over(spec, "clusterIP", first);
        }
    } else if let Some(address) = spec.get("clusterIP").filter(|ip| !is_unset(ip)).cloned() {
        default_over(spec, "clusterIPs", json!([address]));
    }
}

pub(super) fn endpoints(object: &mut Value) {
    for subset in each(object, "subsets") {
        for port in each(subset, "ports") {
            default(port, "protocol", "TCP");
        }
    }
}

pub(super) fn endpoint_slice(object: &mut Value) {
    default(object, "endpoints", json!([]));
    for port in each(object, "ports") {
        default(port, "name", "");
        default(port, "protocol", "TCP");
    }
}

fn is_unset(value: &Value) -> bool {
    value.is_null() || value == "" || value == 0
}

/// Sets a member whatever it was.
fn default_over(object: &mut Value, name: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(name.to_owned(), value);
    }
}
