//! Volumes that people make.

use super::{class, data, volume};
use crate::bench::bench;
use serde_json::{Value, json};

#[test]
fn volumes_made_by_hand() {
    let bench = bench!();
    let dir = bench.world.node.path().join("disks");
    for name in ["small", "large", "kept"] {
        std::fs::create_dir_all(dir.join(name)).expect("make a folder");
    }
    let make = |name: &str, spec: Value| bench.world.apply(&volume(name, &dir.join(name), spec));
    make("small", json!({}));
    make("large", json!({"capacity": {"storage": "9Gi"}}));
    bench.phase("pv", "small", "Available");
    bench.phase("pv", "large", "Available");
    bench.claim("fits", json!({"storageClassName": "hand"}));
    assert_eq!(bench.phase("pvc", "fits", "Bound")["spec"]["volumeName"], "small");
    assert_eq!(
        bench.look("pvc", "fits").unwrap()["status"]["capacity"]["storage"],
        "2Gi"
    );
    let choose = json!({"storageClassName": "hand", "selector": {"matchLabels": {"disk": "large"}}});
    bench.claim("chosen", choose);
    assert_eq!(
        bench.phase("pvc", "chosen", "Bound")["spec"]["volumeName"],
        "large"
    );
    bench.claim("third", json!({"storageClassName": "hand"}));
    bench.event("third", "ProvisioningFailed");
    bench.kube(&["delete", "pvc", "third"]);
    bench.claim("named", json!({"storageClassName": "hand", "volumeName": "kept", "resources": {"requests": {"storage": "3Gi"}}}));
    bench.event("named", "FailedBinding");
    make("kept", json!({"capacity": {"storage": "1Gi"}}));
    assert!(
        bench
            .event("named", "VolumeMismatch")
            .contains("requested PV is too small")
    );
    bench.phase("pv", "kept", "Available");
    // Both name each other: that is as good as a bond.
    let meant = r#"{"spec":{"claimRef":{"namespace":"default","name":"named"}}}"#;
    bench.kube(&["patch", "pv", "kept", "-p", meant]);
    bench.phase("pvc", "named", "Bound");
    bench.kube(&["delete", "pvc", "named"]);
    bench.phase("pv", "kept", "Released");
    let free = r#"{"spec":{"claimRef":null}}"#;
    bench.kube(&["patch", "pv", "kept", "--type=merge", "-p", free]);
    bench.phase("pv", "kept", "Available");

    // Retain: the volume waits for somebody to look at it.
    bench.pod("writer", "echo there >/data/x", &data("fits"), &json!({}));
    bench.world.phase("writer", "Succeeded");
    assert_eq!(
        std::fs::read_to_string(dir.join("small/x")).expect("the file"),
        "there\n"
    );
    bench.kube(&["delete", "pod", "writer"]);
    bench.kube(&["delete", "pvc", "fits"]);
    bench.phase("pv", "small", "Released");
    assert!(dir.join("small/x").exists());
    bench.claim(
        "again",
        json!({"storageClassName": "hand", "resources": {"requests": {"storage": "2Gi"}}}),
    );
    bench.event("again", "ProvisioningFailed");
    bench.kube(&[
        "patch",
        "pv",
        "small",
        "--type=merge",
        "-p",
        r#"{"spec":{"claimRef":null}}"#,
    ]);
    assert_eq!(
        bench.phase("pvc", "again", "Bound")["spec"]["volumeName"],
        "small"
    );
    // A volume in use stays, and a folder that berthd has not made is never removed.
    bench.kube(&["delete", "pv", "small", "--wait=false"]);
    assert!(bench.kube(&["get", "pv", "small"]).contains("Terminating"));
    bench.kube(&["delete", "pvc", "again"]);
    bench.gone("pv", "small");
    assert!(dir.join("small/x").exists());
    bench.kube(&[
        "patch",
        "pv",
        "large",
        "-p",
        r#"{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}"#,
    ]);
    bench.kube(&["delete", "pvc", "chosen"]);
    bench.phase("pv", "large", "Failed");
    assert!(
        bench
            .event("large", "VolumeFailedDelete")
            .contains("only folders that berthd has made")
    );
    assert!(dir.join("large").exists());
    // The volume of a claim that is lost with it.
    bench.claim("loses", json!({"storageClassName": "hand", "volumeName": "kept"}));
    bench.phase("pvc", "loses", "Bound");
    bench.kube(&["delete", "pv", "kept", "--wait=false"]);
    bench.kube(&[
        "patch",
        "pv",
        "kept",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    bench.phase("pvc", "loses", "Lost");
    assert!(
        bench
            .event("loses", "ClaimLost")
            .contains("Data on the volume is lost!")
    );

    // A local volume of another node is of no use here.
    let away = |node: &str, name: &str| {
        let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
        let mut object = volume(name, &dir, json!({}));
        object["spec"]["hostPath"] = Value::Null;
        object["spec"]["local"] = json!({"path": dir.join(name)});
        object["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [term]}});
        bench.world.apply(&object);
    };
    away("elsewhere", "far");
    bench.world.apply(&class(
        "hand",
        "kubernetes.io/no-provisioner",
        "WaitForFirstConsumer",
    ));
    bench.claim("near", json!({"storageClassName": "hand"}));
    bench.pod("reader", "ls /data", &data("near"), &json!({}));
    let told = bench.event("reader", "FailedScheduling");
    assert!(
        told.contains("didn't find available persistent volumes to bind"),
        "{told}"
    );
    let node = bench.kube(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"]);
    away(&node, "here");
    assert!(
        bench
            .event("reader", "FailedMount")
            .contains("does not exist: its data is gone")
    );
    std::fs::create_dir(dir.join("here")).expect("make the folder");
    std::fs::write(dir.join("here/file"), "").expect("write a file");
    bench.world.phase("reader", "Succeeded");
    bench.world.says(&["reader"], "file\n");
    bench.clean();
}
