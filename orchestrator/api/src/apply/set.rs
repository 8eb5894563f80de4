//! Sets of fields, in the form of `FieldsV1`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::schema::{Field, Leaf, Shape, Topology, Type, shape};

/// A set of fields as a tree. A node is a member of the set if it is a leaf, or marked itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FieldSet {
    /// By `f:name`, `k:{"name":"x"}` or `v:"x"`.
    children: BTreeMap<String, FieldSet>,
    /// Whether this node itself is owned, beside its children.
    own: bool,
}

/// Metadata that no manager owns.
const UNOWNED: [&str; 11] = [
    "name",
    "namespace",
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
];

/// How a value's inside is seen.
#[derive(Clone, Copy)]
pub(super) enum View {
    /// One value.
    Whole,
    /// A struct's fields.
    Struct(Type),
    /// A map's entries, of this type.
    Map(&'static str),
    /// A list of structs with these keys.
    Keyed(Type, &'static str),
    /// A list of scalars.
    Set,
}

/// How a field's value is seen.
pub(super) fn view(field: Field) -> View {
    match (field.topology(), field.shape) {
        (Topology::Atomic, _) => View::Whole,
        (Topology::Keyed(keys), Shape::List(inner)) => match shape(inner) {
            Shape::One(Leaf::Struct(of)) => View::Keyed(of, keys),
            _ => View::Whole,
        },
        (Topology::Set, _) => View::Set,
        (_, Shape::One(Leaf::Struct(of))) => View::Struct(of),
        (_, Shape::Map(inner)) => View::Map(inner),
        _ => View::Whole,
    }
}

fn entry_view(inner: &'static str) -> View {
    match shape(inner) {
        Shape::One(Leaf::Struct(of)) => View::Struct(of),
        _ => View::Whole,
    }
}

/// The name of a list element: its key fields, in the order of names.
pub(super) fn key_of(item: &Value, keys: &str) -> String {
    let mut map = Map::new();
    for key in keys.split('+') {
        let value = item.get(key).cloned();
        // The one key with a default in the API.
        let value = value.or_else(|| (key == "protocol").then(|| json!("TCP")));
        if let Some(value) = value {
            map.insert(key.to_owned(), value);
        }
    }
    format!("k:{}", Value::Object(map))
}

/// The parts of a value: name in the set, the part, how it is seen.
pub(super) fn parts(view: View, value: &Value) -> Vec<(String, &Value, View)> {
    match (view, value) {
        (View::Struct(of), Value::Object(map)) => map
            .iter()
            .filter(|(name, _)| !is_unowned(of, name))
            .filter_map(|(name, part)| Some((format!("f:{name}"), part, self::view(of.field(name)?))))
            .collect(),
        (View::Map(inner), Value::Object(map)) => map
            .iter()
            .map(|(name, part)| (format!("f:{name}"), part, entry_view(inner)))
            .collect(),
        (View::Keyed(of, keys), Value::Array(list)) => list
            .iter()
            .map(|item| (key_of(item, keys), item, View::Struct(of)))
            .collect(),
        (View::Set, Value::Array(list)) => list
            .iter()
            .map(|item| (format!("v:{item}"), item, View::Whole))
            .collect(),
        _ => Vec::new(),
    }
}

fn is_unowned(of: Type, name: &str) -> bool {
    match of.name {
        "ObjectMeta" => UNOWNED.contains(&name),
        // Roots: type and status are not a matter of the main resource.
        _ if of.field("apiVersion").is_some() && of.field("metadata").is_some() => {
            matches!(name, "apiVersion" | "kind" | "status")
        }
        _ => false,
    }
}

impl FieldSet {
    /// All fields of an object.
    pub fn of(of: Type, object: &Value) -> Self {
        Self::viewed(View::Struct(of), object)
    }

    fn viewed(view: View, value: &Value) -> Self {
        let mut set = Self::default();
        for (name, part, inner) in parts(view, value) {
            let mut child = Self::viewed(inner, part);
            child.own |= is_leaf(inner, part) || name.starts_with("k:");
            if !child.is_empty() {
                set.children.insert(name, child);
            }
        }
        set
    }

    /// Those of this set whose value differs between two objects.
    pub fn changed(&self, of: Type, before: &Value, after: &Value) -> Self {
        self.differing(View::Struct(of), Some(before), after)
    }

    fn differing(&self, view: View, before: Option<&Value>, after: &Value) -> Self {
        let mut out = Self::default();
        let old = before.map(|b| parts(view, b)).unwrap_or_default();
        for (name, part, inner) in parts(view, after) {
            let Some(child) = self.children.get(&name) else {
                continue;
            };
            let was = old.iter().find(|(n, _, _)| *n == name).map(|(_, v, _)| *v);
            if was == Some(part) {
                continue;
            }
            let mut different = child.differing(inner, was, part);
            // A leaf differs by its value, an element by being new.
            different.own = child.own && (child.children.is_empty() || was.is_none());
            if different.own || !different.children.is_empty() {
                out.children.insert(name, different);
            }
        }
        out
    }

    pub fn is_empty(&self) -> bool {
        self.children.is_empty() && !self.own
    }

    /// Adds another set.
    pub fn add(&mut self, other: &Self) {
        self.own |= other.own;
        for (name, child) in &other.children {
            self.children.entry(name.clone()).or_default().add(child);
        }
    }

    /// Takes another set away.
    pub fn subtract(&mut self, other: &Self) {
        if other.own {
            self.own = false;
        }
        for (name, child) in &other.children {
            if let Some(mine) = self.children.get_mut(name) {
                mine.subtract(child);
            }
        }
        self.children.retain(|_, child| !child.is_empty());
    }

    /// Keeps only what is in another set too.
    pub fn keep(&mut self, other: &Self) {
        self.own &= other.own || !other.children.is_empty();
        self.children.retain(|name, child| {
            let Some(theirs) = other.children.get(name) else {
                return false;
            };
            child.keep(theirs);
            !child.is_empty()
        });
    }

    /// What both have.
    pub fn common(&self, other: &Self) -> Self {
        let children = self
            .children
            .iter()
            .filter_map(|(name, child)| {
                let both = child.common(other.children.get(name)?);
                (!both.is_empty()).then(|| (name.clone(), both))
            })
            .collect();
        Self {
            children,
            own: self.own && other.own,
        }
    }

    /// The children of a node, and whether each is a member itself.
    pub fn children(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.children.iter().map(|(name, child)| (name.as_str(), child))
    }

    /// Whether the node itself is a member.
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// The members as readable paths, such as `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.walk("", &mut out);
        out
    }

    fn walk(&self, at: &str, out: &mut Vec<String>) {
        if self.own {
            out.push(at.to_owned());
        }
        for (name, child) in &self.children {
            child.walk(&format!("{at}{}", readable(name)), out);
        }
    }

    /// Reads `FieldsV1`.
    pub fn parse(value: &Value) -> Self {
        let mut set = Self::default();
        for (name, inner) in value.as_object().into_iter().flatten() {
            if name == "." {
                set.own = true;
                continue;
            }
            let mut child = Self::parse(inner);
            child.own |= child.children.is_empty();
            set.children.insert(canonical(name), child);
        }
        set
    }

    /// Writes `FieldsV1`.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        for (name, child) in &self.children {
            let mut inner = child.to_value();
            if child.own && !child.children.is_empty() {
                inner["."] = json!({});
            }
            map.insert(name.clone(), inner);
        }
        Value::Object(map)
    }
}

/// Whether a value is owned as a whole: a scalar, an atomic one, or an empty container. A struct
/// of which nobody owns anything, such as metadata with a name only, is not.
fn is_leaf(view: View, value: &Value) -> bool {
    match (view, value) {
        (View::Whole, _) => true,
        (_, Value::Object(map)) => map.is_empty(),
        (_, Value::Array(list)) => list.is_empty(),
        _ => true,
    }
}

/// A key as this module writes it, whatever order its fields came in.
fn canonical(name: &str) -> String {
    match name.strip_prefix("k:").map(serde_json::from_str::<Value>) {
        Some(Ok(Value::Object(map))) => {
            let sorted: BTreeMap<String, Value> = map.into_iter().collect();
            format!("k:{}", Value::Object(sorted.into_iter().collect()))
        }
        _ => name.to_owned(),
    }
}

fn readable(name: &str) -> String {
    if let Some(field) = name.strip_prefix("f:") {
        return format!(".{field}");
    }
    if let Some(value) = name.strip_prefix("v:") {
        return format!("[={value}]");
    }
    let key = name
        .strip_prefix("k:")
        .and_then(|k| serde_json::from_str::<Value>(k).ok());
    let pairs: Vec<String> = key
        .as_ref()
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("[{}]", pairs.join(","))
}
