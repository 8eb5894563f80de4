//! Who controls what: owner references, adoption, release (Kubernetes documentation, "Owners and
//! Dependents"; upstream's controller_ref_manager).

use serde_json::{Value, json};

use super::fields::{is_deleting, name, uid};

/// The reference that makes `owner` the controller of an object.
pub(super) fn controller_reference(owner: &Value) -> Value {
    json!({
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": name(owner),
        "uid": uid(owner),
        "controller": true,
        "blockOwnerDeletion": true,
    })
}

/// All owner references of an object.
pub(super) fn references(object: &Value) -> &[Value] {
    object
        .pointer("/metadata/ownerReferences")
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The reference to the object's controller.
pub(super) fn controller_of(object: &Value) -> Option<&Value> {
    references(object)
        .iter()
        .find(|reference| reference["controller"] == true)
}

/// Takes the references with these uids off an object.
pub(super) fn release(object: &mut Value, uids: &[&str]) {
    if let Some(references) = object
        .pointer_mut("/metadata/ownerReferences")
        .and_then(Value::as_array_mut)
    {
        references.retain(|reference| !uids.contains(&reference["uid"].as_str().unwrap_or_default()));
        if references.is_empty()
            && let Some(metadata) = object["metadata"].as_object_mut()
        {
            metadata.remove("ownerReferences");
        }
    }
}

/// What an owner controls.
#[derive(Debug, Default)]
pub(super) struct Claimed {
    /// The objects it controls, those it has just adopted included.
    pub(super) owned: Vec<Value>,
    /// Objects whose references change: adopted or released. To be written.
    pub(super) changed: Vec<Value>,
}

/// PURE: sorts out which of the candidates `owner` controls. Matching orphans are adopted, and
/// owned objects that no longer match are released, unless the owner is being deleted.
pub(super) fn claim(owner: &Value, matches: impl Fn(&Value) -> bool, candidates: Vec<Value>) -> Claimed {
    let mut claimed = Claimed::default();
    let going = is_deleting(owner);
    for mut object in candidates {
        let matches = matches(&object);
        match controller_of(&object) {
            Some(reference) if reference["uid"] != uid(owner) => {}
            Some(_) if matches || going => claimed.owned.push(object),
            Some(_) => {
                release(&mut object, &[uid(owner)]);
                claimed.changed.push(object);
            }
            None if matches && !going && !is_deleting(&object) => {
                let reference = controller_reference(owner);
                let references = &mut object["metadata"]["ownerReferences"];
                match references.as_array_mut() {
                    Some(references) => references.push(reference),
                    None => *references = json!([reference]),
                }
                claimed.changed.push(object.clone());
                claimed.owned.push(object);
            }
            None => {}
        }
    }
    claimed
}

#[cfg(test)]
mod tests {
    use berth_api::selector::LabelSelector;

    use super::*;

    fn owner(deleting: bool) -> Value {
        let mut owner = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": { "name": "web", "uid": "u1" },
        });
        if deleting {
            owner["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        owner
    }

    fn pod(name: &str, app: &str, controller: Option<&str>) -> Value {
        let mut pod = json!({ "metadata": { "name": name, "labels": { "app": app } } });
        if let Some(uid) = controller {
            pod["metadata"]["ownerReferences"] = json!([{ "uid": uid, "controller": true }]);
        }
        pod
    }

    fn names(objects: &[Value]) -> Vec<&str> {
        objects.iter().map(name).collect()
    }

    fn candidates() -> Vec<Value> {
        let mut going = pod("going", "web", None);
        going["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        vec![
            pod("mine", "web", Some("u1")),
            pod("strayed", "other", Some("u1")),
            pod("orphan", "web", None),
            pod("foreign-orphan", "other", None),
            pod("theirs", "web", Some("u2")),
            going,
        ]
    }

    #[test]
    fn orphans_are_adopted_and_strays_released() {
        let selector = LabelSelector::parse("app=web").unwrap();
        let claimed = claim(&owner(false), |o| selector.matches_object(o), candidates());
        assert_eq!(names(&claimed.owned), ["mine", "orphan"]);
        assert_eq!(names(&claimed.changed), ["strayed", "orphan"]);
        assert!(controller_of(&claimed.changed[0]).is_none());
        assert_eq!(controller_of(&claimed.changed[1]).unwrap()["uid"], "u1");
    }

    #[test]
    fn an_owner_that_is_being_deleted_changes_nothing() {
        let selector = LabelSelector::parse("app=web").unwrap();
        let claimed = claim(&owner(true), |o| selector.matches_object(o), candidates());
        assert_eq!(names(&claimed.owned), ["mine", "strayed"]);
        assert!(claimed.changed.is_empty());
    }
}
