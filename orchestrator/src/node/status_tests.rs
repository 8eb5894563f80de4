//! Statuses as kubelet writes them.

use super::*;
use crate::node::backoff::Backoff;
use crate::node::observed::Failure;
use crate::node::pod::test_pod;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + seconds).unwrap()
}

fn pod(policy: &str) -> Pod {
    test_pod(json!({
        "metadata": {"name": "p"},
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "i", "image": "busy:1"}],
            "containers": [{"name": "a", "image": "web:1"}],
        },
    }))
}

fn seen() -> Observed {
    let mut seen = Observed::new("boot", "default", "p", "u", at(0));
    seen.sandbox.touched = true;
    seen.sandbox.ready = true;
    seen.sandbox.ips = vec!["10.90.0.7".parse().unwrap()];
    seen
}

fn ended(code: i32, reason: &str) -> Ended {
    Ended {
        id: "u-a-0".into(),
        code,
        signal: None,
        reason: reason.into(),
        message: String::new(),
        started: Some(at(1)),
        finished: at(2),
        start_failed: false,
        removed: true,
    }
}

fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
    status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == kind)
        .unwrap()
}

fn through_init() -> Observed {
    let mut seen = seen();
    seen.seen_mut("i").state = State::Ended(ended(0, "Completed"));
    seen
}

#[test]
fn waiting_for_init() {
    let status = status(&pod("Always"), &seen(), "192.0.2.1", at(1));
    assert_eq!(status["phase"], "Pending");
    assert_eq!(status["podIP"], "10.90.0.7");
    assert_eq!(
        status["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    assert_eq!(
        status["initContainerStatuses"][0]["state"]["waiting"]["reason"],
        "ContainerCreating"
    );
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized["status"], "False");
    assert_eq!(initialized["message"], "containers with incomplete status: [i]");
    assert_eq!(
        condition(&status, "Ready")["message"],
        "containers with unready status: [a]"
    );
}

#[test]
fn running_and_ready() {
    let mut seen = through_init();
    let one = seen.seen_mut("a");
    one.state = State::Running {
        id: "u-a-0".into(),
        since: at(3),
    };
    one.started = true;
    one.ready = true;
    one.image = Some(("web:1".into(), "sha256:abc".into()));
    let status = status(&pod("Always"), &seen, "192.0.2.1", at(4));
    assert_eq!(status["phase"], "Running");
    for kind in [
        "PodReadyToStartContainers",
        "Initialized",
        "Ready",
        "ContainersReady",
        "PodScheduled",
    ] {
        assert_eq!(condition(&status, kind)["status"], "True", "{kind}");
    }
    let container = &status["containerStatuses"][0];
    assert_eq!(container["containerID"], "berth://u-a-0");
    assert_eq!(container["imageID"], "sha256:abc");
    assert_eq!(container["state"]["running"]["startedAt"], "2023-11-14T22:13:23Z");
    assert_eq!(
        (&container["ready"], &container["started"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(status["initContainerStatuses"][0]["ready"], true);
}

#[test]
fn the_reasons_to_wait() {
    for reason in [
        "ErrImageNeverPull",
        "ImagePullBackOff",
        "CreateContainerConfigError",
    ] {
        let mut seen = through_init();
        seen.seen_mut("a").state = State::Refused(Failure {
            reason: reason.into(),
            message: "why".into(),
            count: 1,
            retry: at(9),
        });
        let status = status(&pod("Always"), &seen, "192.0.2.1", at(4));
        assert_eq!(status["phase"], "Pending");
        let waiting = &status["containerStatuses"][0]["state"]["waiting"];
        assert_eq!(waiting, &json!({"reason": reason, "message": "why"}));
    }
}

#[test]
fn crash_loops() {
    let mut seen = through_init();
    let mut backoff = Backoff::default();
    backoff.next(at(0), at(0));
    let one = seen.seen_mut("a");
    one.attempt = 1;
    one.backoff = backoff;
    one.state = State::Ended(ended(3, "Error"));
    let status = status(&pod("Always"), &seen, "192.0.2.1", at(4));
    assert_eq!(status["phase"], "Running");
    let container = &status["containerStatuses"][0];
    assert_eq!(container["restartCount"], 1);
    assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
    let message = container["state"]["waiting"]["message"].as_str().unwrap();
    assert_eq!(
        message,
        "back-off 10s restarting failed container=a pod=p_default(u)"
    );
    assert_eq!(container["lastState"]["terminated"]["exitCode"], 3);
}

#[test]
fn programs_that_cannot_start() {
    let mut seen = through_init();
    let mut end = ended(128, "StartError");
    end.start_failed = true;
    end.message = "no such file".into();
    seen.seen_mut("a").state = State::Ended(end);
    let again = status(&pod("Always"), &seen, "192.0.2.1", at(4));
    let container = &again["containerStatuses"][0];
    assert_eq!(container["state"]["waiting"]["reason"], "RunContainerError");
    assert_eq!(container["state"]["waiting"]["message"], "no such file");
    assert_eq!(container["lastState"]["terminated"]["reason"], "StartError");
    let never = status(&pod("Never"), &seen, "192.0.2.1", at(4));
    assert_eq!(never["phase"], "Failed");
    assert_eq!(
        never["containerStatuses"][0]["state"]["terminated"]["exitCode"],
        128
    );
}

#[test]
fn phases_of_the_end() {
    for (policy, code, phase) in [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
    ] {
        let mut seen = through_init();
        seen.seen_mut("a").state = State::Ended(ended(code, "x"));
        assert_eq!(
            status(&pod(policy), &seen, "192.0.2.1", at(9))["phase"],
            phase,
            "{policy} {code}"
        );
    }
    let mut seen = through_init();
    seen.seen_mut("a").state = State::Ended(ended(0, "Completed"));
    let over = status(&pod("Never"), &seen, "192.0.2.1", at(9));
    assert_eq!(condition(&over, "Ready")["reason"], "PodCompleted");
    seen.verdict = Some(("DeadlineExceeded".into(), "late".into()));
    let late = status(&pod("Always"), &seen, "192.0.2.1", at(9));
    assert_eq!(
        (&late["phase"], &late["reason"]),
        (&json!("Failed"), &json!("DeadlineExceeded"))
    );
}

#[test]
fn transition_times_are_kept() {
    let value = json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "web:1"}]},
        "status": {
            "startTime": "2023-01-01T00:00:00Z",
            "conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": "2023-01-01T00:00:05Z"},
                {"type": "ContainersReady", "status": "True", "lastTransitionTime": "2023-01-01T00:00:05Z"},
                {"type": "example.com/gate", "status": "True", "lastTransitionTime": "2023-01-01T00:00:06Z"},
            ],
        },
    });
    let status = status(&test_pod(value), &seen(), "192.0.2.1", at(0));
    assert_eq!(status["startTime"], "2023-01-01T00:00:00Z");
    assert_eq!(
        condition(&status, "Ready")["lastTransitionTime"],
        "2023-01-01T00:00:05Z"
    );
    assert_eq!(
        condition(&status, "ContainersReady")["lastTransitionTime"],
        "2023-11-14T22:13:20Z"
    );
    assert_eq!(condition(&status, "example.com/gate")["status"], "True");
}

#[test]
fn readiness_gates_hold_the_pod_back() {
    let mut pod = test_pod(json!({
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a"}], "readinessGates": [{"conditionType": "example.com/gate"}]},
    }));
    let mut seen = seen();
    let one = seen.seen_mut("a");
    one.state = State::Running {
        id: "x".into(),
        since: at(0),
    };
    one.ready = true;
    let closed = status(&pod, &seen, "192.0.2.1", at(0));
    assert_eq!(condition(&closed, "Ready")["reason"], "ReadinessGatesNotReady");
    assert_eq!(condition(&closed, "ContainersReady")["status"], "True");
    let mut object = (*pod.object).clone();
    object.status = serde_json::from_value(json!({
        "conditions": [{"type": "example.com/gate", "status": "True"}],
    }))
    .unwrap();
    pod.object = std::sync::Arc::new(object);
    assert_eq!(
        condition(&status(&pod, &seen, "192.0.2.1", at(0)), "Ready")["status"],
        "True"
    );
}

#[test]
fn a_finished_pod_keeps_its_stored_status() {
    let pod = test_pod(json!({
        "metadata": {"name": "p"},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "a"}]},
        "status": {"phase": "Succeeded", "podIP": "10.90.0.9"},
    }));
    let seen = Observed::new("boot", "default", "p", "u", at(0));
    assert_eq!(
        status(&pod, &seen, "192.0.2.1", at(0)),
        json!({"phase": "Succeeded", "podIP": "10.90.0.9"})
    );
}
