//! Tables from the node, as rows of text.

use serde_json::Value;

use crate::cli::Get;
use crate::output::Columns;
use crate::tree::{list, members, plain, text};

/// Lays the rows of one kind out, over several answers.
pub(super) struct Printer<'a> {
    options: &'a Get,
    columns: Columns,
    /// Which of the node's columns are shown: known from the first answer.
    shown: Vec<usize>,
    titles: Vec<String>,
    headed: bool,
    /// Put before names, as `pod/`, where several kinds are listed.
    prefix: String,
}

impl<'a> Printer<'a> {
    pub(super) fn new(options: &'a Get, prefix: String) -> Self {
        Self {
            options,
            columns: Columns::default(),
            shown: Vec::new(),
            titles: Vec::new(),
            headed: options.no_headers,
            prefix,
        }
    }

    /// The text of a table's rows, with the header if it is the first.
    pub(super) fn rows(&mut self, table: &Value, wide: bool) -> String {
        let definitions = list(table, "/columnDefinitions");
        if !definitions.is_empty() {
            self.shown = (0..definitions.len())
                .filter(|index| wide || definitions[*index]["priority"].as_i64().unwrap_or(0) == 0)
                .collect();
            self.titles = self
                .shown
                .iter()
                .map(|index| text(&definitions[*index], "/name").to_uppercase())
                .collect();
        }
        let items = list(table, "/rows");
        if items.is_empty() {
            return String::new();
        }
        let mut rows = Vec::with_capacity(items.len() + 1);
        if !self.headed {
            self.headed = true;
            rows.push(self.header());
        }
        rows.extend(items.iter().map(|item| self.row(item)));
        self.columns.lay_out(&rows)
    }

    fn header(&self) -> Vec<String> {
        let mut header = self.titles.clone();
        if self.options.selection.all_namespaces {
            header.insert(0, "NAMESPACE".to_owned());
        }
        if self.options.show_labels {
            header.push("LABELS".to_owned());
        }
        header
    }

    fn row(&self, item: &Value) -> Vec<String> {
        let cells = list(item, "/cells");
        let mut row: Vec<String> = self
            .shown
            .iter()
            .map(|index| cells.get(*index).map_or_else(String::new, plain))
            .collect();
        if let Some(name) = row.first_mut() {
            *name = format!("{}{name}", self.prefix);
        }
        if self.options.selection.all_namespaces {
            row.insert(0, text(item, "/object/metadata/namespace").to_owned());
        }
        if self.options.show_labels {
            let labels: Vec<String> = members(item, "/object/metadata/labels")
                .map(|(key, value)| format!("{key}={}", plain(value)))
                .collect();
            row.push(if labels.is_empty() {
                "<none>".to_owned()
            } else {
                labels.join(",")
            });
        }
        row
    }
}
