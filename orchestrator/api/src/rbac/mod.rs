//! PURE: role-based access control: which rules allow what, and which rules another set of rules covers.
//!
//! Source: Kubernetes documentation "Using RBAC Authorization"; `k8s.io/component-helpers/auth/rbac/validation`.

mod builtin;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use builtin::{Builtin, builtins};

/// One rule of a role (`rbac.authorization.k8s.io/v1 PolicyRule`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// What may be done; `*` for everything.
    pub verbs: Vec<String>,
    /// Groups of the resources; empty text for the core group, `*` for all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// Only these objects; none named means all.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// Paths that are no resources; a `*` at the end stands for anything.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes {
    /// `get`, `list`, `create`, …
    pub verb: String,
    /// Empty for cluster-wide kinds, and for all namespaces.
    pub namespace: String,
    /// Group of the resource.
    pub group: String,
    /// Version of the resource; it decides nothing.
    pub version: String,
    /// Plural name; empty for a path that is no resource.
    pub resource: String,
    /// Such as `status`; empty for the object itself.
    pub subresource: String,
    /// The object; empty for a collection.
    pub name: String,
    /// The path, where it is no resource.
    pub path: String,
}

impl Attributes {
    /// Whether it is about a resource.
    pub fn is_resource(&self) -> bool {
        !self.resource.is_empty()
    }

    /// `pods` or `pods/exec`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// The rules of a Role or ClusterRole.
pub fn rules(role: &Value) -> Vec<Rule> {
    role.get("rules")
        .and_then(|rules| serde_json::from_value(rules.clone()).ok())
        .unwrap_or_default()
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == wanted)
}

fn resource_fits(rule: &Rule, resource: &str, subresource: &str) -> bool {
    rule.resources.iter().any(|entry| {
        entry == "*"
            || match entry.split_once('/') {
                None => subresource.is_empty() && entry == resource,
                Some((of, sub)) => {
                    !subresource.is_empty() && sub == subresource && (of == "*" || of == resource)
                }
            }
    })
}

fn url_fits(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern
            .strip_suffix('*')
            .is_some_and(|start| path.starts_with(start))
}

/// Whether the rule allows it.
pub fn allows(rule: &Rule, wanted: &Attributes) -> bool {
    if !any(&rule.verbs, &wanted.verb) {
        return false;
    }
    if !wanted.is_resource() {
        return rule
            .non_resource_urls
            .iter()
            .any(|pattern| url_fits(pattern, &wanted.path));
    }
    any(&rule.api_groups, &wanted.group)
        && resource_fits(rule, &wanted.resource, &wanted.subresource)
        && (rule.resource_names.is_empty() || rule.resource_names.contains(&wanted.name))
}

/// What of `wanted` the rules of an owner do not cover, each as a rule of one verb and one resource or path: nobody
/// may give away what he does not have.
pub fn uncovered(owner: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing = Vec::new();
    for one in wanted.iter().flat_map(pieces) {
        if !owner.iter().any(|rule| covers(rule, &one)) && !missing.contains(&one) {
            missing.push(one);
        }
    }
    missing
}

/// A rule taken apart into rules of one verb and one group, resource and name, or one path.
fn pieces(rule: &Rule) -> Vec<Rule> {
    let mut out = Vec::new();
    let one = |text: &String| vec![text.clone()];
    for verb in &rule.verbs {
        for group in &rule.api_groups {
            for resource in &rule.resources {
                let names: Vec<Vec<String>> = if rule.resource_names.is_empty() {
                    vec![Vec::new()]
                } else {
                    rule.resource_names.iter().map(one).collect()
                };
                out.extend(names.into_iter().map(|resource_names| Rule {
                    verbs: one(verb),
                    api_groups: one(group),
                    resources: one(resource),
                    resource_names,
                    non_resource_urls: Vec::new(),
                }));
            }
        }
        out.extend(rule.non_resource_urls.iter().map(|url| Rule {
            verbs: one(verb),
            non_resource_urls: one(url),
            ..Rule::default()
        }));
    }
    out
}

/// Whether a rule covers a piece: the piece's own `*` needs a `*`.
fn covers(rule: &Rule, piece: &Rule) -> bool {
    let all = |has: &[String], wants: &[String]| wants.iter().all(|w| any(has, w));
    if !all(&rule.verbs, &piece.verbs) {
        return false;
    }
    if let Some(url) = piece.non_resource_urls.first() {
        return rule
            .non_resource_urls
            .iter()
            .any(|pattern| url_fits(pattern, url));
    }
    let resource = piece.resources.first().map(String::as_str).unwrap_or_default();
    let fits = rule.resources.iter().any(|r| r == "*" || r == resource)
        || resource
            .split_once('/')
            .is_some_and(|(_, sub)| rule.resources.iter().any(|r| *r == format!("*/{sub}")));
    let names = rule.resource_names.is_empty()
        || (!piece.resource_names.is_empty()
            && piece
                .resource_names
                .iter()
                .all(|n| rule.resource_names.contains(n)));
    all(&rule.api_groups, &piece.api_groups) && fits && names
}

/// Who somebody is, for the subjects of bindings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject<'a> {
    /// User name.
    pub user: &'a str,
    /// Groups.
    pub groups: &'a [String],
}

/// Whether a binding is about somebody. `namespace` is the binding's, for ServiceAccounts that name none.
pub fn binds(binding: &Value, namespace: &str, subject: &Subject<'_>) -> bool {
    let subjects = binding.get("subjects").and_then(Value::as_array);
    subjects.into_iter().flatten().any(|one| {
        let text = |field: &str| one.get(field).and_then(Value::as_str).unwrap_or_default();
        match text("kind") {
            "User" => text("name") == "*" || text("name") == subject.user,
            "Group" => subject.groups.iter().any(|g| g == text("name")),
            "ServiceAccount" => {
                let of = match text("namespace") {
                    "" => namespace,
                    named => named,
                };
                subject
                    .user
                    .strip_prefix("system:serviceaccount:")
                    .and_then(|rest| rest.split_once(':'))
                    == Some((of, text("name")))
            }
            _ => false,
        }
    })
}

/// The rules of a ClusterRole that is put together of others: of all of `roles` that its selectors choose, each rule
/// once. None if it is not put together.
pub fn aggregated(role: &Value, roles: &[Value]) -> Option<Vec<Rule>> {
    let selectors = role
        .pointer("/aggregationRule/clusterRoleSelectors")?
        .as_array()?;
    let own = role.pointer("/metadata/name");
    let mut all: Vec<Rule> = Vec::new();
    for selector in selectors {
        let Ok(selector) = crate::selector::LabelSelector::from_object(Some(selector)) else {
            continue;
        };
        for other in roles {
            if other.pointer("/metadata/name") == own || !selector.matches_object(other) {
                continue;
            }
            for rule in rules(other) {
                if !all.contains(&rule) {
                    all.push(rule);
                }
            }
        }
    }
    Some(all)
}

#[cfg(test)]
mod tests;
