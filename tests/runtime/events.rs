//! `events`: counters once or again and again, and lack of memory.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Stdio};

use harness::{Bundle, need_root, wait_for};
use serde_json::{Value, json};

use crate::driver::{Container, PATIENCE, Runtime};

fn stats(container: &Container<'_>) -> Value {
    let text = container.verb("events", &["--stats"]).ok();
    assert_eq!(text.lines().count(), 1, "{text}");
    let event: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], container.id.as_str());
    event["data"].clone()
}

/// The members of a document, in paths; numbers of lists are left out.
fn members(document: &Value, at: &str, found: &mut BTreeSet<String>) {
    match document {
        Value::Object(map) => {
            for (key, value) in map {
                members(value, &format!("{at}/{key}"), found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| members(value, at, found)),
        _ => drop(found.insert(at.to_owned())),
    }
}

fn limited() -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", "i=0; while :; do i=$((i+1)); done"]);
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({
            "devices": [{"allow": false, "access": "rwm"}],
            "memory": {"limit": 64 << 20, "swap": 64 << 20},
            "pids": {"limit": 31},
            "cpu": {"quota": 20_000, "period": 100_000, "cpus": "0"},
        });
    });
    bundle
}

#[test]
fn counters_count() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        let document = wait_for("some use of the cpu, and throttling", PATIENCE, || {
            let document = stats(&container);
            let used = document["cpu"]["usage"]["total"].as_u64().unwrap_or_default();
            let throttled = document["cpu"]["throttling"]["throttledPeriods"].as_u64();
            if used > 1_000_000 && throttled.unwrap_or_default() > 0 {
                Ok(document)
            } else {
                Err(document)
            }
        });
        assert_eq!(
            document["pids"],
            json!({"current": 1, "limit": 31}),
            "{}",
            runtime.name
        );
        assert_eq!(document["memory"]["usage"]["limit"], 64 << 20);
        let used = document["memory"]["usage"]["usage"].as_u64().unwrap();
        assert!((4096..64 << 20).contains(&used), "{used}");
        assert!(document["memory"]["raw"].as_object().unwrap().len() > 10);
        let usage = &document["cpu"]["usage"];
        assert!(
            usage["user"].as_u64().unwrap() + usage["kernel"].as_u64().unwrap() > 0,
            "{usage}"
        );
        assert!(document["network_interfaces"].is_null());
        assert!(document["intel_rdt"].is_object() && document["hugetlb"].is_object());
    }
}

#[test]
fn the_document_has_the_members_of_runcs() {
    need_root!();
    let (berth, Some(runc)) = (Runtime::berth(), Runtime::runc()) else {
        harness::skip!("needs runc")
    };
    let of = |runtime: &Runtime| {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        wait_for("some throttling", PATIENCE, || {
            let document = stats(&container);
            let throttled = document["cpu"]["throttling"]["throttledPeriods"].as_u64();
            throttled
                .filter(|count| *count > 0)
                .map(|_| document)
                .ok_or("none yet")
        })
    };
    let (ours, theirs) = (of(&berth), of(&runc));
    let set = |document: &Value| {
        let mut found = BTreeSet::new();
        members(document, "", &mut found);
        found
    };
    let (our_members, their_members) = (set(&ours), set(&theirs));
    // Pressure came with runc 1.2; runc 1.1 prints empty counters that later versions leave out.
    let missing: Vec<_> = their_members
        .difference(&our_members)
        .filter(|path| !theirs.pointer(path).is_some_and(|value| value == 0))
        .collect();
    assert!(missing.is_empty(), "{missing:?} of {theirs}\nin {ours}");
    let more: Vec<_> = our_members
        .difference(&their_members)
        // Of huge pages, runc does not see those that cgroup2 counts on a hybrid host.
        .filter(|path| !path.contains("/psi/") && !path.starts_with("/hugetlb/"))
        // What is zero is left out.
        .filter(|path| {
            !["/usage", "/max", "/cache", "/value"]
                .iter()
                .any(|end| path.ends_with(end))
        })
        .collect();
    assert!(more.is_empty(), "{more:?} of {ours}\nin {theirs}");
    for pointer in [
        "/cpuset",
        "/pids",
        "/memory/usage/limit",
        "/memory/swap/limit",
        "/memory/kernel/limit",
        "/network_interfaces",
        "/intel_rdt",
    ] {
        assert_eq!(ours.pointer(pointer), theirs.pointer(pointer), "{pointer}");
    }
}

/// `events` in the background, its output a line at a time.
struct Stream {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Stream {
    fn of(container: &Container<'_>, options: &[&str]) -> Self {
        let mut child = container
            .command("events", options)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(File::create("/dev/null").unwrap()))
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next event; `None` at the end.
    fn next(&mut self) -> Option<Value> {
        let mut line = String::new();
        let length = self.lines.read_line(&mut line).unwrap();
        (length > 0).then(|| serde_json::from_str(&line).unwrap())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn counters_come_again_and_again_until_the_end() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        let mut stream = Stream::of(&container, &["--interval", "50ms"]);
        let mut last = 0;
        for _ in 0..3 {
            let event = stream.next().unwrap();
            assert_eq!(event["type"], "stats", "{}", runtime.name);
            let used = event["data"]["cpu"]["usage"]["total"].as_u64().unwrap();
            assert!(used >= last, "{used} after {last}");
            last = used;
        }
        // runc on v1 waits for the cgroup to go.
        container.verb("delete", &["--force"]).ok();
        while stream.next().is_some() {}
        assert!(stream.child.wait().unwrap().success(), "{}", runtime.name);
    }
}

#[test]
fn a_lack_of_memory_is_an_event() {
    need_root!();
    for runtime in Runtime::all() {
        // The shell goes on after its child was killed for want of memory.
        let script = "while [ ! -e /go ]; do sleep 0.1; done; \
                      dd if=/dev/zero of=/dev/null bs=200M count=1 2>/dev/null; sleep 1000";
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        bundle.edit(|config| {
            config["linux"]["resources"]["memory"] = json!({"limit": 32 << 20, "swap": 32 << 20});
        });
        let container = runtime.container(&mut bundle);
        container.start();
        let mut stream = Stream::of(&container, &["--interval", "50ms"]);
        // It listens once it has printed something.
        assert_eq!(stream.next().unwrap()["type"], "stats");
        std::fs::write(bundle.rootfs().join("go"), "").unwrap();
        let oom = loop {
            let event = stream.next().unwrap();
            if event["type"] != "stats" {
                break event;
            }
        };
        assert_eq!(
            oom,
            json!({"type": "oom", "id": container.id}),
            "{}",
            runtime.name
        );
    }
}

#[test]
fn the_stream_ends_when_nobody_reads_it_or_the_container_stops() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = limited();
    let container = runtime.container(&mut bundle);
    container.start();
    let mut unread = Stream::of(&container, &["--interval", "20ms"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut broken = container
        .command("events", &["--interval", "20ms"])
        .stdout(writer)
        .spawn()
        .unwrap();
    assert!(broken.wait().unwrap().success());
    container.kill("KILL").ok();
    while unread.next().is_some() {}
    assert!(unread.child.wait().unwrap().success());
}

#[test]
fn bad_calls_are_refused() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = limited();
        let container = runtime.container(&mut bundle);
        container.start();
        for interval in ["0s", "-1s"] {
            let error = container
                .verb("events", &[&format!("--interval={interval}")])
                .err();
            assert!(
                error.contains("duration interval must be greater than 0"),
                "{error}"
            );
        }
        container.verb("events", &["--interval", "5"]).err();
        container.kill("KILL").ok();
        container.wait("stopped");
        let error = container.verb("events", &["--stats"]).err();
        assert!(
            error.contains(&format!("container with id {} is not running", container.id)),
            "{error}"
        );
        assert!(
            runtime
                .call(&["events", "nosuch"])
                .err()
                .contains("container does not exist")
        );
    }
}
