//! Which fields of the served kinds mean something here: enforced, without effect, or refused.
//!
//! The data is `fields.txt`; nothing that a user writes is silently ignored.

use serde_json::Value;

use crate::kinds::Kind;
use crate::schema::{Leaf, Shape, Type, shape};
use crate::validate::field::{Errors, Path};

const TABLE: &str = include_str!("../fields.txt");

/// What berthd makes of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// It does what the Kubernetes documentation says.
    Enforced,
    /// It is kept and shown, and means nothing on one node, because of this.
    NoEffect(&'static str),
    /// It is refused, because of this; unless it has the value (as text) that asks for nothing.
    Refused {
        /// Why, and what to do.
        why: &'static str,
        /// The value let through.
        except: Option<&'static str>,
    },
}

/// What berthd makes of a field of a type; `None` if the table does not say.
pub fn of(type_name: &str, field: &str) -> Option<Support> {
    block(type_name).find_map(|line| {
        let (mark, rest) = line.split_at(2);
        let (names, why) = rest.split_once(": ").unwrap_or((rest, ""));
        let entry = names.split(' ').find(|n| n.split('=').next() == Some(field))?;
        Some(match mark {
            "+ " => Support::Enforced,
            "~ " => Support::NoEffect(why),
            _ => Support::Refused {
                why,
                except: entry.split_once('=').map(|(_, value)| value),
            },
        })
    })
}

/// The lines of a type.
fn block(type_name: &str) -> impl Iterator<Item = &'static str> {
    let name = type_name.to_owned();
    let is_entry = |line: &&str| line.starts_with(['+', '~', '-']);
    TABLE
        .lines()
        .skip_while(move |line| *line != name)
        .skip(1)
        .take_while(is_entry)
}

/// Adds an error for every refused field that an object sets.
pub(crate) fn check(kind: &Kind, object: &Value, errors: &mut Errors) {
    if let Some(root) = Type::named(kind.kind) {
        structure(root, object, &Path::root(""), errors);
    }
}

fn structure(of_type: Type, object: &Value, at: &Path, errors: &mut Errors) {
    for (name, value) in object.as_object().into_iter().flatten() {
        // Status is the node's own word.
        if name == "status" {
            continue;
        }
        let Some(field) = of_type.field(name) else {
            continue;
        };
        let path = at.child(name);
        if let Some(Support::Refused { why, except }) = of(of_type.name, name) {
            // A volume without settings is still a volume of that type.
            let asks = of_type.name == "Volume" || !is_empty(value);
            if asks && except.is_none_or(|text| !is_text(value, text)) {
                errors.forbidden(&path, &format!("not supported here: {why}"));
            }
            continue;
        }
        shaped(field.shape, value, &path, errors);
    }
}

fn shaped(shaped_as: Shape, value: &Value, at: &Path, errors: &mut Errors) {
    match shaped_as {
        Shape::One(Leaf::Struct(inner)) => structure(inner, value, at, errors),
        Shape::One(_) => {}
        Shape::List(inner) => {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                shaped(shape(inner), item, &at.index(index), errors);
            }
        }
        Shape::Map(inner) => {
            for (key, item) in value.as_object().into_iter().flatten() {
                shaped(shape(inner), item, &at.key(key), errors);
            }
        }
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(n) => n.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn is_text(value: &Value, text: &str) -> bool {
    match value {
        Value::String(found) => found == text,
        Value::Bool(found) => text == if *found { "true" } else { "false" },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use std::collections::BTreeSet;

    fn visit(of_type: Type, seen: &mut BTreeSet<&'static str>) {
        if !seen.insert(of_type.name) {
            return;
        }
        for field in of_type.fields() {
            let support = of(of_type.name, field.name)
                .unwrap_or_else(|| panic!("fields.txt lacks {}.{}", of_type.name, field.name));
            let listed = block(of_type.name)
                .flat_map(|l| l[2..].split(": ").next().unwrap().split(' '))
                .filter(|n| n.split('=').next() == Some(field.name))
                .count();
            assert_eq!(
                listed, 1,
                "{}.{} is listed {listed} times",
                of_type.name, field.name
            );
            if matches!(support, Support::Refused { .. }) || field.name == "status" {
                continue;
            }
            let mut inner = field.shape;
            while let Shape::List(text) | Shape::Map(text) = inner {
                inner = shape(text);
            }
            if let Shape::One(Leaf::Struct(next)) = inner {
                visit(next, seen);
            }
        }
    }

    #[test]
    fn every_field_is_in_exactly_one_list() {
        let mut seen = BTreeSet::new();
        for kind in kinds::served().filter(|kind| kind.is_stored()) {
            visit(Type::named(kind.schema()).unwrap(), &mut seen);
        }
        let mut current = None;
        for line in TABLE.lines().filter(|l| !l.starts_with('#')) {
            if !line.starts_with(['+', '~', '-']) {
                assert!(
                    seen.contains(line),
                    "fields.txt lists {line}, which nothing served reaches"
                );
                current = Type::named(line);
                continue;
            }
            assert!(
                line.starts_with('+') || line.contains(": "),
                "no reason in {line:?}"
            );
            for name in line[2..].split(": ").next().unwrap().split(' ') {
                let name = name.split('=').next().unwrap();
                assert!(
                    current.unwrap().field(name).is_some(),
                    "{}.{name} is no field",
                    current.unwrap().name
                );
            }
        }
    }
}
