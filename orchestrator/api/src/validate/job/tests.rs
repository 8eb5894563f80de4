//! Tables of Jobs and CronJobs that are refused, and what is said about them.

use super::super::{create, update};
use super::*;
use crate::kinds::{CRON_JOB, JOB, Kind};
use crate::status::Cause;

fn node() -> Node {
    Node {
        name: "here".into(),
        ..Node::default()
    }
}

fn messages(causes: Vec<Cause>) -> Vec<String> {
    let line = |cause: Cause| format!("{}: {}", cause.field, cause.message);
    causes.into_iter().map(line).collect()
}

/// A Job with these members of its specification, and its defaults.
fn job(spec: &Value) -> Value {
    let mut job = json!({
        "metadata": { "name": "work", "namespace": "default" },
        "spec": { "template": { "spec": {
            "restartPolicy": "Never", "containers": [{ "name": "c", "image": "x:1" }],
        } } },
    });
    for (name, value) in spec.as_object().unwrap() {
        job["spec"][name] = value.clone();
    }
    crate::defaults::apply(JOB, &mut job);
    job
}

fn cron(spec: &Value) -> Value {
    let mut cron = json!({
        "metadata": { "name": "tick", "namespace": "default" },
        "spec": { "schedule": "* * * * *", "jobTemplate": { "spec": job(&json!({}))["spec"] } },
    });
    cron["spec"]["jobTemplate"]["spec"]
        .as_object_mut()
        .unwrap()
        .remove("manualSelector");
    for (name, value) in spec.as_object().unwrap() {
        cron["spec"][name] = value.clone();
    }
    crate::defaults::apply(CRON_JOB, &mut cron);
    cron
}

/// Each change alone is refused with one message that has this in it.
fn refused(kind: &Kind, make: &dyn Fn(&Value) -> Value, cases: &[(Value, &str)]) {
    for (spec, expected) in cases {
        let told = messages(create(kind, &make(spec), &node()));
        assert!(
            told.len() == 1 && told[0].contains(expected),
            "{spec}: {told:#?} lacks {expected:?}"
        );
    }
}

#[test]
fn good_ones_pass() {
    let rules = json!([
        { "action": "FailJob", "onExitCodes": { "operator": "In", "values": [1, 2], "containerName": "c" } },
        { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget" }] },
    ]);
    for spec in [
        json!({}),
        json!({ "parallelism": 0 }),
        json!({ "completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1, "maxFailedIndexes": 2 }),
        json!({ "podFailurePolicy": { "rules": rules } }),
        json!({ "completionMode": "Indexed", "completions": 3,
            "successPolicy": { "rules": [{ "succeededIndexes": "0,2", "succeededCount": 1 }] } }),
        json!({ "managedBy": "acme.io/queue" }),
    ] {
        assert_eq!(
            messages(create(JOB, &job(&spec), &node())),
            Vec::<String>::new(),
            "{spec}"
        );
    }
    for spec in [
        json!({}),
        json!({ "timeZone": "Europe/Berlin", "startingDeadlineSeconds": 0 }),
    ] {
        assert_eq!(
            messages(create(CRON_JOB, &cron(&spec), &node())),
            Vec::<String>::new(),
            "{spec}"
        );
    }
}

#[test]
fn bad_jobs_are_refused() {
    let code = |action: &str, codes: Value| json!({ "podFailurePolicy": { "rules": [{ "action": action, "onExitCodes": codes }] } });
    refused(
        JOB,
        &job,
        &[
            (
                json!({ "parallelism": -1 }),
                "spec.parallelism: Invalid value: -1",
            ),
            (
                json!({ "ttlSecondsAfterFinished": -1 }),
                "greater than or equal to 0",
            ),
            (
                json!({ "completionMode": "Odd" }),
                "spec.completionMode: Unsupported value",
            ),
            (
                json!({ "completionMode": "Indexed", "parallelism": 2 }),
                "spec.completions: Required value: when completion mode is Indexed",
            ),
            (
                json!({ "backoffLimitPerIndex": 1 }),
                "requires indexed completion mode",
            ),
            (
                json!({ "completionMode": "Indexed", "completions": 1, "maxFailedIndexes": 1 }),
                "spec.backoffLimitPerIndex: Required value",
            ),
            (
                json!({ "completionMode": "Indexed", "completions": 1, "maxFailedIndexes": 2, "backoffLimitPerIndex": 1 }),
                "less than or equal to completions",
            ),
            (
                json!({ "selector": { "matchLabels": { "a": "b" } } }),
                "`selector` not auto-generated",
            ),
            (json!({ "manualSelector": true }), "spec.selector: Required value"),
            (
                json!({ "manualSelector": true, "selector": { "matchLabels": { "a": "b" } } }),
                "does not match template",
            ),
            (json!({ "managedBy": "queue" }), "domain-prefixed path"),
            (
                json!({ "podReplacementPolicy": "Never" }),
                "spec.podReplacementPolicy: Unsupported value",
            ),
            (
                json!({ "scheduling": { "schedulingPolicy": {} } }),
                "not supported here",
            ),
            (
                code("Retry", json!({ "operator": "In", "values": [1] })),
                "rules[0].action: Unsupported value",
            ),
            (
                code("FailIndex", json!({ "operator": "In", "values": [1] })),
                "requires the backoffLimitPerIndex to be set",
            ),
            (
                code("FailJob", json!({ "operator": "In", "values": [0] })),
                "must not be 0 for the In operator",
            ),
            (
                code("FailJob", json!({ "operator": "In", "values": [2, 1] })),
                "must be ordered",
            ),
            (
                code("FailJob", json!({ "operator": "In", "values": [1, 1] })),
                "values[1]: Duplicate value",
            ),
            (
                code("FailJob", json!({ "operator": "In", "values": [] })),
                "at least one value is required",
            ),
            (
                code("FailJob", json!({ "operator": "Is", "values": [1] })),
                "operator: Unsupported value",
            ),
            (
                code(
                    "FailJob",
                    json!({ "operator": "In", "values": [1], "containerName": "d" }),
                ),
                "must be one of the container",
            ),
            (
                json!({ "podFailurePolicy": { "rules": [{ "action": "Count" }] } }),
                "specifying one of OnExitCodes and OnPodConditions",
            ),
            (
                json!({ "successPolicy": { "rules": [{ "succeededCount": 1 }] } }),
                "requires indexed completion mode",
            ),
            (
                json!({ "completionMode": "Indexed", "completions": 2, "successPolicy": { "rules": [{}] } }),
                "at least one of succeededCount or succeededIndexes",
            ),
            (
                json!({ "completionMode": "Indexed", "completions": 2, "successPolicy": { "rules": [{ "succeededIndexes": "2" }] } }),
                "too large index",
            ),
            (
                json!({ "completionMode": "Indexed", "completions": 2, "successPolicy": { "rules": [{ "succeededCount": 3 }] } }),
                "must be less than or equal to 2",
            ),
        ],
    );
    let always = json!({ "template": { "spec": { "containers": [{ "name": "c", "image": "x:1" }] } } });
    refused(
        JOB,
        &job,
        &[(
            always,
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        )],
    );
}

#[test]
fn bad_cron_jobs_are_refused() {
    refused(
        CRON_JOB,
        &cron,
        &[
            (json!({ "schedule": "" }), "spec.schedule: Required value"),
            (json!({ "schedule": "* * *" }), "expected exactly 5 fields"),
            (
                json!({ "schedule": "TZ=UTC * * * * *" }),
                "use timeZone field instead",
            ),
            (
                json!({ "timeZone": "" }),
                "timeZone must be nil or non-empty string",
            ),
            (json!({ "timeZone": "Local" }), "explicit time zone"),
            (
                json!({ "timeZone": "Mars/Olympus" }),
                "unknown time zone Mars/Olympus",
            ),
            (
                json!({ "concurrencyPolicy": "Maybe" }),
                "spec.concurrencyPolicy: Unsupported value",
            ),
            (
                json!({ "startingDeadlineSeconds": -1 }),
                "greater than or equal to 0",
            ),
        ],
    );
    let mut long = cron(&json!({}));
    long["metadata"]["name"] = json!("x".repeat(53));
    let told = messages(create(CRON_JOB, &long, &node()));
    assert!(told.len() == 1 && told[0].contains("no more than 52"), "{told:?}");
}

#[test]
fn what_a_job_is_stays() {
    let stored = |spec: &Value| {
        let mut job = job(spec);
        crate::defaults::job_identity(&mut job, "u");
        job
    };
    let told = |old: &Value, change: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        change(&mut new);
        messages(update(JOB, &new, old, &node()))
    };
    let plain = stored(&json!({ "completions": 2, "parallelism": 2 }));
    assert!(told(&plain, &|job| job["spec"]["parallelism"] = json!(5)).is_empty());
    assert!(told(&plain, &|job| job["spec"]["suspend"] = json!(true)).is_empty());
    for (field, value) in [
        ("completions", json!(3)),
        ("completionMode", json!("Indexed")),
        ("selector", json!({ "matchLabels": { "a": "b" } })),
    ] {
        let lines = told(&plain, &|job| job["spec"][field] = value.clone());
        let wanted = format!("spec.{field}: Invalid value");
        assert!(
            lines
                .iter()
                .any(|l| l.starts_with(&wanted) && l.contains("immutable")),
            "{lines:?}"
        );
    }
    let image = |job: &mut Value| job["spec"]["template"]["spec"]["containers"][0]["image"] = json!("y:1");
    assert!(told(&plain, &image)[0].contains("spec.template"));
    // An indexed Job grows with its parallelism.
    let elastic = stored(&json!({ "completions": 2, "parallelism": 2, "completionMode": "Indexed" }));
    let lines = told(&elastic, &|job| job["spec"]["completions"] = json!(3));
    assert!(
        lines.len() == 1 && lines[0].contains("in tandem with spec.parallelism"),
        "{lines:?}"
    );
    let both = |job: &mut Value| {
        job["spec"]["completions"] = json!(3);
        job["spec"]["parallelism"] = json!(3);
    };
    assert!(told(&elastic, &both).is_empty());
    // Before it begins, its place may still change.
    let label = |job: &mut Value| job["spec"]["template"]["metadata"]["labels"]["more"] = json!("x");
    assert!(!told(&plain, &label).is_empty());
    assert!(told(&stored(&json!({ "suspend": true })), &label).is_empty());
}
