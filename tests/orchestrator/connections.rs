//! What clients may do to the API's connections without harm to others.

use crate::world::PATIENCE;
use harness::{Node, NodeOptions, kubectl, need_program, need_root, run, skip, wait_for};
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn large_and_deep_requests_harm_nobody() {
    need_root!();
    let curl = need_program!("curl");
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    harness::isolate();
    let node = Node::start(NodeOptions::default());
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(node.kubeconfig()).expect("kubeconfig")).expect("JSON");
    let server = config["clusters"][0]["cluster"]["server"]
        .as_str()
        .expect("server")
        .to_owned();
    let pki = node.data_dir().join("pki");
    let body = node.path().join("body");
    let post = |kind: &str| {
        run(Command::new(&curl)
            .args([
                "-s",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "--max-time",
                "60",
                "-X",
                "POST",
                "--cacert",
            ])
            .arg(pki.join("ca.crt"))
            .arg("--cert")
            .arg(pki.join("admin.crt"))
            .arg("--key")
            .arg(pki.join("admin.key"))
            .args([
                "-H",
                &format!("Content-Type: {kind}"),
                "-H",
                "Expect:",
                "--data-binary",
            ])
            .arg(format!("@{}", body.display()))
            .arg(format!("{server}/api/v1/namespaces/default/configmaps")))
        .stdout
    };
    std::fs::write(&body, vec![b' '; 10 << 20]).expect("write");
    assert_eq!(post("application/json"), "413");
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let deep = format!("{{\"data\":{}1{}}}", open.repeat(100_000), close.repeat(100_000));
        std::fs::write(&body, deep).expect("write");
        assert_eq!(post("application/json"), "400");
    }
    std::fs::write(&body, "[".repeat(100_000)).expect("write");
    assert_eq!(post("application/yaml"), "400");
    std::fs::write(&body, b"k8s\0".repeat(10_000)).expect("write");
    assert_eq!(post("application/vnd.kubernetes.protobuf"), "400");
    node.kubectl(&kubectl, &["get", "nodes"]).ok();
    assert_small(&node);
}

/// The daemon's memory of its own is what it should be.
fn assert_small(node: &Node) {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).expect("status");
    let resident = status
        .lines()
        .find_map(|l| {
            l.strip_prefix("RssAnon:")?
                .trim()
                .strip_suffix(" kB")?
                .trim()
                .parse::<u64>()
                .ok()
        })
        .expect("RssAnon");
    assert!(resident < 100 << 10, "{resident} KiB after the attacks");
}

/// Where the API listens, as ADDRESS:PORT.
fn address(node: &Node) -> String {
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(node.kubeconfig()).expect("kubeconfig")).expect("JSON");
    let server = config["clusters"][0]["cluster"]["server"]
        .as_str()
        .expect("server");
    server.strip_prefix("https://").expect("https").to_owned()
}

#[test]
fn silent_and_slow_clients_harm_nobody() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    harness::isolate();
    let node = Node::start(NodeOptions::default());
    let address = address(&node);
    // Many who say nothing: more than are held, and every one of them is closed in time.
    let descriptors = || {
        std::fs::read_dir(format!("/proc/{}/fd", node.pid()))
            .expect("descriptors")
            .count()
    };
    let mut silent = Vec::new();
    for n in 0..10_000 {
        match TcpStream::connect(&address) {
            Ok(stream) if n % 10 == 0 => silent.push(stream),
            Ok(_) => {}
            // This process may not have that many descriptors, or the kernel queues no more.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    assert!(descriptors() < 1500, "{}", descriptors());
    wait_for("room for who has something to say", PATIENCE, || {
        let seen = node.kubectl(&kubectl, &["get", "namespaces", "-o", "name"]);
        if seen.status.success() { Ok(()) } else { Err(seen) }
    });
    for stream in &mut silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .expect("timeout");
        let mut byte = [0];
        // Closed, or reset: not held.
        assert!(!matches!(stream.read(&mut byte), Ok(n) if n > 0));
    }
    // One who sends his head byte by byte does not hold up others, and is ended.
    let mut slow = TcpStream::connect(&address).expect("connect");
    slow.write_all(&[0x16]).expect("one byte of a greeting");
    slow.set_read_timeout(Some(Duration::from_secs(60)))
        .expect("timeout");
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    // Nor does one who sends a body byte by byte: he hears that it took too long.
    let mut slow = idle(&address, &Arc::new(administrator(&node))).expect("a session");
    let head = "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: berth\r\n\
                Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
    slow.write_all(head.as_bytes()).expect("a head");
    let (begin, mut answer) = (std::time::Instant::now(), Vec::new());
    slow.sock
        .set_read_timeout(Some(Duration::from_millis(500)))
        .expect("timeout");
    while begin.elapsed() < 2 * PATIENCE && slow.write_all(b" ").and_then(|()| slow.flush()).is_ok() {
        let mut piece = [0; 4096];
        match slow.read(&mut piece) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(_) => break,
        }
        if answer.windows(4).any(|end| end == b"\r\n\r\n") {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    node.kubectl(&kubectl, &["get", "nodes"]).ok();
    assert_small(&node);
}

/// What trusts the node's authority.
fn roots(node: &Node) -> rustls::RootCertStore {
    let authority = rustls_pki_types::CertificateDer::from_pem_file(node.data_dir().join("pki/ca.crt"))
        .expect("the authority");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority).expect("an authority");
    roots
}

fn tls(node: &Node) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_root_certificates(roots(node))
}

/// The administrator's sessions, in HTTP/1.1.
fn administrator(node: &Node) -> rustls::ClientConfig {
    let pki = node.data_dir().join("pki");
    let certificate = rustls_pki_types::CertificateDer::from_pem_file(pki.join("admin.crt"));
    let key = rustls_pki_types::PrivateKeyDer::from_pem_file(pki.join("admin.key"));
    let mut tls = tls(node)
        .with_client_auth_cert(vec![certificate.expect("a certificate")], key.expect("a key"))
        .expect("they fit");
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls
}

/// A TLS session without a certificate of its own, in which nothing is said yet.
fn idle(
    address: &str,
    tls: &Arc<rustls::ClientConfig>,
) -> Option<rustls::StreamOwned<rustls::ClientConnection, TcpStream>> {
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let mut session = rustls::ClientConnection::new(Arc::clone(tls), name).expect("a session");
    let mut stream = TcpStream::connect(address).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .expect("timeout");
    while session.is_handshaking() {
        session.complete_io(&mut stream).ok()?;
    }
    Some(rustls::StreamOwned::new(session, stream))
}

#[test]
fn idle_sessions_give_way() {
    need_root!();
    let Some(kubectl) = kubectl() else {
        skip!("needs a kubectl")
    };
    harness::isolate();
    let node = Node::start(NodeOptions::default());
    let address = address(&node);
    let mut tls = tls(&node).with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let tls = Arc::new(tls);
    // A watch of the administrator's is open all the time.
    let mut watch = Command::new(&kubectl)
        .env("KUBECONFIG", node.kubeconfig())
        .env("HOME", node.path())
        .args(["get", "configmaps", "--watch", "-o", "name"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl");
    let mut lines = BufReader::new(watch.stdout.take().expect("a pipe")).lines();
    let first = lines.next().expect("a line").expect("text");
    assert!(first.contains("kube-root-ca.crt"), "{first}");
    let mut idle: Vec<_> = (0..1200).map(|_| idle(&address, &tls)).collect();
    // More than are held, and every one was let in when it came: the oldest have been shown out.
    assert!(idle.iter().all(Option::is_some), "a new session was refused");
    let ended = idle
        .iter_mut()
        .flatten()
        .take(100)
        .all(|session| !matches!(session.read(&mut [0]), Ok(n) if n > 0));
    assert!(ended);
    node.kubectl(&kubectl, &["create", "configmap", "seen"]).ok();
    let seen = lines.next().expect("the watch goes on").expect("text");
    assert_eq!(seen, "configmap/seen");
    watch.kill().expect("kill kubectl");
    watch.wait().expect("reap kubectl");
}
