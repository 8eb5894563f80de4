//! One connection: HTTP/1.1 requests in, answers out.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Longest request head, and longest body that is read away.
const HEAD_LIMIT: usize = 16 * 1024;
const BODY_LIMIT: usize = 1024 * 1024;
/// How often an idle connection looks whether the server stops.
const IDLE_LOOK: Duration = Duration::from_millis(100);
/// How long an idle connection is kept.
const IDLE_LIMIT: Duration = Duration::from_mins(1);
/// What /env may show: never the whole environment, which may hold secrets.
const SHOWN: [&str; 8] = [
    "DATABASE_URL",
    "VERSION",
    "PORT",
    "LOG_LEVEL",
    "POD_NAME",
    "POD_NAMESPACE",
    "POD_IP",
    "NODE_NAME",
];

/// What all connections share.
pub(crate) struct Service {
    version: String,
    ready_at: Instant,
    stopping: AtomicBool,
    open: Arc<Open>,
}

#[derive(Default)]
struct Open {
    connections: Mutex<usize>,
    changed: Condvar,
}

/// Counts a connection for as long as it lives.
pub(crate) struct Guard(Arc<Open>);

impl Drop for Guard {
    fn drop(&mut self) {
        *self.0.connections.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.changed.notify_all();
    }
}

impl Service {
    /// A service that takes until `ready_at` to start.
    pub(crate) fn new(ready_at: Instant) -> Self {
        let version = std::env::var("VERSION").unwrap_or_else(|_| format!("v{}", env!("CARGO_PKG_VERSION")));
        Self {
            version,
            ready_at,
            stopping: AtomicBool::new(false),
            open: Arc::default(),
        }
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// No further requests on connections that are open.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Counts a new connection.
    pub(crate) fn begin(&self) -> Guard {
        *self
            .open
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner) += 1;
        Guard(Arc::clone(&self.open))
    }

    /// Waits for the last connection to end; false if that takes too long.
    pub(crate) fn wait_until_idle(&self, limit: Duration) -> bool {
        let open = self
            .open
            .connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (open, _) = self
            .open
            .changed
            .wait_timeout_while(open, limit, |open| *open > 0)
            .unwrap_or_else(PoisonError::into_inner);
        *open == 0
    }

    fn answer(&self, method: &str, path: &str) -> (u16, String) {
        if !matches!(method, "GET" | "HEAD") {
            return (405, "only GET and HEAD are answered\n".to_owned());
        }
        let path = path.split('?').next().unwrap_or_default();
        let started = Instant::now() >= self.ready_at;
        match path {
            "/healthz" => (200, "ok\n".to_owned()),
            "/readyz" if started && !self.is_stopping() => (200, "ok\n".to_owned()),
            "/readyz" => (503, if started { "stopping\n" } else { "starting\n" }.to_owned()),
            "/crash" => {
                eprintln!("user-service: crashes because it was asked to");
                std::process::exit(1);
            }
            _ if !started => (503, "starting\n".to_owned()),
            "/" => (200, format!("user-service {} on {}\n", self.version, host())),
            "/env" => (200, environment()),
            _ => match path.strip_prefix("/sleep/").and_then(|time| time.parse().ok()) {
                Some(time) => {
                    std::thread::sleep(Duration::from_millis(time));
                    (200, "slept\n".to_owned())
                }
                None => (404, format!("nothing at {path}\n")),
            },
        }
    }
}

fn host() -> String {
    nix::unistd::gethostname().map_or_else(
        |_| "an unknown host".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn environment() -> String {
    let more = std::env::var("SHOW_ENV").unwrap_or_default();
    let names = SHOWN
        .into_iter()
        .chain(more.split(',').map(str::trim).filter(|name| !name.is_empty()));
    names
        .filter_map(|name| Some(format!("{name}={}\n", std::env::var(name).ok()?)))
        .collect()
}

/// Answers a connection's requests until it, or the server, ends.
pub(crate) fn serve(service: &Service, stream: &TcpStream) {
    // Accepted sockets do not take over the listener's mode.
    if stream.set_read_timeout(Some(IDLE_LOOK)).is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    let mut buffer = Vec::new();
    loop {
        let Some(head) = read_head(service, stream, &mut buffer) else {
            return;
        };
        let Ok(head) = String::from_utf8(head) else { return };
        let mut words = head.lines().next().unwrap_or_default().split(' ');
        let (Some(method), Some(path)) = (words.next(), words.next()) else {
            return;
        };
        if !skip_body(stream, &mut buffer, body_length(&head)) {
            return;
        }
        let (code, body) = service.answer(method, path);
        let keep = !service.is_stopping() && keeps_alive(&head);
        if write_answer(stream, code, &body, method == "HEAD", keep).is_err() || !keep {
            return;
        }
    }
}

/// The next request's head; what follows it stays in the buffer. Nothing when the client, or the
/// server, is done: a request that has begun to arrive is waited for.
fn read_head(service: &Service, mut stream: &TcpStream, buffer: &mut Vec<u8>) -> Option<Vec<u8>> {
    let since = Instant::now();
    let mut first_look = true;
    loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = buffer.split_off(end + 4);
            return Some(std::mem::replace(buffer, rest));
        }
        if buffer.len() > HEAD_LIMIT {
            return None;
        }
        let mut chunk = [0u8; 4096];
        match stream.read(&mut chunk) {
            Ok(0) => return None,
            Ok(count) => buffer.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                let idle = buffer.is_empty() && !first_look;
                if since.elapsed() > IDLE_LIMIT || (idle && service.is_stopping()) {
                    return None;
                }
                first_look = false;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn body_length(head: &str) -> usize {
    header(head, "content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0)
}

fn keeps_alive(head: &str) -> bool {
    let connection = header(head, "connection").unwrap_or_default();
    let old = head.lines().next().is_some_and(|line| line.ends_with("HTTP/1.0"));
    if old {
        connection.eq_ignore_ascii_case("keep-alive")
    } else {
        !connection.eq_ignore_ascii_case("close")
    }
}

fn skip_body(mut stream: &TcpStream, buffer: &mut Vec<u8>, length: usize) -> bool {
    if length > BODY_LIMIT {
        return false;
    }
    let since = Instant::now();
    while buffer.len() < length {
        let mut chunk = [0u8; 4096];
        match stream.read(&mut chunk) {
            Ok(count) if count > 0 => buffer.extend_from_slice(&chunk[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
                    && since.elapsed() < IDLE_LIMIT => {}
            _ => return false,
        }
    }
    buffer.drain(..length);
    true
}

fn write_answer(
    mut stream: &TcpStream,
    code: u16,
    body: &str,
    head_only: bool,
    keep: bool,
) -> std::io::Result<()> {
    let reason = match code {
        200 => "OK",
        404 => "Not Found",
        405 => "Method Not Allowed",
        _ => "Service Unavailable",
    };
    let answer = format!(
        "HTTP/1.1 {code} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {}\r\n\r\n{}",
        body.len(),
        if keep { "keep-alive" } else { "close" },
        if head_only { "" } else { body },
    );
    stream.write_all(answer.as_bytes())
}
