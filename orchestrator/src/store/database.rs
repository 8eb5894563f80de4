//! The durable side: SQLite in WAL mode, one row an object.
//!
//! The log is synced to disk for what users ask for (objects); status and events are only handed
//! to the kernel, which survives the death of the process, not of the machine, and are rebuilt
//! from the node after that.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use berth_api::kinds;
use rusqlite::{Connection, params};

use super::error::OpenError;
use super::index::Index;
use super::object::{Key, Object};

/// Format written to `PRAGMA user_version`.
const FORMAT: i64 = 1;
/// Versions skipped at each start, see [`Index::lost`]. More than can be written between two syncs.
pub(super) const SKIP: u64 = 1 << 16;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT NOT NULL,
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    uid TEXT NOT NULL,
    version INTEGER NOT NULL,
    json TEXT NOT NULL,
    PRIMARY KEY (kind, namespace, name)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
";

/// One row change.
pub(super) enum Row<'a> {
    /// Insert or replace.
    Put(&'a Object),
    /// Remove.
    Remove(&'a Key),
}

pub(super) struct Database {
    connection: Connection,
    synced: bool,
}

impl Database {
    /// Opens or makes the file, and reads everything in it.
    pub fn open(path: &Path) -> Result<(Self, Index), OpenError> {
        let fail = |action: &'static str| {
            let path = path.to_owned();
            move |source| OpenError::Sqlite { action, path, source }
        };
        // Secrets are in it; SQLite gives its log the same permissions.
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| OpenError::File {
                path: path.to_owned(),
                source,
            })?;
        let connection = Connection::open(path).map_err(fail("open"))?;
        configure(&connection).map_err(fail("configure"))?;
        let found: i64 = connection
            .query_row("PRAGMA user_version", [], |r| r.get(0))
            .map_err(fail("read"))?;
        if found > FORMAT {
            return Err(OpenError::Newer {
                path: path.to_owned(),
                found,
                known: FORMAT,
            });
        }
        if found < FORMAT {
            connection.execute_batch(SCHEMA).map_err(fail("lay out"))?;
            connection
                .pragma_update(None, "user_version", FORMAT)
                .map_err(fail("lay out"))?;
        }
        let index = load(&connection, path).map_err(|e| match e {
            LoadError::Sqlite(source) => fail("read")(source),
            LoadError::Row(what) => OpenError::Row {
                path: path.to_owned(),
                what,
            },
        })?;
        Ok((
            Self {
                connection,
                synced: true,
            },
            index,
        ))
    }

    /// Writes rows in one transaction; with `sync` they are on disk when this returns.
    pub fn commit(&mut self, rows: &[Row<'_>], version: u64, sync: bool) -> rusqlite::Result<()> {
        if sync != self.synced {
            let mode = if sync { "FULL" } else { "NORMAL" };
            self.connection.pragma_update(None, "synchronous", mode)?;
            self.synced = sync;
        }
        let transaction = self.connection.transaction()?;
        {
            let mut put = transaction.prepare_cached(
                "INSERT OR REPLACE INTO objects (kind, namespace, name, uid, version, json)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?;
            let mut remove = transaction
                .prepare_cached("DELETE FROM objects WHERE kind = ?1 AND namespace = ?2 AND name = ?3")?;
            for row in rows {
                match row {
                    Row::Put(object) => {
                        let key = object.key();
                        put.execute(params![
                            key.kind.resource(),
                            key.namespace,
                            key.name,
                            object.uid(),
                            object.resource_version() as i64,
                            object.json(),
                        ])?
                    }
                    Row::Remove(key) => {
                        remove.execute(params![key.kind.resource(), key.namespace, key.name])?
                    }
                };
            }
            transaction
                .prepare_cached("INSERT OR REPLACE INTO counters (name, value) VALUES ('version', ?1)")?
                .execute(params![version as i64])?;
        }
        transaction.commit()
    }

    /// Folds the log back into the file, for a clean stop.
    pub fn close(self) -> rusqlite::Result<()> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        self.connection.close().map_err(|(_, e)| e)
    }
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Objects live in memory already: a quarter MiB of pages is enough to write.
    connection.pragma_update(None, "cache_size", -256)?;
    connection.pragma_update(None, "mmap_size", 0)?;
    // Two daemons on one folder are stopped by a lock before this; this is the second line.
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.busy_timeout(std::time::Duration::ZERO)
}

enum LoadError {
    Sqlite(rusqlite::Error),
    Row(String),
}

impl From<rusqlite::Error> for LoadError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite(source)
    }
}

fn load(connection: &Connection, path: &Path) -> Result<Index, LoadError> {
    let counter: Option<i64> = connection
        .query_row("SELECT value FROM counters WHERE name = 'version'", [], |r| {
            r.get(0)
        })
        .map(Some)
        .or_else(|e| {
            if e == rusqlite::Error::QueryReturnedNoRows {
                Ok(None)
            } else {
                Err(e)
            }
        })?;
    let persisted = counter.unwrap_or(0) as u64;
    let mut index = Index::new(persisted, if persisted == 0 { 0 } else { persisted + SKIP });
    let mut statement =
        connection.prepare("SELECT kind, namespace, name, uid, version, json FROM objects")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let resource: String = row.get(0)?;
        let (namespace, name): (String, String) = (row.get(1)?, row.get(2)?);
        let json: String = row.get(5)?;
        let Some(kind) = kinds::ALL.iter().copied().find(|k| k.resource() == resource) else {
            tracing::warn!(%resource, %namespace, %name, path = %path.display(), "stored object of a kind that is not served: kept on disk, not shown");
            continue;
        };
        if serde_json::from_str::<serde::de::IgnoredAny>(&json).is_err() {
            return Err(LoadError::Row(format!("{resource} {namespace}/{name}")));
        }
        let version: i64 = row.get(4)?;
        index.load(Object::new(
            Key {
                kind,
                namespace,
                name,
            },
            row.get(3)?,
            version as u64,
            json,
        ));
    }
    Ok(index)
}

/// The database file inside a data folder.
pub fn file_in(data_dir: &Path) -> PathBuf {
    data_dir.join("objects.db")
}
