//! `list`: the containers under `--root`, as a table, JSON, or ids.

use std::fmt::Write as _;

use clap::Args;

use super::state::Document;
use super::{Context, ExitCode};
use crate::container::Container;
use crate::error::{ArgumentError, Error};
use crate::log;
use crate::state::{ContainerId, StateError};

/// Lists containers started by berth with the given root
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Select one of: table or json
    #[arg(short, long, default_value = "table")]
    format: String,
    /// Display only container IDs
    #[arg(short, long)]
    quiet: bool,
    #[arg(hide = true)]
    arguments: Vec<String>,
}

pub(super) fn run(context: &Context, args: &ListArgs) -> Result<ExitCode, Error> {
    super::exactly("list", &args.arguments, 0)?;
    let found = containers(context)?;
    let mut documents = Vec::with_capacity(found.len());
    for (container, owner) in &found {
        match Document::of(container, owner) {
            Ok(document) => documents.push(document),
            Err(error) => log::warn(&format!("status for {}: {}", container.record.id, error.chain())),
        }
    }
    if args.quiet {
        let ids = documents
            .iter()
            .fold(String::new(), |ids, document| ids + document.id + "\n");
        return super::print(ids.as_bytes());
    }
    match args.format.as_str() {
        "table" => super::print(table(&documents).as_bytes()),
        // Go encodes a nil slice as null, and engines have learnt to live with it.
        "json" if documents.is_empty() => super::print(b"null\n"),
        "json" => {
            let json = serde_json::to_string(&documents).map_err(|source| Error::Json { source })?;
            super::print(format!("{}\n", super::go_json(&json)).as_bytes())
        }
        _ => Err(ArgumentError::ListFormat.into()),
    }
}

fn containers(context: &Context) -> Result<Vec<(Container, String)>, Error> {
    let entries = match context.root.entries()? {
        Some(entries) => entries,
        // Only the default directory may be missing: no container was made yet.
        None if !context.root_given => Vec::new(),
        None => {
            return Err(ArgumentError::NoRoot {
                path: context.root.path().to_path_buf(),
            }
            .into());
        }
    };
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut found = Vec::with_capacity(entries.len());
    for (name, uid) in entries {
        let loaded = ContainerId::parse(&name)
            .map_err(Error::from)
            .and_then(|id| Container::load(&context.root, &id));
        match loaded {
            Ok(container) => found.push((container, owner(&users, uid))),
            // Being created or deleted right now.
            Err(Error::State(StateError::NotExist)) => {
                log::debug(&format!("load container {name}: {}", StateError::NotExist));
            }
            Err(error) => log::warn(&format!("load container {name}: {}", error.chain())),
        }
    }
    Ok(found)
}

/// The user's name in the text of a passwd file (passwd(5)). Not by getpwuid(3), which in a static program brings name
/// services, the resolver and a loader of libraries with it: a tenth of the program.
fn owner(users: &str, uid: u32) -> String {
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    name.map_or_else(|| format!("#{uid}"), str::to_owned)
}

/// Columns at least 12 wide with three spaces between them, as Go's tabwriter lays out runc's table.
fn table(documents: &[Document<'_>]) -> String {
    let heading = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let mut rows = vec![heading];
    rows.extend(documents.iter().map(|document| {
        [
            document.id.to_owned(),
            document.pid.to_string(),
            document.status.to_string(),
            document.bundle.display().to_string(),
            document.created.to_owned(),
            document.owner.to_owned(),
        ]
    }));
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count() + 3)
            .max()
            .unwrap_or(0)
            .max(12)
    };
    let widths = [width(0), width(1), width(2), width(3), width(4)];
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(text, "{cell:width$}");
        }
        let _ = writeln!(text, "{}", row[5]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_have_the_names_of_the_host() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\n\nbroken\n+::\nnobody:x:65534:65534::/:/x\nagain:x:0:0::/:/x\n";
        assert_eq!(owner(users, 0), "root");
        assert_eq!(owner(users, 65534), "nobody");
        assert_eq!(owner(users, 1), "#1");
        assert_eq!(owner("", 0), "#0");
    }
}
