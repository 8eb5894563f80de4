//! `features`: each thing that it announces works, and nothing else is accepted.

use std::fs;
use std::os::unix::net::UnixListener;

use harness::{Bundle, need_root, skip};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::Runtime;

fn announced() -> Value {
    serde_json::from_str(&Runtime::berth().call(&["features"]).ok()).unwrap()
}

/// The words of a list of the document.
#[track_caller]
fn words(document: &Value, pointer: &str) -> Vec<String> {
    let list = document
        .pointer(pointer)
        .unwrap_or_else(|| panic!("no {pointer}"));
    serde_json::from_value(list.clone()).unwrap()
}

/// Runs a script in a container whose configuration was changed.
#[track_caller]
fn run(script: &str, change: impl FnOnce(&mut Value)) -> harness::Outcome {
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    bundle.edit(change);
    Runtime::berth().run_bundle(&mut bundle)
}

/// A word that is not in a list is refused with its field.
#[track_caller]
fn refuses(field: &str, change: impl FnOnce(&mut Value)) {
    let error = run("true", change).err();
    assert!(
        error.contains(field) && error.contains("unknown variant"),
        "{error}"
    );
}

/// The name in /proc/PID/ns of each kind of namespace.
const NAMESPACES: [(&str, &str); 8] = [
    ("cgroup", "cgroup"),
    ("ipc", "ipc"),
    ("mount", "mnt"),
    ("network", "net"),
    ("pid", "pid"),
    ("time", "time"),
    ("user", "user"),
    ("uts", "uts"),
];

#[test]
fn namespaces() {
    need_root!();
    assert_eq!(
        words(&announced(), "/linux/namespaces"),
        NAMESPACES.map(|(word, _)| word)
    );
    if !fs::exists("/proc/self/ns/time").unwrap() {
        skip!("this kernel has no time namespaces");
    }
    let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    let script = "for kind in /proc/self/ns/*; do readlink $kind; done";
    let text = run(script, |config| {
        config["linux"]["namespaces"] = NAMESPACES.iter().map(|(word, _)| json!({"type": word})).collect();
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
    })
    .ok();
    for (word, name) in NAMESPACES {
        let own = fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")))
            .unwrap();
        assert_ne!(line, own.to_str().unwrap(), "{word}");
    }
    refuses("linux.namespaces[0].type", |config| {
        config["linux"]["namespaces"][0]["type"] = json!("mnt")
    });
}

#[test]
fn hooks() {
    need_root!();
    let folder = TempDir::new().unwrap();
    let kinds = words(&announced(), "/hooks");
    assert_eq!(kinds.len(), 6);
    run("true", |config| {
        let folder = folder.path();
        for kind in &kinds {
            // This one alone runs where the container's root is.
            let place = if kind == "startContainer" {
                "/ran"
            } else {
                folder.to_str().unwrap()
            };
            let script = format!(": >{place}/{kind}");
            config["hooks"][kind] = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
        }
        let bind = json!({"destination": "/ran", "type": "bind", "source": folder, "options": ["bind"]});
        config["mounts"].as_array_mut().unwrap().push(bind);
    })
    .ok();
    for kind in kinds {
        assert!(folder.path().join(&kind).exists(), "{kind}");
    }
}

#[test]
fn capabilities() {
    need_root!();
    // Those that this test has itself: a container of an engine lacks some.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let own = status
        .lines()
        .find_map(|line| line.strip_prefix("CapPrm:\t"))
        .unwrap();
    let own = u64::from_str_radix(own, 16).unwrap();
    for (number, name) in words(&announced(), "/linux/capabilities").into_iter().enumerate() {
        let bit = 1_u64 << number;
        if own & bit == 0 {
            continue;
        }
        let outcome = run("grep CapBnd /proc/self/status", |config| {
            let only = json!([name]);
            config["process"]["capabilities"] =
                json!({"bounding": only, "effective": only, "permitted": only});
        });
        assert_eq!(outcome.stderr, "", "{name}");
        assert_eq!(outcome.ok(), format!("CapBnd:\t{bit:016x}\n"), "{name}");
    }
}

fn profile(action: &str) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}],
    })
}

/// An action, and what is seen of it when mkdir(2) is called: 159 is the end by SIGSYS.
const ACTIONS: [(&str, &str); 8] = [
    ("SCMP_ACT_ALLOW", "0\n"),
    (
        "SCMP_ACT_ERRNO",
        "mkdir: can't create directory '/x': Operation not permitted\n1\n",
    ),
    ("SCMP_ACT_KILL", "159\n"),
    ("SCMP_ACT_KILL_PROCESS", "159\n"),
    ("SCMP_ACT_KILL_THREAD", "159\n"),
    ("SCMP_ACT_LOG", "0\n"),
    // Nobody traces it.
    (
        "SCMP_ACT_TRACE",
        "mkdir: can't create directory '/x': Function not implemented\n1\n",
    ),
    ("SCMP_ACT_TRAP", "159\n"),
];

#[test]
fn seccomp_actions() {
    need_root!();
    let mut seen: Vec<&str> = ACTIONS.iter().map(|(word, _)| *word).collect();
    // Its own tests have an agent.
    seen.push("SCMP_ACT_NOTIFY");
    seen.sort_unstable();
    assert_eq!(words(&announced(), "/linux/seccomp/actions"), seen);
    for (action, wanted) in ACTIONS {
        let text = run("mkdir /x 2>&1; echo $?", |config| {
            config["linux"]["seccomp"] = profile(action);
        })
        .ok();
        let text = text.replace("Bad system call\n", "");
        assert_eq!(text, wanted, "{action}");
    }
    refuses("linux.seccomp.syscalls[0].action", |config| {
        config["linux"]["seccomp"] = profile("SCMP_ACT_NOSUCH")
    });
}

#[test]
fn seccomp_operators() {
    let mut tested: Vec<&str> = crate::seccomp::OPERATORS.iter().map(|(word, ..)| *word).collect();
    tested.sort_unstable();
    assert_eq!(words(&announced(), "/linux/seccomp/operators"), tested);
}

#[test]
fn seccomp_architectures() {
    need_root!();
    let native = if cfg!(target_arch = "x86_64") {
        "SCMP_ARCH_X86_64"
    } else {
        "SCMP_ARCH_AARCH64"
    };
    for other in words(&announced(), "/linux/seccomp/archs") {
        let text = run("mkdir /x 2>/dev/null; echo $?", |config| {
            config["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO");
            config["linux"]["seccomp"]["architectures"] = json!([native, other]);
        })
        .ok();
        assert_eq!(text, "1\n", "{other}");
    }
    refuses("linux.seccomp.architectures[0]", |config| {
        config["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO");
        config["linux"]["seccomp"]["architectures"] = json!(["SCMP_ARCH_Z80"]);
    });
}

#[test]
fn seccomp_flags() {
    need_root!();
    let document = announced();
    let (known, supported) = (
        words(&document, "/linux/seccomp/knownFlags"),
        words(&document, "/linux/seccomp/supportedFlags"),
    );
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("agent");
    let _agent = UnixListener::bind(&path).unwrap();
    for flag in known {
        let outcome = run("grep -E '^Seccomp:' /proc/self/status", |config| {
            // This flag is for calls that an agent decides.
            let notifies = flag == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
            config["linux"]["seccomp"] = profile(if notifies {
                "SCMP_ACT_NOTIFY"
            } else {
                "SCMP_ACT_ERRNO"
            });
            config["linux"]["seccomp"]["flags"] = json!([flag]);
            if notifies {
                config["linux"]["seccomp"]["listenerPath"] = json!(path);
            }
        });
        if supported.contains(&flag) {
            assert_eq!(outcome.ok(), "Seccomp:\t2\n", "{flag}");
        } else {
            assert!(outcome.err().contains("seccomp"), "{flag}");
        }
    }
    refuses("linux.seccomp.flags[0]", |config| {
        config["linux"]["seccomp"] = profile("SCMP_ACT_ERRNO");
        config["linux"]["seccomp"]["flags"] = json!(["SECCOMP_FILTER_FLAG_NEW_LISTENER"]);
    });
}

/// A mode, whether it takes nodes, and how numa(7) begins to show it.
const MODES: [(&str, bool, &str); 7] = [
    ("MPOL_BIND", true, "bind:0 "),
    ("MPOL_DEFAULT", false, "default "),
    ("MPOL_INTERLEAVE", true, "interleave:0 "),
    ("MPOL_LOCAL", false, "local "),
    ("MPOL_PREFERRED", true, "prefer:0 "),
    ("MPOL_PREFERRED_MANY", true, "prefer (many):0 "),
    ("MPOL_WEIGHTED_INTERLEAVE", true, "weighted interleave:0 "),
];

/// A flag, and the same of it with MPOL_BIND. The word for balancing is newer than the flag.
const MODE_FLAGS: [(&str, &[&str]); 3] = [
    (
        "MPOL_F_NUMA_BALANCING",
        &["bind=balancing:0 ", "bind=:0 ", "bind:0 "],
    ),
    ("MPOL_F_RELATIVE_NODES", &["bind=relative:0 "]),
    ("MPOL_F_STATIC_NODES", &["bind=static:0 "]),
];

#[test]
fn memory_policies() {
    need_root!();
    let document = announced();
    assert_eq!(
        words(&document, "/linux/memoryPolicy/modes"),
        MODES.map(|(word, ..)| word)
    );
    assert_eq!(
        words(&document, "/linux/memoryPolicy/flags"),
        MODE_FLAGS.map(|(word, _)| word)
    );
    if !fs::exists("/proc/self/numa_maps").unwrap() {
        skip!("this kernel has no NUMA");
    }
    let with = |policy: Value| {
        run("cat /proc/self/numa_maps", |config| {
            config["linux"]["memoryPolicy"] = policy
        })
    };
    for (mode, nodes, wanted) in MODES {
        let mut policy = json!({"mode": mode});
        if nodes {
            policy["nodes"] = json!("0");
        }
        let outcome = with(policy);
        if !outcome.status.success() && ["MPOL_PREFERRED_MANY", "MPOL_WEIGHTED_INTERLEAVE"].contains(&mode) {
            // Linux 5.15 and 6.9.
            assert!(
                outcome.err().contains("linux.memoryPolicy: invalid argument"),
                "{mode}"
            );
            continue;
        }
        let text = outcome.ok();
        assert!(text.contains(&format!(" {wanted}")), "{mode}: {text}");
    }
    for (flag, wanted) in MODE_FLAGS {
        let text = with(json!({"mode": "MPOL_BIND", "nodes": "0", "flags": [flag]})).ok();
        assert!(
            wanted.iter().any(|wanted| text.contains(&format!(" {wanted}"))),
            "{flag}: {text}"
        );
    }
    refuses("linux.memoryPolicy.mode", |config| {
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_NOSUCH"})
    });
    refuses("linux.memoryPolicy.flags[0]", |config| {
        config["linux"]["memoryPolicy"] =
            json!({"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_NOSUCH"]});
    });
}

/// What is "enabled" is looked at: where the host lacks the part, that is an error with the field, not nothing.
#[test]
fn what_is_enabled_is_never_ignored() {
    need_root!();
    let document = announced();
    type Change = fn(&mut Value);
    let parts: [(&str, &str, Change); 6] = [
        ("/linux/apparmor/enabled", "process.apparmorProfile", |config| {
            config["process"]["apparmorProfile"] = json!("berth-nosuch");
        }),
        ("/linux/selinux/enabled", "process.selinuxLabel", |config| {
            config["process"]["selinuxLabel"] = json!("no:such:label");
        }),
        ("/linux/intelRdt/enabled", "linux.intelRdt", |config| {
            config["linux"]["intelRdt"] = json!({"l3CacheSchema": "L3:0=nosuch"});
        }),
        ("/linux/netDevices/enabled", "linux.netDevices", |config| {
            config["linux"]["netDevices"] = json!({"nosuch0": {}});
        }),
        ("/linux/mountExtensions/idmap/enabled", "mounts[", |config| {
            let ids = json!([{"containerID": 0, "hostID": 0, "size": 0}]);
            let mount = json!({"destination": "/m", "type": "bind", "source": "/tmp", "options": ["bind"], "uidMappings": ids, "gidMappings": ids});
            config["mounts"].as_array_mut().unwrap().push(mount);
        }),
        ("/linux/cgroup/rdma", "linux.resources.rdma", |config| {
            config["linux"]["resources"]["rdma"] = json!({"nosuch_1": {"hcaHandles": 1}});
        }),
    ];
    for (pointer, field, change) in parts {
        assert_eq!(document.pointer(pointer), Some(&json!(true)), "{pointer}");
        let error = run("true", change).err();
        assert!(error.contains(field), "{pointer}: {error}");
    }
    // One of the two is what this host has; the other is what the rest of the tests' hosts have.
    for pointer in [
        "/linux/cgroup/v1",
        "/linux/cgroup/v2",
        "/linux/cgroup/systemd",
        "/linux/cgroup/systemdUser",
    ] {
        assert_eq!(document.pointer(pointer), Some(&json!(true)), "{pointer}");
    }
}
