//! Claims, volumes and classes on the real node.

mod by_hand;
mod refusals;

use crate::bench::{Bench, bench};
use crate::faults::pull_the_plug;
use crate::world::{PATIENCE, WAIT, with};
use harness::{kubectl_versions, repository_root, wait_for};
use serde_json::{Value, json};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

impl Bench {
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

    #[track_caller]
    fn phase(&self, kind: &str, name: &str, phase: &str) -> Value {
        self.until(kind, name, phase, |object| object["status"]["phase"] == phase)
    }

    #[track_caller]
    fn gone(&self, kind: &str, name: &str) {
        wait_for(&format!("{kind} {name} to be gone"), PATIENCE, || {
            match self.look(kind, name) {
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
        let volume = self.look("pvc", claim).expect("the claim")["spec"]["volumeName"].clone();
        let volume = self
            .look("pv", volume.as_str().expect("a volume"))
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
    let mut bench = bench!();
    bench.claim("data", json!({}));
    let bound = bench.phase("pvc", "data", "Bound");
    assert_eq!(bound["spec"]["storageClassName"], "standard");
    assert_eq!(
        bound["metadata"]["finalizers"],
        json!(["kubernetes.io/pvc-protection"])
    );
    assert_eq!(bound["status"]["capacity"]["storage"], "1Gi");
    let told = bench.event("data", "ProvisioningSucceeded");
    let name = bound["spec"]["volumeName"].as_str().expect("a volume").to_owned();
    assert_eq!(told, format!("Successfully provisioned volume {name}"));
    assert_eq!(
        bench.phase("pv", &name, "Bound")["spec"]["claimRef"]["name"],
        "data"
    );
    for kubectl in kubectl_versions() {
        let kube = |arguments: &[&str]| bench.world.node.kubectl(&kubectl, arguments).ok();
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

    bench.pod(
        "one",
        &format!("echo kept >/data/word; {WAIT}"),
        &data("data"),
        &json!({}),
    );
    bench.world.ready("one");
    bench.world.node.kill_daemon();
    bench.world.node.spawn();
    bench.world.ready("one");
    bench.world.delete("one");
    bench.gone("pod", "one");
    bench.pod(
        "two",
        &format!("cat /data/word; {WAIT}"),
        &data("data"),
        &json!({}),
    );
    bench.world.ready("two");
    bench.world.says(&["two"], "kept\n");
    pull_the_plug(&mut bench.world);
    bench.world.node.spawn();
    bench.world.delete("two");
    bench.gone("pod", "two");
    assert_eq!(
        bench.phase("pvc", "data", "Bound")["spec"]["volumeName"],
        name.as_str()
    );
    bench.pod(
        "three",
        &format!("cat /data/word; {WAIT}"),
        &data("data"),
        &json!({}),
    );
    bench.world.ready("three");
    bench.world.says(&["three"], "kept\n");

    // A claim in use waits for its pods.
    let folder = bench.folder("data");
    bench.kube(&["delete", "pvc", "data", "--wait=false"]);
    let row = bench.kube(&["get", "pvc", "data"]);
    assert!(row.contains("Terminating"), "{row}");
    bench.pod("late", "true", &data("data"), &json!({}));
    let told = bench.event("late", "FailedScheduling");
    assert_eq!(
        told,
        "0/1 nodes are available: persistentvolumeclaim \"data\" is being deleted."
    );
    assert!(folder.join("word").exists() && bench.look("pvc", "data").is_ok());
    bench.world.delete("three");
    bench.gone("pvc", "data");
    bench.gone("pv", &name);
    assert!(!folder.exists(), "the folder goes with the claim");
    bench.clean();
}

#[test]
fn pods_wait_for_their_claims() {
    let bench = bench!();
    bench.pod("waits", "cat /data/x || echo empty", &data("soon"), &json!({}));
    let told = bench.event("waits", "FailedScheduling");
    assert_eq!(
        told,
        "0/1 nodes are available: persistentvolumeclaim \"soon\" not found."
    );
    let pod = bench.phase("pod", "waits", "Pending");
    let condition = &pod["status"]["conditions"][0];
    assert_eq!(
        (&condition["type"], &condition["status"], &condition["reason"]),
        (&json!("PodScheduled"), &json!("False"), &json!("Unschedulable"))
    );
    let row = bench.kube(&["get", "pod", "waits"]);
    assert!(row.contains("Pending"), "{row}");
    bench.claim("soon", json!({"storageClassName": "late"}));
    let told = bench.event("soon", "ProvisioningFailed");
    assert_eq!(told, "storageclass.storage.k8s.io \"late\" not found");
    wait_for("the pod to say so", PATIENCE, || {
        let pod = bench.look("pod", "waits")?;
        let told = pod["status"]["conditions"][0]["message"].to_string();
        if told.contains("pod has unbound immediate PersistentVolumeClaims.") {
            Ok(())
        } else {
            Err(told)
        }
    });
    bench.world.apply(&class("late", FOLDER, "WaitForFirstConsumer"));
    let pod = bench.world.phase("waits", "Succeeded");
    assert_eq!(
        pod["status"]["conditions"].as_array().expect("conditions").len(),
        5,
        "{pod}"
    );
    assert_eq!(
        bench.world.logs(&["waits"]),
        "cat: can't open '/data/x': No such file or directory\nempty\n"
    );
    let node = bench.kube(&["get", "node", "-o", "jsonpath={.items[0].metadata.name}"]);
    let soon = bench.phase("pvc", "soon", "Bound");
    assert_eq!(
        soon["metadata"]["annotations"]["volume.kubernetes.io/selected-node"],
        node.as_str()
    );

    // Nobody needs it: it waits for somebody who does.
    bench.claim("idle", json!({"storageClassName": "late"}));
    let told = bench.event("idle", "WaitForFirstConsumer");
    assert_eq!(told, "waiting for first consumer to be created before binding");
    bench.claim("cloud", json!({"storageClassName": "cloud"}));
    bench.world.apply(&class("cloud", "ebs.csi.aws.com", "Immediate"));
    assert!(
        bench
            .event("cloud", "ExternalProvisioning")
            .contains("'ebs.csi.aws.com'")
    );
    bench.claim("none", json!({"storageClassName": ""}));
    let told = bench.event("none", "FailedBinding");
    assert_eq!(
        told,
        "no persistent volumes available for this claim and no storage class is set"
    );

    // One pod at a time.
    bench.claim("alone", json!({"accessModes": ["ReadWriteOncePod"]}));
    bench.pod("first", WAIT, &data("alone"), &json!({}));
    bench.world.ready("first");
    bench.pod("second", WAIT, &data("alone"), &json!({}));
    assert!(
        bench
            .event("second", "FailedScheduling")
            .contains("ReadWriteOncePod access mode")
    );
    bench.world.delete("first");
    bench.world.ready("second");
    bench.clean();
}

#[test]
fn mounts_of_claims() {
    let bench = bench!();
    bench.claim("data", json!({}));
    bench.phase("pvc", "data", "Bound");
    let folder = bench.folder("data");
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
    bench.world.pod("grouped", spec("Always"));
    bench.world.phase("grouped", "Succeeded");
    bench.world.says(&["grouped"], "1000 4242\nxmine\n");
    let mine = folder.join("deep/er/mine").metadata().expect("the file");
    assert_eq!(
        (mine.uid(), mine.gid()),
        (1000, 4242),
        "new files inherit the group"
    );
    // Nothing is changed below a root that is right already.
    std::fs::set_permissions(folder.join("deep/file"), PermissionsExt::from_mode(0o600))
        .expect("hide the file");
    bench.world.pod("same", spec("OnRootMismatch"));
    bench.world.phase("same", "Failed");
    bench.world.pod("all", spec("Always"));
    bench.world.phase("all", "Succeeded");

    let read = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}}]);
    bench.pod(
        "reads",
        "cat /data/deep/er/mine; echo no >/data/no",
        &read,
        &json!({}),
    );
    bench.world.phase("reads", "Failed");
    assert!(bench.world.logs(&["reads"]).contains("Read-only file system"));
    assert!(!folder.join("no").exists());

    // The pod's own claim, which goes with it.
    let own = json!([{"name": "own", "ephemeral": {"volumeClaimTemplate": {
        "metadata": {"labels": {"kind": "scratch"}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}}}]);
    bench.claim("taken-own", json!({}));
    bench.pod("taken", "true", &own, &json!({}));
    assert!(
        bench
            .event("taken", "FailedBinding")
            .contains("was not created for pod default/taken (pod is not owner)")
    );
    bench.pod("scratch", &format!("echo x >/own/x; {WAIT}"), &own, &json!({}));
    bench.world.ready("scratch");
    let made = bench.phase("pvc", "scratch-own", "Bound");
    assert_eq!(made["metadata"]["labels"]["kind"], "scratch");
    assert_eq!(made["metadata"]["ownerReferences"][0]["name"], "scratch");
    let folder = bench.folder("scratch-own");
    assert!(folder.join("x").exists());
    bench.world.delete("scratch");
    bench.gone("pvc", "scratch-own");
    wait_for("the folder to be gone", PATIENCE, || {
        if folder.exists() {
            Err("still there")
        } else {
            Ok(())
        }
    });
    bench.clean();
}

#[test]
fn the_examples_of_storage_run() {
    let bench = bench!();
    let folder = repository_root().join("examples/manifests/storage");
    let copy = bench.world.node.path().join("manifests");
    std::fs::create_dir(&copy).expect("make a folder");
    let photos = bench.world.node.path().join("photos");
    for entry in std::fs::read_dir(&folder).expect("the examples").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("read an example");
        let text = text.replace("/tmp/berth-photos", &photos.to_string_lossy());
        std::fs::write(copy.join(entry.file_name()), text).expect("write the copy");
    }
    let folder = copy.to_string_lossy().into_owned();
    bench.kube(&["apply", "-f", &folder]);
    bench.kube(&["rollout", "status", "deployment/notes", "--timeout=60s"]);
    assert_eq!(bench.kube(&["logs", "deployment/notes"]), "1\n");
    bench.kube(&["rollout", "restart", "deployment/notes"]);
    bench.kube(&["rollout", "status", "deployment/notes", "--timeout=60s"]);
    assert_eq!(bench.kube(&["logs", "deployment/notes"]), "2\n");
    bench.world.phase("viewer", "Succeeded");
    assert_eq!(bench.world.logs(&["viewer"]).trim(), "0");
    bench.world.phase("scratch", "Succeeded");
    bench.world.says(&["scratch"], "123456789");
    let again = bench.kube(&["apply", "-f", &folder]);
    assert_eq!(again.matches("unchanged").count(), 5, "{again}");
    bench.kube(&["delete", "-f", &folder, "--wait=false"]);
    assert!(photos.is_dir(), "the folder of a volume that is retained stays");
    bench.clean();
}

#[test]
fn a_berthd_that_dies_while_it_binds_goes_on_from_there() {
    let mut bench = bench!();
    bench.world.apply(&class("late", FOLDER, "WaitForFirstConsumer"));
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
        bench.world.node.kill_daemon();
        bench.world.node.launch(&[("BERTH_FAULT", &format!("{point}:1"))]);
        let made = |bench: &Bench, arguments: &[&str]| {
            // The program may die before it has answered.
            let _ = bench.world.node.kubectl(&bench.kubectl, arguments);
        };
        wait_for("berthd to answer", PATIENCE, || {
            let seen = bench.world.node.ctl(&["get", "namespace", "default"]);
            if seen.status.success() {
                Ok(())
            } else {
                Err(seen.stderr)
            }
        });
        let file = bench.world.node.path().join("claim.json");
        std::fs::write(&file, claim(&name, json!({})).to_string()).expect("write the manifest");
        made(&bench, &["create", "-f", &file.to_string_lossy()]);
        if point.starts_with("reclaim") {
            bench.phase("pvc", &name, "Bound");
            made(&bench, &["delete", "pvc", &name, "--wait=false"]);
        }
        wait_for(point, PATIENCE, || {
            if bench.world.node.has_ended() {
                Ok(())
            } else {
                Err("berthd runs on")
            }
        });
        bench.world.node.spawn();
        if point.starts_with("reclaim") {
            bench.gone("pvc", &name);
        } else {
            bench.phase("pvc", &name, "Bound");
        }
    }
    wait_for("one volume a claim, one folder a volume", PATIENCE, || {
        let count = |kind: &str| bench.kube(&["get", kind, "-o", "name"]).lines().count();
        let folders = std::fs::read_dir(bench.world.node.data_dir().join("volumes"))
            .expect("the folders")
            .count();
        let seen = (count("pvc"), count("pv"), folders);
        if seen == (4, 4, 4) { Ok(()) } else { Err(seen) }
    });
    bench.pod("user", "touch /data/x", &data("c0"), &json!({}));
    bench.world.phase("user", "Succeeded");
    bench.clean();
}
