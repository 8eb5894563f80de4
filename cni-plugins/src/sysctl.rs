//! Kernel parameters under /proc/sys, of the network namespace that the thread is in.

use std::{fs, io, path::PathBuf};

use crate::protocol::Failure;

/// The file of a parameter given as path below /proc/sys.
///
/// Interface names may have dots, so names here are written with slashes.
fn file(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(name)
}

/// Reads a parameter; absent when the kernel does not have it.
pub fn read(name: &str) -> Result<Option<String>, Failure> {
    let path = file(name);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text.trim_end_matches('\n').to_owned())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::io("read kernel parameter", &path, &e)),
    }
}

/// Writes a parameter.
pub fn write(name: &str, value: &str) -> Result<(), Failure> {
    let path = file(name);
    fs::write(&path, value)
        .map_err(|e| Failure::io(&format!("write {value:?} to kernel parameter"), &path, &e))
}

/// Writes a parameter unless it has the value already or the kernel does not have it.
pub fn ensure(name: &str, value: &str) -> Result<(), Failure> {
    match read(name)? {
        Some(now) if now != value => write(name, value),
        _ => Ok(()),
    }
}
