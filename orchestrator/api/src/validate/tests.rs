use serde_json::json;

use super::*;
use crate::{defaults, kinds};

fn node() -> Node {
    Node {
        name: "here".into(),
        labels: [("kubernetes.io/os".to_owned(), "linux".to_owned())].into(),
    }
}

fn messages(causes: Vec<Cause>) -> Vec<String> {
    causes
        .into_iter()
        .map(|c| format!("{}: {}", c.field, c.message))
        .collect()
}

fn pod(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut object = json!({
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "a", "image": "x:1"}]},
    });
    change(&mut object);
    defaults::apply(kinds::POD, &mut object);
    messages(create(kinds::POD, &object, &node()))
}

fn deployment(change: impl FnOnce(&mut Value)) -> Vec<String> {
    let mut object = json!({
        "metadata": {"name": "d", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {
                "metadata": {"labels": {"app": "a"}},
                "spec": {"containers": [{"name": "a", "image": "x:1"}]},
            },
        },
    });
    change(&mut object);
    defaults::apply(kinds::DEPLOYMENT, &mut object);
    messages(create(kinds::DEPLOYMENT, &object, &node()))
}

#[test]
fn good_objects_pass() {
    assert_eq!(pod(|_| {}), Vec::<String>::new());
    assert_eq!(deployment(|_| {}), Vec::<String>::new());
}

/// (JSON pointer of the change, value, expected error): as a real API server words it.
#[test]
fn pods_as_upstream_words_it() {
    let cases = [
        (
            "/metadata/name",
            json!("A"),
            "metadata.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
        ),
        (
            "/metadata/labels",
            json!({"a b": "x"}),
            "metadata.labels: Invalid value: \"a b\": name part must consist",
        ),
        ("/spec/containers", json!([]), "spec.containers: Required value"),
        (
            "/spec/containers/0/name",
            json!(""),
            "spec.containers[0].name: Required value",
        ),
        (
            "/spec/containers/0/image",
            json!(""),
            "spec.containers[0].image: Required value",
        ),
        (
            "/spec/containers/1",
            json!({"name": "a", "image": "x"}),
            "spec.containers[1].name: Duplicate value: \"a\"",
        ),
        (
            "/spec/restartPolicy",
            json!("Sometimes"),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "/spec/containers/0/imagePullPolicy",
            json!("x"),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"x\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 0}]),
            "spec.containers[0].ports[0].containerPort: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            "/spec/containers/0/ports",
            json!([{"containerPort": 1, "protocol": "X"}]),
            "spec.containers[0].ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": ""}]),
            "spec.containers[0].env[0].name: Required value",
        ),
        (
            "/spec/containers/0/env",
            json!([{"name": "a", "valueFrom": {}}]),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of:",
        ),
        (
            "/spec/containers/0/volumeMounts",
            json!([{"name": "v", "mountPath": "/v"}]),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"tea": "1"}}),
            "spec.containers[0].resources.limits[tea]: Invalid value: \"tea\": must be a standard resource for containers",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            "/spec/containers/0/livenessProbe",
            json!({"httpGet": {"port": 1}, "successThreshold": 2}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "hostPath": {"path": "/a/../b"}}]),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "secret": {}}]),
            "spec.volumes[0].secret.secretName: Required value",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "secret": {"secretName": "s"}, "emptyDir": {}}]),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v"}, {"name": "v"}]),
            "spec.volumes[1].name: Duplicate value: \"v\"",
        ),
        (
            "/spec/terminationGracePeriodSeconds",
            json!(-1),
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
    ];
    for (pointer, value, expected) in cases {
        let found = pod(|object| set(object, pointer, value.clone()));
        assert!(
            found.iter().any(|m| m.starts_with(expected)),
            "{pointer} = {value}: {found:?}"
        );
    }
}

#[test]
fn a_pod_with_users_of_its_own_shares_no_namespace_of_the_host() {
    let host = "Forbidden: when `hostUsers` is false";
    let high = "Invalid value: 65536: must be at most 65535 when `hostUsers` is false";
    for (pointer, value, expected) in [
        (
            "/spec/hostNetwork",
            json!(true),
            format!("spec.hostNetwork: {host}"),
        ),
        ("/spec/hostPID", json!(true), format!("spec.hostPID: {host}")),
        ("/spec/hostIPC", json!(true), format!("spec.hostIPC: {host}")),
        (
            "/spec/securityContext",
            json!({"fsGroup": 65536}),
            format!("spec.securityContext.fsGroup: {high}"),
        ),
        (
            "/spec/securityContext",
            json!({"supplementalGroups": [65535, 65536]}),
            format!("spec.securityContext.supplementalGroups[1]: {high}"),
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"runAsUser": 65536}),
            format!("spec.containers[0].securityContext.runAsUser: {high}"),
        ),
    ] {
        let with = |own: bool| {
            pod(|object| {
                set(object, pointer, value.clone());
                set(object, "/spec/hostUsers", json!(!own));
            })
        };
        assert!(
            with(true).iter().any(|m| m.starts_with(&expected)),
            "{:?}",
            with(true)
        );
        assert_eq!(with(false), Vec::<String>::new(), "{pointer}");
    }
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    let cases = [
        (
            "/spec/resourceClaims",
            json!([{"name": "gpu"}]),
            "spec.resourceClaims: Forbidden: not supported here: ",
        ),
        (
            "/spec/nodeSelector",
            json!({"disk": "ssd"}),
            "spec.nodeSelector[disk]: Invalid value: \"ssd\": the one node, \"here\", has no such label",
        ),
        (
            "/spec/nodeName",
            json!("there"),
            "spec.nodeName: Invalid value: \"there\": there is one node",
        ),
        (
            "/spec/schedulerName",
            json!("mine"),
            "spec.schedulerName: Unsupported value: \"mine\"",
        ),
        (
            "/spec/volumes",
            json!([{"name": "v", "nfs": {"server": "s", "path": "/"}}]),
            "spec.volumes[0].nfs: Forbidden: not supported here: use hostPath",
        ),
        (
            "/spec/containers/0/volumeDevices",
            json!([{"name": "v", "devicePath": "/d"}]),
            "spec.containers[0].volumeDevices: Forbidden",
        ),
        (
            "/spec/schedulingGroup",
            json!({"podGroupName": "x"}),
            "spec.schedulingGroup: Forbidden",
        ),
    ];
    for (pointer, value, expected) in cases {
        let found = pod(|object| set(object, pointer, value.clone()));
        assert!(
            expected.is_empty() || found.iter().any(|m| m.starts_with(expected)),
            "{pointer} = {value}: {found:?}"
        );
    }
    for (pointer, value) in [
        ("/spec/hostIPC", json!(false)),
        ("/spec/hostUsers", json!(true)),
        ("/spec/hostUsers", json!(false)),
        ("/spec/nodeSelector", json!({"kubernetes.io/os": "linux"})),
        (
            "/spec/affinity",
            json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}),
        ),
    ] {
        assert_eq!(
            pod(|object| set(object, pointer, value.clone())),
            Vec::<String>::new(),
            "{pointer}"
        );
    }
}

#[test]
fn deployments_as_upstream_words_it() {
    let cases = [
        (
            "/spec/replicas",
            json!(-1),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("/spec/selector", Value::Null, "spec.selector: Required value"),
        (
            "/spec/selector",
            json!({}),
            "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
        ),
        (
            "/spec/selector/matchLabels/app",
            json!("b"),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not match template `labels`",
        ),
        (
            "/spec/strategy",
            json!({"type": "X"}),
            "spec.strategy.type: Unsupported value: \"X\": supported values: \"Recreate\", \"RollingUpdate\"",
        ),
        (
            "/spec/strategy",
            json!({"type": "Recreate", "rollingUpdate": {}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            "/spec/strategy",
            json!({"rollingUpdate": {"maxSurge": "x"}}),
            "spec.strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string",
        ),
        (
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        ),
        (
            "/spec/template/spec/resourceClaims",
            json!([{"name": "gpu"}]),
            "spec.template.spec.resourceClaims: Forbidden",
        ),
        (
            "/spec/progressDeadlineSeconds",
            json!(0),
            "spec.progressDeadlineSeconds: Invalid value: 0: must be greater than minReadySeconds",
        ),
    ];
    for (pointer, value, expected) in cases {
        let found = deployment(|object| set(object, pointer, value.clone()));
        assert!(
            found.iter().any(|m| m.starts_with(expected)),
            "{pointer} = {value}: {found:?}"
        );
    }
}

#[test]
fn immutable_fields() {
    let base = json!({"metadata": {"name": "p", "namespace": "default", "uid": "1"}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}});
    let changed = |pointer: &str, value: Value| {
        let mut old = base.clone();
        defaults::apply(kinds::POD, &mut old);
        let mut new = old.clone();
        set(&mut new, pointer, value);
        messages(update(kinds::POD, &new, &old, &node()))
    };
    assert_eq!(
        changed("/spec/containers/0/image", json!("x:2")),
        Vec::<String>::new()
    );
    assert!(
        changed("/spec/containers/0/name", json!("b"))[0]
            .starts_with("spec: Forbidden: pod updates may not change fields other than")
    );
    assert!(
        changed("/spec/containers/1", json!({"name": "b"}))[0]
            .starts_with("spec.containers: Forbidden: pod updates may not add or remove containers")
    );
    assert!(
        changed("/metadata/uid", json!("2"))[0]
            .starts_with("metadata.uid: Invalid value: \"2\": field is immutable")
    );

    let mut old = json!({"metadata": {"name": "s", "namespace": "d"}, "type": "Opaque", "data": {"a": "eA=="}, "immutable": true});
    let mut new = old.clone();
    new["data"]["a"] = json!("eQ==");
    assert_eq!(
        messages(update(kinds::SECRET, &new, &old, &node())),
        ["data: Forbidden: field is immutable when `immutable` is set"]
    );
    old["immutable"] = json!(false);
    assert!(messages(update(kinds::SECRET, &new, &old, &node())).is_empty());
}

#[test]
fn config_maps_and_secrets() {
    let map = |data: Value| json!({"metadata": {"name": "c", "namespace": "default"}, "data": data});
    let found = messages(create(kinds::CONFIG_MAP, &map(json!({"a/b": "x"})), &node()));
    assert!(
        found[0].starts_with("data[a/b]: Invalid value: \"a/b\": a valid config key must consist"),
        "{found:?}"
    );
    let mut tls = map(json!({"tls.crt": ""}));
    tls["type"] = json!("kubernetes.io/tls");
    assert_eq!(
        messages(create(kinds::SECRET, &tls, &node())),
        ["data[tls.key]: Required value"]
    );
}

fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    match object.pointer_mut(parent).unwrap() {
        Value::Object(map) if value.is_null() => {
            map.remove(last);
        }
        Value::Object(map) => {
            map.insert(last.to_owned(), value);
        }
        Value::Array(list) => list.insert(last.parse().unwrap(), value),
        other => panic!("{pointer}: {other}"),
    }
}

#[test]
fn a_pods_dns_is_checked() {
    let with = |spec: Value| {
        pod(|object| {
            for (field, value) in spec.as_object().expect("an object") {
                object["spec"][field] = value.clone();
            }
        })
    };
    let long: Vec<String> = (0..33).map(|n| format!("s{n}.{}", "a".repeat(60))).collect();
    for (spec, wrong) in [
        (json!({"dnsPolicy": "Cluster"}), "spec.dnsPolicy: Unsupported"),
        (json!({"dnsPolicy": "None"}), "spec.dnsConfig: Required"),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"searches": ["a"]}}),
            "spec.dnsConfig.nameservers: Required",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]}}),
            "more than 3 nameservers",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["dns.example"]}}),
            "spec.dnsConfig.nameservers[0]: Invalid",
        ),
        (
            json!({"dnsConfig": {"searches": ["No Such"]}}),
            "spec.dnsConfig.searches[0]: Invalid",
        ),
        (
            json!({"dnsConfig": {"searches": long}}),
            "more than 32 search paths",
        ),
        (
            json!({"dnsConfig": {"searches": long}}),
            "more than 2048 characters",
        ),
        (
            json!({"dnsConfig": {"options": [{"value": "2"}]}}),
            "spec.dnsConfig.options[0]: Required",
        ),
    ] {
        let found = with(spec.clone());
        assert!(
            found.iter().any(|message| message.contains(wrong)),
            "{spec}: {found:?}"
        );
    }
    let good = json!({"dnsPolicy": "None", "setHostnameAsFQDN": true, "enableServiceLinks": false, "dnsConfig": {
        "nameservers": ["192.0.2.1", "fd00::1"], "searches": ["a.example.", ".", "_tcp.example"],
        "options": [{"name": "ndots", "value": "1"}]}});
    assert_eq!(with(good), [""; 0]);
}
