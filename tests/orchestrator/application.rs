//! The example application on a test's node.

use harness::{Node, bin, run_with_input, wait_for};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A root folder with the application in it.
pub fn root(node: &Node) -> PathBuf {
    let root = node.path().join("root");
    if std::fs::create_dir(&root).is_ok() {
        std::fs::copy(bin("user-service"), root.join("user-service")).expect("copy the application");
    }
    root
}

/// Imports `user-service:VERSION`.
pub fn import(node: &Node, version: &str) {
    let root = root(node);
    let name = format!("user-service:{version}");
    let variable = format!("VERSION={version}");
    let root = root.to_str().expect("a path of text");
    node.ctl(&[
        "image",
        "import",
        root,
        "--name",
        &name,
        "--entrypoint",
        "/user-service",
        "--env",
        &variable,
    ])
    .ok();
}

/// The manifest of a deployment of a version.
pub fn manifest(version: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: v1
kind: Secret
metadata: {{name: db-secret}}
stringData: {{url: 'postgres://db/users'}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: user-service}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: user-service}}}}
  template:
    metadata: {{labels: {{app: user-service}}}}
    spec:
      terminationGracePeriodSeconds: 5
      containers:
      - name: user-service
        image: user-service:{version}
        ports: [{{containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /readyz, port: 8080}}, periodSeconds: 1}}
        env:
        - name: DATABASE_URL
          valueFrom: {{secretKeyRef: {{name: db-secret, key: url}}}}
"
    )
}

/// `berthctl` with something on its standard input.
pub fn feed(node: &Node, arguments: &[&str], input: &str) -> harness::Outcome {
    let mut command = Command::new(bin("berthctl"));
    command.env("KUBECONFIG", node.kubeconfig()).args(arguments);
    run_with_input(&mut command, input.as_bytes())
}

/// Applies the deployment.
pub fn apply(node: &Node, version: &str, replicas: u32) -> String {
    feed(node, &["apply", "-f", "-"], &manifest(version, replicas)).ok()
}

/// Objects as JSON.
pub fn json(node: &Node, arguments: &[&str]) -> Value {
    let text = node.ctl(&[&["get"], arguments, &["-o", "json"]].concat()).ok();
    serde_json::from_str(&text).expect("JSON")
}

/// The application's pods that are not on their way out.
pub fn pods(node: &Node) -> Vec<Value> {
    let list = json(node, &["pods", "-l", "app=user-service"]);
    let pods = list["items"].as_array().expect("a list").iter();
    pods.filter(|pod| pod["metadata"].get("deletionTimestamp").is_none())
        .cloned()
        .collect()
}

/// Asks one pod for a path.
pub fn ask(pod: &Value, path: &str) -> Result<String, std::io::Error> {
    let address = pod["status"]["podIP"].as_str().unwrap_or_default();
    let address = format!("{address}:8080").parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer
        .split_once("\r\n\r\n")
        .map_or(String::new(), |(_, body)| body.to_owned()))
}

/// The version that the pods answer with, when all answer with the same.
pub fn answer(node: &Node) -> String {
    wait_for("all pods to answer alike", Duration::from_secs(60), || {
        let answers: Vec<String> = pods(node)
            .iter()
            .map(|pod| ask(pod, "/"))
            .collect::<Result<_, _>>()
            .map_err(|e| e.to_string())?;
        let mut versions: Vec<&str> = answers
            .iter()
            .filter_map(|answer| answer.split_whitespace().nth(1))
            .collect();
        versions.sort_unstable();
        versions.dedup();
        match versions[..] {
            [only] => Ok(only.to_owned()),
            _ => Err(format!("{answers:?}")),
        }
    })
}
