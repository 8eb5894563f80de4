use serde_json::{Value, json};

use super::profiles::parse;
use super::*;

#[test]
fn bad_profiles_name_the_field() {
    let call = |extra: Value| {
        let mut call = json!({"names": ["mount"], "action": "SCMP_ACT_ERRNO"});
        call.as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]})
    };
    let allow = |extra: Value| {
        let mut profile = json!({"defaultAction": "SCMP_ACT_ALLOW"});
        profile
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        profile
    };
    let cases = [
        (
            json!({"defaultAction": "SCMP_ACT_NOTIFY"}),
            "linux.seccomp.defaultAction: SCMP_ACT_NOTIFY cannot be",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 5}),
            "linux.seccomp.defaultErrnoRet: only SCMP_ACT_ERRNO",
        ),
        (
            json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 70000}),
            "linux.seccomp.defaultErrnoRet: 70000 is not an errno",
        ),
        (
            call(json!({"action": "SCMP_ACT_KILL", "errnoRet": 2})),
            "linux.seccomp.syscalls[0].errnoRet: only",
        ),
        (
            call(json!({"names": []})),
            "linux.seccomp.syscalls[0].names: must have at least one",
        ),
        (
            call(json!({"names": ["read", ""]})),
            "linux.seccomp.syscalls[0].names[1]: is not the name",
        ),
        (
            call(json!({"args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]})),
            "linux.seccomp.syscalls[0].args[0].index: 6 is not within 0 to 5",
        ),
        (
            call(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.syscalls[0].names[0]: SCMP_ACT_NOTIFY cannot be used for write",
        ),
        (
            call(json!({"action": "SCMP_ACT_NOTIFY"})),
            "linux.seccomp.listenerPath: must be set",
        ),
        (
            allow(json!({"listenerMetadata": "x"})),
            "linux.seccomp.listenerMetadata: must not be set without",
        ),
        (
            allow(json!({"flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]})),
            "linux.seccomp.flags[0]: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs",
        ),
        (
            allow(json!({"architectures": ["SCMP_ARCH_S390X"]})),
            "linux.seccomp.architectures[0]: SCMP_ARCH_S390X is not",
        ),
        (
            allow(json!({"architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_M68K"]})),
            "linux.seccomp.architectures[1]: SCMP_ARCH_M68K is not",
        ),
    ];
    for (profile, want) in cases {
        let error = compile(&parse(&profile)).unwrap_err().to_string();
        assert!(error.starts_with(want), "{profile}: {error}");
    }
}

#[test]
fn flags_and_listener() {
    let of = |value: Value| compile(&parse(&value)).unwrap();
    assert_eq!(of(json!({"defaultAction": "SCMP_ACT_ALLOW"})).flags, 4);
    assert_eq!(
        of(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": []})).flags,
        0
    );
    let flags = ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG"];
    assert_eq!(
        of(json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags})).flags,
        2
    );
    let program = of(json!({
        "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "listenerPath": "/run/agent", "listenerMetadata": "pod",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]
    }));
    assert_eq!(program.flags, 8 | 32);
    let listener = program.listener.unwrap();
    assert_eq!(
        (listener.path.to_str(), listener.metadata.as_str()),
        (Some("/run/agent"), "pod")
    );
}
