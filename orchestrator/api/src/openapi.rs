//! The OpenAPI v3 documents, one a group and version, made from the schema table.
//!
//! They are what `kubectl explain`, `apply` and `diff` read: definitions with merge keys, and for
//! each kind a path whose PATCH lists `dryRun` and `fieldValidation`, by which clients know that
//! the server validates.

pub mod v2;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::discovery;
use crate::kinds::Kind;
use crate::schema::{Field, Leaf, MergeList, Shape, Topology, Type, shape};
use crate::support::{self, Support};

/// `/openapi/v3`.
pub fn index() -> Value {
    let mut paths = Map::new();
    for (group, version) in discovery::group_versions() {
        let path = if group.is_empty() {
            format!("api/{version}")
        } else {
            format!("apis/{group}/{version}")
        };
        let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

/// `/openapi/v3/api/v1` or `/openapi/v3/apis/GROUP/VERSION`, if that is served.
pub fn document(group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Kind> = discovery::of(group, version).collect();
    if kinds.is_empty() {
        return None;
    }
    let (mut paths, mut schemas, mut seen) = (Map::new(), Map::new(), BTreeSet::new());
    for kind in kinds {
        // What is measured is only read, and has no place in explain or apply.
        let Some(root) = Type::named(kind.schema()) else {
            continue;
        };
        let base = if group.is_empty() {
            format!("/api/{version}")
        } else {
            format!("/apis/{group}/{version}")
        };
        let place = if kind.namespaced {
            "/namespaces/{namespace}"
        } else {
            ""
        };
        let collection = format!("{base}{place}/{}", kind.plural);
        if kind.is_stored() {
            paths.insert(format!("{collection}/{{name}}"), object_path(kind, root));
        }
        paths.insert(collection, collection_path(kind, root));
        collect(root, &mut seen);
        schemas.insert(root.full_name.to_owned(), definition(root, Some(kind)));
    }
    for name in seen {
        if let Some(of) = Type::named(name)
            && !schemas.contains_key(of.full_name)
        {
            schemas.insert(of.full_name.to_owned(), definition(of, None));
        }
    }
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Berth", "version": discovery::version(env!("CARGO_PKG_VERSION"))["gitVersion"]},
        "paths": paths,
        "components": {"schemas": schemas},
    }))
}

fn collect(of: Type, seen: &mut BTreeSet<&'static str>) {
    if !seen.insert(of.name) {
        return;
    }
    for field in of.fields() {
        let mut inner = field.shape;
        while let Shape::List(text) | Shape::Map(text) = inner {
            inner = shape(text);
        }
        if let Shape::One(Leaf::Struct(next)) = inner {
            collect(next, seen);
        }
    }
}

fn gvk(kind: &Kind) -> Value {
    json!({"group": kind.group, "kind": kind.kind, "version": kind.version})
}

fn query(names: &[&str]) -> Value {
    let list: Vec<Value> = names
        .iter()
        .map(|n| json!({"in": "query", "name": n, "schema": {"type": "string"}}))
        .collect();
    Value::Array(list)
}

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];

fn operation(kind: &Kind, root: Type, action: &str, parameters: &[&str]) -> Value {
    json!({
        "parameters": query(parameters),
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": link(root)}}}},
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(kind),
    })
}

fn object_path(kind: &Kind, root: Type) -> Value {
    let mut patch = operation(
        kind,
        root,
        "patch",
        &["dryRun", "fieldManager", "fieldValidation", "force"],
    );
    let any = json!({"schema": {"type": "object"}});
    patch["requestBody"] = json!({"content": {
        "application/apply-patch+yaml": any,
        "application/json-patch+json": any,
        "application/merge-patch+json": any,
        "application/strategic-merge-patch+json": any,
    }});
    json!({
        "get": operation(kind, root, "get", &[]),
        "put": operation(kind, root, "put", &WRITE),
        "patch": patch,
        "delete": operation(kind, root, "delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
    })
}

fn collection_path(kind: &Kind, root: Type) -> Value {
    let list = [
        "continue",
        "fieldSelector",
        "labelSelector",
        "limit",
        "resourceVersion",
        "watch",
    ];
    json!({
        "get": operation(kind, root, "list", &list),
        "post": operation(kind, root, "post", &WRITE),
    })
}

fn link(of: Type) -> Value {
    json!({"$ref": format!("#/components/schemas/{}", of.full_name)})
}

fn definition(of: Type, kind: Option<&Kind>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in of.fields() {
        if field.required() {
            required.push(field.name);
        }
        properties.insert(field.name.to_owned(), property(of, field));
    }
    let mut out = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        out["required"] = json!(required);
    }
    if let Some(kind) = kind {
        out["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
    }
    out
}

fn property(of: Type, field: Field) -> Value {
    let mut out = schema(field.shape);
    // What berthd makes of the field is what `kubectl explain` shows.
    match support::of(of.name, field.name) {
        Some(Support::NoEffect(why)) => {
            out = described(out, &format!("Accepted without effect: {why}."));
        }
        Some(Support::Refused { why, .. }) => out = described(out, &format!("Not supported here: {why}.")),
        Some(Support::Enforced) => out = described(out, "Enforced."),
        // Status is the node's own word.
        None => {}
    }
    match field.merge() {
        MergeList::ByKey(key) => {
            out["x-kubernetes-patch-merge-key"] = json!(key);
            out["x-kubernetes-patch-strategy"] = json!(if field.retain_keys() {
                "merge,retainKeys"
            } else {
                "merge"
            });
        }
        MergeList::Set => out["x-kubernetes-patch-strategy"] = json!("merge"),
        MergeList::Replace if field.retain_keys() => out["x-kubernetes-patch-strategy"] = json!("retainKeys"),
        MergeList::Replace => {}
    }
    if let Shape::List(_) = field.shape {
        match field.topology() {
            Topology::Keyed(keys) => {
                out["x-kubernetes-list-type"] = json!("map");
                out["x-kubernetes-list-map-keys"] = json!(keys.split('+').collect::<Vec<_>>());
            }
            Topology::Set => out["x-kubernetes-list-type"] = json!("set"),
            Topology::Atomic | Topology::Granular => out["x-kubernetes-list-type"] = json!("atomic"),
        }
    }
    out
}

/// A schema with a description; a bare reference may not have one beside it.
fn described(schema: Value, text: &str) -> Value {
    if schema.get("$ref").is_some() {
        return json!({"allOf": [schema], "description": text});
    }
    let mut schema = schema;
    schema["description"] = json!(text);
    schema
}

fn schema(of: Shape) -> Value {
    match of {
        Shape::List(inner) => json!({"type": "array", "items": schema(shape(inner))}),
        Shape::Map(inner) => json!({"type": "object", "additionalProperties": schema(shape(inner))}),
        Shape::One(leaf) => match leaf {
            Leaf::String => json!({"type": "string"}),
            Leaf::Int32 => json!({"type": "integer", "format": "int32"}),
            Leaf::Int64 => json!({"type": "integer", "format": "int64"}),
            Leaf::Bool => json!({"type": "boolean"}),
            Leaf::Double => json!({"type": "number", "format": "double"}),
            Leaf::Bytes => json!({"type": "string", "format": "byte"}),
            Leaf::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Leaf::IntOrString => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            Leaf::Time | Leaf::MicroTime => json!({"type": "string", "format": "date-time"}),
            Leaf::Any => json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}),
            Leaf::Struct(of) => link(of),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_defined() {
        for (group, version) in discovery::group_versions() {
            let document = document(group, version).unwrap();
            let text = document.to_string();
            for part in text.split("#/components/schemas/").skip(1) {
                let name = part.split('"').next().unwrap();
                assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
            }
            let written = discovery::of(group, version).any(Kind::is_stored);
            assert_eq!(
                text.contains("fieldValidation"),
                written || group.starts_with("auth"),
                "{group}"
            );
        }
        assert!(document("apiregistration.k8s.io", "v1").is_none());
        let core = document("", "v1").unwrap();
        let volumes = &core["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
    }
}
