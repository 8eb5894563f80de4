//! Validation of RBAC's kinds.

use serde_json::Value;

use super::field::{Errors, Path, each, text};
use crate::kinds::{self, Kind};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Names of roles and bindings may hold what a path segment may.
pub(super) fn name(name: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if name == "." || name == ".." {
        wrong.push(format!("may not be '{name}'"));
    }
    for part in ["/", "%"] {
        if name.contains(part) {
            wrong.push(format!("may not contain '{part}'"));
        }
    }
    wrong
}

pub(super) fn role(kind: &Kind, object: &Value, errors: &mut Errors) {
    let at = Path::root("rules");
    for (index, rule) in each(object, "rules") {
        let at = at.index(index);
        let none = |field: &str| each(rule, field).next().is_none();
        if none("verbs") {
            errors.required(&at.child("verbs"), "verbs must contain at least one value");
        }
        if !none("nonResourceURLs") {
            if kind.namespaced {
                let why = "namespaced rules cannot apply to non-resource URLs";
                let urls = rule.get("nonResourceURLs").unwrap_or(&Value::Null);
                errors.invalid(&at.child("nonResourceURLs"), urls, why);
            }
            if !none("apiGroups") || !none("resources") || !none("resourceNames") {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(&at.child("nonResourceURLs"), rule, why);
            }
            continue;
        }
        if none("apiGroups") {
            errors.required(
                &at.child("apiGroups"),
                "resource rules must supply at least one api group",
            );
        }
        if none("resources") {
            errors.required(
                &at.child("resources"),
                "resource rules must supply at least one resource",
            );
        }
    }
    for (index, selector) in object
        .get("aggregationRule")
        .map(|a| each(a, "clusterRoleSelectors"))
        .into_iter()
        .flatten()
    {
        if let Err(error) = crate::selector::LabelSelector::from_object(Some(selector)) {
            let at = Path::root("aggregationRule")
                .child("clusterRoleSelectors")
                .index(index);
            errors.invalid(&at, selector, &error.to_string());
        }
    }
}

pub(super) fn binding(kind: &Kind, object: &Value, errors: &mut Errors) {
    let at = Path::root("roleRef");
    let role = object.get("roleRef").unwrap_or(&Value::Null);
    if text(role, "apiGroup") != RBAC {
        errors.unsupported(&at.child("apiGroup"), text(role, "apiGroup"), &[RBAC]);
    }
    let roles: &[&str] = if kind == kinds::ROLE_BINDING {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    errors.one_of(&at.child("kind"), role.get("kind"), roles);
    if text(role, "name").is_empty() {
        errors.required(&at.child("name"), "");
    }
    for wrong in name(text(role, "name")) {
        errors.invalid_text(&at.child("name"), text(role, "name"), &wrong);
    }
    for (index, subject) in each(object, "subjects") {
        let at = Path::root("subjects").index(index);
        if text(subject, "name").is_empty() {
            errors.required(&at.child("name"), "");
        }
        let group = text(subject, "apiGroup");
        match text(subject, "kind") {
            "ServiceAccount" => {
                if !group.is_empty() {
                    errors.unsupported(&at.child("apiGroup"), group, &[""]);
                }
                if kind == kinds::CLUSTER_ROLE_BINDING && text(subject, "namespace").is_empty() {
                    errors.required(&at.child("namespace"), "");
                }
            }
            "User" | "Group" => {
                if group != RBAC {
                    errors.unsupported(&at.child("apiGroup"), group, &[RBAC]);
                }
            }
            other => errors.unsupported(&at.child("kind"), other, &["ServiceAccount", "User", "Group"]),
        }
    }
}
