//! `linux.seccomp`, by what system calls do inside.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use harness::{Bundle, need_root, run};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::Runtime;

fn bundle(script: &str, profile: &Value) -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(|config| config["linux"]["seccomp"] = profile.clone());
    bundle
}

fn rules(rules: &Value) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": rules,
    })
}

#[test]
fn calls_fail_with_the_number_that_is_asked_for() {
    need_root!();
    for runtime in Runtime::all() {
        for (errno, message) in [
            (json!(null), "Operation not permitted"),
            (json!(38), "Function not implemented"),
        ] {
            let profile = rules(
                &json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno}]),
            );
            let outcome = runtime.run_bundle(&mut bundle("mkdir /x; echo $?", &profile));
            assert!(
                outcome.stderr.contains(message),
                "{}: {}",
                runtime.name,
                outcome.stderr
            );
            assert_eq!(outcome.ok(), "1\n");
        }
    }
}

/// Filters are kept from one container to the next: the second of a profile gets the first one's, and so does exec.
#[test]
fn the_next_container_of_a_profile_is_filtered_alike() {
    need_root!();
    let runtime = Runtime::berth();
    // No other test asks for this number, so that the first container is the first of its profile.
    let profile = rules(&json!([
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122},
    ]));
    let script = "mkdir /tmp/x 2>&1; rmdir /none 2>&1; true";
    let expected = "mkdir: can't create directory '/tmp/x': Disk quota exceeded\nrmdir: '/none': No such file or directory\n";
    for round in 0..2 {
        let outcome = runtime.run_bundle(&mut bundle(script, &profile));
        assert_eq!(outcome.ok(), expected, "round {round}");
    }
    let mut stays = bundle("sleep 1000", &profile);
    let container = runtime.container(&mut stays);
    container.create().verb("start", &[]).ok();
    let outcome = run(runtime
        .command(&["exec", &container.id, "sh", "-c", script])
        .stdin(std::process::Stdio::null()));
    assert_eq!(outcome.ok(), expected);
}

#[test]
fn calls_end_the_process() {
    need_root!();
    for runtime in Runtime::all() {
        for action in [
            "SCMP_ACT_KILL",
            "SCMP_ACT_KILL_PROCESS",
            "SCMP_ACT_KILL_THREAD",
            "SCMP_ACT_TRAP",
        ] {
            let profile = rules(&json!([{"names": ["mkdir", "mkdirat"], "action": action}]));
            // 31 is SIGSYS.
            let text = runtime
                .run_bundle(&mut bundle("mkdir /x; echo $?", &profile))
                .ok();
            assert_eq!(text, "159\n", "{}: {action}", runtime.name);
        }
    }
}

#[test]
fn what_is_logged_or_allowed_works_and_a_default_may_deny() {
    need_root!();
    for runtime in Runtime::all() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_LOG"}],
        });
        let script = "mkdir /x; echo $?; grep -E '^Seccomp' /proc/self/status";
        let text = runtime.run_bundle(&mut bundle(script, &profile)).ok();
        assert_eq!(text, "0\nSeccomp:\t2\nSeccomp_filters:\t1\n", "{}", runtime.name);
    }
    // A list of what a small program needs, and nothing else: berth's own work is done before.
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{"names": ["execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "prlimit64",
            "readlink", "readlinkat", "getrandom", "mprotect", "write", "exit_group", "exit", "getuid", "setuid", "setgid", "getgid",
            "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "fstat", "newfstatat", "ioctl", "getpid", "getppid",
            "uname", "stat", "getcwd", "mmap", "munmap", "fcntl", "close", "openat", "read", "prctl"],
            "action": "SCMP_ACT_ALLOW"}],
    });
    let run = |args: &[&str]| {
        let mut bundle = Bundle::new(args);
        bundle.edit(|config| config["linux"]["seccomp"] = profile.clone());
        Runtime::berth().run_bundle(&mut bundle)
    };
    assert_eq!(run(&["echo", "works"]).ok(), "works\n");
    assert!(run(&["mkdir", "/x"]).err().contains("Operation not permitted"));
}

/// An operator with its operands, and which of the signals 10 and 12 it then is true of: the number is the second argument
/// of kill(2), whose call is refused.
pub const OPERATORS: [(&str, u64, u64, &str); 7] = [
    ("SCMP_CMP_EQ", 10, 0, "10"),
    ("SCMP_CMP_NE", 10, 0, "12"),
    ("SCMP_CMP_GE", 11, 0, "12"),
    ("SCMP_CMP_GT", 10, 0, "12"),
    ("SCMP_CMP_LE", 10, 0, "10"),
    ("SCMP_CMP_LT", 12, 0, "10"),
    ("SCMP_CMP_MASKED_EQ", 4, 4, "12"),
];

#[test]
fn arguments_decide() {
    need_root!();
    for runtime in Runtime::all() {
        for (operator, value, two, refused) in OPERATORS {
            let argument = json!({"index": 1, "value": value, "valueTwo": two, "op": operator});
            let profile =
                rules(&json!([{"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [argument]}]));
            let script = "trap : USR1 USR2; for s in 10 12; do kill -$s $$ 2>/dev/null || echo $s; done";
            let text = runtime.run_bundle(&mut bundle(script, &profile)).ok();
            assert_eq!(text, format!("{refused}\n"), "{}: {operator}", runtime.name);
        }
    }
}

#[test]
fn flags_of_the_filter() {
    need_root!();
    for flag in [
        "SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_TSYNC",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW",
    ] {
        let mut profile = rules(&json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]));
        profile["flags"] = json!([flag]);
        let script =
            "mkdir /x 2>/dev/null || grep -E '^(Seccomp|Speculation_Store_Bypass)' /proc/self/status";
        let text = Runtime::berth().run_bundle(&mut bundle(script, &profile)).ok();
        assert!(text.contains("Seccomp:\t2\n"), "{flag}: {text}");
        if flag.ends_with("SPEC_ALLOW") {
            assert!(!text.contains("force mitigated"), "{text}");
        }
    }
    let mut profile = rules(&json!([]));
    profile["flags"] = json!(["SECCOMP_FILTER_FLAG_NOSUCH"]);
    let error = Runtime::berth().run_bundle(&mut bundle("true", &profile)).err();
    assert!(error.contains("linux.seccomp.flags"), "{error}");
}

/// What an agent gets: the document, and the listener's descriptor.
fn receive(listener: &UnixListener) -> (Value, File) {
    let (stream, _) = listener.accept().unwrap();
    let mut text = vec![0; 64 << 10];
    let (length, fd) = berth_sys::socket::receive_fd(stream.as_fd(), &mut text).unwrap();
    let mut text = text[..length].to_vec();
    let mut stream = stream;
    stream.read_to_end(&mut text).unwrap();
    (
        serde_json::from_slice(&text).unwrap(),
        fd.expect("a descriptor").into(),
    )
}

fn is_listener(file: &File) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap();
    link == Path::new("anon_inode:seccomp notify")
}

fn notifying(path: &Path) -> Value {
    let mut profile = rules(&json!([{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]));
    profile["listenerPath"] = json!(path);
    profile["listenerMetadata"] = json!("of the test");
    profile
}

#[test]
fn an_agent_gets_the_listener_with_the_containers_state() {
    need_root!();
    for runtime in Runtime::all() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("agent");
        let agent = UnixListener::bind(&path).unwrap();
        let mut bundle = bundle("mkdir /x; sleep 1000", &notifying(&path));
        bundle.edit(|config| config["annotations"] = json!({"org.example": "yes"}));
        let container = runtime.container(&mut bundle);
        container.create();
        let (document, file) = receive(&agent);
        assert!(is_listener(&file), "{}", runtime.name);
        assert_eq!(document["fds"], json!(["seccompFd"]));
        assert_eq!(document["metadata"], "of the test");
        assert_eq!(document["pid"], container.pid());
        let state = &document["state"];
        assert_eq!(state["id"], container.id.as_str());
        assert_eq!(state["status"], "creating", "{}", runtime.name);
        assert_eq!(state["pid"], container.pid());
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
        assert_eq!(state["annotations"], json!({"org.example": "yes"}));
        container.verb("start", &[]).ok();

        // A process of exec has a filter, and so a listener, of its own.
        let pid_file = bundle.path().join("pid");
        runtime
            .call(&[
                "exec",
                "--detach",
                "--pid-file",
                pid_file.to_str().unwrap(),
                &container.id,
                "sleep",
                "1000",
            ])
            .ok();
        let (document, second) = receive(&agent);
        assert!(is_listener(&second));
        assert_eq!(document["metadata"], "of the test");
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        assert_eq!(document["pid"].to_string(), pid, "{}", runtime.name);
        assert_eq!(document["state"]["pid"], container.pid());
        assert_eq!(document["state"]["status"], "running");
        drop((file, second));
    }
}

/// An agent that gets one call, signals its process, and tells what has become of the call: `gone`, since the process went
/// back to take the signal, or `waits`, in a sleep that only a signal that kills ends. It answers all calls with "go on".
const AGENT: &str = r"
import array, errno, fcntl, os, select, signal, socket, struct, sys, time
RECEIVE, SEND, VALID = 0xc0502100, 0xc0182101, 0x40082102
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
stream, _ = server.accept()
_, data, _, _ = stream.recvmsg(65536, socket.CMSG_SPACE(4))
stream.close()
listener = array.array('i', data[0][2])[0]
def receive():
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    if poll.poll()[0][1] & select.POLLHUP: sys.exit()
    call = bytearray(80)
    fcntl.ioctl(listener, RECEIVE, call)
    return struct.unpack_from('QI', call)
def answer(call):
    try: fcntl.ioctl(listener, SEND, struct.pack('QqiI', call, 0, 0, 1))
    except OSError as error:
        if error.errno != errno.ENOENT: raise
def is_valid(call):
    try: fcntl.ioctl(listener, VALID, struct.pack('Q', call))
    except OSError as error: return error.errno != errno.ENOENT
    return True
def status(pid, name):
    lines = open(f'/proc/{pid}/status').read().splitlines()
    return next(line for line in lines if line.startswith(name + ':')).split()[1]
def wait_for(condition):
    for _ in range(3000):
        if condition(): return True
        time.sleep(0.02)
    return False
call, pid = receive()
os.kill(pid, signal.SIGUSR1)
def waits():
    pending = int(status(pid, 'ShdPnd'), 16) >> (signal.SIGUSR1 - 1) & 1
    return status(pid, 'State') == 'D' and pending and is_valid(call)
print('waits' if wait_for(lambda: waits() or not is_valid(call)) and is_valid(call) else 'gone', flush=True)
answer(call)
while True: answer(receive()[0])
";

#[test]
fn a_received_call_waits_through_signals_if_asked() {
    need_root!();
    let python = harness::need_program!("python3");
    for (flags, found) in [
        (json!([]), "gone\n"),
        (json!(["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]), "waits\n"),
    ] {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("agent");
        let mut agent = std::process::Command::new(&python);
        agent.args(["-c", AGENT]).arg(&path);
        let agent = agent.stdout(std::process::Stdio::piped()).spawn().unwrap();
        // What listens is in /proc/net/unix with the flag of a listener; to connect would be taken for the runtime.
        harness::wait_for("the agent's socket", crate::driver::PATIENCE, || {
            let sockets = std::fs::read_to_string("/proc/net/unix").unwrap();
            let name = path.to_str().unwrap();
            let listens =
                |line: &&str| line.ends_with(name) && line.split_whitespace().nth(3) == Some("00010000");
            sockets.lines().find(listens).map(|_| ()).ok_or(())
        });
        let mut profile = rules(&json!([{"names": ["chdir"], "action": "SCMP_ACT_NOTIFY"}]));
        profile["listenerPath"] = json!(path);
        profile["flags"] = flags;
        let mut bundle = bundle("trap 'echo signal' USR1; cd /tmp; echo done", &profile);
        assert_eq!(
            Runtime::berth().run_bundle(&mut bundle).ok(),
            "signal\ndone\n",
            "{found}"
        );
        let output = agent.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), found);
    }
}

#[test]
fn without_an_agent_there_is_no_container() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = bundle("true", &notifying(Path::new("/no/such/agent")));
    let container = runtime.container(&mut bundle);
    let error = container.verb("create", &[]).err();
    assert!(
        error.contains("linux.seccomp.listenerPath: failed to connect with seccomp agent: cannot hand the listener to /no/such/agent"),
        "{error}"
    );
    assert!(container.verb("state", &[]).err().contains("does not exist"));
}
