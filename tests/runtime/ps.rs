//! `ps`: the container's processes, and no other.

use harness::{Bundle, need_program, need_root, wait_for};

use crate::driver::{Container, PATIENCE, Runtime};

fn pids(container: &Container<'_>) -> Vec<i32> {
    let text = container.verb("ps", &["--format", "json"]).ok();
    serde_json::from_str(&text).unwrap()
}

fn three<'a>(runtime: &'a Runtime, bundle: &mut Bundle) -> (Container<'a>, Vec<i32>) {
    let container = runtime.container(bundle);
    container.start();
    let pids = wait_for("three processes", PATIENCE, || {
        let pids = pids(&container);
        let named = pids.iter().all(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            ["sleep\n", "sh\n", "busybox\n"].contains(&name.as_str())
        });
        if pids.len() == 3 && named {
            Ok(pids)
        } else {
            Err(pids)
        }
    });
    (container, pids)
}

fn bundle() -> Bundle {
    Bundle::new(&["sh", "-c", "sleep 1111 & sleep 2222 & wait"])
}

#[test]
fn json_has_the_ids_of_the_host() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = bundle();
        let (container, pids) = three(&runtime, &mut bundle);
        assert!(pids.contains(&container.pid()));
        assert_eq!(
            container.verb("ps", &["-f", "json"]).ok(),
            format!(
                "[{}]\n",
                pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
            ),
            "{}",
            runtime.name
        );
        container.kill("KILL").ok();
        container.wait("stopped");
        wait_for("no process", PATIENCE, || {
            match container.verb("ps", &["-f", "json"]).ok() {
                text if text == "null\n" => Ok(()),
                text => Err(text),
            }
        });
    }
}

#[test]
fn a_table_is_that_of_ps_with_its_options() {
    need_root!();
    need_program!("ps");
    for runtime in Runtime::all() {
        let mut bundle = bundle();
        let (container, pids) = three(&runtime, &mut bundle);
        let table = container.verb("ps", &[]).ok();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{}: {table}", runtime.name);
        let heading: Vec<&str> = lines[0].split_whitespace().collect();
        assert_eq!(heading[..3], ["UID", "PID", "PPID"], "{table}");
        assert!(
            lines[1..].iter().any(|line| line.contains("sleep 2222")),
            "{table}"
        );
        // Options after the id are those of ps, also such as berth itself has.
        let table = runtime.call(&["ps", &container.id, "-e", "-o", "pid,args"]).ok();
        for pid in &pids {
            assert!(
                table
                    .lines()
                    .any(|line| line.split_whitespace().next() == Some(&pid.to_string())),
                "{table}"
            );
        }
        assert!(!table.contains(&format!("\n{} ", std::process::id())), "{table}");
        let short = runtime.call(&["ps", &container.id, "-aux"]).ok();
        assert!(short.starts_with("USER"), "{}: {short}", runtime.name);
    }
}

#[test]
fn what_ps_cannot_show_is_an_error() {
    need_root!();
    need_program!("ps");
    for runtime in Runtime::all() {
        let mut bundle = bundle();
        let (container, _) = three(&runtime, &mut bundle);
        let error = container.verb("ps", &["--format", "xml"]).err();
        assert!(error.contains("invalid format option"), "{error}");
        let error = runtime.call(&["ps", &container.id, "-o", "args"]).err();
        assert!(error.contains("couldn't find PID field in ps output"), "{error}");
        let error = runtime.call(&["ps", &container.id, "--nosuch"]).err();
        assert!(error.contains("exit status"), "{error}");
        assert!(
            runtime
                .call(&["ps", "nosuch"])
                .err()
                .contains("container does not exist")
        );
        assert!(
            runtime
                .call(&["ps"])
                .err()
                .contains("requires a minimum of 1 argument(s)")
        );
    }
}
