//! PURE: variables that tell a container where Services are (kubelet's `pkg/kubelet/envvars`).

use serde_json::Value;

use super::pod::Pod;
use crate::controllers::own;

/// Names and values: of the Services of the pod's namespace, unless `enableServiceLinks` is false, and of the API.
/// `services` are those of both namespaces.
pub fn variables(pod: &Pod, services: &[Value]) -> Vec<(String, String)> {
    let text =
        |service: &Value, field: &str| service["metadata"][field].as_str().unwrap_or_default().to_owned();
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let mut list = Vec::new();
    let mut names = Vec::new();
    if links {
        for service in services
            .iter()
            .filter(|service| text(service, "namespace") == pod.namespace)
        {
            names.push(text(service, "name"));
            of_service(service, &mut list);
        }
    }
    let api = services.iter().find(|service| {
        (
            text(service, "namespace").as_str(),
            text(service, "name").as_str(),
        ) == own::API
    });
    // One of the same name in the pod's own namespace comes first.
    if let Some(api) = api.filter(|_| !names.iter().any(|name| name == own::API.1)) {
        of_service(api, &mut list);
    }
    list
}

fn of_service(service: &Value, list: &mut Vec<(String, String)>) {
    let spec = &service["spec"];
    let address = spec["clusterIP"].as_str().unwrap_or_default();
    let ports = spec["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (Some(first), false) = (ports.first(), matches!(address, "" | "None")) else {
        return;
    };
    let name = variable(service["metadata"]["name"].as_str().unwrap_or_default());
    let mut set = |key: String, value: String| list.push((key, value));
    set(format!("{name}_SERVICE_HOST"), address.to_owned());
    set(format!("{name}_SERVICE_PORT"), first["port"].to_string());
    for port in ports {
        if let Some(label) = port["name"].as_str().filter(|label| !label.is_empty()) {
            set(
                format!("{name}_SERVICE_PORT_{}", variable(label)),
                port["port"].to_string(),
            );
        }
    }
    for (index, port) in ports.iter().enumerate() {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let small = protocol.to_lowercase();
        let number = &port["port"];
        let url = format!("{small}://{address}:{number}");
        if index == 0 {
            set(format!("{name}_PORT"), url.clone());
        }
        let prefix = format!("{name}_PORT_{number}_{protocol}");
        set(prefix.clone(), url);
        set(format!("{prefix}_PROTO"), small);
        set(format!("{prefix}_PORT"), number.to_string());
        set(format!("{prefix}_ADDR"), address.to_owned());
    }
}

/// A name as it is in a variable's.
fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::pod::test_pod;
    use serde_json::json;
    use std::collections::BTreeMap;

    fn service(namespace: &str, name: &str, address: &str, ports: &Value) -> Value {
        json!({"metadata": {"namespace": namespace, "name": name}, "spec": {"clusterIP": address, "ports": ports}})
    }

    fn found(spec: &Value) -> BTreeMap<String, String> {
        let mut pod = test_pod(json!({"metadata": {"name": "p"}, "spec": spec}));
        pod.namespace = "shop".to_owned();
        let services = [
            service(
                "default",
                "kubernetes",
                "10.96.0.1",
                &json!([{"name": "https", "port": 443, "protocol": "TCP"}]),
            ),
            service(
                "shop",
                "redis-master",
                "10.96.0.50",
                &json!([
                {"name": "db", "port": 6379, "protocol": "TCP"}, {"name": "gossip", "port": 7000, "protocol": "UDP"}]),
            ),
            service("shop", "headless", "None", &json!([{"port": 1}])),
            json!({"metadata": {"namespace": "shop", "name": "out"}, "spec": {"externalName": "a.example"}}),
        ];
        variables(&pod, &services).into_iter().collect()
    }

    #[test]
    fn services_of_the_namespace_and_the_api() {
        let found = found(&json!({"containers": []}));
        for (name, value) in [
            ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
            ("KUBERNETES_SERVICE_PORT", "443"),
            ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
            ("KUBERNETES_PORT", "tcp://10.96.0.1:443"),
            ("KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"),
            ("REDIS_MASTER_SERVICE_HOST", "10.96.0.50"),
            ("REDIS_MASTER_SERVICE_PORT", "6379"),
            ("REDIS_MASTER_SERVICE_PORT_GOSSIP", "7000"),
            ("REDIS_MASTER_PORT", "tcp://10.96.0.50:6379"),
            ("REDIS_MASTER_PORT_7000_UDP", "udp://10.96.0.50:7000"),
            ("REDIS_MASTER_PORT_7000_UDP_PROTO", "udp"),
            ("REDIS_MASTER_PORT_7000_UDP_PORT", "7000"),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(
            !found
                .keys()
                .any(|name| name.starts_with("HEADLESS") || name.starts_with("OUT"))
        );
    }

    #[test]
    fn without_links_only_the_api_is_told() {
        let found = found(&json!({"containers": [], "enableServiceLinks": false}));
        assert!(
            found.keys().all(|name| name.starts_with("KUBERNETES_")),
            "{found:?}"
        );
        assert_eq!(found.len(), 8);
    }
}
