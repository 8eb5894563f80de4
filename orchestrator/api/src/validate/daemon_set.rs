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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Node, create, update};
    use super::*;
    use crate::{defaults, kinds};

    fn set(pointer: &str, value: Value) -> Value {
        let mut set = json!({
            "metadata": { "name": "agent", "namespace": "default" },
            "spec": {
                "selector": { "matchLabels": { "app": "a" } },
                "template": {
                    "metadata": { "labels": { "app": "a" } },
                    "spec": { "nodeSelector": {}, "containers": [{ "name": "a", "image": "x:1" }] },
                },
                "updateStrategy": {},
            },
        });
        if let Some(place) = set.pointer_mut(pointer) {
            *place = value;
        }
        defaults::apply(kinds::DAEMON_SET, &mut set);
        set
    }

    fn told(pointer: &str, value: Value) -> String {
        let causes = create(kinds::DAEMON_SET, &set(pointer, value), &Node::default());
        let told: Vec<String> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        told.join("; ")
    }

    #[test]
    fn a_template_may_exclude_the_node() {
        let elsewhere = json!({ "disk": "ssd" });
        assert_eq!(told("/spec/template/spec/nodeSelector", elsewhere), "");
        let required = json!({ "nodeSelectorTerms": [{ "matchFields": [
            { "key": "metadata.name", "operator": "In", "values": ["elsewhere"] },
        ] }] });
        let affinity = json!({ "requiredDuringSchedulingIgnoredDuringExecution": required });
        let spec = json!({
            "affinity": { "nodeAffinity": affinity }, "containers": [{ "name": "a", "image": "x:1" }],
        });
        assert_eq!(told("/spec/template/spec", spec.clone()), "");
        // A pod could never run there.
        let mut pod = json!({ "metadata": { "name": "p", "namespace": "default" }, "spec": spec });
        defaults::apply(kinds::POD, &mut pod);
        let causes = create(kinds::POD, &pod, &Node::default());
        assert!(
            causes.len() == 1 && causes[0].message.contains("the pod could never run"),
            "{causes:?}"
        );
        pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!({
            "nodeSelectorTerms": [
                { "matchExpressions": [
                    { "key": "a", "operator": "In" },
                    { "key": "b", "operator": "Exists", "values": ["x"] },
                    { "key": "c", "operator": "Gt", "values": [] },
                    { "key": "d", "operator": "Like", "values": ["x"] },
                    { "key": "e f", "operator": "DoesNotExist" },
                ] },
                { "matchFields": [{ "key": "spec.x", "operator": "Exists" }] },
            ],
        });
        let causes = create(kinds::POD, &pod, &Node::default());
        let fields: Vec<&str> = causes
            .iter()
            .map(|cause| cause.field.rsplit("Terms").next().unwrap())
            .collect();
        assert_eq!(
            fields,
            [
                "[0].matchExpressions[0].values",
                "[0].matchExpressions[1].values",
                "[0].matchExpressions[2].values",
                "[0].matchExpressions[3].operator",
                "[0].matchExpressions[4].key",
                "[1].matchFields[0].operator",
                "[1].matchFields[0].key",
                "",
            ]
        );
    }

    #[test]
    fn bad_ones_are_refused() {
        let rolling = |more: Value| json!({ "type": "RollingUpdate", "rollingUpdate": more });
        for (pointer, value, expected) in [
            (
                "/spec/selector",
                json!({}),
                "spec.selector: Invalid value: {}: empty selector is invalid for daemonset",
            ),
            (
                "/spec/template/metadata/labels",
                json!({ "app": "b" }),
                "`selector` does not match template `labels`",
            ),
            (
                "/spec/updateStrategy",
                json!({ "type": "Recreate" }),
                "spec.updateStrategy.type: Unsupported value: \"Recreate\": supported values: \"OnDelete\", \"RollingUpdate\"",
            ),
            (
                "/spec/updateStrategy",
                rolling(json!({ "maxUnavailable": 0 })),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
            ),
            (
                "/spec/updateStrategy",
                rolling(json!({ "maxSurge": 1 })),
                "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ),
            (
                "/spec/updateStrategy",
                rolling(json!({ "maxUnavailable": "101%" })),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ),
            (
                "/spec/template/spec",
                json!({ "containers": [{ "name": "a", "image": "x:1" }], "activeDeadlineSeconds": 3 }),
                "activeDeadlineSeconds in DaemonSet is not Supported",
            ),
            (
                "/spec/template/spec",
                json!({ "containers": [{ "name": "a", "image": "x:1" }], "restartPolicy": "Never" }),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
        ] {
            let told = told(pointer, value);
            assert!(told.contains(expected), "{told}");
        }
        assert_eq!(told("/spec/updateStrategy", json!({ "type": "OnDelete" })), "");
        assert_eq!(
            told(
                "/spec/updateStrategy",
                rolling(json!({ "maxSurge": "10%", "maxUnavailable": 0 }))
            ),
            ""
        );
    }

    #[test]
    fn a_selector_and_a_revision_stay() {
        let old = set("/none", Value::Null);
        let mut new = old.clone();
        new["spec"]["selector"] = json!({ "matchLabels": { "b": "c" } });
        new["spec"]["template"]["metadata"]["labels"] = json!({ "b": "c" });
        let causes = update(kinds::DAEMON_SET, &new, &old, &Node::default());
        assert!(
            causes.iter().any(|cause| cause.field == "spec.selector"),
            "{causes:?}"
        );
        let revision = |data: Value, revision: i64| json!({ "metadata": { "name": "r", "namespace": "default" }, "data": data, "revision": revision });
        let (old, kind) = (revision(json!({ "a": 1 }), 1), kinds::CONTROLLER_REVISION);
        assert!(update(kind, &revision(json!({ "a": 1 }), 2), &old, &Node::default()).is_empty());
        let causes = update(kind, &revision(json!({ "a": 2 }), 1), &old, &Node::default());
        assert!(causes[0].message.contains("field is immutable"), "{causes:?}");
        let causes = create(kind, &revision(Value::Null, -1), &Node::default());
        assert_eq!(causes.len(), 2, "{causes:?}");
    }
}
