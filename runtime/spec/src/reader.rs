//! JSON (RFC 8259), read once from front to back into the types that ask for it: no tree, no second pass, and as
//! little code for each type as can be. Where the reader stands in the document is always known, for its messages.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

/// How deep values that nobody asks for may be nested, as in most readers: the stack is finite.
const DEPTH: usize = 128;

/// How much of a value is shown in a message.
const SHOWN: usize = 40;

/// Where and why a text does not fit its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in bytes, from 1: of the value, or of what follows the end of the text.
    pub column: usize,
    /// The path of the field, such as `linux.namespaces[2].type`; empty for the document as a whole.
    pub field: String,
    /// What is wrong, and what was expected.
    pub reason: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Mistake {}

/// What was read, and what was tolerated on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document<T> {
    /// The value.
    pub value: T,
    /// What should be logged, each with its field.
    pub warnings: Vec<String>,
}

/// A type that is read from JSON.
pub trait Value: Sized {
    /// Reads one value at the reader's position.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Failed>;
}

/// Reading has failed; the reader knows why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed;

/// Reads a whole text as one value.
///
/// `null` for a field is as if the field was absent (encoding/json, which writes most of these documents, reads
/// it so too); unknown fields are ignored; a field given twice is refused.
pub fn read<T: Value>(text: &[u8]) -> Result<Document<T>, Mistake> {
    let mut reader = Reader {
        text,
        at: 0,
        path: Vec::with_capacity(16),
        warnings: Vec::new(),
        mistake: None,
    };
    let value = T::read(&mut reader).and_then(|value| reader.end().map(|()| value));
    match value {
        Ok(value) => Ok(Document {
            value,
            warnings: reader.warnings,
        }),
        Err(Failed) => Err(reader.explain()),
    }
}

/// A step of the way from the document to the value that is being read.
enum Step<'a> {
    Field(&'static str),
    Entry(Cow<'a, str>),
    Index(usize),
}

/// The text and the place in it.
pub struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    path: Vec<Step<'a>>,
    warnings: Vec<String>,
    mistake: Option<(usize, String)>,
}

impl<'a> Reader<'a> {
    /// Reads an object whose fields are `keys`; `set` reads the value of the field with that index. A bit of
    /// `required` for every field that must be there.
    pub fn object(
        &mut self,
        keys: &'static [&'static str],
        required: u32,
        set: &mut dyn FnMut(&mut Self, usize) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        self.open(b'{', "an object")?;
        let start = self.at - 1;
        let (mut named, mut given) = (0u32, 0u32);
        let mut more = !self.closes(b'}');
        while more {
            self.peek();
            let at = self.at;
            let key = self.key()?;
            if let Some(index) = keys.iter().position(|known| *known == key) {
                if named & 1 << index != 0 {
                    return self.fail(at, format_args!("duplicate field `{key}`"));
                }
                named |= 1 << index;
                self.path.push(Step::Field(keys[index]));
                if !self.null() {
                    given |= 1 << index;
                    set(self, index)?;
                }
                self.path.pop();
            } else {
                self.skip(0)?;
            }
            more = self.another(b'}')?;
        }
        let missing = required & !given;
        if missing != 0 {
            let field = keys[missing.trailing_zeros() as usize];
            return self.fail(start, format_args!("missing field `{field}`"));
        }
        Ok(())
    }

    /// Reads an object with keys of the writer's choice; `entry` reads each value.
    pub fn map(
        &mut self,
        entry: &mut dyn FnMut(&mut Self, String) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        self.open(b'{', "an object")?;
        let mut more = !self.closes(b'}');
        while more {
            let key = self.key()?;
            let owned = key.clone().into_owned();
            self.path.push(Step::Entry(key));
            entry(self, owned)?;
            self.path.pop();
            more = self.another(b'}')?;
        }
        Ok(())
    }

    /// Reads an array; `element` reads each value.
    pub fn array(&mut self, element: &mut dyn FnMut(&mut Self) -> Result<(), Failed>) -> Result<(), Failed> {
        self.open(b'[', "a sequence")?;
        let mut more = !self.closes(b']');
        let mut index = 0;
        while more {
            self.path.push(Step::Index(index));
            element(self)?;
            self.path.pop();
            index += 1;
            more = self.another(b']')?;
        }
        Ok(())
    }

    /// Reads a string.
    pub fn string(&mut self) -> Result<Cow<'a, str>, Failed> {
        match self.peek() {
            Some(b'"') => self.quoted(),
            _ => self.mismatch("a string"),
        }
    }

    /// Reads a string that is one of `words`, and returns its index.
    pub fn word(&mut self, words: &[&str]) -> Result<usize, Failed> {
        self.peek();
        let start = self.at;
        let word = self.string()?;
        if let Some(index) = words.iter().position(|known| *known == word) {
            return Ok(index);
        }
        let known = words.join("`, `");
        self.fail(
            start,
            format_args!("unknown variant `{word}`, expected one of `{known}`"),
        )
    }

    /// Reads a whole number within the bounds. A negative one is returned in two's complement.
    pub fn integer(&mut self, least: i64, greatest: u64) -> Result<u64, Failed> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return self.mismatch("a whole number");
        }
        let start = self.at;
        let whole = self.number()?;
        let digits = &self.text[start..self.at];
        let (negative, digits) = match digits {
            [b'-', rest @ ..] => (true, rest),
            all => (false, all),
        };
        let mut value = whole.then_some(0u64);
        if whole {
            for digit in digits {
                value = value
                    .and_then(|value| value.checked_mul(10))
                    .and_then(|value| value.checked_add(u64::from(digit - b'0')));
            }
        }
        let fits = |value: &u64| {
            if negative {
                *value == 0 || least < 0 && *value <= least.unsigned_abs()
            } else {
                *value <= greatest
            }
        };
        match value.filter(fits) {
            Some(value) if negative => Ok(value.wrapping_neg()),
            Some(value) => Ok(value),
            None => {
                let shown = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
                self.fail(
                    start,
                    format_args!(
                        "invalid value: {}, expected a whole number from {least} to {greatest}",
                        shortened(&shown)
                    ),
                )
            }
        }
    }

    /// Reads `true` or `false`.
    pub fn boolean(&mut self) -> Result<bool, Failed> {
        match self.peek() {
            Some(b't') if self.literal(b"true") => Ok(true),
            Some(b'f') if self.literal(b"false") => Ok(false),
            _ => self.mismatch("a boolean"),
        }
    }

    /// Notes something that was tolerated at this place.
    pub fn warn(&mut self, what: fmt::Arguments<'_>) {
        let mut text = self.field();
        let _ = write!(text, ": {what}");
        self.warnings.push(text);
    }

    #[cold]
    fn fail<T>(&mut self, at: usize, reason: fmt::Arguments<'_>) -> Result<T, Failed> {
        self.mistake.get_or_insert_with(|| (at, reason.to_string()));
        Err(Failed)
    }

    /// The value here is not of the kind that is expected.
    #[cold]
    fn mismatch<T>(&mut self, expected: &str) -> Result<T, Failed> {
        let Some(first) = self.peek() else {
            return self.fail(
                self.at,
                format_args!("EOF while parsing a value, expected {expected}"),
            );
        };
        let start = self.at;
        // Only what is a value at all can be of another kind.
        self.skip(0)?;
        let text = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
        let found = match first {
            b'{' => "an object".to_owned(),
            b'[' => "a sequence".to_owned(),
            b'"' => format!("string {}", shortened(&text)),
            _ => shortened(&text),
        };
        self.fail(start, format_args!("invalid type: {found}, expected {expected}"))
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.text.get(self.at) {
            match byte {
                b' ' | b'\n' | b'\t' | b'\r' => self.at += 1,
                byte => return Some(*byte),
            }
        }
        None
    }

    fn open(&mut self, bracket: u8, expected: &str) -> Result<(), Failed> {
        if self.peek() != Some(bracket) {
            return self.mismatch(expected);
        }
        self.at += 1;
        Ok(())
    }

    /// Takes the closing bracket if it is next: the container is empty.
    fn closes(&mut self, bracket: u8) -> bool {
        let closes = self.peek() == Some(bracket);
        self.at += usize::from(closes);
        closes
    }

    /// Takes what follows an element: a comma (there is another one) or the closing bracket.
    fn another(&mut self, bracket: u8) -> Result<bool, Failed> {
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                if self.peek() == Some(bracket) {
                    return self.fail(self.at, format_args!("trailing comma"));
                }
                Ok(true)
            }
            Some(found) if found == bracket => {
                self.at += 1;
                Ok(false)
            }
            Some(_) => self.fail(self.at, format_args!("expected `,` or `{}`", char::from(bracket))),
            None => self.fail(
                self.at,
                format_args!("EOF: expected `,` or `{}`", char::from(bracket)),
            ),
        }
    }

    /// Takes a key and its colon.
    fn key(&mut self) -> Result<Cow<'a, str>, Failed> {
        match self.peek() {
            Some(b'"') => {}
            Some(_) => return self.fail(self.at, format_args!("key must be a string")),
            None => return self.fail(self.at, format_args!("EOF while parsing an object")),
        }
        let key = self.quoted()?;
        match self.peek() {
            Some(b':') => {
                self.at += 1;
                Ok(key)
            }
            _ => self.fail(self.at, format_args!("expected `:` after the key {key:?}")),
        }
    }

    /// Takes `null` if it is next.
    fn null(&mut self) -> bool {
        self.peek() == Some(b'n') && self.literal(b"null")
    }

    fn literal(&mut self, word: &[u8]) -> bool {
        let is = self.text[self.at..].starts_with(word)
            && !self
                .text
                .get(self.at + word.len())
                .is_some_and(u8::is_ascii_alphanumeric);
        self.at += if is { word.len() } else { 0 };
        is
    }

    /// Takes a string; its opening quote is next.
    fn quoted(&mut self) -> Result<Cow<'a, str>, Failed> {
        let start = self.at + 1;
        let mut end = start;
        let mut escaped = false;
        loop {
            match self.text.get(end) {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    end += 2;
                }
                Some(0..0x20) => {
                    return self.fail(
                        end,
                        format_args!("control character in a string: write it as \\u00XX"),
                    );
                }
                Some(_) => end += 1,
                None => return self.fail(self.text.len(), format_args!("EOF while parsing a string")),
            }
        }
        let Ok(text) = std::str::from_utf8(&self.text[start..end]) else {
            return self.fail(start, format_args!("a string must be UTF-8"));
        };
        let text = if escaped {
            Cow::Owned(self.unescape(start, text)?)
        } else {
            Cow::Borrowed(text)
        };
        self.at = end + 1;
        Ok(text)
    }

    fn unescape(&mut self, start: usize, text: &str) -> Result<String, Failed> {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((plain, after)) = rest.split_once('\\') {
            result.push_str(plain);
            let at = start + text.len() - after.len() - 1;
            let (kind, after) = after.split_at_checked(1).unwrap_or(("", after));
            rest = after;
            result.push(match kind {
                "\"" | "\\" | "/" => char::from(kind.as_bytes()[0]),
                "b" => '\u{8}',
                "f" => '\u{c}',
                "n" => '\n',
                "r" => '\r',
                "t" => '\t',
                "u" => match unicode(rest) {
                    Some((character, after)) => {
                        rest = after;
                        character
                    }
                    None => return self.fail(at, format_args!("invalid \\u escape in a string")),
                },
                _ => return self.fail(at, format_args!("invalid escape in a string")),
            });
        }
        result.push_str(rest);
        Ok(result)
    }

    /// Takes a number and tells whether it is whole. Its first byte is next.
    fn number(&mut self) -> Result<bool, Failed> {
        let start = self.at;
        self.at += usize::from(self.text[self.at] == b'-');
        let leading = self.at;
        let digits = self.digits();
        let mut valid = digits == 1 || digits > 1 && self.text[leading] != b'0';
        let mut whole = true;
        if self.text.get(self.at) == Some(&b'.') {
            whole = false;
            self.at += 1;
            valid &= self.digits() > 0;
        }
        if let Some(b'e' | b'E') = self.text.get(self.at) {
            whole = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.text.get(self.at) {
                self.at += 1;
            }
            valid &= self.digits() > 0;
        }
        if valid {
            Ok(whole)
        } else {
            self.fail(start, format_args!("invalid number"))
        }
    }

    fn digits(&mut self) -> usize {
        let count = self.text[self.at..]
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        self.at += count;
        count
    }

    /// Takes a value of any kind.
    fn skip(&mut self, depth: usize) -> Result<(), Failed> {
        if depth == DEPTH {
            return self.fail(self.at, format_args!("nested too deep: at most {DEPTH} levels"));
        }
        match self.peek() {
            Some(b'"') => self.quoted().map(drop),
            Some(b'{') => {
                self.at += 1;
                let mut more = !self.closes(b'}');
                while more {
                    self.key()?;
                    self.skip(depth + 1)?;
                    more = self.another(b'}')?;
                }
                Ok(())
            }
            Some(b'[') => {
                self.at += 1;
                let mut more = !self.closes(b']');
                while more {
                    self.skip(depth + 1)?;
                    more = self.another(b']')?;
                }
                Ok(())
            }
            Some(b'-' | b'0'..=b'9') => self.number().map(drop),
            Some(_) if self.literal(b"null") || self.literal(b"true") || self.literal(b"false") => Ok(()),
            Some(_) => self.fail(self.at, format_args!("expected value")),
            None => self.fail(self.at, format_args!("EOF while parsing a value")),
        }
    }

    fn end(&mut self) -> Result<(), Failed> {
        match self.peek() {
            None => Ok(()),
            Some(_) => self.fail(self.at, format_args!("trailing characters after the document")),
        }
    }

    fn field(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            // Writing to a String cannot fail.
            let _ = match step {
                Step::Field(name) if text.is_empty() => write!(text, "{name}"),
                Step::Field(name) => write!(text, ".{name}"),
                Step::Entry(key) => write!(text, "[{key:?}]"),
                Step::Index(index) => write!(text, "[{index}]"),
            };
        }
        text
    }

    #[cold]
    fn explain(mut self) -> Mistake {
        let (at, reason) = self
            .mistake
            .take()
            .unwrap_or_else(|| (self.at, "cannot be read".to_owned()));
        let before = &self.text[..at];
        let line_start = before
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        Mistake {
            line: before.split(|byte| *byte == b'\n').count(),
            column: 1 + at - line_start,
            field: self.field(),
            reason,
        }
    }
}

/// The character of a `\u` escape, which may need a second one, and what follows.
fn unicode(text: &str) -> Option<(char, &str)> {
    let (high, rest) = unit(text)?;
    if !(0xd800..0xdc00).contains(&high) {
        return Some((char::from_u32(high)?, rest));
    }
    let (low, rest) = unit(rest.strip_prefix("\\u")?)?;
    let low = low.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    Some((char::from_u32(0x10000 + ((high - 0xd800) << 10) + low)?, rest))
}

fn unit(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = text.split_at_checked(4)?;
    let hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    Some((
        u32::from_str_radix(digits, 16).ok().filter(|_| hexadecimal)?,
        rest,
    ))
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
