//! JSON text to a tree, noticing duplicate fields on the way.
//!
//! `serde_json` keeps the last of two equal keys in silence; a server has to report them.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not JSON.
    #[error("couldn't get version/kind; json parse error: {0}")]
    Json(String),
    /// Not YAML.
    #[error("error converting YAML to JSON: {0}")]
    Yaml(String),
}

/// Parses JSON; returns the tree and the paths of duplicate fields (the last one counts).
pub fn json(bytes: &[u8]) -> Result<(Value, Vec<String>), ParseError> {
    let state = State::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let fail = |e: serde_json::Error| ParseError::Json(e.to_string());
    let value = Seed(&state).deserialize(&mut deserializer).map_err(fail)?;
    deserializer.end().map_err(fail)?;
    Ok((value, state.duplicates.into_inner()))
}

/// Parses YAML (JSON is YAML), one document; duplicates as for JSON.
pub fn yaml(bytes: &[u8]) -> Result<(Value, Vec<String>), ParseError> {
    let state = State::default();
    let value = Seed(&state)
        .deserialize(serde_yaml_ng::Deserializer::from_slice(bytes))
        .map_err(|e| ParseError::Yaml(e.to_string()))?;
    Ok((value, state.duplicates.into_inner()))
}

#[derive(Default)]
struct State {
    path: RefCell<String>,
    duplicates: RefCell<Vec<String>>,
}

struct Seed<'a>(&'a State);

impl State {
    fn enter(&self, segment: fmt::Arguments<'_>) -> usize {
        let mut path = self.path.borrow_mut();
        let length = path.len();
        path.push_str(&segment.to_string());
        length
    }

    fn leave(&self, length: usize) {
        self.path.borrow_mut().truncate(length);
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let length = self.0.enter(format_args!("[{}]", list.len()));
            let item = access.next_element_seed(Seed(self.0));
            self.0.leave(length);
            match item? {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let dot = if self.0.path.borrow().is_empty() { "" } else { "." };
            let length = self.0.enter(format_args!("{dot}{key}"));
            let value = access.next_value_seed(Seed(self.0));
            if map.contains_key(&key) {
                self.0.duplicates.borrow_mut().push(self.0.path.borrow().clone());
            }
            self.0.leave(length);
            map.insert(key, value?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_duplicates_and_keeps_the_last() {
        let (value, duplicates) =
            json(br#"{"a": {"b": 1, "b": 2}, "l": [{"x": 1, "x": null}], "n": -1.5}"#).unwrap();
        assert_eq!(value, json!({"a": {"b": 2}, "l": [{"x": null}], "n": -1.5}));
        assert_eq!(duplicates, ["a.b", "l[0].x"]);
    }

    #[test]
    fn refuses_what_is_no_json() {
        for bad in ["", "{", "{} x", "{\"a\":}", "nul"] {
            assert!(json(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let deep = "[".repeat(100_000);
        assert!(json(deep.as_bytes()).is_err());
        assert_eq!(yaml(b"a: 1\na: 2").unwrap().1, ["a"]);
        assert_eq!(yaml(b"a: [1, x]").unwrap().0, json!({"a": [1, "x"]}));
        assert!(yaml(b"a: [").is_err());
    }
}
