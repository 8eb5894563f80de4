//! Protobuf bodies, as kubectl from 1.32 on and helm send them: decoded to the JSON tree.
//!
//! Source: Kubernetes API concepts, "Kubernetes Protobuf encoding", and the protobuf encoding
//! guide. Tags and types come from the schema table. Go writes every field of a struct that is not
//! a pointer; zero values are left out here, as JSON's `omitempty` does.

use serde_json::{Map, Value, json};

use crate::base64;
use crate::kinds::{self, Kind};
use crate::schema::{Field, Leaf, Shape, Type, shape};

const MAGIC: &[u8] = b"k8s\0";
/// Nesting of messages.
const DEPTH: usize = 64;

/// Why a body could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtobufError {
    /// The four bytes at the beginning are missing.
    #[error("it does not begin with the Kubernetes protobuf prefix")]
    Prefix,
    /// It ends inside a field.
    #[error("it ends in the middle of a field")]
    Truncated,
    /// A number, a text or a wire type cannot be.
    #[error("field {0} is malformed")]
    Malformed(String),
    /// The type in the envelope is not known.
    #[error("apiVersion {api_version:?}, kind {kind:?} is not served")]
    Unknown {
        /// As in the envelope.
        api_version: String,
        /// As in the envelope.
        kind: String,
    },
    /// Messages in messages in messages.
    #[error("it is nested too deeply")]
    Deep,
}

enum Wire<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Result<u64, ProtobufError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(ProtobufError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtobufError::Malformed("number".into()))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], ProtobufError> {
        let (bytes, rest) = self.0.split_at_checked(length).ok_or(ProtobufError::Truncated)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn field(&mut self) -> Result<Option<(u64, Wire<'a>)>, ProtobufError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Wire::Number(self.varint()?),
            1 => Wire::Number(u64::from_le_bytes(self.take(8)?.try_into().unwrap_or_default())),
            5 => Wire::Number(u32::from_le_bytes(self.take(4)?.try_into().unwrap_or_default()).into()),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtobufError::Truncated)?;
                Wire::Bytes(self.take(length)?)
            }
            _ => return Err(ProtobufError::Malformed(format!("{}", key >> 3))),
        };
        Ok(Some((key >> 3, value)))
    }
}

fn text(bytes: &[u8], name: &str) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Malformed(name.to_owned()))
}

/// Decodes an enveloped object; `apiVersion` and `kind` are those of the envelope.
pub fn object(bytes: &[u8]) -> Result<Value, ProtobufError> {
    let mut envelope = Reader(bytes.strip_prefix(MAGIC).ok_or(ProtobufError::Prefix)?);
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    while let Some((tag, value)) = envelope.field()? {
        match (tag, value) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((tag, value)) = meta.field()? {
                    match (tag, value) {
                        (1, Wire::Bytes(b)) => api_version = text(b, "apiVersion")?,
                        (2, Wire::Bytes(b)) => kind = text(b, "kind")?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(b)) => raw = b,
            _ => {}
        }
    }
    let (group, version) = kinds::split_api_version(&api_version);
    let served = kinds::served()
        .find(|k| k.group == group && k.version == version && k.kind == kind)
        .map(Kind::schema);
    let other = matches!(
        kind.as_str(),
        "DeleteOptions" | "Scale" | "Eviction" | "TokenRequest"
    );
    let of = served.or(other.then_some(kind.as_str())).and_then(Type::named);
    let of = of.ok_or_else(|| ProtobufError::Unknown {
        api_version: api_version.clone(),
        kind: kind.clone(),
    })?;
    let mut out = message(of, raw, 0)?;
    out.insert("apiVersion".into(), json!(api_version));
    out.insert("kind".into(), json!(kind));
    Ok(Value::Object(out))
}

fn message(of: Type, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    let mut out = Map::new();
    embedded(of, "", bytes, depth, &mut out)?;
    Ok(out)
}

/// Decodes the fields whose tags begin with `prefix` (empty, or `2.` inside an embedded struct).
fn embedded(
    of: Type,
    prefix: &str,
    bytes: &[u8],
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    if depth > DEPTH {
        return Err(ProtobufError::Deep);
    }
    let mut reader = Reader(bytes);
    while let Some((tag, value)) = reader.field()? {
        let path = format!("{prefix}{tag}");
        if let Some(field) = of.fields().find(|f| f.tag == path) {
            put(field, &value, depth, out)?;
        } else if let Wire::Bytes(inner) = value {
            let deeper = format!("{path}.");
            if of.fields().any(|f| f.tag.starts_with(&deeper)) {
                embedded(of, &deeper, inner, depth + 1, out)?;
            }
        }
    }
    Ok(())
}

fn put(
    field: Field,
    value: &Wire<'_>,
    depth: usize,
    out: &mut Map<String, Value>,
) -> Result<(), ProtobufError> {
    match field.shape {
        Shape::One(leaf) => {
            if let Some(value) = one(field, leaf, value, depth)? {
                out.insert(field.name.to_owned(), value);
            }
        }
        Shape::List(inner) => {
            let Shape::One(leaf) = shape(inner) else {
                return Ok(());
            };
            let slot = out.entry(field.name).or_insert_with(|| json!([]));
            let Some(list) = slot.as_array_mut() else {
                return Ok(());
            };
            list.push(one(field, leaf, value, depth)?.unwrap_or_else(|| zero(leaf)));
        }
        Shape::Map(inner) => {
            let Wire::Bytes(entry) = value else {
                return Err(ProtobufError::Malformed(field.name.to_owned()));
            };
            let (key, value) = map_entry(field, shape(inner), entry, depth)?;
            let slot = out.entry(field.name).or_insert_with(|| json!({}));
            slot[key] = value;
        }
    }
    Ok(())
}

fn map_entry(
    field: Field,
    inner: Shape,
    bytes: &[u8],
    depth: usize,
) -> Result<(String, Value), ProtobufError> {
    let Shape::One(leaf) = inner else {
        return Err(ProtobufError::Malformed(field.name.to_owned()));
    };
    let (mut key, mut value) = (String::new(), zero(leaf));
    let mut reader = Reader(bytes);
    while let Some((tag, wire)) = reader.field()? {
        match (tag, wire) {
            (1, Wire::Bytes(b)) => key = text(b, field.name)?,
            (2, wire) => {
                if let Some(found) = one(field, leaf, &wire, depth)? {
                    value = found;
                }
            }
            _ => {}
        }
    }
    Ok((key, value))
}

/// What a list or a map holds where nothing was said.
fn zero(leaf: Leaf) -> Value {
    match leaf {
        Leaf::String | Leaf::Bytes => json!(""),
        Leaf::Bool => json!(false),
        Leaf::Int32 | Leaf::Int64 | Leaf::Double | Leaf::IntOrString => json!(0),
        Leaf::Quantity => json!("0"),
        Leaf::Struct(_) => json!({}),
        Leaf::Time | Leaf::MicroTime | Leaf::Any => Value::Null,
    }
}

/// One value; `None` for what JSON leaves out.
fn one(field: Field, leaf: Leaf, wire: &Wire<'_>, depth: usize) -> Result<Option<Value>, ProtobufError> {
    let malformed = || ProtobufError::Malformed(field.name.to_owned());
    match *wire {
        Wire::Number(number) => Ok(Some(match leaf {
            Leaf::Bool => json!(number != 0),
            Leaf::Int32 | Leaf::Int64 => json!(number.cast_signed()),
            Leaf::Double => json!(f64::from_bits(number)),
            _ => return Err(malformed()),
        })),
        Wire::Bytes(bytes) => match leaf {
            Leaf::String => Ok(Some(text(bytes, field.name)?)
                .filter(|t| !t.is_empty())
                .map(Value::String)),
            Leaf::Bytes => Ok(Some(json!(base64::encode(bytes)))),
            Leaf::Any => serde_json::from_slice(raw(bytes)?)
                .map(Some)
                .map_err(|_| malformed()),
            Leaf::Quantity => Ok(Some(json!(text(first_bytes(bytes)?, field.name)?)).filter(|q| q != "")),
            Leaf::Time | Leaf::MicroTime => time(bytes, matches!(leaf, Leaf::MicroTime)),
            Leaf::IntOrString => int_or_string(bytes, field.name).map(Some),
            Leaf::Struct(inner) => {
                let inner = message(inner, bytes, depth + 1)?;
                // Go sends structs that hold nothing, too; those of required or union members mean something.
                Ok(Some(Value::Object(inner)).filter(|v| !is_idle(field, v)))
            }
            _ => Err(malformed()),
        },
    }
}

/// An empty struct that JSON would not show: metadata and status are always sent.
fn is_idle(field: Field, value: &Value) -> bool {
    matches!(field.name, "metadata" | "status" | "strategy" | "resources")
        && value.as_object().is_some_and(Map::is_empty)
}

fn first_bytes(bytes: &[u8]) -> Result<&[u8], ProtobufError> {
    let mut reader = Reader(bytes);
    while let Some((tag, value)) = reader.field()? {
        if let (1, Wire::Bytes(found)) = (tag, value) {
            return Ok(found);
        }
    }
    Ok(b"")
}

/// `FieldsV1` and `RawExtension` hold JSON text in their first field.
fn raw(bytes: &[u8]) -> Result<&[u8], ProtobufError> {
    first_bytes(bytes).map(|found| if found.is_empty() { b"null" } else { found })
}

fn time(bytes: &[u8], micro: bool) -> Result<Option<Value>, ProtobufError> {
    let (mut seconds, mut nanos) = (0_i64, 0_i64);
    let mut reader = Reader(bytes);
    while let Some((tag, value)) = reader.field()? {
        match (tag, value) {
            (1, Wire::Number(n)) => seconds = n.cast_signed(),
            (2, Wire::Number(n)) => nanos = n.cast_signed(),
            _ => {}
        }
    }
    // Go's zero time is year 1: the field was not set.
    let Ok(time) = jiff::Timestamp::new(seconds, i32::try_from(nanos).unwrap_or(0)) else {
        return Ok(None);
    };
    if bytes.is_empty() || seconds < -62_000_000_000 {
        return Ok(None);
    }
    let format = if micro {
        "%Y-%m-%dT%H:%M:%S%.6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Ok(Some(json!(time.strftime(format).to_string())))
}

fn int_or_string(bytes: &[u8], name: &str) -> Result<Value, ProtobufError> {
    let (mut is_text, mut number, mut string) = (false, 0_i64, String::new());
    let mut reader = Reader(bytes);
    while let Some((tag, value)) = reader.field()? {
        match (tag, value) {
            (1, Wire::Number(n)) => is_text = n == 1,
            (2, Wire::Number(n)) => number = n.cast_signed(),
            (3, Wire::Bytes(b)) => string = text(b, name)?,
            _ => {}
        }
    }
    Ok(if is_text { json!(string) } else { json!(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut out = vec![tag << 3 | 2, u8::try_from(content.len()).unwrap()];
        out.extend(content);
        out
    }

    fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, raw)].concat()
    }

    #[test]
    fn decodes_a_config_map_and_a_secret() {
        let meta = [field(1, b"c"), field(3, b"default"), field(8, b"")].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let body = envelope("v1", "ConfigMap", &[field(1, &meta), field(2, &entry)].concat());
        assert_eq!(
            object(&body).unwrap(),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "default"}, "data": {"k": "v"}})
        );
        let body = envelope("v1", "Secret", &field(2, &entry));
        assert_eq!(object(&body).unwrap()["data"]["k"], "dg==");
    }

    #[test]
    fn decodes_embedded_structs_numbers_and_choices() {
        // spec.volumes[0]: name v, secret (2.6) with secretName s; replicas 3; maxSurge "25%".
        let volume = [field(1, b"v"), field(2, &field(6, &field(1, b"s")))].concat();
        let template = field(2, &field(1, &volume));
        let surge = [vec![1 << 3, 1], field(3, b"25%")].concat();
        let strategy = field(2, &field(2, &surge));
        let spec = [vec![1 << 3, 3], field(3, &template), field(4, &strategy)].concat();
        let out = object(&envelope("apps/v1", "Deployment", &field(2, &spec))).unwrap();
        assert_eq!(
            out["spec"],
            json!({
                "replicas": 3, "strategy": {"rollingUpdate": {"maxSurge": "25%"}},
                "template": {"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}},
            })
        );
    }

    #[test]
    fn refuses_damaged_bodies() {
        let good = envelope("v1", "ConfigMap", &field(1, &field(1, b"c")));
        assert_eq!(object(b"{}"), Err(ProtobufError::Prefix));
        for cut in 5..good.len() {
            assert!(object(&good[..cut]).is_err() || cut <= 21, "cut at {cut}");
        }
        assert!(matches!(
            object(&envelope("v9", "X", b"")),
            Err(ProtobufError::Unknown { .. })
        ));
        assert!(object(&envelope("v1", "ConfigMap", &[0xff; 11])).is_err());
    }
}
