//! `run`: exit codes, streams, signals, terminals.

use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use harness::{Bundle, need_program, need_root, run_with_input, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use crate::driver::{PATIENCE, Runtime, cgroups_named};

#[test]
fn the_exit_code_is_the_containers() {
    need_root!();
    for runtime in Runtime::all() {
        for (script, code) in [
            ("exit 0", 0),
            ("exit 1", 1),
            ("exit 42", 42),
            ("kill -TERM $$; sleep 9", 143),
        ] {
            // A shell that is process 1 ignores what it does not handle: a second one takes the signal.
            let script = format!("sh -c '{script}'; exit $?");
            let outcome = runtime.run_bundle(&mut Bundle::new(&["sh", "-c", &script]));
            assert_eq!(
                outcome.code(),
                code,
                "{}: {script}: {}",
                runtime.name,
                outcome.stderr
            );
        }
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = runtime.container(&mut bundle);
        let mut child = container.command("run", &[]).spawn().unwrap();
        wait_for("running", PATIENCE, || {
            let outcome = container.verb("state", &[]);
            if outcome.stdout.contains("running") {
                Ok(())
            } else {
                Err(outcome.stderr)
            }
        });
        container.kill("KILL").ok();
        assert_eq!(child.wait().unwrap().code(), Some(137), "{}", runtime.name);
        assert!(
            container.verb("state", &[]).err().contains("does not exist"),
            "run deletes it"
        );
        assert!(cgroups_named(&container.id).is_empty());
    }
}

#[test]
fn streams_are_passed_on() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "cat; echo error >&2"]);
        let container = runtime.container(&mut bundle);
        let input = vec![b'x'; 300_000];
        let outcome = run_with_input(&mut container.command("run", &[]), &input);
        assert_eq!(outcome.stdout.len(), input.len(), "{}", runtime.name);
        assert_eq!(outcome.stderr, "error\n");
    }
}

#[test]
fn keep_keeps_the_container() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["true"]);
        let container = runtime.container(&mut bundle);
        container.verb("run", &["--keep"]).ok();
        assert_eq!(container.status(), "stopped");
        container.verb("delete", &[]).ok();
    }
}

#[test]
fn detach_returns_at_once() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = runtime.container(&mut bundle);
        let pid_file = bundle.path().join("pid");
        container
            .verb("run", &["--detach", "--pid-file", pid_file.to_str().unwrap()])
            .ok();
        assert_eq!(container.status(), "running");
        assert_eq!(
            std::fs::read_to_string(pid_file).unwrap(),
            container.pid().to_string()
        );
    }
}

#[test]
fn signals_go_to_the_container() {
    need_root!();
    for runtime in Runtime::all() {
        let script =
            "trap 'echo term; exit 5' TERM; trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done";
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        let container = runtime.container(&mut bundle);
        let mut child = container
            .command("run", &[])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let mut stdout = child.stdout.take().unwrap();
        let mut line = |expected: &str| {
            let mut text = vec![0; expected.len()];
            stdout.read_exact(&mut text).unwrap();
            assert_eq!(String::from_utf8_lossy(&text), expected);
        };
        line("ready\n");
        kill(pid, Signal::SIGUSR1).unwrap();
        line("usr1\n");
        kill(pid, Signal::SIGTERM).unwrap();
        line("term\n");
        assert_eq!(child.wait().unwrap().code(), Some(5), "{}", runtime.name);
    }
}

#[test]
fn the_process_starts_with_a_clean_slate_of_signals() {
    need_root!();
    // runc 1.1 leaves a signal of Go's ignored.
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["grep", "-E", "^Sig(Blk|Ign|Cgt)", "/proc/self/status"]);
    let text = runtime.run_bundle(&mut bundle).ok();
    for line in text.lines() {
        let (name, value) = line.split_once(':').unwrap();
        assert_eq!(value.trim(), "0000000000000000", "{}: {name}", runtime.name);
    }
}

#[test]
fn orphans_of_the_container_do_not_disturb() {
    need_root!();
    for runtime in Runtime::all() {
        // Without a pid namespace the orphan becomes ours.
        let mut bundle = Bundle::new(&["sh", "-c", "sh -c 'sleep 0.1 & exit 0'; sleep 0.3; exit 3"]);
        bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|entry| entry["type"] != "pid");
        });
        assert_eq!(runtime.run_bundle(&mut bundle).code(), 3, "{}", runtime.name);
    }
}

/// Runs a command line in a terminal of its own, by script(1), and gives what appeared on it with the exit code.
fn in_a_terminal(command: &Command, input: &str) -> (String, i32) {
    let quoted: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_str().unwrap()))
        .collect();
    let mut script = Command::new("script");
    script.args([
        "--quiet",
        "--return",
        "--echo",
        "never",
        "--command",
        &quoted.join(" "),
        "/dev/null",
    ]);
    script
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0);
    let mut child = script.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        output.status.code().unwrap_or(-1),
    )
}

#[test]
fn a_terminal_is_passed_through() {
    need_root!();
    need_program!("script");
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "test -t 0 && test -t 1 && tty; stty size; exit 9"]);
        bundle.edit(|config| config["process"]["terminal"] = json!(true));
        let container = runtime.container(&mut bundle);
        let (text, code) = in_a_terminal(&container.command("run", &[]), "");
        assert_eq!(code, 9, "{}: {text}", runtime.name);
        assert!(
            text.contains("/dev/pts/0") || text.contains("/dev/console"),
            "{}: {text}",
            runtime.name
        );
    }
}

#[test]
fn input_reaches_the_terminal() {
    need_root!();
    need_program!("script");
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "read line; echo \"got $line\"; exit 4"]);
        bundle.edit(|config| config["process"]["terminal"] = json!(true));
        let container = runtime.container(&mut bundle);
        let (text, code) = in_a_terminal(&container.command("run", &[]), "hello\n");
        assert_eq!(code, 4, "{}: {text}", runtime.name);
        assert!(text.contains("got hello\r\n"), "{}: {text:?}", runtime.name);
    }
}

#[test]
fn a_process_without_terminal_does_not_get_the_users() {
    need_root!();
    need_program!("script");
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&[
            "sh",
            "-c",
            "for i in 0 1 2; do test -t $i && echo leak; done; echo done; exit 6",
        ]);
        let container = runtime.container(&mut bundle);
        let (text, code) = in_a_terminal(&container.command("run", &[]), "");
        assert_eq!(code, 6, "{}: {text}", runtime.name);
        assert!(
            text.contains("done") && !text.contains("leak"),
            "{}: {text}",
            runtime.name
        );
    }
}

#[test]
fn terminal_and_socket_must_fit() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["true"]);
        let container = runtime.container(&mut bundle);
        let error = container.verb("create", &["--console-socket", "/nosuch"]).err();
        assert!(error.contains("cannot use console socket if"), "{error}");
        bundle.edit(|config| config["process"]["terminal"] = json!(true));
        let error = container.verb("create", &[]).err();
        assert!(error.contains("cannot allocate tty if"), "{error}");
        assert!(container.verb("state", &[]).err().contains("does not exist"));
    }
}

#[test]
fn the_terminal_goes_to_the_console_socket() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "test -t 0 && echo from inside"]);
        bundle.edit(|config| config["process"]["terminal"] = json!(true));
        let container = runtime.container(&mut bundle);
        let socket = bundle.path().join("console");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        container
            .verb("create", &["--console-socket", socket.to_str().unwrap()])
            .ok();
        let (stream, _) = listener.accept().unwrap();
        let mut master = receive(&stream);
        container.verb("start", &[]).ok();
        let mut text = String::new();
        // A terminal whose other end is closed reads as an error.
        while !text.contains('\n') {
            let mut byte = [0];
            master.read_exact(&mut byte).unwrap();
            text.push(char::from(byte[0]));
        }
        assert_eq!(text.trim_end(), "from inside", "{}", runtime.name);
        container.wait("stopped");
    }
}

/// Takes the descriptor that was sent.
fn receive(stream: &std::os::unix::net::UnixStream) -> std::fs::File {
    let (_, fd) = berth_sys::socket::receive_fd(stream.as_fd(), &mut [0; 4096]).unwrap();
    fd.expect("a descriptor").into()
}

#[test]
fn descriptors_are_preserved_only_if_asked() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "ls -1 /proc/self/fd | wc -l; cat <&3"]);
        let container = runtime.container(&mut bundle);
        let text = bundle.path().join("text");
        std::fs::write(&text, "preserved").unwrap();
        let run = container.command("run", &["--preserve-fds", "1"]);
        let words: Vec<&str> = run.get_args().map(|arg| arg.to_str().unwrap()).collect();
        let line = format!(
            "exec 3<{}; exec {} {}",
            text.display(),
            run.get_program().to_str().unwrap(),
            words.join(" ")
        );
        let outcome = harness::run(Command::new("sh").args(["-c", &line]));
        assert!(
            outcome.clone().ok().ends_with("preserved"),
            "{}: {outcome:?}",
            runtime.name
        );
        let error = container.verb("run", &["--preserve-fds", "40"]).err();
        assert!(
            error.contains("unable to stat preserved-fd"),
            "{}: {error}",
            runtime.name
        );
        assert!(container.verb("state", &[]).err().contains("does not exist"));
    }
}
