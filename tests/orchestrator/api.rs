//! The API server as stock kubectl and curl meet it.

use harness::{
    Node, NodeOptions, Outcome, kubectl, kubectl_versions, minor_version, need_root, run, run_with_input,
    skip, wait_for,
};
use serde_json::{Value, json};
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: front}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: nowhere/web:v1
        ports: [{containerPort: 8080}]
        resources: {requests: {cpu: 10m, memory: 8Mi}, limits: {cpu: 100m, memory: 16Mi}}
"#;

fn start() -> Node {
    harness::isolate();
    Node::start(NodeOptions::default())
}

/// kubectl with a manifest on its standard input.
fn feed(node: &Node, kubectl: &Path, arguments: &[&str], manifest: &str) -> Outcome {
    let mut command = Command::new(kubectl);
    command
        .env("KUBECONFIG", node.kubeconfig())
        .env("HOME", node.path())
        .args(arguments);
    run_with_input(&mut command, manifest.as_bytes())
}

/// (arguments, exit code, what the output contains): in this order, on one empty namespace.
const FORMS: &[(&str, i32, &str)] = &[
    ("version", 0, "berth"),
    ("get namespaces", 0, "kube-system"),
    ("api-resources", 0, "deployments"),
    ("api-versions", 0, "apps/v1"),
    ("get deployment web", 0, "0/2"),
    ("get deploy web -o wide", 0, "app=web"),
    ("get deploy -l tier=front -o name", 0, "deployment.apps/web"),
    ("get deploy -l tier!=front -o name", 0, ""),
    (
        "get deploy --field-selector metadata.name=web -o name",
        0,
        "deployment.apps/web",
    ),
    (
        "get deploy web -o jsonpath={.spec.strategy.rollingUpdate.maxSurge}",
        0,
        "25%",
    ),
    (
        "get deploy web -o jsonpath={.spec.template.spec.containers[0].resources.limits}",
        0,
        "100m",
    ),
    ("get deploy web -o yaml", 0, "uid:"),
    ("get all", 0, "deployment.apps/web"),
    ("describe deploy web", 0, "2 desired"),
    ("scale deploy web --replicas=3", 0, "scaled"),
    ("get deploy web -o jsonpath={.spec.replicas}", 0, "3"),
    ("label deploy web stage=one", 0, "labeled"),
    ("label deploy web stage=two", 1, "already has a value"),
    ("label deploy web stage-", 0, "web"),
    ("annotate deploy web note=hello", 0, "annotated"),
    (
        "patch deploy web -p {\"spec\":{\"minReadySeconds\":1}}",
        0,
        "patched",
    ),
    (
        "patch deploy web --type=merge -p {\"spec\":{\"minReadySeconds\":2}}",
        0,
        "patched",
    ),
    (
        "patch deploy web --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/minReadySeconds\",\"value\":3}]",
        0,
        "patched",
    ),
    ("get deploy web -o jsonpath={.spec.minReadySeconds}", 0, "3"),
    (
        "patch deploy web --type=json -p [{\"op\":\"remove\",\"path\":\"/spec/none\"}]",
        1,
        "",
    ),
    ("set image deploy/web web=nowhere/web:v2", 0, "image updated"),
    ("set env deploy/web A=b", 0, "env updated"),
    ("rollout pause deploy/web", 0, "paused"),
    ("rollout resume deploy/web", 0, "resumed"),
    ("rollout restart deploy/web", 0, "restarted"),
    (
        "create configmap settings --from-literal=a=b",
        0,
        "configmap/settings created",
    ),
    (
        "create configmap settings --from-literal=a=b",
        1,
        "already exists",
    ),
    ("get cm settings", 0, "settings"),
    (
        "create secret generic key --from-literal=k=v",
        0,
        "secret/key created",
    ),
    ("get secret key -o jsonpath={.data.k}", 0, "dg=="),
    ("create namespace other", 0, "namespace/other created"),
    ("create serviceaccount robot", 0, "serviceaccount/robot created"),
    (
        "create deployment made --image=nowhere/x:1",
        0,
        "deployment.apps/made created",
    ),
    (
        "run lone --image=nowhere/y:1 --restart=Never",
        0,
        "pod/lone created",
    ),
    ("get pods --all-namespaces", 0, "lone"),
    ("get pod lone -o jsonpath={.spec.nodeName}", 0, ""),
    ("get pod none", 1, "pods \"none\" not found"),
    ("get events", 0, ""),
    ("get nodes -o wide", 0, "Ready"),
    ("describe pod lone", 0, "nowhere/y:1"),
    ("delete pod lone --grace-period=1", 0, "deleted"),
    ("delete deploy made", 0, "deleted"),
    ("delete cm,secret --all", 0, "deleted"),
    ("get cm settings", 1, "not found"),
    ("delete namespace other", 0, "deleted"),
    ("delete namespace default", 1, "may not be deleted"),
    ("delete deploy none", 1, "not found"),
    ("delete deploy none --ignore-not-found", 0, ""),
    ("get widgets", 1, "the server doesn't have a resource type"),
];

#[test]
fn every_kubectl_drives_the_objects() {
    need_root!();
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    let node = start();
    for kubectl in versions {
        let label = kubectl.display().to_string();
        feed(&node, &kubectl, &["apply", "-f", "-"], DEPLOYMENT).ok();
        let again = feed(&node, &kubectl, &["apply", "-f", "-"], DEPLOYMENT).ok();
        assert!(again.contains("unchanged"), "{label}: {again}");
        for (form, code, expected) in FORMS {
            let arguments: Vec<&str> = form.split(' ').collect();
            let seen = node.kubectl(&kubectl, &arguments);
            let text = format!("{}{}", seen.stdout, seen.stderr);
            assert_eq!(seen.code(), *code, "{label} {form}: {text}");
            assert!(text.contains(expected), "{label} {form}: {text}");
        }
        let changed = DEPLOYMENT.replace("nowhere/web:v1", "nowhere/web:v9");
        {
            let dry = feed(
                &node,
                &kubectl,
                &["apply", "--dry-run=server", "-f", "-"],
                &changed,
            )
            .ok();
            assert!(dry.contains("server dry run"), "{label}: {dry}");
            let diff = feed(&node, &kubectl, &["diff", "-f", "-"], &changed);
            assert_eq!(diff.code(), 1, "{label}: {}{}", diff.stdout, diff.stderr);
            assert!(
                diff.stdout.contains("+") && diff.stdout.contains("nowhere/web:v9"),
                "{label}"
            );
        }
        if minor_version(&kubectl) >= Some(27) {
            let explained = node
                .kubectl(&kubectl, &["explain", "deployment.spec.strategy.rollingUpdate"])
                .ok();
            assert!(explained.contains("maxSurge"), "{label}: {explained}");
        }
        let image = [
            "get",
            "deploy",
            "web",
            "-o",
            "jsonpath={.spec.template.spec.containers[0].image}",
        ];
        assert_eq!(
            node.kubectl(&kubectl, &image).ok(),
            "nowhere/web:v2",
            "{label}: a dry run was stored"
        );
        feed(&node, &kubectl, &["replace", "-f", "-"], &changed).ok();
        assert_eq!(node.kubectl(&kubectl, &image).ok(), "nowhere/web:v9", "{label}");
        let history = node.kubectl(&kubectl, &["rollout", "history", "deploy/web"]).ok();
        assert!(history.contains("REVISION"), "{label}: {history}");
        wait_for("the new ReplicaSet", Duration::from_secs(30), || {
            let seen = node.kubectl(&kubectl, &["rollout", "undo", "deploy/web"]);
            if seen.status.success() { Ok(()) } else { Err(seen) }
        });
        assert_ne!(node.kubectl(&kubectl, &image).ok(), "nowhere/web:v9", "{label}");
        node.kubectl(&kubectl, &["delete", "deploy", "web", "--cascade=foreground"])
            .ok();
        for kind in ["deploy", "rs"] {
            let left = node.kubectl(&kubectl, &["get", kind, "-o", "name"]).ok();
            assert_eq!(left, "", "{label}: {kind}");
        }
        node.kubectl(&kubectl, &["delete", "serviceaccount", "robot"])
            .ok();
        node.clear();
    }
}

#[test]
fn server_side_apply_reports_who_owns_what() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    let apply = ["apply", "--server-side", "-f", "-"];
    feed(&node, &kubectl, &apply, DEPLOYMENT).ok();
    node.kubectl(&kubectl, &["scale", "deploy", "web", "--replicas=4"])
        .ok();
    let refused = feed(&node, &kubectl, &apply, DEPLOYMENT).err();
    assert!(
        refused.contains("conflict") && refused.contains(".spec.replicas"),
        "{refused}"
    );
    let forced = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
    feed(&node, &kubectl, &forced, DEPLOYMENT).ok();
    let replicas = ["get", "deploy", "web", "-o", "jsonpath={.spec.replicas}"];
    assert_eq!(node.kubectl(&kubectl, &replicas).ok(), "2");
    node.kubectl(&kubectl, &["delete", "deploy", "web"]).ok();
}

#[test]
fn watches_follow_changes() {
    need_root!();
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    let node = start();
    for kubectl in versions {
        let mut watch = Command::new(&kubectl)
            .env("KUBECONFIG", node.kubeconfig())
            .env("HOME", node.path())
            .args(["get", "configmap", "-w", "-l", "watched=yes", "-o", "name"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("start kubectl");
        let mut output = watch.stdout.take().expect("piped");
        let create =
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: seen-, labels: {watched: 'yes'}}";
        for _ in 0..2 {
            feed(&node, &kubectl, &["create", "-f", "-"], create).ok();
        }
        let mut text = String::new();
        let mut buffer = [0_u8; 256];
        while text.matches("configmap/seen-").count() < 2 {
            let count = output.read(&mut buffer).expect("read kubectl's output");
            assert!(count > 0, "{}: the watch ended: {text}", kubectl.display());
            text.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
        watch.kill().expect("end kubectl");
        watch.wait().expect("reap kubectl");
        node.kubectl(&kubectl, &["delete", "configmap", "-l", "watched=yes"])
            .ok();
    }
}

/// (manifest, what the refusal must name).
fn bad_manifests() -> Vec<(Value, &'static [&'static str])> {
    let pod =
        |spec: Value| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": spec});
    let container = |extra: Value| {
        let mut one = json!({"name": "a", "image": "x:1"});
        for (key, value) in extra.as_object().expect("an object") {
            one[key] = value.clone();
        }
        pod(json!({"containers": [one]}))
    };
    let with = |extra: Value| {
        let mut spec = json!({"containers": [{"name": "a", "image": "x:1"}]});
        for (key, value) in extra.as_object().expect("an object") {
            spec[key] = value.clone();
        }
        pod(spec)
    };
    let deployment = |spec: Value| {
        let mut whole = json!({
            "selector": {"matchLabels": {"app": "b"}},
            "template": {"metadata": {"labels": {"app": "b"}}, "spec": {"containers": [{"name": "a", "image": "x:1"}]}},
        });
        for (key, value) in spec.as_object().expect("an object") {
            whole[key] = value.clone();
        }
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "bad"}, "spec": whole})
    };
    vec![
        (pod(json!({})), &["bad", "spec.containers"]),
        (pod(json!({"containers": []})), &["bad", "spec.containers"]),
        (
            container(json!({"name": "A_b"})),
            &["bad", "spec.containers[0].name"],
        ),
        (
            container(json!({"image": ""})),
            &["bad", "spec.containers[0].image"],
        ),
        (
            container(json!({"imagee": "x"})),
            &["unknown field", "spec.containers[0].imagee"],
        ),
        (
            container(json!({"ports": [{"containerPort": 70000}]})),
            &["bad", "spec.containers[0].ports[0].containerPort"],
        ),
        (
            container(json!({"env": [{"name": "A", "value": 1}]})),
            &["cannot unmarshal number", "env[0].value"],
        ),
        (
            container(json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]})),
            &["bad", "secretKeyRef.key"],
        ),
        (
            container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
            &["bad", "volumeMounts[0].name", "Not found"],
        ),
        (
            container(json!({"resources": {"limits": {"memory": "much"}}})),
            &["resources.limits.memory", "quantities must match"],
        ),
        (
            container(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
            &["bad", "must be less than or equal to cpu limit"],
        ),
        (
            container(json!({"livenessProbe": {"periodSeconds": 1}})),
            &["bad", "livenessProbe", "handler"],
        ),
        (
            container(json!({"livenessProbe": {"httpGet": {"port": "none"}}})),
            &["bad", "livenessProbe.httpGet.port"],
        ),
        (
            container(json!({"imagePullPolicy": "Maybe"})),
            &["bad", "imagePullPolicy", "supported values"],
        ),
        (
            container(json!({"securityContext": {"procMount": "Unmasked"}})),
            &["bad", "securityContext.procMount", "hostUsers"],
        ),
        (
            with(json!({"restartPolicy": "Sometimes"})),
            &["bad", "spec.restartPolicy"],
        ),
        (
            with(json!({"nodeSelector": {"disk": "ssd"}})),
            &["bad", "spec.nodeSelector[disk]", "could never run"],
        ),
        (with(json!({"nodeName": "elsewhere"})), &["bad", "spec.nodeName"]),
        (
            with(json!({"runtimeClassName": "kata"})),
            &["bad", "RuntimeClass \"kata\" not found"],
        ),
        (
            with(json!({"volumes": [{"name": "v", "nfs": {"server": "s", "path": "/"}}]})),
            &["bad", "spec.volumes[0].nfs"],
        ),
        (
            with(json!({"volumes": [{"name": "v"}, {"name": "v"}]})),
            &["bad", "spec.volumes[1].name", "Duplicate"],
        ),
        (
            with(json!({"serviceAccountName": "nobody"})),
            &["bad", "nobody", "not found"],
        ),
        (deployment(json!({"replicas": -1})), &["bad", "spec.replicas"]),
        (
            deployment(json!({"replicas": "two"})),
            &["cannot unmarshal string", "spec.replicas"],
        ),
        (
            deployment(json!({"selector": {"matchLabels": {"app": "c"}}})),
            &["bad", "does not match template"],
        ),
        (
            deployment(json!({"strategy": {"type": "Slow"}})),
            &["bad", "spec.strategy.type"],
        ),
        (
            deployment(json!({"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}})),
            &["bad", "maxUnavailable"],
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad"}, "data": {"a/b": "x"}}),
            &["bad", "data[a/b]"],
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "Bad_Name"}}),
            &["Bad_Name", "metadata.name"],
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad", "labels": {"a": "b c"}}}),
            &["bad", "metadata.labels"],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bad"}, "data": {"k": "%"}}),
            &["data.k", "base64"],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bad"}, "type": "kubernetes.io/tls"}),
            &["bad", "data[tls.crt]"],
        ),
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad", "namespace": "nowhere"}}),
            &["namespaces \"nowhere\" not found"],
        ),
        (
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a.b"}}),
            &["a.b", "metadata.name"],
        ),
        (
            json!({"apiVersion": "batch/v9", "kind": "Job", "metadata": {"name": "bad"}}),
            &["Job", "batch/v9"],
        ),
    ]
}

#[test]
fn bad_manifests_are_refused_by_name_and_leave_nothing() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    for (manifest, expected) in bad_manifests() {
        let text = manifest.to_string();
        // Without the client's own look at the schema: the server must see it.
        let refused = feed(&node, &kubectl, &["create", "-f", "-"], &text).err();
        for part in expected {
            assert!(
                refused.contains(part),
                "{text}\ndoes not name {part:?}:\n{refused}"
            );
        }
    }
    let left = node
        .kubectl(&kubectl, &["get", "pods,deploy,cm,secret", "-A", "-o", "name"])
        .ok();
    // What every namespace has.
    let left: Vec<&str> = left
        .lines()
        .filter(|l| !l.ends_with("/kube-root-ca.crt"))
        .collect();
    assert!(left.is_empty(), "something was stored: {left:?}");
}

#[test]
fn objects_and_keys_outlive_the_daemon() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let mut node = start();
    node.kubectl(&kubectl, &["create", "configmap", "kept", "--from-literal=a=b"])
        .ok();
    let before = std::fs::read(node.kubeconfig()).expect("kubeconfig");
    let second = run(Command::new(harness::bin("berthd"))
        .arg("--data-dir")
        .arg(node.data_dir())
        .args(["--run-dir", "/nonexistent/berth", "--listen", "127.0.0.1:0"]));
    let second = second.err();
    assert!(
        second.contains("--data-dir") || second.contains("/nonexistent/berth"),
        "{second}"
    );
    node.kill_daemon();
    node.spawn();
    assert_eq!(std::fs::read(node.kubeconfig()).expect("kubeconfig"), before);
    let data = ["get", "configmap", "kept", "-o", "jsonpath={.data.a}"];
    assert_eq!(node.kubectl(&kubectl, &data).ok(), "b");
    node.kubectl(&kubectl, &["delete", "configmap", "kept"]).ok();
}
