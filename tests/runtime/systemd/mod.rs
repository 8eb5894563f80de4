//! `--systemd-cgroup`: a container's cgroup is a scope of systemd's. These need systemd as PID 1, which the machine of
//! `tests/vm` has; elsewhere they skip, but for the one about the honest refusal.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Bundle, Outcome, need_root, run, wait_for};
use serde_json::{Value, json};

use crate::driver::{PATIENCE, Runtime, unique};

/// Skips the test unless systemd is the system's service manager.
macro_rules! need_systemd {
    () => {
        need_root!();
        if !systemd_runs() || !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            harness::skip!("needs systemd as PID 1");
        }
    };
}

mod session;
mod update;

fn systemd_runs() -> bool {
    Path::new("/run/systemd/private").exists()
}

/// `berth --systemd-cgroup` with a state root of its own, and containers that go with the value.
struct Berth {
    runtime: Runtime,
    started: std::cell::RefCell<Vec<String>>,
}

impl Berth {
    fn new() -> Self {
        Self {
            runtime: Runtime::berth(),
            started: std::cell::RefCell::default(),
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut all = vec!["--systemd-cgroup"];
        all.extend(args);
        self.runtime.command(&all)
    }

    fn call(&self, args: &[&str]) -> Outcome {
        run(&mut self.command(args))
    }

    /// Runs `bundle` in the background.
    fn start(&self, bundle: &Bundle, id: &str) {
        self.started.borrow_mut().push(id.to_owned());
        self.call(&["run", "--detach", "--bundle", bundle.path().to_str().unwrap(), id])
            .ok();
    }

    fn run(&self, bundle: &Bundle) -> Outcome {
        let id = unique();
        let outcome = self.call(&["run", "--bundle", bundle.path().to_str().unwrap(), &id]);
        assert!(!self.runtime.root().join(&id).exists(), "{}", outcome.stderr);
        outcome
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        for id in self.started.borrow().iter() {
            let _ = self.command(&["delete", "--force", id]).output();
        }
    }
}

/// A bundle that sleeps, with this cgroup path.
fn sleeper(path: &str) -> Bundle {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!(path));
    bundle
}

fn show(unit: &str, property: &str) -> String {
    let text = run(Command::new("systemctl").args(["show", "--value", "--property", property, unit])).ok();
    text.trim_end().to_owned()
}

fn loaded(unit: &str) -> bool {
    show(unit, "LoadState") == "loaded"
}

fn read(dir: &Path, file: &str) -> String {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

fn cgroup_of(pid: &Value) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let path = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
    Path::new("/sys/fs/cgroup").join(path.trim_start_matches('/'))
}

#[test]
fn without_systemd_it_says_so_and_leaves_nothing() {
    need_root!();
    let berth = Berth::new();
    let bundle = sleeper("system.slice:berth:none");
    if !systemd_runs() {
        let error = berth.run(&bundle).err();
        assert!(
            error.contains("systemd not running on this host, cannot use systemd cgroups manager"),
            "{error}"
        );
        assert!(error.contains("leave --systemd-cgroup out"), "{error}");
    }
    // What is wrong with the path or an annotation is told before anybody is asked.
    let mut bundle = sleeper("/a/b");
    let error = berth.run(&bundle).err();
    assert!(
        error.contains("expected cgroupsPath to be of format") && error.contains("/a/b"),
        "{error}"
    );
    bundle.edit(|config| config["linux"]["cgroupsPath"] = json!("a--b.slice:p:n"));
    assert!(berth.run(&bundle).err().contains("must stand between names"));
    for (name, value, want) in [
        ("PIDs", "[uint32 1]", "the runtime's own to set"),
        ("Slice", "'other.slice'", "the runtime's own to set"),
        ("Description", "'a\nExecStart=/bin/sh'", "control character"),
        ("Description", "'a' garbage", "unexpected 'g' after the value"),
        ("Memory-Max", "5", "write a property's name"),
    ] {
        bundle.edit(|config| {
            config["linux"]["cgroupsPath"] = json!("");
            config["annotations"] = json!({format!("org.systemd.property.{name}"): value});
        });
        let error = berth.run(&bundle).err();
        assert!(error.contains(&format!("org.systemd.property.{name}")), "{error}");
        assert!(error.contains(want), "{error}");
    }
    // Without the option, systemd's form is refused with the way out.
    let error = Runtime::berth()
        .call(&[
            "run",
            "--bundle",
            sleeper("a.slice:b:c").path().to_str().unwrap(),
            &unique(),
        ])
        .err();
    assert!(error.contains("use --systemd-cgroup"), "{error}");
}

#[test]
fn a_container_is_a_scope_in_its_slice() {
    need_systemd!();
    let berth = Berth::new();
    let id = unique();
    let mut bundle = sleeper(&format!("berthtest-a.slice:pre:{id}"));
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({
            "memory": {"limit": 64 << 20, "swap": 80 << 20, "reservation": 32 << 20},
            "cpu": {"quota": 33_000, "period": 100_000, "shares": 512, "cpus": "0"},
            "pids": {"limit": 40},
            "unified": {"memory.high": "60000000", "hugetlb.2MB.max": "0"},
            "devices": [{"allow": false, "access": "rwm"}],
        });
        config["annotations"] = json!({
            "org.systemd.property.TimeoutStopSec": "uint64 7",
            "org.systemd.property.CollectMode": "'inactive-or-failed'",
            "org.systemd.property.Description": "'what the user calls it'",
        });
    });
    berth.start(&bundle, &id);
    let unit = format!("pre-{id}.scope");
    let dir = PathBuf::from(format!("/sys/fs/cgroup/berthtest.slice/berthtest-a.slice/{unit}"));
    let state: Value = serde_json::from_str(&berth.call(&["state", &id]).ok()).unwrap();
    assert_eq!(cgroup_of(&state["pid"]), dir);
    assert_eq!(
        read(&dir, "cgroup.procs"),
        state["pid"].to_string(),
        "the placeholder is gone"
    );
    for (property, want) in [
        ("Slice", "berthtest-a.slice"),
        ("Delegate", "yes"),
        ("Description", "what the user calls it"),
        ("CollectMode", "inactive-or-failed"),
        ("TimeoutStopUSec", "7s"),
        ("MemoryMax", "67108864"),
        ("MemorySwapMax", "16777216"),
        ("MemoryLow", "33554432"),
        ("MemoryHigh", "60000000"),
        ("CPUQuotaPerSecUSec", "330ms"),
        ("CPUQuotaPeriodUSec", "100ms"),
        ("CPUWeight", "59"),
        ("AllowedCPUs", "0"),
        ("TasksMax", "40"),
        ("DevicePolicy", "strict"),
    ] {
        assert_eq!(show(&unit, property), want, "{property}");
    }
    let files = [
        ("memory.max", "67108864"),
        ("memory.swap.max", "16777216"),
        ("memory.low", "33554432"),
        ("cpu.max", "33000 100000"),
        ("cpu.weight", "59"),
        ("cpuset.cpus", "0"),
        ("pids.max", "40"),
        ("hugetlb.2MB.max", "0"),
    ];
    let holds = |when: &str| {
        for (file, want) in files {
            assert_eq!(read(&dir, file), want, "{file} {when}");
        }
    };
    holds("after the start");
    run(Command::new("systemctl").arg("daemon-reload")).ok();
    holds("after systemd was reloaded");
    // Both filters: a device of the default list works, another does not, and /dev/null still after the reload.
    let probe = "echo >/dev/null && mknod /tmp/fuse c 10 229 2>/dev/null; (: </tmp/fuse) 2>&1; echo";
    let text = berth.call(&["exec", "--cap", "CAP_MKNOD", &id, "sh", "-c", probe]);
    assert!(
        text.stdout.contains("not permitted") || text.stdout.contains("can't open"),
        "{text:?}"
    );
    // exec is in the scope, too.
    let inside = berth.call(&["exec", &id, "cat", "/proc/self/cgroup"]).ok();
    assert_eq!(inside, "0::/\n");
    berth.call(&["delete", "--force", &id]).ok();
    assert!(!loaded(&unit));
    assert!(!dir.exists());
}

#[test]
fn the_default_is_a_scope_of_the_id_in_the_system_slice() {
    need_systemd!();
    let berth = Berth::new();
    let bundle = sleeper("");
    let id = unique();
    berth.start(&bundle, &id);
    let unit = format!("berth-{id}.scope");
    assert_eq!(show(&unit, "ControlGroup"), format!("/system.slice/{unit}"));
    assert_eq!(show(&unit, "Description"), format!("berth container {id}"));
    assert_eq!(show(&unit, "MemoryMax"), "infinity");
    // A running container keeps its name to itself.
    let other = unique();
    let taken = sleeper(&format!("system.slice:berth:{id}"));
    let error = berth
        .call(&["run", "--bundle", taken.path().to_str().unwrap(), &other])
        .err();
    assert!(error.contains(&unit) && error.contains("UnitExists"), "{error}");
    assert!(!berth.runtime.root().join(&other).exists());
    assert_eq!(show(&unit, "ActiveState"), "active");
    // The end of its process is the end of the scope; delete takes what is left.
    berth.call(&["kill", &id, "KILL"]).ok();
    wait_for("the scope to end", PATIENCE, || {
        if show(&unit, "ActiveState") == "active" {
            Err(())
        } else {
            Ok(())
        }
    });
    berth.call(&["delete", &id]).ok();
    assert!(!loaded(&unit));
}

#[test]
fn a_killed_containers_unit_does_not_stand_in_the_way() {
    need_systemd!();
    let berth = Berth::new();
    let name = unique();
    let mut bundle = Bundle::new(&["dd", "if=/dev/zero", "of=/dev/null", "bs=300000000", "count=1"]);
    bundle.edit(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("system.slice:berth:{name}"));
        config["linux"]["resources"]["memory"] = json!({"limit": 24 << 20, "swap": 24 << 20});
    });
    for round in 0..2 {
        let outcome = berth.run(&bundle);
        assert_eq!(outcome.code(), 137, "{round}: {}", outcome.stderr);
        assert!(!loaded(&format!("berth-{name}.scope")));
    }
    // A failed unit that nobody deleted: systemd's memory of it is reset.
    let unit = format!("berth-{name}.scope");
    run(Command::new("systemd-run")
        .args(["--scope", "--quiet", "--unit", &unit, "-p", "MemoryMax=16M"])
        .args([
            "-p",
            "MemorySwapMax=0",
            "/bin/busybox",
            "dd",
            "if=/dev/zero",
            "of=/dev/null",
            "bs=300000000",
            "count=1",
        ]))
    .err();
    wait_for("the unit to have failed", PATIENCE, || {
        match show(&unit, "ActiveState") {
            state if state == "failed" => Ok(()),
            state => Err(state),
        }
    });
    assert_eq!(berth.run(&bundle).code(), 137);
}

#[test]
fn a_subgroup_is_where_the_container_is() {
    need_systemd!();
    let berth = Berth::new();
    let id = unique();
    let mut bundle = sleeper("");
    bundle.edit(|config| {
        config["annotations"] = json!({"run.oci.systemd.subgroup": "container"});
        config["linux"]["resources"]["pids"] = json!({"limit": 30});
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    });
    berth.start(&bundle, &id);
    let scope = PathBuf::from(format!("/sys/fs/cgroup/system.slice/berth-{id}.scope"));
    let state: Value = serde_json::from_str(&berth.call(&["state", &id]).ok()).unwrap();
    assert_eq!(cgroup_of(&state["pid"]), scope.join("container"));
    assert_eq!(read(&scope.join("container"), "pids.max"), "30");
    assert_eq!(
        read(&scope.join("container"), "memory.max"),
        (64u64 << 20).to_string()
    );
    assert_eq!(read(&scope, "cgroup.procs"), "");
    berth.call(&["delete", "--force", &id]).ok();
    assert!(!scope.exists());
}

#[test]
fn a_create_that_was_cut_off_is_deleted_with_its_scope() {
    need_systemd!();
    let berth = Berth::new();
    let id = unique();
    let bundle = sleeper("");
    berth
        .call(&["create", "--bundle", bundle.path().to_str().unwrap(), &id])
        .ok();
    fs::remove_file(berth.runtime.root().join(&id).join("state.json")).unwrap();
    let unit = format!("berth-{id}.scope");
    assert!(loaded(&unit));
    berth.call(&["delete", "--force", &id]).ok();
    wait_for("the scope to be gone", PATIENCE, || {
        if loaded(&unit) { Err(()) } else { Ok(()) }
    });
}

#[test]
fn a_bus_address_in_the_environment_is_used() {
    need_systemd!();
    let berth = Berth::new();
    let bundle = Bundle::new(&["true"]);
    let with = |address: &str| {
        let id = unique();
        let mut command = berth.command(&["run", "--bundle", bundle.path().to_str().unwrap(), &id]);
        run(command.env("DBUS_SYSTEM_BUS_ADDRESS", address))
    };
    // Through the message bus, where systemd is one among others.
    with("unix:path=/run/dbus/system_bus_socket").ok();
    let error = with("tcp:host=localhost").err();
    assert!(error.contains("DBUS_SYSTEM_BUS_ADDRESS"), "{error}");
}

#[test]
fn on_a_hybrid_host_every_hierarchy_has_the_scope() {
    need_root!();
    let root = Path::new("/sys/fs/cgroup");
    if !systemd_runs() || !root.join("memory").exists() {
        harness::skip!("needs systemd as PID 1 of a hybrid host");
    }
    let berth = Berth::new();
    let id = unique();
    let mut bundle = sleeper(&format!("berthtest-a.slice:pre:{id}"));
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({
            "memory": {"limit": 64 << 20}, "cpu": {"shares": 512, "quota": 25_000, "period": 100_000, "cpus": "0"},
            "pids": {"limit": 40}, "devices": [{"allow": false, "access": "rwm"}],
        });
    });
    berth.start(&bundle, &id);
    let unit = format!("pre-{id}.scope");
    let scope = format!("berthtest.slice/berthtest-a.slice/{unit}");
    let state: Value = serde_json::from_str(&berth.call(&["state", &id]).ok()).unwrap();
    let text = fs::read_to_string(format!("/proc/{}/cgroup", state["pid"])).unwrap();
    assert!(
        text.lines().all(|line| line.ends_with(&format!(":/{scope}"))),
        "{text}"
    );
    let holds = |when: &str| {
        for (file, want) in [
            ("memory/SCOPE/memory.limit_in_bytes", "67108864"),
            ("cpu,cpuacct/SCOPE/cpu.shares", "512"),
            ("cpu,cpuacct/SCOPE/cpu.cfs_quota_us", "25000"),
            ("cpuset/SCOPE/cpuset.cpus", "0"),
            ("pids/SCOPE/pids.max", "40"),
        ] {
            assert_eq!(read(root, &file.replace("SCOPE", &scope)), want, "{file} {when}");
        }
        let devices = read(root, &format!("devices/{scope}/devices.list"));
        assert!(
            devices.contains("c 1:3 rwm") && !devices.contains("a *:* rwm"),
            "{when}: {devices}"
        );
    };
    holds("after the start");
    run(Command::new("systemctl").arg("daemon-reload")).ok();
    holds("after systemd was reloaded");
    berth.call(&["delete", "--force", &id]).ok();
    assert!(!loaded(&unit));
    assert!(!root.join("memory").join(&scope).exists() && !root.join("cpuset").join(&scope).exists());
}
