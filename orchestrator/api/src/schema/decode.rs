//! From a JSON tree to an object that follows the schema: types checked, unknown fields found and
//! taken out, nulls taken out.
//!
//! What a real API server does by decoding into Go structs; the messages are worded as its are.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Field, Leaf, Shape, Type, shape};
use crate::quantity::Quantity;

/// A value of a type that its field cannot hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// JSON type and Go type do not fit.
    #[error("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {expected}")]
    Type {
        /// JSON type found.
        found: String,
        /// Struct that has the field.
        owner: &'static str,
        /// Path from the root.
        path: String,
        /// Type expected.
        expected: String,
    },
    /// Not a quantity.
    #[error(
        "{path}: {text:?}: quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Quantity {
        /// Path from the root.
        path: String,
        /// Text found.
        text: String,
    },
    /// Not a point in time.
    #[error("{path}: parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": not in RFC 3339 format")]
    Time {
        /// Path from the root.
        path: String,
        /// Text found.
        text: String,
    },
    /// Not base64.
    #[error("{path}: illegal base64 data")]
    Base64 {
        /// Path from the root.
        path: String,
    },
}

/// Checks and cleans `value` as a `root`; returns the paths of unknown fields.
pub fn decode(root: Type, value: &mut Value) -> Result<Vec<String>, DecodeError> {
    let mut walk = Walk {
        path: String::new(),
        unknown: Vec::new(),
    };
    walk.structure(root, root, value)?;
    Ok(walk.unknown)
}

struct Walk {
    path: String,
    unknown: Vec<String>,
}

impl Walk {
    fn structure(&mut self, owner: Type, of: Type, value: &mut Value) -> Result<(), DecodeError> {
        let Value::Object(map) = value else {
            return Err(self.mismatch(owner, value, &go_name(of)));
        };
        let mut drop = Vec::new();
        for (name, sub) in &mut *map {
            let length = self.enter(name);
            match of.field(name) {
                None => {
                    self.unknown.push(self.path.clone());
                    drop.push(name.clone());
                }
                Some(_) if sub.is_null() => drop.push(name.clone()),
                Some(field) => self.field(of, field, sub)?,
            }
            self.path.truncate(length);
        }
        for name in drop {
            map.remove(&name);
        }
        Ok(())
    }

    fn field(&mut self, owner: Type, field: Field, value: &mut Value) -> Result<(), DecodeError> {
        self.shaped(owner, field.shape, value)
    }

    fn shaped(&mut self, owner: Type, shaped: Shape, value: &mut Value) -> Result<(), DecodeError> {
        match shaped {
            Shape::One(leaf) => self.leaf(owner, leaf, value),
            Shape::List(inner) => {
                let Value::Array(items) = value else {
                    return Err(self.mismatch(owner, value, &format!("[]{}", go_shape(inner))));
                };
                for (at, item) in items.iter_mut().enumerate() {
                    let length = self.path.len();
                    // Writing into a String cannot fail.
                    let _ = write!(self.path, "[{at}]");
                    self.shaped(owner, shape(inner), item)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
            Shape::Map(inner) => {
                let Value::Object(map) = value else {
                    return Err(self.mismatch(owner, value, &format!("map[string]{}", go_shape(inner))));
                };
                for (name, item) in map {
                    let length = self.enter(name);
                    if item.is_null() && matches!(shape(inner), Shape::One(Leaf::String)) {
                        *item = Value::String(String::new());
                    }
                    self.shaped(owner, shape(inner), item)?;
                    self.path.truncate(length);
                }
                Ok(())
            }
        }
    }

    fn leaf(&mut self, owner: Type, leaf: Leaf, value: &mut Value) -> Result<(), DecodeError> {
        let (fits, expected) = match leaf {
            Leaf::Any => (true, "any"),
            Leaf::Struct(of) => return self.structure(owner, of, value),
            Leaf::String => (value.is_string(), "string"),
            Leaf::Bool => (value.is_boolean(), "bool"),
            Leaf::Double => (value.is_number(), "float64"),
            Leaf::Int64 => (value.as_i64().is_some(), "int64"),
            Leaf::Int32 => (is_int32(value), "int32"),
            Leaf::IntOrString => (value.is_string() || is_int32(value), "int32 or string"),
            Leaf::Bytes => match value.as_str() {
                Some(text) if !is_base64(text) => {
                    return Err(DecodeError::Base64 {
                        path: self.path.clone(),
                    });
                }
                found => (found.is_some(), "[]uint8"),
            },
            Leaf::Quantity => return self.quantity(owner, value),
            Leaf::Time | Leaf::MicroTime => return self.time(owner, value),
        };
        if fits {
            Ok(())
        } else {
            Err(self.mismatch(owner, value, expected))
        }
    }

    /// Numbers become text, and text its canonical form, so that equal quantities compare equal.
    fn quantity(&mut self, owner: Type, value: &mut Value) -> Result<(), DecodeError> {
        let text = match &*value {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            _ => return Err(self.mismatch(owner, value, "resource.Quantity")),
        };
        match text.parse::<Quantity>() {
            Ok(quantity) => {
                *value = Value::String(quantity.to_string());
                Ok(())
            }
            Err(_) => Err(DecodeError::Quantity {
                path: self.path.clone(),
                text,
            }),
        }
    }

    fn time(&mut self, owner: Type, value: &Value) -> Result<(), DecodeError> {
        let Some(text) = value.as_str() else {
            return Err(self.mismatch(owner, value, "v1.Time"));
        };
        match text.parse::<jiff::Timestamp>() {
            Ok(_) => Ok(()),
            Err(_) => Err(DecodeError::Time {
                path: self.path.clone(),
                text: text.to_owned(),
            }),
        }
    }

    fn enter(&mut self, name: &str) -> usize {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        length
    }

    fn mismatch(&self, owner: Type, value: &Value, expected: &str) -> DecodeError {
        let found = match value {
            Value::Null => "null".into(),
            Value::Bool(_) => "bool".into(),
            Value::Number(n) if expected.starts_with("int") => format!("number {n}"),
            Value::Number(_) => "number".into(),
            Value::String(_) => "string".into(),
            Value::Array(_) => "array".into(),
            Value::Object(_) => "object".into(),
        };
        DecodeError::Type {
            found,
            owner: owner.name,
            path: self.path.clone(),
            expected: expected.to_owned(),
        }
    }
}

fn is_int32(value: &Value) -> bool {
    value.as_i64().is_some_and(|n| i32::try_from(n).is_ok())
}

/// Standard base64 with padding; line breaks are let through, as Go's decoder does.
fn is_base64(text: &str) -> bool {
    let mut length = 0_usize;
    let mut padding = 0;
    for byte in text.bytes().filter(|b| !matches!(b, b'\n' | b'\r')) {
        match byte {
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding == 0 => {}
            _ => return false,
        }
        length += 1;
    }
    length.is_multiple_of(4) && padding <= 2
}

/// `v1.PodSpec` for `io.k8s.api.core.v1.PodSpec`.
fn go_name(of: Type) -> String {
    let mut parts = of.full_name.rsplit('.');
    let name = parts.next().unwrap_or(of.name);
    format!("{}.{name}", parts.next().unwrap_or("v1"))
}

fn go_shape(text: &'static str) -> String {
    match shape(text) {
        Shape::One(Leaf::Struct(of)) => go_name(of),
        Shape::One(Leaf::Quantity) => "resource.Quantity".into(),
        Shape::One(Leaf::Bytes) => "[]uint8".into(),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(kind: &str, mut value: Value) -> Result<(Vec<String>, Value), String> {
        let unknown = decode(Type::named(kind).unwrap(), &mut value).map_err(|e| e.to_string())?;
        Ok((unknown, value))
    }

    #[test]
    fn finds_unknown_fields_and_drops_nulls() {
        let pod = json!({
            "spec": {"containers": [{"name": "a", "imagee": "x", "command": null}], "foo": 1},
            "metadata": {"labels": {"any": "thing"}}, "status": null,
        });
        let (unknown, value) = check("Pod", pod).unwrap();
        assert_eq!(unknown, ["spec.containers[0].imagee", "spec.foo"]);
        assert_eq!(
            value,
            json!({"spec": {"containers": [{"name": "a"}]}, "metadata": {"labels": {"any": "thing"}}})
        );
    }

    #[test]
    fn names_the_field_of_a_wrong_type() {
        let cases = [
            (
                "Deployment",
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                "Pod",
                json!({"spec": {"containers": {}}}),
                "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
            ),
            (
                "Pod",
                json!({"spec": {"containers": [{"env": [{"name": "a", "value": 1}]}]}}),
                "json: cannot unmarshal number into Go struct field EnvVar.spec.containers[0].env[0].value of type string",
            ),
            (
                "Secret",
                json!({"data": {"k": "%%"}}),
                "data.k: illegal base64 data",
            ),
            (
                "Deployment",
                json!({"spec": {"replicas": 3_000_000_000_i64}}),
                "json: cannot unmarshal number 3000000000 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
        ];
        for (kind, value, message) in cases {
            assert_eq!(check(kind, value).unwrap_err(), message);
        }
        let bad = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "much"}}}]}});
        assert!(
            check("Pod", bad)
                .unwrap_err()
                .starts_with("spec.containers[0].resources.limits.cpu: \"much\"")
        );
    }

    #[test]
    fn quantities_become_canonical() {
        let limits =
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}});
        let (_, value) = check("Pod", limits).unwrap();
        assert_eq!(
            value["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "500m", "memory": "1Gi"})
        );
    }
}
