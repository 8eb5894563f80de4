//! Paths, mounts and devices.

use berth_spec::Spec;
use serde_json::json;

use super::super::{validate, warnings};
use super::{accepted, base, refused, set};
use crate::host::tests::facts;

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
