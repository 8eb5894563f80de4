//! Every mount option that `features` names, by its effect.

use std::collections::BTreeSet;
use std::fs;

use harness::{Bundle, isolate, need_root, skip};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::driver::Runtime;

/// What a line of /proc/self/mountinfo says about a mount.
struct Seen {
    attributes: BTreeSet<String>,
    peers: String,
    filesystem: BTreeSet<String>,
}

fn seen(mountinfo: &str, point: &str) -> Seen {
    let found = mountinfo
        .lines()
        .rev()
        .find(|line| line.split(' ').nth(4) == Some(point));
    let found = found.unwrap_or_else(|| panic!("{point} in\n{mountinfo}"));
    let (first, last) = found.split_once(" - ").unwrap();
    let set = |list: &str| list.split(',').map(str::to_owned).collect();
    Seen {
        attributes: set(first.split(' ').nth(5).unwrap()),
        peers: first.split(' ').skip(6).collect::<Vec<_>>().join(" "),
        filesystem: set(last.rsplit(' ').next().unwrap()),
    }
}

/// An option, what it must be given after to show, and what the mount then has or, with `!`, has not.
const ATTRIBUTES: &[(&str, &str, &str)] = &[
    ("ro", "", "ro"),
    ("rw", "ro", "!ro"),
    ("nosuid", "", "nosuid"),
    ("suid", "nosuid", "!nosuid"),
    ("nodev", "", "nodev"),
    ("dev", "nodev", "!nodev"),
    ("noexec", "", "noexec"),
    ("exec", "noexec", "!noexec"),
    ("nodiratime", "", "nodiratime"),
    ("diratime", "nodiratime", "!nodiratime"),
    ("noatime", "", "noatime"),
    ("atime", "noatime", "!noatime"),
    ("relatime", "strictatime", "relatime"),
    ("norelatime", "", "relatime"),
    ("strictatime", "", "!relatime"),
    ("nostrictatime", "strictatime", "relatime"),
    ("nosymfollow", "", "nosymfollow"),
    ("symfollow", "nosymfollow", "!nosymfollow"),
];

/// The same of the file system.
const FILESYSTEM: &[(&str, &str, &str)] = &[
    ("sync", "", "sync"),
    ("async", "sync", "sync"),
    ("dirsync", "", "dirsync"),
    ("lazytime", "", "lazytime"),
    ("nolazytime", "lazytime", "!lazytime"),
];

const PROPAGATION: &[(&str, &str)] = &[
    ("shared", "shared:"),
    ("private", ""),
    ("slave", ""),
    ("unbindable", "unbindable"),
];

/// These are accepted and change nothing that can be seen: defaults, and what Linux no longer has.
const SILENT: &[&str] = &[
    "defaults",
    "remount",
    "silent",
    "loud",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
];

/// These have tests of their own in this directory: mounts.rs, and below.
const ELSEWHERE: &[&str] = &[
    "bind",
    "rbind",
    "idmap",
    "ridmap",
    "tmpcopyup",
    "src-nofollow",
    "dest-nofollow",
];

fn features() -> BTreeSet<String> {
    let text = Runtime::berth().call(&["features"]).ok();
    let features: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(features["mountOptions"].clone()).unwrap()
}

#[test]
fn each_option_has_a_row_here() {
    let mut known: BTreeSet<String> = BTreeSet::new();
    for (option, ..) in ATTRIBUTES {
        known.extend([(*option).to_owned(), format!("r{option}")]);
    }
    for (option, _) in PROPAGATION {
        known.extend([(*option).to_owned(), format!("r{option}")]);
    }
    known.extend(FILESYSTEM.iter().map(|(option, ..)| (*option).to_owned()));
    known.extend(SILENT.iter().chain(ELSEWHERE).map(|option| (*option).to_owned()));
    assert_eq!(features(), known);
}

fn options(first: &str, option: &str, more: &[&str]) -> Value {
    let all = more.iter().copied().chain([first, option]);
    all.filter(|word| !word.is_empty()).collect()
}

fn print_mounts(mounts: Vec<Value>) -> String {
    let mut bundle = Bundle::new(&["cat", "/proc/self/mountinfo"]);
    bundle.edit(|config| config["mounts"].as_array_mut().unwrap().extend(mounts));
    Runtime::berth().run_bundle(&mut bundle).ok()
}

#[track_caller]
fn check(set: &BTreeSet<String>, wanted: &str, option: &str) {
    match wanted.strip_prefix('!') {
        Some(absent) => assert!(!set.contains(absent), "{option}: {set:?}"),
        None => assert!(set.contains(wanted), "{option}: {set:?}"),
    }
}

#[test]
fn options_of_a_new_file_system() {
    need_root!();
    let tmpfs = |option: &str, first: &str| json!({"destination": format!("/o/{option}"), "type": "tmpfs", "source": "x", "options": options(first, option, &[])});
    let mut mounts: Vec<Value> = Vec::new();
    for (option, first, _) in ATTRIBUTES.iter().chain(FILESYSTEM) {
        mounts.push(tmpfs(option, first));
    }
    mounts.extend(PROPAGATION.iter().map(|(option, _)| tmpfs(option, "")));
    mounts.extend(SILENT.iter().map(|option| tmpfs(option, "")));
    let text = print_mounts(mounts);
    for (option, _, wanted) in ATTRIBUTES {
        check(&seen(&text, &format!("/o/{option}")).attributes, wanted, option);
    }
    for (option, _, wanted) in FILESYSTEM {
        let set = seen(&text, &format!("/o/{option}")).filesystem;
        if *option == "async" {
            // It is what there is without `sync`, and does not take that back.
            continue;
        }
        check(&set, wanted, option);
    }
    for (option, wanted) in PROPAGATION {
        let peers = seen(&text, &format!("/o/{option}")).peers;
        assert!(
            peers.contains(wanted) && wanted.is_empty() == peers.is_empty(),
            "{option}: {peers}"
        );
    }
    for option in SILENT {
        assert!(
            seen(&text, &format!("/o/{option}")).attributes.contains("rw"),
            "{option}"
        );
    }
}

/// A folder with a tmpfs on a folder in it, in a mount namespace of the test's own.
struct Tree {
    dir: TempDir,
}

impl Tree {
    fn new() -> Self {
        isolate();
        let dir = TempDir::new().unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        mount(
            Some("x"),
            &dir.path().join("below"),
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        fs::write(dir.path().join("top-file"), "").unwrap();
        fs::write(dir.path().join("below/file"), "").unwrap();
        Self { dir }
    }

    fn bind(&self, name: &str, kind: &str, first: &str, option: &str) -> Value {
        json!({"destination": format!("/o/{name}"), "type": "bind", "source": self.dir.path(),
            "options": options(first, option, &[kind])})
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = umount2(&self.dir.path().join("below"), MntFlags::MNT_DETACH);
    }
}

#[test]
fn options_of_a_bind_are_for_the_top_or_for_all() {
    need_root!();
    let tree = Tree::new();
    let mut mounts = Vec::new();
    for (option, first, _) in ATTRIBUTES {
        let first_of_all = if first.is_empty() {
            String::new()
        } else {
            format!("r{first}")
        };
        mounts.push(tree.bind(option, "rbind", first, option));
        mounts.push(tree.bind(
            &format!("r{option}"),
            "rbind",
            &first_of_all,
            &format!("r{option}"),
        ));
    }
    for (option, _) in PROPAGATION {
        mounts.push(tree.bind(option, "rbind", "", option));
        mounts.push(tree.bind(&format!("r{option}"), "rbind", "", &format!("r{option}")));
    }
    let text = print_mounts(mounts);
    let plain = seen(&text, "/o/private/below").attributes;
    for (option, _, wanted) in ATTRIBUTES {
        check(&seen(&text, &format!("/o/{option}")).attributes, wanted, option);
        assert_eq!(
            seen(&text, &format!("/o/{option}/below")).attributes,
            plain,
            "{option} is for the top mount alone"
        );
        for place in [format!("/o/r{option}"), format!("/o/r{option}/below")] {
            check(&seen(&text, &place).attributes, wanted, &place);
        }
    }
    for (option, wanted) in PROPAGATION {
        let peers = |place: String| seen(&text, &place).peers;
        let (top, top_all) = (peers(format!("/o/{option}")), peers(format!("/o/r{option}")));
        assert!(
            top.contains(wanted) && top_all.contains(wanted),
            "{option}: {top}, {top_all}"
        );
        let (below, below_all) = (
            peers(format!("/o/{option}/below")),
            peers(format!("/o/r{option}/below")),
        );
        assert!(below_all.contains(wanted), "r{option}: {below_all}");
        if !wanted.is_empty() {
            assert!(!below.contains(wanted), "{option}: {below}");
        }
    }
}

#[test]
fn an_id_mapping_is_for_the_top_or_for_all() {
    need_root!();
    let tree = Tree::new();
    let mapping = json!([{"containerID": 0, "hostID": 700, "size": 10}]);
    let mut mounts = Vec::new();
    for option in ["idmap", "ridmap"] {
        let mut one = tree.bind(option, "rbind", "", option);
        one["uidMappings"] = mapping.clone();
        one["gidMappings"] = mapping.clone();
        mounts.push(one);
    }
    let files = "/o/idmap/top-file /o/idmap/below/file /o/ridmap/top-file /o/ridmap/below/file";
    let mut bundle = Bundle::new(&["sh", "-c", &format!("stat -c %u:%g {files}")]);
    bundle.edit(|config| config["mounts"].as_array_mut().unwrap().extend(mounts));
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    assert_eq!(text, "700:700\n0:0\n700:700\n700:700\n");
}

#[test]
fn the_mapping_of_the_containers_user_namespace_is_the_default() {
    need_root!();
    let source = TempDir::new().unwrap();
    fs::write(source.path().join("file"), "").unwrap();
    fs::set_permissions(source.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut bundle = Bundle::new(&["sh", "-c", "stat -c %u:%g /plain/file /mapped/file"]);
    for name in ["plain", "mapped"] {
        fs::create_dir(bundle.rootfs().join(name)).unwrap();
    }
    bundle.edit(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(json!({"destination": "/plain", "type": "bind", "source": source.path(), "options": ["bind"]}));
        mounts.push(json!({"destination": "/mapped", "type": "bind", "source": source.path(), "options": ["bind", "idmap"]}));
    });
    let text = Runtime::berth().run_bundle(&mut bundle).ok();
    // Root of the host is nobody inside, and root by the mapping.
    assert_eq!(text, "65534:65534\n0:0\n");
}

#[test]
fn file_systems_of_the_specification() {
    need_root!();
    for runtime in Runtime::all() {
        let layers = TempDir::new().unwrap();
        for name in ["lower", "upper", "work"] {
            fs::create_dir(layers.path().join(name)).unwrap();
        }
        fs::write(layers.path().join("lower/file"), "from below\n").unwrap();
        let path = layers.path().display();
        let data = format!("lowerdir={path}/lower,upperdir={path}/upper,workdir={path}/work");
        let script = "cat /over/file; echo new > /over/file; \
            stat -f -c %T /dev/shm /dev/pts /dev/mqueue /sys /proc; stat -c %a /dev/shm; test -c /dev/pts/ptmx && echo ptmx";
        let mut bundle = Bundle::new(&["sh", "-c", script]);
        bundle.edit(|config| {
            config["mounts"].as_array_mut().unwrap().push(
                json!({"destination": "/over", "type": "overlay", "source": "overlay", "options": [data]}),
            );
        });
        let text = runtime.run_bundle(&mut bundle).ok();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "from below", "{}", runtime.name);
        assert_eq!(lines[lines.len() - 2..], ["1777", "ptmx"], "{text}");
        assert_eq!(
            fs::read_to_string(layers.path().join("lower/file")).unwrap(),
            "from below\n"
        );
        assert_eq!(
            fs::read_to_string(layers.path().join("upper/file")).unwrap(),
            "new\n"
        );
    }
}

#[test]
fn a_relative_source_is_of_the_bundle() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&["cat", "/m/file"]);
        fs::create_dir(bundle.path().join("data")).unwrap();
        fs::write(bundle.path().join("data/file"), "of the bundle\n").unwrap();
        bundle.edit(|config| {
            config["mounts"]
                .as_array_mut()
                .unwrap()
                .push(json!({"destination": "/m", "type": "bind", "source": "data", "options": ["bind"]}));
        });
        assert_eq!(
            runtime.run_bundle(&mut bundle).ok(),
            "of the bundle\n",
            "{}",
            runtime.name
        );
    }
}

#[test]
fn sysfs_in_a_user_namespace_with_the_hosts_network_is_bound() {
    need_root!();
    if !std::path::Path::new("/sys/class").exists() {
        skip!("no sysfs here");
    }
    let mut bundle = Bundle::new(&[
        "sh",
        "-c",
        "ls /sys/class > /dev/null && ! touch /sys/x 2>/dev/null && echo sysfs",
    ]);
    bundle.edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|entry| entry["type"] != "network");
        namespaces.push(json!({"type": "user"}));
        let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        config["linux"]["uidMappings"] = ids.clone();
        config["linux"]["gidMappings"] = ids;
    });
    assert_eq!(Runtime::berth().run_bundle(&mut bundle).ok(), "sysfs\n");
}

#[test]
fn the_cgroup_file_system_shows_the_containers_own() {
    need_root!();
    for runtime in Runtime::all() {
        let mut bundle = Bundle::new(&[
            "sh",
            "-c",
            "cat $(find /sys/fs/cgroup -name cgroup.procs | head -1); touch /sys/fs/cgroup/x",
        ]);
        let outcome = runtime.run_bundle(&mut bundle);
        // Read-only, and its first process is the container's.
        assert!(outcome.stdout.starts_with("1\n"), "{}: {outcome:?}", runtime.name);
        assert!(
            outcome.stderr.contains("Read-only") || outcome.stderr.contains("Permission"),
            "{outcome:?}"
        );
    }
}

/// What a bind of a mount with `first` has with `options`, in the order of mount(8)'s words; none where it is refused.
fn bound(first: MsFlags, options: &[&str], user: bool) -> Option<BTreeSet<String>> {
    let source = TempDir::new().unwrap();
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | first;
    let none = None::<&str>;
    mount(
        Some("x"),
        source.path(),
        Some("tmpfs"),
        MsFlags::MS_STRICTATIME,
        none,
    )
    .unwrap();
    mount(none, source.path(), none, flags, none).unwrap();
    let mut bundle = Bundle::new(&["cat", "/proc/self/mountinfo"]);
    fs::create_dir(bundle.rootfs().join("bound")).unwrap();
    bundle.edit(|config| {
        if user {
            let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.push(json!({"type": "user"}));
            let ids = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
            config["linux"]["uidMappings"] = ids.clone();
            config["linux"]["gidMappings"] = ids;
        }
        config["mounts"].as_array_mut().unwrap().push(
            json!({"destination": "/bound", "type": "bind", "source": source.path(), "options": options}),
        );
    });
    let outcome = Runtime::berth().run_bundle(&mut bundle);
    umount2(source.path(), MntFlags::MNT_DETACH).unwrap();
    if outcome.status.success() {
        return Some(seen(&outcome.stdout, "/bound").attributes);
    }
    assert!(
        outcome.stderr.contains("mounts[7]") && outcome.stderr.contains("operation not permitted"),
        "{outcome:?}"
    );
    None
}

#[test]
fn a_bind_with_options_keeps_access_times_and_what_a_user_namespace_may_not_take() {
    need_root!();
    isolate();
    let (ro, noexec, nosymfollow) = (
        MsFlags::MS_RDONLY,
        MsFlags::MS_NOEXEC,
        MsFlags::from_bits_retain(256),
    );
    let (noatime, nodiratime, strict) = (
        MsFlags::MS_NOATIME,
        MsFlags::MS_NODIRATIME,
        MsFlags::MS_STRICTATIME,
    );
    let all = ro | noexec | nosymfollow | nodiratime;
    // Of the source, options, what the bind has: without a user namespace, and with one (none: refused).
    let cases: &[(MsFlags, &[&str], &str, Option<&str>)] = &[
        (
            all,
            &["bind"],
            "ro,noexec,nosymfollow,nodiratime,relatime",
            Some("ro,noexec,nosymfollow,nodiratime,relatime"),
        ),
        (
            all,
            &["bind", "dev"],
            "rw,nodiratime,relatime",
            Some("ro,noexec,nodiratime,relatime"),
        ),
        (
            ro | noatime,
            &["bind", "nosuid"],
            "rw,nosuid,noatime",
            Some("ro,nosuid,noatime"),
        ),
        (ro | noatime, &["bind", "rw"], "rw,noatime", None),
        (noexec | noatime, &["bind", "exec"], "rw,noatime", None),
        (noatime, &["bind", "atime"], "rw,noatime", Some("rw,noatime")),
        (noatime, &["bind", "norelatime"], "rw,noatime", Some("rw,noatime")),
        (noatime, &["bind", "relatime"], "rw,relatime", None),
        (noatime, &["bind", "nodiratime"], "rw,nodiratime,relatime", None),
        (nodiratime, &["bind", "strictatime"], "rw", None),
        (
            nodiratime,
            &["bind", "diratime"],
            "rw,nodiratime,relatime",
            Some("rw,nodiratime,relatime"),
        ),
        (strict, &["bind", "relatime"], "rw,relatime", None),
        (strict, &["bind", "strictatime", "ro"], "ro", Some("ro")),
        (
            noatime | nodiratime,
            &["bind", "noatime", "nodiratime"],
            "rw,noatime,nodiratime",
            Some("rw,noatime,nodiratime"),
        ),
    ];
    let words = |list: &str| list.split(',').map(str::to_owned).collect::<BTreeSet<_>>();
    for (first, options, plain, user) in cases {
        assert_eq!(
            bound(*first, options, false),
            Some(words(plain)),
            "{first:?} {options:?}"
        );
        assert_eq!(
            bound(*first, options, true),
            user.map(words),
            "{first:?} {options:?}, user namespace"
        );
    }
}
