//! Validation of DaemonSet (upstream `ValidateDaemonSetSpec`).

use serde_json::Value;

use super::field::{Errors, Path, text};
use super::pod;
use super::workload::{Words, at_most_all, common, int_or_percent};

const WORDS: Words = Words {
    selector: "daemonset",
    template: "DaemonSet",
};

/// A template that excludes the one node is in order: it wants no pod.
pub(super) fn daemon_set(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    common(&at, spec, &WORDS, errors, pod::content);
    errors.not_negative(
        &at.child("revisionHistoryLimit"),
        spec.get("revisionHistoryLimit"),
    );
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    update_strategy(&at.child("updateStrategy"), strategy, errors);
}

fn update_strategy(at: &Path, strategy: &Value, errors: &mut Errors) {
    errors.one_of(
        &at.child("type"),
        strategy.get("type"),
        &["OnDelete", "RollingUpdate"],
    );
    if text(strategy, "type") != "RollingUpdate" {
        return;
    }
    let at = at.child("rollingUpdate");
    let Some(rolling) = strategy.get("rollingUpdate") else {
        errors.required(&at, "");
        return;
    };
    let mut limit = |name: &str| {
        let (at, value) = (at.child(name), rolling.get(name));
        at_most_all(&at, value, errors);
        int_or_percent(&at, value, errors)
    };
    match (limit("maxUnavailable"), limit("maxSurge")) {
        (Some(1..), Some(1..)) => errors.invalid(
            &at.child("maxSurge"),
            &rolling["maxSurge"],
            "may not be set when maxUnavailable is non-zero",
        ),
        (Some(0), Some(0)) => {
            errors.required(&at.child("maxUnavailable"), "cannot be 0 when maxSurge is 0");
        }
        _ => {}
    }
}
