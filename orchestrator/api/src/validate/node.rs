//! Validation of Node: what a user may set on the one there is.

use std::collections::BTreeSet;

use serde_json::Value;

use super::classes::EFFECTS;
use super::field::{Errors, Path, each, text};
use super::names;

pub(super) fn node(object: &Value, errors: &mut Errors) {
    let at = Path::root("spec").child("taints");
    let mut seen = BTreeSet::new();
    for (index, taint) in each(&object["spec"], "taints") {
        let at = at.index(index);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        for wrong in names::qualified_name(key) {
            errors.invalid_text(&at.child("key"), key, &wrong);
        }
        for wrong in names::label_value(value) {
            errors.invalid_text(&at.child("value"), value, &wrong);
        }
        if effect.is_empty() {
            errors.required(&at.child("effect"), "");
        } else if !EFFECTS.contains(&effect) {
            errors.unsupported(&at.child("effect"), effect, &EFFECTS);
        }
        if !seen.insert((key, effect)) {
            let why = format!("Duplicate value: {taint}: taints must be unique by key and effect pair");
            errors.push("FieldValueDuplicate", &at, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn taints() {
        let wrong = |taints: Value| {
            let mut errors = Errors::default();
            node(&json!({"spec": {"taints": taints}}), &mut errors);
            let causes = errors.into_causes();
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert!(
            wrong(json!([
                {"key": "a", "effect": "NoSchedule"},
                {"key": "a", "value": "b", "effect": "NoExecute"},
                {"key": "example.com/a", "effect": "PreferNoSchedule"},
            ]))
            .is_empty()
        );
        assert_eq!(
            wrong(json!([
                {"key": "a b", "value": "c d", "effect": "Never"},
                {"key": "a"},
                {"key": "b", "value": "1", "effect": "NoSchedule"},
                {"key": "b", "value": "2", "effect": "NoSchedule"},
            ])),
            [
                "spec.taints[0].key",
                "spec.taints[0].value",
                "spec.taints[0].effect",
                "spec.taints[1].effect",
                "spec.taints[3]"
            ]
        );
    }
}
