//! What can go wrong in the store.

use std::path::PathBuf;

use berth_api::kinds::Kind;

/// Why the database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite refused.
    #[error("cannot {action} the object database {path}")]
    Sqlite {
        /// What was attempted.
        action: &'static str,
        /// Database file.
        path: PathBuf,
        /// SQLite's answer.
        #[source]
        source: rusqlite::Error,
    },
    /// The file cannot be made or opened.
    #[error("cannot open the object database {path}")]
    File {
        /// Database file.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: std::io::Error,
    },
    /// The file was written by a later version.
    #[error(
        "the object database {path} has format {found}, this berthd knows up to {known}: use the berthd that wrote it"
    )]
    Newer {
        /// Database file.
        path: PathBuf,
        /// Format found in the file.
        found: i64,
        /// Newest format known.
        known: i64,
    },
    /// A row cannot be understood.
    #[error(
        "the object database {path} holds {what} that cannot be read: restore a backup, or remove that row"
    )]
    Row {
        /// Database file.
        path: PathBuf,
        /// The row.
        what: String,
    },
    /// The writer thread could not be started.
    #[error("cannot start the store's writer thread")]
    Thread(#[source] std::io::Error),
}

/// Why a read or a write was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// No such object.
    #[error("{} \"{name}\" not found", kind.resource())]
    NotFound {
        /// Kind asked for.
        kind: &'static Kind,
        /// Name asked for.
        name: String,
    },
    /// The name is taken.
    #[error("{} \"{name}\" already exists", kind.resource())]
    AlreadyExists {
        /// Kind of the object.
        kind: &'static Kind,
        /// Its name.
        name: String,
    },
    /// The object is not what the caller thinks it is.
    #[error("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.resource())]
    Conflict {
        /// Kind of the object.
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// What differs.
        why: String,
    },
    /// Something else in the namespace forbids it: a quota, a limit range.
    #[error("{} \"{name}\" is forbidden: {why}", kind.resource())]
    Forbidden {
        /// Kind of the object.
        kind: &'static Kind,
        /// Its name.
        name: String,
        /// What forbids it.
        why: String,
    },
    /// The value is not an object of a served kind.
    #[error("not an object that can be stored: {0}")]
    Malformed(String),
    /// The database did not take the write; nothing changed.
    #[error("the object database refused the write: {0}")]
    Database(String),
    /// The store is shutting down.
    #[error("the store is closed")]
    Closed,
}

/// Why a watch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The next events are no longer in the history: list again and watch from there.
    #[error("too old resource version")]
    Expired,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}
