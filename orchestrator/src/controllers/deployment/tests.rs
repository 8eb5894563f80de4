use serde_json::json;

use super::*;
use crate::controllers::fields::{annotation, condition, name, text};

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

/// A store in miniature: applies changes, and plays ReplicaSet controller and kubelet.
pub(super) struct World {
    pub(super) view: View,
    pub(super) clock: i64,
    pub(super) events: Vec<String>,
    serial: u64,
}

impl World {
    pub(super) fn new(spec: &Value) -> Self {
        let mut deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "web", "namespace": "default", "uid": "d", "generation": 1 },
            "spec": {
                "replicas": 3,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "image": "v1" } },
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
                "revisionHistoryLimit": 10,
                "progressDeadlineSeconds": 600,
            },
        });
        for (key, value) in spec.as_object().unwrap() {
            deployment["spec"][key] = value.clone();
        }
        let view = View {
            deployment,
            sets: Vec::new(),
            pods: Vec::new(),
            closing: false,
        };
        Self {
            view,
            clock: 0,
            events: Vec::new(),
            serial: 0,
        }
    }

    /// Changes the specification as a user does.
    pub(super) fn edit(&mut self, pointer: &str, value: Value) {
        *self.view.deployment.pointer_mut(pointer).unwrap() = value;
        let generation = number(&self.view.deployment, "/metadata/generation");
        self.view.deployment["metadata"]["generation"] = json!(generation + 1);
    }

    /// One step of the deployment; says whether anything was written.
    pub(super) fn step(&mut self) -> bool {
        let outcome = reconcile(&self.view, at(self.clock));
        let wrote = !outcome.changes.is_empty();
        for change in outcome.changes {
            self.apply(change);
        }
        wrote
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::CreateSet(mut set) => {
                self.serial += 1;
                set["metadata"]["uid"] = json!(format!("rs{}", self.serial));
                set["metadata"]["creationTimestamp"] = json!(at(self.clock).to_string());
                set["metadata"]["generation"] = json!(1);
                assert!(!self.view.sets.iter().any(|known| name(known) == name(&set)));
                self.view.sets.push(set);
            }
            Change::UpdateSet(set) => {
                let known = self
                    .view
                    .sets
                    .iter_mut()
                    .find(|known| uid(known) == uid(&set))
                    .unwrap();
                let status = known["status"].clone();
                *known = set;
                known["status"] = status;
            }
            Change::DeleteSet { uid: gone, .. } => self.view.sets.retain(|set| uid(set) != gone),
            Change::Update(deployment) => {
                let status = self.view.deployment["status"].clone();
                self.view.deployment = deployment;
                self.view.deployment["status"] = status;
            }
            Change::Status(status) => self.view.deployment["status"] = status,
            Change::Event { message, .. } => self.events.push(message),
        }
    }

    /// One step of one ReplicaSet: pods made or deleted, status counted.
    pub(super) fn step_set(&mut self, index: usize) -> bool {
        use crate::controllers::replicaset::{plan, pod_from_template, status};
        let set = self.view.sets[index].clone();
        let mine = |pod: &&Value| controller_of(pod).is_some_and(|owner| owner["uid"] == uid(&set));
        let pods: Vec<Value> = self.view.pods.iter().filter(mine).cloned().collect();
        let wanted = plan(&set, &pods, at(self.clock));
        for _ in 0..wanted.create {
            self.serial += 1;
            let mut pod = pod_from_template(&set, &format!("{:05}", self.serial), "node");
            pod["metadata"]["uid"] = json!(format!("pod{}", self.serial));
            pod["metadata"]["creationTimestamp"] = json!(at(self.clock).to_string());
            self.view.pods.push(pod);
        }
        for gone in &wanted.delete {
            let pod = self
                .view
                .pods
                .iter_mut()
                .find(|pod| uid(pod) == uid(gone))
                .unwrap();
            pod["metadata"]["deletionTimestamp"] = json!(at(self.clock).to_string());
        }
        let pods: Vec<Value> = self.view.pods.iter().filter(mine).cloned().collect();
        let fresh = status(&set, &pods, None, at(self.clock)).status;
        let changed = self.view.sets[index]["status"] != fresh;
        self.view.sets[index]["status"] = fresh;
        changed || wanted.create > 0 || !wanted.delete.is_empty()
    }

    /// A pod becomes ready.
    pub(super) fn start(&mut self, index: usize) {
        let pod = &mut self.view.pods[index];
        pod["status"] = json!({
            "phase": "Running",
            "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": at(self.clock).to_string() }],
        });
    }

    /// Pods that are being deleted are gone.
    pub(super) fn reap(&mut self) -> bool {
        let before = self.view.pods.len();
        self.view.pods.retain(|pod| !is_deleting(pod));
        before != self.view.pods.len()
    }

    pub(super) fn start_all(&mut self) -> bool {
        let waiting: Vec<usize> = (0..self.view.pods.len())
            .filter(|index| text(&self.view.pods[*index], "/status/phase") == "Pending")
            .collect();
        for index in &waiting {
            self.start(*index);
        }
        !waiting.is_empty()
    }

    /// Until nothing moves any more; pods become ready where `healthy`.
    pub(super) fn settle(&mut self, healthy: bool) {
        for _ in 0..1000 {
            self.clock += 1;
            let mut moved = self.step();
            for index in 0..self.view.sets.len() {
                moved |= self.step_set(index);
            }
            moved |= healthy && self.start_all();
            moved |= self.reap();
            if !moved {
                return;
            }
        }
        panic!("does not settle: {:?}", self.events);
    }

    pub(super) fn status(&self) -> &Value {
        &self.view.deployment["status"]
    }

    pub(super) fn live_pods(&self) -> impl Iterator<Item = &Value> {
        self.view.pods.iter().filter(|pod| !is_deleting(pod))
    }

    fn images(&self) -> Vec<&str> {
        let mut images: Vec<&str> = self.live_pods().map(|pod| text(pod, "/spec/image")).collect();
        images.sort_unstable();
        images
    }

    fn reason(&self, kind: &str) -> &str {
        condition(self.status(), kind).map_or("", |condition| text(condition, "/reason"))
    }

    fn revisions(&self) -> Vec<i64> {
        let mut all: Vec<i64> = self.view.sets.iter().map(revision::revision_of).collect();
        all.sort_unstable();
        all
    }
}

#[test]
fn a_new_deployment_comes_up() {
    let mut world = World::new(&json!({}));
    world.step();
    assert_eq!(
        world.events,
        [format!(
            "Scaled up replica set {} from 0 to 3",
            name(&world.view.sets[0])
        )]
    );
    assert_eq!(annotation(&world.view.deployment, revision::REVISION), Some("1"));
    assert_eq!(world.reason("Progressing"), "NewReplicaSetCreated");
    assert_eq!(world.reason("Available"), "MinimumReplicasUnavailable");
    assert_eq!(world.status()["unavailableReplicas"], 3);
    world.settle(true);
    assert_eq!(
        [
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "observedGeneration"
        ]
        .map(|field| number(world.status(), &format!("/{field}"))),
        [3, 3, 3, 3, 1]
    );
    assert_eq!(
        (world.reason("Progressing"), world.reason("Available")),
        ("NewReplicaSetAvailable", "MinimumReplicasAvailable")
    );
    assert_eq!(
        condition(world.status(), "Progressing").unwrap()["message"],
        format!(
            "ReplicaSet {:?} has successfully progressed.",
            name(&world.view.sets[0])
        )
    );
    assert_eq!(world.status().get("unavailableReplicas"), None);
}

#[test]
fn a_template_change_rolls_one_by_one() {
    let mut world = World::new(&json!({}));
    world.settle(true);
    world.events.clear();
    world.edit("/spec/template/spec/image", json!("v2"));
    world.settle(true);
    assert_eq!(world.images(), ["v2", "v2", "v2"]);
    let (old, new) = (
        name(&world.view.sets[0]).to_owned(),
        name(&world.view.sets[1]).to_owned(),
    );
    let expected = [
        format!("Scaled up replica set {new} from 0 to 1"),
        format!("Scaled down replica set {old} from 3 to 2"),
        format!("Scaled up replica set {new} from 1 to 2"),
        format!("Scaled down replica set {old} from 2 to 1"),
        format!("Scaled up replica set {new} from 2 to 3"),
        format!("Scaled down replica set {old} from 1 to 0"),
    ];
    assert_eq!(world.events, expected);
    assert_eq!(world.revisions(), [1, 2]);
    assert_eq!(number(world.status(), "/observedGeneration"), 2);
}

#[test]
fn undo_brings_the_old_set_back_under_a_new_revision() {
    let mut world = World::new(&json!({}));
    world.settle(true);
    world.edit("/spec/template/spec/image", json!("v2"));
    world.settle(true);
    // What kubectl's undo writes: the old set's template without the hash.
    let mut template = world.view.sets[0]["spec"]["template"].clone();
    template["metadata"]["labels"]
        .as_object_mut()
        .unwrap()
        .remove(sets::TEMPLATE_HASH);
    world.edit("/spec/template", template);
    world.settle(true);
    assert_eq!(world.images(), ["v1", "v1", "v1"]);
    assert_eq!(world.view.sets.len(), 2);
    assert_eq!(world.revisions(), [2, 3]);
    assert_eq!(
        annotation(&world.view.sets[0], "deployment.kubernetes.io/revision-history"),
        Some("1")
    );
    assert_eq!(annotation(&world.view.deployment, revision::REVISION), Some("3"));
}

#[test]
fn a_bad_template_stops_at_the_surge_and_times_out() {
    let mut world = World::new(&json!({ "progressDeadlineSeconds": 60 }));
    world.settle(true);
    world.edit("/spec/template/spec/image", json!("bad"));
    world.settle(false);
    assert_eq!(world.images(), ["bad", "v1", "v1", "v1"]);
    let outcome = reconcile(&world.view, at(world.clock));
    assert!(outcome.changes.is_empty());
    let again = outcome.again.unwrap().as_secs();
    assert!((1..=61).contains(&again), "{again}");
    world.clock += 62;
    world.settle(false);
    assert_eq!(world.reason("Progressing"), "ProgressDeadlineExceeded");
    assert_eq!(
        condition(world.status(), "Progressing").unwrap()["status"],
        "False"
    );
    assert_eq!(world.reason("Available"), "MinimumReplicasAvailable");
    world.edit("/spec/template/spec/image", json!("v3"));
    world.settle(true);
    assert_eq!(world.images(), ["v3", "v3", "v3"]);
    assert_eq!(world.reason("Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn a_pod_that_dies_later_is_no_rollout_that_hangs() {
    let mut world = World::new(&json!({}));
    world.settle(true);
    world.view.pods[0]["status"]["conditions"][0]["status"] = json!("False");
    world.clock += 100_000;
    world.settle(false);
    assert_eq!(world.reason("Progressing"), "NewReplicaSetAvailable");
    assert_eq!(world.reason("Available"), "MinimumReplicasUnavailable");
}

#[test]
fn recreate_waits_until_the_old_pods_are_gone() {
    let mut world = World::new(&json!({ "strategy": { "type": "Recreate" } }));
    world.settle(true);
    world.edit("/spec/template/spec/image", json!("v2"));
    world.step();
    assert_eq!(world.view.sets.len(), 1);
    world.step_set(0);
    for _ in 0..3 {
        world.step();
        assert_eq!(world.view.sets.len(), 1, "the old pods are still ending");
    }
    world.reap();
    world.step();
    assert_eq!(world.view.sets.len(), 2);
    world.settle(true);
    assert_eq!(world.images(), ["v2", "v2", "v2"]);
}

#[test]
fn min_ready_seconds_hold_the_rollout_back() {
    let mut world = World::new(&json!({ "minReadySeconds": 30 }));
    world.settle(true);
    assert_eq!(world.status().get("availableReplicas"), None);
    world.clock += 30;
    world.settle(true);
    assert_eq!(number(world.status(), "/availableReplicas"), 3);
    world.edit("/spec/template/spec/image", json!("v2"));
    world.settle(true);
    assert_eq!(
        world.images(),
        ["v1", "v1", "v1", "v2"],
        "ready, but not yet for long enough"
    );
    world.edit("/spec/minReadySeconds", json!(0));
    world.settle(true);
    assert_eq!(world.images(), ["v2", "v2", "v2"]);
    assert!(
        world
            .view
            .sets
            .iter()
            .any(|set| number(set, "/spec/minReadySeconds") == 0)
    );
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(&json!({ "paused": false }));
    world.settle(true);
    world.edit("/spec/paused", json!(true));
    world.edit("/spec/template/spec/image", json!("v2"));
    world.edit("/spec/replicas", json!(5));
    world.settle(true);
    assert_eq!(world.images(), ["v1"; 5]);
    assert_eq!(world.reason("Progressing"), "DeploymentPaused");
    assert_eq!(
        condition(world.status(), "Progressing").unwrap()["status"],
        "Unknown"
    );
    world.edit("/spec/paused", json!(false));
    world.settle(true);
    assert_eq!(world.images(), ["v2"; 5]);
    assert_eq!(world.reason("Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn resizing_in_the_middle_of_a_rollout_keeps_both_sets() {
    let mut world = World::new(&json!({
        "replicas": 10,
        "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 3, "maxUnavailable": 2 } },
    }));
    world.settle(true);
    world.edit("/spec/template/spec/image", json!("bad"));
    world.settle(false);
    let sizes = |world: &World| {
        world
            .view
            .sets
            .iter()
            .map(|set| number(set, "/spec/replicas"))
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(&world), [8, 5]);
    world.edit("/spec/replicas", json!(20));
    world.step();
    assert_eq!(sizes(&world).iter().sum::<i64>(), 23);
    assert!(
        sizes(&world)[0] > 10 && sizes(&world)[1] > 5,
        "{:?}",
        sizes(&world)
    );
    world.edit("/spec/replicas", json!(0));
    world.settle(false);
    assert_eq!(sizes(&world), [0, 0]);
    assert!(world.images().is_empty());
}

#[test]
fn old_revisions_beyond_the_limit_are_forgotten() {
    let mut world = World::new(&json!({ "revisionHistoryLimit": 2 }));
    for version in 1..=6 {
        world.edit("/spec/template/spec/image", json!(format!("v{version}")));
        world.settle(true);
    }
    assert_eq!(world.revisions(), [4, 5, 6]);
    world.edit("/spec/revisionHistoryLimit", json!(0));
    world.settle(true);
    assert_eq!(world.revisions(), [6]);
}

#[test]
fn nothing_is_made_in_a_closing_namespace_or_for_a_deleted_deployment() {
    let mut world = World::new(&json!({}));
    world.view.closing = true;
    world.step();
    assert!(world.view.sets.is_empty());
    let mut world = World::new(&json!({}));
    world.settle(true);
    world.view.deployment["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    world.edit("/spec/template/spec/image", json!("v2"));
    world.settle(true);
    assert_eq!(world.view.sets.len(), 1);
    assert_eq!(number(world.status(), "/observedGeneration"), 2);
}

#[test]
fn a_set_that_cannot_make_pods_shows_in_the_deployment() {
    let mut world = World::new(&json!({}));
    world.step();
    world.view.sets[0]["status"]["conditions"] = json!([{
        "type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "no",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]);
    world.step();
    assert_eq!(world.reason("ReplicaFailure"), "FailedCreate");
    world.view.sets[0]["status"] = json!({ "replicas": 0 });
    world.step();
    assert_eq!(world.reason("ReplicaFailure"), "");
}

/// A small generator: tests must not depend on the day's luck, but on the seed they print.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// Random interleavings of every actor, with stale statuses as they come: never more pods than
/// the surge allows, never fewer available than promised, and an end in every case.
#[test]
fn random_rollouts_keep_their_promises_and_end() {
    for seed in 1..=80u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let replicas = 1 + dice.roll(12) as i64;
        let (surge, unavailable) = (dice.roll(5) as i64, dice.roll(5) as i64);
        let mut world = World::new(&json!({
            "replicas": replicas,
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } },
        }));
        world.settle(true);
        let wanted = sets::Wanted::of(&world.view.deployment);
        for version in 0..4 {
            world.edit(
                "/spec/template/spec/image",
                json!(format!("v{}", dice.roll(3) + version)),
            );
            for _ in 0..dice.roll(120) {
                random_step(&mut world, &mut dice);
                let live = world.live_pods().count() as i64;
                assert!(
                    live <= wanted.most(),
                    "seed {seed}: {live} pods, at most {}",
                    wanted.most()
                );
                let ready = world
                    .live_pods()
                    .filter(|pod| text(pod, "/status/phase") == "Running")
                    .count() as i64;
                let least = wanted.least_available();
                assert!(ready >= least, "seed {seed}: {ready} available, at least {least}");
            }
        }
        world.settle(true);
        let image = text(&world.view.deployment, "/spec/template/spec/image").to_owned();
        assert_eq!(
            world.images(),
            vec![image.as_str(); replicas as usize],
            "seed {seed}"
        );
        assert_eq!(
            world.reason("Progressing"),
            "NewReplicaSetAvailable",
            "seed {seed}"
        );
    }
}

fn random_step(world: &mut World, dice: &mut Dice) {
    world.clock += dice.roll(3) as i64;
    match dice.roll(4) {
        0 => {
            world.step();
        }
        1 if !world.view.sets.is_empty() => {
            let index = dice.roll(world.view.sets.len());
            world.step_set(index);
        }
        2 if !world.view.pods.is_empty() => {
            let index = dice.roll(world.view.pods.len());
            if text(&world.view.pods[index], "/status/phase") == "Pending" {
                world.start(index);
            }
        }
        _ => {
            world.reap();
        }
    }
}
