//! What dies at a bad moment: `berthd` at random points of its work, monitors, and the whole node as by a reboot.
//! The outcome is that of an undisturbed run, and nothing is left.

mod monitors;
mod reboot;
mod storm;
mod workload;

use crate::world::{World, with};
use harness::HostSnapshot;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tempfile::TempDir;

pub(crate) use reboot::pull_the_plug;

/// Numbers that look random; the seed is printed, so that a run can be repeated.
struct Random(u64);

impl Random {
    fn seeded() -> Random {
        let given = std::env::var("BERTH_FAULT_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| u64::from(std::process::id()));
        println!("BERTH_FAULT_SEED={seed}");
        Random(seed.wrapping_mul(2).wrapping_add(1))
    }

    /// Below `end`.
    fn below(&mut self, end: usize) -> usize {
        // Knuth's MMIX generator; its high bits are the good ones.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % end
    }
}

/// A node, and a file in which every container notes its start.
struct Stage {
    world: World,
    starts: TempDir,
}

impl Stage {
    fn new() -> Stage {
        Stage {
            world: World::new(),
            starts: TempDir::with_prefix("berth-starts-").expect("temporary directory"),
        }
    }

    /// A pod's spec: its container notes its start and goes on with `script`.
    fn spec(&self, script: &str, policy: &str) -> Value {
        let container = with(
            &format!("echo $UID >>/starts/log; {script}"),
            json!({
                "env": [{"name": "UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}],
                "volumeMounts": [{"name": "starts", "mountPath": "/starts"}, {"name": "own", "mountPath": "/own"}],
            }),
        );
        json!({"restartPolicy": policy, "terminationGracePeriodSeconds": 5, "containers": [container], "volumes": [
            {"name": "starts", "hostPath": {"path": self.starts.path()}}, {"name": "own", "emptyDir": {}}]})
    }

    /// How often containers of each pod have started, by uid.
    fn started(&self) -> BTreeMap<String, usize> {
        let text = std::fs::read_to_string(self.starts.path().join("log")).unwrap_or_default();
        let mut starts = BTreeMap::new();
        for uid in text.lines() {
            *starts.entry(uid.to_owned()).or_default() += 1;
        }
        starts
    }

    fn monitors(&self) -> usize {
        let marker = self.world.node.path().join("run/pods");
        HostSnapshot::take(&marker.to_string_lossy(), &[]).processes.len()
    }
}

/// What `berthctl` says, or its error.
fn ctl(stage: &Stage, arguments: &[&str]) -> Result<String, String> {
    let outcome = stage.world.node.ctl(arguments);
    if outcome.status.success() {
        Ok(outcome.stdout)
    } else {
        Err(outcome.stderr)
    }
}

/// Objects as JSON.
fn list(stage: &Stage, arguments: &[&str]) -> Result<Value, String> {
    let all = [&["get"], arguments, &["-o", "json"]].concat();
    serde_json::from_str(&ctl(stage, &all)?).map_err(|error| error.to_string())
}

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().expect("a uid")
}

fn named(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}
