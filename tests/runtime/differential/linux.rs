//! What is drawn for `linux`, `hooks`, and what surrounds the configuration.

use serde_json::{Value, json};

use super::generate::{Draw, Member};

fn namespaces(member: &mut Member) -> &mut Vec<Value> {
    member.config["linux"]["namespaces"]
        .as_array_mut()
        .expect("namespaces")
}

pub fn devices(draw: &mut Draw, member: &mut Member) {
    const DEVICES: &[(&str, &str, u32, u32)] = &[
        ("/dev/full2", "c", 1, 7),
        ("/dev/fuse", "c", 10, 229),
        ("/dev/net/tun", "c", 10, 200),
        ("/dev/loop9", "b", 7, 9),
        ("/dev/pipe", "p", 0, 0),
        ("/dev/null", "c", 1, 3),
        ("/data/null", "c", 1, 3),
        ("/dev/u", "u", 1, 5),
    ];
    let mut list = Vec::new();
    for (path, kind, major, minor) in draw.some(DEVICES, 35) {
        let mut device = json!({"path": path, "type": kind, "major": major, "minor": minor});
        if draw.chance(70) {
            device["fileMode"] = json!(draw.one(&[0o666, 0o600, 0o640, 0o755]));
        }
        if draw.chance(50) {
            device["uid"] = json!(draw.one(&[0, 1000]));
            device["gid"] = json!(draw.one(&[0, 5]));
        }
        list.push(device);
    }
    if draw.chance(8) {
        list.push(
            draw.one(&[
                json!({"path": "/dev/x", "type": "q", "major": 1, "minor": 3}),
                json!({"path": "relative", "type": "c", "major": 1, "minor": 3}),
                json!({"path": "/dev/x", "type": "a", "major": 1, "minor": 3}),
            ])
            .clone(),
        );
    }
    member.config["linux"]["devices"] = json!(list);
}

pub fn names(draw: &mut Draw, member: &mut Member) {
    if draw.chance(60) {
        member.config["hostname"] = json!(draw.one(&["", "probe", "a.b.c", "UPPER_case-9"]));
    }
    if draw.chance(40) {
        member.config["domainname"] = json!(draw.one(&["", "example.org"]));
    }
}

pub fn fewer_namespaces(draw: &mut Draw, member: &mut Member) {
    let gone: Vec<&str> = draw
        .some(&["pid", "network", "ipc", "uts", "mount", "cgroup"], 25)
        .into_iter()
        .copied()
        .collect();
    namespaces(member).retain(|entry| !gone.iter().any(|kind| entry["type"] == *kind));
    if draw.chance(8) {
        let extra = draw
            .one(&[
                json!({"type": "pid"}),
                json!({"type": "nosuch"}),
                json!({"type": "network", "path": "relative"}),
                json!({"type": "network", "path": "/no/such/namespace"}),
            ])
            .clone();
        namespaces(member).push(extra);
    }
}

pub fn joined_namespaces(draw: &mut Draw, member: &mut Member) {
    for entry in namespaces(member) {
        let name = match entry["type"].as_str() {
            Some("network") => "net",
            Some("ipc") => "ipc",
            Some("uts") => "uts",
            _ => continue,
        };
        if draw.chance(50) {
            entry["path"] = json!(format!("HOLDER/{name}"));
        }
    }
    member.joins = true;
}

pub fn user_namespace(draw: &mut Draw, member: &mut Member) {
    let maps = draw.one(&[
        json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]),
        json!([{"containerID": 0, "hostID": 0, "size": 1}, {"containerID": 1, "hostID": 100_000, "size": 65535}]),
        json!([{"containerID": 0, "hostID": 200_000, "size": 1000}, {"containerID": 1000, "hostID": 300_000, "size": 64536}]),
        json!([{"containerID": 0, "hostID": 0, "size": 4_294_967_295u32}]),
    ]).clone();
    member.config["linux"]["uidMappings"] = maps.clone();
    member.config["linux"]["gidMappings"] = maps;
    if draw.chance(95) {
        namespaces(member).push(json!({"type": "user"}));
    }
}

pub fn time_namespace(draw: &mut Draw, member: &mut Member) {
    namespaces(member).push(json!({"type": "time"}));
    if draw.chance(70) {
        member.config["linux"]["timeOffsets"] = draw
            .one(&[
                json!({"boottime": {"secs": 1000, "nanosecs": 5}, "monotonic": {"secs": 7}}),
                json!({"monotonic": {"secs": 100_000}}),
                json!({"realtime": {"secs": 1}}),
            ])
            .clone();
    }
}

fn resources(member: &mut Member) -> &mut Value {
    &mut member.config["linux"]["resources"]
}

pub fn memory(draw: &mut Draw, member: &mut Member) {
    const MIB: i64 = 1 << 20;
    resources(member)["memory"] = draw
        .one(&[
            json!({"limit": 64 * MIB}),
            json!({"limit": 64 * MIB, "swap": 128 * MIB}),
            json!({"limit": 64 * MIB, "swap": -1}),
            json!({"limit": -1}),
            json!({"limit": -1, "swap": -1}),
            json!({"reservation": 32 * MIB}),
            json!({"limit": 64 * MIB, "reservation": 32 * MIB, "swappiness": 0}),
            json!({"swappiness": 60}),
            json!({"disableOOMKiller": true}),
            json!({"limit": 64 * MIB, "swap": 32 * MIB}),
            json!({"limit": 0}),
            json!({"swap": 64 * MIB}),
            json!({"limit": 64 * MIB + 5, "kernel": 32 * MIB}),
            json!({"swappiness": 101}),
            json!({"useHierarchy": true, "limit": 128 * MIB}),
        ])
        .clone();
}

pub fn cpu(draw: &mut Draw, member: &mut Member) {
    resources(member)["cpu"] = draw
        .one(&[
            json!({"shares": 512}),
            json!({"shares": 2}),
            json!({"shares": 1}),
            json!({"shares": 0}),
            json!({"quota": 50_000, "period": 100_000}),
            json!({"quota": 5000}),
            json!({"period": 50_000}),
            json!({"quota": -1}),
            json!({"quota": 500}),
            json!({"cpus": "0"}),
            json!({"cpus": "0-1", "mems": "0"}),
            json!({"cpus": "0,1"}),
            json!({"cpus": "99"}),
            json!({"cpus": "x"}),
            json!({"mems": "5"}),
            json!({"shares": 1024, "quota": 20_000, "period": 20_000, "cpus": "1"}),
            json!({"idle": 1}),
            json!({"quota": 50_000, "period": 100_000, "burst": 10_000}),
        ])
        .clone();
}

pub fn other_limits(draw: &mut Draw, member: &mut Member) {
    let (field, value) = draw
        .one(&[
            ("pids", json!({"limit": 50})),
            ("pids", json!({"limit": -1})),
            ("pids", json!({"limit": 20})),
            ("blockIO", json!({"weight": 500})),
            ("blockIO", json!({"weight": 5})),
            (
                "blockIO",
                json!({"throttleReadBpsDevice": [{"major": 7, "minor": 0, "rate": 1_048_576}]}),
            ),
            (
                "blockIO",
                json!({"throttleWriteIOPSDevice": [{"major": 7, "minor": 1, "rate": 100}]}),
            ),
            ("hugepageLimits", json!([{"pageSize": "2MB", "limit": 4_194_304}])),
            ("hugepageLimits", json!([{"pageSize": "3MB", "limit": 4_194_304}])),
            ("network", json!({"classID": 1_048_577})),
            ("network", json!({"priorities": [{"name": "lo", "priority": 5}]})),
            ("rdma", json!({"mlx5_1": {"hcaHandles": 3}})),
            ("unified", json!({"memory.max": "1000000"})),
        ])
        .clone();
    resources(member)[field] = value;
}

pub fn device_rules(draw: &mut Draw, member: &mut Member) {
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    let all = [
        json!({"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}),
        json!({"allow": true, "type": "c", "major": 1, "access": "r"}),
        json!({"allow": true, "type": "b", "access": "m"}),
        json!({"allow": false, "type": "c", "major": 1, "minor": 8, "access": "r"}),
        json!({"allow": true, "type": "c", "major": 1, "minor": 11, "access": "rwm"}),
        json!({"allow": true, "type": "a", "access": "rwm"}),
        json!({"allow": false, "type": "c", "major": 1, "minor": 3, "access": "w"}),
    ];
    rules.extend(draw.some(&all, 30).into_iter().cloned());
    if draw.chance(15) {
        rules.remove(0);
    }
    if draw.chance(8) {
        rules.push(
            draw.one(&[
                json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "x"}),
                json!({"allow": true, "type": "q", "major": 1, "minor": 3, "access": "r"}),
                json!({"allow": true}),
            ])
            .clone(),
        );
    }
    resources(member)["devices"] = json!(rules);
}

pub fn cgroup_path(draw: &mut Draw, member: &mut Member) {
    let linux = member.config["linux"].as_object_mut().expect("linux");
    let path = *draw.one(&[
        "/ID/below",
        "ID/relative",
        "ID",
        "/ID//twice/./x",
        "/ID/../ID/up",
        "",
        "absent",
    ]);
    if path == "absent" {
        linux.remove("cgroupsPath");
    } else {
        linux.insert("cgroupsPath".to_owned(), json!(path));
    }
}

pub fn sysctl(draw: &mut Draw, member: &mut Member) {
    const SETTINGS: &[(&str, &str)] = &[
        ("kernel.msgmax", "65536"),
        ("kernel.shmmni", "2048"),
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("fs.mqueue.msg_max", "20"),
        ("net/ipv4/conf/lo/forwarding", "1"),
        ("kernel.domainname", "by.sysctl"),
    ];
    let mut settings = serde_json::Map::new();
    for (key, value) in draw.some(SETTINGS, 35) {
        settings.insert((*key).to_owned(), json!(value));
    }
    if draw.chance(15) {
        let (key, value) = *draw.one(&[
            ("kernel.hostname", "x"),
            ("vm.swappiness", "10"),
            ("net.no.such", "1"),
            ("kernel.msgmax", "text"),
            ("user.max_user_namespaces", "5"),
            ("", "1"),
        ]);
        settings.insert(key.to_owned(), json!(value));
    }
    member.config["linux"]["sysctl"] = Value::Object(settings);
}

pub fn seccomp(draw: &mut Draw, member: &mut Member) {
    let mut rules = Vec::new();
    for names in [
        &["mkdir"][..],
        &["chmod", "fchmodat"],
        &["chown", "lchown", "fchownat"],
        &["sethostname"],
        &["mknod"],
    ] {
        if draw.chance(50) {
            let mut rule = json!({"names": names, "action": draw.one(&["SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_ALLOW"])});
            if rule["action"] == "SCMP_ACT_ERRNO" && draw.chance(60) {
                rule["errnoRet"] = json!(draw.one(&[1, 2, 38, 13]));
            }
            rules.push(rule);
        }
    }
    if draw.chance(30) {
        let operation = *draw.one(&["SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ"]);
        rules.push(
            json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28,
            "args": [{"index": 1, "value": 0o777, "valueTwo": 0o777, "op": operation}]}),
        );
    }
    if draw.chance(10) {
        rules.push(json!({"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}));
    }
    let mut profile =
        json!({"defaultAction": draw.one(&["SCMP_ACT_ALLOW", "SCMP_ACT_LOG"]), "syscalls": rules});
    if draw.chance(60) {
        profile["architectures"] = json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]);
    }
    if draw.chance(6) {
        profile["defaultAction"] = json!("SCMP_ACT_OF_TOMORROW");
    }
    if draw.chance(10) {
        profile["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG"]);
    }
    member.config["linux"]["seccomp"] = profile;
}

pub fn annotations(draw: &mut Draw, member: &mut Member) {
    member.config["annotations"] = draw
        .one(&[
            json!({"one": "1", "org.example/two": "<&>"}),
            json!({}),
            json!({"empty": ""}),
            json!({"ä": "ö"}),
            json!({"number": 5}),
        ])
        .clone();
}

pub fn hooks(draw: &mut Draw, member: &mut Member) {
    const KINDS: &[&str] = &[
        "prestart",
        "createRuntime",
        "createContainer",
        "startContainer",
        "poststart",
        "poststop",
    ];
    let mut hooks = serde_json::Map::new();
    for kind in draw.some(KINDS, 35) {
        // The first two and the last two run outside of the root.
        let fails = draw.chance(12);
        let (path, name) = if fails {
            ("/bin/false", "false")
        } else {
            ("/bin/true", "true")
        };
        hooks.insert(
            (*kind).to_owned(),
            json!([{"path": path, "args": [name], "timeout": 30}]),
        );
    }
    if draw.chance(6) {
        hooks.insert("prestart".to_owned(), json!([{"path": "relative"}]));
    }
    member.config["hooks"] = Value::Object(hooks);
}

pub fn version(draw: &mut Draw, member: &mut Member) {
    member.config["ociVersion"] =
        json!(draw.one(&["1.0.0", "1.0.2-dev", "1.1.0", "1.3.0", "2.0.0", "x", ""]));
}

pub fn options(draw: &mut Draw, member: &mut Member) {
    if draw.chance(40) {
        member.options.push("--no-pivot".to_owned());
    }
    if draw.chance(40) {
        member.options.push("--no-new-keyring".to_owned());
    }
    if draw.chance(10) {
        member
            .options
            .extend(["--preserve-fds".to_owned(), "5".to_owned()]);
    }
}
