//! The API's protocol, request by request, as clients other than kubectl use it.

use crate::person::{Answer, Person, start};
use harness::{Node, need_program, need_root, run};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Command;

/// The ConfigMaps of the namespace.
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"made": "here"}}, "data": {"k": value}})
}

#[track_caller]
pub(crate) fn made(admin: &Person, path: &str, object: &Value) -> Value {
    let answer = admin.send("POST", path, &[], &object.to_string());
    assert_eq!(answer.code, 201, "{}", answer.body);
    answer.json()
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("items").iter();
    items
        .map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned())
        .collect()
}

fn version(object: &Value) -> u64 {
    let text = object["metadata"]["resourceVersion"].as_str();
    text.expect("a version").parse().expect("a number")
}

#[track_caller]
fn refused(answer: &Answer, code: u16, reason: &str, told: &str) {
    let status = answer.json();
    assert_eq!(
        (answer.code, &status["kind"], &status["reason"], &status["code"]),
        (code, &json!("Status"), &json!(reason), &json!(code)),
        "{status}"
    );
    let message = status["message"].as_str().expect("a message");
    assert!(message.contains(told), "{message}");
}

#[test]
fn collections_come_in_pages_and_at_versions() {
    need_root!();
    need_program!("curl");
    let mut node = start();
    let admin = Person::administrator(&node, None);
    let get = |query: &str| {
        admin.send(
            "GET",
            &format!("{MAPS}?labelSelector=made%3Dhere&{query}"),
            &[],
            "",
        )
    };
    for n in 0..7 {
        made(&admin, MAPS, &map(&format!("m{n}"), "1"));
    }
    // By threes, and one that is made meanwhile behind them is seen.
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page = get(&format!("limit=3&continue={token}")).json();
        seen.extend(names(&page));
        if seen.len() == 3 {
            made(&admin, MAPS, &map("m9", "1"));
        }
        match page["metadata"]["continue"].as_str() {
            Some(more) => more.clone_into(&mut token),
            None => break,
        }
    }
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4", "m5", "m6", "m9"]);
    let whole = admin.send("GET", &format!("{MAPS}?limit=2"), &[], "").json();
    // Eight, and the authority's certificate that every namespace has.
    assert_eq!(whole["metadata"]["remainingItemCount"], 7);
    assert!(
        get("limit=2").json()["metadata"]
            .get("remainingItemCount")
            .is_none()
    );
    refused(
        &get("limit=2&continue=xyz"),
        400,
        "BadRequest",
        "continue key is not valid",
    );
    refused(&get("limit=many"), 400, "BadRequest", "limit");

    // Only the newest state is there.
    let now = version(&whole);
    for (query, code, reason) in [
        (format!("resourceVersion={now}"), 200, ""),
        ("resourceVersion=0".to_owned(), 200, ""),
        (
            format!("resourceVersion={now}&resourceVersionMatch=Exact"),
            200,
            "",
        ),
        (
            format!("resourceVersion={}&resourceVersionMatch=NotOlderThan", now - 3),
            200,
            "",
        ),
        (
            format!("resourceVersion={}&resourceVersionMatch=Exact", now - 3),
            410,
            "Expired",
        ),
        (format!("resourceVersion={}", now + 9000), 504, "Timeout"),
        ("resourceVersion=abc".to_owned(), 400, "BadRequest"),
        ("resourceVersionMatch=Exact".to_owned(), 400, "BadRequest"),
        (
            format!("resourceVersion={now}&resourceVersionMatch=Later"),
            400,
            "BadRequest",
        ),
    ] {
        let answer = get(&query);
        assert_eq!(answer.code, code, "{query}: {}", answer.body);
        assert_eq!(
            answer.json()["reason"].as_str().unwrap_or_default(),
            reason,
            "{query}"
        );
    }
    // A version that an ended berthd may have handed out, and that nobody knows, cannot be gone on from.
    drop(admin);
    node.kill_daemon();
    node.spawn();
    let admin = Person::administrator(&node, None);
    let after = version(&admin.send("GET", MAPS, &[], "").json());
    assert!(after > now + 1000, "{after}");
    let lost = admin.send(
        "GET",
        &format!("{MAPS}?watch=1&resourceVersion={}", now + 1000),
        &[],
        "",
    );
    refused(&lost, 410, "Expired", "too old resource version");
    let ahead = admin.send(
        "GET",
        &format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion={after}"),
        &[],
        "",
    );
    assert_eq!((ahead.code, ahead.body.as_str()), (200, ""));
}

#[test]
fn watches_begin_go_on_and_mark_their_place() {
    need_root!();
    need_program!("curl");
    let node = start();
    let admin = Person::administrator(&node, None);
    let watch = |query: &str| {
        let path = format!("{MAPS}?watch=1&labelSelector=made%3Dhere&{query}");
        admin.send("GET", &path, &[], "")
    };
    let told = |answer: &Answer| -> Vec<String> {
        let word = |line: &Value| {
            let name = line["object"]["metadata"]["name"].as_str().unwrap_or_default();
            format!("{} {name}", line["type"].as_str().expect("a type"))
        };
        answer.lines().iter().map(word).collect()
    };
    let first = version(&made(&admin, MAPS, &map("a", "1")));
    made(&admin, MAPS, &map("b", "1"));
    admin.send("PUT", &format!("{MAPS}/a"), &[], &map("a", "2").to_string());
    // What leaves the selector's view is deleted for it, and what enters it is added.
    let unlabel = json!({"metadata": {"labels": {"made": null}}}).to_string();
    let merge = ["Content-Type: application/merge-patch+json"];
    admin.send("PATCH", &format!("{MAPS}/b"), &merge, &unlabel);
    let label = json!({"metadata": {"labels": {"made": "here"}}}).to_string();
    admin.send("PATCH", &format!("{MAPS}/b"), &merge, &label);
    admin.send("DELETE", &format!("{MAPS}/b"), &[], "");
    let resumed = watch(&format!("timeoutSeconds=1&resourceVersion={first}"));
    assert_eq!(
        told(&resumed),
        ["ADDED b", "MODIFIED a", "DELETED b", "ADDED b", "DELETED b"]
    );
    let versions: Vec<u64> = resumed
        .lines()
        .iter()
        .map(|line| version(&line["object"]))
        .collect();
    assert!(versions.is_sorted() && versions[0] > first, "{versions:?}");
    let later = watch(&format!("timeoutSeconds=1&resourceVersion={}", versions[1]));
    assert_eq!(told(&later), ["DELETED b", "ADDED b", "DELETED b"]);
    // Without a version the present state comes first.
    assert_eq!(told(&watch("timeoutSeconds=1")), ["ADDED a"]);

    // The state in the watch, with its end marked.
    let listed = watch(
        "timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
    );
    assert_eq!(told(&listed), ["ADDED a", "BOOKMARK "]);
    let mark = &listed.lines()[1]["object"];
    assert_eq!(
        mark["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    assert_eq!((&mark["kind"], version(mark)), (&json!("ConfigMap"), versions[4]));
    let wrong = watch("timeoutSeconds=1&sendInitialEvents=true&allowWatchBookmarks=true");
    refused(
        &wrong,
        422,
        "Invalid",
        "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
    );
    // A bookmark comes before a watch ends, for who asked for it.
    let since = format!("timeoutSeconds=3&resourceVersion={}", versions[4]);
    let marked = watch(&format!("{since}&allowWatchBookmarks=true"));
    assert_eq!(told(&marked), ["BOOKMARK "]);
    assert!(
        marked.lines()[0]["object"]["metadata"]
            .get("annotations")
            .is_none()
    );
    assert_eq!(told(&watch(&since)), [""; 0]);

    // Rows and metadata in place of objects.
    let path = format!("{MAPS}?watch=1&timeoutSeconds=1&labelSelector=made%3Dhere");
    let table = admin.send(
        "GET",
        &path,
        &["Accept: application/json;as=Table;v=v1;g=meta.k8s.io"],
        "",
    );
    let row = &table.lines()[0]["object"];
    assert_eq!(
        (&row["kind"], &row["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("a"))
    );
    let partial = "Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let partial = admin.send("GET", &path, &[partial], "").lines()[0]["object"].clone();
    assert!(
        partial["kind"] == "PartialObjectMetadata" && partial.get("data").is_none(),
        "{partial}"
    );
}

#[test]
fn what_is_unknown_or_said_twice_is_told() {
    need_root!();
    need_program!("curl");
    let node = start();
    let admin = Person::administrator(&node, None);
    let body = |name: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "{name}", "labls": {{}}}}, "data": {{"k": "1", "k": "2"}}}}"#
        )
    };
    let strict = admin.send(
        "POST",
        &format!("{MAPS}?fieldValidation=Strict"),
        &[],
        &body("strict"),
    );
    refused(&strict, 400, "BadRequest", r#"unknown field "metadata.labls""#);
    refused(&strict, 400, "BadRequest", r#"duplicate field "data.k""#);
    let warned = admin.send("POST", MAPS, &[], &body("warned"));
    assert_eq!(warned.code, 201);
    for told in [
        r#"unknown field \"metadata.labls\""#,
        r#"duplicate field \"data.k\""#,
    ] {
        assert!(
            warned.head.contains(&format!("warning: 299 - \"{told}\"")),
            "{}",
            warned.head
        );
    }
    assert!(warned.json()["metadata"].get("labls").is_none());
    let ignored = admin.send(
        "POST",
        &format!("{MAPS}?fieldValidation=Ignore"),
        &[],
        &body("ignored"),
    );
    assert!(
        ignored.code == 201 && !ignored.head.contains("warning"),
        "{}",
        ignored.head
    );
    refused(
        &admin.send("POST", &format!("{MAPS}?fieldValidation=Some"), &[], &body("x")),
        400,
        "BadRequest",
        "fieldValidation: Unsupported value",
    );
    // The same in YAML, and in a patch.
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\n  labls: {}\ndata:\n  k: a\n  k: b\n";
    let yaml = admin.send(
        "POST",
        &format!("{MAPS}?fieldValidation=Strict"),
        &["Content-Type: application/yaml"],
        yaml,
    );
    assert_eq!(yaml.code, 400);
    assert!(
        yaml.body.contains("labls") || yaml.body.contains("data.k") || yaml.body.contains("duplicate"),
        "{}",
        yaml.body
    );
    let patch = admin.send(
        "PATCH",
        &format!("{MAPS}/ignored?fieldValidation=Strict"),
        &["Content-Type: application/merge-patch+json"],
        r#"{"dta": {"k": "1"}}"#,
    );
    refused(&patch, 400, "BadRequest", r#"unknown field "dta""#);

    // Errors have their reason, and what they are about.
    let exists = admin.send("POST", MAPS, &[], &map("warned", "1").to_string());
    refused(
        &exists,
        409,
        "AlreadyExists",
        r#"configmaps "warned" already exists"#,
    );
    assert_eq!(
        exists.json()["details"],
        json!({"name": "warned", "kind": "configmaps"})
    );
    refused(
        &admin.send("GET", &format!("{MAPS}/none"), &[], ""),
        404,
        "NotFound",
        "not found",
    );
    let invalid = admin.send("POST", MAPS, &[], &map("Bad_Name", "1").to_string());
    refused(
        &invalid,
        422,
        "Invalid",
        r#"ConfigMap "Bad_Name" is invalid: metadata.name"#,
    );
    let cause = &invalid.json()["details"]["causes"][0];
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&json!("FieldValueInvalid"), &json!("metadata.name"))
    );
    refused(
        &admin.send("POST", MAPS, &["Content-Type: text/plain"], "x"),
        415,
        "UnsupportedMediaType",
        "accepted media types",
    );
    refused(
        &admin.send("GET", MAPS, &["Accept: text/html"], ""),
        406,
        "NotAcceptable",
        "media types",
    );
    refused(
        &admin.send("PUT", MAPS, &[], "{}"),
        405,
        "MethodNotAllowed",
        "does not allow",
    );
}

#[test]
fn writes_name_the_version_they_are_made_on() {
    need_root!();
    need_program!("curl");
    let node = start();
    let admin = Person::administrator(&node, None);
    let old = made(&admin, MAPS, &map("a", "1"));
    let path = format!("{MAPS}/a");
    let mut stale = old.clone();
    stale["data"]["k"] = json!("3");
    assert_eq!(
        admin.send("PUT", &path, &[], &map("a", "2").to_string()).code,
        200
    );
    refused(
        &admin.send("PUT", &path, &[], &stale.to_string()),
        409,
        "Conflict",
        "the object has been modified",
    );
    let merge = ["Content-Type: application/merge-patch+json"];
    let patch =
        json!({"metadata": {"resourceVersion": old["metadata"]["resourceVersion"]}, "data": {"k": "4"}});
    refused(
        &admin.send("PATCH", &path, &merge, &patch.to_string()),
        409,
        "Conflict",
        "modified",
    );
    stale["metadata"]["resourceVersion"] = Value::Null;
    stale["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    refused(
        &admin.send("PUT", &path, &[], &stale.to_string()),
        409,
        "Conflict",
        "UID",
    );
    for (precondition, told) in [
        (json!({"uid": "other"}), "UID"),
        (
            json!({"resourceVersion": old["metadata"]["resourceVersion"]}),
            "ResourceVersion",
        ),
    ] {
        let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": precondition});
        refused(
            &admin.send("DELETE", &path, &[], &options.to_string()),
            409,
            "Conflict",
            told,
        );
    }
    // A test in a patch that does not hold changes nothing.
    let test = r#"[{"op": "test", "path": "/data/k", "value": "9"}, {"op": "remove", "path": "/data"}]"#;
    let answer = admin.send(
        "PATCH",
        &path,
        &["Content-Type: application/json-patch+json"],
        test,
    );
    assert_eq!(answer.code, 422, "{}", answer.body);
    refused(
        &admin.send("PATCH", &path, &["Content-Type: application/yaml"], "data: {}"),
        415,
        "UnsupportedMediaType",
        "application/merge-patch+json",
    );
    let kept = admin.send("GET", &path, &[], "").json();
    assert_eq!(
        (&kept["data"]["k"], &kept["metadata"]["uid"]),
        (&json!("2"), &old["metadata"]["uid"])
    );
    // Names that the server makes differ.
    let unnamed = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}});
    let generated: BTreeSet<String> = (0..5)
        .map(|_| made(&admin, MAPS, &unnamed)["metadata"]["name"].to_string())
        .collect();
    assert!(
        generated.len() == 5 && generated.iter().all(|name| name.starts_with("\"g-")),
        "{generated:?}"
    );
}

/// Peak of the daemon's memory in KiB since it was last forgotten.
fn peak(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok());
    number.expect("VmHWM")
}

#[test]
fn a_long_list_is_sent_without_a_copy() {
    need_root!();
    need_program!("curl");
    let node = start();
    let admin = Person::administrator(&node, None);
    // One curl with all requests, over one connection.
    let pki = node.data_dir().join("pki");
    let mut config = String::new();
    for n in 0..1000 {
        let body = map(&format!("m{n:04}"), &"x".repeat(8000))
            .to_string()
            .replace('"', "\\\"");
        let _ = write!(
            config,
            "url = \"{}{MAPS}\"\nsilent\noutput = /dev/null\nhttp1.1\ncacert = {ca}\ncert = {crt}\nkey = {key}\n\
             header = \"Content-Type: application/json\"\nheader = \"Expect:\"\ndata-binary = \"{body}\"\nnext\n",
            admin.server,
            ca = pki.join("ca.crt").display(),
            crt = pki.join("admin.crt").display(),
            key = pki.join("admin.key").display(),
        );
    }
    let config = config.trim_end_matches("next\n");
    let file = node.path().join("requests");
    std::fs::write(&file, config).expect("write the requests");
    run(Command::new("curl").arg("-K").arg(&file)).ok();
    let list = || admin.send("GET", MAPS, &[], "").body.len();
    let bytes = list();
    assert!(bytes > 8_000_000, "{bytes}");
    std::fs::write(format!("/proc/{}/clear_refs", node.pid()), "5").expect("forget the peak");
    let before = peak(&node);
    for _ in 0..3 {
        assert_eq!(list(), bytes);
    }
    let grown = peak(&node) - before;
    assert!(grown < 3 << 10, "a list of {bytes} bytes took {grown} KiB");
    assert_eq!(admin.send("DELETE", MAPS, &[], "").code, 200);
}
