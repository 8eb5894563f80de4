//! Impossible configurations and command lines: one line that names the field, an exit code, and nothing left behind.

use harness::{Bundle, need_root};
use serde_json::{Value, json};

use crate::driver::{Runtime, cgroups_named};

/// A change to the default configuration, the field the message names, and a word of its reason.
type Case = (&'static str, fn(&mut Value), &'static str, &'static str);

const CASES: &[Case] = &[
    (
        "old version",
        |c| c["ociVersion"] = json!("0.9.0"),
        "ociVersion",
        "not supported",
    ),
    (
        "no version",
        |c| c["ociVersion"] = json!("latest"),
        "ociVersion",
        "not a version",
    ),
    (
        "no process",
        |c| drop(c.as_object_mut().unwrap().remove("process")),
        "process",
        "must not be empty",
    ),
    (
        "no arguments",
        |c| c["process"]["args"] = json!([]),
        "process.args",
        "args must not be empty",
    ),
    (
        "relative cwd",
        |c| c["process"]["cwd"] = json!("tmp"),
        "process.cwd",
        "absolute",
    ),
    (
        "bad environment",
        |c| c["process"]["env"] = json!(["A"]),
        "process.env[0]",
        "missing '='",
    ),
    (
        "wrong type",
        |c| c["process"]["args"] = json!("sh"),
        "process.args",
        "expected a sequence",
    ),
    (
        "unknown rlimit",
        |c| c["process"]["rlimits"][0]["type"] = json!("RLIMIT_X"),
        "process.rlimits[0].type",
        "unknown variant",
    ),
    (
        "soft above hard",
        |c| c["process"]["rlimits"][0]["soft"] = json!(9999),
        "process.rlimits[0].soft",
        "above the hard limit",
    ),
    (
        "oom score",
        |c| c["process"]["oomScoreAdj"] = json!(2000),
        "process.oomScoreAdj",
        "out of range",
    ),
    (
        "nice",
        |c| c["process"]["scheduler"] = json!({"policy": "SCHED_OTHER", "nice": 40}),
        "process.scheduler.nice",
        "out of range",
    ),
    (
        "effective",
        |c| c["process"]["capabilities"]["effective"] = json!(["CAP_SYS_ADMIN"]),
        "process.capabilities.effective",
        "CAP_SYS_ADMIN",
    ),
    (
        "apparmor",
        |c| c["process"]["apparmorProfile"] = json!("nosuch"),
        "process.apparmorProfile",
        "apparmor",
    ),
    (
        "selinux",
        |c| c["process"]["selinuxLabel"] = json!("a:b:c"),
        "process.selinuxLabel",
        "selinux",
    ),
    (
        "mount label",
        |c| c["linux"]["mountLabel"] = json!("a:b:c"),
        "linux.mountLabel",
        "selinux",
    ),
    (
        "intel rdt",
        |c| c["linux"]["intelRdt"] = json!({"closID": "a"}),
        "linux.intelRdt",
        "not enabled",
    ),
    (
        "no root",
        |c| drop(c.as_object_mut().unwrap().remove("root")),
        "root",
        "must be specified",
    ),
    (
        "no rootfs",
        |c| c["root"]["path"] = json!("nosuch"),
        "root.path",
        "no such file or directory",
    ),
    (
        "rootfs is a file",
        |c| c["root"]["path"] = json!("config.json"),
        "root.path",
        "not a directory",
    ),
    (
        "duplicate namespace",
        |c| c["linux"]["namespaces"][1] = json!({"type": "pid"}),
        "linux.namespaces[1].type",
        "duplicated",
    ),
    (
        "unknown namespace",
        |c| c["linux"]["namespaces"][2]["type"] = json!("bogus"),
        "linux.namespaces[2].type",
        "unknown variant",
    ),
    (
        "missing namespace path",
        |c| c["linux"]["namespaces"][2]["path"] = json!("/nosuch"),
        "linux.namespaces[2].path",
        "no such file",
    ),
    (
        "not a namespace",
        |c| c["linux"]["namespaces"][2]["path"] = json!("/etc/passwd"),
        "linux.namespaces[2].path",
        "not a namespace",
    ),
    (
        "relative namespace path",
        |c| c["linux"]["namespaces"][2]["path"] = json!("proc/1/ns/ipc"),
        "linux.namespaces[2].path",
        "not absolute",
    ),
    (
        "mappings without namespace",
        |c| c["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 1, "size": 1}]),
        "linux.uidMappings",
        "user namespace",
    ),
    (
        "no mappings",
        |c| c["linux"]["namespaces"][1] = json!({"type": "user"}),
        "linux.uidMappings",
        "no namespace path to join nor mappings",
    ),
    (
        "time offsets",
        |c| c["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}}),
        "linux.timeOffsets",
        "time namespace",
    ),
    (
        "hostname on the host",
        |c| c["linux"]["namespaces"] = json!([{"type": "mount"}, {"type": "pid"}]),
        "hostname",
        "UTS namespace",
    ),
    (
        "long hostname",
        |c| c["hostname"] = json!("h".repeat(65)),
        "hostname",
        "at most 64",
    ),
    (
        "host sysctl",
        |c| c["linux"]["sysctl"] = json!({"vm.swappiness": "1"}),
        "linux.sysctl[\"vm.swappiness\"]",
        "separate kernel namespace",
    ),
    (
        "hostname by sysctl",
        |c| c["linux"]["sysctl"] = json!({"kernel.hostname": "x"}),
        "linux.sysctl[\"kernel.hostname\"]",
        "conflicts",
    ),
    (
        "bind with data",
        |c| c["mounts"][0] = json!({"destination": "/a", "source": "/tmp", "options": ["bind", "size=1"]}),
        "mounts[0].options[1]",
        "filesystem-specific",
    ),
    (
        "mount option",
        |c| c["mounts"][1]["options"] = json!(["nosiud"]),
        "mounts[1].options[0]",
        "unknown mount option",
    ),
    (
        "mount without type",
        |c| c["mounts"][0] = json!({"destination": "/a"}),
        "mounts[0].type",
        "required",
    ),
    (
        "missing bind source",
        |c| c["mounts"][0] = json!({"destination": "/a", "source": "/nosuch", "options": ["bind"]}),
        "mounts[0]",
        "no such file or directory",
    ),
    (
        "unknown file system",
        |c| c["mounts"][0] = json!({"destination": "/a", "type": "nosuchfs", "source": "x"}),
        "mounts[0]",
        "no such device",
    ),
    (
        "device type",
        |c| c["linux"]["devices"] = json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}]),
        "linux.devices[0].type",
        "unknown variant",
    ),
    (
        "device path",
        |c| c["linux"]["devices"] = json!([{"path": "x", "type": "c", "major": 1, "minor": 1}]),
        "linux.devices[0].path",
        "absolute",
    ),
    (
        "device access",
        |c| c["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "q"}]),
        "linux.resources.devices[0].access",
        "unknown access",
    ),
    (
        "swap below memory",
        |c| c["linux"]["resources"]["memory"] = json!({"limit": 100, "swap": 10}),
        "linux.resources.memory.swap",
        "memory limit",
    ),
    (
        "quota",
        |c| c["linux"]["resources"]["cpu"] = json!({"quota": 5}),
        "linux.resources.cpu.quota",
        "at least 1000",
    ),
    (
        "cpus",
        |c| c["linux"]["resources"]["cpu"] = json!({"cpus": "zero"}),
        "linux.resources.cpu.cpus",
        "not a list",
    ),
    (
        "cpus that are not there",
        |c| c["linux"]["resources"]["cpu"] = json!({"cpus": "4000"}),
        "linux.resources.cpu.cpus",
        "cannot write",
    ),
    (
        "weight",
        |c| c["linux"]["resources"]["blockIO"] = json!({"weight": 1}),
        "linux.resources.blockIO.weight",
        "10 to 1000",
    ),
    (
        "huge pages",
        |c| c["linux"]["resources"]["hugepageLimits"] = json!([{"pageSize": "huge", "limit": 1}]),
        "linux.resources.hugepageLimits[0].pageSize",
        "page size",
    ),
    (
        "propagation",
        |c| c["linux"]["rootfsPropagation"] = json!("public"),
        "linux.rootfsPropagation",
        "use one of",
    ),
    (
        "relative masked path",
        |c| c["linux"]["maskedPaths"] = json!(["proc/kcore"]),
        "linux.maskedPaths[0]",
        "absolute",
    ),
    (
        "climbing cgroup",
        |c| c["linux"]["cgroupsPath"] = json!("/a/../../b"),
        "linux.cgroupsPath",
        "not allowed",
    ),
    (
        "seccomp action",
        |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_MAYBE"}),
        "linux.seccomp.defaultAction",
        "unknown variant",
    ),
    (
        "seccomp argument",
        |c| c["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 7, "value": 0, "op": "SCMP_CMP_EQ"}]}]}),
        "linux.seccomp.syscalls[0].args[0].index",
        "0 to 5",
    ),
    (
        "relative hook",
        |c| c["hooks"] = json!({"createRuntime": [{"path": "true"}]}),
        "hooks.createRuntime[0].path",
        "absolute",
    ),
    (
        "hook timeout",
        |c| c["hooks"] = json!({"poststop": [{"path": "/bin/true", "timeout": -1}]}),
        "hooks.poststop[0].timeout",
        "above 0",
    ),
    (
        "missing hook",
        |c| c["hooks"] = json!({"createRuntime": [{"path": "/nosuch"}]}),
        "createRuntime hook #0",
        "no such file or directory",
    ),
    (
        "missing program",
        |c| c["process"]["args"] = json!(["nosuch"]),
        "exec: \"nosuch\"",
        "executable file not found in $PATH",
    ),
    (
        "missing path",
        |c| c["process"]["args"] = json!(["/bin/nosuch"]),
        "exec: \"/bin/nosuch\"",
        "no such file or directory",
    ),
    (
        "program is a directory",
        |c| c["process"]["args"] = json!(["/bin"]),
        "exec: \"/bin\"",
        "/bin",
    ),
    (
        "program is data",
        |c| c["process"]["args"] = json!(["/etc/passwd"]),
        "exec: \"/etc/passwd\"",
        "permission denied",
    ),
];

#[test]
fn every_bad_configuration_is_refused_by_name() {
    need_root!();
    let runtime = Runtime::berth();
    let mut failures = Vec::new();
    for (name, change, field, reason) in CASES {
        let mut bundle = Bundle::new(&["true"]);
        let container = runtime.container(&mut bundle);
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo")
            .unwrap()
            .lines()
            .count();
        bundle.edit(change);
        for verb in ["create", "run"] {
            let outcome = container.verb(verb, &[]);
            let error = outcome.stderr.replace("\\\"", "\"");
            let lines = error.lines().count();
            if outcome.code() != 1 || lines != 1 || !error.contains(field) || !error.contains(reason) {
                failures.push(format!("{name} ({verb}): code {}: {error}", outcome.code()));
            }
            if runtime.root().join(&container.id).exists() {
                failures.push(format!("{name} ({verb}): state is left"));
            }
            let cgroups = cgroups_named(&container.id);
            if !cgroups.is_empty() {
                failures.push(format!("{name} ({verb}): {cgroups:?} are left"));
            }
            let _ = container.verb("delete", &["--force"]);
        }
        let now = std::fs::read_to_string("/proc/thread-self/mountinfo")
            .unwrap()
            .lines()
            .count();
        if now > mounts {
            failures.push(format!("{name}: {} mounts are left", now - mounts));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn malformed_json_has_file_line_column_and_field() {
    let runtime = Runtime::berth();
    let bundle = Bundle::new(&["true"]);
    let path = bundle.path().to_str().unwrap();
    for (text, position, reason) in [
        (
            "{\n  \"ociVersion\": \"1.0.2\",\n  oops\n}",
            "config.json:3:3: ",
            "key must be a string",
        ),
        ("", "config.json:1:1: ", "EOF"),
        ("null", "config.json:1:1: ", "invalid type: null"),
        (
            "{\"ociVersion\": 5}",
            "config.json:1:16: ociVersion: ",
            "expected a string",
        ),
        (
            "{\"ociVersion\": \"1.0.0\", \"mounts\": [\n{\"destination\": []}]}",
            "config.json:2:17: mounts[0].destination: ",
            "expected",
        ),
    ] {
        std::fs::write(bundle.path().join("config.json"), text).unwrap();
        let error = runtime.call(&["create", "--bundle", path, "never"]).err();
        assert!(
            error.contains(position) && error.contains(reason),
            "{text:?}: {error}"
        );
    }
}

#[test]
fn unknown_fields_are_ignored() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["echo", "fine"]);
        bundle.edit(|config| {
            config["futureField"] = json!({"a": 1});
            config["linux"]["futureField"] = json!([1]);
            config["process"]["capabilities"]["bounding"] = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
        });
        let outcome = runtime.run_bundle(&mut bundle);
        assert_eq!(outcome.clone().ok(), "fine\n");
        assert!(
            outcome.stderr.contains("CAP_OF_TOMORROW"),
            "warned about: {}",
            outcome.stderr
        );
    }
}

#[test]
fn bundles_must_be_there() {
    let runtime = Runtime::berth();
    let dir = tempfile::tempdir().unwrap();
    for verb in ["create", "run"] {
        let error = runtime.call(&[verb, "--bundle", "/nosuch/bundle", "c"]).err();
        assert!(
            error.contains("/nosuch/bundle") && error.contains("no such file or directory"),
            "{error}"
        );
        let error = runtime
            .call(&[verb, "--bundle", dir.path().to_str().unwrap(), "c"])
            .err();
        assert!(
            error.contains(&format!(
                "berth {verb} failed: JSON specification file config.json not found"
            )),
            "{error}"
        );
    }
}
