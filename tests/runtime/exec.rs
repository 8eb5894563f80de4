//! `exec`: another process in a running container.

use harness::{Bundle, need_root, wait_for};
use serde_json::json;

use crate::driver::{Container, PATIENCE, Runtime};

fn running<'a>(runtime: &'a Runtime, bundle: &mut Bundle) -> Container<'a> {
    let container = runtime.container(bundle);
    container.start();
    container
}

#[test]
fn the_process_shares_the_container_and_gives_its_code() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = running(&runtime, &mut bundle);
        let text = container.exec(&["sh", "-c", "hostname; cat /proc/1/cmdline | tr '\\0' ' '; exit 7"]);
        assert_eq!(text.code(), 7, "{}", text.stderr);
        assert_eq!(text.stdout, "berth\nsleep 1000 ", "{}", runtime.name);
        let killed = container.exec(&["sh", "-c", "kill -9 $$"]);
        assert_eq!(killed.code(), 137);
        let inside = container.exec(&["cat", "/proc/self/cgroup"]).ok();
        let init = container.exec(&["cat", "/proc/1/cgroup"]).ok();
        assert_eq!(inside, init, "the same cgroups");
    }
}

#[test]
fn options_change_the_process() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = running(&runtime, &mut bundle);
        let exec = |options: &[&str], command: &[&str]| {
            let mut args = vec!["exec"];
            args.extend(options);
            args.push(&container.id);
            args.extend(command);
            runtime.call(&args)
        };
        assert_eq!(exec(&["--cwd", "/tmp"], &["pwd"]).ok(), "/tmp\n");
        let env = exec(&["-e", "A=1", "-e", "B=2 3"], &["sh", "-c", "echo $A $B $TERM"]);
        assert_eq!(env.ok(), "1 2 3 xterm\n");
        let user = exec(
            &["--user", "1000:2000", "-g", "7"],
            &["sh", "-c", "id -u; id -g; id -G"],
        );
        assert_eq!(user.ok(), "1000\n2000\n2000 7\n");
        let status = exec(
            &["--cap", "CAP_SYS_TIME"],
            &["grep", "CapBnd", "/proc/self/status"],
        )
        .ok();
        let bits = u64::from_str_radix(status.split_whitespace().last().unwrap(), 16).unwrap();
        assert_ne!(bits & (1 << 25), 0, "CAP_SYS_TIME is in {bits:x}");
        for (options, message) in [
            (&["--user", "root"][..], "bad uid"),
            (&["--user", "0:x"], "bad gid"),
            (&["-g=-5"], "additional-gids must be a positive number"),
        ] {
            let outcome = exec(options, &["true"]);
            assert_eq!(outcome.code(), 255, "{options:?}");
            if runtime.name == "runc" {
                // Its words changed between versions.
                continue;
            }
            assert!(
                outcome.stderr.contains(message),
                "{options:?}: {}",
                outcome.stderr
            );
        }
        let outcome = exec(&[], &[]);
        assert_eq!(outcome.code(), 255);
        assert!(
            outcome.stderr.contains("args cannot be empty"),
            "{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_failed_start_is_255_and_says_why() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        std::fs::write(bundle.rootfs().join("data"), "not a program").unwrap();
        let container = running(&runtime, &mut bundle);
        for (program, message) in [
            ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
            ("/nosuch", "no such file or directory"),
            ("/data", "permission denied"),
        ] {
            let mut outcome = container.exec(&[program]);
            outcome.stderr = outcome.stderr.replace("\\\"", "\"");
            assert_eq!(
                outcome.code(),
                255,
                "{}: {program}: {}",
                runtime.name,
                outcome.stderr
            );
            assert!(outcome.stderr.contains("exec failed"), "{}", outcome.stderr);
            assert!(
                outcome.stderr.contains(message),
                "{}: {program}: {}",
                runtime.name,
                outcome.stderr
            );
        }
        assert_eq!(container.status(), "running");
    }
}

#[test]
fn a_process_document_says_everything() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = running(&runtime, &mut bundle);
        let file = bundle.path().join("process.json");
        let document = json!({
            "cwd": "/bin", "args": ["sh", "-c", "pwd; id -u; umask; echo $X"], "env": ["X=y", "PATH=/bin"],
            "user": {"uid": 1000, "gid": 1000, "umask": 0o77},
        });
        std::fs::write(&file, document.to_string()).unwrap();
        let outcome = runtime.call(&["exec", "--process", file.to_str().unwrap(), &container.id]);
        // runc 1.1 does not know the umask of a process document yet.
        let umask = if runtime.name == "berth" { "0077" } else { "0022" };
        assert_eq!(
            outcome.ok(),
            format!("/bin\n1000\n{umask}\ny\n"),
            "{}",
            runtime.name
        );
        std::fs::write(&file, "{\"cwd\": 5}").unwrap();
        let outcome = runtime.call(&["exec", "--process", file.to_str().unwrap(), &container.id]);
        assert_eq!(outcome.code(), 255);
        if runtime.name == "berth" {
            assert!(
                outcome.stderr.contains("process.json:1:9: cwd:"),
                "{}",
                outcome.stderr
            );
        }
    }
}

#[test]
fn a_detached_process_goes_on() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = running(&runtime, &mut bundle);
        let file = bundle.path().join("exec.pid");
        let args = [
            "exec",
            "--detach",
            "--pid-file",
            file.to_str().unwrap(),
            &container.id,
            "sleep",
            "2000",
        ];
        runtime.call(&args).ok();
        let pid = std::fs::read_to_string(&file).unwrap();
        // runc returns a moment before its process has become the program.
        wait_for("the program", PATIENCE, || {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
            if command == "sleep\x002000\0" {
                Ok(())
            } else {
                Err(command)
            }
        });
        container.verb("delete", &["--force"]).ok();
        wait_for("the process to end with its container", PATIENCE, || {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                Ok(())
            } else {
                Err(stat)
            }
        });
    }
}

#[test]
fn the_configuration_is_that_of_the_creation() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let container = running(&runtime, &mut bundle);
    bundle.edit(|config| config["process"]["env"] = json!(["LATE=1"]));
    assert_eq!(container.exec(&["sh", "-c", "echo $TERM$LATE"]).ok(), "xterm\n");
    std::fs::remove_file(bundle.path().join("config.json")).unwrap();
    assert_eq!(container.exec(&["echo", "still"]).ok(), "still\n");
}

#[test]
fn many_at_once() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let container = running(&runtime, &mut bundle);
    let children: Vec<_> = (0..16_u8)
        .map(|code| {
            let script = format!("exit {code}");
            runtime
                .command(&["exec", &container.id, "sh", "-c", &script])
                .spawn()
                .unwrap()
        })
        .collect();
    for (code, mut child) in (0..).zip(children) {
        assert_eq!(child.wait().unwrap().code(), Some(code));
    }
}

#[test]
fn what_a_document_leaves_out_is_the_containers() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        bundle.edit(|config| {
            config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 123, "hard": 456}]);
        });
        let container = running(&runtime, &mut bundle);
        let file = bundle.path().join("process.json");
        let by = |document: serde_json::Value| {
            std::fs::write(&file, document.to_string()).unwrap();
            runtime
                .call(&["exec", "-p", file.to_str().unwrap(), &container.id])
                .ok()
        };
        let script =
            "ulimit -n; ulimit -Hn; grep CapBnd /proc/self/status; grep NoNewPrivs /proc/self/status";
        let mut document = json!({
            "cwd": "/", "args": ["sh", "-c", script], "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0},
        });
        // The three of the bundle. That no_new_privs is not asked for is an answer.
        let text = by(document.clone());
        if runtime.name == "berth" {
            // Later than runc 1.1.
            assert!(text.starts_with("123\n456\n"), "{text}");
        }
        assert!(
            text.ends_with("CapBnd:\t0000000020000420\nNoNewPrivs:\t0\n"),
            "{}: {text}",
            runtime.name
        );
        document["capabilities"] = json!({"bounding": ["CAP_KILL"]});
        document["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 78, "hard": 78}]);
        document["noNewPrivileges"] = json!(true);
        assert_eq!(
            by(document),
            "78\n78\nCapBnd:\t0000000000000020\nNoNewPrivs:\t1\n",
            "{}",
            runtime.name
        );
    }
}

#[test]
fn privileges_and_labels() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        bundle.edit(|config| config["process"]["noNewPrivileges"] = json!(false));
        let container = running(&runtime, &mut bundle);
        let exec = |options: &[&str]| {
            let mut args = vec!["exec"];
            args.extend(options);
            args.extend([container.id.as_str(), "grep", "NoNewPrivs", "/proc/self/status"]);
            runtime.call(&args)
        };
        assert_eq!(exec(&[]).ok(), "NoNewPrivs:\t0\n");
        assert_eq!(
            exec(&["--no-new-privs"]).ok(),
            "NoNewPrivs:\t1\n",
            "{}",
            runtime.name
        );
        if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
            let error = exec(&["--process-label", "system_u:system_r:svirt_t:s0"]).err();
            assert!(error.contains("selinux"), "{}: {error}", runtime.name);
        }
        let apparmor = std::fs::read("/sys/module/apparmor/parameters/enabled");
        if !apparmor.is_ok_and(|value| value.starts_with(b"Y")) {
            let error = exec(&["--apparmor", "nosuch"]).err();
            assert!(
                error.to_lowercase().contains("apparmor"),
                "{}: {error}",
                runtime.name
            );
        }
        if runtime.name == "berth" {
            let error = exec(&["--cap", "CAP_NOSUCH"]).err();
            assert!(error.contains("CAP_NOSUCH"), "{error}");
        }
    }
}
