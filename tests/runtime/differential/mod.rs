//! The same bundle under berth and runc: the same output, exit code, state and view from inside.

mod family;
mod files;
mod generate;
mod linux;
mod look;
mod process;
mod table;

use std::collections::BTreeMap;

use harness::{Bundle, Outcome, need_root};
use serde_json::{Value, json};

use crate::driver::Runtime;

/// Prints what a process sees of itself, in sections.
const VIEW: &str = r#"
section() { echo "== $1"; }
section status; cat /proc/self/status
section mountinfo; cat /proc/self/mountinfo
section cgroup; cat /proc/self/cgroup
section uid_map; cat /proc/self/uid_map
section gid_map; cat /proc/self/gid_map
section limits; cat /proc/self/limits
section env; env | sort
section pwd; pwd
section hostname; hostname
section dev; ls -l /dev | sed 's/[A-Z][a-z][a-z] *[0-9]* [0-9:]* //'
section fds; ls /proc/self/fd | wc -l
section oom; cat /proc/self/oom_score_adj
section ids; id -u; id -g; id -G
section umask; umask
section session; cut -d' ' -f6,7 /proc/self/stat
exit 23
"#;

fn sections(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        match line.strip_prefix("== ") {
            Some(title) => name = title.to_owned(),
            None => found.entry(name.clone()).or_default().push(line.to_owned()),
        }
    }
    found
}

/// Leaves out what differs from run to run or says nothing: ids of mounts, sizes of memory, process ids (runc's
/// threads use some up), ignored signals (runc 1.1 leaves one of those that Go's runtime uses ignored).
fn normalise(section: &str, line: &str, id: &str, bundle: &Bundle) -> Option<String> {
    let line = line
        .replace(id, "ID")
        .replace(bundle.path().to_str().unwrap(), "BUNDLE")
        // Below a mount of its own, the directory is named without what the mount is on.
        .replace(bundle.path().file_name().unwrap().to_str().unwrap(), "BUNDLE");
    match section {
        "status" => {
            let name = line.split(':').next().unwrap_or_default();
            let stable = [
                "Name",
                "Umask",
                "State",
                "TracerPid",
                "Uid",
                "Gid",
                "Groups",
                "Kthread",
                "Threads",
                "SigPnd",
                "ShdPnd",
                "SigBlk",
                "SigCgt",
                "CapInh",
                "CapPrm",
                "CapEff",
                "CapBnd",
                "CapAmb",
                "NoNewPrivs",
                "Seccomp",
                "Speculation_Store_Bypass",
                "Cpus_allowed",
                "Mems_allowed",
            ];
            stable.contains(&name).then_some(line)
        }
        "mountinfo" => {
            // ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [optional] - TYPE SOURCE SUPER
            let fields: Vec<&str> = line.split(' ').collect();
            let separator = fields.iter().position(|field| *field == "-")?;
            let optional = fields[6..separator]
                .iter()
                .map(|field| field.split(':').next().unwrap_or_default());
            let optional: Vec<&str> = optional.collect();
            let (major, _) = fields[2].split_once(':')?;
            let major = if major == "0" { "0" } else { fields[2] };
            Some(format!(
                "{major} {} {} {} {} - {}",
                fields[3],
                fields[4],
                fields[5],
                optional.join(","),
                fields[separator + 1..].join(" ")
            ))
        }
        _ => Some(line),
    }
}

fn view(runtime: &Runtime, bundle: &mut Bundle) -> (Outcome, BTreeMap<String, Vec<String>>) {
    let container = runtime.container(bundle);
    let outcome = container.run();
    let mut all = sections(&outcome.stdout);
    for (name, lines) in &mut all {
        let kept = lines
            .iter()
            .filter_map(|line| normalise(name, line, &container.id, bundle));
        *lines = kept.collect();
        // In a user namespace devices are bound from the host's, in an order without meaning.
        let (mut devices, mut others): (Vec<_>, Vec<_>) = lines
            .drain(..)
            .partition(|line: &String| name == "mountinfo" && line.contains(" - devtmpfs "));
        devices.sort();
        others.append(&mut devices);
        *lines = others;
    }
    (outcome, all)
}

/// Drives both runtimes and lists every line that only one of them shows, but for those with a known difference (see
/// runtime/DESIGN.md).
#[track_caller]
fn compare(name: &str, known: &[&str], make: impl Fn() -> Bundle) {
    let Some(runc) = Runtime::runc() else {
        harness::skip!("needs runc")
    };
    let berth = Runtime::berth();
    let (theirs, expected) = view(&runc, &mut make());
    assert_eq!(theirs.code(), 23, "{name}: runc itself fails: {}", theirs.stderr);
    let (ours, found) = view(&berth, &mut make());
    assert_eq!(ours.code(), 23, "{name}: berth: {}", ours.stderr);
    let mut differences = Vec::new();
    for (section, lines) in &expected {
        let ours = found.get(section).cloned().unwrap_or_default();
        if *lines != ours {
            for line in lines.iter().filter(|line| !ours.contains(line)) {
                differences.push(format!("{section}: only runc:  {line}"));
            }
            for line in ours.iter().filter(|line| !lines.contains(line)) {
                differences.push(format!("{section}: only berth: {line}"));
            }
            if lines.iter().all(|line| ours.contains(line)) && ours.iter().all(|line| lines.contains(line)) {
                differences.push(format!("{section}: the order differs: {lines:#?} {ours:#?}"));
            }
        }
    }
    differences.retain(|line| !known.iter().any(|known| line.contains(known)));
    assert!(differences.is_empty(), "{name}:\n{}", differences.join("\n"));
}

/// The configuration that the reference itself writes, running [`VIEW`].
fn reference_bundle() -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", VIEW]);
    std::fs::remove_file(bundle.path().join("config.json")).unwrap();
    let runc = Runtime::runc().expect("checked before");
    runc.call(&["spec", "--bundle", bundle.path().to_str().unwrap()])
        .ok();
    let text = std::fs::read(bundle.path().join("config.json")).unwrap();
    bundle.config = serde_json::from_slice(&text).unwrap();
    bundle.edit(|config| {
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(["sh", "-c", VIEW]);
    });
    bundle
}

#[test]
fn a_bundle_of_runc_spec_looks_the_same() {
    need_root!();
    if Runtime::runc().is_none() {
        harness::skip!("needs runc");
    }
    compare("runc spec", &[], reference_bundle);
}

/// System calls that engines allow: enough for a shell, in the shape of their profiles.
fn engine_seccomp() -> Value {
    let allowed: &[&str] = &[
        "accept",
        "access",
        "arch_prctl",
        "bind",
        "brk",
        "capget",
        "capset",
        "chdir",
        "chmod",
        "chown",
        "clone",
        "clone3",
        "close",
        "close_range",
        "connect",
        "copy_file_range",
        "dup",
        "dup2",
        "dup3",
        "epoll_create1",
        "epoll_ctl",
        "epoll_wait",
        "execve",
        "execveat",
        "exit",
        "exit_group",
        "faccessat",
        "faccessat2",
        "fchdir",
        "fchmod",
        "fchown",
        "fcntl",
        "fstat",
        "fstatfs",
        "fsync",
        "ftruncate",
        "futex",
        "getcwd",
        "getdents",
        "getdents64",
        "getegid",
        "geteuid",
        "getgid",
        "getgroups",
        "getitimer",
        "getpgid",
        "getpgrp",
        "getpid",
        "getppid",
        "getpriority",
        "getrandom",
        "getresgid",
        "getresuid",
        "getrlimit",
        "getrusage",
        "getsid",
        "getsockname",
        "getsockopt",
        "gettid",
        "gettimeofday",
        "getuid",
        "ioctl",
        "kill",
        "link",
        "listen",
        "lseek",
        "lstat",
        "madvise",
        "mkdir",
        "mmap",
        "mprotect",
        "mremap",
        "munmap",
        "nanosleep",
        "newfstatat",
        "open",
        "openat",
        "openat2",
        "pause",
        "pipe",
        "pipe2",
        "poll",
        "ppoll",
        "prctl",
        "pread64",
        "prlimit64",
        "pselect6",
        "pwrite64",
        "read",
        "readlink",
        "readlinkat",
        "readv",
        "recvfrom",
        "recvmsg",
        "rename",
        "rmdir",
        "rseq",
        "rt_sigaction",
        "rt_sigprocmask",
        "rt_sigreturn",
        "rt_sigsuspend",
        "rt_sigtimedwait",
        "sched_getaffinity",
        "sched_yield",
        "select",
        "sendfile",
        "sendmsg",
        "sendto",
        "set_robust_list",
        "set_tid_address",
        "setgid",
        "setgroups",
        "setpgid",
        "setresgid",
        "setresuid",
        "setrlimit",
        "setsid",
        "setsockopt",
        "setuid",
        "sigaltstack",
        "socket",
        "stat",
        "statfs",
        "statx",
        "symlink",
        "sysinfo",
        "tgkill",
        "time",
        "times",
        "umask",
        "uname",
        "unlink",
        "utimensat",
        "vfork",
        "wait4",
        "waitid",
        "write",
        "writev",
    ];
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [
            {"names": allowed, "action": "SCMP_ACT_ALLOW"},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}]},
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 8, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]},
        ]
    })
}

/// A configuration in the style of engines: 25 mounts, a seccomp profile, fourteen capabilities, forty variables.
fn engine_bundle() -> Bundle {
    let mut bundle = Bundle::new(&["sh", "-c", VIEW]);
    let files = bundle.path().join("files");
    std::fs::create_dir(&files).unwrap();
    for name in ["hosts", "hostname", "resolv.conf"] {
        std::fs::write(files.join(name), format!("{name}\n")).unwrap();
    }
    std::fs::create_dir(files.join("volume")).unwrap();
    let files = files.to_str().unwrap().to_owned();
    bundle.edit(|config| {
        let capabilities = json!([
            "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
            "CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL",
            "CAP_AUDIT_WRITE"
        ]);
        config["process"]["capabilities"] =
            json!({"bounding": capabilities, "effective": capabilities, "permitted": capabilities});
        config["process"]["noNewPrivileges"] = json!(false);
        config["process"]["oomScoreAdj"] = json!(100);
        config["process"]["user"] = json!({"uid": 0, "gid": 0, "additionalGids": [0, 1, 2, 3, 4, 6, 10, 11, 20, 26, 27], "umask": 18});
        config["process"]["cwd"] = json!("/tmp");
        let variables = (0..38).map(|number| json!(format!("SERVICE_{number}_PORT=tcp://10.0.0.{number}:80")));
        let mut env = config["process"]["env"].as_array().unwrap().clone();
        env.extend(variables);
        config["process"]["env"] = json!(env);
        let mounts = config["mounts"].as_array_mut().unwrap();
        for name in ["hosts", "hostname", "resolv.conf"] {
            mounts.push(json!({"destination": format!("/etc/{name}"), "type": "bind", "source": format!("{files}/{name}"),
                "options": ["rbind", "rprivate", "rw"]}));
        }
        for number in 0..8 {
            mounts.push(json!({"destination": format!("/mnt/volume{number}"), "type": "bind", "source": format!("{files}/volume"),
                "options": ["rbind", if number % 2 == 0 { "ro" } else { "rw" }, "rprivate", "nosuid", "nodev"]}));
        }
        for number in 0..4 {
            mounts.push(json!({"destination": format!("/run/secrets/{number}"), "type": "tmpfs", "source": "tmpfs",
                "options": ["nosuid", "noexec", "nodev", "size=4k", "mode=0700"]}));
        }
        mounts.push(json!({"destination": "/run/lock", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "noatime", "size=5m", "mode=755"]}));
        mounts.push(json!({"destination": "/home/link", "type": "bind", "source": files.as_str(), "options": ["bind", "ro", "noexec"]}));
        mounts.push(json!({"destination": "/srv/slave", "type": "bind", "source": files.as_str(), "options": ["rbind", "rslave"]}));
        config["linux"]["seccomp"] = engine_seccomp();
        config["linux"]["resources"] = json!({
            "devices": [
                {"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 5, "access": "rwm"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
            ],
            "memory": {"limit": 512 << 20},
            "cpu": {"shares": 512, "quota": 50_000, "period": 100_000},
            "pids": {"limit": 100},
        });
        config["linux"]["sysctl"] = json!({"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"});
        config["linux"]["rootfsPropagation"] = json!("rslave");
        config["root"]["readonly"] = json!(true);
    });
    // A read-only root needs its mount points.
    for dir in ["mnt", "run/secrets", "run/lock", "home/link", "srv/slave"] {
        std::fs::create_dir_all(bundle.rootfs().join(dir)).unwrap();
    }
    assert!(bundle.config["mounts"].as_array().unwrap().len() >= 25);
    bundle
}

#[test]
fn a_bundle_in_the_style_of_engines_looks_the_same() {
    need_root!();
    compare("engine", &[], engine_bundle);
}

#[test]
fn a_user_namespace_looks_the_same() {
    need_root!();
    // runc makes the ipc namespace with a group that is not mapped yet.
    compare("user namespace", &["mqueue"], || {
        let mut bundle = Bundle::new(&["sh", "-c", VIEW]);
        bundle.edit(|config| {
            config["linux"]["namespaces"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": "user"}));
            config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        });
        // The way to the root must be open to the mapped user.
        let open = |path: &std::path::Path| {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        };
        open(bundle.path());
        open(&bundle.rootfs());
        bundle
    });
}

#[test]
fn joined_namespaces_look_the_same() {
    need_root!();
    let mut holder = std::process::Command::new("unshare")
        .args([
            "--net",
            "--ipc",
            "--uts",
            "sh",
            "-c",
            "hostname joined; echo ready; exec sleep 1000",
        ])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::BufRead::read_line(
        &mut std::io::BufReader::new(holder.stdout.as_mut().unwrap()),
        &mut String::new(),
    )
    .unwrap();
    let pid = holder.id();
    let result = std::panic::catch_unwind(|| {
        compare("joined", &[], || {
            let mut bundle = Bundle::new(&["sh", "-c", VIEW]);
            bundle.edit(|config| {
                config.as_object_mut().unwrap().remove("hostname");
                config["linux"]["namespaces"] = json!([
                    {"type": "pid"}, {"type": "mount"}, {"type": "cgroup"},
                    {"type": "network", "path": format!("/proc/{pid}/ns/net")},
                    {"type": "ipc", "path": format!("/proc/{pid}/ns/ipc")},
                    {"type": "uts", "path": format!("/proc/{pid}/ns/uts")},
                ]);
            });
            bundle
        });
    });
    holder.kill().unwrap();
    holder.wait().unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn an_unprivileged_user_looks_the_same() {
    need_root!();
    compare("user", &[], || {
        let mut bundle = Bundle::new(&["sh", "-c", VIEW]);
        bundle.edit(|config| {
            config["process"]["user"] =
                json!({"uid": 1000, "gid": 1000, "additionalGids": [2000], "umask": 23});
            config["root"]["readonly"] = json!(true);
        });
        bundle
    });
}
