//! Annotations of runc and crun that engines use.

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;

use harness::{Bundle, need_root, run};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::Runtime;

fn with(args: &[&str], annotations: &Value) -> Bundle {
    let mut bundle = Bundle::new(args);
    bundle.edit(|config| config["annotations"] = annotations.clone());
    bundle
}

#[test]
fn the_callers_groups_can_be_kept() {
    need_root!();
    let runtime = Runtime::berth();
    for (annotations, groups) in [
        (json!({"run.oci.keep_original_groups": "1"}), "Groups:\t7 9 \n"),
        (json!({}), "Groups:\t \n"),
    ] {
        let mut bundle = with(&["grep", "Groups", "/proc/self/status"], &annotations);
        let container = runtime.container(&mut bundle);
        let command = container.command("run", &[]);
        // setpriv(1) gives the runtime these groups.
        let mut caller = std::process::Command::new("setpriv");
        caller
            .args(["--groups", "7,9", "--"])
            .arg(command.get_program())
            .args(command.get_args())
            .process_group(0);
        assert_eq!(run(&mut caller).ok(), groups, "{annotations}");
    }
}

#[test]
fn hooks_write_to_files() {
    need_root!();
    let dir = TempDir::new().unwrap();
    let (out, err) = (dir.path().join("out"), dir.path().join("err"));
    let annotations = json!({"run.oci.hooks.stdout": out, "run.oci.hooks.stderr": err});
    let mut bundle = with(&["true"], &annotations);
    let hook = |word: &str| json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo {word}; echo e-{word} >&2")]}]);
    bundle.edit(|config| {
        config["hooks"] = json!({
            "createRuntime": hook("create"), "poststart": hook("start"), "poststop": hook("stop"),
        });
    });
    Runtime::berth().run_bundle(&mut bundle).ok();
    assert_eq!(fs::read_to_string(&out).unwrap(), "create\nstart\nstop\n");
    assert_eq!(fs::read_to_string(&err).unwrap(), "e-create\ne-start\ne-stop\n");
}

#[test]
fn sockets_can_be_named_by_annotations() {
    need_root!();
    let dir = TempDir::new().unwrap();
    let (handle, agent) = (dir.path().join("handle"), dir.path().join("agent"));
    let (handles, agents) = (
        UnixListener::bind(&handle).unwrap(),
        UnixListener::bind(&agent).unwrap(),
    );
    let annotations = json!({"run.oci.pidfd_receiver": handle, "run.oci.seccomp.receiver": agent});
    let mut bundle = with(&["sleep", "1000"], &annotations);
    bundle.edit(|config| {
        config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    let runtime = Runtime::berth();
    let container = runtime.container(&mut bundle);
    container.create();
    for listener in [&handles, &agents] {
        let (stream, _) = listener.accept().unwrap();
        let (_, fd) = berth_sys::socket::receive_fd(stream.as_fd(), &mut [0; 4096]).unwrap();
        assert!(fd.is_some());
    }
}

#[test]
fn unknown_system_calls_can_be_refused() {
    need_root!();
    let runtime = Runtime::berth();
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["nosuchcall"], "action": "SCMP_ACT_ERRNO"}],
    });
    let mut tolerant = with(&["true"], &json!({}));
    tolerant.edit(|config| config["linux"]["seccomp"] = profile.clone());
    runtime.run_bundle(&mut tolerant).ok();
    let mut strict = with(&["true"], &json!({"run.oci.seccomp_fail_unknown_syscall": "1"}));
    strict.edit(|config| config["linux"]["seccomp"] = profile.clone());
    let error = runtime.run_bundle(&mut strict).err();
    assert!(error.contains("nosuchcall"), "{error}");
}

#[test]
fn what_would_make_another_kind_of_container_is_refused() {
    need_root!();
    let runtime = Runtime::berth();
    for (name, value, message) in [
        ("run.oci.handler", "krun", "use crun"),
        ("run.oci.seccomp_bpf_data", "AAAA", "linux.seccomp"),
        ("run.oci.seccomp.plugins", "/x.so", "listenerPath"),
        ("run.oci.hooks.stdout", "relative", "absolute"),
        ("run.oci.mount_context_type", "nosuch", "fscontext"),
        ("org.systemd.property.Bad Name", "1", "property's name"),
        ("org.systemd.property.CollectMode", " ", "GVariant"),
    ] {
        let error = runtime
            .run_bundle(&mut with(&["true"], &json!({name: value})))
            .err();
        assert!(
            error.contains("annotations[") && error.contains(name) && error.contains(message),
            "{name}: {error}"
        );
    }
    // Those of others are nobody's business here.
    runtime
        .run_bundle(&mut with(&["true"], &json!({"org.example.x": "y"})))
        .ok();
}
