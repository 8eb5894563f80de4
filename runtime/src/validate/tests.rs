//! Each check with the configurations it is for. A case changes one field of the default configuration.

use serde_json::{Value, json};

use super::*;
use crate::host::tests::facts;
use crate::host::{Joined, JoinedNamespace, ResctrlFacts};
use crate::spec::default_document;

fn base() -> Value {
    serde_json::from_str(&default_document(true)).unwrap()
}

/// Puts `value` at a JSON pointer, making objects on the way. A null removes.
fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let mut at = document;
    for part in parent.split('/').skip(1) {
        at = match part.parse::<usize>() {
            Ok(index) => &mut at[index],
            Err(_) => &mut at[part],
        };
    }
    match (value, key.parse::<usize>()) {
        (Value::Null, Err(_)) => drop(at.as_object_mut().unwrap().remove(key)),
        (value, Ok(index)) => at[index] = value,
        (value, Err(_)) => at[key] = value,
    }
}

fn check(changes: &[(&str, Value)], host: &HostFacts) -> Result<(), Invalid> {
    let mut document = base();
    for (pointer, value) in changes {
        set(&mut document, pointer, value.clone());
    }
    let spec: Spec = berth_spec::read(document.to_string().as_bytes()).unwrap().value;
    validate(&spec, host)
}

#[track_caller]
fn refused(changes: &[(&str, Value)], field: &str, problem: &str) {
    refused_on(&facts(), changes, field, problem);
}

#[track_caller]
fn refused_on(host: &HostFacts, changes: &[(&str, Value)], field: &str, problem: &str) {
    let error = check(changes, host).expect_err("must be refused");
    assert_eq!(error.field, field, "{error}");
    assert!(error.problem.contains(problem), "{error}");
}

#[track_caller]
fn accepted(changes: &[(&str, Value)]) {
    check(changes, &facts()).unwrap();
}

fn namespaces(kinds: &[&str]) -> Value {
    kinds.iter().map(|kind| json!({"type": kind})).collect()
}

const ALL: [&str; 6] = ["pid", "network", "ipc", "uts", "mount", "cgroup"];

#[test]
fn the_default_configuration_is_valid() {
    accepted(&[]);
}

#[test]
fn document() {
    refused(&[("/ociVersion", json!("2.0.0"))], "ociVersion", "not supported");
    refused(&[("/ociVersion", json!("1.0"))], "ociVersion", "not a version");
    accepted(&[("/ociVersion", json!("1.0.2-dev"))]);
    refused(
        &[("/annotations", json!({"": "x"}))],
        "annotations",
        "key is empty",
    );
}

#[test]
fn process_fields() {
    refused(&[("/process", Value::Null)], "process", "must not be empty");
    refused(
        &[("/process/args", json!([]))],
        "process.args",
        "args must not be empty",
    );
    refused(
        &[("/process/args", Value::Null)],
        "process.args",
        "args must not be empty",
    );
    refused(&[("/process/args", json!([""]))], "process.args[0]", "is empty");
    refused(
        &[("/process/args", json!(["a", "b\u{0}"]))],
        "process.args[1]",
        "null byte",
    );
    refused(&[("/process/cwd", json!(""))], "process.cwd", "must not be empty");
    refused(&[("/process/cwd", json!("home"))], "process.cwd", "absolute");
    refused(
        &[("/process/env", json!(["A=1", "B"]))],
        "process.env[1]",
        "missing '='",
    );
    refused(
        &[("/process/env", json!(["=1"]))],
        "process.env[0]",
        "name is empty",
    );
    refused(
        &[("/process/user/umask", json!(512))],
        "process.user.umask",
        "permission bits",
    );
    let size = json!({"height": 70000, "width": 80});
    refused(
        &[("/process/consoleSize", size)],
        "process.consoleSize.height",
        "too large",
    );
    refused(
        &[("/process/oomScoreAdj", json!(1001))],
        "process.oomScoreAdj",
        "out of range",
    );
    let twice =
        json!([{"type": "RLIMIT_CPU", "hard": 1, "soft": 1}, {"type": "RLIMIT_CPU", "hard": 2, "soft": 1}]);
    refused(
        &[("/process/rlimits", twice)],
        "process.rlimits[1].type",
        "RLIMIT_CPU is given twice",
    );
    let soft = json!([{"type": "RLIMIT_CPU", "hard": 1, "soft": 2}]);
    refused(
        &[("/process/rlimits", soft)],
        "process.rlimits[0].soft",
        "above the hard limit",
    );
    let set = json!({"effective": ["CAP_KILL"], "permitted": ["CAP_CHOWN"]});
    refused(
        &[("/process/capabilities", set)],
        "process.capabilities.effective",
        "CAP_KILL is not in",
    );
}

#[test]
fn scheduling_fields() {
    let scheduler = |value| [("/process/scheduler", value)];
    refused(
        &scheduler(json!({"policy": "SCHED_OTHER", "nice": 20})),
        "process.scheduler.nice",
        "-20 to 19",
    );
    refused(
        &scheduler(json!({"policy": "SCHED_FIFO"})),
        "process.scheduler.priority",
        "1 to 99",
    );
    refused(
        &scheduler(json!({"policy": "SCHED_BATCH", "priority": 1})),
        "process.scheduler.priority",
        "SCHED_FIFO",
    );
    refused(
        &scheduler(json!({"policy": "SCHED_RR", "priority": 1, "period": 5})),
        "process.scheduler.period",
        "DEADLINE",
    );
    refused(
        &scheduler(json!({"policy": "SCHED_DEADLINE", "runtime": 9, "deadline": 8})),
        "process.scheduler.runtime",
        "<=",
    );
    accepted(&scheduler(
        json!({"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000}),
    ));
    let io = json!({"class": "IOPRIO_CLASS_BE", "priority": 8});
    refused(
        &[("/process/ioPriority", io)],
        "process.ioPriority.priority",
        "0 (highest) to 7",
    );
    let policy = json!({"mode": "MPOL_BIND"});
    refused(
        &[("/linux/memoryPolicy", policy)],
        "linux.memoryPolicy.nodes",
        "at least one node",
    );
    let policy = json!({"mode": "MPOL_LOCAL", "nodes": "0"});
    refused(
        &[("/linux/memoryPolicy", policy)],
        "linux.memoryPolicy.nodes",
        "takes no nodes",
    );
    let policy = json!({"mode": "MPOL_BIND", "nodes": "3-1"});
    refused(
        &[("/linux/memoryPolicy", policy)],
        "linux.memoryPolicy.nodes",
        "not a list",
    );
}

#[test]
fn namespace_fields() {
    let list = |kinds: &[&str]| [("/linux/namespaces", namespaces(kinds))];
    refused(
        &list(&["mount", "uts", "pid", "pid"]),
        "linux.namespaces[3].type",
        "duplicated ns \"pid\"",
    );
    let open = [
        ("/linux/namespaces", namespaces(&["uts", "pid"])),
        ("/linux/maskedPaths", json!([])),
        ("/linux/readonlyPaths", json!([])),
    ];
    accepted(&open);
    refused(&list(&["mount", "pid"]), "hostname", "private UTS namespace");
    let masked = [
        ("/linux/namespaces", namespaces(&["uts"])),
        ("/mounts", json!([])),
    ];
    refused(&masked, "linux.maskedPaths", "private MNT namespace");
    refused(&[("/hostname", json!("x".repeat(65)))], "hostname", "at most 64");
    let relative = json!({"type": "network", "path": "proc/1/ns/net"});
    refused(
        &[("/linux/namespaces/1", relative)],
        "linux.namespaces[1].path",
        "not absolute",
    );
    let without = HostFacts {
        namespaces: crate::host::Namespaces {
            user: true,
            cgroup: false,
            time: true,
        },
        ..facts()
    };
    refused_on(
        &without,
        &[],
        "linux.namespaces",
        "cgroup namespaces aren't enabled in the kernel",
    );
}

#[test]
fn namespaces_to_join_must_be_there() {
    let joined = |found| HostFacts {
        joined: vec![JoinedNamespace {
            kind: LinuxNamespaceType::Network,
            path: "/n".into(),
            found,
        }],
        ..facts()
    };
    let change = [("/linux/namespaces/1", json!({"type": "network", "path": "/n"}))];
    let missing = Joined::Missing {
        reason: "no such file or directory".into(),
    };
    refused_on(
        &joined(missing),
        &change,
        "linux.namespaces[1].path",
        "/n: no such file or directory",
    );
    refused_on(
        &joined(Joined::NotANamespace),
        &change,
        "linux.namespaces[1].path",
        "not a namespace",
    );
    check(&change, &joined(Joined::Foreign)).unwrap();
}

#[test]
fn user_namespaces_and_mappings() {
    let mut kinds = ALL.to_vec();
    kinds.push("user");
    let one = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    let with = |uids: &Value, gids: &Value| {
        vec![
            ("/linux/namespaces", namespaces(&kinds)),
            ("/linux/uidMappings", uids.clone()),
            ("/linux/gidMappings", gids.clone()),
        ]
    };
    accepted(&with(&one, &one));
    refused(
        &[("/linux/uidMappings", one.clone())],
        "linux.uidMappings",
        "user namespace isn't enabled",
    );
    refused(&with(&one, &json!([])), "linux.gidMappings", "mappings");
    let high = json!([{"containerID": 5, "hostID": 1, "size": 1}]);
    refused(
        &with(&high, &one),
        "linux.uidMappings",
        "container id 0 is not mapped",
    );
    let empty =
        json!([{"containerID": 0, "hostID": 1, "size": 1}, {"containerID": 9, "hostID": 9, "size": 0}]);
    refused(&with(&empty, &one), "linux.uidMappings[1].size", "is 0");
    let overlap =
        json!([{"containerID": 0, "hostID": 1, "size": 10}, {"containerID": 9, "hostID": 99, "size": 1}]);
    refused(
        &with(&one, &overlap),
        "linux.gidMappings[1].containerID",
        "overlaps entry 0",
    );
    let host =
        json!([{"containerID": 0, "hostID": 1, "size": 10}, {"containerID": 10, "hostID": 5, "size": 1}]);
    refused(
        &with(&host, &one),
        "linux.uidMappings[1].hostID",
        "overlaps entry 0",
    );
    let beyond = json!([{"containerID": 0, "hostID": u32::MAX, "size": 2}]);
    refused(
        &with(&beyond, &one),
        "linux.uidMappings[0].hostID",
        "range of ids",
    );
    let mut user = with(&one, &one);
    user.push(("/process/user/uid", json!(1000)));
    refused(&user, "process.user.uid", "1000 is not mapped");
    let mut groups = with(&one, &one);
    groups.push(("/process/user/additionalGids", json!([5, 1000])));
    refused(&groups, "process.user.additionalGids[1]", "1000 is not mapped");
    let unprivileged = HostFacts {
        euid: 1000,
        egid: 1000,
        ..facts()
    };
    refused_on(
        &unprivileged,
        &[],
        "linux.namespaces",
        "rootless container requires user namespaces",
    );
}

#[test]
fn time_fields() {
    let offsets = json!({"monotonic": {"secs": 5}});
    refused(
        &[("/linux/timeOffsets", offsets)],
        "linux.timeOffsets",
        "time namespace isn't enabled",
    );
    let kinds = ["pid", "network", "ipc", "uts", "mount", "time"];
    let with = |value| {
        vec![
            ("/linux/namespaces", namespaces(&kinds)),
            ("/linux/timeOffsets", value),
        ]
    };
    accepted(&with(json!({"boottime": {"secs": -5, "nanosecs": 1}})));
    refused(
        &with(json!({"realtime": {"secs": 5}})),
        "linux.timeOffsets.realtime",
        "unknown clock",
    );
    let long = json!({"boottime": {"nanosecs": 1_000_000_000}});
    refused(
        &with(long),
        "linux.timeOffsets.boottime.nanosecs",
        "a second or more",
    );
}

#[test]
fn path_fields() {
    refused(
        &[("/linux/maskedPaths", json!(["/a", "b"]))],
        "linux.maskedPaths[1]",
        "not an absolute path",
    );
    refused(
        &[("/linux/readonlyPaths", json!(["proc"]))],
        "linux.readonlyPaths[0]",
        "not an absolute path",
    );
    refused(
        &[("/linux/cgroupsPath", json!("/a/../b"))],
        "linux.cgroupsPath",
        "not allowed",
    );
    refused(
        &[("/linux/rootfsPropagation", json!("shard"))],
        "linux.rootfsPropagation",
        "use one of",
    );
}

#[test]
fn mount_fields() {
    let mount = |value| [("/mounts/3", value)];
    refused(
        &mount(json!({"destination": "", "type": "tmpfs"})),
        "mounts[3].destination",
        "is empty",
    );
    refused(
        &mount(json!({"destination": "/a", "options": ["bind"]})),
        "mounts[3].source",
        "bind mount needs one",
    );
    refused(
        &mount(json!({"destination": "/a", "source": "/s"})),
        "mounts[3].type",
        "required",
    );
    let data = json!({"destination": "/a", "source": "/s", "options": ["rbind", "size=1m"]});
    refused(
        &mount(data),
        "mounts[3].options[1]",
        "bind mounts cannot have any filesystem-specific options",
    );
    let typo = json!({"destination": "/a", "type": "tmpfs", "options": ["noexce"]});
    refused(
        &mount(typo),
        "mounts[3].options[0]",
        "\"noexce\": unknown mount option for tmpfs",
    );
    let copy = json!({"destination": "/a", "type": "proc", "options": ["tmpcopyup"]});
    refused(
        &mount(copy),
        "mounts[3].options",
        "tmpcopyup only works on a tmpfs",
    );
    let idmap = json!({"destination": "/a", "type": "tmpfs", "options": ["idmap"]});
    refused(
        &mount(idmap),
        "mounts[3].options",
        "only supported for bind-mounts",
    );
    let bare = json!({"destination": "/a", "source": "/s", "options": ["bind", "idmap"]});
    refused(&mount(bare), "mounts[3].options", "there is none");
    let half = json!({"destination": "/a", "source": "/s", "options": ["bind"],
        "uidMappings": [{"containerID": 0, "hostID": 0, "size": 1}]});
    refused(&mount(half), "mounts[3].gidMappings", "both uid and gid");
    accepted(&mount(
        json!({"destination": "/a", "type": "overlay", "options": ["lowerdir=/l", "index=off"]}),
    ));
    accepted(&mount(
        json!({"destination": "/a", "type": "none", "options": ["remount", "ro"]}),
    ));
}

#[test]
fn a_relative_destination_is_only_warned_about() {
    let mut document = base();
    set(
        &mut document,
        "/mounts/3",
        json!({"destination": "a", "type": "tmpfs"}),
    );
    let spec: Spec = berth_spec::read(document.to_string().as_bytes()).unwrap().value;
    validate(&spec, &facts()).unwrap();
    assert!(warnings(&spec)[0].starts_with("mounts[3].destination: a: relative"));
}

#[test]
fn device_fields() {
    let device = |value| [("/linux/devices", json!([value]))];
    let null = json!({"path": "/dev/x", "type": "c", "major": 1, "minor": 3});
    accepted(&device(null));
    refused(
        &device(json!({"path": "x", "type": "c", "major": 1, "minor": 3})),
        "linux.devices[0].path",
        "absolute",
    );
    refused(
        &device(json!({"path": "/x", "type": "a", "major": 1, "minor": 3})),
        "linux.devices[0].type",
        "use c, b, u or p",
    );
    refused(
        &device(json!({"path": "/x", "type": "b", "major": -1, "minor": 3})),
        "linux.devices[0].major",
        "out of range",
    );
    let rule = |value| {
        [(
            "/linux/resources/devices",
            json!([{"allow": false, "access": "rwm"}, value]),
        )]
    };
    refused(
        &rule(json!({"allow": true})),
        "linux.resources.devices[1].access",
        "cannot be empty",
    );
    refused(
        &rule(json!({"allow": true, "access": "rx"})),
        "linux.resources.devices[1].access",
        "unknown access 'x'",
    );
    refused(
        &rule(json!({"allow": true, "access": "r", "type": "p"})),
        "linux.resources.devices[1].type",
        "use a, b or c",
    );
    refused(
        &rule(json!({"allow": true, "access": "r", "minor": -2})),
        "linux.resources.devices[1].minor",
        "out of range",
    );
    accepted(&rule(
        json!({"allow": true, "access": "r", "type": "c", "major": 10, "minor": -1}),
    ));
}

#[test]
fn network_device_fields() {
    let devices = |value| ("/linux/netDevices", value);
    let kinds = ["pid", "ipc", "uts", "mount", "cgroup"];
    refused(
        &[
            devices(json!({"eth0": {}})),
            ("/linux/namespaces", namespaces(&kinds)),
        ],
        "linux.netDevices",
        "NET namespace",
    );
    refused(
        &[devices(json!({"a/b": {}}))],
        "linux.netDevices.a/b",
        "invalid network device name",
    );
    refused(
        &[devices(json!({"a": {"name": "b c"}}))],
        "linux.netDevices.a.name",
        "invalid network device name",
    );
    let error = check(
        &[devices(json!({"a": {"name": "x"}, "b": {"name": "x"}}))],
        &facts(),
    )
    .unwrap_err();
    assert!(error.problem.contains("two devices would be named"), "{error}");
}

#[test]
fn sysctls() {
    let sysctl = |key: &str| ("/linux/sysctl", json!({key: "1"}));
    accepted(&[sysctl("net.ipv4.ip_forward")]);
    accepted(&[sysctl("net/ipv4/conf/eth0.100/rp_filter")]);
    accepted(&[sysctl("kernel.domainname")]);
    accepted(&[sysctl("fs.mqueue.msg_max")]);
    refused(
        &[sysctl("kernel.hostname")],
        "linux.sysctl[\"kernel.hostname\"]",
        "conflicts with the OCI \"hostname\"",
    );
    refused(
        &[sysctl("vm.swappiness")],
        "linux.sysctl[\"vm.swappiness\"]",
        "not in a separate kernel namespace",
    );
    refused(
        &[sysctl("user.max_user_namespaces")],
        "linux.sysctl[\"user.max_user_namespaces\"]",
        "without a user namespace",
    );
    let no_network = ["pid", "ipc", "uts", "mount"];
    refused(
        &[
            sysctl("net.core.somaxconn"),
            ("/linux/namespaces", namespaces(&no_network)),
        ],
        "linux.sysctl[\"net.core.somaxconn\"]",
        "host network namespace",
    );
    let own = HostFacts {
        joined: vec![JoinedNamespace {
            kind: LinuxNamespaceType::Network,
            path: "/n".into(),
            found: Joined::Own,
        }],
        ..facts()
    };
    let joined = [
        sysctl("net.core.somaxconn"),
        ("/linux/namespaces/1", json!({"type": "network", "path": "/n"})),
    ];
    refused_on(
        &own,
        &joined,
        "linux.sysctl[\"net.core.somaxconn\"]",
        "host network namespace",
    );
    let no_ipc = ["pid", "network", "uts", "mount"];
    refused(
        &[sysctl("kernel.sem"), ("/linux/namespaces", namespaces(&no_ipc))],
        "linux.sysctl[\"kernel.sem\"]",
        "ipc namespace",
    );
}

#[test]
fn resource_fields() {
    let at = |name: &'static str, value| [(name, value)];
    let memory = |value| at("/linux/resources/memory", value);
    refused(
        &memory(json!({"limit": -2})),
        "linux.resources.memory.limit",
        "not a size",
    );
    refused(
        &memory(json!({"swap": 5})),
        "linux.resources.memory.swap",
        "without memory limit",
    );
    refused(
        &memory(json!({"limit": 10, "swap": 5})),
        "linux.resources.memory.swap",
        "should be >= memory limit",
    );
    refused(
        &memory(json!({"swappiness": 101})),
        "linux.resources.memory.swappiness",
        "0 to 100",
    );
    let cpu = |value| at("/linux/resources/cpu", value);
    refused(
        &cpu(json!({"period": 10})),
        "linux.resources.cpu.period",
        "1000 to 1000000",
    );
    refused(
        &cpu(json!({"quota": 10})),
        "linux.resources.cpu.quota",
        "at least 1000",
    );
    refused(
        &cpu(json!({"quota": 1000, "burst": 2000})),
        "linux.resources.cpu.burst",
        "above the quota",
    );
    refused(&cpu(json!({"idle": 2})), "linux.resources.cpu.idle", "use 0 or 1");
    refused(
        &cpu(json!({"cpus": "0-"})),
        "linux.resources.cpu.cpus",
        "not a list",
    );
    refused(
        &at("/linux/resources/blockIO", json!({"weight": 5})),
        "linux.resources.blockIO.weight",
        "10 to 1000",
    );
    let pages = json!([{"pageSize": "2M", "limit": 1}]);
    refused(
        &at("/linux/resources/hugepageLimits", pages),
        "linux.resources.hugepageLimits[0].pageSize",
        "2MB",
    );
    let unified = at("/linux/resources/unified", json!({"memory.high": "1"}));
    refused(
        &unified,
        "linux.resources.unified",
        "cannot use unified on cgroup v1",
    );
}

#[test]
fn seccomp_fields() {
    let seccomp = |value| [("/linux/seccomp", value)];
    let rule = |rule: Value| seccomp(json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}));
    refused(
        &seccomp(json!({"defaultAction": "SCMP_ACT_NOTIFY"})),
        "linux.seccomp.defaultAction",
        "default action",
    );
    let field = "linux.seccomp.syscalls[0]";
    refused(
        &rule(json!({"names": [], "action": "SCMP_ACT_LOG"})),
        &format!("{field}.names"),
        "without a name",
    );
    refused(
        &rule(json!({"names": ["read"], "action": "SCMP_ACT_LOG", "errnoRet": 1})),
        &format!("{field}.errnoRet"),
        "remove it",
    );
    refused(
        &rule(json!({"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000})),
        &format!("{field}.errnoRet"),
        "4095",
    );
    let arg = json!([{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]);
    refused(
        &rule(json!({"names": ["read"], "action": "SCMP_ACT_LOG", "args": arg})),
        &format!("{field}.args[0].index"),
        "0 to 5",
    );
    refused(
        &rule(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
        &format!("{field}.names"),
        "write syscall",
    );
    refused(
        &rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})),
        "linux.seccomp.listenerPath",
        "required",
    );
}

#[test]
fn labels_need_their_module() {
    let bare = HostFacts {
        apparmor: false,
        selinux: false,
        resctrl: None,
        ..facts()
    };
    refused_on(
        &bare,
        &[("/process/apparmorProfile", json!("x"))],
        "process.apparmorProfile",
        "apparmor is disabled",
    );
    refused_on(
        &bare,
        &[("/process/selinuxLabel", json!("x"))],
        "process.selinuxLabel",
        "selinux is disabled",
    );
    refused_on(
        &bare,
        &[("/linux/intelRdt", json!({"closID": "a"}))],
        "linux.intelRdt",
        "not enabled",
    );
    refused(
        &[("/linux/intelRdt", json!({"closID": "a/b"}))],
        "linux.intelRdt.closID",
        "plain name",
    );
    let bandwidth = |schema: &str| [("/linux/intelRdt", json!({"memBwSchema": schema}))];
    accepted(&bandwidth("MB:0=20"));
    refused(
        &bandwidth("L3:0=f"),
        "linux.intelRdt.memBwSchema",
        "must start with",
    );
    refused(
        &bandwidth("MB:0=20\nL3:0=f"),
        "linux.intelRdt.memBwSchema",
        "newlines",
    );
    refused(
        &[("/linux/intelRdt", json!({"schemata": ["L3:0=f\n"]}))],
        "linux.intelRdt.schemata",
        "newlines",
    );
    let poor = HostFacts {
        resctrl: facts().resctrl.map(|found| ResctrlFacts {
            cache: false,
            bandwidth: false,
            ..found
        }),
        ..facts()
    };
    refused_on(
        &poor,
        &bandwidth("MB:0=20"),
        "linux.intelRdt.memBwSchema",
        "MBA is not enabled",
    );
    refused_on(
        &poor,
        &[("/linux/intelRdt", json!({"l3CacheSchema": "L3:0=f"}))],
        "linux.intelRdt.l3CacheSchema",
        "CAT is not enabled",
    );
    check(&[("/process/apparmorProfile", json!(""))], &bare).unwrap();
}

#[test]
fn hook_fields() {
    let hook = |value| [("/hooks", json!({"poststop": [value]}))];
    accepted(&hook(json!({"path": "/bin/true", "timeout": 1, "env": ["A=1"]})));
    refused(
        &hook(json!({"path": "true"})),
        "hooks.poststop[0].path",
        "absolute",
    );
    refused(
        &hook(json!({"path": "/bin/true", "timeout": 0})),
        "hooks.poststop[0].timeout",
        "above 0",
    );
    refused(
        &hook(json!({"path": "/bin/true", "env": ["A"]})),
        "hooks.poststop[0].env[0]",
        "missing '='",
    );
}

#[test]
fn known_options_are_sorted_and_capabilities_are_complete() {
    assert!(KNOWN_MOUNT_OPTIONS.is_sorted());
    for name in capability_names() {
        berth_spec::Capability::from_name(&name).unwrap();
    }
}
