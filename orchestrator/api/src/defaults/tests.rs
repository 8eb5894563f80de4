use serde_json::json;

use super::*;
use crate::kinds;

fn defaulted(kind: &Kind, mut object: Value) -> Value {
    apply(kind, &mut object);
    let once = object.clone();
    apply(kind, &mut object);
    assert_eq!(once, object, "defaulting twice differs from once");
    object
}

#[test]
fn a_minimal_deployment() {
    let object = defaulted(
        kinds::DEPLOYMENT,
        json!({"spec": {"template": {"spec": {"containers": [{
            "name": "web", "image": "user-service:v1.0.0", "ports": [{"containerPort": 8080}],
            "resources": {"limits": {"cpu": "1"}},
            "livenessProbe": {"httpGet": {"port": 8080}},
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        }], "volumes": [{"name": "v"}, {"name": "c", "configMap": {"name": "x"}}]}}}}),
    );
    assert_eq!(
        object,
        json!({"spec": {
            "replicas": 1, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}},
            "template": {"metadata": {}, "spec": {
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                "securityContext": {}, "schedulerName": "default-scheduler",
                "containers": [{
                    "name": "web", "image": "user-service:v1.0.0",
                    "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                    "resources": {"limits": {"cpu": "1"}},
                    "livenessProbe": {
                        "httpGet": {"port": 8080, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                    },
                    "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}}],
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                    "imagePullPolicy": "IfNotPresent",
                }],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "c", "configMap": {"name": "x", "defaultMode": 420}}],
            }},
        }})
    );
}

#[test]
fn a_pod_gets_requests_node_and_status() {
    let mut object = json!({"spec": {"containers": [
        {"name": "a", "image": "x", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
    ]}});
    pod(&mut object, "here");
    assert_eq!(object["spec"]["nodeName"], "here");
    assert_eq!(object["spec"]["enableServiceLinks"], true);
    assert_eq!(object["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert_eq!(
        object["spec"]["containers"][0]["resources"]["requests"],
        json!({"cpu": "1", "memory": "1Gi"})
    );
    assert_eq!(
        object["status"],
        json!({"phase": "Pending", "qosClass": "Guaranteed"})
    );
}

#[test]
fn pull_policies() {
    for (image, expected) in [
        ("x", "Always"),
        ("x:latest", "Always"),
        ("x:1", "IfNotPresent"),
        ("reg:5000/x", "Always"),
        ("reg:5000/x:1", "IfNotPresent"),
        ("x@sha256:00", "IfNotPresent"),
    ] {
        let object = defaulted(kinds::POD, json!({"spec": {"containers": [{"image": image}]}}));
        assert_eq!(
            object["spec"]["containers"][0]["imagePullPolicy"], expected,
            "{image}"
        );
    }
}

#[test]
fn secrets_fold_string_data() {
    let secret = defaulted(
        kinds::SECRET,
        json!({"data": {"a": "eA=="}, "stringData": {"b": "y"}}),
    );
    assert_eq!(
        secret,
        json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}})
    );
}

#[test]
fn namespaces_carry_their_name_as_label() {
    let namespace = defaulted(kinds::NAMESPACE, json!({"metadata": {"name": "n"}}));
    assert_eq!(
        namespace["metadata"]["labels"]["kubernetes.io/metadata.name"],
        "n"
    );
    assert_eq!(namespace["status"]["phase"], "Active");
}

#[test]
fn sets_with_a_history() {
    let template = json!({"spec": {"containers": []}});
    let specification = |kind: &Kind, more: Value| {
        let mut object = json!({"spec": {"template": template}});
        for (field, value) in more.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let mut object = defaulted(kind, object);
        object["spec"].as_object_mut().unwrap().remove("template");
        object["spec"].take()
    };
    assert_eq!(
        specification(kinds::DAEMON_SET, json!({})),
        json!({
            "revisionHistoryLimit": 10,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
        })
    );
    let by_hand = json!({"updateStrategy": {"type": "OnDelete"}});
    assert_eq!(
        specification(kinds::DAEMON_SET, by_hand.clone())["updateStrategy"],
        by_hand["updateStrategy"]
    );
    assert_eq!(
        specification(kinds::STATEFUL_SET, json!({})),
        json!({
            "replicas": 1, "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0, "maxUnavailable": 1}},
            "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        })
    );
    assert_eq!(
        specification(kinds::STATEFUL_SET, by_hand.clone())["updateStrategy"],
        by_hand["updateStrategy"]
    );
}
