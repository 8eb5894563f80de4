//! The OpenAPI v2 document of all groups, as JSON and in the protobuf form that kubectl reads
//! (`github.com/google/gnostic`, openapiv2.proto).
//!
//! It is made one definition at a time, from the same table as the v3 documents.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{collect, definition};
use crate::discovery;
use crate::kinds::{self, Kind};
use crate::schema::Type;

/// The kinds whose objects are kept, in every version.
fn kept() -> impl Iterator<Item = &'static Kind> {
    kinds::served().filter(|kind| kind.is_stored())
}

/// One object path with its operations.
fn paths() -> impl Iterator<Item = (String, Value)> {
    kept().flat_map(|kind| {
        let base = if kind.group.is_empty() {
            format!("/api/{}", kind.version)
        } else {
            format!("/apis/{}/{}", kind.group, kind.version)
        };
        let place = if kind.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let collection = format!("{base}{place}/{}", kind.plural);
        let write = ["dryRun", "fieldManager", "fieldValidation"];
        let object = json!({
            "get": operation(kind, "get", &[]),
            "put": operation(kind, "put", &write),
            "delete": operation(kind, "delete", &["dryRun"]),
            "patch": operation(kind, "patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
        });
        let all = json!({"get": operation(kind, "list", &[]), "post": operation(kind, "post", &write)});
        [(format!("{collection}/{{name}}"), object), (collection, all)]
    })
}

fn gvk(kind: &Kind) -> Value {
    json!({"group": kind.group, "kind": kind.kind, "version": kind.version})
}

fn operation(kind: &Kind, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({"in": "query", "name": name, "type": "string"}))
        .collect();
    json!({
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(kind),
    })
}

/// Every definition that a stored kind reaches, with its full name.
fn definitions() -> impl Iterator<Item = (&'static str, Value)> {
    let mut seen = BTreeSet::new();
    for root in kept().filter_map(|kind| Type::named(kind.schema())) {
        collect(root, &mut seen);
    }
    seen.into_iter().filter_map(Type::named).map(|of| {
        let kind = kept().find(|k| k.schema() == of.name);
        let mut value = definition(of, kind);
        older(&mut value);
        (of.full_name, value)
    })
}

/// Turns a v3 schema into a v2 one: references lie elsewhere, and there is no choice of types.
fn older(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            if map.remove("oneOf").is_some() {
                map.insert("type".into(), json!("string"));
            }
            if let Some(Value::Array(all)) = map.remove("allOf") {
                for one in all {
                    map.extend(one.as_object().cloned().unwrap_or_default());
                }
            }
            if let Some(Value::String(link)) = map.get_mut("$ref") {
                *link = link.replace("#/components/schemas/", "#/definitions/");
            }
            map.values_mut().for_each(older);
        }
        Value::Array(list) => list.iter_mut().for_each(older),
        _ => {}
    }
}

fn info() -> Value {
    json!({"title": "Berth", "version": discovery::version(env!("CARGO_PKG_VERSION"))["gitVersion"]})
}

/// The document as JSON text.
pub fn json_text() -> String {
    let mut text = format!("{{\"swagger\":\"2.0\",\"info\":{},\"paths\":{{", info());
    let member = |name: &str, value: &Value| format!("{}:{value}", Value::String(name.to_owned()));
    let list: Vec<String> = paths().map(|(path, value)| member(&path, &value)).collect();
    text.push_str(&list.join(","));
    text.push_str("},\"definitions\":{");
    for (n, (name, value)) in definitions().enumerate() {
        if n > 0 {
            text.push(',');
        }
        text.push_str(&member(name, &value));
    }
    text.push_str("}}");
    text
}

/// A protobuf message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn bytes(&mut self, tag: u64, bytes: &[u8]) {
        self.varint(tag << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, tag: u64, value: Option<&Value>) {
        if let Some(Value::String(text)) = value {
            self.bytes(tag, text.as_bytes());
        }
    }

    fn message(&mut self, tag: u64, inner: &Message) {
        self.bytes(tag, &inner.0);
    }
}

/// `NamedX { name = 1, value = 2 }`.
fn named(name: &str, value: &Message) -> Message {
    let mut out = Message::default();
    out.bytes(1, name.as_bytes());
    out.message(2, value);
    out
}

/// Extensions `x-…` as `NamedAny { name, Any { yaml = 2 } }`; JSON is YAML.
fn extensions(out: &mut Message, tag: u64, map: &Map<String, Value>) {
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        let mut any = Message::default();
        any.bytes(2, value.to_string().as_bytes());
        out.message(tag, &named(name, &any));
    }
}

fn schema(value: &Value) -> Message {
    let mut out = Message::default();
    let Some(map) = value.as_object() else { return out };
    out.text(1, map.get("$ref"));
    out.text(2, map.get("format"));
    out.text(4, map.get("description"));
    for name in map
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        out.text(19, Some(name));
    }
    if let Some(inner) = map.get("additionalProperties") {
        let mut item = Message::default();
        item.message(1, &schema(inner));
        out.message(21, &item);
    }
    if let Some(kind) = map.get("type") {
        let mut item = Message::default();
        item.text(1, Some(kind));
        out.message(22, &item);
    }
    if let Some(inner) = map.get("items") {
        let mut item = Message::default();
        item.message(1, &schema(inner));
        out.message(23, &item);
    }
    if let Some(properties) = map.get("properties").and_then(Value::as_object) {
        let mut all = Message::default();
        for (name, property) in properties {
            all.message(1, &named(name, &schema(property)));
        }
        out.message(25, &all);
    }
    extensions(&mut out, 31, map);
    out
}

fn operation_message(value: &Value) -> Message {
    let mut out = Message::default();
    for parameter in value["parameters"].as_array().into_iter().flatten() {
        let mut query = Message::default();
        query.text(2, parameter.get("in"));
        query.text(4, parameter.get("name"));
        query.text(6, parameter.get("type"));
        // ParametersItem.parameter, Parameter.non_body_parameter, NonBodyParameter.query_parameter_sub_schema.
        let mut item = query;
        for tag in [3, 2, 1] {
            let mut outer = Message::default();
            outer.message(tag, &item);
            item = outer;
        }
        out.message(8, &item);
    }
    let mut response = Message::default();
    response.text(1, value.pointer("/responses/200/description"));
    let mut choice = Message::default();
    choice.message(1, &response);
    let mut responses = Message::default();
    responses.message(1, &named("200", &choice));
    out.message(9, &responses);
    extensions(&mut out, 13, value.as_object().unwrap_or(&Map::new()));
    out
}

/// The document as `openapi.v2.Document`.
pub fn protobuf() -> Vec<u8> {
    let mut document = Message::default();
    document.bytes(1, b"2.0");
    let mut about = Message::default();
    let info = info();
    about.text(1, info.get("title"));
    about.text(2, info.get("version"));
    document.message(2, &about);
    let mut all = Message::default();
    for (path, value) in paths() {
        let mut item = Message::default();
        for (verb, tag) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
            if let Some(operation) = value.get(verb) {
                item.message(tag, &operation_message(operation));
            }
        }
        all.message(2, &named(&path, &item));
    }
    document.message(8, &all);
    let mut all = Message::default();
    for (name, value) in definitions() {
        all.message(1, &named(name, &schema(&value)));
    }
    document.message(9, &all);
    document.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_form_is_whole() {
        let text = json_text();
        let document: Value = serde_json::from_str(&text).unwrap();
        for part in text.split("#/definitions/").skip(1) {
            let name = part.split('"').next().unwrap();
            assert!(document["definitions"].get(name).is_some(), "{name}");
        }
        assert!(!text.contains("oneOf") && !text.contains("components"));
        let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(pod["x-kubernetes-group-version-kind"][0]["kind"], "Pod");
        assert!(protobuf().len() > 10_000);
    }
}
