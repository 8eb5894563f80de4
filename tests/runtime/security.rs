//! Attacks on the way into a container, each with the protection that stops it (DESIGN.md, "Security").

use std::fs;
use std::io::Read as _;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use harness::{Bundle, need_root, run};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::Runtime;

/// Nothing mounted on /dev or below: the image's own folder is used.
fn without_dev(config: &mut Value) {
    let mounts = config["mounts"].as_array_mut().unwrap();
    mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
}

fn content(path: &std::path::Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// CVE-2019-5736: the program file of a container's process must not lead to the runtime's own.
#[test]
fn the_init_program_is_a_sealed_file_in_memory() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["true"]);
    let container = runtime.container(&mut bundle);
    container.create();
    let exe = format!("/proc/{}/exe", container.pid());
    let target = fs::read_link(&exe).unwrap();
    assert!(
        target.to_str().unwrap().starts_with("/memfd:"),
        "{}",
        target.display()
    );
    // Even the host's root cannot write to it.
    let write = |path: &str| {
        use std::io::Write as _;
        let opened = fs::OpenOptions::new().write(true).open(path);
        opened.and_then(|mut file| file.write_all(b"x"))
    };
    write(&exe).expect_err("the init program was overwritten");
    // The kernel refuses that of any program that is executed just now: so the attack keeps it open until it is not.
    let kept = fs::File::open(&exe).unwrap();
    container.kill("KILL").ok();
    container.wait("stopped");
    let path = format!("/proc/self/fd/{}", kept.as_raw_fd());
    let error = write(&path).expect_err("the init program was overwritten after its end");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
}

/// Whoever starts the runtime with a standard descriptor closed must not have the next file that is opened, one of the
/// host's, become the container's standard input or output.
#[test]
fn closed_standard_descriptors_become_dev_null() {
    need_root!();
    for closed in ["<&-", "<&- 2>&-", "<&- >&- 2>&-"] {
        let runtime = Runtime::berth();
        let script = "for fd in 0 1 2; do readlink /proc/self/fd/$fd; done > /seen";
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        bundle.edit(|config| config["root"]["readonly"] = json!(false));
        let container = runtime.container(&mut bundle);
        let command = container.command("run", &[]);
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &format!("exec \"$0\" \"$@\" {closed}")]);
        shell.arg(command.get_program()).args(command.get_args());
        let status = shell.status().unwrap();
        assert!(status.success(), "{closed}: {status}");
        let seen = fs::read_to_string(bundle.rootfs().join("seen")).unwrap();
        let seen: Vec<&str> = seen.lines().collect();
        assert_eq!(seen[0], "/dev/null", "{closed}: {seen:?}");
        if closed.contains("2>&-") {
            assert_eq!(seen[2], "/dev/null", "{closed}: {seen:?}");
        }
    }
}

/// The same attack by its classic form: the container's program is whatever runs it.
#[test]
fn a_container_that_runs_its_own_executable_reaches_nothing() {
    need_root!();
    let berth = harness::bin("berth");
    let before = content(&berth);
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["/proc/self/exe"]);
    let outcome = runtime.run_bundle(&mut bundle);
    assert_ne!(outcome.code(), 0);
    let script = "for p in /proc/[0-9]*; do echo x > $p/exe; done 2>/dev/null; true";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    runtime.run_bundle(&mut bundle);
    assert!(before == content(&berth), "the runtime's file changed");
}

/// CVE-2024-21626: descriptors of the runtime or its caller, as the working directory or by themselves.
#[test]
fn no_descriptor_leaks_into_the_container() {
    need_root!();
    let host = fs::File::open("/").unwrap();
    // Without close-on-exec, as a careless caller has it.
    let leaked: OwnedFd = nix::unistd::dup(&host).unwrap();
    let number = leaked.as_raw_fd();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sh", "-c", "exec ls /proc/self/fd"]);
        let text = runtime.run_bundle(&mut bundle).ok();
        // ls itself has its folder open.
        assert_eq!(text.split_whitespace().count(), 4, "{}: {text}", runtime.name);
        for cwd in 3..=number.max(20) {
            let mut bundle = Bundle::new(&["sh", "-c", "ls; ls ../../.."]);
            bundle.edit(|config| config["process"]["cwd"] = json!(format!("/proc/self/fd/{cwd}")));
            let outcome = runtime.run_bundle(&mut bundle);
            assert!(
                !outcome.stdout.contains("boot"),
                "{}: {cwd}: {}",
                runtime.name,
                outcome.stdout
            );
        }
    }
}

/// CVE-2025-31133: an image whose /dev/null is something else.
#[test]
fn a_false_dev_null_masks_nothing() {
    need_root!();
    let host = TempDir::new().unwrap();
    fs::write(host.path().join("secret"), "secret").unwrap();
    let mut bundle = Bundle::new(&["cat", "/proc/keys"]);
    symlink("/proc/self/mountinfo", bundle.rootfs().join("dev/null")).unwrap();
    bundle.edit(|config| {
        // No tmpfs on /dev: the image's own folder is used.
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    let text = Runtime::berth().run_bundle(&mut bundle).err();
    assert!(text.contains("/dev/null"), "{text}");
}

/// Nor is any other device taken on trust that the image has brought.
#[test]
fn a_device_that_is_there_must_be_the_one_that_was_asked_for() {
    need_root!();
    for name in ["zero", "tty", "random"] {
        let mut bundle = Bundle::new(&["cat", &format!("/dev/{name}")]);
        fs::write(bundle.rootfs().join("dev").join(name), "what the image wants").unwrap();
        bundle.edit(without_dev);
        let outcome = Runtime::berth().run_bundle(&mut bundle);
        assert_eq!(outcome.stdout, "", "{name}");
        let text = outcome.err();
        let wanted = format!("/dev/{name}: exists and is another kind of file or device");
        assert!(text.contains(&wanted), "{name}: {text}");
    }
}

/// The same where the host's folder is the container's /dev, in which nothing is made: masking finds the false one itself.
#[test]
fn a_false_dev_null_of_a_bound_folder_masks_nothing() {
    need_root!();
    let host = TempDir::new().unwrap();
    fs::write(host.path().join("null"), "not what it seems").unwrap();
    let mut bundle = Bundle::new(&["cat", "/proc/keys"]);
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        mounts.push(
            json!({"destination": "/dev", "type": "bind", "source": host.path(), "options": ["rbind"]}),
        );
        config["linux"]["maskedPaths"] = json!(["/proc/keys"]);
    });
    let text = Runtime::berth().run_bundle(&mut bundle).err();
    assert!(text.contains("/dev/null"), "{text}");
}

/// CVE-2024-21626: a folder of the host that the caller passes on, as the working directory. Of a process that joins a
/// container only the kernel's word on where that is tells it from a folder of the container's.
#[test]
fn a_working_directory_behind_a_preserved_descriptor_is_refused() {
    need_root!();
    let runtime = Runtime::berth();
    let host = TempDir::new().unwrap();
    fs::write(host.path().join("secret"), "secret").unwrap();
    let with_folder = |command: Command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 3<\"$0\"; exec \"$@\""]).arg(host.path());
        run(shell.arg(command.get_program()).args(command.get_args()))
    };
    let refused = |outcome: harness::Outcome, message: &str| {
        assert!(!outcome.stdout.contains("secret"), "{}", outcome.stdout);
        let text = outcome.err();
        assert!(text.contains(message), "{text}");
    };
    let mut bundle = Bundle::new(&["cat", "secret"]);
    bundle.edit(|config| config["process"]["cwd"] = json!("/proc/self/fd/3"));
    let container = runtime.container(&mut bundle);
    let outcome = with_folder(container.command("run", &["--preserve-fds", "1"]));
    refused(outcome, "/proc/self/fd/3");
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    symlink("/proc/self/fd/3", bundle.rootfs().join("way")).unwrap();
    let container = runtime.container(&mut bundle);
    container.start();
    for way in ["/proc/self/fd/3", "/proc/self/fd/3/..", "/way", "/proc/1/cwd/way"] {
        let options = [
            "exec",
            "--preserve-fds",
            "1",
            "--cwd",
            way,
            &container.id,
            "cat",
            "secret",
        ];
        refused(
            with_folder(runtime.command(&options)),
            "outside of container mount namespace root",
        );
    }
}

/// CVE-2025-52565: an image that brings its own pseudoterminals.
#[test]
fn a_false_ptmx_is_no_console() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["true"]);
    fs::create_dir_all(bundle.rootfs().join("dev/pts")).unwrap();
    fs::write(bundle.rootfs().join("dev/pts/ptmx"), "").unwrap();
    bundle.edit(|config| {
        config["process"]["terminal"] = json!(true);
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
    });
    let sockets = TempDir::new().unwrap();
    let path = sockets.path().join("console");
    let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let container = runtime.container(&mut bundle);
    let text = container
        .verb("create", &["--console-socket", path.to_str().unwrap()])
        .err();
    assert!(text.contains("/dev/pts/ptmx"), "{text}");
}

/// A container with a terminal that tells what it has of it; the terminal's output.
fn on_a_terminal(bundle: &mut Bundle) -> String {
    bundle.edit(|config| config["process"]["terminal"] = json!(true));
    let sockets = TempDir::new().unwrap();
    let path = sockets.path().join("console");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let runtime = Runtime::berth();
    let container = runtime.container(bundle);
    container
        .verb("create", &["--console-socket", path.to_str().unwrap()])
        .ok();
    let (stream, _) = listener.accept().unwrap();
    let (_, fd) = berth_sys::socket::receive_fd(stream.as_fd(), &mut [0; 64]).unwrap();
    let mut master = fs::File::from(fd.expect("the terminal's master"));
    container.verb("start", &[]).ok();
    let mut text = Vec::new();
    // The end of a terminal is an error, EIO.
    let _ = master.read_to_end(&mut text);
    String::from_utf8_lossy(&text).replace('\r', "")
}

/// CVE-2025-52565: the terminal's other end is what belongs to the multiplexer, not what the image has at its path.
#[test]
fn a_false_slave_is_no_console() {
    need_root!();
    let script = "stat -L -c '%F %t:%T' /proc/self/fd/0 /dev/console; cat /dev/pts/0";
    let mut bundle = Bundle::new(&["sh", "-c", script]);
    let pts = bundle.rootfs().join("dev/pts");
    fs::create_dir_all(&pts).unwrap();
    symlink("/real/ptmx", pts.join("ptmx")).unwrap();
    fs::write(pts.join("0"), "false\n").unwrap();
    bundle.edit(|config| {
        without_dev(config);
        let options = ["newinstance", "ptmxmode=0666", "mode=0620"];
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts
            .push(json!({"destination": "/real", "type": "devpts", "source": "devpts", "options": options}));
    });
    let device = "character special file 88:0\n";
    assert_eq!(on_a_terminal(&mut bundle), format!("{device}{device}false\n"));
}

/// CVE-2025-52565: a link in the place of /dev/console does not lead the terminal elsewhere.
#[test]
fn a_link_at_the_console_is_covered_not_followed() {
    need_root!();
    let mut bundle = Bundle::new(&["sh", "-c", "stat -L -c '%F' /dev/console; stat -c '%F' /victim"]);
    fs::write(bundle.rootfs().join("victim"), "untouched\n").unwrap();
    symlink("/victim", bundle.rootfs().join("dev/console")).unwrap();
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        let keeps = |mount: &Value| {
            let place = mount["destination"].as_str().unwrap();
            !place.starts_with("/dev") || place == "/dev/pts"
        };
        mounts.retain(keeps);
    });
    assert_eq!(
        on_a_terminal(&mut bundle),
        "character special file\nregular file\n"
    );
}

/// CVE-2019-19921, CVE-2019-16884: /proc or /sys led elsewhere by the image.
#[test]
fn proc_and_sys_must_be_ordinary_folders() {
    need_root!();
    for runtime in Runtime::all() {
        for name in ["proc", "sys"] {
            let mut bundle = Bundle::new(&["true"]);
            fs::remove_dir(bundle.rootfs().join(name)).unwrap();
            fs::create_dir(bundle.rootfs().join("evil")).unwrap();
            symlink("/evil", bundle.rootfs().join(name)).unwrap();
            let text = runtime.run_bundle(&mut bundle).err();
            assert!(
                text.contains("must be mounted on ordinary directory"),
                "{}: {text}",
                runtime.name
            );
        }
    }
}

/// CVE-2021-30465: a mount target that changes between its check and its use.
#[test]
fn exchanging_a_mount_target_never_leads_outside() {
    need_root!();
    let outside = TempDir::new().unwrap();
    let source = TempDir::new().unwrap();
    fs::write(source.path().join("marker"), "").unwrap();
    let runtime = Runtime::berth();
    // Each of the mounts in one container is a try.
    const EACH: usize = 100;
    const TRIES: usize = 10_000;
    let mut bundle = Bundle::new(&["grep", "-c", "made", "/proc/self/mountinfo"]);
    let work = bundle.rootfs().join("work");
    fs::create_dir(&work).unwrap();
    fs::create_dir(work.join("real")).unwrap();
    symlink(outside.path(), work.join("link")).unwrap();
    // Outside everything is ready to be mounted on: one wrong step is enough.
    for number in 0..EACH {
        fs::create_dir_all(outside.path().join(format!("made/{number}"))).unwrap();
    }
    bundle.edit(|config| {
        for number in 0..EACH {
            config["mounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"destination": format!("/work/real/made/{number}"),
                "type": "bind", "source": source.path(), "options": ["bind"]}));
        }
    });
    let stop = Arc::new(AtomicBool::new(false));
    let attacker = {
        let (stop, work) = (Arc::clone(&stop), work.clone());
        std::thread::spawn(move || {
            let mut tries = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // Swaps the two names in one step (renameat2(2), RENAME_EXCHANGE).
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                let cwd = nix::fcntl::AT_FDCWD;
                let _ = nix::fcntl::renameat2(cwd, &work.join("real"), cwd, &work.join("link"), flags);
                tries += 1;
            }
            tries
        })
    };
    let (mut mounted, mut runs) = (0, 0);
    while mounted < TRIES && runs < 10 * TRIES / EACH {
        // It may fail: a name that is gone is an error. It must not do anything outside.
        let outcome = runtime.run_bundle(&mut bundle);
        if outcome.status.success() {
            // A mount that went outside is not among those of the container.
            let inside = outcome.stdout.trim().parse::<usize>().unwrap();
            assert_eq!(inside, EACH, "after {mounted} mounts, some are elsewhere");
            mounted += inside;
        }
        runs += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let tries = attacker.join().unwrap();
    assert!(mounted >= TRIES, "only {mounted} mounts in {runs} containers");
    assert!(tries > 10_000, "only {tries} exchanges");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    assert_eq!(fs::read_dir(outside.path().join("made")).unwrap().count(), EACH);
    for number in 0..EACH {
        let place = outside.path().join(format!("made/{number}"));
        assert_eq!(fs::read_dir(place).unwrap().count(), 0);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(outside.path().to_str().unwrap()), "{mounts}");
}

/// A symbolic link to nowhere at a target's place is followed inside the root only.
#[test]
fn links_to_nowhere_are_made_inside() {
    need_root!();
    let name = crate::driver::unique();
    let mut bundle = Bundle::new(&["ls", "-d", &format!("/tmp/{name}/x")]);
    symlink(format!("../../../tmp/{name}"), bundle.rootfs().join("dangling")).unwrap();
    bundle.edit(|config| {
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/dangling/x",
            "type": "tmpfs", "source": "tmpfs"}));
    });
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    assert_eq!(text, format!("/tmp/{name}/x\n"));
    assert!(!std::path::Path::new("/tmp").join(name).exists());
}

/// Links in a circle are an error, not a loop.
#[test]
fn circular_links_are_refused() {
    need_root!();
    let mut bundle = Bundle::new(&["true"]);
    symlink("b", bundle.rootfs().join("a")).unwrap();
    symlink("a", bundle.rootfs().join("b")).unwrap();
    bundle.edit(|config| {
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/a/x",
            "type": "tmpfs", "source": "tmpfs"}));
    });
    let text = Runtime::berth().run_bundle(&mut bundle).err();
    assert!(text.contains("/a/x"), "{text}");
}

/// A pipe in place of /etc/passwd must not hold up the start.
#[test]
fn a_pipe_as_passwd_is_no_trap() {
    need_root!();
    let mut bundle = Bundle::new(&["sh", "-c", "echo $HOME"]);
    let passwd = bundle.rootfs().join("etc/passwd");
    fs::remove_file(&passwd).unwrap();
    nix::unistd::mkfifo(&passwd, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let runtime = Runtime::berth();
    let container = runtime.container(&mut bundle);
    let inner = container.command("run", &[]);
    let mut bounded = Command::new("timeout");
    bounded
        .args(["--signal=KILL", "60"])
        .arg(inner.get_program())
        .args(inner.get_args());
    assert_eq!(run(&mut bounded).ok(), "/\n");
}

/// Masked paths show nothing, read-only ones take nothing.
#[test]
fn masked_and_read_only_paths() {
    need_root!();
    for runtime in Runtime::all() {
        let script = "ls /masked; cat /file; touch /fixed/x; ls /fixed; touch /masked/y; cat /proc/keys";
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        for folder in ["masked", "fixed"] {
            fs::create_dir(bundle.rootfs().join(folder)).unwrap();
            fs::write(bundle.rootfs().join(folder).join("there"), "").unwrap();
        }
        fs::write(bundle.rootfs().join("file"), "secret").unwrap();
        bundle.edit(|config| {
            for path in ["/masked", "/file", "/not/there"] {
                config["linux"]["maskedPaths"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!(path));
            }
            for path in ["/fixed", "/not/there"] {
                config["linux"]["readonlyPaths"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!(path));
            }
        });
        let outcome = runtime.run_bundle(&mut bundle);
        assert_eq!(outcome.stdout, "there\n", "{}", runtime.name);
        assert_eq!(
            outcome.stderr.matches("Read-only file system").count(),
            2,
            "{}",
            outcome.stderr
        );
    }
}

/// CVE-2016-9962: a process of the same user, with the same capabilities, takes an init's descriptors.
#[test]
fn a_parked_inits_descriptors_are_out_of_reach() {
    need_root!();
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["true"]);
    let parked = runtime.container(&mut bundle);
    parked.create();
    let link = format!("/proc/{}/fd/0", parked.pid());
    // These are the container's capabilities: only the init's own protection is left.
    let same = "--bounding-set=-all,+audit_write,+kill,+net_bind_service";
    let read = |path: &str| run(std::process::Command::new("setpriv").args([same, "readlink", path]));
    assert_ne!(read(&link).code(), 0);
    assert_eq!(read("/proc/self/fd/0").code(), 0);
}
