//! Counts of what a host holds, to show that nothing was left behind.

use std::collections::BTreeSet;
use std::path::Path;

/// What the host held at one moment, limited to what a name or path ties to the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSnapshot {
    /// Mount points of the calling thread's mount namespace.
    pub mounts: Vec<String>,
    /// cgroup directories, of every hierarchy, whose path contains the test's marker.
    pub cgroups: BTreeSet<String>,
    /// Processes whose command line contains the marker.
    pub processes: BTreeSet<i32>,
    /// Files below the given directories.
    pub files: BTreeSet<String>,
    /// Open descriptors of the test process.
    pub descriptors: usize,
}

impl HostSnapshot {
    /// Looks at the host now. `marker` is a text unique to the test that is in its cgroup paths
    /// and its processes' arguments; `directories` are searched for files.
    pub fn take(marker: &str, directories: &[&Path]) -> Self {
        Self {
            mounts: mounts(),
            cgroups: cgroups(marker),
            processes: processes(marker),
            files: directories.iter().flat_map(|dir| walk(dir)).collect(),
            descriptors: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
        }
    }
}

fn mounts() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("read mountinfo");
    let mut points: Vec<String> = text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(str::to_owned)
        .collect();
    points.sort();
    points
}

fn cgroups(marker: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut queue = vec![std::path::PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = queue.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let path = entry.path();
                if path.to_string_lossy().contains(marker) {
                    found.insert(path.to_string_lossy().into_owned());
                }
                queue.push(path);
            }
        }
    }
    found
}

fn processes(marker: &str) -> BTreeSet<i32> {
    let own = std::process::id().cast_signed();
    std::fs::read_dir("/proc")
        .expect("read /proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| *pid != own)
        .filter(|pid| {
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&command).contains(marker)
        })
        .collect()
}

fn walk(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        found.push(entry.path().to_string_lossy().into_owned());
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            found.extend(walk(&entry.path()));
        }
    }
    found
}
