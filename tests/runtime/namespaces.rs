//! Namespaces: new, joined, shared with the host.

use std::fs;
use std::process::{Child, Command, Stdio};

use harness::{Bundle, need_root, run, wait_for};
use serde_json::{Value, json};

use crate::driver::{PATIENCE, Runtime};

fn own(kind: &str) -> String {
    fs::read_link(format!("/proc/self/ns/{kind}"))
        .unwrap()
        .display()
        .to_string()
}

const LINKS: &str = "cd /proc/self/ns; for n in *; do echo $n=$(readlink $n); done";

/// The namespaces that a container's process sees itself in.
fn seen(runtime: &Runtime, namespaces: Value) -> String {
    let mut bundle = Bundle::new(&["sh", "-c", LINKS]);
    bundle.edit(|config| config["linux"]["namespaces"] = namespaces);
    runtime.run_bundle(&mut bundle).ok()
}

/// A process that holds namespaces of its own until it is dropped.
struct Holder(Child);

impl Holder {
    fn new(options: &[&str]) -> Self {
        // What unshare(1) forked goes with it, and neither keeps the test's output open.
        let fate = options.contains(&"--fork").then_some("--kill-child");
        let child = Command::new("unshare")
            .args(options)
            .args(fate)
            .args(["sleep", "600"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let holder = Self(child);
        // unshare(1) has done its work when it became sleep, or made it.
        let pid = holder.0.id();
        wait_for("the namespaces to be made", PATIENCE, || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            if name == "sleep\n" || !children.is_empty() {
                Ok(())
            } else {
                Err(name)
            }
        });
        holder
    }

    fn path(&self, kind: &str) -> String {
        format!("/proc/{}/ns/{kind}", self.0.id())
    }

    fn link(&self, kind: &str) -> String {
        fs::read_link(self.path(kind)).unwrap().display().to_string()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn new_namespaces_are_new_and_others_are_the_hosts() {
    need_root!();
    for runtime in Runtime::all() {
        let all = ["pid", "network", "ipc", "uts", "mount", "cgroup"];
        let names = ["pid", "net", "ipc", "uts", "mnt", "cgroup"];
        let text = seen(&runtime, all.iter().map(|kind| json!({"type": kind})).collect());
        for name in names {
            assert!(
                !text.contains(&format!("\n{name}={}", own(name))),
                "{}: {name}: {text}",
                runtime.name
            );
        }
        assert!(text.contains(&format!("user={}", own("user"))), "{text}");
        let text = seen(&runtime, json!([{"type": "mount"}, {"type": "uts"}]));
        for name in ["net", "ipc", "pid"] {
            assert!(
                text.contains(&format!("{name}={}", own(name))),
                "{}: {name}: {text}",
                runtime.name
            );
        }
    }
}

#[test]
fn namespaces_are_joined_by_path() {
    need_root!();
    let holder = Holder::new(&["--net", "--ipc", "--uts"]);
    for runtime in Runtime::all() {
        let text = seen(
            &runtime,
            json!([{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": holder.path("net")},
                {"type": "ipc", "path": holder.path("ipc")}, {"type": "uts", "path": holder.path("uts")}]),
        );
        for name in ["net", "ipc", "uts"] {
            assert!(
                text.contains(&format!("{name}={}", holder.link(name))),
                "{}: {text}",
                runtime.name
            );
        }
    }
}

#[test]
fn a_pid_namespace_is_joined() {
    need_root!();
    let holder = Holder::new(&["--pid", "--fork"]);
    for runtime in Runtime::all() {
        let path = holder.path("pid_for_children");
        let text = seen(
            &runtime,
            json!([{"type": "pid", "path": path}, {"type": "mount"}, {"type": "uts"}]),
        );
        assert!(
            text.contains(&format!("pid={}", holder.link("pid_for_children"))),
            "{}: {text}",
            runtime.name
        );
    }
}

const MAPS: &str = "cat /proc/self/uid_map /proc/self/gid_map | tr -s ' '; id -u; echo x > /dev/null; stat -c %u /dev/pts /dev/mqueue /";

#[test]
fn a_user_namespace_has_its_maps_and_root() {
    need_root!();
    let mut bundle = Bundle::new(&["sh", "-c", MAPS]);
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = json!([
            {"containerID": 0, "hostID": 100_000, "size": 1000}, {"containerID": 1000, "hostID": 300_000, "size": 1}
        ]);
        config["linux"]["gidMappings"] = json!([{"containerID": 0, "hostID": 200_000, "size": 1000}]);
    });
    std::os::unix::fs::chown(bundle.rootfs(), Some(100_000), Some(200_000)).unwrap();
    std::os::unix::fs::chown(bundle.path(), Some(100_000), None).unwrap();
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    assert_eq!(
        text,
        " 0 100000 1000\n 1000 300000 1\n 0 200000 1000\n0\n0\n0\n0\n"
    );
}

#[test]
fn bind_sources_out_of_the_mapped_users_reach_are_mounted() {
    need_root!();
    let secret = tempfile::TempDir::new().unwrap();
    fs::create_dir(secret.path().join("sub")).unwrap();
    fs::write(secret.path().join("sub/file"), "text").unwrap();
    let mut bundle = Bundle::new(&["cat", "/m/file"]);
    bundle.edit(|config| {
        config["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
        config["linux"]["gidMappings"] = config["linux"]["uidMappings"].clone();
        config["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({"destination": "/m", "type": "bind",
            "source": secret.path().join("sub"), "options": ["bind"]}));
    });
    fs::create_dir(bundle.rootfs().join("m")).unwrap();
    // The bundle and the source are in folders of mode 0700.
    assert_eq!(Runtime::berth().run_bundle(&mut bundle).ok(), "text");
}

#[test]
fn a_user_namespace_is_joined_with_a_network_it_owns() {
    need_root!();
    let holder = Holder::new(&["--user", "--map-root-user", "--net"]);
    let runtime = Runtime::berth();
    let mut bundle = Bundle::new(&["sh", "-c", LINKS]);
    std::os::unix::fs::chown(bundle.path(), Some(0), None).unwrap();
    bundle.edit(|config| {
        config["linux"]["namespaces"] = json!([{"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"},
            {"type": "network", "path": holder.path("net")}, {"type": "user", "path": holder.path("user")}]);
        // This user namespace maps one id: there is no group 5 for terminals.
        config["mounts"][2]["options"]
            .as_array_mut()
            .unwrap()
            .retain(|option| option != "gid=5");
    });
    let text = runtime.run_bundle(&mut bundle).ok();
    for name in ["net", "user"] {
        assert!(text.contains(&format!("{name}={}", holder.link(name))), "{text}");
    }
}

#[test]
fn time_namespaces_have_their_offsets() {
    need_root!();
    let uptime = || -> f64 {
        let text = fs::read_to_string("/proc/uptime").unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    for user in [false, true] {
        let mut bundle = Bundle::new(&["cat", "/proc/uptime"]);
        bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "time"}));
            if user {
                namespaces.push(json!({"type": "user"}));
                config["linux"]["uidMappings"] = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
                config["linux"]["gidMappings"] = config["linux"]["uidMappings"].clone();
            }
            config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000, "nanosecs": 500}});
        });
        let before = uptime();
        let text = Runtime::berth().run_bundle(&mut bundle).ok();
        let inside: f64 = text.split(' ').next().unwrap().parse().unwrap();
        assert!(
            inside >= before + 1_000_000.0 && inside <= uptime() + 1_000_001.0,
            "{text}"
        );
    }
}

#[test]
fn the_loopback_of_a_new_network_is_up() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["cat", "/sys/class/net/lo/flags"]);
        assert_eq!(runtime.run_bundle(&mut bundle).ok(), "0x9\n", "{}", runtime.name);
    }
}

/// The same command line, run by another program.
fn through(wrapper: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper[0]);
    wrapped
        .args(&wrapper[1..])
        .arg(command.get_program())
        .args(command.get_args());
    wrapped
}

#[test]
fn a_new_network_is_the_same_with_one_processor_and_with_more() {
    need_root!();
    let runtime = Runtime::berth();
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let mut seen = Vec::new();
    // With a second processor a helper makes it, beside the rest of the start.
    for processors in ["0", "0,1"] {
        let mut bundle = Bundle::new(&[
            "sh",
            "-c",
            "readlink /proc/self/ns/net; cat /sys/class/net/lo/flags; ls /sys/class/net/lo",
        ]);
        let container = runtime.container(&mut bundle);
        let text = run(&mut through(
            &["taskset", "-c", processors],
            &container.command("run", &[]),
        ))
        .ok();
        let (name, rest) = text.split_once('\n').unwrap();
        assert_ne!(name, own.to_string_lossy(), "{processors}");
        assert!(rest.starts_with("0x9\n"), "{processors}: {rest}");
        seen.push(rest.to_owned());
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn a_network_that_the_host_refuses_is_an_error_that_names_it() {
    need_root!();
    let runtime = Runtime::berth();
    for processors in ["0", "0,1"] {
        let mut bundle = Bundle::new(&["true"]);
        let container = runtime.container(&mut bundle);
        let script = "echo 0 > /proc/sys/user/max_net_namespaces && exec \"$@\"";
        let wrapper = [
            "taskset",
            "-c",
            processors,
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            script,
            "sh",
        ];
        let outcome = run(&mut through(&wrapper, &container.command("run", &[])));
        assert_ne!(outcome.code(), 0);
        assert!(
            outcome.stderr.contains("linux.namespaces") && outcome.stderr.contains("no space left on device"),
            "{processors}: {}",
            outcome.stderr
        );
        assert!(!runtime.root().join(&container.id).exists(), "nothing is left");
    }
}

#[test]
fn names_of_host_and_domain() {
    need_root!();
    let mut bundle = Bundle::new(&["cat", "/proc/sys/kernel/hostname", "/proc/sys/kernel/domainname"]);
    bundle.edit(|config| {
        config["hostname"] = json!("a-host");
        config["domainname"] = json!("a-domain");
    });
    assert_eq!(
        Runtime::berth().run_bundle(&mut bundle).ok(),
        "a-host\na-domain\n"
    );
}

#[test]
fn exec_is_in_the_containers_namespaces_and_cgroups() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["sleep", "600"]);
        bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "cgroup");
            namespaces.push(json!({"type": "cgroup"}));
        });
        let container = runtime.container(&mut bundle);
        container.start();
        let script = "cd /proc/self/ns; for n in *; do [ $(readlink $n) = $(readlink /proc/1/ns/$n) ] || echo $n; done; \
                      grep -v ':/$' /proc/self/cgroup";
        let outcome = container.exec(&["sh", "-c", script]);
        assert_eq!(outcome.stdout, "", "{}", runtime.name);
        container.kill("KILL").ok();
        container.wait("stopped");
    }
}

#[test]
fn without_a_mount_namespace_mounts_are_made_below_the_root() {
    need_root!();
    for runtime in Runtime::all() {
        // runc changes the propagation of the namespace that it is in, and leaves its mounts there.
        harness::isolate();
        let script = "readlink /proc/self/ns/mnt; cut -d' ' -f5 /proc/self/mountinfo | grep -v '^/$' | sort | tr '\\n' ' '; \
                      stat -c %t:%T /dev/null; touch /tmp/here && echo written";
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        bundle.edit(|config| {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|entry| entry["type"] != "mount" && entry["type"] != "cgroup");
            config["linux"]["maskedPaths"] = json!([]);
            config["linux"]["readonlyPaths"] = json!([]);
            config["mounts"].as_array_mut().unwrap().retain(|mount| {
                ["/proc", "/dev", "/dev/pts", "/sys"].contains(&mount["destination"].as_str().unwrap())
            });
            // It has no effect without one, as with runc.
            config["root"]["readonly"] = json!(true);
        });
        let own = fs::read_link("/proc/thread-self/ns/mnt").unwrap();
        let text = runtime.run_bundle(&mut bundle).ok();
        assert_eq!(
            text,
            format!("{}\n/dev /dev/pts /proc /sys 1:3\nwritten\n", own.display()),
            "{}",
            runtime.name
        );
        let left = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        let root = bundle.rootfs().display().to_string();
        if runtime.name == "berth" {
            assert!(!left.contains(&root), "nothing stays mounted: {left}");
            // Also when it never ran.
            bundle.edit(|config| config["process"]["args"] = json!(["/nosuch"]));
            runtime.run_bundle(&mut bundle).err();
            let left = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
            assert!(!left.contains(&root), "{left}");
        } else {
            for mount in ["dev/pts", "dev", "proc", "sys", "."] {
                harness::run(Command::new("umount").arg("-l").arg(bundle.rootfs().join(mount))).ok();
            }
        }
    }
}
