//! What is drawn for `process`.

use serde_json::{Value, json};

use super::generate::{Draw, Member};

pub fn user(draw: &mut Draw, member: &mut Member) {
    let (uid, gid) = *draw.one(&[
        (0, 0),
        (1000, 1000),
        (65534, 65534),
        (12345, 54321),
        (0, 7),
        (1000, 0),
    ]);
    let mut user = json!({"uid": uid, "gid": gid});
    if draw.chance(60) {
        user["additionalGids"] = draw
            .one(&[
                json!([]),
                json!([2000]),
                json!([0, 1, 2, 2, 2]),
                json!([65534, 100, 5]),
            ])
            .clone();
    }
    if draw.chance(50) {
        user["umask"] = json!(draw.one(&[0, 0o22, 0o77, 0o777, 0o2]));
    }
    member.config["process"]["user"] = user;
}

pub fn capabilities(draw: &mut Draw, member: &mut Member) {
    const NAMES: &[&str] = &[
        "CAP_CHOWN",
        "CAP_KILL",
        "CAP_NET_ADMIN",
        "CAP_SYS_ADMIN",
        "CAP_NET_RAW",
        "CAP_SYS_PTRACE",
        "CAP_MKNOD",
        "CAP_SYS_NICE",
        "CAP_AUDIT_WRITE",
        "CAP_CHECKPOINT_RESTORE",
        "CAP_DAC_OVERRIDE",
    ];
    if draw.chance(10) {
        member.drawn.push("no-capabilities");
        member.config["process"]
            .as_object_mut()
            .expect("an object")
            .remove("capabilities");
        return;
    }
    // Each set within the one that the kernel wants it in, or now and then not.
    let mut within: Vec<&str> = NAMES.to_vec();
    let mut sets = serde_json::Map::new();
    for set in ["bounding", "permitted", "effective", "inheritable", "ambient"] {
        if draw.chance(85) {
            let from: &[&str] = if draw.chance(93) { &within } else { NAMES };
            let chosen: Vec<&str> = draw.some(from, 65).into_iter().copied().collect();
            sets.insert(set.to_owned(), json!(chosen));
            if set != "effective" {
                within = chosen;
            }
        }
    }
    if draw.chance(8) {
        sets.insert("bounding".to_owned(), json!(["CAP_OF_TOMORROW", "CAP_KILL"]));
    }
    member.config["process"]["capabilities"] = Value::Object(sets);
}

pub fn rlimits(draw: &mut Draw, member: &mut Member) {
    const KINDS: &[&str] = &[
        "RLIMIT_NOFILE",
        "RLIMIT_CORE",
        "RLIMIT_NPROC",
        "RLIMIT_STACK",
        "RLIMIT_MEMLOCK",
        "RLIMIT_RTPRIO",
        "RLIMIT_NICE",
        "RLIMIT_SIGPENDING",
        "RLIMIT_MSGQUEUE",
        "RLIMIT_LOCKS",
        "RLIMIT_RTTIME",
    ];
    let mut limits: Vec<Value> = Vec::new();
    for kind in draw.some(KINDS, 35) {
        let hard = *draw.one(&[4096u64, 65536, 1 << 23, u64::MAX]);
        let soft = if draw.chance(92) { hard.min(4096) } else { hard };
        limits.push(json!({"type": kind, "hard": hard, "soft": soft}));
    }
    if draw.chance(8) {
        let extra = draw
            .one(&[
                json!({"type": "RLIMIT_NOFILE", "hard": 10, "soft": 20}),
                json!({"type": "RLIMIT_OF_TOMORROW", "hard": 10, "soft": 10}),
                json!({"hard": 10, "soft": 10}),
            ])
            .clone();
        limits.push(extra);
    }
    member.config["process"]["rlimits"] = json!(limits);
}

pub fn oom_score(draw: &mut Draw, member: &mut Member) {
    member.config["process"]["oomScoreAdj"] = json!(draw.one(&[-1000, -1, 0, 1, 500, 1000, 1001, -2000]));
}

pub fn environment(draw: &mut Draw, member: &mut Member) {
    const MORE: &[&str] = &[
        "EMPTY=",
        "TWICE=1",
        "TWICE=2",
        "HOME=",
        "HOME=/data",
        "SPACES=a b  c",
        "EQUALS=a=b=c",
        "lower=case",
        "UMLAUT=ä",
        "PATH=/bin",
        "TERM=",
        "QUOTES='\"",
    ];
    let mut env: Vec<&str> = vec!["PATH=/usr/local/bin:/bin"];
    env.extend(draw.some(MORE, 45));
    if draw.chance(6) {
        env.push(*draw.one(&["NOEQUALS", "=nameless", ""]));
    }
    if draw.chance(10) {
        env.remove(0);
    }
    member.config["process"]["env"] = json!(env);
}

pub fn working_directory(draw: &mut Draw, member: &mut Member) {
    let cwd = *draw.one(&[
        "/tmp",
        "/data/deep",
        "/made/by/runtime",
        "/inside",
        "/climbing",
        "/inside/deep",
        "/data/../tmp/.",
        "//tmp/",
        "/secret",
        "/data/file",
        "/dangling",
        "tmp",
        "",
        "/proc/self",
        "/mnt/there",
    ]);
    member.config["process"]["cwd"] = json!(cwd);
}

pub fn arguments(draw: &mut Draw, member: &mut Member) {
    let args = draw
        .one(&[
            json!(["/etc/script", "5"]),
            json!(["/etc/plain"]),
            json!(["/etc"]),
            json!(["nosuchprogram"]),
            json!(["/no/such/program"]),
            json!(["false"]),
            json!(["sh", "-c", "exit 255"]),
            json!(["sh", "-c", "echo out; echo err >&2; exit 3"]),
            json!(["sh", "-c", "sh -c 'kill -9 $$'; exit $?"]),
            json!(["./probe", "4"]),
            json!(["/bin/../probe", "6", ""]),
            json!([""]),
            json!([]),
            json!(["/probe", "256"]),
            json!(["/data/deep/../../probe", "7", "two words"]),
        ])
        .clone();
    member.config["process"]["args"] = args;
}

pub fn io_priority(draw: &mut Draw, member: &mut Member) {
    let class = *draw.one(&[
        "IOPRIO_CLASS_RT",
        "IOPRIO_CLASS_BE",
        "IOPRIO_CLASS_IDLE",
        "IOPRIO_CLASS_NONE",
    ]);
    let priority = *draw.one(&[0, 4, 7, 8]);
    member.config["process"]["ioPriority"] = json!({"class": class, "priority": priority});
}

pub fn scheduler(draw: &mut Draw, member: &mut Member) {
    member.config["process"]["scheduler"] = draw
        .one(&[
            json!({"policy": "SCHED_OTHER", "nice": 5}),
            json!({"policy": "SCHED_BATCH", "nice": 19}),
            json!({"policy": "SCHED_IDLE"}),
            json!({"policy": "SCHED_FIFO", "priority": 3}),
            json!({"policy": "SCHED_RR", "priority": 1, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}),
            json!({"policy": "SCHED_OTHER", "nice": 20}),
            json!({"policy": "SCHED_OF_TOMORROW"}),
        ])
        .clone();
}

pub fn personality(draw: &mut Draw, member: &mut Member) {
    let domain = *draw.one(&["LINUX", "LINUX32", "LINUX64"]);
    member.config["linux"]["personality"] = json!({"domain": domain});
}

pub fn labels(draw: &mut Draw, member: &mut Member) {
    match draw.below(3) {
        0 => member.config["process"]["apparmorProfile"] = json!("unconfined"),
        1 => member.config["process"]["selinuxLabel"] = json!("system_u:system_r:svirt_lxc_net_t:s0:c1,c2"),
        _ => member.config["linux"]["mountLabel"] = json!("system_u:object_r:svirt_sandbox_file_t:s0:c1,c2"),
    }
}
