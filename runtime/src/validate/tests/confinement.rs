//! Resources, filters and labels.

use serde_json::{Value, json};

use super::{accepted, check, refused, refused_on};
use crate::host::tests::facts;
use crate::host::{HostFacts, ResctrlFacts};

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
        &[("/linux/mountLabel", json!("x"))],
        "linux.mountLabel",
        "selinux is disabled",
    );
    check(&[("/linux/mountLabel", json!(""))], &bare).unwrap();
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
