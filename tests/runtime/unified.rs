//! Controllers of a pure cgroup v2 host, by what they do to a container. The machine of `tests/vm` is such a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Bundle, need_root, run, wait_for};
use serde_json::json;

use crate::driver::{PATIENCE, Runtime, unique};

const TREE: &str = "/sys/fs/cgroup";

/// Skips the test unless cgroup v2 is all there is.
macro_rules! need_unified {
    () => {
        need_root!();
        if !Path::new(TREE).join("cgroup.controllers").exists() {
            harness::skip!("needs cgroup v2 alone");
        }
    };
}

fn group(id: &str) -> PathBuf {
    Path::new(TREE).join(id)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        .trim()
        .to_owned()
}

/// The value of `key` in a file of lines such as `oom_kill 1`.
fn number(path: &Path, key: &str) -> u64 {
    let text = read(path);
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {key} in {}: {text}", path.display()))
}

#[test]
fn cpuset_confines_to_the_processors() {
    need_unified!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status; cat /sys/fs/cgroup/cpuset.cpus.effective; nproc",
    ]);
    bundle.edit(|config| config["linux"]["resources"]["cpu"] = json!({"cpus": "0", "mems": "0"}));
    let text = runtime.run_bundle(&mut bundle).ok();
    let words: Vec<_> = text.split_whitespace().collect();
    assert_eq!(
        words,
        ["Cpus_allowed_list:", "0", "Mems_allowed_list:", "0", "0", "1"]
    );
    bundle.edit(|config| config["linux"]["resources"]["cpu"] = json!({"cpus": "4000"}));
    let error = runtime.run_bundle(&mut bundle).err();
    assert!(error.contains("linux.resources.cpu.cpus"), "{error}");
}

#[test]
fn huge_pages_are_limited() {
    need_unified!();
    if !Path::new(TREE).join("hugetlb.2MB.max").exists() && !has_controller("hugetlb") {
        harness::skip!("needs the hugetlb controller");
    }
    let pool = Path::new("/proc/sys/vm/nr_hugepages");
    let before = read(pool);
    fs::write(pool, "8").unwrap();
    if read(pool).parse::<u32>().unwrap() < 4 {
        fs::write(pool, before).unwrap();
        harness::skip!("needs four free huge pages");
    }
    let runtime = Runtime::berth();
    let script = "busybox fallocate -l 2097152 /huge/one && echo one; \
                  busybox fallocate -l 4194304 /huge/two 2>/dev/null || echo refused; \
                  grep max /sys/fs/cgroup/hugetlb.2MB.events";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(|config| {
        config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 2 << 20}]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/huge", "type": "hugetlbfs", "source": "hugetlbfs", "options": ["pagesize=2M"]}));
    });
    let outcome = runtime.run_bundle(&mut bundle);
    fs::write(pool, before).unwrap();
    let text = outcome.ok();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["one", "refused"], "{text}");
    assert_ne!(lines[2], "max 0");
}

fn has_controller(name: &str) -> bool {
    read(&Path::new(TREE).join("cgroup.controllers"))
        .split_whitespace()
        .any(|one| one == name)
}

/// A block device over a file, gone with the value.
struct Loop {
    device: String,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn new() -> Result<Self, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(8 << 20).unwrap();
        let found = run(Command::new("losetup")
            .arg("--find")
            .arg("--show")
            .arg(file.path()));
        if !found.status.success() {
            return Err(found.stderr);
        }
        Ok(Self {
            device: found.stdout.trim().to_owned(),
            _file: file,
        })
    }

    fn minor(&self) -> u32 {
        self.device.trim_start_matches("/dev/loop").parse().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).output();
    }
}

#[test]
fn block_devices_are_throttled_and_counted() {
    need_unified!();
    harness::need_program!("losetup");
    let disk = match Loop::new() {
        Ok(disk) => disk,
        Err(error) => harness::skip!("needs a loop device: {}", error.trim()),
    };
    let runtime = Runtime::berth();
    let number = format!("7:{}", disk.minor());
    let script = format!(
        "dd if=/dev/zero of=/dev/disk bs=65536 count=16 oflag=direct 2>/dev/null && echo written; \
         grep '^{number} ' /sys/fs/cgroup/io.max /sys/fs/cgroup/io.stat"
    );
    let mut bundle = Bundle::new(&["sh", "-c", &script]);
    bundle.edit(|config| {
        let (major, minor) = (7, disk.minor());
        config["linux"]["devices"] =
            json!([{"path": "/dev/disk", "type": "b", "major": major, "minor": minor, "fileMode": 0o666, "uid": 0, "gid": 0}]);
        config["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "b", "major": major, "minor": minor, "access": "rw"},
        ]);
        config["linux"]["resources"]["blockIO"] = json!({
            "throttleWriteBpsDevice": [{"major": major, "minor": minor, "rate": 4 << 20}],
            "throttleReadIOPSDevice": [{"major": major, "minor": minor, "rate": 500}],
        });
    });
    let text = runtime.run_bundle(&mut bundle).ok();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "written");
    assert!(
        lines[1].contains(&format!("{number} rbps=max wbps=4194304 riops=500 wiops=max")),
        "{text}"
    );
    assert!(lines[2].contains("wbytes=1048576"), "{text}");
    // A device that is not there.
    bundle.edit(|config| {
        config["linux"]["resources"]["blockIO"]["throttleWriteBpsDevice"] =
            json!([{"major": 4000, "minor": 1, "rate": 1}]);
    });
    let error = runtime.run_bundle(&mut bundle).err();
    assert!(
        error.contains("linux.resources.blockIO.throttleWriteBpsDevice"),
        "{error}"
    );
    assert!(error.contains("no such block device"), "{error}");
}

#[test]
fn events_and_pressure_are_seen_from_inside_and_outside() {
    need_unified!();
    let runtime = Runtime::berth();
    let script = "head -n 1 /sys/fs/cgroup/memory.pressure /sys/fs/cgroup/cpu.pressure /sys/fs/cgroup/io.pressure; \
                  dd if=/dev/zero of=/dev/null bs=100M count=1 2>/dev/null; echo $?; \
                  grep '^oom_kill ' /sys/fs/cgroup/memory.events; sleep 1000";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(|config| {
        config["linux"]["resources"]["memory"] = json!({"limit": 24 << 20, "swap": 24 << 20});
    });
    let container = runtime.container(&mut bundle);
    let out = tempfile::NamedTempFile::new().unwrap();
    let mut command = container.command("run", &["--detach"]);
    let status = command
        .stdout(out.reopen().unwrap())
        .stderr(out.reopen().unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let text = wait_for("the killed process to be told", PATIENCE, || {
        let text = fs::read_to_string(out.path()).unwrap();
        if text.contains("oom_kill") {
            Ok(text)
        } else {
            Err(text)
        }
    });
    assert_eq!(text.matches("some avg10=").count(), 3, "{text}");
    assert!(text.contains("\n137\noom_kill 1\n"), "{text}");
    let dir = group(&container.id);
    assert_eq!(number(&dir.join("memory.events"), "oom_kill "), 1);
    assert!(number(&dir.join("memory.events"), "max ") > 0);
    assert!(
        number(
            &dir.join("memory.pressure"),
            "some avg10=0.00 avg60=0.00 avg300=0.00 total="
        ) < u64::MAX
    );
}

#[test]
fn the_unified_map_reaches_its_files() {
    need_unified!();
    let runtime = Runtime::berth();
    let files = [
        ("memory.high", "41943040"),
        ("memory.min", "4194304"),
        ("memory.oom.group", "1"),
        ("pids.max", "17"),
        ("cpu.weight", "250"),
        ("cpu.max", "30000 200000"),
    ];
    let script = files
        .map(|(file, _)| format!("cat /sys/fs/cgroup/{file}; "))
        .concat();
    let mut bundle = Bundle::new(&["sh", "-c", &script]);
    bundle.edit(|config| {
        let map: serde_json::Map<_, _> = files
            .iter()
            .map(|(file, value)| ((*file).to_owned(), json!(value)))
            .collect();
        config["linux"]["resources"]["unified"] = map.into();
    });
    let text = runtime.run_bundle(&mut bundle).ok();
    let want: String = files.iter().map(|(_, value)| format!("{value}\n")).collect();
    assert_eq!(text, want);
    for (file, value, want) in [
        ("nosuch.max", "1", "nosuch controller is not available"),
        ("memory.nosuch", "1", "memory.nosuch"),
        ("memory.high", "much", "memory.high"),
        ("../pids.max", "1", "unified"),
    ] {
        bundle.edit(|config| config["linux"]["resources"]["unified"] = json!({file: value}));
        let error = runtime.run_bundle(&mut bundle).err();
        assert!(error.contains(want), "{file}: {error}");
    }
}

#[test]
fn what_a_container_makes_below_its_cgroup_goes_with_it() {
    need_unified!();
    let runtime = Runtime::berth();
    let script = "cd /sys/fs/cgroup; mkdir -p a/b init; echo $$ >init/cgroup.procs; \
                  echo '+pids +memory' >cgroup.subtree_control; echo 5 >a/pids.max; \
                  sh -c 'echo $$ >a/b/cgroup.procs; sleep 1000' & wait";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        for mount in mounts
            .iter_mut()
            .filter(|mount| mount["destination"] == "/sys/fs/cgroup")
        {
            mount["options"] = json!(["nosuid", "noexec", "nodev", "relatime", "rw"]);
        }
    });
    let container = runtime.container(&mut bundle);
    container.start();
    let dir = group(&container.id);
    wait_for("processes in a cgroup of their own", PATIENCE, || {
        let inner = fs::read_to_string(dir.join("a/b/cgroup.procs")).unwrap_or_default();
        if inner.is_empty() { Err(inner) } else { Ok(()) }
    });
    container.verb("delete", &["--force"]).ok();
    assert!(!dir.exists());
}

#[test]
fn a_threaded_parent_is_refused_with_the_reason() {
    need_unified!();
    let runtime = Runtime::berth();
    let parent = group(&unique());
    let threaded = parent.join("threaded");
    fs::create_dir_all(&threaded).unwrap();
    fs::write(threaded.join("cgroup.type"), "threaded").unwrap();
    let mut bundle = Bundle::new(&["true"]);
    let container = runtime.container(&mut bundle);
    let path = threaded.join("box");
    bundle.edit(|config| {
        config["linux"]["cgroupsPath"] = json!(format!("/{}", path.strip_prefix(TREE).unwrap().display()));
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    });
    let error = container.run().err();
    let (left, name) = (path.exists(), parent.display().to_string());
    drop(container);
    fs::remove_dir(&threaded).unwrap();
    fs::remove_dir(&parent).unwrap();
    assert!(error.contains("linux.resources.memory.limit"), "{error}");
    assert!(error.contains(&name) && error.contains("threaded"), "{error}");
    assert!(!left, "nothing is left of it");
}

#[test]
fn processes_of_a_parent_keep_its_controllers() {
    need_unified!();
    // A cgroup with processes of its own gives no domain controllers to its children: an error that says where.
    let runtime = Runtime::berth();
    let parent = group(&unique());
    fs::create_dir(&parent).unwrap();
    let mut sleeper = Command::new("sleep").arg("1000").spawn().unwrap();
    fs::write(parent.join("cgroup.procs"), sleeper.id().to_string()).unwrap();
    let mut bundle = Bundle::new(&["true"]);
    let container = runtime.container(&mut bundle);
    bundle.edit(|config| {
        config["linux"]["cgroupsPath"] =
            json!(format!("/{}/box", parent.file_name().unwrap().to_str().unwrap()));
        config["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
    });
    let error = container.run().err();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    fs::remove_dir(&parent).unwrap();
    assert!(
        error.contains("the memory controller is not available"),
        "{error}"
    );
    assert!(
        error.contains(parent.to_str().unwrap()) && error.contains("processes of its own"),
        "{error}"
    );
}
