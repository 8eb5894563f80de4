//! Somebody at the API, with his certificate or token, and what tests of access set up.

use harness::{Node, NodeOptions, Outcome, run, run_with_input};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

/// A person at the API: how the requests of somebody are sent.
pub struct Person<'a> {
    node: &'a Node,
    /// `https://ADDRESS:PORT` of the API.
    pub server: String,
    arguments: Vec<String>,
}

impl<'a> Person<'a> {
    /// Somebody whose requests `curl` sends with these arguments.
    pub fn new(node: &'a Node, arguments: &[&str]) -> Person<'a> {
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
    pub fn administrator(node: &'a Node, taken_for: Option<&str>) -> Person<'a> {
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

    /// The holder of a token.
    pub fn bearer(node: &'a Node, token: &str) -> Person<'a> {
        Person::new(node, &["-H", &format!("Authorization: Bearer {token}")])
    }

    /// Status code and body.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
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

/// A whole answer.
pub struct Answer {
    /// The status code.
    pub code: u16,
    /// The head, in small letters.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    /// The lines of a watch.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let line = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        self.body.lines().map(line).collect()
    }
}

impl Person<'_> {
    /// Sends a request with these headers; `Content-Type` is JSON if none is named.
    pub fn send(&self, method: &str, path: &str, headers: &[&str], body: &str) -> Answer {
        let mut curl = Command::new("curl");
        curl.args([
            "-s",
            "-i",
            "--http1.1",
            "--max-time",
            "60",
            "-X",
            method,
            "--cacert",
        ])
        .arg(self.node.data_dir().join("pki/ca.crt"))
        .args(&self.arguments);
        for header in headers {
            curl.args(["-H", header]);
        }
        if !body.is_empty() {
            if !headers.iter().any(|header| header.starts_with("Content-Type:")) {
                curl.args(["-H", "Content-Type: application/json"]);
            }
            curl.args(["-H", "Expect:", "--data-binary", body]);
        }
        let answer = run(curl.arg(format!("{}{path}", self.server))).ok();
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        Answer {
            code: code.expect("a code"),
            head: head.to_lowercase(),
            body: body.to_owned(),
        }
    }
}

/// A node without pods.
pub fn start() -> Node {
    harness::isolate();
    Node::start(NodeOptions::default())
}

/// Applies objects as the administrator.
pub fn apply(node: &Node, kubectl: &Path, objects: &[Value]) -> Outcome {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let mut command = Command::new(kubectl);
    command
        .env("KUBECONFIG", node.kubeconfig())
        .env("HOME", node.path())
        .args(["apply", "-f", "-"]);
    run_with_input(&mut command, list.as_bytes())
}

/// A RoleBinding of a ClusterRole in `default`.
pub fn binding(name: &str, role: &str, user: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": name, "namespace": "default"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"kind": "User", "name": user}],
    })
}
