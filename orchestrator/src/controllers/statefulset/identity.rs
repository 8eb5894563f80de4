//! PURE: who is who in a StatefulSet: names, ordinals, labels (upstream `stateful_set_utils`).

use serde_json::{Value, json};

use super::claims;
use crate::controllers::fields::{name, number, text};
use crate::controllers::replicaset::pod_from_template;
use crate::controllers::revisions::REVISION_HASH;

/// Labels of a pod: its name, for Services of one pod, and its ordinal.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// A pod's number in the set of this name; nothing if its name is none that the set gives.
pub(super) fn ordinal(set: &Value, pod: &Value) -> Option<u64> {
    let number = name(pod).strip_prefix(name(set))?.strip_prefix('-')?;
    let canonical = number == "0" || !number.starts_with('0');
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number.parse().ok().filter(|_| canonical && digits)
}

/// The ordinal of the set's first pod.
pub(super) fn start(set: &Value) -> u64 {
    number(set, "/spec/ordinals/start").unsigned_abs()
}

/// The revision that a pod was made of.
pub(super) fn revision(pod: &Value) -> &str {
    pod.pointer("/metadata/labels")
        .and_then(|labels| labels[REVISION_HASH].as_str())
        .unwrap_or_default()
}

/// A pod of a set, which has the template that `revision` names.
pub(super) fn new_pod(set: &Value, revision: &str, ordinal: u64, node: &str) -> Value {
    let mut pod = pod_from_template(set, &ordinal.to_string(), node);
    pod["metadata"]["labels"][REVISION_HASH] = json!(revision);
    label(&mut pod, ordinal);
    pod["spec"]["hostname"] = pod["metadata"]["name"].clone();
    let service = text(set, "/spec/serviceName");
    if !service.is_empty() {
        pod["spec"]["subdomain"] = json!(service);
    }
    claims::mount(set, &mut pod);
    pod
}

fn label(pod: &mut Value, ordinal: u64) {
    let own = pod["metadata"]["name"].clone();
    let labels = &mut pod["metadata"]["labels"];
    labels[POD_NAME] = own;
    labels[POD_INDEX] = json!(ordinal.to_string());
}

/// The pod with the labels it should have, if it lacks one: somebody took it away, or it was adopted.
pub(super) fn relabelled(pod: &Value, ordinal: u64) -> Option<Value> {
    let mut labelled = pod.clone();
    label(&mut labelled, ordinal);
    (labelled != *pod).then_some(labelled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_known_by_its_name() {
        let set = json!({ "metadata": { "name": "web" } });
        let cases = [
            ("web-0", Some(0)),
            ("web-17", Some(17)),
            ("web-01", None),
            ("web-+1", None),
            ("web-", None),
            ("web", None),
            ("web-1-2", None),
            ("other-1", None),
            ("web-99999999999999999999", None),
        ];
        for (pod, expected) in cases {
            let pod = json!({ "metadata": { "name": pod } });
            assert_eq!(ordinal(&set, &pod), expected, "{pod}");
        }
    }

    #[test]
    fn a_pod_has_its_name_in_labels_and_host_name() {
        let set = json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": { "name": "web", "namespace": "default", "uid": "s" },
            "spec": {
                "serviceName": "nginx",
                "template": { "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [] } },
            },
        });
        let pod = new_pod(&set, "web-abc", 3, "node");
        assert_eq!(name(&pod), "web-3");
        assert_eq!(
            pod["metadata"]["labels"],
            json!({ "app": "web", REVISION_HASH: "web-abc", POD_NAME: "web-3", POD_INDEX: "3" })
        );
        assert_eq!(
            (&pod["spec"]["hostname"], &pod["spec"]["subdomain"]),
            (&json!("web-3"), &json!("nginx"))
        );
        assert_eq!(relabelled(&pod, 3), None);
        let mut bare = pod.clone();
        bare["metadata"]["labels"] = json!({ "app": "web" });
        let mended = relabelled(&bare, 3).unwrap();
        assert_eq!(mended["metadata"]["labels"][POD_NAME], "web-3");
        assert_eq!(revision(&mended), "", "nobody knows its revision");
    }
}
