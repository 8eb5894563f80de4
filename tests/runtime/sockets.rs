//! Sockets that a caller passes: for the terminal, a handle of the process, readiness, activation.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use harness::{Bundle, need_program, need_root, run, wait_for};
use serde_json::json;
use tempfile::TempDir;

use crate::driver::{Container, PATIENCE, Runtime};

/// Takes the descriptor that was sent.
pub(crate) fn receive(stream: &UnixStream) -> File {
    let (_, fd) = berth_sys::socket::receive_fd(stream.as_fd(), &mut [0; 4096]).unwrap();
    fd.expect("a descriptor").into()
}

/// A listening socket, in a folder that goes with it.
pub(crate) fn listener() -> (TempDir, PathBuf, UnixListener) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    (folder, path, listener)
}

/// The process that a pidfd is about.
fn process_of(handle: &File) -> i32 {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd())).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("Pid:"));
    line.expect("a pidfd").trim().parse().unwrap()
}

#[test]
fn a_handle_of_the_process_is_sent() {
    need_root!();
    // Later than runc 1.1.
    let runtime = Runtime::berth();
    for verb in ["create", "run"] {
        let (_folder, path, listener) = listener();
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = runtime.container(&mut bundle);
        let mut options = vec!["--pidfd-socket", path.to_str().unwrap()];
        if verb == "run" {
            options.push("--detach");
        }
        container.verb(verb, &options).ok();
        let handle = receive(&listener.accept().unwrap().0);
        assert_eq!(process_of(&handle), container.pid(), "{verb}");
        // It is good for signals.
        berth_sys::pidfd::send_signal(handle.as_fd(), 9).unwrap();
        container.wait("stopped");
    }
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let container = runtime.container(&mut bundle);
    container.start();
    let (_folder, path, listener) = listener();
    let pid_file = bundle.path().join("pid");
    let options = ["--detach", "--pid-file", pid_file.to_str().unwrap()];
    let mut args = vec!["exec", "--pidfd-socket", path.to_str().unwrap()];
    args.extend(options);
    args.extend([container.id.as_str(), "sleep", "1000"]);
    runtime.call(&args).ok();
    let handle = receive(&listener.accept().unwrap().0);
    assert_eq!(
        process_of(&handle).to_string(),
        fs::read_to_string(&pid_file).unwrap()
    );
}

#[test]
fn a_socket_that_is_not_there_is_named_and_nothing_is_left() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let container = runtime.container(&mut bundle);
    let error = container.verb("create", &["--pidfd-socket", "/no/such"]).err();
    assert!(error.contains("--pidfd-socket: dial unix /no/such"), "{error}");
    assert!(container.verb("state", &[]).err().contains("does not exist"));
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let error = container.verb("create", &["--console-socket", "/no/such"]).err();
    assert!(error.contains("/no/such"), "{error}");
    assert!(container.verb("state", &[]).err().contains("does not exist"));
}

#[test]
fn a_terminal_of_exec_goes_to_the_console_socket() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = runtime.container(&mut bundle);
        container.start();
        let (_folder, path, listener) = listener();
        let args = [
            "exec",
            "--tty",
            "--detach",
            "--console-socket",
            path.to_str().unwrap(),
            &container.id,
            "sh",
            "-c",
            "tty; read line; echo \"got $line\"",
        ];
        runtime.call(&args).ok();
        let mut master = receive(&listener.accept().unwrap().0);
        std::io::Write::write_all(&mut master, b"input\n").unwrap();
        let mut text = Vec::new();
        // The end of a terminal is an error, EIO.
        let _ = master.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text).replace('\r', "");
        assert!(
            text.contains("/dev/pts/") && text.ends_with("got input\n"),
            "{}: {text}",
            runtime.name
        );
        let error = runtime
            .call(&["exec", "--tty", "--detach", &container.id, "true"])
            .err();
        assert!(error.contains("cannot allocate tty if"), "{error}");
    }
}

/// Perl, which can do what no applet of busybox can, with the host's /usr around it.
fn with_perl(script: &str) -> Bundle {
    let mut bundle = Bundle::new(&["/usr/bin/perl", "-e", script]);
    for lib in ["lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{lib}"), bundle.rootfs().join(lib)).unwrap();
    }
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": ["bind", "ro"]}),
        );
    });
    bundle
}

/// Says that it is ready when the file /go is there, and stays.
const READY: &str = "use IO::Socket::UNIX; $| = 1; \
    select undef, undef, undef, 0.05 until -e '/go'; \
    my $s = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Peer => $ENV{NOTIFY_SOCKET}) or die $!; \
    $s->send(\"STATUS=warming up\"); $s->send(\"READY=1\\nSTATUS=serving\"); sleep 1000";

/// A service manager's socket, which answers barriers.
struct Manager {
    _folder: TempDir,
    path: PathBuf,
    socket: UnixDatagram,
}

impl Manager {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("manager");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            _folder: folder,
            path,
            socket,
        }
    }

    /// The next message; a descriptor that comes with it is closed.
    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let (length, _fd) = berth_sys::socket::receive_fd(self.socket.as_fd(), &mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    fn has_none(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let none = self.socket.recv(&mut [0; 16]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        none
    }
}

fn go(bundle: &Bundle) {
    fs::write(bundle.rootfs().join("go"), "").unwrap();
}

#[track_caller]
fn still_waits(child: &mut std::process::Child) {
    std::thread::sleep(Duration::from_millis(200));
    assert!(child.try_wait().unwrap().is_none(), "it waits for the container");
}

fn notified(container: &Container<'_>, verb: &str, options: &[&str], manager: &Path) -> Command {
    let mut command = container.command(verb, options);
    command
        .env("NOTIFY_SOCKET", manager)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

#[test]
fn readiness_is_passed_on_by_start_and_by_a_detached_run() {
    need_root!();
    need_program!("perl");
    for runtime in Runtime::all() {
        for verb in ["start", "run"] {
            let manager = Manager::new();
            let mut bundle = with_perl(READY);
            let container = runtime.container(&mut bundle);
            let mut child = if verb == "start" {
                assert!(
                    notified(&container, "create", &[], &manager.path)
                        .status()
                        .unwrap()
                        .success()
                );
                assert!(manager.has_none());
                notified(&container, "start", &[], &manager.path).spawn().unwrap()
            } else {
                notified(&container, "run", &["--detach"], &manager.path)
                    .spawn()
                    .unwrap()
            };
            container_runs(&container);
            still_waits(&mut child);
            go(&bundle);
            assert_eq!(manager.next(), "READY=1\n", "{}: {verb}", runtime.name);
            assert_eq!(manager.next(), format!("MAINPID={}\n", container.pid()));
            if runtime.name == "berth" {
                // Later than runc 1.1.
                assert_eq!(manager.next(), "BARRIER=1");
            }
            assert!(child.wait().unwrap().success(), "{}: {verb}", runtime.name);
            // The container goes on, and other verbs were never held up.
            assert_eq!(container.status(), "running");
        }
    }
}

#[track_caller]
fn container_runs(container: &Container<'_>) {
    wait_for("the container to run", PATIENCE, || {
        let outcome = container.verb("state", &[]);
        if outcome.stdout.contains("\"running\"") {
            Ok(())
        } else {
            Err(outcome.stderr)
        }
    });
}

#[test]
fn a_run_in_the_foreground_passes_readiness_on_and_stays_the_main_process() {
    need_root!();
    need_program!("perl");
    for runtime in Runtime::all() {
        let manager = Manager::new();
        let mut bundle = with_perl(READY);
        let container = runtime.container(&mut bundle);
        let mut child = notified(&container, "run", &[], &manager.path).spawn().unwrap();
        container_runs(&container);
        go(&bundle);
        assert_eq!(manager.next(), "READY=1\n", "{}", runtime.name);
        assert_eq!(manager.next(), format!("MAINPID={}\n", child.id()));
        container.kill("KILL").ok();
        assert_eq!(child.wait().unwrap().code(), Some(137), "{}", runtime.name);
    }
}

#[test]
fn nobody_waits_for_a_container_that_ends_without_being_ready() {
    need_root!();
    // runc 1.1 waits for ever: its ended child is still to be seen in /proc.
    let runtime = Runtime::berth();
    let manager = Manager::new();
    let mut bundle = Bundle::new(&["sh", "-c", "test -S $NOTIFY_SOCKET && touch /seen; sleep 0.3"]);
    let container = runtime.container(&mut bundle);
    let status = notified(&container, "run", &["--detach"], &manager.path)
        .status()
        .unwrap();
    assert!(status.success());
    container.wait("stopped");
    assert!(bundle.rootfs().join("seen").exists(), "the socket was there");
    assert!(manager.has_none());
}

#[test]
fn a_managers_socket_may_have_no_file() {
    need_root!();
    need_program!("perl");
    let runtime = Runtime::berth();
    let name = crate::driver::unique();
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let socket = UnixDatagram::bind_addr(&address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bundle = with_perl(READY);
    go(&bundle);
    let container = runtime.container(&mut bundle);
    let mut child = notified(&container, "run", &["--detach"], Path::new(&format!("@{name}")))
        .spawn()
        .unwrap();
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"READY=1\n");
    socket.recv(&mut buffer).unwrap();
    let (_, pipe) = berth_sys::socket::receive_fd(socket.as_fd(), &mut buffer).unwrap();
    still_waits(&mut child);
    drop(pipe);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_manager_that_is_gone_does_not_stop_the_container() {
    need_root!();
    need_program!("perl");
    let runtime = Runtime::berth();
    let mut bundle = with_perl(READY);
    go(&bundle);
    let container = runtime.container(&mut bundle);
    let outcome = run(&mut notified(
        &container,
        "run",
        &["--detach"],
        Path::new("/no/such/manager"),
    ));
    assert!(
        outcome
            .stderr
            .contains("cannot tell the service manager at /no/such/manager"),
        "{}",
        outcome.stderr
    );
    outcome.ok();
    assert_eq!(container.status(), "running");
}

#[test]
fn activated_sockets_arrive_with_their_number() {
    need_root!();
    for runtime in Runtime::all() {
        for verb in ["run", "create"] {
            let script = "echo $LISTEN_FDS $LISTEN_PID; cat <&3; cat <&4; ls /proc/self/fd | wc -l";
            let mut bundle = Bundle::new(&["sh", "-c", &format!("({script}) >/out 2>&1")]);
            let container = runtime.container(&mut bundle);
            let folder = TempDir::new().unwrap();
            for name in ["one", "two"] {
                fs::write(folder.path().join(name), format!("{name}\n")).unwrap();
            }
            // As a service manager does it: the descriptors from 3 on, and the process they are for.
            let command = container.command(verb, &[]);
            let mut shell = Command::new("sh");
            shell
                .args([
                    "-c",
                    "exec 3<\"$0/one\" 4<\"$0/two\"; export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$@\"",
                ])
                .arg(folder.path())
                .arg(command.get_program())
                .args(command.get_args());
            let outcome = run(&mut shell);
            outcome.ok();
            if verb == "create" {
                container.verb("start", &[]).ok();
                container.wait("stopped");
            }
            let text = fs::read_to_string(bundle.rootfs().join("out")).unwrap();
            assert_eq!(text, "2 1\none\ntwo\n6\n", "{}: {verb}", runtime.name);
        }
    }
}

#[test]
fn sockets_for_another_process_are_not_passed() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "echo x$LISTEN_FDS; ls /proc/self/fd | wc -l"]);
        let container = runtime.container(&mut bundle);
        let mut command = container.command("run", &[]);
        command.env("LISTEN_FDS", "1").env("LISTEN_PID", "1");
        assert_eq!(run(&mut command).ok(), "x\n4\n", "{}", runtime.name);
    }
}

#[test]
fn a_terminal_follows_the_users_in_size() {
    need_root!();
    need_program!("script");
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&[
            "sh",
            "-c",
            "trap 'stty size > /sizes' WINCH; stty size > /sizes; touch /ready; while :; do sleep 0.05; done",
        ]);
        bundle.edit(|config| config["process"]["terminal"] = json!(true));
        let container = runtime.container(&mut bundle);
        let command = container.command("run", &[]);
        // The shell inside script(1) sets its own terminal's size before and after.
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_str().unwrap()))
            .collect();
        let resize = bundle.path().join("resize");
        let line = format!(
            "stty rows 11 cols 22; (until [ -e {0} ]; do sleep 0.05; done; stty rows 33 cols 44 </dev/tty) & exec {1}",
            resize.display(),
            words.join(" ")
        );
        let mut child = Command::new("script")
            .args(["--quiet", "--command", &line, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let sizes = bundle.rootfs().join("sizes");
        let wait = |what: &str| {
            wait_for(
                &format!("{}: size {what}", runtime.name),
                PATIENCE,
                || match fs::read_to_string(&sizes).unwrap_or_default() {
                    text if text.trim() == what => Ok(()),
                    text => Err(text),
                },
            );
        };
        wait("11 22");
        fs::write(&resize, "").unwrap();
        wait("33 44");
        container.kill("KILL").ok();
        child.wait().unwrap();
    }
}
