//! gRPC probes, against the server of the gRPC project itself (python3-grpcio).

use crate::world::World;
use harness::{need_root, repository_root, skip};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

/// A pod whose only container is the gRPC server of the host's Python on port 50051.
fn server(dir: &Path, arguments: &[&str], more: Value) -> Value {
    let mut command = vec!["/usr/bin/python3", "/server.py", "50051"];
    command.extend(arguments);
    let mut container = json!({"name": "c", "image": "busybox:1", "command": command});
    let mut volumes = Vec::new();
    let mut mounts = Vec::new();
    let script = repository_root().join("tests/orchestrator/grpc_server.py");
    for (name, source, target) in [
        ("usr", Path::new("/usr").to_owned(), "/usr"),
        ("lib", Path::new("/usr/lib").to_owned(), "/lib"),
        ("lib64", Path::new("/usr/lib64").to_owned(), "/lib64"),
        ("script", script, "/server.py"),
        ("state", dir.join("state"), "/state"),
        ("tls", dir.join("tls"), "/tls"),
    ] {
        volumes.push(json!({"name": name, "hostPath": {"path": source}}));
        mounts.push(json!({"name": name, "mountPath": target, "readOnly": true}));
    }
    container["volumeMounts"] = json!(mounts);
    for (key, value) in more.as_object().expect("an object") {
        container[key] = value.clone();
    }
    json!({"terminationGracePeriodSeconds": 1, "containers": [container], "volumes": volumes})
}

#[test]
fn grpc_probes_are_asked_and_judged() {
    need_root!();
    let python = Command::new("/usr/bin/python3")
        .args(["-c", "import grpc"])
        .status();
    if !python.is_ok_and(|status| status.success()) {
        skip!("needs python3-grpcio");
    }
    let world = World::new();
    let dir = TempDir::with_prefix("berth-grpc-").expect("temporary directory");
    for sub in ["state", "tls"] {
        std::fs::create_dir(dir.path().join(sub)).expect("create a directory");
    }
    let state = |service: &str, word: &str| {
        std::fs::write(dir.path().join("state").join(service), word).expect("set the state");
    };
    harness::run(Command::new("openssl").current_dir(dir.path().join("tls")).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=health",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
    ]))
    .ok();
    state("default", "SERVING");
    state("db", "SERVING");
    state("slow", "SLOW");
    let probe =
        |grpc: Value| json!({"grpc": grpc, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2});
    let ready = |grpc: Value| json!({"readinessProbe": probe(grpc)});
    let pods = [
        (
            "whole",
            server(
                dir.path(),
                &[],
                json!({
                    "readinessProbe": probe(json!({"port": 50051})),
                    "startupProbe": {"grpc": {"port": 50051}, "periodSeconds": 1, "failureThreshold": 60},
                    "livenessProbe": probe(json!({"port": 50051, "service": "db"})),
                }),
            ),
        ),
        (
            "tls",
            server(dir.path(), &["tls"], ready(json!({"port": 50051, "mode": "TLS"}))),
        ),
        (
            "absent",
            server(
                dir.path(),
                &[],
                ready(json!({"port": 50051, "service": "nobody"})),
            ),
        ),
        (
            "slow",
            server(dir.path(), &[], ready(json!({"port": 50051, "service": "slow"}))),
        ),
        (
            "nohealth",
            server(dir.path(), &["nohealth"], ready(json!({"port": 50051}))),
        ),
        (
            "plain",
            server(
                dir.path(),
                &["tls"],
                ready(json!({"port": 50051, "mode": "Plaintext"})),
            ),
        ),
    ];
    for (name, spec) in pods {
        world.pod(name, spec);
    }
    world.ready("whole");
    world.ready("tls");
    for (name, reason) in [
        (
            "absent",
            "Readiness probe failed: health rpc probe failed: NotFound: no service nobody",
        ),
        ("slow", "Readiness probe failed: no answer within 1s"),
        (
            "nohealth",
            "does not implement the grpc health protocol (grpc.health.v1.Health): Method not found!",
        ),
        ("plain", "Readiness probe failed: "),
    ] {
        world.told(name, reason);
        assert_eq!(
            world.get(name).expect("the pod")["status"]["containerStatuses"][0]["ready"],
            false
        );
    }
    // The server as a whole is what the readiness probe asks for; nothing is replaced for it.
    state("default", "NOT_SERVING");
    let away = world.wait("whole", "out of service", |_, c| c["ready"] == false);
    assert_eq!(away["status"]["containerStatuses"][0]["restartCount"], 0);
    world.told(
        "whole",
        "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")",
    );
    state("default", "SERVING");
    world.ready("whole");
    // One service of it is what the liveness probe asks for.
    state("db", "NOT_SERVING");
    world.wait("whole", "a restart", |_, c| c["restartCount"].as_i64() >= Some(1));
    state("db", "SERVING");
    world.ready("whole");
    world.clean();
}
