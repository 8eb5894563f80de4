//! Tables of one step, and a world of chance in which no order is broken and no more pods are missing than may be.

use std::time::Duration;

use serde_json::json;

use super::plan::Wanted;
use super::*;
use crate::controllers::fields::{is_deleting, uid};
use crate::controllers::pod_state::has_ended;
use crate::controllers::revisions::{Next, next};

const START: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn set(spec: &Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "web", "namespace": "default", "uid": "s", "generation": 1 },
        "spec": {
            "replicas": 3,
            "selector": { "matchLabels": { "app": "web" } },
            "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "c", "image": "v1" }] } },
        },
    });
    for (field, value) in spec.as_object().unwrap() {
        set["spec"][field] = value.clone();
    }
    berth_api::defaults::apply(kinds::STATEFUL_SET, &mut set);
    set
}

fn revision_of(set: &Value, image: &str) -> Value {
    let mut set = set.clone();
    set["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
    match next(&set, &[], HASH) {
        Next::New(mut revision) => {
            revision["metadata"]["name"] = json!(format!("web-{image}"));
            revision
        }
        _ => panic!("there is no revision yet"),
    }
}

/// A world of three pods at most: `pods` are (ordinal, revision, state).
fn view(spec: &Value, pods: &[(u64, &str, &str)]) -> View {
    let set = set(spec);
    let pods = pods.iter().map(|(ordinal, image, state)| {
        let mut of = set.clone();
        of["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        let mut pod = identity::new_pod(&of, &format!("web-{image}"), *ordinal, "node");
        pod["metadata"]["uid"] = json!(format!("{ordinal}"));
        put(&mut pod, state, 0);
        pod
    });
    View {
        pods: pods.collect(),
        current: revision_of(&set, "v1"),
        update: revision_of(&set, "v2"),
        claims: Vec::new(),
        node: "node".to_owned(),
        set,
    }
}

/// Puts a pod in a state: up, down (running, not ready), new, failed, done, going.
fn put(pod: &mut Value, state: &str, second: i64) {
    let ready = |holds: &str| json!([{ "type": "Ready", "status": holds, "lastTransitionTime": at(second).to_string() }]);
    match state {
        "up" => pod["status"] = json!({ "phase": "Running", "conditions": ready("True") }),
        "down" => pod["status"] = json!({ "phase": "Running", "conditions": ready("False") }),
        "new" => pod["status"] = json!({ "phase": "Pending" }),
        "failed" => pod["status"] = json!({ "phase": "Failed" }),
        "done" => pod["status"] = json!({ "phase": "Succeeded" }),
        _ => {
            pod["status"] = json!({ "phase": "Running", "conditions": ready("True") });
            pod["metadata"]["deletionTimestamp"] = json!(at(second).to_string());
        }
    }
}

/// What is done, as `+0:v2` and `-2`.
fn steps(view: &View, now: i64) -> String {
    let told = |action: Action| match action {
        Action::Create(pod) => {
            let image = text(&pod, "/spec/containers/0/image");
            assert_eq!(identity::revision(&pod), format!("web-{image}"));
            format!("+{}:{image}", &name(&pod)[4..])
        }
        Action::Delete(pod) => format!("-{}", &name(&pod)[4..]),
        Action::Relabel(pod) => format!("~{}", &name(&pod)[4..]),
        Action::Claim { claim, pod } => {
            assert_eq!(name(&claim), format!("data-{pod}"));
            format!("c{}", &pod[4..])
        }
        Action::Own(claim) => format!("o{}", &name(&claim)[9..]),
    };
    let steps: Vec<String> = plan(view, at(now)).into_iter().map(told).collect();
    steps.join(" ")
}

#[test]
fn one_step_in_order() {
    let plain = json!({});
    let by_hand = json!({ "updateStrategy": { "type": "OnDelete" } });
    let parted = json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } });
    let two = json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": 2 } } });
    let small = json!({ "replicas": 1 });
    let shifted = json!({ "replicas": 2, "ordinals": { "start": 5 } });
    let slow = json!({ "minReadySeconds": 10 });
    for (what, spec, pods, expected) in [
        ("the first", &plain, &[][..], "+0:v2"),
        ("wait for it", &plain, &[(0, "v2", "new")], ""),
        ("not ready any more", &plain, &[(0, "v2", "down")], ""),
        ("the second", &plain, &[(0, "v2", "up")], "+1:v2"),
        (
            "a gap is filled first",
            &plain,
            &[(0, "v2", "up"), (2, "v2", "up")],
            "+1:v2",
        ),
        (
            "wait for one that goes",
            &plain,
            &[(0, "v2", "going"), (1, "v2", "up")],
            "",
        ),
        ("failed", &plain, &[(0, "v2", "up"), (1, "v2", "failed")], "-1"),
        ("succeeded", &plain, &[(0, "v2", "done"), (1, "v2", "up")], "-0"),
        (
            "all well",
            &plain,
            &[(0, "v2", "up"), (1, "v2", "up"), (2, "v2", "up")],
            "",
        ),
        (
            "the highest old one",
            &plain,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v1", "up")],
            "-2",
        ),
        (
            "then the next",
            &plain,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v2", "up")],
            "-1",
        ),
        (
            "wait for the new one",
            &plain,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v2", "down")],
            "",
        ),
        (
            "a broken old one waits for people",
            &plain,
            &[(0, "v1", "down"), (1, "v1", "up"), (2, "v1", "up")],
            "",
        ),
        (
            "two at once",
            &two,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v1", "up")],
            "-2 -1",
        ),
        (
            "by hand",
            &by_hand,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v1", "up")],
            "",
        ),
        (
            "by hand, deleted",
            &by_hand,
            &[(0, "v1", "up"), (2, "v1", "up")],
            "+1:v2",
        ),
        (
            "above the partition",
            &parted,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v1", "up")],
            "-2",
        ),
        (
            "not below it",
            &parted,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v2", "up")],
            "",
        ),
        (
            "below it the old one comes again",
            &parted,
            &[(0, "v1", "up"), (2, "v2", "up")],
            "+1:v1",
        ),
        (
            "above it the new one",
            &parted,
            &[(0, "v1", "up"), (1, "v1", "up")],
            "+2:v2",
        ),
        (
            "down from the highest",
            &small,
            &[(0, "v2", "up"), (1, "v2", "up"), (2, "v2", "up")],
            "-2",
        ),
        (
            "one after the other",
            &small,
            &[(0, "v2", "up"), (1, "v2", "up"), (2, "v2", "going")],
            "",
        ),
        (
            "a wanted one is not well",
            &small,
            &[(0, "v2", "down"), (1, "v2", "up")],
            "",
        ),
        (
            "the broken one may go",
            &small,
            &[(0, "v2", "up"), (1, "v2", "up"), (2, "v2", "down")],
            "-2",
        ),
        (
            "another is broken",
            &small,
            &[(0, "v2", "up"), (1, "v2", "down"), (2, "v2", "up")],
            "-2",
        ),
        (
            "two are broken",
            &small,
            &[(0, "v2", "up"), (1, "v2", "down"), (2, "v2", "down")],
            "",
        ),
        (
            "two have ended",
            &small,
            &[(0, "v2", "up"), (1, "v2", "failed"), (2, "v2", "failed")],
            "-2",
        ),
        (
            "numbers from five",
            &shifted,
            &[(0, "v2", "up"), (5, "v2", "up")],
            "+6:v2",
        ),
        (
            "those before go last",
            &shifted,
            &[(0, "v2", "up"), (5, "v2", "up"), (6, "v2", "up")],
            "-0",
        ),
        ("ready, not yet for long enough", &slow, &[(0, "v2", "up")], ""),
    ] {
        assert_eq!(steps(&view(spec, pods), 5), expected, "{what}");
    }
    assert_eq!(steps(&view(&slow, &[(0, "v2", "up")]), 10), "+1:v2");
}

#[test]
fn one_step_in_parallel() {
    let policy = |more: Value| {
        let mut spec = json!({ "podManagementPolicy": "Parallel" });
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        spec
    };
    let plain = policy(json!({}));
    let small = policy(json!({ "replicas": 1 }));
    let two = policy(json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": "70%" } } }));
    for (what, spec, pods, expected) in [
        ("all at once", &plain, &[][..], "+0:v2 +1:v2 +2:v2"),
        (
            "whatever the others do",
            &plain,
            &[(1, "v2", "new")],
            "+0:v2 +2:v2",
        ),
        (
            "all the surplus",
            &small,
            &[(0, "v2", "down"), (1, "v2", "up"), (2, "v2", "new")],
            "-2 -1",
        ),
        (
            "ended ones",
            &plain,
            &[(0, "v2", "failed"), (1, "v2", "done"), (2, "v2", "up")],
            "-0 -1",
        ),
        (
            "an update goes one by one",
            &plain,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v1", "up")],
            "-2",
        ),
        (
            "or two by two",
            &two,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v1", "up")],
            "-2 -1",
        ),
        (
            "wait for the new one",
            &plain,
            &[(0, "v1", "up"), (1, "v1", "up"), (2, "v2", "new")],
            "",
        ),
        (
            "a broken old one is replaced first",
            &plain,
            &[(0, "v1", "down"), (1, "v1", "up"), (2, "v1", "up")],
            "-0",
        ),
        (
            "all are broken",
            &plain,
            &[(0, "v1", "down"), (1, "v1", "down"), (2, "v1", "down")],
            "-2",
        ),
        (
            "one is under way",
            &plain,
            &[(0, "v1", "down"), (1, "v1", "down"), (2, "v2", "new")],
            "",
        ),
        (
            "an update beside a gap",
            &plain,
            &[(0, "v1", "up"), (1, "v1", "up")],
            "+2:v2",
        ),
    ] {
        assert_eq!(steps(&view(spec, pods), 5), expected, "{what}");
    }
    let many = policy(json!({ "replicas": 2_000_000_000 }));
    assert_eq!(plan(&view(&many, &[]), at(0)).len(), 500, "not all in one look");
}

#[test]
fn a_deleted_set_does_nothing_and_a_lost_label_comes_back() {
    let mut view = view(&json!({}), &[(0, "v2", "up"), (1, "v2", "up"), (2, "v2", "up")]);
    view.pods[1]["metadata"]["labels"] = json!({ "app": "web", revisions::REVISION_HASH: "web-v2" });
    assert_eq!(steps(&view, 5), "~1");
    view.set["metadata"]["deletionTimestamp"] = json!(at(0).to_string());
    assert_eq!(steps(&view, 5), "");
}

#[test]
fn claims_come_before_pods_and_change_owners_before_pods_go() {
    let spec = |deleted: &str, scaled: &str, replicas: u64| {
        json!({
            "replicas": replicas,
            "persistentVolumeClaimRetentionPolicy": { "whenDeleted": deleted, "whenScaled": scaled },
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }],
        })
    };
    let with_claims = |spec: &Value, pods: &[(u64, &str, &str)], claims: &[u64]| {
        let mut view = view(spec, pods);
        for ordinal in claims {
            view.claims
                .extend(claims::of_pod(&view.set, &format!("web-{ordinal}")));
        }
        view
    };
    let keep = spec("Retain", "Retain", 3);
    let up = [(0, "v2", "up"), (1, "v2", "up"), (2, "v2", "up")];
    for (what, spec, pods, claims, expected) in [
        ("a claim, then its pod", &keep, &[][..], &[][..], "c0 +0:v2"),
        ("the claim is there still", &keep, &[], &[0], "+0:v2"),
        (
            "a pod that waits for its claim",
            &keep,
            &[(0, "v2", "new")],
            &[],
            "c0",
        ),
        ("all well", &keep, &up, &[0, 1, 2], ""),
        (
            "with the set",
            &spec("Delete", "Retain", 3),
            &up,
            &[0, 1, 2],
            "o0 o1 o2",
        ),
        (
            "with the pod",
            &spec("Retain", "Delete", 2),
            &up,
            &[0, 1, 2],
            "o2 -2",
        ),
        ("neither", &spec("Retain", "Retain", 2), &up, &[0, 1, 2], "-2"),
        (
            "both",
            &spec("Delete", "Delete", 2),
            &up,
            &[0, 1, 2],
            "o0 o1 o2 -2",
        ),
    ] {
        assert_eq!(steps(&with_claims(spec, pods, claims), 5), expected, "{what}");
    }
    // The claim goes with a former pod: the next one waits, and in parallel only it.
    let mut view = with_claims(&keep, &[(0, "v2", "up")], &[0, 1]);
    let former =
        json!({ "apiVersion": "v1", "kind": "Pod", "name": "web-1", "uid": "gone", "controller": true });
    view.claims[1]["metadata"]["ownerReferences"] = json!([former]);
    assert_eq!(steps(&view, 5), "");
    view.set["spec"]["podManagementPolicy"] = json!("Parallel");
    assert_eq!(steps(&view, 5), "c2 +2:v2");
}

#[test]
fn the_status_counts_and_completes() {
    let up = [(0, "v1", "up"), (1, "v2", "going"), (2, "v2", "up")];
    let mut view = view(&json!({ "minReadySeconds": 10 }), &up);
    let (told, wait) = status(&view, at(4));
    assert_eq!(
        told,
        json!({
            "replicas": 3, "readyReplicas": 3, "availableReplicas": 0, "currentReplicas": 1, "updatedReplicas": 1,
            "currentRevision": "web-v1", "updateRevision": "web-v2", "collisionCount": 0, "observedGeneration": 1,
        })
    );
    assert_eq!(wait, Some(Duration::from_secs(6)));
    for pod in &mut view.pods {
        pod["metadata"]["labels"][revisions::REVISION_HASH] = json!("web-v2");
        pod["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("deletionTimestamp");
    }
    let (told, wait) = status(&view, at(10));
    assert_eq!(
        (
            &told["currentRevision"],
            &told["currentReplicas"],
            &told["availableReplicas"]
        ),
        (&json!("web-v2"), &json!(3), &json!(3))
    );
    assert_eq!(wait, None);
    // By hand an update is never said to be over, as upstream.
    view.set["spec"]["updateStrategy"] = json!({ "type": "OnDelete" });
    assert_eq!(status(&view, at(10)).0["currentRevision"], "web-v1");
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

struct World {
    view: View,
    clock: i64,
    serial: usize,
    seed: u64,
}

impl World {
    fn healthy(&self, pod: &Value) -> bool {
        let min_ready = number(&self.view.set, "/spec/minReadySeconds");
        plan::serves(pod, min_ready, at(self.clock)) && !is_deleting(pod)
    }

    fn place(&self, pod: &Value) -> i64 {
        let start = number(&self.view.set, "/spec/ordinals/start");
        identity::ordinal(&self.view.set, pod).unwrap() as i64 - start
    }

    /// Places below the number of replicas whose pods serve.
    fn serving(&self, below: i64) -> i64 {
        let mut pods: Vec<&Value> = self.view.pods.iter().filter(|pod| self.healthy(pod)).collect();
        pods.retain(|pod| (0..below).contains(&self.place(pod)));
        pods.len() as i64
    }

    /// One step, which may be stopped after any write; every write is held against the promises.
    fn step(&mut self, writes: usize) -> bool {
        let actions = plan(&self.view, at(self.clock));
        let moved = !actions.is_empty();
        for action in actions.into_iter().take(writes) {
            self.check(&action);
            match action {
                Action::Create(mut pod) => {
                    self.serial += 1;
                    pod["metadata"]["uid"] = json!(self.serial.to_string());
                    self.view.pods.push(pod);
                }
                Action::Delete(gone) => {
                    let clock = self.clock;
                    let mut pods = self.view.pods.iter_mut();
                    let pod = pods.find(|pod| uid(pod) == uid(&gone)).unwrap();
                    pod["metadata"]["deletionTimestamp"] = json!(at(clock).to_string());
                }
                other => panic!(
                    "seed {}: no label is lost, there are no claims: {other:?}",
                    self.seed
                ),
            }
        }
        let (status, _) = status(&self.view, at(self.clock));
        if text(&status, "/currentRevision") == name(&self.view.update) {
            self.view.current = self.view.update.clone();
        }
        self.view.set["status"] = status;
        moved
    }

    fn check(&self, action: &Action) {
        let seed = self.seed;
        let spec = &self.view.set["spec"];
        let replicas = number(spec, "/replicas");
        let ordered = text(spec, "/podManagementPolicy") != "Parallel";
        match action {
            Action::Create(pod) => {
                let place = self.place(pod);
                let same = self.view.pods.iter().any(|known| name(known) == name(pod));
                assert!(!same, "seed {seed}: {} is there", name(pod));
                assert!(
                    (0..replicas).contains(&place),
                    "seed {seed}: {place} of {replicas}"
                );
                if ordered {
                    assert_eq!(self.serving(place), place, "seed {seed}: {} too early", name(pod));
                }
                let below = place < number(spec, "/updateStrategy/rollingUpdate/partition");
                let of = if below {
                    &self.view.current
                } else {
                    &self.view.update
                };
                assert_eq!(identity::revision(pod), name(of), "seed {seed}");
            }
            Action::Delete(pod) => {
                let place = self.place(pod);
                let wanted = (0..replicas).contains(&place);
                if !wanted && ordered {
                    let later = self.view.pods.iter().filter(|other| self.place(other) > place);
                    let later = later.filter(|other| self.place(other) >= replicas || place < 0);
                    let later = later.filter(|other| !(0..replicas).contains(&self.place(other)));
                    assert_eq!(later.count(), 0, "seed {seed}: {} before a higher one", name(pod));
                    assert_eq!(
                        self.serving(replicas),
                        replicas,
                        "seed {seed}: a wanted pod is not well"
                    );
                }
                if wanted && !has_ended(pod) {
                    let partition = number(spec, "/updateStrategy/rollingUpdate/partition");
                    assert!(
                        place >= partition,
                        "seed {seed}: {} is below {partition}",
                        name(pod)
                    );
                    assert_ne!(identity::revision(pod), name(&self.view.update), "seed {seed}");
                    if self.healthy(pod) {
                        let most = spec["updateStrategy"]["rollingUpdate"]["maxUnavailable"]
                            .as_i64()
                            .unwrap();
                        let left = self.serving(replicas) - 1;
                        assert!(
                            left >= replicas - most,
                            "seed {seed}: {left} of {replicas} left, not {most} less"
                        );
                    }
                }
            }
            _ => {}
        }
    }

    /// The node: some pod becomes ready, or unready, or fails, or goes.
    fn chance(&mut self, dice: &mut Dice) {
        if self.view.pods.is_empty() {
            return;
        }
        let index = dice.roll(self.view.pods.len());
        if is_deleting(&self.view.pods[index]) {
            self.view.pods.remove(index);
            return;
        }
        let state = ["up", "up", "up", "up", "up", "down", "failed"][dice.roll(7)];
        let clock = self.clock;
        let pod = &mut self.view.pods[index];
        if !has_ended(pod) && (state != "up" || !is_up(pod)) {
            put(pod, state, clock);
        }
    }

    fn settle(&mut self) {
        for _ in 0..500 {
            self.clock += 1;
            let mut moved = self.step(99);
            let clock = self.clock;
            let before = self.view.pods.len();
            self.view.pods.retain(|pod| !is_deleting(pod));
            moved |= before != self.view.pods.len();
            for pod in &mut self.view.pods {
                if !has_ended(pod) && !is_up(pod) {
                    put(pod, "up", clock);
                    moved = true;
                }
            }
            if !moved && status(&self.view, at(self.clock)).1.is_none() {
                return;
            }
        }
        panic!("seed {}: does not settle: {:?}", self.seed, self.view.pods);
    }
}

fn is_up(pod: &Value) -> bool {
    text(pod, "/status/phase") == "Running" && pod["status"]["conditions"][0]["status"] == "True"
}

/// Random interleavings of users, controller and node: numbers are never given twice, orders are kept, an update takes
/// no more pods than it may, and each case comes to its end.
#[test]
fn random_sets_keep_their_promises_and_end() {
    for seed in 1..=300u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let policy = ["OrderedReady", "Parallel"][dice.roll(2)];
        let spec = json!({
            "podManagementPolicy": policy,
            "minReadySeconds": dice.roll(3),
            "ordinals": { "start": dice.roll(3) },
            "updateStrategy": { "rollingUpdate": { "maxUnavailable": 1 + dice.roll(3), "partition": 0 } },
        });
        let mut view = view(&spec, &[]);
        view.current = view.update.clone();
        let mut world = World {
            view,
            clock: 0,
            serial: 0,
            seed,
        };
        world.settle();
        for version in 0..4 {
            let image = format!("v{}", version + dice.roll(3));
            world.view.update = revision_of(&world.view.set, &image);
            world.view.set["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
            world.view.set["spec"]["replicas"] = json!(dice.roll(6));
            world.view.set["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(dice.roll(3));
            for _ in 0..dice.roll(100) {
                world.clock += dice.roll(2) as i64;
                if dice.roll(2) == 0 {
                    let writes = dice.roll(4);
                    world.step(writes);
                } else {
                    world.chance(&mut dice);
                }
            }
        }
        world.settle();
        let partition = number(&world.view.set, "/spec/updateStrategy/rollingUpdate/partition");
        let replicas = Wanted::of(&world.view.set).replicas as usize;
        assert_eq!(world.view.pods.len(), replicas, "seed {seed}");
        for pod in &world.view.pods {
            let updated = identity::revision(pod) == name(&world.view.update);
            assert!(
                updated || world.place(pod) < partition,
                "seed {seed}: {} is old",
                name(pod)
            );
        }
    }
}
