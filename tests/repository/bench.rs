//! The benchmark runs and prints its tables; how fast anything is, no test says.

use harness::{bin, need_program, need_root, repository_root, run};
use std::process::Command;

#[test]
fn the_benchmark_prints_a_number_for_every_case() {
    need_root!();
    for program in ["hyperfine", "strace", "gcc", "busybox", "python3", "crun"] {
        need_program!(program);
    }
    let berth = bin("berth");
    let out = tempfile::tempdir().expect("temporary directory");
    let json = out.path().join("result.json");
    // Bundles and state directories go into a folder of this run's own.
    let scratch = tempfile::tempdir().expect("temporary directory");
    let table = run(Command::new(repository_root().join("tests/bench/run"))
        .env("QUICK", "1")
        .env_remove("BENCH_ALIVE")
        .env_remove("BENCH_RUNTIMES")
        .env("CARGO_TARGET_DIR", out.path())
        .env("TMPDIR", scratch.path())
        .arg(berth.parent().expect("a program is in a directory"))
        .arg("--out")
        .arg(&json))
    .ok();
    let result: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&json).expect("the numbers are kept")).expect("as JSON");
    let cases = result["views"]["unified"]["cases"].as_object().expect("cases");
    assert!(cases.len() > 10, "every case is there: {:?}", cases.keys());
    for (name, case) in cases {
        let times = case["samples"]["berth"]["times"].as_array();
        assert!(times.is_some_and(|t| !t.is_empty()), "{name} was timed:\n{table}");
        let title = case["title"].as_str().expect("title");
        assert!(
            table.contains(&format!("| {title} |")),
            "{name} is in the table:\n{table}"
        );
    }
    let leftovers: Vec<_> = std::fs::read_dir(scratch.path())
        .expect("read the temporary directory")
        .filter_map(Result::ok)
        // The lock that two benchmarks at once would wait for stays.
        .filter(|entry| entry.file_name() != "berth-bench.lock")
        .collect();
    assert!(leftovers.is_empty(), "nothing is left: {leftovers:?}");
}

/// Samples of a soak, cycle by cycle: what grows is named, what only comes and goes is not.
const SAMPLES: &str = r#"
import json, soak
base = {"berthd PSS KiB": 20000, "berthd anonymous KiB": 9000, "monitors' PSS KiB": 220, "stored KiB": 100,
        "stored objects": 50, "descriptors": 24, "mounts": 70, "rules": 120, "leases": 8}
def grown(change):
    samples = [{**base, **{name: base[name] + value(n) for name, value in change.items()}} for n in range(12)]
    return soak.verdict(samples)[1]
print(json.dumps([
    grown({}),
    grown({"descriptors": lambda n: n % 3, "berthd PSS KiB": lambda n: 900 * (n % 2), "stored KiB": lambda n: 5 * n}),
    grown({"stored KiB": lambda n: 400 * n, "berthd anonymous KiB": lambda n: 600 * n}),
    grown({"berthd anonymous KiB": lambda n: 600 * n}),
    grown({"mounts": lambda n: n, "leases": lambda n: n // 11, "monitors' PSS KiB": lambda n: 40 * n}),
]))
"#;

#[test]
fn the_soak_names_what_grows_and_nothing_else() {
    let python = need_program!("python3");
    let answer = run(Command::new(python)
        .current_dir(repository_root().join("tests/bench/orchestrator"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-c", SAMPLES]))
    .ok();
    let answer: serde_json::Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(
        answer,
        serde_json::json!([
            [],
            [],
            [],
            ["berthd anonymous KiB"],
            ["monitors' PSS KiB", "mounts", "leases"]
        ])
    );
}

#[test]
fn the_benchmark_of_shims_prints_a_line_for_every_pair() {
    need_root!();
    for program in ["containerd", "ctr", "runc", "busybox", "python3", "unshare"] {
        need_program!(program);
    }
    let programs = bin("containerd-shim-berth-v2");
    let programs = programs.parent().expect("a program is in a directory");
    // Whether the bars hold is for an optimised build on a quiet machine.
    let outcome = run(Command::new(repository_root().join("tests/bench/shim.py"))
        .arg(programs)
        .arg("1"));
    let lines: Vec<&str> = outcome.stdout.lines().collect();
    let times = lines.iter().filter(|line| line.contains("median")).count();
    let sizes = lines.iter().filter(|line| line.contains("PSS of a shim")).count();
    assert_eq!((times, sizes), (3, 2), "{}{}", outcome.stdout, outcome.stderr);
}
