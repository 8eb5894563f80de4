//! Who may do what: certificates, tokens, RBAC on every verb, and that nobody gives away what he does not have.

use crate::pods::{PATIENCE, WAIT, World, script, with};
use harness::{
    Node, NodeOptions, Outcome, kubectl, need_program, need_root, run, run_with_input, skip, wait_for,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A person at the API: how the requests of somebody are sent.
struct Person<'a> {
    node: &'a Node,
    server: String,
    arguments: Vec<String>,
}

impl<'a> Person<'a> {
    fn new(node: &'a Node, arguments: &[&str]) -> Person<'a> {
        let config = std::fs::read_to_string(node.kubeconfig()).expect("kubeconfig");
        let config: Value = serde_json::from_str(&config).expect("JSON");
        let server = config["clusters"][0]["cluster"]["server"]
            .as_str()
            .expect("server");
        Person {
            node,
            server: server.to_owned(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
        }
    }

    /// The administrator, taken for somebody else if one is named.
    fn administrator(node: &'a Node, taken_for: Option<&str>) -> Person<'a> {
        let pki = node.data_dir().join("pki");
        let (certificate, key) = (pki.join("admin.crt"), pki.join("admin.key"));
        let mut person = Person::new(
            node,
            &[
                "--cert",
                &certificate.to_string_lossy(),
                "--key",
                &key.to_string_lossy(),
            ],
        );
        if let Some(user) = taken_for {
            person
                .arguments
                .extend(["-H".into(), format!("Impersonate-User: {user}")]);
        }
        person
    }

    fn bearer(node: &'a Node, token: &str) -> Person<'a> {
        Person::new(node, &["-H", &format!("Authorization: Bearer {token}")])
    }

    /// Status code and body.
    fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            // An answer that comes before the body was read ends a stream of HTTP/2, which curl calls an error.
            "--http1.1",
            "--max-time",
            "20",
            "-X",
            method,
            "-w",
            "\n%{http_code}",
            "--cacert",
        ])
        .arg(self.node.data_dir().join("pki/ca.crt"))
        .args(&self.arguments);
        if method == "HEAD" {
            curl.arg("-I");
        }
        if !body.is_empty() {
            let kind = if method == "PATCH" {
                "application/merge-patch+json"
            } else {
                "application/json"
            };
            curl.args(["-H", &format!("Content-Type: {kind}"), "--data-binary", body]);
        }
        let answer = run(curl.arg(format!("{}{path}", self.server))).ok();
        let (body, code) = answer.rsplit_once('\n').expect("a code");
        (code.parse().expect("a number"), body.to_owned())
    }
}

fn start() -> Node {
    harness::isolate();
    Node::start(NodeOptions::default())
}

fn apply(node: &Node, kubectl: &Path, objects: &[Value]) -> Outcome {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let mut command = Command::new(kubectl);
    command
        .env("KUBECONFIG", node.kubeconfig())
        .env("HOME", node.path())
        .args(["apply", "-f", "-"]);
    run_with_input(&mut command, list.as_bytes())
}

fn binding(name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": "default"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}],
    })
}

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
fn certificates_carry_groups() {
    need_root!();
    need_program!("curl");
    need_program!("openssl");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    let pki = node.data_dir().join("pki");
    let path = |name: &str| node.path().join(name);
    let openssl = |arguments: &[&str], files: &[(&str, PathBuf)]| {
        let mut command = Command::new("openssl");
        command.args(arguments);
        for (flag, file) in files {
            command.arg(flag).arg(file);
        }
        run(&mut command).ok();
    };
    openssl(
        &[
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            "/O=dev/CN=jane",
        ],
        &[("-keyout", path("jane.key")), ("-out", path("jane.csr"))],
    );
    std::fs::write(path("ext"), "extendedKeyUsage=clientAuth").expect("write");
    openssl(
        &["x509", "-req", "-days", "2"],
        &[
            ("-in", path("jane.csr")),
            ("-CA", pki.join("ca.crt")),
            ("-CAkey", pki.join("ca.key")),
            ("-extfile", path("ext")),
            ("-out", path("jane.crt")),
        ],
    );
    let (certificate, key) = (path("jane.crt"), path("jane.key"));
    let jane = Person::new(
        &node,
        &[
            "--cert",
            &certificate.to_string_lossy(),
            "--key",
            &key.to_string_lossy(),
        ],
    );
    let pods = "/api/v1/namespaces/default/pods";
    assert_eq!(jane.ask("GET", pods, "").0, 403);
    let mut group = binding("dev", "view", "");
    group["subjects"] = json!([{"kind": "Group", "name": "dev"}]);
    apply(&node, &kubectl, &[group]).ok();
    wait_for("the binding to count", PATIENCE, || {
        let answer = jane.ask("GET", pods, "");
        if answer.0 == 200 { Ok(()) } else { Err(answer) }
    });
    let (_, me) = jane.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}");
    let me: Value = serde_json::from_str(&me).expect("JSON");
    assert_eq!(
        me["status"]["userInfo"],
        json!({"username": "jane", "groups": ["dev", "system:authenticated"]})
    );
}

#[test]
fn pods_hold_a_token_of_their_account() {
    need_root!();
    need_program!("curl");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let world = World::new();
    let node = &world.node;
    let account = |name: &str, automount: bool| {
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "default"},
               "automountServiceAccountToken": automount})
    };
    let mut bound = binding("robots", "view", "");
    bound["subjects"] = json!([{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}]);
    apply(
        node,
        &kubectl,
        &[account("robot", true), account("shy", false), bound],
    )
    .ok();
    world.pod(
        "p",
        json!({"serviceAccountName": "robot", "containers": [script(WAIT)]}),
    );
    world.pod(
        "none",
        json!({"serviceAccountName": "shy", "containers": [script(WAIT)]}),
    );
    let hourly = json!({"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "vault", "audience": "vault", "expirationSeconds": 600}}]}});
    world.pod(
        "vault",
        json!({"serviceAccountName": "robot", "automountServiceAccountToken": false, "volumes": [hourly],
               "containers": [with(WAIT, json!({"volumeMounts": [{"name": "t", "mountPath": "/t"}]}))]}),
    );
    for name in ["p", "none", "vault"] {
        world.ready(name);
    }
    let read = |pod: &str, file: &str| node.kubectl(&kubectl, &["exec", pod, "--", "cat", file]);
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    let authority = std::fs::read_to_string(node.data_dir().join("pki/ca.crt")).expect("the authority");
    assert_eq!(read("p", &format!("{dir}/ca.crt")).ok(), authority);
    assert_eq!(read("p", &format!("{dir}/namespace")).ok(), "default");
    read("none", &format!("{dir}/token")).err();
    read("vault", &format!("{dir}/token")).err();
    let token = read("p", &format!("{dir}/token")).ok();
    let robot = Person::bearer(node, token.trim());
    wait_for("the role to be put together", PATIENCE, || {
        let answer = robot.ask("GET", "/api/v1/namespaces/default/pods", "");
        if answer.0 == 200 { Ok(()) } else { Err(answer) }
    });
    assert_eq!(robot.ask("GET", "/api/v1/namespaces/default/secrets", "").0, 403);
    let (_, me) = robot.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}");
    assert!(
        me.contains("system:serviceaccount:default:robot") && me.contains("pod-name"),
        "{me}"
    );
    // A token for somebody else is good for him only.
    let vault = read("vault", "/t/vault").ok();
    assert_eq!(Person::bearer(node, vault.trim()).ask("GET", "/api", "").0, 401);
    let admin = Person::administrator(node, None);
    let review = |audience: &str| {
        let body = json!({"spec": {"token": vault.trim(), "audiences": [audience]}}).to_string();
        let (_, text) = admin.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", &body);
        serde_json::from_str::<Value>(&text).expect("JSON")["status"]["authenticated"].clone()
    };
    assert_eq!((review("vault"), review("other")), (json!(true), json!(false)));
    // A token by hand: it is as long as asked, and ends with its account.
    let made = node
        .kubectl(&kubectl, &["create", "token", "robot", "--duration=10m"])
        .ok();
    let by_hand = Person::bearer(node, made.trim());
    assert_eq!(by_hand.ask("GET", "/api/v1/namespaces/default/pods", "").0, 200);
    let short = node
        .kubectl(&kubectl, &["create", "token", "robot", "--duration=1m"])
        .err();
    assert!(short.contains("10 minutes"), "{short}");
    world.delete("p");
    wait_for("the pod's token to be worth nothing", PATIENCE, || {
        let answer = robot.ask("GET", "/api", "");
        if answer.0 == 401 { Ok(()) } else { Err(answer) }
    });
    node.kubectl(&kubectl, &["delete", "serviceaccount", "robot"])
        .ok();
    assert_eq!(by_hand.ask("GET", "/api", "").0, 401);
    assert_eq!(Person::bearer(node, "a.b.c").ask("GET", "/api", "").0, 401);
    world.clean();
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
