//! Limits hold: memory, processes, cpu.

use std::time::{Duration, Instant};

use harness::{Bundle, need_root, wait_for};
use serde_json::json;

use crate::driver::{PATIENCE, Runtime, cgroup_file};

#[test]
fn an_allocator_is_killed_at_its_memory_limit() {
    need_root!();
    for runtime in Runtime::all() {
        // dd's buffer is memory of its own; the shell that waits for it survives to tell.
        let mut bundle = Bundle::new(&[
            "sh",
            "-c",
            "dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; echo dd $?",
        ]);
        bundle.edit(|config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
        });
        let text = runtime.run_bundle(&mut bundle).ok();
        assert_eq!(text, "dd 137\n", "{}: killed by SIGKILL", runtime.name);
        let mut small = Bundle::new(&[
            "sh",
            "-c",
            "dd if=/dev/zero of=/dev/null bs=8M count=1 2>/dev/null; echo dd $?",
        ]);
        small.edit(|config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
        });
        assert_eq!(
            runtime.run_bundle(&mut small).ok(),
            "dd 0\n",
            "{}: within the limit",
            runtime.name
        );
    }
}

#[test]
fn a_fork_bomb_is_stopped() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&[
            "sh",
            "-c",
            "f() { while :; do sleep 100 & done; }; f 2>/dev/null; sleep 1000",
        ]);
        bundle.edit(|config| config["linux"]["resources"]["pids"] = json!({"limit": 20}));
        let container = runtime.container(&mut bundle);
        container.start();
        let file = cgroup_file(&container.id, &["pids.current"]);
        let events = cgroup_file(&container.id, &["pids.events"]);
        wait_for("the limit to be hit", PATIENCE, || {
            let text = std::fs::read_to_string(&events).unwrap_or_default();
            let hits = text
                .lines()
                .find_map(|line| line.strip_prefix("max "))
                .unwrap_or("0")
                .trim()
                != "0";
            if hits { Ok(()) } else { Err(text) }
        });
        let now: u32 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        assert!(now <= 20, "{}: {now} processes", runtime.name);
        let started = Instant::now();
        container.verb("delete", &["--force"]).ok();
        assert!(started.elapsed() < PATIENCE);
    }
}

/// Microseconds of cpu time that a container has used.
fn cpu_time(cgroup: &str) -> u64 {
    let file = cgroup_file(cgroup, &["cpuacct.usage", "cpu.stat"]);
    let text = std::fs::read_to_string(&file).unwrap();
    if file.ends_with("cpuacct.usage") {
        return text.trim().parse::<u64>().unwrap() / 1000;
    }
    text.lines()
        .find_map(|line| line.strip_prefix("usage_usec "))
        .unwrap()
        .parse()
        .unwrap()
}

#[test]
fn a_spinner_is_held_to_its_quota() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "while :; do :; done"]);
        bundle
            .edit(|config| config["linux"]["resources"]["cpu"] = json!({"quota": 20_000, "period": 100_000}));
        let container = runtime.container(&mut bundle);
        container.start();
        let (began, before) = (Instant::now(), cpu_time(&container.id));
        wait_for("two seconds of measuring", PATIENCE, || {
            if began.elapsed() >= Duration::from_secs(2) {
                Ok(())
            } else {
                Err(())
            }
        });
        let (used, passed) = (cpu_time(&container.id) - before, began.elapsed());
        let share = Duration::from_micros(used).as_secs_f64() / passed.as_secs_f64();
        // A fifth of a cpu; a busy machine may give less, a period's boundary a little more.
        assert!(share < 0.30, "{}: used {share:.2} of a cpu", runtime.name);
        assert!(share > 0.01, "{}: did not spin", runtime.name);
    }
}

#[test]
fn a_limit_that_cannot_be_enforced_is_refused() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["true"]);
    bundle.edit(|config| {
        config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "3MB", "limit": 4096}]);
    });
    let error = runtime.run_bundle(&mut bundle).err();
    assert!(error.contains("linux.resources.hugepageLimits"), "{error}");
    // A device that is not there: the kernel refuses it, or has no such controller.
    let mut bundle = Bundle::new(&["true"]);
    bundle.edit(|config| config["linux"]["resources"]["rdma"] = json!({"nosuch_1": {"hcaHandles": 3}}));
    let container = runtime.container(&mut bundle);
    for verb in ["create", "run"] {
        let error = container.verb(verb, &[]).err().replace("\\\"", "\"");
        assert!(
            error.contains("linux.resources.rdma[\"nosuch_1\"]: the rdma controller is not available")
                || error
                    .contains("linux.resources.rdma[\"nosuch_1\"]: cannot write \"nosuch_1 hca_handle=3\""),
            "{error}"
        );
        assert!(!runtime.root().join(&container.id).exists());
        assert!(crate::driver::cgroups_named(&container.id).is_empty());
    }
}
