//! Defaults of role bindings.

use serde_json::Value;

use super::{default, each};

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn binding(object: &mut Value) {
    if let Some(role) = object.get_mut("roleRef")
        && role["apiGroup"].as_str().is_none_or(str::is_empty)
    {
        role["apiGroup"] = RBAC.into();
    }
    for subject in each(object, "subjects") {
        let group = match subject["kind"].as_str() {
            Some("User" | "Group") => RBAC,
            _ => continue,
        };
        default(subject, "apiGroup", group);
    }
}
