//! What dies at a bad moment: `berthd` at random points of its work, monitors, and the whole node as by a reboot.
//! The outcome is that of an undisturbed run, and nothing is left.

use crate::pods::{PATIENCE, WAIT, World, with};
use harness::{HostSnapshot, need_root, run, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Every point at which `berthd` may be killed; each has to be hit.
const POINTS: [&str; 41] = [
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
/// A daemon that has not come to its point by then is killed where it is, which does not count.
const IDLE: Duration = Duration::from_millis(700);
/// How long a round may take, with all its kills.
const ROUND: Duration = Duration::from_secs(240);

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

fn uid(pod: &Value) -> &str {
    pod["metadata"]["uid"].as_str().expect("a uid")
}

fn named(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

/// The workload, with or without kills.
struct Storm {
    stage: Stage,
    random: Random,
    /// Kills are under way.
    armed: bool,
    log: PathBuf,
    launched: Instant,
    /// Of `berthd`, where it came to no point.
    idle: usize,
    stays: Value,
}

impl Storm {
    fn new() -> Storm {
        let stage = Stage::new();
        let log = stage.starts.path().join("faults");
        let spec = stage.spec(WAIT, "Always");
        stage.world.apply(&named("stays", &spec));
        stage.world.apply(
            &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
                   "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
        );
        let stays = stage.world.ready("stays");
        Storm {
            stage,
            random: Random::seeded(),
            armed: false,
            log,
            launched: Instant::now(),
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
            if self.launched.elapsed() < IDLE {
                return;
            }
            self.stage.world.node.kill_daemon();
            self.idle += 1;
        }
        let kills = self.kills();
        let fewest = kills.values().min().copied().unwrap_or(0);
        let rare: Vec<&str> = POINTS.into_iter().filter(|p| kills[p] == fewest).collect();
        let fault = match self.random.below(4) {
            0 => format!("{}:1", rare[self.random.below(rare.len())]),
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
        self.launched = Instant::now();
    }

    /// Waits, while daemons die and are started.
    #[track_caller]
    fn until<T>(&mut self, what: &str, mut condition: impl FnMut(&Stage) -> Result<T, String>) -> T {
        wait_for(what, ROUND, || {
            self.tend();
            condition(&self.stage)
        })
    }

    fn ctl(stage: &Stage, arguments: &[&str]) -> Result<String, String> {
        let outcome = stage.world.node.ctl(arguments);
        if outcome.status.success() {
            Ok(outcome.stdout)
        } else {
            Err(outcome.stderr)
        }
    }

    fn list(stage: &Stage, arguments: &[&str]) -> Result<Value, String> {
        let all = [&["get"], arguments, &["-o", "json"]].concat();
        serde_json::from_str(&Self::ctl(stage, &all)?).map_err(|error| error.to_string())
    }

    fn apply(&mut self, object: &Value) {
        let file = self.stage.starts.path().join("manifest.json");
        std::fs::write(&file, object.to_string()).expect("write the manifest");
        let file = file.to_string_lossy().into_owned();
        self.until("the manifest to be applied", |stage| {
            Self::ctl(stage, &["apply", "-f", &file])
        });
    }

    /// One round: a rollout with another number of replicas, and pods that end in every way; what came of it.
    fn round(&mut self, number: usize) -> Value {
        let replicas = 2 + number % 2;
        let mut template = self.stage.spec(WAIT, "Always");
        template["containers"][0]["env"]
            .as_array_mut()
            .expect("a list")
            .push(json!({"name": "ROUND", "value": number.to_string()}));
        self.apply(
            &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                     "template": {"metadata": {"labels": {"app": "web"}}, "spec": template}}}),
        );
        let ends = self.stage.spec("exit 5", "Never");
        self.apply(&named("ends", &ends));
        let again = self
            .stage
            .spec("[ -e /own/once ] && exit 0; touch /own/once; exit 7", "OnFailure");
        self.apply(&named("again", &again));
        let mut late = self.stage.spec(WAIT, "Always");
        late["activeDeadlineSeconds"] = json!(1);
        self.apply(&named("late", &late));
        let round = number.to_string();
        let outcome = self.until("the round's outcome", |stage| {
            let pods = Self::list(stage, &["pods"])?;
            let web = Self::list(stage, &["deployment", "web"])?;
            let endpoints = Self::list(stage, &["endpoints", "web"])?;
            outcome(stage, &pods, &web, &endpoints, replicas, &round)
        });
        self.until("the pods that have ended to be gone", |stage| {
            let pods = Self::list(stage, &["pods"])?;
            let names: Vec<&str> = pods["items"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|pod| {
                    ["ends", "again", "late"]
                        .iter()
                        .any(|n| pod["metadata"]["name"] == *n)
                })
                .filter_map(|pod| pod["metadata"]["name"].as_str())
                .collect();
            if names.is_empty() {
                return Ok(());
            }
            let _ = Self::ctl(
                stage,
                &[&["delete", "pod", "--wait=false"], names.as_slice()].concat(),
            );
            Err(pods.to_string())
        });
        outcome
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

/// What a round has come to, if it has come to its end.
fn outcome(
    stage: &Stage,
    pods: &Value,
    web: &Value,
    endpoints: &Value,
    replicas: usize,
    round: &str,
) -> Result<Value, String> {
    let items: Vec<&Value> = pods["items"].as_array().into_iter().flatten().collect();
    let find = |name: &str| {
        let found = items.iter().find(|pod| pod["metadata"]["name"] == name);
        found.copied().ok_or_else(|| format!("no pod {name}"))
    };
    let (ends, again, late) = (find("ends")?, find("again")?, find("late")?);
    let status = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    let done = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
    let current: Vec<&&Value> = items
        .iter()
        .filter(|pod| pod["metadata"]["labels"]["app"] == "web")
        .collect();
    let rolled = current.len() == replicas
        && web["status"]["observedGeneration"] == web["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"]
            .iter()
            .all(|field| web["status"][field] == replicas)
        && current.iter().all(|pod| {
            status(pod)["ready"] == true && pod["spec"]["containers"][0]["env"][1]["value"] == round
        });
    let served = endpoints["subsets"][0]["addresses"]
        .as_array()
        .map_or(0, Vec::len);
    // Those of the replicas and of the pod that stays.
    let monitors = stage.monitors();
    let settled = served == replicas && monitors == replicas + 1;
    if !(done(ends) && done(again) && done(late) && rolled && settled) {
        return Err(format!(
            "{}\n{served} endpoints, {monitors} monitors\n{pods}",
            web["status"]
        ));
    }
    let starts = stage.started();
    let count = |pod: &Value| starts.get(uid(pod)).copied().unwrap_or(0);
    let told = |pod: &Value| {
        let status = status(pod);
        json!({"phase": pod["status"]["phase"], "restarts": status["restartCount"], "starts": count(pod),
               "code": status["state"]["terminated"]["exitCode"],
               "before": status["lastState"]["terminated"]["exitCode"]})
    };
    Ok(json!({
        "ends": told(ends), "again": told(again), "again's uid": uid(again),
        "late": [late["status"]["phase"], late["status"]["reason"]],
        "web": current.iter().map(|pod| told(pod)).collect::<Vec<_>>(), "served": served,
    }))
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
    let wanted: usize = wanted.parse().expect("BERTH_FAULT_KILLS is a number");
    let mut storm = Storm::new();
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
    storm.stage.world.node.ctl(&["delete", "service", "web"]).ok();
    storm.stage.world.clean();
    let rules = run(Command::new("nft").args(["list", "ruleset"])).ok();
    for uid in storm.stage.started().keys() {
        assert!(!rules.contains(uid.as_str()), "{rules}");
    }
}

fn monitor(world: &World, uid: &str) -> Option<Pid> {
    let lock = world.node.path().join("run/pods").join(uid).join("monitor.lock");
    let pid: i32 = std::fs::read_to_string(lock).ok()?.trim().parse().ok()?;
    Some(Pid::from_raw(pid))
}

#[test]
fn monitors_killed_at_any_time_leave_one_container_each() {
    need_root!();
    let stage = Stage::new();
    let mut random = Random::seeded();
    let spec = stage.spec(WAIT, "Always");
    for batch in 0..5 {
        let names: Vec<String> = (0..10).map(|n| format!("p{batch}-{n}")).collect();
        let list: Vec<Value> = names.iter().map(|name| named(name, &spec)).collect();
        stage
            .world
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": list}));
        let mut killed = Vec::new();
        for name in &names {
            let uid = wait_for("the pod", PATIENCE, || {
                stage.world.get(name).map(|pod| uid(&pod).to_owned())
            });
            let pid = wait_for("its monitor", PATIENCE, || {
                monitor(&stage.world, &uid).ok_or("no monitor")
            });
            // Any moment of the start will do: this is the chance, not a wait for something.
            let moment = u64::try_from(random.below(60)).expect("small");
            std::thread::sleep(Duration::from_millis(moment));
            kill(pid, Signal::SIGKILL).expect("kill the monitor");
            killed.push((name, uid, pid));
        }
        wait_for("one container and one monitor for each pod", PATIENCE, || {
            for (name, uid, dead) in &killed {
                let pod = stage.world.get(name)?;
                let status = &pod["status"]["containerStatuses"][0];
                let is_new = monitor(&stage.world, uid).is_some_and(|pid| pid != *dead);
                let restarts = status["restartCount"].as_u64().unwrap_or(0);
                let starts = stage.started().get(uid).copied().unwrap_or(0);
                assert!(restarts <= 1 && starts <= 2, "{starts} starts: {pod}");
                if !(is_new && status["ready"] == true) {
                    return Err(pod.to_string());
                }
            }
            let (living, monitors) = (live_shells(&stage), stage.monitors());
            if living == 10 && monitors == 10 {
                Ok(())
            } else {
                Err(format!("{living} containers, {monitors} monitors"))
            }
        });
        stage.world.clean();
    }
}

#[test]
fn a_pod_whose_state_file_is_lost_comes_back_and_goes() {
    need_root!();
    let mut stage = Stage::new();
    let spec = stage.spec(WAIT, "Always");
    stage.world.apply(&named("p", &spec));
    stage.world.phase("p", "Running");
    let pod = Storm::list(&stage, &["pod", "p"]).expect("the pod");
    let dir = stage.world.node.path().join("run/pods").join(uid(&pod));
    stage.world.node.kill_daemon();
    std::fs::remove_file(dir.join("pod.json")).expect("lose the state file");
    stage.world.node.spawn();
    wait_for("the pod's second run", PATIENCE, || {
        match stage.started()[uid(&pod)] {
            2 => Ok(()),
            starts => Err(starts),
        }
    });
    stage.world.phase("p", "Running");
    stage.world.node.ctl(&["delete", "pod", "p"]).ok();
    wait_for("the pod's directory to go", PATIENCE, || {
        if dir.exists() { Err(dir.clone()) } else { Ok(()) }
    });
    stage.world.clean();
}

/// First processes of the stage's containers, from their arguments.
fn live_shells(stage: &Stage) -> usize {
    let cgroup = stage.world.cgroup.as_str();
    HostSnapshot::take("echo $UID >>/starts/log", &[])
        .processes
        .iter()
        .filter(|pid| {
            std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| text.contains(&format!("/{cgroup}/")))
        })
        .count()
}

/// What a reboot takes: every process, namespace, mount and cgroup of the node, and what lies in memory.
pub(crate) fn pull_the_plug(world: &mut World) {
    world.node.kill_daemon();
    let node = world.node.path().to_string_lossy().into_owned();
    let cgroup = format!("/{}/", world.cgroup);
    let doomed = || -> Vec<i32> {
        let mut pids: Vec<i32> = HostSnapshot::take(&node, &[]).processes.into_iter().collect();
        for entry in std::fs::read_dir("/proc").expect("read /proc").flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok())
                && std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|t| t.contains(&cgroup))
                && std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
            {
                pids.push(pid);
            }
        }
        pids
    };
    wait_for("all processes to be dead", PATIENCE, || {
        let left = doomed();
        for pid in &left {
            let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    let mut mounts = HostSnapshot::take(&node, &[]).mounts;
    mounts.retain(|place| place.starts_with(&node));
    for place in mounts.iter().rev() {
        nix::mount::umount2(place.as_str(), nix::mount::MntFlags::MNT_DETACH).expect("unmount");
    }
    wait_for("the cgroups to be gone", PATIENCE, || {
        let mut left: Vec<String> = HostSnapshot::take(&world.cgroup, &[])
            .cgroups
            .into_iter()
            .collect();
        left.sort_by_key(|path| std::cmp::Reverse(path.len()));
        left.retain(|path| std::fs::remove_dir(path).is_err());
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
    std::fs::remove_dir_all(world.node.path().join("run")).expect("wipe the run directory");
    run(Command::new("nft").args(["flush", "ruleset"])).ok();
    run(Command::new("sh").args([
        "-c",
        "ip -o link show type bridge | cut -d: -f2 | xargs -r -n1 ip link del",
    ]))
    .ok();
}

#[test]
fn a_reboot_brings_everything_back() {
    need_root!();
    let mut stage = Stage::new();
    // Whoever asks for a Service needs a way to anywhere; rules turn it on the way.
    let uplink =
        "ip link add up0 type veth peer name up1; ip addr add 192.0.2.1/24 dev up0; ip link set up0 up
        ip link set up1 up; ip route add default via 192.0.2.2";
    run(Command::new("sh").args(["-ec", uplink])).ok();
    let serve = format!("mkdir -p /www; echo served >/www/index.html; httpd -p 8080 -h /www; {WAIT}");
    let template = stage.spec(&serve, "Always");
    stage.world.apply(
        &json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}}, "spec": template}}}),
    );
    stage.world.apply(
        &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
               "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}),
    );
    let ends = stage.spec("exit 5", "Never");
    stage.world.apply(&named("ends", &ends));
    stage.world.phase("ends", "Failed");
    let ready = |stage: &Stage| {
        wait_for("the replicas", PATIENCE, || {
            let web = Storm::list(stage, &["deployment", "web"])?;
            if web["status"]["availableReplicas"] == 2 {
                Ok(())
            } else {
                Err(web["status"].to_string())
            }
        });
    };
    ready(&stage);
    let pods = |stage: &Stage| -> BTreeMap<String, Value> {
        let list = Storm::list(stage, &["pods"]).expect("the pods");
        let items = list["items"].as_array().cloned().unwrap_or_default();
        items.into_iter().map(|pod| (uid(&pod).to_owned(), pod)).collect()
    };
    let before = pods(&stage);
    pull_the_plug(&mut stage.world);
    stage.world.node.spawn();
    // The same pods, each with a container of its own once more; what had ended has not run again.
    wait_for("the containers to be back", PATIENCE, || {
        let starts = stage.started();
        let due = |pod: &Value| if pod["metadata"]["name"] == "ends" { 1 } else { 2 };
        let seen: Vec<(usize, usize)> = before.iter().map(|(uid, pod)| (starts[uid], due(pod))).collect();
        if seen.iter().all(|(is, due)| is == due) {
            Ok(())
        } else {
            Err(seen)
        }
    });
    ready(&stage);
    let after = pods(&stage);
    assert!(after.keys().eq(before.keys()), "{after:?}");
    for pod in after.values() {
        let status = &pod["status"]["containerStatuses"][0];
        if pod["metadata"]["name"] == "ends" {
            assert_eq!(status["state"]["terminated"]["exitCode"], 5, "{pod}");
            assert_eq!(status["restartCount"], 0, "{pod}");
        } else {
            assert_eq!(status["restartCount"], 1, "{pod}");
        }
    }
    let service = Storm::list(&stage, &["service", "web"]).expect("the service");
    let url = format!(
        "http://{}/",
        service["spec"]["clusterIP"].as_str().expect("an address")
    );
    wait_for("the service", PATIENCE, || {
        let page = run(Command::new("timeout").args(["5", "busybox", "wget", "-q", "-O", "-", &url]));
        if page.stdout == "served\n" {
            Ok(())
        } else {
            Err(page)
        }
    });
    stage.world.clean();
}
