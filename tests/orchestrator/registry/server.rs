//! Servers on the test's own loopback: Debian's registry, a proxy that breaks transfers, a token
//! server, and a registry that says whatever the test wants.

use base64::Engine as _;
use harness::wait_for;
use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;

/// Who may use a [`Registry`].
pub enum Auth {
    Nobody,
    /// `tester` with the password `secret`.
    Password,
    /// Whoever has a token of the server on this port, which signs with this certificate (PEM).
    Token(u16, String),
}

/// bcrypt of "secret" for htpasswd.
const HTPASSWD: &str = "tester:$2y$05$/FxYWkvnA79VPU6v/NHPFudPiwMdu44PhPR95yLdSqgSU04QRyTuK\n";

/// A running registry with a root of its own.
pub struct Registry {
    dir: TempDir,
    pub port: u16,
    child: Child,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    listener.local_addr().expect("address").port()
}

impl Registry {
    pub fn start(auth: &Auth) -> Self {
        Self::start_with(auth, None)
    }

    /// `tls`: certificate and key.
    pub fn start_with(auth: &Auth, tls: Option<(&Path, &Path)>) -> Self {
        let dir = TempDir::with_prefix("berth-registry-").expect("temporary directory");
        let port = free_port();
        let root = dir.path().display();
        let auth = match auth {
            Auth::Nobody => String::new(),
            Auth::Password => {
                std::fs::write(dir.path().join("htpasswd"), HTPASSWD).expect("write");
                format!("auth: {{htpasswd: {{realm: test, path: {root}/htpasswd}}}}\n")
            }
            Auth::Token(port, certificate) => {
                std::fs::write(dir.path().join("token.pem"), certificate).expect("write");
                format!(
                    "auth: {{token: {{realm: 'http://127.0.0.1:{port}/token', service: test, issuer: tester, rootcertbundle: {root}/token.pem}}}}\n"
                )
            }
        };
        let tls = tls.map_or(String::new(), |(certificate, key)| {
            format!(
                ", tls: {{certificate: {}, key: {}}}",
                certificate.display(),
                key.display()
            )
        });
        let config = format!(
            "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {root}/data}}, delete: {{enabled: true}}}}\nhttp: {{addr: '127.0.0.1:{port}', secret: x{tls}}}\n{auth}"
        );
        std::fs::write(dir.path().join("config.yml"), config).expect("write");
        let log = std::fs::File::create(dir.path().join("log")).expect("create");
        let child = Command::new(harness::program("docker-registry").expect("the test has looked for it"))
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("clone"))
            .stderr(log)
            .spawn()
            .expect("start the registry");
        let registry = Self { dir, port, child };
        wait_for("the registry to listen", Duration::from_secs(30), || {
            TcpStream::connect(("127.0.0.1", port))
        });
        registry
    }

    /// `127.0.0.1:port`.
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the registry's log ---\n{}", self.log());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A request as a server of ours sees it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
}

impl Asked {
    fn read(stream: &mut BufReader<TcpStream>) -> Option<(Self, Vec<u8>)> {
        // Somebody who tries TLS is sent away, as any server of plain HTTP does.
        if stream.fill_buf().ok()?.first() == Some(&0x16) {
            stream
                .get_mut()
                .write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                .ok()?;
            return None;
        }
        let mut head = Vec::new();
        loop {
            let before = head.len();
            if stream.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
            if &head[before..] == b"\r\n" {
                break;
            }
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.lines();
        let mut first = lines.next()?.split(' ');
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let asked = Self {
            method: first.next()?.to_owned(),
            path: first.next()?.to_owned(),
            headers,
        };
        Some((asked, head))
    }

    pub fn is_blob(&self) -> bool {
        self.method == "GET" && self.path.contains("/blobs/sha256:")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What the proxy does to an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    /// The connection is cut after so many bytes of the body.
    CutAfter(usize),
    /// The byte at this place of the body is another one.
    Flip(usize),
    /// Answered with this status instead.
    Status(u16),
    /// Each piece of the body waits so many milliseconds.
    Slow(u64),
    /// The connection is cut after so many bytes of the request's body.
    CutRequest(u64),
}

type Decide = dyn Fn(&Asked) -> Fault + Send + Sync;

/// A proxy before a registry: passes requests on, breaks what it is told to, and remembers.
pub struct Proxy {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Proxy {
    pub fn start(upstream: u16, decide: impl Fn(&Asked) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, decide): (_, Arc<Decide>) = (Arc::clone(&asked), Arc::new(decide));
        // Ends with the test process: nobody connects any more.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, decide) = (Arc::clone(&seen), Arc::clone(&decide));
                std::thread::spawn(move || serve(client, upstream, &seen, &*decide));
            }
        });
        Self { port, asked }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }

    /// Requests for blobs so far.
    pub fn blobs(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(Asked::is_blob).collect()
    }

    pub fn forget(&self) {
        self.asked.lock().expect("no panic").clear();
    }
}

fn serve(client: TcpStream, upstream: u16, seen: &Mutex<Vec<Asked>>, decide: &Decide) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let (asked, head) = Asked::read(&mut reader)?;
    seen.lock().expect("no panic").push(asked.clone());
    let fault = decide(&asked);
    let mut client_out = client;
    if let Fault::Status(status) = fault {
        let answer = format!("HTTP/1.1 {status} Fault\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        client_out.write_all(answer.as_bytes()).ok()?;
        return Some(());
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream)).ok()?;
    // One request a connection, so that answers can be told apart.
    let text = String::from_utf8_lossy(&head);
    let (first, rest) = text.split_once("\r\n")?;
    server
        .write_all(format!("{first}\r\nConnection: close\r\n{rest}").as_bytes())
        .ok()?;
    let mut up = server.try_clone().ok()?;
    if let Fault::CutRequest(limit) = fault {
        let passed = std::io::copy(&mut reader.take(limit), &mut up);
        up.shutdown(std::net::Shutdown::Both).ok();
        client_out.shutdown(std::net::Shutdown::Both).ok();
        return passed.ok().map(drop);
    }
    std::thread::spawn(move || std::io::copy(&mut reader, &mut up));
    let mut answer = BufReader::new(server);
    let mut head = Vec::new();
    loop {
        let before = head.len();
        if answer.read_until(b'\n', &mut head).ok()? == 0 {
            return None;
        }
        if &head[before..] == b"\r\n" {
            break;
        }
    }
    client_out.write_all(&head).ok()?;
    let mut passed = 0;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = answer.read(&mut buffer).ok()?;
        if count == 0 {
            client_out.shutdown(std::net::Shutdown::Both).ok();
            return Some(());
        }
        let piece = &mut buffer[..count];
        match fault {
            Fault::CutAfter(limit) if passed + count > limit => {
                client_out.write_all(&piece[..limit - passed]).ok();
                client_out.shutdown(std::net::Shutdown::Both).ok();
                return Some(());
            }
            Fault::Flip(at) if (passed..passed + count).contains(&at) => piece[at - passed] ^= 0xff,
            Fault::Slow(milliseconds) => std::thread::sleep(Duration::from_millis(milliseconds)),
            _ => {}
        }
        client_out.write_all(piece).ok()?;
        passed += count;
    }
}

/// An answer of a [`Fake`].
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub media_type: String,
    pub body: Vec<u8>,
}

/// A registry of the test's making. What it does not know is 404; paths that are set to hang are
/// never answered.
pub struct Fake {
    pub port: u16,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Fake {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let answers: Arc<Mutex<BTreeMap<String, Answer>>> = Arc::default();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (known, seen) = (Arc::clone(&answers), Arc::clone(&asked));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (known, seen) = (Arc::clone(&known), Arc::clone(&seen));
                std::thread::spawn(move || -> Option<()> {
                    let mut reader = BufReader::new(client.try_clone().ok()?);
                    let mut out = client;
                    while let Some((asked, _)) = Asked::read(&mut reader) {
                        seen.lock().expect("no panic").push(asked.clone());
                        let found = known.lock().expect("no panic").get(&asked.path).cloned();
                        let answer = found.unwrap_or(Answer {
                            status: 404,
                            media_type: "application/json".to_owned(),
                            body: Vec::new(),
                        });
                        if answer.status == 0 {
                            // Never answered: waits until the other side gives up.
                            std::io::copy(&mut reader, &mut std::io::sink()).ok();
                            return None;
                        }
                        let head = format!(
                            "HTTP/1.1 {} X\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
                            answer.status,
                            answer.media_type,
                            answer.body.len()
                        );
                        out.write_all(head.as_bytes()).ok()?;
                        out.write_all(&answer.body).ok()?;
                    }
                    Some(())
                });
            }
        });
        Self { port, answers, asked }
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn set(&self, path: &str, media_type: &str, body: &[u8]) {
        self.answer(path, 200, media_type, body);
    }

    pub fn answer(&self, path: &str, status: u16, media_type: &str, body: &[u8]) {
        self.answers.lock().expect("no panic").insert(
            path.to_owned(),
            Answer {
                status,
                media_type: media_type.to_owned(),
                body: body.to_vec(),
            },
        );
    }

    /// Requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().expect("no panic").clone()
    }
}

/// A token server: gives tokens to `tester` with the password `secret`, or with the refresh token
/// `refresh`, signed with a key of its own.
pub struct TokenServer {
    pub port: u16,
    pub certificate: String,
    given: Arc<Mutex<Vec<String>>>,
}

impl TokenServer {
    pub fn start() -> Self {
        let dir = TempDir::with_prefix("berth-token-").expect("temporary directory");
        let (key, certificate) = key_and_certificate(dir.path(), "tester");
        let der = dir.path().join("key.der");
        harness::run(
            Command::new("openssl")
                .args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"])
                .arg(&key)
                .arg("-out")
                .arg(&der),
        )
        .ok();
        let key = std::fs::read(der).expect("read the key");
        let pem = std::fs::read_to_string(certificate).expect("read the certificate");
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let given: Arc<Mutex<Vec<String>>> = Arc::default();
        let (log, chain) = (Arc::clone(&given), pem.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (log, key, chain) = (Arc::clone(&log), key.clone(), chain.clone());
                std::thread::spawn(move || give(client, &key, &chain, &log));
            }
        });
        Self {
            port,
            certificate: pem,
            given,
        }
    }

    /// Scopes that tokens were given for.
    pub fn given(&self) -> Vec<String> {
        self.given.lock().expect("no panic").clone()
    }
}

/// A P-256 key and a certificate of its own for 127.0.0.1.
pub fn key_and_certificate(dir: &Path, name: &str) -> (std::path::PathBuf, std::path::PathBuf) {
    let (key, certificate) = (dir.join("key.pem"), dir.join("certificate.pem"));
    harness::run(
        Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "2",
            ])
            .args([
                "-subj",
                &format!("/CN={name}"),
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-addext",
                "basicConstraints=critical,CA:FALSE",
                "-keyout",
            ])
            .arg(&key)
            .arg("-out")
            .arg(&certificate),
    )
    .ok();
    (key, certificate)
}

fn give(client: TcpStream, key: &[u8], pem: &str, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(client.try_clone().ok()?);
    let mut out = client;
    while let Some((asked, _)) = Asked::read(&mut reader) {
        let length: usize = asked.header("content-length").parse().unwrap_or(0);
        let mut form = vec![0; length];
        reader.read_exact(&mut form).ok()?;
        let form = String::from_utf8_lossy(&form).into_owned();
        let query = asked.path.split_once('?').map_or("", |(_, query)| query);
        let whole = if asked.method == "POST" { &form } else { query };
        let parameters: Vec<(String, String)> = whole
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), decoded(value)))
            .collect();
        let basic = base64::engine::general_purpose::STANDARD.encode("tester:secret");
        let known = asked.header("authorization") == format!("Basic {basic}")
            || parameters.contains(&("refresh_token".to_owned(), "refresh".to_owned()));
        let body = if known {
            let scopes: Vec<String> = parameters
                .iter()
                .filter(|(name, _)| name == "scope")
                .flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>())
                .collect();
            log.lock().expect("no panic").extend(scopes.clone());
            serde_json::json!({ "access_token": token(key, pem, &scopes), "expires_in": 60 }).to_string()
        } else {
            serde_json::json!({ "errors": [{ "code": "DENIED", "message": "who are you?" }] }).to_string()
        };
        let status = if known { "200 OK" } else { "401 Unauthorized" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        out.write_all(head.as_bytes()).ok()?;
        out.write_all(body.as_bytes()).ok()?;
    }
    Some(())
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits: Vec<u8> = bytes.by_ref().take(2).collect();
            let digits = String::from_utf8_lossy(&digits).into_owned();
            out.push(u8::from_str_radix(&digits, 16).unwrap_or(b'?'));
        } else {
            out.push(if byte == b'+' { b' ' } else { byte });
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A JSON web token as distribution's registry wants it.
fn token(key: &[u8], pem: &str, scopes: &[String]) -> String {
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
    let url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let certificate: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let access: Vec<serde_json::Value> = scopes
        .iter()
        .filter_map(|scope| {
            let (kind, rest) = scope.split_once(':')?;
            let (name, actions) = rest.rsplit_once(':')?;
            let actions: Vec<&str> = actions.split(',').collect();
            Some(serde_json::json!({ "type": kind, "name": name, "actions": actions }))
        })
        .collect();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let header = serde_json::json!({ "typ": "JWT", "alg": "ES256", "x5c": [certificate] });
    let claims = serde_json::json!({
        "iss": "tester", "sub": "tester", "aud": "test", "exp": now + 60, "nbf": now - 10, "iat": now,
        "jti": "1", "access": access,
    });
    let message = format!(
        "{}.{}",
        url.encode(header.to_string()),
        url.encode(claims.to_string())
    );
    let random = ring::rand::SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key, &random).expect("a P-256 key");
    let signature = pair.sign(&random, message.as_bytes()).expect("sign");
    format!("{message}.{}", url.encode(signature.as_ref()))
}
