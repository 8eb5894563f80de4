//! Removing cgroups that a demo left: they are the only thing that outlives its namespaces.

use crate::DemoError;
use std::path::{Path, PathBuf};

/// Removes the cgroup `name` with all below it in every hierarchy. Gives the paths there were.
pub fn remove_leftovers(name: &str) -> Result<Vec<String>, DemoError> {
    let mut removed = Vec::new();
    for hierarchy in hierarchies() {
        let path = hierarchy.join(name);
        if path.is_dir() {
            removed.push(path.display().to_string());
            remove_tree(&path)?;
        }
    }
    Ok(removed)
}

/// Mount points of cgroup file systems: the unified one, or one a controller.
fn hierarchies() -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    text.lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|fields| fields.len() > 2 && fields[2].starts_with("cgroup"))
        .map(|fields| PathBuf::from(fields[1]))
        .collect()
}

fn remove_tree(path: &Path) -> Result<(), DemoError> {
    let entries = std::fs::read_dir(path).map_err(DemoError::io(format!("read {}", path.display())))?;
    for entry in entries
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
    {
        remove_tree(&entry.path())?;
    }
    // Processes killed a moment ago may still be leaving: EBUSY until they have.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(_) if std::time::Instant::now() < end => {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(e) => return Err(DemoError::io(format!("remove the cgroup {}", path.display()))(e)),
        }
    }
}
