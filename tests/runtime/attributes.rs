//! What the kernel keeps about a process: limits, scheduling, placement, domain.

use harness::{Bundle, need_root, skip};
use serde_json::{Value, json};

use crate::driver::Runtime;

fn with(script: &str, change: impl FnOnce(&mut Value)) -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(change);
    bundle
}

fn hard_of(soft: u64) -> u64 {
    if soft == 0 { 0 } else { soft + 1 }
}

#[test]
fn all_sixteen_limits() {
    need_root!();
    // The words of the specification and of proc_pid_limits(5); whether seconds, bytes or numbers.
    let limits = [
        ("AS", "Max address space", 1_u64 << 40),
        ("CORE", "Max core file size", 1000),
        ("CPU", "Max cpu time", 4000),
        ("DATA", "Max data size", 1 << 33),
        ("FSIZE", "Max file size", 1 << 20),
        ("LOCKS", "Max file locks", 55),
        ("MEMLOCK", "Max locked memory", 1 << 16),
        ("MSGQUEUE", "Max msgqueue size", 4096),
        ("NICE", "Max nice priority", 11),
        ("NOFILE", "Max open files", 512),
        ("NPROC", "Max processes", 600),
        ("RSS", "Max resident set", 1 << 30),
        ("RTPRIO", "Max realtime priority", 13),
        ("RTTIME", "Max realtime timeout", 70_000),
        ("SIGPENDING", "Max pending signals", 88),
        ("STACK", "Max stack size", 1 << 23),
    ];
    // Where this test may not raise a limit, lowering it must do.
    let own = std::fs::read_to_string("/proc/self/limits").unwrap();
    let limits = limits.map(|(word, name, value)| {
        let line = own.lines().find(|line| line.starts_with(name)).unwrap();
        let hard = line[name.len()..].split_whitespace().nth(1).unwrap();
        let most: u64 = hard.parse().unwrap_or(u64::MAX);
        (word, name, value.min(most.saturating_sub(1)))
    });
    let asked: Value = limits
        .iter()
        .map(|(word, _, value)| json!({"type": format!("RLIMIT_{word}"), "soft": value, "hard": hard_of(*value)}))
        .collect();
    for runtime in Runtime::all() {
        let mut bundle = with("cat /proc/self/limits", |config| {
            config["process"]["rlimits"] = asked.clone()
        });
        let text = runtime.run_bundle(&mut bundle).ok();
        for (word, name, value) in limits {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            let found: Vec<&str> = line[name.len()..].split_whitespace().take(2).collect();
            assert_eq!(
                found,
                [value.to_string(), hard_of(value).to_string()],
                "{}: {word}: {line}",
                runtime.name
            );
        }
    }
}

/// Field of /proc/self/stat by its number in proc_pid_stat(5), of the shell itself.
fn stat(number: u32) -> String {
    format!("cut -d' ' -f{number} /proc/$$/stat")
}

#[test]
fn scheduling_policies() {
    need_root!();
    let script = format!("{}; {}; {}", stat(41), stat(40), stat(19));
    let cases = [
        (json!({"policy": "SCHED_OTHER", "nice": 5}), "0\n0\n5\n"),
        (json!({"policy": "SCHED_BATCH", "nice": -3}), "3\n0\n-3\n"),
        (json!({"policy": "SCHED_IDLE"}), "5\n0\n0\n"),
        (json!({"policy": "SCHED_FIFO", "priority": 10}), "1\n10\n0\n"),
        (json!({"policy": "SCHED_RR", "priority": 20}), "2\n20\n0\n"),
    ];
    for (scheduler, expected) in cases {
        let mut bundle = with(&script, |config| {
            config["process"]["scheduler"] = scheduler.clone()
        });
        let outcome = Runtime::berth().run_bundle(&mut bundle);
        let error = &outcome.stderr;
        if error.contains("process.scheduler") && error.contains("operation not permitted") {
            // No real-time scheduling in this cgroup.
            continue;
        }
        assert_eq!(outcome.ok(), expected, "{scheduler}");
    }
    // Children of a process that resets on fork are ordinary again.
    let script = format!("{}; cut -d' ' -f41 /proc/self/stat", stat(41));
    let scheduler = json!({"policy": "SCHED_BATCH", "nice": -1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
    let mut bundle = with(&script, |config| config["process"]["scheduler"] = scheduler);
    let outcome = Runtime::berth().run_bundle(&mut bundle);
    let text = outcome.ok();
    assert!(text.starts_with("3\n"), "{text}");
    let mut bundle = with("true", |config| {
        config["process"]["scheduler"] =
            json!({"policy": "SCHED_DEADLINE", "runtime": 10, "deadline": 5, "period": 5});
    });
    let error = Runtime::berth().run_bundle(&mut bundle).err();
    assert!(error.contains("process.scheduler"), "{error}");
}

#[test]
fn priorities_of_input_and_output() {
    need_root!();
    let busybox = "/bin/busybox ionice";
    for (class, priority, expected) in [
        ("IOPRIO_CLASS_BE", 3, "best-effort: prio 3"),
        ("IOPRIO_CLASS_IDLE", 0, "idle"),
        ("IOPRIO_CLASS_RT", 1, "realtime: prio 1"),
    ] {
        let mut bundle = with(busybox, |config| {
            config["process"]["ioPriority"] = json!({"class": class, "priority": priority});
        });
        let outcome = Runtime::berth().run_bundle(&mut bundle);
        if outcome.stderr.contains("applet not found") {
            skip!("busybox has no ionice");
        }
        let text = outcome.ok();
        assert!(text.starts_with(expected), "{class}: {text}");
    }
}

#[test]
fn a_domain_of_32_bits() {
    need_root!();
    if !cfg!(target_arch = "x86_64") {
        skip!("the name of 32-bit x86 is known here");
    }
    for (domain, machine) in [("LINUX32", "i686\n"), ("LINUX", "x86_64\n")] {
        for runtime in Runtime::all() {
            if runtime.name == "runc" {
                // Later than 1.1.
                continue;
            }
            let mut bundle = with("uname -m", |config| {
                config["linux"]["personality"] = json!({"domain": domain})
            });
            assert_eq!(runtime.run_bundle(&mut bundle).ok(), machine);
            // And for processes that come later.
            let mut sleeper = Bundle::new(&["sleep", "1000"]);
            sleeper.edit(|config| config["linux"]["personality"] = json!({"domain": domain}));
            let container = runtime.container(&mut sleeper);
            container.start();
            assert_eq!(container.exec(&["uname", "-m"]).ok(), machine);
        }
    }
}

#[test]
fn memory_is_placed_on_nodes() {
    need_root!();
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        skip!("this kernel has no NUMA");
    }
    for (policy, expected) in [
        (json!({"mode": "MPOL_BIND", "nodes": "0"}), "bind:0"),
        (json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"}), "interleave:0"),
        (json!({"mode": "MPOL_PREFERRED", "nodes": "0"}), "prefer:0"),
        (json!({"mode": "MPOL_LOCAL"}), "local"),
        (
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]}),
            "bind=static:0",
        ),
        (json!({"mode": "MPOL_DEFAULT"}), "default"),
    ] {
        let mut bundle = with("cat /proc/self/numa_maps", |config| {
            config["linux"]["memoryPolicy"] = policy.clone()
        });
        let text = Runtime::berth().run_bundle(&mut bundle).ok();
        assert!(text.contains(&format!(" {expected} ")), "{policy}: {text}");
    }
    let mut bundle = with("true", |config| {
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "63"});
    });
    let error = Runtime::berth().run_bundle(&mut bundle).err();
    assert!(error.contains("linux.memoryPolicy"), "{error}");
}

#[test]
fn how_eagerly_memory_is_taken_from_it() {
    need_root!();
    for runtime in Runtime::all() {
        // Lowering it takes a right that this test may not have.
        let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj")
            .unwrap()
            .trim()
            .parse()
            .unwrap();
        for score in [own, 321, 1000] {
            let mut bundle = with("cat /proc/self/oom_score_adj", |config| {
                config["process"]["oomScoreAdj"] = json!(score);
            });
            assert_eq!(
                runtime.run_bundle(&mut bundle).ok(),
                format!("{score}\n"),
                "{}",
                runtime.name
            );
        }
    }
}

#[test]
fn clocks_have_their_offsets() {
    need_root!();
    if !std::path::Path::new("/proc/self/timens_offsets").exists() {
        skip!("this kernel has no time namespaces");
    }
    let mut bundle = with("cat /proc/self/timens_offsets", |config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "time"}));
        config["linux"]["timeOffsets"] = json!({
            "monotonic": {"secs": 86_400, "nanosecs": 7}, "boottime": {"secs": -1, "nanosecs": 5},
        });
    });
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    let fields: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(fields, [["monotonic", "86400", "7"], ["boottime", "-1", "5"]]);
}

#[test]
fn block_devices_and_unbuffered_ones() {
    need_root!();
    let disk = std::fs::read_dir("/sys/block")
        .ok()
        .and_then(|list| list.flatten().next())
        .map(|entry| std::fs::read_to_string(entry.path().join("dev")).unwrap());
    let Some(disk) = disk else {
        skip!("no block device here")
    };
    let (major, minor) = disk.trim().split_once(':').unwrap();
    let (major, minor): (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
    for runtime in Runtime::all() {
        let mut bundle = with("stat -c '%F %t:%T %a' /dev/disk /dev/unbuffered", |config| {
            config["linux"]["devices"] = json!([
                {"path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o600},
                {"path": "/dev/unbuffered", "type": "u", "major": 1, "minor": 5, "fileMode": 0o644},
            ]);
        });
        assert_eq!(
            runtime.run_bundle(&mut bundle).ok(),
            format!("block special file {major:x}:{minor:x} 600\ncharacter special file 1:5 644\n"),
            "{}",
            runtime.name
        );
    }
}

#[test]
fn devices_of_a_user_namespace_are_the_hosts() {
    need_root!();
    for runtime in Runtime::all() {
        let script =
            "stat -c '%F %t:%T' /dev/null /dev/fuse; echo x > /dev/null && head -c 1 /dev/zero | wc -c";
        let mut bundle = with(script, |config| {
            config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": "user"}));
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            config["linux"]["uidMappings"] = ids.clone();
            config["linux"]["gidMappings"] = ids;
            config["linux"]["devices"] =
                json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
        });
        if !std::path::Path::new("/dev/fuse").exists() {
            skip!("no /dev/fuse here");
        }
        std::fs::set_permissions(bundle.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert_eq!(
            runtime.run_bundle(&mut bundle).ok(),
            "character special file 1:3\ncharacter special file a:e5\n1\n",
            "{}",
            runtime.name
        );
    }
}
