//! Typed access to the fields of a configuration object; each error names the field's whole path.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::Failure;

/// A JSON object of the configuration together with its path, for messages.
///
/// Unknown fields are ignored, as the specification asks; a known field of another type is an error
/// of code 7. `null` counts as absent.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    object: Option<&'a Map<String, Value>>,
    path: String,
}

impl<'a> Fields<'a> {
    /// The fields of the whole configuration.
    pub fn root(object: &'a Map<String, Value>) -> Self {
        Self {
            object: Some(object),
            path: String::new(),
        }
    }

    /// The name of `field` with the path to it.
    pub fn name(&self, field: &str) -> String {
        if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.path)
        }
    }

    /// The raw value, if present and not null.
    pub fn get(&self, field: &str) -> Option<&'a Value> {
        self.object?.get(field).filter(|v| !v.is_null())
    }

    fn wrong(&self, field: &str, expected: &str, got: &Value) -> Failure {
        let mut shown = got.to_string();
        if shown.len() > 60 {
            shown = format!("{}…", shown.chars().take(60).collect::<String>());
        }
        Failure::field(&self.name(field), format!("expected {expected}, got {shown}"))
    }

    /// A boolean; false when absent.
    pub fn bool(&self, field: &str) -> Result<bool, Failure> {
        Ok(self.opt_bool(field)?.unwrap_or(false))
    }

    /// A boolean that may be absent.
    pub fn opt_bool(&self, field: &str) -> Result<Option<bool>, Failure> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(*b)),
            Some(v) => Err(self.wrong(field, "true or false", v)),
        }
    }

    /// A text that may be absent; empty counts as absent, as it does in the reference plugins.
    pub fn text(&self, field: &str) -> Result<Option<&'a str>, Failure> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(s)) if s.is_empty() => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(v) => Err(self.wrong(field, "a string", v)),
        }
    }

    /// A whole number between `min` and `max`, if present.
    pub fn number(&self, field: &str, min: u64, max: u64) -> Result<Option<u64>, Failure> {
        let Some(value) = self.get(field) else {
            return Ok(None);
        };
        let number = value
            .as_u64()
            .ok_or_else(|| self.wrong(field, "a whole number", value))?;
        if number < min || number > max {
            return Err(Failure::field(
                &self.name(field),
                format!("{number} is out of range (allowed: {min} to {max})"),
            ));
        }
        Ok(Some(number))
    }

    /// An object; an empty one when absent.
    pub fn object(&self, field: &str) -> Result<Fields<'a>, Failure> {
        let path = self.name(field);
        match self.get(field) {
            None => Ok(Fields { object: None, path }),
            Some(Value::Object(map)) => Ok(Fields {
                object: Some(map),
                path,
            }),
            Some(v) => Err(self.wrong(field, "an object", v)),
        }
    }

    /// Whether the object itself is there.
    pub fn is_present(&self) -> bool {
        self.object.is_some()
    }

    /// The object's keys and values.
    pub fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.object.into_iter().flatten()
    }

    /// A list's values with their paths; empty when absent.
    pub fn list(&self, field: &str) -> Result<Vec<(String, &'a Value)>, Failure> {
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, v)| (format!("{}[{i}]", self.name(field)), v))
                .collect()),
            Some(v) => Err(self.wrong(field, "a list", v)),
        }
    }

    /// A list of objects; empty when absent.
    pub fn objects(&self, field: &str) -> Result<Vec<Fields<'a>>, Failure> {
        self.list(field)?
            .into_iter()
            .map(|(path, v)| Self::from_value(path, v))
            .collect()
    }

    /// A list of texts; empty when absent.
    pub fn texts(&self, field: &str) -> Result<Vec<(String, &'a str)>, Failure> {
        self.list(field)?
            .into_iter()
            .map(|(path, v)| match v {
                Value::String(s) => Ok((path, s.as_str())),
                other => Err(Failure::field(&path, format!("expected a string, got {other}"))),
            })
            .collect()
    }

    /// The fields of a list item.
    pub fn from_value(path: String, value: &'a Value) -> Result<Self, Failure> {
        match value {
            Value::Object(map) => Ok(Self {
                object: Some(map),
                path,
            }),
            other => Err(Failure::field(&path, format!("expected an object, got {other}"))),
        }
    }

    /// An IP address, if present.
    pub fn ip(&self, field: &str) -> Result<Option<IpAddr>, Failure> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        parse_ip(&self.name(field), text).map(Some)
    }

    /// A network in CIDR notation, if present (host bits are kept).
    pub fn cidr(&self, field: &str) -> Result<Option<IpNet>, Failure> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        parse_cidr(&self.name(field), text).map(Some)
    }

    /// A hardware address, if present.
    pub fn mac(&self, field: &str) -> Result<Option<[u8; 6]>, Failure> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        parse_mac(&self.name(field), text).map(Some)
    }

    /// An interface name, if present.
    pub fn interface(&self, field: &str) -> Result<Option<&'a str>, Failure> {
        let Some(text) = self.text(field)? else {
            return Ok(None);
        };
        match super::valid_interface_name(text) {
            Ok(()) => Ok(Some(text)),
            Err(problem) => Err(Failure::field(&self.name(field), format!("{text:?} {problem}"))),
        }
    }
}

/// An IP address, or a failure that names `field`.
pub fn parse_ip(field: &str, text: &str) -> Result<IpAddr, Failure> {
    text.parse()
        .map_err(|_| Failure::field(field, format!("{text:?} is not an IP address")))
}

/// A network in CIDR notation, or a failure that names `field`.
pub fn parse_cidr(field: &str, text: &str) -> Result<IpNet, Failure> {
    text.parse().map_err(|_| {
        Failure::field(
            field,
            format!("{text:?} is not an address with prefix length, like 10.1.0.0/16"),
        )
    })
}

/// A hardware address, or a failure that names `field`.
pub fn parse_mac(field: &str, text: &str) -> Result<[u8; 6], Failure> {
    let problem = || {
        Failure::field(
            field,
            format!("{text:?} is not a MAC address like 0a:58:0a:01:00:05"),
        )
    };
    let mut mac = [0u8; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2).ok_or_else(problem)?;
        *byte = u8::from_str_radix(part, 16).map_err(|_| problem())?;
    }
    if parts.next().is_some() {
        return Err(problem());
    }
    if mac[0] & 1 != 0 || mac == [0; 6] {
        return Err(Failure::field(
            field,
            format!("{text:?} cannot be the MAC address of one interface"),
        ));
    }
    Ok(mac)
}
