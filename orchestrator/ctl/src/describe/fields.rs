//! Lines of `name: value`, with the values under each other.

use serde_json::Value;

use crate::output;
use crate::tree::plain;

/// The text of a description as it grows.
#[derive(Debug, Default)]
pub(super) struct Fields {
    done: String,
    rows: Vec<Vec<String>>,
}

impl Fields {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// A field with one value.
    pub(super) fn put(&mut self, name: &str, value: &str) {
        self.rows.push(vec![format!("{name}:"), value.to_owned()]);
    }

    /// A field with a value a line.
    pub(super) fn lines(&mut self, name: &str, values: &[String]) {
        let Some((first, rest)) = values.split_first() else {
            return self.put(name, "<none>");
        };
        self.put(name, first);
        self.rows
            .extend(rest.iter().map(|value| vec![String::new(), value.clone()]));
    }

    /// A field with a map.
    pub(super) fn map<'a>(&mut self, name: &str, members: impl Iterator<Item = (&'a String, &'a Value)>) {
        let separator = if name == "Annotations" { ": " } else { "=" };
        let values: Vec<String> = members
            .map(|(key, value)| format!("{key}{separator}{}", plain(value)))
            .collect();
        self.lines(name, &values);
    }

    /// A field with a tree, as YAML.
    pub(super) fn block(&mut self, name: &str, value: &Value) {
        let mut text = format!("{name}:");
        for line in output::yaml_text(value).lines() {
            text.push_str(
                "
  ",
            );
            text.push_str(line);
        }
        self.text(&text);
    }

    /// Text of its own.
    pub(super) fn text(&mut self, text: &str) {
        self.done
            .push_str(&output::table(&std::mem::take(&mut self.rows)));
        self.done.push_str(text);
        if !text.ends_with('\n') {
            self.done.push('\n');
        }
    }

    pub(super) fn finish(mut self) -> String {
        self.done.push_str(&output::table(&self.rows));
        self.done
    }
}
