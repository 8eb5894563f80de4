//! Where `exec` puts its process: sub-cgroups, processors.

use std::fs;
use std::process::Command;

use harness::{Bundle, Outcome, need_program, need_root, run, skip, wait_for};
use serde_json::{Value, json};

use crate::driver::{Container, PATIENCE, Runtime, cgroup_file, cgroups_named};

fn running<'a>(runtime: &'a Runtime, bundle: &mut Bundle) -> Container<'a> {
    let container = runtime.container(bundle);
    container.start();
    container
}

#[track_caller]
fn exec(runtime: &Runtime, container: &Container<'_>, options: &[&str], command: &[&str]) -> Outcome {
    let mut args = vec!["exec"];
    args.extend(options);
    args.push(&container.id);
    args.extend(command);
    runtime.call(&args)
}

/// The lines of /proc/self/cgroup that end with this sub-cgroup, seen from the host's cgroup namespace.
fn in_sub(text: &str, name: &str) -> Vec<String> {
    let sub = text.lines().filter(|line| line.ends_with(&format!("/{name}")));
    sub.map(|line| line.split(':').nth(1).unwrap().to_owned())
        .collect()
}

/// A container that stays in the host's cgroup namespace, to see where it is.
fn bundle() -> Bundle {
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .retain(|entry| entry["type"] != "cgroup");
    });
    bundle
}

#[test]
fn a_sub_cgroup_of_one_controller() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = bundle();
        let container = running(&runtime, &mut bundle);
        let pids = cgroup_file(&container.id, &["pids.max"]);
        let pids = pids.parent().unwrap();
        if pids.join("cgroup.controllers").exists() {
            skip!("no v1 hierarchy of the controller pids here");
        }
        fs::create_dir(pids.join("sub")).unwrap();
        let text = exec(
            &runtime,
            &container,
            &["--cgroup", "pids:sub"],
            &["cat", "/proc/self/cgroup"],
        )
        .ok();
        assert_eq!(in_sub(&text, "sub"), ["pids"], "{}: {text}", runtime.name);
        if runtime.name == "runc" {
            // 1.1 takes some of the following.
            continue;
        }
        for (argument, message) in [
            ("pids,pids:sub", "multiple times"),
            (",pids:sub", "empty <controller> prefix"),
            ("nosuch:sub", "invalid --cgroup argument"),
            ("pids:nosuch", "invalid --cgroup argument"),
            ("pids:../..", "invalid --cgroup argument"),
        ] {
            let outcome = exec(&runtime, &container, &["--cgroup", argument], &["true"]);
            assert_eq!(outcome.code(), 255, "{}: {argument}", runtime.name);
            assert!(outcome.stderr.contains(message), "{argument}: {}", outcome.stderr);
        }
        let outcome = exec(
            &runtime,
            &container,
            &["--cgroup", "pids:sub", "--cgroup", "sub"],
            &["true"],
        );
        assert!(outcome.err().contains("missing <controller>: prefix"));
    }
}

#[test]
fn a_sub_cgroup_in_all_hierarchies() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = bundle();
    let container = running(&runtime, &mut bundle);
    let own = cgroups_named(&container.id);
    for dir in &own {
        let sub = dir.join("sub");
        fs::create_dir(&sub).unwrap();
        // A new cpuset of v1 is empty.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if dir.join("cpuset.memory_migrate").exists() {
                fs::write(sub.join(file), fs::read(dir.join(file)).unwrap()).unwrap();
            }
        }
    }
    let text = exec(
        &runtime,
        &container,
        &["--cgroup", "/sub"],
        &["cat", "/proc/self/cgroup"],
    )
    .ok();
    assert_eq!(in_sub(&text, "sub").len(), own.len(), "{text}");
    let plain = container.exec(&["cat", "/proc/self/cgroup"]).ok();
    assert_eq!(in_sub(&plain, "sub"), Vec::<String>::new());
    container.verb("delete", &["--force"]).ok();
    assert!(cgroups_named(&container.id).is_empty(), "with its sub-cgroups");
}

/// As systemd or Docker inside a container do it.
#[test]
fn a_cgroup_that_passes_its_controllers_on_takes_no_process() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = bundle();
    bundle.edit(|config| {
        config["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "2MB", "limit": 0}]);
    });
    let container = running(&runtime, &mut bundle);
    let controllers = cgroups_named(&container.id).into_iter().find(|dir| {
        fs::read_to_string(dir.join("cgroup.controllers")).is_ok_and(|text| text.contains("hugetlb"))
    });
    let Some(own) = controllers else {
        skip!("cgroup2 has no controller hugetlb here")
    };
    let leaf = own.join("leaf");
    fs::create_dir(&leaf).unwrap();
    fs::write(leaf.join("cgroup.procs"), container.pid().to_string()).unwrap();
    fs::write(own.join("cgroup.subtree_control"), "+hugetlb").unwrap();
    let text = container.exec(&["cat", "/proc/self/cgroup"]).ok();
    let unified = text.lines().find(|line| line.starts_with("0::")).unwrap();
    assert!(unified.ends_with("/leaf"), "{text}");
}

/// The processors that a process may use.
fn processors(text: &str) -> String {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

fn document(affinity: &Value) -> Value {
    json!({
        "cwd": "/", "args": ["cat", "/proc/self/status"], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        "execCPUAffinity": affinity,
    })
}

#[test]
fn a_process_is_bound_to_processors() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = bundle();
    let container = running(&runtime, &mut bundle);
    let all = processors(&container.exec(&["cat", "/proc/self/status"]).ok());
    if !all.contains('1') {
        skip!("needs two processors");
    }
    let file = bundle.path().join("process.json");
    let by = |affinity: Value| {
        fs::write(&file, document(&affinity).to_string()).unwrap();
        exec(&runtime, &container, &["--process", file.to_str().unwrap()], &[])
    };
    assert_eq!(processors(&by(json!({"final": "1"})).ok()), "1");
    assert_eq!(processors(&by(json!({"initial": "1", "final": "0"})).ok()), "0");
    assert_eq!(
        processors(&by(json!({"initial": "0-1", "final": "0,1"})).ok()),
        "0-1"
    );
    // Alone, the first one lasts.
    assert_eq!(processors(&by(json!({"initial": "1"})).ok()), "1");
    let error = by(json!({"initial": "1000"})).err();
    assert!(error.contains("process.execCPUAffinity.initial"), "{error}");
    let error = by(json!({"final": "1000"})).err();
    assert!(error.contains("process.execCPUAffinity"), "{error}");
    let error = by(json!({"final": "x"})).err();
    assert!(error.contains("execCPUAffinity.final"), "{error}");
    assert_eq!(container.status(), "running");
}

#[test]
fn the_containers_own_affinity_is_for_exec_and_not_for_its_init() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = bundle();
    bundle.edit(|config| config["process"]["execCPUAffinity"] = json!({"final": "0"}));
    let container = running(&runtime, &mut bundle);
    assert_eq!(
        processors(&container.exec(&["cat", "/proc/self/status"]).ok()),
        "0"
    );
    let init = fs::read_to_string(format!("/proc/{}/status", container.pid())).unwrap();
    let own = fs::read_to_string("/proc/1/status").unwrap();
    assert_eq!(processors(&init), processors(&own));
}

#[test]
fn what_the_caller_is_bound_to_stays_his() {
    need_root!();
    need_program!("taskset");
    let runtime = Runtime::berth();
    let mut bundle = bundle();
    let container = running(&runtime, &mut bundle);
    let all = processors(&container.exec(&["cat", "/proc/self/status"]).ok());
    if !all.contains('1') {
        skip!("needs two processors");
    }
    let bound = |command: &Command| {
        let mut taskset = Command::new("taskset");
        taskset
            .args(["--cpu-list", "0"])
            .arg(command.get_program())
            .args(command.get_args());
        run(&mut taskset)
    };
    let text = bound(&runtime.command(&["exec", &container.id, "cat", "/proc/self/status"])).ok();
    assert_eq!(processors(&text), all);
    let mut other = Bundle::new(&["cat", "/proc/self/status"]);
    let text = bound(&runtime.container(&mut other).command("run", &[])).ok();
    assert_eq!(processors(&text), all);
}

#[test]
fn a_process_sent_into_a_container_ends_with_it() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = bundle();
    let container = running(&runtime, &mut bundle);
    let pid_file = bundle.path().join("exec.pid");
    exec(
        &runtime,
        &container,
        &["--detach", "--pid-file", pid_file.to_str().unwrap()],
        &["sleep", "1000"],
    )
    .ok();
    let pid = fs::read_to_string(pid_file).unwrap();
    let members = fs::read_to_string(cgroup_file(&container.id, &["cgroup.procs"])).unwrap();
    assert!(
        members.lines().any(|line| line == pid),
        "{pid} is not among {members}"
    );
    container.kill("KILL").ok();
    wait_for("the process to end", PATIENCE, || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            Ok(())
        } else {
            Err(stat)
        }
    });
}
