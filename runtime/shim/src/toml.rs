//! The flat TOML of a runtime's options: `Key = value` lines with strings, booleans and numbers.
//!
//! The table that containerd hands over has no other form; a whole TOML parser would be a tenth of the shim.

use crate::options::Options;

/// What is wrong, and on which line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TomlError {
    /// Not `Key = value`.
    #[error("line {line}: {text:?} is not `Key = value`")]
    Form {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// No such option.
    #[error("line {line}: unknown option {key}: known are {KNOWN}")]
    Unknown {
        /// Counted from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// The value has another type.
    #[error("line {line}: {key} must be {wanted}")]
    Type {
        /// Counted from 1.
        line: usize,
        /// The key.
        key: String,
        /// What it must be.
        wanted: &'static str,
    },
}

const KNOWN: &str = "BinaryName, Root, SystemdCgroup, NoPivotRoot, NoNewKeyring, ShimCgroup, IoUid, IoGid, CriuPath, \
                     CriuImagePath, CriuWorkPath";

/// Options that containerd's own table has and that need nothing of a shim.
const WITHOUT_EFFECT: [&str; 2] = ["TaskApiAddress", "TaskApiVersion"];

/// Parses `text`.
///
/// # Errors
/// [`TomlError`] for the first line that is wrong.
pub fn options(text: &str) -> Result<Options, TomlError> {
    let mut options = Options::default();
    for (number, raw) in text.lines().enumerate() {
        let line = number + 1;
        let content = raw.trim();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let form = || TomlError::Form {
            line,
            text: content.to_owned(),
        };
        let (key, rest) = content.split_once('=').ok_or_else(form)?;
        let key = key.trim().trim_matches('"');
        let value = value(rest.trim()).ok_or_else(form)?;
        let wrong = |wanted| TomlError::Type {
            line,
            key: key.to_owned(),
            wanted,
        };
        let string = || value.string().ok_or_else(|| wrong("a string"));
        let boolean = || value.boolean().ok_or_else(|| wrong("true or false"));
        let id = || value.id().ok_or_else(|| wrong("a number from 0 to 4294967295"));
        match key {
            "BinaryName" => options.binary_name = string()?.into(),
            "Root" => options.root = string()?.into(),
            "ShimCgroup" => options.shim_cgroup = string()?,
            "CriuPath" => options.criu_path = string()?.into(),
            "CriuImagePath" => options.criu_image_path = string()?.into(),
            "CriuWorkPath" => options.criu_work_path = string()?.into(),
            "SystemdCgroup" => options.systemd_cgroup = boolean()?,
            "NoPivotRoot" => options.no_pivot_root = boolean()?,
            "NoNewKeyring" => options.no_new_keyring = boolean()?,
            "IoUid" => options.io_uid = id()?,
            "IoGid" => options.io_gid = id()?,
            _ if WITHOUT_EFFECT.contains(&key) => {}
            _ => {
                return Err(TomlError::Unknown {
                    line,
                    key: key.to_owned(),
                });
            }
        }
    }
    Ok(options)
}

enum Value {
    String(String),
    Boolean(bool),
    Number(u64),
}

impl Value {
    fn string(&self) -> Option<String> {
        match self {
            Value::String(text) => Some(text.clone()),
            _ => None,
        }
    }

    fn boolean(&self) -> Option<bool> {
        match self {
            Value::Boolean(on) => Some(*on),
            _ => None,
        }
    }

    fn id(&self) -> Option<u32> {
        match self {
            Value::Number(number) => u32::try_from(*number).ok(),
            _ => None,
        }
    }
}

/// A value and nothing behind it but a comment.
fn value(text: &str) -> Option<Value> {
    let first = text.chars().next()?;
    let (value, rest) = if matches!(first, '"' | '\'') {
        let (string, rest) = quoted(&text[1..], first)?;
        (Value::String(string), rest)
    } else {
        let end = text
            .find(|c: char| c.is_whitespace() || c == '#')
            .unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        let value = match word {
            "true" => Value::Boolean(true),
            "false" => Value::Boolean(false),
            _ => Value::Number(word.replace('_', "").parse().ok()?),
        };
        (value, rest)
    };
    let rest = rest.trim_start();
    (rest.is_empty() || rest.starts_with('#')).then_some(value)
}

/// The string up to the closing quote, and what follows. Backslashes mean something in double quotes only.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut string = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            _ if c == quote => return Some((string, &text[at + c.len_utf8()..])),
            '\\' if quote == '"' => string.push(match chars.next()?.1 {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                other @ ('"' | '\\') => other,
                _ => return None,
            }),
            _ => string.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn all_forms_are_read() {
        let text = "# of a node\nBinaryName = \"/usr/bin/be\\\"rth\" # comment\nRoot='/run/x'\nSystemdCgroup = true\n\
                    \"IoUid\" = 1_000\n\n";
        let options = options(text).unwrap();
        assert_eq!(options.binary_name, Path::new("/usr/bin/be\"rth"));
        assert_eq!(options.root, Path::new("/run/x"));
        assert!(options.systemd_cgroup);
        assert_eq!(options.io_uid, 1000);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, error) in [
            ("\nBinary = \"x\"", "line 2: unknown option Binary"),
            ("BinaryName = true", "line 1: BinaryName must be a string"),
            ("IoUid = \"1\"", "line 1: IoUid must be a number"),
            ("IoUid = 4294967296", "line 1: IoUid must be a number"),
            ("SystemdCgroup = 1", "line 1: SystemdCgroup must be true or false"),
            ("[options]", "line 1: \"[options]\" is not"),
            ("Root = \"x\" y", "is not `Key = value`"),
            ("Root = \"x", "is not `Key = value`"),
        ] {
            let found = options(text).unwrap_err().to_string();
            assert!(found.contains(error), "{text}: {found}");
        }
    }
}
