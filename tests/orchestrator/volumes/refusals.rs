//! What claims and volumes cannot be, and what of them counts.

use super::{FOLDER, claim, class, volume};
use crate::bench::bench;
use serde_json::json;
use std::path::Path;

#[test]
fn what_is_refused_and_counted() {
    let bench = bench!();
    for (object, told) in [
        (
            claim("x", json!({"volumeMode": "Block"})),
            "raw block volumes are not served",
        ),
        (
            claim("x", json!({"accessModes": []})),
            "at least 1 access mode is required",
        ),
        (
            claim("x", json!({"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]})),
            "with other access modes",
        ),
        (
            claim("x", json!({"resources": {}})),
            "spec.resources.requests[storage]: Required value",
        ),
        (
            claim(
                "x",
                json!({"dataSource": {"kind": "VolumeSnapshot", "name": "s", "apiGroup": "snapshot.storage.k8s.io"}}),
            ),
            "snapshots and clones are not served",
        ),
        (
            volume(
                "x",
                Path::new("/x"),
                json!({"persistentVolumeReclaimPolicy": "Recycle"}),
            ),
            "use Retain or Delete",
        ),
        (
            volume("x", Path::new("/x/../y"), json!({})),
            "must not contain '..'",
        ),
        (
            volume("x", Path::new("/x"), json!({"nfs": {"server": "s", "path": "/"}})),
            "mount it on the host",
        ),
        (
            volume(
                "x",
                Path::new("/x"),
                json!({"hostPath": null, "local": {"path": "/x"}}),
            ),
            "Local volume requires node affinity",
        ),
        (class("x", "", "Immediate"), "provisioner: Required value"),
        (class("x", FOLDER, "Sometime"), "Unsupported value: \"Sometime\""),
    ] {
        let refused = bench.refused(&object);
        assert!(refused.contains(told), "{refused}");
    }
    let mut odd = class("x", FOLDER, "Immediate");
    odd["parameters"] = json!({"size": "1"});
    assert!(bench.refused(&odd).contains("has no parameters"));

    bench.world.apply(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"persistentvolumeclaims": "2", "requests.storage": "3Gi",
                          "standard.storageclass.storage.k8s.io/requests.storage": "3Gi"}},
    }));
    bench.world.apply(&json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "PersistentVolumeClaim", "min": {"storage": "1Mi"}, "max": {"storage": "2Gi"}}]},
    }));
    bench.claim("one", json!({}));
    bench.phase("pvc", "one", "Bound");
    let refused = bench.refused(&claim(
        "x",
        json!({"resources": {"requests": {"storage": "5Gi"}}}),
    ));
    assert!(
        refused.contains("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 5Gi"),
        "{refused}"
    );
    bench.claim("two", json!({"resources": {"requests": {"storage": "1536Mi"}}}));
    let refused = bench.refused(&claim("three", json!({})));
    assert!(
        refused.contains("exceeded quota: q") && refused.contains("requests.storage=2560Mi"),
        "{refused}"
    );
    let used = bench.until("quota", "q", "counted", |q| {
        q["status"]["used"]["persistentvolumeclaims"] == "2"
    });
    assert_eq!(used["status"]["used"]["requests.storage"], "2560Mi");

    // A folder grows by being told so, and never shrinks.
    let ask = |name: &str, size: &str| {
        let patch = format!(r#"{{"spec":{{"resources":{{"requests":{{"storage":"{size}"}}}}}}}}"#);
        bench
            .world
            .node
            .kubectl(&bench.kubectl, &["patch", "pvc", name, "-p", &patch])
    };
    ask("one", "1500Mi").ok();
    bench.until("pvc", "one", "larger", |c| {
        c["status"]["capacity"]["storage"] == "1500Mi"
    });
    bench.event("one", "VolumeResizeSuccessful");
    let told = ask("one", "2Gi").err();
    assert!(told.contains("exceeded quota"), "{told}");
    let told = ask("one", "1Gi").err();
    assert!(
        told.contains("field can not be less than status.capacity"),
        "{told}"
    );
    let dir = bench.world.node.path().join("disk");
    std::fs::create_dir(&dir).expect("make a folder");
    bench.kube(&["delete", "quota,limitrange", "--all"]);
    bench.world.apply(&volume("v", &dir, json!({})));
    bench.claim("hand", json!({"storageClassName": "hand"}));
    bench.phase("pvc", "hand", "Bound");
    let told = ask("hand", "2Gi").err();
    assert!(
        told.contains("only dynamically provisioned pvc can be resized"),
        "{told}"
    );
    let patch = r#"{"spec":{"accessModes":["ReadWriteMany"]}}"#;
    let told = bench
        .world
        .node
        .kubectl(&bench.kubectl, &["patch", "pvc", "one", "-p", patch])
        .err();
    assert!(
        told.contains("spec is immutable after creation except resources.requests"),
        "{told}"
    );
    let explained = bench.kube(&["explain", "pvc.spec.volumeMode"]);
    assert!(
        explained.contains("raw block volumes are not served"),
        "{explained}"
    );
    bench.clean();
}
