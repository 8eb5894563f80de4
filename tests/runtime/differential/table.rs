//! The table of known differences: the one in runtime/DESIGN.md, so that it cannot say anything else.

use std::collections::BTreeSet;

/// The table's heading in runtime/DESIGN.md.
const HEADING: &str = "### Known differences";

/// A row: texts that a line has, and the runtime that it is about.
struct Row {
    texts: Vec<String>,
    /// `runc 1.1`: that version and its later releases of the same number; `runc`: every version.
    with: String,
}

/// All rows.
pub struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Reads it from the repository.
    pub fn read() -> Self {
        let path = harness::repository_root().join("runtime/DESIGN.md");
        let text = std::fs::read_to_string(path).expect("runtime/DESIGN.md");
        let section = text.split_once(HEADING).expect("the table's heading").1;
        let rows = section
            .lines()
            .skip_while(|line| !line.starts_with("| line"))
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .map(|line| {
                let cells: Vec<&str> = line.trim_matches('|').split(" | ").collect();
                let texts = cells[0].split('`').skip(1).step_by(2);
                Row {
                    texts: texts.map(str::to_owned).collect(),
                    with: cells[1].trim().to_owned(),
                }
            });
        let rows: Vec<Row> = rows.collect();
        assert!(!rows.is_empty() && rows.iter().all(|row| !row.texts.is_empty()));
        Self { rows }
    }

    /// The row that explains a line, if there is one.
    pub fn explains(&self, line: &str, version: &str) -> Option<usize> {
        self.rows.iter().position(|row| {
            version.starts_with(&row.with) && row.texts.iter().all(|text| line.contains(text.as_str()))
        })
    }

    /// Rows about this version that nothing was seen of.
    pub fn unused(&self, seen: &BTreeSet<usize>, version: &str) -> Vec<String> {
        let rows = self.rows.iter().enumerate();
        rows.filter(|(index, row)| version.starts_with(&row.with) && !seen.contains(index))
            .map(|(_, row)| row.texts.join(" + "))
            .collect()
    }
}
