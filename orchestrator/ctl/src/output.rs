//! What goes to standard output: tables, JSON, YAML.

use std::io::{self, Write};

use serde_json::{Value, json};

use crate::error::CtlError;

/// Writes a line. What reads it may have gone: see `main`.
pub(crate) fn line(text: &str) -> Result<(), CtlError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// Writes bytes as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), CtlError> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)?;
    Ok(out.flush()?)
}

/// An object as indented JSON.
pub(crate) fn json_text(value: &Value) -> String {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
    match serde::Serialize::serialize(value, &mut serializer) {
        Ok(()) => String::from_utf8_lossy(&text).into_owned(),
        // A tree of JSON values has always a text; this is never reached.
        Err(_) => value.to_string(),
    }
}

/// An object as YAML.
pub(crate) fn yaml_text(value: &Value) -> String {
    serde_yaml_ng::to_string(value).unwrap_or_else(|_| value.to_string())
}

/// Objects as kubectl's `List`.
pub(crate) fn list_of(items: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "items": items, "kind": "List", "metadata": { "resourceVersion": "" } })
}

/// An object without what people do not want to see.
pub(crate) fn without_managed_fields(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    object
}

/// Columns as wide as their widest cell, three spaces between them, as kubectl's.
#[derive(Debug, Default)]
pub(crate) struct Columns {
    widths: Vec<usize>,
}

impl Columns {
    /// Lays rows out. Widths never shrink, so that rows that come later stay under the header.
    pub(crate) fn lay_out(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            self.widths.resize(self.widths.len().max(row.len()), 0);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for row in rows {
            let last = row.len().saturating_sub(1);
            for (index, cell) in row.iter().enumerate() {
                text.push_str(cell);
                if index < last {
                    let gap = self.widths[index] + 3 - cell.chars().count();
                    text.extend(std::iter::repeat_n(' ', gap));
                }
            }
            text.push('\n');
        }
        text
    }
}

/// Lays out one table.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    Columns::default().lay_out(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [
            vec!["NAME".to_owned(), "AGE".to_owned()],
            vec!["longer-name".to_owned(), "5s".to_owned()],
        ];
        let mut columns = Columns::default();
        assert_eq!(columns.lay_out(&rows), "NAME          AGE\nlonger-name   5s\n");
        assert_eq!(
            columns.lay_out(&[vec!["a".to_owned(), "b".to_owned()]]),
            "a             b\n"
        );
    }

    #[test]
    fn json_is_indented_by_four() {
        assert_eq!(
            json_text(&json!({ "a": [1] })),
            "{\n    \"a\": [\n        1\n    ]\n}"
        );
    }
}
