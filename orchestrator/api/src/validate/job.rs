//! Validation of Job (upstream `ValidateJobSpec`, `ValidateJobSpecUpdate`).

use serde_json::{Map, Value, json};

use super::field::{Errors, Path, text};
use super::{Node, job_policy, metadata, names, no_ephemeral, pod};
use crate::selector::LabelSelector;

/// Indexes that run at once, and that may fail, at most.
const MOST_INDEXES: i64 = 100_000;
const IMMUTABLE: &str = "field is immutable";

pub(super) fn job(object: &Value, node: &Node, errors: &mut Errors) {
    let at = Path::root("spec");
    let inner = object.get("spec").unwrap_or(&Value::Null);
    spec(&at, inner, node, errors);
    selector(&at, inner, errors);
}

/// What only a new Job must keep: its selector is made when it is stored, and its pods' host
/// names come of its own.
pub(super) fn created(object: &Value, errors: &mut Errors) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if spec.get("manualSelector") != Some(&json!(true)) {
        if let Some(given) = spec.get("selector").filter(|s| !s.is_null()) {
            let at = Path::root("spec").child("selector");
            errors.invalid(&at, given, "`selector` not auto-generated");
        }
        let at = Path::root("spec")
            .child("template")
            .child("metadata")
            .child("labels");
        let labels = spec.pointer("/template/metadata/labels");
        for label in ["batch.kubernetes.io/controller-uid", "controller-uid"] {
            if let Some(value) = labels.and_then(|l| l.get(label)) {
                let told = "is set to the Job's uid: leave it out, or set manualSelector";
                errors.invalid(&at.key(label), value, told);
            }
        }
        let name = object.get("metadata").map_or("", |m| text(m, "name"));
        for label in ["batch.kubernetes.io/job-name", "job-name"] {
            if let Some(value) = labels.and_then(|l| l.get(label)).filter(|v| *v != name) {
                errors.invalid(&at.key(label), value, &format!("must be '{name}'"));
            }
        }
    }
    let completions = number(spec, "completions").unwrap_or(0);
    if is_indexed(spec) && completions > 0 {
        let name = object.get("metadata").map_or("", |m| text(m, "name"));
        let longest = format!("{name}-{}", completions - 1);
        for wrong in names::dns_label(&longest) {
            let told = format!("will not able to create pod with invalid DNS label {longest:?}: {wrong}");
            errors.invalid_text(&Path::root("metadata").child("name"), name, &told);
        }
    }
}

fn number(spec: &Value, name: &str) -> Option<i64> {
    spec.get(name).and_then(Value::as_i64)
}

fn is_indexed(spec: &Value) -> bool {
    text(spec, "completionMode") == "Indexed"
}

/// A Job's specification, of its own or in a CronJob.
pub(super) fn spec(at: &Path, spec: &Value, node: &Node, errors: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.not_negative(&at.child(field), spec.get(field));
    }
    if let Some(mode) = spec.get("completionMode") {
        errors.one_of(
            &at.child("completionMode"),
            Some(mode),
            &["Indexed", "NonIndexed"],
        );
    }
    if let Some(manager) = spec.get("managedBy").and_then(Value::as_str) {
        managed_by(&at.child("managedBy"), manager, errors);
    }
    indexed(at, spec, errors);
    job_policy::failure(at, spec, errors);
    job_policy::success(at, spec, errors);
    let replacement = if spec.get("podFailurePolicy").is_some() {
        &["Failed"][..]
    } else {
        &["Failed", "TerminatingOrFailed"]
    };
    if let Some(policy) = spec.get("podReplacementPolicy") {
        errors.one_of(&at.child("podReplacementPolicy"), Some(policy), replacement);
    }
    template(&at.child("template"), spec, node, errors);
}

fn managed_by(at: &Path, manager: &str, errors: &mut Errors) {
    let (domain, path) = manager.split_once('/').unwrap_or(("", manager));
    if domain.is_empty() || path.is_empty() {
        errors.invalid_text(
            at,
            manager,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
    } else {
        for wrong in names::dns_subdomain(domain) {
            errors.invalid_text(at, domain, &wrong);
        }
    }
    if manager.len() > 63 {
        errors.too_long(at, 63);
    }
}

fn indexed(at: &Path, spec: &Value, errors: &mut Errors) {
    let completions = number(spec, "completions");
    let most = number(spec, "maxFailedIndexes");
    let each = number(spec, "backoffLimitPerIndex");
    if is_indexed(spec) {
        if completions.is_none() {
            errors.required(&at.child("completions"), "when completion mode is Indexed");
        }
        if let Some(parallelism) = number(spec, "parallelism").filter(|p| *p > MOST_INDEXES) {
            let told = "must be less than or equal to 100000 when completion mode is Indexed";
            errors.invalid(&at.child("parallelism"), &json!(parallelism), told);
        }
    } else if let Some(limit) = each {
        let place = at.child("backoffLimitPerIndex");
        errors.invalid(&place, &json!(limit), "requires indexed completion mode");
    }
    let Some(completions) = completions else { return };
    if let Some(most) = most {
        let place = at.child("maxFailedIndexes");
        if most > completions {
            errors.invalid(&place, &json!(most), "must be less than or equal to completions");
        }
        if most > MOST_INDEXES {
            errors.invalid(&place, &json!(most), "must be less than or equal to 100000");
        }
    }
    if completions > MOST_INDEXES && each.is_some() && most.is_none() {
        errors.required(
            &at.child("maxFailedIndexes"),
            "must be specified when completions is above 100000",
        );
    }
    if most.is_some() && each.is_none() {
        errors.required(
            &at.child("backoffLimitPerIndex"),
            "when maxFailedIndexes is specified",
        );
    }
}

fn template(at: &Path, spec: &Value, node: &Node, errors: &mut Errors) {
    let Some(template) = spec.get("template") else {
        errors.required(at, "");
        return;
    };
    let labels = template.pointer("/metadata/labels");
    metadata::labels(&at.child("metadata").child("labels"), labels, errors);
    let at = at.child("spec");
    let pod_spec = template.get("spec").unwrap_or(&Value::Null);
    pod::validate(&at, pod_spec, node, errors);
    no_ephemeral(&at, Some(pod_spec), errors);
    if text(pod_spec, "restartPolicy") == "Always" {
        errors.required(
            &at.child("restartPolicy"),
            "valid values: \"OnFailure\", \"Never\"",
        );
    }
}

/// A selector that a user made must match the template.
fn selector(at: &Path, spec: &Value, errors: &mut Errors) {
    if spec.get("manualSelector") != Some(&json!(true)) {
        return;
    }
    let place = at.child("selector");
    let Some(selector) = spec.get("selector").filter(|s| !s.is_null()) else {
        errors.required(&place, "with manualSelector");
        return;
    };
    match LabelSelector::from_object(Some(selector)) {
        Err(wrong) => errors.invalid(&place, selector, &wrong.to_string()),
        Ok(parsed) => {
            let template = spec.get("template").unwrap_or(&Value::Null);
            if !parsed.matches_object(template) {
                let labels = template
                    .pointer("/metadata/labels")
                    .cloned()
                    .unwrap_or_else(|| json!({}));
                let place = at.child("template").child("metadata").child("labels");
                errors.invalid(&place, &labels, "`selector` does not match template `labels`");
            }
        }
    }
}

/// What may not change.
pub(super) fn changed(object: &Value, old: &Value, errors: &mut Errors) {
    let at = Path::root("spec");
    let null = Value::Null;
    let (new, was) = (
        object.get("spec").unwrap_or(&null),
        old.get("spec").unwrap_or(&null),
    );
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        if new.get(field) != was.get(field) {
            errors.invalid(&at.child(field), new.get(field).unwrap_or(&null), IMMUTABLE);
        }
    }
    let completions = |spec: &Value| number(spec, "completions");
    if completions(new) != completions(was) {
        let place = at.child("completions");
        let shown = json!(completions(new));
        if !is_indexed(new) {
            errors.invalid(&place, &shown, IMMUTABLE);
        } else if completions(new).is_some() && completions(new) != number(new, "parallelism") {
            errors.invalid(
                &place,
                &shown,
                "can only be modified in tandem with spec.parallelism",
            );
        }
    }
    // A Job that has not begun may still be placed differently.
    let open = was.get("suspend") == Some(&json!(true)) && old.pointer("/status/startTime").is_none();
    let fixed = |spec: &Value| {
        let template = spec.get("template").cloned().unwrap_or_default();
        if open {
            without_placement(template)
        } else {
            template
        }
    };
    if fixed(new) != fixed(was) {
        errors.invalid(
            &at.child("template"),
            new.get("template").unwrap_or(&null),
            IMMUTABLE,
        );
    }
}

fn without_placement(mut template: Value) -> Value {
    let mut strip = |pointer: &str, fields: &[&str]| {
        if let Some(map) = template.pointer_mut(pointer).and_then(Value::as_object_mut) {
            let map: &mut Map<String, Value> = map;
            for field in fields {
                map.remove(*field);
            }
        }
    };
    strip("/metadata", &["labels", "annotations"]);
    strip(
        "/spec",
        &["nodeSelector", "affinity", "tolerations", "schedulingGates"],
    );
    template
}

#[cfg(test)]
mod tests;
