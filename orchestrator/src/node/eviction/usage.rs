//! What the node has left, and what pods use of it. Everything here blocks; nothing is written.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use berth_cgroups::{Cgroup, CgroupPath, Layout};
use nix::sys::statvfs::statvfs;

use super::threshold::{Level, Levels, Signal};
use crate::node::paths::PodPaths;

/// Bytes and inodes of files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files.
    pub inodes: u64,
}

impl Files {
    fn add(&mut self, other: Files) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// What is left now of what has a bound.
pub fn levels(data: &Path, images: &Path) -> Levels {
    let mut levels = Levels::new();
    if let Some(level) = memory(&std::fs::read_to_string("/proc/meminfo").unwrap_or_default()) {
        levels.insert(Signal::Memory, level);
    }
    for (path, bytes, inodes) in [
        (data, Signal::NodeDisk, Signal::NodeInodes),
        (images, Signal::ImageDisk, Signal::ImageInodes),
    ] {
        let Ok(state) = statvfs(path) else { continue };
        let size = |blocks: u64| blocks.saturating_mul(state.fragment_size());
        levels.insert(
            bytes,
            Level {
                // What is reserved for others is in neither, as df(1) counts.
                capacity: size(state.blocks().saturating_sub(state.blocks_free()) + state.blocks_available()),
                available: size(state.blocks_available()),
            },
        );
        // btrfs and others have no fixed number.
        if state.files() > 0 {
            levels.insert(
                inodes,
                Level {
                    capacity: state.files(),
                    available: state.files_available(),
                },
            );
        }
    }
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let most = [
        number("/proc/sys/kernel/pid_max"),
        number("/proc/sys/kernel/threads-max"),
    ];
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    if let (Some(most), Some(now)) = (most.into_iter().flatten().min(), processes(&load)) {
        levels.insert(
            Signal::Pids,
            Level {
                capacity: most,
                available: most.saturating_sub(now),
            },
        );
    }
    levels
}

/// Memory of proc_meminfo(5): what can be had without swapping, as the kernel itself estimates it.
fn memory(text: &str) -> Option<Level> {
    let field = |name: &str| -> Option<u64> {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
    };
    Some(Level {
        capacity: field("MemTotal")?,
        available: field("MemAvailable")?,
    })
}

/// Processes and threads of proc_loadavg(5): the second number of `3/815`.
fn processes(text: &str) -> Option<u64> {
    text.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

/// Working set and processes of a container's cgroup.
pub fn container(layout: &Layout, cgroup: &str) -> (u64, u64) {
    let stats = CgroupPath::parse(cgroup)
        .ok()
        .and_then(|path| Cgroup::open(layout, &path).ok())
        .and_then(|cgroup| cgroup.stats().ok());
    let Some(stats) = stats else { return (0, 0) };
    let memory = stats.memory.map_or(0, |memory| {
        let idle = ["inactive_file", "total_inactive_file"]
            .iter()
            .find_map(|name| memory.detail.get(*name))
            .copied()
            .unwrap_or(0);
        memory.memory.usage.saturating_sub(idle)
    });
    (memory, stats.pids.map_or(0, |pids| pids.current))
}

/// What a pod has on the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Writable layer and logs of each container.
    pub containers: BTreeMap<String, Files>,
    /// Volumes on the disk.
    pub volumes: BTreeMap<String, Files>,
}

impl Disk {
    /// All of it.
    pub fn total(&self) -> Files {
        let mut sum = Files::default();
        for files in self.containers.values().chain(self.volumes.values()) {
            sum.add(*files);
        }
        sum
    }
}

/// Measures a pod's files: `volumes` are the names of those that are the pod's own.
pub fn disk(paths: &PodPaths, containers: &[String], volumes: &[String]) -> Disk {
    let mut found = Disk::default();
    for name in containers {
        let mut sum = files(&paths.logs.join(name));
        for layer in layers(paths, name) {
            sum.add(files(&layer));
        }
        found.containers.insert(name.clone(), sum);
    }
    for name in volumes {
        found
            .volumes
            .insert(name.clone(), files(&paths.volumes().data.join(name)));
    }
    found
}

/// The writable layers of a container's runs.
fn layers(paths: &PodPaths, container: &str) -> Vec<PathBuf> {
    let folder = paths.data.join("containers");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| {
            let name = entry.file_name();
            let run = name.to_str().and_then(|n| n.rsplit_once('-'));
            run.is_some_and(|(of, number)| of == container && number.parse::<u32>().is_ok())
        })
        .map(|entry| entry.path().join("upper"))
        .collect()
}

/// Sums up a tree, as du(1) does: hard links once, other file systems not at all. What vanishes meanwhile counts for
/// nothing.
pub fn files(root: &Path) -> Files {
    let Ok(top) = std::fs::symlink_metadata(root) else {
        return Files::default();
    };
    let mut sum = Files::default();
    let mut linked = BTreeSet::new();
    let mut open = vec![root.to_owned()];
    sum.add(Files {
        bytes: top.blocks() * 512,
        inodes: 1,
    });
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            if meta.dev() != top.dev() || (meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino())) {
                continue;
            }
            sum.add(Files {
                bytes: meta.blocks() * 512,
                inodes: 1,
            });
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_files_are_read() {
        let level = memory("MemTotal:  100 kB\nMemFree: 1 kB\nMemAvailable:  40 kB\n").unwrap();
        assert_eq!((level.capacity, level.available), (102_400, 40_960));
        assert_eq!(processes("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        let here = levels(Path::new("/"), Path::new("/"));
        assert!(here[&Signal::Pids].available > 0 && here[&Signal::NodeDisk].capacity > 0);
    }

    #[test]
    fn a_tree_is_summed_up_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::fs::write(dir.path().join("sub/a"), vec![1; 1 << 20]).unwrap();
        std::fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).unwrap();
        let found = files(dir.path());
        assert_eq!(found.inodes, 3);
        assert!(
            found.bytes >= 1 << 20 && found.bytes < (1 << 20) + 65_536,
            "{found:?}"
        );
        assert_eq!(files(Path::new("/nowhere")), Files::default());
    }
}
