//! Environments and their errors.

use serde_json::{Value, json};

use super::*;
use crate::node::pod::test_pod;

struct Fixed;

impl Sources for Fixed {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let entries = [("MODE", "fast"), ("bad=name", "x"), ("level", "7")];
        (name == "settings").then(|| {
            entries
                .map(|(k, v)| (k.to_owned(), v.as_bytes().to_vec()))
                .into_iter()
                .collect()
        })
    }

    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        (name == "db-secret").then(|| {
            [
                ("url".to_owned(), b"postgres://db".to_vec()),
                ("raw".to_owned(), vec![0xff, 0xfe]),
            ]
            .into()
        })
    }

    fn token(&self, _: &super::super::pod::Pod, _: &str, _: i64) -> Option<String> {
        None
    }

    fn backing(&self, _: &str) -> Option<super::super::claims::Backing> {
        None
    }
}

fn resolve(container: &Value) -> Result<Vec<(String, String)>, EnvError> {
    let pod = test_pod(json!({
        "metadata": {"name": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [container]},
    }));
    let facts = Facts {
        node: "n1".into(),
        host_ip: "192.0.2.1".into(),
        pod_ips: vec!["10.90.0.7".into(), "fd00::7".into()],
        cpu: 4000,
        memory: 8 << 30,
    };
    environment(
        &pod,
        &pod.containers[0].spec,
        vec![("LINK".into(), "10.96.0.1".into())],
        &facts,
        &Fixed,
    )
}

fn values(container: &Value) -> BTreeMap<String, String> {
    resolve(container).unwrap().into_iter().collect()
}

#[test]
fn literals_and_references() {
    let env = values(&json!({
        "name": "c",
        "envFrom": [{"prefix": "CM_", "configMapRef": {"name": "settings"}}],
        "env": [
            {"name": "HOST", "value": "db"},
            {"name": "API", "value": "https://$(LINK)"},
            {"name": "URL", "value": "tcp://$(HOST):$(PORT)/$$(HOST)/$(CM_level)"},
            {"name": "PORT", "value": "1"},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "db-secret", "key": "url"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "none", "key": "k", "optional": true}}},
            {"name": "EMPTY"},
        ],
    }));
    assert_eq!(env["CM_MODE"], "fast");
    assert_eq!(env["API"], "https://10.96.0.1");
    assert_eq!(
        env["URL"], "tcp://db:$(PORT)/$(HOST)/7",
        "later variables are not known yet"
    );
    assert_eq!(env["SECRET"], "postgres://db");
    assert_eq!(env["EMPTY"], "");
    assert!(!env.contains_key("GONE") && !env.keys().any(|k| k.contains('=')));
}

#[test]
fn the_pods_own_fields() {
    let field = |path: &str| json!({"name": path, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let paths = [
        ("metadata.name", "shop"),
        ("metadata.namespace", "default"),
        ("metadata.uid", "u"),
        ("metadata.labels['app']", "web"),
        ("metadata.annotations['none']", ""),
        ("spec.nodeName", "n1"),
        ("spec.serviceAccountName", "default"),
        ("status.podIP", "10.90.0.7"),
        ("status.podIPs", "10.90.0.7,fd00::7"),
        ("status.hostIP", "192.0.2.1"),
    ];
    let list: Vec<Value> = paths.iter().map(|(path, _)| field(path)).collect();
    let env = values(&json!({"name": "c", "env": list}));
    for (path, want) in paths {
        assert_eq!(env[path], want, "{path}");
    }
}

#[test]
fn resources_in_units_of_the_divisor() {
    let wanted = [
        ("limits.cpu", "0", "1"),
        ("limits.cpu", "1m", "500"),
        ("requests.cpu", "1m", "250"),
        ("limits.memory", "1Mi", "512"),
        ("requests.memory", "1", "0"),
    ];
    for (resource, divisor, want) in wanted {
        let env = values(&json!({
            "name": "c",
            "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "250m", "memory": "0"}},
            "env": [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": resource, "divisor": divisor}}}],
        }));
        assert_eq!(env["X"], want, "{resource} by {divisor}");
    }
    let env = values(&json!({
        "name": "c",
        "env": [{"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}],
    }));
    assert_eq!(env["X"], "4", "without a limit it is the node's");
}

#[test]
fn what_is_missing_is_named() {
    let from = |source: Value| json!({"name": "c", "env": [{"name": "X", "valueFrom": source}]});
    for (container, text) in [
        (
            from(json!({"secretKeyRef": {"name": "none", "key": "url"}})),
            "secret \"none\" not found: create it in namespace default",
        ),
        (
            from(json!({"secretKeyRef": {"name": "db-secret", "key": "user"}})),
            "couldn't find key user in Secret default/db-secret",
        ),
        (
            from(json!({"configMapKeyRef": {"name": "settings", "key": "none"}})),
            "couldn't find key none in ConfigMap default/settings",
        ),
        (
            from(json!({"secretKeyRef": {"name": "db-secret", "key": "raw"}})),
            "key raw of Secret db-secret is not UTF-8 text and cannot be an environment variable",
        ),
        (
            from(json!({"fieldRef": {"fieldPath": "spec.x"}})),
            "env X: fieldPath \"spec.x\" is not known",
        ),
        (
            json!({"name": "c", "envFrom": [{"configMapRef": {"name": "none"}}]}),
            "configmap \"none\" not found: create it in namespace default",
        ),
    ] {
        assert_eq!(resolve(&container).unwrap_err().to_string(), text);
    }
}

#[test]
fn expansion() {
    let lookup = |name: &str| (name == "A").then(|| "1".to_owned());
    for (text, want) in [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$", "$"),
        ("$(", "$("),
        ("$A", "$A"),
        ("$()", "$()"),
    ] {
        assert_eq!(expand(text, lookup), want, "{text}");
    }
}
