//! Berth beside another runtime over a generated family of configurations: the view from inside, exit codes, which
//! verb fails, state documents, control groups, and what is left in the root file system.
//!
//! `BERTH_DIFF_SEED`, `BERTH_DIFF_COUNT` choose another family; `BERTH_DIFF_ONLY=17` one member of it, shown whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use harness::{Bundle, need_root};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::generate::{self, Member};
use super::look::{self, Names, View};
use super::table::Table;
use crate::driver::{Runtime, unique};

/// Members of the family, at least 300.
const COUNT: u64 = 360;
const SEED: u64 = 0xbe27;
/// A runtime that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(90);
const PROBE: &str = include_str!("probe.sh");

/// Paths that the probe looks at and tries to write.
const LOOK: &[&str] = &[
    "/",
    "/mnt",
    "/mnt/there",
    "/mnt/new",
    "/mnt/a/b/c",
    "/data",
    "/data/deep",
    "/tmp",
    "/etc/plain",
    "/masked",
    "/etc/hosts",
];

/// What the members of a family share.
struct Family {
    template: TempDir,
    base: Value,
    seed: u64,
    namespaces: Vec<(String, &'static str)>,
    holder: u32,
}

/// Namespaces for members that join some.
struct Holder(std::process::Child);

impl Holder {
    fn start() -> Self {
        let mut command = Command::new("unshare");
        command.args([
            "--net",
            "--ipc",
            "--uts",
            "sh",
            "-c",
            "hostname joined; echo ready; exec sleep 1000",
        ]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("unshare");
        let out = child.stdout.as_mut().expect("a pipe");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut String::new()).expect("ready");
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn namespace_files(pid: u32, name: &'static str) -> Vec<(String, &'static str)> {
    let entries = fs::read_dir(format!("/proc/{pid}/ns")).expect("ns").flatten();
    let links = entries.filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .map(|link| (link.to_string_lossy().into_owned(), name))
        .collect()
}

impl Family {
    fn new(seed: u64, holder: u32) -> Self {
        let template = TempDir::with_prefix("berth-family-").expect("temporary directory");
        harness::busybox_rootfs(template.path());
        for applet in ["ionice", "taskset", "nice"] {
            let _ = std::os::unix::fs::symlink("busybox", template.path().join("bin").join(applet));
        }
        let mut arguments = vec!["/probe", "0"];
        arguments.extend(LOOK);
        let base = Bundle::new(&arguments).config.clone();
        let mut namespaces = namespace_files(std::process::id(), "the host's");
        namespaces.extend(namespace_files(holder, "the joined one"));
        Self {
            template,
            base,
            seed,
            namespaces,
            holder,
        }
    }

    /// Lays a member's bundle out, with a root file system of its own.
    fn lay_out(&self, member: &Member, dir: &Path, id: &str) {
        let rootfs = dir.join("rootfs");
        for below in [
            "bin", "dev", "etc", "home", "proc", "root", "run", "sys", "tmp", "usr/bin", "var",
        ] {
            fs::create_dir_all(rootfs.join(below)).expect("make a folder");
        }
        for entry in fs::read_dir(self.template.path().join("bin"))
            .expect("bin")
            .flatten()
        {
            fs::hard_link(entry.path(), rootfs.join("bin").join(entry.file_name())).expect("link a program");
        }
        for name in ["passwd", "group"] {
            fs::copy(
                self.template.path().join("etc").join(name),
                rootfs.join("etc").join(name),
            )
            .expect("copy");
        }
        generate::prepare(dir, &rootfs);
        let probe = rootfs.join("probe");
        fs::write(&probe, PROBE).expect("write the probe");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&probe, open).expect("chmod");
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
        let text = member.config.to_string();
        let holder = format!("/proc/{}/ns", self.holder);
        let text = text
            .replace("BUNDLE", dir.to_str().expect("UTF-8"))
            .replace("HOLDER", &holder)
            .replace("/ID", &format!("/{id}"))
            .replace("\"ID", &format!("\"{id}"));
        fs::write(dir.join("config.json"), text).expect("write config.json");
    }
}

/// What a command line left.
struct Done {
    code: i32,
    out: String,
    err: String,
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// Runs to the end, or to [`LIMIT`]. Output goes to files: whoever inherits them does not hold this up.
fn run(command: &mut Command, dir: &Path) -> Done {
    let (out, err) = (dir.join("out"), dir.join("err"));
    let file = |path: &Path| fs::File::create(path).expect("an output file");
    command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err));
    let mut child = command.spawn().expect("start a runtime");
    let end = Instant::now() + LIMIT;
    let code = loop {
        if let Some(status) = child.try_wait().expect("wait") {
            break status.code().unwrap_or(-1);
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            break -2;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    Done {
        code,
        out: text(&out),
        err: text(&err),
    }
}

/// One runtime with one member.
struct Trial<'a> {
    runtime: &'a Runtime,
    bundle: TempDir,
    id: String,
    view: View,
    errors: String,
}

impl Trial<'_> {
    fn say(&mut self, section: &str, line: impl Into<String>) {
        self.view.entry(section.to_owned()).or_default().push(line.into());
    }

    fn call(&self, words: &[&str]) -> Done {
        let output = self.bundle.path().join("output");
        let _ = fs::create_dir(&output);
        run(&mut self.runtime.command(words), &output)
    }

    fn names(&self, family: &Family) -> Names {
        Names {
            texts: vec![
                (self.bundle.path().to_string_lossy().into_owned(), "BUNDLE"),
                (self.id.clone(), "ID"),
            ],
            namespaces: family.namespaces.clone(),
        }
    }

    /// `run` in the foreground.
    fn foreground(&mut self, family: &Family, options: &[&str]) {
        let bundle = self.bundle.path().to_string_lossy().into_owned();
        let id = self.id.clone();
        let mut words = vec!["run", "--bundle", &bundle];
        words.extend(options);
        words.push(&id);
        let done = self.call(&words);
        self.view
            .append(&mut look::sections(&done.out, &self.names(family)));
        self.say("exit code", done.code.to_string());
        self.errors.push_str(&done.err);
    }

    /// create, state, start, state, delete: each with its exit code.
    fn by_verbs(&mut self, family: &Family, options: &[&str]) {
        let bundle = self.bundle.path().to_string_lossy().into_owned();
        let id = self.id.clone();
        let mut words = vec!["create", "--bundle", &bundle];
        words.extend(options);
        words.push(&id);
        let create = self.call(&words);
        self.say("create", create.code.to_string());
        self.errors.push_str(&create.err);
        if create.code != 0 {
            return;
        }
        // The container keeps this file: `call` makes new ones under the same name.
        let output = self.bundle.path().join("container-output");
        fs::rename(self.bundle.path().join("output"), &output).expect("rename");
        self.state(family, "created");
        for line in cgroup_values(&id) {
            self.say("cgroup values", line);
        }
        let start = self.call(&["start", &id]);
        self.say("start", start.code.to_string());
        self.errors.push_str(&start.err);
        self.await_stopped();
        self.state(family, "stopped");
        let delete = self.call(&["delete", &id]);
        self.say("delete", delete.code.to_string());
        self.errors.push_str(&delete.err);
        let out = text(&output.join("out"));
        self.view.append(&mut look::sections(&out, &self.names(family)));
        self.errors.push_str(&text(&output.join("err")));
    }

    fn await_stopped(&self) {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            let state: Value =
                serde_json::from_str(&self.call(&["state", &self.id]).out).unwrap_or(Value::Null);
            if state.is_null() || state["status"] == "stopped" {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn state(&mut self, family: &Family, moment: &str) {
        let done = self.call(&["state", &self.id]);
        let names = self.names(family);
        let Ok(Value::Object(state)) = serde_json::from_str(&done.out) else {
            self.say("state", format!("{moment}: none, exit code {}", done.code));
            return;
        };
        for (key, value) in state {
            let value = match key.as_str() {
                "created" => continue,
                "pid" if value != json!(0) => json!("a process"),
                _ => value,
            };
            let mut line = format!("{moment}: {key} = {value}");
            for (text, name) in &names.texts {
                line = line.replace(text, name);
            }
            self.say("state", line);
        }
    }

    /// The last error message of a command of the runtime that failed.
    fn note_error(&mut self, family: &Family) {
        let message = self.errors.lines().rfind(|line| line.contains("level=error"));
        let Some((_, message)) = message.and_then(|line| line.split_once("msg=")) else {
            return;
        };
        let mut message = message.replace('\\', "");
        for (text, name) in &self.names(family).texts {
            message = message.replace(text, name);
        }
        self.say("error", message);
    }

    /// Takes away what is left of it, and says what that was.
    fn clean_up(&mut self) {
        let mut left = Vec::new();
        if fs::read_dir(self.runtime.root())
            .is_ok_and(|mut dir| dir.any(|entry| entry.is_ok_and(|e| *e.file_name() == *self.id)))
        {
            left.push("state directory".to_owned());
            self.call(&["delete", "--force", &self.id]);
        }
        let mut groups = cgroups(&self.id);
        groups.sort();
        for group in groups.iter().rev() {
            let _ = fs::remove_dir(group);
        }
        if !groups.is_empty() {
            left.push("cgroup".to_owned());
        }
        for line in left {
            self.say("left behind", line);
        }
        let mut found = Vec::new();
        look::tree(&self.bundle.path().join("rootfs"), Path::new(""), &mut found);
        look::tree(&self.bundle.path().join("upper"), Path::new(""), &mut found);
        self.view.insert("root file system".to_owned(), found);
    }
}

/// All cgroup directories of a name and below, in every hierarchy, from its root or from this process's place in it.
fn cgroups(id: &str) -> Vec<PathBuf> {
    let places = fs::read_to_string("/proc/self/cgroup").expect("cgroups");
    let mut tops = BTreeSet::from([PathBuf::from("/sys/fs/cgroup")]);
    for hierarchy in fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
        for place in places.lines().filter_map(|line| line.splitn(3, ':').nth(2)) {
            tops.insert(hierarchy.path().join(place.trim_start_matches('/')));
        }
        tops.insert(hierarchy.path());
    }
    let mut found: Vec<PathBuf> = tops
        .iter()
        .map(|top| top.join(id))
        .filter(|path| path.is_dir())
        .collect();
    let mut next = 0;
    while next < found.len() {
        let entries = fs::read_dir(&found[next]).into_iter().flatten().flatten();
        let below: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.is_dir())
            .collect();
        found.extend(below);
        next += 1;
    }
    found
}

/// Values of a container's cgroups that its configuration decides.
fn cgroup_values(id: &str) -> Vec<String> {
    const FILES: &[&str] = &[
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.soft_limit_in_bytes",
        "memory.swappiness",
        "memory.oom_control",
        "cpu.shares",
        "cpu.cfs_quota_us",
        "cpu.cfs_period_us",
        "cpu.cfs_burst_us",
        "cpu.idle",
        "cpuset.cpus",
        "cpuset.mems",
        "pids.max",
        "blkio.weight",
        "blkio.bfq.weight",
        "blkio.throttle.read_bps_device",
        "blkio.throttle.write_iops_device",
        "devices.list",
        "hugetlb.2MB.max",
        "hugetlb.2MB.limit_in_bytes",
        "memory.max",
        "memory.swap.max",
        "memory.low",
        "cpu.max",
        "cpu.weight",
    ];
    let mut lines = BTreeSet::new();
    for group in cgroups(id) {
        for name in FILES {
            let Ok(value) = fs::read_to_string(group.join(name)) else {
                continue;
            };
            let mut values: Vec<&str> = value.lines().collect();
            values.sort_unstable();
            let place = group.display().to_string();
            let (_, below) = place.split_at(place.find(id).unwrap_or_default() + id.len());
            lines.insert(format!("ID{below}/{name} = {}", values.join(", ")));
        }
    }
    lines.into_iter().collect()
}

fn try_one<'a>(runtime: &'a Runtime, family: &Family, member: &Member, by_verbs: bool) -> Trial<'a> {
    let mut trial = Trial {
        runtime,
        bundle: TempDir::with_prefix("berth-member-").expect("temporary directory"),
        id: unique(),
        view: View::new(),
        errors: String::new(),
    };
    family.lay_out(member, trial.bundle.path(), &trial.id);
    let options: Vec<&str> = member.options.iter().map(String::as_str).collect();
    if by_verbs {
        trial.by_verbs(family, &options);
    } else {
        trial.foreground(family, &options);
    }
    trial.note_error(family);
    trial.clean_up();
    trial
}

/// The number in an environment variable.
fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

/// `runc 1.1.5`: what the rows of the table begin with.
fn version(runtime: &Runtime) -> String {
    let text = runtime.call(&["--version"]).ok();
    let number = text.split_whitespace().nth(2).unwrap_or_default();
    format!("{} {number}", runtime.name)
}

/// Compares the members one after the other, in as many threads as there are processors for it.
fn compare(other: &Runtime, table: &Table) {
    let (seed, count) = (number("BERTH_DIFF_SEED"), number("BERTH_DIFF_COUNT"));
    let only = number("BERTH_DIFF_ONLY");
    let berth = Runtime::berth();
    let holder = Holder::start();
    let family = Family::new(seed.unwrap_or(SEED), holder.0.id());
    let version = version(other);
    let next = AtomicU64::new(only.unwrap_or(0));
    let end = only.map_or(count.unwrap_or(COUNT), |only| only + 1);
    let (unexplained, seen) = (Mutex::new(Vec::new()), Mutex::new(BTreeSet::new()));
    let work = || {
        // What a shared root propagates ends here.
        harness::isolate_mounts();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= end {
                return;
            }
            let member = generate::member(family.base.clone(), family.seed, number);
            let verbs = [
                "memory",
                "cpu",
                "limits",
                "device-rules",
                "cgroup-path",
                "annotations",
            ];
            let by_verbs = number.is_multiple_of(3) || member.drawn.iter().any(|name| verbs.contains(name));
            let theirs = try_one(other, &family, &member, by_verbs);
            let ours = try_one(&berth, &family, &member, by_verbs);
            if only.is_some() {
                println!(
                    "{:#}\nberth: {:#?}\n{}\n{}: {:#?}\n{}",
                    member.config, ours.view, ours.errors, other.name, theirs.view, theirs.errors
                );
            }
            let drawn = member.drawn.join(" +");
            let mut strange = Vec::new();
            for line in look::differences(("berth", &ours.view), (other.name, &theirs.view)) {
                let line = format!("{line} (+{drawn} )");
                match table.explains(&line, &version) {
                    Some(row) => {
                        seen.lock().expect("no panic").insert(row);
                    }
                    None => strange.push(line),
                }
            }
            if !strange.is_empty() {
                let report = format!(
                    "member {number} (+{drawn} ):\n  {}\n  berth says: {}\n  {} says: {}\n",
                    strange.join("\n  "),
                    ours.errors.trim_end(),
                    other.name,
                    theirs.errors.trim_end()
                );
                unexplained.lock().expect("no panic").push(report);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism()
            .map_or(2, usize::from)
            .clamp(2, 4)
        {
            scope.spawn(work);
        }
    });
    let unexplained = unexplained.into_inner().expect("no panic");
    let left: Vec<_> = fs::read_dir(berth.root())
        .expect("the state root")
        .flatten()
        .collect();
    assert!(
        unexplained.is_empty(),
        "{} of {count:?} members differ from {version} in ways that runtime/DESIGN.md does not list:\n{}",
        unexplained.len(),
        unexplained.join("\n")
    );
    assert!(left.is_empty(), "berth left {left:?}");
    if seed.is_none() && count.is_none() && only.is_none() {
        let unused = table.unused(&seen.into_inner().expect("no panic"), &version);
        assert!(
            unused.is_empty(),
            "rows of the table in runtime/DESIGN.md that nothing was seen of: {unused:?}"
        );
    }
}

#[test]
fn a_family_of_configurations_differs_from_runc_only_as_listed() {
    need_root!();
    let Some(runc) = Runtime::runc() else {
        harness::skip!("needs runc")
    };
    compare(&runc, &Table::read());
}
