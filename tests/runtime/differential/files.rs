//! What is drawn for `root`, `mounts` and the paths that `linux` protects.

use serde_json::{Value, json};

use super::generate::{Draw, Member};

fn mounts(member: &mut Member) -> &mut Vec<Value> {
    member.config["mounts"].as_array_mut().expect("mounts")
}

fn mount(draw: &mut Draw, member: &mut Member, mount: Value) {
    let list = mounts(member);
    // Now and then before the others, which then cover or precede it.
    if draw.chance(10) {
        list.insert(0, mount);
    } else {
        list.push(mount);
    }
}

fn attributes(draw: &mut Draw, percent: usize) -> Vec<&'static str> {
    const WORDS: &[&[&str]] = &[
        &["ro", "rw"],
        &["nosuid", "suid"],
        &["nodev", "dev"],
        &["noexec", "exec"],
        &["noatime", "relatime", "strictatime", "atime", "norelatime"],
        &["nodiratime", "diratime"],
    ];
    let mut words = Vec::new();
    for choice in WORDS {
        if draw.chance(percent) {
            words.push(*draw.one(choice));
        }
    }
    words
}

pub fn root_propagation(draw: &mut Draw, member: &mut Member) {
    let word = *draw.one(&[
        "private",
        "rprivate",
        "slave",
        "rslave",
        "shared",
        "rshared",
        "unbindable",
        "none",
        "",
    ]);
    member.config["linux"]["rootfsPropagation"] = json!(word);
}

pub fn root_path(draw: &mut Draw, member: &mut Member) {
    let path = *draw.one(&[
        "./rootfs",
        "rootfs/",
        "BUNDLE/rootfs",
        "files/../rootfs",
        "nosuch",
        "config.json",
        "",
    ]);
    member.config["root"]["path"] = json!(path);
}

const TARGETS: &[&str] = &[
    "/mnt/there",
    "/mnt/there/",
    "/mnt/new",
    "/mnt/a/b/c",
    "/inside/deep",
    "/climbing/made",
    "/dangling",
    "/dangling/below",
    "/tmp",
    "/var/../mnt/there",
    "mnt/relative",
    "/data/deep",
    "/etc",
];

pub fn tmpfs(draw: &mut Draw, member: &mut Member) {
    let mut options = attributes(draw, 35);
    for (percent, words) in [
        (50, &["size=64k", "size=1m", "size=50%"][..]),
        (40, &["mode=700", "mode=1777", "mode=0755", "mode=0"]),
        (20, &["uid=1000", "gid=1000"]),
        (15, &["nr_inodes=100", "nr_blocks=16"]),
        (
            20,
            &[
                "private",
                "rprivate",
                "slave",
                "rslave",
                "shared",
                "rshared",
                "unbindable",
            ],
        ),
        (8, &["sync", "dirsync", "defaults", "silent", "lazytime"]),
        (5, &["nosuchoption", "size=x", "mode=9"]),
    ] {
        if draw.chance(percent) {
            options.push(*draw.one(words));
        }
    }
    let target = *draw.one(TARGETS);
    let mount_of = json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options});
    mount(draw, member, mount_of);
}

pub fn bind(draw: &mut Draw, member: &mut Member) {
    let (source, file) = *draw.one(&[
        ("BUNDLE/files/folder", false),
        ("BUNDLE/files/link", false),
        ("BUNDLE/files/folder/", false),
        ("files/folder", false),
        ("BUNDLE/files/file", true),
        ("BUNDLE/files/file", true),
        ("/proc/self/status", true),
        ("BUNDLE/files/nosuch", false),
        ("BUNDLE/rootfs/data", false),
    ]);
    let targets: &[&str] = if file {
        &[
            "/mnt/new-file",
            "/mnt/a/b/file",
            "/etc/plain",
            "/file-link",
            "/dangling",
            "/mnt/there",
            "/inside/made-file",
        ]
    } else {
        TARGETS
    };
    let mut options = vec![*draw.one(&["bind", "rbind"])];
    options.extend(attributes(draw, 25));
    if draw.chance(35) {
        let words = [
            "private",
            "rprivate",
            "slave",
            "rslave",
            "shared",
            "rshared",
            "unbindable",
            "runbindable",
        ];
        options.push(*draw.one(&words));
    }
    if draw.chance(4) {
        options.push("size=1m");
    }
    let mut entry = json!({"destination": draw.one(targets), "source": source, "options": options});
    if draw.chance(70) {
        entry["type"] = json!(draw.one(&["bind", "none", ""]));
    }
    mount(draw, member, entry);
}

pub fn recursive_attributes(draw: &mut Draw, member: &mut Member) {
    let mut options = vec!["rbind"];
    options.extend(draw.some(&["rro", "rnosuid", "rnodev", "rnoexec", "rnodiratime"], 30));
    if draw.chance(40) {
        options.push(*draw.one(&["rnoatime", "rstrictatime", "rrelatime"]));
    }
    let source = *draw.one(&["BUNDLE/files/folder", "/sys/fs/cgroup", "/dev/shm"]);
    let entry = json!({"destination": "/mnt/there", "type": "bind", "source": source, "options": options});
    mount(draw, member, entry);
}

pub fn overlay(draw: &mut Draw, member: &mut Member) {
    let options = draw
        .one(&[
            json!([
                "lowerdir=BUNDLE/lower",
                "upperdir=BUNDLE/upper",
                "workdir=BUNDLE/work"
            ]),
            json!(["lowerdir=BUNDLE/lower:BUNDLE/files"]),
            json!([
                "lowerdir=BUNDLE/lower,upperdir=BUNDLE/upper,workdir=BUNDLE/work",
                "noatime"
            ]),
            json!(["lowerdir=BUNDLE/nosuch:BUNDLE/lower"]),
        ])
        .clone();
    let entry =
        json!({"destination": "/mnt/there", "type": "overlay", "source": "overlay", "options": options});
    mount(draw, member, entry);
}

pub fn default_mounts(draw: &mut Draw, member: &mut Member) {
    let which = *draw.one(&[
        "/proc",
        "/dev",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/sys",
        "/sys/fs/cgroup",
    ]);
    let list = mounts(member);
    let index = list.iter().position(|mount| mount["destination"] == which);
    let Some(index) = index else { return };
    if draw.chance(40) {
        list.remove(index);
        return;
    }
    let options: &[&[&str]] = match which {
        "/proc" => &[
            &["ro"],
            &["nosuid", "noexec", "nodev"],
            &["hidepid=2"],
            &["subset=pid"],
            &["rw", "relatime"],
        ],
        "/dev" => &[
            &["ro", "mode=755"],
            &["nosuid"],
            &["mode=700", "size=1m"],
            &["noexec", "strictatime"],
        ],
        "/dev/pts" => &[
            &["newinstance", "ptmxmode=0600"],
            &["mode=0600", "gid=0"],
            &["nosuid"],
        ],
        "/dev/shm" => &[&["size=1m"], &["mode=1777", "ro"], &[]],
        "/dev/mqueue" => &[&["ro"], &[]],
        "/sys" => &[&["rw"], &["ro"], &["nosuid", "noexec", "nodev", "relatime"]],
        _ => &[&["rw", "nosuid"], &["ro"], &[]],
    };
    list[index]["options"] = json!(draw.one(options));
}

pub fn in_proc(draw: &mut Draw, member: &mut Member) {
    let target = *draw.one(&[
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/uptime",
        "/proc/sys/net",
        "/proc/version",
        "/proc/self/environ",
        "/proc",
        "/proc/nosuch",
        "/sys/nosuch",
        "/sys/kernel",
        "/dev/null",
        "/dev/new",
    ]);
    let folder = ["/proc/sys/net", "/proc", "/sys/kernel", "/sys/nosuch"].contains(&target);
    let source = if folder {
        "BUNDLE/files/folder"
    } else {
        "BUNDLE/files/file"
    };
    mounts(member)
        .push(json!({"destination": target, "type": "bind", "source": source, "options": ["bind", "ro"]}));
}

pub fn copy_up(draw: &mut Draw, member: &mut Member) {
    let target = *draw.one(&["/data", "/etc", "/mnt/there", "/inside"]);
    let mut options = vec!["tmpcopyup"];
    options.extend(attributes(draw, 20));
    mounts(member)
        .push(json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options}));
}

pub fn odd_mount(draw: &mut Draw, member: &mut Member) {
    let entry = draw.one(&[
        json!({"destination": "", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/mnt/there", "source": "tmpfs"}),
        json!({"destination": "/mnt/there", "type": "nosuchfs", "source": "x"}),
        json!({"destination": "/mnt/there", "type": "bind", "options": ["bind"]}),
        json!({"destination": "/mnt/there", "type": "ramfs", "source": "ramfs", "options": ["nosuid"]}),
        json!({"destination": "/", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/mnt/there", "type": "tmpfs"}),
        json!({"destination": "/data/file", "type": "tmpfs", "source": "tmpfs"}),
        json!({"destination": "/mnt/there", "type": "proc", "source": "proc", "options": ["ro"]}),
        json!({"destination": "/mnt/there", "type": "sysfs", "source": "sysfs", "options": ["ro", "nosuid"]}),
        json!({"destination": "/mnt/there", "type": "tmpfs", "source": "tmpfs", "options": []}),
        json!({"destination": "/mnt/there", "type": "cgroup", "source": "cgroup", "options": ["ro"]}),
        json!({"destination": "/mnt/there", "type": "mqueue", "source": "mqueue", "options": ["nosuid"]}),
        json!({"destination": "/mnt/there", "type": "devpts", "source": "devpts", "options": ["newinstance"]}),
    ]).clone();
    mounts(member).push(entry);
}

const PATHS: &[&str] = &[
    "/masked",
    "/masked/inner",
    "/etc/plain",
    "/inside",
    "/data/deep",
    "/file-link",
    "/no/such/path",
    "/proc/kcore",
    "/proc/sys",
    "/sys/firmware",
    "/dev/null",
    "/tmp",
    "/proc/1/status",
    "/etc/plain/below",
    "/dangling",
];

pub fn masked(draw: &mut Draw, member: &mut Member) {
    let mut paths: Vec<&str> = draw.some(PATHS, 30).into_iter().copied().collect();
    if draw.chance(6) {
        paths.push("relative");
    }
    member.config["linux"]["maskedPaths"] = json!(paths);
}

pub fn read_only_paths(draw: &mut Draw, member: &mut Member) {
    let mut paths: Vec<&str> = draw.some(PATHS, 30).into_iter().copied().collect();
    if draw.chance(6) {
        paths.push("relative");
    }
    member.config["linux"]["readonlyPaths"] = json!(paths);
}
