//! `berthd` is killed at random points of its work while one of each kind of workload comes, changes and goes.

use super::workload::{ENDING, Round, Seen, items, outcome};
use super::{Random, Stage, ctl, list, named};
use crate::resize::newest;
use crate::world::WAIT;
use harness::{need_root, run, skip, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Every point at which `berthd` may be killed; each has to be hit.
const POINTS: [&str; 50] = [
    "store: before a commit",
    "store: after a commit",
    "state file: before it is written",
    "state file: before it is renamed",
    "state file: after it is renamed",
    "set up: before",
    "set up: before the network is attached",
    "set up: after the network is attached",
    "set up: after",
    "start monitor: before",
    "start monitor: after",
    "create: before",
    "create: before the monitor is asked",
    "create: before the start",
    "create: after the start",
    "create: after",
    "stop: before",
    "stop: after",
    "signal: before",
    "signal: after",
    "remove: before",
    "remove: before the monitor forgets",
    "remove: after",
    "sweep: before",
    "sweep: after",
    "resize: before",
    "resize: after",
    "provision: the folder is there",
    "provision: the volume is stored",
    "bind: the volume is taken",
    "bind: the claim has its volume",
    "reclaim: the folder is gone",
    "fail: before",
    "fail: after",
    "tear down: before",
    "tear down: after",
    "containers: before",
    "containers: after",
    "monitor's end: before",
    "monitor's end: after",
    "cgroups: before",
    "cgroups: after",
    "network: before",
    "network: after",
    "mounts: before",
    "mounts: after",
    "directories: before",
    "directories: after",
    "forget: before",
    "forget: after",
];
/// A daemon that has not come to its point so long after it was ready is killed where it is, which does not count.
const IDLE: Duration = Duration::from_millis(700);
/// How long a round may take, with all its kills.
const ROUND: Duration = Duration::from_secs(300);

/// The workload, with or without kills.
struct Storm {
    stage: Stage,
    kubectl: PathBuf,
    random: Random,
    /// Kills are under way.
    armed: bool,
    log: PathBuf,
    /// When the daemon that runs was seen to be ready, if it was.
    ready: Option<Instant>,
    /// Daemons that have been ready so far.
    before: usize,
    /// Of `berthd`, where it came to no point.
    idle: usize,
    stays: Value,
}

impl Storm {
    fn new(kubectl: PathBuf) -> Storm {
        let stage = Stage::new();
        let log = stage.starts.path().join("faults");
        let mut spec = stage.spec(WAIT, "Always");
        let share = Round { number: 0 }.share();
        spec["containers"][0]["resources"] = json!({"limits": {"cpu": share, "memory": "32Mi"}});
        stage.world.apply(&named("stays", &spec));
        stage.world.apply(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                   "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
        );
        // How many there are of it is the autoscaler's.
        stage.world.apply(
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "scaled"},
                   "spec": {"selector": {"matchLabels": {"app": "scaled"}}, "template": {
                       "metadata": {"labels": {"app": "scaled"}}, "spec": stage.spec(WAIT, "Always")}}}),
        );
        let stays = stage.world.ready("stays");
        Storm {
            stage,
            kubectl,
            random: Random::seeded(),
            armed: false,
            log,
            ready: None,
            before: 0,
            idle: 0,
            stays,
        }
    }

    /// How often each point has killed.
    fn kills(&self) -> BTreeMap<&'static str, usize> {
        let mut kills: BTreeMap<&str, usize> = POINTS.iter().map(|point| (*point, 0)).collect();
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        for line in text.lines() {
            if let Some(point) = POINTS.iter().find(|point| **point == line) {
                *kills.entry(point).or_default() += 1;
            }
        }
        kills
    }

    /// A daemon is there, or is started; while kills are under way, with the next point.
    fn tend(&mut self) {
        if !self.armed {
            return;
        }
        if !self.stage.world.node.has_ended() {
            // On a busy machine it takes its time to begin.
            if self.ready.is_none() && self.daemons() > self.before {
                self.ready = Some(Instant::now());
            }
            if self.ready.is_none_or(|since| since.elapsed() < IDLE) {
                return;
            }
            self.stage.world.node.kill_daemon();
            self.idle += 1;
        }
        let kills = self.kills();
        let fewest = kills.values().min().copied().unwrap_or(0);
        let rare: Vec<&str> = POINTS.into_iter().filter(|p| kills[p] == fewest).collect();
        self.before = self.daemons();
        self.ready = None;
        // As long as there are points that have never killed, they come more often.
        let often = if fewest == 0 { 2 } else { 1 };
        let fault = match self.random.below(4) {
            number if number < often => format!("{}:1", rare[self.random.below(rare.len())]),
            1 => format!(
                "{}:{}",
                POINTS[self.random.below(POINTS.len())],
                1 + self.random.below(2)
            ),
            _ => format!("*:{}", 1 + self.random.below(8)),
        };
        let log = self.log.to_string_lossy().into_owned();
        self.stage
            .world
            .node
            .launch(&[("BERTH_FAULT", &fault), ("BERTH_FAULT_LOG", &log)]);
    }

    /// How many daemons have been ready.
    fn daemons(&self) -> usize {
        self.stage.world.node.log().matches("berthd is ready").count()
    }

    /// Waits, while daemons die and are started.
    #[track_caller]
    fn until<T>(&mut self, what: &str, mut condition: impl FnMut(&Stage) -> Result<T, String>) -> T {
        wait_for(what, ROUND, || {
            self.tend();
            condition(&self.stage)
        })
    }

    /// One round: everything changes, pods end in every way; what came of it.
    fn round(&mut self, number: usize) -> Value {
        let round = Round { number };
        let list_ = json!({"apiVersion": "v1", "kind": "List", "items": round.objects(&self.stage)});
        let file = self.stage.starts.path().join("manifest.json");
        std::fs::write(&file, list_.to_string()).expect("write the manifest");
        let file = file.to_string_lossy().into_owned();
        self.until("the manifests to be applied", |stage| {
            ctl(stage, &["apply", "-f", &file])
        });
        self.resize(round);
        let outcome = self.until("the round's outcome", |stage| {
            let seen = look(stage, round)?;
            outcome(stage, &seen, round)
        });
        self.clear(round);
        outcome
    }

    /// Gives the pod that stays another share of the processors, without a new start.
    fn resize(&mut self, round: Round) {
        let share = round.share();
        let patch = json!({"spec": {"containers": [{"name": "c", "resources": {
            "limits": {"cpu": share, "memory": "32Mi"}, "requests": {"cpu": share, "memory": "32Mi"}}}]}})
        .to_string();
        let kubectl = self.kubectl.clone();
        self.until("the pod to be resized", |stage| {
            let arguments = [
                "patch",
                "pod",
                "stays",
                "--subresource",
                "resize",
                "--patch",
                &patch,
            ];
            let told = stage.world.node.kubectl(&kubectl, &arguments);
            let pod = list(stage, &["pod", "stays"])?;
            let status = &pod["status"]["containerStatuses"][0];
            if status["resources"]["limits"]["cpu"] == share {
                Ok(())
            } else {
                Err(format!("{}{status}", told.stderr))
            }
        });
    }

    /// Waits until the round's pods that have ended, its Job and its claim are gone, with the claim's folder.
    fn clear(&mut self, round: Round) {
        let job = format!("job-{}", round.number);
        self.until("what has ended to be gone", |stage| {
            let pods = list(stage, &["pods"])?;
            let mut names: Vec<String> = items(&pods)
                .iter()
                .filter_map(|pod| pod["metadata"]["name"].as_str())
                .filter(|name| ENDING.contains(name) || name.starts_with("job-"))
                .map(|name| format!("pod/{name}"))
                .collect();
            for (kind, name) in [("job", job.as_str()), ("pvc", "scratch")] {
                if list(stage, &[kind, name]).is_ok() {
                    names.push(format!("{kind}/{name}"));
                }
            }
            let folders = std::fs::read_dir(stage.world.node.data_dir().join("volumes"))
                .map_err(|error| error.to_string())?
                .count();
            if names.is_empty() && folders == 2 {
                return Ok(());
            }
            for name in &names {
                let _ = ctl(stage, &["delete", name, "--wait=false"]);
            }
            Err(format!("{folders} folders of volumes, {names:?}: {pods}"))
        });
    }

    /// Nothing has been started more often than it should, whether it is there still or not.
    fn check_starts(&self, again: &[String]) {
        for (uid, times) in self.stage.started() {
            let most = if again.contains(&uid) { 2 } else { 1 };
            assert!(times <= most, "pod {uid} was started {times} times");
        }
        let stays = self.stage.world.get("stays").expect("the pod");
        for field in ["containerID", "restartCount", "state"] {
            let of = |pod: &Value| pod["status"]["containerStatuses"][0][field].clone();
            assert_eq!(of(&stays), of(&self.stays), "{field}");
        }
    }
}

/// Reads everything that an outcome is made of.
fn look(stage: &Stage, round: Round) -> Result<Seen, String> {
    Ok(Seen {
        pods: list(stage, &["pods"])?,
        web: list(stage, &["deployment", "web"])?,
        endpoints: list(stage, &["endpoints", "web"])?,
        job: list(stage, &["job", &format!("job-{}", round.number)])?,
        claims: list(stage, &["pvc"])?,
    })
}

/// The outcome without the uid that differs from round to round.
fn settled(mut outcome: Value, again: &mut Vec<String>) -> Value {
    let uid = outcome.as_object_mut().and_then(|o| o.remove("again's uid"));
    again.extend(uid.and_then(|uid| uid.as_str().map(str::to_owned)));
    outcome
}

#[test]
fn berthd_killed_anywhere_changes_nothing() {
    need_root!();
    let Ok(wanted) = std::env::var("BERTH_FAULT_KILLS") else {
        harness::skip!("takes minutes: make test-faults")
    };
    let Some(kubectl) = newest() else {
        skip!("needs a kubectl that knows the subresource resize (1.32)")
    };
    let wanted: usize = wanted.parse().expect("BERTH_FAULT_KILLS is a number");
    let mut storm = Storm::new(kubectl);
    let mut again = Vec::new();
    let calm: Vec<Value> = (0..2).map(|n| settled(storm.round(n), &mut again)).collect();
    println!("undisturbed: {calm:?}");
    assert_eq!(calm[0]["ends"]["code"], 5);
    assert_eq!(
        (&calm[0]["again"]["before"], &calm[0]["again"]["starts"]),
        (&json!(7), &json!(2))
    );
    storm.check_starts(&again);
    let begun = Instant::now();
    storm.stage.world.node.kill_daemon();
    storm.armed = true;
    let mut number = 2;
    loop {
        let kills = storm.kills();
        let total: usize = kills.values().sum();
        let missed: Vec<&&str> = kills.iter().filter(|(_, n)| **n == 0).map(|(p, _)| p).collect();
        if total >= wanted && missed.is_empty() {
            println!(
                "{total} kills at {} points, {} beside, {} rounds, {:?}",
                kills.len(),
                storm.idle,
                number - 2,
                begun.elapsed()
            );
            break;
        }
        assert!(number < 40 + wanted / 5, "{total} kills, none at {missed:?}");
        let stormy = settled(storm.round(number), &mut again);
        assert_eq!(stormy, calm[number % 2], "round {number}");
        number += 1;
    }
    storm.armed = false;
    if !storm.stage.world.node.has_ended() {
        storm.stage.world.node.kill_daemon();
    }
    storm.stage.world.node.spawn();
    storm.check_starts(&again);
    for object in ["service/web", "hpa/scaled"] {
        storm.stage.world.node.ctl(&["delete", object]).ok();
    }
    storm.stage.world.node.clear();
    storm.stage.world.node.ctl(&["delete", "pvc", "--all"]).ok();
    storm.stage.world.clean();
    let rules = run(Command::new("nft").args(["list", "ruleset"])).ok();
    for uid in storm.stage.started().keys() {
        assert!(!rules.contains(uid.as_str()), "{rules}");
    }
}
