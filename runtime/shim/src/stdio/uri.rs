//! What containerd names as a stream: a FIFO or file by its path, or a URI. No I/O here.

use std::path::PathBuf;

/// Where a stream goes or comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Nowhere: /dev/null.
    Null,
    /// A FIFO, or a file that is appended to.
    Path(PathBuf),
    /// A file that is made with its folders and appended to (`file://`).
    File(PathBuf),
    /// A program that is given the output (`binary://`).
    Program(Program),
}

/// A logging program (containerd's `binary://PATH?KEY=VALUE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The program.
    pub path: PathBuf,
    /// Its arguments: each key, and its value if there is one.
    pub args: Vec<String>,
    /// It must say that it is ready; its end says nothing (`binary-v2://`).
    pub must_greet: bool,
}

/// A URI that names nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UriError {
    /// No such scheme.
    #[error("{uri:?}: the scheme {scheme} is not known: known are fifo, file, binary, binary-v2")]
    Scheme {
        /// The whole.
        uri: String,
        /// Its scheme.
        scheme: String,
    },
    /// Nothing behind the scheme.
    #[error("{0:?} has no absolute path: write SCHEME:///PATH")]
    Path(String),
    /// Percent-encoding that is none.
    #[error("{0:?}: a percent sign must be followed by two hexadecimal digits")]
    Encoding(String),
}

/// Takes a stream's name apart.
///
/// # Errors
/// [`UriError`].
pub fn parse(text: &str) -> Result<Target, UriError> {
    if text.is_empty() {
        return Ok(Target::Null);
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Ok(Target::Path(text.into()));
    };
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let wrong = || UriError::Encoding(text.to_owned());
    let path = PathBuf::from(decode(path, false).ok_or_else(wrong)?);
    if !path.is_absolute() {
        return Err(UriError::Path(text.to_owned()));
    }
    match scheme {
        "fifo" => Ok(Target::Path(path)),
        "file" => Ok(Target::File(path)),
        "binary" | "binary-v2" => {
            let mut args = Vec::new();
            for pair in query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                args.push(decode(key, true).ok_or_else(wrong)?);
                if !value.is_empty() {
                    args.push(decode(value, true).ok_or_else(wrong)?);
                }
            }
            Ok(Target::Program(Program {
                path,
                args,
                must_greet: scheme == "binary-v2",
            }))
        }
        _ => Err(UriError::Scheme {
            uri: text.to_owned(),
            scheme: scheme.to_owned(),
        }),
    }
}

/// Percent-decoding; in a query, plus signs are spaces.
fn decode(text: &str, query: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                (high << 4 | low) as u8
            }
            b'+' if query => b' ',
            _ => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_are_taken_apart() {
        assert_eq!(parse("").unwrap(), Target::Null);
        assert_eq!(parse("/run/f/out").unwrap(), Target::Path("/run/f/out".into()));
        assert_eq!(parse("fifo:///run/f").unwrap(), Target::Path("/run/f".into()));
        assert_eq!(
            parse("file:///var/a%20b.log").unwrap(),
            Target::File("/var/a b.log".into())
        );
        let program = Program {
            path: "/bin/log".into(),
            args: ["to", "a b", "-v"].map(str::to_owned).to_vec(),
            must_greet: false,
        };
        assert_eq!(
            parse("binary:///bin/log?to=a+b&-v").unwrap(),
            Target::Program(program)
        );
        let Target::Program(program) = parse("binary-v2:///bin/log").unwrap() else {
            panic!("no program");
        };
        assert!(program.must_greet && program.args.is_empty());
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(matches!(parse("npipe:///x"), Err(UriError::Scheme { .. })));
        assert!(matches!(parse("file://"), Err(UriError::Path(_))));
        assert!(matches!(parse("binary://bin/log"), Err(UriError::Path(_))));
        assert!(matches!(parse("file:///a%2"), Err(UriError::Encoding(_))));
    }
}
