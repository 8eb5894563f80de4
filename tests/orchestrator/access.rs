//! Who may do what: RBAC on every verb, and that nobody gives away what he does not have.

use crate::person::{Person, apply, binding, start};
use crate::world::PATIENCE;
use harness::{kubectl, need_program, need_root, skip, wait_for};
use serde_json::{Value, json};

/// Method and path, then who is let through: a(dmin), e(dit), v(iew) of the namespace, n(obody in particular), and
/// x(nothing bound but another namespace). Whoever is not named gets 403.
const TABLE: &[(&str, &str, &str)] = &[
    ("GET", "/api/v1/namespaces/default/pods", "aev"),
    ("HEAD", "/api/v1/namespaces/default/pods", "aev"),
    (
        "GET",
        "/api/v1/namespaces/default/pods?watch=1&timeoutSeconds=1",
        "aev",
    ),
    ("GET", "/api/v1/namespaces/default/pods/p", "aev"),
    ("POST", "/api/v1/namespaces/default/pods", "ae"),
    ("PUT", "/api/v1/namespaces/default/pods/p", "ae"),
    ("PATCH", "/api/v1/namespaces/default/pods/p", "ae"),
    ("DELETE", "/api/v1/namespaces/default/pods/p", "ae"),
    (
        "DELETE",
        "/api/v1/namespaces/default/pods?labelSelector=none",
        "ae",
    ),
    ("GET", "/api/v1/namespaces/default/pods/p/log", "aev"),
    ("GET", "/api/v1/namespaces/default/pods/p/status", "aev"),
    ("PATCH", "/api/v1/namespaces/default/pods/p/status", ""),
    (
        "GET",
        "/api/v1/namespaces/default/pods/p/exec?command=id&stdout=1",
        "ae",
    ),
    (
        "POST",
        "/api/v1/namespaces/default/pods/p/exec?command=id&stdout=1",
        "ae",
    ),
    ("POST", "/api/v1/namespaces/default/pods/p/attach?stdout=1", "ae"),
    ("POST", "/api/v1/namespaces/default/pods/p/portforward", "ae"),
    ("POST", "/api/v1/namespaces/default/pods/p/eviction", "ae"),
    (
        "PATCH",
        "/api/v1/namespaces/default/pods/p/ephemeralcontainers",
        "ae",
    ),
    ("PATCH", "/api/v1/namespaces/default/pods/p/resize", "ae"),
    ("GET", "/api/v1/namespaces/default/pods/p/resize", ""),
    ("GET", "/api/v1/namespaces/default/services/s/status", "aev"),
    ("PUT", "/api/v1/namespaces/default/services/s/status", ""),
    ("PUT", "/api/v1/namespaces/default/finalize", ""),
    ("PATCH", "/api/v1/namespaces/default/status", ""),
    ("PATCH", "/api/v1/nodes/n/status", ""),
    ("GET", "/apis/events.k8s.io/v1/namespaces/default/events", "aev"),
    ("POST", "/apis/events.k8s.io/v1/namespaces/default/events", "ae"),
    (
        "GET",
        "/apis/apps/v1/namespaces/default/statefulsets/s/scale",
        "aev",
    ),
    (
        "PUT",
        "/apis/apps/v1/namespaces/default/replicasets/r/scale",
        "ae",
    ),
    (
        "PATCH",
        "/apis/apps/v1/namespaces/default/daemonsets/d/status",
        "",
    ),
    ("GET", "/apis/batch/v1/namespaces/default/jobs/j/status", "aev"),
    ("PUT", "/apis/batch/v1/namespaces/default/jobs/j/status", ""),
    ("DELETE", "/apis/batch/v1/namespaces/default/cronjobs", "ae"),
    (
        "PATCH",
        "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers/h",
        "ae",
    ),
    (
        "PATCH",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers/h/status",
        "",
    ),
    (
        "PUT",
        "/apis/networking.k8s.io/v1/namespaces/default/ingresses/i",
        "ae",
    ),
    (
        "PUT",
        "/apis/networking.k8s.io/v1/namespaces/default/ingresses/i/status",
        "",
    ),
    ("GET", "/apis/storage.k8s.io/v1/storageclasses", ""),
    ("GET", "/api/v1/persistentvolumes", ""),
    ("GET", "/api/v1/pods", ""),
    ("GET", "/api/v1/namespaces/other/pods", ""),
    ("GET", "/api/v1/namespaces/default/configmaps", "aev"),
    ("POST", "/api/v1/namespaces/default/configmaps?dryRun=All", "ae"),
    ("GET", "/api/v1/namespaces/default/secrets", "ae"),
    ("GET", "/api/v1/namespaces/default/secrets/s", "ae"),
    (
        "GET",
        "/api/v1/namespaces/default/secrets?fieldSelector=metadata.name%3Ds",
        "ae",
    ),
    ("GET", "/api/v1/namespaces/default/events", "aev"),
    ("GET", "/api/v1/namespaces/default/serviceaccounts", "aev"),
    ("POST", "/api/v1/namespaces/default/serviceaccounts/s/token", "ae"),
    ("GET", "/api/v1/namespaces/default/resourcequotas", "aev"),
    ("PUT", "/api/v1/namespaces/default/resourcequotas/q", ""),
    ("POST", "/api/v1/namespaces/default/limitranges", ""),
    ("GET", "/apis/apps/v1/namespaces/default/deployments", "aev"),
    ("POST", "/apis/apps/v1/namespaces/default/deployments", "ae"),
    (
        "GET",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        "aev",
    ),
    (
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        "ae",
    ),
    (
        "PATCH",
        "/apis/apps/v1/namespaces/default/deployments/d/status",
        "",
    ),
    (
        "GET",
        "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
        "aev",
    ),
    (
        "DELETE",
        "/apis/policy/v1/namespaces/default/poddisruptionbudgets/p",
        "ae",
    ),
    (
        "PUT",
        "/apis/coordination.k8s.io/v1/namespaces/default/leases/l",
        "ae",
    ),
    (
        "GET",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
        "a",
    ),
    (
        "POST",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
        "a",
    ),
    ("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles", ""),
    (
        "GET",
        "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods",
        "aev",
    ),
    ("GET", "/apis/metrics.k8s.io/v1beta1/nodes", ""),
    ("GET", "/api/v1/namespaces/default", "aev"),
    ("DELETE", "/api/v1/namespaces/default", ""),
    ("GET", "/api/v1/namespaces", ""),
    ("GET", "/api/v1/nodes", ""),
    ("POST", "/api/v1/namespaces", ""),
    ("GET", "/apis/example.com/v1/namespaces/default/widgets", ""),
    ("GET", "/api", "aevnx"),
    ("GET", "/apis/apps/v1", "aevnx"),
    ("GET", "/openapi/v3", "aevnx"),
    ("GET", "/version", "aevnx"),
    ("GET", "/metrics", ""),
    ("POST", "/berth/images", ""),
    (
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "aevnx",
    ),
    (
        "POST",
        "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews",
        "aevnx",
    ),
    (
        "POST",
        "/apis/authentication.k8s.io/v1/selfsubjectreviews",
        "aevnx",
    ),
    (
        "POST",
        "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews",
        "a",
    ),
    ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", ""),
    ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", ""),
];

#[test]
fn users_by_verb_and_resource() {
    need_root!();
    need_program!("curl");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    let elsewhere = |mut binding: Value| {
        binding["metadata"]["namespace"] = json!("kube-system");
        binding
    };
    let objects = [
        binding("a", "admin", "anna"),
        binding("e", "edit", "emil"),
        binding("v", "view", "vera"),
        elsewhere(binding("x", "admin", "xena")),
    ];
    apply(&node, &kubectl, &objects).ok();
    // The built-in roles are put together in the background.
    let wait = |user: &str, verb: &str, what: &str| {
        wait_for("the roles to be put together", PATIENCE, || {
            let seen = node.kubectl(&kubectl, &["auth", "can-i", verb, what, "--as", user]);
            if seen.stdout.trim() == "yes" {
                Ok(())
            } else {
                Err(seen)
            }
        });
    };
    wait("vera", "list", "pods");
    wait("emil", "create", "pods");
    wait("anna", "create", "rolebindings.rbac.authorization.k8s.io");
    let people = [
        ("anna", 'a'),
        ("emil", 'e'),
        ("vera", 'v'),
        ("nobody", 'n'),
        ("xena", 'x'),
    ];
    let mut wrong = Vec::new();
    for (name, letter) in people {
        let person = Person::administrator(&node, Some(name));
        for (method, path, who) in TABLE {
            let body = if matches!(*method, "POST" | "PUT" | "PATCH") {
                "{}"
            } else {
                ""
            };
            let (code, text) = person.ask(method, path, body);
            let let_through = code != 403;
            if let_through != who.contains(letter) || code == 401 || code >= 500 {
                wrong.push(format!("{name} {method} {path}: {code} {text}"));
            }
            if code == 403 && *method != "HEAD" {
                let status: Value = serde_json::from_str(&text).expect("a Status");
                assert_eq!(status["reason"], "Forbidden", "{text}");
                assert!(
                    status["message"].as_str().unwrap_or_default().contains(name),
                    "{text}"
                );
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Nobody is let in without a name, but to what tells about health and version.
    let stranger = Person::new(&node, &[]);
    for (method, path, _) in TABLE {
        let expected = if *path == "/version" { 200 } else { 401 };
        assert_eq!(stranger.ask(method, path, "").0, expected, "{method} {path}");
    }
    for path in ["/livez", "/readyz", "/healthz"] {
        assert_eq!(stranger.ask("GET", path, "").0, 200, "{path}");
    }
}

#[test]
fn resource_names_paths_and_aggregation() {
    need_root!();
    need_program!("curl");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    let cluster = |name: &str, labels: Value, rules: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
               "metadata": {"name": name, "labels": labels}, "rules": rules})
    };
    let one = json!([
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["get", "list", "update"]},
        {"nonResourceURLs": ["/metrics", "/logs/*"], "verbs": ["get"]},
    ]);
    let mut whole = binding("named", "named", "nina");
    whole["kind"] = json!("ClusterRoleBinding");
    whole["metadata"] = json!({"name": "named"});
    let more =
        json!([{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "list"]}]);
    apply(
        &node,
        &kubectl,
        &[
            cluster("named", json!({}), one),
            whole,
            cluster(
                "leases-for-viewers",
                json!({"rbac.authorization.k8s.io/aggregate-to-view": "true"}),
                more,
            ),
            binding("v", "view", "vera"),
        ],
    )
    .ok();
    let nina = Person::administrator(&node, Some("nina"));
    let maps = "/api/v1/namespaces/default/configmaps";
    for (method, path, allowed) in [
        ("GET", format!("{maps}/mine"), true),
        ("GET", format!("{maps}/other"), false),
        ("GET", maps.to_owned(), false),
        ("GET", format!("{maps}?fieldSelector=metadata.name%3Dmine"), true),
        (
            "GET",
            format!("{maps}?fieldSelector=metadata.name%3Dother"),
            false,
        ),
        ("PUT", format!("{maps}/mine"), true),
        ("DELETE", format!("{maps}/mine"), false),
        ("GET", "/metrics".to_owned(), true),
        ("GET", "/logs/a/b".to_owned(), true),
        ("GET", "/log".to_owned(), false),
        ("POST", "/metrics".to_owned(), false),
    ] {
        let body = if method == "PUT" { "{}" } else { "" };
        let (code, text) = nina.ask(method, &path, body);
        assert_eq!(code != 403, allowed, "{method} {path}: {code} {text}");
    }
    let vera = Person::administrator(&node, Some("vera"));
    wait_for("the label to count", PATIENCE, || {
        let answer = vera.ask(
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            "",
        );
        if answer.0 == 200 { Ok(()) } else { Err(answer) }
    });
    node.kubectl(&kubectl, &["delete", "clusterrole", "leases-for-viewers"])
        .ok();
    wait_for("the label to count no more", PATIENCE, || {
        let answer = vera.ask(
            "GET",
            "/apis/coordination.k8s.io/v1/namespaces/default/leases",
            "",
        );
        if answer.0 == 403 { Ok(()) } else { Err(answer) }
    });
}

#[test]
fn nobody_gives_away_what_he_does_not_have() {
    need_root!();
    need_program!("curl");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    apply(&node, &kubectl, &[binding("a", "admin", "anna")]).ok();
    wait_for("the roles to be put together", PATIENCE, || {
        let seen = node.kubectl(
            &kubectl,
            &[
                "auth",
                "can-i",
                "create",
                "roles.rbac.authorization.k8s.io",
                "--as",
                "anna",
            ],
        );
        if seen.stdout.trim() == "yes" {
            Ok(())
        } else {
            Err(seen)
        }
    });
    let anna = Person::administrator(&node, Some("anna"));
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = |name: &str, rule: Value| json!({"metadata": {"name": name}, "rules": [rule]}).to_string();
    let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    let quotas = json!({"apiGroups": [""], "resources": ["resourcequotas"], "verbs": ["delete"]});
    assert_eq!(
        anna.ask("POST", &format!("{rbac}/roles"), &role("pods", pods)).0,
        201
    );
    let (code, text) = anna.ask("POST", &format!("{rbac}/roles"), &role("quotas", quotas.clone()));
    assert!(
        code == 403 && text.contains("not currently held"),
        "{code} {text}"
    );
    let (code, text) = anna.ask(
        "PATCH",
        &format!("{rbac}/roles/pods"),
        &json!({"rules": [quotas]}).to_string(),
    );
    assert!(
        code == 403 && text.contains("not currently held"),
        "{code} {text}"
    );
    let bind = |name: &str, role: &str| binding(name, role, "anna").to_string();
    assert_eq!(
        anna.ask("POST", &format!("{rbac}/rolebindings"), &bind("b1", "edit"))
            .0,
        201
    );
    let (code, text) = anna.ask(
        "POST",
        &format!("{rbac}/rolebindings"),
        &bind("b2", "cluster-admin"),
    );
    assert!(
        code == 403 && text.contains("not currently held"),
        "{code} {text}"
    );
    // Who is told that he may bind a role, may; a binding cannot be turned to another role.
    let allow = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "binder"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "verbs": ["bind"],
                   "resourceNames": ["cluster-admin"]}],
    });
    apply(&node, &kubectl, &[allow, binding("binder", "binder", "anna")]).ok();
    assert_eq!(
        anna.ask(
            "POST",
            &format!("{rbac}/rolebindings"),
            &bind("b2", "cluster-admin")
        )
        .0,
        201
    );
    let other =
        json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    let (code, text) = anna.ask("PATCH", &format!("{rbac}/rolebindings/b1"), &other.to_string());
    assert!(
        code == 422 && text.contains("cannot change roleRef"),
        "{code} {text}"
    );
    // To take somebody else's place has to be allowed, too.
    let arguments = ["get", "pods", "--as", "vera"];
    assert_eq!(node.kubectl(&kubectl, &arguments).code(), 1);
}

#[test]
fn kubectl_asks_who_it_is_and_what_it_may() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    let ask = |arguments: &[&str]| node.kubectl(&kubectl, arguments);
    let me = ask(&["auth", "whoami"]).ok();
    assert!(
        me.contains("kubernetes-admin") && me.contains("system:masters"),
        "{me}"
    );
    let taken = ask(&["auth", "whoami", "--as", "jo", "--as-group", "dev"]).ok();
    assert!(taken.contains("jo") && taken.contains("dev"), "{taken}");
    assert_eq!(ask(&["auth", "can-i", "delete", "nodes"]).ok().trim(), "yes");
    let no = ask(&["auth", "can-i", "delete", "nodes", "--as", "jo"]);
    assert!(no.code() == 1 && no.stdout.starts_with("no"), "{no:?}");
    let list = ask(&["auth", "can-i", "--list", "--as", "jo"]).ok();
    assert!(
        list.contains("selfsubjectaccessreviews.authorization.k8s.io") && list.contains("/openapi"),
        "{list}"
    );
    for (form, expected) in [
        (
            "create role reader --verb=get,list --resource=pods,pods/log",
            "role.rbac.authorization.k8s.io/reader created",
        ),
        (
            "create rolebinding readers --role=reader --user=jo",
            "readers created",
        ),
        (
            "create clusterrole watcher --verb=watch --resource=pods",
            "watcher created",
        ),
        (
            "create clusterrolebinding watchers --clusterrole=watcher --group=dev",
            "watchers created",
        ),
        ("get roles,rolebindings", "Role/reader"),
        ("get clusterroles", "cluster-admin"),
        ("describe role reader", "pods/log"),
        ("auth can-i get pods/log --as jo", "yes"),
        ("auth can-i watch pods --as mo --as-group dev -A", "yes"),
        ("auth reconcile --dry-run=client -f /dev/null", ""),
        ("delete role reader", "deleted"),
    ] {
        let arguments: Vec<&str> = form.split(' ').collect();
        let seen = ask(&arguments);
        let text = format!("{}{}", seen.stdout, seen.stderr);
        assert!(text.contains(expected), "{form}: {text}");
    }
}
