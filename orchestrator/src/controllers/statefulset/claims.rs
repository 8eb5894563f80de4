//! PURE: the claims of a StatefulSet's pods: their names, and who owns them (upstream `getPersistentVolumeClaims`,
//! `claimOwnerMatchesSetAndPod`).

use serde_json::{Value, json};

use crate::controllers::fields::{is_deleting, name, strings, text, uid};
use crate::controllers::ownership::{controller_of, controller_reference, references, release};

/// The templates of a set's claims.
pub(super) fn templates(set: &Value) -> &[Value] {
    let templates = set
        .pointer("/spec/volumeClaimTemplates")
        .and_then(Value::as_array);
    templates.map_or(&[], Vec::as_slice)
}

/// The name of a pod's claim: the template's, and the pod's.
fn claim_name(template: &Value, pod: &str) -> String {
    format!("{}-{pod}", name(template))
}

/// The claims of the set's pod of this name, as they are made.
pub(super) fn of_pod(set: &Value, pod: &str) -> Vec<Value> {
    let selected = strings(set, "/spec/selector/matchLabels");
    let claim = |template: &Value| {
        let mut labels = strings(template, "/metadata/labels");
        labels.extend(selected.clone());
        let mut metadata = json!({
            "name": claim_name(template, pod),
            "namespace": set["metadata"]["namespace"],
            "labels": labels,
        });
        if let Some(annotations) = template.pointer("/metadata/annotations") {
            metadata["annotations"] = annotations.clone();
        }
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata,
            "spec": template["spec"],
        })
    };
    templates(set).iter().map(claim).collect()
}

/// Gives a pod its claims as volumes, in place of the template's volumes of the same names.
pub(super) fn mount(set: &Value, pod: &mut Value) {
    let templates = templates(set);
    if templates.is_empty() {
        return;
    }
    let own = name(pod).to_owned();
    let claimed = templates.iter().map(|template| {
        json!({ "name": name(template), "persistentVolumeClaim": { "claimName": claim_name(template, &own) } })
    });
    let others = pod.pointer("/spec/volumes").and_then(Value::as_array);
    let others = others.into_iter().flatten();
    let others = others.filter(|volume| templates.iter().all(|template| volume["name"] != name(template)));
    let volumes: Vec<Value> = claimed.chain(others.cloned()).collect();
    pod["spec"]["volumes"] = json!(volumes);
}

/// Whether a claim goes away, or with a former pod of its name: a new pod waits until it is gone.
pub(super) fn is_going(claim: &Value, pod: &str, pod_uid: Option<&str>) -> bool {
    let former = |owner: &Value| {
        owner["kind"] == "Pod" && owner["name"] == pod && pod_uid.is_none_or(|uid| owner["uid"] != uid)
    };
    is_deleting(claim) || references(claim).iter().any(former)
}

/// The claim with the owners that the set's policy wants, if it has others: the set, so that the claim goes with it;
/// the pod, when that is one too many, so that it goes with the pod. One that somebody else controls stays as it is.
pub(super) fn owned(set: &Value, claim: &Value, pod: &Value, condemned: bool) -> Option<Value> {
    let deletes =
        |when: &str| text(set, &format!("/spec/persistentVolumeClaimRetentionPolicy/{when}")) == "Delete";
    let by_pod = condemned && deletes("whenScaled");
    let by_set = deletes("whenDeleted") && !by_pod;
    let owners = [(set, by_set), (pod, by_pod)];
    let others =
        controller_of(claim).is_some_and(|owner| owners.iter().all(|(known, _)| owner["uid"] != uid(known)));
    if others {
        return None;
    }
    let mut changed = claim.clone();
    for (owner, wanted) in owners {
        let has = references(&changed)
            .iter()
            .any(|known| known["uid"] == uid(owner));
        if has && !wanted {
            release(&mut changed, &[uid(owner)]);
        } else if wanted && !has {
            let reference = controller_reference(owner);
            let references = &mut changed["metadata"]["ownerReferences"];
            match references.as_array_mut() {
                Some(references) => references.push(reference),
                None => *references = json!([reference]),
            }
        }
    }
    (changed != *claim).then_some(changed)
}

/// Whether a claim has a name that one of the set's pods would give it.
pub(super) fn is_named_by(set: &Value, claim: &str) -> bool {
    templates(set).iter().any(|template| {
        let pod = claim
            .strip_prefix(name(template))
            .and_then(|rest| rest.strip_prefix('-'));
        pod.is_some_and(|pod| {
            super::identity::ordinal(set, &json!({ "metadata": { "name": pod } })).is_some()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(deleted: &str, scaled: &str) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": { "name": "web", "namespace": "default", "uid": "s" },
            "spec": {
                "selector": { "matchLabels": { "app": "web" } },
                "persistentVolumeClaimRetentionPolicy": { "whenDeleted": deleted, "whenScaled": scaled },
                "volumeClaimTemplates": [{
                    "metadata": { "name": "data", "labels": { "a": "b" }, "annotations": { "c": "d" } },
                    "spec": { "accessModes": ["ReadWriteOnce"] },
                }],
            },
        })
    }

    fn pod() -> Value {
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web-1", "uid": "p" } })
    }

    fn owners(claim: &Value) -> Vec<&str> {
        references(claim)
            .iter()
            .map(|owner| text(owner, "/uid"))
            .collect()
    }

    #[test]
    fn a_pod_has_claims_of_its_own() {
        let set = set("Retain", "Retain");
        let claims = of_pod(&set, "web-1");
        assert_eq!(name(&claims[0]), "data-web-1");
        assert_eq!(claims[0]["metadata"]["labels"], json!({ "a": "b", "app": "web" }));
        assert_eq!(claims[0]["metadata"]["annotations"], json!({ "c": "d" }));
        let mut pod = pod();
        pod["spec"]["volumes"] =
            json!([{ "name": "data", "emptyDir": {} }, { "name": "tmp", "emptyDir": {} }]);
        mount(&set, &mut pod);
        assert_eq!(
            pod["spec"]["volumes"],
            json!([
                { "name": "data", "persistentVolumeClaim": { "claimName": "data-web-1" } },
                { "name": "tmp", "emptyDir": {} },
            ])
        );
        assert!(is_named_by(&set, "data-web-1") && !is_named_by(&set, "data-web-x"));
        assert!(!is_named_by(&set, "data-other-1") && !is_named_by(&set, "logs-web-1"));
    }

    #[test]
    fn owners_follow_the_policy() {
        for (deleted, scaled, condemned, expected) in [
            ("Retain", "Retain", false, &[][..]),
            ("Retain", "Retain", true, &[]),
            ("Delete", "Retain", false, &["s"]),
            ("Delete", "Retain", true, &["s"]),
            ("Retain", "Delete", false, &[]),
            ("Retain", "Delete", true, &["p"]),
            ("Delete", "Delete", false, &["s"]),
            ("Delete", "Delete", true, &["p"]),
        ] {
            let set = set(deleted, scaled);
            let bare = of_pod(&set, "web-1").remove(0);
            // Whatever the policy, or the pod's place, was before.
            let mut by_set = bare.clone();
            by_set["metadata"]["ownerReferences"] = json!([controller_reference(&set)]);
            let mut by_pod = bare.clone();
            by_pod["metadata"]["ownerReferences"] = json!([controller_reference(&pod())]);
            for before in [bare, by_set, by_pod] {
                let after = owned(&set, &before, &pod(), condemned).unwrap_or_else(|| before.clone());
                assert_eq!(owners(&after), expected, "{deleted} {scaled} {condemned}");
                assert_eq!(owned(&set, &after, &pod(), condemned), None);
            }
        }
        let mut theirs = of_pod(&set("Delete", "Delete"), "web-1").remove(0);
        theirs["metadata"]["ownerReferences"] = json!([{ "uid": "x", "controller": true }]);
        assert_eq!(owned(&set("Delete", "Delete"), &theirs, &pod(), true), None);
    }

    #[test]
    fn a_claim_that_goes_is_waited_for() {
        let mut claim = of_pod(&set("Delete", "Delete"), "web-1").remove(0);
        assert!(!is_going(&claim, "web-1", None));
        claim["metadata"]["ownerReferences"] = json!([controller_reference(&pod())]);
        assert!(is_going(&claim, "web-1", None), "its pod is gone");
        assert!(!is_going(&claim, "web-1", Some("p")) && is_going(&claim, "web-1", Some("q")));
        claim["metadata"]["ownerReferences"] = json!([]);
        claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(is_going(&claim, "web-1", Some("p")));
    }
}
