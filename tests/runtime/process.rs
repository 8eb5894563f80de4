//! The process: user, capabilities, limits, directory, environment, descriptors, terminal.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;

use harness::{Bundle, need_root, run};
use serde_json::json;
use tempfile::TempDir;

use crate::driver::Runtime;

#[test]
fn user_groups_umask_and_home() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&[
            "sh",
            "-c",
            "id -u; id -g; grep Groups /proc/self/status; umask; echo $HOME",
        ]);
        bundle.edit(|config| {
            config["process"]["user"] =
                json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 7], "umask": 0o77});
        });
        let text = runtime.run_bundle(&mut bundle).ok();
        assert_eq!(
            text, "1000\n1001\nGroups:\t5 7 \n0077\n/home\n",
            "{}",
            runtime.name
        );
    }
}

#[test]
fn the_five_capability_sets() {
    need_root!();
    let names = |list: &[&str]| list.iter().map(|name| format!("CAP_{name}")).collect::<Vec<_>>();
    for runtime in Runtime::all() {
        for (uid, locked) in [(0, true), (0, false), (1000, true), (1000, false)] {
            let mut bundle = Bundle::new(&["sh", "-c", "grep -E '^(Cap|NoNewPrivs)' /proc/self/status"]);
            bundle.edit(|config| {
                config["process"]["user"]["uid"] = json!(uid);
                config["process"]["noNewPrivileges"] = json!(locked);
                config["process"]["capabilities"] = json!({
                    "bounding": names(&["CHOWN", "KILL", "NET_RAW"]), "effective": names(&["KILL"]),
                    "permitted": names(&["KILL", "NET_RAW"]), "inheritable": names(&["KILL"]),
                    "ambient": names(&["KILL"]),
                });
            });
            let text = runtime.run_bundle(&mut bundle).ok();
            // execve(2) of root's program gives it the bounding set; without root, the ambient one (capabilities(7)).
            let kept = if uid == 0 && !locked {
                "0000000000002021"
            } else {
                "0000000000000020"
            };
            assert!(
                text.contains("CapBnd:\t0000000000002021"),
                "{}: {text}",
                runtime.name
            );
            assert!(
                text.contains("CapInh:\t0000000000000020"),
                "{}: {text}",
                runtime.name
            );
            assert!(
                text.contains("CapAmb:\t0000000000000020"),
                "{}: {text}",
                runtime.name
            );
            if uid != 0 {
                assert!(
                    text.contains(&format!("CapEff:\t{kept}")),
                    "{}: {uid} {locked}: {text}",
                    runtime.name
                );
            }
            assert!(
                text.ends_with(&format!("NoNewPrivs:\t{}\n", u8::from(locked))),
                "{text}"
            );
        }
    }
}

#[test]
fn limits_scores_and_priorities() {
    need_root!();
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "ulimit -n; ulimit -c; cat /proc/self/oom_score_adj; cut -d' ' -f41 /proc/self/stat",
    ]);
    bundle.edit(|config| {
        config["process"]["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]);
        config["process"]["oomScoreAdj"] = json!(321);
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 3});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    });
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    // 3 is SCHED_BATCH.
    assert_eq!(text, "77\n0\n321\n3\n");
}

#[test]
fn a_missing_working_directory_is_made_even_in_a_read_only_root() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["pwd"]);
        bundle.edit(|config| {
            config["root"]["readonly"] = json!(true);
            config["process"]["cwd"] = json!("/not/there yet");
        });
        assert_eq!(
            runtime.run_bundle(&mut bundle).ok(),
            "/not/there yet\n",
            "{}",
            runtime.name
        );
    }
}

#[test]
fn programs_that_cannot_run_are_named_before_anything_starts() {
    need_root!();
    let cases = [
        (
            "nosuch",
            "exec: \\\"nosuch\\\": executable file not found in $PATH",
        ),
        (
            "/no/such",
            "exec: \\\"/no/such\\\": stat /no/such: no such file or directory",
        ),
        ("/etc/passwd", "exec: \\\"/etc/passwd\\\": permission denied"),
    ];
    for runtime in Runtime::all() {
        for (program, message) in cases {
            let mut bundle = Bundle::new(&[program]);
            let container = runtime.container(&mut bundle);
            let text = container.verb("create", &[]).err();
            assert!(text.contains(message), "{}: {text}", runtime.name);
        }
    }
}

#[test]
fn a_program_of_the_wrong_format_is_an_error_of_start() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["/garbage"]);
    let path = bundle.rootfs().join("garbage");
    fs::write(&path, "\x01garbage").unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let container = runtime.container(&mut bundle);
    container.create();
    let text = container.verb("start", &[]).err();
    assert!(text.contains("exec /garbage: exec format error"), "{text}");
}

#[test]
fn sysctls_are_set_in_the_containers_namespaces() {
    need_root!();
    let host = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["cat", "/proc/sys/kernel/msgmax", "/proc/sys/net/ipv4/ip_forward"]);
        bundle.edit(|config| {
            config["linux"]["sysctl"] = json!({"kernel.msgmax": "12345", "net.ipv4.ip_forward": "1"});
        });
        assert_eq!(
            runtime.run_bundle(&mut bundle).ok(),
            "12345\n1\n",
            "{}",
            runtime.name
        );
        assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), host);
    }
}

#[test]
fn devices_have_their_numbers_modes_and_owners() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&[
            "stat",
            "-c",
            "%n %F %t:%T %a %u:%g",
            "/dev/fuse",
            "/dev/d/pipe",
            "/dev/null",
        ]);
        bundle.edit(|config| {
            config["linux"]["devices"] = json!([
                {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 5, "gid": 6},
                {"path": "/dev/d/pipe", "type": "p", "fileMode": 0o600},
            ]);
        });
        let text = runtime.run_bundle(&mut bundle).ok();
        assert_eq!(
            text,
            "/dev/fuse character special file a:e5 640 5:6\n/dev/d/pipe fifo 0:0 600 0:0\n/dev/null character special file 1:3 666 0:0\n",
            "{}",
            runtime.name
        );
    }
}

#[test]
fn preserved_descriptors_arrive() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "cat <&3; ls /proc/self/fd | wc -l"]);
        let container = runtime.container(&mut bundle);
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("given"), "given\n").unwrap();
        // A shell opens descriptor 3 for the runtime.
        let command = container.command("run", &["--preserve-fds", "1"]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "exec 3<\"$0\"; exec \"$@\""]);
        shell
            .arg(folder.path().join("given"))
            .arg(command.get_program())
            .args(command.get_args());
        assert_eq!(run(&mut shell).ok(), "given\n5\n", "{}", runtime.name);
    }
}

/// Takes the descriptor that comes over a console socket.
fn receive(listener: &UnixListener) -> fs::File {
    let (stream, _) = listener.accept().unwrap();
    let mut name = [0u8; 64];
    let (_, fd) = berth_sys::socket::receive_fd(stream.as_fd(), &mut name).unwrap();
    fs::File::from(fd.expect("a descriptor comes with the message"))
}

#[test]
fn the_terminal_is_the_containers_own() {
    need_root!();
    for runtime in Runtime::all() {
        let script = "tty; stty size; [ -c /dev/console ] && echo console; stat -c %u /dev/console; \
                      echo again > /dev/tty; cut -d' ' -f6 /proc/1/stat";
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        bundle.edit(|config| {
            config["process"]["terminal"] = json!(true);
            config["process"]["consoleSize"] = json!({"height": 13, "width": 57});
            config["process"]["user"]["uid"] = json!(1000);
        });
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("console");
        let listener = UnixListener::bind(&path).unwrap();
        let container = runtime.container(&mut bundle);
        container
            .verb("create", &["--console-socket", path.to_str().unwrap()])
            .ok();
        let mut master = receive(&listener);
        container.verb("start", &[]).ok();
        let mut text = Vec::new();
        // The end of a terminal is an error, EIO.
        let _ = master.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        assert_eq!(
            text, "/dev/pts/0\n13 57\nconsole\n1000\nagain\n1\n",
            "{}",
            runtime.name
        );
    }
}
