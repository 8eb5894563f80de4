//! Memory of processes, as the kernel accounts it.

use std::path::Path;

/// Proportional set size of a process in KiB, from smaps_rollup; `None` when it is gone.
pub fn pss_kib(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Pids of the processes that run the program `name` (by /proc/PID/exe or comm), with their
/// start times, which tell a process from a later one of the same pid.
pub fn processes(name: &str) -> Vec<(u32, u64)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<(u32, u64)> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            comm.trim_end() == name.get(..15).unwrap_or(name)
        })
        .filter_map(|pid| Some((pid, start_time(pid)?)))
        .collect();
    found.sort_unstable();
    found
}

/// Field 22 of /proc/PID/stat: clock ticks since boot.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}
