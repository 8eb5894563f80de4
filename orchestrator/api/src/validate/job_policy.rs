//! Validation of a Job's policies on failure and success.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use super::names;
use crate::indexes::Indexes;

const MOST_RULES: usize = 20;
const MOST_PATTERNS: usize = 20;
const MOST_CODES: usize = 255;
const INDEXES_LIMIT: usize = 64 << 10;

/// `podFailurePolicy`.
pub(super) fn failure(at: &Path, spec: &Value, errors: &mut Errors) {
    let Some(policy) = spec.get("podFailurePolicy").filter(|p| !p.is_null()) else {
        return;
    };
    let pod = spec.pointer("/template/spec").unwrap_or(&Value::Null);
    if text(pod, "restartPolicy") != "Never" {
        let place = at.child("template").child("spec").child("restartPolicy");
        let told = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.invalid_text(&place, text(pod, "restartPolicy"), told);
    }
    let at = at.child("podFailurePolicy").child("rules");
    let count = each(policy, "rules").count();
    if count > MOST_RULES {
        errors.too_many(&at, count, MOST_RULES);
    }
    let containers: HashSet<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|list| each(pod, list))
        .map(|(_, container)| text(container, "name"))
        .collect();
    for (index, rule) in each(policy, "rules") {
        let at = at.index(index);
        action(&at.child("action"), spec, rule, errors);
        let codes = rule.get("onExitCodes").filter(|r| !r.is_null());
        let conditions = each(rule, "onPodConditions").count();
        match (codes, conditions) {
            (Some(codes), 0) => exit_codes(&at.child("onExitCodes"), codes, &containers, errors),
            (Some(_), _) => errors.invalid(
                &at,
                rule,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            ),
            (None, 0) => errors.invalid(
                &at,
                rule,
                "specifying one of OnExitCodes and OnPodConditions is required",
            ),
            (None, count) => {
                let at = at.child("onPodConditions");
                if count > MOST_PATTERNS {
                    errors.too_many(&at, count, MOST_PATTERNS);
                }
                pod_conditions(&at, rule, errors);
            }
        }
    }
}

fn action(at: &Path, spec: &Value, rule: &Value, errors: &mut Errors) {
    let named = text(rule, "action");
    if named.is_empty() {
        let told = "valid values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"";
        errors.required(at, told);
        return;
    }
    errors.one_of(
        at,
        rule.get("action"),
        &["Count", "FailIndex", "FailJob", "Ignore"],
    );
    if named == "FailIndex" && spec.get("backoffLimitPerIndex").is_none() {
        errors.invalid_text(at, named, "requires the backoffLimitPerIndex to be set");
    }
}

fn exit_codes(at: &Path, codes: &Value, containers: &HashSet<&str>, errors: &mut Errors) {
    let operator = text(codes, "operator");
    errors.one_of(&at.child("operator"), codes.get("operator"), &["In", "NotIn"]);
    if let Some(name) = codes.get("containerName").and_then(Value::as_str)
        && !containers.contains(name)
    {
        let told = "must be one of the container or initContainer names in the pod template";
        errors.invalid_text(&at.child("containerName"), name, told);
    }
    let at = at.child("values");
    let values: Vec<i64> = each(codes, "values").filter_map(|(_, v)| v.as_i64()).collect();
    if values.is_empty() {
        errors.invalid(&at, &json!(values), "at least one value is required");
    } else if values.len() > MOST_CODES {
        errors.too_many(&at, values.len(), MOST_CODES);
    }
    let mut seen = HashSet::new();
    for (index, value) in values.iter().enumerate() {
        if operator == "In" && *value == 0 {
            errors.invalid(&at.index(index), &json!(0), "must not be 0 for the In operator");
        } else if !seen.insert(value) {
            errors.duplicate(&at.index(index), &value.to_string());
        }
    }
    if !values.is_sorted() {
        errors.invalid(&at, &json!(values), "must be ordered");
    }
}

fn pod_conditions(at: &Path, rule: &Value, errors: &mut Errors) {
    for (index, pattern) in each(rule, "onPodConditions") {
        let at = at.index(index);
        for wrong in names::qualified_name(text(pattern, "type")) {
            errors.invalid_text(&at.child("type"), text(pattern, "type"), &wrong);
        }
        // In a CronJob's template the default comes with the Job.
        if pattern.get("status").is_some() {
            errors.one_of(
                &at.child("status"),
                pattern.get("status"),
                &["False", "True", "Unknown"],
            );
        }
    }
}

/// `successPolicy`.
pub(super) fn success(at: &Path, spec: &Value, errors: &mut Errors) {
    let Some(policy) = spec.get("successPolicy").filter(|p| !p.is_null()) else {
        return;
    };
    let at = at.child("successPolicy");
    if text(spec, "completionMode") != "Indexed" {
        errors.invalid(&at, policy, "requires indexed completion mode");
        return;
    }
    let completions = spec.get("completions").and_then(Value::as_i64).unwrap_or(0);
    let at = at.child("rules");
    let count = each(policy, "rules").count();
    if count == 0 {
        errors.required(
            &at,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    if count > MOST_RULES {
        errors.too_many(&at, count, MOST_RULES);
    }
    for (index, rule) in each(policy, "rules") {
        success_rule(&at.index(index), rule, completions, errors);
    }
}

fn success_rule(at: &Path, rule: &Value, completions: i64, errors: &mut Errors) {
    let indexes = rule.get("succeededIndexes").and_then(Value::as_str);
    let count = rule.get("succeededCount").and_then(Value::as_i64);
    if indexes.is_none() && count.is_none() {
        errors.required(
            at,
            "at least one of succeededCount or succeededIndexes must be specified",
        );
    }
    let mut most = completions;
    let mut of = "completions";
    if let Some(text) = indexes {
        let at = at.child("succeededIndexes");
        if text.len() > INDEXES_LIMIT {
            errors.too_long(&at, INDEXES_LIMIT);
        }
        match Indexes::parse(text, u32::try_from(completions).unwrap_or(0)) {
            Ok(set) => {
                most = i64::try_from(set.len()).unwrap_or(i64::MAX);
                of = "the number of indexes in the specified succeededIndexes field";
            }
            Err(wrong) => {
                errors.invalid_text(&at, text, &format!("error parsing succeededIndexes: {wrong}"));
            }
        }
    }
    if let Some(count) = count {
        let at = at.child("succeededCount");
        errors.not_negative(&at, rule.get("succeededCount"));
        if count > most {
            let told = format!("must be less than or equal to {most} ({of})");
            errors.invalid(&at, &json!(count), &told);
        }
    }
}
