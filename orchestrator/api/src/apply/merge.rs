//! Merging a configuration into the live object, and taking out what it no longer names.

use serde_json::{Map, Value};

use super::set::{FieldSet, View, key_of, view};
use crate::schema::{Leaf, Shape, Type, shape};

/// The live object with the configuration over it.
pub(super) fn merged(of: Type, live: &Value, config: &Value) -> Value {
    merge(View::Struct(of), live, config)
}

fn merge(seen: View, live: &Value, config: &Value) -> Value {
    match (seen, live, config) {
        (View::Struct(_) | View::Map(_), Value::Object(live), Value::Object(config)) => {
            let mut out = live.clone();
            for (name, value) in config {
                let inner = member_view(seen, name);
                let merged = live
                    .get(name)
                    .map_or_else(|| value.clone(), |old| merge(inner, old, value));
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (View::Keyed(of, keys), Value::Array(live), Value::Array(config)) => {
            let mut left: Vec<(String, &Value)> = live.iter().map(|i| (key_of(i, keys), i)).collect();
            let mut out = Vec::new();
            for item in config {
                let key = key_of(item, keys);
                match left.iter().position(|(k, _)| *k == key) {
                    Some(at) => out.push(merge(View::Struct(of), left.remove(at).1, item)),
                    None => out.push(item.clone()),
                }
            }
            out.extend(left.into_iter().map(|(_, item)| item.clone()));
            Value::Array(out)
        }
        (View::Set, Value::Array(live), Value::Array(config)) => {
            let mut out = config.clone();
            out.extend(live.iter().filter(|item| !config.contains(item)).cloned());
            Value::Array(out)
        }
        (_, _, config) => config.clone(),
    }
}

fn member_view(seen: View, name: &str) -> View {
    match seen {
        View::Struct(of) => of.field(name).map_or(View::Whole, view),
        View::Map(inner) => match shape(inner) {
            Shape::One(Leaf::Struct(of)) => View::Struct(of),
            _ => View::Whole,
        },
        _ => View::Whole,
    }
}

/// Removes the members of a set from an object.
pub(super) fn prune(of: Type, object: &mut Value, gone: &FieldSet) {
    remove(View::Struct(of), object, gone);
}

fn remove(seen: View, value: &mut Value, gone: &FieldSet) {
    for (name, child) in gone.children() {
        match (seen, &mut *value) {
            (View::Struct(_) | View::Map(_), Value::Object(map)) => {
                let Some(member) = name.strip_prefix("f:") else {
                    continue;
                };
                remove_member(map, member, member_view(seen, member), child);
            }
            (View::Keyed(of, keys), Value::Array(list)) => {
                if child.is_own() {
                    list.retain(|item| key_of(item, keys) != name);
                } else if let Some(item) = list.iter_mut().find(|item| key_of(item, keys) == name) {
                    remove(View::Struct(of), item, child);
                }
            }
            (View::Set, Value::Array(list)) => list.retain(|item| format!("v:{item}") != name),
            _ => {}
        }
    }
}

fn remove_member(map: &mut Map<String, Value>, member: &str, inner: View, gone: &FieldSet) {
    if gone.is_own() {
        map.remove(member);
        return;
    }
    let Some(value) = map.get_mut(member) else { return };
    remove(inner, value, gone);
    // A container that only held what is gone goes with it.
    let empty = match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    };
    if empty {
        map.remove(member);
    }
}
