//! As much of Protocol Buffers as CRIU's messages need: numbers, truth values, texts, and messages in messages
//! (<https://protobuf.dev/programming-guides/encoding>).

/// A number.
const VARINT: u64 = 0;
/// Eight bytes.
const FIXED64: u64 = 1;
/// Bytes with their length.
const BYTES: u64 = 2;
/// Four bytes.
const FIXED32: u64 = 5;

/// The value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
    Message(Message),
}

/// Fields by number, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message(Vec<(u32, Value)>);

/// The bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl Message {
    /// A message without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a number; negative ones are sign-extended to 64 bits, as the format wants it.
    pub fn number(&mut self, field: u32, value: i64) -> &mut Self {
        self.0.push((field, Value::Number(value as u64)));
        self
    }

    /// Adds a truth value.
    pub fn flag(&mut self, field: u32, value: bool) -> &mut Self {
        self.number(field, i64::from(value))
    }

    /// Adds a text.
    pub fn text(&mut self, field: u32, value: impl AsRef<[u8]>) -> &mut Self {
        self.0.push((field, Value::Bytes(value.as_ref().to_vec())));
        self
    }

    /// Adds a message.
    pub fn message(&mut self, field: u32, value: Self) -> &mut Self {
        self.0.push((field, Value::Message(value)));
        self
    }

    /// Adds all fields of another message, which is empty afterwards.
    pub fn append(&mut self, other: &mut Self) -> &mut Self {
        self.0.append(&mut other.0);
        self
    }

    /// A message of two texts: what most of CRIU's small messages are.
    pub fn pair(first: impl AsRef<[u8]>, second: impl AsRef<[u8]>) -> Self {
        let mut pair = Self::new();
        pair.text(1, first).text(2, second);
        pair
    }

    /// The message as it is sent.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (field, value) in &self.0 {
            let key = |kind| u64::from(*field) << 3 | kind;
            match value {
                Value::Number(number) => {
                    put(&mut bytes, key(VARINT));
                    put(&mut bytes, *number);
                }
                Value::Bytes(text) => put_bytes(&mut bytes, key(BYTES), text),
                Value::Message(message) => put_bytes(&mut bytes, key(BYTES), &message.encode()),
            }
        }
        bytes
    }

    /// Reads a received message. What is in its messages is read when it is asked for.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let mut message = Self::new();
        while !rest.is_empty() {
            let key = take(&mut rest)?;
            let field = u32::try_from(key >> 3).map_err(|_| Malformed)?;
            let value = match key & 7 {
                VARINT => Value::Number(take(&mut rest)?),
                BYTES => {
                    let length = usize::try_from(take(&mut rest)?).map_err(|_| Malformed)?;
                    Value::Bytes(split(&mut rest, length)?.to_vec())
                }
                // CRIU has no such fields, but a later version may.
                FIXED64 => split(&mut rest, 8).map(|_| Value::Number(0))?,
                FIXED32 => split(&mut rest, 4).map(|_| Value::Number(0))?,
                _ => return Err(Malformed),
            };
            message.0.push((field, value));
        }
        Ok(message)
    }

    /// The last number of a field; the format has no order, so the last one counts.
    pub fn get_number(&self, field: u32) -> Option<i64> {
        self.last(field).and_then(|value| match value {
            Value::Number(number) => Some(*number as i64),
            _ => None,
        })
    }

    /// Whether a truth value is there and true.
    pub fn get_flag(&self, field: u32) -> bool {
        self.get_number(field).is_some_and(|value| value != 0)
    }

    /// The last text of a field.
    pub fn get_text(&self, field: u32) -> Option<String> {
        self.last(field).and_then(|value| match value {
            Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        })
    }

    /// The last message of a field.
    pub fn get_message(&self, field: u32) -> Result<Option<Self>, Malformed> {
        match self.last(field) {
            Some(Value::Bytes(bytes)) => Self::decode(bytes).map(Some),
            Some(Value::Message(message)) => Ok(Some(message.clone())),
            Some(Value::Number(_)) => Err(Malformed),
            None => Ok(None),
        }
    }

    fn last(&self, field: u32) -> Option<&Value> {
        self.0
            .iter()
            .rfind(|(number, _)| *number == field)
            .map(|(_, value)| value)
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_bytes(bytes: &mut Vec<u8>, key: u64, content: &[u8]) {
    put(bytes, key);
    put(bytes, content.len() as u64);
    bytes.extend_from_slice(content);
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (taken, left) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = left;
    Ok(taken)
}

fn take(rest: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0u64;
    for position in 0..10 {
        let (first, left) = rest.split_first().ok_or(Malformed)?;
        *rest = left;
        let bits = u64::from(first & 0x7f);
        // The tenth byte has one bit left to give.
        if position == 9 && bits > 1 {
            return Err(Malformed);
        }
        number |= bits << (7 * position);
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_what_the_format_says() {
        let mut message = Message::new();
        message
            .number(1, 150)
            .text(2, "testing")
            .flag(3, true)
            .number(4, -1);
        let bytes = message.encode();
        assert_eq!(&bytes[..3], [0x08, 0x96, 0x01]);
        assert_eq!(&bytes[3..12], b"\x12\x07testing");
        assert_eq!(&bytes[12..14], [0x18, 0x01]);
        assert_eq!(
            &bytes[14..],
            [0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]
        );
        let read = Message::decode(&bytes).unwrap();
        assert_eq!(read.get_number(1), Some(150));
        assert_eq!(read.get_text(2).as_deref(), Some("testing"));
        assert!(read.get_flag(3) && !read.get_flag(9));
        assert_eq!(read.get_number(4), Some(-1));
    }

    #[test]
    fn messages_contain_messages() {
        let mut message = Message::new();
        message.message(23, Message::pair("/data", "/srv"));
        let inner = Message::decode(&message.encode())
            .unwrap()
            .get_message(23)
            .unwrap()
            .unwrap();
        assert_eq!(
            (inner.get_text(1).unwrap(), inner.get_text(2).unwrap()),
            ("/data".into(), "/srv".into())
        );
    }

    #[test]
    fn what_is_cut_off_is_refused() {
        for bytes in [
            &b"\x08"[..],
            b"\x12\x05abc",
            b"\x0b",
            b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x09abc",
        ] {
            assert_eq!(Message::decode(bytes), Err(Malformed), "{bytes:?}");
        }
    }
}
