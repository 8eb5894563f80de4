//! Each verb: its effect, output and exit code, the same as runc's.

use harness::{Bundle, need_root, run};
use serde_json::{Value, json};

use crate::driver::{PATIENCE, Runtime, cgroups_named, unique};

fn sleeper() -> Bundle {
    Bundle::new(&["sleep", "1000"])
}

#[test]
fn a_container_goes_through_its_life() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = sleeper();
        let container = runtime.container(&mut bundle);
        container.create();
        let state = container.state();
        assert_eq!(state["status"], "created", "{}", runtime.name);
        assert_eq!(state["id"], container.id.as_str());
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
        assert_eq!(state["rootfs"], bundle.rootfs().to_str().unwrap());
        let pid = state["pid"].as_i64().unwrap();
        assert!(std::path::Path::new(&format!("/proc/{pid}")).exists());

        container.verb("start", &[]).ok();
        assert_eq!(container.status(), "running");
        let again = container.verb("start", &[]).err();
        assert!(
            again.contains("cannot start an already running container"),
            "{again}"
        );
        let delete = container.verb("delete", &[]).err();
        let expected = format!(
            "cannot delete container {} that is not stopped: running",
            container.id
        );
        assert!(delete.contains(&expected), "{delete}");

        container.kill("KILL").ok();
        container.wait("stopped");
        assert_eq!(container.state()["pid"], 0);
        assert!(container.kill("TERM").err().contains("container not running"));
        let start = container.verb("start", &[]).err();
        assert!(
            start.contains("cannot start a container that has stopped"),
            "{start}"
        );
        let exec = container.exec(&["true"]);
        assert_eq!(exec.code(), 255);
        assert!(
            exec.stderr.contains("cannot exec in a stopped container"),
            "{}",
            exec.stderr
        );

        container.verb("delete", &[]).ok();
        assert!(
            container
                .verb("state", &[])
                .err()
                .contains("container does not exist")
        );
        assert!(
            container
                .verb("delete", &[])
                .err()
                .contains("container does not exist")
        );
        container.verb("delete", &["--force"]).ok();
        assert_eq!(cgroups_named(&container.id), Vec::<std::path::PathBuf>::new());
    }
}

#[test]
fn a_created_container_can_be_deleted_and_killed() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = sleeper();
        let container = runtime.container(&mut bundle);
        container.create().verb("delete", &[]).ok();
        assert!(
            container
                .verb("state", &[])
                .err()
                .contains("container does not exist")
        );
        container.create();
        container.kill("9").ok();
        container.wait("stopped");
        container.verb("delete", &["-f"]).ok();
    }
}

#[test]
fn a_running_container_is_deleted_by_force() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = sleeper();
        let container = runtime.container(&mut bundle);
        container.start().verb("delete", &["--force"]).ok();
        assert!(
            container
                .verb("state", &[])
                .err()
                .contains("container does not exist")
        );
        assert!(cgroups_named(&container.id).is_empty());
    }
}

#[test]
fn an_id_is_taken_once() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = sleeper();
        let container = runtime.container(&mut bundle);
        container.create();
        for verb in ["create", "run"] {
            let error = container.verb(verb, &[]).err();
            assert!(
                error.contains("container with given ID already exists"),
                "{error}"
            );
        }
        assert_eq!(container.status(), "created", "the first one is untouched");
    }
}

#[test]
fn ids_are_checked() {
    for runtime in Runtime::all() {
        for verb in ["state", "start", "kill", "delete"] {
            let error = runtime.call(&[verb, "a/b"]).err();
            assert!(error.contains("invalid container ID format"), "{verb}: {error}");
            let error = runtime.call(&[verb, ""]).err();
            assert!(error.contains("container id cannot be empty"), "{verb}: {error}");
            let error = runtime.call(&[verb, "nosuch"]).err();
            assert!(error.contains("container does not exist"), "{verb}: {error}");
            let missing = runtime.call(&[verb]);
            assert_eq!(missing.code(), 1, "{verb}");
            assert!(
                missing.stderr.contains(&format!("\"{verb}\\\" requires"))
                    || missing.stderr.contains("requires")
            );
        }
    }
}

#[test]
fn kill_takes_names_and_numbers() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = sleeper();
        let container = runtime.container(&mut bundle);
        container.start();
        container.kill("0").ok();
        assert!(container.kill("NOSUCH").err().contains("unknown signal"));
        assert!(container.kill("999").err().contains("invalid argument"));
        container.kill("sigkill").ok();
        container.wait("stopped");
        runtime.call(&["kill", "--all", &container.id, "9"]).ok();
    }
}

#[test]
fn kill_all_reaches_every_process() {
    need_root!();
    for runtime in Runtime::all() {
        // Without a pid namespace of their own, the others outlive the init.
        let mut bundle = Bundle::new(&["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
        bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|entry| entry["type"] != "pid");
            config["linux"]["maskedPaths"] = json!([]);
            config["linux"]["readonlyPaths"] = json!([]);
        });
        let container = runtime.container(&mut bundle);
        container.start();
        harness::wait_for("three processes", PATIENCE, || match processes(&container.id) {
            3 => Ok(()),
            other => Err(other),
        });
        runtime.call(&["kill", "--all", &container.id, "KILL"]).ok();
        container.wait("stopped");
        harness::wait_for("no process", PATIENCE, || match processes(&container.id) {
            0 => Ok(()),
            other => Err(other),
        });
        container.verb("delete", &[]).ok();
    }
}

fn processes(cgroup: &str) -> usize {
    let file = crate::driver::cgroup_file(cgroup, &["cgroup.procs"]);
    std::fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn state_is_byte_for_byte_that_of_runc() {
    need_root!();
    let (berth, Some(runc)) = (Runtime::berth(), Runtime::runc()) else {
        harness::skip!("needs runc")
    };
    let mut bundle = sleeper();
    bundle.edit(|config| config["annotations"] = json!({"z<": "&>", "a": "", "org.example": "\"quoted\" ü"}));
    let text = |runtime: &Runtime, bundle: &mut Bundle| {
        let container = runtime.container(bundle);
        container.create();
        let state: Value = container.state();
        let created = state["created"].as_str().unwrap().to_owned();
        let list = runtime.call(&["list", "--format", "json"]).ok();
        let table = runtime.call(&["list"]).ok();
        let quiet = runtime.call(&["list", "-q"]).ok();
        // Columns are as wide as their widest cell: the created time drops trailing zeros, and ids and pids differ.
        let table = table.split_whitespace().collect::<Vec<_>>().join(" ");
        [container.verb("state", &[]).ok(), list, table, quiet].map(|text| {
            let text = text.replace(&container.id, "ID").replace(&created, "TIME");
            // Each runtime tells the version of the specification that it implements.
            let text = text.replace(state["ociVersion"].as_str().unwrap(), "VERSION");
            text.replace(&state["pid"].to_string(), "PID")
        })
    };
    let ours = text(&berth, &mut bundle);
    let theirs = text(&runc, &mut bundle);
    assert_eq!(ours, theirs);
}

#[test]
fn an_empty_list_is_that_of_runc() {
    let (berth, Some(runc)) = (Runtime::berth(), Runtime::runc()) else {
        harness::skip!("needs runc")
    };
    for options in [&["list"][..], &["list", "--format", "json"], &["list", "-q"]] {
        assert_eq!(berth.call(options).ok(), runc.call(options).ok());
    }
    assert!(
        berth
            .call(&["list", "--format", "yaml"])
            .err()
            .contains("invalid format option")
    );
}

#[test]
fn pid_files_are_whole_and_hold_the_init() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = sleeper();
        let container = runtime.container(&mut bundle);
        let path = bundle.path().join("pid");
        container
            .verb("create", &["--pid-file", path.to_str().unwrap()])
            .ok();
        let pid = std::fs::read_to_string(&path).unwrap();
        assert_eq!(pid, container.pid().to_string());
        let nowhere = bundle.path().join("no/such/pid");
        let second = runtime.container(&mut bundle);
        second
            .verb("create", &["--pid-file", nowhere.to_str().unwrap()])
            .err();
        assert!(
            second.verb("state", &[]).err().contains("does not exist"),
            "nothing half-made is left"
        );
        assert!(cgroups_named(&second.id).is_empty());
    }
}

#[test]
fn spec_writes_what_runc_writes() {
    let dir = tempfile::tempdir().unwrap();
    for options in [&[][..], &["--rootless"]] {
        let write = |runtime: &Runtime| -> Value {
            let bundle = dir.path().join(format!("{}{}", runtime.name, options.len()));
            std::fs::create_dir(&bundle).unwrap();
            let call = || {
                let mut command = runtime.command(&["spec", "--bundle", bundle.to_str().unwrap()]);
                run(command.args(options))
            };
            call().ok();
            assert!(call().err().contains("File config.json exists. Remove it first"));
            let text = std::fs::read(bundle.join("config.json")).unwrap();
            let mut document: Value = serde_json::from_slice(&text).unwrap();
            // What is different on purpose, or between runc 1.1 and 1.5.
            document.as_object_mut().unwrap().remove("ociVersion");
            document.as_object_mut().unwrap().remove("hostname");
            document["process"]["capabilities"]
                .as_object_mut()
                .unwrap()
                .remove("ambient");
            document
        };
        let ours = write(&Runtime::berth());
        if let Some(runc) = Runtime::runc() {
            assert_eq!(ours, write(&runc));
        }
    }
}

#[test]
fn the_version_has_the_layout_that_engines_parse() {
    let text = run(std::process::Command::new(harness::bin("berth")).arg("--version")).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("berth version "), "{text}");
    assert!(lines.iter().any(|line| line.starts_with("spec: 1.")), "{text}");
    let short = run(std::process::Command::new(harness::bin("berth")).arg("-v")).ok();
    assert_eq!(text, short);
}

#[test]
fn features_name_everything_that_the_specification_lists() {
    let text = Runtime::berth().call(&["features"]).ok();
    let ours: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ours["ociVersionMin"], "1.0.0");
    for pointer in [
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
    ] {
        assert!(
            !ours.pointer(pointer).unwrap().as_array().unwrap().is_empty(),
            "{pointer}"
        );
    }
    // Everything that the reference knows, but for what its later versions dropped.
    let Some(runc) = Runtime::runc() else {
        harness::skip!("needs runc")
    };
    let theirs: Value = serde_json::from_str(&runc.call(&["features"]).ok()).unwrap();
    for pointer in [
        "/hooks",
        "/mountOptions",
        "/linux/namespaces",
        "/linux/capabilities",
        "/linux/seccomp/actions",
    ] {
        let known = ours.pointer(pointer).unwrap().as_array().unwrap();
        for word in theirs.pointer(pointer).unwrap().as_array().unwrap() {
            assert!(
                known.contains(word) || word == "acl" || word == "noacl",
                "{pointer}: {word}"
            );
        }
    }
}

#[test]
fn global_options_that_make_no_sense_are_refused_not_ignored() {
    let berth = Runtime::berth();
    // This one is there; verbs that make no cgroup ask nobody.
    let error = berth.call(&["--systemd-cgroup", "state", "nosuch"]).err();
    assert!(error.contains("container does not exist"), "{error}");
    // As with runc, criu is taken from PATH whatever this says.
    berth.call(&["--criu", "/no/such/criu", "list"]).ok();
    assert!(
        berth
            .call(&["--rootless", "maybe", "list"])
            .err()
            .contains("--rootless")
    );
    let error = run(std::process::Command::new(harness::bin("berth")).args(["--root", "/", "list"])).err();
    assert!(
        error.contains("--root argument should not be set to /"),
        "{error}"
    );
}

#[test]
fn verbs_on_one_container_at_once_are_safe() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = sleeper();
    let container = runtime.container(&mut bundle);
    for _ in 0..5 {
        // Of several creators of one id, one wins, and deleting finds a whole container or none.
        let children: Vec<_> = (0..4)
            .map(|_| {
                container
                    .command("create", &[])
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let wins = children
            .into_iter()
            .map(|mut child| child.wait().unwrap())
            .filter(|status| status.success())
            .count();
        assert_eq!(wins, 1);
        let children: Vec<_> = (0..3)
            .map(|_| container.command("delete", &["--force"]).spawn().unwrap())
            .collect();
        for mut child in children {
            assert!(child.wait().unwrap().success());
        }
        assert!(container.verb("state", &[]).err().contains("does not exist"));
        assert!(cgroups_named(&container.id).is_empty());
    }
}

#[test]
fn a_reused_process_id_is_not_signalled() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = sleeper();
    let container = runtime.container(&mut bundle);
    container.start();
    container.kill("KILL").ok();
    container.wait("stopped");
    let path = runtime.root().join(&container.id).join("state.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    // Give the record the id of a process that lives, as if the kernel had reused it: in a later tick of the clock that
    // start times are told in, of which there are a hundred a second.
    let mut bystander = harness::wait_for("a later tick", PATIENCE, || {
        let mut bystander = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", bystander.id())).unwrap();
        if stat.split(' ').nth(21) != Some(record["startTime"].to_string().as_str()) {
            return Ok(bystander);
        }
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        Err("the same tick")
    });
    record["pid"] = json!(bystander.id());
    std::fs::write(&path, record.to_string()).unwrap();
    assert_eq!(container.status(), "stopped");
    assert!(container.kill("KILL").err().contains("container not running"));
    container.verb("delete", &["--force"]).ok();
    assert!(bystander.try_wait().unwrap().is_none(), "the bystander lives");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn a_directory_without_record_is_removed_by_force() {
    let runtime = Runtime::berth();
    let id = unique();
    std::fs::create_dir(runtime.root().join(&id)).unwrap();
    assert!(
        runtime
            .call(&["state", &id])
            .err()
            .contains("container does not exist")
    );
    runtime.call(&["delete", "--force", &id]).ok();
    assert!(!runtime.root().join(&id).exists());
}

/// As Go's programs take them; containerd's own shim calls `restore -no-subreaper`.
#[test]
fn long_options_may_have_one_dash() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = sleeper();
        let container = runtime.container(&mut bundle);
        container.create();
        let list = run(&mut runtime.command(&["list", "-quiet"])).ok();
        assert_eq!(list.trim(), container.id, "{}", runtime.name);
        container.verb("start", &[]).ok();
        let exec = run(&mut runtime.command(&[
            "exec",
            "-cwd",
            "/tmp",
            "-env",
            "A=-user",
            &container.id,
            "sh",
            "-c",
            "pwd; echo $A",
        ]));
        assert_eq!(exec.ok(), "/tmp\n-user\n", "{}", runtime.name);
        container.verb("delete", &["-force"]).ok();
    }
}

#[test]
fn a_signal_that_ends_others_ends_a_created_container() {
    need_root!();
    for (signal, number) in [("TERM", 15), ("INT", 2), ("QUIT", 3), ("HUP", 1), ("ABRT", 6)] {
        for own_pids in [true, false] {
            let runtime = Runtime::berth();
            let mut bundle = sleeper();
            bundle.edit(|config| {
                let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|entry| own_pids || entry["type"] != "pid");
            });
            let container = runtime.container(&mut bundle);
            container.create();
            container.kill(signal).ok();
            container.wait("stopped");
            let text = container.verb("start", &[]).err();
            assert!(text.contains("stopped"), "{signal} {number}: {text}");
            container.verb("delete", &[]).ok();
        }
    }
    // What ends nobody, and what the program is to see, waits for nothing: the container can still be started.
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "trap 'exit 9' TERM; echo ready >/ready; while :; do sleep 0.1; done",
    ]);
    let container = runtime.container(&mut bundle);
    container.create();
    container.kill("WINCH").ok();
    assert_eq!(container.status(), "created");
    container.verb("start", &[]).ok();
    harness::wait_for("the trap", PATIENCE, || {
        match bundle.rootfs().join("ready").exists() {
            true => Ok(()),
            false => Err("not there"),
        }
    });
    let blocked = container.exec(&["grep", "SigBlk", "/proc/1/status"]).ok();
    assert_eq!(blocked, "SigBlk:\t0000000000000000\n");
    container.kill("TERM").ok();
    container.wait("stopped");
}

#[test]
fn called_as_runc_it_says_so() {
    let link = tempfile::tempdir().unwrap();
    let path = link.path().join("runc");
    std::os::unix::fs::symlink(harness::bin("berth"), &path).unwrap();
    let call = |arguments: &[&str]| run(std::process::Command::new(&path).args(arguments));
    assert!(call(&["--version"]).ok().starts_with("runc version "));
    let text = call(&["run", "--bundle", "/no/such/bundle", "x"]).err();
    assert!(text.contains("runc run failed: bundle /no/such/bundle"), "{text}");
    assert!(
        call(&["state"])
            .err()
            .contains(r#"runc: \"state\" requires exactly 1 argument(s)"#)
    );
    let help = call(&["--help"]).ok();
    assert!(
        help.starts_with("NAME:\n   runc - Open Container Initiative runtime\n"),
        "{help}"
    );
    let help = call(&["exec", "-h"]).ok();
    assert!(
        help.starts_with("NAME:\n   runc exec - ") && help.contains("\nUSAGE:\n   runc exec "),
        "{help}"
    );
    assert!(
        call(&["frobnicate", "-h"])
            .err()
            .contains("No help topic for 'frobnicate'")
    );
}

#[test]
fn a_program_that_the_kernel_refuses_is_told_as_shells_do() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["/script"]);
    let script = bundle.rootfs().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let container = runtime.container(&mut bundle);
    let outcome = container.run();
    assert_eq!(outcome.code(), 255);
    assert_eq!(outcome.stderr, "exec /script: no such file or directory\n");
    container.verb("state", &[]).err();
    // Engines read the whole in the log.
    let log = bundle.path().join("log");
    let log_path = log.to_str().unwrap();
    let path = bundle.path().to_str().unwrap();
    let arguments = [
        "--log",
        log_path,
        "--log-format",
        "json",
        "run",
        "--bundle",
        path,
        &container.id,
    ];
    let outcome = runtime.call(&arguments);
    assert_eq!(outcome.stderr, "exec /script: no such file or directory\n");
    let line: Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).unwrap();
    assert_eq!(
        line["msg"],
        "berth run failed: unable to start container process: exec /script: no such file or directory"
    );
}
