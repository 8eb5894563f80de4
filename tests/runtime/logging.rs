//! The log: engines read the last line of level error.

use serde_json::Value;

use harness::{Bundle, need_root};

use crate::driver::Runtime;

#[test]
fn the_last_error_of_a_json_log_is_the_verbs() {
    let dir = tempfile::tempdir().unwrap();
    for runtime in Runtime::all() {
        let log = dir.path().join(runtime.name);
        let path = log.to_str().unwrap();
        for _ in 0..2 {
            let outcome = runtime.call(&["--log", path, "--log-format", "json", "state", "nosuch"]);
            assert_eq!(outcome.code(), 1);
            assert_eq!(outcome.stderr, "container does not exist\n", "{}", runtime.name);
        }
        let text = std::fs::read_to_string(&log).unwrap();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "appended to");
        for line in lines {
            assert_eq!(line["level"], "error");
            assert_eq!(line["msg"], "container does not exist");
            let time = line["time"].as_str().unwrap();
            assert!(time.len() >= 20 && time.contains('T'), "{time}");
            assert_eq!(line.as_object().unwrap().len(), 3);
        }
    }
}

#[test]
fn text_goes_to_standard_error_or_the_file() {
    let dir = tempfile::tempdir().unwrap();
    for runtime in Runtime::all() {
        let plain = runtime.call(&["state", "nosuch"]);
        assert!(plain.stderr.starts_with("time=\""), "{}", plain.stderr);
        assert!(
            plain
                .stderr
                .ends_with("level=error msg=\"container does not exist\"\n"),
            "{}",
            plain.stderr
        );
        let log = dir.path().join(runtime.name);
        runtime.call(&["--log", log.to_str().unwrap(), "state", "nosuch"]);
        let text = std::fs::read_to_string(&log).unwrap();
        assert!(
            text.ends_with("level=error msg=\"container does not exist\"\n"),
            "{text}"
        );
        assert!(
            runtime
                .call(&["--log-format", "yaml", "list"])
                .err()
                .contains("log-format")
        );
    }
}

#[test]
fn debug_lines_are_the_steps_that_were_taken() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let container = runtime.container(&mut bundle);
    container.create();
    let mut other = Bundle::new(&["true"]);
    let second = runtime.container(&mut other);
    let lines = |log: &str, arguments: &[&str]| {
        let log = bundle.path().join(log);
        let mut all = vec!["--debug", "--log", log.to_str().unwrap()];
        all.extend(arguments);
        let outcome = runtime.call(&all);
        assert!(!outcome.stderr.contains("level=debug"), "{outcome:?}");
        std::fs::read_to_string(&log).unwrap()
    };
    let text = lines(
        "create",
        &["create", "--bundle", other.path().to_str().unwrap(), &second.id],
    );
    for words in [
        "level=debug msg=\"nsexec container setup: Clone new=",
        "AwaitReady: child process in init(): ",
        "init: closing the pipe to signal completion",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
    container.verb("start", &[]).ok();
    let text = lines("exec", &["exec", &container.id, "true"]);
    for words in [
        "nsexec container setup: ",
        "child process in init(): ",
        "setns_init: about to exec",
    ] {
        assert!(text.contains(words), "{words} in\n{text}");
    }
}
