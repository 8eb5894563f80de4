//! `update` of a container in a scope: systemd is told what the files have, so that what it writes later is the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{need_root, run, run_with_input};
use serde_json::json;

use super::{Berth, loaded, read, show, sleeper, systemd_runs};
use crate::driver::unique;

/// Options, a property of the unit and a file of the cgroup, each with its value.
type Change = (
    &'static [&'static str],
    (&'static str, &'static str),
    (&'static str, &'static str),
);

/// Options of `update`, the property of the unit that they change, and the file.
const CHANGES: [Change; 12] = [
    (
        &["--memory", "72m"],
        ("MemoryMax", "75497472"),
        ("memory.max", "75497472"),
    ),
    (
        &["--memory-reservation", "24m"],
        ("MemoryLow", "25165824"),
        ("memory.low", "25165824"),
    ),
    (
        &["--memory-swap", "128m"],
        ("MemorySwapMax", "58720256"),
        ("memory.swap.max", "58720256"),
    ),
    (&["--pids-limit", "21"], ("TasksMax", "21"), ("pids.max", "21")),
    (
        &["--cpu-quota", "44000"],
        ("CPUQuotaPerSecUSec", "440ms"),
        ("cpu.max", "44000 100000"),
    ),
    (
        &["--cpu-period", "50000"],
        ("CPUQuotaPeriodUSec", "50ms"),
        ("cpu.max", "44000 50000"),
    ),
    (
        &["--cpu-share", "2048"],
        ("CPUWeight", "174"),
        ("cpu.weight", "174"),
    ),
    (
        &["--cpu-burst", "10000"],
        ("TasksMax", "21"),
        ("cpu.max.burst", "10000"),
    ),
    (
        &["--cpuset-cpus", "0"],
        ("AllowedCPUs", "0"),
        ("cpuset.cpus", "0"),
    ),
    (
        &["--cpuset-mems", "0"],
        ("AllowedMemoryNodes", "0"),
        ("cpuset.mems", "0"),
    ),
    (&["--cpu-idle", "1"], ("TasksMax", "21"), ("cpu.idle", "1")),
    (&["--cpu-idle", "0"], ("TasksMax", "21"), ("cpu.idle", "0")),
];

#[test]
fn each_option_reaches_the_unit_and_its_files() {
    need_systemd!();
    let berth = Berth::new();
    let id = unique();
    let mut bundle = sleeper(&format!("system.slice:berth:{id}"));
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({
            "memory": {"limit": 64 << 20, "swap": 80 << 20}, "pids": {"limit": 40},
            "cpu": {"quota": 33_000, "period": 100_000, "shares": 512},
        });
    });
    berth.start(&bundle, &id);
    let unit = format!("berth-{id}.scope");
    let dir = PathBuf::from(format!("/sys/fs/cgroup/system.slice/{unit}"));
    for (options, (property, told), (file, value)) in CHANGES {
        let mut arguments = vec!["update"];
        arguments.extend(options);
        arguments.push(&id);
        berth.call(&arguments).ok();
        assert_eq!(show(&unit, property), told, "{options:?}: {property}");
        assert_eq!(read(&dir, file), value, "{options:?}: {file}");
    }
    // A document, by standard input and by a file, and what systemd writes by itself afterwards.
    let document =
        json!({"memory": {"limit": 48 << 20, "swap": 48 << 20}, "pids": {"limit": 13}}).to_string();
    run_with_input(
        &mut berth.command(&["update", "--resources", "-", &id]),
        document.as_bytes(),
    )
    .ok();
    let file = bundle.path().join("resources.json");
    fs::write(&file, json!({"unified": {"memory.high": "40000000"}}).to_string()).unwrap();
    berth.call(&["update", "-r", file.to_str().unwrap(), &id]).ok();
    let holds = |when: &str| {
        for (file, value) in [
            ("memory.max", "50331648"),
            ("memory.swap.max", "0"),
            ("pids.max", "13"),
            ("cpu.max", "44000 50000"),
            ("cpuset.cpus", "0"),
        ] {
            assert_eq!(read(&dir, file), value, "{file} {when}");
        }
        let high: u64 = read(&dir, "memory.high").parse().unwrap();
        assert!(
            (39_000_000..=40_000_000).contains(&high),
            "memory.high {when}: {high}"
        );
    };
    holds("after the update");
    run(Command::new("systemctl").arg("daemon-reload")).ok();
    holds("after systemd was reloaded");
    // What is refused changes nothing, in the unit neither.
    let refused = berth
        .call(&["update", "--pids-limit", "5", "--cpuset-cpus", "999", &id])
        .err();
    assert!(
        refused.contains("--cpuset-cpus: linux.resources.cpu.cpus"),
        "{refused}"
    );
    assert_eq!(show(&unit, "TasksMax"), "13");
    holds("after a refusal");
    berth.call(&["delete", "--force", &id]).ok();
    assert!(!loaded(&unit));
}
