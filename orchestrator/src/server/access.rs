//! Whether a caller may do what he asks for: RBAC over the stored roles and bindings.

use berth_api::kinds::{self, Kind};
use berth_api::rbac::{self, Attributes, Rule};
use berth_api::status::{ApiError, Details};
use http::{Method, Uri};
use serde_json::{Value, json};

use super::Api;
use super::auth::Caller;
use super::request::{Query, Target, decode};
use crate::store::{Key, Object};

/// Paths that need no identity.
fn is_public(path: &str) -> bool {
    let first = path.split('/').nth(1).unwrap_or_default();
    matches!(first, "livez" | "readyz" | "healthz" | "version")
}

/// What a request is about, for authorization (`k8s.io/apiserver/pkg/endpoints/request`, RequestInfo). Paths of
/// resources that are not served are read the same way: who may not look gets no other answer for them.
pub(super) fn attributes(method: &Method, uri: &Uri) -> Attributes {
    let verb = method.as_str().to_ascii_lowercase();
    let segments = uri.path().trim_matches('/').split('/');
    let parts: Vec<String> = segments
        .map(|s| decode(s).unwrap_or_else(|| s.to_owned()))
        .collect();
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let (group, version, rest) = match parts.as_slice() {
        ["api", version, rest @ ..] if !rest.is_empty() => ("", *version, rest),
        ["apis", group, version, rest @ ..] if !rest.is_empty() => (*group, *version, rest),
        _ => {
            return Attributes {
                verb: if verb == "head" { "get".into() } else { verb },
                path: uri.path().to_owned(),
                ..Attributes::default()
            };
        }
    };
    let (namespace, rest) = match rest {
        ["namespaces", name] | ["namespaces", name, "status" | "finalize"] => (*name, rest),
        ["namespaces", namespace, inner @ ..] => (*namespace, inner),
        rest => ("", rest),
    };
    let text = |at: usize| rest.get(at).map(|t| (*t).to_owned()).unwrap_or_default();
    let mut name = text(1);
    let query = Query::of(uri).unwrap_or_default();
    if name.is_empty() && matches!(*method, Method::GET | Method::HEAD | Method::DELETE) {
        // A collection of one, by its name.
        let fields = query.text("fieldSelector").unwrap_or_default();
        let one = fields
            .split(',')
            .find_map(|f| f.strip_prefix("metadata.name="))
            .map(|n| n.trim_start_matches('='));
        one.unwrap_or_default().clone_into(&mut name);
    }
    let single = rest.len() > 1;
    let verb = match (method.as_str(), single) {
        ("GET" | "HEAD", true) => "get",
        ("GET" | "HEAD", false) if query.flag("watch").unwrap_or(false) => "watch",
        ("GET" | "HEAD", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        _ => "",
    };
    Attributes {
        verb: verb.to_owned(),
        namespace: namespace.to_owned(),
        group: group.to_owned(),
        version: version.to_owned(),
        resource: text(0),
        subresource: text(2),
        name,
        path: String::new(),
    }
}

impl Api {
    /// Lets a request through, or says why not.
    pub(super) fn authorize(&self, caller: &Caller, method: &Method, uri: &Uri) -> Result<(), ApiError> {
        if is_public(uri.path()) {
            return Ok(());
        }
        if caller.is_anonymous() {
            return Err(ApiError::unauthorized());
        }
        self.require(caller, &attributes(method, uri))
    }

    /// An error unless the caller may.
    pub(super) fn require(&self, caller: &Caller, wanted: &Attributes) -> Result<(), ApiError> {
        if self.may(caller, wanted) {
            Ok(())
        } else {
            Err(forbidden(caller, wanted))
        }
    }

    /// Whether the caller may.
    pub(super) fn may(&self, caller: &Caller, wanted: &Attributes) -> bool {
        if caller.is_master() {
            return true;
        }
        let namespace = if wanted.is_resource() {
            wanted.namespace.as_str()
        } else {
            ""
        };
        self.visit(caller, namespace, |rule| rbac::allows(rule, wanted))
    }

    /// Every rule that is good for the caller in a namespace, with those for the whole cluster.
    pub(super) fn rules(&self, caller: &Caller, namespace: &str) -> Vec<Rule> {
        let mut all = Vec::new();
        self.visit(caller, namespace, |rule| {
            if !all.contains(rule) {
                all.push(rule.clone());
            }
            false
        });
        all
    }

    /// Shows the caller's rules one by one, until one is enough.
    fn visit(&self, caller: &Caller, namespace: &str, mut enough: impl FnMut(&Rule) -> bool) -> bool {
        let subject = caller.subject();
        let mut bindings: Vec<Object> = self.store.list(kinds::CLUSTER_ROLE_BINDING, None).items;
        if !namespace.is_empty() {
            bindings.extend(self.store.list(kinds::ROLE_BINDING, Some(namespace)).items);
        }
        for object in bindings {
            let binding = object.value();
            if !rbac::binds(&binding, object.namespace(), &subject) {
                continue;
            }
            let role = self.role_of(&binding, object.namespace());
            if role.is_some_and(|role| rbac::rules(&role.value()).iter().any(&mut enough)) {
                return true;
            }
        }
        false
    }

    /// The role that a binding gives.
    fn role_of(&self, binding: &Value, namespace: &str) -> Option<Object> {
        self.store.get(&role_key(binding, namespace)).ok().flatten()
    }

    /// Nobody may give away what he does not have: checks a role or binding before it is written.
    pub(super) fn guard(&self, target: &Target, value: &Value, old: Option<&Value>) -> Result<(), ApiError> {
        let kind = target.kind;
        if target.caller.is_master() {
            return Ok(());
        }
        let same =
            |fields: &[&str]| old.is_some_and(|old| fields.iter().all(|f| old.get(*f) == value.get(*f)));
        if kind == kinds::ROLE || kind == kinds::CLUSTER_ROLE {
            if same(&["rules", "aggregationRule"]) {
                return Ok(());
            }
            return self.guard_role(target, value);
        }
        if (kind == kinds::ROLE_BINDING || kind == kinds::CLUSTER_ROLE_BINDING)
            && !same(&["roleRef", "subjects"])
        {
            return self.guard_binding(target, value);
        }
        Ok(())
    }

    fn guard_role(&self, target: &Target, value: &Value) -> Result<(), ApiError> {
        if self.may(
            &target.caller,
            &special(target, "escalate", target.kind, name_of(value)),
        ) {
            return Ok(());
        }
        let mut wanted = rbac::rules(value);
        if value.get("aggregationRule").is_some_and(|a| !a.is_null()) {
            // What will be collected is not known yet: only who has everything may ask for it.
            let all = || vec!["*".to_owned()];
            wanted.push(Rule {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..Rule::default()
            });
            wanted.push(Rule {
                verbs: all(),
                non_resource_urls: all(),
                ..Rule::default()
            });
        }
        self.covered(target, name_of(value), &wanted)
    }

    fn guard_binding(&self, target: &Target, value: &Value) -> Result<(), ApiError> {
        let namespace = target.namespace.clone().unwrap_or_default();
        let key = role_key(value, &namespace);
        if self.may(&target.caller, &special(target, "bind", key.kind, &key.name)) {
            return Ok(());
        }
        let role = self.store.require(&key).map_err(super::store_error)?;
        self.covered(target, name_of(value), &rbac::rules(&role.value()))
    }

    fn covered(&self, target: &Target, name: &str, wanted: &[Rule]) -> Result<(), ApiError> {
        let caller = &target.caller;
        let own = self.rules(caller, target.namespace.as_deref().unwrap_or_default());
        let missing = rbac::uncovered(&own, wanted);
        if missing.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = missing.iter().map(|rule| json!(rule).to_string()).collect();
        let why = format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            caller.user,
            caller.groups,
            lines.join("\n")
        );
        Err(ApiError::forbidden(target.kind, name, &why))
    }
}

/// The right to a verb that only RBAC's own kinds have.
fn special(target: &Target, verb: &str, kind: &Kind, name: &str) -> Attributes {
    Attributes {
        verb: verb.to_owned(),
        namespace: target.namespace.clone().unwrap_or_default(),
        group: kind.group.to_owned(),
        version: kind.version.to_owned(),
        resource: kind.plural.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    }
}

fn name_of(value: &Value) -> &str {
    value
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn role_key(binding: &Value, namespace: &str) -> Key {
    let text = |field: &str| binding["roleRef"][field].as_str().unwrap_or_default();
    match text("kind") {
        "Role" => Key::new(kinds::ROLE, namespace, text("name")),
        _ => Key::new(kinds::CLUSTER_ROLE, "", text("name")),
    }
}

fn forbidden(caller: &Caller, wanted: &Attributes) -> ApiError {
    let error = |message: String| ApiError {
        code: 403,
        reason: "Forbidden",
        ..ApiError::bad_request(message)
    };
    let user = &caller.user;
    if !wanted.is_resource() {
        return error(format!(
            "forbidden: User {user:?} cannot {} path {:?}",
            wanted.verb, wanted.path
        ));
    }
    let full = match wanted.group.as_str() {
        "" => wanted.resource.clone(),
        group => format!("{}.{group}", wanted.resource),
    };
    let named = if wanted.name.is_empty() {
        full
    } else {
        format!("{full} {:?}", wanted.name)
    };
    let place = if wanted.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", wanted.namespace)
    };
    let mut error = error(format!(
        "{named} is forbidden: User {user:?} cannot {} resource {:?} in API group {:?} {place}",
        wanted.verb,
        wanted.full_resource(),
        wanted.group
    ));
    error.details = Some(Box::new(Details {
        name: wanted.name.clone(),
        group: wanted.group.clone(),
        kind: wanted.resource.clone(),
        ..Details::default()
    }));
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_as_authorization_sees_them() {
        let seen = |method: &str, uri: &str| {
            let a = attributes(&method.parse().unwrap(), &uri.parse().unwrap());
            if a.is_resource() {
                format!(
                    "{} {} {} {} {}",
                    a.verb,
                    a.group,
                    a.namespace,
                    a.full_resource(),
                    a.name
                )
            } else {
                format!("{} {}", a.verb, a.path)
            }
        };
        for (method, uri, expected) in [
            ("GET", "/api/v1/pods", "list   pods "),
            ("GET", "/api/v1/namespaces/d/pods?watch=1", "watch  d pods "),
            ("GET", "/api/v1/namespaces/d/pods/p", "get  d pods p"),
            (
                "GET",
                "/api/v1/namespaces/d/pods?fieldSelector=metadata.name%3Dp",
                "list  d pods p",
            ),
            (
                "POST",
                "/api/v1/namespaces/d/pods/p/exec?command=ls",
                "create  d pods/exec p",
            ),
            ("DELETE", "/api/v1/namespaces/d/pods", "deletecollection  d pods "),
            ("DELETE", "/api/v1/namespaces/d", "delete  d namespaces d"),
            (
                "PUT",
                "/api/v1/namespaces/d/finalize",
                "update  d namespaces/finalize d",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/d/deployments/w/scale",
                "patch apps d deployments/scale w",
            ),
            (
                "GET",
                "/apis/example.com/v1/widgets",
                "list example.com  widgets ",
            ),
            ("GET", "/apis/apps/v1", "get /apis/apps/v1"),
            ("POST", "/metrics", "post /metrics"),
            ("HEAD", "/openapi/v2", "get /openapi/v2"),
        ] {
            assert_eq!(seen(method, uri), expected, "{method} {uri}");
        }
    }
}
