//! Tables of schedules and Jobs, and what becomes of them.

use serde_json::json;

use super::missed::due;
use super::*;
use berth_api::schedule::Schedule;

fn at(time: &str) -> Timestamp {
    format!("2026-03-04T{time}Z").parse().unwrap()
}

fn cron(change: &Value) -> Value {
    let mut cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {
            "name": "tick", "namespace": "default", "uid": "c", "creationTimestamp": "2026-03-04T10:00:30Z",
        },
        "spec": {
            "schedule": "* * * * *",
            "jobTemplate": {
                "metadata": { "labels": { "a": "b" } },
                "spec": { "template": { "spec": { "containers": [], "restartPolicy": "Never" } } },
            },
        },
    });
    berth_api::defaults::apply(kinds::CRON_JOB, &mut cron);
    json_merge(&mut cron, change);
    cron
}

fn json_merge(target: &mut Value, change: &Value) {
    match (target, change) {
        (Value::Object(target), Value::Object(change)) => {
            for (key, value) in change {
                json_merge(target.entry(key).or_insert(Value::Null), value);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn job(name: &str, end: Option<(&str, &str)>) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": name, "namespace": "default", "uid": name },
        "status": { "startTime": "2026-03-04T10:00:00Z" },
    });
    if let Some((kind, time)) = end {
        job["status"]["startTime"] = json!(time);
        job["status"]["completionTime"] = json!(time);
        job["status"]["conditions"] = json!([{ "type": kind, "status": "True" }]);
    }
    job
}

fn look(cron: &Value, jobs: &[Value], now: &str) -> Plan {
    plan(cron, jobs, &TimeZone::UTC, at(now))
}

fn made(plan: &Plan) -> &str {
    plan.create.as_ref().map_or("", name)
}

fn reasons(plan: &Plan) -> Vec<&'static str> {
    plan.events.iter().map(|(_, reason, _)| *reason).collect()
}

#[test]
fn a_run_is_made_when_its_time_has_come() {
    let early = look(&cron(&json!({})), &[], "10:00:45");
    assert!(early.create.is_none());
    assert_eq!(early.again, Some(std::time::Duration::from_millis(15_100)));
    let due = look(&cron(&json!({})), &[], "10:01:00");
    let minutes = at("10:01:00").as_second() / 60;
    assert_eq!(made(&due), format!("tick-{minutes}"));
    let job = due.create.unwrap();
    assert_eq!(
        job["metadata"]["annotations"][plan::SCHEDULED],
        "2026-03-04T10:01:00Z"
    );
    assert_eq!(job["metadata"]["labels"]["a"], "b");
    assert_eq!(controller_of(&job).unwrap()["uid"], "c");
    assert_eq!(job["spec"]["backoffLimit"], 6, "the Job has its defaults");
    // That run has been made.
    let done = cron(&json!({ "status": { "lastScheduleTime": "2026-03-04T10:01:00Z" } }));
    assert!(look(&done, &[], "10:01:30").create.is_none());
    for change in [
        json!({ "spec": { "suspend": true } }),
        json!({ "metadata": { "deletionTimestamp": "2026-03-04T10:01:00Z" } }),
    ] {
        assert!(look(&cron(&change), &[], "10:01:30").create.is_none(), "{change}");
    }
    let zoned = cron(&json!({ "spec": { "schedule": "1 15 * * *", "timeZone": "Asia/Kolkata" } }));
    // 15:01 in Kolkata is 9:31 in UTC: it was before the CronJob was made.
    assert!(look(&zoned, &[], "23:00:00").create.is_none());
    let zoned = cron(&json!({ "spec": { "schedule": "31 15 * * *", "timeZone": "Asia/Kolkata" } }));
    let run = look(&zoned, &[], "10:02:00").create.unwrap();
    assert_eq!(
        run["metadata"]["annotations"][plan::SCHEDULED],
        "2026-03-04T15:31:00+05:30"
    );
}

#[test]
fn missed_runs_become_one_and_a_deadline_bounds_them() {
    let late = look(&cron(&json!({})), &[], "10:30:10");
    assert_eq!(made(&late), format!("tick-{}", at("10:30:00").as_second() / 60));
    assert!(late.events.is_empty());
    let very_late = look(&cron(&json!({})), &[], "13:30:10");
    assert_eq!(reasons(&very_late), ["TooManyMissedTimes"]);
    assert_eq!(
        made(&very_late),
        format!("tick-{}", at("13:30:00").as_second() / 60)
    );
    let hourly = json!({ "spec": { "schedule": "5 * * * *", "startingDeadlineSeconds": 60 } });
    assert!(made(&look(&cron(&hourly), &[], "11:05:59")).starts_with("tick-"));
    assert_eq!(made(&look(&cron(&hourly), &[], "11:06:01")), "");
}

#[test]
fn concurrency_is_as_asked() {
    let running = json!([{ "name": "tick-1", "uid": "tick-1" }]);
    let with = |policy: &str| {
        cron(&json!({ "spec": { "concurrencyPolicy": policy }, "status": { "active": running } }))
    };
    let jobs = [job("tick-1", None)];
    let allowed = look(&with("Allow"), &jobs, "10:01:00");
    assert!(allowed.create.is_some() && allowed.delete.is_empty());
    let forbidden = look(&with("Forbid"), &jobs, "10:01:00");
    assert!(forbidden.create.is_none());
    assert_eq!(reasons(&forbidden), ["JobAlreadyActive"]);
    // The end of the other makes room.
    let ended = [job("tick-1", Some(("Complete", "2026-03-04T10:01:20Z")))];
    let after = look(&with("Forbid"), &ended, "10:01:21");
    assert!(after.create.is_some());
    assert_eq!(after.status["lastSuccessfulTime"], "2026-03-04T10:01:20Z");
    let replaced = look(&with("Replace"), &jobs, "10:01:00");
    assert!(replaced.create.is_some() && replaced.delete.len() == 1);
    assert!(replaced.status.get("active").is_none());
}

#[test]
fn jobs_are_accounted_for_and_the_oldest_ended_go() {
    let cron = cron(&json!({
        "spec": { "suspend": true, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 0 },
        "status": { "active": [{ "name": "gone", "uid": "gone" }, { "name": "b", "uid": "b" }] },
    }));
    let jobs = [
        job("a", Some(("Complete", "2026-03-04T10:00:01Z"))),
        job("b", Some(("Complete", "2026-03-04T10:00:02Z"))),
        job("c", Some(("Failed", "2026-03-04T10:00:03Z"))),
        job("manual", None),
    ];
    let plan = look(&cron, &jobs, "10:01:00");
    let gone: Vec<&str> = plan.delete.iter().map(name).collect();
    assert_eq!(gone, ["a", "c"]);
    assert_eq!(plan.status.get("active"), None);
    assert_eq!(plan.status["lastSuccessfulTime"], "2026-03-04T10:00:02Z");
    assert_eq!(reasons(&plan), ["SawCompletedJob", "UnexpectedJob", "MissingJob"]);
}

#[test]
fn the_newest_missed_run_is_what_a_walk_would_find() {
    let zone = berth_api::schedule::zone("Europe/Berlin").unwrap();
    let start: Timestamp = "2026-03-01T00:00:00Z".parse().unwrap();
    let mut random = 7_u64;
    for text in [
        "*/5 * * * *",
        "30 2 * * *",
        "0 8-17 * * mon-fri",
        "0 0 1 * *",
        "17 3 29 2 *",
    ] {
        let schedule = Schedule::parse(text).unwrap();
        for _ in 0..40 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let now = Timestamp::from_second(start.as_second() + (random >> 40) as i64 % 8_000_000).unwrap();
            let (mut walked, mut at) = (None, start);
            while let Some(next) = schedule.next(at, &zone).filter(|next| *next <= now) {
                walked = Some(next);
                at = next;
            }
            let found = due(&schedule, &zone, start, now).unwrap().map(|due| due.at);
            assert_eq!(found, walked, "{text} at {now}");
        }
    }
}
