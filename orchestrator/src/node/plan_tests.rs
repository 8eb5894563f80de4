//! The plan from the first look at a pod to its last.

use serde_json::{Value, json};

use super::*;
use crate::node::observed::{Ended, Failure, Stop, Unhealthy};
use crate::node::pod::test_pod;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn pod(policy: &str, init: &Value, names: &[&str]) -> Pod {
    let containers: Vec<Value> = names.iter().map(|name| json!({ "name": name })).collect();
    test_pod(json!({
        "metadata": {"name": "p"},
        "spec": {"restartPolicy": policy, "initContainers": init, "containers": containers},
    }))
}

fn ready() -> Observed {
    let mut seen = Observed::new("boot", "default", "p", "u", at(0));
    seen.sandbox.touched = true;
    seen.sandbox.ready = true;
    seen.sandbox.monitor = true;
    seen
}

fn ended(code: i32, when: i64, removed: bool) -> State {
    State::Ended(Ended {
        id: "id".into(),
        code,
        signal: None,
        reason: String::new(),
        message: String::new(),
        started: None,
        finished: at(when),
        start_failed: false,
        removed,
    })
}

fn running() -> State {
    State::Running {
        id: "id".into(),
        since: at(0),
    }
}

fn create(container: &str, attempt: u32) -> Action {
    Action::Create {
        container: container.into(),
        attempt,
    }
}

#[test]
fn a_fresh_pod_is_set_up_first() {
    let pod = pod("Always", &json!([]), &["a", "b"]);
    let mut seen = Observed::new("boot", "default", "p", "u", at(0));
    assert_eq!(plan(&pod, &seen, at(0)).actions, [Action::SetUp]);
    seen.failure = Some(Failure {
        reason: "X".into(),
        message: String::new(),
        count: 1,
        retry: at(5),
    });
    assert_eq!(
        plan(&pod, &seen, at(4)),
        Plan {
            actions: vec![],
            wake: Some(at(5))
        }
    );
    assert_eq!(plan(&pod, &seen, at(5)).actions, [Action::SetUp]);
    seen.sandbox.ready = true;
    seen.failure = None;
    assert_eq!(plan(&pod, &seen, at(5)).actions, [Action::StartMonitor]);
    seen.sandbox.monitor = true;
    assert_eq!(plan(&pod, &seen, at(5)).actions, [create("a", 0), create("b", 0)]);
    seen.seen_mut("a").state = running();
    assert_eq!(plan(&pod, &seen, at(5)).actions, [create("b", 0)]);
}

#[test]
fn init_containers_run_one_after_the_other() {
    let pod = pod("Always", &json!([{"name": "i1"}, {"name": "i2"}]), &["a"]);
    let mut seen = ready();
    assert_eq!(plan(&pod, &seen, at(0)).actions, [create("i1", 0)]);
    seen.seen_mut("i1").state = running();
    assert_eq!(plan(&pod, &seen, at(0)).actions, []);
    seen.seen_mut("i1").state = ended(0, 1, false);
    let next = plan(&pod, &seen, at(1)).actions;
    assert_eq!(
        next,
        [
            Action::Remove {
                container: "i1".into()
            },
            create("i2", 0)
        ]
    );
    seen.seen_mut("i1").state = ended(0, 1, true);
    // A failed one is started again, with the rules of OnFailure.
    seen.seen_mut("i2").state = ended(1, 2, true);
    assert_eq!(plan(&pod, &seen, at(2)).actions, [create("i2", 1)]);
    seen.seen_mut("i2").state = ended(0, 3, true);
    assert_eq!(plan(&pod, &seen, at(3)).actions, [create("a", 0)]);
}

#[test]
fn a_container_comes_back_before_the_files_of_its_last_run_go() {
    let pod = pod("Always", &json!([]), &["a"]);
    let mut seen = ready();
    seen.seen_mut("a").state = ended(1, 1, true);
    seen.seen_mut("a").remains = vec![0];
    let sweep = Action::Sweep {
        container: "a".into(),
    };
    assert_eq!(plan(&pod, &seen, at(1)).actions, [create("a", 1), sweep.clone()]);
    // It is not waited for either while a container may not run yet.
    seen.seen_mut("a").backoff.next(at(0), at(0));
    assert_eq!(plan(&pod, &seen, at(2)).actions, [sweep]);
}

#[test]
fn a_failed_init_container_fails_a_pod_that_never_restarts() {
    let pod = pod("Never", &json!([{"name": "i"}]), &["a"]);
    let mut seen = ready();
    seen.seen_mut("i").state = ended(1, 1, true);
    assert!(is_over(&pod, &seen));
    assert_eq!(
        plan(&pod, &seen, at(1)).actions,
        [Action::TearDown(Step::Containers)]
    );
}

#[test]
fn sidecars_start_before_and_stop_after_the_others() {
    let pod = pod(
        "Never",
        &json!([{"name": "s", "restartPolicy": "Always"}]),
        &["a"],
    );
    let mut seen = ready();
    assert_eq!(plan(&pod, &seen, at(0)).actions, [create("s", 0)]);
    seen.seen_mut("s").state = running();
    assert_eq!(plan(&pod, &seen, at(0)).actions, [], "not started yet");
    seen.seen_mut("s").started = true;
    assert_eq!(plan(&pod, &seen, at(0)).actions, [create("a", 0)]);
    seen.seen_mut("a").state = ended(0, 9, true);
    let next = plan(&pod, &seen, at(9)).actions;
    assert!(
        matches!(&next[..], [Action::Stop { container, .. }] if container == "s"),
        "{next:?}"
    );
}

#[test]
fn restarts_wait_for_their_back_off() {
    let pod = pod("Always", &json!([]), &["a"]);
    let mut seen = ready();
    seen.seen_mut("a").state = ended(1, 100, true);
    assert_eq!(
        plan(&pod, &seen, at(100)).actions,
        [create("a", 1)],
        "the first restart is immediate"
    );
    seen.seen_mut("a").attempt = 1;
    seen.seen_mut("a").backoff.next(at(100), at(100));
    seen.seen_mut("a").state = ended(1, 101, true);
    assert_eq!(
        plan(&pod, &seen, at(102)),
        Plan {
            actions: vec![],
            wake: Some(at(111))
        }
    );
    assert_eq!(plan(&pod, &seen, at(111)).actions, [create("a", 2)]);
}

#[test]
fn the_policy_decides_who_restarts() {
    for (policy, code, again) in [
        ("Always", 0, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 1, false),
    ] {
        let pod = pod(policy, &json!([]), &["a", "b"]);
        let mut seen = ready();
        seen.seen_mut("a").state = ended(code, 1, true);
        seen.seen_mut("b").state = running();
        let actions = plan(&pod, &seen, at(1)).actions;
        let want = if again { vec![create("a", 1)] } else { vec![] };
        assert_eq!(actions, want, "{policy} {code}");
    }
}

#[test]
fn an_unhealthy_container_is_stopped_and_made_anew() {
    let pod = pod("Always", &json!([]), &["a"]);
    let mut seen = ready();
    seen.seen_mut("a").state = running();
    seen.seen_mut("a").unhealthy = Some(Unhealthy {
        cause: "sick".into(),
        grace: Some(3),
    });
    let want = Action::Stop {
        container: "a".into(),
        grace: 3,
        cause: "sick".into(),
    };
    assert_eq!(plan(&pod, &seen, at(0)).actions, [want]);
    let stop = |phase| {
        Some(Stop {
            deadline: at(3),
            phase,
            cause: "sick".into(),
        })
    };
    seen.seen_mut("a").stop = stop(StopPhase::Hook);
    assert_eq!(
        plan(&pod, &seen, at(1)),
        Plan {
            actions: vec![],
            wake: Some(at(3))
        }
    );
    seen.seen_mut("a").stop = stop(StopPhase::Due);
    let signal = |kill| Action::Signal {
        container: "a".into(),
        kill,
    };
    assert_eq!(plan(&pod, &seen, at(1)).actions, [signal(false)]);
    seen.seen_mut("a").stop = stop(StopPhase::Asked);
    assert_eq!(
        plan(&pod, &seen, at(1)),
        Plan {
            actions: vec![],
            wake: Some(at(3))
        }
    );
    assert_eq!(plan(&pod, &seen, at(3)).actions, [signal(true)]);
    seen.seen_mut("a").stop = stop(StopPhase::Killed);
    assert_eq!(plan(&pod, &seen, at(4)), Plan::default());
}

#[test]
fn a_deleted_pod_is_stopped_released_and_forgotten() {
    let mut pod = pod("Always", &json!([]), &["a"]);
    pod.deletion = Some(super::super::pod::Deletion { grace: 30 });
    let mut seen = ready();
    seen.seen_mut("a").state = running();
    let actions = plan(&pod, &seen, at(0)).actions;
    assert!(
        matches!(&actions[..], [Action::Stop { grace: 30, .. }]),
        "{actions:?}"
    );
    // A second request without grace cuts the first short.
    seen.seen_mut("a").stop = Some(Stop {
        deadline: at(30),
        phase: StopPhase::Asked,
        cause: String::new(),
    });
    pod.deletion = Some(super::super::pod::Deletion { grace: 0 });
    assert_eq!(
        plan(&pod, &seen, at(1)).actions,
        [Action::Signal {
            container: "a".into(),
            kill: true
        }]
    );
    seen.seen_mut("a").state = ended(137, 1, false);
    for step in [
        Step::Containers,
        Step::Monitor,
        Step::Cgroups,
        Step::Network,
        Step::Mounts,
        Step::Directories,
    ] {
        assert_eq!(plan(&pod, &seen, at(2)).actions, [Action::TearDown(step)]);
        seen.teardown = step.next();
    }
    seen.released = true;
    assert_eq!(plan(&pod, &seen, at(2)).actions, [Action::Forget]);
}

#[test]
fn a_failed_teardown_goes_on_from_its_step() {
    let mut seen = ready();
    seen.teardown = Some(Step::Network);
    seen.failure = Some(Failure {
        reason: "X".into(),
        message: String::new(),
        count: 2,
        retry: at(9),
    });
    assert_eq!(
        plan_orphan(&seen, at(1)),
        Plan {
            actions: vec![],
            wake: Some(at(9))
        }
    );
    assert_eq!(
        plan_orphan(&seen, at(9)).actions,
        [Action::TearDown(Step::Network)]
    );
}

#[test]
fn a_deadline_ends_the_pod() {
    let mut pod = pod("Always", &json!([]), &["a"]);
    pod.active_deadline = Some(60);
    let mut seen = ready();
    seen.seen_mut("a").state = running();
    assert_eq!(plan(&pod, &seen, at(59)).wake, Some(at(60)));
    let actions = plan(&pod, &seen, at(60)).actions;
    assert!(matches!(&actions[..], [Action::Fail { reason, .. }] if reason == "DeadlineExceeded"));
    seen.verdict = Some(("DeadlineExceeded".into(), "late".into()));
    let actions = plan(&pod, &seen, at(60)).actions;
    assert!(matches!(&actions[..], [Action::Stop { .. }]), "{actions:?}");
}

#[test]
fn a_pod_that_was_over_before_is_left_alone() {
    let pod = test_pod(json!({
        "metadata": {"name": "p"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]},
        "status": {"phase": "Succeeded"},
    }));
    let seen = Observed::new("boot", "default", "p", "u", at(0));
    assert_eq!(plan(&pod, &seen, at(0)), Plan::default());
}
