use super::*;
use serde_json::json;

fn rule(value: Value) -> Rule {
    serde_json::from_value(value).unwrap()
}

/// `verb group resource[/sub] name`, with `-` for nothing.
fn wanted(text: &str) -> Attributes {
    let mut words = text.split(' ').map(|w| if w == "-" { "" } else { w }.to_owned());
    let mut next = || words.next().unwrap_or_default();
    let (verb, group, full, name) = (next(), next(), next(), next());
    if group.starts_with('/') {
        return Attributes {
            verb,
            path: group,
            ..Attributes::default()
        };
    }
    let (resource, subresource) = full.split_once('/').unwrap_or((full.as_str(), ""));
    Attributes {
        verb,
        group,
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        name,
        ..Attributes::default()
    }
}

#[test]
fn rules_allow_what_they_name() {
    let table = [
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            "get - pods a",
            true,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            "list - pods",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            "get - pods/log a",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            "get apps pods a",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}),
            "get - pods/log a",
            true,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"]}),
            "get - pods a",
            false,
        ),
        (
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]}),
            "patch apps deployments/scale a",
            true,
        ),
        (
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*/scale"]}),
            "get apps deployments a",
            false,
        ),
        (
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            "create - pods/exec a",
            true,
        ),
        (
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}),
            "get /metrics",
            false,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
            "get - secrets a",
            true,
        ),
        (
            json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
            "list - secrets",
            false,
        ),
        (
            json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"]}),
            "list - secrets a",
            true,
        ),
        (
            json!({"verbs": ["get"], "nonResourceURLs": ["/metrics", "/api/*"]}),
            "get /metrics",
            true,
        ),
        (
            json!({"verbs": ["get"], "nonResourceURLs": ["/metrics", "/api/*"]}),
            "get /api/v1",
            true,
        ),
        (
            json!({"verbs": ["get"], "nonResourceURLs": ["/metrics", "/api/*"]}),
            "get /apis",
            false,
        ),
        (
            json!({"verbs": ["get"], "nonResourceURLs": ["*"]}),
            "post /metrics",
            false,
        ),
    ];
    for (value, text, expected) in table {
        assert_eq!(
            allows(&rule(value.clone()), &wanted(text)),
            expected,
            "{value} {text}"
        );
    }
}

#[test]
fn nobody_gives_away_what_he_does_not_have() {
    let owner = [
        rule(json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]})),
        rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"]}),
        ),
        rule(json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]})),
        rule(json!({"verbs": ["get"], "nonResourceURLs": ["/api/*"]})),
    ];
    let missing = |value: Value| uncovered(&owner, &[rule(value)]).len();
    for (value, expected) in [
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}),
            0,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["x"]}),
            0,
        ),
        (
            json!({"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]}),
            1,
        ),
        (
            json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}),
            1,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}),
            1,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "c"]}),
            1,
        ),
        (
            json!({"verbs": ["*"], "apiGroups": ["apps"], "resources": ["deployments/scale"]}),
            0,
        ),
        (
            json!({"verbs": ["get"], "apiGroups": ["*"], "resources": ["deployments"]}),
            1,
        ),
        (json!({"verbs": ["get"], "nonResourceURLs": ["/api/v1"]}), 0),
        (json!({"verbs": ["get"], "nonResourceURLs": ["/metrics"]}), 1),
    ] {
        assert_eq!(missing(value.clone()), expected, "{value}");
    }
}

#[test]
fn subjects_are_users_groups_and_accounts() {
    let groups = ["dev".to_owned()];
    let binding = |subject: Value| json!({ "subjects": [subject] });
    let user = |user| Subject {
        user,
        groups: &groups,
    };
    assert!(binds(
        &binding(json!({"kind": "User", "name": "jo"})),
        "",
        &user("jo")
    ));
    assert!(!binds(
        &binding(json!({"kind": "User", "name": "jo"})),
        "",
        &user("mo")
    ));
    assert!(binds(
        &binding(json!({"kind": "Group", "name": "dev"})),
        "",
        &user("jo")
    ));
    let account = user("system:serviceaccount:ns:robot");
    let named = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "ns"});
    assert!(binds(&binding(named), "other", &account));
    let here = json!({"kind": "ServiceAccount", "name": "robot"});
    assert!(binds(&binding(here.clone()), "ns", &account));
    assert!(!binds(&binding(here), "other", &account));
}

#[test]
fn built_in_roles_are_put_together() {
    let all: Vec<Value> = builtins().into_iter().map(|b| b.object).collect();
    let roles: Vec<Value> = all
        .iter()
        .filter(|o| o["kind"] == "ClusterRole")
        .cloned()
        .collect();
    let of = |name: &str| {
        let role = roles.iter().find(|r| r["metadata"]["name"] == name).unwrap();
        let collected = aggregated(role, &roles);
        // What is put together may itself be a part: view of edit, edit of admin.
        collected.unwrap_or_else(|| rules(role))
    };
    // The aggregated roles hold no rules yet here: a second round sees the first one's.
    let part = |name: &str| of(&format!("system:aggregate-to-{name}"));
    let may = |rules: &[Rule], text: &str| rules.iter().any(|r| allows(r, &wanted(text)));
    let view = of("view");
    assert!(may(&view, "list - pods") && may(&view, "get apps deployments/scale a"));
    assert!(!may(&view, "get - secrets a") && !may(&view, "create - pods/exec a"));
    assert!(!may(&view, "create - pods") && !may(&view, "list rbac.authorization.k8s.io roles"));
    let edit = part("edit");
    assert!(may(&edit, "create - pods/exec a") && may(&edit, "get - secrets a"));
    assert!(may(&edit, "create - pods/eviction a") && may(&edit, "create - serviceaccounts/token a"));
    assert!(!may(&edit, "create rbac.authorization.k8s.io roles"));
    assert!(!may(&edit, "update - resourcequotas a") && !may(&edit, "delete - namespaces a"));
    let admin = part("admin");
    assert!(may(&admin, "create rbac.authorization.k8s.io rolebindings"));
    assert!(!may(&admin, "update - resourcequotas a"));
    let cluster = of("cluster-admin");
    assert!(may(&cluster, "delete - nodes a") && may(&cluster, "get /metrics"));
}
