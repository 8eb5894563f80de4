//! Field paths and field errors, worded as `k8s.io/apimachinery/pkg/util/validation/field`.

use std::fmt;

use serde_json::Value;

use crate::status::Cause;

/// Path of a field, such as `spec.containers[0].name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A top-level field.
    pub fn root(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// A member of this struct.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    /// An element of this list.
    #[must_use]
    pub fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    /// A value of this map.
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The field errors of one object.
#[derive(Debug, Default)]
pub struct Errors(Vec<Cause>);

impl Errors {
    /// Adds an error with a ready message.
    pub fn push(&mut self, reason: &str, field: &Path, message: String) {
        self.0.push(Cause {
            reason: reason.to_owned(),
            message,
            field: field.to_string(),
        });
    }

    /// The field must be there.
    pub fn required(&mut self, field: &Path, detail: &str) {
        let message = join("Required value", detail);
        self.push("FieldValueRequired", field, message);
    }

    /// The value is malformed or out of range.
    pub fn invalid(&mut self, field: &Path, value: &Value, detail: &str) {
        let message = join(&format!("Invalid value: {}", shown(value)), detail);
        self.push("FieldValueInvalid", field, message);
    }

    /// Like [`Self::invalid`], for text.
    pub fn invalid_text(&mut self, field: &Path, value: &str, detail: &str) {
        let message = join(&format!("Invalid value: {value:?}"), detail);
        self.push("FieldValueInvalid", field, message);
    }

    /// The value is none of those allowed.
    pub fn unsupported(&mut self, field: &Path, value: &str, allowed: &[&str]) {
        let list: Vec<String> = allowed.iter().map(|v| format!("{v:?}")).collect();
        let message = format!(
            "Unsupported value: {value:?}: supported values: {}",
            list.join(", ")
        );
        self.push("FieldValueNotSupported", field, message);
    }

    /// The field must not be set here.
    pub fn forbidden(&mut self, field: &Path, detail: &str) {
        self.push("FieldValueForbidden", field, join("Forbidden", detail));
    }

    /// The value occurs twice.
    pub fn duplicate(&mut self, field: &Path, value: &str) {
        self.push(
            "FieldValueDuplicate",
            field,
            format!("Duplicate value: {value:?}"),
        );
    }

    /// The value names something that is not there.
    pub fn not_found(&mut self, field: &Path, value: &str) {
        self.push("FieldValueNotFound", field, format!("Not found: {value:?}"));
    }

    /// The value is too long.
    pub fn too_long(&mut self, field: &Path, limit: usize) {
        let message = format!("Too long: may not be more than {limit} bytes");
        self.push("FieldValueTooLong", field, message);
    }

    /// The list has too many elements.
    pub fn too_many(&mut self, field: &Path, count: usize, limit: usize) {
        let message = format!("Too many: {count}: must have at most {limit} items");
        self.push("FieldValueTooMany", field, message);
    }

    /// The whole list.
    pub fn into_causes(self) -> Vec<Cause> {
        self.0
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// A choice among fixed values; an absent one is `missing`, where that is an error.
    pub fn one_of(&mut self, field: &Path, value: Option<&Value>, allowed: &[&str]) {
        match value.and_then(Value::as_str) {
            None => self.required(field, ""),
            Some(text) if allowed.contains(&text) => {}
            Some(text) => self.unsupported(field, text, allowed),
        }
    }

    /// A number that must not be negative; absent is fine.
    pub fn not_negative(&mut self, field: &Path, value: Option<&Value>) {
        if let Some(value) = value
            && value.as_i64().is_some_and(|n| n < 0)
        {
            self.invalid(field, value, "must be greater than or equal to 0");
        }
    }

    /// A port number; absent is an error if `required`.
    pub fn port(&mut self, field: &Path, value: Option<&Value>, required: bool) {
        match value {
            None => {
                if required {
                    self.required(field, "");
                }
            }
            Some(value) => {
                if !value.as_i64().is_some_and(|n| (1..=65535).contains(&n)) {
                    self.invalid(field, value, "must be between 1 and 65535, inclusive");
                }
            }
        }
    }
}

fn join(head: &str, detail: &str) -> String {
    if detail.is_empty() {
        head.to_owned()
    } else {
        format!("{head}: {detail}")
    }
}

/// Values as Go's `%#v`-like printer shows scalars; structures as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        other => other.to_string(),
    }
}

/// The elements of a list member with their index; none if it is absent.
pub fn each<'a>(object: &'a Value, name: &str) -> impl Iterator<Item = (usize, &'a Value)> {
    object
        .get(name)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
}

/// A text member; empty if it is absent.
pub fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object.get(name).and_then(Value::as_str).unwrap_or_default()
}
