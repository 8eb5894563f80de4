//! Tables of one step, and a world of chance in which a surge never leaves the node without its pod.

use super::*;
use crate::controllers::fields::time;
use crate::controllers::pod_state::is_available;

const START: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(START + second).unwrap()
}

fn set(spec: &Value) -> Value {
    let mut set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": "agent", "namespace": "default", "uid": "d", "generation": 3 },
        "spec": {
            "selector": { "matchLabels": { "app": "agent" } },
            "template": { "metadata": { "labels": { "app": "agent" } }, "spec": { "containers": [{ "name": "c", "image": "i" }] } },
        },
    });
    for (field, value) in spec.as_object().unwrap() {
        set["spec"][field] = value.clone();
    }
    berth_api::defaults::apply(kinds::DAEMON_SET, &mut set);
    set
}

fn surging() -> Value {
    json!({ "updateStrategy": { "rollingUpdate": { "maxSurge": "10%", "maxUnavailable": 0 } } })
}

/// A pod of a revision, made (and ready, if it is) at a second.
fn pod(id: &str, hash: &str, phase: &str, ready: Option<i64>, made: i64) -> Value {
    let mut pod = pod_from_template(&set(&json!({})), id, "node");
    pod["metadata"]["uid"] = json!(id);
    pod["metadata"]["creationTimestamp"] = json!(at(made).to_string());
    pod["metadata"]["labels"][REVISION_HASH] = json!(hash);
    pod["status"] = json!({ "phase": phase });
    if let Some(second) = ready {
        pod["status"]["conditions"] =
            json!([{ "type": "Ready", "status": "True", "lastTransitionTime": at(second).to_string() }]);
    }
    pod
}

fn ready(id: &str, hash: &str, made: i64) -> Value {
    pod(id, hash, "Running", Some(made), made)
}

fn starting(id: &str, hash: &str, made: i64) -> Value {
    pod(id, hash, "Pending", None, made)
}

fn going(mut pod: Value) -> Value {
    pod["metadata"]["deletionTimestamp"] = json!(at(0).to_string());
    pod
}

fn view(spec: &Value, pods: Vec<Value>) -> View {
    View {
        set: set(spec),
        pods,
        hash: "new".to_owned(),
        fits: true,
        stays: true,
        patience: None,
    }
}

#[test]
fn one_step() {
    let plain = json!({});
    let by_hand = json!({ "updateStrategy": { "type": "OnDelete" } });
    let slowly = json!({
        "minReadySeconds": 10,
        "updateStrategy": { "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } },
    });
    let (old, new) = (ready("o", "old", 0), ready("n", "new", 5));
    for (what, spec, pods, create, delete) in [
        ("a pod", &plain, vec![], true, &[][..]),
        ("it is there", &plain, vec![new.clone()], false, &[]),
        (
            "wait for the one that ends",
            &plain,
            vec![going(old.clone())],
            false,
            &[],
        ),
        (
            "the node has let go of it",
            &plain,
            vec![going(pod("o", "old", "Failed", None, 0))],
            true,
            &[],
        ),
        ("replace", &plain, vec![old.clone()], false, &["o"]),
        (
            "replace what never came up",
            &plain,
            vec![starting("o", "old", 0)],
            false,
            &["o"],
        ),
        ("by hand only", &by_hand, vec![old.clone()], false, &[]),
        ("by hand, deleted", &by_hand, vec![], true, &[]),
        (
            "the oldest stays",
            &plain,
            vec![new.clone(), starting("m", "new", 6)],
            false,
            &["m"],
        ),
        (
            "failed",
            &plain,
            vec![pod("f", "new", "Failed", None, 0)],
            false,
            &["f"],
        ),
        (
            "succeeded",
            &plain,
            vec![pod("s", "new", "Succeeded", None, 0)],
            false,
            &["s"],
        ),
        ("surge", &surging(), vec![old.clone()], true, &[]),
        (
            "the new one is not available yet",
            &surging(),
            vec![old.clone(), starting("n", "new", 5)],
            false,
            &[],
        ),
        (
            "the old one goes",
            &surging(),
            vec![old.clone(), new.clone()],
            false,
            &["o"],
        ),
        (
            "an old one that is not ready is worth nothing",
            &surging(),
            vec![starting("o", "old", 0), starting("n", "new", 5)],
            false,
            &["o"],
        ),
        (
            "ready, not yet for long enough",
            &slowly,
            vec![old.clone(), new.clone()],
            false,
            &[],
        ),
        (
            "two of each kind",
            &surging(),
            vec![
                old.clone(),
                starting("p", "older", 1),
                starting("n", "new", 5),
                starting("m", "new", 6),
            ],
            false,
            &["m", "p"],
        ),
    ] {
        let plan = plan(&view(spec, pods), at(10));
        let deleted: Vec<&str> = plan.delete.iter().map(uid).collect();
        assert_eq!((plan.create, &deleted[..]), (create, delete), "{what}");
    }
}

#[test]
fn a_node_that_is_not_asked_for_has_no_pod() {
    let mut view = view(&surging(), vec![ready("a", "new", 0), ready("b", "old", 0)]);
    view.fits = false;
    view.stays = false;
    let done = plan(&view, at(1));
    assert_eq!((done.create, done.delete.len()), (false, 2));
    let (status, _) = status(&view, at(1));
    assert_eq!(
        status,
        json!({
            "currentNumberScheduled": 0, "desiredNumberScheduled": 0, "numberMisscheduled": 1, "numberReady": 0,
            "observedGeneration": 3,
        })
    );
    view.pods.clear();
    assert!(!plan(&view, at(1)).create);
    view.fits = true;
    view.stays = true;
    view.set["metadata"]["deletionTimestamp"] = json!(at(0).to_string());
    assert!(!plan(&view, at(1)).create, "its pods are the collector's");
}

#[test]
fn a_pod_stays_on_a_node_that_takes_no_more() {
    let mut view = view(&json!({}), vec![ready("a", "old", 0)]);
    view.fits = false;
    let done = plan(&view, at(1));
    assert_eq!(
        (done.create, done.delete.len()),
        (false, 0),
        "nor is it updated: no other could come"
    );
    assert_eq!(status(&view, at(1)).0["numberMisscheduled"], 1);
    view.pods.clear();
    assert!(!plan(&view, at(1)).create);
}

#[test]
fn a_failed_pod_is_replaced_after_a_pause() {
    let mut view = view(&json!({}), vec![pod("f", "new", "Failed", None, 0)]);
    view.patience = Some(at(8));
    let waits = plan(&view, at(5));
    assert!(waits.delete.is_empty() && waits.again == Some(Duration::from_secs(3)));
    let done = plan(&view, at(8));
    assert!(done.failed && done.delete.len() == 1);
    assert_eq!(
        done.events[0].2,
        "Found failed daemon pod default/agent-f on node node, will try to kill it"
    );

    let mut controller = DaemonSetController::default();
    let key = Key::new(kinds::DAEMON_SET, "default", "agent");
    let mut second = 0;
    let mut pauses = Vec::new();
    for _ in 0..12 {
        controller.note_failure(&key, at(second));
        let pause = controller.failures[&key].pause;
        pauses.push(pause.as_secs());
        second += pause.as_secs() as i64;
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]);
    controller.note_failure(&key, at(second + 3600));
    assert_eq!(controller.failures[&key].pause, FIRST_PAUSE);
}

#[test]
fn the_status_counts_the_oldest_pod() {
    let spec = json!({ "minReadySeconds": 10 });
    let told = |view: &View, now: i64| {
        let (status, wait) = status(view, at(now));
        let count = |field: &str| number(&status, &format!("/{field}"));
        let counts = [
            "desiredNumberScheduled",
            "currentNumberScheduled",
            "numberReady",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
        ];
        (counts.map(count), wait)
    };
    assert_eq!(told(&view(&spec, vec![]), 0), ([1, 0, 0, 0, 0, 1], None));
    let up = view(&spec, vec![ready("n", "new", 5)]);
    let wait = Some(Duration::from_secs(7));
    assert_eq!(told(&up, 8), ([1, 1, 1, 1, 0, 1], wait));
    assert_eq!(told(&up, 15), ([1, 1, 1, 1, 1, 0], None));
    // Made within one second: the one of the former template is the older.
    let surge = view(&json!({}), vec![ready("a", "new", 5), ready("b", "old", 5)]);
    assert_eq!(told(&surge, 15), ([1, 1, 1, 0, 1, 0], None));
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
}

impl World {
    /// One step of the controller, which may be stopped after any of its writes.
    fn step(&mut self, writes: usize) -> bool {
        let plan = plan(&self.view, at(self.clock));
        let mut left = writes;
        let mut moved = false;
        for gone in &plan.delete {
            if left == 0 {
                return moved;
            }
            left -= 1;
            moved = true;
            let mut pods = self.view.pods.iter_mut();
            let pod = pods.find(|pod| uid(pod) == uid(gone)).unwrap();
            pod["metadata"]["deletionTimestamp"] = json!(at(self.clock).to_string());
        }
        if plan.create && left > 0 {
            moved = true;
            self.serial += 1;
            let mut made = starting(&format!("{:05}", self.serial), "", self.clock);
            made["metadata"]["labels"][REVISION_HASH] = json!(self.view.hash);
            self.view.pods.push(made);
        }
        moved
    }

    fn start(&mut self, index: usize) -> bool {
        let clock = self.clock;
        let pod = &mut self.view.pods[index];
        let waiting = text(pod, "/status/phase") == "Pending";
        if waiting {
            pod["status"] = ready("x", "", clock)["status"].clone();
        }
        waiting
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.clock += 1;
            let mut moved = self.step(9);
            for index in 0..self.view.pods.len() {
                moved |= self.start(index);
            }
            let before = self.view.pods.len();
            self.view.pods.retain(|pod| !is_deleting(pod));
            moved |= before != self.view.pods.len();
            if !moved && plan(&self.view, at(self.clock)).again.is_none() {
                return;
            }
        }
        panic!("does not settle: {:?}", self.view.pods);
    }

    /// Pods that stay and serve.
    fn serving(&self) -> usize {
        let min_ready = number(&self.view.set, "/spec/minReadySeconds");
        let mut pods: Vec<&Value> = self.view.pods.iter().filter(|pod| !is_deleting(pod)).collect();
        pods.retain(|pod| is_available(pod, min_ready, at(self.clock)));
        pods.len()
    }
}

/// Random interleavings of controller and node: with a surge there is always a pod that serves, without one there are
/// never two, and either comes to an end.
#[test]
fn random_updates_keep_their_promises_and_end() {
    for seed in 1..=200u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let surge = dice.roll(2) == 0;
        let min_ready = dice.roll(4);
        let mut spec = if surge { surging() } else { json!({}) };
        spec["minReadySeconds"] = json!(min_ready);
        let mut world = World {
            view: view(&spec, Vec::new()),
            clock: 0,
            serial: 0,
        };
        world.settle();
        for version in 0..4 {
            world.view.hash = format!("v{}", version + dice.roll(3));
            for _ in 0..dice.roll(80) {
                world.clock += dice.roll(3) as i64;
                match dice.roll(4) {
                    0 | 1 => {
                        let writes = dice.roll(3);
                        world.step(writes);
                    }
                    2 if !world.view.pods.is_empty() => {
                        let index = dice.roll(world.view.pods.len());
                        world.start(index);
                    }
                    _ => {
                        let mut pods = world.view.pods.iter();
                        let gone = pods.position(is_deleting);
                        gone.map(|index| world.view.pods.remove(index));
                    }
                }
                let present = world.view.pods.len();
                if surge {
                    assert!(world.serving() >= 1, "seed {seed}: {:?}", world.view.pods);
                } else {
                    assert!(present <= 1, "seed {seed}: {present} pods");
                }
            }
        }
        world.settle();
        let pods = &world.view.pods;
        assert_eq!(pods.len(), 1, "seed {seed}");
        assert_eq!(label(&pods[0]), world.view.hash, "seed {seed}");
        assert!(time(&pods[0], "/metadata/creationTimestamp").is_some());
    }
}
