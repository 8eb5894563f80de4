//! Tables of Jobs and pods, and a world of chance in which nothing may be counted twice.

use std::time::Duration;

use serde_json::json;

use super::*;
use crate::controllers::fields::{condition, has_finalizer};
use crate::controllers::pod_state::{has_ended, is_active};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn job(spec: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": "work", "namespace": "default", "uid": "j" },
        "spec": { "template": { "spec": { "restartPolicy": "Never", "containers": [{ "name": "c" }] } } },
    });
    for (name, value) in spec.as_object().unwrap() {
        job["spec"][name] = value.clone();
    }
    berth_api::defaults::apply(kinds::JOB, &mut job);
    berth_api::defaults::job_identity(&mut job, "j");
    job
}

/// A pod that a controller made, ended (or not) as told at second 0.
fn pod(uid: &str, slot: &Slot, phase: &str, code: i64) -> Value {
    let mut pod = pod_from_template(&job(&json!({})), slot, uid);
    pod["metadata"]["uid"] = json!(uid);
    pod["metadata"]["creationTimestamp"] = json!(at(0).to_string());
    end(&mut pod, phase, code, 0);
    pod
}

fn end(pod: &mut Value, phase: &str, code: i64, second: i64) {
    pod["status"] = json!({ "phase": phase });
    if phase == "Succeeded" || phase == "Failed" {
        pod["status"]["containerStatuses"] = json!([{
            "name": "c",
            "state": { "terminated": { "exitCode": code, "finishedAt": at(second).to_string() } },
        }]);
    }
}

fn slot(index: u32) -> Slot {
    Slot {
        index: Some(index),
        failures: None,
    }
}

fn tried(index: u32, failures: u64) -> Slot {
    Slot {
        index: Some(index),
        failures: Some((failures, 0)),
    }
}

fn reason<'a>(plan: &'a Plan, kind: &str) -> &'a str {
    condition(&plan.status, kind).map_or("", |condition| text(condition, "/reason"))
}

#[test]
fn pods_are_made_up_to_parallelism_and_what_is_left() {
    let none = Slot::default();
    for (spec, pods, expected) in [
        (json!({}), vec![], 1),
        (json!({ "completions": 5, "parallelism": 3 }), vec![], 3),
        (
            json!({ "completions": 2, "parallelism": 3 }),
            vec![pod("a", &none, "Succeeded", 0)],
            1,
        ),
        (
            json!({ "completions": 5, "parallelism": 3 }),
            vec![pod("a", &none, "Running", 0)],
            2,
        ),
        (json!({ "parallelism": 3 }), vec![], 3),
        // A work queue makes no more pods once one has succeeded.
        (
            json!({ "parallelism": 3 }),
            vec![pod("a", &none, "Succeeded", 0), pod("b", &none, "Running", 0)],
            0,
        ),
        (json!({ "suspend": true }), vec![], 0),
        // The failure is ten seconds old.
        (json!({}), vec![pod("a", &none, "Failed", 1)], 1),
        (json!({ "parallelism": 0 }), vec![], 0),
    ] {
        let plan = plan(&job(&spec), &pods, at(10));
        assert_eq!(plan.create.len(), expected, "{spec}");
        let running = pods.iter().filter(|pod| is_active(pod)).count();
        assert_eq!(
            plan.status["active"].as_u64().unwrap_or(0) as usize,
            running + expected
        );
    }
}

#[test]
fn failures_pause_twice_as_long_each_time() {
    let failures = |count: usize| -> Vec<Value> {
        (0..count)
            .map(|n| pod(&format!("p{n}"), &Slot::default(), "Failed", 1))
            .collect()
    };
    for (count, seconds) in [(1, 10), (2, 20), (3, 40), (6, 320), (7, 360), (30, 360)] {
        let job = job(&json!({ "backoffLimit": 100 }));
        let waits = plan(&job, &failures(count), at(seconds - 1));
        assert!(waits.create.is_empty(), "{count}");
        assert_eq!(waits.again, Some(Duration::from_secs(1)), "{count}");
        assert_eq!(
            plan(&job, &failures(count), at(seconds)).create.len(),
            1,
            "{count}"
        );
    }
    // A success in between makes it short again.
    let mut pods = failures(5);
    let mut success = pod("s", &Slot::default(), "Succeeded", 0);
    end(&mut success, "Succeeded", 0, 100);
    let mut late = pod("l", &Slot::default(), "Failed", 1);
    end(&mut late, "Failed", 1, 101);
    pods.extend([success, late]);
    let job = job(&json!({ "backoffLimit": 100, "completions": 3 }));
    assert_eq!(plan(&job, &pods, at(110)).again, Some(Duration::from_secs(1)));
}

#[test]
fn the_ways_a_job_ends() {
    let none = Slot::default();
    let (ok, bad, runs) = (
        pod("o", &none, "Succeeded", 0),
        pod("b", &none, "Failed", 3),
        pod("r", &none, "Running", 0),
    );
    let mut restarted = runs.clone();
    restarted["status"]["containerStatuses"] = json!([{ "name": "c", "restartCount": 2 }]);
    let rule = |action: &str, codes: Value| {
        json!({ "podFailurePolicy": { "rules": [{ "action": action,
            "onExitCodes": { "operator": "In", "values": codes } }] }, "backoffLimit": 0 })
    };
    let on_failure = json!({ "spec": { "restartPolicy": "OnFailure", "containers": [{ "name": "c" }] } });
    for (spec, pods, kind, expected) in [
        (
            json!({}),
            vec![ok.clone()],
            "SuccessCriteriaMet",
            "CompletionsReached",
        ),
        (
            json!({ "completions": 0 }),
            vec![],
            "SuccessCriteriaMet",
            "CompletionsReached",
        ),
        (
            json!({ "completions": 2 }),
            vec![ok.clone()],
            "SuccessCriteriaMet",
            "",
        ),
        (
            json!({ "backoffLimit": 0 }),
            vec![bad.clone()],
            "FailureTarget",
            "BackoffLimitExceeded",
        ),
        (
            json!({ "backoffLimit": 1 }),
            vec![bad.clone()],
            "FailureTarget",
            "",
        ),
        (
            json!({ "backoffLimit": 2, "template": on_failure }),
            vec![restarted.clone()],
            "FailureTarget",
            "BackoffLimitExceeded",
        ),
        (
            json!({ "backoffLimit": 3, "template": on_failure }),
            vec![restarted],
            "FailureTarget",
            "",
        ),
        (
            rule("FailJob", json!([3])),
            vec![bad.clone()],
            "FailureTarget",
            "PodFailurePolicy",
        ),
        (rule("Ignore", json!([3])), vec![bad.clone()], "FailureTarget", ""),
        (
            rule("Ignore", json!([4])),
            vec![bad],
            "FailureTarget",
            "BackoffLimitExceeded",
        ),
    ] {
        let plan = plan(&job(&spec), &pods, at(5));
        assert_eq!(reason(&plan, kind), expected, "{spec}");
    }
    let mut late = job(&json!({ "activeDeadlineSeconds": 5 }));
    late["status"] = json!({ "startTime": at(0).to_string() });
    let told = plan(&late, std::slice::from_ref(&runs), at(4));
    assert_eq!(
        (reason(&told, "FailureTarget"), told.again),
        ("", Some(Duration::from_secs(1)))
    );
    let told = plan(&late, &[runs], at(5));
    assert_eq!(
        (reason(&told, "FailureTarget"), told.delete.len()),
        ("DeadlineExceeded", 1)
    );
}

#[test]
fn policies_look_at_codes_containers_and_conditions() {
    let policy = json!({ "rules": [
        { "action": "Count", "onExitCodes": { "operator": "In", "values": [1], "containerName": "other" } },
        { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
        { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [7] } },
        { "action": "FailJob", "onExitCodes": { "operator": "NotIn", "values": [1, 2] } },
    ] });
    let answer = |pod: &Value| policy::answer(Some(&policy), pod);
    let failed = |code| pod("a", &Slot::default(), "Failed", code);
    assert_eq!(answer(&failed(1)), policy::Answer::Count);
    assert_eq!(answer(&failed(7)), policy::Answer::FailIndex);
    let policy::Answer::FailJob(message) = answer(&failed(9)) else {
        panic!("the Job fails")
    };
    assert_eq!(
        message,
        "Container c for pod default/work-a failed with exit code 9 matching FailJob rule at index 3"
    );
    let mut disrupted = failed(9);
    disrupted["status"]["conditions"] = json!([{ "type": "DisruptionTarget", "status": "True" }]);
    assert_eq!(answer(&disrupted), policy::Answer::Ignore);
}

#[test]
fn indexes_are_given_once_and_limited_one_by_one() {
    let three = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3 });
    let first = plan(&job(&three), &[], at(0));
    assert_eq!(first.create, [slot(0), slot(1), slot(2)]);
    let pods = [
        pod("a", &slot(0), "Succeeded", 0),
        pod("b", &slot(2), "Running", 0),
    ];
    let second = plan(&job(&three), &pods, at(0));
    assert_eq!(second.create, [slot(1)]);
    assert_eq!(second.status["completedIndexes"], "0");
    // Of two pods of an index one goes.
    let twins = [pod("a", &slot(0), "Running", 0), pod("b", &slot(0), "Running", 0)];
    assert_eq!(plan(&job(&three), &twins, at(0)).drop.len(), 1);

    let limited =
        json!({ "completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1 });
    let pods = [
        pod("a", &tried(0, 0), "Failed", 1),
        pod("b", &tried(1, 0), "Running", 0),
    ];
    let waits = plan(&job(&limited), &pods, at(9));
    assert!(
        waits.create.is_empty() && waits.release.is_empty(),
        "it is kept for its count"
    );
    assert_eq!(plan(&job(&limited), &pods, at(10)).create, [tried(0, 1)]);
    let pods = [
        pod("a", &tried(0, 1), "Failed", 1),
        pod("b", &tried(1, 0), "Running", 0),
    ];
    let given_up = plan(&job(&limited), &pods, at(99));
    assert_eq!(given_up.status["failedIndexes"], "0");
    assert!(given_up.create.is_empty() && reason(&given_up, "FailureTarget").is_empty());
    let pods = [
        pod("a", &tried(0, 1), "Failed", 1),
        pod("b", &tried(1, 0), "Succeeded", 0),
    ];
    assert_eq!(
        reason(&plan(&job(&limited), &pods, at(99)), "FailureTarget"),
        "FailedIndexes"
    );

    let enough = json!({ "completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": { "rules": [{ "succeededIndexes": "1-2", "succeededCount": 1 }] } });
    let pods = [
        pod("a", &slot(2), "Succeeded", 0),
        pod("b", &slot(0), "Running", 0),
    ];
    let done = plan(&job(&enough), &pods, at(0));
    assert_eq!(
        (reason(&done, "SuccessCriteriaMet"), done.delete.len()),
        ("SuccessPolicy", 1)
    );
}

#[test]
fn a_pod_with_an_index_knows_it() {
    let pod = pod_from_template(&job(&json!({})), &slot(3), "xxxxx");
    assert_eq!(name(&pod), "work-3-xxxxx");
    assert_eq!(pod["spec"]["hostname"], "work-3");
    assert_eq!(pod["metadata"]["labels"]["batch.kubernetes.io/job-name"], "work");
    assert_eq!(pod["metadata"]["labels"]["controller-uid"], "j");
    assert_eq!(
        pod["spec"]["containers"][0]["env"][0]["name"],
        "JOB_COMPLETION_INDEX"
    );
    assert!(has_finalizer(&pod, pods::FINALIZER));
}

/// A small store, and what really happened in it.
struct World {
    job: Value,
    pods: Vec<Value>,
    made: u32,
    /// Ends of pods, for good: uid, index, success.
    ended: Vec<(String, Option<u32>, bool)>,
    now: i64,
    random: u64,
}

impl World {
    fn chance(&mut self, of: u64) -> u64 {
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.random >> 33) % of
    }

    /// Takes the finalizer off a pod, which removes a deleted one.
    fn release(&mut self, gone: &Value) {
        for pod in self.pods.iter_mut().filter(|pod| uid(pod) == uid(gone)) {
            remove_finalizer(pod, pods::FINALIZER);
        }
        self.pods
            .retain(|pod| !is_deleting(pod) || pods::is_tracked(pod) || !has_ended(pod));
    }

    /// One look of the controller, which may be interrupted after any step.
    fn look(&mut self) {
        let plan = plan(&self.job, &self.pods, at(self.now));
        let mut left = if self.chance(4) == 0 {
            self.chance(6) as usize
        } else {
            usize::MAX
        };
        let mut goes_on = || {
            left = left.saturating_sub(1);
            left > 0
        };
        for pod in plan.drop.iter().chain(&plan.delete) {
            if !goes_on() {
                return;
            }
            if plan.drop.contains(pod) {
                self.release(pod);
            }
            self.delete(uid(pod));
        }
        for slot in &plan.create {
            if !goes_on() {
                return;
            }
            self.made += 1;
            let mut pod = pod(&format!("u{}", self.made), slot, "Running", 0);
            pod["metadata"]["name"] = json!(format!("work-{}", self.made));
            if let Some(index) = slot.index {
                let done = self.ended.iter().any(|(_, of, ok)| *of == Some(index) && *ok);
                assert!(!done, "index {index} runs again");
            }
            self.pods.push(pod);
        }
        if !goes_on() {
            return;
        }
        self.job["status"] = plan.status;
        for pod in &plan.release {
            if !goes_on() {
                return;
            }
            self.release(pod);
        }
    }

    fn delete(&mut self, id: &str) {
        let now = at(self.now).to_string();
        for pod in self.pods.iter_mut().filter(|pod| uid(pod) == id) {
            pod["metadata"]["deletionTimestamp"] = json!(now);
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(30);
        }
    }

    /// Something happens to a pod.
    fn happen(&mut self, failing: u64) {
        let running: Vec<usize> = (0..self.pods.len())
            .filter(|n| !has_ended(&self.pods[*n]))
            .collect();
        if running.is_empty() {
            return;
        }
        let n = running[self.chance(running.len() as u64) as usize];
        let deleted = is_deleting(&self.pods[n]);
        let ok = !deleted && self.chance(100) >= failing;
        let (id, now) = (uid(&self.pods[n]).to_owned(), self.now);
        if !deleted && self.chance(12) == 0 {
            return self.delete(&id);
        }
        end(
            &mut self.pods[n],
            if ok { "Succeeded" } else { "Failed" },
            i64::from(!ok),
            now,
        );
        let index = text(
            &self.pods[n],
            "/metadata/annotations/batch.kubernetes.io~1job-completion-index",
        );
        let entry = (id, index.parse().ok(), ok);
        self.ended.push(entry);
        self.pods
            .retain(|pod| !(is_deleting(pod) && has_ended(pod) && !pods::is_tracked(pod)));
    }
}

#[test]
fn whatever_happens_every_pod_is_counted_once() {
    let specs = [
        json!({ "completions": 6, "parallelism": 3, "backoffLimit": 50 }),
        json!({ "completions": 6, "parallelism": 3, "backoffLimit": 3 }),
        json!({ "completions": 6, "parallelism": 3, "completionMode": "Indexed", "backoffLimit": 50 }),
        json!({ "completions": 5, "parallelism": 5, "completionMode": "Indexed", "backoffLimitPerIndex": 2 }),
        json!({ "completions": 5, "parallelism": 2, "completionMode": "Indexed", "backoffLimit": 50,
            "podReplacementPolicy": "Failed" }),
    ];
    for round in 0..300_u64 {
        let spec = &specs[round as usize % specs.len()];
        let mut world = World {
            job: job(spec),
            pods: Vec::new(),
            made: 0,
            ended: Vec::new(),
            now: 0,
            random: round,
        };
        let most = spec["parallelism"].as_u64().unwrap() as usize;
        let mut steps = 0;
        while desired::finished(&world.job).is_none() {
            steps += 1;
            assert!(steps < 5000, "{spec}: never ends: {:#?}", world.job["status"]);
            world.now += world.chance(40) as i64;
            match world.chance(3) {
                0 => world.happen(25),
                _ => world.look(),
            }
            let active = world.pods.iter().filter(|pod| is_active(pod)).count();
            assert!(active <= most, "{spec}: {active} pods at once");
        }
        let status = &world.job["status"];
        let total = |field: &str| status[field].as_u64().unwrap_or(0);
        let won = world.ended.iter().filter(|(_, _, ok)| *ok).count() as u64;
        assert_eq!(total("succeeded"), won, "{spec}: {status:#}");
        assert_eq!(
            total("succeeded") + total("failed"),
            u64::from(world.made),
            "{spec}: {status:#}"
        );
        assert_eq!(total("active"), 0);
        let complete = text(desired::finished(&world.job).unwrap(), "/type") == "Complete";
        if complete {
            assert_eq!(won, spec["completions"].as_u64().unwrap(), "{spec}");
        }
    }
}
