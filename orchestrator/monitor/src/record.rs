//! The record files, from which a restarted `berthd` learns what happened meanwhile.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use berth_client::protocol::{RECORD, Record};

/// Replaces the record in `bundle` atomically: a reader sees the old one or the new one. There is no
/// fsync, as the folder is a tmpfs: a record need not outlive the kernel, its container does not either.
///
/// # Errors
/// The system's answer to open, write or rename.
pub fn save(bundle: &Path, record: &Record) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(record)?;
    text.push(b'\n');
    let temporary = bundle.join(".record.json.new");
    File::create(&temporary)?.write_all(&text)?;
    std::fs::rename(&temporary, bundle.join(RECORD))
}
