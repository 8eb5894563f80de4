//! `hostUsers: false`: a pod with users of its own (a user namespace).

use serde_json::Value;

use super::field::{Errors, Path, each};

/// The highest id in such a pod: its namespace has the ids 0 to 65535, as kubelet gives each pod.
const LAST_ID: i64 = 65_535;

pub(super) fn validate(at: &Path, spec: &Value, errors: &mut Errors) {
    if spec.get("hostUsers") != Some(&Value::Bool(false)) {
        return;
    }
    // A namespace of the host belongs to the host's users: the pod's own could do nothing in it.
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec.get(field) == Some(&Value::Bool(true)) {
            errors.forbidden(
                &at.child(field),
                "when `hostUsers` is false: a namespace of the host belongs to the host's users; leave one of the two out",
            );
        }
    }
    if let Some(context) = spec.get("securityContext") {
        let at = at.child("securityContext");
        ids(&at, context, errors);
        for (index, group) in each(context, "supplementalGroups") {
            id(&at.child("supplementalGroups").index(index), group, errors);
        }
    }
    for list in ["initContainers", "containers"] {
        for (index, one) in each(spec, list) {
            if let Some(context) = one.get("securityContext") {
                ids(
                    &at.child(list).index(index).child("securityContext"),
                    context,
                    errors,
                );
            }
        }
    }
}

fn ids(at: &Path, context: &Value, errors: &mut Errors) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(value) = context.get(field) {
            id(&at.child(field), value, errors);
        }
    }
}

fn id(at: &Path, value: &Value, errors: &mut Errors) {
    if value.as_i64().is_some_and(|id| id > LAST_ID) {
        errors.invalid(at, value, "must be at most 65535 when `hostUsers` is false");
    }
}
