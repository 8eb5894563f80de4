//! Who is let in: certificates of the node's own authority, tokens of accounts, and neither once it has expired.

use crate::person::{Person, apply, binding, start};
use crate::world::{PATIENCE, WAIT, World, script, with};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use harness::{Node, kubectl, need_program, need_root, run, skip, wait_for};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

#[test]
fn only_the_holder_of_a_certificate_is_let_in() {
    need_root!();
    let curl = need_program!("curl");
    need_program!("openssl");
    let node = start();
    let pki = node.data_dir().join("pki");
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(node.kubeconfig()).expect("kubeconfig")).expect("JSON");
    let server = config["clusters"][0]["cluster"]["server"]
        .as_str()
        .expect("server")
        .to_owned();
    let ask = |arguments: &[&str], path: &str| {
        run(Command::new(&curl)
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert"])
            .arg(pki.join("ca.crt"))
            .args(arguments)
            .arg(format!("{server}{path}")))
    };
    assert_eq!(ask(&[], "/livez").ok(), "200");
    assert_eq!(ask(&[], "/version").ok(), "200");
    assert_eq!(ask(&[], "/api/v1/namespaces").ok(), "401");
    let (certificate, key) = (pki.join("admin.crt"), pki.join("admin.key"));
    let shown = [
        "--cert",
        certificate.to_str().expect("path"),
        "--key",
        key.to_str().expect("path"),
    ];
    assert_eq!(ask(&shown, "/api/v1/namespaces").ok(), "200");
    // A certificate of somebody else's authority ends the handshake.
    let (foreign, foreign_key) = (node.path().join("f.crt"), node.path().join("f.key"));
    run(Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/O=system:masters/CN=kubernetes-admin", "-out"])
        .arg(&foreign)
        .arg("-keyout")
        .arg(&foreign_key))
    .ok();
    let shown = [
        "--cert",
        foreign.to_str().expect("path"),
        "--key",
        foreign_key.to_str().expect("path"),
    ];
    assert!(!ask(&shown, "/api/v1/namespaces").status.success());
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
    // The same with a date that has passed ends the handshake.
    openssl(
        &["x509", "-req", "-days", "-1"],
        &[
            ("-in", path("jane.csr")),
            ("-CA", pki.join("ca.crt")),
            ("-CAkey", pki.join("ca.key")),
            ("-extfile", path("ext")),
            ("-out", path("old.crt")),
        ],
    );
    // With TLS 1.3 a client may send its request, and fail at that, before it reads why it is refused.
    let live = |certificate: &str| {
        run(Command::new("curl")
            .args(["-s", "-S", "--max-time", "20", "--tls-max", "1.2", "--cacert"])
            .arg(pki.join("ca.crt"))
            .arg("--cert")
            .arg(path(certificate))
            .arg("--key")
            .arg(&key)
            .arg(format!("{}/livez", jane.server)))
    };
    assert_eq!(live("jane.crt").ok(), "ok");
    assert!(live("old.crt").err().contains("certificate"));
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

/// A token with these claims, signed with the node's key.
fn signed(node: &Node, claims: &Value) -> String {
    let pem = std::fs::read_to_string(node.data_dir().join("pki/sa.key")).expect("the key of tokens");
    let text: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &STANDARD.decode(text).expect("base64"),
        &random,
    )
    .expect("a key");
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({"alg": "ES256"})), part(claims));
    let signature = key.sign(&random, signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn tokens_end() {
    need_root!();
    need_program!("curl");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    let node = start();
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "default"}});
    apply(&node, &kubectl, &[account]).ok();
    let token = node.kubectl(&kubectl, &["create", "token", "robot"]).ok();
    let middle = token.trim().split('.').nth(1).expect("claims");
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(middle).expect("base64")).expect("JSON");
    let now = claims["iat"].as_i64().expect("a time");
    let code = |changes: Value| {
        let mut claims = claims.clone();
        for (name, value) in changes.as_object().expect("changes") {
            claims[name] = value.clone();
        }
        Person::bearer(&node, &signed(&node, &claims))
            .ask("GET", "/api", "")
            .0
    };
    assert_eq!(code(json!({})), 200, "made like the node's own");
    assert_eq!(code(json!({"exp": now + 3600})), 200);
    assert_eq!(
        code(json!({"exp": now - 3600, "iat": now - 7200, "nbf": now - 7200})),
        401,
        "over"
    );
    assert_eq!(code(json!({"nbf": now + 3600})), 401, "not begun");
    assert_eq!(
        code(json!({"iss": "https://elsewhere"})),
        401,
        "of another issuer"
    );
    let (head, _) = token.trim().rsplit_once('.').expect("a signature");
    let unsigned = format!("{head}.{}", URL_SAFE_NO_PAD.encode([0_u8; 64]));
    assert_eq!(
        Person::bearer(&node, &unsigned).ask("GET", "/api", "").0,
        401,
        "not signed"
    );
}
