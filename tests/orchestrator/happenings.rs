//! Events by both of their groups: events.k8s.io/v1 and core/v1.

use crate::person::{Person, start};
use crate::world::PATIENCE;
use harness::{kubectl, need_program, need_root, skip, wait_for};
use serde_json::{Value, json};

const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn event(name: &str) -> Value {
    json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": name},
        "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning", "reason": "Strange", "action": "Looking",
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": "default", "name": "p"},
        "note": "that was strange", "reportingController": "example.com/looker", "reportingInstance": "looker-1",
    })
}

#[test]
fn one_event_two_groups() {
    need_root!();
    need_program!("curl");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    let admin = Person::administrator(&node, None);
    let kube = |arguments: &[&str]| node.kubectl(&kubectl, arguments);
    let json = |text: &str| -> Value { serde_json::from_str(text).expect("JSON") };

    let (code, made) = admin.ask("POST", EVENTS, &event("e").to_string());
    assert_eq!(code, 201, "{made}");
    assert_eq!(json(&made)["apiVersion"], "events.k8s.io/v1");
    // The same object, by its older names.
    let old = kube(&["get", "events.v1.", "e", "-o", "json"]).ok();
    let old = json(&old);
    assert_eq!(
        (
            &old["message"],
            &old["involvedObject"]["name"],
            &old["reportingComponent"]
        ),
        (
            &json!("that was strange"),
            &json!("p"),
            &json!("example.com/looker")
        )
    );
    let table = kube(&["get", "events.events.k8s.io"]).ok();
    assert!(
        table.contains("pod/p") && table.contains("that was strange"),
        "{table}"
    );
    let new = kube(&[
        "get",
        "events.events.k8s.io",
        "e",
        "-o",
        "jsonpath={.note} {.regarding.name}",
    ])
    .ok();
    assert_eq!(new, "that was strange p");
    let explained = kube(&["explain", "event.note", "--api-version=events.k8s.io/v1"]).ok();
    assert!(explained.contains("events.k8s.io"), "{explained}");

    // Each group has its own names of fields to select on.
    for (path, code, found) in [
        (
            format!("{EVENTS}?fieldSelector=regarding.name%3Dp,type%3DWarning"),
            200,
            1,
        ),
        (
            format!("{EVENTS}?fieldSelector=reportingController%21%3Dexample.com/looker,regarding.name%3Dp"),
            200,
            0,
        ),
        (format!("{EVENTS}?fieldSelector=involvedObject.name%3Dp"), 400, 0),
        (
            "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dp".to_owned(),
            200,
            1,
        ),
        (
            "/api/v1/namespaces/default/events?fieldSelector=regarding.name%3Dp".to_owned(),
            400,
            0,
        ),
    ] {
        let (seen, text) = admin.ask("GET", &path, "");
        assert_eq!(seen, code, "{path}: {text}");
        let items = json(&text)["items"].as_array().map_or(0, Vec::len);
        assert_eq!(items, found, "{path}: {text}");
    }

    // A series goes on by a patch; what has been said stays.
    let path = format!("{EVENTS}/e");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:09.000000Z"}});
    let (code, text) = admin.ask("PATCH", &path, &series.to_string());
    assert_eq!(
        (code, &json(&text)["series"]["count"]),
        (200, &json!(2)),
        "{text}"
    );
    let (code, text) = admin.ask("PATCH", &path, r#"{"note": "not at all"}"#);
    assert!(
        code == 422 && text.contains("message: Invalid value") && text.contains("immutable"),
        "{text}"
    );
    for (field, value, told) in [
        ("eventTime", json!(null), "eventTime"),
        ("type", json!("Odd"), "type: Invalid value"),
        ("deprecatedCount", json!(3), "count: Invalid value"),
        ("action", json!(""), "action: Required value"),
        (
            "series",
            json!({"count": 1, "lastObservedTime": "2026-01-01T00:00:09.000000Z"}),
            "should be at least 2",
        ),
        ("message", json!("by its older name"), "message"),
    ] {
        let mut bad = event("bad");
        bad[field] = value;
        let strict = format!("{EVENTS}?fieldValidation=Strict");
        let (code, text) = admin.ask("POST", &strict, &bad.to_string());
        assert!(
            matches!(code, 400 | 422) && text.contains(told),
            "{field}: {code} {text}"
        );
    }

    // A watch by the newer group tells in its words.
    let version = json(&admin.ask("GET", EVENTS, "").1)["metadata"]["resourceVersion"].clone();
    let version = version.as_str().expect("a version").to_owned();
    kube(&["run", "p", "--image=nowhere/p:1", "--restart=Never"]).ok();
    wait_for("an event of the pod's", PATIENCE, || {
        let path = format!(
            "{EVENTS}?watch=1&timeoutSeconds=1&resourceVersion={version}&fieldSelector=regarding.kind%3DPod"
        );
        let (_, text) = admin.ask("GET", &path, "");
        let line = text.lines().next().map(json);
        match line {
            Some(event) if event["object"]["regarding"]["name"] == "p" => {
                assert_eq!(event["object"]["apiVersion"], "events.k8s.io/v1");
                assert!(event["object"].get("message").is_none() && event["object"]["note"].is_string());
                Ok(())
            }
            other => Err(format!("{other:?}")),
        }
    });
    kube(&["delete", "pod", "p", "--now"]).ok();
    kube(&["delete", "events.events.k8s.io", "e"]).ok();
    assert_eq!(admin.ask("GET", "/api/v1/namespaces/default/events/e", "").0, 404);
}
