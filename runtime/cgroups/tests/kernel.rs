//! Cgroups on the real kernel: whatever layout the host has, each test makes cgroups of its own name and
//! takes them away. Inside `tests/vm` the same tests see a pure cgroup v2 with all controllers.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use berth_cgroups::{Announced, Cgroup, CgroupError, CgroupPath, Kind, Layout, State};
use berth_spec::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use harness::{need_root, skip, wait_for};

/// A cgroup of one test, killed and removed at its end.
struct Fixture {
    group: Cgroup,
    children: Vec<Child>,
}

impl Fixture {
    fn new(name: &str) -> Self {
        Self::in_layout(name, &Layout::detect(Path::new("/")).unwrap())
    }

    fn in_layout(name: &str, layout: &Layout) -> Self {
        let group = Cgroup::create(layout, &path(name)).unwrap();
        Self {
            group,
            children: Vec::new(),
        }
    }

    /// A shell inside of the cgroup that runs `script`, which starts when it is in.
    fn shell(&mut self, script: &str) -> &mut Child {
        let mut child = Command::new("/bin/sh")
            .args(["-c", &format!("read go; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        self.group.add(child.id()).unwrap();
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        self.children.push(child);
        self.children.last_mut().unwrap()
    }

    fn run(&mut self, script: &str) -> (bool, String) {
        self.shell(script);
        let output = self.children.pop().unwrap().wait_with_output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    fn directories(&self) -> Vec<PathBuf> {
        self.group.paths().into_values().collect()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = self.group.kill();
        for child in &mut self.children {
            let _ = child.wait();
        }
        let deleted = self.group.delete();
        if !std::thread::panicking() {
            deleted.unwrap();
            assert!(self.directories().iter().all(|path| !path.exists()));
        }
    }
}

fn path(name: &str) -> CgroupPath {
    CgroupPath::parse(&format!("/berth-cgroups-{}-{name}", std::process::id())).unwrap()
}

fn count(group: &Cgroup, wanted: usize) -> Result<(), Vec<u32>> {
    let pids = group.pids().unwrap();
    if pids.len() == wanted { Ok(()) } else { Err(pids) }
}

/// `linux.resources` as a configuration writes it.
fn resources(text: &str) -> LinuxResources {
    berth_spec::read(text.as_bytes()).unwrap().value
}

fn memory(limit: i64) -> LinuxResources {
    resources(&format!(r#"{{"memory": {{"limit": {limit}, "swap": {limit}}}}}"#))
}

/// Whether the host can enforce `resources` at all; if not, the error must say so.
fn enforceable(group: &Cgroup, resources: &LinuxResources) -> bool {
    match group.apply(resources) {
        Ok(_) => true,
        Err(CgroupError::MissingController { .. }) => false,
        Err(other) => panic!("{other}: {:?}", std::error::Error::source(&other)),
    }
}

#[test]
fn processes_freeze_thaw_kill() {
    need_root!();
    let mut fixture = Fixture::new("life");
    life(&mut fixture);
}

#[test]
fn processes_freeze_thaw_kill_by_v1_alone() {
    need_root!();
    let layout = Layout::detect(Path::new("/")).unwrap();
    if layout.kind() != Kind::Hybrid {
        skip!("no v1 hierarchies here");
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let mounts = read("/proc/self/mountinfo");
    let v1 = mounts
        .lines()
        .filter(|line| !line.contains(" - cgroup2 "))
        .collect::<Vec<_>>()
        .join("\n");
    let legacy = Layout::from_mountinfo(Path::new("/"), &v1, &read("/proc/self/cgroup")).unwrap();
    assert_eq!(legacy.kind(), Kind::Legacy);
    let mut fixture = Fixture::in_layout("life-v1", &legacy);
    assert!(fixture.group.unified_fd().unwrap().is_none());
    life(&mut fixture);
}

fn life(fixture: &mut Fixture) {
    let me = fixture.shell("sleep 1000 & sleep 1000 & wait").id();
    wait_for("three processes", Duration::from_secs(20), || {
        count(&fixture.group, 3)
    });
    assert!(fixture.group.pids().unwrap().contains(&me));
    let own = std::fs::read_to_string(format!("/proc/{me}/cgroup")).unwrap();
    let unified = fixture.group.unified_fd().unwrap().is_some();
    let legacy = fixture.group.paths().len() > usize::from(unified);
    let wrong: Vec<&str> = own
        .lines()
        .filter(|line| if line.starts_with("0::") { unified } else { legacy })
        .filter(|line| !line.contains("/berth-cgroups-"))
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");

    fixture.group.freeze().unwrap();
    assert_eq!(fixture.group.state().unwrap(), State::Frozen);
    fixture.group.thaw().unwrap();
    assert_eq!(fixture.group.state().unwrap(), State::Thawed);

    // Frozen processes die, too.
    fixture.group.freeze().unwrap();
    fixture.group.kill().unwrap();
    fixture.children[0].wait().unwrap();
    wait_for("no process", Duration::from_secs(20), || count(&fixture.group, 0));

    // The record's paths are enough to find it again.
    let again = Cgroup::from_paths(&fixture.group.paths());
    again.delete().unwrap();
    again.delete().unwrap();
    assert!(again.pids().unwrap().is_empty());
    again.kill().unwrap();
    assert_eq!(again.state().unwrap(), State::Thawed);
}

#[test]
fn memory_limit_kills() {
    need_root!();
    let mut fixture = Fixture::new("oom");
    if !enforceable(&fixture.group, &memory(24 << 20)) {
        skip!("no memory controller here");
    }
    // One system call that fills the memory: nothing is paged in again and again meanwhile.
    let (success, _) = fixture.run("dd if=/dev/zero of=/dev/null bs=200000000 count=1");
    assert!(!success);
    assert!(fixture.group.oom_kills().unwrap() >= 1);
    let stats = fixture.group.stats().unwrap().memory.unwrap();
    assert_eq!(stats.memory.limit, 24 << 20);
    assert!(stats.memory.peak <= 24 << 20 && stats.oom_kills >= 1, "{stats:?}");
}

#[test]
fn memory_limits_move_both_ways() {
    need_root!();
    let fixture = Fixture::new("update");
    if !enforceable(&fixture.group, &memory(64 << 20)) {
        skip!("no memory controller here");
    }
    for (limit, swap) in [
        (256 << 20, 512 << 20),
        (32 << 20, 32 << 20),
        (128 << 20, 128 << 20),
        (-1, -1),
        (48 << 20, 64 << 20),
    ] {
        let both = format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#);
        fixture.group.update(&resources(&both)).unwrap();
        let found = fixture.group.stats().unwrap().memory.unwrap().memory.limit;
        match u64::try_from(limit) {
            Ok(limit) => assert_eq!(found, limit),
            // Each hierarchy has its own word for none.
            Err(_) => assert!(found > 1 << 62, "{found}"),
        }
    }
    // Quota, period and burst check each other, too.
    for (quota, period, burst) in [
        (50_000, 100_000, 10_000),
        (5_000, 10_000, 0),
        (1_000_000, 1_000_000, 900_000),
        (2_000, 50_000, 1_000),
    ] {
        let cpu = format!(r#"{{"cpu": {{"quota": {quota}, "period": {period}, "burst": {burst}}}}}"#);
        fixture.group.update(&resources(&cpu)).unwrap();
    }
    let error = fixture.group.update(&resources(r#"{"cpu": {"quota": 7}}"#));
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("linux.resources.cpu.quota: cannot write"),
        "{error}"
    );
}

#[test]
fn pids_limit_stops_forks() {
    need_root!();
    let mut fixture = Fixture::new("pids");
    let limit = resources(r#"{"pids": {"limit": 5}}"#);
    if !enforceable(&fixture.group, &limit) {
        skip!("no pids controller here");
    }
    let (_, text) = fixture.run("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 >/dev/null 2>&1 & done; wait");
    assert!(text.contains("fork"), "{text}");
    let stats = fixture.group.stats().unwrap().pids.unwrap();
    assert!(stats.current <= 5 && stats.limit == 5, "{stats:?}");
}

#[test]
fn cpu_quota_holds_a_spinner() {
    need_root!();
    let mut fixture = Fixture::new("cpu");
    let cpu = resources(r#"{"cpu": {"quota": 10000, "period": 100000, "shares": 512}}"#);
    if !enforceable(&fixture.group, &cpu) {
        skip!("no cpu controller here");
    }
    fixture.shell("while :; do :; done");
    let usage = |fixture: &Fixture| fixture.group.stats().unwrap().cpu.unwrap();
    let (start, before) = (Instant::now(), usage(&fixture));
    wait_for("ten throttled periods", Duration::from_mins(1), || {
        let passed = usage(&fixture).throttled_periods - before.throttled_periods;
        if passed >= 10 { Ok(()) } else { Err(passed) }
    });
    let (used, wall) = (usage(&fixture).usage - before.usage, start.elapsed().as_nanos());
    assert!(
        u128::from(used) * 4 < wall,
        "{used} ns of {wall} ns, where a tenth is allowed"
    );
}

fn rule(allow: bool, class: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
    LinuxDeviceCgroup {
        allow,
        typ: Some(class),
        major: Some(major),
        minor: Some(minor),
        access: Some(access.to_owned()),
    }
}

#[test]
fn device_access() {
    need_root!();
    devices(&mut Fixture::new("devices"));
}

fn devices(fixture: &mut Fixture) {
    fixture.group.apply(&LinuxResources::default()).unwrap();
    let usable = "echo x >/dev/null && head -c1 /dev/zero >/dev/null && echo fine";
    assert_eq!(fixture.run(usable), (true, "fine\n".to_owned()));
    let scratch = tempfile::tempdir().unwrap();
    let node = scratch.path().join("mem").display().to_string();
    // Making the node of a device is allowed, opening it is not.
    let (opened, text) = fixture.run(&format!("mknod {node} c 1 11 && exec 3<{node}"));
    assert!(!opened && text.contains("not permitted"), "{text}");
    for (rules, want) in [
        (
            vec![
                rule(false, LinuxDeviceType::A, -1, -1, "rwm"),
                rule(true, LinuxDeviceType::C, 1, 11, "r"),
            ],
            [true, false],
        ),
        (vec![rule(true, LinuxDeviceType::C, 1, 11, "rw")], [true, true]),
        (
            vec![
                rule(true, LinuxDeviceType::C, 1, 11, "rw"),
                rule(false, LinuxDeviceType::C, 1, 11, "r"),
            ],
            [false, true],
        ),
        (vec![rule(true, LinuxDeviceType::A, -1, -1, "rwm")], [true, true]),
        (
            vec![
                rule(true, LinuxDeviceType::A, -1, -1, "rwm"),
                rule(false, LinuxDeviceType::C, 1, 11, "w"),
            ],
            [true, false],
        ),
        (vec![], [false, false]),
    ] {
        fixture
            .group
            .update(&LinuxResources {
                devices: Some(rules.clone()),
                ..LinuxResources::default()
            })
            .unwrap();
        let reading = fixture.run(&format!("exec 3<{node}")).0;
        let writing = fixture.run(&format!("exec 3>{node}")).0;
        assert_eq!([reading, writing], want, "{rules:?}");
        assert!(fixture.run(usable).0);
    }
}

#[test]
fn cgroups_made_inside_go_with_it() {
    need_root!();
    let mut fixture = Fixture::new("nested");
    for directory in fixture.directories() {
        std::fs::create_dir_all(directory.join("a/b")).unwrap();
        std::fs::create_dir(directory.join("c")).unwrap();
    }
    // Processes that are about to exit are waited for.
    fixture.shell("sleep 1000 & sleep 1000 & wait");
    wait_for("three processes", Duration::from_secs(20), || {
        count(&fixture.group, 3)
    });
    fixture.group.kill().unwrap();
    fixture.group.delete().unwrap();
    assert!(fixture.directories().iter().all(|path| !path.exists()));
}

/// A first process makes its devices while the parent does other things: the list must be whole by then.
#[test]
fn a_device_list_is_whole_before_anybody_is_inside() {
    need_root!();
    let layout = Layout::detect(Path::new("/")).unwrap();
    let Some(devices) = layout
        .legacy()
        .iter()
        .find(|found| found.mount.ends_with("devices"))
    else {
        skip!("no v1 devices hierarchy here");
    };
    let path = format!("/berth-test-{}-devices", std::process::id());
    let group = Cgroup::create(&layout, &CgroupPath::parse(&path).unwrap()).unwrap();
    group.limit(&LinuxResources::default()).unwrap();
    group.list_devices(&LinuxResources::default()).unwrap();
    let list = std::fs::read_to_string(devices.mount.join(&path[1..]).join("devices.list"));
    group.delete().unwrap();
    let list = list.unwrap();
    assert!(
        !list.contains("a *:*") && list.contains("c 1:3 rwm") && list.contains("c *:* m"),
        "{list}"
    );
}

/// A parent that somebody else made a moment ago, and did not fill yet, is no dead end.
#[test]
fn an_empty_cpuset_above_is_filled_first() {
    need_root!();
    let layout = Layout::detect(Path::new("/")).unwrap();
    let Some(cpuset) = layout
        .legacy()
        .iter()
        .find(|found| found.mount.ends_with("cpuset"))
    else {
        skip!("no v1 cpuset hierarchy here");
    };
    let parent = cpuset
        .mount
        .join(format!("berth-test-{}-cpuset", std::process::id()));
    std::fs::create_dir(&parent).unwrap();
    let below = format!("/{}/child", parent.file_name().unwrap().to_str().unwrap());
    let mut fixture = Fixture {
        group: Cgroup::create(&layout, &CgroupPath::parse(&below).unwrap()).unwrap(),
        children: Vec::new(),
    };
    let (done, text) = fixture.run("echo inside");
    assert!(done, "{text}");
    drop(fixture);
    for found in layout
        .legacy()
        .iter()
        .map(|one| &one.mount)
        .chain(layout.unified().map(|one| &one.mount))
    {
        let _ = std::fs::remove_dir(found.join(parent.file_name().unwrap()));
    }
}

#[test]
fn a_taken_path_is_refused() {
    need_root!();
    let mut fixture = Fixture::new("taken");
    fixture.shell("exec sleep 1000");
    let layout = Layout::detect(Path::new("/")).unwrap();
    let error = Cgroup::create(&layout, &path("taken")).unwrap_err();
    assert!(matches!(error, CgroupError::NotEmpty { count: 1, .. }), "{error}");
    // An empty one is taken over.
    fixture.group.kill().unwrap();
    fixture.children[0].wait().unwrap();
    Cgroup::create(&layout, &path("taken")).unwrap();
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let temporary = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(temporary.path().join("cg/memory")).unwrap();
    let mounts =
        "1 0 0:1 / /cg/memory rw - cgroup cgroup rw,memory\n2 0 0:2 / /cg/pids rw - cgroup cgroup rw,pids\n";
    let layout = Layout::from_mountinfo(temporary.path(), mounts, "1:memory:/\n2:pids:/\n").unwrap();
    let error = Cgroup::create(&layout, &CgroupPath::parse("/a/b").unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("cannot create cgroup"), "{error}");
    assert_eq!(
        std::fs::read_dir(temporary.path().join("cg/memory"))
            .unwrap()
            .count(),
        0
    );
    let error = Cgroup::create(&layout, &CgroupPath::parse("a.slice:b:c").unwrap())
        .unwrap_err()
        .to_string();
    assert!(error.contains("--systemd-cgroup"), "{error}");
}

/// This test's thread alone sees cgroup2 on /sys/fs/cgroup and nothing else.
fn only_unified() -> Layout {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let layout = Layout::detect(Path::new("/")).unwrap();
    if layout.kind() == Kind::Unified {
        return layout;
    }
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .unwrap();
    mount(
        Some("cgroup2"),
        "/sys/fs/cgroup",
        Some("cgroup2"),
        MsFlags::empty(),
        None::<&str>,
    )
    .unwrap();
    let layout = Layout::detect(Path::new("/")).unwrap();
    assert_eq!(layout.kind(), Kind::Unified);
    layout
}

#[test]
fn unified_alone() {
    need_root!();
    let layout = only_unified();
    let mut fixture = Fixture::in_layout("only-v2", &layout);
    assert_eq!(fixture.group.paths().into_keys().collect::<Vec<_>>(), [""]);
    // cgroup2's own tree refuses what v1 hierarchies hold on this host.
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    if !controllers.contains("memory") {
        let error = fixture.group.apply(&memory(1 << 20)).unwrap_err().to_string();
        assert!(
            error.starts_with("linux.resources.memory.limit: the memory controller is not available ("),
            "{error}"
        );
        let high = resources(r#"{"unified": {"memory.high": "1"}}"#);
        let error = fixture.group.apply(&high).unwrap_err().to_string();
        assert!(
            error.starts_with("linux.resources.unified[\"memory.high\"]: the memory controller"),
            "{error}"
        );
    }
    if controllers.contains("hugetlb") && Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").exists() {
        let pages = resources(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#);
        fixture.group.apply(&pages).unwrap();
        let file = fixture.directories()[0].join("hugetlb.2MB.max");
        assert_eq!(
            std::fs::read_to_string(file).unwrap().trim(),
            (4 << 20).to_string()
        );
    }
    let depth = resources(r#"{"unified": {"cgroup.max.depth": "3"}}"#);
    fixture.group.apply(&depth).unwrap();
    assert_eq!(
        std::fs::read_to_string(fixture.directories()[0].join("cgroup.max.depth")).unwrap(),
        "3\n"
    );
    life(&mut fixture);
}

#[test]
fn unified_device_program() {
    need_root!();
    let layout = only_unified();
    let mut fixture = Fixture::in_layout("bpf", &layout);
    devices(&mut fixture);
}

#[test]
fn hugetlb_of_a_hybrid_host_is_in_the_unified_tree() {
    need_root!();
    let fixture = Fixture::new("huge");
    let pages = resources(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}]}"#);
    if !enforceable(&fixture.group, &pages) {
        skip!("no hugetlb controller here");
    }
    assert!(fixture.group.stats().unwrap().hugetlb.contains_key("2MB"));
}

#[test]
fn a_threaded_parent_is_refused_with_the_reason() {
    need_root!();
    let layout = only_unified();
    let controllers = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap();
    if !controllers.contains("hugetlb") {
        skip!("no domain controller in the cgroup2 tree");
    }
    let parent = Fixture::in_layout("domain", &layout);
    let directory = parent.directories()[0].clone();
    let threaded = directory.join("threaded");
    std::fs::create_dir(&threaded).unwrap();
    std::fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
    let inner = CgroupPath::parse(&format!("{}/threaded/c", path("domain"))).unwrap();
    let group = Cgroup::create(&layout, &inner).unwrap();
    let pages = resources(r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 2097152}]}"#);
    let error = group.apply(&pages).unwrap_err().to_string();
    assert!(error.contains("hugetlb") && error.contains("threaded"), "{error}");
    group.delete().unwrap();
}

#[test]
fn paths_round_trip() {
    let paths: BTreeMap<String, PathBuf> = [
        ("", "/u/x"),
        ("cpu", "/c/x"),
        ("cpuacct", "/c/x"),
        ("memory", "/m/x"),
    ]
    .map(|(name, path)| (name.to_owned(), PathBuf::from(path)))
    .into();
    assert_eq!(Cgroup::from_paths(&paths).paths(), paths);
}

#[test]
fn a_lack_of_memory_and_the_end_are_announced() {
    need_root!();
    let mut fixture = Fixture::new("watch");
    if !enforceable(&fixture.group, &memory(24 << 20)) {
        skip!("no memory controller here");
    }
    fixture.shell("sleep 600");
    let mut watch = fixture.group.watch_oom().unwrap();
    assert!(watch.sees_memory());
    let soon = Instant::now();
    assert_eq!(watch.wait(soon).unwrap(), Announced::Nothing);
    let late = Instant::now() + Duration::from_mins(1);
    fixture.shell("exec dd if=/dev/zero of=/dev/null bs=200000000 count=1");
    assert_eq!(watch.wait(late).unwrap(), Announced::OutOfMemory);
    fixture.group.kill().unwrap();
    // More than one process may have asked for memory.
    let next = loop {
        match watch.wait(late).unwrap() {
            Announced::OutOfMemory => {}
            other => break other,
        }
    };
    assert_eq!(next, Announced::Ended);
}
