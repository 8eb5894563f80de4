//! Dry runs of every kind of write: what would be is shown, and nothing is stored.

use crate::person::{Person, start};
use crate::protocol::{MAPS, made, map};
use crate::world::PATIENCE;
use harness::{need_program, need_root, wait_for};
use serde_json::json;
use std::fmt::Write;

/// Every list that a dry run could change, as text without its version.
fn state(admin: &Person) -> String {
    let mut all = String::new();
    for path in [
        MAPS,
        "/api/v1/namespaces/default/pods",
        "/api/v1/namespaces/default/services",
        "/apis/apps/v1/namespaces/default/deployments",
        "/apis/apps/v1/namespaces/default/replicasets",
        "/api/v1/namespaces",
    ] {
        let list = admin.send("GET", path, &[], "").json();
        let _ = writeln!(all, "{}", list["items"]);
    }
    all
}

#[test]
fn a_dry_run_stores_nothing() {
    need_root!();
    need_program!("curl");
    let node = start();
    let admin = Person::administrator(&node, None);
    let pods = "/api/v1/namespaces/default/pods";
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let small = json!({"requests": {"cpu": "2m"}});
    let container = json!({"name": "c", "image": "nowhere/x:1", "resources": small});
    let spec = json!({"containers": [container], "schedulingGates": [{"name": "x/y"}]});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": spec});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    made(&admin, MAPS, &map("a", "1"));
    made(&admin, pods, &pod);
    made(&admin, deployments, &deployment);
    wait_for("the deployment to be observed", PATIENCE, || {
        let seen = admin.send("GET", &format!("{deployments}/d"), &[], "").json();
        if seen["status"]["observedGeneration"] == 1 && seen["status"]["conditions"].is_array() {
            Ok(())
        } else {
            Err(seen["status"].to_string())
        }
    });
    // The pod's own status, that it is held back, is written in its own time.
    wait_for("the pod's condition", PATIENCE, || {
        let seen = admin.send("GET", &format!("{pods}/p"), &[], "").json();
        if seen["status"]["conditions"].is_array() {
            Ok(())
        } else {
            Err(seen["status"].to_string())
        }
    });
    let before = state(&admin);
    let json_type = "Content-Type: application/json";
    let merge = "Content-Type: application/merge-patch+json";
    let strategic = "Content-Type: application/strategic-merge-patch+json";
    let jsonpatch = "Content-Type: application/json-patch+json";
    let apply = "Content-Type: application/apply-patch+yaml";
    let changed = map("a", "2").to_string();
    let fresh = map("fresh", "1").to_string();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}}).to_string();
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}).to_string();
    let debug = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "nowhere/e:1"}]}}).to_string();
    let size = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]}})
        .to_string();
    let a = format!("{MAPS}/a");
    let (p, d) = (format!("{pods}/p"), format!("{deployments}/d"));
    let at = |path: &str, sub: &str| format!("{path}/{sub}");
    let table: &[(&str, String, &str, &str, u16)] = &[
        ("POST", MAPS.to_owned(), json_type, &fresh, 201),
        (
            "POST",
            "/api/v1/namespaces/default/services".to_owned(),
            json_type,
            &service,
            201,
        ),
        ("PUT", a.clone(), json_type, &changed, 200),
        ("PATCH", a.clone(), merge, r#"{"data": {"k": "3"}}"#, 200),
        ("PATCH", a.clone(), strategic, r#"{"data": {"k": "3"}}"#, 200),
        (
            "PATCH",
            a.clone(),
            jsonpatch,
            r#"[{"op": "replace", "path": "/data/k", "value": "3"}]"#,
            200,
        ),
        (
            "PATCH",
            format!("{a}?fieldManager=t&force=true"),
            apply,
            &changed,
            200,
        ),
        (
            "PATCH",
            format!("{MAPS}/fresh?fieldManager=t"),
            apply,
            &fresh,
            201,
        ),
        ("DELETE", a.clone(), json_type, "", 200),
        ("DELETE", MAPS.to_owned(), json_type, "", 200),
        ("DELETE", p.clone(), json_type, "", 200),
        (
            "DELETE",
            "/api/v1/namespaces/default".to_owned(),
            json_type,
            "",
            403,
        ),
        ("POST", at(&p, "eviction"), json_type, &eviction, 201),
        ("PATCH", at(&p, "ephemeralcontainers"), strategic, &debug, 200),
        ("PATCH", at(&p, "resize"), strategic, &size, 200),
        (
            "PATCH",
            at(&p, "status"),
            merge,
            r#"{"status": {"message": "dry"}}"#,
            200,
        ),
        (
            "PATCH",
            at(&d, "scale"),
            merge,
            r#"{"spec": {"replicas": 3}}"#,
            200,
        ),
        (
            "PATCH",
            at(&d, "status"),
            merge,
            r#"{"status": {"replicas": 9}}"#,
            200,
        ),
        ("DELETE", d.clone(), json_type, "", 200),
    ];
    for (method, path, kind, body, code) in table {
        let joint = if path.contains('?') { '&' } else { '?' };
        let answer = admin.send(method, &format!("{path}{joint}dryRun=All"), &[kind], body);
        assert_eq!(answer.code, *code, "{method} {path}: {}", answer.body);
        assert_eq!(state(&admin), before, "{method} {path} has changed something");
        let other = admin.send(method, &format!("{path}{joint}dryRun=Some"), &[kind], body);
        assert!(matches!(other.code, 400 | 403), "{method} {path}: {}", other.body);
        assert_eq!(state(&admin), before, "{method} {path} has changed something");
    }
    // What it would be is shown: with a name, an address, defaults.
    let shown = admin
        .send(
            "POST",
            "/api/v1/namespaces/default/services?dryRun=All",
            &[],
            &service,
        )
        .json();
    assert!(
        shown["spec"]["clusterIP"].is_string() && shown["metadata"]["uid"].is_string(),
        "{shown}"
    );
}
