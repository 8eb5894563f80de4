//! Defaults of Pod and of pod templates.

use serde_json::{Value, json};

use super::{default, each};
use crate::qos;

/// A pod itself: what templates get, and what only pods get.
pub(super) fn pod(object: &mut Value) {
    let Some(pod_spec) = object.get_mut("spec") else {
        return;
    };
    spec(pod_spec);
    default(pod_spec, "enableServiceLinks", true);
    for list in ["initContainers", "containers"] {
        for container in each(pod_spec, list) {
            requests_from_limits(container);
        }
    }
}

/// What admission adds to a pod: its node, its account, a status that says it has not begun.
pub(super) fn admit(object: &mut Value, node_name: &str) {
    let class = qos::class(object);
    if let Some(pod_spec) = object.get_mut("spec") {
        default(pod_spec, "serviceAccountName", "default");
        let account = pod_spec["serviceAccountName"].clone();
        default(pod_spec, "serviceAccount", account);
        // A pod that is held back gets its node later.
        if pod_spec["schedulingGates"].as_array().is_none_or(Vec::is_empty) {
            default(pod_spec, "nodeName", node_name);
        }
        default(pod_spec, "priority", 0);
        default(pod_spec, "preemptionPolicy", "PreemptLowerPriority");
    }
    object["status"] = json!({"phase": "Pending", "qosClass": class});
}

/// The specification in a pod or a template.
pub(super) fn spec(spec: &mut Value) {
    default(spec, "dnsPolicy", "ClusterFirst");
    default(spec, "restartPolicy", "Always");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    default(spec, "schedulerName", "default-scheduler");
    // The old name of serviceAccountName is kept equal to it.
    match (
        spec.get("serviceAccountName").cloned(),
        spec.get("serviceAccount").cloned(),
    ) {
        (Some(name), _) => spec["serviceAccount"] = name,
        (None, Some(name)) => spec["serviceAccountName"] = name,
        (None, None) => {}
    }
    let host_network = spec.get("hostNetwork") == Some(&json!(true));
    for list in ["initContainers", "containers"] {
        for one in each(spec, list) {
            container(one);
            if host_network {
                for port in each(one, "ports") {
                    let number = port.get("containerPort").cloned().unwrap_or_default();
                    default(port, "hostPort", number);
                }
            }
        }
    }
    for one in each(spec, "ephemeralContainers") {
        container(one);
    }
    for one in each(spec, "volumes") {
        volume(one);
    }
}

fn container(container: &mut Value) {
    default(container, "resources", json!({}));
    default(container, "terminationMessagePath", "/dev/termination-log");
    default(container, "terminationMessagePolicy", "File");
    let policy = pull_policy(container.get("image").and_then(Value::as_str).unwrap_or_default());
    default(container, "imagePullPolicy", policy);
    for port in each(container, "ports") {
        default(port, "protocol", "TCP");
    }
    for variable in each(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            default(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(name) {
            default(probe, "timeoutSeconds", 1);
            default(probe, "periodSeconds", 10);
            default(probe, "successThreshold", 1);
            default(probe, "failureThreshold", 3);
            handler(probe);
        }
    }
    for hook in ["/lifecycle/postStart", "/lifecycle/preStop"] {
        if let Some(hook) = container.pointer_mut(hook) {
            handler(hook);
        }
    }
}

fn handler(handler: &mut Value) {
    if let Some(get) = handler.get_mut("httpGet") {
        default(get, "path", "/");
        default(get, "scheme", "HTTP");
    }
    if let Some(grpc) = handler.get_mut("grpc") {
        default(grpc, "service", "");
    }
}

/// `Always` for an image without tag or with tag `latest`.
fn pull_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let digest = image.contains('@');
    let tag = last
        .split('@')
        .next()
        .and_then(|n| n.split_once(':'))
        .map(|(_, tag)| tag);
    if !digest && matches!(tag, None | Some("latest")) {
        "Always"
    } else {
        "IfNotPresent"
    }
}

/// A limit without a request is its own request.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container
        .pointer("/resources/limits")
        .and_then(Value::as_object)
        .cloned()
    else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let resources = &mut container["resources"];
    default(resources, "requests", json!({}));
    for (name, limit) in limits {
        default(&mut resources["requests"], &name, limit);
    }
}

fn volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if map.keys().all(|k| k == "name") {
        map.insert("emptyDir".into(), json!({}));
    }
    for name in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(name) {
            default(source, "defaultMode", 0o644);
            for item in each(source, "items") {
                if let Some(field) = item.get_mut("fieldRef") {
                    default(field, "apiVersion", "v1");
                }
            }
        }
    }
    if let Some(spec) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        super::storage::claim_spec(spec);
    }
    if let Some(host_path) = volume.get_mut("hostPath") {
        default(host_path, "type", "");
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in each(projected, "sources") {
            if let Some(token) = source.get_mut("serviceAccountToken") {
                default(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = source.get_mut("downwardAPI") {
                for item in each(downward, "items") {
                    if let Some(field) = item.get_mut("fieldRef") {
                        default(field, "apiVersion", "v1");
                    }
                }
            }
        }
    }
}
