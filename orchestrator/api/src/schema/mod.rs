//! The structure of every API type: fields, types, merge keys, protobuf tags.
//!
//! One generated table (`schema/types.txt`, see `schema/generate.py`) drives strict decoding,
//! protobuf decoding, strategic merge, field ownership and the OpenAPI document. It stays text in
//! the program's read-only data: only an index of type names is built in memory.

pub mod decode;

use std::sync::OnceLock;

const TABLE: &str = include_str!("../../schema/types.txt");

/// A struct type of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    /// Short name, such as `PodSpec`.
    pub name: &'static str,
    /// Name in the upstream OpenAPI document, such as `io.k8s.api.core.v1.PodSpec`.
    pub full_name: &'static str,
    lines: &'static str,
}

/// A field of a struct type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// JSON name.
    pub name: &'static str,
    /// Protobuf tag; `2.5` is tag 5 in a struct embedded with tag 2; `0` for none.
    pub tag: &'static str,
    /// What it holds.
    pub shape: Shape,
    flags: &'static str,
}

/// What a field, an element or a map value holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One value.
    One(Leaf),
    /// A list; the text is the type of its elements.
    List(&'static str),
    /// A map from strings; the text is the type of its values.
    Map(&'static str),
}

/// The type of one value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    /// UTF-8 text.
    String,
    /// 32-bit signed integer.
    Int32,
    /// 64-bit signed integer.
    Int64,
    /// Boolean.
    Bool,
    /// Floating point.
    Double,
    /// Base64 text in JSON.
    Bytes,
    /// Resource quantity, such as `100m`.
    Quantity,
    /// 32-bit integer, or text such as `25%`.
    IntOrString,
    /// RFC 3339 in seconds.
    Time,
    /// RFC 3339 in microseconds.
    MicroTime,
    /// Any JSON.
    Any,
    /// A struct.
    Struct(Type),
}

/// How a list is merged by strategic merge patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeList {
    /// The patch replaces it.
    Replace,
    /// Elements are structs, identified by this field.
    ByKey(&'static str),
    /// Elements are scalars: the union.
    Set,
}

/// How field ownership sees a list or a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topology {
    /// One value, owned as a whole.
    Atomic,
    /// List of structs identified by these fields, joined with `+`.
    Keyed(&'static str),
    /// List of distinct scalars.
    Set,
    /// Struct or map whose fields are owned one by one.
    Granular,
}

impl Type {
    /// Finds a type by its short name.
    pub fn named(name: &str) -> Option<Self> {
        let index = index();
        index
            .binary_search_by(|t| t.name.cmp(name))
            .ok()
            .map(|at| index[at])
    }

    /// Every type, in the order of names.
    pub fn all() -> &'static [Self] {
        index()
    }

    /// Its fields, in the order of names.
    pub fn fields(self) -> impl Iterator<Item = Field> {
        self.lines.lines().filter_map(parse_field)
    }

    /// One of its fields.
    pub fn field(self, name: &str) -> Option<Field> {
        self.lines
            .lines()
            .find(|l| {
                l[1..]
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(' '))
            })
            .and_then(parse_field)
    }
}

impl Field {
    /// Whether upstream marks it required.
    pub fn required(self) -> bool {
        self.has("!")
    }

    /// Whether a strategic merge drops the members that the patch does not retain.
    pub fn retain_keys(self) -> bool {
        self.has("retainKeys")
    }

    /// How a strategic merge treats this list.
    pub fn merge(self) -> MergeList {
        match self
            .flags
            .split(' ')
            .find(|f| *f == "merge" || f.starts_with("merge="))
        {
            None => MergeList::Replace,
            Some("merge") => MergeList::Set,
            Some(keyed) => MergeList::ByKey(&keyed["merge=".len()..]),
        }
    }

    /// How field ownership sees it.
    pub fn topology(self) -> Topology {
        if self.has("atomic") {
            return Topology::Atomic;
        }
        if let Some(keys) = self.flags.split(' ').find_map(|f| f.strip_prefix("map=")) {
            return Topology::Keyed(keys);
        }
        match self.shape {
            Shape::List(_) if self.has("set") => Topology::Set,
            Shape::Map(_) | Shape::One(Leaf::Struct(_)) => Topology::Granular,
            Shape::List(_) | Shape::One(_) => Topology::Atomic,
        }
    }

    fn has(self, flag: &str) -> bool {
        self.flags.split(' ').any(|f| f == flag)
    }
}

/// Reads the type of a field, an element or a value, such as `[]Container`.
pub fn shape(text: &'static str) -> Shape {
    if let Some(inner) = text.strip_prefix("[]") {
        Shape::List(inner)
    } else if let Some(inner) = text.strip_prefix("map:") {
        Shape::Map(inner)
    } else {
        Shape::One(leaf(text))
    }
}

fn leaf(text: &str) -> Leaf {
    match text {
        "string" => Leaf::String,
        "int32" => Leaf::Int32,
        "int64" => Leaf::Int64,
        "bool" => Leaf::Bool,
        "double" => Leaf::Double,
        "bytes" => Leaf::Bytes,
        "Quantity" => Leaf::Quantity,
        "IntOrString" => Leaf::IntOrString,
        "Time" => Leaf::Time,
        "MicroTime" => Leaf::MicroTime,
        name => Type::named(name).map_or(Leaf::Any, Leaf::Struct),
    }
}

fn parse_field(line: &'static str) -> Option<Field> {
    let mut words = line.strip_prefix(' ')?.splitn(4, ' ');
    let (name, tag, kind) = (words.next()?, words.next()?, words.next()?);
    Some(Field {
        name,
        tag,
        shape: shape(kind),
        flags: words.next().unwrap_or(""),
    })
}

/// Header of a block: its type's two names, and where its field lines begin.
fn header(line: &'static str) -> Option<(&'static str, &'static str)> {
    if line.starts_with([' ', '#']) {
        None
    } else {
        line.split_once(' ')
    }
}

fn index() -> &'static [Type] {
    static INDEX: OnceLock<Vec<Type>> = OnceLock::new();
    INDEX.get_or_init(|| {
        let mut types: Vec<Type> = Vec::new();
        let mut at = 0;
        for line in TABLE.split_inclusive('\n') {
            let end = at + line.len();
            if let Some((name, full_name)) = header(line.trim_end()) {
                types.push(Type {
                    name,
                    full_name,
                    lines: &TABLE[end..end],
                });
            } else if let Some(last) = types.last_mut() {
                let start = end - line.len() - last.lines.len();
                last.lines = &TABLE[start..end];
            }
            at = end;
        }
        types.sort_unstable_by_key(|t| t.name);
        types
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn field(of: &str, name: &str) -> Field {
        Type::named(of).unwrap().field(name).unwrap()
    }

    #[test]
    fn knows_shapes_keys_and_tags() {
        let containers = field("PodSpec", "containers");
        assert_eq!(containers.shape, Shape::List("Container"));
        assert_eq!(containers.merge(), MergeList::ByKey("name"));
        assert_eq!(containers.topology(), Topology::Keyed("name"));
        assert_eq!(containers.tag, "2");
        assert!(containers.required());
        assert_eq!(
            field("Container", "ports").topology(),
            Topology::Keyed("containerPort+protocol")
        );
        assert_eq!(field("Volume", "secret").tag, "2.6");
        assert_eq!(field("ConfigMap", "data").shape, Shape::Map("string"));
        assert_eq!(field("ObjectMeta", "finalizers").merge(), MergeList::Set);
        assert!(field("DeploymentSpec", "strategy").retain_keys());
        assert!(Type::named("PodSpec").unwrap().field("host").is_none());
    }

    #[test]
    fn has_a_root_for_every_kind_and_every_reference() {
        for kind in kinds::ALL {
            assert!(Type::named(kind.kind).is_some(), "{kind}");
        }
        for one in Type::all() {
            for field in one.fields() {
                let word = one
                    .lines
                    .lines()
                    .find(|l| l[1..].starts_with(&format!("{} ", field.name)));
                let kind = word.unwrap().split(' ').nth(3).unwrap();
                let base = kind
                    .trim_start_matches("[]")
                    .trim_start_matches("map:")
                    .trim_start_matches("[]");
                let scalar = matches!(leaf(base), Leaf::Any);
                assert!(!scalar || base == "any", "{}.{}: {base}", one.name, field.name);
            }
        }
    }
}
