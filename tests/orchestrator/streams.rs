//! exec, attach, cp and port-forward, by every kubectl at hand, against programs in real containers.

use crate::world::{PATIENCE, WAIT, World, script, with};
use harness::{
    Outcome, kubectl, kubectl_versions, need_program, need_root, run, run_with_input, skip, wait_for,
};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn command(world: &World, kubectl: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(kubectl);
    command
        .env("KUBECONFIG", world.node.kubeconfig())
        .env("HOME", world.node.path())
        .args(arguments);
    command
}

fn call(world: &World, kubectl: &Path, arguments: &[&str]) -> Outcome {
    run(&mut command(world, kubectl, arguments))
}

fn label(kubectl: &Path) -> String {
    kubectl.display().to_string()
}

/// A program in a terminal of its own, as a person sits at it: `script` makes the terminal.
fn in_terminal(world: &World, kubectl: &Path, arguments: &str, input: &str) -> String {
    let line = format!("stty rows 50 cols 132; {} {arguments}", kubectl.display());
    let mut child = Command::new("script")
        .env("KUBECONFIG", world.node.kubeconfig())
        .env("HOME", world.node.path())
        .env("TERM", "xterm")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start script");
    let mut output = child.stdout.take().expect("piped");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).expect("type");
    let mut text = String::new();
    let mut buffer = [0; 1024];
    // The terminal ends with its program.
    while let Ok(length) = output.read(&mut buffer) {
        if length == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }
    drop(stdin);
    child.wait().expect("reap script");
    text
}

#[test]
fn exec_brings_output_input_and_exit_codes() {
    need_root!();
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    let world = World::new();
    world.pod("p", json!({"containers": [script(WAIT)]}));
    world.ready("p");
    for kubectl in &versions {
        let label = label(kubectl);
        let exec = |arguments: &[&str]| {
            let mut all = vec!["exec", "p"];
            all.extend(arguments);
            call(&world, kubectl, &all)
        };
        let both = exec(&["--", "sh", "-c", "echo out; echo err >&2"]);
        assert!(
            both.stdout == "out\n" && both.stderr.contains("err\n"),
            "{label}: {both:?}"
        );
        let seven = exec(&["-c", "c", "--", "sh", "-c", "exit 7"]);
        assert_eq!(seven.code(), 7, "{label}: {seven:?}");
        let killed = exec(&["--", "sh", "-c", "kill -9 $$"]);
        assert_eq!(killed.code(), 137, "{label}: {killed:?}");
        let missing = exec(&["--", "no-such-program"]).err();
        assert!(missing.contains("no-such-program"), "{label}: {missing}");
        // More than any buffer on the way, both ways, and the end of the input is seen.
        let big: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let mut sum = command(
            &world,
            kubectl,
            &["exec", "-i", "p", "--", "sh", "-c", "cat | md5sum"],
        );
        let expected = run_with_input(&mut Command::new("md5sum"), &big).ok();
        assert_eq!(run_with_input(&mut sum, &big).ok(), expected, "{label}");
        let head = exec(&["--", "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x"]).ok();
        assert_eq!(head.len(), 3_000_000, "{label}");
        assert!(
            exec(&["-c", "nobody", "--", "true"]).err().contains("nobody"),
            "{label}"
        );
    }
    world.clean();
}

#[test]
fn exec_in_a_terminal() {
    need_root!();
    need_program!("script");
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    let world = World::new();
    world.pod("p", json!({"containers": [script(WAIT)]}));
    world.ready("p");
    for kubectl in &versions {
        let ask = "exec -it p -- sh -c 'read name; tty; while [ \"$(stty size)\" != \"50 132\" ]; do sleep 0.1; done; echo hello $name'";
        let text = in_terminal(&world, kubectl, ask, "you\n");
        assert!(
            text.contains("/dev/pts/") && text.contains("hello you"),
            "{}: {text:?}",
            label(kubectl)
        );
    }
    world.clean();
}

#[test]
fn a_client_that_goes_takes_its_program_along() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    world.pod("p", json!({"containers": [script(WAIT)]}));
    world.ready("p");
    let count = || {
        call(
            &world,
            &kubectl,
            &[
                "exec",
                "p",
                "--",
                "sh",
                "-c",
                "grep -l '[s]tays' /proc/[0-9]*/cmdline 2>/dev/null | wc -l",
            ],
        )
        .ok()
    };
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", world.node.pid()))
            .expect("berthd's descriptors")
            .count()
    };
    // One that ends by the hang-up, one that does not read its input, one that ignores the hang-up.
    let before = descriptors();
    for text in ["sleep 1000; : stays", "trap '' HUP; sleep 1001; : stays"] {
        let mut client = command(&world, &kubectl, &["exec", "-i", "p", "--", "sh", "-c", text])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start kubectl");
        let stdin = client.stdin.take();
        wait_for("the program to run", PATIENCE, || match count().trim() {
            "0" => Err("not yet"),
            _ => Ok(()),
        });
        client.kill().expect("kill kubectl");
        client.wait().expect("reap kubectl");
        drop(stdin);
        wait_for("the program to be gone", PATIENCE, || match count().trim() {
            "0" => Ok(()),
            other => Err(other.to_owned()),
        });
    }
    wait_for("the descriptors to be given back", PATIENCE, || {
        let now = descriptors();
        if now <= before { Ok(()) } else { Err(now) }
    });
    world.clean();
}

#[test]
fn files_are_copied_both_ways() {
    need_root!();
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    let world = World::new();
    world.pod("p", json!({"containers": [script(WAIT)]}));
    world.ready("p");
    let dir = tempfile::tempdir().expect("temporary directory");
    let sent = dir.path().join("sent");
    let content: Vec<u8> = (0..500_000_u32).map(|n| (n * 7 % 253) as u8).collect();
    std::fs::write(&sent, &content).expect("write");
    for kubectl in &versions {
        let label = label(kubectl);
        let back = dir.path().join("back");
        let (here, there) = (sent.display().to_string(), back.display().to_string());
        call(&world, kubectl, &["cp", &here, "p:/tmp/there"]).ok();
        call(&world, kubectl, &["cp", "p:/tmp/there", &there]).ok();
        assert!(std::fs::read(&back).expect("read") == content, "{label}");
        std::fs::remove_file(&back).expect("remove");
        call(&world, kubectl, &["exec", "p", "--", "rm", "/tmp/there"]).ok();
    }
    world.clean();
}

/// A `kubectl port-forward` that has said that it listens.
struct Forwarding {
    child: Child,
    port: u16,
}

impl Forwarding {
    fn start(world: &World, kubectl: &Path, target: &str) -> Forwarding {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let child = command(world, kubectl, &["port-forward", target, &format!("{port}:8080")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start kubectl");
        wait_for("kubectl to listen", PATIENCE, || {
            TcpStream::connect(("127.0.0.1", port)).map(drop)
        });
        Forwarding { child, port }
    }

    fn get(&self, path: &str) -> Result<Vec<u8>, std::io::Error> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn ports_are_forwarded() {
    need_root!();
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    let world = World::new();
    let serve = "mkdir /www; echo front page > /www/index.html; head -c 2000000 /dev/zero > /www/big; httpd -p 127.0.0.1:8080 -h /www; ";
    world.pod("web", json!({"containers": [script(&format!("{serve}{WAIT}"))]}));
    world.ready("web");
    for kubectl in &versions {
        let label = label(kubectl);
        let forwarding = Forwarding::start(&world, kubectl, "pod/web");
        wait_for("the first page", PATIENCE, || {
            let page = forwarding.get("/index.html").map_err(|e| e.to_string())?;
            let page = String::from_utf8_lossy(&page).into_owned();
            if page.ends_with("front page\n") {
                Ok(())
            } else {
                Err(page)
            }
        });
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let big = forwarding.get("/big").expect("a big answer");
                    assert!(big.len() > 2_000_000, "{label}: {}", big.len());
                });
            }
        });
    }
    world.clean();
}

#[test]
fn people_attach_to_the_main_process() {
    need_root!();
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    let world = World::new();
    world.pod(
        "talk",
        json!({"containers": [with("while read word; do echo you said $word; done; sleep 1000", json!({"stdin": true}))]}),
    );
    world.ready("talk");
    for kubectl in &versions {
        let label = label(kubectl);
        let mut client = command(&world, kubectl, &["attach", "-i", "talk"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start kubectl");
        let mut stdin = client.stdin.take().expect("piped");
        let mut output = client.stdout.take().expect("piped");
        stdin.write_all(b"hello\n").expect("say");
        let mut text = String::new();
        let mut buffer = [0; 256];
        while !text.contains("you said hello") {
            let length = output.read(&mut buffer).expect("listen");
            assert!(length > 0, "{label}: the end after {text:?}");
            text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        client.kill().expect("kill kubectl");
        client.wait().expect("reap kubectl");
    }
    // What was attached to is in the log as ever, and the program still listens.
    assert_eq!(
        world.logs(&["talk"]).matches("you said hello").count(),
        versions.len()
    );
    // A client without a terminal may attach to a container that has one.
    world.pod(
        "screen",
        json!({"containers": [with("while sleep 0.2; do echo on the screen; done", json!({"tty": true, "stdin": true}))]}),
    );
    world.ready("screen");
    for kubectl in &versions {
        let mut client = command(&world, kubectl, &["attach", "screen"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("start kubectl");
        let mut line = String::new();
        let mut output = std::io::BufReader::new(client.stdout.take().expect("piped"));
        while !line.contains("on the screen") {
            line.clear();
            let length = std::io::BufRead::read_line(&mut output, &mut line).expect("listen");
            assert!(length > 0, "{}: the end", label(kubectl));
        }
        client.kill().expect("kill kubectl");
        client.wait().expect("reap kubectl");
    }
    world.clean();
}

#[test]
fn run_with_input_or_a_terminal_and_remove() {
    need_root!();
    need_program!("script");
    let versions = kubectl_versions();
    if versions.is_empty() {
        skip!("needs a kubectl");
    }
    let world = World::new();
    for kubectl in &versions {
        let label = label(kubectl);
        let one = [
            "run",
            "once",
            "--rm",
            "-i",
            "--restart=Never",
            "--image=busybox:1",
            "--image-pull-policy=Never",
            "--quiet",
            "--",
            "sh",
            "-c",
            "cat; exit 3",
        ];
        let seen = run_with_input(&mut command(&world, kubectl, &one), b"through the pod\n");
        assert!(seen.stdout.contains("through the pod"), "{label}: {seen:?}");
        assert_eq!(seen.code(), 3, "{label}: {seen:?}");
        let text = in_terminal(
            &world,
            kubectl,
            "run seat --rm -it --restart=Never --image=busybox:1 --image-pull-policy=Never -- sh -c 'sleep 1; read word; tty; echo heard $word'",
            "\nword\n",
        );
        assert!(text.contains("/dev/pts/"), "{label}: {text:?}");
        wait_for("the pods to be gone", PATIENCE, || {
            let left = call(&world, kubectl, &["get", "pods", "-o", "name"]).ok();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
    world.clean();
}

#[test]
fn an_ephemeral_container_looks_into_a_running_pod() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    world.pod("p", json!({"containers": [script(&format!(": target; {WAIT}"))]}));
    world.ready("p");
    let debug = [
        "debug",
        "p",
        "-i",
        "--image=busybox:1",
        "--image-pull-policy=Never",
        "--target=c",
        "-c",
        "look",
        "--quiet",
        "--",
        "sh",
        "-c",
        "sleep 1; grep -l '[:] target' /proc/[0-9]*/cmdline; hostname; read word; echo $word",
    ];
    let seen = run_with_input(&mut command(&world, &kubectl, &debug), b"typed\n");
    let logs = call(&world, &kubectl, &["logs", "p", "-c", "look"]).ok();
    for word in ["/proc/1/cmdline", "typed", "p\n"] {
        assert!(logs.contains(word), "{logs:?} {seen:?}");
    }
    let status = world.wait("p", "the end of the ephemeral container", |pod, _| {
        pod["status"]["ephemeralContainerStatuses"][0]["state"]["terminated"]["exitCode"] == 0
    });
    // It counts for nothing: the pod is as it was.
    assert_eq!(status["status"]["phase"], "Running");
    assert_eq!(status["status"]["containerStatuses"][0]["restartCount"], 0);
    let again = json!({"spec": {"ephemeralContainers": [{"name": "look", "image": "other"}]}}).to_string();
    let refused = call(
        &world,
        &kubectl,
        &[
            "patch",
            "pod",
            "p",
            "--subresource=ephemeralcontainers",
            "-p",
            &again,
        ],
    )
    .err();
    assert!(refused.contains("may not be changed"), "{refused}");
    world.clean();
}
