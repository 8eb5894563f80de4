//! The reader against the `oci-spec` crate: the same values from every document that both read, and errors that name
//! the field where a value is wrong. The two agree on the names of types and fields, so that what they print for
//! debugging can be compared; every field is in it.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;

use berth_spec::{Mistake, Spec};
use serde_json::{Value, json};

const EVERY_FIELD: &str = include_str!("every-field.json");
const DEFAULT: &str = include_str!("../../src/spec/default.json");
const ROOTLESS: &str = include_str!("../../src/spec/rootless.json");

/// What `oci-spec` has besides: other systems, and what was never in the specification.
const FOREIGN: [&str; 5] = ["solaris", "windows", "vm", "zos", "command_line"];

/// Objects whose keys are the writer's.
const MAPS: [&str; 6] = [
    "annotations",
    "sysctl",
    "netDevices",
    "timeOffsets",
    "rdma",
    "unified",
];

fn ours(text: &str) -> Result<String, Mistake> {
    berth_spec::read::<Spec>(text.as_bytes()).map(|document| normal(&format!("{:?}", document.value)))
}

fn theirs(text: &str) -> Result<String, serde_json::Error> {
    // `oci-spec` spells two flags of the scheduler as the specification never did.
    let text = text
        .replace("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN")
        .replace("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK");
    serde_json::from_str::<oci_spec::runtime::Spec>(&text)
        .map(|spec| normal(&with_optional_limit(&format!("{spec:?}"), &text)))
}

/// A missing limit of processes is 0 for `oci-spec`, as it was before version 1.3 of the specification.
fn with_optional_limit(debug: &str, document: &str) -> String {
    const LIMIT: &str = "LinuxPids { limit: ";
    let Some((before, rest)) = debug.split_once(LIMIT) else {
        return debug.to_owned();
    };
    let (limit, after) = rest.split_once(' ').unwrap();
    let document: Value = serde_json::from_str(document).unwrap();
    let limit = match document.pointer("/linux/resources/pids/limit") {
        None | Some(Value::Null) => "None".to_owned(),
        Some(_) => format!("Some({limit})"),
    };
    format!("{before}{LIMIT}{limit} {after}")
}

/// Debug output without the order of sets and maps, without the names of structures, and without foreign fields.
fn normal(text: &str) -> String {
    let mut rest = text;
    let result = one(&mut rest);
    assert_eq!(rest, "");
    result
}

fn one(rest: &mut &str) -> String {
    let quoted = |rest: &mut &str| {
        let mut escaped = false;
        let end = rest[1..]
            .find(|c| {
                let ends = c == '"' && !escaped;
                escaped = c == '\\' && !escaped;
                ends
            })
            .unwrap();
        let (text, after) = rest.split_at(end + 2);
        *rest = after;
        text.to_owned()
    };
    if rest.starts_with('"') {
        return quoted(rest);
    }
    let end = rest
        .find([',', ' ', '(', ')', '{', '}', '[', ']', ':'])
        .unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    *rest = after
        .strip_prefix(' ')
        .filter(|after| after.starts_with('{'))
        .unwrap_or(after);
    let Some(close) = [('(', ')'), ('{', '}'), ('[', ']')]
        .into_iter()
        .find_map(|(open, close)| rest.starts_with(open).then_some(close))
    else {
        return name.to_owned();
    };
    *rest = &rest[1..];
    let mut parts = Vec::new();
    while !rest.trim_start().starts_with(close) {
        *rest = rest.trim_start_matches([',', ' ']);
        let mut part = one(rest);
        let foreign = FOREIGN.contains(&part.as_str()) || name == "Spec" && part.ends_with("_mappings");
        if let Some(value) = rest.strip_prefix(": ") {
            *rest = value;
            part = format!("{part}: {}", one(rest));
        }
        if !foreign {
            parts.push(part);
        }
    }
    *rest = &rest.trim_start()[1..];
    if close == '}' {
        parts.sort();
    }
    let name = if close == '(' { name } else { "" };
    format!("{name}{close}{}", parts.join(", "))
}

/// Every value of a document: its JSON pointer, and its place as errors write it.
fn places(value: &Value) -> Vec<(String, String)> {
    fn walk(value: &Value, pointer: &str, field: &str, map: bool, list: &mut Vec<(String, String)>) {
        list.push((pointer.to_owned(), field.to_owned()));
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let place = match (map, field) {
                        (true, _) => format!("{field}[{key:?}]"),
                        (false, "") => key.clone(),
                        (false, _) => format!("{field}.{key}"),
                    };
                    let pointer = format!("{pointer}/{key}");
                    walk(value, &pointer, &place, MAPS.contains(&key.as_str()), list);
                }
            }
            Value::Array(array) => {
                for (index, value) in array.iter().enumerate() {
                    let (pointer, field) = (format!("{pointer}/{index}"), format!("{field}[{index}]"));
                    walk(value, &pointer, &field, false, list);
                }
            }
            _ => {}
        }
    }
    let mut list = Vec::new();
    walk(value, "", "", false, &mut list);
    list
}

fn remove(document: &mut Value, pointer: &str) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match document.pointer_mut(parent).unwrap() {
        Value::Object(object) => drop(object.remove(key)),
        Value::Array(array) => drop(array.remove(key.parse().unwrap())),
        _ => unreachable!(),
    }
}

#[test]
fn whole_documents() {
    for text in [EVERY_FIELD, DEFAULT, ROOTLESS] {
        assert_eq!(ours(text).unwrap(), theirs(text).unwrap());
        let dense = serde_json::from_str::<Value>(text).unwrap().to_string();
        assert_eq!(ours(&dense).unwrap(), theirs(&dense).unwrap());
    }
}

#[test]
fn the_document_has_every_field() {
    let spec = berth_spec::read::<Spec>(EVERY_FIELD.as_bytes()).unwrap().value;
    let text = format!("{spec:?}");
    let name = |text: &str| text.rsplit([' ', '{']).next().unwrap().to_owned();
    let (mut empty, mut given) = (BTreeSet::new(), BTreeSet::new());
    for (at, _) in text.match_indices(": ") {
        let set = if text[at..].starts_with(": None") {
            &mut empty
        } else {
            &mut given
        };
        set.insert(name(&text[..at]));
    }
    // `oci-spec` spells these two as the specification never did.
    let missing: Vec<_> = empty.difference(&given).collect();
    assert_eq!(missing, ["enable_cmt", "enable_mbm"]);
}

#[test]
fn every_value_replaced() {
    let base: Value = serde_json::from_str(EVERY_FIELD).unwrap();
    let values = [
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(70_000),
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!(1e30),
        json!("x"),
        json!(""),
        json!([]),
        json!({}),
        json!([null]),
        json!(["x"]),
        json!({"x": 1}),
    ];
    let mut refused = 0;
    for (pointer, field) in places(&base).iter().filter(|(pointer, _)| !pointer.is_empty()) {
        let future = field.starts_with("futureField");
        for value in &values {
            let mut document = base.clone();
            let place = document.pointer_mut(pointer).unwrap();
            // serde also reads a structure from a sequence of its values; the specification knows no such form.
            let sequence = place.is_object() && value.is_array();
            // The form of these is the validation's matter here.
            let free = field.starts_with("process.execCPUAffinity.") && value.is_string();
            // Skipped with a warning instead.
            let unknown = field.starts_with("process.capabilities.") && document_has_string(value);
            *document.pointer_mut(pointer).unwrap() = value.clone();
            let text = document.to_string();
            match (ours(&text), theirs(&text)) {
                (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{field} = {value}"),
                (Err(mistake), theirs) => {
                    refused += 1;
                    assert!(
                        theirs.is_err() || sequence && !future,
                        "{field} = {value}: {mistake}"
                    );
                    // The place itself, a field within it, or the object in which a field is missing.
                    let there = mistake.field.starts_with(field.as_str());
                    assert!(there, "{field} = {value}: {mistake}");
                }
                (Ok(_), Err(error)) => assert!(free || unknown, "{field} = {value}: {error}"),
            }
        }
    }
    assert!(refused > 2000, "{refused}");
}

fn document_has_string(value: &Value) -> bool {
    value.is_string() || value.get(0).is_some_and(Value::is_string)
}

#[test]
fn every_value_absent() {
    let base: Value = serde_json::from_str(EVERY_FIELD).unwrap();
    for (pointer, field) in places(&base).iter().filter(|(pointer, _)| !pointer.is_empty()) {
        let mut without = base.clone();
        remove(&mut without, pointer);
        let text = without.to_string();
        let mut null = base.clone();
        *null.pointer_mut(pointer).unwrap() = Value::Null;
        match (ours(&text), theirs(&text)) {
            (Ok(found), Ok(theirs)) => {
                assert_eq!(found, theirs, "without {field}");
                // A null field is an absent one; a null element is a mistake.
                match ours(&null.to_string()) {
                    Ok(null) => assert_eq!(null, found, "{field} = null"),
                    Err(mistake) => {
                        assert!(field.ends_with(']'), "{mistake}");
                        assert_eq!(&mistake.field, field);
                    }
                }
            }
            (Err(mistake), Err(error)) => {
                let (parent, name) = field.rsplit_once('.').unwrap();
                assert_eq!(mistake.field, parent);
                assert_eq!(mistake.reason, format!("missing field `{name}`"));
                assert!(error.to_string().starts_with(&mistake.reason), "{error}");
            }
            // runc's root, where nobody is named.
            (Ok(found), Err(_)) if field == "process.user" => assert!(found.contains("uid: 0"), "{found}"),
            (ours, theirs) => panic!("without {field}: {ours:?}, {theirs:?}"),
        }
    }
}

#[test]
fn damaged_text() {
    let dense = serde_json::from_str::<Value>(EVERY_FIELD).unwrap().to_string();
    let ascii: String = dense.chars().filter(char::is_ascii).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let alphabet = b"{}[],:\"\\ntfu0129-+.eE \n\x01ax";
    let (mut equal, mut refused) = (0, 0);
    for _ in 0..5_000 {
        let mut text = ascii.clone().into_bytes();
        for _ in 0..=random(2) {
            let at = random(text.len());
            match random(4) {
                0 => drop(text.remove(at)),
                1 => text.insert(at, alphabet[random(alphabet.len())]),
                2 => text[at] = alphabet[random(alphabet.len())],
                _ => text.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8(text).unwrap();
        match (ours(&text), theirs(&text)) {
            (Ok(ours), Ok(theirs)) => {
                assert_eq!(ours, theirs, "{text}");
                equal += 1;
            }
            (Err(_), Err(_)) => refused += 1,
            (Err(mistake), Ok(_)) => panic!("only here: {mistake}: {text}"),
            (Ok(_), Err(error)) => {
                let error = error.to_string();
                // What is read as absent, as a warning, or left to the validation.
                let known = [
                    "null",
                    "no variant for",
                    "execCPUAffinity",
                    "`-0.0`",
                    "missing field `user`",
                ];
                assert!(known.iter().any(|known| error.contains(known)), "{error}: {text}");
            }
        }
    }
    assert!(equal > 250 && refused > 1250, "{equal} {refused}");
}

#[test]
fn strings() {
    let hostname = |text: &str| {
        let document = format!(r#"{{"hostname": {text}}}"#);
        let theirs = serde_json::from_str::<oci_spec::runtime::Spec>(&document)
            .ok()
            .map(|spec| spec.hostname().clone());
        let ours = berth_spec::read::<Spec>(document.as_bytes()).map(|document| document.value.hostname);
        assert_eq!(ours.as_ref().ok(), theirs.as_ref(), "{text}");
        ours.map_err(|mistake| mistake.reason)
    };
    for good in [
        r#""\u0041\u00e4\u20ac\ud83d\ude00""#,
        r#""\"\\\/\b\f\n\r\t""#,
        "\"ä€😀\"",
        r#""\u0000""#,
        r#""""#,
    ] {
        hostname(good).unwrap();
    }
    for bad in [
        r#""\ud83d""#,
        r#""\ud83d\u0041""#,
        r#""\ude00""#,
        r#""\u00g0""#,
        r#""\u+041""#,
        r#""\u00""#,
        r#""\x""#,
        "\"\n\"",
        "\"\\\"",
        "'x'",
        "\"x",
    ] {
        hostname(bad).unwrap_err();
    }
    let broken = b"{\"hostname\": \"\xff\"}";
    let mistake = berth_spec::read::<Spec>(broken).unwrap_err();
    assert_eq!((mistake.field.as_str(), mistake.column), ("hostname", 15));
    assert!(mistake.reason.contains("UTF-8"));
}

#[test]
fn numbers() {
    let score = |text: &str| {
        let text = format!(r#"{{"cwd": "/", "user": {{}}, "oomScoreAdj": {text}}}"#);
        berth_spec::read::<berth_spec::Process>(text.as_bytes())
            .map(|document| document.value.oom_score_adj)
            .map_err(|mistake| mistake.reason)
    };
    assert_eq!(score("-2147483648"), Ok(Some(i32::MIN)));
    assert_eq!(score("2147483647"), Ok(Some(i32::MAX)));
    assert_eq!(
        score("2147483648").unwrap_err(),
        "invalid value: 2147483648, expected a whole number from -2147483648 to 2147483647"
    );
    for bad in [
        "-2147483649",
        "1.0",
        "1e2",
        "01",
        "+1",
        "-",
        "1.",
        "1e",
        "99999999999999999999999999",
        "0x1",
    ] {
        assert!(score(bad).is_err(), "{bad}");
    }
}

#[test]
fn mistakes_are_located() {
    for (text, shown) in [
        ("", "1:1: EOF while parsing a value, expected an object"),
        ("null", "1:1: invalid type: null, expected an object"),
        ("{}\n x", "2:2: trailing characters after the document"),
        ("{\"root\": {\"path\": \"a\",}}", "1:23: root: trailing comma"),
        (
            "{\n \"linux\": {\"namespaces\": [{\"type\": \"pid\"},\n  {\"type\": \"bogus\"}]}\n}",
            "3:12: linux.namespaces[1].type: unknown variant `bogus`, expected one of `mount`, `cgroup`, `uts`, \
             `ipc`, `user`, `pid`, `network`, `time`",
        ),
        (
            r#"{"process": {"args": "sh"}}"#,
            "1:22: process.args: invalid type: string \"sh\", expected a sequence",
        ),
        (
            r#"{"linux": {"sysctl": {"a.b": 1}}}"#,
            "1:30: linux.sysctl[\"a.b\"]: invalid type: 1, expected a string",
        ),
        (
            r#"{"mounts": [{"type": "proc"}]}"#,
            "1:13: mounts[0]: missing field `destination`",
        ),
        (r#"{"root": {}, "root": {}}"#, "1:14: duplicate field `root`"),
        (r#"{"hostname": nul}"#, "1:14: hostname: expected value"),
    ] {
        let mistake = berth_spec::read::<Spec>(text.as_bytes()).unwrap_err();
        assert_eq!(mistake.to_string(), shown, "{text}");
    }
}

#[test]
fn unknown_capabilities_are_warned_about() {
    let text = br#"{"process": {"cwd": "/", "user": {}, "capabilities": {"ambient": ["CAP_KILL", "CAP_OF_TOMORROW"]}}}"#;
    let document = berth_spec::read::<Spec>(text).unwrap();
    assert_eq!(
        document.warnings,
        ["process.capabilities.ambient[1]: ignoring unknown capability \"CAP_OF_TOMORROW\""]
    );
    let process = document.value.process.unwrap();
    let ambient = process.capabilities.unwrap().ambient.unwrap();
    assert_eq!(ambient.iter().collect::<Vec<_>>(), [berth_spec::Capability::Kill]);
}

#[test]
fn deep_documents_do_not_exhaust_the_stack() {
    for bracket in ["[", "{\"a\":"] {
        let text = format!("{{\"future\": {}", bracket.repeat(1_000_000));
        let mistake = berth_spec::read::<Spec>(text.as_bytes()).unwrap_err();
        assert!(mistake.reason.contains("too deep"), "{mistake}");
    }
}
