//! JSON objects whose values stay byte for byte what they were.

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::RawValue;

/// A JSON object: fields in their order, values unparsed.
///
/// A configuration passes through the runtime without a change that nobody asked for: 9007199254740993
/// stays that, and unknown fields stay at all.
#[derive(Debug, Clone, Default)]
pub struct Object(Vec<(String, Box<RawValue>)>);

impl Object {
    /// Reads an object.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// A field's text; the last one if it is there more than once, as in all JSON readers.
    pub fn raw(&self, field: &str) -> Option<&str> {
        self.0
            .iter()
            .rev()
            .find(|(key, _)| key == field)
            .map(|(_, value)| value.get())
    }

    /// A field, decoded; absent also when it is null or of another type.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, field: &str) -> Option<T> {
        serde_json::from_str(self.raw(field)?).ok()
    }

    /// Sets a field to a value.
    pub fn set(&mut self, field: &str, value: &impl Serialize) -> Result<(), serde_json::Error> {
        let raw = serde_json::value::to_raw_value(value)?;
        self.remove(field);
        self.0.push((field.to_owned(), raw));
        Ok(())
    }

    /// Removes a field.
    pub fn remove(&mut self, field: &str) {
        self.0.retain(|(key, _)| key != field);
    }

    /// The object as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Serialize for Object {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Object {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object, A::Error> {
                let mut fields = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    fields.push(entry);
                }
                Ok(Object(fields))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_as_they_were() {
        let text = r#"{"b":9007199254740993,"a":1.10,"unknown":{"x":[1e400,null]},"é":"\u00e9"}"#;
        let mut object = Object::parse(text).unwrap();
        assert_eq!(object.to_json(), text);
        object.set("name", &"n").unwrap();
        object.remove("a");
        assert_eq!(
            object.to_json(),
            r#"{"b":9007199254740993,"unknown":{"x":[1e400,null]},"é":"\u00e9","name":"n"}"#
        );
        assert_eq!(object.get::<u64>("b"), Some(9_007_199_254_740_993));
        assert_eq!(object.get::<String>("b"), None);
        assert!(Object::parse("[]").is_err());
    }
}
