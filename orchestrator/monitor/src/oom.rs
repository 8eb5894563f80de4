//! Whether the kernel's OOM killer was in a container's cgroup.

use berth_client::protocol::Create;

/// Files with a line `oom_kill N`, for cgroup v1 and both places of v2, below /sys/fs/cgroup.
const COUNTERS: [(&str, &str); 3] = [
    ("memory", "memory.oom_control"),
    ("", "memory.events"),
    ("unified", "memory.events"),
];

/// How many processes the OOM killer has killed in the cgroup of `create` so far; 0 where it cannot be
/// told.
pub fn kills(create: &Create) -> u64 {
    let cgroup = create.cgroup.trim_matches('/');
    COUNTERS
        .iter()
        .filter_map(|(hierarchy, file)| {
            let path = std::path::Path::new("/sys/fs/cgroup")
                .join(hierarchy)
                .join(cgroup)
                .join(file);
            count(&std::fs::read_to_string(path).ok()?)
        })
        .max()
        .unwrap_or(0)
}

/// The number in the line `oom_kill N`.
fn count(text: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_formats_are_read() {
        assert_eq!(
            super::count("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n"),
            Some(3)
        );
        assert_eq!(
            super::count("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n"),
            Some(1)
        );
        assert_eq!(super::count("low 0\n"), None);
    }
}
