//! Field ownership and server-side apply.
//!
//! Source: Kubernetes documentation "Server-Side Apply" and structured-merge-diff. Who set a field
//! last, by a write, owns it; who applies it, owns it as long as their configuration names it.
//! `metadata.managedFields` keeps the sets.

mod merge;
mod set;

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::schema::Type;
use set::FieldSet;

/// How a manager came to own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Apply,
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// Who writes, and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// Name of the field manager.
    pub manager: &'a str,
    /// `apiVersion` written in.
    pub api_version: &'a str,
    /// Subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// Time of the write, RFC 3339.
    pub time: &'a str,
}

/// Another manager owns a field and has another value there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager.
    pub manager: String,
    /// The version it wrote in.
    pub api_version: String,
    /// The field, such as `.spec.replicas`.
    pub field: String,
}

/// One manager's fields.
#[derive(Debug, Clone)]
struct Managed {
    manager: String,
    operation: Operation,
    api_version: String,
    subresource: String,
    time: String,
    fields: FieldSet,
}

impl Managed {
    fn is(&self, writer: &Writer<'_>, operation: Operation) -> bool {
        self.manager == writer.manager
            && self.operation == operation
            && self.subresource == writer.subresource
            && (operation == Operation::Apply || self.api_version == writer.api_version)
    }

    fn parse(entry: &Value) -> Option<Self> {
        let text = |field: &str| {
            entry
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let operation = match entry.get("operation")?.as_str()? {
            "Apply" => Operation::Apply,
            "Update" => Operation::Update,
            _ => return None,
        };
        Some(Self {
            manager: text("manager"),
            operation,
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            time: text("time"),
            fields: FieldSet::parse(entry.get("fieldsV1")?),
        })
    }

    fn to_value(&self) -> Value {
        let mut entry = json!({
            "manager": self.manager,
            "operation": self.operation.name(),
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": self.fields.to_value(),
        });
        if !self.subresource.is_empty() {
            entry["subresource"] = json!(self.subresource);
        }
        entry
    }
}

fn entries(object: &Value) -> Option<Vec<Managed>> {
    let list = object.pointer("/metadata/managedFields")?.as_array()?;
    Some(list.iter().filter_map(Managed::parse).collect())
}

fn store(object: &mut Value, entries: &[Managed]) {
    let list: Vec<Value> = entries
        .iter()
        .filter(|e| !e.fields.is_empty())
        .map(Managed::to_value)
        .collect();
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if list.is_empty() {
            meta.remove("managedFields");
        } else {
            meta.insert("managedFields".into(), Value::Array(list));
        }
    }
}

/// Puts a set in a writer's entry; its time changes only with its fields.
fn assign(entries: &mut Vec<Managed>, writer: &Writer<'_>, operation: Operation, fields: FieldSet) {
    match entries.iter_mut().find(|e| e.is(writer, operation)) {
        Some(entry) => {
            if entry.fields != fields || entry.api_version != writer.api_version {
                entry.fields = fields;
                writer.time.clone_into(&mut entry.time);
                writer.api_version.clone_into(&mut entry.api_version);
            }
        }
        None => entries.push(Managed {
            manager: writer.manager.to_owned(),
            operation,
            api_version: writer.api_version.to_owned(),
            subresource: writer.subresource.to_owned(),
            time: writer.time.to_owned(),
            fields,
        }),
    }
}

/// Records an ordinary write: the writer owns what it changed, everybody loses what is gone.
pub fn update(of: Type, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    // A client may rewrite the record (kubectl does when it moves to apply); an empty one resets it.
    let mut entries = entries(new).or_else(|| old.and_then(entries)).unwrap_or_default();
    let empty = json!({});
    let before = old.unwrap_or(&empty);
    let after = FieldSet::of(of, new);
    let changed = after.changed(of, before, new);
    for entry in &mut entries {
        entry.fields.keep(&after);
        if !entry.is(writer, Operation::Update) {
            entry.fields.subtract(&changed);
        }
    }
    if !changed.is_empty() {
        let mut own = entries
            .iter()
            .find(|e| e.is(writer, Operation::Update))
            .map(|e| e.fields.clone())
            .unwrap_or_default();
        own.add(&changed);
        assign(&mut entries, writer, Operation::Update, own);
    }
    store(new, &entries);
}

/// Applies a configuration to the live object (`None` if there is none yet).
///
/// Returns the object to be; an error lists the fields that others own, unless `force` takes them.
pub fn apply(
    of: Type,
    live: Option<&Value>,
    config: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let empty = json!({});
    let before = live.unwrap_or(&empty);
    let mut entries = live.and_then(entries).unwrap_or_default();
    let wanted = FieldSet::of(of, config);
    // Fields whose value the configuration changes.
    let changing = wanted.changed(of, before, config);
    let mut conflicts = Vec::new();
    for entry in entries.iter_mut().filter(|e| !e.is(writer, Operation::Apply)) {
        let contested = entry.fields.common(&changing);
        if contested.is_empty() {
            continue;
        }
        if force {
            entry.fields.subtract(&contested);
        } else {
            conflicts.extend(contested.paths().into_iter().map(|field| Conflict {
                manager: entry.manager.clone(),
                api_version: entry.api_version.clone(),
                field,
            }));
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    let mut merged = merge::merged(of, before, config);
    let mut dropped = entries
        .iter()
        .find(|e| e.is(writer, Operation::Apply))
        .map(|e| e.fields.clone())
        .unwrap_or_default();
    dropped.subtract(&wanted);
    for entry in entries.iter().filter(|e| !e.is(writer, Operation::Apply)) {
        dropped.subtract(&entry.fields);
    }
    merge::prune(of, &mut merged, &dropped);
    assign(&mut entries, writer, Operation::Apply, wanted);
    store(&mut merged, &entries);
    Ok(merged)
}

/// The sentence of a conflict error, as upstream words it.
pub fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!(
            "Apply failed with 1 conflict: conflict with {:?} using {}: {}",
            one.manager, one.api_version, one.field
        );
    }
    let mut text = format!("Apply failed with {} conflicts:", conflicts.len());
    let mut last = None;
    for conflict in conflicts {
        if last != Some((&conflict.manager, &conflict.api_version)) {
            // Writing into a String cannot fail.
            let _ = write!(
                text,
                " conflicts with {:?} using {}:",
                conflict.manager, conflict.api_version
            );
            last = Some((&conflict.manager, &conflict.api_version));
        }
        let _ = write!(text, "\n- {}", conflict.field);
    }
    text
}

#[cfg(test)]
mod tests;
