//! Validation of StatefulSet (upstream `ValidateStatefulSetSpec`, `ValidateStatefulSetUpdate`).

use std::collections::HashSet;

use serde_json::{Value, json};

use super::field::{Errors, Path, each, text};
use super::workload::{Words, at_most_all, common, int_or_percent};
use super::{Node, metadata, names, pod, storage};

const WORDS: Words = Words {
    selector: "statefulset",
    template: "StatefulSet",
};
/// Bytes of a name: up to eleven more make the name of a revision, which is the value of a label.
const NAME_LIMIT: usize = 52;
/// What may change, in the order in which upstream names them.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn stateful_set(object: &Value, node: &Node, errors: &mut Errors) {
    name(object, errors);
    let at = Path::root("spec");
    let spec = object.get("spec").unwrap_or(&Value::Null);
    for field in ["replicas", "revisionHistoryLimit"] {
        errors.not_negative(&at.child(field), spec.get(field));
    }
    common(&at, spec, &WORDS, errors, |at, inner, errors| {
        pod::validate(at, &with_claims(spec, inner), node, errors);
    });
    claim_templates(&at.child("volumeClaimTemplates"), spec, errors);
    let service = text(spec, "serviceName");
    if !service.is_empty() {
        for wrong in names::dns_label(service) {
            errors.invalid_text(&at.child("serviceName"), service, &wrong);
        }
    }
    let policy = text(spec, "podManagementPolicy");
    if policy.is_empty() {
        errors.required(&at.child("podManagementPolicy"), "");
    } else if !["OrderedReady", "Parallel"].contains(&policy) {
        let told = "must be 'Parallel' or 'OrderedReady'";
        errors.invalid_text(&at.child("podManagementPolicy"), policy, told);
    }
    let start = spec.pointer("/ordinals/start");
    errors.not_negative(&at.child("ordinals").child("start"), start);
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    update_strategy(&at.child("updateStrategy"), strategy, errors);
    let at = at.child("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let value = spec.pointer(&format!("/persistentVolumeClaimRetentionPolicy/{field}"));
        errors.one_of(&at.child(field), value, &["Delete", "Retain"]);
    }
}

/// A set's name begins those of its pods, which are host names, and those of its revisions.
fn name(object: &Value, errors: &mut Errors) {
    let name = object.get("metadata").map_or("", |m| text(m, "name"));
    let at = Path::root("metadata").child("name");
    if name.len() > NAME_LIMIT {
        let told = "must be no more than 52 characters: its pods and revisions have longer names";
        errors.invalid_text(&at, name, told);
    } else if name.contains('.') {
        errors.invalid_text(
            &at,
            name,
            "must not contain dots: its pods have it in their host names",
        );
    }
}

/// A claim's template has the name of the pods' volume.
fn claim_templates(at: &Path, spec: &Value, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, claim) in each(spec, "volumeClaimTemplates") {
        let at = at.index(index);
        let named = at.child("metadata").child("name");
        let name = claim.get("metadata").map_or("", |m| text(m, "name"));
        if name.is_empty() {
            errors.required(&named, "");
        } else if !seen.insert(name) {
            errors.duplicate(&named, name);
        }
        for wrong in names::dns_label(name).into_iter().filter(|_| !name.is_empty()) {
            errors.invalid_text(&named, name, &wrong);
        }
        let labels = claim.pointer("/metadata/labels");
        metadata::labels(&at.child("metadata").child("labels"), labels, errors);
        let inner = claim.get("spec").unwrap_or(&Value::Null);
        storage::claim_spec(&at.child("spec"), inner, errors);
    }
}

/// The template's pods as they will be: claims are volumes, in place of those of the same name.
fn with_claims(spec: &Value, inner: &Value) -> Value {
    let mut inner = inner.clone();
    let claims: Vec<&str> = each(spec, "volumeClaimTemplates")
        .filter_map(|(_, claim)| claim.pointer("/metadata/name")?.as_str())
        .collect();
    if claims.is_empty() {
        return inner;
    }
    let own = each(&inner, "volumes").map(|(_, volume)| volume.clone());
    let mut volumes: Vec<Value> = own
        .filter(|volume| !claims.contains(&text(volume, "name")))
        .collect();
    // Only the names matter here: a folder stands for each claim.
    volumes.extend(
        claims
            .iter()
            .map(|claim| json!({ "name": claim, "emptyDir": {} })),
    );
    inner["volumes"] = Value::Array(volumes);
    inner
}

fn update_strategy(at: &Path, strategy: &Value, errors: &mut Errors) {
    let kind = text(strategy, "type");
    let rolling = strategy.get("rollingUpdate");
    match (kind, rolling) {
        ("", _) => errors.required(&at.child("type"), ""),
        ("OnDelete", Some(value)) => {
            let told = "only allowed for updateStrategy 'RollingUpdate'";
            errors.invalid(&at.child("rollingUpdate"), value, told);
        }
        ("RollingUpdate", Some(rolling)) => {
            let at = at.child("rollingUpdate");
            errors.not_negative(&at.child("partition"), rolling.get("partition"));
            let (at, value) = (at.child("maxUnavailable"), rolling.get("maxUnavailable"));
            at_most_all(&at, value, errors);
            if int_or_percent(&at, value, errors) == Some(0) {
                errors.invalid(&at, &rolling["maxUnavailable"], "cannot be 0");
            }
        }
        ("OnDelete" | "RollingUpdate", None) => {}
        (other, _) => {
            let told = "must be 'RollingUpdate' or 'OnDelete'";
            errors.invalid_text(&at.child("type"), other, told);
        }
    }
}

/// Checks what must stay. Returns whether the content is worth checking any further.
pub(super) fn changed(object: &Value, old: &Value, errors: &mut Errors) -> bool {
    let rest = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        if let Some(spec) = spec.as_object_mut() {
            spec.retain(|field, _| !CHANGEABLE.contains(&field.as_str()));
        }
        spec
    };
    if rest(object) == rest(old) {
        return true;
    }
    let told = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
    errors.forbidden(&Path::root("spec"), told);
    false
}

#[cfg(test)]
mod tests {
    use super::super::{create, update};
    use super::*;
    use crate::{defaults, kinds};

    fn set() -> Value {
        json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": {
                "selector": { "matchLabels": { "app": "a" } },
                "serviceName": "nginx",
                "template": {
                    "metadata": { "labels": { "app": "a" } },
                    "spec": { "containers": [{ "name": "a", "image": "x:1" }] },
                },
            },
        })
    }

    fn told(change: impl FnOnce(&mut Value)) -> String {
        let mut set = set();
        change(&mut set);
        defaults::apply(kinds::STATEFUL_SET, &mut set);
        let causes = create(kinds::STATEFUL_SET, &set, &Node::default());
        let told: Vec<String> = causes
            .iter()
            .map(|cause| format!("{}: {}", cause.field, cause.message))
            .collect();
        told.join("; ")
    }

    #[test]
    fn bad_ones_are_refused() {
        let rolling = |more: Value| json!({ "type": "RollingUpdate", "rollingUpdate": more });
        for (field, value, expected) in [
            (
                "replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "selector",
                json!({}),
                "spec.selector: Invalid value: {}: empty selector is invalid for statefulset",
            ),
            (
                "podManagementPolicy",
                json!("Any"),
                "spec.podManagementPolicy: Invalid value: \"Any\": must be 'Parallel' or 'OrderedReady'",
            ),
            (
                "ordinals",
                json!({ "start": -1 }),
                "spec.ordinals.start: Invalid value: -1: must be greater",
            ),
            (
                "serviceName",
                json!("a.b"),
                "spec.serviceName: Invalid value: \"a.b\"",
            ),
            (
                "updateStrategy",
                json!({ "type": "Recreate" }),
                "spec.updateStrategy.type: Invalid value: \"Recreate\": must be 'RollingUpdate' or 'OnDelete'",
            ),
            (
                "updateStrategy",
                json!({ "type": "OnDelete", "rollingUpdate": { "partition": 1 } }),
                "only allowed for updateStrategy 'RollingUpdate'",
            ),
            (
                "updateStrategy",
                rolling(json!({ "partition": -1 })),
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater",
            ),
            (
                "updateStrategy",
                rolling(json!({ "maxUnavailable": 0 })),
                "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
            ),
            (
                "persistentVolumeClaimRetentionPolicy",
                json!({ "whenScaled": "Keep" }),
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\"",
            ),
        ] {
            let told = told(|set| set["spec"][field] = value);
            assert!(told.contains(expected), "{told}");
        }
        assert_eq!(told(|_| {}), "");
        for (name, expected) in [
            (
                "a.b",
                "metadata.name: Invalid value: \"a.b\": must not contain dots",
            ),
            (&"a".repeat(53), "must be no more than 52 characters"),
        ] {
            let told = told(|set| set["metadata"]["name"] = json!(name));
            assert!(told.contains(expected), "{told}");
        }
    }

    #[test]
    fn a_claim_may_be_mounted() {
        let claim = |name: &str| {
            let requests = json!({ "requests": { "storage": "1Gi" } });
            let spec = json!({ "accessModes": ["ReadWriteOnce"], "resources": requests });
            json!({ "metadata": { "name": name }, "spec": spec })
        };
        for (claims, expected) in [
            (
                json!([claim("data"), claim("data")]),
                "volumeClaimTemplates[1].metadata.name: Duplicate value",
            ),
            (
                json!([claim("")]),
                "volumeClaimTemplates[0].metadata.name: Required value",
            ),
            (
                json!([claim("A")]),
                "volumeClaimTemplates[0].metadata.name: Invalid value: \"A\"",
            ),
            (
                json!([{ "metadata": { "name": "data" }, "spec": {} }]),
                "volumeClaimTemplates[0].spec.accessModes: Required value",
            ),
        ] {
            let told = told(|set| set["spec"]["volumeClaimTemplates"] = claims);
            assert!(told.contains(expected), "{told}");
        }
        let told = |name: &str| {
            told(|set| {
                set["spec"]["volumeClaimTemplates"] = json!([claim("data")]);
                set["spec"]["template"]["spec"]["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
                set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] =
                    json!([{ "name": name, "mountPath": "/data" }]);
            })
        };
        assert_eq!(told("data"), "");
        assert!(told("other").contains("volumeMounts[0].name: Not found: \"other\""));
    }

    #[test]
    fn what_a_set_is_stays() {
        let mut old = set();
        defaults::apply(kinds::STATEFUL_SET, &mut old);
        let told = |field: &str, value: Value| {
            let mut new = old.clone();
            new["spec"][field] = value;
            let causes = update(kinds::STATEFUL_SET, &new, &old, &Node::default());
            causes
                .iter()
                .map(|cause| cause.message.clone())
                .collect::<String>()
        };
        for field in ["serviceName", "podManagementPolicy"] {
            let told = told(field, json!("Parallel"));
            assert!(
                told.contains("updates to statefulset spec for fields other than"),
                "{told}"
            );
        }
        assert_eq!(told("replicas", json!(5)), "");
        assert_eq!(told("minReadySeconds", json!(5)), "");
        assert!(told("replicas", json!(-5)).contains("must be greater"));
    }
}
