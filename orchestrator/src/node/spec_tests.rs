//! Configurations, read back by an independent parser of the OCI schema.

use super::*;
use crate::node::pod::test_pod;

fn made(container: &Value, image: &ImageSettings) -> Result<Value, SpecError> {
    let pod = test_pod(json!({
        "metadata": {"name": "shop"},
        "spec": {"containers": [container], "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}},
    }));
    let binds = [Bind {
        source: "/var/lib/x".into(),
        target: "/data".into(),
        read_only: true,
        recursive: false,
        propagation: "rprivate",
    }];
    let env = [
        ("A".to_owned(), "1".to_owned()),
        ("PATH".to_owned(), "/mine".to_owned()),
    ];
    config(&Parts {
        pod: &pod,
        container: &pod.containers[0].spec,
        image,
        identity: &Identity {
            uid: 1000,
            gid: 1000,
            additional: vec![2000],
        },
        env: &env,
        hostname: "shop",
        rootfs: Path::new("/rootfs"),
        namespaces: &[("network", "/run/netns/u".into())],
        binds: &binds,
        cgroup: "/berth/podu/c",
        oom_score: 999,
        last_capability: 40,
        devices: &[],
        first_user: None,
        local_seccomp: None,
        unified: true,
    })
}

fn image() -> ImageSettings {
    ImageSettings {
        entrypoint: vec!["/entry".into()],
        cmd: vec!["default".into()],
        env: vec!["PATH=/image".into(), "IMG=1".into()],
        working_dir: "/srv".into(),
    }
}

#[test]
fn the_schema_is_kept() {
    let config = made(&json!({"name": "c"}), &image()).unwrap();
    let spec: oci_spec::runtime::Spec = serde_json::from_value(config.clone()).unwrap();
    assert_eq!(spec.process().as_ref().unwrap().user().uid(), 1000);
    assert_eq!(config["process"]["cwd"], "/srv");
    assert_eq!(config["process"]["noNewPrivileges"], false);
    let env: Vec<&str> = config["process"]["env"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(
        env,
        ["PATH=/mine", "HOSTNAME=shop", "IMG=1", "A=1"],
        "the pod's win over the image's"
    );
    assert!(config["linux"]["seccomp"]["defaultAction"].is_string());
    let last = config["mounts"].as_array().unwrap().last().unwrap();
    assert_eq!(last["options"], json!(["rbind", "rprivate", "ro"]));
}

#[test]
fn commands_and_arguments() {
    for (container, want) in [
        (json!({"name": "c"}), json!(["/entry", "default"])),
        (json!({"name": "c", "args": ["x"]}), json!(["/entry", "x"])),
        (json!({"name": "c", "command": ["/run"]}), json!(["/run"])),
        (
            json!({"name": "c", "command": ["/run", "$(A)"], "args": ["$(B)", "$$(A)"]}),
            json!(["/run", "1", "$(B)", "$(A)"]),
        ),
    ] {
        assert_eq!(made(&container, &image()).unwrap()["process"]["args"], want);
    }
    let error = made(
        &json!({"name": "c", "image": "none:1"}),
        &ImageSettings::default(),
    )
    .unwrap_err();
    assert!(error.to_string().contains("none:1"), "{error}");
}

#[test]
fn capability_rules() {
    let held = |capabilities: Value| -> Vec<String> {
        let container = json!({"name": "c", "securityContext": {"capabilities": capabilities}});
        let config = made(&container, &image()).unwrap();
        serde_json::from_value(config["process"]["capabilities"]["bounding"].clone()).unwrap()
    };
    assert_eq!(held(json!({})).len(), 14);
    assert_eq!(held(json!({"drop": ["ALL"]})), Vec::<String>::new());
    assert_eq!(
        held(json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})),
        ["CAP_NET_BIND_SERVICE"]
    );
    assert_eq!(held(json!({"add": ["all"]})).len(), 41);
    assert_eq!(held(json!({"add": ["ALL"], "drop": ["CAP_SYS_ADMIN"]})).len(), 40);
    assert!(held(json!({"add": ["SYS_TIME"]})).contains(&"CAP_SYS_TIME".to_owned()));
    let bad = json!({"name": "c", "securityContext": {"capabilities": {"add": ["FLY"]}}});
    assert!(made(&bad, &image()).unwrap_err().to_string().contains("\"FLY\""));
}

#[test]
fn privileged_and_hardened() {
    let config = made(
        &json!({"name": "c", "securityContext": {"privileged": true}}),
        &image(),
    )
    .unwrap();
    assert!(config["linux"].get("maskedPaths").is_none() && config["linux"].get("seccomp").is_none());
    assert_eq!(
        config["linux"]["resources"]["devices"],
        json!([{"allow": true, "access": "rwm"}])
    );
    let hardened = json!({"name": "c", "securityContext": {
        "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
    }});
    let config = made(&hardened, &image()).unwrap();
    assert_eq!(config["process"]["noNewPrivileges"], true);
    assert_eq!(config["root"]["readonly"], true);
    assert!(config["linux"]["maskedPaths"].as_array().unwrap().len() > 5);
}
