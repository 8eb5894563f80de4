//! PURE: revisions, and the annotations that `kubectl rollout history` and `undo` read.

use serde_json::{Map, Value, json};

use super::sets::{TEMPLATE_HASH, Wanted};
use crate::controllers::fields::{annotation, name, number, set_annotation, strings};
use crate::controllers::ownership::controller_reference;
use crate::controllers::revisions::template_hash;

/// Number of the rollout that a set was last the new one of.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";
/// The history annotation is cut at the front to stay below this many bytes.
const HISTORY_LIMIT: usize = 2000;
/// A deployment's annotations that are not copied to its sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// The revision of a set or deployment; 0 where it has none.
pub(super) fn revision_of(object: &Value) -> i64 {
    annotation(object, REVISION)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Brings the annotations of the new set up to date: the deployment's own, and the revision. A
/// set that becomes the new one again (a rollback) keeps its former revisions as history. Says
/// whether anything changed.
pub(super) fn annotate(deployment: &Value, set: &mut Value, revision: i64) -> bool {
    let mut changed = false;
    for (key, value) in strings(deployment, "/metadata/annotations") {
        if !NOT_COPIED.contains(&key.as_str()) {
            changed |= set_annotation(set, &key, &value);
        }
    }
    let former = annotation(set, REVISION).map(str::to_owned);
    if revision_of(set) < revision {
        changed |= set_annotation(set, REVISION, &revision.to_string());
        if let Some(former) = former {
            let history = extended_history(annotation(set, REVISION_HISTORY).unwrap_or_default(), &former);
            changed |= set_annotation(set, REVISION_HISTORY, &history);
        }
    }
    changed
}

fn extended_history(history: &str, former: &str) -> String {
    if history.is_empty() {
        return former.to_owned();
    }
    let whole = format!("{history},{former}");
    let mut kept = whole.as_str();
    while kept.len() > HISTORY_LIMIT {
        let Some((_, rest)) = kept.split_once(',') else {
            break;
        };
        kept = rest;
    }
    kept.to_owned()
}

/// Notes the new set's revision on the deployment; says whether that changed it.
pub(super) fn note(deployment: &mut Value, revision: &str) -> bool {
    set_annotation(deployment, REVISION, revision)
}

/// A set for the deployment's template.
pub(super) fn new_set(deployment: &Value, revision: i64, replicas: i64, wanted: &Wanted) -> Value {
    let hash = template_hash(deployment);
    let mut template = deployment["spec"]["template"].clone();
    add_label(&mut template["metadata"]["labels"], &hash);
    let mut selector = deployment["spec"]["selector"].clone();
    add_label(&mut selector["matchLabels"], &hash);
    let mut set = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": format!("{}-{hash}", name(deployment)),
            "namespace": deployment["metadata"]["namespace"],
            "labels": template["metadata"]["labels"],
            "ownerReferences": [controller_reference(deployment)],
        },
        "spec": { "replicas": replicas, "selector": selector, "template": template },
        "status": { "replicas": 0 },
    });
    let min_ready = number(deployment, "/spec/minReadySeconds");
    if min_ready > 0 {
        set["spec"]["minReadySeconds"] = json!(min_ready);
    }
    annotate(deployment, &mut set, revision);
    set_annotation(&mut set, DESIRED_REPLICAS, &wanted.replicas.to_string());
    set_annotation(&mut set, MAX_REPLICAS, &wanted.most().to_string());
    set
}

fn add_label(labels: &mut Value, hash: &str) {
    if !labels.is_object() {
        *labels = Value::Object(Map::new());
    }
    labels[TEMPLATE_HASH] = json!(hash);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {
                "name": "web", "namespace": "default", "uid": "d",
                "annotations": { "team": "a", REVISION: "7", "kubectl.kubernetes.io/last-applied-configuration": "{}" },
            },
            "spec": {
                "minReadySeconds": 5,
                "selector": { "matchLabels": { "app": "web" } },
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [] } },
            },
        })
    }

    #[test]
    fn a_new_set_is_told_from_the_others_by_its_hash() {
        let deployment = deployment();
        let wanted = Wanted {
            replicas: 3,
            rolling: true,
            surge: 1,
            unavailable: 0,
        };
        let set = new_set(&deployment, 2, 1, &wanted);
        let hash = template_hash(&deployment);
        assert_eq!(set["metadata"]["name"], format!("web-{hash}"));
        for pointer in [
            "/metadata/labels",
            "/spec/selector/matchLabels",
            "/spec/template/metadata/labels",
        ] {
            let labels = set.pointer(pointer).unwrap();
            assert_eq!(
                (&labels["app"], &labels[TEMPLATE_HASH]),
                (&json!("web"), &json!(hash)),
                "{pointer}"
            );
        }
        assert_eq!(
            set["metadata"]["annotations"],
            json!({ "team": "a", REVISION: "2", DESIRED_REPLICAS: "3", MAX_REPLICAS: "4" })
        );
        assert_eq!(set["spec"]["minReadySeconds"], 5);
        assert!(crate::controllers::deployment::sets::same_template(
            &deployment,
            &set
        ));
    }

    #[test]
    fn a_set_that_is_new_again_keeps_its_history() {
        let deployment = deployment();
        let mut set = json!({ "metadata": { "annotations": { REVISION: "1", "team": "a" } } });
        assert!(annotate(&deployment, &mut set, 3));
        assert!(annotate(&deployment, &mut set, 5));
        assert_eq!(annotation(&set, REVISION), Some("5"));
        assert_eq!(annotation(&set, REVISION_HISTORY), Some("1,3"));
        assert!(!annotate(&deployment, &mut set, 5));
        assert!(!annotate(&deployment, &mut set, 4), "a revision never goes back");
    }

    #[test]
    fn history_is_cut_at_the_front() {
        let long = vec!["12345"; 400].join(",");
        let cut = extended_history(&long, "99999");
        assert!(cut.len() <= HISTORY_LIMIT && cut.ends_with(",99999") && cut.starts_with("12345"));
    }
}
