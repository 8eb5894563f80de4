//! `update`: limits of a running container change, one by one and together, and hold.

use std::fs;

use harness::{Bundle, Outcome, need_root, run_with_input, skip, wait_for};
use serde_json::{Value, json};

use crate::driver::{Container, PATIENCE, Runtime, cgroup_file};

/// A file of the container's cgroup, by its names on v1 and v2; without its unit's differences.
fn value(container: &Container<'_>, names: &[&str]) -> String {
    let path = cgroup_file(&container.id, names);
    fs::read_to_string(path).unwrap().trim().to_owned()
}

fn limited() -> Bundle {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 64 << 20, "swap": 96 << 20, "reservation": 48 << 20},
            "pids": {"limit": 31},
            "cpu": {"quota": 50_000, "period": 100_000, "shares": 512, "cpus": "0"},
        });
    });
    bundle
}

#[track_caller]
fn update(container: &Container<'_>, options: &[&str]) -> Outcome {
    container.verb("update", options)
}

/// Updates by a document on standard input.
#[track_caller]
fn update_by(container: &Container<'_>, document: &Value) -> Outcome {
    let mut command = container.command("update", &["--resources", "-"]);
    run_with_input(&mut command, document.to_string().as_bytes())
}

const MEMORY: &[&str] = &["memory.limit_in_bytes", "memory.max"];
const RESERVATION: &[&str] = &["memory.soft_limit_in_bytes", "memory.low"];
const PIDS: &[&str] = &["pids.max"];
const SHARES: &[&str] = &["cpu.shares"];
const CPUS: &[&str] = &["cpuset.cpus"];

/// "quota period", on v1 and v2.
fn bandwidth(container: &Container<'_>) -> String {
    let found = value(container, &["cpu.cfs_quota_us", "cpu.max"]);
    if found.contains(' ') {
        return found;
    }
    format!("{found} {}", value(container, &["cpu.cfs_period_us"]))
}

/// Memory and swap together, on v1 and v2.
fn total(container: &Container<'_>) -> u64 {
    let swap: u64 = value(container, &["memory.memsw.limit_in_bytes", "memory.swap.max"])
        .parse()
        .unwrap();
    let memory: u64 = value(container, MEMORY).parse().unwrap();
    // The file of v2 is about swap alone.
    if on_v2(container) { swap + memory } else { swap }
}

fn on_v2(container: &Container<'_>) -> bool {
    cgroup_file(&container.id, MEMORY).ends_with("memory.max")
}

fn present(container: &Container<'_>) -> [String; 5] {
    [
        value(container, MEMORY),
        value(container, RESERVATION),
        value(container, PIDS),
        bandwidth(container),
        value(container, CPUS),
    ]
}

#[test]
fn each_option_changes_its_limit_and_no_other() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        let expected = |container: &Container<'_>, change: &dyn Fn(&mut [String; 5])| {
            let mut expected = present(container);
            change(&mut expected);
            expected
        };
        type Change = (&'static [&'static str], usize, &'static str);
        let cases: [Change; 8] = [
            (&["--memory", "33554432"], 0, "33554432"),
            (&["--memory", "48m"], 0, "50331648"),
            (&["--memory-reservation", "24MiB"], 1, "25165824"),
            (&["--pids-limit", "17"], 2, "17"),
            (&["--cpu-quota", "30000"], 3, "30000 100000"),
            (&["--cpu-period", "50000"], 3, "30000 50000"),
            (
                &["--cpu-quota", "20000", "--cpu-period", "40000"],
                3,
                "20000 40000",
            ),
            (&["--cpuset-cpus", "0-1"], 4, "0-1"),
        ];
        let processors = std::thread::available_parallelism().unwrap().get();
        for (options, at, wanted) in cases {
            if wanted == "0-1" && processors < 2 {
                continue;
            }
            let want = expected(&container, &|values| wanted.clone_into(&mut values[at]));
            assert_eq!(update(&container, options).ok(), "");
            assert_eq!(present(&container), want, "{}: {options:?}", runtime.name);
        }
        update(&container, &["--cpu-share", "777"]).ok();
        if !on_v2(&container) {
            assert_eq!(value(&container, SHARES), "777");
        }
        update(&container, &["--cpuset-mems", "0"]).ok();
        assert_eq!(value(&container, &["cpuset.mems"]), "0");
        if runtime.name == "berth" {
            // Later than runc 1.1.
            update(&container, &["--cpu-burst", "7000"]).ok();
            let burst = value(&container, &["cpu.cfs_burst_us", "cpu.max.burst"]);
            assert_eq!(burst, "7000");
            update(&container, &["--cpu-idle", "1"]).ok();
            assert_eq!(value(&container, &["cpu.idle"]), "1");
            update(&container, &["--cpu-idle", "0"]).ok();
            realtime(&container);
            block_io_weight(&container);
        }
        update(&container, &["--pids-limit", "-1"]).ok();
        assert_eq!(value(&container, PIDS), "max");
        update(&container, &["--memory", "-1", "--memory-swap", "-1"]).ok();
        let unlimited = value(&container, MEMORY);
        assert!(unlimited == "max" || unlimited.len() > 18, "{unlimited}");
    }
}

/// Real-time runtime and period, which only v1 has, and there only with CONFIG_RT_GROUP_SCHED.
#[track_caller]
fn realtime(container: &Container<'_>) {
    let options = ["--cpu-rt-period", "900000", "--cpu-rt-runtime", "0"];
    let outcome = update(container, &options);
    if outcome.status.success() {
        assert_eq!(value(container, &["cpu.rt_period_us"]), "900000");
        assert_eq!(value(container, &["cpu.rt_runtime_us"]), "0");
    } else {
        let error = outcome.err();
        assert!(
            error.contains("--cpu-rt-period: linux.resources.cpu.realtimePeriod")
                || error.contains("--cpu-rt-runtime: linux.resources.cpu.realtimeRuntime"),
            "{error}"
        );
    }
}

/// The weight of block input and output, where some scheduler of the host's has one.
#[track_caller]
fn block_io_weight(container: &Container<'_>) {
    let outcome = update(container, &["--blkio-weight", "300"]);
    if outcome.status.success() {
        let weight = value(
            container,
            &["blkio.bfq.weight", "blkio.weight", "io.bfq.weight", "io.weight"],
        );
        assert!(weight.ends_with("300") || weight.ends_with("2930"), "{weight}");
    } else {
        let error = outcome.err();
        assert!(
            error.contains("--blkio-weight: linux.resources.blockIO.weight"),
            "{error}"
        );
    }
}

#[test]
fn memory_and_swap_move_together() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        if total(&container) != 96 << 20 {
            skip!("no swap accounting here");
        }
        // Swap alone: on v2 this needs the limit of the creation.
        update(&container, &["--memory-swap", "128m"]).ok();
        assert_eq!(
            (total(&container), value(&container, MEMORY)),
            (128 << 20, (64 << 20).to_string())
        );
        // Memory alone: what both may use stays.
        update(&container, &["--memory", "32m"]).ok();
        assert_eq!(total(&container), 128 << 20, "{}", runtime.name);
        // Both up and down again, past each other.
        for size in [256, 16] {
            let (memory, swap) = (format!("{size}m"), format!("{}m", size * 2));
            update(&container, &["--memory", &memory, "--memory-swap", &swap]).ok();
            assert_eq!(total(&container), (size * 2) << 20);
        }
        // Less in all than of memory alone.
        let error = update(&container, &["--memory", "100m"]).err();
        if runtime.name == "berth" {
            assert!(
                error.contains("--memory-swap: linux.resources.memory.swap"),
                "{error}"
            );
        }
        assert_eq!(value(&container, MEMORY), (16 << 20).to_string());
    }
}

#[test]
fn a_document_changes_many_at_once() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        let document = json!({
            "memory": {"limit": 40 << 20, "swap": 80 << 20, "reservation": 20 << 20},
            "cpu": {"quota": 60_000, "period": 120_000, "cpus": "0", "mems": "0"},
            "pids": {"limit": 21},
        });
        update_by(&container, &document).ok();
        let want = ["41943040", "20971520", "21", "60000 120000", "0"];
        assert_eq!(present(&container), want, "{}", runtime.name);
        // The same from a file, and only a part of it.
        let file = bundle.path().join("resources.json");
        fs::write(
            &file,
            json!({"pids": {"limit": 22}, "memory": {}, "blockIO": {}}).to_string(),
        )
        .unwrap();
        update(&container, &["-r", file.to_str().unwrap()]).ok();
        let want = ["41943040", "20971520", "22", "60000 120000", "0"];
        assert_eq!(present(&container), want, "{}", runtime.name);
        // With a document, other options are ignored.
        update(&container, &["-r", file.to_str().unwrap(), "--memory", "1g"]).ok();
        assert_eq!(present(&container), want);
    }
}

/// Some block device of this host.
fn disk() -> Option<(u64, u64)> {
    let text = fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .find_map(|entry| fs::read_to_string(entry.path().join("dev")).ok())?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[test]
fn io_of_a_device_is_throttled() {
    need_root!();
    let Some((major, minor)) = disk() else {
        skip!("no block device here")
    };
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        let rate = |rate: u64| json!([{"major": major, "minor": minor, "rate": rate}]);
        let document =
            json!({"blockIO": {"throttleReadBpsDevice": rate(1 << 20), "throttleWriteIOPSDevice": rate(77)}});
        let updated = update_by(&container, &document);
        if runtime.name == "runc" && !updated.status.success() {
            // runc 1.1 on some kernels.
            continue;
        }
        updated.ok();
        let device = format!("{major}:{minor}");
        if on_v2(&container) {
            let line = value(&container, &["io.max"]);
            assert_eq!(
                line,
                format!("{device} rbps=1048576 wbps=max riops=max wiops=77"),
                "{}",
                runtime.name
            );
        } else if runtime.name == "berth" {
            // runc 1.1 cannot change these.
            let read = value(&container, &["blkio.throttle.read_bps_device"]);
            assert_eq!(read, format!("{device} 1048576"));
            let write = value(&container, &["blkio.throttle.write_iops_device"]);
            assert_eq!(write, format!("{device} 77"));
        }
        if runtime.name == "berth" {
            // A second update of another value keeps the first.
            update_by(
                &container,
                &json!({"blockIO": {"throttleWriteIOPSDevice": rate(78)}}),
            )
            .ok();
            let read = value(&container, &["blkio.throttle.read_bps_device", "io.max"]);
            assert!(read.contains("1048576"), "{read}");
            let error = update_by(
                &container,
                &json!({"blockIO": {"throttleReadBpsDevice": [{"major": 4095, "minor": 1, "rate": 5}]}}),
            )
            .err();
            assert!(
                error.contains("linux.resources.blockIO.throttleReadBpsDevice"),
                "{error}"
            );
        }
    }
}

#[test]
fn devices_are_opened_and_closed_by_a_document() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = limited();
    bundle.edit(|config| {
        config["linux"]["devices"] =
            json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}]);
    });
    let container = runtime.container(&mut bundle);
    container.start();
    let opens = || container.exec(&["sh", "-c", "exec 3</dev/fuse"]).status.success();
    assert!(!opens());
    let allow = |yes: bool| {
        json!({"devices": [
            {"allow": false, "access": "rwm"},
            {"allow": yes, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        ]})
    };
    update_by(&container, &allow(true)).ok();
    assert!(opens(), "allowed now");
    update(&container, &["--pids-limit", "30"]).ok();
    assert!(opens(), "other updates leave the devices alone");
    update_by(&container, &allow(false)).ok();
    assert!(!opens(), "denied again");
    assert!(
        container
            .exec(&["sh", "-c", "echo x > /dev/null"])
            .status
            .success()
    );
}

#[test]
fn a_new_limit_is_felt_inside() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        update(&container, &["--pids-limit", "4"]).ok();
        let forks = "for i in 1 2 3 4 5 6; do sleep 1 & done; wait";
        let outcome = container.exec(&["sh", "-c", forks]);
        assert!(
            outcome.stderr.contains("can't fork") || !outcome.status.success(),
            "{}: {}",
            runtime.name,
            outcome.stderr
        );
        update(
            &container,
            &["--pids-limit", "50", "--memory", "16m", "--memory-swap", "16m"],
        )
        .ok();
        let eats = "dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null; echo $?";
        let text = container.exec(&["sh", "-c", eats]).ok();
        assert_eq!(text, "137\n", "{}: killed at the new limit", runtime.name);
    }
}

#[test]
fn a_refused_update_changes_nothing_and_names_the_option() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = limited();
    let container = runtime.container(&mut bundle);
    container.start();
    let before = present(&container);
    let cases: [(&[&str], &str); 12] = [
        (&["--cpu-quota", "x"], "invalid value for cpu-quota"),
        (&["--cpu-period", "-1"], "invalid value for cpu-period"),
        (&["--memory=-5m"], "invalid value for memory"),
        (&["--memory", "12q"], "such as 67108864, 64m"),
        (&["--pids-limit", "many"], "invalid value for pids-limit"),
        (
            &["--blkio-weight", "5"],
            "--blkio-weight: linux.resources.blockIO.weight: 5 is out of range",
        ),
        (
            &["--cpu-period", "10"],
            "--cpu-period: linux.resources.cpu.period: 10 is out of range",
        ),
        (&["--cpu-idle", "3"], "--cpu-idle: linux.resources.cpu.idle"),
        (&["--cpuset-cpus", "x"], "--cpuset-cpus: linux.resources.cpu.cpus"),
        // The first of two is possible: it is taken back.
        (
            &["--memory", "40m", "--cpuset-cpus", "9999"],
            "--cpuset-cpus: linux.resources.cpu.cpus: cannot write",
        ),
        (&["--l3-cache-schema", "L3:0=f"], "l3 cache schema is not enabled"),
        (
            &["--mem-bw-schema", "MB:0=20"],
            "memory bandwidth schema is not enabled",
        ),
    ];
    let resctrl = std::path::Path::new("/sys/fs/resctrl/schemata").exists();
    for (options, message) in cases {
        if resctrl && message.contains("not enabled") {
            continue;
        }
        let error = update(&container, options).err();
        assert!(error.contains(message), "{options:?}: {error}");
        assert_eq!(present(&container), before, "{options:?}");
    }
    let error = update_by(&container, &json!({"memory": {"limit": "much"}})).err();
    assert!(
        error.contains("--resources: -:1:") && error.contains("memory.limit"),
        "{error}"
    );
    let error = update(&container, &["-r", "/no/such/file"]).err();
    assert!(
        error.contains("open /no/such/file: no such file or directory"),
        "{error}"
    );
    let error = update_by(
        &container,
        &json!({"pids": {"limit": 5}, "cpu": {"cpus": "9999"}}),
    )
    .err();
    assert!(
        error.contains("--resources -: linux.resources.cpu.cpus"),
        "{error}"
    );
    assert_eq!(present(&container), before);
}

#[test]
fn only_a_running_container_is_updated() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        // Before its start and while it is paused, too.
        container.create();
        update(&container, &["--pids-limit", "9"]).ok();
        assert_eq!(value(&container, PIDS), "9");
        container.verb("start", &[]).ok();
        container.verb("pause", &[]).ok();
        update(&container, &["--pids-limit", "8"]).ok();
        assert_eq!(container.status(), "paused", "{}", runtime.name);
        assert_eq!(value(&container, PIDS), "8");
        container.verb("resume", &[]).ok();
        container.kill("KILL").ok();
        container.wait("stopped");
        let error = update(&container, &["--pids-limit", "7"]).err();
        assert!(error.contains("container not running"), "{error}");
        assert!(
            runtime
                .call(&["update", "nosuch"])
                .err()
                .contains("container does not exist")
        );
    }
}

#[test]
fn an_update_is_kept_with_the_container() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = limited();
    let container = runtime.container(&mut bundle);
    container.start();
    update(&container, &["--memory", "80m", "--pids-limit", "40"]).ok();
    update_by(
        &container,
        &json!({"cpu": {"shares": 300}, "memory": {"checkBeforeUpdate": true}}),
    )
    .ok();
    let path = runtime.root().join(&container.id).join("config.json");
    let config: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let resources = &config["linux"]["resources"];
    assert_eq!(
        resources["memory"],
        json!({"limit": 80 << 20, "swap": 96 << 20, "reservation": 48 << 20})
    );
    assert_eq!(resources["pids"], json!({"limit": 40}));
    assert_eq!(resources["cpu"]["shares"], 300);
    assert_eq!(resources["cpu"]["quota"], 50_000);
    assert_eq!(config["process"]["args"], json!(["sleep", "1000"]));
    // Later verbs read it.
    assert_eq!(container.exec(&["echo", "there"]).ok(), "there\n");
    wait_for("the container to be as before", PATIENCE, || {
        match container.status() {
            status if status == "running" => Ok(()),
            status => Err(status),
        }
    });
}

#[test]
fn a_limit_below_what_is_in_use_can_be_refused_beforehand() {
    need_root!();
    let runtime = Runtime::berth();
    // Page cache of a tmpfs is memory that cannot go away.
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "dd if=/dev/zero of=/dev/shm/x bs=1M count=24 2>/dev/null; sleep 1000",
    ]);
    bundle.edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20, "swap": 64 << 20});
    });
    let container = runtime.container(&mut bundle);
    container.start();
    let usage = cgroup_file(&container.id, &["memory.usage_in_bytes", "memory.current"]);
    wait_for("memory to be in use", PATIENCE, || {
        let used: u64 = fs::read_to_string(&usage).unwrap().trim().parse().unwrap();
        if used > 24 << 20 { Ok(()) } else { Err(used) }
    });
    let document = json!({"memory": {"limit": 8 << 20, "swap": 8 << 20, "checkBeforeUpdate": true}});
    let error = update_by(&container, &document).err();
    assert!(error.contains("linux.resources.memory"), "{error}");
    assert_eq!(value(&container, MEMORY), (64 << 20).to_string());
    assert_eq!(container.status(), "running");
}
