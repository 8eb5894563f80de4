//! Nothing is left behind.

use std::collections::BTreeSet;

use harness::{Bundle, HostSnapshot, isolate, need_root};

use crate::driver::Runtime;

/// Namespaces of all processes, as the kernel names them.
fn namespaces() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        for entry in std::fs::read_dir(process.path().join("ns"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Ok(name) = std::fs::read_link(entry.path()) {
                found.insert(name.to_string_lossy().into_owned());
            }
        }
    }
    found
}

#[test]
fn a_hundred_rounds_leave_the_host_as_it_was() {
    need_root!();
    // Other tests' mounts stay out of the picture.
    isolate();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let container = runtime.container(&mut bundle);
    let marker = container.id.clone();
    let root = runtime.root().to_path_buf();
    let round = || {
        container.create();
        container.verb("start", &[]).ok();
        container.kill("KILL").ok();
        container.wait("stopped");
        container.verb("delete", &[]).ok();
    };
    // The first one makes what is made once.
    round();
    let before = HostSnapshot::take(&marker, &[&root]);
    let mut ours = BTreeSet::new();
    for _ in 0..100 {
        container.create();
        let pid = container.pid();
        for kind in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            if let Ok(name) = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")) {
                let name = name.to_string_lossy().into_owned();
                if name
                    != std::fs::read_link(format!("/proc/thread-self/ns/{kind}"))
                        .unwrap()
                        .to_string_lossy()
                {
                    ours.insert(name);
                }
            }
        }
        container.verb("start", &[]).ok();
        container.kill("KILL").ok();
        container.wait("stopped");
        container.verb("delete", &[]).ok();
    }
    let after = HostSnapshot::take(&marker, &[&root]);
    assert_eq!(before.mounts, after.mounts);
    assert_eq!(before.cgroups, after.cgroups);
    assert_eq!(before.processes, after.processes);
    assert_eq!(before.files, after.files);
    // Other tests of this process open and close descriptors, so a few more or less prove nothing; a leak of one a
    // round does.
    assert!(
        after.descriptors < before.descriptors + 50,
        "{} then {}",
        before.descriptors,
        after.descriptors
    );
    // Namespace inodes are reused, by other tests' containers too: the last one's are no longer ours if nobody of
    // this marker is alive, which the process check has shown. What must not grow is the number of namespaces alone.
    let alive = namespaces();
    let kept = ours.iter().filter(|name| alive.contains(*name)).count();
    assert!(
        kept <= ours.len() / 2,
        "{kept} of {} namespaces are alive",
        ours.len()
    );
}
