//! The six hooks: when, where and with what they run, and what their failure does.

use harness::{Bundle, need_root};
use serde_json::{Value, json};

use crate::driver::{Runtime, cgroups_named};

/// A hook that appends its name and the status it is told to a file, as one line by one write: the
/// container's own process may be writing at the same time.
fn recorder(name: &str, file: &str) -> Value {
    let script =
        format!("status=$(sed 's/.*\"status\":\"\\([a-z]*\\)\".*/\\1/'); echo \"{name} $status\" >> {file}");
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}])
}

#[test]
fn all_six_run_in_order_with_the_state() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "echo process >> /log"]);
        // The same file, seen from outside and from inside.
        let outside = bundle.rootfs().join("log").to_str().unwrap().to_owned();
        bundle.edit(|config| {
            config["hooks"] = json!({
                "prestart": recorder("prestart", &outside),
                "createRuntime": recorder("createRuntime", &outside),
                // Runs in the container's mount namespace before the change of root.
                "createContainer": recorder("createContainer", &outside),
                "startContainer": recorder("startContainer", "/log"),
                "poststart": recorder("poststart", &outside),
                "poststop": recorder("poststop", &outside),
            });
        });
        let container = runtime.container(&mut bundle);
        container.create();
        container.verb("start", &[]).ok();
        container.wait("stopped");
        container.verb("delete", &[]).ok();
        let text = std::fs::read_to_string(&outside).unwrap();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        let position = |word: &str| {
            lines
                .iter()
                .position(|line| line.starts_with(word))
                .unwrap_or_else(|| panic!("{word} in {text}"))
        };
        let order = [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "process",
        ];
        assert!(
            order.windows(2).all(|pair| position(pair[0]) < position(pair[1])),
            "{}: {text}",
            runtime.name
        );
        assert_eq!(position("poststop"), lines.len() - 1, "{}: {text}", runtime.name);
        assert_eq!(
            lines[position("poststop")],
            "poststop stopped",
            "{}",
            runtime.name
        );
        assert_eq!(
            lines[position("startContainer")],
            "startContainer created",
            "{}",
            runtime.name
        );
        // runc 1.1 runs poststart hooks at the end of create; later versions and the specification after start.
        if runtime.name == "berth" {
            assert!(position("startContainer") < position("poststart"), "{text}");
            assert_eq!(lines[position("poststart")], "poststart running");
            assert_eq!(lines[position("createRuntime")], "createRuntime creating");
            assert_eq!(lines[position("createContainer")], "createContainer creating");
        }
    }
}

#[test]
fn a_failing_hook_ends_the_creation() {
    need_root!();
    for runtime in Runtime::all() {
        for name in ["prestart", "createRuntime", "createContainer"] {
            let mut bundle = Bundle::new(&["true"]);
            let stop = bundle.path().join("poststop");
            bundle.edit(|config| {
                config["hooks"] = json!({
                    name: [{"path": "/bin/sh", "args": ["sh", "-c", "echo broken >&2; exit 3"]}],
                    "poststop": [{"path": "/usr/bin/touch", "args": ["touch", stop]}],
                });
            });
            let container = runtime.container(&mut bundle);
            let error = container.verb("create", &[]).err();
            // runc 1.1 does not name the list.
            let list = match runtime.name {
                "berth" => format!("error running {name} hook #0"),
                _ => "hook #0".to_owned(),
            };
            assert!(error.contains(&list), "{}: {error}", runtime.name);
            assert!(error.contains("exit status 3"), "{}: {error}", runtime.name);
            assert!(error.contains("broken"), "{}: {error}", runtime.name);
            assert!(
                container.verb("state", &[]).err().contains("does not exist"),
                "{name}"
            );
            assert!(cgroups_named(&container.id).is_empty());
        }
    }
}

#[test]
fn a_failing_start_container_hook_ends_the_start() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["touch", "/ran"]);
    bundle.edit(|config| {
        config["hooks"] = json!({"startContainer": [{"path": "/bin/false"}]});
    });
    let container = runtime.container(&mut bundle);
    container.create();
    let error = container.verb("start", &[]).err();
    assert!(error.contains("startContainer hook #0"), "{error}");
    container.wait("stopped");
    assert!(!bundle.rootfs().join("ran").exists());
}

#[test]
fn a_failing_poststart_hook_kills_the_container() {
    need_root!();
    // runc 1.1 runs them in create.
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|config| config["hooks"] = json!({"poststart": [{"path": "/bin/false"}]}));
    let container = runtime.container(&mut bundle);
    container.create();
    let error = container.verb("start", &[]).err();
    assert!(
        error.contains("error running poststart hook #0: exit status 1"),
        "{}: {error}",
        runtime.name
    );
    container.wait("stopped");
}

#[test]
fn a_failing_poststop_hook_does_not_keep_the_others() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["true"]);
    let file = bundle.path().join("second");
    bundle.edit(|config| {
        config["hooks"] = json!({"poststop": [
            {"path": "/bin/false"},
            {"path": "/usr/bin/touch", "args": ["touch", file]},
        ]});
    });
    let outcome = runtime.run_bundle(&mut bundle);
    assert_eq!(outcome.code(), 0);
    assert!(
        outcome.stderr.contains("error running poststop hook #0"),
        "logged: {}",
        outcome.stderr
    );
    assert!(file.exists());
}

#[test]
fn a_hook_past_its_timeout_is_killed() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["true"]);
        bundle.edit(|config| {
            config["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]});
        });
        let container = runtime.container(&mut bundle);
        let error = container.verb("create", &[]).err();
        assert!(
            error.contains("hook ran past specified timeout of 1.0s"),
            "{}: {error}",
            runtime.name
        );
        assert!(container.verb("state", &[]).err().contains("does not exist"));
    }
}

#[test]
fn the_state_names_the_container_and_the_namespaces_are_right() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["true"]);
        let dir = bundle.path().to_path_buf();
        // The hook of the runtime's namespaces, which can look into the container's by its process id.
        let script = format!(
            "cat > {0}/state; readlink /proc/self/ns/mnt > {0}/own; pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' {0}/state); readlink /proc/$pid/ns/mnt > {0}/theirs",
            dir.display()
        );
        bundle.edit(|config| {
            config["annotations"] = json!({"org.example": "value"});
            config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"]}]});
        });
        let container = runtime.container(&mut bundle);
        container.create();
        let state: Value = serde_json::from_slice(&std::fs::read(dir.join("state")).unwrap()).unwrap();
        assert_eq!(state["id"], container.id.as_str());
        assert_eq!(state["pid"], container.pid());
        assert_eq!(state["bundle"], dir.to_str().unwrap());
        assert_eq!(state["annotations"]["org.example"], "value");
        let own = std::fs::read_to_string(dir.join("own")).unwrap();
        assert_eq!(
            own.trim_end(),
            std::fs::read_link("/proc/self/ns/mnt").unwrap().to_str().unwrap()
        );
        assert_ne!(
            own,
            std::fs::read_to_string(dir.join("theirs")).unwrap(),
            "{}",
            runtime.name
        );
    }
}

#[test]
fn start_hooks_are_held_to_the_filter() {
    need_root!();
    for privileges in [true, false] {
        for action in ["SCMP_ACT_KILL", "SCMP_ACT_ERRNO"] {
            let runtime = Runtime::berth();
            let mut bundle = Bundle::new(&["sh", "-c", "echo program"]);
            bundle.edit(|config| {
                config["process"]["noNewPrivileges"] = json!(!privileges);
                config["process"]["rlimits"] = json!([{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
                config["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}],
                });
                config["hooks"] = json!({"startContainer": [
                    {"path": "/bin/sh", "args": ["sh", "-c", "mkdir /dev/shm/made"]},
                ]});
            });
            let text = runtime.run_bundle(&mut bundle).err();
            let why = if action == "SCMP_ACT_KILL" {
                "bad system call"
            } else {
                "Operation not permitted"
            };
            assert!(
                text.contains("error running startContainer hook #0") && text.contains(why),
                "{action} {privileges}: {text}"
            );
            // What the filter allows goes on.
            bundle.edit(|config| config["hooks"]["startContainer"][0]["args"][2] = json!("exec true"));
            assert_eq!(runtime.run_bundle(&mut bundle).ok(), "program\n");
        }
    }
}
