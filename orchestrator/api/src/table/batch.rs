//! Columns of Job and CronJob.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::workload::selector;
use super::{Column, age, column, count, human, name, number, or_none, text, wide};

pub(super) const JOB: &[Column] = &[
    column("Name"),
    column("Status"),
    column("Completions"),
    column("Duration"),
    column("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];
pub(super) const CRON_JOB: &[Column] = &[
    column("Name"),
    column("Schedule"),
    column("Timezone"),
    column("Suspend"),
    number("Active"),
    column("Last Schedule"),
    column("Age"),
    wide("Containers"),
    wide("Images"),
    wide("Selector"),
];

pub(super) fn job(object: &Value, now: Timestamp) -> Vec<Value> {
    let done = count(object, "/status/succeeded");
    let completions = object.pointer("/spec/completions").and_then(Value::as_i64);
    let parallelism = count(object, "/spec/parallelism");
    let progress = match completions {
        Some(wanted) => format!("{done}/{wanted}"),
        None if parallelism > 1 => format!("{done}/1 of {parallelism}"),
        None => format!("{done}/1"),
    };
    let time = |pointer: &str| object.pointer(pointer)?.as_str()?.parse::<Timestamp>().ok();
    let duration = time("/status/startTime").map_or(String::new(), |start| {
        let end = time("/status/completionTime").unwrap_or(now);
        human(end.as_second() - start.as_second())
    });
    let mut cells = vec![
        name(object),
        json!(state(object)),
        json!(progress),
        json!(duration),
        age(object, now),
    ];
    cells.extend(containers(object.pointer("/spec/template/spec/containers")));
    cells.push(or_none(&selector(object.pointer("/spec/selector"))));
    cells
}

/// What a Job comes to, in the order in which upstream looks.
fn state(job: &Value) -> &'static str {
    let holds = |kind: &str| {
        let conditions = job.pointer("/status/conditions").and_then(Value::as_array);
        conditions
            .into_iter()
            .flatten()
            .any(|c| c["type"] == kind && c["status"] == "True")
    };
    for kind in ["Complete", "Failed"] {
        if holds(kind) {
            return kind;
        }
    }
    if job.pointer("/metadata/deletionTimestamp").is_some() {
        return "Terminating";
    }
    ["Suspended", "FailureTarget", "SuccessCriteriaMet"]
        .into_iter()
        .find(|kind| holds(kind))
        .unwrap_or("Running")
}

pub(super) fn cron_job(object: &Value, now: Timestamp) -> Vec<Value> {
    let last = object.pointer("/status/lastScheduleTime");
    let last = last.map_or_else(
        || or_none(""),
        |time| Value::String(super::age::since(Some(time), now)),
    );
    let suspended = object.pointer("/spec/suspend") == Some(&json!(true));
    let active = object.pointer("/status/active").and_then(Value::as_array);
    let mut cells = vec![
        name(object),
        json!(text(object, "/spec/schedule")),
        or_none(text(object, "/spec/timeZone")),
        json!(if suspended { "True" } else { "False" }),
        json!(active.map_or(0, Vec::len)),
        last,
        age(object, now),
    ];
    let template = "/spec/jobTemplate/spec";
    cells.extend(containers(
        object.pointer(&format!("{template}/template/spec/containers")),
    ));
    cells.push(or_none(&selector(
        object.pointer(&format!("{template}/selector")),
    )));
    cells
}

/// Names and images of containers.
fn containers(list: Option<&Value>) -> [Value; 2] {
    ["name", "image"].map(|field| {
        let list = list.and_then(Value::as_array).into_iter().flatten();
        let all: Vec<&str> = list.filter_map(|c| c.get(field)?.as_str()).collect();
        json!(all.join(","))
    })
}
