//! Messages of D-Bus: the few types that systemd's interface needs (D-Bus Specification, "Message Protocol").

/// Alignment of messages' bodies, structs and the header's fields.
const EIGHT: usize = 8;
/// The specification's limits: a string's length and a message's are 32-bit numbers, a message at most 128 MiB. What
/// systemd sends us is far smaller.
const LONGEST: usize = 1 << 24;
/// Fixed part of the header, with the length of the fields' array.
pub(super) const FIXED: usize = 16;

const ENDIAN: u8 = if cfg!(target_endian = "little") {
    b'l'
} else {
    b'B'
};

/// Message types.
pub(super) const CALL: u8 = 1;
pub(super) const RETURN: u8 = 2;
pub(super) const ERROR: u8 = 3;
pub(super) const SIGNAL: u8 = 4;

/// A value of a property or an argument.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Byte(u8),
    Bool(bool),
    Int16(i16),
    Uint16(u16),
    Int32(i32),
    Uint32(u32),
    Int64(i64),
    Uint64(u64),
    Double(f64),
    Text(String),
    /// Elements of one type, whose signature is needed where there are none.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    /// An array of strings.
    #[cfg(test)]
    pub(crate) fn texts<'a>(list: impl IntoIterator<Item = &'a str>) -> Self {
        let list = list.into_iter().map(|text| Self::Text(text.to_owned()));
        Self::Array("s".to_owned(), list.collect())
    }

    /// An array of bytes.
    pub(crate) fn bytes(list: &[u8]) -> Self {
        Self::Array(
            "y".to_owned(),
            list.iter().map(|byte| Self::Byte(*byte)).collect(),
        )
    }

    /// The type's code (D-Bus Specification, "Type System").
    pub(crate) fn signature(&self) -> String {
        let letter = match self {
            Self::Byte(_) => "y",
            Self::Bool(_) => "b",
            Self::Int16(_) => "n",
            Self::Uint16(_) => "q",
            Self::Int32(_) => "i",
            Self::Uint32(_) => "u",
            Self::Int64(_) => "x",
            Self::Uint64(_) => "t",
            Self::Double(_) => "d",
            Self::Text(_) => "s",
            Self::Variant(_) => "v",
            Self::Array(element, _) => return format!("a{element}"),
            Self::Struct(fields) => {
                let fields: String = fields.iter().map(Self::signature).collect();
                return format!("({fields})");
            }
        };
        letter.to_owned()
    }
}

fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'n' | b'q') => 2,
        Some(b'b' | b'i' | b'u' | b's' | b'o' | b'a') => 4,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => EIGHT,
        _ => 1,
    }
}

/// Writes values with their alignment, counted from the start.
#[derive(Debug, Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number<const N: usize>(&mut self, bytes: [u8; N]) {
        self.align(N);
        self.0.extend_from_slice(&bytes);
    }

    fn text(&mut self, text: &str) {
        self.number((text.len() as u32).to_ne_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(text.len() as u8);
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Byte(number) => self.0.push(*number),
            Value::Bool(yes) => self.number(u32::from(*yes).to_ne_bytes()),
            Value::Int16(number) => self.number(number.to_ne_bytes()),
            Value::Uint16(number) => self.number(number.to_ne_bytes()),
            Value::Int32(number) => self.number(number.to_ne_bytes()),
            Value::Uint32(number) => self.number(number.to_ne_bytes()),
            Value::Int64(number) => self.number(number.to_ne_bytes()),
            Value::Uint64(number) => self.number(number.to_ne_bytes()),
            Value::Double(number) => self.number(number.to_ne_bytes()),
            Value::Text(text) => self.text(text),
            Value::Array(element, list) => self.array(element, list),
            Value::Struct(fields) => {
                self.align(EIGHT);
                for field in fields {
                    self.value(field);
                }
            }
            Value::Variant(inner) => {
                self.signature(&inner.signature());
                self.value(inner);
            }
        }
    }

    fn array(&mut self, element: &str, list: &[Value]) {
        self.number(0u32.to_ne_bytes());
        let at = self.0.len();
        // The padding before the first element does not count.
        self.align(alignment(element));
        let start = self.0.len();
        for value in list {
            self.value(value);
        }
        let length = (self.0.len() - start) as u32;
        self.0[at - 4..at].copy_from_slice(&length.to_ne_bytes());
    }
}

/// A method to call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [Value],
}

impl Call<'_> {
    /// The message's bytes; `serial` must not be 0.
    pub(super) fn encode(&self, serial: u32) -> Vec<u8> {
        let mut body = Writer::default();
        for value in self.arguments {
            body.value(value);
        }
        let mut message = Writer(vec![ENDIAN, CALL, 0, 1]);
        message.number((body.0.len() as u32).to_ne_bytes());
        message.number(serial.to_ne_bytes());
        let at = message.0.len();
        message.number(0u32.to_ne_bytes());
        let start = message.0.len();
        for (code, kind, text) in [
            (1, "o", self.path),
            (2, "s", self.interface),
            (3, "s", self.member),
            (6, "s", self.destination),
        ] {
            message.align(EIGHT);
            message.0.push(code);
            message.signature(kind);
            message.text(text);
        }
        let signature: String = self.arguments.iter().map(Value::signature).collect();
        if !signature.is_empty() {
            message.align(EIGHT);
            message.0.push(8);
            message.signature("g");
            message.signature(&signature);
        }
        let length = (message.0.len() - start) as u32;
        message.0[at..at + 4].copy_from_slice(&length.to_ne_bytes());
        message.align(EIGHT);
        message.0.extend_from_slice(&body.0);
        message.0
    }
}

/// What came in, as far as it is of interest.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    pub kind: u8,
    /// The serial of the call that this answers.
    pub answers: u32,
    pub interface: String,
    pub member: String,
    /// The name of an error.
    pub error: String,
    pub sender: String,
    pub signature: String,
    pub body: Vec<u8>,
}

/// Length of the whole message that begins with `fixed`; `None` if it is none, or absurdly long.
pub(super) fn length(fixed: &[u8; FIXED]) -> Option<usize> {
    let number = |at: usize| u32::from_ne_bytes([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]]);
    if fixed[0] != ENDIAN || fixed[3] != 1 {
        return None;
    }
    let (body, fields) = (number(4) as usize, number(12) as usize);
    let total = FIXED
        .checked_add(fields)?
        .next_multiple_of(EIGHT)
        .checked_add(body)?;
    (total <= LONGEST).then_some(total)
}

impl Message {
    /// Reads a whole message.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let fixed: &[u8; FIXED] = bytes.first_chunk()?;
        if length(fixed)? != bytes.len() {
            return None;
        }
        let mut message = Self {
            kind: fixed[1],
            ..Self::default()
        };
        let mut reader = Reader::new(bytes, 12);
        let fields = reader.u32()? as usize;
        let end = FIXED + fields;
        while reader.at < end {
            reader.align(EIGHT);
            let code = reader.byte()?;
            let kind = reader.signature()?;
            match (code, kind) {
                (5, "u") => message.answers = reader.u32()?,
                (8, "g") => reader.signature()?.clone_into(&mut message.signature),
                (_, "s" | "o") => {
                    let text = reader.text()?.to_owned();
                    match code {
                        2 => message.interface = text,
                        3 => message.member = text,
                        4 => message.error = text,
                        7 => message.sender = text,
                        _ => {}
                    }
                }
                (_, "u") => {
                    reader.u32()?;
                }
                (_, "g") => {
                    reader.signature()?;
                }
                // Fields that are not known must be ignored; but these cannot be skipped.
                _ => return None,
            }
        }
        bytes
            .get(end.next_multiple_of(EIGHT)..)?
            .clone_into(&mut message.body);
        Some(message)
    }

    /// The arguments, to be read in order.
    pub(super) fn arguments(&self) -> Reader<'_> {
        Reader::new(&self.body, 0)
    }
}

/// Reads values with their alignment, counted from the start.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at }
    }

    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(count)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_ne_bytes)
    }

    /// A string or an object's path.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.u32()? as usize;
        self.terminated(length)
    }

    pub(super) fn signature(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        self.terminated(length)
    }

    fn terminated(&mut self, length: usize) -> Option<&'a str> {
        let bytes = self.take(length.checked_add(1)?)?;
        let (last, text) = bytes.split_last()?;
        (*last == 0).then(|| std::str::from_utf8(text).ok())?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Vec<u8> {
        let properties = Value::Array(
            "(sv)".to_owned(),
            vec![
                Value::Struct(vec![
                    Value::Text("PIDs".into()),
                    Value::Variant(Box::new(Value::Array("u".into(), vec![Value::Uint32(7)]))),
                ]),
                Value::Struct(vec![
                    Value::Text("MemoryMax".into()),
                    Value::Variant(Box::new(Value::Uint64(1 << 30))),
                ]),
            ],
        );
        let none = Value::Array("(sa(sv))".to_owned(), Vec::new());
        Call {
            destination: "org.freedesktop.systemd1",
            path: "/org/freedesktop/systemd1",
            interface: "org.freedesktop.systemd1.Manager",
            member: "StartTransientUnit",
            arguments: &[
                Value::Text("a.scope".into()),
                Value::Text("replace".into()),
                properties,
                none,
            ],
        }
        .encode(3)
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn the_layout_is_the_specifications() {
        let bytes = example();
        // Header: little-endian call, version 1, body's length, serial 3, fields' length.
        assert_eq!(&bytes[..4], b"l\x01\x00\x01");
        assert_eq!(&bytes[8..12], &[3, 0, 0, 0]);
        assert_eq!(&bytes[16..20], &[1, 1, b'o', 0]);
        let body = &bytes[length(bytes.first_chunk().unwrap()).unwrap() - bytes[4] as usize..];
        // "a.scope", "replace" with their lengths; an array at a multiple of four, its first struct at one of eight.
        assert_eq!(&body[..12], b"\x07\0\0\0a.scope\0");
        assert_eq!(&body[12..24], b"\x07\0\0\0replace\0");
        assert_eq!(&body[32..41], b"\x04\0\0\0PIDs\0");
        assert_eq!(&body[41..45], b"\x02au\0");
        assert_eq!(&body[48..56], &[4, 0, 0, 0, 7, 0, 0, 0]);
        assert_eq!(&body[56..70], b"\x09\0\0\0MemoryMax\0");
        assert_eq!(&body[70..73], b"\x01t\0");
        assert_eq!(&body[80..88], &(1u64 << 30).to_le_bytes());
        assert_eq!(
            &body[88..],
            &[0; 8],
            "an empty array, padded to where a struct would begin"
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = example();
        let message = Message::decode(&bytes).unwrap();
        assert_eq!(message.kind, CALL);
        assert_eq!(message.member, "StartTransientUnit");
        assert_eq!(message.interface, "org.freedesktop.systemd1.Manager");
        assert_eq!(message.signature, "ssa(sv)a(sa(sv))");
        let mut arguments = message.arguments();
        assert_eq!(arguments.text(), Some("a.scope"));
        assert_eq!(arguments.text(), Some("replace"));
    }

    #[test]
    fn damaged_messages_are_refused_without_harm() {
        let bytes = example();
        for cut in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..cut]), None);
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                // No panic, whatever it says.
                if let Some(message) = Message::decode(&damaged) {
                    let mut arguments = message.arguments();
                    while arguments.text().is_some() {}
                }
            }
        }
        let mut long = *bytes.first_chunk::<FIXED>().unwrap();
        long[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(length(&long), None);
    }
}
