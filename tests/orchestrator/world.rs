//! A node with an image, and what is looked for on it.

use harness::{HostSnapshot, Node, NodeOptions, busybox_rootfs, isolate, wait_for};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// A program that runs until it is asked to end.
pub(crate) const WAIT: &str = "trap 'exit 0' TERM; while :; do sleep 0.05; done";

/// A node with an image `busybox:1`.
pub(crate) struct World {
    pub(crate) node: Node,
    pub(crate) cgroup: String,
}

impl World {
    pub(crate) fn new() -> World {
        World::with(&[])
    }

    /// With more arguments for `berthd`.
    pub(crate) fn with(more: &[&str]) -> World {
        World::on_disk(more, None)
    }

    /// With more arguments for `berthd`, and its data on a file system of its own (options of tmpfs).
    pub(crate) fn on_disk(more: &[&str], disk: Option<&str>) -> World {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        isolate();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let cgroup = format!("berth-test-{}-{number}", std::process::id());
        let mut arguments = vec!["--cgroup-parent".to_owned(), cgroup.clone()];
        arguments.extend(more.iter().map(|&text| text.to_owned()));
        let node = Node::start(NodeOptions {
            arguments,
            disk: disk.map(str::to_owned),
            ..NodeOptions::default()
        });
        World {
            cgroup,
            ..World::on(node)
        }
    }

    /// Imports the image into a node that runs.
    pub(crate) fn on(node: Node) -> World {
        let cgroup = node
            .path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let root = TempDir::with_prefix("berth-image-").expect("temporary directory");
        busybox_rootfs(root.path());
        let path = root.path().to_string_lossy().into_owned();
        node.ctl(&["image", "import", "--root", "--name", "busybox:1", &path])
            .ok();
        World { node, cgroup }
    }

    /// Applies one object.
    #[track_caller]
    pub(crate) fn apply(&self, object: &Value) {
        let file = self.node.path().join("manifest.json");
        std::fs::write(&file, object.to_string()).expect("write the manifest");
        self.node.ctl(&["apply", "-f", &file.to_string_lossy()]).ok();
    }

    /// Applies a pod.
    #[track_caller]
    pub(crate) fn pod(&self, name: &str, spec: Value) {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": spec,
        }));
    }

    pub(crate) fn get(&self, name: &str) -> Result<Value, String> {
        let outcome = self.node.ctl(&["get", "pod", name, "-o", "json"]);
        if !outcome.status.success() {
            return Err(outcome.stderr);
        }
        serde_json::from_str(&outcome.stdout).map_err(|error| error.to_string())
    }

    /// Waits until the first container's status (and the pod) satisfy the condition.
    #[track_caller]
    pub(crate) fn wait(&self, name: &str, what: &str, condition: impl Fn(&Value, &Value) -> bool) -> Value {
        wait_for(&format!("{name}: {what}"), PATIENCE, || {
            let pod = self.get(name)?;
            let container = pod["status"]["containerStatuses"][0].clone();
            if condition(&pod, &container) {
                Ok(pod)
            } else {
                Err(pod["status"].to_string())
            }
        })
    }

    #[track_caller]
    pub(crate) fn ready(&self, name: &str) -> Value {
        self.wait(name, "ready", |_, container| container["ready"] == true)
    }

    /// Waits until the first container waits for this reason, and gives the words.
    #[track_caller]
    pub(crate) fn waits_for(&self, name: &str, reason: &str) -> String {
        let pod = self.wait(name, reason, |_, c| c["state"]["waiting"]["reason"] == reason);
        let container = &pod["status"]["containerStatuses"][0];
        container["state"]["waiting"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    #[track_caller]
    pub(crate) fn phase(&self, name: &str, phase: &str) -> Value {
        self.wait(name, phase, |pod, _| pod["status"]["phase"] == phase)
    }

    /// Waits until an event about the pod has the text in its message.
    #[track_caller]
    pub(crate) fn told(&self, name: &str, text: &str) {
        let selector = format!("involvedObject.name={name}");
        wait_for(&format!("{name}: an event with {text:?}"), PATIENCE, || {
            let list = self
                .node
                .ctl(&["get", "events", "--field-selector", &selector, "-o", "json"]);
            let list: Value = serde_json::from_str(&list.stdout).map_err(|_| list.stderr)?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let messages: Vec<String> = items.iter().map(|e| e["message"].to_string()).collect();
            let plain = |event: &Value| event["message"].as_str().unwrap_or_default().contains(text);
            if items.iter().any(plain) {
                Ok(())
            } else {
                Err(messages.join("\n"))
            }
        });
    }

    #[track_caller]
    pub(crate) fn delete(&self, name: &str) {
        self.node.ctl(&["delete", "pod", name]).ok();
    }

    #[track_caller]
    pub(crate) fn logs(&self, arguments: &[&str]) -> String {
        let mut all = vec!["logs"];
        all.extend(arguments);
        self.node.ctl(&all).ok()
    }

    /// Waits until a log is exactly this: a container may be ready before its first words.
    #[track_caller]
    pub(crate) fn says(&self, arguments: &[&str], text: &str) {
        wait_for(&format!("the log {arguments:?}"), PATIENCE, || {
            let found = self.logs(arguments);
            if found == text { Ok(()) } else { Err(found) }
        });
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.node.path().join("run")
    }

    /// What is left of pods: files, mounts, cgroups, monitors, links.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        for dir in [
            "run/pods",
            "run/netns",
            "run/runtime",
            "data/pods",
            "data/logs",
            "data/cni/results",
        ] {
            for entry in std::fs::read_dir(self.node.path().join(dir))
                .into_iter()
                .flatten()
                .flatten()
            {
                left.push(entry.path().to_string_lossy().into_owned());
            }
        }
        let leases = self.node.path().join("data/cni/networks/berth");
        for entry in std::fs::read_dir(leases).into_iter().flatten().flatten() {
            if entry
                .file_name()
                .to_string_lossy()
                .starts_with(|c: char| c.is_ascii_digit())
            {
                left.push(format!("lease {}", entry.file_name().to_string_lossy()));
            }
        }
        let marker = self.node.path().to_string_lossy().into_owned();
        let host = HostSnapshot::take(&marker, &[]);
        left.extend(host.mounts.into_iter().filter(|m| m.contains(&marker)));
        let daemon = self.node.pid().cast_signed();
        left.extend(
            host.processes
                .iter()
                .filter(|p| **p != daemon)
                .map(|p| format!("process {p}")),
        );
        let cgroups = HostSnapshot::take(&self.cgroup, &[]).cgroups;
        left.extend(cgroups.into_iter().filter(|c| c.contains("/pod")));
        left
    }

    /// Deletes everything and looks for what is left.
    #[track_caller]
    pub(crate) fn clean(&self) {
        self.node.clear();
        wait_for("nothing to be left", PATIENCE, || {
            let left = self.leftovers();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

/// One container named `c`.
pub(crate) fn script(text: &str) -> Value {
    json!({"name": "c", "image": "busybox:1", "command": ["sh", "-c", text]})
}

/// [`script`] with more fields.
pub(crate) fn with(text: &str, more: Value) -> Value {
    let mut container = script(text);
    for (key, value) in more.as_object().expect("an object") {
        container[key] = value.clone();
    }
    container
}
