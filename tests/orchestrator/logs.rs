//! Logs as people read them while they are written and rotated.

use crate::world::{PATIENCE, WAIT, World, script};
use harness::{kubectl, need_root, skip, wait_for};
use serde_json::json;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

/// Lines that the container writes, in pieces, so that whoever reads can keep up.
const LINES: usize = 2000;

#[test]
fn nobody_who_follows_a_log_loses_a_line_when_it_is_rotated() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::with(&["--log-max-bytes", "16384", "--log-max-files", "40"]);
    // The text makes a line about a hundred bytes long: a dozen rotations.
    let text = "of a log that is read while it is written, and cut into files of sixteen kibibytes each";
    let program = format!(
        "i=0; while [ $i -lt {LINES} ]; do echo $i {text}; i=$((i+1)); [ $((i%50)) = 0 ] && sleep 0.05; done; echo end; {WAIT}"
    );
    world.pod("talker", json!({"containers": [script(&program)]}));
    world.ready("talker");
    let follow = |arguments: &[&str]| {
        let mut child = Command::new(&kubectl)
            .env("KUBECONFIG", world.node.kubeconfig())
            .env("HOME", world.node.path())
            .args(["logs", "-f", "talker"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("start kubectl");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let lines: Vec<String> = output
            .lines()
            .map(|line| line.expect("a line of text"))
            .take_while(|line| !line.ends_with("end"))
            .collect();
        child.kill().expect("end kubectl");
        child.wait().expect("reap kubectl");
        lines
    };
    let check = |lines: &[String], from: usize| {
        let numbers: Vec<usize> = lines
            .iter()
            .map(|line| {
                let number = line.split(' ').find_map(|word| word.parse().ok());
                number.unwrap_or_else(|| panic!("no number in {line:?}"))
            })
            .collect();
        let wanted: Vec<usize> = (from..LINES).collect();
        assert!(
            numbers == wanted,
            "{} lines from {from}: {numbers:?}",
            numbers.len()
        );
    };
    // From the beginning while it is written, and once more from the files when all is written.
    check(&follow(&[]), 0);
    let uid = world.get("talker").expect("the pod")["metadata"]["uid"].clone();
    let folder = format!("default_talker_{}", uid.as_str().expect("a uid"));
    let files = std::fs::read_dir(world.node.data_dir().join("logs").join(folder).join("c"))
        .expect("the logs")
        .count();
    assert!(files > 10, "{files} files");
    check(&follow(&[]), 0);
    // The last lines are in more than one file.
    check(&follow(&["--tail", "501"]), LINES - 500);
    let stamped = follow(&["--timestamps"]);
    assert!(
        stamped.iter().all(|line| line.starts_with("20")),
        "{:?}",
        stamped.first()
    );
    // kubectl says the time in whole seconds.
    let second = &stamped[1000][.."2026-01-01T00:00:00".len()];
    let first = stamped.iter().position(|line| line.starts_with(second));
    check(
        &follow(&["--since-time", &format!("{second}Z")]),
        first.expect("a line of that second"),
    );
    world.clean();
}

#[test]
fn the_log_of_the_run_before_is_there_and_cut_to_size() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    let program =
        format!("test -e /v/again && {{ echo second; {WAIT}; }}; touch /v/again; echo first; exit 1");
    let mut container = script(&program);
    container["volumeMounts"] = json!([{"name": "v", "mountPath": "/v"}]);
    world.pod(
        "p",
        json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    world.wait("p", "its second run", |_, c| {
        c["restartCount"] == 1 && c["ready"] == true
    });
    let log = |arguments: &[&str]| {
        world
            .node
            .kubectl(&kubectl, &[&["logs", "p"], arguments].concat())
    };
    wait_for("the second run to speak", PATIENCE, || {
        let text = log(&[]).stdout;
        if text == "second\n" { Ok(()) } else { Err(text) }
    });
    assert_eq!(log(&["--previous"]).ok(), "first\n");
    assert_eq!(log(&["--previous", "--limit-bytes", "3"]).ok(), "fir");
    assert_eq!(log(&["--since", "1h", "--tail", "1"]).ok(), "second\n");
    world.pod("once", json!({"containers": [script(WAIT)]}));
    world.ready("once");
    let error = world
        .node
        .kubectl(&kubectl, &["logs", "once", "--previous"])
        .err();
    assert!(
        error.contains("previous terminated container \"c\" in pod \"once\" not found"),
        "{error}"
    );
    world.clean();
}
