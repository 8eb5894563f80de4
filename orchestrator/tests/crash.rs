//! The store under `kill -9`: at each of SQLite's writes and syncs in turn, a process that writes objects is killed
//! (by strace, on its way into the system call). What it had been told is stored must be there afterwards.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // a test says what failed by panicking

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_api::kinds;
use berthd::store::{Key, Preconditions, Store, file_in};
use serde_json::{Value, json};

/// Folder of the store, for the process that is to be killed.
const FOLDER: &str = "BERTH_CRASH_FOLDER";
/// Bytes of each object's content, for the same.
const SIZE: &str = "BERTH_CRASH_SIZE";
/// Objects that are written.
const OBJECTS: usize = 24;
/// Runs that have to be killed.
const KILLS: usize = 300;
/// The calls by which SQLite changes files.
const CALLS: [&str; 5] = ["pwrite64", "fdatasync", "fsync", "ftruncate", "unlink"];

fn map(name: &str, content: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}, "data": {"k": content},
    })
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"}, "spec": {"containers": []},
    })
}

/// The process that is killed: writes, and notes down what it was told.
#[test]
fn writer() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let size: usize = std::env::var(SIZE).unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&file_in(&folder)).unwrap();
        let mut notes = std::fs::File::options()
            .append(true)
            .create(true)
            .open(folder.join("told"))
            .unwrap();
        // One write(2) a note: it is whole or not there.
        let mut told = |name: &str, content: &str| {
            notes.write_all(format!("{name} {content}\n").as_bytes()).unwrap();
        };
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {}});
        let node = store.create(node).await.unwrap().key().clone();
        for n in 0..OBJECTS {
            // A heartbeat waits for the next write, and goes with it.
            store.refresh_status(&node, "", json!({"beat": n})).await.unwrap();
            let name = format!("m{n}");
            let content = format!("{n}-{}", "x".repeat(size));
            store.create(map(&name, &content)).await.unwrap();
            told(&name, &content);
            match n % 4 {
                1 => {
                    store.update(map(&name, "changed")).await.unwrap();
                    told(&name, "changed");
                }
                2 => {
                    let key = Key::new(kinds::CONFIG_MAP, "default", name.as_str());
                    store.delete(&key, Preconditions::default()).await.unwrap();
                    told(&name, "gone");
                }
                3 => {
                    // Two that share a commit, and a status, which is not synced but outlives the process.
                    let (a, b) = (format!("pa{n}"), format!("pb{n}"));
                    let (first, second) = tokio::join!(store.create(pod(&a)), store.create(pod(&b)));
                    told(&a, "made");
                    told(&b, "made");
                    let key = first.unwrap().key().clone();
                    second.unwrap();
                    let status = json!({"phase": "Running"});
                    store.update_status(&key, "", status).await.unwrap();
                    told(&a, "Running");
                }
                _ => {}
            }
        }
        store.close().await.unwrap();
        told("all", "done");
    });
}

/// What is stored, in the words of the notes.
fn stored(store: &Store) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for object in store.list(kinds::CONFIG_MAP, None).items {
        let content = object.value()["data"]["k"].as_str().unwrap().to_owned();
        found.insert(object.name().to_owned(), content);
    }
    for object in store.list(kinds::POD, None).items {
        let value = object.value();
        let phase = value["status"]["phase"].as_str().unwrap_or("made");
        found.insert(object.name().to_owned(), phase.to_owned());
    }
    found
}

/// States in which an object may be that was told to be in one: what came next may have been written and not told.
fn may_follow(told: &str, seen: Option<&str>) -> bool {
    match (told, seen) {
        (told, Some(seen)) if told == seen => true,
        ("gone", seen) => seen.is_none(),
        ("changed" | "Running", _) => false,
        ("made", seen) => seen == Some("Running"),
        (_, seen) => matches!(seen, None | Some("changed")),
    }
}

/// Kills the writer at the `number`th `call`; true if it had ended before.
fn run_once(call: &str, number: usize, size: usize) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let inject = format!("inject={call}:signal=SIGKILL:when={number}");
    let trace = format!("trace={call}");
    Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject])
        .arg(std::env::current_exe().unwrap())
        .args(["writer", "--exact", "--test-threads=1"])
        .env(FOLDER, dir.path())
        .env(SIZE, size.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    check(dir.path(), &format!("{call} {number}, objects of {size} bytes"))
}

fn check(dir: &Path, label: &str) -> bool {
    let notes = std::fs::read_to_string(dir.join("told")).unwrap_or_default();
    let told: BTreeMap<&str, &str> = notes.lines().filter_map(|l| l.split_once(' ')).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let found = runtime.block_on(async {
        let store =
            Store::open(&file_in(dir)).unwrap_or_else(|e| panic!("{label}: the store does not open: {e:?}"));
        let found = stored(&store);
        // It takes writes as before.
        store.create(map("after", "all")).await.unwrap();
        store.close().await.unwrap();
        found
    });
    for (name, content) in told.iter().filter(|(name, _)| **name != "all") {
        let seen = found.get(*name).map(String::as_str);
        assert!(
            may_follow(content, seen),
            "{label}: {name} was told to be {content:.20}, and is {:.20}",
            seen.unwrap_or("not there")
        );
    }
    told.contains_key("all")
}

/// Says that the test needs what this machine lacks.
fn skip(reason: &str) {
    let line = format!("SKIP what_was_told_to_be_stored_is_stored: {reason}\n");
    eprint!("{line}");
    if let Ok(path) = std::env::var("BERTH_SKIP_LOG") {
        let log = std::fs::File::options().append(true).create(true).open(path);
        log.unwrap().write_all(line.as_bytes()).unwrap();
    }
}

#[test]
fn what_was_told_to_be_stored_is_stored() {
    if Command::new("strace").arg("-V").output().is_err() {
        return skip("needs the program strace");
    }
    let (mut runs, mut kills) = (0, 0);
    // Small objects at every single call; large ones, which make the log fold back into the file, at a sample.
    for (size, step) in [(10, 1), (200_000, 23)] {
        for call in CALLS {
            let mut number = 1;
            loop {
                let whole = run_once(call, number, size);
                runs += 1;
                kills += usize::from(!whole);
                if whole {
                    break;
                }
                number += if call == "pwrite64" { step } else { 1 };
            }
        }
    }
    println!("{runs} runs, {kills} of them killed");
    assert!(kills >= KILLS, "only {kills} of {runs} runs were killed");
}
