//! `org.systemd.property.NAME` annotations: further properties of a container's unit.
//!
//! Values are written as GVariant text, as runc and crun take them: `'text'`, `true`, `5`, `uint64 5`, `['a', 'b']`.
//! What does not parse to its last character is refused. So is what would turn the unit into another one: annotations
//! often come from somebody who may choose a container's image, but not who else's processes belong to it.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use super::error::SystemdError;
use super::message::Value;
use super::properties::Property;

const PREFIX: &str = "org.systemd.property.";

/// What Berth itself decides about a unit.
const OWN: &[&str] = &[
    "PIDs",
    "PIDFDs",
    "Slice",
    "Delegate",
    "DelegateControllers",
    "DelegateSubgroup",
    "Controller",
    "DevicePolicy",
    "DeviceAllow",
    "BPFProgram",
];

/// The deepest nesting of arrays and tuples. Properties of scopes have two levels.
const DEEPEST: u32 = 4;

/// The properties of the annotations, in order of their names.
pub(crate) fn properties(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>, SystemdError> {
    let mut list: Vec<Property> = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(PREFIX) else {
            continue;
        };
        let fail = |reason: String| SystemdError::Annotation {
            key: key.clone(),
            reason,
        };
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(fail(format!(
                "{name:?} is not the name of a property: letters only, at least three"
            )));
        }
        let value = Parser::new(text)
            .whole()
            .map_err(|reason| fail(format!("{text:?}: {reason}")))?;
        let property = seconds(name, value).map_err(|reason| fail(format!("{text:?}: {reason}")))?;
        if OWN.contains(&property.name.as_str()) {
            return Err(fail(
                "is the runtime's own to set: remove the annotation".to_owned(),
            ));
        }
        if list.iter().any(|other| other.name == property.name) {
            return Err(fail(format!(
                "another annotation sets {} already: remove one of them",
                property.name
            )));
        }
        list.push(property);
    }
    Ok(list)
}

/// Configuration files have `TimeoutStopSec=5`; the property is `TimeoutStopUSec`, in microseconds.
fn seconds(name: &str, value: Value) -> Result<Property, String> {
    let stem = name
        .strip_suffix("Sec")
        .filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase()));
    let Some(stem) = stem else {
        return Ok(Property::new(name, value));
    };
    let range = || "not a number of seconds from 0 to 18446744073709".to_owned();
    let whole = |number: u64| number.checked_mul(1_000_000).ok_or_else(range);
    let microseconds = match value {
        Value::Byte(number) => whole(number.into())?,
        Value::Uint16(number) => whole(number.into())?,
        Value::Uint32(number) => whole(number.into())?,
        Value::Uint64(number) => whole(number)?,
        Value::Int16(number) => whole(number.try_into().map_err(|_| range())?)?,
        Value::Int32(number) => whole(number.try_into().map_err(|_| range())?)?,
        Value::Int64(number) => whole(number.try_into().map_err(|_| range())?)?,
        Value::Double(number) if (0.0..1e13).contains(&number) => (number * 1e6) as u64,
        _ => return Err(range()),
    };
    Ok(Property::new(format!("{stem}USec"), Value::Uint64(microseconds)))
}

type Parsed<T> = Result<T, String>;

/// GVariant text (glib, "GVariant Text Format"), as far as types of properties go.
struct Parser<'a>(Peekable<Chars<'a>>);

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        Self(text.chars().peekable())
    }

    fn whole(mut self) -> Parsed<Value> {
        let value = self.value(0)?;
        self.space();
        match self.0.next() {
            None => Ok(value),
            Some(c) => Err(format!("unexpected {c:?} after the value")),
        }
    }

    fn space(&mut self) {
        while self.0.next_if_eq(&' ').is_some() {}
    }

    fn value(&mut self, depth: u32) -> Parsed<Value> {
        self.space();
        match self.0.peek().copied() {
            Some('\'' | '"') => self.text().map(Value::Text),
            Some('[') => self.array(depth + 1),
            Some('(') => self.tuple(depth + 1),
            Some('@') => self.typed(),
            Some(c) if c.is_ascii_alphabetic() => self.keyword(),
            Some(c) if c.is_ascii_digit() || "+-.".contains(c) => {
                let word = self.word();
                untyped(&word)
            }
            Some(c) => Err(format!("unexpected {c:?}: quote texts, as in 'text'")),
            None => Err("a value is missing".to_owned()),
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self
            .0
            .next_if(|c| c.is_ascii_alphanumeric() || "+-._".contains(*c))
        {
            word.push(c);
        }
        word
    }

    fn keyword(&mut self) -> Parsed<Value> {
        let word = self.word();
        match word.as_str() {
            "true" => return Ok(Value::Bool(true)),
            "false" => return Ok(Value::Bool(false)),
            _ => {}
        }
        self.space();
        let Some(letter) = letter(&word) else {
            return Err(format!("unexpected {word:?}: quote texts, as in '{word}'"));
        };
        self.of_type(letter)
    }

    fn of_type(&mut self, letter: char) -> Parsed<Value> {
        match (letter, self.0.peek()) {
            ('s', Some('\'' | '"')) => self.text().map(Value::Text),
            ('s', _) => Err("a text must be quoted".to_owned()),
            _ => {
                let word = self.word();
                number(letter, &word)
            }
        }
    }

    /// `@as ['a']`, `@t 5`: a type before the value. Empty arrays need one.
    fn typed(&mut self) -> Parsed<Value> {
        self.0.next();
        let signature = self.word();
        self.space();
        let element = signature.strip_prefix('a');
        let one = |text: &str| {
            let mut letters = text.chars();
            let letter = letters.next().filter(|c| "ybnqiuxtds".contains(*c));
            letter.filter(|_| letters.next().is_none())
        };
        let Some(letter) = one(element.unwrap_or(&signature)) else {
            return Err(format!("the type {signature:?} is not supported here"));
        };
        if element.is_none() {
            return self.of_type(letter);
        }
        if self.0.next() != Some('[') {
            return Err("an array must begin with [".to_owned());
        }
        let list = self.list(']', |parser| match (letter, parser.0.peek()) {
            ('b', _) => match parser.word().as_str() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                word => Err(format!("{word:?} is not true or false")),
            },
            _ => parser.of_type(letter),
        })?;
        Ok(Value::Array(letter.to_string(), list))
    }

    fn array(&mut self, depth: u32) -> Parsed<Value> {
        let list = self.nested(']', depth)?;
        let Some(first) = list.first() else {
            return Err("an empty array needs a type before it, as in @as []".to_owned());
        };
        let signature = first.signature();
        if list.iter().any(|value| value.signature() != signature) {
            return Err("all elements of an array must have one type".to_owned());
        }
        Ok(Value::Array(signature, list))
    }

    fn tuple(&mut self, depth: u32) -> Parsed<Value> {
        let list = self.nested(')', depth)?;
        if list.is_empty() {
            return Err("an empty tuple is not a value of D-Bus".to_owned());
        }
        Ok(Value::Struct(list))
    }

    fn nested(&mut self, end: char, depth: u32) -> Parsed<Vec<Value>> {
        if depth > DEEPEST {
            return Err(format!("nested more than {DEEPEST} levels deep"));
        }
        self.0.next();
        self.list(end, |parser| parser.value(depth))
    }

    /// Elements up to `end`, the opening bracket having been taken.
    fn list(&mut self, end: char, mut element: impl FnMut(&mut Self) -> Parsed<Value>) -> Parsed<Vec<Value>> {
        let mut list = Vec::new();
        loop {
            self.space();
            if self.0.next_if_eq(&end).is_some() {
                return Ok(list);
            }
            list.push(element(self)?);
            self.space();
            match self.0.next() {
                Some(',') => {}
                Some(c) if c == end => return Ok(list),
                Some(c) => return Err(format!("unexpected {c:?}: elements are separated by commas")),
                None => return Err(format!("{end:?} is missing")),
            }
        }
    }

    /// A quoted text. Characters that would end a line of the unit's file are refused.
    fn text(&mut self) -> Parsed<String> {
        let quote = self.0.next();
        let mut text = String::new();
        loop {
            let mut c = self.0.next().ok_or("the closing quote is missing")?;
            if Some(c) == quote {
                return Ok(text);
            }
            if c == '\\' {
                c = match self.0.next() {
                    Some(c @ ('\\' | '\'' | '"')) => c,
                    _ => return Err("after a backslash only \\, ' and \" may stand".to_owned()),
                };
            }
            if c.is_control() {
                return Err(format!("the control character {c:?} is not allowed"));
            }
            text.push(c);
        }
    }
}

fn letter(word: &str) -> Option<char> {
    Some(match word {
        "byte" => 'y',
        "int16" => 'n',
        "uint16" => 'q',
        "int32" => 'i',
        "uint32" => 'u',
        "int64" => 'x',
        "uint64" => 't',
        "double" => 'd',
        "string" => 's',
        _ => return None,
    })
}

/// A number without a type is a 32-bit one, or with a point or an exponent a double.
fn untyped(word: &str) -> Parsed<Value> {
    let decimal = word.trim_start_matches(['+', '-']);
    let double = !decimal.starts_with("0x") && decimal.contains(['.', 'e', 'E']);
    number(if double { 'd' } else { 'i' }, word)
}

fn number(letter: char, word: &str) -> Parsed<Value> {
    let wrong = || format!("{word:?} is not a number of its type, or out of range");
    if letter == 'd' {
        return word
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite() && !word.contains(char::is_whitespace))
            .map(Value::Double)
            .ok_or_else(wrong);
    }
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let magnitude = match digits.strip_prefix("0x") {
        Some(digits) if !digits.starts_with('+') => i128::from_str_radix(digits, 16),
        _ if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse(),
        _ => return Err(wrong()),
    };
    let value = magnitude.map_err(|_| wrong())? * if negative { -1 } else { 1 };
    let fitting = match letter {
        'y' => value.try_into().map(Value::Byte),
        'n' => value.try_into().map(Value::Int16),
        'q' => value.try_into().map(Value::Uint16),
        'i' => value.try_into().map(Value::Int32),
        'u' => value.try_into().map(Value::Uint32),
        'x' => value.try_into().map(Value::Int64),
        't' => value.try_into().map(Value::Uint64),
        _ => return Err(wrong()),
    };
    fitting.map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Parsed<Value> {
        Parser::new(text).whole()
    }

    fn ask(name: &str, text: &str) -> Result<Vec<Property>, String> {
        let annotations = [(format!("{PREFIX}{name}"), text.to_owned())].into();
        properties(&annotations).map_err(|error| error.to_string())
    }

    #[test]
    fn values() {
        for (text, want) in [
            ("true", Value::Bool(true)),
            ("'inactive-or-failed'", Value::Text("inactive-or-failed".into())),
            (r#""it's""#, Value::Text("it's".into())),
            (r"'a\\b\'c'", Value::Text(r"a\b'c".into())),
            ("''", Value::Text(String::new())),
            ("5", Value::Int32(5)),
            ("-5", Value::Int32(-5)),
            ("0x1F", Value::Int32(31)),
            ("2.5", Value::Double(2.5)),
            ("uint64 18446744073709551615", Value::Uint64(u64::MAX)),
            ("@t 7", Value::Uint64(7)),
            ("byte 255", Value::Byte(255)),
            ("int64 -1", Value::Int64(-1)),
            (" [ 'a' , 'b' ] ", Value::texts(["a", "b"])),
            ("@as []", Value::texts([])),
            (
                "@au [1, 2]",
                Value::Array("u".into(), vec![Value::Uint32(1), Value::Uint32(2)]),
            ),
            (
                "[('/dev/sda', uint64 5)]",
                Value::Array(
                    "(st)".into(),
                    vec![Value::Struct(vec![
                        Value::Text("/dev/sda".into()),
                        Value::Uint64(5),
                    ])],
                ),
            ),
        ] {
            assert_eq!(parse(text).as_ref(), Ok(&want), "{text}");
        }
    }

    #[test]
    fn strictly() {
        for bad in [
            "",
            "text",
            "'open",
            "'a' 'b'",
            "'a\nb'",
            "'a\0b'",
            r"'a\n'",
            "true false",
            "5 6",
            "4294967296",
            "uint32 -1",
            "byte 256",
            "uint64 0x",
            "uint64 0x+1",
            "+-5",
            "--5",
            "1.2.3",
            "double nan",
            "inf",
            "[1, 'a']",
            "[]",
            "[1",
            "[1 2]",
            "()",
            "@",
            "@as 5",
            "@a{sv} {}",
            "<5>",
            "{'a': 5}",
            "((((((1,),),),),),)",
            "'a'; rm",
        ] {
            assert!(parse(bad).is_err(), "{bad:?} gave {:?}", parse(bad));
        }
    }

    #[test]
    fn seconds_become_microseconds() {
        let number = |name: &str, text: &str| {
            let property = ask(name, text)?.remove(0);
            Ok::<_, String>((property.name, property.value))
        };
        let want = |name: &str, value| Ok((name.to_owned(), Value::Uint64(value)));
        assert_eq!(
            number("TimeoutStopSec", "uint64 5"),
            want("TimeoutStopUSec", 5_000_000)
        );
        assert_eq!(
            number("TimeoutStopSec", "2.5"),
            want("TimeoutStopUSec", 2_500_000)
        );
        assert_eq!(
            number("TimeoutStopUSec", "uint64 5"),
            want("TimeoutStopUSec", 5),
            "already in microseconds"
        );
        for bad in ["-1", "'5'", "uint64 18446744073709551615", "-0.5"] {
            assert!(
                number("TimeoutStopSec", bad)
                    .unwrap_err()
                    .contains("number of seconds"),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_unit_stays_what_it_is() {
        for name in ["PIDs", "Slice", "Delegate", "DeviceAllow"] {
            let error = ask(name, "true").unwrap_err();
            assert!(error.contains("the runtime's own to set"), "{error}");
            assert!(error.contains(name), "{error}");
        }
        for name in [
            "X",
            "",
            "Memory Max",
            "Memory\nMax",
            "Memory-Max",
            "Memory.Max",
            "Größe",
        ] {
            let error = ask(name, "true").unwrap_err();
            assert!(error.contains("not the name of a property"), "{error}");
        }
        let both = [
            (format!("{PREFIX}TimeoutStopSec"), "1".to_owned()),
            (format!("{PREFIX}TimeoutStopUSec"), "uint64 1".to_owned()),
        ];
        let error = properties(&both.into()).unwrap_err().to_string();
        assert!(error.contains("sets TimeoutStopUSec already"), "{error}");
        let other = [("org.example".to_owned(), "text".to_owned())].into();
        assert_eq!(properties(&other).unwrap(), []);
    }
}
