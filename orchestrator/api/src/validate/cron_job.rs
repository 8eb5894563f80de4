//! Validation of CronJob (upstream `ValidateCronJobSpec`).

use serde_json::Value;

use super::field::{Errors, Path, text};
use super::{Node, job, metadata};
use crate::schedule::{self, Schedule};

/// Bytes of a name: eleven more are added to name its Jobs.
const NAME_LIMIT: usize = 52;

pub(super) fn cron_job(object: &Value, node: &Node, errors: &mut Errors) {
    let name = object.get("metadata").map_or("", |m| text(m, "name"));
    if name.len() > NAME_LIMIT {
        let at = Path::root("metadata").child("name");
        errors.invalid_text(&at, name, "must be no more than 52 characters");
    }
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    timing(&at, spec, errors);
    errors.one_of(
        &at.child("concurrencyPolicy"),
        spec.get("concurrencyPolicy"),
        &["Allow", "Forbid", "Replace"],
    );
    for field in [
        "startingDeadlineSeconds",
        "successfulJobsHistoryLimit",
        "failedJobsHistoryLimit",
    ] {
        errors.not_negative(&at.child(field), spec.get(field));
    }
    let at = at.child("jobTemplate");
    let Some(template) = spec.get("jobTemplate") else {
        errors.required(&at, "");
        return;
    };
    let labels = template.pointer("/metadata/labels");
    metadata::labels(&at.child("metadata").child("labels"), labels, errors);
    let at = at.child("spec");
    let inner = template.get("spec").unwrap_or(&Value::Null);
    job::spec(&at, inner, node, errors);
    if inner.get("selector").is_some_and(|s| !s.is_null()) {
        let shown = inner.get("selector").unwrap_or(&Value::Null);
        errors.invalid(&at.child("selector"), shown, "`selector` will be auto-generated");
    }
    if inner.get("manualSelector") == Some(&Value::Bool(true)) {
        errors.unsupported(&at.child("manualSelector"), "true", &["false"]);
    }
}

fn timing(at: &Path, spec: &Value, errors: &mut Errors) {
    let schedule = text(spec, "schedule");
    let place = at.child("schedule");
    if schedule.is_empty() {
        errors.required(&place, "");
    } else if schedule.contains("TZ") {
        errors.invalid_text(
            &place,
            schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
    } else if let Err(wrong) = Schedule::parse(schedule) {
        errors.invalid_text(&place, schedule, &wrong.to_string());
    }
    let place = at.child("timeZone");
    match spec.get("timeZone").and_then(Value::as_str) {
        Some("") => errors.invalid_text(&place, "", "timeZone must be nil or non-empty string"),
        Some(zone) if zone.eq_ignore_ascii_case("local") => errors.invalid_text(
            &place,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        ),
        Some(zone) if schedule::zone(zone).is_none() => {
            errors.invalid_text(&place, zone, &format!("unknown time zone {zone}"));
        }
        _ => {}
    }
}
