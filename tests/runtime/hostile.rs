//! Hostile images, callers and containers: each finds the runtime unmoved (DESIGN.md, "Security").

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use harness::{Bundle, need_program, need_root, run, wait_for};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::{PATIENCE, Runtime, cgroups_named};

/// Without the mounts below these places.
fn without_mounts(config: &mut Value, prefix: &str) {
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .retain(|mount| !mount["destination"].as_str().unwrap().starts_with(prefix));
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

/// CVE-2025-52881: what is written to procfs must reach procfs, whatever the image has at /proc.
#[test]
fn sysctls_are_not_redirected_by_the_image() {
    need_root!();
    let outside = TempDir::new().unwrap();
    let mut bundle = Bundle::new(&["cat", "/p/sys/kernel/msgmax", "/victim"]);
    let root = bundle.rootfs();
    fs::create_dir_all(root.join("proc/sys/kernel")).unwrap();
    fs::write(root.join("victim"), "untouched\n").unwrap();
    symlink("/victim", root.join("proc/sys/kernel/msgmax")).unwrap();
    bundle.edit(|config| {
        without_mounts(config, "/proc");
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/p", "type": "proc", "source": "proc"}));
        config["linux"]["sysctl"] = json!({"kernel.msgmax": "54321"});
    });
    assert_eq!(
        Runtime::berth().run_bundle(&mut bundle).ok(),
        "54321\nuntouched\n"
    );
    assert_eq!(entries(outside.path()), 0);
}

/// CVE-2025-52881, CVE-2019-16884: nothing is mounted over files of procfs, by whatever way the image leads there.
#[test]
fn nothing_is_mounted_over_procfs() {
    need_root!();
    let source = TempDir::new().unwrap();
    fs::write(source.path().join("file"), "").unwrap();
    for target in [
        "/proc/self/attr/exec",
        "/proc/sys/kernel/msgmax",
        "/way/sys/kernel/msgmax",
        "/proc/sys/kernel",
    ] {
        let folder = target.ends_with("/kernel");
        let from = if folder {
            source.path().to_path_buf()
        } else {
            source.path().join("file")
        };
        let mut bundle = Bundle::new(&["true"]);
        symlink("/proc", bundle.rootfs().join("way")).unwrap();
        bundle.edit(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": target, "type": "bind", "source": from, "options": ["bind"]}));
        });
        let text = Runtime::berth().run_bundle(&mut bundle).err();
        assert!(
            text.contains("inside /proc") || text.contains("create mountpoint"),
            "{target}: {text}"
        );
    }
    // What hides the host's numbers may be there.
    let mut bundle = Bundle::new(&["cat", "/proc/meminfo"]);
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/proc/meminfo", "type": "bind", "source": source.path().join("file"), "options": ["bind"]}));
    });
    assert_eq!(Runtime::berth().run_bundle(&mut bundle).ok(), "");
}

/// Reads from the memory of a process by process_vm_readv(2). /proc/PID/mem would not tell: its mode keeps out who does not
/// have its owner's id, whatever the process may be.
const READ_MEMORY: &str = "\
import ctypes, sys
pid = int(sys.argv[1])
start = int(open(f'/proc/{pid}/maps').read().split('-')[0], 16)
class Piece(ctypes.Structure): _fields_ = [('base', ctypes.c_void_p), ('length', ctypes.c_size_t)]
into = ctypes.create_string_buffer(16)
ours, theirs = Piece(ctypes.addressof(into), 16), Piece(start, 16)
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0) != 16)";

/// A process of the user namespace that is joined must not reach the runtime's memory while it is shared.
#[test]
fn the_runtimes_memory_is_out_of_reach_of_a_joined_user_namespace() {
    need_root!();
    let nsenter = need_program!("nsenter");
    // Of all that PATH may have, Debian's can be executed by everybody.
    let python = Path::new("/usr/bin/python3");
    if !python.exists() {
        harness::skip!("needs the program /usr/bin/python3");
    }
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = map.clone();
        config["linux"]["gidMappings"] = map;
    });
    for dir in [bundle.path().to_path_buf(), bundle.rootfs()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let container = runtime.container(&mut bundle);
    container.start();
    let groups = cgroups_named(&container.id);
    let group = groups
        .iter()
        .find(|group| group.join("cgroup.freeze").exists())
        .expect("a cgroup2 folder");
    // Whoever is put into a frozen cgroup stays where it is: here, before it has a program of its own.
    fs::write(group.join("cgroup.freeze"), "1").unwrap();
    let mut command = runtime.command(&["exec", "--ignore-paused", &container.id, "true"]);
    let mut joining = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let init = container.pid();
    let child = wait_for("the joining process", PATIENCE, || {
        let members = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        let mut others = members.lines().filter_map(|line| line.parse::<i32>().ok());
        others.rfind(|pid| *pid != init).ok_or(members)
    });
    let look = |pid: i32| {
        let user = format!("--user=/proc/{init}/ns/user");
        let mut command = Command::new(&nsenter);
        command.args([&user, "--setuid=0", "--setgid=0"]).arg(python);
        run(command.args(["-c", READ_MEMORY, &pid.to_string()])).code()
    };
    let (theirs, ours) = (look(init), [look(child), look(joining.id().cast_signed())]);
    fs::write(group.join("cgroup.freeze"), "0").unwrap();
    joining.wait().unwrap();
    assert_eq!(
        theirs, 0,
        "the attack does not even reach the container's own process"
    );
    assert!(
        ours.iter().all(|code| *code != 0),
        "the runtime's memory was opened: {ours:?}"
    );
}

/// CVE-2022-29162 and CVE-2022-24769: what the caller has must not be inherited.
#[test]
fn groups_and_inheritable_capabilities_of_the_caller_end_at_the_border() {
    need_root!();
    let setpriv = need_program!("setpriv");
    let runtime = Runtime::berth();
    for exec in [false, true] {
        for uid in [0, 1000] {
            let script = "grep -E '^(CapInh|CapAmb|Groups|Gid)' /proc/self/status";
            let program: &[&str] = if exec {
                &["sleep", "1000"]
            } else {
                &["sh", "-c", script]
            };
            let mut bundle = Bundle::new(program);
            bundle.edit(|config| config["process"]["user"] = json!({"uid": uid, "gid": 7}));
            let container = runtime.container(&mut bundle);
            let inner = if exec {
                container.start();
                runtime.command(&["exec", &container.id, "sh", "-c", script])
            } else {
                container.command("run", &[])
            };
            let mut command = Command::new(&setpriv);
            command.args([
                "--groups",
                "4,24,27",
                "--inh-caps",
                "+chown,+kill,+net_bind_service",
            ]);
            command
                .args(["--ambient-caps", "+chown,+kill"])
                .arg(inner.get_program())
                .args(inner.get_args());
            let text = run(&mut command).ok();
            assert!(
                text.contains("CapInh:\t0000000000000000"),
                "exec {exec}, user {uid}: {text}"
            );
            assert!(
                text.contains("CapAmb:\t0000000000000000"),
                "exec {exec}, user {uid}: {text}"
            );
            assert!(
                text.contains("Gid:\t7\t7\t7\t7"),
                "exec {exec}, user {uid}: {text}"
            );
            assert!(
                text.contains("Groups:\t \n") || text.ends_with("Groups:\t"),
                "exec {exec}, user {uid}: {text:?}"
            );
        }
    }
}

/// CVE-2022-24769: an ambient capability of the caller that the container's sets would let stay.
#[test]
fn ambient_capabilities_of_the_caller_end_at_the_border() {
    need_root!();
    let setpriv = need_program!("setpriv");
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["grep", "-E", "^Cap(Inh|Amb)", "/proc/self/status"]);
    bundle.edit(|config| config["process"]["capabilities"]["inheritable"] = json!(["CAP_KILL"]));
    let container = runtime.container(&mut bundle);
    let inner = container.command("run", &[]);
    let mut command = Command::new(&setpriv);
    command.args(["--inh-caps", "+kill", "--ambient-caps", "+kill"]);
    let text = run(command.arg(inner.get_program()).args(inner.get_args())).ok();
    assert_eq!(text, "CapInh:\t0000000000000020\nCapAmb:\t0000000000000000\n");
}

/// CVE-2024-21626: a working directory by way of /proc must be inside.
#[test]
fn working_directories_through_proc_stay_inside() {
    need_root!();
    let host = TempDir::new().unwrap();
    fs::write(host.path().join("host-marker"), "").unwrap();
    let runtime = Runtime::berth();
    let ways = [
        "/proc/self/cwd",
        "/proc/self/cwd/..",
        "/proc/thread-self/cwd",
        "/proc/1/cwd/../..",
        "/proc/self/root/..",
        "/proc/1/root",
        "/proc/self/fd/0/..",
        "/proc/self/task/1/cwd",
        "/link/..",
    ];
    for way in ways {
        let script = "ls -a .; ls -a ..; ls -a /proc/self/cwd/; exit 0";
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        symlink("/proc/self/cwd", bundle.rootfs().join("link")).unwrap();
        bundle.edit(|config| config["process"]["cwd"] = json!(way));
        let container = runtime.container(&mut bundle);
        let outcome = run(container.command("run", &[]).current_dir(host.path()));
        assert!(
            !outcome.stdout.contains("host-marker"),
            "{way}: {}",
            outcome.stdout
        );
        assert!(
            !outcome.stdout.contains("config.json"),
            "{way}: {}",
            outcome.stdout
        );
        // The same for exec.
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        let container = runtime.container(&mut bundle);
        container.start();
        let outcome = run(runtime
            .command(&["exec", "--cwd", way, &container.id, "sh", "-c", script])
            .current_dir(host.path()));
        assert!(
            !outcome.stdout.contains("host-marker"),
            "exec, {way}: {}",
            outcome.stdout
        );
    }
}

/// What stands in the place of /etc/passwd and /etc/group neither holds the start up nor ends in a variable.
#[test]
fn odd_user_files_are_harmless() {
    need_root!();
    let runtime = Runtime::berth();
    #[allow(clippy::type_complexity)] // a table
    let make: [(&str, fn(&Path), &str); 8] = [
        ("a device", |path| device(path, 5), "/"),
        (
            "a pipe",
            |path| nix::unistd::mkfifo(path, Mode::from_bits_truncate(0o644)).unwrap(),
            "/",
        ),
        ("a folder", |path| fs::create_dir(path).unwrap(), "/"),
        (
            "a link to itself",
            |path| symlink(path.file_name().unwrap(), path).unwrap(),
            "/",
        ),
        (
            "a link to a secret",
            |path| symlink("/proc/self/environ", path).unwrap(),
            "/",
        ),
        (
            "one long line",
            |path| fs::write(path, "a".repeat(9_000_000)).unwrap(),
            "/",
        ),
        (
            "a number that is none",
            |path| {
                fs::write(
                    path,
                    "root:x:0x0:0::/evil:\nroot:x:+0:0::/evil:\nroot:x: 0:0::/evil:\n",
                )
                .unwrap()
            },
            "/",
        ),
        (
            "a variable in a name",
            |path| fs::write(path, "r:x:0:0::/home\0LD_PRELOAD=/x:/bin/sh\nr:x:0:0::/second:\n").unwrap(),
            "/second",
        ),
    ];
    for name in ["passwd", "group"] {
        for (what, make, home) in make {
            let mut bundle = Bundle::new(&["sh", "-c", "env | grep -E '^(HOME|LD_PRELOAD)'"]);
            let path = bundle.rootfs().join("etc").join(name);
            fs::remove_file(&path).unwrap();
            make(&path);
            let text = runtime.run_bundle(&mut bundle).ok();
            assert!(
                !text.contains("LD_PRELOAD") && !text.contains("evil"),
                "{name}: {what}: {text}"
            );
            if name == "passwd" {
                assert_eq!(text, format!("HOME={home}\n"), "{what}");
            }
        }
    }
}

fn device(path: &Path, minor: u64) {
    let mode = Mode::from_bits_truncate(0o666);
    mknod(path, SFlag::S_IFCHR, mode, makedev(1, minor)).unwrap();
}

/// Pipes and devices where files are expected: an error, or no difference, and never a wait.
#[test]
fn pipes_and_devices_in_the_place_of_files() {
    need_root!();
    let runtime = Runtime::berth();
    let source = TempDir::new().unwrap();
    fs::write(source.path().join("file"), "bound").unwrap();
    let with_odd = |args: &[&str]| {
        let bundle = Bundle::new(args);
        nix::unistd::mkfifo(&bundle.rootfs().join("pipe"), Mode::from_bits_truncate(0o777)).unwrap();
        device(&bundle.rootfs().join("device"), 5);
        bundle
    };
    for name in ["/pipe", "/device"] {
        // As the program, and as the working directory.
        let text = runtime.run_bundle(&mut with_odd(&[name])).err();
        assert!(
            text.contains("permission denied") || text.contains("exec"),
            "{name}: {text}"
        );
        let mut bundle = with_odd(&["true"]);
        bundle.edit(|config| config["process"]["cwd"] = json!(name));
        runtime.run_bundle(&mut bundle).err();
        // Below it.
        bundle.edit(|config| config["process"]["cwd"] = json!(format!("{name}/below")));
        runtime.run_bundle(&mut bundle).err();
        // Masked and made read-only.
        let mut bundle = with_odd(&["sh", "-c", &format!("cat {name} | head -c 4; echo end")]);
        bundle.edit(|config| config["linux"]["maskedPaths"] = json!([name]));
        assert_eq!(runtime.run_bundle(&mut bundle).ok(), "end\n", "{name}");
        let mut bundle = with_odd(&["true"]);
        bundle.edit(|config| config["linux"]["readonlyPaths"] = json!([name]));
        runtime.run_bundle(&mut bundle).ok();
        // As the target of a bind mount.
        let mut bundle = with_odd(&["cat", name]);
        bundle.edit(|config| {
            let mounts = config["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": name, "type": "bind", "source": source.path().join("file"), "options": ["bind"]}));
        });
        assert_eq!(runtime.run_bundle(&mut bundle).ok(), "bound", "{name}");
    }
}

/// CVE-2026-41579: an image whose /dev leads elsewhere.
#[test]
fn a_dev_that_leads_elsewhere_stays_inside() {
    need_root!();
    let runtime = Runtime::berth();
    let outside = TempDir::new().unwrap();
    for (target, devices) in [
        (outside.path().to_str().unwrap().to_owned(), false),
        (format!("../../../..{}", outside.path().display()), false),
        (outside.path().to_str().unwrap().to_owned(), true),
        ("/proc/self/fd".to_owned(), true),
    ] {
        let mut bundle = Bundle::new(&["true"]);
        fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
        symlink(&target, bundle.rootfs().join("dev")).unwrap();
        bundle.edit(|config| {
            if devices {
                without_mounts(config, "/dev");
            }
            config["linux"]["devices"] =
                json!([{"path": "/dev/made", "type": "c", "major": 1, "minor": 3, "fileMode": 438}]);
        });
        // It may work or fail: it must not do anything out there.
        let _ = runtime.run_bundle(&mut bundle);
        assert_eq!(entries(outside.path()), 0, "{target}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(
            !mounts.contains(outside.path().to_str().unwrap()),
            "{target}: {mounts}"
        );
    }
}

/// Annotations, names and arguments are data: in documents, in logs, for hooks.
#[test]
fn annotations_and_hooks_inject_nothing() {
    need_root!();
    let runtime = Runtime::berth();
    let witness = TempDir::new().unwrap();
    let value = "x\"}, \"pid\": 1, \"status\": \"stopped\n$(touch /tmp/injected); `reboot` <&>\u{2028}";
    let argument = "$(touch injected); 'a' \"b\" \\ \n c";
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    bundle.edit(|config| {
        config["annotations"] = json!({"a\nb": value, "org.systemd.property.ExecStart": "['/bin/false']"});
        let script = format!("cat >{0}/state; printf %s \"$1\" >{0}/argument; env >{0}/env", witness.path().display());
        config["hooks"] = json!({"createRuntime": [
            {"path": "/bin/sh", "args": ["sh", "-c", script, "sh", argument], "env": ["ONLY=this", "PATH=/usr/bin:/bin"]}]});
    });
    let container = runtime.container(&mut bundle);
    let mut command = container.command("create", &[]);
    command.env("SECRET_OF_THE_CALLER", "1");
    run(&mut command).ok();
    let given: Value = serde_json::from_slice(&fs::read(witness.path().join("state")).unwrap()).unwrap();
    let shown = container.state();
    for document in [&given, &shown] {
        assert_eq!(document["annotations"]["a\nb"], value);
        assert_ne!(document["pid"], 1);
        assert_eq!(document["id"], container.id.as_str());
    }
    assert_eq!(
        fs::read_to_string(witness.path().join("argument")).unwrap(),
        argument
    );
    assert!(
        !fs::read_to_string(witness.path().join("env"))
            .unwrap()
            .contains("SECRET_OF_THE_CALLER")
    );
    // One message of the log is one line, whatever is in it.
    let log = witness.path().join("log");
    let log = log.to_str().unwrap();
    let id = "x\n{\"level\":\"error\",\"msg\":\"forged\"}";
    runtime
        .call(&["--log", log, "--log-format", "json", "state", id])
        .err();
    let lines = fs::read_to_string(log).unwrap();
    assert_eq!(lines.lines().count(), 1, "{lines}");
    assert!(
        !serde_json::from_str::<Value>(lines.trim()).unwrap()["msg"]
            .as_str()
            .unwrap()
            .is_empty()
    );
    for id in ["../x", "a/b", "..", "a\0b", ""] {
        if !id.contains('\0') {
            runtime.call(&["state", id]).err();
        }
    }
}
