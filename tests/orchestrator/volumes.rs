//! Claims, volumes and classes on the real node.

use crate::faults::pull_the_plug;
use crate::pods::{PATIENCE, WAIT, World, with};
use harness::{kubectl, kubectl_versions, need_root, repository_root, skip, wait_for};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A world and the newest kubectl.
struct Shelf {
    world: World,
    kubectl: PathBuf,
}

impl Shelf {
    #[track_caller]
    fn kube(&self, arguments: &[&str]) -> String {
        self.world.node.kubectl(&self.kubectl, arguments).ok()
    }

    #[track_caller]
    fn refused(&self, object: &Value) -> String {
        let file = self.world.node.path().join("refused.json");
        std::fs::write(&file, object.to_string()).expect("write the manifest");
        let told = self
            .world
            .node
            .kubectl(&self.kubectl, &["create", "-f", &file.to_string_lossy()]);
        assert!(!told.status.success(), "{object} was let in: {}", told.stdout);
        told.stderr
    }

    fn get(&self, kind: &str, name: &str) -> Result<Value, String> {
        let outcome = self
            .world
            .node
            .kubectl(&self.kubectl, &["get", kind, name, "-o", "json"]);
        if !outcome.status.success() {
            return Err(outcome.stderr);
        }
        serde_json::from_str(&outcome.stdout).map_err(|error| error.to_string())
    }

    /// Waits until an object satisfies the condition.
    #[track_caller]
    fn until(&self, kind: &str, name: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("{kind} {name}: {what}"), PATIENCE, || {
            let object = self.get(kind, name)?;
            if holds(&object) {
                Ok(object)
            } else {
                Err(object.to_string())
            }
        })
    }

    #[track_caller]
    fn phase(&self, kind: &str, name: &str, phase: &str) -> Value {
        self.until(kind, name, phase, |object| object["status"]["phase"] == phase)
    }

    #[track_caller]
    fn gone(&self, kind: &str, name: &str) {
        wait_for(&format!("{kind} {name} to be gone"), PATIENCE, || {
            match self.get(kind, name) {
                Err(told) if told.contains("NotFound") => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    }

    /// Waits for an event of this reason about an object, and gives its message.
    #[track_caller]
    fn event(&self, object: &str, reason: &str) -> String {
        let selector = format!("reason={reason},involvedObject.name={object}");
        wait_for(&format!("event {reason} of {object}"), PATIENCE, || {
            let text = self.kube(&["get", "events", "--field-selector", &selector, "-o", "json"]);
            let list: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
            let message = list["items"][0]["message"].as_str();
            message
                .map(str::to_owned)
                .ok_or_else(|| format!("no {reason} yet"))
        })
    }

    /// Makes a claim.
    #[track_caller]
    fn claim(&self, name: &str, spec: Value) {
        self.world.apply(&claim(name, spec));
    }

    /// Makes a pod with one program and these volumes, each mounted under its name.
    #[track_caller]
    fn pod(&self, name: &str, program: &str, volumes: &Value, more: &Value) {
        let mounts: Vec<Value> = volumes
            .as_array()
            .expect("a list")
            .iter()
            .map(|v| json!({"name": v["name"], "mountPath": format!("/{}", v["name"].as_str().unwrap())}))
            .collect();
        let mut spec = json!({
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "volumes": volumes,
            "containers": [with(program, json!({"volumeMounts": mounts}))],
        });
        for (field, value) in more.as_object().expect("an object") {
            spec[field] = value.clone();
        }
        self.world.pod(name, spec);
    }

    /// The folder of a claim's volume.
    fn folder(&self, claim: &str) -> PathBuf {
        let volume = self.get("pvc", claim).expect("the claim")["spec"]["volumeName"].clone();
        let volume = self
            .get("pv", volume.as_str().expect("a volume"))
            .expect("the volume");
        PathBuf::from(volume["spec"]["local"]["path"].as_str().expect("a path"))
    }

    /// Ends with nothing left, not even a claim.
    #[track_caller]
    fn clean(&self) {
        self.world.node.clear();
        self.kube(&["delete", "pvc", "--all", "--wait=false"]);
        wait_for("the claims to be gone", PATIENCE, || {
            let left = self.kube(&["get", "pvc", "-o", "name"]);
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
        self.world.clean();
    }
}

macro_rules! shelf {
    () => {{
        need_root!();
        match kubectl() {
            Some(kubectl) => Shelf {
                world: World::new(),
                kubectl,
            },
            None => skip!("needs a kubectl"),
        }
    }};
}

fn claim(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    for (field, value) in spec.as_object().expect("an object") {
        object["spec"][field] = value.clone();
    }
    object
}

fn volume(name: &str, path: &Path, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": {"disk": name}},
        "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "storageClassName": "hand",
                 "hostPath": {"path": path}},
    });
    for (field, value) in spec.as_object().expect("an object") {
        object["spec"][field] = value.clone();
    }
    object
}

fn class(name: &str, provisioner: &str, mode: &str) -> Value {
    json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": provisioner, "volumeBindingMode": mode,
    })
}

fn data(claim: &str) -> Value {
    json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}])
}

const FOLDER: &str = "node.berth.dev/folder";

#[test]
fn a_claim_gets_a_folder_that_outlives_its_pods() {
    let mut shelf = shelf!();
    shelf.claim("data", json!({}));
    let bound = shelf.phase("pvc", "data", "Bound");
    assert_eq!(bound["spec"]["storageClassName"], "standard");
    assert_eq!(
        bound["metadata"]["finalizers"],
        json!(["kubernetes.io/pvc-protection"])
    );
    assert_eq!(bound["status"]["capacity"]["storage"], "1Gi");
    let told = shelf.event("data", "ProvisioningSucceeded");
    let name = bound["spec"]["volumeName"].as_str().expect("a volume").to_owned();
    assert_eq!(told, format!("Successfully provisioned volume {name}"));
    assert_eq!(
        shelf.phase("pv", &name, "Bound")["spec"]["claimRef"]["name"],
        "data"
    );
    for kubectl in kubectl_versions() {
        let kube = |arguments: &[&str]| shelf.world.node.kubectl(&kubectl, arguments).ok();
        let row = kube(&["get", "pvc"]);
        assert!(
            row.starts_with("NAME ") && row.contains(" Bound ") && row.contains(" RWO "),
            "{row}"
        );
        let row = kube(&["get", "pv", "-o", "wide"]);
        assert!(
            row.contains("default/data") && row.contains(" Delete ") && row.contains("Filesystem"),
            "{row}"
        );
        let row = kube(&["get", "sc"]);
        assert!(
            row.contains("standard (default)") && row.contains(FOLDER),
            "{row}"
        );
        let text = kube(&["describe", "pvc", "data"]);
        assert!(
            text.contains("ProvisioningSucceeded") && text.contains("Used By:"),
            "{text}"
        );
        assert!(kube(&["describe", "pv", &name]).contains("LocalVolume"));
    }

    shelf.pod(
        "one",
        &format!("echo kept >/data/word; {WAIT}"),
        &data("data"),
        &json!({}),
    );
    shelf.world.ready("one");
    shelf.world.node.kill_daemon();
    shelf.world.node.spawn();
    shelf.world.ready("one");
    shelf.world.delete("one");
    shelf.gone("pod", "one");
    shelf.pod(
        "two",
        &format!("cat /data/word; {WAIT}"),
        &data("data"),
        &json!({}),
    );
    shelf.world.ready("two");
    assert_eq!(shelf.world.logs(&["two"]), "kept\n");
    pull_the_plug(&mut shelf.world);
    shelf.world.node.spawn();
    shelf.world.delete("two");
    shelf.gone("pod", "two");
    assert_eq!(
        shelf.phase("pvc", "data", "Bound")["spec"]["volumeName"],
        name.as_str()
    );
    shelf.pod(
        "three",
        &format!("cat /data/word; {WAIT}"),
        &data("data"),
        &json!({}),
    );
    shelf.world.ready("three");
    assert_eq!(shelf.world.logs(&["three"]), "kept\n");

    // A claim in use waits for its pods.
    let folder = shelf.folder("data");
    shelf.kube(&["delete", "pvc", "data", "--wait=false"]);
    let row = shelf.kube(&["get", "pvc", "data"]);
    assert!(row.contains("Terminating"), "{row}");
    shelf.pod("late", "true", &data("data"), &json!({}));
    let told = shelf.event("late", "FailedScheduling");
    assert_eq!(
        told,
        "0/1 nodes are available: persistentvolumeclaim \"data\" is being deleted."
    );
    assert!(folder.join("word").exists() && shelf.get("pvc", "data").is_ok());
    shelf.world.delete("three");
    shelf.gone("pvc", "data");
    shelf.gone("pv", &name);
    assert!(!folder.exists(), "the folder goes with the claim");
    shelf.clean();
}

#[test]
fn pods_wait_for_their_claims() {
    let shelf = shelf!();
    shelf.pod("waits", "cat /data/x || echo empty", &data("soon"), &json!({}));
    let told = shelf.event("waits", "FailedScheduling");
    assert_eq!(
        told,
        "0/1 nodes are available: persistentvolumeclaim \"soon\" not found."
    );
    let pod = shelf.phase("pod", "waits", "Pending");
    let condition = &pod["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("PodScheduled"), &json!("False"), &json!("Unschedulable"))
    );
    let row = shelf.kube(&["get", "pod", "waits"]);
    assert!(row.contains("Pending"), "{row}");
    shelf.claim("soon", json!({"storageClassName": "late"}));
    let told = shelf.event("soon", "ProvisioningFailed");
    assert_eq!(told, "storageclass.storage.k8s.io \"late\" not found");
    wait_for("the pod to say so", PATIENCE, || {
        let pod = shelf.get("pod", "waits")?;
        let told = pod["status"]["conditions"][0]["message"].to_string();
        if told.contains("pod has unbound immediate PersistentVolumeClaims.") {
            Ok(())
        } else {
            Err(told)
        }
    });
    shelf.world.apply(&class("late", FOLDER, "WaitForFirstConsumer"));
    let pod = shelf.world.phase("waits", "Succeeded");
    assert_eq!(
        pod["status"]["conditions"].as_array().expect("conditions").len(),
        5,
        "{pod}"
    );
    assert_eq!(
        shelf.world.logs(&["waits"]),
        "cat: can't open '/data/x': No such file or directory\nempty\n"
    );
    let node = shelf.kube(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"]);
    let soon = shelf.phase("pvc", "soon", "Bound");
    assert_eq!(
        soon["metadata"]["annotations"]["volume.kubernetes.io/selected-node"],
        node.as_str()
    );

    // Nobody needs it: it waits for somebody who does.
    shelf.claim("idle", json!({"storageClassName": "late"}));
    let told = shelf.event("idle", "WaitForFirstConsumer");
    assert_eq!(told, "waiting for first consumer to be created before binding");
    shelf.claim("cloud", json!({"storageClassName": "cloud"}));
    shelf.world.apply(&class("cloud", "ebs.csi.aws.com", "Immediate"));
    assert!(
        shelf
            .event("cloud", "ExternalProvisioning")
            .contains("'ebs.csi.aws.com'")
    );
    shelf.claim("none", json!({"storageClassName": ""}));
    let told = shelf.event("none", "FailedBinding");
    assert_eq!(
        told,
        "no persistent volumes available for this claim and no storage class is set"
    );

    // One pod at a time.
    shelf.claim("alone", json!({"accessModes": ["ReadWriteOncePod"]}));
    shelf.pod("first", WAIT, &data("alone"), &json!({}));
    shelf.world.ready("first");
    shelf.pod("second", WAIT, &data("alone"), &json!({}));
    assert!(
        shelf
            .event("second", "FailedScheduling")
            .contains("ReadWriteOncePod access mode")
    );
    shelf.world.delete("first");
    shelf.world.ready("second");
    shelf.clean();
}

#[test]
fn volumes_made_by_hand() {
    let shelf = shelf!();
    let dir = shelf.world.node.path().join("disks");
    for name in ["small", "large", "kept"] {
        std::fs::create_dir_all(dir.join(name)).expect("make a folder");
    }
    let make = |name: &str, spec: Value| shelf.world.apply(&volume(name, &dir.join(name), spec));
    make("small", json!({}));
    make("large", json!({"capacity": {"storage": "9Gi"}}));
    shelf.phase("pv", "small", "Available");
    shelf.phase("pv", "large", "Available");
    shelf.claim("fits", json!({"storageClassName": "hand"}));
    assert_eq!(shelf.phase("pvc", "fits", "Bound")["spec"]["volumeName"], "small");
    assert_eq!(
        shelf.get("pvc", "fits").unwrap()["status"]["capacity"]["storage"],
        "2Gi"
    );
    let choose = json!({"storageClassName": "hand", "selector": {"matchLabels": {"disk": "large"}}});
    shelf.claim("chosen", choose);
    assert_eq!(
        shelf.phase("pvc", "chosen", "Bound")["spec"]["volumeName"],
        "large"
    );
    shelf.claim("third", json!({"storageClassName": "hand"}));
    shelf.event("third", "ProvisioningFailed");
    shelf.kube(&["delete", "pvc", "third"]);
    shelf.claim("named", json!({"storageClassName": "hand", "volumeName": "kept", "resources": {"requests": {"storage": "3Gi"}}}));
    shelf.event("named", "FailedBinding");
    make("kept", json!({"capacity": {"storage": "1Gi"}}));
    assert!(
        shelf
            .event("named", "VolumeMismatch")
            .contains("requested PV is too small")
    );
    shelf.phase("pv", "kept", "Available");
    // Both name each other: that is as good as a bond.
    let meant = r#"{"spec":{"claimRef":{"namespace":"default","name":"named"}}}"#;
    shelf.kube(&["patch", "pv", "kept", "-p", meant]);
    shelf.phase("pvc", "named", "Bound");
    shelf.kube(&["delete", "pvc", "named"]);
    shelf.phase("pv", "kept", "Released");
    let free = r#"{"spec":{"claimRef":null}}"#;
    shelf.kube(&["patch", "pv", "kept", "--type=merge", "-p", free]);
    shelf.phase("pv", "kept", "Available");

    // Retain: the volume waits for somebody to look at it.
    shelf.pod("writer", "echo there >/data/x", &data("fits"), &json!({}));
    shelf.world.phase("writer", "Succeeded");
    assert_eq!(
        std::fs::read_to_string(dir.join("small/x")).expect("the file"),
        "there\n"
    );
    shelf.kube(&["delete", "pod", "writer"]);
    shelf.kube(&["delete", "pvc", "fits"]);
    shelf.phase("pv", "small", "Released");
    assert!(dir.join("small/x").exists());
    shelf.claim(
        "again",
        json!({"storageClassName": "hand", "resources": {"requests": {"storage": "2Gi"}}}),
    );
    shelf.event("again", "ProvisioningFailed");
    shelf.kube(&[
        "patch",
        "pv",
        "small",
        "--type=merge",
        "-p",
        r#"{"spec":{"claimRef":null}}"#,
    ]);
    assert_eq!(
        shelf.phase("pvc", "again", "Bound")["spec"]["volumeName"],
        "small"
    );
    // A volume in use stays, and a folder that berthd has not made is never removed.
    shelf.kube(&["delete", "pv", "small", "--wait=false"]);
    assert!(shelf.kube(&["get", "pv", "small"]).contains("Terminating"));
    shelf.kube(&["delete", "pvc", "again"]);
    shelf.gone("pv", "small");
    assert!(dir.join("small/x").exists());
    shelf.kube(&[
        "patch",
        "pv",
        "large",
        "-p",
        r#"{"spec":{"persistentVolumeReclaimPolicy":"Delete"}}"#,
    ]);
    shelf.kube(&["delete", "pvc", "chosen"]);
    shelf.phase("pv", "large", "Failed");
    assert!(
        shelf
            .event("large", "VolumeFailedDelete")
            .contains("only folders that berthd has made")
    );
    assert!(dir.join("large").exists());
    // The volume of a claim that is lost with it.
    shelf.claim("loses", json!({"storageClassName": "hand", "volumeName": "kept"}));
    shelf.phase("pvc", "loses", "Bound");
    shelf.kube(&["delete", "pv", "kept", "--wait=false"]);
    shelf.kube(&[
        "patch",
        "pv",
        "kept",
        "--type=merge",
        "-p",
        r#"{"metadata":{"finalizers":null}}"#,
    ]);
    shelf.phase("pvc", "loses", "Lost");
    assert!(
        shelf
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
        shelf.world.apply(&object);
    };
    away("elsewhere", "far");
    shelf.world.apply(&class(
        "hand",
        "kubernetes.io/no-provisioner",
        "WaitForFirstConsumer",
    ));
    shelf.claim("near", json!({"storageClassName": "hand"}));
    shelf.pod("reader", "ls /data", &data("near"), &json!({}));
    let told = shelf.event("reader", "FailedScheduling");
    assert!(
        told.contains("didn't find available persistent volumes to bind"),
        "{told}"
    );
    let node = shelf.kube(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"]);
    away(&node, "here");
    assert!(
        shelf
            .event("reader", "FailedMount")
            .contains("does not exist: its data is gone")
    );
    std::fs::create_dir(dir.join("here")).expect("make the folder");
    std::fs::write(dir.join("here/file"), "").expect("write a file");
    shelf.world.phase("reader", "Succeeded");
    assert_eq!(shelf.world.logs(&["reader"]), "file\n");
    shelf.clean();
}

#[test]
fn mounts_of_claims() {
    let shelf = shelf!();
    shelf.claim("data", json!({}));
    shelf.phase("pvc", "data", "Bound");
    let folder = shelf.folder("data");
    std::fs::create_dir_all(folder.join("deep/er")).expect("make folders");
    std::fs::write(folder.join("deep/file"), "x").expect("write a file");
    std::fs::set_permissions(folder.join("deep/file"), PermissionsExt::from_mode(0o600))
        .expect("hide the file");
    let program =
        "id -G; cat /data/deep/file && echo more >>/data/deep/file && touch /data/deep/er/mine && ls /sub";
    let mut container = with(
        program,
        json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "data", "mountPath": "/sub", "subPath": "deep/er"}]}),
    );
    container["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000});
    let spec = |policy: &str| {
        json!({
            "restartPolicy": "Never", "volumes": data("data"), "containers": [container],
            "securityContext": {"fsGroup": 4242, "fsGroupChangePolicy": policy},
        })
    };
    shelf.world.pod("grouped", spec("Always"));
    shelf.world.phase("grouped", "Succeeded");
    assert_eq!(shelf.world.logs(&["grouped"]), "1000 4242\nxmine\n");
    let mine = folder.join("deep/er/mine").metadata().expect("the file");
    assert_eq!(
        (mine.uid(), mine.gid()),
        (1000, 4242),
        "new files inherit the group"
    );
    // Nothing is changed below a root that is right already.
    std::fs::set_permissions(folder.join("deep/file"), PermissionsExt::from_mode(0o600))
        .expect("hide the file");
    shelf.world.pod("same", spec("OnRootMismatch"));
    shelf.world.phase("same", "Failed");
    shelf.world.pod("all", spec("Always"));
    shelf.world.phase("all", "Succeeded");

    let read = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}}]);
    shelf.pod(
        "reads",
        "cat /data/deep/er/mine; echo no >/data/no",
        &read,
        &json!({}),
    );
    shelf.world.phase("reads", "Failed");
    assert!(shelf.world.logs(&["reads"]).contains("Read-only file system"));
    assert!(!folder.join("no").exists());

    // The pod's own claim, which goes with it.
    let own = json!([{"name": "own", "ephemeral": {"volumeClaimTemplate": {
        "metadata": {"labels": {"kind": "scratch"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}}}]);
    shelf.claim("taken-own", json!({}));
    shelf.pod("taken", "true", &own, &json!({}));
    assert!(
        shelf
            .event("taken", "FailedBinding")
            .contains("was not created for pod default/taken (pod is not owner)")
    );
    shelf.pod("scratch", &format!("echo x >/own/x; {WAIT}"), &own, &json!({}));
    shelf.world.ready("scratch");
    let made = shelf.phase("pvc", "scratch-own", "Bound");
    assert_eq!(made["metadata"]["labels"]["kind"], "scratch");
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "scratch");
    let folder = shelf.folder("scratch-own");
    assert!(folder.join("x").exists());
    shelf.world.delete("scratch");
    shelf.gone("pvc", "scratch-own");
    wait_for("the folder to be gone", PATIENCE, || {
        if folder.exists() {
            Err("still there")
        } else {
            Ok(())
        }
    });
    shelf.clean();
}

#[test]
fn what_is_refused_and_counted() {
    let shelf = shelf!();
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
        let refused = shelf.refused(&object);
        assert!(refused.contains(told), "{refused}");
    }
    let mut odd = class("x", FOLDER, "Immediate");
    odd["parameters"] = json!({"size": "1"});
    assert!(shelf.refused(&odd).contains("has no parameters"));

    shelf.world.apply(&json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"persistentvolumeclaims": "2", "requests.storage": "3Gi",
                          "standard.storageclass.storage.k8s.io/requests.storage": "3Gi"}},
    }));
    shelf.world.apply(&json!({
        "apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "PersistentVolumeClaim", "min": {"storage": "1Mi"}, "max": {"storage": "2Gi"}}]},
    }));
    shelf.claim("one", json!({}));
    shelf.phase("pvc", "one", "Bound");
    let refused = shelf.refused(&claim(
        "x",
        json!({"resources": {"requests": {"storage": "5Gi"}}}),
    ));
    assert!(
        refused.contains("maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 5Gi"),
        "{refused}"
    );
    shelf.claim("two", json!({"resources": {"requests": {"storage": "1536Mi"}}}));
    let refused = shelf.refused(&claim("three", json!({})));
    assert!(
        refused.contains("exceeded quota: q") && refused.contains("requests.storage=2560Mi"),
        "{refused}"
    );
    let used = shelf.until("quota", "q", "counted", |q| {
        q["status"]["used"]["persistentvolumeclaims"] == "2"
    });
    assert_eq!(used["status"]["used"]["requests.storage"], "2560Mi");

    // A folder grows by being told so, and never shrinks.
    let ask = |name: &str, size: &str| {
        let patch = format!(r#"{{"spec":{{"resources":{{"requests":{{"storage":"{size}"}}}}}}}}"#);
        shelf
            .world
            .node
            .kubectl(&shelf.kubectl, &["patch", "pvc", name, "-p", &patch])
    };
    ask("one", "1500Mi").ok();
    shelf.until("pvc", "one", "larger", |c| {
        c["status"]["capacity"]["storage"] == "1500Mi"
    });
    shelf.event("one", "VolumeResizeSuccessful");
    let told = ask("one", "2Gi").err();
    assert!(told.contains("exceeded quota"), "{told}");
    let told = ask("one", "1Gi").err();
    assert!(
        told.contains("field can not be less than status.capacity"),
        "{told}"
    );
    let dir = shelf.world.node.path().join("disk");
    std::fs::create_dir(&dir).expect("make a folder");
    shelf.kube(&["delete", "quota,limitrange", "--all"]);
    shelf.world.apply(&volume("v", &dir, json!({})));
    shelf.claim("hand", json!({"storageClassName": "hand"}));
    shelf.phase("pvc", "hand", "Bound");
    let told = ask("hand", "2Gi").err();
    assert!(
        told.contains("only dynamically provisioned pvc can be resized"),
        "{told}"
    );
    let patch = r#"{"spec":{"accessModes":["ReadWriteMany"]}}"#;
    let told = shelf
        .world
        .node
        .kubectl(&shelf.kubectl, &["patch", "pvc", "one", "-p", patch])
        .err();
    assert!(
        told.contains("spec is immutable after creation except resources.requests"),
        "{told}"
    );
    let explained = shelf.kube(&["explain", "pvc.spec.volumeMode"]);
    assert!(
        explained.contains("raw block volumes are not served"),
        "{explained}"
    );
    shelf.clean();
}

#[test]
fn the_examples_of_storage_run() {
    let shelf = shelf!();
    let folder = repository_root().join("examples/manifests/storage");
    let copy = shelf.world.node.path().join("manifests");
    std::fs::create_dir(&copy).expect("make a folder");
    let photos = shelf.world.node.path().join("photos");
    for entry in std::fs::read_dir(&folder).expect("the examples").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("read an example");
        let text = text.replace("/tmp/berth-photos", &photos.to_string_lossy());
        std::fs::write(copy.join(entry.file_name()), text).expect("write the copy");
    }
    let folder = copy.to_string_lossy().into_owned();
    shelf.kube(&["apply", "-f", &folder]);
    shelf.kube(&["rollout", "status", "deployment/notes", "--timeout=60s"]);
    assert_eq!(shelf.kube(&["logs", "deployment/notes"]), "1\n");
    shelf.kube(&["rollout", "restart", "deployment/notes"]);
    shelf.kube(&["rollout", "status", "deployment/notes", "--timeout=60s"]);
    assert_eq!(shelf.kube(&["logs", "deployment/notes"]), "2\n");
    shelf.world.phase("viewer", "Succeeded");
    assert_eq!(shelf.world.logs(&["viewer"]).trim(), "0");
    shelf.world.phase("scratch", "Succeeded");
    assert_eq!(shelf.world.logs(&["scratch"]), "123456789");
    let again = shelf.kube(&["apply", "-f", &folder]);
    assert_eq!(again.matches("unchanged").count(), 5, "{again}");
    shelf.kube(&["delete", "-f", &folder, "--wait=false"]);
    assert!(photos.is_dir(), "the folder of a volume that is retained stays");
    shelf.clean();
}

#[test]
fn a_berthd_that_dies_while_it_binds_goes_on_from_there() {
    let mut shelf = shelf!();
    shelf.world.apply(&class("late", FOLDER, "WaitForFirstConsumer"));
    for (number, point) in [
        "provision: the folder is there",
        "provision: the volume is stored",
        "bind: the volume is taken",
        "bind: the claim has its volume",
        "reclaim: the folder is gone",
    ]
    .iter()
    .enumerate()
    {
        let name = format!("c{number}");
        shelf.world.node.kill_daemon();
        shelf.world.node.launch(&[("BERTH_FAULT", &format!("{point}:1"))]);
        let made = |shelf: &Shelf, arguments: &[&str]| {
            // The program may die before it has answered.
            let _ = shelf.world.node.kubectl(&shelf.kubectl, arguments);
        };
        wait_for("berthd to answer", PATIENCE, || {
            let seen = shelf.world.node.ctl(&["get", "namespace", "default"]);
            if seen.status.success() {
                Ok(())
            } else {
                Err(seen.stderr)
            }
        });
        let file = shelf.world.node.path().join("claim.json");
        std::fs::write(&file, claim(&name, json!({})).to_string()).expect("write the manifest");
        made(&shelf, &["create", "-f", &file.to_string_lossy()]);
        if point.starts_with("reclaim") {
            shelf.phase("pvc", &name, "Bound");
            made(&shelf, &["delete", "pvc", &name, "--wait=false"]);
        }
        wait_for(point, PATIENCE, || {
            if shelf.world.node.has_ended() {
                Ok(())
            } else {
                Err("berthd runs on")
            }
        });
        shelf.world.node.spawn();
        if point.starts_with("reclaim") {
            shelf.gone("pvc", &name);
        } else {
            shelf.phase("pvc", &name, "Bound");
        }
    }
    wait_for("one volume a claim, one folder a volume", PATIENCE, || {
        let count = |kind: &str| shelf.kube(&["get", kind, "-o", "name"]).lines().count();
        let folders = std::fs::read_dir(shelf.world.node.data_dir().join("volumes"))
            .expect("the folders")
            .count();
        let seen = (count("pvc"), count("pv"), folders);
        if seen == (4, 4, 4) { Ok(()) } else { Err(seen) }
    });
    shelf.pod("user", "touch /data/x", &data("c0"), &json!({}));
    shelf.world.phase("user", "Succeeded");
    shelf.clean();
}
