//! Strategic merge patch.
//!
//! Source: Kubernetes documentation "Strategic merge patch" and its directives: `$patch`
//! (replace, delete, merge), `$deleteFromPrimitiveList/<field>`, `$setElementOrder/<field>`,
//! `$retainKeys`. Merge keys come from the schema table.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Leaf, MergeList, Shape, Type, shape};

const PATCH: &str = "$patch";
const RETAIN: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const REMOVE: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch to an object of type `of`.
pub fn strategic(of: Type, object: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(
            "a strategic merge patch must be a JSON object".into(),
        ));
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    if let Value::Object(object) = object {
        merge_map(Some(of), object, patch)?;
    }
    Ok(())
}

fn directive(patch: &Map<String, Value>) -> Result<Option<&str>, PatchError> {
    match patch.get(PATCH) {
        None => Ok(None),
        Some(Value::String(text)) if matches!(text.as_str(), "replace" | "delete" | "merge") => {
            Ok(Some(text))
        }
        Some(other) => Err(PatchError::Malformed(format!("Unknown patch type: {other}"))),
    }
}

/// Merges a patch for a struct or a map (`of` is `None` for maps and free-form values).
fn merge_map(
    of: Option<Type>,
    object: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    match directive(patch)? {
        Some("replace") => {
            *object = patch
                .iter()
                .filter(|(k, _)| *k != PATCH)
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            object.clear();
            return Ok(());
        }
        _ => {}
    }
    if let Some(Value::Array(retain)) = patch.get(RETAIN) {
        object.retain(|key, _| retain.iter().any(|r| r == key));
    }
    let mut order = Vec::new();
    for (key, value) in patch {
        if key == PATCH || key == RETAIN {
            continue;
        }
        if let Some(name) = key.strip_prefix(ORDER) {
            order.push((name, value));
        } else if let Some(name) = key.strip_prefix(REMOVE) {
            remove_scalars(object, name, value)?;
        } else if value.is_null() {
            object.remove(key);
        } else {
            merge_member(of, object, key, value)?;
        }
    }
    // After the merge, so that added elements are put in place too.
    for (name, wanted) in order {
        let key = of
            .and_then(|t| t.field(name))
            .map_or(MergeList::Set, Field::merge);
        if let Some(Value::Array(list)) = object.get_mut(name) {
            set_order(list, wanted, &key)?;
        }
    }
    Ok(())
}

fn merge_member(
    of: Option<Type>,
    object: &mut Map<String, Value>,
    key: &str,
    patch: &Value,
) -> Result<(), PatchError> {
    let field = of.and_then(|t| t.field(key));
    match patch {
        Value::Object(patch) => {
            let inner = field.and_then(|f| match f.shape {
                Shape::One(Leaf::Struct(inner)) => Some(inner),
                _ => None,
            });
            let slot = object.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !slot.is_object() {
                *slot = Value::Object(Map::new());
            }
            if let Value::Object(slot) = slot {
                merge_map(inner, slot, patch)?;
            }
            if patch.get(PATCH).is_some_and(|d| d == "delete") {
                object.remove(key);
            }
        }
        Value::Array(patch) => {
            let merge = field.map_or(MergeList::Replace, Field::merge);
            match merge {
                MergeList::Replace => {
                    object.insert(key.to_owned(), Value::Array(without_directives(patch)?));
                }
                MergeList::Set => merge_scalars(object, key, patch),
                MergeList::ByKey(by) => {
                    let element = field.and_then(element_type);
                    let slot = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                    if !slot.is_array() {
                        *slot = Value::Array(Vec::new());
                    }
                    if let Value::Array(list) = slot {
                        merge_keyed(element, list, patch, by)?;
                    }
                }
            }
        }
        scalar => {
            object.insert(key.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn element_type(field: Field) -> Option<Type> {
    match field.shape {
        Shape::List(inner) => match shape(inner) {
            Shape::One(Leaf::Struct(inner)) => Some(inner),
            _ => None,
        },
        _ => None,
    }
}

/// A list that replaces another: `$patch: replace` among its elements is not one of them.
fn without_directives(patch: &[Value]) -> Result<Vec<Value>, PatchError> {
    let mut out = Vec::new();
    for item in patch {
        match item {
            Value::Object(map) if directive(map)? == Some("replace") && map.len() == 1 => {}
            other => out.push(other.clone()),
        }
    }
    Ok(out)
}

fn merge_scalars(object: &mut Map<String, Value>, key: &str, patch: &[Value]) {
    let slot = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
    if let Value::Array(list) = slot {
        for item in patch {
            if !list.contains(item) {
                list.push(item.clone());
            }
        }
    } else {
        *slot = Value::Array(patch.to_vec());
    }
}

fn remove_scalars(object: &mut Map<String, Value>, name: &str, gone: &Value) -> Result<(), PatchError> {
    let Value::Array(gone) = gone else {
        return Err(PatchError::Malformed(format!("{REMOVE}{name} must be a list")));
    };
    if let Some(Value::Array(list)) = object.get_mut(name) {
        list.retain(|item| !gone.contains(item));
    }
    Ok(())
}

fn merge_keyed(of: Option<Type>, list: &mut Vec<Value>, patch: &[Value], by: &str) -> Result<(), PatchError> {
    let replaces = |item: &Value| item.get(PATCH).is_some_and(|d| d == "replace") && item.get(by).is_none();
    if patch.iter().any(replaces) {
        *list = patch.iter().filter(|i| !replaces(i)).cloned().collect();
        return Ok(());
    }
    for item in patch {
        let Value::Object(item) = item else {
            return Err(PatchError::Malformed(format!(
                "an element of a list merged by {by:?} must be an object"
            )));
        };
        let key = item.get(by).ok_or_else(|| {
            PatchError::Malformed(format!(
                "map: {} does not contain declared merge key: {by}",
                Value::Object(item.clone())
            ))
        })?;
        let at = list.iter().position(|old| old.get(by) == Some(key));
        match (directive(item)?, at) {
            (Some("delete"), _) => list.retain(|old| old.get(by) != Some(key)),
            (_, Some(at)) => {
                if let Value::Object(old) = &mut list[at] {
                    merge_map(of, old, item)?;
                }
            }
            (_, None) => {
                let mut fresh = Map::new();
                merge_map(of, &mut fresh, item)?;
                list.push(Value::Object(fresh));
            }
        }
    }
    Ok(())
}

/// Orders a list as the client's is; elements it does not know stay behind the one they followed.
fn set_order(list: &mut Vec<Value>, wanted: &Value, merge: &MergeList) -> Result<(), PatchError> {
    let Value::Array(wanted) = wanted else {
        return Err(PatchError::Malformed("$setElementOrder must be a list".into()));
    };
    let id = |item: &Value| match merge {
        MergeList::ByKey(by) => item.get(*by).cloned().unwrap_or_default(),
        _ => item.clone(),
    };
    let rank: Vec<Value> = wanted.iter().map(id).collect();
    let mut known: Vec<(usize, Value)> = Vec::new();
    let mut foreign: Vec<(Option<Value>, Value)> = Vec::new();
    let mut before: Option<Value> = None;
    for item in std::mem::take(list) {
        let own = id(&item);
        match rank.iter().position(|r| *r == own) {
            Some(at) => known.push((at, item)),
            None => foreign.push((before.clone(), item)),
        }
        before = Some(own);
    }
    known.sort_by_key(|(at, _)| *at);
    list.extend(known.into_iter().map(|(_, item)| item));
    for (before, item) in foreign {
        let at = before
            .and_then(|b| list.iter().position(|i| id(i) == b))
            .map_or(0, |at| at + 1);
        list.insert(at, item);
    }
    Ok(())
}
