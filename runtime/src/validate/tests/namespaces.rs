//! Namespaces, id mappings, time offsets, and what needs one of them.

use berth_spec::LinuxNamespaceType;
use serde_json::{Value, json};

use super::{accepted, check, namespaces, refused, refused_on};
use crate::host::tests::facts;
use crate::host::{HostFacts, Joined, JoinedNamespace};

const ALL: [&str; 6] = ["pid", "network", "ipc", "uts", "mount", "cgroup"];

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
