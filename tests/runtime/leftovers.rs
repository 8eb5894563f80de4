//! Nothing is left behind.

use std::collections::BTreeSet;
use std::process::Command;

use harness::{Bundle, HostSnapshot, isolate, need_program, need_root, run};

use crate::driver::Runtime;

/// Set for the process that does the rounds.
const INSIDE: &str = "BERTH_LEFTOVERS_INSIDE";

/// This test's own name, for running it again by itself.
const NAME: &str = "leftovers::a_hundred_rounds_leave_the_host_as_it_was";

/// Processes and threads of this PID namespace, and the namespaces that any of them is in or that a mount holds.
fn processes_and_namespaces() -> (BTreeSet<String>, BTreeSet<String>) {
    let mut processes = BTreeSet::new();
    let mut namespaces = BTreeSet::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        processes.insert(name);
        for entry in std::fs::read_dir(process.path().join("ns"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Ok(name) = std::fs::read_link(entry.path()) {
                namespaces.insert(name.to_string_lossy().into_owned());
            }
        }
    }
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let held = mounts.lines().filter(|line| line.contains(" - nsfs "));
    namespaces.extend(held.map(str::to_owned));
    (processes, namespaces)
}

#[test]
fn a_hundred_rounds_leave_the_host_as_it_was() {
    need_root!();
    need_program!("unshare");
    if std::env::var_os(INSIDE).is_some() {
        hundred_rounds();
        return;
    }
    // In a process and PID namespace of its own nobody else opens descriptors, makes namespaces or starts processes, so
    // that all counts must be equal. bash is the namespace's init: it reaps what the rounds orphan.
    let told = run(Command::new("unshare")
        .args(["--fork", "--pid", "--mount-proc", "--kill-child", "--"])
        .args(["bash", "-c", "\"$@\"; exit $?", "bash"])
        .arg(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(INSIDE, "1"))
    .ok();
    assert!(told.contains("1 passed"), "{told}");
}

fn hundred_rounds() {
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
    let look = || (HostSnapshot::take(&marker, &[&root]), processes_and_namespaces());
    let before = look();
    container.create();
    let (_, (processes, namespaces)) = look();
    assert!(
        processes.len() > before.1.0.len(),
        "a container's process is seen"
    );
    assert!(
        namespaces.len() > before.1.1.len(),
        "a container's namespaces are seen"
    );
    container.verb("delete", &["--force"]).ok();
    for _ in 0..100 {
        round();
    }
    // A killed process is reaped by the namespace's init, and its namespaces go with it, some time after the kill.
    harness::wait_for("the host to be as before", crate::driver::PATIENCE, || {
        let after = look();
        if after == before {
            Ok(())
        } else {
            Err(format!("{after:#?}\nbefore:\n{before:#?}"))
        }
    });
}
